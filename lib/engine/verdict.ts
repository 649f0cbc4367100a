// What came of a page: each step as soon as it is known, the sums, the state of the page and the exit code. It decides nothing
// about what runs next.
import { type Cut, faultOf, fileDiff } from './faults.ts'
import { type Observed, foundOf, holds, isUnknown, stateOf, unobserved } from './observed.ts'
import type { Page } from './page.ts'
import { besides } from './print.ts'
import { type PageState, type Report, type Summary, count } from './report.ts'
import { type Step, isChange, isDemand, isWait } from './step.ts'

export type Mode = 'plan' | 'apply' | 'verify' | 'undo'

export interface Result {
  /** 0 done, 1 failed, 2 something is left to do. */
  code: 0 | 1 | 2
  changed: number
  state: PageState
  /** Steps by what they came to, for a reader. */
  counts?: string
  /** Why it is not done, and what to do. */
  why?: string
  next?: string
  /** The run ended early: where, `after 2/9 the service runs; nothing is half done`. */
  stopped?: string
  /** How many steps would change, how many hold, and how many that would change can lock somebody out. */
  steps: { change: number; hold: number; access: number }
}

type StepState =
  'ok' | 'ready' | 'changed' | 'change' | 'pending' | 'wait' | 'your turn' | 'blocked' | 'unknown' | 'failed'

function stepState(step: Step, observed: Observed, mode: Mode): StepState {
  const { end } = observed
  const unmet = isDemand(step) && step.person ? 'your turn' : 'blocked'
  if (end?.state === 'failed') return end.reason === 'demand' ? unmet : 'failed'
  if (end?.state === 'changed') return 'changed'
  if (holds(step, observed)) {
    const reboot = (step.controls ?? []).some((c, i) => stateOf(observed.controls[i], c) === 'pending')
    return reboot ? 'pending' : isWait(step) ? 'ready' : 'ok'
  }
  if (mode !== 'apply' && isUnknown(step, observed)) return 'unknown'
  if (mode === 'verify' && waitsForReboot(step, observed)) return 'pending'
  if (isDemand(step) && (mode === 'plan' || step.person)) return unmet
  if (mode !== 'plan') return 'failed'
  return isChange(step) ? 'change' : 'wait'
}

/** That nothing of a step is open but that its machine has not started anew. */
const waitsForReboot = (step: Step, { check, controls }: Observed): boolean =>
  check?.rc === 101 && (step.controls ?? []).every((c, i) => stateOf(controls[i], c) !== 'failed')

export interface Reported {
  page: Page
  steps: Step[]
  observed: Observed[]
  mode: Mode
  report: Report
}

type Tally = Required<
  Pick<Summary, 'hold' | 'changed' | 'pending' | 'turn' | 'blocked' | 'unknown' | 'failed'>
> &
  Required<Pick<Summary, 'notApplicable' | 'waived' | 'rebooting' | 'controls'>>

