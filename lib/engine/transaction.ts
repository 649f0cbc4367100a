// Protection against locking oneself out: what a transaction is at each kind of place, as one interface. What is not confirmed is
// rolled back. This file hides who does that, how a change is proven, and how often and how long the laptop tries.
//
// The half of it that runs with the steps is shell: fk_guard arms, fk_rollback_now rolls back, fk_complete says that the run came
// to its end, fk_commit confirms. On a machine they are in shell/guard.sh, on the laptop in shell/rootless.sh.
import { quote } from '../ground/sh.ts'
import type { UnderWay } from '../ground/stop.ts'
import { recordOf } from '../site/place.ts'
import { type Machine, lockOwner } from './machine.ts'
import type { Page } from './page.ts'
import { type Numbered, type Program, confirmProgram, plain } from './program.ts'
import type { FaultReport, Report } from './report.ts'
import { type Route, type Transaction, transactionOf } from './step.ts'
import type { CommitState } from './wire.ts'

/** What a transaction is about. */
export interface Subject {
  page: Page
  steps: Numbered[]
  machine: Machine
  report: Report
  /** Seconds until it is rolled back, at the least: FK_DEADMAN_SECONDS, see config/schema/env.json. */
  rollbackAfter: number
}

/** A transaction that is about to begin. */
export interface Begun {
  /** What the program gets, which arms it before the first change, and rolls it back when a step fails. */
  armed: { id: string; seconds: number }
  /** What a run that is to end early waits for, and what becomes of it without it. */
  underWay: UnderWay
  /** Tries what would confirm it before anything is changed, and leaves a route that goes. Resolves to why that fails. */
  ready: () => Promise<FaultReport | undefined>
  /** Confirms what the program has done. Resolves to why it is not confirmed, and so rolled back; or to undefined. */
  confirm: () => Promise<FaultReport | undefined>
}

/** How changes at one kind of place are rolled back unless they are confirmed. */
export interface Transactions {
  /** For the commands of these steps. */
  apply: (subject: Subject, transaction: Transaction) => Begun
  /** For undoing them; undefined where an undo is no transaction, and is begun again when it failed. */
  undo: (subject: Subject, transaction: Transaction) => Begun | undefined
}

const begun = (
  subject: Subject,
  seconds: number,
  prove: (unconfirmed: Unconfirmed) => Proof,
  ready: Begun['ready'] = async () => undefined,
): Begun => {
  const id = `${subject.page.name}-${Date.now().toString(36)}`
  const what = subject.page.name
  const alone = recordOf(subject.page.on) === 'laptop' ? 'the next run rolls it' : 'the machine rolls it'
  const underWay = {
    until: `the change of ${what} that could lock you out is confirmed, or rolled back (${seconds} s at most)`,
    left: `${alone} back by itself, ${seconds} s after it began at the latest`,
  }
  return {
    armed: { id, seconds },
    underWay,
    ready,
    confirm: () => confirm(prove({ ...subject, id, seconds })),
  }
}

/**
 * A machine rolls back by itself, at a timer or its next boot, unless it is confirmed over a connection that shares nothing with
 * the one it was made by, as root, by the route that remains.
 */
const onMachine: Transactions = {
  // What must come up first gets the time that it may take.
  apply: (subject, { within = 0, route }) =>
    begun(
      subject,
      Math.max(subject.rollbackAfter, within),
      (it) => byNewLogin(it, route?.apply),
      // By the present route we are in already.
      async () =>
        route?.apply === undefined || route.apply === subject.machine.route
          ? undefined
          : enters(subject, subject.machine.reconnect(route.apply)),
    ),
  undo: (subject, { route }) =>
    begun(
      subject,
      subject.rollbackAfter,
      (it) => byNewLogin(it, route?.undo),
      async () =>
        route?.gone?.route === subject.machine.route ? leave(subject, route.gone.next) : undefined,
    ),
}

/**
 * The laptop is not what could be locked out, but what its steps change elsewhere may be. It is confirmed when all checks hold in
 * a program of its own, which makes its own connections. A run that dies leaves it to the next one to roll back.
 */
const onLaptop: Transactions = {
  apply: (subject, { within = 0 }) =>
    begun(subject, Math.max(subject.rollbackAfter, within), (it) => byItsChecks(it)),
  undo: () => undefined,
}

/** The transaction that these steps of a page need, where they need one. */
export function transactionFor(subject: Subject, what: keyof Transactions): Begun | undefined {
  const transaction = transactionOf(subject.steps.map(({ step }) => step))
  const all = recordOf(subject.page.on) === 'laptop' ? onLaptop : onMachine
  return transaction && all[what](subject, transaction)
}

interface Unconfirmed extends Subject {
  /** Its name on the machine. */
  id: string
  /** Seconds from its beginning until it is rolled back. */
  seconds: number
}

/** How a transaction is confirmed. */
interface Proof extends Unconfirmed {
  /** For the reader: `reconnecting to confirm the change`. */
  doing: string
  connection: Machine
  /** One try; it answers with a commit frame. */
  program: () => Promise<Program>
  confirmed: () => void
  /** The last try was made, and it is not confirmed. */
  ended: () => Promise<void>
  /** What is known of it then, and what to do. */
  fault: (last: Tried) => Omit<FaultReport, 'step' | 'said'>
}

/** Asked every quarter of a second at first, then more seldom; in milliseconds. */
const PAUSE = { first: 250, most: 5000 }
/** Seconds before the rollback in which nobody tries any more. */
const MARGIN = 10

