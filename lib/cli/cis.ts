// ./task cis: the score of every node, for people and for programs.
import { join, relative } from 'node:path'
import type { Machine } from '../engine/machine.ts'
import { query } from '../engine/query.ts'
import { type Event, type Report, buffered, createReport } from '../engine/report.ts'
import { type Running, inspect, runPage } from '../engine/run.ts'
import { Fault } from '../ground/fault.ts'
import { land } from '../ground/secret.ts'
import { differences, differenceText, runBench } from '../k3s/bench.ts'
import { benchmark, cisOf } from '../k3s/cis.ts'
import { memberOf } from '../k3s/members.ts'
import { type Answers, type CisReport, resultsOf, sarifOf, scoreText, tally } from '../k3s/score.ts'
import { type Placed, machinesFor } from '../site/machines.ts'
import type { Config } from '../site/model.ts'
import { outDir } from '../site/out.ts'
import { abreast, gate, machinesAtOnce } from './abreast.ts'
import { NotBuilt } from './absent.ts'
import { asks } from './access.ts'
import type { Call } from './call.ts'
import { contextOf, storeOf } from './context.ts'
import { pageNamed } from './scripts.ts'
import { type Session, withSession } from './session.ts'
import { cis as table } from './tables.ts'

/**
 * Checks every control of its role on one node. Throws a Fault when none could be checked. `report` gets notes of what is made
 * on the way.
 */
export async function scoreNode(
  machine: Machine,
  config: Config,
  report: Report,
  { signal, now = () => new Date() }: { signal?: AbortSignal; now?: () => Date } = {},
): Promise<CisReport> {
  const { env, site } = config
  const store = storeOf(config, async (lines) => report.note(lines))
  const context = contextOf(config, machine.facts, store)
  const { role } = memberOf(context)
  const page = pageNamed('k3s-cis')
  const events: Event[] = []
  const silent = createReport({ json: true, stdout: { write: () => {} }, log: (event) => events.push(event) })
  const steps = page.steps(context)
  const running: Running = {
    machine,
    report: silent,
    store,
    rollbackAfter: env.FK_DEADMAN_SECONDS,
    lockWait: env.FK_LOCK_WAIT_SECONDS,
    ...(signal ? { signal } : {}),
  }
  // The score counts, whether or not the page was ever applied.
  const seen = inspect(page, steps, 'verify', running).then((found) => ({ ...found, recorded: true }))
  await runPage(page, steps, 'verify', running, seen)
  const answers: Answers = new Map()
  for (const event of events)
    if (event.event === 'control') {
      const { id, ...answer } = event as unknown as {
        id: string
        state: string
        found?: string
        waived?: string
      }
      answers.set(id, answer)
    }
  if (answers.size === 0) {
    const fault = events.find(({ event }) => event === 'error') as { said?: string } | undefined
    throw new Fault(`the controls of ${machine.label} could not be checked`, {
      said: fault?.said ?? 'no answer',
      next: './task k3s-cis verify --verbose',
    })
  }
  return {
    benchmark,
    site: site.name,
    node: machine.facts.name,
    role,
    time: now().toISOString(),
    results: resultsOf(cisOf(context, role), answers),
  }
}

/** The files of a report: what a program reads, and what a dashboard of findings does. */
async function writeScore(dir: string, report: CisReport): Promise<string[]> {
  const files = [
    [join(dir, `cis-${report.node}.json`), { ...report, tally: tally(report.results) }],
    [join(dir, `cis-${report.node}.sarif`), sarifOf(report)],
  ] as const
  for (const [path, document] of files) await land(path, `${JSON.stringify(document, null, 2)}\n`, true)
  return files.map(([path]) => relative(process.cwd(), path))
}

/** The machine of a node; undefined where it is not built yet, or has no k3s. */
async function built(connecting: Promise<Machine>): Promise<Machine | undefined> {
  try {
    const machine = await connecting
    const asked = '[ ! -L "$K3S" ] || answer k3s installed yes'
    const { installed } = await query(machine, [asked], { libraries: ['lib/k3s/members.sh'] })
    return installed === undefined ? undefined : machine
  } catch (error) {
    if (error instanceof NotBuilt) return undefined
    throw error
  }
}

/**
 * `./task cis`: the score of every node. Resolves to 1 when a control fails on one of them, 2 when one is not built yet, else 0.
 */
export const cis = (call: Call): Promise<number> =>
  withSession(
    call,
    table,
    async (session) => {
      const { config, report, needsHost, terminal, given } = session
      const directory = given['config-dir']
      if (directory !== undefined && !given.bench)
        throw new Fault('--config-dir is for kube-bench', { next: './task cis --bench --config-dir DIR' })
      needsHost()
      const nodes = machinesFor(config, 'node')
      if (nodes.length === 0)
        throw new Fault(`no node of the site ${config.site.name} runs k3s`, {
          next: 'Talos has a benchmark of its own: choose os: flatcar, or another site',
        })
      const dir = outDir(config)
      const found = nodes.map(() => buffered(report))
      const bench = given.bench ? benchOf(session, directory) : undefined
      const look = (spec: Placed) =>
        scored(session, spec, found[nodes.indexOf(spec)]?.report ?? report, bench)
      const looked = abreast(nodes, look, terminal && asks(config) ? 1 : machinesAtOnce)
      let failed = false
      let missing = false
      for (const [i, { name }] of nodes.entries()) {
        const one = await looked[i]?.finally(() => found[i]?.flush())
        if (one === undefined) {
          report.note(`${name} is not built yet, so there is nothing to score\n  next:  ./task build-all`)
          missing = true
          continue
        }
        failed ||= one.score.results.some(({ state }) => state === 'fail')
        const files = await writeScore(dir, one.score)
        process.stdout.write(given.json ? documentOf(one) : textOf(one, files))
      }
      return failed ? 1 : missing ? 2 : 0
    },
    { document: true },
  )

interface Scored {
  score: CisReport
  /** What kube-bench says otherwise. */
  bench?: ReturnType<typeof differences>
}

type Bench = (machine: Machine, role: CisReport['role'], report: Report) => ReturnType<typeof runBench>

/** One node, looked at; undefined where it is not built yet. */
async function scored(
  { config, connect, signal }: Session,
  spec: Placed,
  report: Report,
  bench?: Bench,
): Promise<Scored | undefined> {
  const machine = await built(connect(spec))
  if (machine === undefined) return undefined
  try {
    const score = await scoreNode(machine, config, report, { signal })
    if (bench === undefined) return { score }
    return { score, bench: differences(await bench(machine, score.role, report), score.results) }
  } finally {
    // Its log-in counts against a limit of the host that it is behind (maxlogins), and nothing more is to be looked at.
    await machine.close()
  }
}

/** kube-bench, one node after another: it is downloaded once, and uploaded to each over one line. */
function benchOf({ config, signal }: Session, directory: string | undefined): Bench {
  const turn = gate(1)
  return (machine, role, report) => turn(() => runBench(machine, config, role, directory, report, signal))
}

const documentOf = ({ score, bench }: Scored): string =>
  `${JSON.stringify({ ...score, tally: tally(score.results), ...(bench ? { differences: bench } : {}) })}\n`

const textOf = ({ score, bench }: Scored, files: string[]): string =>
  `${scoreText(score)}\n  written: ${files.join(', ')}\n${bench ? `${differenceText(score.node, bench)}\n` : ''}`
