// How a machine of a site is reached from here: this computer, SSH, through its host, or the lab.
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { hostname, networkInterfaces } from 'node:os'
import { join } from 'node:path'
import { type Machine, type SshTarget, connect, passwordFile, shellWords } from '../engine/machine.ts'
import { type Report, createReport } from '../engine/report.ts'
import { contains, parseNetwork } from '../ground/address.ts'
import { Fault } from '../ground/fault.ts'
import { type HostAddress, parseHost } from '../ground/hostname.ts'
import { question } from '../ground/laptop.ts'
import { type AgentKeys, keyAgent, known, pin } from '../ground/ssh.ts'
import { shown } from '../ground/wrap.ts'
import { type Placed, clientPath, isLaptop, machineOf, machinesFor, tunnelOf } from '../site/machines.ts'
import type { Config } from '../site/model.ts'
import { gate } from './abreast.ts'
import { stateOf, storeOf } from './context.ts'

const load = createRequire(import.meta.url)

/** One password can be typed at a time, also where several machines are connected. */
const oneQuestion = gate(1)

/** The machine that FK_HOST names. Throws a Fault where it is not set. */
export function hostOf({ env }: Config): HostAddress {
  const host = parseHost(env.FK_HOST ?? '')
  if ('reason' in host)
    throw new Fault('There is no machine: FK_HOST is not set', {
      next: 'FK_HOST=admin@192.0.2.10 (or local, or lab), in the environment or in .env',
    })
  return host
}

/** Connects to the machine that FK_HOST (or the site document) names, or to one behind it. `terminal`: somebody can be asked. */
export async function connectTo(
  config: Config,
  spec: Placed,
  terminal: boolean,
  report: Report,
  { trust = terminal, root = true, seconds, signal, environment }: Reaching = {},
): Promise<Machine> {
  const { env } = config
  const { target, routeFile, rootless, password } = await accessOf(config, spec, report)
  const hasTunnel = target !== 'local' && target.tunnel !== undefined && routeFile !== undefined
  const inTunnel = hasTunnel && existsSync(routeFile)
  const isUp = hasTunnel && (target.tunnelNamespace !== undefined || tunnelIsUp(config))
  const down = inTunnel && !isUp
  // A look with a limit does not wait for a tunnel that is down: the machine may still listen at its own address.
  const direct = down && seconds !== undefined
  const limited =
    target === 'local' || seconds === undefined
      ? target
      : { ...target, connectSeconds: isUp ? Math.floor(seconds / 2) : seconds }
  const connecting = connect({
    name: spec.name,
    target: limited,
    interactive: trust,
    ...(root ? {} : { root }),
    ...(signal ? { signal } : {}),
    ...(routeFile === undefined || direct ? {} : { routeFile }),
    ...(rootless === undefined ? {} : { rootless }),
    ...(environment === undefined ? {} : { environment }),
    tunnelIsUp: isUp,
    advice: {
      silent: `After host-firewall ${spec.name} answers in the tunnel only: ${tunnelUp(config)}`,
      ...(down ? { tunnelDown: tunnelUp(config) } : {}),
      behind: './task doctor, then ./task vm-provision verify',
    },
    password: async (label) => {
      if (password !== undefined) return password
      if (env.FK_SUDO_PASSWORD_FILE !== undefined) return passwordFile(env.FK_SUDO_PASSWORD_FILE)
      if (!terminal)
        throw new Fault(`sudo needs a password on ${label}`, {
          next: 'FK_SUDO_PASSWORD_FILE=… (a file of mode 600), or run it on a terminal',
        })
      return oneQuestion(() => {
        report.pause()
        return question(`Password for sudo on ${label}: `, { hidden: true })
      })
    },
  })
  if (!direct) return connecting
  return connecting.catch((error: unknown) => {
    if (!(error instanceof Fault)) throw error
    throw new Fault('the tunnel is down, and it answers nowhere else', { next: tunnelUp(config) })
  })
}

