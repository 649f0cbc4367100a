// What a report is made of: the states of steps and pages, and each event of a run as data.

/**
 * What a step is, or a page: `ok` holds, `change` would change, `changed`; `your turn`: a person has something to do first;
 * `blocked`: it cannot go on, with the reason; `not built`: never applied, or its machine does not exist yet; `unknown`: it could
 * not be asked; `later`: what it needs is not done; `failed`: only what really failed; `-`: it does not apply here.
 */
export type PageState =
  'ok' | 'change' | 'changed' | 'your turn' | 'blocked' | 'not built' | 'unknown' | 'later' | 'failed' | '-'

/** `pending` waits for the next start of the machine; `check` and `step` are those of a rehearsal, where nobody was asked. */
export type State = PageState | 'ready' | 'wait' | 'pending' | 'n/a' | 'waived' | 'check' | 'step'

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

export interface Numbered {
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
  /** It waits for a person. */
  person?: true
}

export interface StepResult extends Numbered {
  state: State
  why?: string
  found?: string
  /** What a person can do about it. */
  next?: string
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
  /** How the step is called: `failed` where it is absent. */
  as?: State
  ran?: string
  /** The check that says no, and other generated code: shown with --verbose. */
  check?: string
  /** What the check found. */
  found?: string
  /** The file that it is about. */
  where?: string
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
  /** A person has something to do first. */
  turn?: number
  blocked?: number
  /** Could not be asked. */
  unknown?: number
  failed?: number
  controls?: { hold: number; total: number }
  /** Of the controls: excused, and outside the total. */
  waived?: number
  /** Of the controls: what they ask for is in place, and the next start of the machine puts it in force. */
  rebooting?: number
  notApplicable?: number
  seconds?: number
}

/** What a page came to on a machine, or in a rehearsal: one line in a run over many pages. */
export interface PageResult {
  name: string
  layer: string
  mode: string
  /** Where it runs, by its name; absent where it is the only one. */
  machine?: string
  state: State
  /** Counts, for a reader: `70 would change, 5 hold`. */
  counts?: string
  /** Why it is not done. */
  why?: string
  next?: string
}

/** Something in a page that holds the run up, for the list at its end. */
export interface Stop {
  state: PageState
  /** The numbers of its pages: `20-26`. */
  pages: string
  what: string
  next?: string
}

/** The end of a run over many pages. */
export interface RunEnd {
  /** One sentence: what holds, and what is left. */
  sum: string
  stops: Stop[]
  /** How many steps that would change can lock somebody out. */
  access?: number
  /** What goes on from here. */
  next?: string
  log?: string
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

/** One line of the run log, and of --json. */
export interface Event {
  time: string
  event: string
}

/** Where a report is written. */
export interface Out {
  write(text: string): unknown
  isTTY?: boolean
  columns?: number
  hasColors?(): boolean
}

export interface ReportOptions {
  json?: boolean
  verbose?: boolean
  /** One line a page, and of a page that does not hold what is open; of a plan and of a rehearsal nothing more. */
  brief?: boolean
  /** Live lines are drawn. Default: standard output is a terminal. */
  tty?: boolean
  /** Default: a terminal that has colours; NO_COLOR, FORCE_COLOR and TERM=dumb are honoured. */
  color?: boolean
  stdout?: Out
  /** Gets every event: the run log. */
  log?: (event: Event) => void
  now?: () => number
}
