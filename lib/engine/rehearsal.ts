// A run without a machine: every page is rendered for the site, every artifact written to out/, and checked with the real
// checker where this computer has it. Nothing is touched, nothing needs root or a network.
import { execFile } from 'node:child_process'
import { mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join, relative } from 'node:path'
import { promisify } from 'node:util'
import { root } from '../ground/root.ts'
import type { Command } from '../ground/sh.ts'
import { type Placed, machinesFor } from '../site/machines.ts'
import type { Config } from '../site/model.ts'
import type { Context, Page } from './page.ts'
import { printed } from './print.ts'
import type { Report } from './report.ts'
import { isChange } from './step.ts'

const run = promisify(execFile)

interface Check {
  artifact: string
  by: string
  result: 'passed' | 'failed' | 'not checked'
  said: string
}

/** Writes out/<site>/ anew and resolves to 0, or 1 when a checker found a fault. */
export async function rehearse(
  pages: Page[],
  context: (spec: Placed) => Context,
  { site, env }: Config,
  report: Report,
): Promise<0 | 1> {
  const out = join(root, 'out', site.name)
  for (const page of pages) rmSync(join(out, `${page.name}.sh`), { force: true })
  report.note(`Rehearsal for the site ${site.name}: FK_HOST is not set, so nothing is touched.`)
  const checks: Check[] = []
  const index: object[] = []
  let files = 0
  for (const page of pages) {
    for (const spec of machinesFor({ site, env }, page.on)) {
      const steps = page.steps(context(spec))
      if (steps.length === 0) continue
      report.page({ name: page.name, summary: page.summary, file: page.file, layer: page.layer, on: page.on })
      const script = join(out, `${page.name}.sh`)
      write(script, printed({ ...page, steps }), 0o755)
      checks.push(await check(script, 'bash', ['-n', script]))
      checks.push(await check(script, 'shellcheck', ['--severity=warning', script]))
      for (const [i, step] of steps.entries()) {
        report.step({
          index: i + 1,
          total: steps.length,
          name: step.name,
          state: 'change',
        })
        for (const c of step.controls ?? [])
          report.control({
            id: c.id,
            title: c.title,
            state: c.waived ? 'waived' : 'change',
            from: c.from,
            ...(c.waived ? { waived: c.waived } : {}),
          })
        if (!isChange(step) || step.target === undefined) continue
        const { path, text = step.target.shown, mode, test } = step.target
        if (text === undefined) continue
        const copy = join(out, spec.name, path)
        write(copy, text, Number.parseInt(mode, 8) | 0o200)
        files += 1
        if (test) checks.push(await tested(copy, test))
      }
      index.push({
        page: page.name,
        machine: spec.name,
        layer: page.layer,
        steps: steps.map((s) => ({
          name: s.name,
          why: s.why,
          controls: (s.controls ?? []).map((c) => ({
            id: c.id,
            title: c.title,
            from: c.from,
            waived: c.waived,
          })),
        })),
      })
    }
  }
  write(
    join(out, 'report.json'),
    `${JSON.stringify({ site: site.name, pages: index, checks }, null, 2)}\n`,
    0o644,
  )
  const failed = checks.filter((c) => c.result === 'failed')
  const passed = checks.filter((c) => c.result === 'passed').length
  for (const c of failed)
    report.error({
      step: `${c.artifact} is accepted by ${c.by}`,
      ran: c.by,
      said: c.said,
      state: 'nothing was touched',
      next: 'mend the file in config/ or the page',
    })
  const missing = new Map<string, number>()
  for (const c of checks.filter((c) => c.result === 'not checked'))
    missing.set(`${c.by}: ${c.said}`, (missing.get(`${c.by}: ${c.said}`) ?? 0) + 1)
  report.note(
    `\nWritten to ${relative(process.cwd(), out) || '.'}/: ${pages.length === 1 ? '1 page' : `${pages.length} pages`} as bash, ${files} files for machines, report.json.`,
  )
  report.note(
    `Checked: ${passed} artifacts pass their own checker${failed.length > 0 ? `, ${failed.length} do not` : ''}.`,
  )
  for (const [why, n] of missing) report.note(`Not checked: ${n} with ${why}.`)
  report.note('Next: set FK_HOST (admin@192.0.2.10, or lab for a throw-away machine) and run the same again.')
  return failed.length > 0 ? 1 : 0
}

function write(path: string, text: string, mode: number): void {
  mkdirSync(dirname(path), { recursive: true })
  writeFileSync(path, text, { mode })
}

async function check(path: string, tool: string, args: string[], env?: NodeJS.ProcessEnv): Promise<Check> {
  const artifact = relative(root, path)
  try {
    await run(tool, args, { timeout: 60_000, ...(env ? { env } : {}) })
    return { artifact, by: tool, result: 'passed', said: '' }
  } catch (error) {
    const { code, stderr, stdout } = error as { code?: unknown; stderr?: string; stdout?: string }
    if (code === 'ENOENT' || code === ABSENT)
      return { artifact, by: tool, result: 'not checked', said: 'it is not installed here' }
    return { artifact, by: tool, result: 'failed', said: `${stdout ?? ''}${stderr ?? ''}`.trim() }
  }
}

const ABSENT = 99

/** Why a checker of this computer cannot judge a file of another: it lacks rights or keys, or is older than the machine's. */
const unfit: [RegExp, string][] = [
  [
    /permission denied|operation not permitted|must be root|no hostkeys|only root|privilege separation|cannot open netlink/i,
    'it needs root here',
  ],
  [/Unsupported KEX algorithm|Bad SSH2 KexAlgorithms/, 'it is older here than on the machine'],
  [/the laptop had no age identity/, 'the laptop has no age identity yet'],
]

/** The page's own test of a file, by the tool that it names first. */
async function tested(copy: string, test: Command): Promise<Check> {
  const tool = /^\s*(?:\w+=\S+ )*([\w./-]+)/.exec(test.text)?.[1] ?? 'bash'
  const script = `command -v ${tool} > /dev/null || exit ${ABSENT}; ${test.text}`
  const env = { PATH: '/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin', new: copy }
  // Without --norc bash takes Node's pipe for a login over the network and reads the startup files of this computer.
  const result = {
    ...(await check(copy, 'bash', ['--norc', '-euo', 'pipefail', '-c', script], env)),
    by: tool,
  }
  const why = unfit.find(([said]) => result.result === 'failed' && said.test(result.said))?.[1]
  return why === undefined ? result : { ...result, result: 'not checked', said: why }
}
