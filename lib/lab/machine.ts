// A machine of the lab that is up: whose it is, how ssh gets there, and commands on it. Its directory says all of that.
import fs from 'node:fs'
import path from 'node:path'
import { Fault } from '../ground/fault.ts'
import { $ } from '../ground/laptop.ts'
import { quote } from '../ground/sh.ts'
import { done } from './command.ts'
import { keys } from './keys.ts'
import { type LabOptions, labDir, readIf } from './place.ts'

/** A machine of the lab that is up: all that ssh needs, pinned. Paths are absolute. */
export interface LabMachine {
  name: string
  kind: 'node' | 'vm'
  host: string
  port: number
  user: 'admin'
  identityFile: string
  /** Holds this machine's host keys under the address (and port) above. */
  knownHostsFile: string
  /** `ssh -F this NAME` gets there. */
  sshConfigFile: string
  /** Of the user admin, for sudo. */
  password: string
  /** Our address as the machine sees it. */
  via: string
  /** The machine's own directory: logs lie here. */
  dir: string
}

/** Throws a Fault unless a machine can be called that. */
export function checkName(name: string): void {
  if (!/^[a-z][a-z0-9-]{0,30}$/.test(name))
    throw new Fault(`a machine of the lab cannot be called '${name}'`, {
      next: 'use up to 31 small letters, digits and dashes, a letter first',
    })
}

interface Owner {
  pid: number
  /** When it was started, in the kernel's own count: a recycled pid has another. */
  started: string
}

function startOf(pid: number): string {
  // The command in field 2 may hold spaces and parentheses: count from the last one.
  return (
    readIf(`/proc/${pid}/stat`)
      .replace(/^.*\) /s, '')
      .split(' ')[19] ?? ''
  )
}

/** Who owns the machine of a directory: a living process, somebody who keeps it, or nobody any more. */
export function ownerOf(dir: string): Owner | 'keep' | 'gone' {
  // A claim has its owner in its name: between making a directory and writing a file into it somebody may look.
  const [, pid, started] = /\.claim-(\d+)-(\d+)-\w+$/.exec(dir) ?? []
  const claimed = pid && started ? JSON.stringify({ pid: Number(pid), started }) : ''
  const text = claimed || readIf(path.join(dir, 'owner'))
  if (text === 'keep') return 'keep'
  const owner = text === '' ? undefined : (JSON.parse(text) as Owner)
  return owner && startOf(owner.pid) === owner.started ? owner : 'gone'
}

/** Takes a machine's directory for this process, by one rename; an earlier one of ours is removed with `end`. */
export async function claim(
  dir: string,
  name: string,
  keep: boolean,
  end: () => Promise<void>,
): Promise<void> {
  fs.mkdirSync(path.dirname(dir), { recursive: true })
  const owner: Owner = { pid: process.pid, started: startOf(process.pid) }
  const fresh = fs.mkdtempSync(`${dir}.claim-${owner.pid}-${owner.started}-`)
  fs.chmodSync(fresh, 0o755)
  fs.writeFileSync(path.join(fresh, 'owner'), keep ? 'keep' : JSON.stringify(owner))
  for (let tries = 0; ; tries++) {
    try {
      return fs.renameSync(fresh, dir)
    } catch (error) {
      const other = ownerOf(dir)
      const foreign = other === 'keep' ? !keep : other !== 'gone' && other.pid !== process.pid
      if (foreign || tries === 3) {
        fs.rmSync(fresh, { recursive: true, force: true })
        if (!foreign) throw error
        const who = other === 'keep' ? 'somebody who keeps it' : `process ${(other as Owner).pid}`
        throw new Fault(`the lab’s machine ${name} is up already, for ${who}`, {
          next: `choose another name, or end it: npx task lab down ${name}`,
        })
      }
      await end()
    }
  }
}

/** Notes that a machine is up, and all that ssh needs to get there. */
export async function record<T extends Pick<LabMachine, 'name' | 'kind' | 'host' | 'port' | 'via' | 'dir'>>(
  found: T,
  options: LabOptions,
): Promise<T & LabMachine> {
  const { identityFile, password } = await keys(labDir(options.dir))
  const open = {
    ...found,
    user: 'admin' as const,
    identityFile,
    knownHostsFile: path.join(found.dir, 'known_hosts'),
    sshConfigFile: sshConfig({ ...found, identityFile }),
  }
  const file = path.join(found.dir, 'machine.json')
  fs.writeFileSync(`${file}.part`, JSON.stringify(open, null, 2))
  fs.renameSync(`${file}.part`, file)
  return { ...open, password }
}

/** Writes the machine's ssh_config. Returns its path. */
export function sshConfig(at: Pick<LabMachine, 'name' | 'host' | 'port' | 'identityFile' | 'dir'>): string {
  const file = path.join(at.dir, 'ssh_config')
  const text = `# A throw-away machine. Its host keys were made before its first start: nothing is taken on trust.
Host ${at.name}
  HostName ${at.host}
  Port ${at.port}
  User admin
  IdentityFile ${sshPath(at.identityFile)}
  IdentitiesOnly yes
  UserKnownHostsFile ${sshPath(path.join(at.dir, 'known_hosts'))}
  GlobalKnownHostsFile /dev/null
  StrictHostKeyChecking yes
  # Each of these is quick where every instruction is emulated.
  KexAlgorithms curve25519-sha256
  ConnectTimeout 10
  ServerAliveInterval 15
`
  fs.writeFileSync(file, text)
  return file
}

function sshPath(file: string): string {
  return `"${file.replaceAll('%', '%%')}"`
}

/** What came of a command on a machine. */
export interface LabResult {
  code: number
  stdout: string
  stderr: string
}

/** What it takes to run commands on a machine. */
export type Reach = Pick<LabMachine, 'name' | 'dir' | 'sshConfigFile' | 'password'>

/**
 * Runs a bash command on a machine and returns what came of it, whatever the exit code. `root` goes through sudo and its
 * password. Connections are shared; `fresh` makes one of its own.
 */
export async function labRun(
  machine: Reach,
  command: string,
  options: { root?: boolean; fresh?: boolean; input?: string; seconds?: number } = {},
): Promise<LabResult> {
  const socket = path.join(machine.dir, 'ssh.sock')
  const ssh = ['-F', machine.sshConfigFile, '-o', 'BatchMode=yes']
  if (!options.fresh && !fs.existsSync(socket))
    // The master outlives this command: it must not hold our pipes.
    await done($({ stdio: 'ignore' })`ssh ${ssh} -M -N -f -S ${socket} ${machine.name}`, { code: 'any' })
  const words = [...ssh, '-S', options.fresh ? 'none' : socket, machine.name]
  const script = `bash -c ${quote(command)}`
  const there = options.root ? `sudo --stdin --prompt= -- ${script}` : script
  const input = (options.root ? `${machine.password}\n` : '') + (options.input ?? '')
  const seconds = options.seconds ?? 600
  const { exitCode, stdout, stderr } = await done($({ input })`ssh ${words} ${there}`, {
    code: 'any',
    seconds,
  })
  return { code: exitCode as number, stdout, stderr }
}

/** Ends the shared connection to a machine, which could outlive it. */
export async function hangUp(dir: string): Promise<void> {
  const socket = path.join(dir, 'ssh.sock')
  if (fs.existsSync(socket)) await done($`ssh -F none -S ${socket} -O exit lab`, { code: 'any' })
}
