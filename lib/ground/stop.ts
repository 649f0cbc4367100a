// How a run ends early: on Ctrl-C, when its terminal hangs up, or when nobody reads it any more. The first time nothing new
// begins, and what is begun ends; the second time it is left to the machine. It hides signals, and who says what is waited for.
import { Fault } from './fault.ts'

/** Thrown where a run ends early, at a place where nothing is half done. */
export class Stopped extends Fault {
  readonly code = 130

  /** What of the work is kept; without it nothing was begun. */
  constructor(message = 'Stopped by you. Nothing was changed.') {
    super(message, { next: 'run the same command again when you are ready' })
  }
}

/** What must not be cut off; it may change while it is under way. */
export interface UnderWay {
  /** What is waited for: `2/9 the service runs has ended`. */
  until: string
  /** What becomes of it when nobody waits: `the machine ends it`. */
  left: string
}

const underWay = new Set<UnderWay>()
/** `last`: nothing follows. */
type Voice = (text: string, last: boolean) => unknown
const aloud: Voice = (text) => process.stderr.write(`\n${text}\n`)
let say = aloud

/** From now on what is said of a stop goes there; without it, to standard error. */
export const speakThrough = (voice = aloud): void => void (say = voice)

/** While `work` runs, a run that is to stop waits for it. */
export async function during<T>(what: UnderWay, work: () => Promise<T>): Promise<T> {
  underWay.add(what)
  try {
    return await work()
  } finally {
    underWay.delete(what)
  }
}

/** Milliseconds in which a second signal is the same key: npx passes on what the terminal has sent to us, too. */
const ONE_KEY = 300

let request: ((code: number, spoken: boolean) => void) | undefined

/** The same as Ctrl-C, but silent: for a terminal that gives the key instead of the signal. */
export const stopNow = (): void => request?.(130, false)

/** Runs `work` so that it can be stopped. Resolves to its exit code; to 128 + the signal where it was stopped. */
export async function stoppable(work: (signal: AbortSignal) => Promise<number>): Promise<number> {
  const stop = new AbortController()
  let since = 0
  request = (code, spoken) => {
    if (!stop.signal.aborted) {
      since = Date.now()
      const what = [...underWay].map(({ until }) => until)
      if (spoken)
        say(
          `Stopping when ${what.join(', and ') || 'what is begun has ended'}. Ctrl-C again leaves it at once.`,
          false,
        )
      stop.abort(code)
    } else if (spoken && Date.now() - since > ONE_KEY) {
      const left = [...underWay].map((one) => one.left)
      say(
        `Stopped by you at once: ${left.join('; ') || 'what a machine was at ends there by itself'}.\n` +
          'Next: run the same command again',
        true,
      )
      process.exit(stop.signal.reason as number)
    }
  }
  const on: [string, (error?: NodeJS.ErrnoException) => void][] = [
    ['SIGINT', () => request?.(130, true)],
    ['SIGTERM', () => request?.(143, true)],
    // The terminal is gone: there is nobody to say anything to.
    ['SIGHUP', () => request?.(129, false)],
  ]
  // Whoever read our output has gone, or the terminal has: that is no fault, and the exit code is that of SIGPIPE.
  const gone = (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE' && error.code !== 'EIO') throw error
    request?.(141, false)
  }
  for (const [name, listener] of on) process.on(name, listener)
  for (const stream of [process.stdout, process.stderr]) stream.on('error', gone)
  try {
    const code = await work(stop.signal)
    return stop.signal.aborted ? (stop.signal.reason as number) : code
  } finally {
    for (const [name, listener] of on) process.off(name, listener)
    for (const stream of [process.stdout, process.stderr]) stream.off('error', gone)
    request = undefined
  }
}
