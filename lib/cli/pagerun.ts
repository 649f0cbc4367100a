// One run of pages over the machines of a site: in which order, which machines at once, and when it ends early.
import { createRequire } from 'node:module'
import type { Artifact } from '../engine/artifact.ts'
import { type Fetch, downloads } from '../engine/delivery.ts'
import type { Machine } from '../engine/machine.ts'
import type { Page } from '../engine/page.ts'
import { type Report, buffered } from '../engine/report.ts'
import { type Inspection, type Mode, type Running, inspect, runPage } from '../engine/run.ts'
import { type Demand, type Step, isChange } from '../engine/step.ts'
import { Fault } from '../ground/fault.ts'
import { question } from '../ground/laptop.ts'
import { type Placed, everyMachine, isLaptop } from '../site/machines.ts'
import { notBuiltNote } from '../site/planned.ts'
import { contextOf, declaredFacts, placesOf } from './context.ts'
import type { Session } from './session.ts'
import type { RunFlags } from './tables.ts'

const load = createRequire(import.meta.url)

/** A machine while pages run on it. */
interface Connected {
  running: Running
  stepsOf: (page: Page) => Step[]
  make: (page: Page) => Promise<void>
  look: (page: Page) => Promise<Inspection> | undefined
}

export class PageRun {
  readonly #session: Session
  readonly #kind: 'local' | 'lab' | 'ssh'
  readonly #pages: Page[]
  readonly #mode: Mode | undefined
  readonly #given: RunFlags
  readonly #limit = new AbortController()
  readonly #fetch: Fetch
  readonly #connected = new Map<string | Placed, Promise<Connected>>()
  #worst: 0 | 1 | 2 = 0

  constructor(
    session: Session,
    kind: 'local' | 'lab' | 'ssh',
    pages: Page[],
    mode: Mode | undefined,
    given: RunFlags,
  ) {
    this.#session = session
    this.#kind = kind
    this.#pages = pages
    this.#mode = mode
    this.#given = given
    this.#fetch = downloads(session.config, {
      signal: AbortSignal.any([session.signal, this.#limit.signal]),
      onTransfer: (transfer) => session.report.transfer(transfer),
      say: (sentence) => session.report.note(sentence),
    })
  }

