// A run without a machine: every page is printed for the site, every file for a machine written to out/, and checked with the
// real checker where this computer has it. Nothing is touched, nothing needs root or a network. What a checker found good is not
// given to it again while both are the same.
import { createHash } from 'node:crypto'
import { accessSync, constants, mkdirSync, readFileSync, renameSync, statSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { availableParallelism } from 'node:os'
import { delimiter, dirname, join, relative } from 'node:path'
import { $, which } from '../ground/laptop.ts'
import { root } from '../ground/root.ts'
import type { Command } from '../ground/sh.ts'
import type { Placed } from '../site/machines.ts'
import type { Config } from '../site/model.ts'
import { outDir } from '../site/out.ts'
import { notBuiltNote } from '../site/planned.ts'
import type { Context, Page } from './page.ts'
import { type PageResult, type Report, count } from './report.ts'
import { type PrintedPage, printedPages, writePages } from './runbook.ts'
import { type Step, isChange } from './step.ts'

const load = createRequire(import.meta.url)

interface Check {
  artifact: string
  by: string
  result: 'passed' | 'failed' | 'not checked'
  said: string
}

/** One question to a checker. `seen`: all that its answer depends on, beside the checker itself. */
interface Question {
  artifact: string
  tool: string
  seen: string
  command: string
  env?: Record<string, string>
}

/**
 * Writes out/<site>/ anew and resolves to 0, or 1 when a checker found a fault. `context` gives what a page may know of a machine
 * without asking it; `whole` says that these are all pages of the runbook: what is written of a part leaves the report of the
 * whole alone.
 */
export async function rehearse(
  pages: Page[],
  context: (machine: Placed) => Context,
  config: Config,
  report: Report,
  whole: boolean,
): Promise<0 | 1> {
  const { site } = config
  const out = outDir(config)
  const dir = `${relative(process.cwd(), out) || '.'}/`
  report.note(`Rehearsal for the site ${site.name}: FK_HOST is not set, so nothing is touched.`)
  const all = printedPages(pages, context, config)
  const questions = aboutPages(join(out, 'print'), all)
  const sums = { steps: 0, files: 0 }
  for (const { page, on, steps } of all) {
    report.page({ name: page.name, summary: page.summary, file: page.file, layer: page.layer, on: page.on })
    steps.forEach((step, i) => tell(report, step, i + 1, steps))
    const written = writeFiles(join(out, on.name), steps)
    questions.push(...written.questions)
    sums.steps += steps.length
    sums.files += written.files
    report.result({
      name: page.name,
      layer: page.layer,
      mode: 'rehearsal',
      ...(all.some((other) => other.on.name !== on.name) ? { machine: on.name } : {}),
      ...pageLine(steps, written.files),
    })
  }
  const checks = await answered(questions, site.name)
  const index = all.map(({ page, on, steps }) => ({
    page: page.name,
    machine: on.name,
    layer: page.layer,
    steps: steps.map(({ name, why, controls = [] }) => ({
      name,
      why,
      controls: controls.map(({ id, title, from, waived }) => ({ id, title, from, waived })),
    })),
  }))
  const text = JSON.stringify({ site: site.name, pages: index, checks }, null, 2)
  const [first] = pages
  const file = whole ? 'report.json' : pages.length === 1 ? `report-${first?.name}.json` : 'report-part.json'
  write(join(out, file), `${text}\n`, 0o644)
  summarise(report, checks, [
    count(new Set(all.map(({ page }) => page)).size, 'page'),
    count(sums.steps, 'step'),
    count(sums.files, 'file'),
  ])
  report.note(`Read:  ${dir}print/ (the pages as bash), ${dir}${file}`)
  const missing = pages.length > 1 ? notBuiltNote(site) : undefined
  if (missing !== undefined) report.note(missing)
  report.note(
    'Next:  FK_HOST=admin@192.0.2.10 in .env (or FK_HOST=lab, a throw-away machine), then ./task doctor',
  )
  return checks.some(({ result }) => result === 'failed') ? 1 : 0
}

/** The line of a page: what it is made of, or why it has nothing to do here. */
function pageLine(steps: Step[], files: number): Pick<PageResult, 'state' | 'counts' | 'why'> {
  const [only] = steps
  if (only !== undefined && !steps.some(isChange)) return { state: '-', why: only.name }
  const controls = steps.reduce((sum, step) => sum + (step.controls?.length ?? 0), 0)
  const counts = [
    count(steps.length, 'step').padEnd(10),
    (files > 0 ? count(files, 'file') : '').padEnd(9),
    controls > 0 ? count(controls, 'control') : '',
  ]
  return { state: 'step', counts: counts.join(' ').trimEnd() }
}

/** Nobody was asked whether a step holds: what it is, and whether there is anything to do here at all. */
function tell(report: Report, step: Step, index: number, steps: Step[]): void {
  const state = isChange(step) ? 'step' : steps.some(isChange) ? 'check' : '-'
  report.step({ index, total: steps.length, name: step.name, state })
  for (const { id, title, from, waived } of step.controls ?? [])
    report.control({ id, title, state: waived ? 'waived' : 'check', from, ...(waived ? { waived } : {}) })
}

function write(path: string, text: string, mode: number): void {
  mkdirSync(dirname(path), { recursive: true })
  writeFileSync(path, text, { mode })
}

/** Writes the printed pages. Their functions stand in one file, which is checked once; of a page only its own part. */
function aboutPages(dir: string, all: PrintedPage[]): Question[] {
  const files = writePages(dir, all)
  const known = shellcheckKnows()
  return [...files].flatMap(([name, text]) => {
    const path = join(dir, name)
    const ask = (tool: string, words: string): Question => ({
      artifact: relative(root, path),
      tool,
      seen: `${words}\n${known}\n${text}`,
      command: `${tool} ${words} "$new"`,
      env: { new: path },
    })
    return [ask('bash', '-n'), ask('shellcheck', '--severity=warning')]
  })
}

/** What shellcheck goes by beside a file, as far as it stands in this kit. */
function shellcheckKnows(): string {
  try {
    return readFileSync(join(root, '.shellcheckrc'), 'utf8')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
    return ''
  }
}

/** Writes the files that steps put on a machine, with the questions of their own tests. */
function writeFiles(dir: string, steps: Step[]): { files: number; questions: Question[] } {
  const questions: Question[] = []
  let files = 0
  for (const step of steps) {
    if (!isChange(step) || step.target === undefined) continue
    const { path, text = step.target.shown, mode, test } = step.target
    if (text === undefined) continue
    const copy = join(dir, path)
    write(copy, text, Number.parseInt(mode, 8) | 0o200)
    files += 1
    if (test) questions.push(tested(copy, text, test))
  }
  return { files, questions }
}

/** The page's own test of a file, by the tool that it names first. */
function tested(copy: string, text: string, test: Command): Question {
  const tool = /^\s*(?:\w+=\S+ )*([\w./-]+)/.exec(test.text)?.[1] ?? 'bash'
  return {
    artifact: relative(root, copy),
    tool,
    seen: `${test.text}\n${text}`,
    command: test.text,
    env: { new: copy, PATH: '/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin' },
  }
}

/** Why a checker of this computer cannot judge a file of another: it lacks rights or keys, or is older than the machine's. */
const unfit: [RegExp, string][] = [
  [
    /permission denied|operation not permitted|must be root|no hostkeys|only root|privilege separation|cannot open netlink/i,
    'it needs root here',
  ],
  [/Unsupported KEX algorithm|Bad SSH2 KexAlgorithms/, 'it is older here than on the machine'],
  [/the laptop had no age identity/, 'the laptop has no age identity yet'],
]

/** Why a program does not start here: where something of its name is in PATH, it is not simply missing. */
function absent(tool: string): string {
  for (const dir of (process.env['PATH'] ?? '').split(delimiter).filter(Boolean)) {
    try {
      accessSync(join(dir, tool), constants.X_OK)
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'EACCES')
        return `it cannot be started (EACCES ${join(dir, tool)})`
    }
  }
  return 'it is not installed here'
}

