// Pages from the command line: which, on which machine, in which mode. A page alone and the whole runbook are the same thing.
import { appendFileSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { createInterface } from 'node:readline'
import { Writable } from 'node:stream'
import type { Artifact } from '../engine/artifact.ts'
import type { Fetch } from '../engine/delivery.ts'
import { type Facts, type Machine, type SshTarget, connect, passwordFile } from '../engine/machine.ts'
import type { Context, Page } from '../engine/page.ts'
import { type Event, type Report, buffered, createReport } from '../engine/report.ts'
import type { Look, Mode, Running } from '../engine/run.ts'
import { type Demand, type Step, isChange } from '../engine/step.ts'
import { parseHost } from '../ground/address.ts'
import { Fault } from '../ground/fault.ts'
import { nearest } from '../ground/nearest.ts'
import { type SecretStore, secretStore } from '../ground/secret.ts'
import type { LabVm } from '../lab/lab.ts'
import { debug, loadConfig } from '../site/config.ts'
import { type Placed, everyMachine, machinesFor } from '../site/machines.ts'
import type { Config } from '../site/model.ts'
import { type Flags, flags, pageFlags } from './flags.ts'
import { printPage, printRunbook } from './print.ts'
import { refuse } from './refusal.ts'

export const modes = ['plan', 'apply', 'verify', 'undo', 'print'] as const
export type AnyMode = (typeof modes)[number]

const load = createRequire(import.meta.url)

/** `tsx scripts/NN-name.ts [mode] [flags]`. Resolves to the exit code; what it refuses goes to standard error. */
export async function pageMain(
  page: Page,
  argv: string[],
  signal = new AbortController().signal,
): Promise<number> {
  const name = `scripts/${page.name}.ts`
  try {
    if (argv.includes('--help') || argv.includes('-h')) {
      process.stdout.write(help(page))
      return 0
    }
    const call = { name, argv, signal, together: false, live: process.stdout.isTTY }
    const given = flags(call, ['[plan|apply|verify|undo|print]'], [...pageFlags, 'machine'])
    return await runPages([page], modeOf(given.words[0], name), given, signal)
  } catch (error) {
    return refuse(error, debug())
  }
}

function help(page: Page): string {
  return `${page.name}  ${page.summary}

  tsx scripts/${page.name}.ts          plan, then ask before it applies; without a terminal only plan
  tsx scripts/${page.name}.ts plan     what would change; changes nothing
  tsx scripts/${page.name}.ts apply    make it so, then check it
  tsx scripts/${page.name}.ts verify   check it; fails when something does not hold
  tsx scripts/${page.name}.ts undo     take back what it changed
  tsx scripts/${page.name}.ts print    the page as plain bash

  --machine NAME  with print: for which machine, where they differ
  --site NAME   another document of config/sites      --yes      do not ask
  --format ID   the disk that host-vault may format, instead of typing its id
  --json        one event a line, for programs        --verbose  everything that was found

FK_HOST chooses the machine: admin@192.0.2.10, local, or lab. Unset, it is a rehearsal: nothing is touched.
Exit code: 0 done or nothing to do, 1 failed, 2 changes pending.
`
}

export function modeOf(word: string | undefined, name: string): AnyMode | undefined {
  if (word === undefined) return undefined
  if ((modes as readonly string[]).includes(word)) return word as AnyMode
  const near = nearest(word, modes)
  throw new Fault(
    `${name} has no mode '${word}'${near ? `; did you mean ${near}?` : `: it knows ${modes.join(', ')}`}\nNothing was run.`,
  )
}

/** What a page is told when there is no machine to ask: the site document's own word. */
export function declared(spec: Placed): Facts {
  return {
    name: spec.name,
    os: spec.os,
    arch: spec.arch,
    model: '',
    user: spec.user ?? 'admin',
    via: '198.51.100.7',
  }
}

/** The secrets of a site. */
export const storeOf = ({ env, site }: Config, report: Report): SecretStore =>
  secretStore({
    dir: join(env.FK_STATE_DIR, site.name),
    identity: env.FK_AGE_IDENTITY,
    say: (s) => report.note(s),
  })

/** What a page is told. */
export function contextOf(config: Config, machine: Facts, store: ReturnType<typeof secretStore>): Context {
  return {
    ...config,
    machine,
    secrets: (name, make) => store.secret(name, make),
    has: (name) => store.has(name),
    state: join(config.env.FK_STATE_DIR, config.site.name),
  }
}

/**
 * Runs pages, in the order given, on every machine of the site that they are for. Without a mode: plan, then apply when
 * somebody at a terminal says yes. Without FK_HOST: a rehearsal. Rejects with ConfigError or Fault before anything ran.
 */
export async function runPages(
  pages: Page[],
  mode: AnyMode | undefined,
  given: Flags,
  signal: AbortSignal,
): Promise<number> {
  const config = loadConfig(given.site === undefined ? {} : { site: given.site })
  const { env, site } = config
  const yes = given.yes || env.FK_YES
  const terminal = process.stdin.isTTY === true && process.stdout.isTTY === true && !given.json
  const report = createReport({
    json: given.json,
    verbose: given.verbose || mode === 'verify',
    log: runLog(env.FK_LOG_DIR),
  })
  const store = storeOf(config, report)
  const host = env.FK_HOST === undefined ? undefined : parseHost(env.FK_HOST)
  const specs = (page: Page) =>
    machinesFor(config, page.on).filter(({ name }) => page.at === undefined || page.at === name)
  const everywhere = everyMachine(config)

  const unasked = (spec: Placed) => contextOf(config, declared(spec), store)
  if (mode === 'print') {
    const [only, ...more] = pages
    if (only === undefined || more.length > 0 || given.layer !== undefined)
      return printRunbook(pages, unasked, config, report)
    process.stdout.write(printPage(only, unasked, config, given.machine))
    return 0
  }
  if (!host || 'reason' in host) {
    if (mode === 'verify' || mode === 'undo')
      throw new Fault(`There is no machine to ${mode}: FK_HOST is not set`, {
        next: 'FK_HOST=admin@192.0.2.10 (or local, or lab), in the environment or in .env',
      })
    const { rehearse } = load('../engine/rehearsal.ts') as typeof import('../engine/rehearsal.ts')
    return rehearse(pages, unasked, config, report)
  }
  if (mode === 'undo' && pages.length > 1)
    await typed(given.words[0], everywhere[0]?.name ?? site.name, terminal)

  const enough = new AbortController()
  const { downloads } = load('../engine/delivery.ts') as typeof import('../engine/delivery.ts')
  const fetch = downloads(config, {
    signal: AbortSignal.any([signal, enough.signal]),
    onTransfer: (transfer) => report.transfer(transfer),
    say: (sentence) => report.note(sentence),
  })
  if (mode === 'apply' && pages.length > 1)
    begin(
      pages.flatMap((page) =>
        specs(page).flatMap((spec) => wanted(page.steps(contextOf(config, declared(spec), store)))),
      ),
      fetch,
    )

  let worst = 0 as 0 | 1 | 2
  const { look, runPage } = load('../engine/run.ts') as typeof import('../engine/run.ts')
  // What changes nothing need not wait for the page before it, and stays what it is.
  const changes = mode !== 'verify' && mode !== 'plan'
  let laptop: Awaited<ReturnType<typeof labLaptop>> | undefined
  const reached = new Map<string, Promise<Reached>>()
  const reach = (spec: Placed): Promise<Reached> => {
    const known = reached.get(spec.name)
    if (known) return known
    const arriving = (async () => {
      const machine = await connectTo(config, spec, terminal, report)
      if (mode !== 'undo') mustBe(spec, machine, site.name)
      const running = {
        machine,
        report,
        store,
        deadman: env.FK_DEADMAN_SECONDS,
        patience: env.FK_LOCK_WAIT_SECONDS,
        signal,
        fetch,
        typed: async ({ name, typed }: Demand) =>
          given.format ??
          (host.kind === 'lab'
            ? typed
            : terminal
              ? (report.pause(), ask(`${name}.\nType ${typed}: `))
              : undefined),
        elsewhere: async (name: string) => {
          const other = everywhere.find((s) => s.name === name)
          if (other === undefined) throw new Error(`the site has no machine ${name}`)
          return (await reach(other)).running.machine
        },
      }
      const mine = pages.filter((page) => specs(page).some(({ name }) => name === spec.name))
      const known = new Map<Page, Step[]>()
      const stepsOf = (page: Page): Step[] => {
        const steps = known.get(page) ?? page.steps(contextOf(config, machine.facts, store))
        if (!changes) known.set(page, steps)
        return steps
      }
      const looks = changes
        ? []
        : ahead(
            mine.map((page) => () => look(page, stepsOf(page), mode, running)),
            sessions,
          )
      return { running, stepsOf, look: (page: Page) => looks[mine.indexOf(page)] }
    })()
    reached.set(spec.name, arriving)
    return arriving
  }
  const run = async (page: Page, spec: Placed, how: Mode, told = report) => {
    const { running, stepsOf, look } = await reach(spec)
    if (how === 'apply' && host.kind === 'lab') laptop ??= await labLaptop(config, store)
    const steps = stepsOf(page)
    // A page of the cluster that has nothing to do with this node.
    if (steps.length === 0) return 0
    if (how === 'apply' && steps.some((s) => s.transaction?.route?.apply === 'tunnel')) await laptop?.enter()
    const { code } = await runPage(page, steps, how, { ...running, report: told }, look(page))
    if (code === 1 || (code === 2 && worst === 0)) worst = code
    return code
  }
  const turn = async (page: Page, spec: Placed, told?: Report) => {
    const code = await run(page, spec, mode ?? 'plan', told)
    if (mode !== undefined || code !== 2) return
    const { label } = (await reach(spec)).running.machine
    if (!yes && !(terminal && (await ask(`Apply this to ${label}? [y/N] `)).toLowerCase().startsWith('y')))
      return
    worst = 0
    await run(page, spec, 'apply')
  }
  // A page stands on the ones before it, and a node on the others: after a failure the rest would only fail more confusingly.
  const enoughSeen = () => signal.aborted || (worst === 1 && mode !== 'verify' && mode !== 'plan')
  try {
    for (const page of mode === 'undo' ? pages.toReversed() : pages) {
      const places = mode === 'undo' ? specs(page).toReversed() : specs(page)
      for (const group of mode === undefined ? places.map((spec) => [spec]) : abreast(page, places)) {
        if (enoughSeen()) break
        if (group.length === 1) for (const spec of group) await turn(page, spec)
        else {
          const told = group.map(() => buffered(report))
          const turns = group.map((spec, i) => turn(page, spec, told[i]?.report))
          for (const [i, turned] of turns.entries()) {
            await turned.finally(() => told[i]?.flush())
          }
        }
      }
    }
  } finally {
    // What nobody has asked for by now is there already; the part that came is gone on with when somebody does.
    enough.abort()
    for (const arriving of reached.values())
      await arriving.then(({ running }) => running.machine.close()).catch(() => {}) // it was told when it was reached
  }
  report.close()
  return worst
}

interface Reached {
  running: Running
  stepsOf: (page: Page) => Step[]
  look: (page: Page) => Promise<Look> | undefined
}

/** Machines in the order in which a page comes to them, those of a group at once: no two servers of a cluster, and few agents. */
function abreast(page: Page, places: Placed[]): Placed[][] {
  const groups: Placed[][] = []
  for (const spec of places) {
    const last = groups.at(-1)
    const alike = page.on === 'node' && spec.roles.includes('agent') && last?.[0]?.roles.includes('agent')
    if (alike && last && last.length < agentsAtOnce) last.push(spec)
    else groups.push([spec])
  }
  return groups
}

const agentsAtOnce = 3

/** Of the four sessions that a hardened sshd allows on one connection, those that may look at once; one stays free. */
const sessions = 3

/** Begins the jobs in their order, so many at once; each of the promises may be waited for, or not. */
function ahead<T>(jobs: (() => Promise<T>)[], width: number): Promise<T>[] {
  const waiting: (() => void)[] = []
  let free = width
  const begun = jobs.map(async (job) => {
    if (free > 0) free -= 1
    else await new Promise<void>((resolve) => waiting.push(resolve))
    try {
      return await job()
    } finally {
      const next = waiting.shift()
      if (next) next()
      else free += 1
    }
  })
  for (const promise of begun) promise.catch(() => {}) // whoever waits for it is told
  return begun
}

/** What steps will bring to a machine, as far as the site document can tell. */
const wanted = (steps: Step[]): Artifact[] =>
  steps.flatMap((step) => (isChange(step) && step.upload ? [step.upload.artifact] : []))

/** Large files come while the first layers are built; what fails is told by the step that needs it. */
function begin(artifacts: Artifact[], fetch: Fetch): void {
  for (const artifact of artifacts) fetch(artifact).catch(() => {})
}

/** The files of one system are wrong on another: what the site document says of a machine must be true. */
function mustBe({ os, arch }: Placed, { label, facts }: Machine, site: string): void {
  if (facts.os === os && facts.arch === arch) return
  throw new Fault(
    `${label} runs ${facts.os} on ${facts.arch}, and the site ${site} says ${os} on ${arch}. Nothing was run.`,
    {
      next: `say what it is under machines: in config/sites/${site}.yaml; a system that cannot be named there is not supported`,
    },
  )
}

/**
 * The lab has its own laptop, which does what a person does elsewhere: it has keys for the tunnel before a page asks for them, and
 * `enter` brings the tunnel up before the firewall closes.
 */
async function labLaptop({ env, site }: Config, store: ReturnType<typeof secretStore>) {
  const { labFind } = load('../lab/lab.ts') as typeof import('../lab/lab.ts')
  const { labTunnel } = load('../lab/tunnel.ts') as typeof import('../lab/tunnel.ts')
  const { clientFile, keysOf } = load('../host/wireguard.ts') as typeof import('../host/wireguard.ts')
  const clients: string[] = []
  for (const peer of site.tunnel.peers)
    clients.push(
      clientFile(
        site,
        peer,
        await keysOf(store, join(env.FK_STATE_DIR, site.name), peer.name),
        `lab:${site.tunnel.port}`,
      ),
    )
  return {
    async enter() {
      const vm = await labFind('lab', { dir: env.FK_LAB_DIR })
      if (vm?.kind === 'vm' && clients[0]) await labTunnel(vm as LabVm, clients[0], site.tunnel.address)
    },
  }
}

/** Connects to the machine that FK_HOST (or the site document) names, or to one behind it. */
export async function connectTo(
  config: Config,
  spec: Placed,
  terminal: boolean,
  report: Report,
): Promise<Machine> {
  const { env } = config
  const { target, doorFile, password } = await way(config, spec, report)
  return connect({
    name: spec.name,
    target,
    interactive: terminal,
    doorFile,
    advice: {
      silent: 'After host-firewall it answers in the tunnel only: wg-quick up',
      behind: './task doctor, then ./task vm-provision verify',
    },
    password: async (label) => {
      if (password !== undefined) return password
      if (env.FK_SUDO_PASSWORD_FILE !== undefined) return passwordFile(env.FK_SUDO_PASSWORD_FILE)
      if (!terminal)
        throw new Fault(`sudo asks for a password on ${label}`, {
          next: 'FK_SUDO_PASSWORD_FILE=… (a file of mode 600), or run it on a terminal',
        })
      report.pause()
      return ask(`Password for sudo on ${label}: `, true)
    },
  })
}

/** Whether a machine of the site lets us in now. */
export async function reaches(config: Config, spec: Placed): Promise<boolean> {
  const quiet = createReport({ stdout: { write: () => true }, tty: false, color: false })
  try {
    await (await connectTo(config, spec, false, quiet)).close()
    return true
  } catch (error) {
    if (error instanceof Fault) return false
    throw error
  }
}

interface Way {
  target: 'local' | SshTarget
  doorFile: string
  /** Of the lab's machine. */
  password?: string
}

/** How a machine is reached: as FK_HOST says, or through the host that it is behind. */
async function way(config: Config, spec: Placed, report: Report): Promise<Way> {
  const { env, site } = config
  const host = parseHost(env.FK_HOST ?? '')
  if ('reason' in host) throw new Fault('There is no machine: FK_HOST is not set')
  const doorFile = join(env.FK_STATE_DIR, site.name, `${spec.name}.door`)
  const tunnel = spec.tunnel_address ?? (spec.roles.includes('host') ? site.tunnel.address : undefined)
  const alias = `${site.name}.${spec.name}`
  const common = {
    knownHostsFile: env.FK_KNOWN_HOSTS,
    alias,
    ...(env.FK_SSH_KEY ? { identityFile: env.FK_SSH_KEY } : {}),
    ...(env.FK_SSH_CONFIG ? { configFile: env.FK_SSH_CONFIG } : {}),
  }
  if (spec.behind !== undefined) {
    const front = site.machines.find(({ name }) => name === spec.behind)
    if (front === undefined || spec.address === undefined) throw new Error(`${spec.name} is behind nothing`)
    const { target, doorFile: door } = await way(config, front, report)
    // Its key was made on the laptop before there was a machine: nobody has to compare it.
    const { hostKeyOf, publicHalf } = load('../vm/hostkey.ts') as typeof import('../vm/hostkey.ts')
    const key = await hostKeyOf(spec, storeOf(config, report).secret).resolve()
    pin(env.FK_KNOWN_HOSTS, alias, publicHalf(key))
    return {
      target: {
        ...common,
        host: spec.address,
        ...(spec.user ? { user: spec.user } : {}),
        ...(target === 'local' ? {} : { through: { target, doorFile: door } }),
      },
      doorFile,
    }
  }
  if (host.kind === 'ssh')
    return {
      target: {
        ...common,
        host: spec.address ?? host.host,
        ...((spec.user ?? host.user) ? { user: spec.user ?? host.user } : {}),
        ...((spec.port ?? host.port) ? { port: spec.port ?? host.port } : {}),
        ...(tunnel ? { tunnel } : {}),
      } as SshTarget,
      doorFile,
    }
  if (host.kind !== 'lab') return { target: 'local', doorFile }
  const { labMachine } = load('../lab/lab.ts') as typeof import('../lab/lab.ts')
  const lab = await labMachine({
    dir: env.FK_LAB_DIR,
    say: (s) => report.note(s),
    outside: process.getuid?.() === 0,
  })
  const keys = readFileSync(lab.knownHostsFile, 'utf8').trim().split('\n')
  const knownHostsFile = join(lab.dir, 'known_hosts.alias')
  writeFileSync(
    knownHostsFile,
    keys.map((line) => `fortress-lab ${line.split(' ').slice(1).join(' ')}\n`).join(''),
  )
  return {
    target: {
      host: lab.host,
      port: lab.port,
      user: lab.user,
      identityFile: lab.identityFile,
      knownHostsFile,
      alias: 'fortress-lab',
      configFile: '/dev/null',
      ...(tunnel && lab.outsideNamespace ? { tunnel, tunnelNamespace: lab.outsideNamespace } : {}),
    },
    // The machine is thrown away, and what was true of it with it.
    doorFile: join(lab.dir, 'door'),
    password: lab.password,
  }
}

/** A line of the file of pinned host keys, in place of an older one of that name. */
function pin(file: string, alias: string, key: string): void {
  const text = existsSync(file) ? readFileSync(file, 'utf8') : ''
  const line = `${alias} ${key.trim()}`
  const lines = text.split('\n').filter(Boolean)
  if (lines.includes(line)) return
  mkdirSync(dirname(file), { recursive: true, mode: 0o700 })
  const others = lines.filter((other) => other.split(' ')[0] !== alias)
  writeFileSync(file, `${[...others, line].join('\n')}\n`, { mode: 0o600 })
}

/** Something that cannot be undone asks for the name of what it hits. */
async function typed(word: string | undefined, name: string, terminal: boolean): Promise<void> {
  const answer =
    word ??
    (terminal ? await ask(`This takes back everything on ${name}. Type its name to go on: `) : undefined)
  if (answer !== name)
    throw new Fault(
      `Nothing was undone: ${answer === undefined ? 'the name of the machine must be given' : `the machine is called ${name}, not ${answer}`}`,
      { next: `./task undo-all ${name}` },
    )
}

export function ask(question: string, hidden = false): Promise<string> {
  const muted = new Writable({ write: (_chunk, _encoding, done) => done() })
  process.stdout.write(question)
  const lines = createInterface({
    input: process.stdin,
    output: hidden ? muted : process.stdout,
    terminal: true,
  })
  return new Promise((resolve, reject) => {
    lines.once('line', (line) => resolve(line))
    lines.once('SIGINT', () => reject(new Fault('Stopped. Nothing was run.')))
    lines.once('close', () => resolve(''))
  }).finally(() => {
    lines.close()
    if (hidden) process.stdout.write('\n')
  }) as Promise<string>
}

/** One file for each run, one event a line, for this user alone. A run whose log cannot be kept runs all the same. */
function runLog(dir: string): (event: Event) => void {
  const file = join(dir, `${new Date().toISOString().replaceAll(/[:.]/g, '-')}-${process.pid}.ndjson`)
  let works = true
  return (event) => {
    if (!works) return
    try {
      mkdirSync(dir, { recursive: true, mode: 0o700 })
      appendFileSync(file, `${JSON.stringify(event)}\n`, { mode: 0o600 })
    } catch {
      works = false
    }
  }
}
