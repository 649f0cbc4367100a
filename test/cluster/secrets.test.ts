// Page 52 against a real API server, with the real controller of Sealed Secrets beside it as a process: what it hands over, what it
// notices, and that a cluster that is built anew opens what the one before did.
import assert from 'node:assert/strict'
import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { generateHybridIdentity } from 'age-encryption'
import { clusterKeys, keyLines } from '../../lib/component/clusterkey.ts'
import { secretStore } from '../../lib/ground/secret.ts'
import { builtProgram } from '../../lib/lab/lab.ts'
import { chartOf, packed } from '../component/charts.ts'
import { said } from '../machine/kit.ts'
import { type Demo, demo, missing } from './demo.ts'
import { data } from './kit.ts'

const programs = builtProgram('sealed-secrets')
const chart = chartOf('sealed-secrets')
const skip =
  missing || chart.missing || (programs === undefined && 'the controller of Sealed Secrets is not built')
const at = 'sealed-secrets'
const stepsHold = /52-secrets: \d+ steps hold/

describe('the keys of the cluster', { skip }, () => {
  let it: Demo
  let dir: string
  let document: string
  let controller: ChildProcess | undefined
  let log = ''

  const page = (...words: string[]) => said(it.start(words, '52-secrets'))
  const applied = async () => {
    const { code, text } = await page('apply')
    assert.equal(code, 0, text)
    assert.doesNotMatch(text, /AGE-SECRET-KEY|PRIVATE KEY/)
    return text
  }
  const state = () => join(it.node.state, 'fortress-pi')
  const store = () => secretStore({ dir: state(), identity: join(it.node.state, 'identity.txt') })
  const chosen = (secrets: string) =>
    writeFileSync(
      join(it.copy.dir, 'config/sites/fortress-pi.yaml'),
      document.replace(/^components: \{ /m, `components: { secrets: ${secrets}, `),
    )
  const value = async (namespace: string, name: string, key: string) => {
    const { code, stdout } = await it.node.kubectl(
      `get secret ${name} --namespace ${namespace} --output=go-template='{{ index .data "${key}" | base64decode }}'`,
    )
    return code === 0 ? stdout : undefined
  }

  /** The controller as in a pod of its account: its token, the CA and its namespace stand where a kubelet would lay them. */
  const begin = async () => {
    log = ''
    const account = join(dir, 'account')
    execFileSync('mkdir', ['--parents', account])
    writeFileSync(
      join(account, 'token'),
      await it.kubectl(`create token ${at} --namespace ${at} --duration=1h`),
    )
    writeFileSync(join(account, 'ca.crt'), await it.node.ok(`cat ${data}/server/tls/server-ca.crt`))
    writeFileSync(join(account, 'namespace'), at)
    const deployment = await it.kubectl(
      `get deployment ${at} --namespace ${at} --output=jsonpath='{.spec.template.spec.containers[0].args}'`,
    )
    const inside = `mount -t tmpfs none /run && mkdir -p /run/secrets/kubernetes.io && cp -r ${account} /run/secrets/kubernetes.io/serviceaccount && exec "$@"`
    const words = (JSON.parse(deployment) as string[]).map((word) => word.replace(/^:80/, '127.0.0.1:180'))
    controller = spawn(
      'unshare',
      ['--mount', 'bash', '-c', inside, 'bash', join(programs!, 'controller'), ...words],
      {
        env: {
          ...process.env,
          KUBERNETES_SERVICE_HOST: it.node.machine.host,
          KUBERNETES_SERVICE_PORT: '6443',
        },
        stdio: ['ignore', 'pipe', 'pipe'],
      },
    )
    for (const stream of [controller.stdout!, controller.stderr!])
      stream.setEncoding('utf8').on('data', (part: string) => (log += part))
  }
  const finish = async () => {
    const ended = controller && new Promise((resolve) => controller!.once('close', resolve))
    controller?.kill('SIGKILL')
    await ended
    controller = undefined
  }
  const until = async <T>(what: string, look: () => Promise<T | undefined>): Promise<T> => {
    for (let i = 0; ; i++) {
      const found = await look()
      if (found !== undefined) return found
      assert.ok(i < 240, `${what}: ${log}`)
      await sleep(250)
    }
  }
  /** What a person seals, with nothing but the certificate of the laptop. */
  const sealed = (namespace: string, text: string): string => {
    const secret = JSON.stringify({
      apiVersion: 'v1',
      kind: 'Secret',
      metadata: { name: 'login', namespace },
      stringData: { password: text },
    })
    const words = ['--cert', join(state(), 'sealed-secrets.crt'), '--format', 'yaml']
    const { status, stdout, stderr } = spawnSync(join(programs!, 'kubeseal'), words, {
      input: secret,
      encoding: 'utf8',
    })
    assert.equal(status, 0, stderr)
    assert.ok(!stdout.includes(text) && !stdout.includes(Buffer.from(text).toString('base64')))
    return stdout
  }
  const reason = (namespace: string) =>
    it.kubectl(
      `get sealedsecret login --namespace ${namespace} --output=jsonpath='{.status.conditions[?(@.type=="Synced")].message}'`,
    )

  before(async () => {
    it = await demo('secrets')
    dir = mkdtempSync(join(tmpdir(), 'fk-sealed-'))
    document = readFileSync(join(it.copy.dir, 'config/sites/fortress-pi.yaml'), 'utf8')
    const archive = packed(chart.path, it.charts, '2.19.1')
    renameSync(archive, join(it.charts, 'sealed-secrets-2.19.1.tgz'))
    const pins = join(it.copy.dir, 'config/versions.yaml')
    const text = readFileSync(pins, 'utf8')
    writeFileSync(
      pins,
      text.replace(
        /(sealed-secrets-\{version\}\.tgz\n {2}sha256:\n {4}any: )\w+/,
        `$1${it.digestOf('sealed-secrets-2.19.1.tgz')}`,
      ),
    )
    // No pod runs here: the Deployment is only as far as it can be.
    const component = join(it.copy.dir, 'config/components/sealed-secrets/component.yaml')
    const ready = readFileSync(component, 'utf8')
    writeFileSync(
      component,
      ready.replace('object: deployment/sealed-secrets,', '$& condition: Progressing,'),
    )
    await it.kubectl('apply --server-side --filename=-', definition)
  })
  after(async () => {
    await finish()
    if (dir) rmSync(dir, { recursive: true })
    await it?.end()
  })

  test('a plan names them, makes no key, and changes nothing', async () => {
    const { code, text } = await page('plan')
    assert.equal(code, 2, text)
    assert.match(text, /the age key of the cluster is in the cluster, as the laptop has it/)
    assert.equal(store().has(clusterKeys), false)
    assert.equal((await it.node.kubectl('get namespace sops')).code, 1)
  })

  test('the cluster gets the key that the laptop keeps; a second run changes nothing', async () => {
    await applied()
    const [key = ''] = keyLines((await store().get(clusterKeys)).reveal())
    assert.match(key, /^AGE-SECRET-KEY-PQ-1/)
    assert.equal(await value('sops', 'sops-age', 'cluster.agekey'), `${key}\n`)
    assert.match(await applied(), stepsHold)
    assert.equal((await page('verify')).code, 0)
  })

  for (const [what, spoil, says] of [
    [
      'changed by hand',
      `patch secret sops-age --namespace sops --patch '{"data":{"cluster.agekey":"eA=="}}'`,
      /Secret sops\/sops-age is not what was handed over/,
    ],
    [
      'given one more entry',
      `patch secret sops-age --namespace sops --patch '{"data":{"other.agekey":"eA=="}}'`,
      /is not what was handed over/,
    ],
    ['deleted', 'delete secret sops-age --namespace sops', /Secret sops\/sops-age is not there/],
  ] as const)
    test(`a key that was ${what} is noticed, not shown, and handed over again`, async () => {
      await it.kubectl(spoil)
      const { code, text } = await page('verify')
      assert.equal(code, 1)
      assert.match(text, says)
      assert.doesNotMatch(text, /eA==|AGE-SECRET/)
      await applied()
      assert.match((await value('sops', 'sops-age', 'cluster.agekey')) ?? '', /^AGE-SECRET-KEY-PQ-1\S+\n$/)
      assert.equal(await value('sops', 'sops-age', 'other.agekey'), undefined)
      assert.equal((await page('verify')).code, 0)
    })

  test('after a rotation it gets the new key and the one before, and none that is older', async () => {
    const old = keyLines((await store().get(clusterKeys)).reveal())
    const [one, two] = [await generateHybridIdentity(), await generateHybridIdentity()]
    await store().put(clusterKeys, [one, two, ...old].join('\n'))
    const { code, text } = await page('verify')
    assert.equal(code, 1)
    assert.match(text, /the key on this laptop is a newer one/)
    await applied()
    assert.equal(await value('sops', 'sops-age', 'cluster.agekey'), `${one}\n${two}\n`)
  })

  test('Sealed Secrets begins with the key of the laptop; a second run changes nothing', async () => {
    chosen('sealed-secrets')
    await applied()
    assert.match(await applied(), stepsHold)
    const when = (what: string) =>
      it.kubectl(`get ${what} --namespace ${at} --output=jsonpath='{.metadata.creationTimestamp}'`)
    assert.ok((await when('secret/sealed-secrets-laptop')) <= (await when(`deployment/${at}`)))
    const key = (await store().get('sealed-secrets-key')).reveal()
    assert.equal((await value(at, 'sealed-secrets-laptop', 'tls.key'))?.trim(), key)
    // Nobody is let into its API by others.
    assert.equal(
      await it.kubectl(`get rolebindings --namespace ${at} --output=name`),
      'rolebinding.rbac.authorization.k8s.io/sealed-secrets-key-admin',
    )
  })

  test('what was sealed by the certificate of the laptop opens in its namespace, and in no other', async () => {
    for (const name of ['shop', 'other']) await it.kubectl(`create namespace ${name}`)
    await begin()
    const text = sealed('shop', 'correct horse battery')
    writeFileSync(join(dir, 'sealed.yaml'), text)
    await it.kubectl('apply --filename=-', text)
    assert.equal(await until('shop/login', () => value('shop', 'login', 'password')), 'correct horse battery')
    await it.kubectl('apply --filename=-', text.replaceAll('namespace: shop', 'namespace: other'))
    assert.match(
      await until('a refusal', async () => (await reason('other')) || undefined),
      /no key could decrypt secret/,
    )
    assert.equal(await value('other', 'login', 'password'), undefined)
    // It made no key of its own.
    assert.equal(
      await it.kubectl(
        `get secrets --namespace ${at} --selector=sealedsecrets.bitnami.com/sealed-secrets-key --output=name`,
      ),
      'secret/sealed-secrets-laptop',
    )
    await finish()
  })

  test('a key without its label is noticed: a controller would not find it', async () => {
    await it.kubectl(
      `label secret sealed-secrets-laptop --namespace ${at} sealedsecrets.bitnami.com/sealed-secrets-key-`,
    )
    const { code, text } = await page('verify')
    assert.equal(code, 1)
    assert.match(text, /has lost its label sealedsecrets\.bitnami\.com/)
    await applied()
    assert.equal((await page('verify')).code, 0)
  })

  test('a key that the controller has made by itself is named, and nothing goes on before it is gone', async () => {
    await it.kubectl(`delete secret sealed-secrets-laptop --namespace ${at}`)
    await begin()
    const own = await until('a key of its own', async () => {
      const found = await it.kubectl(
        `get secrets --namespace ${at} --selector=sealedsecrets.bitnami.com/sealed-secrets-key --output=name`,
      )
      return found === '' ? undefined : found
    })
    await finish()
    const { code, text } = await page('apply')
    assert.equal(code, 1)
    assert.match(text, new RegExp(`made by the controller, and on no laptop: ${own}`))
    await it.kubectl(`delete ${own} --namespace ${at}`)
    await applied()
  })

  test('a cluster that was lost and is built anew opens what was sealed for the one before, and only with our key', async () => {
    await it.node.ok(`systemctl stop k3s.service && rm --recursive ${data}/server/db`)
    const { code, said: why } = await it.node.begin()
    assert.equal(code, 0, why)
    await it.kubectl('apply --server-side --filename=-', definition)
    assert.equal((await it.node.kubectl(`get namespace ${at}`)).code, 1)
    await applied()
    await it.kubectl('create namespace shop')
    const text = readFileSync(join(dir, 'sealed.yaml'), 'utf8')
    await it.kubectl('apply --filename=-', text)
    // Without it the controller is at a loss.
    const kept = await it.kubectl(`get secret sealed-secrets-laptop --namespace ${at} --output=json`)
    await it.kubectl(`delete secret sealed-secrets-laptop --namespace ${at}`)
    await begin()
    assert.match(
      await until('a refusal', async () => (await reason('shop')) || undefined),
      /no key could decrypt secret/,
    )
    await finish()
    assert.ok(kept.length > 0)
    await it.kubectl(
      `delete secrets --namespace ${at} --selector=sealedsecrets.bitnami.com/sealed-secrets-key`,
    )
    await applied()
    await begin()
    assert.equal(await until('shop/login', () => value('shop', 'login', 'password')), 'correct horse battery')
    await finish()
    assert.match(await applied(), stepsHold)
  })

  test('undo takes the keys out of the cluster, and the laptop keeps them', async () => {
    chosen('[sops, sealed-secrets]')
    await applied()
    const names = store().list()
    const { code, text } = await page('undo')
    assert.equal(code, 0, text)
    for (const name of ['sops', at]) assert.equal((await it.node.kubectl(`get namespace ${name}`)).code, 1)
    assert.deepEqual(store().list(), names)
    assert.ok(names.includes(clusterKeys) && names.includes('sealed-secrets-key'))
    // What was opened stays.
    assert.equal(await value('shop', 'login', 'password'), 'correct horse battery')
  })
})

const definition = `apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: { name: ciliumnetworkpolicies.cilium.io }
spec:
  group: cilium.io
  scope: Namespaced
  names: { kind: CiliumNetworkPolicy, plural: ciliumnetworkpolicies, singular: ciliumnetworkpolicy }
  versions:
    - name: v2
      served: true
      storage: true
      schema: { openAPIV3Schema: { type: object, x-kubernetes-preserve-unknown-fields: true } }
`
