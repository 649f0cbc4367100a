// The steps of a release: what a person reads of them, and how a difference of objects is told.
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import { release, releaseShell } from '../../lib/component/release.ts'
import type { Context } from '../../lib/engine/page.ts'
import { printed } from '../../lib/engine/print.ts'
import { type Change, checkOf, isChange, isDemand, isWait } from '../../lib/engine/step.ts'
import { root } from '../../lib/ground/root.ts'
import { shellcheck, without } from '../programs.ts'
import { siteOf } from '../sites.ts'
import { pins } from './charts.ts'

const context = { site: siteOf('fortress'), pins, state: '/nonexistent/a site' } as unknown as Context

describe('the steps of a component', () => {
  const steps = release('cilium', context, { facts: { cluster: { name: 'fortress' } } })
  const named = (pattern: RegExp) => steps.find(({ name }) => pattern.test(name)) as Change

  test('begin with its values, and end with what must be ready, in the order of its data', () => {
    assert.match(steps[0]!.name, /values\.yaml$/)
    assert.equal(named(/values\.site\.yaml/).target?.text?.split('\n')[1], 'cluster:')
    assert.deepEqual(
      steps.filter(isWait).map(({ name }) => name),
      [
        'daemonset cilium/cilium is ready',
        'deployment cilium/cilium-operator is ready',
        'every node is ready',
        'deployment kube-system/coredns is ready',
        'deployment cilium/hubble-relay is ready',
      ],
    )
    assert.ok(steps.some((step) => isDemand(step) && /have no other owner/.test(step.name)))
  })

  test('leave out what another page waits for', () => {
    const fewer = release('cilium', context, { later: ['deployment/coredns', 'deployment/hubble-relay'] })
    assert.equal(fewer.filter(isWait).length, 3)
  })

  test('say why a namespace is not restricted', () => {
    const namespace = named(/^namespace cilium/)
    assert.match(namespace.name, /Pod Security level privileged/)
    assert.match(namespace.why ?? '', /kernel of the node/)
  })

  test('are one line of helm with long flags, and know a changed value', () => {
    const one = named(/installed with the declared values/)
    const line = one.apply.map(String).join('\n')
    assert.match(
      line,
      /helm upgrade --install cilium '\/nonexistent\/a site\/components\/cilium\/cilium-[\d.]+\.tgz' --namespace cilium/,
    )
    assert.doesNotMatch(line, / -\w /)
    const other = release('cilium', context, { facts: { cluster: { name: 'other' } } })
    const check = (all: typeof steps) => checkOf(all.find(({ name }) => name === one.name)!).text
    assert.notEqual(check(steps), check(other))
    assert.equal(
      check(steps),
      check(release('cilium', context, { facts: { cluster: { name: 'fortress' } } })),
    )
  })

  test('are a page of bash that shellcheck finds no fault in', { skip: without('shellcheck') }, () => {
    const page = { name: '39-demo', summary: 'A demo.', on: 'api' as const, library: releaseShell, steps }
    assert.equal(shellcheck(printed(page)), '')
    // What is only for a plan is not in it.
    assert.doesNotMatch(printed(page), /^ *release_ahead /m)
    assert.ok(isChange(steps[0]!))
  })

  test('are refused for a component that no page installs', () => {
    assert.throws(() => release('loki', context), /loki is not built yet/)
    assert.throws(() => release('nothing', context), /nothing is not in config\/components/)
  })
})

/** Runs a function of release.sh. */
const shell = (line: string, input: string) =>
  execFileSync('bash', ['-euo', 'pipefail', '-c', `. lib/component/release.sh; ${line}`], {
    cwd: root,
    input,
    encoding: 'utf8',
  })