/** Reports the steps of a page, each once and in their order. */
export class PageReport {
  readonly #of: Reported
  readonly #tally: Tally = {
    hold: 0,
    changed: 0,
    pending: 0,
    turn: 0,
    blocked: 0,
    unknown: 0,
    failed: 0,
    notApplicable: 0,
    waived: 0,
    rebooting: 0,
    controls: { hold: 0, total: 0 },
  }
  #next = 0
  #access = 0
  /** The first step that holds the page up. */
  #stop: { state: StepState; why: string; next?: string } | undefined

  constructor(of: Reported) {
    this.#of = of
  }

  /** The steps before this one (counted from 0) have ended. */
  upTo(end: number): void {
    for (; this.#next < end; this.#next++) this.#step(this.#next)
  }

  /**
   * Reports the other steps and the sums. A run that stopped (1) says nothing about the steps that it did not reach; where it was
   * `stopped` early they are still to change. A page that the machine has no record of was never applied, and what of it does
   * not hold is no failure. `cut`: it did not end by itself.
   */
  end(
    run: { changed: number; code: 0 | 1; stopped?: boolean; cut?: Cut },
    seconds: number,
    recorded = true,
  ): Result {
    const { page, steps, observed, mode, report } = this.#of
    const lacking = steps.filter((step, i) => !holds(step, observed[i]))
    if (mode === 'verify' && !recorded && lacking.some(isChange)) {
      const apply = `./task ${page.name.slice(3)} apply`
      return {
        code: 2,
        changed: 0,
        state: 'not built',
        why: 'it was never applied here',
        next: apply,
        steps: { change: lacking.length, hold: steps.length - lacking.length, access: 0 },
      }
    }
    let left = 0
    let stopped = steps.slice(0, this.#next).some((_, i) => observed[i]?.end?.state === 'failed')
    for (let i = this.#next; i < steps.length; i++) {
      const seen = observed[i] ?? unobserved()
      if (run.code === 1 && !seen.end && (stopped || !holds(steps[i] as Step, seen))) left += 1
      else this.#step(i)
      stopped ||= seen.end?.state === 'failed'
    }
    // The one that it was at has neither ended nor been left alone.
    if (run.cut && left > 0) {
      this.#tally[run.cut.as] += 1
      left -= 1
    }
    const so = run.cut?.unheard ? 'heard of' : 'reached'
    if (left > 0) report.note(`${count(left, 'step', 'was', 'were')} not ${so}.`)
    if (run.stopped) this.#tally.pending += left
    report.summary({ name: page.name, ...this.#tally, seconds })
    const { hold, pending } = this.#tally
    const code = this.#code(run.stopped ? 0 : run.code)
    const state = run.stopped ? 'change' : this.#state(code)
    // What has nothing to do here says why by its first fact, and what ended between two steps by the first that is left.
    const open = state === 'failed' ? lacking.find((step) => !observed[steps.indexOf(step)]?.end) : undefined
    const why = this.#stop?.why ?? run.cut?.why ?? (state === '-' ? steps[0] : open)?.name
    return {
      code,
      changed: run.changed,
      state,
      counts: countsOf(this.#tally),
      ...(why === undefined ? {} : { why }),
      ...(this.#stop?.next === undefined ? {} : { next: this.#stop.next }),
      steps: { change: pending, hold, access: this.#access },
    }
  }

  /** Where the last step that was begun ended. */
  reached(): string {
    const { steps, observed } = this.#of
    const last = observed.findLastIndex(({ end }) => end !== undefined)
    if (last < 0) return 'before anything was changed; nothing is half done'
    const { state, rolledBack } = observed[last]?.end ?? {}
    const came =
      state !== 'failed'
        ? '; nothing is half done'
        : rolledBack
          ? ', which was rolled back'
          : ', which failed'
    return `after ${last + 1}/${steps.length} ${steps[last]?.name}${came}`
  }

  #code(run: 0 | 1): 0 | 1 | 2 {
    const { failed, blocked, turn, unknown, pending, rebooting } = this.#tally
    const { mode } = this.#of
    if (unknown > 0) return 1
    if (mode !== 'plan' && failed + blocked > 0) return 1
    if (run === 1 && turn === 0) return 1
    return blocked + turn + pending + rebooting > 0 ? 2 : 0
  }

  #state(code: 0 | 1 | 2): PageState {
    const { failed, blocked, turn, unknown, changed, pending } = this.#tally
    if (failed > 0) return 'failed'
    if (unknown > 0) return 'unknown'
    if (blocked > 0) return 'blocked'
    if (turn > 0) return 'your turn'
    if (code === 1) return 'failed'
    if (changed > 0) return 'changed'
    if (pending > 0) return 'change'
    return this.#of.steps.some(isChange) ? 'ok' : '-'
  }

  #step(index: number): void {
    const { steps, observed: all, mode, report } = this.#of
    const step = steps[index] as Step
    const observed = all[index] ?? unobserved()
    const state = stepState(step, observed, mode)
    const place = { index: index + 1, total: steps.length, name: step.name }
    const { check, end } = observed
    const { target, diff } = isChange(step) ? step : {}
    const differs = state === 'change' || (state === 'failed' && mode === 'verify')
    // What a wait has seen at its end is told, too: it asks the live state, of which a part may still be to come.
    const tells = check && (check.rc !== 0 || isWait(step)) && !target && !(diff && differs)
    const found = tells ? foundOf(check) : ''
    const unmet = state === 'your turn' || state === 'blocked'
    report.step({
      ...place,
      state,
      ...(step.why ? { why: step.why } : {}),
      ...(found && (!end || unmet) ? { found } : {}),
      ...(unmet && isDemand(step) ? { next: step.help } : {}),
    })
    this.#count(step, observed, state)
    this.#controls(step, observed)
    if (target && differs) report.diff({ path: target.path, text: fileDiff(target, check) })
    else if (diff && differs) report.diff({ path: diff, text: foundOf(check) })
    if (state === 'change' && isChange(step)) reportCommands(step, report)
    if (state !== 'failed' || end?.state !== 'failed') return
    const named = { index: place.index, total: place.total, step: step.name }
    if (observed.unconfirmed) report.error({ ...observed.unconfirmed, ...named })
    else if (end.reason !== 'unconfirmed') report.error({ ...faultOf(step, observed, index > 0), ...named })
  }

  #count(step: Step, observed: Observed, state: StepState): void {
    const tally = this.#tally
    if (state === 'failed') tally.failed += 1
    else if (state === 'unknown') tally.unknown += 1
    else if (state === 'your turn') tally.turn += 1
    else if (state === 'blocked') tally.blocked += 1
    else if (state === 'change' || state === 'wait') tally.pending += 1
    else if (state === 'changed') tally.changed += 1
    else if (observed.check?.rc === 101) tally.rebooting += 1
    else tally.hold += 1
    if (state === 'change' && step.transaction) this.#access += 1
    const ranks = ['your turn', 'blocked', 'unknown', 'failed']
    const rank = ranks.indexOf(state)
    const before = ranks.indexOf(this.#stop?.state ?? '')
    if (rank <= before) return
    const next = isDemand(step) ? step.help : observed.unconfirmed?.next
    this.#stop = { state, why: step.name, ...(next === undefined ? {} : { next }) }
  }

  #controls(step: Step, observed: Observed): void {
    const { mode, report } = this.#of
    const tally = this.#tally
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
      const found = foundOf(checked)
      report.control({
        id: control.id,
        title: control.title,
        state: state === 'failed' && mode === 'plan' ? 'change' : state,
        from: control.from,
        ...(found ? { found } : {}),
        ...(control.waived ? { waived: control.waived } : {}),
      })
    })
  }
}

