// Each event of a report as lines to read.
import {
  DETAIL,
  Live,
  Paper,
  canRedraw,
  clean,
  count,
  duration,
  limitText,
  oneLine,
  wantsColor,
} from './paper.ts'
import type {
  ControlResult,
  FaultReport,
  FileDiff,
  Looked,
  Numbered,
  Out,
  PageResult,
  PageStart,
  Plan,
  ReportOptions,
  RunEnd,
  Running,
  StepResult,
  Summary,
  TaskResult,
} from './events.ts'
import type { Transfer } from './transfer.ts'

export class Text {
  readonly #paper: Paper
  readonly #live: Live
  readonly #tty: boolean
  readonly #verbose: boolean
  #brief: boolean
  readonly #quarters = new Map<string, number>()
  /** The step that was just reported as failed, so that its fault does not name it again. */
  #failed: string | undefined
  #heading: string | undefined
  /** The page whose heading is not printed yet: it comes before the first of its lines that is shown. */
  #waiting: PageStart | undefined
  /** The heading of a page was printed, and its end was not yet. */
  #begun = false

  constructor(stdout: Out, options: ReportOptions, now: () => number) {
    this.#tty = options.tty ?? canRedraw(stdout)
    this.#verbose = options.verbose ?? false
    this.#brief = (options.brief ?? false) && !this.#verbose
    this.#live = new Live(stdout, this.#tty && !options.json, now)
    const color = options.color ?? wantsColor(stdout)
    // A terminal that does not know its width says 0.
    this.#paper = new Paper(
      this.#live,
      color,
      this.#verbose,
      (options.tty ?? stdout.isTTY === true) ? () => stdout.columns || 80 : undefined,
    )
  }

  clear(): void {
    this.#live.clear()
  }

  briefly(): void {
    this.#brief = !this.#verbose
  }

  page(page: PageStart): void {
    this.#waiting = page
    if (!this.#brief) this.#begin()
  }

  /** In a run over many pages a plan, and a rehearsal, is one line a page. */
  get #silent(): boolean {
    return this.#brief && this.#waiting !== undefined && [undefined, 'plan'].includes(this.#waiting.mode)
  }

  /** The heading of the page, when it is not there yet. */
  #begin(): void {
    const page = this.#waiting
    if (page === undefined) return
    this.#waiting = undefined
    this.#begun = true
    const paper = this.#paper
    paper.apart()
    paper.flow(`${paper.paint(1, page.name)}  ${page.summary}`, '  ')
    if (page.machine) paper.print(paper.dim(`  ${page.mode ? `${page.mode} on ` : ''}${page.machine}`))
  }

  plan({ steps, controls }: Plan): void {
    if (!this.#verbose) return
    const line = `  ${count(steps, 'step')}${controls ? `, ${count(controls, 'control')}` : ''}`
    this.#paper.print(this.#paper.dim(line))
  }

  running({ limit, saw, person, ...step }: Running): void {
    const tail = [limit && `(limit ${limitText(limit)})`, saw && `last seen: ${oneLine(saw)}`]
      .filter(Boolean)
      .join(', ')
    this.#live.show('step', `${person ? 'your turn' : 'running'}  ${fact(step)}`, tail)
  }

  step(step: StepResult): void {
    const { state, why, found, next, seconds } = step
    const paper = this.#paper
    this.#live.hide('step')
    this.#failed = step.name
    const open = !['ok', 'ready', 'changed', 'check', 'step', '-'].includes(state)
    if (this.#silent || (this.#brief && (state === 'ok' || state === 'ready'))) return
    this.#begin()
    const slow = seconds !== undefined && seconds >= 10 ? paper.dim(` (${duration(seconds)})`) : ''
    paper.flow(paper.stated(state, fact(step)) + slow)
    const whole = ['failed', 'blocked', 'your turn'].includes(state)
    if (why && (open || this.#verbose)) paper.details('', why, true, 2)
    if (found && (open || this.#verbose)) paper.details('found: ', found.trim(), whole)
    if (next && open) paper.details('next:  ', next, true)
  }

  control({ id, title, state, found, from, waived }: ControlResult): void {
    if (!['failed', 'unknown', 'pending'].includes(state) && !this.#verbose) return
    if (this.#silent) return
    this.#begin()
    const paper = this.#paper
    const answer = found?.trim()
    const line =
      DETAIL + paper.stated(state, `${id}  ${clean(title)}`) + (answer ? `: ${oneLine(answer)}` : '')
    if (state === 'ok' || state === 'n/a') paper.print(paper.cut(line))
    else paper.flow(line, `${DETAIL}  `)
    if (waived) paper.details('  waived: ', waived, true, 2)
    if (this.#verbose && from && from.length > 0) paper.details('  from: ', from.join(', '), true, 2)
  }

  diff(diff: FileDiff): void {
    if (this.#silent) return
    this.#begin()
    const paper = this.#paper
    paper.print(DETAIL + paper.paint(1, clean(diff.path)))
    for (const line of clean(diff.text).trimEnd().split('\n')) {
      const code = line.startsWith('+') ? 32 : line.startsWith('-') ? 31 : line.startsWith('@') ? 36 : 0
      paper.flow(DETAIL + line, DEEPER, { code })
    }
  }

  command(command: { text: string }): void {
    if (this.#silent) return
    this.#begin()
    for (const line of clean(command.text).split('\n')) this.#paper.flow(DETAIL + line, DEEPER)
  }

  error(fault: FaultReport): void {
    const paper = this.#paper
    this.#live.clear()
    if (this.#silent && fault.as !== undefined) return
    this.#begin()
    const { step: name, index = 0, total = 0, as: state = 'failed' } = fault
    if (name !== undefined && name !== this.#failed)
      paper.flow(paper.stated(state, fact({ index, total, name })))
    this.#failed = undefined
    paper.fault(fault)
  }

  summary(sum: Summary): void {
    this.#live.clear()
    if (this.#brief && this.#waiting !== undefined) return
    this.#paper.flow(`${this.#paper.paint(1, sum.name)}: ${summaryText(sum)}`, '  ')
  }

  result({ name, layer, mode, machine, state, counts, why, next }: PageResult): void {
    this.#live.clear()
    const paper = this.#paper
    const shown = this.#begun
    this.#begun = false
    this.#waiting = undefined
    const whole = state === 'changed' || state === '-' ? why : `${state}, ${why}`
    // What a person has to do stands in the list at the end of a plan. A page with nothing to do here counts nothing.
    const reason = this.#brief && mode === 'plan' && ['your turn', 'blocked'].includes(state) ? '' : why
    const text = [state === '-' && why ? '' : counts, reason && clean(reason)].filter(Boolean).join('; ')
    if (!this.#brief) {
      if (mode !== 'undo' && state !== 'not built' && state !== 'later') return
      paper.flow(`${paper.paint(1, name)}: ${clean(whole ?? '')}`, '  ')
    } else if (shown && !(mode === 'undo' && state === 'changed')) return
    else {
      const place = machine === undefined ? '' : machine.padEnd(15)
      const head = mode === 'rehearsal' ? layer.padEnd(8) : `${paper.stated(state, '')}${pad(state)}`
      paper.flow(`${head}${name.padEnd(20)}${place}${text}`.trimEnd())
    }
    if (next && state !== 'ok' && state !== 'change' && !(this.#brief && mode === 'plan'))
      paper.details('next:  ', next, true)
  }

  end({ sum, stops, access, next, log }: RunEnd): void {
    this.#live.clear()
    const paper = this.#paper
    paper.apart()
    paper.flow(paper.paint(1, sum), '  ')
    for (const { state, pages, what, next: remedy } of stops) {
      paper.flow(`  ${paper.stated(state, '')}${pad(state)}${pages.padEnd(6)}${clean(what)}`, STOP)
      for (const line of remedy ? clean(remedy).split('\n') : []) paper.flow(STOP + line, `${STOP}  `)
    }
    if (access)
      paper.flow(
        `  access     ${count(access, 'step')} could lock you out; each is undone by itself unless you get in again`,
        STOP,
      )
    next
      ?.split('\n')
      .forEach((line, i) => paper.flow(`${i === 0 ? 'Next: ' : '      '}${line}`, ' '.repeat(8)))
    if (log) paper.flow(paper.dim(`Log: ${log}`), '  ')
  }

  note({ text }: { text: string }): void {
    for (const line of clean(text).split('\n')) this.#paper.flow(line, '  ')
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
    // A pipe is as wide as a terminal that nobody has widened: this is a screen also where it is mailed.
    paper.flow(`${head} ${oneLine(found)}`, ' '.repeat(17), { piped: 80 })
    if (remedy !== undefined)
      paper.flow(`${' '.repeat(17)}→ ${oneLine(remedy)}`, ' '.repeat(19), { piped: 80 })
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

/** A line of a file or of a command that is too wide goes on here. */
const DEEPER = `${DETAIL}      `

/** Below this stands what belongs to a line of the list at the end of a run. */
const STOP = ' '.repeat(19)

/** Behind a state, to the column in which the name of a page stands. */
const pad = (state: string): string => ' '.repeat(11 - Math.max(9, state.length + 2))

/** `31 steps hold, 2 changed, 164 of 164 controls hold`. */
function summaryText(sum: Summary): string {
  const parts = [
    count(sum.hold, 'step', 'holds', 'hold'),
    sum.changed ? `${sum.changed} changed` : '',
    sum.pending ? `${sum.pending} would change` : '',
    sum.turn ? `${sum.turn} your turn` : '',
    sum.blocked ? `${sum.blocked} blocked` : '',
    sum.failed ? `${sum.failed} failed` : '',
    sum.unknown ? `${sum.unknown} unknown` : '',
    sum.controls?.total
      ? `${sum.controls.hold} of ${count(sum.controls.total, 'control', 'holds', 'hold')}`
      : '',
    sum.waived ? `${sum.waived} waived` : '',
    sum.rebooting ? `${sum.rebooting} wait for the next start of the machine` : '',
    sum.notApplicable ? `${sum.notApplicable} not applicable` : '',
  ]
  return parts.filter(Boolean).join(', ')
}

/** `3/40 the clock is in step`, or the name alone. */
const fact = ({ index, total, name }: Numbered): string =>
  index === 0 || total === 0
    ? clean(name)
    : `${String(index).padStart(String(total).length)}/${total} ${clean(name)}`

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
