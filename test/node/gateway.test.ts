// Gateways and the first web page by their pages, on a node with the operator and the agent of Cilium. Which routes are taken, and what
// the written configuration does in an Envoy, is in test/checked/gateways.test.ts; Cilium's redirect into its Envoy is not run.
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { after, before, describe, test } from 'node:test'
import { selfSigned, without } from '../programs.ts'
import { withoutCilium } from './cilium.ts'
import { missing, podImage } from './kit.ts'
import { helloImage, restricted } from './manifests.ts'
import { type Tunneled, tunneled } from './tunnel.ts'

const skip = withoutCilium || missing || without('helm', 'kubectl', 'busybox', 'openssl')

const zone = 'gw.internal'
const host = `hello.${zone}`
const address = '10.78.250.1'

interface Condition {
  type: string
  status: string
  reason: string
}
const reasons = (conditions: Condition[] = []) =>
  Object.fromEntries(conditions.map(({ type, status, reason }) => [type, `${status} ${reason}`]))

describe('a gateway and a page behind it, by their pages', { skip }, () => {
  const first = 'gate-1'
  let cluster: Tunneled
  const run = (...words: string[]) => cluster.run(...words)
  const kubectl = (words: string, input?: string) => cluster.kubectl(words, input)
  const get = async <T>(words: string) => JSON.parse(await kubectl(`get ${words} --output=json`)) as T

  before(async () => {
    cluster = await tunneled('gate', ['server'], 72, {
      images: [await helloImage()],
      site: (site) => {
        site['networks'] = [
          { name: 'bench', network: '10.78.0.0/16', pools: { web: '10.78.250.1-10.78.250.9' } },
        ]
        site['gateways'] = [{ name: 'inside', address, audience: ['tunnel'] }]
        site['names'] = [
          { zone, authority: 'gateway:inside', writer: 'pages', audience: ['tunnel'], points_at: 'inside' },
        ]
        const { allow } = site['router'] as { allow: object[] }
        allow.push({ from: 'tunnel', to: 'gateway:inside', ports: ['tcp/80', 'tcp/443'], why: 'the gateway' })
      },
    })
    await run('network-cilium', 'apply')
    await run('network-policies', 'apply')
  })
  after(() => cluster?.end())

  test('without a certificate network-gateway is done, says when HTTPS begins, and changes nothing a second time', async () => {
    await run('network-gateway', 'apply')
    const gateway = await get<{
      status: {
        addresses: { value: string }[]
        conditions: Condition[]
        listeners: { name: string; conditions: Condition[] }[]
      }
    }>('gateway inside --namespace=gateways')
    assert.deepEqual(
      gateway.status.addresses.map(({ value }) => value),
      [address],
    )
    const { Accepted, Programmed } = reasons(gateway.status.conditions)
    assert.deepEqual([Accepted, Programmed], ['True Accepted', 'True Programmed'])
    const https = gateway.status.listeners.find(({ name }) => name === 'https')
    assert.equal(reasons(https?.conditions)['ResolvedRefs'], 'False InvalidCertificateRef')
    assert.match(
      await run('network-gateway', 'verify', '--verbose'),
      /HTTPS begins when 33-certificates has made/,
    )
    assert.match(await run('network-gateway', 'apply'), /: \d+ steps hold\n/)
  })

  test('with a certificate hello is served behind it, by its page, under restricted Pod Security', async () => {
    const certificate = selfSigned(zone, cluster.state)
    await kubectl(
      'apply --filename=-',
      JSON.stringify({
        apiVersion: 'v1',
        kind: 'Secret',
        type: 'kubernetes.io/tls',
        metadata: { name: 'inside-tls', namespace: 'gateways' },
        stringData: {
          'tls.crt': readFileSync(certificate.chain, 'utf8'),
          'tls.key': readFileSync(certificate.key, 'utf8'),
        },
      }),
    )
    const said = await run('hello', 'apply')
    assert.match(said, new RegExp(`open https://${host} in the tunnel`))
    assert.match(await run('hello', 'apply'), /: \d+ steps hold\n/)
    const labels = (await get<{ metadata: { labels: Record<string, string> } }>('namespace hello')).metadata
      .labels
    assert.equal(labels['pod-security.kubernetes.io/enforce'], 'restricted')
    assert.equal(labels['fortress-kit/gateway'], 'inside')
    const refused = await cluster.on(
      first,
      `/opt/bin/k3s kubectl run bad --namespace=hello --image=${podImage} --privileged 2>&1 || true`,
    )
    assert.match(refused, /violates PodSecurity "restricted/)
  })

  test('its ClusterIP answers on the node, and no other pod reaches it', async () => {
    const ip = await kubectl('get service web --namespace=hello --output=jsonpath={.spec.clusterIP}')
    assert.match(
      await cluster.on(
        first,
        `exec 3<> /dev/tcp/${ip}/80 && printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3 && timeout 5 cat <&3`,
      ),
      /<h1>fortress-pi is up<\/h1>/,
    )
    await kubectl('create namespace shop')
    await kubectl('apply --filename=-', restricted('web', podImage, 1))
    await kubectl('rollout status deployment/web --namespace shop --timeout=180s')
    const other = await cluster.on(
      first,
      `timeout 5 /opt/bin/k3s kubectl --namespace=shop exec deploy/web -- /bin/pod get http://${ip}/ 2>&1 || echo none`,
    )
    assert.doesNotMatch(other, /is up/)
  })

  test('its pods are ready, were never restarted, and write nothing', async () => {
    const { items } = await get<{
      items: { status: { containerStatuses: { ready: boolean; restartCount: number }[] } }[]
    }>('pods --namespace=hello')
    const states = items.flatMap(({ status }) => status.containerStatuses)
    assert.deepEqual(
      states.map(({ ready, restartCount }) => [ready, restartCount]),
      [[true, 0]],
    )
    const written = await cluster.on(
      first,
      '/opt/bin/k3s kubectl --namespace=hello exec deploy/web -- busybox touch /tmp/x 2>&1 || true',
    )
    assert.match(written, /Read-only file system|No such file/)
  })

  test('undo of both leaves no gateway, address, configuration, Service or namespace', async () => {
    await run('hello', 'undo')
    await run('network-gateway', 'undo')
    await cluster.until(
      'nothing of it is left',
      `! /opt/bin/k3s kubectl get gateways,httproutes,ciliumenvoyconfigs,services,ciliumnetworkpolicies --all-namespaces --no-headers --output=custom-columns=in:.metadata.namespace,name:.metadata.name | grep -E 'inside|hello' &&
! /opt/bin/k3s kubectl get ciliumloadbalancerippools,ciliuml2announcementpolicies,namespaces --output=name | grep -E 'gateway|hello'`,
    )
  })
})