/** What a step would run. */
function reportCommands(step: Step & { apply: unknown }, report: Report): void {
  if (!isChange(step)) return
  if (step.upload)
    report.command({
      text: `# downloaded and verified by the laptop, then uploaded: ${step.upload.artifact.url}`,
    })
  for (const text of besides(step, 'before')) report.command({ text })
  for (const command of step.target ? step.apply.slice(1, -1) : step.apply)
    report.command({ text: command.text })
  for (const text of besides(step, 'after')) report.command({ text })
}

/** `70 would change, 5 hold`. */
function countsOf({
  hold,
  changed,
  pending,
  turn,
  blocked,
  unknown,
  failed,
  controls,
  rebooting,
}: Tally): string {
  const parts = [
    changed ? `${changed} changed` : '',
    pending ? `${pending} to change` : '',
    turn ? `${turn} your turn` : '',
    blocked ? `${blocked} blocked` : '',
    failed ? `${failed} failed` : '',
    unknown ? `${unknown} unknown` : '',
    hold ? (hold === 1 ? '1 holds' : `${hold} hold`) : '',
    pending + unknown + failed === 0 && controls.total > 0
      ? `${controls.hold} of ${count(controls.total, 'control')}`
      : '',
    rebooting ? `${rebooting} at the next start` : '',
  ]
  return parts.filter(Boolean).join(', ')
}
