// The rules of config/policy as Kyverno judges by them beside a real API server: in which words it refuses where nobody else does,
// what it reports, when an exception ends, and that nothing waits for it while it is silent. Its programs run without pods.
import assert from 'node:assert/strict'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { rulesFor } from '../../lib/site/policy.ts'
import { said } from '../machine/kit.ts'
import { siteOf } from '../sites.ts'
import { type Demo, demo, missing as noDemo } from '../cluster/demo.ts'
import { kyvernoIs, kyvernoLog, missing as noKyverno, pinKyverno, startKyverno } from './engine.ts'
import type { Reply } from '../cluster/kit.ts'
import {
  type Made,
  around,
  bad,
  badDebuggers,
  container,
  debugger_,
  definitions,
  good,
  namespace,
  pod,
} from '../cluster/workloads.ts'

const rules = rulesFor(siteOf('fortress-pi')).on.map(({ id }) => id)
const days = (n: number) => new Date(Date.now() + n * 86_400_000).toISOString().slice(0, 10)
const labels = { app: 'old', 'fortress-kit/owner': 'me' }
const untagged = { containers: [container('web', { image: 'docker.io/library/busybox:1' })] }
/** A Pod without a digest, and what is said of it. */
const old = (name: string, more: object = labels, at = 'legacy') =>
  around('Pod', name, pod(untagged, { labels: more }), at)
const noDigest = 'image without a digest, as in NAME@sha256:DIGEST: web'
const vpol = 'validatingpolicies.policies.kyverno.io'

