// Machines: their names, roles and systems, what starts them, where virtual ones run, and what all servers hang on.
import type { Path, Problem } from '../../ground/document.ts'
import { nearest } from '../../ground/nearest.ts'
import { labelProblem, taintProblem } from '../kubernetes.ts'
import {
  type Claim,
  type Document,
  type Entry,
  type Machine,
  devicesOf,
  hasApt,
  hasRole,
  isAccepted,
  isNode,
  isRaspberry,
  machinesOf,
  networksOf,
  present,
  repeated,
  machinesAreKnown,
  unknown,
} from './parts.ts'

/** Faults of the machines of a document, each by itself and all together. */
export function* machineProblems(document: Document): Generator<Problem> {
  const machines = machinesOf(document)
  yield* repeated(
    [...machines, ...devicesOf(document)].map(([at, { name }]): Claim => [[...at, 'name'], name]),
  )
  yield* repeated(machines.map(([at, { mac }]): Claim => [[...at, 'mac'], mac]))
  yield* repeated(machines.flatMap(diskClaims))
  if (machinesAreKnown(document)) yield* countProblems(document)
  yield* talosProblems(machines)
  for (const entry of machines) {
    yield* roleProblems(entry)
    yield* boardProblems(entry)
    yield* virtualProblems(document, entry)
    yield* nodeProblems(document, entry)
    yield* vaultProblems(entry)
  }
  yield* memoryProblems(document)
  yield* majorityProblems(document)
}

// The id of a virtual disk is only known within its machine.
function diskClaims([at, { name, vault, disk, disks }]: Entry<Machine>): Claim[] {
  const claims: Claim[] = [
    [[...at, 'vault', 'disk'], vault?.disk],
    [[...at, 'disk', 'id'], disk?.id],
    ...(disks ?? []).map((one, i): Claim => [[...at, 'disks', i, 'id'], one?.id]),
  ]
  return claims.map(([path, id]) => [path, id?.includes('/virtio-') ? `${name} ${id}` : id])
}

function* countProblems(document: Document): Generator<Problem> {
  const machines = machinesOf(document)
  const nodes = machines.filter(([, machine]) => isNode(machine))
  const servers = machines.filter(([, machine]) => hasRole(machine, 'server'))
  const [first] = servers
  const path = ['machines']
  if (nodes.length > 0 && first === undefined) yield { path, reason: 'has agents and no server' }
  if (servers.length > 0 && servers.length % 2 === 0)
    yield {
      path,
      reason:
        `has ${servers.length} servers: etcd needs a majority, so an even number bears the loss of no more than one less, ` +
        'and costs one more. Have 1, 3 or 5; the others can be agents',
    }
  if (servers.length > 5)
    yield {
      path,
      reason: `has ${servers.length} servers: beyond 5 each write waits for more disks and bears no more loss`,
    }
  if (first !== undefined && servers.length === 1 && nodes.length > 1 && !isAccepted(document, first[1].name))
    yield {
      path: first[0],
      reason:
        `is the one server of ${nodes.length} nodes: have three, or say under accepted: ` +
        `what: ${first[1].name ?? 'its name'}`,
    }
}

function* talosProblems(machines: Entry<Machine>[]): Generator<Problem> {
  const nodes = machines.filter(([, machine]) => isNode(machine) && machine.os !== undefined)
  const talos = nodes.find(([, { os }]) => os === 'talos')
  if (talos === undefined) return
  for (const [at, { os }] of nodes)
    if (os !== 'talos')
      yield {
        path: [...at, 'os'],
        reason:
          `is ${os}, and ${talos[1].name} runs talos: Talos brings its own Kubernetes, so all nodes of a cluster ` +
          'run it or none',
      }
}

