// Pages from the command line: which, in which mode, and what comes before a machine is reached. A page alone and the whole
// runbook are the same thing.
import { createRequire } from 'node:module'
import type { Page } from '../engine/page.ts'
import { count } from '../engine/report.ts'
import type { Mode } from '../engine/verdict.ts'
import { Fault } from '../ground/fault.ts'
import { debug } from '../site/config.ts'
import { type Placed, everyMachine } from '../site/machines.ts'
import { Stopped, stoppable } from '../ground/stop.ts'
import { notBuiltNote } from '../site/planned.ts'
import { hostOf } from './access.ts'
import { contextOf, declaredFacts } from './context.ts'
import { helpLines, parse } from './flags.ts'
import { printPage, printRunbook } from './print.ts'
import { type Ask, agrees, confirmed } from './prompt.ts'
import { refuse } from './refusal.ts'
import { choiceOf, isDone } from './runend.ts'
import { type Session, openSession } from './session.ts'
import { type AnyMode, type RunFlags, page as pageTable } from './tables.ts'

const load = createRequire(import.meta.url)

/** `tsx scripts/NN-name.ts [mode] [flags]`. Resolves to the exit code; what it refuses goes to standard error. */
export async function pageMain(page: Page, argv: string[], signal?: AbortSignal): Promise<number> {
  if (signal === undefined) return stoppable((own) => pageMain(page, argv, own))
  try {
    if (argv.includes('--help') || argv.includes('-h')) {
      process.stdout.write(help(page))
      return 0
    }
    const given = parse({ name: `scripts/${page.name}.ts`, argv }, pageTable)
    return await runPages([page], given.words[0] as AnyMode | undefined, given, signal)
  } catch (error) {
    return refuse(error, debug())
  }
}

function help({ name, summary }: Page): string {
  const lines = [
    `${name}  ${summary}`,
    '',
    `./task ${name.slice(3)} [mode] [flags], or npx tsx scripts/${name}.ts [mode] [flags]`,
    ...helpLines(pageTable),
  ]
  return `${lines.join('\n')}\n`
}

/**
 * Runs pages, in the order given, on every machine of the site that they are for. Without a mode: plan, then apply when
 * somebody at a terminal says yes. Without FK_HOST: a rehearsal. `runbook` is the number of all pages there are, where these are
 * what was chosen of them: then each is one line, and a machine is changed only when somebody agrees to the plan. Rejects with
 * ConfigError or Fault before anything ran.
 */
export async function runPages(
  pages: Page[],
  mode: AnyMode | undefined,
  given: RunFlags,
  signal: AbortSignal,
  runbook?: number,
): Promise<number> {
  if (given.machine !== undefined && mode !== 'print')
    throw new Fault('--machine is for print. Nothing was run.')
  const { site, json } = given
  const many = runbook !== undefined && pages.length > 1
  const session = openSession({
    site,
    json,
    verbose: given.verbose || (mode === 'verify' && !many),
    brief: many && !(mode === 'plan' && given.diff),
    yes: given.yes,
    signal,
    logged: true,
  })
  const { config, report, store } = session
  try {
    const declared = (spec: Placed) => contextOf(config, declaredFacts(spec, config), store)
    if (mode === 'print') {
      const [only, ...more] = pages
      if (only === undefined || more.length > 0 || given.layer !== undefined)
        return printRunbook(pages, declared, config, report)
      process.stdout.write(printPage(only, declared, config, given.machine))
      return 0
    }
    const rehearsal =
      config.env.FK_HOST === undefined && (mode === undefined || mode === 'plan' || mode === 'apply')
    if (rehearsal) {
      const { rehearse } = load('../engine/rehearsal.ts') as typeof import('../engine/rehearsal.ts')
      return await rehearse(pages, declared, config, report, pages.length === runbook)
    }
    return await runOn(session, pages, mode, given, runbook)
  } finally {
    await session.close()
  }
}

/** The same in a session that is open, on machines; `ask` is how a person is asked. Resolves to the exit code. */
export async function runOn(
  session: Session,
  pages: Page[],
  mode: Mode | undefined,
  given: RunFlags,
  runbook?: number,
  ask?: Ask,
): Promise<number> {
  const { config, report, terminal, signal } = session
  const host = hostOf(config)
  const yes = given.yes || config.env.FK_YES || host.kind === 'lab'
  if (mode === 'undo') {
    if (pages.length > 1) await confirmUndo(session, given.confirm, ask)
    else if (!yes && terminal && !(await agrees(`Undo ${pages[0]?.name}?`, ask))) return 2
  }
  const { PageRun } = load('./pagerun.ts') as typeof import('./pagerun.ts')
  const label = `${config.site.name} (${config.env.FK_HOST})`
  if (mode === 'apply' && runbook !== undefined && !yes) {
    const plan = new PageRun(session, host.kind, pages, 'plan', given)
    const code = await plan.all()
    const open = plan.came.filter(({ result }) => !isDone(result.state))
    const answering = open.filter(({ result }) => result.state !== 'unknown').map((one) => one.page)
    const silent = open.length > 0 && answering.length === 0 && !signal.aborted
    const some = plan.came.length > open.length
    const who = some ? 'No machine with pages to apply' : `No machine of ${label}`
    const sum = `${who} answers: nothing was applied`
    const next = `./task build-all${choiceOf(given)} again, when they answer`
    report.end({ ...plan.end(label, !signal.aborted), ...(silent ? { sum, next } : {}) })
    if (signal.aborted || open.length === 0 || silent) return code
    if (!terminal) {
      report.note('Nothing was applied: there is no terminal to ask. --yes (or FK_YES=true) applies it.')
      return code === 1 ? 1 : 2
    }
    report.pause()
    if (!(await agrees(`Apply ${count(new Set(answering).size, 'page')} to ${label}?`, ask)))
      return code === 1 ? 1 : 2
  }
  const run = new PageRun(session, host.kind, pages, mode, given, runbook === undefined)
  const code = await run.all()
  if (runbook === undefined || pages.length === 1) {
    if (signal.aborted && run.came.length === 0) throw new Stopped()
    if (run.stopped) report.end(run.end(label))
    const changed = run.came.some(({ page, result }) => page.verifies && result.changed > 0)
    if (changed && code !== 1 && !signal.aborted) return await verifyBehind(session, label, given)
  } else {
    const missing = mode === 'undo' ? undefined : notBuiltNote(config.site)
    if (missing !== undefined) report.note(missing)
    report.end(run.end(label))
  }
  return code
}

/** Everything that was applied on the machines of the site, behind a page that could have touched it all. */
async function verifyBehind(session: Session, label: string, given: RunFlags): Promise<0 | 1 | 2> {
  const { report, config } = session
  const { PageRun } = load('./pagerun.ts') as typeof import('./pagerun.ts')
  const { open, pages } = load('./scripts.ts') as typeof import('./scripts.ts')
  report.note('Everything that was built is verified now.')
  report.briefly()
  const run = new PageRun(session, hostOf(config).kind, pages().map(open), 'verify', given, false, true)
  const code = await run.all()
  report.end(run.end(label))
  return code
}

function confirmUndo({ config, terminal }: Session, confirm: string | undefined, ask?: Ask): Promise<void> {
  const name = everyMachine(config)[0]?.name ?? config.site.name
  return confirmed(name, {
    about: `This undoes every page on ${name}.`,
    confirm,
    terminal,
    what: 'undoing everything',
    ...(ask ? { ask } : {}),
  })
}
