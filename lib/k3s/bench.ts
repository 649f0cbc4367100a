// kube-bench as a second opinion on the controls of config/k3s/cis.yaml.
import { createRequire } from 'node:module'
import type { Machine } from '../engine/machine.ts'
import { type Report, count } from '../engine/report.ts'
import { Fault } from '../ground/fault.ts'
import { read } from '../ground/root.ts'
import { quote } from '../ground/sh.ts'
import type { Config } from '../site/model.ts'
import { k3sShell } from './members.ts'
import type { CisResult, CisState } from './score.ts'

const load = createRequire(import.meta.url)

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

/**
 * Whether two answers say the same. WARN is kube-bench's word for what a person has to look at, and for manual ones that fail.
 */
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
      out.push({ id, ours: undefined, says: status, we: 'not checked', why: 'the newer list has it no more' })
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
        (left ? 'it leaves this to a person, and the machine can check it' : undefined),
    })
  }
  for (const { id, state } of ours)
    if (!met.has(id))
      out.push({ id: '-', ours: id, says: 'not checked', we: state, why: `it is not in ${known.benchmark}` })
  return out
}

/** The differences as text. */
export function differenceText(node: string, all: Difference[]): string {
  const open = all.filter(({ why }) => why === undefined)
  const byWhy = new Map<string, string[]>()
  for (const { id, ours, says, we, why } of all) {
    const other = ours !== undefined && id !== '-' && id !== ours ? ` (its ${id})` : ''
    const label = `${ours ?? id}${other}: it says ${says}, we ${we}`
    const key = why ?? 'not explained yet: add it to config/k3s/bench.yaml'
    byWhy.set(key, [...(byWhy.get(key) ?? []), label])
  }
  return [
    `${node}: kube-bench with ${bench().benchmark} says something else of ${count(all.length, 'control')}, ` +
      `${open.length} of them unexplained`,
    ...[...byWhy].flatMap(([why, labels]) => [`  ${why}`, ...labels.map((label) => `    ${label}`)]),
  ].join('\n')
}

/**
 * The pinned kube-bench: uploaded to the node, run there, and removed. `dir` is a directory of controls on the laptop in
 * place of those that it comes with.
 */
export async function runBench(
  machine: Machine,
  config: Config,
  role: 'server' | 'agent',
  dir: string | undefined,
  report: Report,
  signal: AbortSignal,
): Promise<BenchResult[]> {
  const { deliver, downloads } = load('../engine/delivery.ts') as typeof import('../engine/delivery.ts')
  const { artifactOf } = load('../engine/artifact.ts') as typeof import('../engine/artifact.ts')
  const { plain } = load('../engine/program.ts') as typeof import('../engine/program.ts')
  const { onAnswer } = load('../engine/wire.ts') as typeof import('../engine/wire.ts')
  const { $, orFault } = load('../ground/laptop.ts') as typeof import('../ground/laptop.ts')
  const fetch = downloads(config, {
    signal,
    onTransfer: (t) => report.transfer(t),
    say: (s) => report.note(s),
  })
  const targets = role === 'server' ? 'master,etcd,controlplane,node,policies' : 'node'
  const file = await fetch(artifactOf(config.pins, 'kube-bench', machine.facts.arch))
  const to = '/var/tmp/kube-bench.tar.gz'
  await deliver(machine, file, to, { onTransfer: (t) => report.transfer(t), signal })
  // The controls of the user are small: they travel as one word.
  const own =
    dir === undefined
      ? ''
      : (await orFault($`tar --create --gzip --directory ${dir} . | base64 --wrap=0`)).stdout.trim()
  let said: Record<string, string> = {}
  const outcome = await machine.run(
    await plain(
      'k3s-cis',
      [
        k3sShell.text,
        `FK_SENT=${quote(`${file.sha256} ${to}\n`)}`,
        `received ${to} 2> "$FK_TMP/said" || { answer bench complained "$(cat "$FK_TMP/said")"; exit 1; }`,
        'mkdir "$FK_TMP/bench" "$FK_TMP/bench.bin"',
        'tar --extract --gzip --file="$FK_PART" --directory="$FK_TMP/bench" --no-same-owner && rm --force "$FK_PART"',
        // Its controls call kubectl.
        `printf '#!/bin/sh\\nexec %s kubectl --kubeconfig %s "$@"\\n' "$K3S" "$K3S_ETC/k3s.yaml" > "$FK_TMP/bench.bin/kubectl"`,
        'chmod 755 "$FK_TMP/bench.bin/kubectl"',
        ...(own === ''
          ? []
          : [
              'rm --recursive --force "$FK_TMP/bench/cfg" && mkdir "$FK_TMP/bench/cfg"',
              `base64 --decode <<< ${quote(own)} |`,
              '  tar --extract --gzip --directory="$FK_TMP/bench/cfg" --no-same-owner',
            ]),
        'PATH=$FK_TMP/bench.bin:$PATH timeout 240 "$FK_TMP/bench/kube-bench" run \\',
        '  --config-dir "$FK_TMP/bench/cfg" --config "$FK_TMP/bench/cfg/config.yaml" \\',
        `  --benchmark ${bench().benchmark} --targets ${targets} --json \\`,
        '  > "$FK_TMP/said" 2> "$FK_TMP/complained" || true # its output has what failed',
        'answer bench complained "$(tail --lines=3 "$FK_TMP/complained")" body "$(gzip < "$FK_TMP/said" | base64 --wrap=0)"',
      ],
      ['put.sh'],
    ),
    onAnswer((values) => (said = values)),
    300,
  )
  const { gunzipSync } = load('node:zlib') as typeof import('node:zlib')
  const { complained = '', body = '' } = said
  if (body === '')
    throw new Fault(`kube-bench did not run on ${machine.label}`, {
      said: complained || outcome.stderr.trim(),
      next: 'run it again with --verbose',
    })
  const text = gunzipSync(Buffer.from(body, 'base64')).toString('utf8')
  if (text.trim() === '') throw new Fault(`kube-bench said nothing on ${machine.label}`, { said: complained })
  return readBench(text)
}
