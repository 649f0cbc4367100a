// QEMU and its TPM as processes that outlive us: the command line, the start, the monitor, the end, and the ports they take.
import dgram from 'node:dgram'
import fs from 'node:fs'
import net from 'node:net'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Fault } from '../ground/fault.ts'
import { $ } from '../ground/laptop.ts'
import { done } from './command.ts'
import { readIf } from './place.ts'

/** The firmware's code, and its variables as they are on the first start. */
export const firmware = { code: '/usr/share/OVMF/OVMF_CODE_4M.fd', vars: '/usr/share/OVMF/OVMF_VARS_4M.fd' }

/** The same with Secure Boot, as a machine is sold: it starts what Microsoft has signed, and so Debian's shim. */
export const checking = {
  code: '/usr/share/OVMF/OVMF_CODE_4M.ms.fd',
  vars: '/usr/share/OVMF/OVMF_VARS_4M.ms.fd',
}

const memory = 2048

/** What differs between one start of the VM and another; all that the memory snapshot depends on is in `qemuWords`. */
export interface Start {
  /** The machine's own directory: sockets, variables of the firmware, disks, logs. */
  dir: string
  disk: { file: string; format: 'raw' | 'qcow2' }
  ram: string
  port: number
  wireguardPort: number
  /** The backend of the second network, when somebody is on it. */
  outside: string | undefined
  incoming: boolean
  /** With Secure Boot. */
  secure?: boolean
}

/** QEMU's command line: a PC with UEFI, a TPM 2.0, two networks and three disks, emulated, so that it is the same everywhere. */
export function qemuWords(vm: Start): string[] {
  const at = (name: string) => path.join(vm.dir, name)
  const forward = `hostfwd=tcp:127.0.0.1:${vm.port}-:22,hostfwd=udp:127.0.0.1:${vm.wireguardPort}-:51820`
  const raw = 'if=none,format=raw,cache=unsafe,discard=unmap'
  const smm = vm.secure ? ',smm=on' : ''
  const code = vm.secure ? checking.code : firmware.code
  return [
    ['-nodefaults', '-no-user-config', '-display', 'none'],
    ['-machine', `q35,memory-backend=ram,usb=off,vmport=off,i8042=off,hpet=off,smbus=off,sata=off${smm}`],
    // Only in system management mode may the variables be written that say what is trusted.
    vm.secure ? ['-global', 'driver=cfi.pflash01,property=secure,value=on'] : [],
    ['-accel', 'tcg,thread=multi,tb-size=512', '-cpu', 'max', '-smp', '2', '-m', `${memory}`],
    ['-object', `${vm.ram},id=ram,size=${memory}M`],
    ['-drive', `if=pflash,unit=0,format=raw,readonly=on,file=${code}`],
    ['-drive', `if=pflash,unit=1,format=raw,file=${at(vm.secure ? 'secure.fd' : 'vars.fd')}`],
    ['-chardev', `socket,id=console,path=${at('console')},server=on,wait=off,logfile=${at('console.log')}`],
    ['-serial', 'chardev:console', '-qmp', `unix:${at('qmp')},server=on,wait=off`],
    ['-netdev', `user,id=uplink,${forward}`],
    ['-device', 'virtio-net-pci,netdev=uplink,mac=52:54:00:fb:00:01,romfile=,addr=2'],
    ['-netdev', `${vm.outside ?? alone[0]},id=outside`],
    vm.outside ? [] : ['-netdev', alone[1]],
    ['-device', 'virtio-net-pci,netdev=outside,mac=52:54:00:fb:00:02,romfile=,addr=3'],
    ['-drive', `if=none,id=system,file=${vm.disk.file},format=${vm.disk.format},cache=unsafe,discard=unmap`],
    ['-device', 'virtio-blk-pci,drive=system,addr=4,bootindex=1'],
    [
      '-drive',
      `${raw},id=vault,file=${at('vault')}`,
      '-device',
      'virtio-blk-pci,drive=vault,addr=5,serial=fk-vault',
    ],
    [
      '-drive',
      `${raw},id=spare,file=${at('spare')}`,
      '-device',
      'virtio-blk-pci,drive=spare,addr=6,serial=fk-spare',
    ],
    ['-device', 'virtio-rng-pci,addr=7', '-device', 'vmgenid,guid=auto'],
    ['-chardev', `socket,id=tpm,path=${at('tpm.sock')}`, '-tpmdev', 'emulator,id=tpm,chardev=tpm'],
    ['-device', 'tpm-crb,tpmdev=tpm'],
    ['-pidfile', at('qemu.pid')],
    vm.incoming ? ['-incoming', 'defer'] : [],
  ].flat()
}

