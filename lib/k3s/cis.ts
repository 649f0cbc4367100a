// The benchmark of CIS for k3s: its list as data, how a node is asked, and what came of it: ./task cis.
import { mkdirSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join, relative } from 'node:path'
import { read, root } from '../ground/root.ts'
import { loadConfig } from '../site/config.ts'
import type { Config } from '../site/model.ts'
import { type Entry, type Kinds, Requirements, type Section, hostKinds, questions } from '../host/controls.ts'
import { Fault } from '../ground/fault.ts'
import { k3sShell, memberOf } from './members.ts'
import type { Machine } from '../engine/machine.ts'
import { connectTo, contextOf, storeOf } from '../cli/pages.ts'
import { type Event, type Report, count, createReport } from '../engine/report.ts'
import { runPage } from '../engine/run.ts'
import type { Context } from '../engine/page.ts'
import { land } from '../ground/secret.ts'
import { Command, quote, shellText } from '../ground/sh.ts'
import { machinesFor } from '../site/machines.ts'
import type { Control } from '../engine/step.ts'
import { type Call } from '../cli/taskfile.ts'
import { type Flags, flags } from '../cli/flags.ts'
import { pageNamed } from '../cli/scripts.ts'
import { waiversFor } from '../site/waivers.ts'

const load = createRequire(import.meta.url)

export const benchmark = 'CIS Kubernetes 2.1'

// ─── the list ────────────────────────────────────────────────────────────────────────────────────────────────────────

/** What a flag or a key should be: a value, or operators with their operands. */
type Wanted = string | Partial<Record<Operator, string | number | true>>
const operators = [
  'is',
  'set',
  'absent',
  'has',
  'has-not',
  'only',
  'at-least',
  'at-most',
  'lasts',
  'unset-or',
] as const
type Operator = (typeof operators)[number]
type Settings = Record<string, Wanted>

/** One control of the list, beside the way to ask. */
export interface CisEntry extends Entry {
  /** What the list says of it; who asks is another matter. */
  assessed: 'automated' | 'manual'
  /** What somebody has to look at. */
  person?: string
  /** Why it has no meaning for k3s. */
  na?: string
}

/** One section of the list. */
export interface CisSection extends Section<CisEntry> {
  title: string
  on: ('server' | 'agent')[]
  /** Parts that must be able to answer: those of lib/k3s/cis.sh, etcd, or api. */
  known: string[]
  /** What to do when something does not hold. */
  help: string
}

/** `NAME OPERATOR OPERAND` for each thing that is wanted. */
function settings(wanted: Settings): string {
  return Object.entries(wanted)
    .flatMap(([name, want]) => {
      const each = typeof want === 'string' ? { is: want } : want
      const unknown = Object.keys(each).filter((word) => !operators.includes(word as Operator))
      if (unknown.length > 0 || Object.keys(each).length === 0)
        throw new TypeError(
          `cis.yaml, ${name}: ${unknown.length > 0 ? `there is no operator ${unknown.join(', ')}` : 'says nothing that is wanted'}; there are ${operators.join(', ')}`,
        )
      return Object.entries(each).map(
        ([word, operand]) => `${quote(name)} ${word} ${quote(operand === true ? 'yes' : String(operand))}`,
      )
    })
    .join(' ')
}

type Parts = Record<string, Settings>
const each = (word: string, parts: Parts) =>
  Object.entries(parts)
    .map(([part, wanted]) => `${word} ${part} ${settings(wanted)}`)
    .join(' && ')

const kinds = {
  arg: (parts: Parts) => each('arg_is', parts),
  kubelet: (wanted: Settings) => `kubelet_is ${settings(wanted)}`,
  told: (parts: Parts) => each('told_is', parts),
  etcd: (wanted: Settings) => `etcd_is ${settings(wanted)}`,
  mode: hostKinds.mode,
  tree: (words: string) => `tree_is ${words.split(' ').map(quote).join(' ')}`,
  refused: (pod: string) => `refused ${quote(pod)} {{ exempt }}`,
  check: hostKinds.check,
  na: (reason: string) => `na ${quote(reason)}`,
  person: (what: string) => `na ${quote(`for a person: ${what}`)}`,
}

