// The rules of config/policy as a real API server applies them: what it refuses, in which words, and what it lets be.
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { objectsOf, rendered } from '../../lib/component/chart.ts'
import { componentNamed, valueFiles } from '../../lib/component/component.ts'
import { kubernetesOf } from '../../lib/component/tools.ts'
import type { Context } from '../../lib/engine/page.ts'
import { isChange } from '../../lib/engine/step.ts'
import { rulesFor } from '../../lib/site/policy.ts'
import hello from '../../scripts/39-hello.ts'
import { chartOf, packed, pins } from '../component/charts.ts'
import { said } from '../machine/kit.ts'
import { siteOf } from '../sites.ts'
import { type Demo, demo, missing } from './demo.ts'
import type { Reply } from './kit.ts'
import {
  type Made,
  around,
  bad,
  badDebuggers,
  container,
  debugger_,
  definitions,
  digest,
  good,
  namespace,
  newest,
  pod,
  withVolume,
} from './workloads.ts'

const rules = rulesFor(siteOf('fortress-pi')).on.map(({ id }) => id)
/** The first object that a rule must refuse. */
const badFor = (rule: string) => bad.find((one) => one.rule === rule)!
const days = (n: number) => new Date(Date.now() + n * 86_400_000).toISOString().slice(0, 10)
const untagged = { containers: [container('web', { image: 'docker.io/library/busybox:1' })] }
const labels = { app: 'old', 'fortress-kit/owner': 'me' }
/** A Pod without a digest. */
const old = (name: string, more: object = labels, at = 'legacy') =>
  around('Pod', name, pod(untagged, { labels: more }), at)

