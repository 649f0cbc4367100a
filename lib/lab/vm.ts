// One VM of the lab: from its first instruction, cold or restored, until it accepts a login; and without a trace when it goes.
import { createHash } from 'node:crypto'
import fs from 'node:fs'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Fault } from '../ground/fault.ts'
import { $ } from '../ground/laptop.ts'
import { done } from './command.ts'
import { keys } from './keys.ts'
import { type LabMachine, type Reach, hangUp, labRun, record, sshConfig } from './machine.ts'
import { type LabOptions, labDir } from './place.ts'
import {
  type Start,
  endVm,
  freePort,
  isFree,
  restoreState,
  running,
  startQemu,
  startTpm,
  tail,
} from './qemu.ts'

export interface LabVm extends LabMachine {
  kind: 'vm'
  /** UDP port on 127.0.0.1 that reaches the guest's port 51820. */
  wireguardPort: number
  /** The guest's address on its second network, where a stranger would meet it. */
  outsideAddress: '192.0.2.2'
  /** With `outside: true`: the network namespace whose address on that network is 192.0.2.1. */
  outsideNamespace?: string
  /** Socket of the serial console, which needs no network. What it printed is in `console.log` beside it. */
  console: string
}

export interface LabUpOptions extends LabOptions {
  /** A network namespace on the guest's second network, to scan it from or to be its WireGuard peer. Needs root. */
  outside?: boolean
  /** The port on 127.0.0.1 for ssh; without it any free one. */
  port?: number
}

/** The two disks that the guest finds besides its system: sparse files. */
export function emptyDisks(dir: string): void {
  for (const [name, mebibytes] of Object.entries({ vault: 2048, spare: 512 })) {
    fs.writeFileSync(path.join(dir, name), '')
    fs.truncateSync(path.join(dir, name), mebibytes * 1024 * 1024)
  }
}

/** Starts a VM in `dir`, which is empty but for its owner, from the snapshot of an image. */
export async function restore(
  name: string,
  dir: string,
  image: string,
  options: LabUpOptions,
): Promise<LabVm> {
  for (const file of ['vars.fd', 'host_keys']) fs.copyFileSync(path.join(image, file), path.join(dir, file))
  emptyDisks(dir)
  const [base, overlay] = [path.join(image, 'disk'), path.join(dir, 'disk.qcow2')]
  await done($`qemu-img create -q -f qcow2 -b ${base} -F raw ${overlay}`)
  const ram = `memory-backend-file,mem-path=${path.join(image, 'ram')},share=off,readonly=on,rom=off`
  return start(name, dir, options, ram, () => restoreState(dir, path.join(image, 'state')))
}

/** Starts the VM whose disks, TPM and firmware variables lie in `dir`, by a cold boot. */
export function boot(name: string, dir: string, options: LabUpOptions): Promise<LabVm> {
  return start(name, dir, options, 'memory-backend-ram')
}

