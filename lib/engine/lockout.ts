// Protection against locking oneself out. A transaction is rolled back by the machine itself, at a timer or its next boot, unless
// it is confirmed over a connection that shares nothing with the one it was made by, as root, by the route that remains. What the
// machine does about it is in shell/guard.sh and shell/snapshot.sh; this file hides how often and how long the laptop tries.
import { quote } from '../ground/sh.ts'
import type { Machine } from './machine.ts'
import { plain } from './program.ts'
import type { FaultReport, Report } from './report.ts'
import type { Route, Transaction } from './step.ts'
import type { CommitState } from './wire.ts'

/** Seconds until the machine rolls back: what must come up first gets the time that it may take. */
export const rollbackAfter = ({ within = 0 }: Transaction, least: number): number => Math.max(least, within)

export interface Unconfirmed {
  /** Its name on the machine. */
  id: string
  /** Seconds from its beginning until it is rolled back. */
  seconds: number
  /** By which route the new connection comes. */
  route: Route
  page: string
  /** The steps that it applied, for the reader. */
  name: string
  machine: Machine
  report: Report
}

/** Asked every quarter of a second at first, then more seldom; in milliseconds. */
const PAUSE = { first: 250, most: 5000 }
/** Seconds before the rollback in which nobody tries any more. */
const MARGIN = 10

/**
 * Reconnects until the machine confirms the transaction, refuses to, or is about to roll it back. Resolves to why it is not
 * confirmed, or to undefined; then the machine is used by that route from now on.
 */
export async function confirm(transaction: Unconfirmed): Promise<FaultReport | undefined> {
  const { seconds, route, machine, report } = transaction
  const deadline = Date.now() + Math.max(5, seconds - MARGIN) * 1000
  let last: Tried = { said: '' }
  const connection = machine.reconnect(route)
  try {
    for (let pause = PAUSE.first; Date.now() < deadline; pause = Math.min(pause * 2, PAUSE.most)) {
      report.running({
        index: 0,
        total: 0,
        name: `reconnecting to confirm the change${route === 'tunnel' ? ' through the tunnel' : ''}`,
        limit: seconds,
        saw: last.said,
      })
      const left = Math.ceil((deadline - Date.now()) / 1000)
      last = await commit(connection, transaction, Math.max(5, Math.min(30, left)))
      if (last.state === 'committed') {
        if (route !== machine.route) machine.switchTo(route)
        return undefined
      }
      if (last.state === 'refused' || last.state === 'died') break
      await new Promise((resolve) => setTimeout(resolve, pause))
    }
  } finally {
    await connection.close()
  }
  return unconfirmedFault(transaction, last, connection.label)
}

interface Tried {
  state?: CommitState
  said: string
}

/** One try over a connection of its own. */
async function commit(connection: Machine, { page, id }: Unconfirmed, seconds: number): Promise<Tried> {
  let answer: Tried | undefined
  const program = await plain(
    page,
    [
      `rc=0; said=$(fk_commit ${quote(id)} 2>&1) || rc=$?`,
      'case $rc in 0) state=committed ;; 75) state=running ;; 76) state=died ;; *) state=refused ;; esac',
      'frame commit "$state" "$said"',
    ],
    ['put.sh', 'snapshot.sh', 'guard.sh'],
  )
  const outcome = await connection
    .run(
      program,
      (frame) => {
        if (frame.kind === 'commit') answer = frame
      },
      seconds,
    )
    .catch((error: unknown) => ({ code: 255, stderr: String(error) }))
  return answer ?? { said: outcome.stderr.trim().split('\n').at(-1) || `ended with ${outcome.code}` }
}

function unconfirmedFault(
  { name, route, seconds }: Unconfirmed,
  { state, said }: Tried,
  label: string,
): FaultReport {
  const fault = { step: name, ran: `a new connection to ${label}`, said: said || 'nothing' }
  const again =
    route === 'tunnel'
      ? 'bring the tunnel up on this computer, and run it again'
      : 'find out why a new login fails, and run it again'
  if (state === 'died')
    return {
      ...fault,
      state: 'the machine rolls these steps back now',
      next: 'run it again; journalctl on the machine may tell what ended it',
    }
  return {
    ...fault,
    state:
      state === 'refused'
        ? 'the machine has rolled these steps back, or is about to'
        : `the machine rolls these steps back by itself, ${seconds} s after they began`,
    next: again,
  }
}
