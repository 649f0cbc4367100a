// Why a step failed, in a few lines: what was found, where, what this leaves, and what to do. And how a file differs.
import { createTwoFilesPatch } from 'diff'
import type { Outcome } from './machine.ts'
import { type Checked, type Observed, foundOf, stateOf } from './observed.ts'
import type { FaultReport, Report } from './report.ts'
import { type Step, type Target, isChange, isDemand, isWait } from './step.ts'

/** Why a step failed, in five lines; `others` says that steps before it hold. */
export function faultOf(step: Step, observed: Observed, others: boolean): FaultReport {
  const { said, end } = observed
  const found = foundOf(observed.check)
  const above = others ? 'the steps above hold' : 'nothing was changed'
  if (end?.reason === 'demand' && isDemand(step))
    return {
      check: step.check.text,
      found: found || 'no',
      state: others ? `${above}; nothing after them was begun` : above,
      next: step.help,
    }
  if (end?.reason === 'deadline')
    return {
      check: isWait(step) ? step.until.text : '',
      found: found || 'nothing',
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
  const [ran = ''] = (command?.text ?? '').split('\n')
  const target = isChange(step) ? step.target : undefined
  return {
    // The first command of a file is ours: a person reads the path.
    ...(target && said?.command === 0 ? { check: ran, where: target.path } : { ran }),
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
  const wrong = (step.controls ?? []).flatMap((c, i) => {
    if (!['failed', 'unknown'].includes(stateOf(controls[i], c))) return []
    const found = foundOf(controls[i])
    return [`${c.id} ${c.title}${found ? `: ${found}` : ''}`]
  })
  const target = isChange(step) ? step.target : undefined
  const own = check?.rc === 0 ? '' : target ? 'it is not as it was written' : foundOf(check)
  return {
    check: isChange(step) ? step.check.text : '',
    found: [own || (wrong.length > 0 ? '' : 'it still does not hold'), ...wrong].filter(Boolean).join('\n'),
    ...(target ? { where: target.path } : {}),
    state: 'its commands ran, and it does not hold',
    next: 'something else on this machine sets it; mend that and run apply again',
  }
}

/** What sending a program came to: `locked` says who holds the machine. */
export type Sent = Outcome & { locked?: string }

const takeOver = 'wait, or take over with ./task unlock if you know that run is dead'

/** Why a run went no further, where no step says so: the connection ended, or another run holds the machine. */
export interface Cut {
  why: string
  as: 'failed' | 'blocked'
  /** The machine may have gone on, and nobody heard of it. */
  unheard?: true
}

/**
 * The connection ended, or the machine was locked, before the steps from `first` on had ended. `state` says what becomes of them
 * where that is known.
 */
export function reportDisconnect(
  report: Report,
  first: { name: string; index: number; total: number } | undefined,
  { locked, stderr, code }: Sent,
  state?: string,
): Cut {
  // timeout(1) has killed it there: nobody is at it any more.
  const killed = code === 124 || code === 137
  const after = killed
    ? 'its time was over, and it may be half done'
    : 'if the machine still runs, it ends this one by itself, and goes on until it notices'
  report.error({
    ...(first ? { step: first.name, index: first.index + 1, total: first.total } : {}),
    ...(locked === undefined ? {} : { as: 'blocked' as const }),
    ran: 'this page on the machine',
    said: locked ?? (stderr.trim() || `it ended with ${code} before it was done`),
    state:
      locked === undefined || state !== undefined
        ? `the steps before this one hold; ${state ?? after}`
        : 'nothing was changed by this run',
    next: locked === undefined ? 'run it again: it continues where this ended' : takeOver,
  })
  const at = first ? `${first.index + 1}/${first.total} ${first.name}` : 'its beginning'
  if (locked !== undefined) return { why: locked, as: 'blocked' }
  if (killed) return { why: `its time was over at ${at}`, as: 'failed' }
  return {
    why: `the connection ended at ${at}`,
    as: 'failed',
    ...(state === undefined ? { unheard: true } : {}),
  }
}

/** The checks of a page were interrupted; the step is the first without a result. Gives the reason in a line. */
export function reportCheckError(
  report: Report,
  label: string,
  { steps, observed }: { steps: Step[]; observed: Observed[] },
  { locked, stderr, code }: Sent,
): string {
  const at = observed.findIndex(({ check }) => !check)
  const said = locked || stderr.trim() || (code === 124 ? 'they took too long' : `they ended with ${code}`)
  report.error({
    ...(at >= 0 ? { step: steps[at]?.name ?? '', index: at + 1, total: steps.length } : {}),
    as: locked === undefined ? 'unknown' : 'blocked',
    ran: `the checks of this page on ${label}`,
    said,
    state: 'nothing was changed',
    next: locked === undefined ? 'run it again with --verbose' : takeOver,
  })
  return said.split('\n').at(-1) ?? said
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
