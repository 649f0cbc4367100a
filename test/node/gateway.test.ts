// Gateways and the first web page by their pages, on a node with the operator and the agent of Cilium: what is programmed, which
// routes are taken, and what the written configuration does in a stock Envoy. Cilium's own redirect into its Envoy is not run here.
import assert from 'node:assert/strict'
import { execFileSync, spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { type Server, createServer } from 'node:http'
import { type AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { parseDocument } from 'yaml'
import { $, which } from '../../lib/ground/laptop.ts'
import { without } from '../programs.ts'
import { ciliumChart, ciliumImages, ciliumOverlay, gatewayCrds, withoutCilium } from './cilium.ts'
import { type EnvoyConfig, runEnvoy, stockEnvoy } from './envoy.ts'
import { imageArchive } from './image.ts'
import { type PodFleet, missing, podFleet, podImage } from './kit.ts'
import { dns, restricted } from './manifests.ts'

const skip = withoutCilium || missing || without('helm', 'kubectl', 'busybox', 'openssl', 'curl')

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
    if (code !== 0)
      throw new Error(
        `${text}\n${await kubectl('get pods,gateways,httproutes --all-namespaces --output=wide')}`,
      )
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
    assert.match(await run('network-gateway', 'verify', '--verbose'), /HTTPS begins with 33-certificates/)
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
    assert.match(await cluster.on(first, `curl --silent --max-time 5 http://${ip}/`), /<h1>\w+ is up<\/h1>/)
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

  for (const [why, wanted] of Object.entries<{
    namespace: string
    parent?: string
    hostname?: string
    service?: string
    says: Record<string, string> | undefined
  }>({
    'from a namespace without the label': {
      namespace: 'shop',
      says: { Accepted: 'False NotAllowedByListeners', ResolvedRefs: 'True ResolvedRefs' },
    },
    'to a Service that is not there': {
      namespace: 'hello',
      service: 'none',
      says: { Accepted: 'True Accepted', ResolvedRefs: 'False BackendNotFound' },
    },
    'for a name outside of the zones of the gateway': {
      namespace: 'hello',
      hostname: 'hello.example.com',
      says: { Accepted: 'False NoMatchingListenerHostname', ResolvedRefs: 'True ResolvedRefs' },
    },
    'at a gateway that is not ours': { namespace: 'hello', parent: 'foreign', says: undefined },
    'that is right': {
      namespace: 'hello',
      hostname: `second.${zone}`,
      says: { Accepted: 'True Accepted', ResolvedRefs: 'True ResolvedRefs' },
    },
  }))
    test(`a route ${why} is ${wanted.says ? Object.values(wanted.says).join(', ') : 'left alone'}`, async () => {
      const { namespace, parent = 'inside', hostname = `other.${zone}`, service = 'web', says } = wanted
      await kubectl('apply --filename=-', route(namespace, parent, hostname, service))
      if (says !== undefined)
        await cluster.until(
          'the route was looked at',
          `/opt/bin/k3s kubectl get httproute trial --namespace=${namespace} --output=jsonpath={.status.parents[0].conditions} | grep ResolvedRefs`,
        )
      const { status } = await get<{ status?: { parents: { conditions: Condition[] }[] } }>(
        `httproute trial --namespace=${namespace}`,
      )
      assert.deepEqual(status?.parents.map(({ conditions }) => reasons(conditions))[0], says)
      await kubectl(`delete httproute trial --namespace=${namespace}`)
    })

  describe('what the operator wrote, in a stock Envoy', { skip: without('envoy') }, () => {
    const port = 18443
    let page: Server
    let envoy: { end: () => Promise<void> }
    // The page is served by this process: it must not be blocked.
    const curl = async (...words: string[]) => {
      const given = [
        '--silent',
        '--show-error',
        '--max-time',
        '10',
        '--cacert',
        certificate.chain,
        '--include',
      ]
      const { stdout, stderr } = await $({ nothrow: true })`curl ${[...given, ...words]}`
      return `${stdout}${stderr}`.replaceAll('\r', '')
    }
    const at = (name: string, to = port) => ['--resolve', `${name}:${to}:127.0.0.1`, `https://${name}:${to}/`]

    before(async () => {
      page = createServer((_, response) => response.end('from the pod'))
      await new Promise<void>((resolve) => void page.listen(0, '127.0.0.1', resolve))
      const written = await get<EnvoyConfig>('ciliumenvoyconfig cilium-gateway-inside --namespace=gateways')
      const backends = { 'hello/web:80': `127.0.0.1:${(page.address() as AddressInfo).port}` }
      envoy = await runEnvoy(stockEnvoy(written, { port, backends, certificate }), port)
    })
    after(async () => {
      await envoy?.end()
      page?.close()
    })

    test('HTTP leads to the same path by HTTPS, for whatever name, and serves nothing', async () => {
      const said = await curl('--header', `Host: ${host}`, `http://127.0.0.1:${port}/a?b=c`)
      assert.match(said, /^HTTP\/1\.1 301 /)
      assert.match(said, new RegExp(`^location: https://${host}(:443)?/a\\?b=c$`, 'm'))
      assert.doesNotMatch(said, /from the pod/)
    })

    test('HTTPS serves the page by its name, with the certificate and its headers', async () => {
      const said = await curl(...at(host))
      assert.match(said, /^HTTP\/1\.1 200 /)
      assert.match(said, /from the pod$/)
      assert.match(said, /^content-security-policy: default-src 'none'; style-src 'unsafe-inline'$/m)
      assert.match(said, /^x-content-type-options: nosniff$/m)
    })

    test('a name of the zone that has no route is not found, and a name outside of it gets no connection', async () => {
      assert.match(await curl(...at(`nobody.${zone}`)), /^HTTP\/1\.1 404 /)
      const words = ['s_client', '-connect', `127.0.0.1:${port}`, '-servername', 'www.example.com']
      const { stdout } = spawnSync('openssl', words, { input: '', encoding: 'utf8' })
      assert.match(stdout, /no peer certificate available/)
    })

    test('a request for one name inside a connection for another one is not served', async () => {
      const said = await curl('--header', 'Host: www.example.com', ...at(host))
      assert.match(said, /^HTTP\/1\.1 (404|421) /)
    })

    test('TLS 1.1 is refused, 1.2 and 1.3 are spoken', () => {
      const words = ['s_client', '-connect', `127.0.0.1:${port}`, '-servername', host]
      const says = (version: string) => {
        const { stdout } = spawnSync('openssl', [...words, version, '-cipher', 'ALL:@SECLEVEL=0'], {
          input: '',
          encoding: 'utf8',
        })
        return /^New, (TLSv1\.\d|\(NONE\))/m.exec(stdout)?.[1]
      }
      assert.deepEqual(['-tls1_1', '-tls1_2', '-tls1_3'].map(says), ['(NONE)', 'TLSv1.2', 'TLSv1.3'])
    })
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

/** A route of somebody. */
const route = (namespace: string, parent: string, hostname: string, service: string): string =>
  JSON.stringify({
    apiVersion: 'gateway.networking.k8s.io/v1',
    kind: 'HTTPRoute',
    metadata: { name: 'trial', namespace },
    spec: {
      parentRefs: [{ name: parent, namespace: 'gateways', sectionName: 'https' }],
      hostnames: [hostname],
      rules: [{ backendRefs: [{ name: service, port: 80 }] }],
    },
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
