// The places where programs run: this computer, or a machine over OpenSSH. Nothing is needed there but sshd, sudo and bash. This
// file hides how a connection is made, shared and checked, how root is reached, and how a program ends in time.
import { appendFileSync, existsSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { hostname, userInfo } from 'node:os'
import { dirname, join } from 'node:path'
import { createInterface } from 'node:readline'
import type { Readable } from 'node:stream'
import { Fault } from '../ground/fault.ts'
import { type ProcessPromise, $, end, question } from '../ground/laptop.ts'
import { quote } from '../ground/sh.ts'
import { type AgentKeys, known, pinned, settingsOf, settledOptions, socketDir } from '../ground/ssh.ts'
import { Stopped } from '../ground/stop.ts'
import { systemMarks, systemOf } from '../site/systems.ts'
import type { Facts } from './page.ts'
import { type Program, plain } from './program.ts'
import type { Route } from './step.ts'
import { type Advice, noRoot, unreachable } from './unreachable.ts'
import { type Frame, frameOf, onAnswer } from './wire.ts'

export interface Outcome {
  code: number
  stderr: string
  /** The program reached its end. */
  finished: boolean
}

export interface Machine {
  /** For a reader: `fortress (admin@192.0.2.10)`. */
  label: string
  facts: Facts
  /** The route that programs take now. */
  route: Route
  /** Runs a program as root. `onFrame` sees each event as it comes. Dies after `seconds`, on the far side as well. */
  run(
    program: Program,
    onFrame: (frame: Frame) => void,
    seconds?: number,
    /** From then on it begins no further step. */
    signal?: AbortSignal,
  ): Promise<Outcome>
  /** Runs one line of bash as root that reads `input` to its end, or until `signal`: for what is too large, or no text. */
  feed(command: string, input: Readable, signal?: AbortSignal): Promise<Outcome>
  /** The same machine by a connection of its own that shares nothing with this one: what a lock-out would refuse. */
  reconnect(route: Route): Machine
  /** From now on by this route. */
  switchTo(route: Route): void
  close(): Promise<void>
}

export interface SshTarget {
  host: string
  user?: string
  port?: number
  identityFile?: string
  /** Keys that lie on no disk, in place of those of the person's agent. */
  agent?: AgentKeys
  configFile?: string
  knownHostsFile: string
  /** The name that the host key is pinned under; the same for every address of the machine. */
  alias?: string
  /** Address of the machine inside the tunnel. */
  tunnel?: string
  /** The network namespace in which the tunnel ends; absent where it ends in our own. */
  tunnelNamespace?: string
  /** Seconds after which an address that does not answer is given up. Default: 10. */
  connectSeconds?: number
  /** The machine that this one is behind, and is reached through. */
  jumpHost?: { target: SshTarget; routeFile?: string }
}

export interface Access {
  /** The machine's name in the site document. */
  name: string
  target: 'local' | SshTarget
  /** Resolves to the sudo password when sudo wants one. Rejects when there is nobody to type it. */
  password: (label: string) => Promise<string>
  /** The terminal may be used to confirm a host key that nobody has seen before. */
  interactive: boolean
  /** What to do when nothing answers at the address, and when the machine in front of it does not let us through. */
  advice?: Advice
  /** This computer without root: programs run as this user, and their lock and records lie in this directory. */
  rootless?: string
  /** What programs there find in their environment, beside that of this user; what is `undefined` they do not find. */
  environment?: Record<string, string | undefined>
  /** A file that says that only the tunnel is left; absent for machines that have none. */
  routeFile?: string
  /** This computer has an address in the tunnel: what is silent at its own may answer there, and that is noted in routeFile. */
  tunnelIsUp?: boolean
  /** False: nothing is run as root, so that no password is needed. */
  root?: false
  /** Ends connecting: nothing was changed by then. */
  signal?: AbortSignal
}

/** `ada@laptop`: who holds a lock. */
export const lockOwner = (): string => `${userInfo().username}@${hostname()}`

/** Seconds for what should take one or two: an emulated machine may need a minute. */
const LIMIT = 300
/** Seconds for a large file over a thin line. */
const FEED_LIMIT = 6 * 3600

/**
 * Connects, and finds out what the machine is. One round trip.
 * Throws a Fault when it cannot be reached, is not the machine it was, or gives no root; Stopped when it is to connect no more.
 */
export async function connect(access: Access): Promise<Machine> {
  const link = access.target === 'local' ? new Local(access) : new Ssh(access.target, access)
  link.connecting = access.signal
  if (link instanceof Ssh) await link.trust(link.label(access.name))
  const closed = link instanceof Ssh && link.route === 'tunnel'
  const { found, outcome } = await inquire(link, access)
  if (found === undefined && closed && access.advice?.tunnelDown)
    throw new Fault(`${link.label(access.name)} does not answer: the tunnel is down on this computer`, {
      next: access.advice.tunnelDown,
    })
  if (found === undefined) throw unreachable(link.label(access.name), outcome, access.advice)
  const { uid, user, sudo } = found
  if (uid !== '0' && access.rootless === undefined && access.root !== false) {
    if (sudo === 'none')
      throw new Fault(`${user} cannot become root on ${link.label(access.name)}: there is no sudo`, {
        next: `install sudo there and add ${user} to the group sudo, or log in as root`,
      })
    link.become = sudo === 'free' ? 'sudo' : { password: await access.password(link.label(access.name)) }
    const root = await link.run(
      await plain('root', ['[ "$(id --user)" -eq 0 ] && answer root']),
      () => {},
      LIMIT,
    )
    if (access.signal?.aborted) throw new Stopped()
    if (root.code !== 0 || !root.finished) throw noRoot(link.label(access.name), user ?? '', root.stderr)
  }
  link.connecting = undefined
  if (link instanceof Ssh) link.port = found['port']
  const facts = {
    ...factsOf(access.name, found),
    ...(link instanceof Ssh && link.target.alias ? { hostKeys: link.hostKeys() } : {}),
  }
  return {
    facts,
    get label() {
      return link.label(access.name)
    },
    get route() {
      return link.route
    },
    run: (p, onFrame, seconds = LIMIT, signal) => link.run(p, onFrame, seconds, 'root', signal),
    feed: (command, input, signal) => link.feed(command, input, signal),
    reconnect: (route) => {
      const other = link.reconnect(route)
      return {
        facts,
        route,
        label: other.label(access.name),
        run: (p, onFrame, seconds = LIMIT) => other.run(p, onFrame, seconds),
        feed: (command, input) => other.feed(command, input),
        reconnect: () => {
          throw new Error('a connection of its own has no further ones')
        },
        switchTo: () => {},
        close: () => other.close(),
      }
    },
    switchTo: (route) => link.switchTo(route),
    close: () => link.close(),
  }
}

/** What a machine says of itself, by the route that it had, or by the other one. */
async function inquire(
  link: Link,
  { signal, tunnelIsUp }: Access,
): Promise<{ found: Record<string, string> | undefined; outcome: Outcome }> {
  let found: Record<string, string> | undefined
  const program = await plain('facts', FACTS)
  const hear = onAnswer((values) => (found = values))
  const ask = () => link.run(program, hear, LIMIT, 'user')
  let outcome = await ask()
  if (found === undefined && signal?.aborted) throw new Stopped()
  if (found !== undefined || !(link instanceof Ssh)) return { found, outcome }
  if (link.route === 'tunnel') {
    // The tunnel may be down while the machine still listens where it did, or does so again.
    link.route = 'direct'
    outcome = await ask()
    if (found !== undefined) link.switchTo('direct')
  } else if (tunnelIsUp && link.target.tunnel) {
    // Another laptop has closed the way in.
    link.route = 'tunnel'
    await ask()
    link.switchTo(found === undefined ? 'direct' : 'tunnel')
  }
  return { found, outcome }
}

function factsOf(name: string, found: Record<string, string>): Facts {
  const { user = '', id = '', version = '', marks = '', arch = '', model = '', via = '', port, own } = found
  const os = systemOf({ id, version, marks: marks.split(' ').filter(Boolean) })
  return {
    name,
    os,
    arch,
    model,
    user,
    via,
    ...(port ? { port: Number(port) } : {}),
    ...(own ? { id: own } : {}),
  }
}

const FACTS = [
  // Debian testing and Arch have no VERSION_ID.
  'ID= VERSION_ID=; [ ! -r /etc/os-release ] || . /etc/os-release',
  'marks=',
  `for file in ${systemMarks.join(' ')}; do if [ -e "$file" ]; then marks+=" $file"; fi; done`,
  'arch=$(uname --machine); case $arch in x86_64) arch=amd64 ;; aarch64) arch=arm64 ;; esac',
  "model=$({ tr --delete '\\0' < /proc/device-tree/model || cat /sys/class/dmi/id/product_name; } 2> /dev/null ||",
  '  printf unknown)',
  'sudo=password',
  'if ! command -v sudo > /dev/null; then sudo=none',
  'elif sudo --reset-timestamp --non-interactive true 2> /dev/null; then sudo=free; fi',
  'set -- ${SSH_CONNECTION-}',
  'own=$(cat /etc/machine-id 2> /dev/null | sed "s/^/fortress-kit /" | sha256sum | cut --bytes=1-16)',
  '[ -s /etc/machine-id ] || own=',
  'answer facts uid "$(id --user)" user "$(id --user --name)" id "$ID" version "$VERSION_ID" marks "$marks" \\',
  '  arch "$arch" model "$model" via "${1-}" port "${4-}" own "$own" sudo "$sudo"',
]

abstract class Link {
  become: 'nobody' | 'sudo' | { password: string } = 'nobody'
  route: Route = 'direct'
  /** While it connects: what runs is ended at once when this says so. */
  connecting: AbortSignal | undefined

  abstract label(name: string): string
  /** Starts a line of bash there; its standard input is left open. */
  abstract launch(command: string): ProcessPromise
  abstract reconnect(route: Route): Link
  abstract close(): Promise<void>
  switchTo(_route: Route): void {}

  /**
   * The whole program arrives before any of it runs, and the deadline is kept by the machine itself. Its input stays open, as
   * number 9: where it is closed, by `signal` or because the line is dead, the program begins no further step.
   */
  async run(
    program: Program,
    onFrame: (frame: Frame) => void,
    seconds: number,
    as: 'root' | 'user' = 'root',
    signal: AbortSignal | undefined = this.connecting,
  ): Promise<Outcome> {
    // A file that the login shell reads may have printed something, and no end of the line.
    const body = `echo; program=$(head --bytes=${Buffer.byteLength(program.text)}); exec 9<&0 < /dev/null; case $program in
  *"exit 0 # FK"*) eval "$program" ;;
  *) echo "the program arrived incomplete" >&2; exit 70 ;;
esac`
    const command = this.launch(this.#bash(body, seconds, as))
    command.stdin.write(this.#first(as) + program.text)
    const stop = () => (this.connecting ? void end(command) : command.stdin.end())
    if (signal?.aborted) stop()
    signal?.addEventListener('abort', stop)
    let finished = false
    createInterface({ input: command.stdout, crlfDelay: Number.POSITIVE_INFINITY }).on('line', (line) => {
      // What is left when the stream has ended is a line that was cut off.
      const frame = command.stdout.readableEnded ? undefined : frameOf(line, program.nonce)
      if (frame?.kind === 'finished') finished = true
      else if (frame) onFrame(frame)
    })
    // The machine should have ended it by then; if not even that comes through, the line is dead.
    const late = setTimeout(() => void end(command), (seconds + 20) * 1000)
    const { code, stderr } = await ended(command).finally(() => {
      clearTimeout(late)
      signal?.removeEventListener('abort', stop)
    })
    return { code, stderr, finished }
  }

  /** A line that is dead is noticed by ssh itself (ServerAliveInterval); a slow one may take its time. */
  async feed(command: string, input: Readable, signal?: AbortSignal): Promise<Outcome> {
    const child = this.launch(this.#bash(command, FEED_LIMIT, 'root'))
    child.stdout.resume()
    child.stdin.write(this.#first('root'))
    input.pipe(child.stdin)
    const stop = () => input.unpipe(child.stdin) && child.stdin.end()
    signal?.addEventListener('abort', stop)
    let broken: Error | undefined
    input.on('error', (error) => {
      broken = error
      void end(child)
    })
    const { code, stderr } = await ended(child).finally(() => {
      input.destroy()
      signal?.removeEventListener('abort', stop)
    })
    if (broken) throw broken
    return { code, stderr, finished: code === 0 }
  }

  /**
   * Bash over there, as root or as the user of the login. What it reads first is thrown away up to a mark: a file of the login
   * shell may read lines, and sudo leaves the password where it wants none.
   */
  #bash(body: string, seconds: number, as: 'root' | 'user'): string {
    const [sudo, passed] =
      as === 'user' || this.become === 'nobody'
        ? ['', '']
        : this.become === 'sudo'
          ? ['sudo -n -- ', '']
          : ["sudo -k -S -p '' -- ", skipTo(BEGIN)]
    const begin = `${skipTo(READY)}exec ${sudo}timeout --kill-after=5 ${seconds} bash --noprofile --norc -c "$0"`
    return `bash --noprofile --norc -c ${quote(begin)} ${quote(passed + body)}`
  }

  /** What must come first on its standard input. Both read byte by byte, so what follows is for the command. */
  #first(as: 'root' | 'user'): string {
    const password =
      as === 'root' && typeof this.become === 'object' ? `${this.become.password}\n${BEGIN}\n` : ''
    return `${SPARE}${READY}\n${password}`
  }
}

/** The lines in front of sudo's password, and of a program or of what a command reads. */
const [READY, BEGIN] = ['fortress-kit', 'fortress-kit-root']
/** Lines for what the login shell may read before us. */
const SPARE = '\n'.repeat(8)
const skipTo = (mark: string) => `while IFS= read -r line && [ "$line" != ${mark} ]; do :; done; `

/** A list that stays empty: what a machine says is read as it comes, and may be gigabytes. */
class Nothing extends Array<string> {
  override push(): number {
    return 0
  }
}

/**
 * Options of every command that talks with a machine. Its commands `exec` the one program that they are, so that no shell stands
 * between it and what ends it. Standard input is a pipe that the caller ends. `detached`: Ctrl-C and a hang-up of the terminal
 * are for us, who end it in order.
 */
const talk = () => ({
  nothrow: true,
  detached: true,
  store: { stdout: new Nothing(), stderr: new Nothing(), stdall: new Nothing() },
  stdio: 'pipe' as const,
})

/** The exit code of a command, 255 for one that was killed or did not start, and the end of what it complained of. */
async function ended(command: ProcessPromise): Promise<{ code: number; stderr: string }> {
  let stderr = ''
  command.stderr.on('data', (text: string) => {
    stderr = (stderr + text).slice(-20_000)
  })
  const { exitCode, cause } = await command
  return { code: exitCode ?? 255, stderr: stderr || (cause?.message ?? '') }
}

class Local extends Link {
  readonly #access: Pick<Access, 'rootless' | 'environment'>

  constructor(access: Pick<Access, 'rootless' | 'environment'>) {
    super()
    this.#access = access
  }

  label(name: string): string {
    return `${name} (this computer)`
  }
  launch(command: string): ProcessPromise {
    const { rootless, environment: env = {} } = this.#access
    const own =
      rootless === undefined
        ? 'unset FK_STATE FK_ROOTLESS'
        : `export FK_STATE=${quote(rootless)} FK_ROOTLESS="$PATH"`
    return $({ ...talk(), env })`exec bash --noprofile --norc -c ${`${own}; ${command}`}`
  }
  reconnect(_route: Route): Link {
    const other = new Local(this.#access)
    other.become = this.become
    return other
  }
  async close(): Promise<void> {}
}

/** What a machine shows of its own key, to somebody who sits in front of it. */
const SHOW_KEY = 'ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub'

/** A path as the value of an ssh option: ssh takes a list at spaces, and expands what follows a percent sign (ssh_config(5)). */
const sshPath = (path: string): string => `"${path.replaceAll('%', '%%')}"`

/** ssh never prompts. */
const QUIET = ['-o', 'BatchMode=yes', '-o', 'StrictHostKeyChecking=yes']

class Ssh extends Link {
  readonly target: SshTarget
  readonly access: Pick<Access, 'interactive' | 'routeFile' | 'advice'>
  /** The port of sshd there, as a connection of ours has come to it: in the tunnel nothing forwards another one to it. */
  port: string | undefined
  /** A directory, or `none`: each connection is of its own. */
  #sockets: string | undefined

  constructor(
    target: SshTarget,
    access: Pick<Access, 'interactive' | 'routeFile' | 'advice'>,
    route?: Route,
  ) {
    super()
    this.target = target
    this.access = access
    this.route =
      route ?? (target.tunnel && access.routeFile && existsSync(access.routeFile) ? 'tunnel' : 'direct')
    if (this.route === 'tunnel' && access.routeFile && existsSync(access.routeFile))
      this.port = /at port (\d+)/.exec(readFileSync(access.routeFile, 'utf8'))?.[1]
  }

  /** The host keys that are pinned for it. */
  hostKeys(): string[] {
    const { knownHostsFile, alias } = this.target
    return alias ? pinned(knownHostsFile, alias).flatMap(({ key, mark }) => (mark ? [] : key)) : []
  }

  label(name: string): string {
    const { user, host, port, tunnel } = this.target
    const where = this.route === 'tunnel' && tunnel ? tunnel : port ? `${host}:${port}` : host
    return `${name} (${user ? `${user}@` : ''}${where})`
  }

  /** ssh's settings for the machine. */
  #settings(): Record<string, string> {
    const { configFile, host } = this.target
    return settingsOf(host, configFile ? ['-F', configFile] : [])
  }

  #options(): string[] {
    const { identityFile, agent, configFile, knownHostsFile, alias, user, port } = this.target
    const { connectSeconds = this.access.advice?.tunnelDown ? 3 : 10 } = this.target
    return [
      ...(configFile ? ['-F', configFile] : []),
      ...(identityFile ? ['-i', identityFile, '-o', 'IdentitiesOnly=yes'] : []),
      ...(agent?.publicKeys.flatMap((path) => ['-i', path]) ?? []),
      ...(agent ? ['-o', `IdentityAgent=${sshPath(agent.socket)}`] : []),
      ...(user ? ['-l', user] : []),
      ...(this.route === 'direct' && port ? ['-p', String(port)] : []),
      ...[
        ...(alias ? [`HostKeyAlias=${alias}`, 'CheckHostIP=no'] : []),
        `UserKnownHostsFile=${sshPath(knownHostsFile)}`,
        'GlobalKnownHostsFile=/dev/null',
        `ConnectTimeout=${connectSeconds}`,
        'ServerAliveInterval=10',
        'ServerAliveCountMax=3',
        'ClearAllForwardings=yes',
        'EscapeChar=none',
        ...this.#tunnel(),
        ...this.#jump(),
        ...settledOptions(this.#settings()),
      ].flatMap((option) => ['-o', option]),
    ]
  }

  /** In the tunnel it is another address of the same machine: what ssh's configuration says of its name still counts. */
  #tunnel(): string[] {
    const { tunnel, port } = this.target
    if (this.route !== 'tunnel' || !tunnel) return []
    const own = this.port ?? port ?? this.#settings()['port'] ?? '22'
    return [`HostName=${tunnel}`, `Port=${own}`, 'ProxyCommand=none', 'AddressFamily=any']
  }

  /** How to reach a machine behind another: by a connection of the other's own, on the route that is left to it. */
  #jump(): string[] {
    const { jumpHost } = this.target
    if (!jumpHost) return []
    const front = new Ssh(jumpHost.target, {
      interactive: false,
      ...(jumpHost.routeFile ? { routeFile: jumpHost.routeFile } : {}),
    })
    // ssh expands what follows a percent sign in this line, too.
    const written = (list: string[]) => list.map((one) => quote(one).replaceAll('%', '%%')).join(' ')
    const words = written([...front.#program(), ...front.#options(), ...QUIET])
    return [`ProxyCommand=${words} -W '[%h]:%p' ${written([front.target.host])}`]
  }

  /** ssh, in the network in which the route begins. */
  #program(): string[] {
    const { tunnelNamespace } = this.target
    return this.route === 'tunnel' && tunnelNamespace
      ? ['ip', 'netns', 'exec', tunnelNamespace, 'ssh']
      : ['ssh']
  }

  /** An interactive shell for a person. */
  shell(): string[] {
    return [...this.#program(), '-t', ...this.#options(), ...QUIET, this.target.host]
  }

  launch(command: string): ProcessPromise {
    const share = this.#share().flatMap((option) => ['-o', option])
    const words = [...this.#program(), ...this.#options(), ...share, '-T', ...QUIET, this.target.host]
    return $(talk())`exec ${words} -- ${`exec ${command}`}`
  }

  /**
   * One connection for each machine. It outlives us by seconds only: a log-in that nobody uses counts against the machine's limit
   * (maxlogins).
   */
  #share(): string[] {
    this.#sockets ??= socketDir() ?? 'none'
    const own = this.#sockets === 'none' ? undefined : `${this.#sockets}/${this.route}`
    return own === undefined
      ? ['ControlMaster=no', 'ControlPath=none']
      : ['ControlMaster=auto', `ControlPath=${sshPath(own)}`, 'ControlPersist=5']
  }

  /** Before the first connection: the machine's key is known, or a person compares it now. Throws a Fault where it is neither. */
  async trust(label: string): Promise<void> {
    const { knownHostsFile, alias, host } = this.target
    if (!alias || known(knownHostsFile, alias)) return
    if (!this.access.interactive)
      throw new Fault(`The host key of ${host} is not known yet`, {
        next:
          `${SHOW_KEY} on its own console; then ./task trust at a terminal here, and compare,\n` +
          `or add its key to ${knownHostsFile} as: ${alias} ssh-ed25519 AAAA…`,
      })
    const dir = socketDir()
    if (dir === undefined)
      throw new Fault('no directory on this computer takes a file', {
        next: 'make room in /tmp, or set TMPDIR',
      })
    try {
      const file = join(dir, 'known_hosts')
      const offered = await this.#offered(label, file)
      const { stdout } = await $`ssh-keygen -lf ${file}`
      const prints = stdout.trim().split('\n')
      const answer = await question(
        `${label} shows a host key that nobody has compared yet:\n` +
          `${prints.map((line) => `  ${line.replace(/^\d+ (\S+) .*\((\S+)\)$/, '$2  $1')}\n`).join('')}` +
          `Compare it on the machine's own console:\n  ${SHOW_KEY}\n` +
          `It is stored as ${alias}, which is this machine at whatever address, in\n  ${knownHostsFile}\n` +
          'Is it the same? [y/N] ',
      )
      if (!/^y(es)?$/i.test(answer.trim()))
        throw new Fault(`The host key of ${host} was not confirmed; nothing was run.`)
      mkdirSync(dirname(knownHostsFile), { recursive: true, mode: 0o700 })
      appendFileSync(knownHostsFile, offered, { mode: 0o600 })
    } finally {
      rmSync(dir, { recursive: true })
    }
  }

  /** The lines of known_hosts for what the machine shows: ssh writes them to a file of ours before it logs in. */
  async #offered(label: string, file: string): Promise<string> {
    const first = [
      'StrictHostKeyChecking=accept-new',
      'HashKnownHosts=no',
      'ControlPath=none',
      'BatchMode=yes',
      `UserKnownHostsFile=${sshPath(file)}`,
    ]
    const options = first.flatMap((option) => ['-o', option])
    const { exitCode, stderr } = await $({
      nothrow: true,
    })`exec ssh ${options} ${this.#options()} -T ${this.target.host} -- true`
    if (!existsSync(file)) throw unreachable(label, { code: exitCode ?? 255, stderr })
    return readFileSync(file, 'utf8')
  }

  reconnect(route: Route): Link {
    const other = new Ssh(this.target, this.access, route)
    other.become = this.become
    other.#sockets = 'none'
    other.port = this.port
    return other
  }

  override switchTo(route: Route): void {
    if (!this.target.tunnel) return
    this.route = route
    const { routeFile } = this.access
    if (!routeFile) return
    if (route === 'tunnel') {
      mkdirSync(dirname(routeFile), { recursive: true, mode: 0o700 })
      const at = this.port ? `, at port ${this.port}` : ''
      writeFileSync(routeFile, `This machine answers in its tunnel only${at}.\n`, { mode: 0o600 })
    } else rmSync(routeFile, { force: true })
  }

  async close(): Promise<void> {
    const sockets = this.#sockets
    if (!sockets || sockets === 'none') return
    // A program that comes later opens a connection anew.
    this.#sockets = undefined
    for (const route of ['direct', 'tunnel']) {
      const socket = `${sockets}/${route}`
      if (!existsSync(socket)) continue
      await $({ nothrow: true, timeout: 3000 })`exec ssh -O exit -o ${`ControlPath=${socket}`} master`
    }
    rmSync(sockets, { recursive: true, force: true })
  }
}

/** The words that open an interactive shell on a machine, for a person, by the route that programs take. */
export const shellWords = (target: SshTarget, routeFile?: string): string[] =>
  new Ssh(target, { interactive: false, ...(routeFile ? { routeFile } : {}) }).shell()

/** The first line of a private file, as a password. Throws a Fault when others can read it. */
export function passwordFile(path: string): string {
  const mode = statSync(path).mode & 0o077
  if (mode) throw new Fault(`Others can read ${path}`, { next: `chmod 600 ${path}` })
  // A password may end with a space; an editor may have ended the line in its own way.
  return (readFileSync(path, 'utf8').split('\n')[0] ?? '').replace(/\r$/, '')
}
