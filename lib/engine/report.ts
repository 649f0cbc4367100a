// What the person at the terminal reads, what a program reads instead (--json), and what the run log keeps.
import type {
  ControlResult,
  FaultReport,
  FileDiff,
  Looked,
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
import { Text } from './text.ts'
import type { Transfer } from './transfer.ts'

export { clean, count, duration } from './paper.ts'
export type * from './events.ts'

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
  /** The end of a page, behind its summary. */
  result(result: PageResult): void
  /** The end of a run over many pages. */
  end(end: RunEnd): void
  note(text: string): void
  /** Something that was looked at: one line, behind a heading for what it is of. */
  finding(finding: Looked): void
  /** How far a file is: a live line on a terminal, elsewhere a line for each quarter of it. */
  transfer(transfer: Transfer): void
  /** A task of a graph began (shown on a terminal only) or ended. */
  began(task: { name: string }): void
  ended(task: TaskResult): void
  /** From now on a page that holds is one line. */
  briefly(): void
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

/**
 * A report on `stdout`: text to read, or one JSON object a line. The text is the same on a terminal and in a pipe;
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
    result: event('result'),
    end: event('end'),
    note: (sentence) => event('note')({ text: sentence }),
    finding: event('finding'),
    transfer: event('transfer'),
    began: event('began'),
    ended: event('ended'),
    briefly: () => text.briefly(),
    pause: () => text.clear(),
    close: () => text.clear(),
  }
}

type Events = Exclude<keyof Report, 'briefly' | 'pause' | 'close'>
