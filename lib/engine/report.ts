// What the person at the terminal reads, what a program reads instead (--json), and what the run log keeps.
import { stripVTControlCharacters } from 'node:util'
import { wrap } from '../ground/wrap.ts'
import type { Transfer } from './transfer.ts'

export type State =
  'ok' | 'change' | 'changed' | 'ready' | 'failed' | 'n/a' | 'waived' | 'pending' | 'demand' | 'wait'

export interface PageStart {
  name: string
  summary: string
  file?: string
  layer?: string
  on?: string
  mode?: string
  /** Where it runs, for a reader: `fortress (admin@192.0.2.10)`. */
  machine?: string
  /** Which machine that is: the `id` of its facts. */
  id?: string
}

/** What is about to be asked. */
export interface Plan {
  steps: number
  controls?: number
}

interface Numbered {
  index: number
  /** 0: it has no number. */
  total: number
  name: string
}

/** A step that is at work now: shown on a terminal only, with the time it takes. */
export interface Running extends Numbered {
  /** Seconds after which it is given up. */
  limit?: number
  /** The last thing a wait has seen. */
  saw?: string
}

export interface StepResult extends Numbered {
  state: State
  why?: string
  found?: string
  seconds?: number
}

export interface ControlResult {
  id: string
  title: string
  state: State
  found?: string
  from?: string[]
  /** Why a waived control may fail. */
  waived?: string
}

export interface FileDiff {
  path: string
  /** A unified diff, without its two header lines. */
  text: string
}

export interface FaultReport {
  step?: string
  index?: number
  total?: number
  ran?: string
  said?: string
  state?: string
  next?: string
}

export interface Summary {
  name: string
  hold: number
  changed?: number
  /** Would change. */
  pending?: number
  failed?: number
  controls?: { hold: number; total: number }
  /** Of the controls: excused, and outside the total. */
  waived?: number
  /** Of the controls: what they ask for is in place, and the next start of the machine puts it in force. */
  rebooting?: number
  notApplicable?: number
  seconds?: number
}

export interface TaskResult extends Numbered {
  task: string
  state: 'ok' | 'failed' | 'pending' | 'n/a'
  /** Why it was passed over. */
  found?: string
  seconds?: number
}

export interface Looked {
  of: string
  subject: string
  state: 'ok' | 'warn' | 'bad' | 'n/a'
  found: string
  remedy?: string
}

/** Every method writes one event; `time` is added. */
export interface Report {
  page(page: PageStart): void
  plan(plan: Plan): void
  running(step: Running): void
  step(step: StepResult): void
  control(control: ControlResult): void
  diff(diff: FileDiff): void
  command(command: { text: string }): void
  error(fault: FaultReport): void
  summary(summary: Summary): void
  note(text: string): void
  /** Something that was looked at: one line, behind a heading for what it is of. */
  finding(finding: Looked): void
  /** How far a file is: a live line on a terminal, elsewhere a line for each quarter of it. */
  transfer(transfer: Transfer): void
  /** A task of a graph began (shown on a terminal only) or ended. */
  began(task: { name: string }): void
  ended(task: TaskResult): void
  /** Takes the live lines away until the next event: somebody else (a password prompt) needs the terminal. */
  pause(): void
  close(): void
}

/**
 * A report that waits, for one of several that run at once: `flush` writes it all, in its place. What runs now is shown at once.
 */
export function buffered(report: Report): { report: Report; flush: () => void } {
  const events: (() => void)[] = []
  const now = ['running', 'transfer', 'pause']
  const waiting = new Proxy(report, {
    get: (target, name: keyof Report) => {
      const write = target[name].bind(target) as (...args: unknown[]) => void
      return now.includes(name) ? write : (...args: unknown[]) => void events.push(() => write(...args))
    },
  })
  return { report: waiting, flush: () => events.splice(0).forEach((write) => write()) }
}

/** One line of the run log, and of --json. */
export interface Event {
  time: string
  event: string
}

