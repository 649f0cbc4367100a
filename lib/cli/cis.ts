// ./task cis: the score of every node, for people and for programs.
import { join, relative } from 'node:path'
import type { Machine } from '../engine/machine.ts'
import { query } from '../engine/query.ts'
import { type Event, type Report, createReport } from '../engine/report.ts'
import { runPage } from '../engine/run.ts'
import { Fault } from '../ground/fault.ts'
import { land } from '../ground/secret.ts'
import { differences, differenceText, runBench } from '../k3s/bench.ts'
import { benchmark, cisOf } from '../k3s/cis.ts'
import { memberOf } from '../k3s/members.ts'
import { type Answers, type CisReport, resultsOf, sarifOf, scoreText, tally } from '../k3s/score.ts'
import { machinesFor } from '../site/machines.ts'
import type { Config } from '../site/model.ts'
import { outDir } from '../site/out.ts'
import type { Call } from './call.ts'
import { contextOf, storeOf } from './context.ts'
import { pageNamed } from './scripts.ts'
import { withSession } from './session.ts'
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
  await runPage(page, page.steps(context), 'verify', {
    machine,
    report: silent,
    store,
    rollbackAfter: env.FK_DEADMAN_SECONDS,
    lockWait: env.FK_LOCK_WAIT_SECONDS,
    ...(signal ? { signal } : {}),
  })
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

/** What a host answers that has made a virtual machine, and a node on which k3s is installed. */
const IS_MADE = '[ ! -d /var/lib/fortress/pages/13-vm-provision ] || answer built yes yes'
const HAS_K3S = '[ ! -L "$K3S" ] || answer built yes yes'

const answersYes = async (machine: Machine, statement: string): Promise<boolean> =>
  (await query(machine, [statement], { libraries: ['lib/k3s/members.sh'] }))['yes'] === 'yes'

/**
 * `./task cis`: the score of every node. Resolves to 1 when a control fails on one of them, 2 when one is not built yet, else 0.
 */
export const cis = (call: Call): Promise<number> =>
  withSession(
    call,
    table,
    async ({ config, report, connect, needsHost, signal, given }) => {
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
      let failed = false
      let missing = 0
      for (const spec of nodes) {
        const host = machinesFor(config, 'host').find(({ name }) => name === spec.behind)
        const made = host === undefined || (await answersYes(await connect(host), IS_MADE))
        if (!made || !(await answersYes(await connect(spec), HAS_K3S))) {
          report.note(
            `${spec.name} is not built yet, so there is nothing to score\n  next:  ./task build-all`,
          )
          missing += 1
          continue
        }
        const machine = await connect(spec)
        const score = await scoreNode(machine, config, report, { signal })
        failed ||= score.results.some(({ state }) => state === 'fail')
        const files = await writeScore(dir, score)
        const bench = given.bench
          ? differences(await runBench(machine, config, score.role, directory, report, signal), score.results)
          : undefined
        process.stdout.write(given.json ? documentOf(score, bench) : textOf(score, files, bench))
      }
      return failed ? 1 : missing > 0 ? 2 : 0
    },
    { document: true },
  )

type Differences = ReturnType<typeof differences>

const documentOf = (score: CisReport, bench: Differences | undefined): string =>
  `${JSON.stringify({ ...score, tally: tally(score.results), ...(bench ? { differences: bench } : {}) })}\n`

const textOf = (score: CisReport, files: string[], bench: Differences | undefined): string =>
  `${scoreText(score)}\n  written: ${files.join(', ')}\n${bench ? `${differenceText(score.node, bench)}\n` : ''}`
