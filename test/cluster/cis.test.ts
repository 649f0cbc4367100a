// Every control of the list holds on a control plane with the configuration of config/k3s, and fails on one that is weakened
// under it.
import assert from 'node:assert/strict'
import { execFileSync, spawn } from 'node:child_process'
import { cpSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { parse, stringify } from 'yaml'
import { scoreNode } from '../../lib/cli/cis.ts'
import { contextOf, storeOf } from '../../lib/cli/context.ts'
import { pageNamed } from '../../lib/cli/scripts.ts'
import type { Machine } from '../../lib/engine/machine.ts'
import { createReport } from '../../lib/engine/report.ts'
import { runPage } from '../../lib/engine/run.ts'
import { offeredPods } from '../../lib/k3s/cis.ts'
import { type CisReport, tally } from '../../lib/k3s/score.ts'
import { loadConfig } from '../../lib/site/config.ts'
import type { Config } from '../../lib/site/model.ts'
import { root, said } from '../machine/kit.ts'
import { checkout } from '../machine/laptop.ts'
import { type Weakening, weakened, weakenings } from '../weaken.ts'
import { type Bed, alone, bed, connected, data, etc, patience, told } from './kit.ts'

/** A site whose one machine is host and node. */
const site = 'fortress-pi'
const silent = () => createReport({ stdout: { write: () => {} } })
const all = weakenings()
const of = (batch: string) => Object.entries(all).filter(([, w]) => w.batch === batch)
/** What fails when these changes are made: their own controls, and what they take with them. */
const expected = (changes: [string, Weakening][]) =>
  [...new Set(changes.flatMap(([id, { also = [] }]) => [id, ...also]))].toSorted()

describe('CIS Kubernetes 2.1 on a control plane with the configuration of config/k3s', () => {
  let node: Bed
  let machine: Machine
  let config: Config
  /** What each part was started with before anything was weakened. */
  let started = ''

  const failing = async () => {
    const { results } = await scoreNode(machine, config, silent())
    return results.filter(({ state }) => state === 'fail')
  }
  const ids = (results: CisReport['results']) => results.map(({ id }) => id).toSorted()
  const told_ = (results: CisReport['results']) =>
    results.map(({ id, found }) => `${id}: ${found}`).join('\n')
  const shell = (command: string) =>
    node.ok(
      `bash -euo pipefail -s`,
      `export PATH=/opt/bin:$PATH KUBECONFIG=${etc}/k3s.yaml\n${etcd}\n${command}\n`,
    )
  const page = async (mode: 'apply' | 'undo') => {
    const store = storeOf(config)
    const found = pageNamed('k3s-cis')
    const steps = found.steps(contextOf(config, machine.facts, store))
    return runPage(found, steps, mode, { machine, report: silent(), store, rollbackAfter: 60, lockWait: 20 })
  }

  before(async () => {
    const named = { [`${etc}/config.yaml.d/10-node.yaml`]: `cluster-init: true\nnode-name: ${site}\n` }
    node = await bed(undefined, 'cis', { ...alone, ...named, ...patience })
    assert.deepEqual(await node.begin(), { code: 0, said: '' })
    started = await node.ok(
      `journalctl --unit=k3s.service --output=cat | sed --quiet 's/^.*msg="Running \\([a-z-]*\\) \\(--.*\\)"$/\\1 \\2/p'`,
    )
    config = loadConfig({ env: node.env, site })
    machine = await connected(node, 'fortress-pi')
  })
  after(async () => {
    await machine?.close()
    await node?.end()
  })

  test('right after its start accounts called default come late, and are all that the page has to change', async () => {
    assert.equal((await page('apply')).code, 0)
    assert.equal((await page('apply')).changed, 0)
    assert.equal((await page('undo')).code, 0)
    assert.deepEqual(ids(await failing()), ['5.1.5'])
    assert.equal((await page('apply')).code, 0)
  })

  test('every control that is automated holds, and the others hold, are waived, or are for a person', async () => {
    const { results } = await scoreNode(machine, config, silent())
    assert.equal(told_(results.filter(({ state }) => state === 'fail')), '')
    assert.deepEqual(tally(results.filter(({ assessed }) => assessed === 'automated')), {
      pass: 52,
      fail: 0,
      waived: 0,
      manual: 0,
      'n/a': 13,
    })
    assert.deepEqual(ids(results.filter(({ state }) => state === 'waived')), ['1.2.11', '5.3.2'])
    // The parts themselves were asked, and not what was written when they started.
    const source = (id: string) => / \(by (.*)\)/.exec(results.find((r) => r.id === id)?.found ?? '')?.[1]
    assert.deepEqual(['1.2.15', '1.3.2', '1.4.1', '4.2.1'].map(source), [
      'its /flagz',
      'its /flagz',
      'its /flagz',
      'its /configz',
    ])
  })

  test('files that are open, or somebody else’s, are found, and the page closes them', async () => {
    const changes = of('files')
    for (const [, { run = '' }] of changes) await shell(run)
    const found = await failing()
    assert.deepEqual(ids(found), expected(changes), told_(found))
    // What the page mends by itself needs no undo of ours.
    await page('apply')
    const left = ids(await failing())
    assert.deepEqual(left, [
      '1.1.10',
      '1.1.9',
      '1.2.28',
      '2.1',
      '2.2',
      '2.3',
      '2.4',
      '2.5',
      '2.6',
      '2.7',
      '3.2.2',
    ])
    for (const [, { undo = '' }] of changes.toReversed()) await shell(undo)
    assert.equal(told_(await failing()), '')
  })

  test('rights, accounts and pods that are too much are found', async () => {
    const changes = of('objects')
    await shell(`kubectl create namespace weak
kubectl label namespace weak pod-security.kubernetes.io/enforce=privileged
until kubectl get serviceaccount default --namespace=weak > /dev/null 2>&1; do sleep 0.2; done
kubectl patch serviceaccount default --namespace=weak --patch '{"automountServiceAccountToken":false}'`)
    const pods = offeredPods()
    for (const [, { run, object, pod, space = 'weak' }] of changes) {
      if (run !== undefined) await shell(run)
      const what = pod === undefined ? object : JSON.stringify(pods[pod])
      if (what !== undefined) {
        const words = `create --filename=- --kubeconfig=${etc}/k3s.yaml --namespace=${space}`
        const { code, stderr } = await node.kubectl(words, what)
        assert.equal(code, 0, stderr)
      }
    }
    const found = await failing()
    assert.deepEqual(ids(found), expected(changes), told_(found))
    for (const [, { undo }] of changes) if (undo !== undefined) await shell(undo)
    await shell(`kubectl delete clusterrolebinding weak-admin
kubectl delete secret bootstrap-token-weak00 --namespace=kube-system
kubectl delete configmap weak --namespace=default
kubectl delete pods --all --namespace=weak --force --grace-period=0 2> /dev/null
kubectl delete namespace weak`)
    assert.equal(told_(await failing()), '')
  })

  const ours = parse(told('config.yaml')) as Record<string, unknown>
  for (const batch of ['one', 'two', 'three', 'four'])
    test(`arguments of batch ${batch} are found`, async () => {
      const changes = of(batch)
      node.put({
        [`${etc}/config.yaml`]: stringify(weakened(ours, changes, started)),
        [`${etc}/people.csv`]: 'weakweakweak,mallory,1\n',
      })
      assert.deepEqual(await node.begin(), { code: 0, said: '' })
      const found = await failing()
      assert.deepEqual(ids(found), expected(changes), told_(found))
    })

  test('with the shipped configuration everything holds again', async () => {
    node.put({ [`${etc}/config.yaml`]: told('config.yaml') })
    assert.deepEqual(await node.begin(), { code: 0, said: '' })
    assert.equal(told_(await failing()), '')
  })

  test('./task cis prints the score, and writes it for programs', async () => {
    const hosts = join(node.state, 'known_hosts')
    const lines = readFileSync(hosts, 'utf8')
    writeFileSync(hosts, lines + lines.replaceAll(/^\S+/gm, `${site}.${site}`))
    const task = (...words: string[]) => said(node.start('bin/task.cjs', 'cis', '--site', site, ...words))
    const { code, text } = await task()
    assert.equal(code, 0, text)
    assert.match(text, /^fortress-pi: CIS Kubernetes 2\.1, as server$/m)
    assert.match(text, /^ +all +107 +0 +2 +6 +19$/m)
    assert.match(text, /^ {2}52 of 52 automated controls that apply pass or are waived\.$/m)
    const out = join(root, 'out', site)
    const report = JSON.parse(readFileSync(join(out, `cis-${site}.json`), 'utf8')) as CisReport
    assert.equal(report.results.length, 134)
    const sarif = JSON.parse(readFileSync(join(out, `cis-${site}.sarif`), 'utf8')) as {
      runs: { results: object[] }[]
    }
    assert.equal(sarif.runs[0]?.results.length, 134)
  })

  test('--bench uploads kube-bench to the node, runs it there, and removes it', async (t) => {
    const copy = checkout()
    t.after(() => copy.end())
    for (const part of ['bin', 'Taskfile.ts'])
      cpSync(join(root, part), join(copy.dir, part), { recursive: true })
    // In place of kube-bench: it asks the cluster as its controls do, and says what was recorded.
    const packed = join(copy.dir, 'packed')
    mkdirSync(join(packed, 'cfg'), { recursive: true })
    writeFileSync(join(packed, 'cfg/config.yaml'), 'version_mapping: {}\n')
    writeFileSync(
      join(packed, 'kube-bench'),
      `#!/bin/bash
echo "asked: $*" >&2
kubectl get --raw /readyz > /dev/null && [ -s "$5" ] && cat "\${0%/*}/said.json"
`,
      { mode: 0o755 },
    )
    cpSync(join(root, 'test/fixtures/k3s/kube-bench.json'), join(packed, 'said.json'))
    const downloads = join(copy.dir, 'downloads')
    const tarball = join(downloads, 'kube-bench-v0.16.0-amd64.tar.gz')
    mkdirSync(downloads)
    execFileSync('tar', ['--create', '--gzip', '--file', tarball, '--directory', packed, '.'])
    copy.pin('kube-bench', readFileSync(tarball))
    const bench = (...words: string[]) =>
      said(
        spawn(
          process.execPath,
          [join(copy.dir, 'bin/task.cjs'), 'cis', '--site', site, '--bench', ...words],
          {
            env: { PATH: process.env['PATH'], HOME: copy.dir, ...node.env, FK_DOWNLOAD_DIR: downloads },
            stdio: ['ignore', 'pipe', 'pipe'],
          },
        ),
      )
    const { code, text } = await bench()
    assert.equal(code, 0, text)
    assert.match(text, /^ {2}52 of 52 automated controls/m)
    assert.match(text, /kube-bench with \S+ says something else of \d+ controls, \d+ of them unexplained/)
    // Controls of one's own go in place of those that it comes with.
    const none = join(copy.dir, 'none')
    mkdirSync(none)
    const own = await bench('--config-dir', none)
    assert.equal(own.code, 1)
    assert.match(own.text, /kube-bench said nothing on/)
    assert.match(
      own.text,
      /asked: run --config-dir \S+\/cfg --config \S+config.yaml --benchmark \S+ --targets master,etcd/,
    )
    assert.equal(await node.ok('ls -A /var/tmp | grep bench | cat'), '')
  })
})

/** Changes one key of the configuration that k3s has given etcd, and brings it back. */
const etcd = `
etcd_says() {
  local file=${data}/server/db/etcd/config
  [ -e "$file.kept" ] || cp --archive "$file" "$file.kept"
  awk -v part="$1:" -v key="  $2:" -v line="  $2: $3" '
    $0 == part { print; inside = 1; print line; next }
    inside && index($0, key) == 1 { next }
    !/^ / { inside = 0 }
    { print }' "$file" > "$file.new"
  mv "$file.new" "$file"
}
etcd_as_it_was() {
  [ ! -e ${data}/server/db/etcd/config.kept ] || mv ${data}/server/db/etcd/config.kept ${data}/server/db/etcd/config
}
`