/**
 * Tries until the transaction is confirmed, is refused, or is about to be rolled back. Resolves to why it is not confirmed, or to
 * undefined.
 */
async function confirm(proof: Proof): Promise<FaultReport | undefined> {
  const { seconds, connection, report } = proof
  const deadline = Date.now() + Math.max(5, seconds - MARGIN) * 1000
  let last: Tried = { said: '' }
  try {
    for (let pause = PAUSE.first; Date.now() < deadline; pause = Math.min(pause * 2, PAUSE.most)) {
      report.running({ index: 0, total: 0, name: proof.doing, limit: seconds, saw: last.said })
      const left = Math.ceil((deadline - Date.now()) / 1000)
      last = await tryOnce(connection, await proof.program(), Math.max(5, Math.min(30, left)))
      if (last.state === 'committed') {
        proof.confirmed()
        return undefined
      }
      if (last.state === 'refused' || last.state === 'died') break
      await new Promise((resolve) => setTimeout(resolve, pause))
    }
    await proof.ended()
  } finally {
    await connection.close()
  }
  return {
    step: proof.steps.map(({ step }) => step.name).join('; '),
    said: last.said || 'nothing',
    ...proof.fault(last),
  }
}

interface Tried {
  state?: CommitState
  said: string
}

/** One try, over the connection of the proof. */
async function tryOnce(connection: Machine, program: Program, seconds: number): Promise<Tried> {
  let answer: Tried | undefined
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

function byNewLogin(it: Unconfirmed, route: Route = it.machine.route): Proof {
  const { machine, page, id, seconds } = it
  const connection = machine.reconnect(route)
  return {
    ...it,
    doing: `reconnecting to confirm the change${route === 'tunnel' ? ' through the tunnel' : ''}`,
    connection,
    program: () => confirmProgram({ page: page.name, id, steps: [] }),
    // From now on the machine is used by that route.
    confirmed: () => void (route === machine.route || machine.switchTo(route)),
    ended: async () => {},
    fault: ({ state, said }) => {
      const ran = `a new connection to ${connection.label}`
      if (state === 'died')
        return {
          ran,
          state: 'the machine rolls these steps back now',
          next: 'run it again; journalctl on the machine may tell what ended it',
        }
      return {
        ran,
        state:
          state === 'refused'
            ? 'the machine has rolled these steps back, or is about to'
            : `the machine rolls these steps back by itself, ${seconds} s after they began`,
        next:
          why(said) ??
          (route === 'tunnel'
            ? 'bring the tunnel up on this computer, and run it again'
            : 'find out why a new login fails, and run it again'),
      }
    },
  }
}

/** Goes on by the other route before the present one is taken away. It may have been closed when it was last tried. */
async function leave(subject: Subject, next: string): Promise<FaultReport | undefined> {
  const { machine, page } = subject
  const other: Route = machine.route === 'tunnel' ? 'direct' : 'tunnel'
  const closed = await enters(subject, machine.reconnect(other))
  if (closed) return { ...closed, step: `undo ${page.name}`, next }
  machine.switchTo(other)
  return undefined
}

/** Logs in by the route that will be the only one, and becomes root there. */
async function enters(
  { page, steps, report }: Subject,
  connection: Machine,
): Promise<FaultReport | undefined> {
  report.running({ index: 0, total: 0, name: 'connecting by the route that will be left', limit: 30 })
  const outcome = await connection
    .run(await plain(page.name, []), () => {}, 30)
    .finally(() => connection.close())
  if (outcome.finished) return undefined
  const said = outcome.stderr.trim().split('\n').slice(-3).join('\n') || `it ended with ${outcome.code}`
  return {
    step: steps[0]?.step.name ?? page.name,
    as: 'blocked',
    ran: `a connection to ${connection.label}, before it is the only one`,
    said,
    state: 'nothing was changed',
    next: why(said) ?? 'bring the tunnel up on this computer, and run it again',
  }
}

/** What to look for where a log-in fails by one route and not by the other. */
function why(said: string): string | undefined {
  const rows: [RegExp, string][] = [
    [
      /Permission denied/,
      'look for what depends on the address: from= in authorized_keys, AllowUsers and Match in sshd_config.d, access.conf',
    ],
    [/Connection refused/, 'sshd does not listen there: look for ListenAddress and Port in sshd_config.d'],
    [
      /No \S+ host key is known|Host key verification failed/,
      'sshd shows another key than the one that is pinned: look for HostKey in sshd_config.d',
    ],
    [
      /Connection (closed|reset)/,
      'sshd hangs up: look at /etc/hosts.allow, /etc/hosts.deny and journalctl --unit=ssh',
    ],
  ]
  return rows.find(([pattern]) => pattern.test(said))?.[1]
}

function byItsChecks(it: Unconfirmed): Proof {
  const { machine, page, id, steps } = it
  const files = ['put.sh', 'snapshot.sh', 'guard.sh']
  return {
    ...it,
    doing: 'checking once more to confirm the change',
    connection: machine.reconnect('direct'),
    program: () => confirmProgram({ page: page.name, shell: page, id, steps }),
    confirmed: () => {},
    // Whoever takes the lock rolls back what is not confirmed.
    ended: async () => {
      await machine.run(await plain(page.name, [`fk_lock ${quote(lockOwner())}`], files), () => {})
    },
    fault: () => ({
      ran: 'the checks of these steps, once more',
      state: 'these steps are rolled back',
      next: 'find out what they cut off, and run it again',
    }),
  }
}