  /** What changes nothing need not wait for the page before it, and stays what it is. */
  get #readsOnly(): boolean {
    return this.#mode === 'verify' || this.#mode === 'plan'
  }

  /** A page stands on the ones before it, and a node on the others: after a failure the rest would only fail more confusingly. */
  get #ended(): boolean {
    return this.#session.signal.aborted || (this.#worst === 1 && !this.#readsOnly)
  }

  /** Runs all pages on all their machines; resolves to the worst exit code. */
  async all(): Promise<0 | 1 | 2> {
    if (this.#mode === 'apply' && this.#pages.length > 1) this.#startDownloads()
    try {
      for (const page of this.#mode === 'undo' ? this.#pages.toReversed() : this.#pages) {
        const places = placesOf(page, this.#session.config)
        const ordered = this.#mode === 'undo' ? places.toReversed() : places
        const all = this.#mode === undefined ? ordered.map((spec) => [spec]) : groups(page, ordered)
        for (const group of all) {
          if (this.#ended) break
          await this.#runGroup(page, group)
        }
      }
    } finally {
      // A download that nobody waits for by now ends; the next run goes on with the part that is there.
      this.#limit.abort()
    }
    const missing =
      this.#pages.length > 1 && this.#mode !== 'undo' ? notBuiltNote(this.#session.config.site) : undefined
    if (missing !== undefined) this.#session.report.note(missing)
    return this.#worst
  }

  /** Large files are fetched while the first pages run; a failure is reported by the step that needs the file. */
  #startDownloads(): void {
    const { config, store } = this.#session
    for (const page of this.#pages)
      for (const spec of placesOf(page, this.#session.config))
        for (const artifact of uploads(page.steps(contextOf(config, declaredFacts(spec, config), store))))
          this.#fetch(artifact).catch(() => {})
  }

  async #runGroup(page: Page, group: Placed[]): Promise<void> {
    const [first, ...more] = group
    if (first === undefined) return
    if (more.length === 0) return this.#runOn(page, first)
    const buffers = group.map(() => buffered(this.#session.report))
    const runs = group.map((spec, i) => this.#runOn(page, spec, buffers[i]?.report))
    for (const [i, run] of runs.entries()) await run.finally(() => buffers[i]?.flush())
  }

  /** One page on one machine. Without a mode it is planned, and applied when a person says so. */
  async #runOn(page: Page, spec: Placed, report = this.#session.report): Promise<void> {
    const code = await this.#run(page, spec, this.#mode ?? 'plan', report)
    if (this.#mode !== undefined || code !== 2) return
    const { label } = (await this.#connect(spec)).running.machine
    const { config, terminal } = this.#session
    const yes = this.#given.yes || config.env.FK_YES
    if (!yes && !(terminal && /^y/i.test(await question(`Apply this to ${label}? [y/N] `)))) return
    this.#worst = 0
    await this.#run(page, spec, 'apply', report)
  }

  async #run(page: Page, spec: Placed, mode: Mode, report: Report): Promise<0 | 1 | 2> {
    const connected = await this.#connect(spec)
    if (mode === 'apply') await connected.make(page)
    const steps = connected.stepsOf(page)
    // A page of the cluster that has nothing to do with this node.
    if (steps.length === 0) return 0
    const throughTunnel = steps.some(({ transaction }) => transaction?.route?.apply === 'tunnel')
    if (this.#kind === 'lab' && mode === 'apply' && throughTunnel) await this.#connectLab()
    const { code } = await runPage(page, steps, mode, { ...connected.running, report }, connected.look(page))
    if (code === 1 || (code === 2 && this.#worst === 0)) this.#worst = code
    return code
  }

  #connectLab(): Promise<void> {
    const { connectTunnel } = load('./lablaptop.ts') as typeof import('./lablaptop.ts')
    return connectTunnel(this.#session.config, this.#session.store)
  }

  #connect(spec: Placed): Promise<Connected> {
    const key = isLaptop(spec) ? spec : spec.name
    const connected = this.#connected.get(key) ?? this.#open(spec)
    this.#connected.set(key, connected)
    return connected
  }

  async #open(spec: Placed): Promise<Connected> {
    const { config, store } = this.#session
    const machine = await this.#session.connect(spec)
    if (this.#mode !== 'undo') assertDeclared(spec, machine, config.site.name)
    const running = this.#runningOn(machine)
    const mine = this.#pages.filter((page) =>
      placesOf(page, this.#session.config).some(({ name }) => name === spec.name),
    )
    const known = new Map<Page, Step[]>()
    const context = contextOf(config, machine.facts, store)
    const stepsOf = (page: Page): Step[] => {
      const steps = known.get(page) ?? page.steps(context)
      if (this.#readsOnly) known.set(page, steps)
      return steps
    }
    const mode = this.#mode
    const looks =
      mode === 'plan' || mode === 'verify'
        ? limited(
            mine.map((page) => () => inspect(page, stepsOf(page), mode, running)),
            sessionsAtOnce,
          )
        : []
    const make = async (page: Page) => page.make?.(context)
    return { running, stepsOf, make, look: (page) => looks[mine.indexOf(page)] }
  }

  #runningOn(machine: Machine): Running {
    const { config, report, store, terminal, signal } = this.#session
    const { confirm } = this.#given
    return {
      machine,
      report,
      store,
      rollbackAfter: config.env.FK_DEADMAN_SECONDS,
      lockWait: config.env.FK_LOCK_WAIT_SECONDS,
      signal,
      fetch: this.#fetch,
      typed: async ({ name, typed }: Demand) => {
        if (confirm !== undefined) return confirm
        if (this.#kind === 'lab') return typed
        if (!terminal) return undefined
        report.pause()
        return question(`${name}.\nType ${typed}: `)
      },
      otherNode: async (name: string) => {
        const other = everyMachine(config).find((spec) => spec.name === name)
        if (other === undefined) throw new Error(`the site has no machine ${name}`)
        return (await this.#connect(other)).running.machine
      },
    }
  }
}

/** Machines in the order in which a page runs on them, those of a group at once: no two servers of a cluster, and few agents. */
function groups(page: Page, places: Placed[]): Placed[][] {
  const all: Placed[][] = []
  for (const spec of places) {
    const last = all.at(-1)
    const alike = page.on === 'node' && spec.roles.includes('agent') && last?.[0]?.roles.includes('agent')
    if (alike && last && last.length < agentsAtOnce) last.push(spec)
    else all.push([spec])
  }
  return all
}

const agentsAtOnce = 3

/** Of the four sessions that a hardened sshd allows on one connection, those that may read at once; one stays free. */
const sessionsAtOnce = 3

/** Starts the jobs in their order, `width` at once; each of the promises may be waited for, or not. */
function limited<T>(jobs: (() => Promise<T>)[], width: number): Promise<T>[] {
  const waiting: (() => void)[] = []
  let free = width
  const started = jobs.map(async (job) => {
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
  for (const promise of started) promise.catch(() => {}) // whoever waits for it sees the error
  return started
}

/** What steps upload to a machine, as far as the site document can say. */
const uploads = (steps: Step[]): Artifact[] =>
  steps.flatMap((step) => (isChange(step) && step.upload ? [step.upload.artifact] : []))

/** The files of one system are wrong on another: what the site document says of a machine must be true. */
function assertDeclared({ os, arch }: Placed, { label, facts }: Machine, site: string): void {
  if (os === 'laptop' || (facts.os === os && facts.arch === arch)) return
  throw new Fault(
    `${label} runs ${facts.os} on ${facts.arch}, and the site ${site} says ${os} on ${arch}. Nothing was run.`,
    {
      next: `correct it under machines: in config/sites/${site}.yaml; a system that has no name there is not supported`,
    },
  )
}