async function start(
  name: string,
  dir: string,
  options: LabUpOptions,
  ram: string,
  ready?: () => Promise<void>,
): Promise<LabVm> {
  const { identityFile, password } = await keys(labDir(options.dir))
  const namespace = options.outside ? `fk-${name}-outside` : undefined
  const tap = `fk${createHash('sha256').update(dir).digest('hex').slice(0, 10)}`
  if (options.port && !(await isFree(options.port)))
    throw new Fault(`port ${options.port} of 127.0.0.1 is taken`, {
      next: 'name another, or none: then a free one is found',
    })
  await startTpm(dir)
  for (let tries = 1; ; tries++) {
    const ports = { port: options.port ?? (await freePort('tcp')), wireguardPort: await freePort('udp') }
    // Without a header of its own the tap can stand in for the user network that the snapshot was made with.
    const outside = namespace ? `tap,ifname=${tap},script=no,downscript=no,vnet_hdr=off` : undefined
    const disk = { file: path.join(dir, 'disk.qcow2'), format: 'qcow2' } as const
    const vm: Start = { dir, disk, ram, ...ports, outside, incoming: ready !== undefined }
    try {
      await startQemu(vm)
    } catch (error) {
      // Somebody took the port in between.
      if (tries < 3 && !options.port && /host forwarding/.test((error as Fault).said ?? '')) continue
      throw error
    }
    if (namespace) await moveOutside(namespace, tap)
    try {
      await ready?.()
    } catch (error) {
      const said = [(error as Error).message, tail(path.join(dir, 'qemu.log'))].filter(Boolean).join('\n')
      throw new Fault(`the VM ${name} was not restored from its snapshot`, {
        said,
        next: `remove ${path.join(labDir(options.dir), 'vm')}: it is built again`,
      })
    }
    fs.writeFileSync(path.join(dir, 'known_hosts'), knownHosts(dir, ports.port))
    const config = sshConfig({ name, host: '127.0.0.1', port: ports.port, identityFile, dir })
    // The clock has stood still since the snapshot was made. The password comes on standard input.
    const clock = ready && { root: true, command: () => `date --set=@${(Date.now() / 1000 + 1).toFixed(1)}` }
    const first = clock ?? { root: false, command: () => 'true' }
    await untilLogin({ name, dir, sshConfigFile: config, password }, first, 900)
    const machine = {
      name,
      kind: 'vm' as const,
      host: '127.0.0.1',
      ...ports,
      via: '10.0.2.2',
      dir,
      outsideAddress: '192.0.2.2' as const,
      console: path.join(dir, 'console'),
    }
    return record(namespace ? { ...machine, outsideNamespace: namespace } : machine, options)
  }
}

/** QEMU's tap goes into a namespace of its own; it vanishes with QEMU. */
async function moveOutside(namespace: string, tap: string): Promise<void> {
  if (!fs.existsSync(`/run/netns/${namespace}`)) await done($`ip netns add ${namespace}`)
  await done($`ip link set ${tap} netns ${namespace} name outside`)
  const input = 'link set lo up\naddress add 192.0.2.1/24 dev outside\nlink set outside up\n'
  await done($({ input })`ip -netns ${namespace} -batch -`)
}

/** Ends a VM, and leaves nothing of it. */
export async function removeVm(name: string, dir: string): Promise<void> {
  await hangUp(dir)
  await endVm(dir)
  const namespace = `fk-${name}-outside`
  if (fs.existsSync(`/run/netns/${namespace}`)) {
    const { stdout } = await done($`ip netns pids ${namespace}`)
    for (const pid of stdout.split('\n').filter(Boolean)) process.kill(Number(pid), 'SIGKILL')
    await done($`ip netns delete ${namespace}`)
  }
  fs.rmSync(dir, { recursive: true, force: true })
}

/** The host keys that the machine was made with, as ssh reads them for its port. */
export function knownHosts(dir: string, port: number): string {
  const lines = fs.readFileSync(path.join(dir, 'host_keys'), 'utf8').trim().split('\n')
  return lines.map((line) => `[127.0.0.1]:${port} ${line}\n`).join('')
}

/** Waits until a first command succeeds on a machine that is starting, `limit` seconds at most, and as long as its QEMU runs. */
export async function untilLogin(
  machine: Reach,
  first: { root: boolean; command: () => string },
  limit: number,
): Promise<void> {
  const deadline = Date.now() + limit * 1000
  for (;;) {
    // Under emulation on a busy computer a login alone may take minutes: one that is slow is none that failed.
    const { code, stderr } = await labRun(machine, first.command(), {
      root: first.root,
      fresh: true,
      seconds: limit,
    })
    if (code === 0) return
    const qemu = running(machine.dir)
    if (!qemu || Date.now() > deadline)
      throw new Fault(`the VM ${machine.name} ${qemu ? `accepts no login after ${limit} s` : 'has ended'}`, {
        said: [
          stderr.trim(),
          tail(path.join(machine.dir, 'qemu.log')),
          tail(path.join(machine.dir, 'console.log')),
        ]
          .filter(Boolean)
          .join('\n'),
      })
    await sleep(200)
  }
}
