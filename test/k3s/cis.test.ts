import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { quote } from '../../lib/ground/sh.ts'
import { bench, differences, differenceText, readBench } from '../../lib/k3s/bench.ts'
import { cisOf, cisRequirements, cisShell, offeredPods } from '../../lib/k3s/cis.ts'
import { type Answers, type CisReport, resultsOf, sarifOf, scoreText, tally } from '../../lib/k3s/score.ts'
import { loadConfig } from '../../lib/site/config.ts'
import { waiversFor } from '../../lib/site/waivers.ts'
import { type Weakening, weakenedLines, weakenings } from '../weaken.ts'

const { site } = loadConfig({ env: {}, site: 'fortress' })
const today = new Date('2026-12-01')
const sections = cisRequirements.sections()
const entries = sections.flatMap(({ controls }) => controls)
const fixture = (name: string) => join(import.meta.dirname, '../fixtures/k3s', name)
const recorded = readFileSync(fixture('started.txt'), 'utf8')
const scratch = mkdtempSync(join(tmpdir(), 'fk-cis-'))
after(() => rmSync(scratch, { recursive: true, force: true }))

// ─── the list ────────────────────────────────────────────────────────────────────────────────────────────────────────

/** How many controls each section of CIS Kubernetes 2.1 has, and which of them it calls automated. */
const list: [section: string, controls: number, automated: string][] = [
  ['1.1', 21, '1-8 11-19'],
  ['1.2', 30, '2 4-8 10 12-19 21-26 30'],
  ['1.3', 7, '2-7'],
  ['1.4', 2, '1-2'],
  ['2', 7, '1-6'],
  ['3.1', 3, ''],
  ['3.2', 2, ''],
  ['4.1', 11, '1-2 5-6 9-11'],
  ['4.2', 14, '1-3 6 10'],
  ['4.3', 1, ''],
  ['5.1', 14, ''],
  ['5.2', 13, ''],
  ['5.3', 2, ''],
  ['5.4', 2, ''],
  ['5.5', 1, ''],
  ['5.6', 4, ''],
]
const range = (text: string) =>
  text
    .split(' ')
    .filter(Boolean)
    .flatMap((part) => {
      const [from = 0, to = from] = part.split('-').map(Number)
      return Array.from({ length: to - from + 1 }, (_, i) => from + i)
    })

test('every control of the list is there, each once, in its section and in order', () => {
  assert.deepEqual(
    cisRequirements.ids(),
    Object.fromEntries(
      list.map(([section, n]) => [section, Array.from({ length: n }, (_, i) => `${section}.${i + 1}`)]),
    ),
  )
  assert.equal(entries.length, 134)
})

test('what the list calls automated is called so, and everything else manual', () => {
  assert.deepEqual(
    entries.filter(({ assessed }) => assessed === 'automated').map(({ id }) => id),
    list.flatMap(([section, , automated]) => range(automated).map((n) => `${section}.${n}`)),
  )
  assert.deepEqual(
    entries.filter(({ assessed }) => !['automated', 'manual'].includes(assessed)),
    [],
  )
})

test('a control that is automated is never left to a person', () => {
  assert.deepEqual(
    entries.filter(({ assessed, person }) => assessed === 'automated' && person !== undefined),
    [],
  )
})

test('titles are short, and in words of our own', () => {
  assert.deepEqual(
    entries.filter(({ title }) => title.length > 70 || /^(Ensure|Minimize|Verify)|Ensure that/.test(title)),
    [],
  )
})

