// What came of a step, and of a page: which hold, what a failure is in five lines, how a file differs, the summary and the exit
// code. It decides nothing about what runs next.
import { createTwoFilesPatch } from 'diff'
import type { Outcome } from './machine.ts'
import type { Page } from './page.ts'
import { besides } from './print.ts'
import type { FaultReport, Report } from './report.ts'
import { type Control, type Step, type Target, isChange, isWait } from './step.ts'
import type { FailReason, Frame } from './wire.ts'

export type Mode = 'plan' | 'apply' | 'verify' | 'undo'

export interface Result {
  code: 0 | 1 | 2
  changed: number
  /** The tally of controls, for a summary over many pages. */
  controls: { hold: number; total: number }
}

interface Checked {
  rc: number
  found: string
}

/** What a machine has said of a step. */
export interface Observed {
  check?: Checked
  controls: Checked[]
  end?: { state: string; reason?: FailReason | 'unconfirmed'; rolledBack: boolean }
  /** The command that failed, and its output. */
  said?: { command: number; rc: number; text: string }
  /** Why its transaction could not be confirmed: stands with the first step of it. */
  unconfirmed?: FaultReport
}

export const unobserved = (): Observed => ({ controls: [] })

/** Adds what a frame says to what is known of its step. */
export function observe(all: Observed[], frame: Frame): void {
  const at = 'step' in frame ? all[frame.step] : undefined
  if (!at) return
  if (frame.kind === 'check') at.check = { rc: frame.rc, found: frame.found }
  else if (frame.kind === 'control') at.controls[frame.control] = { rc: frame.rc, found: frame.found }
  else if (frame.kind === 'said') at.said = { command: frame.command, rc: frame.rc, text: frame.text }
  else if (frame.kind === 'end')
    at.end = {
      state: frame.state,
      rolledBack: frame.rolledBack,
      ...(frame.reason ? { reason: frame.reason } : {}),
    }
}

type ControlState = 'ok' | 'n/a' | 'pending' | 'waived' | 'failed'

/** The exit codes of a check: 0 holds, 100 does not apply here, 101 holds after a reboot. */
function stateOf(checked: Checked | undefined, control: Control): ControlState {
  if (!checked) return 'failed'
  if (checked.rc === 0) return 'ok'
  if (checked.rc === 100) return 'n/a'
  if (checked.rc === 101) return 'pending'
  return control.waived ? 'waived' : 'failed'
}

/** Whether a step holds as it was observed: its own check, and every control that is not waived. */
export const holds = (step: Step, observed: Observed | undefined): boolean =>
  observed?.check?.rc === 0 &&
  (step.controls ?? []).every((c, i) => stateOf(observed.controls[i], c) !== 'failed')

type StepState = 'ok' | 'ready' | 'changed' | 'change' | 'pending' | 'failed'

function stepState(step: Step, observed: Observed, mode: Mode): StepState {
  if (observed.end?.state === 'failed') return 'failed'
  if (observed.end?.state === 'changed') return 'changed'
  if (holds(step, observed)) {
    const reboot = (step.controls ?? []).some((c, i) => stateOf(observed.controls[i], c) === 'pending')
    return reboot ? 'pending' : isWait(step) ? 'ready' : 'ok'
  }
  if (mode !== 'plan') return 'failed'
  return isChange(step) ? 'change' : 'pending'
}

export interface Summary {
  page: Page
  steps: Step[]
  observed: Observed[]
  mode: Mode
  report: Report
  /** What applying came to; a run that stopped (1) says nothing about the steps that it did not reach. */
  run: { changed: number; code: 0 | 1 }
  seconds: number
}

interface Tally {
  hold: number
  changed: number
  pending: number
  failed: number
  notApplicable: number
  waived: number
  rebooting: number
  controls: { hold: number; total: number }
}

