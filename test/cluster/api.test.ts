// A page about the API of a cluster, with the real kubectl and helm against the real API server: from the laptop, by a kubeconfig
// that is in memory while it runs.
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { readFileSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { secretStore } from '../../lib/ground/secret.ts'
import { root, said } from '../machine/kit.ts'
import { type Checkout, checkout } from '../machine/laptop.ts'
import { without } from '../programs.ts'
import { type Bed, bed, etc, program } from './kit.ts'

const missing = program === undefined ? 'kube-bed is not installed' : without('kubectl', 'helm')

describe('the API from the laptop', { skip: missing }, () => {
  let node: Bed
  let copy: Checkout
  let env: Record<string, string | undefined>
  const pids: number[] = []
  const run = (words: string[]) => {
    const child = spawn(process.execPath, words, { cwd: copy.dir, env, stdio: ['ignore', 'pipe', 'pipe'] })
    pids.push(child.pid ?? 0)
    return said(child)
  }
  const page = (...words: string[]) => run(['--import', 'tsx', copy.page('52-notes'), ...words])
  const task = (...words: string[]) => run(['bin/task.cjs', ...words])
  const store = () =>
    secretStore({ dir: join(node.state, 'fortress-pi'), identity: join(node.state, 'identity.txt') })
  const save = (kubeconfig: string) =>
    store().put('k3s-kubeconfig', Buffer.from(kubeconfig).toString('base64'))
  const left = () =>
    readdirSync('/dev/shm').filter((name) => pids.some((pid) => name.startsWith(`fortress-kit-${pid}-`)))

  before(async () => {
    node = await bed(undefined, 'api')
    const { code, said: why } = await node.begin()
    assert.equal(code, 0, why)
    copy = checkout()
    writeFileSync(
      copy.page('52-notes'),
      readFileSync(join(root, 'test/fixtures/pages/52-notes.ts'), 'utf8').replaceAll(
        '../../../lib/',
        '../lib/',
      ),
    )
    const site = join(copy.dir, 'config/sites/fortress-pi.yaml')
    writeFileSync(
      site,
      `${readFileSync(site, 'utf8')}cluster: { api: { vip: ${node.machine.host}, keeper: none } }\n`,
    )
    env = {
      ...process.env,
      ...node.env,
      FK_SITE: 'fortress-pi',
      KUBECONFIG: '/nonexistent',
      HELM_NAMESPACE: 'other',
    }
  })
  after(async () => {
    copy?.end()
    await node?.end()
  })

  test('waits for the kubeconfig', async () => {
    const { code, text } = await page('plan')
    assert.equal(code, 2, text)
    assert.match(text, /not built, after 20-k3s-server/)
  })

  test('a page is applied through it, and changes nothing the second time', async () => {
    await save(await node.ok(`cat ${etc}/k3s.yaml`))
    const planned = await page('plan')
    assert.equal(planned.code, 2, planned.text)
    const { code, text } = await page('apply')
    assert.equal(code, 0, text)
    assert.match(text, /1 changed/)
    const again = await page('apply')
    assert.equal(again.code, 0, again.text)
    assert.match(again.text, /1 step holds/)
    assert.doesNotMatch(again.text, /changed/)
    assert.deepEqual(left(), [])
  })

  test('a look at it costs a handful of requests', async () => {
    const before = (await node.audited()).length
    assert.equal((await page('verify')).code, 0)
    const asked = (await node.audited())
      .slice(before)
      .filter(({ user, stage }) => user.username === 'system:admin' && stage === 'ResponseComplete')
    assert.ok(
      asked.length > 0 && asked.length < 20,
      asked.map(({ verb, requestURI }) => `${verb} ${requestURI}`).join('\n'),
    )
  })

  test('verify sees what was edited by hand, and apply makes it good', async () => {
    const patch = `patch configmap note --namespace fk-notes --patch '{"data":{"says":"other"}}'`
    assert.equal((await node.kubectl(patch)).code, 0)
    const { code, text } = await page('verify')
    assert.equal(code, 1, text)
    assert.match(text, /-\s+says: other\n.*\+\s+says: keep/)
    assert.equal((await page('apply')).code, 0)
    assert.equal((await page('verify')).code, 0)
  })

  test('./task kubectl and ./task helm use it, and pass the exit code on', async () => {
    const got = await task(
      'kubectl',
      'get',
      'configmap',
      'note',
      '-n',
      'fk-notes',
      '-o',
      'jsonpath={.data.says}',
    )
    assert.deepEqual(got, { code: 0, text: 'keep' })
    const none = await task('kubectl', 'get', 'configmap', 'nothing')
    assert.equal(none.code, 1)
    assert.match(none.text, /configmaps "nothing" not found/)
    const list = await task('helm', 'list', '--all-namespaces')
    assert.equal(list.code, 0, list.text)
    assert.match(list.text, /^NAME\s+NAMESPACE/m)
    assert.match((await task('helm', 'env')).text, /^HELM_NAMESPACE="default"$/m)
    assert.deepEqual(left(), [])
  })

  test('an API that is frozen is unknown within seconds, and none of its steps fails', async () => {
    await node.ok('systemctl kill --signal=STOP k3s.service')
    const began = Date.now()
    try {
      const { code, text } = await page('verify')
      assert.equal(code, 1)
      assert.match(text, /the API at \S+:6443 does not answer/)
      assert.match(text, /wg-quick up|\.\/task status|\.\/task peer/)
      assert.doesNotMatch(text, /the note is in the cluster/)
      assert.ok(Date.now() - began < 30_000, `it took ${Date.now() - began} ms`)
    } finally {
      await node.ok('systemctl kill --signal=CONT k3s.service')
    }
    assert.deepEqual(left(), [])
  })

  test('an API of another authority is not believed', async () => {
    const mine = await node.ok(`cat ${etc}/k3s.yaml`)
    const other = await node.ok('base64 --wrap=0 /var/lib/rancher/k3s/server/tls/request-header-ca.crt')
    await save(mine.replace(/(certificate-authority-data: )\S+/, `$1${other}`))
    const { code, text } = await page('verify')
    assert.equal(code, 1)
    assert.match(text, /is not the one that we know[^]*\.\/task k3s-server apply/)
    await save(mine)
  })

  test('undo takes it away', async () => {
    const { code, text } = await page('undo', '--yes')
    assert.equal(code, 0, text)
    const { stdout } = await node.kubectl(
      "get namespace fk-notes --ignore-not-found --output jsonpath='{.status.phase}'",
    )
    assert.match(stdout, /^(Terminating)?$/)
  })

  test('an API that does not run is said so', async () => {
    await node.ok('systemctl stop k3s.service')
    const { code, text } = await page('verify')
    assert.equal(code, 1)
    assert.match(text, /the API at \S+:6443 (does not run there|does not answer)/)
    assert.deepEqual(left(), [])
  })
})