/** A hub on which nobody else is. The second socket takes what is sent: without it the guest's card would wait for ever. */
const alone = ['hubport,hubid=1', 'hubport,hubid=1,id=nobody'] as const

/** Starts the TPM 2.0 whose state lies in the machine's directory; it ends with its QEMU. */
export async function startTpm(dir: string): Promise<void> {
  const at = (name: string) => path.join(dir, name)
  // A socket's path has 108 bytes in Linux.
  if (at('console').length > 100)
    throw new Fault(`the lab’s directory has too long a path: ${dir}`, {
      next: 'name a shorter one in FK_LAB_DIR',
    })
  fs.mkdirSync(at('tpm'), { recursive: true, mode: 0o700 })
  // It leaves a daemon behind, which must not hold our pipes.
  const quiet = $({ stdio: 'ignore' })
  await done(quiet`swtpm socket --tpm2 --tpmstate dir=${at('tpm')} --ctrl type=unixio,path=${at('tpm.sock')} \
    --terminate --daemon --pid file=${at('swtpm.pid')}`)
}

/** Starts QEMU, which outlives us, and returns when it listens to its monitor. What it complains of is in qemu.log. */
export async function startQemu(vm: Start): Promise<void> {
  const log = path.join(vm.dir, 'qemu.log')
  fs.rmSync(path.join(vm.dir, 'qmp'), { force: true })
  const output = fs.openSync(log, 'w')
  const qemu = $({
    detached: true,
    nothrow: true,
    stdio: ['ignore', output, output],
  })`exec qemu-system-x86_64 ${qemuWords(vm)}`
  fs.closeSync(output)
  let failed: Error | undefined
  void qemu.then(({ exitCode, signal }) => {
    failed = new Fault(`QEMU failed (${signal ?? `exit ${exitCode}`})`, { said: tail(log) })
  })
  qemu.child?.unref()
  for (;;) {
    try {
      return (await connect(vm.dir)).close()
    } catch {
      if (failed) throw failed
      await sleep(10)
    }
  }
}

/** The pid in a file, when that process was started for this directory: a recycled pid was not. */
function pidOf(dir: string, name: string): number | undefined {
  const pid = Number(readIf(path.join(dir, name)))
  return pid > 0 && readIf(`/proc/${pid}/cmdline`).includes(`${dir}/`) ? pid : undefined
}

/** Whether the machine of that directory runs. */
export const running = (dir: string) => pidOf(dir, 'qemu.pid') !== undefined

/** Ends QEMU and swtpm of a directory, and waits until they are gone. */
export async function endVm(dir: string): Promise<void> {
  // swtpm ends with its QEMU; first, so that it has written its state.
  for (const name of ['qemu.pid', 'swtpm.pid']) {
    for (let tries = 0; pidOf(dir, name) !== undefined; tries++) {
      const pid = pidOf(dir, name)
      if (pid && tries % 100 === (name === 'qemu.pid' ? 0 : 25))
        process.kill(pid, tries < 200 ? 'SIGTERM' : 'SIGKILL')
      if (tries > 1000) throw new Fault(`process ${pid} of the lab does not end`, { next: `see ${dir}` })
      await sleep(10)
    }
    fs.rmSync(path.join(dir, name), { force: true })
  }
}

interface Monitor {
  send(command: object): Promise<unknown>
  close(): void
}