/** Reports every step that was reached, and the sums. */
export function summarise({ page, steps, observed, mode, report, run, seconds }: Summary): Result {
  const tally: Tally = {
    hold: 0,
    changed: 0,
    pending: 0,
    failed: 0,
    notApplicable: 0,
    waived: 0,
    rebooting: 0,
    controls: { hold: 0, total: 0 },
  }
  let stopped = false
  let left = 0
  steps.forEach((step, index) => {
    const seen = observed[index] ?? unobserved()
    if (run.code === 1 && !seen.end && (stopped || !holds(step, seen))) {
      left += 1
      return
    }
    reportStep({
      step,
      observed: seen,
      place: { index: index + 1, total: steps.length },
      mode,
      report,
      tally,
    })
    stopped ||= seen.end?.state === 'failed'
  })
  if (left > 0) report.note(`${left} steps were not reached.`)
  report.summary({ name: page.name, ...tally, seconds })
  return { code: exitCode(run.code, mode, tally), changed: run.changed, controls: tally.controls }
}

function exitCode(run: 0 | 1, mode: Mode, { failed, pending, rebooting }: Tally): 0 | 1 | 2 {
  if (run === 1 || (mode !== 'plan' && failed > 0)) return 1
  if (pending > 0 || rebooting > 0) return 2
  return failed > 0 ? 1 : 0
}

interface Reported {
  step: Step
  observed: Observed
  place: { index: number; total: number }
  mode: Mode
  report: Report
  tally: Tally
}

function reportStep({ step, observed, place, mode, report, tally }: Reported): void {
  const state = stepState(step, observed, mode)
  const { check, end } = observed
  const target = isChange(step) ? step.target : undefined
  const found = check && check.rc !== 0 && !target ? check.found : ''
  report.step({
    ...place,
    name: step.name,
    state,
    ...(step.why ? { why: step.why } : {}),
    ...(found ? { found } : {}),
  })
  if (state === 'failed') tally.failed += 1
  else if (state === 'change' || (state === 'pending' && !holds(step, observed))) tally.pending += 1
  else if (state === 'changed') tally.changed += 1
  else tally.hold += 1
  reportControls(step, observed, mode, report, tally)
  if (target && (state === 'change' || (state === 'failed' && mode === 'verify')))
    report.diff({ path: target.path, text: fileDiff(target, check) })
  if (state === 'change' && isChange(step)) {
    if (step.upload)
      report.command({
        text: `# downloaded and verified by the laptop, then uploaded: ${step.upload.artifact.url}`,
      })
    for (const text of besides(step, 'before')) report.command({ text })
    for (const command of target ? step.apply.slice(1, -1) : step.apply)
      report.command({ text: command.text })
    for (const text of besides(step, 'after')) report.command({ text })
  }
  if (state === 'pending' && !isChange(step) && !isWait(step)) report.command({ text: step.help })
  if (end?.state !== 'failed') return
  const named = { ...place, step: step.name }
  if (observed.unconfirmed) report.error({ ...observed.unconfirmed, ...named })
  else if (end.reason !== 'unconfirmed')
    report.error({ ...faultOf(step, observed, place.index > 1), ...named })
}

function reportControls(step: Step, observed: Observed, mode: Mode, report: Report, tally: Tally): void {
  step.controls?.forEach((control, i) => {
    const checked = observed.controls[i]
    if (!checked && mode !== 'verify') return
    const state = stateOf(checked, control)
    if (state === 'n/a') tally.notApplicable += 1
    else {
      tally.controls.total += 1
      if (state === 'ok') tally.controls.hold += 1
      if (state === 'waived') tally.waived += 1
      if (state === 'pending') tally.rebooting += 1
    }
    report.control({
      id: control.id,
      title: control.title,
      state: state === 'failed' && mode === 'plan' ? 'change' : state,
      from: control.from,
      ...(checked?.found ? { found: checked.found } : {}),
      ...(control.waived ? { waived: control.waived } : {}),
    })
  })
}