describe('the rules for what may run', { skip: missing }, () => {
  let it: Demo
  let document: string

  const page = (...words: string[]) => said(it.start(words, '50-policy'))
  const applied = async () => {
    const { code, text } = await page('apply')
    assert.equal(code, 0, text)
    return text
  }
  const told = (policy: string) =>
    writeFileSync(
      join(it.copy.dir, 'config/sites/fortress-pi.yaml'),
      `${document}policy: { registries: [docker.io, quay.io], ${policy} }\n`,
    )
  const exception = (until: string, more = '') =>
    `exceptions: [{ rules: [digest], namespace: legacy, labels: { app: old }, why: a test, until: '${until}'${more} }]`
  const ask = ({ path, body }: Pick<Made, 'path' | 'body'>, dry = true) =>
    it.node.ask('POST', `${path}${dry ? '?dryRun=All' : ''}`, { body })
  /** Asks until the answer has this status: an API server hears of changed rules some moments later. */
  const until = async (status: number, made: Made): Promise<Reply> => {
    for (let i = 0; ; i++) {
      const reply = await ask(made)
      if (reply.status === status) return reply
      assert.ok(i < 100, `${made.what}: ${reply.status} ${reply.text}`)
      await sleep(100)
    }
  }
  const warned = ({ warnings }: Reply) =>
    [...warnings.matchAll(/ValidatingAdmissionPolicy '([^']*)'/g)].map(([, name]) => name)
  const refused = async ({ what, rule, says, ...made }: (typeof bad)[0]) => {
    const reply = await ask(made)
    const { kind, metadata } = made.body
    const { message } = JSON.parse(reply.text) as { message: string }
    const at = /namespaces\/([^/]+)/.exec(made.path)![1]
    const end = `ValidatingAdmissionPolicy 'fortress-${rule}' with binding 'fortress-${rule}-refuse' denied request: `
    assert.equal(
      message.slice(message.indexOf('Validating')),
      `${end}${kind} ${at}/${metadata['name']}: ${says}`,
      what,
    )
    assert.deepEqual([reply.status, warned(reply)], [422, [`fortress-${rule}`]], what)
  }
  const theirs = () =>
    it
      .kubectl('get validatingadmissionpolicies,validatingadmissionpolicybindings --output=name')
      .then((text) => text.split('\n').filter((line) => line.includes('fortress')))

  const task = (...words: string[]) =>
    said(
      spawn(process.execPath, [join(it.copy.dir, 'bin/task.cjs'), ...words], {
        cwd: it.copy.dir,
        env: it.env,
      }),
    )

  before(async () => {
    it = await demo('policy')
    document = readFileSync(join(it.copy.dir, 'config/sites/fortress-pi.yaml'), 'utf8')
    await it.kubectl('apply --server-side --filename=-', definitions)
    for (const name of [namespace, 'legacy']) await it.kubectl(`create namespace ${name}`)
    for (const name of [namespace, 'legacy', 'default'])
      for (
        let i = 0;
        (await it.node.kubectl(`get serviceaccount default --namespace ${name}`)).code !== 0;
        i++
      ) {
        assert.ok(i < 100, `${name} gets no default service account`)
        await sleep(100)
      }
    told('mode: audit')
    // It was there before the rules.
    const there = around('Deployment', 'old', pod(untagged, { labels }), 'legacy')
    ;(there.body['spec'] as { selector: object }).selector = { matchLabels: { app: 'old' } }
    assert.equal((await ask(there, false)).status, 201)
  })
  after(() => it?.end())

  test('a plan names them, and changes nothing', async () => {
    const { code, text } = await page('plan')
    assert.equal(code, 2, text)
    assert.match(text, /change .*12 rules for pods, Services and routes are declared, and warn/)
    assert.deepEqual(await theirs(), [])
  })

  test('audit warns and refuses nothing; a second run changes nothing', async () => {
    await applied()
    assert.match(await applied(), /50-policy: \d steps hold/)
    for (const rule of rules) {
      const reply = await until(201, badFor(rule))
      assert.deepEqual(warned(reply), [`fortress-${rule}`], rule)
    }
    const lines = (await it.node.audited()).filter(({ objectRef }) => objectRef?.namespace === namespace)
    assert.match(JSON.stringify(lines), /validation\.policy\.admission\.k8s\.io\/validation_failure/)
  })

  test('the compiler of the API server has nothing against them', async () => {
    const each =
      '{{ range .items }}{{ .metadata.name }} {{ .status.observedGeneration }} {{ .status.typeChecking }}\n{{ end }}'
    const text = await it.kubectl(`get validatingadmissionpolicies --output=go-template='${each}'`)
    assert.equal(text.split('\n').length, rules.length)
    for (const line of text.split('\n')) assert.match(line, /^fortress-\S+ \d+ map\[\]$/)
  })

  test('a report names what is there and would be refused, and stores nothing', async () => {
    const { code, text } = await task('rules', 'report')
    assert.equal(
      text,
      'Deployment legacy/old\n  digest  image without a digest, as in NAME@sha256:DIGEST: web\n\n1 object would be refused if it came today.\n',
    )
    assert.equal(code, 2)
    assert.doesNotMatch(
      await it.kubectl('get deployment old --namespace legacy --output=yaml'),
      /fortress-kit\/asked/,
    )
  })

  test('enforce waits until what is there keeps to them', async () => {
    told('mode: enforce')
    const { code, text } = await page('apply')
    assert.equal(code, 1, text)
    assert.match(
      text,
      /Deployment legacy\/old: image without a digest, as in NAME@sha256:DIGEST: web \(digest\)\n[^]*exceptions/,
    )
    // Those that it has made are not named again.
    assert.doesNotMatch(text, /(ReplicaSet|Pod) legacy\/old/)
    assert.ok((await theirs()).every((name) => !name.endsWith('-refuse')))
    await until(201, badFor('digest'))
  })

  test('with an exception for that they refuse; a second run changes nothing', async () => {
    told(`mode: enforce, ${exception(days(1))}`)
    await applied()
    assert.match(await applied(), /50-policy: \d+ steps hold/)
    assert.equal((await page('verify')).code, 0)
  })

  test('what keeps to them is admitted, without a word', async () => {
    for (const made of [...good, withVolume(`docker.io/library/data@${digest}`)]) {
      const reply = await ask(made)
      assert.deepEqual([reply.status, reply.warnings], [201, ''], `${made.what}: ${reply.text}`)
    }
  })

  test(`each of ${bad.length} objects that are bad in one way is refused, by that rule and in its words`, async () => {
    assert.ok(bad.length >= 80)
    assert.deepEqual([...new Set(bad.map(({ rule }) => rule))].sort(), rules.toSorted())
    for (const one of bad) await refused(one)
    const volume = withVolume('docker.io/library/data:1')
    await refused({
      ...volume,
      rule: 'digest',
      says: 'image without a digest, as in NAME@sha256:DIGEST: volume data',
    })
  })

  test('all that is wrong is said at once', async () => {
    const { warnings, status } = await ask(
      around(
        'Pod',
        'worst',
        pod({ containers: [{ ...container('web'), image: `x:${newest}`, resources: {} }] }),
      ),
    )
    assert.equal(status, 422)
    for (const rule of ['digest', 'latest', 'registries', 'requests', 'limits'])
      assert.match(warnings, new RegExp(`'fortress-${rule}'`))
  })

  test('a debugging container is held by the same rules', async () => {
    const made = around('Pod', 'debugged')
    assert.equal((await ask(made, false)).status, 201)
    const at = `${made.path}/debugged`
    const { text } = await it.node.ask('GET', at)
    const put = (one: object) => {
      // Without its version: others write to the status of a pod that waits.
      const body = JSON.parse(text) as {
        metadata: { resourceVersion?: string }
        spec: { ephemeralContainers?: object[] }
      }
      delete body.metadata.resourceVersion
      body.spec.ephemeralContainers = [one]
      return it.node.ask('PUT', `${at}/ephemeralcontainers?dryRun=All`, { body })
    }
    assert.ok(badDebuggers.length >= 9)
    for (const { what, rule, says, container: one } of badDebuggers) {
      const reply = await put(one)
      assert.deepEqual([reply.status, warned(reply)], [422, [`fortress-${rule}`]], what)
      assert.ok(
        reply.text.includes(`denied request: Pod ${namespace}/debugged: ${says}"`),
        `${what}: ${reply.text}`,
      )
    }
    const fine = await put(debugger_())
    assert.deepEqual([fine.status, fine.warnings], [200, ''], fine.text)
    const { code, stderr } = await it.node.kubectl(
      `debug debugged --namespace ${namespace} --image=docker.io/library/busybox:1 --profile=restricted --container=d`,
    )
    assert.notEqual(code, 0)
    assert.match(
      stderr,
      /ValidatingAdmissionPolicy 'fortress-\S+' with binding 'fortress-\S+-refuse' denied request/,
    )
  })

  test('each rule is needed: without it what it refuses is admitted, which verify sees, and apply mends', async () => {
    for (const rule of rules) {
      await it.kubectl(`delete validatingadmissionpolicybinding fortress-${rule}-refuse`)
      for (const one of bad.filter((one) => one.rule === rule).slice(0, 3)) await until(201, one)
    }
    // Something comes in meanwhile.
    assert.equal((await ask(old('stray', { ...labels, app: 'stray' }), false)).status, 201)
    const { code, text } = await page('verify')
    assert.equal(code, 1, text)
    assert.match(text, /\+ ValidatingAdmissionPolicyBinding fortress-digest-refuse is not there/)
    assert.match(text, /Pod legacy\/stray: image without a digest/)
  })

  test('what came in meanwhile may be labelled and owned by controllers, and not be changed', async () => {
    await it.kubectl('label pod stray --namespace legacy fortress-kit/stray=yes')
    const again = await page('apply')
    assert.equal(again.code, 1, again.text)
    for (const rule of rules) {
      const text = JSON.stringify({
        apiVersion: 'admissionregistration.k8s.io/v1',
        kind: 'ValidatingAdmissionPolicyBinding',
        metadata: { name: `fortress-${rule}-refuse` },
        spec: { policyName: `fortress-${rule}`, validationActions: ['Deny'] },
      })
      await it.kubectl('apply --server-side --filename=-', text)
    }
    await until(422, badFor('digest'))
    await it.kubectl('label pod stray --namespace legacy fortress-kit/stray=no --overwrite')
    const { code, stderr } = await it.node.kubectl(
      'set image pod/stray --namespace legacy web=docker.io/library/busybox:2',
    )
    assert.notEqual(code, 0)
    assert.match(stderr, /Pod legacy\/stray: image without a digest/)
    await it.kubectl('delete pod stray --namespace legacy --grace-period=0 --force')
    await applied()
    assert.equal((await page('verify')).code, 0)
  })

  test('an exception counts for its rule, its namespace and its labels, and for nothing else', async () => {
    const fine = await ask(old('excused'))
    assert.deepEqual([fine.status, fine.warnings], [201, ''], fine.text)
    for (const made of [
      old('elsewhere', labels, namespace),
      old('unlabelled', { ...labels, app: 'other' }),
      around(
        'Pod',
        'also',
        pod({ containers: [{ ...container('web'), image: `quay.io/x:${newest}` }] }, { labels }),
        'legacy',
      ),
    ]) {
      const { status, text } = await ask(made)
      assert.equal(status, 422, `${made.what}: ${text}`)
    }
  })

  test('it ends in time, by the clock of the API server alone', async () => {
    const policy = JSON.parse(
      await it.kubectl('get validatingadmissionpolicy fortress-digest --output=json'),
    ) as { metadata: object; spec: { matchConditions: { expression: string }[] } }
    const at = new Date(Date.now() + 8_000).toISOString()
    for (const condition of policy.spec.matchConditions)
      condition.expression = condition.expression.replace(/< timestamp\('[^']*'\)/, `< timestamp('${at}')`)
    policy.metadata = { name: 'fortress-digest' }
    await it.kubectl(
      'apply --server-side --force-conflicts --field-manager=test --filename=-',
      JSON.stringify(policy),
    )
    const first = await ask(old('excused'))
    // Nobody can give a new pod an older day.
    const forged = old('forged')
    Object.assign(forged.body.metadata, { creationTimestamp: '2020-01-01T00:00:00Z' })
    await until(422, forged)
    assert.ok(first.status === 201 && Date.now() >= Date.parse(at), `${first.text} ${at}`)
    assert.equal((await ask(old('excused'))).status, 422)
    const { code, text } = await page('verify')
    assert.equal(code, 1, text)
    assert.match(text, /ValidatingAdmissionPolicy fortress-digest\n +spec\.matchConditions\[\]\.expression/)
    await applied()
    await until(201, old('excused'))
  })

  test('one whose day is over is seen by verify, and taken away by the next apply', async () => {
    told(`mode: enforce, ${exception(days(-1))}`)
    const { code, text } = await page('verify')
    assert.equal(code, 1, text)
    assert.match(text, /- +legacy app=old until 20\d\d-\d\d-\d\d: a test\n/)
    await it.kubectl('delete deployment old --namespace legacy --wait --cascade=foreground')
    await applied()
    await until(422, old('excused'))
    assert.doesNotMatch(
      await it.kubectl('get validatingadmissionpolicy fortress-digest --output=yaml'),
      /legacy|timestamp\(/,
    )
  })

  test('a rule that somebody has weakened is seen, and mended', async () => {
    await it.kubectl(
      `patch validatingadmissionpolicy fortress-digest --type=json --patch='[{"op":"replace","path":"/spec/validations/0/expression","value":"true"}]'`,
    )
    await until(201, badFor('digest'))
    const { code, text } = await page('verify')
    assert.equal(code, 1, text)
    assert.match(text, /ValidatingAdmissionPolicy fortress-digest\n +spec\.validations\[\]\.expression\n/)
    assert.match(text, /nothing was said by: digest/)
    await applied()
    await until(422, badFor('digest'))
    // What is added stands beside what was applied, and whoever applies it sees nothing.
    const more = {
      op: 'add',
      path: '/spec/matchConditions/-',
      value: { name: 'mine', expression: "request.namespace != 'apps'" },
    }
    await it.kubectl(
      `patch validatingadmissionpolicy fortress-limits --type=json --patch='${JSON.stringify([more]).replaceAll("'", `'"'"'`)}'`,
    )
    await until(201, badFor('limits'))
    assert.match(
      (await page('verify')).text,
      /somebody has changed ValidatingAdmissionPolicy fortress-limits\n/,
    )
    await applied()
    await until(422, badFor('limits'))
    await it.kubectl(
      `patch validatingadmissionpolicybinding fortress-latest-refuse --type=merge --patch='{"spec":{"matchResources":{"namespaceSelector":{"matchLabels":{"none":"such"}}}}}'`,
    )
    assert.match((await page('verify')).text, /ValidatingAdmissionPolicyBinding fortress-latest-refuse/)
    await applied()
    await until(422, badFor('latest'))
  })

  test('they hold from the first moment after the server was killed', async () => {
    await it.node.ok('systemctl kill --signal=KILL k3s.service')
    const { code, said: why } = await it.node.begin()
    assert.equal(code, 0, why)
    assert.equal((await ask(badFor('digest'))).status, 422)
    assert.equal((await ask(good[0]!)).status, 201)
  })

  test('the first web page is admitted', async () => {
    await it.kubectl('create namespace hello')
    const state = '/nonexistent'
    const steps = hello.steps({ site: siteOf('fortress'), state } as unknown as Context)
    const texts = steps.filter(isChange).flatMap(({ target }) => target?.text ?? [])
    const objects = texts
      .flatMap((text) => objectsOf(text))
      .filter(({ apiVersion }) => !apiVersion.startsWith('cilium.io/'))
    assert.ok(
      objects.some(({ kind }) => kind === 'Deployment') && objects.some(({ kind }) => kind === 'HTTPRoute'),
    )
    await admitted(objects)
  })

  for (const name of ['cilium', 'cert-manager']) {
    const { path, missing: absent } = chartOf(name)
    test(`what ${name} consists of is admitted`, { skip: absent }, async () => {
      const dir = mkdtempSync(join(tmpdir(), 'fk-charts-'))
      try {
        const { apis = [], namespace: at } = componentNamed(name)
        const text = await rendered(packed(path, dir, pins[name]!.version), {
          name,
          namespace: at,
          values: valueFiles(name, []),
          apis,
          kubernetes: kubernetesOf(pins),
        })
        await it.kubectl(`create namespace ${at}`)
        await it.kubectl(`label namespace ${at} pod-security.kubernetes.io/enforce=privileged`)
        const objects = objectsOf(text).filter(({ kind }) =>
          /^(Deployment|DaemonSet|Job|CronJob|Service)$/.test(kind),
        )
        assert.ok(objects.length > 3)
        await admitted(objects.map((one) => ({ ...one, metadata: { namespace: at, ...one.metadata } })))
      } finally {
        rmSync(dir, { recursive: true })
      }
    })
  }

  async function admitted(objects: object[]): Promise<void> {
    const list = { apiVersion: 'v1', kind: 'List', items: objects }
    const { code, stderr } = await it.node.kubectl(
      'create --dry-run=server --filename=-',
      JSON.stringify(list),
    )
    assert.equal(code, 0, stderr)
    assert.doesNotMatch(stderr, /fortress-/)
  }

  test('a webhook that nobody answers for holds everything up, until it is unlocked; it can be put back', async () => {
    const service = { namespace: 'legacy', name: 'gone', port: 443 }
    const rule = {
      apiGroups: [''],
      apiVersions: ['v1'],
      operations: ['CREATE', 'UPDATE', 'DELETE'],
      resources: ['configmaps'],
    }
    const hook = {
      name: 'all.example.org',
      clientConfig: { service },
      rules: [rule],
      sideEffects: 'None',
      admissionReviewVersions: ['v1'],
      failurePolicy: 'Fail',
    }
    const kinds = ['Validating', 'Mutating'].map((kind) => `${kind}WebhookConfiguration`)
    for (const kind of kinds)
      await it.kubectl(
        'create --filename=-',
        JSON.stringify({
          apiVersion: 'admissionregistration.k8s.io/v1',
          kind,
          metadata: { name: 'dead' },
          webhooks: [{ ...hook, name: 'own.example.org', failurePolicy: 'Ignore' }, hook],
        }),
      )
    const create = () => it.node.kubectl('create configmap any --namespace legacy --dry-run=server')
    for (let i = 0; ; i++) {
      const { code, stderr } = await create()
      if (code !== 0 && /failed calling webhook "all\.example\.org"/.test(stderr)) break
      assert.ok(i < 50, stderr)
      await sleep(200)
    }
    const asked = await task('unlock-webhooks')
    assert.equal(asked.code, 2, asked.text)
    for (const kind of kinds)
      assert.ok(
        asked.text.includes(`${kind} dead, all.example.org: nothing ready is behind Service legacy/gone.`),
        asked.text,
      )
    assert.notEqual((await create()).code, 0)
    const { code, text } = await task('unlock-webhooks', '--yes')
    assert.equal(code, 0, text)
    for (let i = 0; (await create()).code !== 0; i++) {
      assert.ok(i < 50)
      await sleep(200)
    }
    const back = /\.\/task (kubectl replace --filename \S+)/.exec(text)![1]!.split(' ')
    const put = await task(...back)
    assert.equal(put.code, 0, put.text)
    for (let i = 0; (await create()).code === 0; i++) {
      assert.ok(i < 50)
      await sleep(200)
    }
    assert.equal((await task('unlock-webhooks', '--yes')).code, 0)
    const none = await task('unlock-webhooks', '--yes')
    assert.match(none.text, /No webhook holds anything up/)
    for (const kind of kinds) await it.kubectl(`delete ${kind} dead`)
  })

  test('back in audit nothing is refused any more', async () => {
    told('mode: audit')
    assert.equal((await page('verify')).code, 1)
    await applied()
    await until(201, badFor('digest'))
    assert.match(await applied(), /50-policy: \d steps hold/)
  })

  test('undo leaves nothing', async () => {
    told('mode: enforce')
    await applied()
    const { code, text } = await page('undo', '--yes')
    assert.equal(code, 0, text)
    assert.deepEqual(await theirs(), [])
    assert.deepEqual(warned(await until(201, badFor('digest'))), [])
  })
})