function* roleProblems([at, machine]: Entry<Machine>): Generator<Problem> {
  const { name = 'it', os, roles } = machine
  const path = [...at, 'roles']
  if (hasRole(machine, 'server') && hasRole(machine, 'agent'))
    yield { path, reason: 'holds server and agent: a server runs pods too, so leave agent out' }
  if (os === undefined || !roles?.length || roles.includes(undefined)) return
  if (hasRole(machine, 'host') && !hasApt(machine))
    yield {
      path,
      reason: `holds host, and pages 00 to 09 harden a system with apt: ${os} is hardened by what it is given at its first boot`,
    }
  if (!hasRole(machine, 'host') && hasApt(machine))
    yield { path, reason: `has no host: ${name} runs ${os}, which nobody would harden` }
}

function* boardProblems([at, machine]: Entry<Machine>): Generator<Problem> {
  const { arch, board, os, schematic, vm } = machine
  if (isRaspberry(machine) && arch === 'amd64') {
    const what = board ?? 'raspios-13, which is for the Raspberry Pi'
    yield { path: [...at, 'arch'], reason: `does not fit ${what}`, suggestion: 'arm64' }
  }
  const boards = 'rpi4, rpi5 or rpi-cm5'
  if (os === 'raspios-13' && board === 'pc')
    yield {
      path: [...at, 'board'],
      reason: `is pc, and raspios-13 starts by the firmware of a Raspberry Pi; say ${boards}`,
    }
  if (os === 'ubuntu-24.04' && arch === 'arm64' && !('board' in machine) && vm === undefined)
    yield {
      path: [...at, 'board'],
      reason: `is missing: Ubuntu on a Raspberry Pi starts without GRUB; say ${boards}, or pc`,
    }
  if (schematic !== undefined && os !== undefined && os !== 'talos')
    yield {
      path: [...at, 'schematic'],
      reason: `has no effect on ${os}: it is what an image of Talos holds`,
    }
  if (os === 'talos' && !('schematic' in machine) && !('vm' in machine))
    yield {
      path: [...at, 'schematic'],
      reason: 'is missing: nobody knows which image of Talos this machine starts',
    }
}

function* virtualProblems(document: Document, [at, machine]: Entry<Machine>): Generator<Problem> {
  const { arch, memory, os, vm } = machine
  if (os === 'flatcar' && !('vm' in machine))
    yield {
      path: [...at, 'vm'],
      reason: 'is missing: flatcar is provisioned as a virtual machine of a host; say vm: { host: … }',
    }
  if (vm?.host === undefined) return
  if (memory !== undefined)
    yield { path: [...at, 'memory'], reason: 'is that of a virtual machine, which vm.memory says' }
  const path = [...at, 'vm', 'host']
  const metal = machinesOf(document).map(([, one]) => one)
  const on = metal.find(({ name }) => name === vm.host)
  const hypervisors = devicesOf(document).flatMap(([, { kind, name }]) => (kind === 'hypervisor' ? name : []))
  if (hypervisors.includes(vm.host)) return
  if (on === machine || (on !== undefined && 'vm' in on)) {
    yield { path, reason: 'is a virtual machine itself' }
  } else if (on === undefined || (on.roles !== undefined && !hasRole(on, 'host'))) {
    const hosts = metal.filter((one) => hasRole(one, 'host') && one.vm === undefined)
    const suggestion = nearest(vm.host, present([...hosts.map(({ name }) => name), ...hypervisors]))
    yield { path, reason: 'names no host and no hypervisor of this site', suggestion }
  } else {
    if (arch !== undefined && on.arch !== undefined && on.arch !== arch)
      yield {
        path: [...at, 'arch'],
        reason: `is ${arch} on ${on.name}, which is ${on.arch}`,
        suggestion: on.arch,
      }
    if (hasApt(machine))
      yield {
        path: [...at, 'os'],
        reason: `is ${os}, and virtual machines of ${on.name} start from an image of flatcar or talos`,
        suggestion: 'flatcar',
      }
    if (os === 'talos' && 'schematic' in machine)
      yield {
        path: [...at, 'schematic'],
        reason: `is for a machine of metal: those of ${on.name} start from the image of config/vm/talos-schematic.yaml`,
      }
    if (machine.disk !== undefined)
      yield { path: [...at, 'disk'], reason: 'is for a machine of metal: vm.disk is the size of this one' }
  }
}

