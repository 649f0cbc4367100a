// What a machine has said of the steps of a page, and whether they hold.
import type { FaultReport } from './report.ts'
import { type Control, type Step } from './step.ts'
import type { FailReason, Frame } from './wire.ts'

export interface Checked {
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

/** What bash and the tools of a machine say of something that is not there, and the same in words. */
const absent: [RegExp, string][] = [
  [/^(?:\S+: line \d+: |-?bash: )(\S+): command not found$/gm, '$1 is not installed'],
  [/^(?:\S+: line \d+: )(\/\S+): No such file or directory$/gm, '$1 is not there'],
  [/^dpkg-query: no packages found matching (\S+)$/gm, '$1 is not installed'],
  [/^[\w.-]+: (?:cannot \w+ )?['‘]?(\/[^'’:\n]+)['’]?: No such file or directory$/gm, '$1 is not there'],
  [/^Device "([^"]+)" does not exist\.$/gm, 'there is no interface $1'],
]

/** What a check found, without the noise of the tools that looked. */
export const foundOf = (checked: Checked | undefined): string =>
  absent.reduce((text, [noise, words]) => text.replaceAll(noise, words), checked?.found ?? '').trim()

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

export type ControlState = 'ok' | 'n/a' | 'pending' | 'waived' | 'unknown' | 'failed'

/** The exit codes of a check: 0 holds, 100 does not apply here, 101 holds after a reboot, 102 could not be asked. */
export function stateOf(checked: Checked | undefined, control: Control): ControlState {
  if (!checked) return 'unknown'
  if (checked.rc === 0) return 'ok'
  if (checked.rc === 100) return 'n/a'
  if (checked.rc === 101) return 'pending'
  if (control.waived) return 'waived'
  return checked.rc === 102 ? 'unknown' : 'failed'
}

/** Whether a step holds as it was observed: its own check, and every control that is not waived. */
export const holds = (step: Step, observed: Observed | undefined): boolean =>
  observed?.check?.rc === 0 &&
  (step.controls ?? []).every((c, i) => !['failed', 'unknown'].includes(stateOf(observed.controls[i], c)))

/** Whether nobody could say of a step that does not hold what of it does not: all that is open could not be asked. */
export const isUnknown = (step: Step, { check, controls }: Observed): boolean =>
  (check === undefined || check.rc === 0 || check.rc === 102) &&
  (step.controls ?? []).every((c, i) => stateOf(controls[i], c) !== 'failed')