for (const role of ['server', 'agent'] as const)
  test(`on a node that is ${role} every control can be checked`, () => {
    const asked = cisOf({ site }, role, today)
    const expected = role === 'server' ? list.map(([section]) => section) : ['4.1', '4.2', '4.3']
    assert.deepEqual(
      asked.map(({ section }) => section.step),
      expected,
    )
    for (const { id, check } of asked.flatMap(({ controls }) => controls)) {
      const { status, stderr } = spawnSync('bash', ['--norc', '-n', '-c', check.text], { encoding: 'utf8' })
      assert.equal(`${id} ${status} ${stderr}`, `${id} 0 `)
      assert.doesNotMatch(check.text, /\{\{/)
    }
  })

const entry = (line: string) => `- step: one\n  controls:\n    - ${line}\n`
for (const [fault, line, message] of [
  [
    'an operator that is misspelt',
    '{ id: X, title: t, assessed: manual, arg: { kubelet: { a: { at-leest: 1 } } } }',
    'cis.yaml, a: there is no operator at-leest; ' +
      'there are is, set, absent, has, has-not, only, at-least, at-most, lasts, unset-or',
  ],
  [
    'nothing that is wanted',
    '{ id: X, title: t, assessed: manual, kubelet: { a: {} } }',
    'cis.yaml, a: says nothing that is wanted; there are is, set, absent, has, has-not, only, at-least, at-most, lasts, unset-or',
  ],
  [
    'two ways to ask',
    '{ id: X, title: t, assessed: manual, na: no, check: "true" }',
    'cis.yaml, X: say exactly one of arg, kubelet, started, etcd, mode, tree, refused, check, na, person',
  ],
] as const)
  test(`a control with ${fault} is refused`, () => {
    const place = { values: { exempt: 'kube-system' }, traits: [], waivers: [] }
    assert.throws(() => cisRequirements.controlsFor(place, entry(line)), { name: 'TypeError', message })
  })

test('waivers are of controls that are checked, give a reason, and end', () => {
  const ids = waiversFor(site, today, undefined, 'k3s').flatMap(({ controls }) => controls)
  assert.deepEqual(ids, ['1.2.11', '5.3.2'])
  assert.deepEqual(waiversFor(site, new Date('2028-01-01'), undefined, 'k3s'), [])
  assert.deepEqual(
    entries.filter(({ id, na, person }) => ids.includes(id) && (na ?? person) !== undefined),
    [],
  )
})

test('a waived control carries its reason and its end, and on the day after no more', () => {
  const waived = (day: string) =>
    cisOf({ site }, 'server', new Date(day))
      .flatMap(({ controls }) => controls)
      .find(({ id }) => id === '1.2.11')?.waived
  assert.match(waived('2027-11-30') ?? '', /\(until 2027-11-30\)$/)
  assert.equal(waived('2027-12-01'), undefined)
})

test('pods that are offered differ from the one that asks for nothing', () => {
  const { tame, ...refused } = offeredPods()
  assert.deepEqual(tame, {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name: 'tame' },
    spec: {
      automountServiceAccountToken: false,
      securityContext: { runAsNonRoot: true, seccompProfile: { type: 'RuntimeDefault' } },
      containers: [
        {
          name: 'tame',
          image: 'registry.invalid/tame',
          securityContext: { allowPrivilegeEscalation: false, capabilities: { drop: ['ALL'] } },
        },
      ],
    },
  })
  const used = new Set(JSON.stringify(entries).match(/(?<="refused":")[a-z]+/g))
  assert.deepEqual(Object.keys(refused).toSorted(), [...used].toSorted())
})

// ─── how it is asked ─────────────────────────────────────────────────────────────────────────────────────────────────

/** Runs bash with what the page's checks have, on a machine whose journal, API and Node say what they are given. */
function bash(
  text: string,
  { lines = recorded, flagz = '', words = [] as string[] } = {},
): { code: number | null; said: string } {
  const tmp = mkdtempSync(join(scratch, 'run-'))
  mkdirSync(join(tmp, 'data/agent/etc/kubelet.conf.d'), { recursive: true })
  copyFileSync(fixture('kubelet.conf'), join(tmp, 'data/agent/etc/kubelet.conf.d/00-k3s-defaults.conf'))
  const journal = lines
    .split('\n')
    .filter(Boolean)
    .map((line) => `time="2026-11-21T16:59:31Z" level=info msg="Running ${line}"`)
  writeFileSync(join(tmp, 'journal'), `Starting…\n${journal.join('\n')}\nI1121 Running nothing --else\n`)
  writeFileSync(join(tmp, 'flagz'), flagz)
  writeFileSync(join(tmp, 'words'), words.length > 0 ? JSON.stringify(words) : '')
  const machine = `
    systemctl() { case "$*" in *InvocationID*) echo 0123 ;; *) echo @1700000000 ;; esac; }
    journalctl() { [[ "$*" == *_SYSTEMD_INVOCATION_ID=0123* ]] && cat "$FK_TMP/journal"; }
    k3s_kubectl() { [ -s "$FK_TMP/flagz" ] && [[ "$*" == *" /flagz "* ]] && cat "$FK_TMP/flagz"; }
    k3s_self() { case "$*" in *whoami*) echo system:node:one ;; 'get node one '*) cat "$FK_TMP/words" ;; *) return 1 ;; esac; }
    K3S_DATA=$FK_TMP/data`
  const program = `${cisShell().text}\n${machine}\nset -euo pipefail\n${text}\n`
  const { status, stdout, stderr } = spawnSync('bash', ['--norc', '-s'], {
    input: program,
    encoding: 'utf8',
    env: { ...process.env, FK_TMP: tmp },
  })
  return { code: status, said: stdout.trim() + stderr }
}

const controls = cisOf({ site }, 'server', today).flatMap(({ section, controls }) =>
  controls.map((control) => ({
    ...control,
    entry: section.controls.find(({ id }) => id === control.id),
  })),
)
/** The part of k3s whose arguments answer a control. */
const partOf = ({ id, entry }: (typeof controls)[number]) =>
  entry && ('arg' in entry || 'started' in entry)
    ? Object.keys(('arg' in entry ? entry.arg : entry.started) as object)[0]
    : entry && 'kubelet' in entry
      ? 'kubelet'
      : id === '4.3.1'
        ? 'kube-proxy'
        : undefined

/** The controls about a part that do not hold when it was started so. */
function failing(part: string, lines: string): string[] {
  const mine = controls.filter((control) => partOf(control) === part)
  const { code, said } = bash(
    mine.map(({ id, check }) => `( ${check.text} ) > /dev/null && echo ok || echo "${id} $?"`).join('\n'),
    { lines },
  )
  assert.equal(code, 0, said)
  const answers = said.split('\n')
  assert.equal(answers.length, mine.length)
  return answers
    .filter((line) => line !== 'ok' && !line.endsWith(' 100'))
    .map((line) => line.split(' ')[0] ?? '')
}

const excused = ['1.2.11']
const all = weakenings()
const arguments_ = Object.entries(all).filter(([, { part }]) => part !== undefined)

test('every control that a machine can ask is weakened by something, and no other', () => {
  assert.deepEqual(
    Object.keys(all).toSorted(),
    entries
      .filter(({ na, person }) => na === undefined && person === undefined)
      .map(({ id }) => id)
      .toSorted(),
  )
  assert.deepEqual(
    Object.entries(all).filter(([, w]) => (w.batch === undefined) !== (w.waived !== undefined)),
    [],
  )
})

for (const part of ['kube-apiserver', 'kube-controller-manager', 'kube-scheduler', 'kubelet', 'kube-proxy']) {
  const mine = arguments_.filter(([, w]) => w.part === part)
  const known = controls.filter((control) => partOf(control) === part).map(({ id }) => id)
  test(`${part} as config/k3s starts it holds all ${known.length} controls about its arguments`, () => {
    assert.deepEqual(
      failing(part, recorded).filter((id) => !excused.includes(id)),
      [],
    )
  })
  test(`of ${part} each of ${mine.length} weak arguments is found by its own control, and by no other`, () => {
    const expected = ([id, { also = [] }]: [string, Weakening]) =>
      [id, ...also].filter((other) => known.includes(other)).toSorted()
    for (const change of mine)
      assert.deepEqual(
        failing(part, weakenedLines(recorded, change[1])).filter((id) => !excused.includes(id)),
        expected(change),
        change[0],
      )
  })
}

test('a part of which nothing is known holds nothing, not even what should be absent', () => {
  const { code, said } = bash('arg_is kube-apiserver token-auth-file absent yes', { lines: '' })
  assert.equal(code, 1)
  assert.equal(
    said,
    'the arguments of kube-apiserver are unknown: neither its API, nor the journal of this start, nor its Node has them',
  )
  assert.equal(bash('cis_known kube-scheduler', { lines: '' }).code, 1)
})

test('when the journal has lost the start, the Node and the files of k3s have the arguments of the kubelet', () => {
  const words = ['agent', '--node-name', 'one', '--kubelet-arg', 'pod-max-pids=4096', '--token', '********']
  const weak = [...words, '--kubelet-arg', 'anonymous-auth=true']
  const ask = 'kubelet_is anonymous-auth is false pod-max-pids at-most 4096'
  const { code, said } = bash(ask, { lines: '', words })
  assert.equal(code, 0, said)
  assert.match(said, /^anonymous-auth=false pod-max-pids=4096 \(by @?its Node and .*kubelet.conf.d\)$/)
  const found = bash(ask, { lines: '', words: weak })
  assert.equal(found.code, 1, found.said)
  assert.match(found.said, /^anonymous-auth=true .*; wanted: anonymous-auth is false$/)
  // A part of which the Node says nothing has no arguments: that is an answer too.
  assert.deepEqual(
    bash('started_is kube-controller-manager feature-gates has-not X=false', { lines: '', words }),
    {
      code: 0,
      said: 'feature-gates=unset (by its Node)',
    },
  )
})

for (const [what, written, holds] of [
  ['that k3s wrote at this start is what etcd has read', 1700000000, true],
  ['that was written later etcd has not read', 1700000001, false],
  ['of an earlier start etcd has not read', 1699999999, false],
] as const)
  test(`a configuration of etcd ${what}`, () => {
    const ask = `mkdir --parents "$K3S_DATA/server/db/etcd"
printf 'peer-transport-security:\\n  auto-tls: false\\n' > "$K3S_DATA/server/db/etcd/config"
touch --date=@${written} "$K3S_DATA/server/db/etcd/config"`
    for (const before of ['', 'true && ']) {
      const { code, said } = bash(
        `${ask}\n${before}etcd_is peer-transport-security.auto-tls unset-or false && echo holds || echo fails`,
      )
      assert.equal(code, 0, said)
      assert.match(said, holds ? /holds$/ : /etcd has read another\nfails$/)
    }
  })

test('a kube-proxy of which only the port is open has unknown arguments, and fails', async () => {
  const server = createServer().listen(10249, '127.0.0.1')
  await once(server, 'listening')
  try {
    const { code, said } = bash('proxy_is_local', { lines: '' })
    assert.equal(code, 1)
    assert.match(said, /the arguments of kube-proxy are unknown/)
  } finally {
    server.close()
  }
  assert.equal(bash('proxy_is_local', { lines: '' }).code, 100)
})

for (const separator of [':', ': ', '=', ' '])
  test(`the live flags of a part go before its journal, whatever parts them: '${separator}'`, () => {
    const line = (name: string, value: string) => `${name}${separator}${value}\n`
    const flagz = [
      '\nkube-apiserver flagz\n',
      'Warning: This endpoint is not meant to be machine parseable, ',
      'has no formatting compatibility guarantees and is for debugging purposes only.\n',
      line('authorization-mode', '[Node,RBAC]'),
      line('profiling', 'true'),
      line('token-auth-file', ''),
    ].join('')
    assert.deepEqual(
      bash('arg_is kube-apiserver authorization-mode has RBAC token-auth-file absent yes', { flagz }),
      {
        code: 0,
        said: 'authorization-mode=Node,RBAC token-auth-file=unset (by its /flagz)',
      },
    )
    assert.deepEqual(bash('arg_is kube-apiserver profiling is false', { flagz }), {
      code: 1,
      said: 'profiling=true (by its /flagz); wanted: profiling is false',
    })
  })

test('JSON becomes lines, with lists under one name', () => {
  const json = '{"a":{"b":"x=y","c":[1,"t\\"wo",{"d":null}]},"e":{},"f":false}'
  assert.deepEqual(bash(`cis_json <<< ${quote(json)}`), {
    code: 0,
    said: 'a.b=x=y\na.c=1\na.c=t\\"wo\na.c.d=null\nf=false',
  })
})

test('YAML of blocks becomes lines in the same way', () => {
  const yaml = `# comment
a:
  b: 'x: y'
  c:
  - one
  - two
d: https://192.0.2.1:2379
e:
  f:
    g: "1"
h: true
`
  assert.deepEqual(bash(`cis_yaml <<'END'\n${yaml}END`), {
    code: 0,
    said: 'a.b=x: y\na.c=one\na.c=two\nd=https://192.0.2.1:2379\ne.f.g=1\nh=true',
  })
})

const operands = [
  ['is', 'a|b', 'b', true],
  ['is', 'a', '', false],
  ['unset-or', 'true', '', true],
  ['unset-or', 'true', 'false', false],
  ['set', 'yes', '', false],
  ['absent', 'yes', 'x', false],
  ['has', 'RBAC', 'Node,RBAC', true],
  ['has', 'RBAC', 'RBACs', false],
  ['has-not', 'AlwaysAllow', 'Node,AlwaysAllow', false],
  ['has-not', 'AlwaysAllow', '', true],
  ['at-least', '30', '30', true],
  ['at-least', '30', '9', false],
  ['at-least', '30', '', false],
  ['at-least', '30', 'many', false],
  ['at-most', '1000', '12500', false],
  ['lasts', '1-300', '5m', true],
  ['lasts', '1-300', '1h0m0s', false],
  ['lasts', '1-300', '0', false],
  ['lasts', '1-300', '1.5s', true],
  ['lasts', '1-300', '500ms', false],
  ['lasts', '1-300', 'soon', false],
  ['lasts', '1-300', '', false],
  ['only', 'a,b', 'b,a', true],
  ['only', 'a,b', 'a,c', false],
  ['only', 'a,b', '', false],
  ['sometimes', 'a', 'a', false],
] as const

test('operators say what they say, also of what is not set', () => {
  const { said } = bash(
    operands
      .map(
        (words) =>
          `cis_fits ${words
            .slice(0, 3)
            .map((w) => quote(String(w)))
            .join(' ')} && echo true || echo false`,
      )
      .join('\n'),
  )
  assert.deepEqual(
    said.split('\n').map((holds, i) => [...(operands[i] ?? []).slice(0, 3), holds === 'true']),
    operands.map((words) => [...words]),
  )
})

// ─── what came of it ─────────────────────────────────────────────────────────────────────────────────────────────────

const server = cisOf({ site }, 'server', today)
const answers = (differ: Record<string, { state: string; found?: string; waived?: string }> = {}): Answers =>
  new Map(
    server.flatMap(({ section, controls }) =>
      controls.map(({ id, waived }): [string, { state: string; found?: string; waived?: string }] => {
        const known = section.controls.find((c) => c.id === id)
        const none = (known?.na ?? known?.person) !== undefined
        return [
          id,
          differ[id] ??
            (waived
              ? { state: 'waived', found: 'no', waived }
              : { state: none ? 'n/a' : 'ok', found: 'yes' }),
        ]
      }),
    ),
  )
const reportOf = (given: Answers): CisReport => ({
  benchmark: 'CIS Kubernetes 2.1',
  site: 'fortress',
  node: 'fortress-node',
  role: 'server',
  time: '2026-12-01T00:00:00.000Z',
  results: resultsOf(server, given),
})

test('the score has a line for each section, and tells what fails', () => {
  const report = reportOf(answers({ '1.2.17': { state: 'failed', found: 'audit-log-maxage=7' } }))
  assert.deepEqual(tally(report.results), { pass: 111, fail: 1, waived: 2, manual: 6, 'n/a': 14 })
  const text = scoreText(report).split('\n')
  assert.equal(text.length, 2 + 16 + 1 + 1 + 1)
  assert.match(text.find((line) => line.startsWith('  1.2')) ?? '', /28 +1 +1 +0 +0$/)
  assert.equal(text.at(-2), '  51 of 52 automated controls that apply pass or are waived.')
  assert.equal(
    text.at(-1),
    '  fails: 1.2.17 audit logs of the API server are kept for 30 days: audit-log-maxage=7',
  )
})

test('what was not answered fails', () => {
  const given = answers()
  given.delete('5.6.4')
  const last = reportOf(given).results.at(-1)
  assert.deepEqual([last?.id, last?.state, last?.found], ['5.6.4', 'fail', 'it was not checked'])
})

interface Sarif {
  $schema: string
  version: string
  runs: {
    tool: { driver: { name: string; rules: { id: string; shortDescription: { text: string } }[] } }
    invocations: { executionSuccessful: boolean; endTimeUtc: string }[]
    results: {
      ruleId: string
      ruleIndex: number
      kind: string
      level: string
      message: { text: string }
      locations: { logicalLocations: { fullyQualifiedName: string }[] }[]
      suppressions?: { kind: string; status: string; justification: string }[]
    }[]
  }[]
}

test('the report as SARIF 2.1.0 is what programs that read findings expect', () => {
  const report = reportOf(
    answers({ '1.2.17': { state: 'failed' }, '1.2.20': { state: 'failed', found: '0' } }),
  )
  const sarif = JSON.parse(JSON.stringify(sarifOf(report))) as Sarif
  assert.equal(sarif.version, '2.1.0')
  assert.deepEqual(Object.keys(sarif), ['$schema', 'version', 'runs'])
  const [run, ...more] = sarif.runs
  assert.ok(run && more.length === 0)
  assert.equal(run.tool.driver.name, 'fortress-kit')
  const rules = run.tool.driver.rules
  assert.equal(new Set(rules.map(({ id }) => id)).size, rules.length)
  assert.equal(run.results.length, 134)
  for (const result of run.results) {
    assert.equal(rules[result.ruleIndex]?.id, result.ruleId)
    assert.ok(['pass', 'fail', 'review', 'notApplicable'].includes(result.kind), result.kind)
    // The standard: a result that is no failure has the level none.
    assert.equal(result.level === 'none', result.kind !== 'fail')
    assert.ok(result.message.text.length > 0, result.ruleId)
    assert.equal(result.locations[0]?.logicalLocations[0]?.fullyQualifiedName, 'fortress/fortress-node')
    for (const { kind, status, justification } of result.suppressions ?? []) {
      assert.deepEqual([kind, status], ['external', 'accepted'])
      assert.match(justification, /until 2027/)
    }
  }
  const level = (id: string) => run.results.find(({ ruleId }) => ruleId === `CIS-${id}`)?.level
  assert.deepEqual([level('1.2.17'), level('1.2.20'), level('1.1.1')], ['error', 'warning', 'none'])
  assert.deepEqual(
    run.results.filter(({ suppressions }) => suppressions).map(({ ruleId }) => ruleId),
    ['CIS-1.2.11', 'CIS-5.3.2'],
  )
})

// ─── a second opinion ────────────────────────────────────────────────────────────────────────────────────────────────

const output = readFileSync(fixture('kube-bench.json'), 'utf8')

test('the output of kube-bench is read, every control of it', () => {
  const results = readBench(output)
  assert.equal(results.length, 12)
  assert.deepEqual(results[0], { id: '1.1.1', status: 'INFO', reason: 'Test marked as skip' })
  assert.deepEqual(new Set(results.map(({ status }) => status)), new Set(['PASS', 'FAIL', 'WARN', 'INFO']))
})

for (const [what, text, message] of [
  ['text', 'unable to get benchmark version', 'kube-bench did not print JSON'],
  ['JSON of something else', '{"Controls":[]}', 'kube-bench answered nothing'],
  [
    'a state that it does not have',
    '{"Controls":[{"tests":[{"results":[{"test_number":"1.1.1","status":"OK"}]}]}]}',
    'kube-bench says OK of 1.1.1, which is no state that it has',
  ],
] as const)
  test(`${what} is no output of kube-bench`, () => {
    assert.throws(() => readBench(text), { message })
  })

test('where kube-bench and we differ, the reason is given, or that there is none', () => {
  const { results } = reportOf(answers({ '1.2.6': { state: 'failed', found: 'AlwaysAllow' } }))
  const found = differences(readBench(output), results)
  const of = (id: string) => found.find((d) => d.id === id)
  // The same, in other words.
  assert.deepEqual(
    ['1.1.1', '1.2.2', '1.2.11', '5.7.1'].map((id) => of(id)),
    [undefined, undefined, undefined, undefined],
  )
  assert.match(of('4.1.7')?.why ?? '', /a certificate of an authority is public/)
  assert.deepEqual(of('1.2.6'), { id: '1.2.6', ours: '1.2.6', says: 'PASS', we: 'fail', why: undefined })
  assert.deepEqual(of('1.2.15'), { id: '1.2.15', ours: '1.2.15', says: 'FAIL', we: 'pass', why: undefined })
  assert.equal(of('5.2.12')?.ours, '5.2.11')
  assert.equal(of('5.2.9')?.why, 'the newer list has it no more')
  assert.ok(found.some(({ ours, says }) => ours === '5.1.14' && says === 'not checked'))
  const text = differenceText('fortress-node', found)
  assert.match(text, /2 of them unexplained/)
  assert.match(
    text,
    /not explained yet: add it to config\/k3s\/bench.yaml\n {4}1\.2\.6: it says PASS, we fail/,
  )
  assert.match(text, /5\.2\.11 \(its 5\.2\.12\): it says WARN, we pass/)
})

test('what is explained about kube-bench is about controls that are there', () => {
  const { moved, differs } = bench()
  const ids = entries.map(({ id }) => id)
  const known = (id: string) => id in moved || ids.includes(id)
  assert.deepEqual(
    differs.filter(({ id, why }) => !known(id) || why === ''),
    [],
  )
  assert.deepEqual(
    Object.values(moved).filter((to) => to !== null && !ids.includes(to)),
    [],
  )
})