function* nodeProblems(document: Document, [at, machine]: Entry<Machine>): Generator<Problem> {
  const networks = networksOf(document).map(([, { name }]) => name)
  for (const [i, one] of (machine.interfaces ?? []).entries())
    yield* unknown(
      [...at, 'interfaces', i, 'network'],
      one?.network,
      networks,
      'names no network of this site',
    )
  for (const [key, value] of Object.entries(machine.labels ?? {})) {
    const path = [...at, 'labels', key]
    const problem = typeof value === 'string' ? labelProblem(key, value) : undefined
    // What is meant stands behind the key.
    if (problem) yield { path, ...problem, suggestion: problem.suggestion?.slice(key.length + 1) }
  }
  for (const [i, text] of (machine.taints ?? []).entries()) {
    const problem = text === undefined ? undefined : taintProblem(text)
    if (problem) yield { path: [...at, 'taints', i], ...problem }
  }
  if (machine.disk?.etcd_gib !== undefined && machine.roles && !hasRole(machine, 'server'))
    yield {
      path: [...at, 'disk', 'etcd_gib'],
      reason: `has no effect: ${machine.name} is no server, and only servers run etcd`,
    }
}

function* vaultProblems([at, machine]: Entry<Machine>): Generator<Problem> {
  const { roles, vault } = machine
  if (vault === undefined) return
  if (roles !== undefined && !roles.includes(undefined) && !hasRole(machine, 'host'))
    yield {
      path: [...at, 'vault'],
      reason: `has no effect: ${machine.name} is no host, and page 08 encrypts disks of hosts`,
    }
  if (vault.name === 'control')
    yield {
      path: [...at, 'vault', 'name'],
      reason: 'is taken: /dev/mapper/control belongs to the kernel',
      suggestion: 'vault',
    }
  yield* unlockProblems([...at, 'vault'], machine, vault)
}

/** Registers that bind nothing here, or hold for no second boot. */
const unfit: Record<number, string> = {
  6: 'is what each maker of firmware likes',
  10: 'grows with each file that IMA measures',
  11: 'is what systemd-stub measures, and here GRUB starts the kernel',
  12: 'is what systemd-stub measures, and here GRUB starts the kernel',
  13: 'is what systemd-stub measures, and here GRUB starts the kernel',
  15: 'stays empty: systemd measures the key of the root disk only where systemd-stub has started the kernel, and here GRUB does',
  16: 'is set back by any program',
  17: 'is of a late launch, which nothing here does',
  18: 'is of a late launch, which nothing here does',
  19: 'is of a late launch, which nothing here does',
  20: 'is of a late launch, which nothing here does',
  21: 'is of a late launch, which nothing here does',
  22: 'is of a late launch, which nothing here does',
  23: 'is set back by any program',
}