/** The list: config/k3s/cis.yaml. */
export const cisRequirements = new Requirements<CisEntry, CisSection>(
  'config/k3s/cis.yaml',
  kinds as Kinds,
  (id) => `${benchmark}, ${id}`,
)

/** Namespaces whose pods may do more, as config/k3s/admission.yaml exempts them. */
function exempt(): string[] {
  const { parse } = load('yaml') as typeof import('yaml')
  const { plugins } = parse(read('config/k3s/admission.yaml')) as {
    plugins: { name: string; configuration: { exemptions?: { namespaces?: string[] } } }[]
  }
  return plugins.find(({ name }) => name === 'PodSecurity')?.configuration.exemptions?.namespaces ?? []
}

/** The sections that a node of this role is asked, and the controls of each. `today` decides which waivers hold. */
export function cisOf(
  { site }: Pick<Context, 'site'>,
  role: 'server' | 'agent',
  today?: Date,
): { section: CisSection; controls: Control[] }[] {
  const controls = cisRequirements.controlsFor({
    values: { exempt: exempt().map(quote).join(' ') },
    traits: [role],
    waivers: waiversFor(site, today, undefined, 'k3s'),
  })
  return cisRequirements
    .sections()
    .filter(({ on }) => on.includes(role))
    .map((section) => ({ section, controls: controls(section.step) }))
}

type Tree = { [key: string]: Tree | unknown }

/** The pods of config/k3s/refused.yaml as Kubernetes takes them: name → pod. `tame` is the one that asks for nothing. */
export function offeredPods(): Record<string, object> {
  const { parse } = load('yaml') as typeof import('yaml')
  type Difference = { spec?: Tree; container?: Tree }
  const { tame, refused } = parse(read('config/k3s/refused.yaml')) as {
    tame: Required<Difference>
    refused: Record<string, Difference>
  }
  const pod = (name: string, { spec = {}, container = {} }: Difference) => ({
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name },
    spec: { ...laid(tame.spec, spec), containers: [laid(tame.container, container)] },
  })
  return Object.fromEntries(
    Object.entries({ tame: {}, ...refused }).map(([name, difference]) => [name, pod(name, difference)]),
  )
}

const isTree = (value: unknown): value is Tree =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

function laid(under: Tree, over: Tree): Tree {
  const both = Object.entries(over).map(([key, value]) => {
    const below = under[key]
    return [key, isTree(value) && isTree(below) ? laid(below, value) : value]
  })
  return { ...under, ...(Object.fromEntries(both) as Tree) }
}

/** What the controls of the list share: lib/k3s/members.sh, lib/host/controls.sh, lib/k3s/cis.sh, and the pods that are offered. */
export function cisShell(): Command {
  const pods = JSON.stringify({ apiVersion: 'v1', kind: 'List', items: Object.values(offeredPods()) })
  return new Command(
    [k3sShell.text, questions().text, shellText('lib/k3s/cis.sh'), `CIS_PODS=${quote(pods)}`].join('\n'),
    undefined,
    'lib/k3s/cis.sh',
  )
}

// ─── what came of it ─────────────────────────────────────────────────────────────────────────────────────────────────

const states = ['pass', 'fail', 'waived', 'manual', 'n/a'] as const
export type CisState = (typeof states)[number]

/** What is known of one control on one node. `manual`: a person has to look. */
export interface CisResult {
  id: string
  section: string
  title: string
  assessed: 'automated' | 'manual'
  state: CisState
  found: string
  /** Why it may fail, and until when. */
  waived?: string
}

export type Tally = Record<CisState, number>

/** One node, asked. */
export interface CisReport {
  benchmark: string
  site: string
  node: string
  role: 'server' | 'agent'
  /** ISO 8601. */
  time: string
  results: CisResult[]
}

/** How many are in each state. */
export function tally(results: CisResult[]): Tally {
  const none: Tally = { pass: 0, fail: 0, waived: 0, manual: 0, 'n/a': 0 }
  return results.reduce((sum, { state }) => ({ ...sum, [state]: sum[state] + 1 }), none)
}

/** What a run of the page says of each control, by id. */
export type Answers = Map<string, { state: string; found?: string; waived?: string }>

