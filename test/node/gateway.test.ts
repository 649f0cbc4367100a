// Gateways and the first web page by their pages, on a node with the operator and the agent of Cilium. Which routes are taken, and what
// the written configuration does in an Envoy, is in test/checked/gateways.test.ts; Cilium's redirect into its Envoy is not run.
import assert from 'node:assert/strict'
import { execFileSync, spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { parseDocument } from 'yaml'
import { which } from '../../lib/ground/laptop.ts'
import { without } from '../programs.ts'
import { ciliumChart, ciliumImages, ciliumOverlay, gatewayCrds, withoutCilium } from './cilium.ts'
import { imageArchive } from './image.ts'
import { type PodFleet, missing, podFleet, podImage } from './kit.ts'
import { dns, restricted } from './manifests.ts'

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
  /** Where this computer stands for machines of the lab. */
  const here = '10.78.0.1'
  let cluster: PodFleet
  let certificate: { dir: string; chain: string; key: string }
  const kubectl = (words: string, input?: string) => cluster.kubectl(words, input)
  const get = async <T>(words: string) => JSON.parse(await kubectl(`get ${words} --output=json`)) as T
  const run = async (...words: string[]) => {
    const { code, text } = await cluster.task(...words)
    if (code !== 0) {
      const state = 'kubectl get pods,gateways,httproutes --all-namespaces --output=wide'
      throw new Error(`${text}\n${await cluster.on(first, `/opt/bin/k3s ${state} 2>&1 || true`)}`)
    }
    return text
  }

  before(async () => {
    certificate = made()
    const chart = ciliumChart()
    const values = join(import.meta.dirname, '../../config/components/cilium/values.yaml')
    const rendered = execFileSync('helm', ['template', 'cilium', chart.file, '--values', values], {
      encoding: 'utf8',
    })
    const images = [...rendered.matchAll(/^\s*image: "?([^"\s]+)"?$/gm)].map(([, name]) => name!)
    cluster = await podFleet('gate', ['server'], { more: [...(await ciliumImages(images)), await busybox()] })
    const downloads = join(cluster.state, 'downloads')
    mkdirSync(downloads, { recursive: true })
    cluster.copy.pin('cilium', readFileSync(chart.file))
    writeFileSync(join(downloads, `cilium-${chart.version}.tgz`), readFileSync(chart.file))
    writeFileSync(join(downloads, `gateway-api-${gatewayCrds().version}.yaml`), gatewayCrds().text)
    // The one line of values that differs: the kernel that nodes of the lab share has no WireGuard.
    const own = join(cluster.copy.dir, 'config/components/cilium/values.yaml')
    const document = parseDocument(readFileSync(own, 'utf8'))
    document.setIn(['encryption', 'enabled'], ciliumOverlay.encryption.enabled)
    writeFileSync(own, document.toString())
    cluster.site((site) => {
      site['tunnel'] = { network: '10.67.0.0/24', peers: [{ name: 'laptop', address: '10.67.0.2' }] }
      site['networks'] = [
        { name: 'bench', network: '10.78.0.0/16', pools: { web: '10.78.250.1-10.78.250.9' } },
      ]
      site['gateways'] = [{ name: 'inside', address, audience: ['tunnel'] }]
      site['names'] = [
        { zone, authority: 'gateway:inside', writer: 'pages', audience: ['tunnel'], points_at: 'inside' },
      ]
      site['router'] = {
        kind: 'host',
        at: first,
        allow: [
          { from: 'tunnel', to: 'router', ports: ['tcp/22', 'tcp/6443'], why: 'administration' },
          { from: here, to: 'router', ports: ['tcp/22'], why: 'the computer that runs this test' },
          { from: 'tunnel', to: 'gateway:inside', ports: ['tcp/80', 'tcp/443'], why: 'the gateway' },
          { from: 'router', to: ['internet', 'upstream'], ports: 'any', why: 'images' },
        ],
        never: [],
      }
    })
    await cluster.on(first, 'ip address add 10.67.0.1/32 dev lo')
    execFileSync('ip', ['address', 'replace', '10.67.0.2/32', 'dev', 'lo'])
    const way = ['via', cluster.machineOf(first).host, 'src', '10.67.0.2']
    execFileSync('ip', ['route', 'replace', '10.67.0.1/32', ...way])
    await cluster.on(first, `ip route add 10.67.0.2/32 via ${here}`)
    await run('k3s-server', 'apply')
    // k3s brings its own; the stand-in does not.
    await kubectl('apply --filename=-', dns)
    await run('network-cilium', 'apply')
    await run('network-policies', 'apply')
  })
  after(async () => {
    spawnSync('ip', ['route', 'delete', '10.67.0.1/32'])
    spawnSync('ip', ['address', 'delete', '10.67.0.2/32', 'dev', 'lo'])
    rmSync(certificate.dir, { recursive: true, force: true })
    await cluster?.end()
  })

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
      /<h1>\w+ is up<\/h1>/,
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
      `! /opt/bin/k3s kubectl get gateways,httproutes,ciliumenvoyconfigs,services,ciliumnetworkpolicies --all-namespaces --output=name | grep -E 'inside|hello|/web$' &&
! /opt/bin/k3s kubectl get ciliumloadbalancerippools,ciliuml2announcementpolicies,namespaces --output=name | grep -E 'gateway|hello'`,
    )
  })
})

/** A certificate for the zone, signed by itself. */
function made(): { dir: string; chain: string; key: string } {
  const dir = mkdtempSync(join(tmpdir(), 'fk-gateway-'))
  const [chain, key] = [join(dir, 'tls.crt'), join(dir, 'tls.key')]
  const words = [
    'req',
    '-x509',
    '-newkey',
    'ec',
    '-pkeyopt',
    'ec_paramgen_curve:prime256v1',
    '-nodes',
    '-days',
    '2',
  ]
  const names = ['-subj', `/CN=${zone}`, '-addext', `subjectAltName=DNS:${zone},DNS:*.${zone}`]
  execFileSync('openssl', [...words, ...names, '-keyout', key, '-out', chain], { stdio: 'ignore' })
  return { dir, chain, key }
}

/** The image of the page, by the name that it is pinned by: Debian's busybox in place of that of its makers. */
function busybox(): Promise<string> {
  const objects = readFileSync(
    join(import.meta.dirname, '../../config/components/hello/objects.yaml'),
    'utf8',
  )
  const [, repository, tag, digest] = /image: (\S+):([^@\s]+)@(\S+)/.exec(objects)!
  return imageArchive({
    names: [`${repository}:${tag}`, `${repository}@${digest}`],
    layers: [
      {
        files: {
          '/bin/busybox': { from: which('busybox')!, mode: 0o755 },
          '/bin/httpd': { link: 'busybox' },
          '/etc/passwd': { text: 'root:x:0:0::/:/\n' },
        },
      },
    ],
    config: { Env: ['PATH=/bin'], Cmd: ['sh'] },
  })
}