/** Seconds for one checker. */
const LIMIT = 60

async function ask({ artifact, tool, command, env = {} }: Question): Promise<Check> {
  const { exitCode, stdout, stderr } = await $({
    env,
    nothrow: true,
    timeout: LIMIT * 1000,
  })`bash --norc -euo pipefail -c ${command}`
  const said = `${stdout}${stderr}`.trim()
  if (exitCode === 0) return { artifact, by: tool, result: 'passed', said: '' }
  const notStarted = exitCode === 126 || (exitCode === 127 && said.includes(`: ${tool}: `))
  const why = notStarted ? absent(tool) : unfit.find(([pattern]) => pattern.test(said))?.[1]
  if (why !== undefined) return { artifact, by: tool, result: 'not checked', said: why }
  return {
    artifact,
    by: tool,
    result: 'failed',
    said: exitCode === null ? `it had not ended after ${LIMIT} s` : said,
  }
}

/** All questions answered; what an earlier run has found to pass is not checked again. */
async function answered(questions: Question[], site: string): Promise<Check[]> {
  const known = verdicts(site)
  const checks: Check[] = []
  const left = [...questions.entries()]
  const work = async () => {
    for (let next = left.shift(); next !== undefined; next = left.shift()) {
      const [i, question] = next
      const { artifact, tool } = question
      const program = which(tool)
      if (program === undefined) {
        checks[i] = { artifact, by: tool, result: 'not checked', said: absent(tool) }
        continue
      }
      const key = keyOf(question, program)
      const before = known.get(key)
      const check = before === undefined ? await ask(question) : { artifact, by: tool, ...before }
      if (check.result !== 'failed') known.keep(key, { result: check.result, said: check.said })
      checks[i] = check
    }
  }
  await Promise.all(Array.from({ length: availableParallelism() }, work))
  known.close()
  return checks
}

