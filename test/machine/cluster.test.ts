// The pages of the cluster on several machines, where a stand-in is k3s and writes down what happens: who joins after whom, what an
// upgrade does in which order, what it refuses, how it goes back, and that a run that was killed anywhere is ended by the next one.
import assert from 'node:assert/strict'
import { readFileSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import type { Machine } from '../../lib/machine.ts'
import type { Page } from '../../lib/script.ts'
import { type Cluster, recorded } from './recorded.ts'

const load = createRequire(import.meta.url)
const [old, next] = ['v1.36.4+k3s1', 'v1.37.1+k3s1']

describe('a cluster that begins', () => {
  let cluster: Cluster
  before(async () => {
    // The agent is listed first, and comes last all the same.
    cluster = await recorded('begin', ['agent', 'server', 'server', 'server'])
    cluster.pin(old)
  })
  after(() => cluster?.end())

  test('the first server begins it, and nobody else', async () => {
    const { code, text } = await cluster.page('20-k3s-server', 'apply')
    assert.equal(code, 0, text)
    assert.deepEqual(cluster.api.told('join', 'member'), ['member begin-2', 'join begin-2'])
  })

  test('nobody joins a cluster that is not well', async () => {
    cluster.api.faults.sick.add('begin-2')
    const { code, text } = await cluster.page('21-k3s-join', 'apply')
    assert.equal(code, 1)
    assert.match(text, /on begin-2: the servers of the cluster are well without begin-3/)
    assert.match(text, /begin-2 has no vote in etcd/)
    assert.deepEqual(cluster.api.told('join'), ['join begin-2'])
    cluster.api.faults.sick.clear()
  })

  test('servers join one after the other, and then the agent, though it is listed first', async () => {
    const { code, text } = await cluster.page('21-k3s-join', 'apply')
    assert.equal(code, 0, text)
    assert.deepEqual(
      cluster.api.told('join'),
      ['begin-2', 'begin-3', 'begin-4', 'begin-1'].map((name) => `join ${name}`),
    )
    const events = cluster.api.told('member', 'ready')
    assert.ok(events.indexOf('ready begin-3') < events.indexOf('member begin-4'), events.join('\n'))
  })

  test('a second time there is nothing to do, and nothing starts anew', async () => {
    const starts = cluster.api.told('start').length
    for (const page of ['20-k3s-server', '21-k3s-join']) {
      const { code, text } = await cluster.page(page, 'apply')
      assert.deepEqual([code, /^changed /m.test(text)], [0, false], text)
    }
    assert.equal(cluster.api.told('start').length, starts)
  })

  test('what a server cannot read returns to what it was, and the next server is not touched', async () => {
    const file = join(cluster.copy.dir, 'config/k3s/admission.yaml')
    const good = readFileSync(file, 'utf8')
    writeFileSync(file, good.replace('kind: AdmissionConfiguration', 'kind: Admission'))
    cluster.api.log.length = 0
    const { code, text } = await cluster.page('21-k3s-join', 'apply')
    assert.equal(code, 1)
    assert.match(text, /no kind AdmissionConfiguration is registered/)
    assert.deepEqual([...new Set(cluster.api.told('stop'))], ['stop begin-3'])
    await settled(() => cluster.api.up.has('begin-3'))
    writeFileSync(file, good)
    const verified = await cluster.page('21-k3s-join', 'verify')
    assert.equal(verified.code, 0, verified.text)
  })

  test('no server starts anew while another one is away, not even the first', async () => {
    const file = join(cluster.copy.dir, 'config/k3s/audit.yaml')
    const good = readFileSync(file, 'utf8')
    writeFileSync(file, `${good}# changed\n`)
    await cluster.on('begin-4', 'systemctl stop k3s')
    cluster.api.log.length = 0
    const first = await cluster.page('20-k3s-server', 'apply')
    assert.equal(first.code, 1, first.text)
    assert.match(
      first.text,
      /on begin-3: the servers of the cluster are well without begin-2[\s\S]*begin-4 has no vote/,
    )
    const others = await cluster.page('21-k3s-join', 'apply')
    assert.equal(others.code, 1, others.text)
    assert.deepEqual(cluster.api.told('stop'), [])
    await cluster.on('begin-4', 'systemctl start k3s')
    for (const page of ['20-k3s-server', '21-k3s-join']) {
      const { code, text } = await cluster.page(page, 'apply')
      assert.equal(code, 0, text)
    }
    assert.equal(cluster.api.mostAway(), 1)
    writeFileSync(file, good)
  })

  test('undo stops every node, agents first, and leaves the data', async () => {
    cluster.api.log.length = 0
    for (const page of ['21-k3s-join', '20-k3s-server']) {
      const { code, text } = await cluster.page(page, 'undo')
      assert.equal(code, 0, text)
    }
    assert.deepEqual(
      cluster.api.told('stop'),
      ['begin-1', 'begin-4', 'begin-3', 'begin-2'].map((name) => `stop ${name}`),
    )
    assert.match(await cluster.on('begin-2', 'ls /var/lib/rancher/k3s/server'), /^db$/m)
  })
})

async function settled(holds: () => boolean): Promise<void> {
  for (let i = 0; i < 100 && !holds(); i++) await new Promise((resolve) => setTimeout(resolve, 100))
  assert.ok(holds(), 'it does not become so')
}