/** The results of a node, in the order of the list. What was not answered fails, and says so. */
export function resultsOf(
  asked: { section: CisSection; controls: Control[] }[],
  answers: Answers,
): CisResult[] {
  return asked.flatMap(({ section, controls }) =>
    controls.map(({ id, title }) => {
      const entry = section.controls.find((c) => c.id === id)
      const answer = answers.get(id)
      const state: CisState =
        answer?.state === 'ok'
          ? 'pass'
          : answer?.state === 'waived'
            ? 'waived'
            : answer?.state === 'n/a'
              ? entry?.person === undefined
                ? 'n/a'
                : 'manual'
              : 'fail'
      return {
        id,
        section: section.step,
        title,
        assessed: entry?.assessed ?? 'manual',
        state,
        found: answer === undefined ? 'it was not asked' : (answer.found ?? '').trim(),
        ...(answer?.waived === undefined ? {} : { waived: answer.waived }),
      }
    }),
  )
}

/** The score as text: a line for each section, then all, then what fails. */
export function scoreText({ node, role, results }: CisReport): string {
  const row = (name: string, title: string, t: Tally) =>
    `  ${name.padEnd(5)}${title.padEnd(30)}${states.map((state) => String(t[state]).padStart(8)).join('')}`
  const sections = cisRequirements.sections().filter(({ on }) => on.includes(role))
  const automated = tally(results.filter(({ assessed }) => assessed === 'automated'))
  const bad = results.filter(({ state }) => state === 'fail')
  return [
    `${node}: ${benchmark}, as ${role}`,
    `  ${''.padEnd(35)}${states.map((state) => state.padStart(8)).join('')}`,
    ...sections.map(({ step, title }) =>
      row(step, title, tally(results.filter(({ section }) => section === step))),
    ),
    row('', 'all', tally(results)),
    `  ${automated.pass + automated.waived} of ${automated.pass + automated.waived + automated.fail} automated controls that apply pass or are waived.`,
    ...bad.map(({ id, title, found }) => `  fails: ${id} ${title}: ${found.split('\n').join(' ')}`),
  ].join('\n')
}

/** The same as SARIF (config/k3s/sarif.json says which): one run of one tool, a rule for each control, a result for each answer. */
export function sarifOf(report: CisReport): object {
  const { node, site, role, time, results } = report
  const kind = {
    pass: 'pass',
    fail: 'fail',
    waived: 'fail',
    manual: 'review',
    'n/a': 'notApplicable',
  } as const
  return {
    ...(JSON.parse(read('config/k3s/sarif.json')) as { $schema: string; version: string }),
    runs: [
      {
        tool: {
          driver: {
            name: 'fortress-kit',
            rules: results.map(({ id, section, title, assessed }) => ({
              id: `CIS-${id}`,
              shortDescription: { text: title },
              properties: { section, assessed, tags: [benchmark] },
            })),
          },
        },
        invocations: [{ executionSuccessful: true, endTimeUtc: time }],
        properties: { benchmark, site, node, role },
        results: results.map(({ id, title, assessed, state, found, waived }, ruleIndex) => ({
          ruleId: `CIS-${id}`,
          ruleIndex,
          kind: kind[state],
          level: kind[state] !== 'fail' ? 'none' : assessed === 'automated' ? 'error' : 'warning',
          message: { text: found || title },
          locations: [
            { logicalLocations: [{ name: node, fullyQualifiedName: `${site}/${node}`, kind: 'resource' }] },
          ],
          ...(waived === undefined || state !== 'waived'
            ? {}
            : { suppressions: [{ kind: 'external', status: 'accepted', justification: waived }] }),
        })),
      },
    ],
  }
}

// ─── a second opinion ────────────────────────────────────────────────────────────────────────────────────────────────

/** One answer of kube-bench. */
export interface BenchResult {
  id: string
  status: 'PASS' | 'FAIL' | 'WARN' | 'INFO'
  /** What it did not like. */
  reason: string
}

