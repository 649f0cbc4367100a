// The network of a cluster by the pages that set it up: from a node that is NotReady to pods that talk to whom they may, and back.
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { after, before, describe, test } from 'node:test'
import { parse } from 'yaml'
import { without } from '../programs.ts'
import { gatewayCrds, programsLoaded, withoutCilium } from './cilium.ts'
import { missing, podImage } from './kit.ts'
import { restricted } from './manifests.ts'
import { type Tunneled, tunneled } from './tunnel.ts'

const skip = withoutCilium || missing || without('helm', 'kubectl')

describe('the network of a cluster, by its pages', { skip }, () => {
  const first = 'net-1'
  let cluster: Tunneled
  const kubectl = (words: string, input?: string) => cluster.kubectl(words, input)
  const run = (...words: string[]) => cluster.run(...words)
  /** What one pod of a Deployment gets from an address, or why not. */
  const get = (from: string, address: string) =>
    cluster.on(
      first,
      `timeout 5 /opt/bin/k3s kubectl --namespace=${from.replace('/', ' exec deploy/')} -- /bin/pod get ${address} 2>&1 || echo none`,
    )

  before(async () => {
    cluster = await tunneled('net', ['server'], 67)
  })
  after(() => cluster?.end())

  test('the definitions of Gateway API are, byte for byte, those that the pin names', () => {
    const pins = parse(readFileSync('config/versions.yaml', 'utf8')) as Record<
      string,
      { version: string; sha256: { any: string } }
    >
    const { text, version } = gatewayCrds()
    assert.equal(version, pins['gateway-api']!.version)
    assert.equal(createHash('sha256').update(text).digest('hex'), pins['gateway-api']!.sha256.any)
  })

  test('network-cilium makes a node Ready that was not', async () => {
    assert.match(await kubectl(`get node ${first} --no-headers`), / NotReady /)
    await run('network-cilium', 'apply')
    assert.match(await kubectl(`get node ${first} --no-headers`), / Ready /)
  })

  test('a second run changes nothing, and verify holds', async () => {
    assert.match(await run('network-cilium', 'apply'), /: \d+ steps hold\n/)
    await run('network-cilium', 'verify')
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

  test('before there are policies every pod reaches every other, and by the name of a Service', async () => {
    await kubectl('create namespace shop')
    await kubectl('create namespace other')
    await kubectl('apply --filename=-', restricted('web', podImage, 1))
    await kubectl('apply --filename=-', restricted('web', podImage, 1).replaceAll('"shop"', '"other"'))
    for (const namespace of ['shop', 'other'])
      await kubectl(`rollout status deployment/web --namespace ${namespace} --timeout=120s`)
    await cluster.until(
      'the name is known',
      `/opt/bin/k3s kubectl --namespace=other exec deploy/web -- /bin/pod lookup web.shop`,
    )
    assert.match(await get('other/web', 'http://web.shop/'), /^web-/)
  })

  test('network-policies denies what nobody has allowed, and names are still answered', async () => {
    await run('network-policies', 'apply')
    assert.match(await get('other/web', 'http://web.shop/'), /none|time|refused/)
    assert.match(
      await cluster.on(
        first,
        '/opt/bin/k3s kubectl --namespace=other exec deploy/web -- /bin/pod lookup web.shop',
      ),
      /^\[10\.43\./m,
    )
    const { code, text } = await cluster.task('net')
    assert.equal(code, 2, text)
    assert.match(text, /other\/web → shop\/web:tcp\/8080\n +policy denied, on its way out/)
    assert.match(await run('network-policies', 'apply'), /: \d+ steps hold\n/)
    await kubectl('rollout status deployment/hubble-relay --namespace cilium --timeout=60s')
  })

  test('verify sees a policy that somebody has changed by hand, and one that somebody has deleted; apply mends both', async () => {
    await kubectl(
      `patch ciliumclusterwidenetworkpolicy pods-default-deny --type=merge --patch '{"spec":{"ingress":[{"fromEntities":["all"]}]}}'`,
    )
    const { code, text } = await cluster.task('network-policies', 'verify')
    assert.equal(code, 1)
    assert.match(text, /fromEntities/)
    await kubectl('delete ciliumclusterwidenetworkpolicy never-metadata')
    assert.equal((await cluster.task('network-policies', 'verify')).code, 1)
    await run('network-policies', 'apply')
    await run('network-policies', 'verify')
  })

  test('undo of both pages leaves no program, link, chain, rule or file of Cilium on the node, and what somebody wrote', async () => {
    await run('network-policies', 'undo')
    assert.match(await get('other/web', 'http://web.shop/'), /^web-/)
    // A policy of somebody else stays, and with it the CRD that it is in.
    const mine = {
      apiVersion: 'cilium.io/v2',
      kind: 'CiliumNetworkPolicy',
      metadata: { name: 'mine', namespace: 'shop' },
    }
    await kubectl(
      'apply --filename=-',
      JSON.stringify({ ...mine, spec: { endpointSelector: {}, egress: [{}] } }),
    )
    assert.ok((await programsLoaded()).length > 20)
    await run('network-cilium', 'undo')
    assert.deepEqual(await programsLoaded(), [])
    const left = await cluster.on(
      first,
      `ip -brief link | grep -E '^(cilium_|lxc)' || true
for tables in iptables ip6tables; do $tables-save 2> /dev/null | grep CILIUM || true; done
ip rule list | grep -E 'lookup (2004|2005)' || true
ls /etc/sysctl.d/99-zzz-override_cilium.conf /opt/cni/bin/cilium-cni /etc/cni/net.d/05-cilium.conflist 2> /dev/null || true
mount | grep /run/cilium/cgroupv2 || true`,
    )
    assert.equal(left, '')
    assert.match(
      await kubectl('get customresourcedefinitions --output=name | grep cilium.io || true'),
      /^\S+\/ciliumnetworkpolicies\.cilium\.io\n$/,
    )
    assert.match(await kubectl('get ciliumnetworkpolicies --namespace=shop --output=name'), /\/mine\n$/)
    assert.equal(await kubectl('get namespace cilium --ignore-not-found'), '')
  })
})