export interface ReportOptions {
  json?: boolean
  verbose?: boolean
  /** Live lines are drawn. Default: standard output is a terminal. */
  tty?: boolean
  /** Default: a terminal that has colours; NO_COLOR, FORCE_COLOR and TERM=dumb are honoured. */
  color?: boolean
  stdout?: Out
  /** Gets every event: the run log. */
  log?: (event: Event) => void
  now?: () => number
}

interface Out {
  write(text: string): unknown
  isTTY?: boolean
  columns?: number
  hasColors?(): boolean
}

const colours = {
  ok: 32,
  ready: 32,
  change: 33,
  changed: 36,
  pending: 33,
  demand: 33,
  wait: 33,
  waived: 35,
  'n/a': 2,
  failed: 31,
} as const
const DETAIL = ' '.repeat(11)
/** How much of a machine's answer is shown without --verbose. */
const DETAIL_LINES = 6
const SAID_LINES = 12

/**
 * A report on `stdout`: text for people, or one JSON object a line. The text is the same on a terminal and in a pipe;
 * a terminal adds colour, live lines for what runs now, and cuts long values to its width.
 */
export function createReport(options: ReportOptions = {}): Report {
  const stdout: Out = options.stdout ?? process.stdout
  const now = options.now ?? Date.now
  const text = new Text(stdout, options, now)
  const event =
    <K extends Events>(name: K) =>
    (data: Parameters<Text[K]>[0]) => {
      const record = { time: new Date(now()).toISOString(), event: name, ...data }
      options.log?.(record)
      if (options.json) stdout.write(`${JSON.stringify(record)}\n`)
      else text[name](data as never)
    }
  return {
    page: event('page'),
    plan: event('plan'),
    running: event('running'),
    step: event('step'),
    control: event('control'),
    diff: event('diff'),
    command: event('command'),
    error: event('error'),
    summary: event('summary'),
    note: (sentence) => event('note')({ text: sentence }),
    finding: event('finding'),
    transfer: event('transfer'),
    began: event('began'),
    ended: event('ended'),
    pause: () => text.clear(),
    close: () => text.clear(),
  }
}

type Events = Exclude<keyof Report, 'pause' | 'close'>

/** Each event as lines for people. */
class Text {
  readonly #paper: Paper
  readonly #live: Live
  readonly #tty: boolean
  readonly #verbose: boolean
  /** A pipe is as wide as a terminal that nobody has widened. */
  readonly #columns: () => number
  readonly #quarters = new Map<string, number>()
  /** The step that was just reported as failed, so that its fault does not name it again. */
  #failed: string | undefined
  #heading: string | undefined

