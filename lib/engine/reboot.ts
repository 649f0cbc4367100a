// A step after which its machine starts anew: which start the machine is in, and the wait until it answers in another one.
import { setTimeout as sleep } from 'node:timers/promises'
import { Stopped } from '../ground/stop.ts'
import type { Machine } from './machine.ts'
import { plain } from './program.ts'
import type { FaultReport, Report } from './report.ts'
import { onAnswer } from './wire.ts'

export interface Boot {
  machine: Machine
  report: Report
  signal?: AbortSignal | undefined
}

const ASK = ['answer boot id "$(cat /proc/sys/kernel/random/boot_id)"']
/** Seconds that an answer may take: a machine that has just started is slow. */
const PATIENCE = 30
/** Milliseconds between two tries. */
const PAUSE = 2000

/** The start that the machine is in, as its kernel calls it, and what else was heard. */
export async function bootOf(machine: Machine): Promise<{ id?: string; said: string }> {
  let id: string | undefined
  const { stderr, code } = await machine.run(
    await plain('reboot', ASK),
    onAnswer((values) => (id = values['id'])),
    PATIENCE,
  )
  const said = stderr.trim().split('\n').at(-1) || `a connection ended with ${code}`
  return id ? { id, said: '' } : { said }
}

/**
 * Waits until the machine answers by the route that it had, in another start than `before`; `seconds` at most. Resolves to why it
 * does not, or to undefined. Throws Stopped where the run is to end.
 */
export async function comesBack(
  { machine, report, signal }: Boot,
  step: string,
  before: string,
  seconds: number,
): Promise<FaultReport | undefined> {
  const deadline = Date.now() + seconds * 1000
  report.note(`${machine.label} starts anew; it is waited for, ${seconds} s at most.`)
  // What shares the old connection would hang with it.
  await machine.close()
  const connection = machine.reconnect(machine.route)
  let saw = 'it goes down'
  let wentDown = false
  try {
    for (;;) {
      report.running({ index: 0, total: 0, name: `${machine.label} starts anew`, limit: seconds, saw })
      const { id, said } = await bootOf(connection).catch((error: unknown) => ({
        id: undefined,
        said: String(error),
      }))
      if (id !== undefined && id !== before) return undefined
      wentDown ||= id === undefined
      saw = id === undefined ? said : 'it still answers as before'
      if (Date.now() >= deadline) break
      await sleep(PAUSE, undefined, signal ? { signal } : {}).catch(() => {}) // it rejects at the signal alone
      if (signal?.aborted) throw new Stopped(`Stopped by you while ${machine.label} starts anew.`)
    }
  } finally {
    await connection.close()
  }
  return {
    step,
    ran: `a new connection to ${machine.label}, again and again for ${seconds} s`,
    said: saw,
    state: wentDown
      ? 'it went down, and nobody knows whether it is up again'
      : 'it has not gone down: something holds its shutdown up',
    next: wentDown
      ? 'look at its console; when it answers again, run this again: it continues where this ended'
      : 'on it: systemctl list-jobs, and journalctl --unit=fortress-reboot',
  }
}
