// What this computer's ssh goes by: host keys that are pinned, the settings of a name in its configuration, a key that lies on no
// disk, and a place for shared connections. It hides the formats of known_hosts and ssh_config: ssh and ssh-keygen are asked.
import {
  accessSync,
  chmodSync,
  constants,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import type { Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { createInterface } from 'node:readline'
import { Fault } from './fault.ts'
import { sshPublicKey } from './keys.ts'
import { $ } from './laptop.ts'

/** A line of known_hosts that is for a name. */
interface Pinned {
  /** Its number in the file, from 1. */
  line: number
  /** `ssh-ed25519 AAAA…` */
  key: string
  /** CA: the key signs host keys; REVOKED: it is refused. */
  mark?: 'CA' | 'REVOKED'
}

/** The lines of a known_hosts file under this name, hashed ones and patterns among them. A file that is not there has none. */
export function pinned(file: string, alias: string): Pinned[] {
  if (!existsSync(file)) return []
  const { stdout } = $.sync({ nothrow: true })`ssh-keygen -F ${alias} -f ${file}`
  const lines = stdout.split('\n')
  return lines.flatMap((text, i): Pinned[] => {
    const [, line, mark] = /^# Host .* found: line (\d+) *(CA|REVOKED)?/.exec(text) ?? []
    if (line === undefined) return []
    const words = (lines[i + 1] ?? '').trim().split(/[ \t]+/)
    const [kind = '', blob = ''] = words.slice(mark === undefined ? 1 : 2)
    return [
      { line: Number(line), key: `${kind} ${blob}`, ...(mark ? { mark: mark as 'CA' | 'REVOKED' } : {}) },
    ]
  })
}

/** Whether a known_hosts file proves a machine of this name. */
export const known = (file: string, alias: string): boolean =>
  plainly(file, alias) || pinned(file, alias).some(({ mark }) => mark !== 'REVOKED')

/** The way we write it ourselves: a line that begins with this name. For others ssh-keygen is started, which takes its time. */
const plainly = (file: string, alias: string): boolean =>
  existsSync(file) &&
  readFileSync(file, 'utf8')
    .split('\n')
    .some((line) => line.startsWith(`${alias} `))

/** Writes host keys to the known_hosts file, in place of others that are under this name alone. */
export function pin(file: string, alias: string, ...keys: string[]): void {
  const found = pinned(file, alias)
  const has = (key: string) => found.some((one) => one.key === key.trim() && one.mark === undefined)
  if (keys.every(has) && found.length === keys.length) return
  const lines = existsSync(file) ? readFileSync(file, 'utf8').split('\n') : []
  const others = lines.filter((text, i) => {
    const old = found.find(({ line }) => line === i + 1)
    // A list or a pattern is for other names, too, and what is marked somebody has decided.
    return old === undefined || old.mark !== undefined || /^[^|][^ \t]*[,*?]/.test(text)
  })
  mkdirSync(dirname(file), { recursive: true, mode: 0o700 })
  writeFileSync(
    file,
    `${[...others, ...keys.map((key) => `${alias} ${key.trim()}`)].filter(Boolean).join('\n')}\n`,
    {
      mode: 0o600,
    },
  )
}

const asked = new Map<string, Record<string, string>>()

/**
 * What ssh's configuration says of a name, by option in small letters: `hostname`, `port`, `user`, `proxyjump`. `words` are
 * further options. Empty where ssh cannot read its configuration: whoever connects next is told why.
 */
export function settingsOf(host: string, words: string[] = []): Record<string, string> {
  const key = [...words, host].join('\0')
  const before = asked.get(key)
  if (before !== undefined) return before
  const { stdout, exitCode } = $.sync({ nothrow: true })`ssh -G ${[...words, host]}`
  const pairs = exitCode === 0 ? stdout.split('\n').map((line) => /^(\S+) (.*)$/.exec(line) ?? []) : []
  const found = Object.fromEntries(pairs.map(([, name = '', value = '']) => [name, value]))
  asked.set(key, found)
  return found
}

/** The name of another machine through which ssh reaches this one; undefined where it comes by no other. */
export const wayOf = ({ proxyjump, proxycommand }: Record<string, string>): string | undefined =>
  [proxyjump, proxycommand].find((way) => way !== undefined && way !== 'none')

/** What a person may like at a prompt, and what a program that talks over ssh cannot bear. */
const settled: [option: string, value: string][] = [
  ['LogLevel', 'ERROR'],
  ['RemoteCommand', 'none'],
  ['RequestTTY', 'no'],
  ['SessionType', 'default'],
  ['StdinNull', 'no'],
  ['ForkAfterAuthentication', 'no'],
  ['PermitLocalCommand', 'no'],
  ['Tunnel', 'no'],
  ['ForwardAgent', 'no'],
  ['ForwardX11', 'no'],
]

/** What decides which machine it is: pinned host keys alone, and nobody adds one unasked. */
const proven: [option: string, value: string][] = [
  ['KnownHostsCommand', 'none'],
  ['VerifyHostKeyDNS', 'no'],
  ['UpdateHostKeys', 'no'],
]

/** Options of ssh that win over its configuration. One that is neither set nor known to an older ssh is left out. */
export const settledOptions = (settings: Record<string, string>): string[] =>
  [...settled, ...proven].flatMap(([option, value]) =>
    option.toLowerCase() in settings ? [`${option}=${value}`] : [],
  )

/** The longest path of a socket is 103 bytes (macOS); ssh adds 17 while it opens one, and we a name. */
const SOCKET_DIR = 60

/** A new private directory for sockets of shared connections; undefined where none can be made. */
export function socketDir(): string | undefined {
  for (const above of [tmpdir(), '/tmp', '/var/tmp']) {
    if (above.length > SOCKET_DIR) continue
    try {
      accessSync(above, constants.W_OK)
      const dir = mkdtempSync(join(above, 'fk-'))
      chmodSync(dir, 0o700)
      return dir
    } catch {
      // It is full, or is not there: the next one.
    }
  }
  return undefined
}

/** Keys that ssh can use and nobody can read: an agent of this run holds them. */
export interface AgentKeys {
  socket: string
  /** A file for each with its public half: by it ssh asks for this key and for no other. */
  publicKeys: string[]
}

/**
 * Starts an ssh-agent with these private keys and nothing else. They come on standard input and touch no disk. The agent ends
 * with this process, however that ends: what it runs waits for the end of our pipe. Throws a Fault where it cannot be started.
 */
export async function keyAgent(keys: string[]): Promise<AgentKeys> {
  const dir = socketDir()
  if (dir === undefined)
    throw new Fault('no directory on this computer takes a socket', { next: 'make room in /tmp' })
  const socket = join(dir, 'agent')
  const publicKeys = keys.map((key, i) => {
    const path = join(dir, `${i}.pub`)
    writeFileSync(path, `${sshPublicKey(key)}\n`, { mode: 0o600 })
    return path
  })
  process.once('exit', () => rmSync(dir, { recursive: true, force: true }))
  const adds = keys.map((key) => `head -c ${Buffer.byteLength(key)} | ssh-add -q -`)
  const hold = [...adds, 'echo ready', 'exec cat > /dev/null'].join(' && ')
  const agent = $({
    nothrow: true,
    detached: true,
    stdio: 'pipe',
  })`exec ssh-agent -a ${socket} bash -c ${hold}`
  agent.stdin.write(keys.join(''))
  const lines = createInterface({ input: agent.stdout })
  const ready = new Promise<true>((resolve) => lines.once('line', () => resolve(true)))
  const ended = await Promise.race([ready, agent])
  lines.close()
  if (ended !== true)
    throw new Fault('the SSH key of the nodes cannot be handed to ssh', {
      ran: 'ssh-agent',
      said: ended.stderr,
    })
  // It holds nothing up: when there is nothing else to do, this process ends, and the agent with it.
  agent.child?.unref()
  for (const pipe of [agent.stdin, agent.stdout, agent.stderr]) (pipe as Socket).unref()
  return { socket, publicKeys }
}
