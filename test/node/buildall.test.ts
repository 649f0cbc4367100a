// The cluster by one command: from a bare machine to a Ready node, on which the first web page answers over TLS who asks from outside;
// and back, until nothing of it is left. The values are the product's own but for one line (ciliumOverlay).
//
// kube-bed plays k3s, which no package registry has. Nor has any Cilium's Envoy: a stock one takes its place in the network of the
// node, with what the operator wrote for it. So the way of packets is Cilium's, from the gateway's address into the proxy and from it
// to the pod; what Cilium adds to its Envoy, which is policies for who asks and for HTTP, is not run.
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { $ } from '../../lib/ground/laptop.ts'
import { without } from '../programs.ts'
import { pinCertManager, certManagerImages, withoutCertManager } from './certmanager.ts'
import { programsLoaded, withoutCilium } from './cilium.ts'
import { type EnvoyConfig, redirected, runEnvoy, stockEnvoy } from './envoy.ts'
import { missing, podImage } from './kit.ts'
import { helloImage, restricted } from './manifests.ts'
import { type Tunneled, neighbours } from './tunnel.ts'

const skip =
  withoutCertManager || withoutCilium || missing || without('helm', 'kubectl', 'openssl', 'curl', 'envoy')

const zone = 'fortress-pi.internal'
const host = `hello.${zone}`
const address = '10.78.250.1'
const laptop = '10.67.0.2'

interface Page {
  status: { podIP: string; containerStatuses: { ready: boolean; restartCount: number }[] }
}

