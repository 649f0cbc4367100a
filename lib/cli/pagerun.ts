// One run of pages over the machines of a site: in which order, which machines at once, and when it ends early.
import { createRequire } from 'node:module'
import type { Artifact } from '../engine/artifact.ts'
import { type Fetch, downloads } from '../engine/delivery.ts'
import type { Machine } from '../engine/machine.ts'
import type { Page } from '../engine/page.ts'
import { type Report, type RunEnd, buffered } from '../engine/report.ts'
import { type Inspection, type Mode, type Result, type Running, inspect, runPage } from '../engine/run.ts'
import { type Demand, type Step, isChange } from '../engine/step.ts'
import { Fault } from '../ground/fault.ts'
import { question } from '../ground/laptop.ts'
import type { Secret } from '../ground/secret.ts'
import { Stopped } from '../ground/stop.ts'
import { type Placed, everyMachine, isLaptop } from '../site/machines.ts'
import { asks } from './access.ts'
import { abreast, gate, limited, machinesAtOnce } from './abreast.ts'
import { NotBuilt } from './absent.ts'
import { contextOf, declaredFacts, hasSteps, placesOf } from './context.ts'
import { agrees, writtenDown } from './prompt.ts'
import { type Came, isDone, runEnd } from './runend.ts'
import type { Session } from './session.ts'
import type { RunFlags } from './tables.ts'

const load = createRequire(import.meta.url)

/** A machine while pages run on it. */
interface Connected {
  running: Running
  stepsOf: (page: Page) => Step[]
  make: (page: Page) => Promise<void>
  looks: Promise<Inspection>[]
  look: (page: Page) => Promise<Inspection> | undefined
}

export class PageRun {
  readonly #session: Session
  readonly #kind: 'local' | 'lab' | 'ssh'
  readonly #pages: Page[]
  readonly #mode: Mode | undefined
  readonly #given: RunFlags
  readonly #chained: boolean
  readonly #built: boolean
  /** A run without a mode has become one that applies. */
  #applied = false
  readonly #limit = new AbortController()
  readonly #fetch: Fetch
  readonly #connected = new Map<string | Placed, Promise<Connected>>()
  /** What each page came to, machine by machine, in the order of the run. */
  readonly #came: Came[] = []
  /** Settles when a machine had its turn among those that are looked at side by side, and is connected or silent. */
  readonly #turns = new Map<string | Placed, Promise<void>>()
  /** Machines whose silence was reported. */
  readonly #silent = new Set<string>()
  /** Pages on machines on which they have nothing to do: `PAGE MACHINE`. */
  readonly #idle = new Set<string>()