/** Whether somebody at a terminal may have to type a password while machines are connected. */
export const asksPassword = ({ env }: Config): boolean => env.FK_SUDO_PASSWORD_FILE === undefined

/** Whether somebody at a terminal may have to answer while machines are connected: a password, or a host key to compare. */
export const asks = (config: Config): boolean =>
  asksPassword(config) ||
  machinesFor(config, 'host').some((spec) => !known(config.env.FK_KNOWN_HOSTS, common(config, spec).alias))

/** How a machine is reached, where not as for a page. */
export interface Reaching {
  /** A host key that is new may be compared now. Default: there is a terminal. */
  trust?: boolean
  /** False: nothing is run as root, so that no password is needed. */
  root?: boolean
  /** Ends connecting. */
  signal?: AbortSignal
  /** Seconds after which it counts as silent, on all of its routes together. */
  seconds?: number
  /** Of this computer: variables beside those of its user; one that is `undefined` is taken away. */
  environment?: Record<string, string | undefined>
}

/** Whether this computer has an address in the tunnel of the site. */
export function tunnelIsUp({ site }: Config): boolean {
  const range = parseNetwork(site.tunnel.network ?? '')
  const own = Object.values(networkInterfaces()).flatMap((all) => all ?? [])
  return range !== undefined && own.some(({ address }) => contains(range, address))
}

/** The command that brings the tunnel up here: with the file of the peer that this laptop has written one for. */
export function tunnelUp(config: Config): string {
  const { peers } = config.site.tunnel
  const files = peers.map(({ name }) => ({ name, path: clientPath(stateOf(config), name) }))
  const written = files.filter(({ path }) => existsSync(path))
  const mine = written.find(({ name }) => name === hostname() || name === 'laptop') ?? written[0]
  if (mine === undefined)
    return `./task peer ${peers[0] ? `show ${peers[0].name}` : 'add laptop'}, then sudo wg-quick up its file`
  return `sudo wg-quick up ${shown(mine.path)}`
}

/** Whether a machine of the site can be reached now. */
export async function reachable(config: Config, spec: Placed): Promise<boolean> {
  try {
    await (await connectTo(config, spec, false, silentReport())).close()
    return true
  } catch (error) {
    if (error instanceof Fault) return false
    throw error
  }
}

/** A report that nobody reads. */
export const silentReport = (): Report =>
  createReport({ stdout: { write: () => true }, tty: false, color: false })

interface Access {
  target: 'local' | SshTarget
  routeFile?: string
  /** Where lock and records of the laptop lie. */
  rootless?: string
  /** Of the lab's machine. */
  password?: string
}

/** What all connections over SSH have alike. */
const common = ({ env, site }: Config, { name }: Placed) => ({
  knownHostsFile: env.FK_KNOWN_HOSTS,
  alias: `${site.name}.${name}`,
  ...(env.FK_SSH_KEY ? { identityFile: env.FK_SSH_KEY } : {}),
  ...(env.FK_SSH_CONFIG ? { configFile: env.FK_SSH_CONFIG } : {}),
})

async function accessOf(config: Config, spec: Placed, report: Report): Promise<Access> {
  const { site } = config
  if (isLaptop(spec)) return { target: 'local', rootless: join(stateOf(config), 'record') }
  const host = hostOf(config)
  const routeFile = join(stateOf(config), `${spec.name}.door`)
  if (spec.behind !== undefined) return throughHost(config, spec, routeFile, report)
  const tunnel = tunnelOf(site, machineOf(site, spec.name))?.address
  if (host.kind === 'lab') return toLab(config, tunnel, report)
  if (host.kind !== 'ssh') return { target: 'local', routeFile }
  const [user, port] = [spec.user ?? host.user, spec.ssh_port ?? host.port]
  return {
    target: {
      ...common(config, spec),
      host: spec.address ?? host.host,
      ...(user ? { user } : {}),
      ...(port ? { port } : {}),
      ...(tunnel ? { tunnel } : {}),
    },
    routeFile,
  }
}

/** One agent for the same keys, for as long as this process runs. */
const agents = new Map<string, Promise<AgentKeys>>()