/** How a vault opens: by the TPM2, by a PIN besides, by a key file, or by a person alone. Not each goes with each. */
function* unlockProblems(
  at: Path,
  machine: Machine,
  vault: NonNullable<Machine['vault']>,
): Generator<Problem> {
  const { tpm2_pcrs: registers, tpm2_pin: pin, key_file: keyFile } = vault
  const has = (register: number): boolean => registers?.includes(register) ?? false
  const some = (registers ?? []).length > 0
  const path = [...at, 'tpm2_pcrs']
  if (isRaspberry(machine)) {
    if (some) yield { path, reason: 'needs a TPM2, and a Raspberry Pi has none', suggestion: '[]' }
    if (pin)
      yield {
        path: [...at, 'tpm2_pin'],
        reason: 'needs a TPM2, and a Raspberry Pi has none',
        suggestion: 'false',
      }
    return
  }
  for (const [i, register] of (registers ?? []).entries()) {
    const why = register === undefined ? undefined : unfit[register]
    if (why !== undefined) yield { path: [...path, i], reason: `names ${register}, which ${why}` }
  }
  if (some && !has(7))
    yield {
      path,
      reason: 'is without 7, the state of Secure Boot: whatever is unsigned could pretend all others',
    }
  if (has(8) !== has(9))
    yield {
      path,
      reason:
        'names one of 8 (command line) and 9 (kernel, initrd): each means something with the other alone',
    }
  const renewed = has(8) || has(9)
  if (renewed && pin)
    yield {
      path,
      reason:
        'names 8 and 9, which the machine renews after updates by itself, and it does not know the PIN (tpm2_pin)',
    }
  if (renewed && machine.os === 'ubuntu-24.04')
    yield {
      path,
      reason:
        'names 8 and 9, which the machine renews after updates: systemd of Ubuntu 24.04 cannot (--unlock-tpm2-device)',
      suggestion: '[7, 14]',
    }
  if (keyFile && some)
    yield {
      path,
      reason: 'has no meaning beside key_file: the vault would open in two ways, and the weaker counts',
      suggestion: '[]',
    }
  if (pin && (keyFile || (registers !== undefined && !some)))
    yield {
      path: [...at, 'tpm2_pin'],
      reason: 'is asked by the TPM2, which gets no key here',
      suggestion: 'false',
    }
}

/** What a host keeps for itself, in MiB. */
const own = 2048

function* memoryProblems(document: Document): Generator<Problem> {
  const machines = machinesOf(document)
  const hosts: Entry<{ name?: string | undefined; memory?: number | undefined }>[] = [
    ...machines.filter(([, machine]) => machine.vm === undefined),
    ...devicesOf(document),
  ]
  for (const [at, { name, memory }] of hosts) {
    const guests = machines.filter(([, { vm }]) => name !== undefined && vm?.host === name)
    const sum = guests.reduce((total, [, { vm }]) => total + (vm?.memory ?? 0), 0)
    if (memory !== undefined && guests.length > 0 && sum + own > memory)
      yield {
        path: [...at, 'memory'],
        reason: `is ${memory} MiB, and its virtual machines get ${sum}; ${own} are left to the host itself`,
      }
  }
}

/** More than half of the servers on one machine or one port of a router. */
function* majorityProblems(document: Document): Generator<Problem> {
  const servers = machinesOf(document).filter(([, machine]) => hasRole(machine, 'server'))
  const hosts = [
    ...machinesOf(document).filter(([, machine]) => hasRole(machine, 'host')),
    ...devicesOf(document).filter(([, { kind }]) => kind === 'hypervisor'),
  ]
  if (servers.length < 2) return
  const kinds: [string, Path, (machine: Machine) => string | undefined][] = [
    // Where there is one host only, it is what the whole site hangs on, and there is nothing to spread.
    ...(hosts.length > 1 ? [['hypervisor', ['vm', 'host'], (one: Machine) => one.vm?.host] as const] : []),
    ['port', ['port'], ({ port }) => port],
  ] as [string, Path, (machine: Machine) => string | undefined][]
  for (const [kind, key, on] of kinds)
    for (const what of new Set(present(servers.map(([, machine]) => on(machine))))) {
      const there = servers.filter(([, machine]) => on(machine) === what)
      const [, second] = there
      if (second === undefined || there.length * 2 <= servers.length) continue
      if (isAccepted(document, `${kind}:${what}`)) continue
      yield {
        path: [...second[0], ...key],
        reason:
          `puts ${there.length} of ${servers.length} servers on ${what}: when it fails, etcd has no majority. Spread them, ` +
          `or say under accepted: what: ${kind}:${what}`,
      }
    }
}