/** Reads what `kube-bench --json` prints. Throws a Fault for anything else. */
export function readBench(text: string): BenchResult[] {
  let document: unknown
  try {
    document = JSON.parse(text)
  } catch (error) {
    throw new Fault('kube-bench did not print JSON', {
      said: `${(error as Error).message}\n${text.slice(0, 500)}`,
      next: 'run it on the node as ./task cis --bench --verbose shows it',
    })
  }
  const { Controls } = document as {
    Controls?: { tests?: { results?: { test_number: string; status: string; reason?: string }[] }[] }[]
  }
  const found = (Controls ?? []).flatMap(({ tests }) => (tests ?? []).flatMap(({ results }) => results ?? []))
  if (found.length === 0)
    throw new Fault('kube-bench answered nothing', {
      said: text.slice(0, 500),
      next: 'does the directory of --config-dir hold the benchmark that config/k3s/bench.yaml names?',
    })
  return found.map(({ test_number, status, reason = '' }) => {
    if (!['PASS', 'FAIL', 'WARN', 'INFO'].includes(status))
      throw new Fault(`kube-bench says ${status} of ${test_number}, which is no state that it has`)
    return { id: test_number, status: status as BenchResult['status'], reason }
  })
}

interface Bench {
  benchmark: string
  /** Its id → ours, where they differ; null: the newer list has it no more. */
  moved: Record<string, string | null>
  differs: { id: string; says: BenchResult['status'][]; ours: CisState[]; why: string }[]
}

/** config/k3s/bench.yaml. */
export function bench(): Bench {
  const { parse } = load('yaml') as typeof import('yaml')
  return parse(read('config/k3s/bench.yaml')) as Bench
}

/** One control of which kube-bench and we say different things. */
export interface Difference {
  /** Its own id. */
  id: string
  /** The id here, when there is one. */
  ours: string | undefined
  says: string
  we: string
  /** From config/k3s/bench.yaml; undefined where nobody has explained it yet. */
  why: string | undefined
}

/** Whether two answers say the same. WARN is kube-bench's word for what a person has to look at, and for manual ones that fail. */
const alike: Record<BenchResult['status'], CisState[]> = {
  PASS: ['pass'],
  FAIL: ['fail'],
  WARN: ['manual', 'fail', 'waived'],
  INFO: ['n/a'],
}

/** Where kube-bench and we differ, in its order; and what only one of the two lists has. */
export function differences(theirs: BenchResult[], ours: CisResult[], known = bench()): Difference[] {
  const mine = new Map(ours.map((result) => [result.id, result]))
  const met = new Set<string>()
  const out: Difference[] = []
  const explain = (id: string, says: string, we: string) =>
    known.differs.find(
      (d) => d.id === id && d.says.includes(says as 'PASS') && d.ours.includes(we as CisState),
    )?.why
  for (const { id, status } of theirs) {
    const to = id in known.moved ? known.moved[id] : id
    const result = to === null || to === undefined ? undefined : mine.get(to)
    if (result === undefined) {
      out.push({ id, ours: undefined, says: status, we: 'not asked', why: 'the newer list has it no more' })
      continue
    }
    met.add(result.id)
    if (alike[status].includes(result.state)) continue
    const left = status === 'WARN' && (result.state === 'pass' || result.state === 'n/a')
    out.push({
      id,
      ours: result.id,
      says: status,
      we: result.state,
      why:
        explain(id, status, result.state) ??
        (left ? 'it leaves this to a person, and a machine can ask it' : undefined),
    })
  }
  for (const { id, state } of ours)
    if (!met.has(id))
      out.push({ id: '-', ours: id, says: 'not asked', we: state, why: `it is not in ${known.benchmark}` })
  return out
}

/** The differences as text. */
export function differenceText(node: string, all: Difference[]): string {
  const open = all.filter(({ why }) => why === undefined)
  const byWhy = new Map<string, string[]>()
  for (const { id, ours, says, we, why } of all) {
    const label = `${ours ?? id}${ours !== undefined && id !== '-' && id !== ours ? ` (its ${id})` : ''}: it says ${says}, we ${we}`
    const key = why ?? 'not explained yet: add it to config/k3s/bench.yaml'
    byWhy.set(key, [...(byWhy.get(key) ?? []), label])
  }
  return [
    `${node}: kube-bench with ${bench().benchmark} says something else of ${count(all.length, 'control')}, ${open.length} of them unexplained`,
    ...[...byWhy].flatMap(([why, labels]) => [`  ${why}`, ...labels.map((label) => `    ${label}`)]),
  ].join('\n')
}