/** Why a step failed, in five lines; `others` says that steps before it hold. */
export function faultOf(step: Step, observed: Observed, others: boolean): FaultReport {
  const { said, end, check } = observed
  const above = others ? 'the steps above hold' : 'nothing was changed'
  if (end?.reason === 'demand' && !isChange(step) && !isWait(step))
    return {
      ran: step.check.text,
      said: check?.found || 'no',
      state: others ? `${above}; nothing after them was begun` : above,
      next: step.help,
    }
  if (end?.reason === 'deadline')
    return {
      ran: isWait(step) ? step.until.text : '',
      said: check?.found || 'nothing',
      state: 'the steps above hold',
      next: 'find out what it waits for, and run it again',
    }
  if (end?.reason === 'guard')
    return {
      ran: 'the snapshot to roll back to, and its timer',
      said: said?.text || 'the snapshot or the timer could not be made',
      state: others ? `${above}; nothing else was changed` : above,
      next: 'make room, or see whether systemd runs, and run apply again',
    }
  if (end?.reason === 'after') return stillNot(step, observed)
  const command = isChange(step) ? step.apply[said?.command ?? 0] : undefined
  return {
    ran: (command?.text ?? '').split('\n')[0] ?? '',
    said:
      said?.rc === 124 || said?.rc === 137
        ? `${said.text}\ntimed out after ${isChange(step) ? (step.seconds ?? 300) : 0} s`
        : said?.text || `it ended with ${said?.rc ?? '?'}`,
    state: end?.rolledBack
      ? 'this change was rolled back at once, with those that belong to it'
      : others
        ? 'the steps above hold; the file of this one was restored'
        : 'nothing else was changed',
    next: 'mend this and run apply again',
  }
}

/** Its commands ran, and its check says no. */
function stillNot(step: Step, { check, controls }: Observed): FaultReport {
  const wrong = (step.controls ?? [])
    .filter((c, i) => stateOf(controls[i], c) === 'failed')
    .map(({ id }) => id)
  return {
    ran: isChange(step) ? step.check.text : '',
    said: [
      check?.rc === 0 ? '' : check?.found || 'it still does not hold',
      wrong.length > 0 ? `does not hold: ${wrong.join(', ')}` : '',
    ]
      .filter(Boolean)
      .join('\n'),
    state: 'its commands ran, and it does not hold',
    next: 'something else on this machine sets it; mend that and run apply again',
  }
}

/** What sending a program came to: `locked` says who holds the machine. */
export type Sent = Outcome & { locked?: string }

const takeOver = 'wait, or take over with ./task unlock if you know that run is dead'

/** The connection ended, or the machine was locked, before the steps from `first` on had ended. */
export function reportDisconnect(
  report: Report,
  first: { name: string; index: number; total: number } | undefined,
  { locked, stderr, code }: Sent,
): void {
  report.error({
    ...(first ? { step: first.name, index: first.index + 1, total: first.total } : {}),
    ran: 'this page on the machine',
    said: locked ?? (stderr.trim() || `it ended with ${code} before it was done`),
    state:
      locked === undefined
        ? 'the steps before this one hold; this one may be half done'
        : 'nothing was changed by this run',
    next: locked === undefined ? 'run it again: it continues where this ended' : takeOver,
  })
}

/** The checks of a page were interrupted; the step is the first without a result. */
export function reportCheckError(
  report: Report,
  label: string,
  { steps, observed }: Pick<Summary, 'steps' | 'observed'>,
  { locked, stderr, code }: Sent,
): Result {
  const at = observed.findIndex(({ check }) => !check)
  report.error({
    ...(at >= 0 ? { step: steps[at]?.name ?? '', index: at + 1, total: steps.length } : {}),
    ran: `the checks of this page on ${label}`,
    said: locked || stderr.trim() || (code === 124 ? 'they took too long' : `they ended with ${code}`),
    state: 'nothing was changed',
    next: locked === undefined ? 'run it again with --verbose' : takeOver,
  })
  return { code: 1, changed: 0, controls: { hold: 0, total: 0 } }
}

/** How a file on the machine differs from the declared one. */
export function fileDiff(target: Target, check: Checked | undefined): string {
  if (target.text === undefined) return '+ a secret, not shown\n'
  if (check?.rc === 0) return '  as declared; what it is for does not hold\n'
  if (check?.rc === 2) return `  ${check.found.trim()}\n`
  const before = check?.found ?? ''
  const patch = createTwoFilesPatch(
    target.path,
    target.path,
    before === '' || before.endsWith('\n') ? before : `${before}\n`,
    target.text,
    '',
    '',
    { context: 2 },
  )
  const lines = patch.split('\n').slice(4).join('\n')
  return lines || '  as declared; the commands that follow it did not run yet\n'
}
