// A component as a page installs it, by the real helm on a real API server: what is proven before helm sees it, what a hand edit,
// a failure and a kill leave, and what an undo does. Its chart is the test's own; no pods run there.
import assert from 'node:assert/strict'
import { existsSync, readFileSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { said } from '../machine/kit.ts'
import { type Demo, demo, fixture, missing } from './demo.ts'

describe('a component', { skip: missing }, () => {
  let it: Demo
  const page = (...words: string[]) => it.page(...words)
  const apply = () => it.apply()
  const values = (text: string) => it.values(text)
  const kubectl = (words: string, input?: string) => it.kubectl(words, input)
  const message = () => it.message()
  const revisions = () => it.revisions()
  const image = () =>
    kubectl(
      `get deployment demo --namespace demo --output=jsonpath='{.spec.template.spec.containers[0].image}'`,
    )

  before(async () => {
    it = await demo('release')
  })
  after(() => it?.end())

  test('a plan names every step and changes nothing', async () => {
    const { code, text } = await page('plan')
    assert.equal(code, 2, text)
    assert.match(text, /change +\d\/9 namespace demo has Pod Security level baseline/)
    assert.match(text, /helm upgrade --install demo \S+demo-1\.0\.0\.tgz --namespace demo/)
    assert.match(text, /demo is not installed in demo/)
    assert.equal(await kubectl('get namespace demo --ignore-not-found'), '')
  })

  test('definitions of another owner are refused, by their names, before anything else', async () => {
    await kubectl(
      'apply --server-side --field-manager=someone-else --filename=-',
      readFileSync(join(fixture, 'definitions.yaml'), 'utf8'),
    )
    const { code, text } = await page('apply')
    assert.equal(code, 1, text)
    assert.match(text, /blocked .*the CRDs of demo-definitions have no other owner/)
    assert.match(text, /things\.demo\.example\.org belongs to someone-else/)
    await kubectl('delete customresourcedefinition things.demo.example.org')
  })

  test('a chart that cannot be fetched is said, and helm is not begun', async () => {
    const mirror = it.env['FK_MIRROR']
    it.env['FK_MIRROR'] = 'http://127.0.0.1:9'
    const { code, text } = await page('apply')
    it.env['FK_MIRROR'] = mirror
    assert.equal(code, 1, text)
    assert.match(text, /cannot be fetched/)
    assert.deepEqual(await revisions(), [])
  })

  test('a chart with another digest is refused before helm sees it', async () => {
    const right = it.digestOf('demo-1.0.0.tgz')
    it.pin('0a'.repeat(32))
    const { code, text } = await page('apply')
    it.pin(right)
    assert.equal(code, 1, text)
    assert.match(text, /is not the file that is pinned/)
    assert.deepEqual(await revisions(), [])
  })

  test('is installed, in a namespace whose default account mounts no token, and a second run changes nothing', async () => {
    await apply()
    assert.equal(
      await kubectl(
        `get serviceaccount default --namespace demo --output=jsonpath='{.automountServiceAccountToken}'`,
      ),
      'false',
    )
    assert.equal(await message(), 'from the component')
    assert.equal(
      await kubectl(`get deployment demo --namespace demo --output=jsonpath='{.metadata.labels.site}'`),
      'fortress-pi',
    )
    assert.match(await apply(), /39-demo: 9 steps hold/)
    assert.deepEqual(await revisions(), ['deployed'])
  })

  test('one look costs few requests', async () => {
    const before = (await it.node.audited()).length
    assert.equal((await page('verify')).code, 0)
    const asked = (await it.node.audited())
      .slice(before)
      .filter(({ user, stage }) => user.username === 'system:admin' && stage === 'ResponseComplete')
    const lines = asked.map(({ verb, requestURI }) => `${verb} ${requestURI}`).join('\n')
    assert.ok(asked.length > 0 && asked.length < 60, `${asked.length} requests:\n${lines}`)
  })

  test('a hand edit is seen field by field, mended by apply, and what others may write is left alone', async () => {
    await kubectl('set image deployment/demo --namespace demo demo=example.org/evil')
    await kubectl('scale deployment/demo --namespace demo --replicas=1')
    await kubectl('delete role demo --namespace kube-public')
    const { code, text } = await page('verify')
    assert.equal(code, 1, text)
    assert.match(
      text,
      /Deployment demo\n +spec\.template\.spec\.containers\[\]\.image\n +- .*evil\n +\+ .*demo:v1/,
    )
    assert.match(text, /\+ Role demo is not there/)
    assert.doesNotMatch(text, /spec\.replicas/)
    await kubectl('scale deployment/demo --namespace demo --replicas=0')
    await apply()
    assert.equal(await image(), 'example.org/demo:v1')
    assert.equal((await page('verify')).code, 0)
  })

  test('what somebody has added is seen and goes, and a restart stays', async () => {
    await kubectl(
      `patch configmap demo --namespace demo --patch '{"data":{"extra":"x"},"metadata":{"labels":{"own":"y"}}}'`,
    )
    await kubectl('annotate configmap demo --namespace demo who=bob')
    await kubectl('set env deployment/demo --namespace demo DEBUG=yes')
    await kubectl('rollout restart deployment/demo --namespace demo')
    const { code, text } = await page('verify')
    assert.equal(code, 1, text)
    assert.match(text, /ConfigMap demo\n +added by kubectl-patch: .*extra/)
    assert.match(text, /ConfigMap demo\n +added by kubectl-annotate: metadata annotations who/)
    assert.match(text, /Deployment demo\n +added by kubectl-set: .*env/)
    await apply()
    const left = await kubectl('get configmap,deployment demo --namespace demo --output=yaml')
    assert.doesNotMatch(left, /extra: x|own: y|who: bob|DEBUG/)
    assert.match(left, /restartedAt/)
    assert.equal((await page('verify')).code, 0)
  })

  test('a chart that is too far from the one that is there is refused', async () => {
    const file = join(it.copy.dir, 'config/versions.yaml')
    const text = readFileSync(file, 'utf8')
    writeFileSync(file, text.replace('version: 1.0.0\n', 'version: 1.2.0\n'))
    const { code, text: said } = await page('apply')
    writeFileSync(file, text)
    assert.equal(code, 1, said)
    assert.match(
      said,
      /blocked .*demo can be upgraded to 1\.2\.0 directly\n[^]*installed is 1\.0\.0, declared 1\.2\.0: too far/,
    )
  })

  test('a changed value is planned as a difference of objects, and applied', async () => {
    values('message: other\n')
    const { code, text } = await page('plan')
    assert.equal(code, 2, text)
    assert.match(
      text,
      /ConfigMap demo\n +data\.message\n +- +message: from the component\n +\+ +message: other/,
    )
    assert.equal(await message(), 'from the component')
    await apply()
    assert.equal(await message(), 'other')
  })

  test('an upgrade that fails half way is rolled back, and mended by the next', async () => {
    values('message: half\nport: 99999999\n')
    const { code, text } = await page('apply')
    assert.equal(code, 1, text)
    assert.match(
      text,
      /containerPort: Invalid value: 99999999[^]*revision \d+ failed and was rolled back to revision \d+/,
    )
    assert.equal(await message(), 'other')
    assert.equal((await revisions()).at(-1), 'deployed')
    values('message: whole\n')
    await apply()
    assert.equal(await message(), 'whole')
  })

  test('what a killed helm leaves pending is settled by the next run', async () => {
    values('message: killed\nhook: true\n')
    const running = said(it.start(['apply']))
    for (let i = 0; (await revisions()).at(-1) !== 'pending-upgrade'; i++) {
      assert.ok(i < 60, 'the upgrade never began')
      await sleep(250)
    }
    const helm = readdirSync('/proc')
      .filter((name) => /^\d+$/.test(name))
      .find((pid) => {
        try {
          const line = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0')
          return line[0] === 'helm' && line.some((word) => word.startsWith(it.node.state))
        } catch {
          return false // it has ended
        }
      })
    process.kill(Number(helm), 'SIGKILL')
    assert.equal((await running).code, 1)
    assert.equal((await revisions()).at(-1), 'pending-upgrade')
    values('message: healed\n')
    await apply()
    assert.equal(await message(), 'healed')
    assert.equal((await page('verify')).code, 0)
  })

  test('a run of somebody else is not disturbed', async () => {
    const last = await kubectl(
      `get secrets --namespace demo --selector owner=helm,status=deployed --output=jsonpath='{.items[0].metadata.name}'`,
    )
    await kubectl(
      `label secret ${last} --namespace demo --overwrite status=pending-upgrade fortress-kit=bob.other`,
    )
    values('message: mine\n')
    const { code, text } = await page('apply')
    assert.equal(code, 1, text)
    assert.match(text, /bob\.other has been at work on demo for \d+ s/)
    await kubectl(`label secret ${last} --namespace demo --overwrite status=deployed`)
    await apply()
  })

  test('undo takes everything away but what it says that it keeps', async () => {
    const { code, text } = await page('undo', '--yes')
    assert.equal(code, 0, text)
    assert.match(text, /kept: its definitions/)
    assert.equal(await kubectl('get role demo --namespace kube-public --ignore-not-found'), '')
    assert.equal(await kubectl('get namespace demo --ignore-not-found'), '')
    assert.match(await kubectl('get customresourcedefinitions --output=name'), /things\.demo\.example\.org/)
    assert.equal(existsSync(join(it.node.state, 'fortress-pi/components/demo/values.yaml')), false)
  })
})