describe('the cluster, by one build-all', { skip }, () => {
  const first = 'all-1'
  let cluster: Tunneled
  let envoy: { end(): Promise<void> } | undefined
  const kubectl = (words: string, input?: string) => cluster.kubectl(words, input)
  const get = async <T>(words: string) => JSON.parse(await kubectl(`get ${words} --output=json`)) as T
  /** From outside, as a device in the tunnel that has the root certificate of the site. */
  const curl = async (url: string) => {
    const root = join(cluster.state, 'fortress-pi/ca.crt')
    const words = ['--silent', '--show-error', '--include', '--max-time', '5', '--interface', laptop]
    const names = [80, 443].flatMap((port) => ['--resolve', `${host}:${port}:${address}`])
    const { stdout, stderr } = await $({ nothrow: true })`curl ${[...words, '--cacert', root, ...names, url]}`
    return `${stdout}${stderr}`.replaceAll('\r', '')
  }
  const pageOf = async () => {
    const { items } = await get<{ items: Page[] }>('pods --namespace=hello')
    assert.equal(items.length, 1)
    return items[0]!
  }
  /** What a port of a pod answers on the laptop, by ./task kubectl port-forward. */
  const forwarded = async (namespace: string, what: string, port: number) => {
    const words = ['kubectl', 'port-forward', `--namespace=${namespace}`, what, `18080:${port}`]
    const running = spawn(process.execPath, [join(cluster.copy.dir, 'bin/task.cjs'), ...words], {
      cwd: cluster.copy.dir,
      env: { ...process.env, ...cluster.env },
      stdio: 'ignore',
    })
    try {
      const answer = await $({
        nothrow: true,
      })`${[...'curl --silent --retry 30 --retry-delay 1'.split(' '), '--retry-connrefused', 'http://127.0.0.1:18080/']}`
      return answer.stdout
    } finally {
      running.kill()
    }
  }
  /** As an admin has it: on the laptop, through the tunnel. */
  const ours = (...words: string[]) => cluster.run('kubectl', ...words)

  before(async () => {
    cluster = await neighbours('all', ['server'], 67, {
      images: [await helloImage(), ...(await certManagerImages())],
      site: (site) => {
        site['networks'] = [
          { name: 'lan', network: '10.78.0.0/16', pools: { web: '10.78.250.1-10.78.250.9' } },
        ]
        site['gateways'] = [{ name: 'inside', address, audience: ['tunnel'] }]
        site['names'] = [
          {
            zone,
            authority: 'gateway:inside',
            writer: 'pages',
            audience: ['tunnel'],
            points_at: 'inside',
            issuer: 'own-ca',
          },
        ]
        const { allow } = site['router'] as { allow: object[] }
        allow.push({ from: 'tunnel', to: 'gateway:inside', ports: ['tcp/80', 'tcp/443'], why: 'web pages' })
      },
    })
    pinCertManager(cluster)
  })
  after(async () => {
    await envoy?.end()
    await cluster?.end()
  })

  const pages = [
    '--only',
    '20-k3s-server,30-network-cilium,31-network-policies,32-network-gateway,33-certificates,39-hello',
  ]

  test('one build-all makes a node Ready, with a network, policies, a gateway, certificates and the page', async () => {
    await cluster.run('build-all', ...pages, '--yes')
    assert.match(await kubectl(`get node ${first} --no-headers`), / Ready /)
  })

  test('a second one changes nothing, and verify-all holds', async () => {
    assert.doesNotMatch(await cluster.run('build-all', ...pages, '--yes'), /^changed|\d changed/m)
    await cluster.run('verify-all', ...pages)
  })

  test('the agent stands in for kube-proxy, has the host firewall, and every controller of it is content', async () => {
    const agent = '/opt/bin/k3s kubectl --namespace cilium exec daemonset/cilium --container cilium-agent --'
    const status = JSON.parse(await cluster.on(first, `${agent} cilium-dbg status --output json`)) as Record<
      string,
      { mode?: string }
    >
    assert.equal(status['kube-proxy-replacement']?.mode, 'True')
    assert.equal(status['host-firewall']?.mode, 'Enabled')
    await cluster.until('all controllers are', `${agent} cilium-dbg status | grep -E ' ([0-9]+)/\\1 healthy'`)
  })

  test('the page answers over TLS at the address of the gateway, and who asks by HTTP is told to come by HTTPS', async () => {
    const rules = await cluster.on(first, 'iptables-save --table=mangle')
    const found = /TPROXY to host \S*cilium-gateway-inside\S* proxy.* --on-port (\d+)/.exec(rules)
    assert.ok(found, rules)
    const port = Number(found[1])
    const backends = { 'hello/web:80': `${(await pageOf()).status.podIP}:8080` }
    const secret = await get<{ data: Record<string, string> }>('secret inside-tls --namespace=gateways')
    const file = (name: string) => {
      writeFileSync(join(cluster.state, name), Buffer.from(secret.data[name]!, 'base64'), { mode: 0o600 })
      return join(cluster.state, name)
    }
    const certificate = { chain: file('tls.crt'), key: file('tls.key') }
    const written = await get<EnvoyConfig>('ciliumenvoyconfig cilium-gateway-inside --namespace=gateways')
    const source = await kubectl(`get ciliumnode ${first} --output=jsonpath={.spec.ingress.ipv4}`)
    const config = redirected(stockEnvoy(written, { port, backends, certificate }), source)
    assert.match(await curl(`https://${host}/`), /^curl: \(\d+\)/)
    envoy = await runEnvoy(config, port, `fk-${first}`)
    assert.match(
      await curl(`https://${host}/`),
      /^HTTP\/1\.1 200 [^]*^content-security-policy: default-src 'none'[^]*<h1>fortress-pi is up<\/h1>/m,
    )
    assert.match(
      await curl(`http://${host}/`),
      new RegExp(`^HTTP/1\\.1 301 [^]*^location: https://${host}`, 'm'),
    )
  })

  test('exec, logs and port-forward reach pods through the tunnel', async () => {
    const inPage = (...words: string[]) =>
      cluster.task('kubectl', 'exec', '--namespace=hello', 'deployment/web', '--', 'busybox', ...words)
    assert.match((await inPage('id', '-u')).text, /^65534$/m)
    assert.match((await inPage('touch', '/www/x')).text, /Read-only file system/)
    assert.match(await ours('logs', '--namespace=kube-system', 'deployment/coredns'), /CoreDNS-|linux\/amd64/)
    assert.match(await forwarded('hello', 'deployment/web', 8080), /<h1>fortress-pi is up<\/h1>/)
  })

  test('a container whose liveness probe fails is started anew', async () => {
    await kubectl('create namespace shop')
    await kubectl('apply --filename=-', restricted('web', podImage, 1))
    await kubectl('rollout status deployment/web --namespace=shop --timeout=180s')
    await kubectl('--namespace=shop exec deploy/web -- /bin/pod get http://127.0.0.1:8080/sicken')
    const count = `get pods --selector=app=web --output jsonpath={.items[0].status.containerStatuses[0].restartCount}`
    await cluster.until(
      'it was started anew',
      `[ "$(/opt/bin/k3s kubectl --namespace=shop ${count})" -gt 0 ]`,
    )
    await kubectl('rollout status deployment/web --namespace=shop --timeout=60s')
  })

  test('no other pod reaches the page, names are still answered, and ./task net says what was dropped', async () => {
    const ip = await kubectl('get service web --namespace=hello --output=jsonpath={.spec.clusterIP}')
    const inShop = '/opt/bin/k3s kubectl --namespace=shop exec deploy/web -- /bin/pod'
    const said = await cluster.on(first, `timeout 5 ${inShop} get http://${ip}/ 2>&1 || echo none`)
    assert.match(said, /none|time|refused/)
    assert.match(await cluster.on(first, `${inShop} lookup web.hello`), /^\[10\.43\./m)
    const { code, text } = await cluster.task('net')
    assert.equal(code, 2, text)
    assert.match(text, /shop\/web → hello\/web:tcp\/8080\n +policy denied, on its way out/)
  })

  test('the page is ready, was never restarted, and a pod with more rights than it is refused', async () => {
    const { containerStatuses } = (await pageOf()).status
    assert.deepEqual(
      containerStatuses.map(({ ready, restartCount }) => [ready, restartCount]),
      [[true, 0]],
    )
    const words = `run bad --namespace=hello --image=${podImage} --privileged 2>&1 || true`
    assert.match(await cluster.on(first, `/opt/bin/k3s kubectl ${words}`), /violates PodSecurity "restricted/)
  })

  test('verify sees a policy that somebody has changed by hand, and one that is gone; apply mends both', async () => {
    const open = JSON.stringify({ spec: { ingress: [{ fromEntities: ['all'] }] } })
    await kubectl(`patch ciliumclusterwidenetworkpolicy pods-default-deny --type=merge --patch '${open}'`)
    const { code, text } = await cluster.task('network-policies', 'verify')
    assert.equal(code, 1)
    assert.match(text, /fromEntities/)
    await kubectl('delete ciliumclusterwidenetworkpolicy never-metadata')
    assert.equal((await cluster.task('network-policies', 'verify')).code, 1)
    await cluster.run('network-policies', 'apply')
    await cluster.run('network-policies', 'verify')
  })

  test('undo-all leaves no program, link, mount, rule, chain or file of it on the node, and what somebody wrote', async () => {
    // A policy of somebody else stays, and with it the CRD that it is in.
    const mine = {
      apiVersion: 'cilium.io/v2',
      kind: 'CiliumNetworkPolicy',
      metadata: { name: 'mine', namespace: 'shop' },
      spec: { endpointSelector: {}, egress: [{}] },
    }
    await kubectl('apply --filename=-', JSON.stringify(mine))
    assert.ok((await programsLoaded()).length > 20)
    await envoy?.end()
    const text = await cluster.run('undo-all', '--layer', 'L4', '--yes', '--confirm', first)
    assert.match(text, /kept/)
    assert.equal(
      await kubectl('get namespaces cilium cert-manager gateways hello --ignore-not-found --output=name'),
      '',
    )
    assert.match(
      await kubectl('get customresourcedefinitions --output=name | grep cilium.io || true'),
      /^\S+\/ciliumnetworkpolicies\.cilium\.io\n$/,
    )
    assert.match(await kubectl('get ciliumnetworkpolicies --namespace=shop --output=name'), /\/mine\n$/)
    await cluster.run('undo-all', '--from', 'k3s-server', '--yes', '--confirm', first)
    assert.deepEqual(await programsLoaded(), [])
    const left = await cluster.on(
      first,
      `ip -brief link | grep -E '^(cilium_|lxc)' || true
for tables in iptables ip6tables; do $tables-save 2> /dev/null | grep CILIUM || true; done
ip rule list | grep -E 'lookup (2004|2005)' || true
ls --directory /etc/sysctl.d/*cilium* /opt/cni/bin/cilium* /etc/cni/net.d/* /sys/fs/bpf/*cilium* 2> /dev/null || true
grep cilium /proc/mounts || true
systemctl is-active k3s.service | grep --invert-match inactive || true`,
    )
    assert.equal(left, '')
  })
})