/**
 * The keys that were made for the nodes of a site: while one replaces another there are two, and each node takes one of them. The
 * everyday key is offered as well: a node that was built before there were such keys opens for nothing else.
 */
async function agentOf(config: Config): Promise<{ agent?: AgentKeys }> {
  const { nodeKeyNames, publish } = load('../vm/domain.ts') as typeof import('../vm/domain.ts')
  const store = storeOf(config)
  const names = nodeKeyNames.filter((name) => store.has(name))
  if (names.length === 0) return {}
  const halves: string[] = []
  for (const name of names) halves.push(await publish(stateOf(config), store.secret(name)))
  const key = halves.join('\n')
  const agent = agents.get(key) ?? keyAgent(names.map((name) => store.secret(name).reveal()))
  agents.set(key, agent)
  agent.catch(() => agents.delete(key))
  return { agent: await agent }
}

/** The words of an interactive shell on a node of the site, as the user that pages log in as. */
export async function shellOn(config: Config, spec: Placed, report: Report): Promise<string[]> {
  const { target, routeFile } = await accessOf(config, spec, report)
  if (target === 'local') throw new Fault(`${spec.name} is this computer`)
  return shellWords(target, routeFile)
}

async function throughHost(config: Config, spec: Placed, routeFile: string, report: Report): Promise<Access> {
  const jumpHost = machinesFor(config, 'host').find(({ name }) => name === spec.behind)
  if (jumpHost === undefined || spec.address === undefined)
    throw new Error(`${spec.name} has no host that it is behind`)
  const jump = await accessOf(config, jumpHost, report)
  // Its key was made on the laptop before there was a machine: nobody has to compare it. A look at it makes none.
  const { hostKeyNames, publish } = load('../vm/domain.ts') as typeof import('../vm/domain.ts')
  const store = storeOf(config)
  const [name, next] = hostKeyNames(spec)
  if (!store.has(name))
    throw new Fault(`this laptop has no host key of ${spec.name}: it was not built from here`, {
      state: 'no connection was tried',
      next: './task vm-ignition apply, then ./task vm-provision apply',
    })
  const ssh = common(config, spec)
  const keys = [name, next].filter((one) => store.has(one))
  const publicKeys = keys.map((one) => publish(stateOf(config), store.secret(one)))
  pin(ssh.knownHostsFile, ssh.alias, ...(await Promise.all(publicKeys)))
  return {
    target: {
      ...ssh,
      ...(await agentOf(config)),
      host: spec.address,
      ...(spec.user ? { user: spec.user } : {}),
      ...(jump.target === 'local'
        ? {}
        : { jumpHost: { target: jump.target, ...(jump.routeFile ? { routeFile: jump.routeFile } : {}) } }),
    },
    routeFile,
  }
}

async function toLab({ env }: Config, tunnel: string | undefined, report: Report): Promise<Access> {
  const { labMachine } = load('../lab/lab.ts') as typeof import('../lab/lab.ts')
  const lab = await labMachine({
    dir: env.FK_LAB_DIR,
    say: (sentence) => report.note(sentence),
    outside: process.getuid?.() === 0,
  })
  const alias = 'fortress-lab'
  const keys = readFileSync(lab.knownHostsFile, 'utf8').trim().split('\n')
  const knownHostsFile = join(lab.dir, 'known_hosts.alias')
  writeFileSync(
    knownHostsFile,
    keys.map((line) => `${alias} ${line.split(' ').slice(1).join(' ')}\n`).join(''),
  )
  const { host, port, user, identityFile, password, outsideNamespace } = lab
  return {
    target: {
      host,
      port,
      user,
      identityFile,
      knownHostsFile,
      alias,
      configFile: '/dev/null',
      ...(tunnel && outsideNamespace ? { tunnel, tunnelNamespace: outsideNamespace } : {}),
    },
    // The machine is thrown away, and what was true of it with it.
    routeFile: join(lab.dir, 'door'),
    password,
  }
}
