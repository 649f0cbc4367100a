// ./task cis: the score of every node, for people and for programs.
import { mkdirSync } from 'node:fs'
import { join, relative } from 'node:path'
import type { Machine } from '../engine/machine.ts'
import { type Event, type Report, createReport } from '../engine/report.ts'
import { runPage } from '../engine/run.ts'
import { Fault } from '../ground/fault.ts'
import { root } from '../ground/root.ts'
import { land } from '../ground/secret.ts'
import { differences, differenceText, runBench } from '../k3s/bench.ts'
import { benchmark, cisOf } from '../k3s/cis.ts'
import { memberOf } from '../k3s/members.ts'
import { type Answers, type CisReport, resultsOf, sarifOf, scoreText, tally } from '../k3s/score.ts'
import { loadConfig } from '../site/config.ts'
import { machinesFor } from '../site/machines.ts'
import type { Config } from '../site/model.ts'
import { type Flags, flags } from './flags.ts'
import { connectTo, contextOf, storeOf } from './pages.ts'
import { pageNamed } from './scripts.ts'
import type { Call } from './taskfile.ts'

/** Asks one node every control of its role. Throws a Fault when it cannot be asked. `report` is told of what is made on the way. */
export async function askNode(
  machine: Machine,
  config: Config,
  report: Report,
  { signal, now = () => new Date() }: { signal?: AbortSignal; now?: () => Date } = {},
): Promise<CisReport> {
  const { env, site } = config
  const store = storeOf(config, report)
  const context = contextOf(config, machine.facts, store)
  const { role } = memberOf(context)
  const page = pageNamed('k3s-cis')
  const events: Event[] = []
  const told = createReport({ json: true, stdout: { write: () => {} }, log: (event) => events.push(event) })
  await runPage(page, page.steps(context), 'verify', {
    machine,
    report: told,
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
    throw new Fault(`${machine.label} could not be asked`, {
      said: fault?.said ?? 'it answered nothing',
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
async function written(report: CisReport): Promise<string[]> {
  const dir = join(root, 'out', report.site)
  const files = [
    [join(dir, `cis-${report.node}.json`), { ...report, tally: tally(report.results) }],
    [join(dir, `cis-${report.node}.sarif`), sarifOf(report)],
  ] as const
  mkdirSync(dir, { recursive: true })
  for (const [path, document] of files) await land(path, `${JSON.stringify(document, null, 2)}\n`, true)
  return files.map(([path]) => relative(process.cwd(), path))
}

/** `./task cis`: the score of every node. Resolves to 1 when a control fails on one of them, else 0. */
export async function cis(call: Call): Promise<number> {
  const given: Flags = flags(call, [], ['json', 'verbose', 'site', 'bench', 'config-dir'])
  if (given.configDir !== undefined && !given.bench)
    throw new Fault('--config-dir is for kube-bench', { next: './task cis --bench --config-dir DIR' })
  const config = loadConfig(given.site === undefined ? {} : { site: given.site })
  if (config.env.FK_HOST === undefined)
    throw new Fault('There is no node to ask: FK_HOST is not set', {
      next: 'FK_HOST=admin@192.0.2.10 (or local, or lab), in the environment or in .env',
    })
  const nodes = machinesFor(config, 'node')
  if (nodes.length === 0)
    throw new Fault(`no node of the site ${config.site.name} runs k3s`, {
      next: 'Talos has a benchmark of its own: FK_NODE_OS=flatcar, or another site',
    })
  const report = createReport({
    verbose: given.verbose,
    tty: call.live && !given.json,
    ...(given.json ? { stdout: process.stderr } : {}),
  })
  const terminal = process.stdin.isTTY === true && process.stdout.isTTY === true && !given.json
  let bad = false
  try {
    for (const spec of nodes) {
      const machine = await connectTo(config, spec, terminal, report)
      try {
        const asked = await askNode(machine, config, report, { signal: call.signal })
        bad ||= asked.results.some(({ state }) => state === 'fail')
        const files = await written(asked)
        const second = given.bench
          ? differences(
              await runBench(machine, config, asked.role, given.configDir, report, call.signal),
              asked.results,
            )
          : undefined
        if (given.json)
          process.stdout.write(
            `${JSON.stringify({ ...asked, tally: tally(asked.results), ...(second ? { differences: second } : {}) })}\n`,
          )
        else {
          process.stdout.write(`${scoreText(asked)}\n  written: ${files.join(', ')}\n`)
          if (second) process.stdout.write(`${differenceText(asked.node, second)}\n`)
        }
      } finally {
        await machine.close()
      }
    }
  } finally {
    report.close()
  }
  return bad ? 1 : 0
}