/** A checker is known by its file: another version is another file. Who asks counts, because root may see more. */
function keyOf({ tool, seen }: Question, program: string): string {
  const { size, mtimeMs, ino } = statSync(program)
  const all = JSON.stringify([tool, program, size, mtimeMs, ino, process.getuid?.(), seen])
  return createHash('sha256').update(all).digest('hex')
}

type Verdict = Pick<Check, 'result' | 'said'>

/** What checkers found in earlier runs for a site, in .cache of the checkout. What this run did not check is dropped. */
function verdicts(site: string): {
  get: (key: string) => Verdict | undefined
  keep: (key: string, verdict: Verdict) => void
  close: () => void
} {
  const dir = (load(join(root, 'bin/cache.cjs')) as { cache: () => string | undefined }).cache()
  const file = dir === undefined ? undefined : join(dir, `checked-${site}.json`)
  let before: Record<string, Verdict> = {}
  try {
    if (file !== undefined) before = JSON.parse(readFileSync(file, 'utf8')) as typeof before
  } catch {
    // There is none, or it cannot be read: all is checked again.
  }
  const now: Record<string, Verdict> = {}
  return {
    get: (key) => before[key],
    keep: (key, verdict) => void (now[key] = verdict),
    close() {
      if (file === undefined) return
      writeFileSync(`${file}.${process.pid}`, JSON.stringify(now), { mode: 0o600 })
      renameSync(`${file}.${process.pid}`, file)
    },
  }
}

function summarise(report: Report, checks: Check[], counts: string[]): void {
  const failed = checks.filter((c) => c.result === 'failed')
  for (const { artifact, by, said } of failed)
    report.error({
      step: `${artifact} is accepted by ${by}`,
      ran: by,
      said,
      state: 'nothing was touched',
      next: 'mend the file in config/ or the page',
    })
  const passed = checks.filter((c) => c.result === 'passed').length
  const missing = new Map<string, { tools: Set<string>; files: Set<string> }>()
  for (const { artifact, by, said } of checks.filter((c) => c.result === 'not checked')) {
    const of = missing.get(said) ?? { tools: new Set(), files: new Set() }
    missing.set(said, { tools: of.tools.add(by), files: of.files.add(artifact) })
  }
  const bad = failed.length > 0 ? `, ${failed.length} refused` : ''
  report.note(`\n${counts.join(', ')}; ${count(passed, 'check')} passed${bad}`)
  for (const [why, { tools, files }] of missing)
    report.note(`Not checked: ${count(files.size, 'file')}, ${[...tools].sort().join(', ')}: ${why}`)
}