describe('a difference of objects', () => {
  const live = `apiVersion: apps/v1
kind: Deployment
metadata:
  annotations:
    deployment.kubernetes.io/revision: "1"
    meta.helm.sh/release-name: demo
  generation: 1
  labels:
    app.kubernetes.io/managed-by: Helm
  name: web
spec:
  replicas: 1
  template:
    spec:
      containers:
      - args:
        - --one
        image: example.org/a
        name: a
        script: |
          kind: Other
          name: nobody
      - image: example.org/b
        name: b
`
  const differs = (ours: string, ignored = '') => {
    const dir = mkdtempSync(join(tmpdir(), 'fk-diff-'))
    try {
      const make = `mkdir -p ${dir}/LIVE ${dir}/MERGED
printf '%s' "$THEIRS" > ${dir}/LIVE/apps.v1.Deployment.demo.web; [ -n "$THEIRS" ] || rm ${dir}/LIVE/*
cat > ${dir}/MERGED/apps.v1.Deployment.demo.web
{ diff --unified=99999 --new-file ${dir}/LIVE ${dir}/MERGED || true; } | release_fields "$IGNORED"`
      return execFileSync('bash', ['-euo', 'pipefail', '-c', `. lib/component/release.sh; ${make}`], {
        cwd: root,
        input: ours,
        encoding: 'utf8',
        env: { ...process.env, THEIRS: theirs, IGNORED: ignored },
      })
    } finally {
      rmSync(dir, { recursive: true })
    }
  }
  let theirs = live

  test('names object and field, and shows both values', () => {
    assert.equal(
      differs(live.replace('replicas: 1', 'replicas: 2').replace('example.org/b', 'example.org/c')),
      `Deployment web
  spec.replicas
-   replicas: 1
+   replicas: 2
  spec.template.spec.containers[].image
-       - image: example.org/b
+       - image: example.org/c
`,
    )
  })

  test('is nothing where only the server and helm have written', () => {
    const ours = live
      .replace('generation: 1', 'generation: 2')
      .replace('    meta.helm.sh/release-name: demo\n', '')
      .replace('  labels:\n    app.kubernetes.io/managed-by: Helm\n', '')
    assert.equal(differs(ours), '')
  })

  test('leaves out what others may write, of this object or of its kind, and nothing beside it', () => {
    const ours = live.replace('replicas: 1', 'replicas: 2').replace('example.org/a', 'example.org/z')
    assert.doesNotMatch(differs(ours, 'Deployment web spec.replicas'), /replicas/)
    assert.doesNotMatch(differs(ours, 'Deployment * spec.replicas'), /replicas/)
    assert.match(differs(ours, 'Deployment other spec.replicas'), /replicas/)
    assert.match(differs(ours, 'DaemonSet * spec.replicas'), /replicas/)
    assert.match(differs(ours, 'Deployment * spec.replica'), /replicas/)
    assert.equal(differs(ours, 'Deployment * spec'), '')
    assert.equal(
      differs(ours, 'Deployment * spec.replicas\nDeployment web spec.template.spec.containers[].image'),
      '',
    )
  })

  test('takes no text inside of a field for a field', () => {
    assert.match(differs(live.replace('kind: Other', 'kind: Others')), /^Deployment web\n/)
  })

  test('is one line for an object that is not there', () => {
    theirs = ''
    assert.equal(differs(live), '+ Deployment web is not there\n')
    theirs = live
  })
})

describe('the way to another version', () => {
  const cases: [string, string, string, boolean][] = [
    ['1.20.1', '1.20.1', 'patch', true],
    ['1.20.1', '1.20.9', 'patch', true],
    ['1.20.1', '1.20.9', 'minor', true],
    ['1.20.1', '1.21.0', 'minor', true],
    ['v1.20.1', 'v1.21.0', 'minor', true],
    ['1.20.1', '1.21.0', 'patch', false],
    ['1.20.1', '1.22.0', 'minor', false],
    ['1.20.1', '2.0.0', 'minor', false],
    ['1.20.1', '2.0.0', 'major', true],
    ['1.20.1', '3.0.0', 'major', false],
    ['1.9.0', '1.10.0', 'minor', true],
    ['1.20.1', '1.20.0', 'patch', false],
    ['1.21.0', '1.20.9', 'minor', false],
  ]
  for (const [is, to, part, may] of cases)
    test(`from ${is} to ${to} is ${may ? 'one step' : 'refused'} where a ${part} version may change`, () => {
      const line = `helm() { echo ${is}; }; release_jump demo demo ${to} ${part} && echo may || echo no`
      assert.equal(shell(line, '').trim().split('\n').at(-1), may ? 'may' : 'no')
    })

  test('is open where nothing is installed, and unknown where helm cannot say', () => {
    const said = (text: string) =>
      shell(`helm() { echo '${text}'; return 1; }; release_jump a b 1.0.0 minor && echo may || echo no`, '')
    assert.equal(said('Error: release: not found'), 'may\n')
    assert.equal(said('Error: no connection'), 'Error: no connection\nno\n')
  })
})

test('the objects of a manifest are named by kind and name', () => {
  const manifest = `---
# Source: a
apiVersion: v1
kind: ConfigMap
metadata:
  labels:
    name: other
  name: "b"
data:
  name: x
---
kind: Role
metadata:
  name: a
`
  assert.equal(shell('release_objects', manifest), 'ConfigMap b\nRole a\n')
})

describe('a namespace is emptied', () => {
  // What kubectl answers, one line for each time that it is asked; a second goes by between two.
  const emptied = (...answers: string[]) =>
    shell(
      `answers=(${answers.map((one) => `'${one}'`).join(' ')}) FK_TMP=$(mktemp -d); echo 0 > $FK_TMP/n
kubectl() {
  local n; n=$(cat $FK_TMP/n); echo $((n + 1)) > $FK_TMP/n
  local said=\${answers[n < \${#answers[@]} ? n : -1]}
  case $said in away) echo "no connection $n" >&2; return 1 ;; gone) ;; *) echo "$said" ;; esac
}
sleep() { SECONDS=$((SECONDS + $1)); }
release_emptied demo 2>&1 && echo yes || echo no; rm -r $FK_TMP`,
      '',
    )
  test('when it is not there', () => assert.equal(emptied('gone'), 'yes\n'))
  test('also where the API does not answer for a moment', () =>
    assert.equal(emptied('demo: one is left', 'away', 'away', 'demo: one is left', 'gone'), 'yes\n'))
  test('and is not where the API is away for a minute, which is said once', () =>
    assert.match(emptied('demo: one is left', 'away'), /^no connection \d+\nno\n$/))
  test('and is not when something is left for too long', () =>
    assert.equal(emptied('demo: one is left'), 'namespace demo: one is left\nno\n'))
})