  constructor(
    session: Session,
    kind: 'local' | 'lab' | 'ssh',
    pages: Page[],
    mode: Mode | undefined,
    given: RunFlags,
    /** Each page stands on all that are before it: these are the parts of one piece of work, and no runbook. */
    chained = false,
    /** What was never applied is left out. */
    built = false,
  ) {
    this.#built = built
    this.#chained = chained
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

  /** What each page came to, machine by machine. */
  get came(): readonly Came[] {
    return this.#came
  }

  /** 1 where something failed or could not be asked, 2 where something is left to do, else 0. */
  get code(): 0 | 1 | 2 {
    const codes = this.#came.map(({ result }) => result.code)
    return codes.includes(1) ? 1 : codes.includes(2) ? 2 : 0
  }

  /** The run ended early, and something of it is left. */
  get stopped(): boolean {
    const { signal } = this.#session
    return signal.aborted && (this.#came.some(({ result }) => result.stopped) || this.#left.length > 0)
  }

  /** Pages that the run did not reach. */
  get #left(): Page[] {
    const { config } = this.#session
    return this.#pages.filter(
      (page) =>
        !this.#came.some((one) => one.page === page) &&
        !placesOf(page, config).every((spec) => this.#idle.has(idleKey(page, spec))),
    )
  }

  /** Runs all pages on all their machines. Resolves to the exit code. */
  async all(): Promise<0 | 1 | 2> {
    if (this.#mode === 'apply' && this.#pages.length > 1) this.#startDownloads()
    const looked = this.#readsOnly ? this.#lookAtAll() : []
    try {
      // Questions come before the first line of the answer.
      if (this.#session.terminal && asks(this.#session.config)) await Promise.allSettled(looked)
      for (const page of this.#mode === 'undo' ? this.#pages.toReversed() : this.#pages) {
        if (this.#session.signal.aborted) break
        await this.#runPage(page)
      }
      if (!this.#session.signal.aborted) await Promise.allSettled(looked)
    } finally {
      // A download that nobody waits for by now ends; the next run goes on with the part that is there.
      this.#limit.abort()
    }
    return this.code
  }

  /** The end of a run over many pages, for its reader. `asks`: a question follows, which says what is next. */
  end(label: string, asks = false): RunEnd {
    const came = this.#came
    const mode = this.#mode ?? (this.#applied ? 'apply' : 'plan')
    const { next, ...end } = runEnd({
      mode,
      came,
      left: this.#left,
      given: this.#given,
      label,
      log: this.#session.log,
      ...(this.stopped
        ? { stopped: came.findLast(({ result }) => result.stopped)?.result.stopped ?? '' }
        : {}),
      ...(this.#pages.length === 1 ? { only: this.#pages[0] } : {}),
    })
    return asks || next === undefined ? end : { ...end, next }
  }

  async #runPage(page: Page): Promise<void> {
    const places = placesOf(page, this.#session.config)
    const ordered = this.#mode === 'undo' ? places.toReversed() : places
    const all = this.#mode === undefined ? ordered.map((spec) => [spec]) : groups(page, ordered)
    const after = this.#readsOnly ? undefined : this.#waitsFor(page)
    for (const group of all) {
      if (this.#session.signal.aborted) return
      // A node stands on the others: after a failure the rest would only fail more confusingly.
      const ended =
        this.#mode === 'apply' && this.#came.some((one) => one.page === page && one.result.code === 1)
      const first = this.#came.find((one) => one.page === page && one.result.code === 1)
      const reason = after ?? (ended ? `${page.name} on ${first?.machine}` : undefined)
      if (reason === undefined) await this.#runGroup(page, group)
      else
        for (const spec of group)
          this.#note(page, spec, { ...nothing, code: 2, state: 'later', why: `after ${reason}` })
    }
  }

  /** The page that must be done before this one, and is not; for an undo the one that stands on it and could not be undone. */
  #waitsFor(page: Page): string | undefined {
    if (this.#chained && this.#mode !== 'undo')
      return this.#came.find(({ result }) => !isDone(result.state))?.page.name
    const open = (name: string) =>
      this.#came.some(
        ({ page: { name: of }, result }) =>
          of === name && (this.#mode === 'undo' ? result.state === 'failed' : !isDone(result.state)),
      )
    const names =
      this.#mode === 'undo'
        ? this.#pages.filter(({ needs = [] }) => needs.includes(page.name)).map(({ name }) => name)
        : (page.needs ?? [])
    return names.find(open)
  }

  /** Notes and reports what a page came to. */
  #note(page: Page, spec: Placed, result: Result, report = this.#session.report): void {
    const { name, layer } = page
    const { state, counts, why, next } = result
    if (this.#built && state === 'not built') return
    this.#came.push({ page, machine: spec.name, result })
    const several = everyMachine(this.#session.config).length > 1
    report.result({
      name,
      layer,
      mode: this.#mode ?? 'plan',
      ...(several ? { machine: spec.name } : {}),
      state,
      ...(counts ? { counts } : {}),
      // Why a machine is silent was reported once, and stands in the list at the end.
      ...(why && state !== 'unknown' ? { why } : {}),
      ...(next && state !== 'unknown' ? { next } : {}),
    })
  }

  /** What changes nothing looks at all machines side by side; the pages take the answers in their order. */
  #lookAtAll(): Promise<void>[] {
    const { config, signal, terminal } = this.#session
    const turn = gate(terminal && asks(config) ? 1 : machinesAtOnce)
    const machines = new Map(
      this.#pages.flatMap((page) => placesOf(page, config)).map((spec) => [keyOf(spec), spec]),
    )
    const had = new Map<Placed, () => void>()
    for (const [key, spec] of machines) this.#turns.set(key, new Promise((resolve) => had.set(spec, resolve)))
    return abreast([...machines.values()], async (spec) => {
      try {
        if (!signal.aborted) await turn(() => this.#connect(spec))
      } finally {
        had.get(spec)?.()
      }
      if (signal.aborted) return
      const { running, looks } = await this.#connect(spec)
      await Promise.allSettled(looks)
      // Its log-in counts against a limit of the host (maxlogins), and nothing more is to be looked at.
      await running.machine.close()
    })
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

  /** One page on one machine; where the run ends before anything of it is begun, it was not reached. */
  async #runOn(page: Page, spec: Placed, report = this.#session.report): Promise<void> {
    await this.#runOrAsk(page, spec, report).catch((error: unknown) => {
      if (!(error instanceof Stopped)) throw error
    })
  }

  /** Without a mode it is planned, and applied when a person says so. */
  async #runOrAsk(page: Page, spec: Placed, report: Report): Promise<void> {
    const planned = await this.#run(page, spec, this.#mode ?? 'plan', report)
    if (planned === undefined) return
    if (this.#mode !== undefined || planned.code !== 2) return this.#note(page, spec, planned, report)
    const { label } = (await this.#connect(spec)).running.machine
    const { config, terminal } = this.#session
    const yes =
      this.#given.yes || config.env.FK_YES || (terminal && (await agrees(`Apply this to ${label}?`)))
    this.#applied = Boolean(yes)
    const result = yes ? await this.#run(page, spec, 'apply', report) : planned
    if (result !== undefined) this.#note(page, spec, result, report)
  }

  /** Undefined where a page has nothing to do on this machine. */
  async #run(page: Page, spec: Placed, mode: Mode, report: Report): Promise<Result | undefined> {
    let connected: Connected
    try {
      await this.#turns.get(keyOf(spec))
      connected = await this.#connect(spec)
    } catch (error) {
      if (this.#session.signal.aborted) throw new Stopped()
      const { config, store } = this.#session
      return hasSteps(page, spec, config, store)
        ? this.#unreached(spec, error, report)
        : this.#hasNothing(page, spec)
    }
    if (mode === 'apply') await connected.make(page)
    const steps = connected.stepsOf(page)
    if (steps.length === 0) return this.#hasNothing(page, spec)
    const throughTunnel = steps.some(({ transaction }) => transaction?.route?.apply === 'tunnel')
    if (this.#kind === 'lab' && mode === 'apply' && throughTunnel) await this.#connectLab()
    const result = await runPage(page, steps, mode, { ...connected.running, report }, connected.look(page))
    // What is missing only because a page before it was not applied yet is no obstacle.
    const after = mode === 'plan' && result.state === 'blocked' ? this.#waitsFor(page) : undefined
    if (after === undefined) return result
    const { next, ...rest } = result
    // What another page mends says no more than that; what a person mends (a switch in the firmware) is said today.
    const own = next === undefined || next.startsWith('./task ')
    if (own) return { ...rest, state: 'later', why: `after ${after}` }
    return { ...rest, state: 'later', why: `after ${after}; not so now: ${result.why}`, next }
  }

  #hasNothing(page: Page, spec: Placed): undefined {
    this.#idle.add(idleKey(page, spec))
  }

  /** A machine that is not built yet, or cannot be reached. Of one page on one machine that is all there is to say. */
  #unreached(spec: Placed, error: unknown, report: Report): Result {
    if (!(error instanceof Fault)) throw error
    if (error instanceof NotBuilt) {
      return this.#mode === 'undo'
        ? { ...nothing, code: 0, state: '-', why: `${spec.name} was never built` }
        : { ...nothing, code: 2, state: 'not built', why: `after ${error.after}` }
    }
    if (this.#pages.length === 1 && placesOf(this.#pages[0] as Page, this.#session.config).length === 1)
      throw error
    const { message, said, next } = error
    if (!this.#silent.has(spec.name))
      report.error({ as: 'unknown', step: message, said: said ?? '', next: next ?? '' })
    this.#silent.add(spec.name)
    return { ...nothing, code: 1, state: 'unknown', why: message, ...(next === undefined ? {} : { next }) }
  }

  #connectLab(): Promise<void> {
    const { connectTunnel } = load('./lablaptop.ts') as typeof import('./lablaptop.ts')
    return connectTunnel(this.#session.config, this.#session.store)
  }

  #connect(spec: Placed): Promise<Connected> {
    const key = keyOf(spec)
    const known = this.#connected.get(key)
    if (known !== undefined) return known
    const connected = this.#open(spec)
    this.#connected.set(key, connected)
    // What is not built yet may be built by a page of this run.
    connected.catch(
      (error: unknown) => error instanceof NotBuilt && !this.#readsOnly && this.#connected.delete(key),
    )
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
    return { running, stepsOf, make, looks, look: (page) => looks[mine.indexOf(page)] }
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
      attended: terminal,
      fetch: this.#fetch,
      typed: async ({ name, typed }: Demand, found: string) => {
        if (confirm !== undefined) return confirm
        if (this.#kind === 'lab') return typed
        if (!terminal) return undefined
        report.pause()
        return question(`${name}.\n${found.trim().replaceAll(/^(?=.)/gm, '  ')}\nType ${typed}: `)
      },
      paper: async (secret: Secret) => {
        if (this.#kind === 'lab') return true // nobody keeps what is in it
        if (!terminal) return false
        report.pause()
        return writtenDown(await secret.resolve())
      },
      otherNode: async (name: string, needed: boolean) => {
        const other = everyMachine(config).find((spec) => spec.name === name)
        if (other === undefined) throw new Error(`the site has no machine ${name}`)
        try {
          return (await this.#connect(other)).running.machine
        } catch (error) {
          if (error instanceof NotBuilt && !needed) return undefined
          throw error
        }
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

const idleKey = (page: Page, spec: Placed): string => `${page.name} ${spec.name}`
/** A machine of the site may bear the laptop's name, too. */
const keyOf = (spec: Placed): string | Placed => (isLaptop(spec) ? spec : spec.name)

/** Of a page that did not run. */
const nothing = { changed: 0, steps: { change: 0, hold: 0, access: 0 } }

/** Of the four sessions that a hardened sshd allows on one connection, those that may read at once; one stays free. */
const sessionsAtOnce = 3

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