/**
 * The pinned kube-bench, brought to the node, run there, and taken away again. `dir` is a directory of controls on the laptop in
 * place of those that it comes with.
 */
async function runBench(
  machine: Machine,
  config: Config,
  role: 'server' | 'agent',
  dir: string | undefined,
  report: Report,
  signal: AbortSignal,
): Promise<BenchResult[]> {
  const { deliver, downloads } = load('../engine/delivery.ts') as typeof import('../engine/delivery.ts')
  const { artifactOf } = load('../engine/download.ts') as typeof import('../engine/download.ts')
  const { plain } = load('../engine/program.ts') as typeof import('../engine/program.ts')
  const { execFileSync } = load('node:child_process') as typeof import('node:child_process')
  const fetch = downloads(config, {
    signal,
    onTransfer: (t) => report.transfer(t),
    say: (s) => report.note(s),
  })
  const file = await fetch(artifactOf(config.pins, 'kube-bench', machine.facts.arch))
  const to = '/var/tmp/kube-bench.tar.gz'
  await deliver(machine, file, to, { onTransfer: (t) => report.transfer(t), signal })
  // The controls of the user are small: they travel as one word.
  const own =
    dir === undefined
      ? ''
      : execFileSync('tar', ['--create', '--gzip', '--directory', dir, '.'], {
          maxBuffer: 16 * 2 ** 20,
        }).toString('base64')
  let said: string[] = []
  const outcome = await machine.run(
    await plain(
      'k3s-cis',
      [
        k3sShell.text,
        `FK_SENT=${quote(`${file.sha256} ${to}\n`)}`,
        `arrived ${to} 2> "$FK_TMP/said" || { frame bench "$(cat "$FK_TMP/said")" ''; exit 1; }`,
        'mkdir "$FK_TMP/bench" "$FK_TMP/bin" && tar --extract --gzip --file="$FK_PART" --directory="$FK_TMP/bench" --no-same-owner && rm --force "$FK_PART"',
        // Its controls call kubectl.
        `printf '#!/bin/sh\\nexec %s kubectl --kubeconfig %s "$@"\\n' "$K3S" "$K3S_ETC/k3s.yaml" > "$FK_TMP/bin/kubectl" && chmod 755 "$FK_TMP/bin/kubectl"`,
        ...(own === ''
          ? []
          : [
              `rm --recursive --force "$FK_TMP/bench/cfg" && mkdir "$FK_TMP/bench/cfg" && base64 --decode <<< ${quote(own)} | tar --extract --gzip --directory="$FK_TMP/bench/cfg" --no-same-owner`,
            ]),
        `PATH=$FK_TMP/bin:$PATH timeout 240 "$FK_TMP/bench/kube-bench" run --config-dir "$FK_TMP/bench/cfg" --config "$FK_TMP/bench/cfg/config.yaml" --benchmark ${bench().benchmark} --targets ${role === 'server' ? 'master,etcd,controlplane,node,policies' : 'node'} --json > "$FK_TMP/said" 2> "$FK_TMP/complained" || true # what fails is in what it says`,
        'frame bench "$(tail --lines=3 "$FK_TMP/complained")" "$(gzip < "$FK_TMP/said" | base64 --wrap=0)"',
      ],
      ['put.sh'],
    ),
    ({ kind, fields }) => {
      if (kind === 'bench') said = fields
    },
    300,
  )
  const { gunzipSync } = load('node:zlib') as typeof import('node:zlib')
  const [complained = '', body = ''] = said
  if (body === '')
    throw new Fault(`kube-bench did not run on ${machine.label}`, {
      said: complained || outcome.stderr.trim(),
      next: 'run it again with --verbose',
    })
  const text = gunzipSync(Buffer.from(body, 'base64')).toString('utf8')
  if (text.trim() === '') throw new Fault(`kube-bench said nothing on ${machine.label}`, { said: complained })
  return readBench(text)
}

// ─── ./task cis ──────────────────────────────────────────────────────────────────────────────────────────────────────

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
    deadman: env.FK_DEADMAN_SECONDS,
    patience: env.FK_LOCK_WAIT_SECONDS,
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
