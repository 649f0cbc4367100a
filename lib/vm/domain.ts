// The virtual machines of a host as libvirt knows them: hides what each should be, where its files are, and how it is recognised.
import { existsSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import type { Context, Page } from '../engine/page.ts'
import type { Demand } from '../engine/step.ts'
import { formatNetwork, parseNetwork } from '../ground/address.ts'
import { Fault } from '../ground/fault.ts'
import { makeSshKey, sshPublicKey, uuidOf } from '../ground/keys.ts'
import { read } from '../ground/root.ts'
import { type Secrets, Secret, land } from '../ground/secret.ts'
import { Command, sh, shellText } from '../ground/sh.ts'
import { type Guest, bridgeOf, chosen, guestsOf, machineOf } from '../site/machines.ts'
import type { Site } from '../site/model.ts'
import type { Source } from './butane.ts'

const load = createRequire(import.meta.url)

/** What the pages of host and provision and ./task node share: lib/vm/domain.sh, and the stylesheet that it compares by. */
export const domainShell = new Command(
  `${shellText('lib/vm/domain.sh')}cat > "$FK_TMP/facts.xsl" << 'XSL'\n${read('config/vm/facts.xsl')}XSL\n`,
  undefined,
  'lib/vm/domain.sh',
)

/** What QEMU reads and writes: the system disks, the variables of the firmware, and what Ignition or Talos is given. */
export const vmDir = '/var/lib/libvirt/fortress'

/** Where the Ignition of a node lies on its host. */
export const ignitionPath = (node: Pick<Guest, 'name'>): string => `${vmDir}/${node.name}.ign`

/** The disk from which Talos reads its machine configuration at its first boot. */
export const cidataPath = (node: Pick<Guest, 'name'>): string => `${vmDir}/${node.name}.cidata`

/** The part of a node's Ignition that 13-vm-provision waits for: vm-ignition merges it with the rest. */
export const greeting: Source = {
  file: 'config/vm/greeting-butane.yaml',
  text: read('config/vm/greeting-butane.yaml'),
}

/** Where a host keeps what was declared of its virtual machines. */
export const declaredDir = '/etc/fortress/vm'

/** One virtual machine. */
export interface Domain {
  node: Guest
  site: string
  /** Follows from the names of site and node. */
  uuid: string
  system: 'flatcar' | 'talos'
  accel: 'kvm' | 'tcg'
  ramMib: number
  vcpus: number
  diskGib: number
  /** A virtio console, for a person on the host. */
  console: boolean
  /** Pods are virtual machines, so the machine may have some inside. */
  kata: boolean
  /** No other node on this host, so nobody whom it could talk to past the host. */
  alone: boolean
  /** The name of the vault in /dev/mapper. */
  vault: string
}

/** The virtual machines of the host that `context` is about. */
export function domainsOf({ site, machine }: Pick<Context, 'site' | 'machine'>): Domain[] {
  const guests = guestsOf(site, machine.name)
  return guests.map((node) => ({
    node,
    site: site.name,
    uuid: uuidOf('domain', `${site.name}/${node.name}`),
    system: node.os,
    accel: node.vm.accel,
    ramMib: node.vm.memory,
    vcpus: node.vm.cpus,
    diskGib: node.vm.disk,
    console: node.vm.console,
    kata: chosen(site, 'runtime').includes('kata'),
    alone: guests.length === 1,
    vault: machineOf(site, machine.name).vault?.name ?? 'vault',
  }))
}

/** The machine in the words of uname and of QEMU. */
export const kindOf = ({ node: { arch } }: Pick<Domain, 'node'>): string =>
  ({ amd64: 'x86_64', arm64: 'aarch64' })[arch]

/** Memory that the kernel gives the machine and its QEMU at most, in KiB: the guest's own and one GiB. */
export const memoryLimit = ({ ramMib }: Pick<Domain, 'ramMib'>): number => (ramMib + 1024) * 1024

/**
 * The XML of a machine: config/vm/k3s-vm.libvirt.xml filled in. `vault` says whether the encrypted disk is plugged in; the
 * storage layer does that. Throws TypeError when template and values do not fit.
 */
export function domainXml(domain: Domain, { vault = false }: { vault?: boolean } = {}): string {
  const { node, accel, system, ramMib, console, kata, alone } = domain
  return render('config/vm/k3s-vm.libvirt.xml', {
    when: { [accel]: true, [node.arch]: true, [system]: true, console, kata, alone, vault },
    values: {
      hypervisor: accel === 'kvm' ? 'kvm' : 'qemu',
      name: node.name,
      uuid: domain.uuid,
      site: domain.site,
      memory_kib: ramMib * 1024,
      memory_limit_kib: memoryLimit(domain),
      vcpus: domain.vcpus,
      nvram: `${vmDir}/${node.name}.vars.fd`,
      ignition: ignitionPath(node),
      cidata: cidataPath(node),
      disk: `${vmDir}/${node.name}.qcow2`,
      vault: domain.vault,
      mac: node.mac,
    },
  })
}

/** Fills in a document of libvirt; what reads XML is loaded only then. */
const render: typeof import('./xml.ts').render = (path, filling) =>
  (load('./xml.ts') as typeof import('./xml.ts')).render(path, filling)

/** The network of the virtual machines of a host: its bridge, its addresses, and what libvirt is given. */
export function guestNetwork(site: Site, host: string): { bridge: string; network: string; xml: string } {
  const found = bridgeOf(site, host)
  const network = found && parseNetwork(found.network)
  const nodes = guestsOf(site, host)
  const [first] = nodes
  if (found === undefined || network === undefined || first === undefined)
    throw new Fault(`${host} has no network for virtual machines`, {
      next: `give one of networks: the key bridge: { at: ${host} } in config/sites/${site.name}.yaml`,
    })
  const bridge = found.bridge.name
  // The network that most sites have alone goes by the name of the site.
  const uuid = uuidOf('network', found.name === 'guests' ? site.name : `${site.name}/${found.name}`)
  const xml = render('config/vm/network.libvirt.xml', {
    when: {},
    values: {
      uuid,
      site: site.name,
      bridge,
      mac: `52:54:00:${uuid.slice(0, 2)}:${uuid.slice(2, 4)}:${uuid.slice(4, 6)}`,
      address: first.gateway,
      prefix: first.prefix,
    },
    each: { nodes: nodes.map(({ name, mac, address }) => ({ name, mac, address })) },
  })
  return { bridge, network: formatNetwork(network), xml }
}

/** That libvirt has no virtual machine of another owner under the name or the UUID of ours. */
export function unclaimed({ node, uuid, site }: Domain): Demand {
  return {
    name: `no virtual machine of another owner is called ${node.name}`,
    why: 'what does not bear the mark of this site is never stopped, changed or deleted',
    check: sh`vm_free ${node.name} ${uuid} ${site}`,
    help: [
      `rename yours on the host (virsh domrename ${node.name} OTHER),`,
      'or give the node another name under machines: of the site document',
    ].join(' '),
  }
}

// The SSH keys of nodes, which the laptop makes and keeps encrypted. The public halves lie beside them in clear: by these a page
// sees that a node has an older one.

/** What the laptop calls a key, and the one that is to replace it. */
export type Names = readonly [now: string, next: string]

/** Of the host key of a node. */
export const hostKeyNames = ({ name }: Pick<Guest, 'name'>): Names => [
  `${name}-ssh-host-key`,
  `${name}-ssh-host-key-next`,
]

/** Of the key that opens every node of the site and nothing else. */
export const nodeKeyNames: Names = ['node-ssh-key', 'node-ssh-key-next']

/** The private host key of a node, in the format of OpenSSH; made when it is first needed. */
export const hostKeyOf = (node: Pick<Guest, 'name'>, secrets: Secrets): Secret =>
  secrets(hostKeyNames(node)[0], () => makeSshKey(node.name))

/** The key that opens the nodes, in the format of OpenSSH; made when the first node is. */
export const nodeKeyOf = (secrets: Secrets): Secret =>
  secrets(nodeKeyNames[0], () => makeSshKey('fortress-kit'))

/** The file of a node that lets in one key. */
export const authorizedKeys = '/etc/ssh/authorized_keys/core'

/** The public half that lies beside a key. It says nothing before the key was made. */
export function publicHalf(state: string, name: string): string | undefined {
  const path = join(state, `${name}.pub`)
  return existsSync(path) ? readFileSync(path, 'utf8').trim() : undefined
}

/** Of two names the one that a node should have now: the next, where there is one. */
export const wanted = ([now, next]: Names, has: Context['has']): string => (has(next) ? next : now)

/** The public half of a key, written beside it. */
export async function publish(state: string, key: Secret): Promise<string> {
  const half = sshPublicKey(await key.resolve())
  if (publicHalf(state, key.name) !== half) await land(join(state, `${key.name}.pub`), `${half}\n`, true)
  return half
}

/** The line of known_hosts that pins a node on its host: no secret, but made from one that only the laptop has. */
export function knownHosts(
  node: Pick<Guest, 'name' | 'address'>,
  { secrets, state }: Pick<Context, 'secrets' | 'state'>,
): { secret: Secret; shown: string } {
  const key = hostKeyOf(node, secrets)
  const line = (half: string) => `${node.address} ${half}\n`
  return {
    secret: new Secret(`${node.name}-known-hosts`, async () => line(await publish(state, key))),
    shown: line(publicHalf(state, key.name) ?? String(key)),
  }
}

const about = { file: import.meta.filename, layer: 'L1', on: 'host', library: domainShell } as const

function find(context: Context, name: string): Domain {
  const found = domainsOf(context).find(({ node }) => node.name === name)
  if (found === undefined) throw new Fault(`${context.machine.name} runs no virtual machine ${name}`)
  return found
}

/** The page that ends a machine. */
export function destroy(name: string): Page {
  return {
    ...about,
    name: 'node-destroy',
    summary: `The virtual machine ${name} is gone.`,
    steps: (context) => {
      const domain = find(context, name)
      const gone = sh`vm_gone ${name}`
      return [
        unclaimed(domain),
        typed(name, 'is deleted with its disk', gone),
        {
          name: `${name} is undefined, and its disk is deleted`,
          check: gone,
          apply: [sh`vm_destroy ${name} ${domain.uuid} ${domain.site}`],
        },
      ]
    },
  }
}

/** The page that puts the disk of a machine aside; 13-vm-provision makes it anew then. `when` tells one time from another. */
export function rebuild(name: string, when = new Date().toISOString()): Page {
  return {
    ...about,
    name: 'node-rebuild',
    summary: `The virtual machine ${name} starts anew from the base image.`,
    steps: (context) => {
      const domain = find(context, name)
      const done = sh`grep --line-regexp --fixed-strings -e ${when} "$VM_NOTES"/${`${name}.rebuilt`}`
      return [
        unclaimed(domain),
        typed(name, 'starts anew', done),
        {
          name: `the old disk of ${name} is set aside`,
          why: 'it is kept until the next time; what the cluster stores is on the vault, which is not touched',
          check: done,
          apply: [sh`vm_rebuild ${name} ${when}`],
        },
      ]
    },
  }
}

function typed(name: string, what: string, done: Command): Demand {
  return {
    name: `a person has confirmed by its name that ${name} ${what}`,
    check: done,
    help: `type ${name} at the prompt, or say --confirm ${name}`,
    typed: name,
  }
}
