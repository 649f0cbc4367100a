// A command opens a site, connects, works, closes, and fails, in one way: this one.
import { createRequire } from 'node:module'
import { sweep } from '../component/memory.ts'
import type { Machine } from '../engine/machine.ts'
import { type Report, createReport } from '../engine/report.ts'
import { Fault } from '../ground/fault.ts'
import { nearest } from '../ground/nearest.ts'
import { atTerminal } from '../ground/laptop.ts'
import type { SecretStore } from '../ground/secret.ts'
import { askBy } from '../ground/unlock.ts'
import { speakThrough } from '../ground/stop.ts'
import { loadConfig } from '../site/config.ts'
import { type Placed, isApi, isLaptop, machinesFor } from '../site/machines.ts'
import type { Config } from '../site/model.ts'
import { assertBuilt } from './absent.ts'
import { connectTo, hostOf } from './access.ts'
import type { Call } from './call.ts'
import { stateOf, storeOf } from './context.ts'
import { type Given, type Table, parse } from './flags.ts'
import { keeper } from './keeper.ts'
import { runLog } from './log.ts'
import { interactive } from './prompt.ts'

const load = createRequire(import.meta.url)

/** An open site. */
export interface Session {
  config: Config
  /** The directory of the site on the laptop. */
  state: string
  store: SecretStore
  report: Report
  /** Somebody can be asked. */
  terminal: boolean
  signal: AbortSignal
  /** The log of this run, where there is one. */
  log: string | undefined
  /** Throws a Fault where FK_HOST is not set. */
  needsHost: () => void
  /** Connects to a machine, once. Rejects with a Fault where it cannot be reached. */
  connect: (spec: Placed) => Promise<Machine>
  /** Closes what was connected, and the report. */
  close: () => Promise<void>
}

interface Opening {
  site?: string | undefined
  json?: boolean | undefined
  verbose?: boolean | undefined
  /** A run over many pages: one line a page that holds. */
  brief?: boolean
  signal: AbortSignal
  /** Absent: whether standard output is a terminal decides. */
  live?: boolean
  /** Nothing is to be asked. */
  yes?: boolean | undefined
  /** Every event is also written to the log directory. */
  logged?: boolean
  /** Standard output belongs to the document that the command writes itself: notes go to standard error. */
  document?: boolean
}

/** Opens a site. Throws ConfigError before anything else happens. */
export function openSession({ site, json = false, verbose = false, signal, ...opening }: Opening): Session {
  const config = loadConfig(site === undefined ? {} : { site })
  const { live, logged = false, document = false, yes = false, brief = false } = opening
  const log = logged ? runLog(config.env.FK_LOG_DIR) : undefined
  const aside = document && json
  const report = createReport({
    json: json && !document,
    verbose,
    brief,
    ...(live === undefined ? {} : { tty: live && !aside }),
    ...(aside ? { stdout: process.stderr } : {}),
    ...(log ? { log: log.write } : {}),
  })
  speakThrough((text, last) => {
    if (last) report.pause()
    report.note(text)
  })
  const terminal = interactive(json)
  sweep()
  askBy(passphraseAt(report))
  const copies = keeper(config.env.FK_AGE_IDENTITY, report, terminal && !yes && !config.env.FK_YES)
  const store = storeOf(config, copies.made)
  const machines = new Map<string | Placed, Promise<Machine>>()
  const closing: (() => void)[] = []
  const connect = (spec: Placed): Promise<Machine> => {
    const key = isLaptop(spec) ? spec : spec.name // a machine of the site may bear the name, too
    const known = machines.get(key)
    if (known !== undefined) return known
    const connected = open(spec)
    machines.set(key, connected)
    // What could not be reached may be reached later in this run: a page may build it.
    connected.catch(() => machines.delete(key))
    return connected
  }
  const hostOfVm = ({ behind }: Placed) => machinesFor(config, 'host').find(({ name }) => name === behind)
  const open = async (spec: Placed): Promise<Machine> => {
    if (isApi(spec)) {
      const { connectApi } = load('./api.ts') as typeof import('./api.ts')
      const { machine, close } = await connectApi({ config, store, report, signal }, spec, terminal)
      closing.push(close)
      return machine
    }
    const host = hostOfVm(spec)
    if (host === undefined) return connectTo(config, spec, terminal, report, { signal })
    // Whether there is such a machine is looked up on its host: first where that is connected, else when it does not answer.
    const before = machines.get(host.name)
    if (before !== undefined) await assertBuilt(await before, spec)
    try {
      return await connectTo(config, spec, terminal, report, { signal })
    } catch (error) {
      const asked = before === undefined && error instanceof Fault
      const known = asked ? await connect(host).catch(() => undefined) : undefined
      if (known !== undefined) await assertBuilt(known, spec)
      throw error
    }
  }
  return {
    config,
    state: stateOf(config),
    store,
    report,
    terminal,
    signal,
    log: log?.file,
    needsHost: () => void hostOf(config),
    connect,
    close: async () => {
      // What could not be connected was reported where it was needed.
      await Promise.allSettled([...machines.values()].map(async (machine) => (await machine).close()))
      for (const close of closing) close()
      copies.remind()
      report.close()
      speakThrough()
    },
  }
}

/** The passphrase of an age identity is typed at the terminal, whatever standard input and output are. */
const passphraseAt =
  (report: Report) =>
  async (path: string, again: boolean): Promise<string> => {
    report.pause()
    const typed = await atTerminal(`${again ? 'It does not open it. ' : ''}Passphrase of ${path}: `)
    if (typed !== undefined) return typed
    throw new Fault(
      `the age identity ${path} is protected by a passphrase, and there is no terminal to type it at`,
      {
        state: 'nothing was changed',
        next: 'run it at a terminal; or name in FK_AGE_IDENTITY one without, on a drive that is plugged in for the run',
      },
    )
  }

/** What is typed, then the site, then the work; whatever happens, everything is closed. Resolves to the exit code of the work. */
export async function withSession<T extends Table>(
  call: Call,
  table: T,
  work: (session: Session & { given: Given<T> }) => Promise<number>,
  { document = false } = {},
): Promise<number> {
  const given = parse(call, table)
  const { site, json, verbose, yes } = given as {
    site?: string
    json?: boolean
    verbose?: boolean
    yes?: boolean
  }
  const session = openSession({ site, json, verbose, yes, signal: call.signal, live: call.live, document })
  try {
    return await work({ ...session, given })
  } finally {
    await session.close()
  }
}

/** The one of that name. Throws a Fault with the nearest name; `what` is `machine`, `node`, `virtual machine`. */
export function named<T extends { name: string }>(
  all: T[],
  name: string,
  site: string,
  what: string,
  none?: string,
): T {
  const found = all.find((one) => one.name === name)
  if (found !== undefined) return found
  const names = all.map((one) => one.name)
  const near = nearest(name, names)
  throw new Fault(
    `the site ${site} has no ${what} ${name}${near === undefined ? '' : `; did you mean ${near}?`}`,
    {
      next: names.length === 0 && none !== undefined ? none : `it has ${names.join(', ')}`,
    },
  )
}