/** QEMU's machine protocol: one JSON document per line. */
async function connect(dir: string): Promise<Monitor> {
  const connection = net.connect(path.join(dir, 'qmp'))
  let rest = ''
  let answer: { resolve: (value: unknown) => void; reject: (error: Error) => void } | undefined
  const ended = (error?: Error) => answer?.reject(error ?? new Fault('QEMU ended before it answered'))
  connection.on('error', ended)
  connection.on('close', () => ended())
  connection.setEncoding('utf8').on('data', (text: string) => {
    const lines = (rest + text).split('\n')
    rest = lines.pop() ?? ''
    for (const line of lines) {
      const message = JSON.parse(line) as { return?: unknown; error?: { desc: string } }
      if (message.error) answer?.reject(new Fault(`QEMU refused: ${message.error.desc}`))
      else if ('return' in message) answer?.resolve(message.return)
    }
  })
  const monitor: Monitor = {
    send: (command) =>
      new Promise((resolve, reject) => {
        answer = { resolve, reject }
        connection.write(`${JSON.stringify(command)}\n`)
      }),
    close: () => void connection.destroy(),
  }
  await monitor.send({ execute: 'qmp_capabilities' })
  return monitor
}

/** Sends one command to QEMU's monitor of the machine in `dir`. */
export async function monitorCommand(dir: string, execute: string): Promise<void> {
  const monitor = await connect(dir)
  await monitor.send({ execute })
  monitor.close()
}

/** Stops a machine, keeps the state of its devices in a file, and ends its QEMU. Its memory is in a file already. */
export async function keepState(dir: string, file: string): Promise<void> {
  const monitor = await connect(dir)
  await monitor.send({ execute: 'stop' })
  await monitor.send(snapshotFlags)
  await monitor.send({ execute: 'migrate', arguments: { uri: `file:${file}` } })
  await migrated(monitor)
  await monitor.send({ execute: 'quit' })
  monitor.close()
}

/** Lets a machine that was started with `incoming` go on from the state in a file. */
export async function restoreState(dir: string, file: string): Promise<void> {
  const monitor = await connect(dir)
  await monitor.send(snapshotFlags)
  await monitor.send({ execute: 'migrate-incoming', arguments: { uri: `file:${file}` } })
  await migrated(monitor)
  await monitor.send({ execute: 'cont' })
  monitor.close()
}

const snapshotFlags = {
  execute: 'migrate-set-capabilities',
  arguments: { capabilities: [{ capability: 'x-ignore-shared', state: true }] },
}

async function migrated(monitor: Monitor): Promise<void> {
  for (;;) {
    const info = (await monitor.send({ execute: 'query-migrate' })) as {
      status?: string
      'error-desc'?: string
    }
    if (info.status === 'completed') return
    if (info.status === 'failed')
      throw new Fault(`QEMU’s snapshot failed: ${info['error-desc'] ?? 'no reason given'}`)
    await sleep(10)
  }
}

/** A port of 127.0.0.1 that nobody listens to now. */
export function freePort(kind: 'tcp' | 'udp'): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = kind === 'tcp' ? net.createServer() : dgram.createSocket('udp4')
    server.once('error', reject)
    const done = () => {
      const { port } = server.address() as { port: number }
      server.close(() => resolve(port))
    }
    if (server instanceof net.Server) server.listen(0, '127.0.0.1', done)
    else server.bind(0, '127.0.0.1', done)
  })
}

/** Whether nobody listens to that TCP port of 127.0.0.1. */
export function isFree(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const server = net.createServer()
    server.once('error', () => resolve(false))
    server.listen(port, '127.0.0.1', () => server.close(() => resolve(true)))
  })
}

/** The last lines of a log, as text. */
export function tail(file: string): string {
  // Escape sequences of the firmware's screen are no text.
  const text = readIf(file)
    .slice(-4000)
    .replace(/\x1b\[[0-9;?!=]*[a-zA-Z]/g, '')
  return text.trim().split(/\r?\n/).slice(-5).join('\n')
}