describe('Kyverno', { skip: noDemo || noKyverno }, () => {
  let it: Demo
  let document: string

  const page = (name: string, ...words: string[]) => said(it.start(words, name))
  const rulesPage = (...words: string[]) => page('50-policy', ...words)
  const applied = async (name = '50-policy') => {
    const { code, text } = await page(name, 'apply')
    assert.equal(code, 0, `${text}\n${code === 0 ? '' : await kyvernoLog(it)}`)
    return text
  }
  const told = (policy: string) =>
    writeFileSync(
      join(it.copy.dir, 'config/sites/fortress-pi.yaml'),
      `${document}policy: { registries: [docker.io, ghcr.io, quay.io], ${policy} }\n`,
    )
  const exception = (until: string) =>
    `exceptions: [{ rules: [digest], namespace: legacy, labels: { app: old }, why: a test, until: '${until}' }]`
  const ask = ({ path, body }: Pick<Made, 'path' | 'body'>, dry = true) =>
    it.node.ask('POST', `${path}${dry ? '?dryRun=All' : ''}`, { body })
  /** Who refuses it: Kyverno, the API server by its own rules, or nobody. */
  const refuserOf = ({ status, text }: Reply) =>
    status === 201
      ? 'nobody'
      : /denied the request: Policy fortress-/.test(text)
        ? 'Kyverno'
        : /ValidatingAdmissionPolicy 'fortress-/.test(text)
          ? 'API server'
          : text
  const until = async (who: ReturnType<typeof refuserOf>, made: Made): Promise<Reply> => {
    for (let i = 0; ; i++) {
      const reply = await ask(made)
      if (refuserOf(reply) === who) return reply
      if (i === 200) assert.fail(`${made.what}: ${reply.status} ${reply.text}\n${await kyvernoLog(it)}`)
      await sleep(300)
    }
  }
  const saysOf = (rule: string, { body, path }: Pick<Made, 'path' | 'body'>, says: string) =>
    `admission webhook "vpol.validate.kyverno.svc-ignore-finegrained-fortress-${rule}" denied the request: ` +
    `Policy fortress-${rule} failed: ${body.kind} ${/namespaces\/([^/]+)/.exec(path)![1]}/${body.metadata['name']}: ${says}`
  const messageOf = ({ text }: Reply) => (JSON.parse(text) as { message: string }).message
  /** The API server's own rules warn and no longer refuse: what is refused now is refused by Kyverno. */
  const unbound = async () => {
    await it.kubectl('delete validatingadmissionpolicybindings --selector=fortress-kit=policy-refuse')
    await until('Kyverno', old('any', {}, namespace))
  }
  const webhooks = () =>
    it.kubectl(
      'get validatingwebhookconfigurations,mutatingwebhookconfigurations --selector=webhook.kyverno.io/managed-by=kyverno --output=name',
    )

  before(async () => {
    it = await demo('kyverno')
    const path = join(it.copy.dir, 'config/sites/fortress-pi.yaml')
    document = readFileSync(path, 'utf8').replace('components: {', 'components: { policy: kyverno,')
    assert.match(document, /policy: kyverno/)
    pinKyverno(it)
    await it.kubectl('apply --server-side --filename=-', definitions)
    for (const name of [namespace, 'legacy']) await it.kubectl(`create namespace ${name}`)
    for (const name of [namespace, 'legacy', 'default', 'kube-system'])
      for (let i = 0; ; i++) {
        if ((await it.node.kubectl(`get serviceaccount default --namespace ${name}`)).code === 0) break
        assert.ok(i < 100, `${name} gets no default service account`)
        await sleep(100)
      }
    told('mode: audit')
  })
  after(() => it?.end())

  test('its page installs it; a second run changes nothing', async () => {
    const run = page('49-policy-engine', 'apply')
    await startKyverno(it)
    const { code, text } = await run
    assert.equal(code, 0, `${text}\n${await kyvernoLog(it)}`)
    assert.match(await applied('49-policy-engine'), /49-policy-engine: \d+ steps hold/)
    const verified = await page('49-policy-engine', 'verify')
    assert.equal(verified.code, 0, verified.text)
  })

  test('it has the same rules; a second run changes nothing', async () => {
    await applied()
    assert.match(await applied(), /50-policy: \d+ steps hold/)
    const names = await it.kubectl(`get ${vpol} --output=name`)
    assert.equal(names.split('\n').length, rules.length)
  })

  test('nothing that it makes of them is the API server asked to enforce twice, and its own namespace and kube-system are apart', async () => {
    const text = await it.kubectl('get validatingadmissionpolicies --output=name')
    assert.ok(
      text.split('\n').every((name) => name.includes('/fortress-')),
      text,
    )
    const hooks = JSON.parse(
      await it.kubectl(
        'get validatingwebhookconfigurations kyverno-resource-validating-webhook-cfg --output=json',
      ),
    ) as {
      webhooks: { name: string; failurePolicy: string; timeoutSeconds: number; namespaceSelector: object }[]
    }
    assert.equal(hooks.webhooks.length, rules.length)
    for (const { name, failurePolicy, timeoutSeconds, namespaceSelector } of hooks.webhooks) {
      assert.deepEqual([failurePolicy, timeoutSeconds], ['Ignore', 3], name)
      for (const apart of ['kube-system', 'kyverno', 'cilium'])
        assert.ok(JSON.stringify(namespaceSelector).includes(`"${apart}"`), name)
    }
  })

  test('in audit it refuses nothing, and reports each bad pod that is there, by that rule and in its words', async () => {
    const pods = bad.filter(({ body }) => body.kind === 'Pod')
    const names = new Map<string, (typeof bad)[0]>()
    for (const one of pods) {
      // Some have the same name: the words are those of what is wrong.
      const name = `${one.rule}-${names.size}`
      const body = { ...one.body, metadata: { ...one.body.metadata, name } }
      const reply = await ask({ ...one, body }, false)
      assert.equal(reply.status, 201, `${one.what}: ${reply.text}`)
      names.set(name, { ...one, body })
    }
    assert.equal((await ask(around('Pod', 'good'), false)).status, 201)
    const found = async () => {
      const { items } = JSON.parse(
        await it.kubectl('get policyreports.wgpolicyk8s.io --all-namespaces --output=json'),
      ) as {
        items: {
          scope?: { kind: string; name: string }
          results?: { policy: string; result: string; message: string }[]
        }[]
      }
      return new Map(
        items
          .filter(({ scope }) => scope?.kind === 'Pod')
          .map(({ scope, results = [] }) => [scope!.name, results.filter(({ result }) => result !== 'pass')]),
      )
    }
    for (let i = 0; ; i++) {
      const all = await found()
      if ([...names.keys(), 'good'].every((name) => all.has(name))) break
      if (i === 240) assert.fail(`${[...all.keys()].join()}\n${await kyvernoLog(it)}`)
      await sleep(1000)
    }
    const all = await found()
    assert.deepEqual(all.get('good'), [])
    for (const [name, { rule, says, what, path }] of names) {
      const at = /namespaces\/([^/]+)/.exec(path)![1]
      assert.deepEqual(
        all.get(name)!.map(({ policy, result, message }) => ({ policy, result, message })),
        [{ policy: `fortress-${rule}`, result: 'fail', message: `Pod ${at}/${name}: ${says}` }],
        what,
      )
    }
    for (const name of [namespace, 'default'])
      await it.kubectl(`delete pods --all --namespace ${name} --grace-period=0 --force`)
  })

  test('in enforce the API server refuses first; without it Kyverno does', async () => {
    told(`mode: enforce, ${exception(days(1))}`)
    await applied()
    assert.match(await applied(), /50-policy: \d+ steps hold/)
    assert.equal((await rulesPage('verify')).code, 0)
    await until('API server', old('any', {}, namespace))
    await unbound()
    assert.equal((await rulesPage('verify')).code, 1)
  })

  test(`alone it refuses each of ${bad.length} objects that are bad in one way, by that rule and in its words`, async () => {
    assert.ok(bad.length >= 80)
    for (const one of bad) {
      const reply = await ask(one)
      assert.equal(refuserOf(reply), 'Kyverno', `${one.what}: ${reply.status} ${reply.text}`)
      assert.equal(messageOf(reply), saysOf(one.rule, one, one.says), one.what)
    }
  })

  test('what keeps to the rules is admitted by it', async () => {
    for (const made of good) {
      const { status, text } = await ask(made)
      assert.equal(status, 201, `${made.what}: ${text}`)
    }
  })

  test('a debugging container is held by the same rules', async () => {
    const made = around('Pod', 'debugged')
    assert.equal((await ask(made, false)).status, 201)
    const { text } = await it.node.ask('GET', `${made.path}/debugged`)
    const put = (one: object) => {
      const body = JSON.parse(text) as {
        metadata: { resourceVersion?: string }
        spec: { ephemeralContainers?: object[] }
      }
      delete body.metadata.resourceVersion
      body.spec.ephemeralContainers = [one]
      return it.node.ask('PUT', `${made.path}/debugged/ephemeralcontainers?dryRun=All`, { body })
    }
    assert.ok(badDebuggers.length >= 9)
    for (const { what, rule, says, container: one } of badDebuggers)
      assert.equal(messageOf(await put(one)), saysOf(rule, made, says), what)
    const fine = await put(debugger_())
    assert.equal(fine.status, 200, fine.text)
  })

  test('an exception counts for its rule, its namespace and its labels, and one of its own kind for nothing', async () => {
    await until('nobody', old('excused'))
    await it.kubectl(
      'create --filename=-',
      JSON.stringify({
        apiVersion: 'policies.kyverno.io/v1',
        kind: 'PolicyException',
        metadata: { name: 'mine', namespace: 'kyverno' },
        spec: {
          policyRefs: [{ name: 'fortress-digest', kind: 'ValidatingPolicy' }],
          matchConditions: [{ name: 'all', expression: 'true' }],
        },
      }),
    )
    await sleep(3000)
    for (const made of [
      old('elsewhere', labels, namespace),
      old('unlabelled', { ...labels, app: 'other' }),
    ]) {
      const reply = await ask(made)
      assert.equal(messageOf(reply), saysOf('digest', made, noDigest))
    }
    await it.kubectl('delete policyexceptions.policies.kyverno.io mine --namespace kyverno')
  })

  test('it ends in time, by the clock of the API server alone', async () => {
    const policy = JSON.parse(await it.kubectl(`get ${vpol} fortress-digest --output=json`)) as {
      metadata: object
      spec: { matchConditions: { expression: string }[] }
      status?: object
    }
    const at = new Date(Date.now() + 12_000).toISOString()
    for (const condition of policy.spec.matchConditions)
      condition.expression = condition.expression.replace(/< timestamp\('[^']*'\)/, `< timestamp('${at}')`)
    policy.metadata = { name: 'fortress-digest' }
    delete policy.status
    await it.kubectl(
      'apply --server-side --force-conflicts --field-manager=test --filename=-',
      JSON.stringify(policy),
    )
    const first = await ask(old('excused'))
    // Nobody can give a new pod an older day.
    const forged = old('forged')
    Object.assign(forged.body.metadata, { creationTimestamp: '2020-01-01T00:00:00Z' })
    await until('Kyverno', forged)
    assert.ok(first.status === 201 && Date.now() >= Date.parse(at), `${first.text} ${at}`)
    // Nothing has touched the policy since, and it stays so.
    await sleep(3000)
    assert.equal(refuserOf(await ask(old('excused'))), 'Kyverno')
    const { code, text } = await rulesPage('verify')
    assert.equal(code, 1, text)
    assert.match(text, /ValidatingPolicy fortress-digest/)
    await applied()
    await unbound()
    await until('nobody', old('excused'))
  })

  test('one whose day is over is taken away by the next apply', async () => {
    told(`mode: enforce, ${exception(days(-1))}`)
    const { code, text } = await rulesPage('verify')
    assert.equal(code, 1, text)
    await applied()
    await unbound()
    await until('Kyverno', old('excused'))
    assert.doesNotMatch(await it.kubectl(`get ${vpol} fortress-digest --output=yaml`), /legacy|timestamp\(/)
  })

  test('killed, it blocks nothing, and what must hold is held by the API server', async () => {
    await applied()
    await kyvernoIs(it, 'kill --signal=KILL')
    await kyvernoIs(it, 'stop')
    for (const made of good) {
      const { status, text } = await ask(made)
      assert.equal(status, 201, `${made.what}: ${text}`)
    }
    for (const rule of rules) {
      const reply = await ask(bad.find((one) => one.rule === rule)!)
      assert.equal(refuserOf(reply), 'API server', rule)
    }
    for (const at of ['kube-system', 'kyverno']) {
      const { status, text } = await ask(around('Pod', 'needed', pod(), at))
      assert.equal(status, 201, text)
    }
    await it.kubectl('create namespace while-silent')
    const verified = await page('49-policy-engine', 'verify')
    assert.equal(verified.code, 1, verified.text)
    assert.match(verified.text, /failed calling webhook/)
    await kyvernoIs(it, 'start')
    await unbound()
  })

  test('hanging, it blocks nothing either', async () => {
    await kyvernoIs(it, 'kill --signal=STOP', ['admission'])
    for (const made of good.slice(0, 3)) {
      const { status, text } = await ask(made)
      assert.equal(status, 201, `${made.what}: ${text}`)
    }
    await kyvernoIs(it, 'kill --signal=CONT', ['admission'])
    await until('Kyverno', old('any', {}, namespace))
  })

  /** Each cuts the power of something, at some moment; what is started again is what a node starts by itself. */
  const cuts: Record<string, () => Promise<unknown>> = {
    'Kyverno alone': () => kyvernoIs(it, 'kill --signal=KILL'),
    'the API server, and Kyverno goes on': async () => {
      await it.node.ok('systemctl kill --signal=KILL k3s.service')
      await it.node.begin()
    },
    'both, and the API server comes first': async () => {
      await kyvernoIs(it, 'kill --signal=KILL')
      await kyvernoIs(it, 'stop')
      await it.node.ok('systemctl kill --signal=KILL k3s.service')
      await it.node.begin()
      await kyvernoIs(it, 'start')
    },
    'both, and Kyverno comes first': async () => {
      await kyvernoIs(it, 'stop')
      await it.node.ok('systemctl kill --signal=KILL k3s.service')
      await it.node.ok('systemctl stop k3s.service')
      await kyvernoIs(it, 'start')
      await sleep(5000)
      await it.node.begin()
    },
    'Kyverno while it begins': async () => {
      await kyvernoIs(it, 'restart')
      await sleep(700)
      await kyvernoIs(it, 'kill --signal=KILL')
    },
    'both while a policy is changed': async () => {
      const change = it.node.kubectl(`annotate ${vpol} --all --overwrite fortress-kit/cut=now`)
      await sleep(300)
      await kyvernoIs(it, 'kill --signal=KILL')
      await it.node.ok('systemctl kill --signal=KILL k3s.service')
      await change
      await it.node.begin()
    },
    'both, and its webhooks with its certificate are gone': async () => {
      await kyvernoIs(it, 'stop')
      await it.kubectl(
        'delete validatingwebhookconfigurations,mutatingwebhookconfigurations --selector=webhook.kyverno.io/managed-by=kyverno',
      )
      await it.kubectl('delete secrets --all --namespace kyverno')
      await it.node.ok('systemctl kill --signal=KILL k3s.service')
      await it.node.begin()
      await kyvernoIs(it, 'start')
    },
  }
  for (const [what, cut] of Object.entries(cuts))
    test(`it comes back by itself after a power cut of ${what}; nothing waits for it meanwhile`, async () => {
      await cut()
      const { status, text } = await ask(good[0]!)
      assert.equal(status, 201, text)
      const needed = await ask(around('Pod', 'needed', pod(), 'kube-system'))
      assert.equal(needed.status, 201, needed.text)
      await until('Kyverno', old('any', {}, namespace))
    })

  test('a policy of it that somebody has weakened is seen, and mended', async () => {
    await applied()
    assert.equal((await rulesPage('verify')).code, 0)
    await it.kubectl(
      `patch ${vpol} fortress-digest --type=json --patch='[{"op":"replace","path":"/spec/validations/0/expression","value":"true"}]'`,
    )
    const { code, text } = await rulesPage('verify')
    assert.equal(code, 1, text)
    assert.match(text, /ValidatingPolicy fortress-digest/)
    await applied()
    await it.kubectl(`delete ${vpol} fortress-latest`)
    assert.match((await rulesPage('verify')).text, /fortress-latest is not there/)
    await applied()
    await unbound()
    for (const rule of ['digest', 'latest'])
      await until(
        'Kyverno',
        bad.find((one) => one.rule === rule)!,
      )
  })

  test('undo leaves no policy and no webhook', async () => {
    for (const name of ['50-policy', '49-policy-engine']) {
      const undoing = page(name, 'undo', '--yes')
      // A kubelet would end them with their pods.
      if (name === '49-policy-engine') {
        for (
          let i = 0;
          (await it.node.kubectl('get deployment kyverno-admission-controller -n kyverno')).code === 0;
          i++
        ) {
          assert.ok(i < 300)
          await sleep(200)
        }
        await kyvernoIs(it, 'stop')
      }
      const { code, text } = await undoing
      assert.equal(code, 0, text)
    }
    assert.equal(await it.kubectl(`get ${vpol} --output=name`), '')
    assert.equal(await webhooks(), '')
    assert.equal((await it.node.kubectl('get namespace kyverno')).code, 1)
    await until('nobody', old('any', {}, namespace))
  })
})