  constructor(stdout: Out, options: ReportOptions, now: () => number) {
    this.#tty = options.tty ?? stdout.isTTY === true
    this.#verbose = options.verbose ?? false
    this.#columns = () => (this.#tty ? stdout.columns : undefined) ?? 80
    this.#live = new Live(stdout, this.#tty && !options.json, now)
    const color = options.color ?? (stdout.isTTY === true && stdout.hasColors?.() === true)
    this.#paper = new Paper(
      this.#live,
      color,
      this.#verbose,
      this.#tty ? () => stdout.columns ?? 80 : undefined,
    )
  }

  clear(): void {
    this.#live.clear()
  }

  page(page: PageStart): void {
    const paper = this.#paper
    paper.apart()
    paper.print(`${paper.paint(1, page.name)}  ${page.summary}`)
    if (page.machine) paper.print(paper.dim(`  ${page.mode ? `${page.mode} on ` : ''}${page.machine}`))
  }

  plan({ steps, controls }: Plan): void {
    if (!this.#verbose) return
    const line = `  ${count(steps, 'step')}${controls ? `, ${count(controls, 'control')}` : ''}`
    this.#paper.print(this.#paper.dim(line))
  }

  running({ limit, saw, ...step }: Running): void {
    const tail = [limit && `of ${duration(limit)}`, saw && `last seen: ${oneLine(saw)}`]
      .filter(Boolean)
      .join(', ')
    this.#live.show('step', `running  ${fact(step)}`, tail)
  }

  step(step: StepResult): void {
    const paper = this.#paper
    this.#live.hide('step')
    const slow =
      step.seconds !== undefined && step.seconds >= 10 ? paper.dim(` (${duration(step.seconds)})`) : ''
    paper.print(paper.stated(step.state, fact(step)) + slow)
    this.#failed = step.state === 'failed' ? step.name : undefined
    const open = step.state !== 'ok' && step.state !== 'ready' && step.state !== 'changed'
    if (step.why && (open || this.#verbose)) paper.details('', step.why)
    if (step.found && (open || this.#verbose)) paper.details('found: ', step.found.trim())
  }

  control({ id, title, state, found, from, waived }: ControlResult): void {
    if (state !== 'failed' && state !== 'pending' && !this.#verbose) return
    const paper = this.#paper
    const answer = found?.trim()
    const line = paper.stated(state, `${id}  ${clean(title)}`) + (answer ? `: ${oneLine(answer)}` : '')
    paper.print(paper.cut(DETAIL + line))
    if (waived) paper.details('  waived: ', waived)
    if (this.#verbose && from && from.length > 0) paper.details('  from: ', from.join(', '))
  }

  diff(diff: FileDiff): void {
    const paper = this.#paper
    paper.print(DETAIL + paper.paint(1, clean(diff.path)))
    for (const line of clean(diff.text).trimEnd().split('\n')) {
      const code = line.startsWith('+') ? 32 : line.startsWith('-') ? 31 : line.startsWith('@') ? 36 : 0
      paper.print(DETAIL + (code ? paper.paint(code, line) : line))
    }
  }

  command(command: { text: string }): void {
    for (const line of clean(command.text).split('\n')) this.#paper.print(DETAIL + line)
  }

  error(fault: FaultReport): void {
    const paper = this.#paper
    this.#live.clear()
    if (fault.step !== undefined && fault.step !== this.#failed)
      paper.print(
        paper.stated('failed', fact({ index: fault.index ?? 0, total: fault.total ?? 0, name: fault.step })),
      )
    this.#failed = undefined
    for (const label of ['ran', 'said', 'state', 'next'] as const) paper.labelled(label, fault[label])
  }

  summary(sum: Summary): void {
    this.#live.clear()
    const parts = [
      count(sum.hold, 'step', 'holds', 'hold'),
      sum.changed ? `${sum.changed} changed` : '',
      sum.pending ? `${sum.pending} would change` : '',
      sum.failed ? `${sum.failed} failed` : '',
      sum.controls?.total ? `${sum.controls.hold} of ${sum.controls.total} controls hold` : '',
      sum.waived ? `${sum.waived} waived` : '',
      sum.rebooting ? `${sum.rebooting} wait for the next start of the machine` : '',
      sum.notApplicable ? `${sum.notApplicable} not applicable` : '',
    ]
    this.#paper.print(`${this.#paper.paint(1, sum.name)}: ${parts.filter(Boolean).join(', ')}`)
  }

  note({ text }: { text: string }): void {
    for (const line of clean(text).split('\n')) this.#paper.print(line)
  }

  finding({ of, subject, state, found, remedy }: Looked): void {
    const paper = this.#paper
    if (of !== this.#heading) {
      paper.apart()
      paper.print(paper.paint(1, of))
      this.#heading = of
    }
    const code = { ok: 32, warn: 33, bad: 31, 'n/a': 2 }[state]
    const head = `${paper.paint(code, state)}${' '.repeat(6 - state.length)}${subject.padEnd(10)}`
    const width = this.#columns() - 17
    const [first = '', ...more] = wrap(oneLine(found), width)
    const next = remedy === undefined ? [] : wrap(`→ ${oneLine(remedy)}`, width, 2)
    paper.print(`${head} ${first}`)
    for (const line of [...more, ...next]) paper.print(' '.repeat(17) + line)
  }

  transfer({ name, does, bytes, total, rate, done }: Transfer): void {
    const way = far(bytes, total, rate)
    if (done) this.#live.hide(`transfer ${name}`)
    else if (this.#tty) this.#live.show(`transfer ${name}`, `${does} ${clean(name)}`, way)
    const quarter = total ? Math.floor((4 * bytes) / total) : 0
    const before = this.#quarters.get(name) ?? 0
    this.#quarters.set(name, Math.max(quarter, before))
    if (done ? bytes === total : !this.#tty && quarter > before && quarter < 4)
      this.#paper.print(this.#paper.dim(`  ${does} ${clean(name)}: ${way}`))
    if (done) this.#quarters.delete(name)
  }

  began({ name }: { name: string }): void {
    this.#live.show(`task ${name}`, `running  ${name}`, '')
  }

  ended(task: TaskResult): void {
    this.#live.hide(`task ${task.task}`)
    this.#failed = task.state === 'failed' ? task.name : undefined
    this.#paper.print(this.#paper.stated(task.state, fact(task)))
    if (task.found) this.#paper.details('', task.found)
  }
}

/** `3/40 the clock is in step`, or the name alone. */
const fact = ({ index, total, name }: Numbered): string =>
  index === 0 || total === 0
    ? clean(name)
    : `${String(index).padStart(String(total).length)}/${total} ${clean(name)}`

/** Lines above the live ones, with colour where there is any. */
class Paper {
  readonly #live: Live
  readonly #color: boolean
  readonly #verbose: boolean
  readonly #columns: (() => number) | undefined
  #empty = true

  constructor(live: Live, color: boolean, verbose: boolean, columns: (() => number) | undefined) {
    this.#live = live
    this.#color = color
    this.#verbose = verbose
    this.#columns = columns
  }

  print(text: string): void {
    this.#empty = false
    this.#live.above(`${text}\n`)
  }

  /** An empty line, unless this is the beginning. */
  apart(): void {
    if (!this.#empty) this.print('')
  }

  paint(code: number, text: string): string {
    return this.#color && text !== '' ? `\u001b[${code}m${text}\u001b[0m` : text
  }

  dim(text: string): string {
    return this.paint(2, text)
  }

  /** No longer than the terminal is wide. */
  cut(text: string): string {
    return this.#columns ? shorten(text, this.#columns() - 1) : text
  }

  stated(state: State, rest: string): string {
    return `${this.paint(colours[state], state)}${' '.repeat(9 - state.length)}${rest}`
  }

  /** The first lines of a long text, below what they belong to. */
  details(label: string, text: string): void {
    const lines = clean(text).trimEnd().split('\n')
    const hidden = this.#verbose ? 0 : lines.splice(DETAIL_LINES).length
    if (hidden > 0)
      lines.push(`(${count(hidden, 'line')} more; --verbose shows ${hidden === 1 ? 'it' : 'them'})`)
    lines.forEach((line, i) =>
      this.print(this.dim(this.cut(DETAIL + (i === 0 ? label : ' '.repeat(label.length)) + line))),
    )
  }

  /** A line of a fault, when there is any; of a long output the end. */
  labelled(label: string, text: string | undefined): void {
    if (!text) return
    const lines = clean(text).trimEnd().split('\n')
    const hidden =
      label === 'said' && !this.#verbose ? lines.splice(0, Math.max(0, lines.length - SAID_LINES)).length : 0
    if (hidden > 0)
      lines.unshift(`(${count(hidden, 'line')} before this; --verbose shows ${hidden === 1 ? 'it' : 'them'})`)
    lines.forEach((line, i) => this.print(`  ${(i === 0 ? `${label}:` : '').padEnd(7)}${line}`))
  }
}

/** The lines at the bottom of a terminal that say what runs now. They are redrawn every second and leave no trace. */
class Live {
  readonly #out: Out
  readonly #on: boolean
  readonly #now: () => number
  readonly #lines = new Map<string, { text: string; tail: string; since: number }>()
  #drawn = 0
  #timer: NodeJS.Timeout | undefined

  constructor(out: Out, on: boolean, now: () => number) {
    this.#out = out
    this.#on = on
    this.#now = now
  }

  show(key: string, text: string, tail: string): void {
    if (!this.#on) return
    const since = this.#lines.get(key)?.text === text ? this.#lines.get(key)?.since : undefined
    this.#lines.set(key, { text, tail, since: since ?? this.#now() })
    this.#timer ??= setInterval(() => this.#draw(), 1000).unref()
    this.#draw()
  }

  hide(key: string): void {
    if (this.#lines.delete(key)) this.#draw()
  }

  above(text: string): void {
    this.#out.write(this.#erase() + text)
    if (this.#lines.size > 0) this.#draw()
  }

  clear(): void {
    this.#lines.clear()
    this.#draw()
    clearInterval(this.#timer)
    this.#timer = undefined
  }

  #erase(): string {
    const up = this.#drawn
    this.#drawn = 0
    return up === 0 ? '' : `\u001b[${up}A\r\u001b[J`
  }

  #draw(): void {
    let frame = this.#erase()
    for (const { text, tail, since } of this.#lines.values()) {
      const elapsed = duration((this.#now() - since) / 1000)
      frame += `${shorten(`${text}  ${elapsed}${tail && ` ${tail}`}`, (this.#out.columns ?? 80) - 1)}\n`
      this.#drawn += 1
    }
    if (frame !== '') this.#out.write(frame)
  }
}

/** `41 s`, `3 min 02 s`, `1 h 04 min`. */
export function duration(seconds: number): string {
  const s = Math.floor(seconds)
  const two = (n: number) => String(n).padStart(2, '0')
  if (s < 60) return `${s} s`
  if (s < 3600) return `${Math.floor(s / 60)} min ${two(s % 60)} s`
  return `${Math.floor(s / 3600)} h ${two(Math.floor((s % 3600) / 60))} min`
}

/** `123 of 480 MiB, 25 %, 12.3 MiB/s, 29 s left`. */
function far(bytes: number, total: number | undefined, rate: number): string {
  const mib = (n: number) => Math.floor(n / 2 ** 20)
  const speed = `${(rate / 2 ** 20).toFixed(1)} MiB/s`
  if (total === undefined || total === 0) return `${mib(bytes)} MiB, ${speed}`
  const left = rate > 0 && bytes < total ? [`${duration((total - bytes) / rate)} left`] : []
  return [
    `${mib(bytes)} of ${mib(total)} MiB`,
    `${Math.floor((100 * bytes) / total)} %`,
    speed,
    ...left,
  ].join(', ')
}

/** `1 step`, `9 steps`; with verbs `1 step holds`, `9 steps hold`. */
export function count(n: number, noun: string, one = '', many = one): string {
  const verb = n === 1 ? one : many
  return `${n} ${noun}${n === 1 ? '' : 's'}${verb && ` ${verb}`}`
}

/**
 * Text from a machine, made safe to show: no escape sequences that move the cursor or rename the window, no marks that
 * turn the reading direction. Line breaks and tabs stay.
 */
export function clean(text: string): string {
  return (
    stripVTControlCharacters(text.replaceAll('\r\n', '\n'))
      .replaceAll('\t', '  ')
      // oxlint-disable-next-line no-control-regex -- control characters are what this looks for
      .replaceAll(/[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069]/g, '\ufffd')
  )
}

const oneLine = (text: string) =>
  clean(text)
    .trim()
    .replaceAll(/\s*\n\s*/g, ' ⏎ ')

function shorten(text: string, width: number): string {
  const plain = [...stripVTControlCharacters(text)]
  if (plain.length <= width) return text
  // A coloured line keeps its colour codes: they are counted as nothing and closed at the end.
  let room = width - 1
  let coloured = false
  // oxlint-disable-next-line no-control-regex -- these are our own colour codes
  const kept = text.replaceAll(/\u001b\[\d+m|./gsu, (piece) => {
    if (piece.startsWith('\u001b')) {
      coloured = true
      return piece
    }
    return room-- > 0 ? piece : ''
  })
  return coloured ? kept.replace(/((?:\u001b\[\d+m)*)$/, '…$1') : `${kept}…`
}
