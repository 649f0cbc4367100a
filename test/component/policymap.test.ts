// The policy map: what may talk to what on shipped sites, flow by flow, each line by hand; and how Cilium's language is read.
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { type Endpoint, endpointOf, judge, nameMatches } from '../../lib/component/policymap.ts'
import { type Manifest, type Policy, type Spec, notInstalled } from '../../lib/component/policies.ts'
import { map } from '../../lib/cli/map.ts'
import { may } from '../../lib/cli/may.ts'
import { catalogue } from '../../lib/site/catalogue.ts'
import { isNode } from '../../lib/site/machines.ts'
import { inside } from '../../lib/site/zones.ts'
import { type Cluster, address, clusterOf, clusters } from './clusters.ts'

/** Site → why → flows: `yes` or `no`, FROM, TO, PORT, and behind them a name that CoreDNS is asked for. */
const table: Record<string, Record<string, string>> = {
  fortress: {
    'the page answers the Gateway, and nobody else asks it': `
      yes gateway hello/web tcp/8080
      no  gateway hello/web tcp/8081
      no  gateway hello/web udp/8080
      no  kube-system/metrics-server hello/web tcp/8080
      no  cert-manager/cert-manager hello/web tcp/8080
      no  cilium/hubble-relay hello/web tcp/8080
      no  kube-system/coredns hello/web tcp/8080
      no  world hello/web tcp/8080
      no  tunnel hello/web tcp/8080
      no  guests hello/web tcp/8080
      no  health hello/web tcp/8080`,
    'the page asks nobody but CoreDNS': `
      no  hello/web world tcp/443
      no  hello/web world udp/53
      no  hello/web 198.51.100.77 tcp/80
      no  hello/web host tcp/6443
      no  hello/web host tcp/22
      no  hello/web host tcp/10250
      no  hello/web host icmp/8
      no  hello/web gateway tcp/443
      no  hello/web health tcp/4240
      no  hello/web metadata tcp/80
      no  hello/web tunnel tcp/22
      no  hello/web guests tcp/443
      no  hello/web 10.77.0.1 udp/53
      no  hello/web kube-system/metrics-server tcp/10250
      no  hello/web cert-manager/webhook tcp/10250
      no  hello/web cilium/hubble-relay tcp/4245
      no  hello/web www.example.net tcp/443`,
    'names: those of the cluster for all, none outside for who has no list': `
      yes hello/web kube-system/coredns udp/53 web.hello.svc.cluster.local
      yes hello/web kube-system/coredns tcp/53 web.hello.svc.cluster.local
      yes hello/web kube-system/coredns udp/53 kubernetes.default.svc.cluster.local
      yes hello/web kube-system/coredns udp/53 www.example.net.hello.svc.cluster.local
      yes cilium/hubble-relay kube-system/coredns udp/53 hubble-peer.cilium.svc.cluster.local
      no  hello/web kube-system/coredns udp/53 www.example.net
      no  hello/web kube-system/coredns udp/53 cluster.local
      no  hello/web kube-system/coredns udp/53 secret.cluster.local.example.net
      no  hello/web kube-system/coredns udp/53 evilcluster.local
      no  cilium/hubble-relay kube-system/coredns udp/53 www.example.net
      no  cert-manager/cert-manager kube-system/coredns udp/53 acme-v02.api.letsencrypt.org
      no  hello/web kube-system/coredns tcp/9153
      no  hello/web kube-system/coredns tcp/8080
      no  world kube-system/coredns udp/53
      no  tunnel kube-system/coredns udp/53
      no  gateway kube-system/coredns udp/53`,
    'CoreDNS asks the API and the resolver of the node, wherever that is': `
      yes kube-system/coredns host tcp/6443
      yes kube-system/coredns host udp/53
      yes kube-system/coredns host tcp/53
      yes kube-system/coredns world udp/53
      yes kube-system/coredns world tcp/53
      yes kube-system/coredns 10.77.0.1 udp/53
      no  kube-system/coredns 192.168.1.1 udp/53
      no  kube-system/coredns 10.77.0.9 udp/53
      no  kube-system/coredns tunnel udp/53
      no  kube-system/coredns metadata udp/53
      no  kube-system/coredns world tcp/443
      no  kube-system/coredns world tcp/853
      no  kube-system/coredns host tcp/22
      no  kube-system/coredns host tcp/10250
      no  kube-system/coredns hello/web tcp/8080`,
    'the API is for those who need it': `
      yes cert-manager/cert-manager host tcp/6443
      yes cert-manager/webhook host tcp/6443
      yes cert-manager/cainjector host tcp/6443
      yes cilium/hubble-generate-certs host tcp/6443
      no  cilium/hubble-generate-certs host tcp/4244
      no  cilium/hubble-generate-certs world tcp/443
      yes kube-system/metrics-server host tcp/6443
      yes kyverno/admission host tcp/6443
      yes kyverno/reports host tcp/6443
      no  kyverno/admission host tcp/10250
      no  kyverno/reports host tcp/2379
      no  kyverno/admission kyverno/reports tcp/8000
      no  hello/web kyverno/admission tcp/9443
      no  kyverno/reports kyverno/admission tcp/9443
      no  cilium/hubble-relay host tcp/6443
      no  cert-manager/webhook host tcp/2379
      no  cert-manager/webhook host tcp/443
      no  kube-system/metrics-server host tcp/2379`,
    'figures come from the kubelet, and what agents saw from the agents': `
      yes kube-system/metrics-server host tcp/10250
      no  kube-system/metrics-server host tcp/4244
      yes cilium/hubble-relay host tcp/4244
      no  cilium/hubble-relay host tcp/10250
      no  cilium/hubble-relay world tcp/4244
      no  cert-manager/cert-manager host tcp/10250
      no  cert-manager/cert-manager host tcp/4244`,
    'no pod reaches the world, where no certificate comes from outside': `
      no  cert-manager/cert-manager world tcp/443
      no  cert-manager/cert-manager acme-v02.api.letsencrypt.org tcp/443
      no  cert-manager/webhook world tcp/443
      no  kyverno/admission world tcp/443
      no  kyverno/reports world tcp/443
      no  kube-system/metrics-server world tcp/443
      no  cilium/hubble-relay world tcp/443`,
    'the kubelet probes, and the API asks its webhooks: one node does both': `
      yes host hello/web tcp/8080
      yes host cert-manager/webhook tcp/10250
      yes host kyverno/admission tcp/9443
      yes host cert-manager/webhook tcp/6080
      yes host kube-system/metrics-server tcp/10250
      yes host kube-system/coredns tcp/8181
      yes host cilium/hubble-relay tcp/4222
      yes host world tcp/443
      yes host kube-system/coredns udp/53`,
    'the Gateway is for those in the tunnel': `
      yes tunnel gateway tcp/443
      yes tunnel gateway tcp/80
      yes 10.66.0.200 gateway tcp/443
      no  world gateway tcp/443
      no  guests gateway tcp/443
      no  192.168.1.20 gateway tcp/443
      no  cert-manager/cert-manager gateway tcp/443
      no  gateway world tcp/443
      no  gateway host tcp/22
      no  gateway host tcp/6443
      no  gateway metadata tcp/80
      no  gateway tunnel tcp/443`,
    'the node: what router.allow says, and nothing for the rest of the world': `
      yes tunnel host tcp/22
      yes tunnel host tcp/6443
      yes tunnel host tcp/443
      no  tunnel host tcp/80
      no  tunnel host tcp/10250
      no  tunnel host tcp/2379
      no  tunnel host udp/8472
      yes 10.77.0.1 host tcp/22
      yes 10.77.0.1 host tcp/6443
      no  10.77.0.9 host tcp/22
      no  10.77.0.9 host tcp/6443
      no  world host tcp/22
      no  world host tcp/443
      no  world host tcp/6443
      no  world host udp/51871
      no  192.168.1.20 host tcp/22
      no  gateway host tcp/443
      yes world host icmp/8
      yes tunnel host icmp/8
      no  world host icmp/13`,
  },
  'fortress-pi': {
    'the node is the host: the tunnel ends on it': `
      yes world host udp/51820
      yes 192.168.1.20 host udp/51820
      no  world host tcp/51820
      yes tunnel host tcp/22
      yes tunnel host tcp/443
      yes tunnel host tcp/6443
      no  tunnel host tcp/10250
      no  world host tcp/22
      no  world host tcp/443
      no  192.168.1.20 host tcp/22
      no  192.168.1.20 host tcp/6443
      yes kube-system/coredns host udp/53
      yes kube-system/coredns world udp/53
      no  kube-system/coredns 192.168.1.1 udp/53
      no  hello/web host udp/53
      yes tunnel gateway tcp/443
      no  192.168.1.20 gateway tcp/443`,
  },
  zengarden: {
    'nodes ask each other, and servers what only servers have': `
      yes blade002 host tcp/6443
      yes blade002 host tcp/2379
      yes blade002 host tcp/2380
      yes blade004 host tcp/6443
      yes blade004 host tcp/10250
      yes blade004 host udp/8472
      yes blade004 host udp/51871
      yes blade004 host tcp/4240
      yes blade004 host tcp/5001
      yes blade004 host tcp/7946
      yes blade004 host udp/7946
      yes host blade005 tcp/10250
      yes host blade005 tcp/5001
      yes blade004 blade005 udp/8472
      no  host blade005 tcp/2379
      no  blade004 host tcp/22
      no  host blade005 tcp/22
      no  blade004 host udp/53
      no  blade004 blade005 tcp/9100`,
    'an API server on another node is seen as that node': `
      yes blade002 cert-manager/webhook tcp/10250
      yes blade002 kyverno/admission tcp/9443
      no  blade002 kyverno/admission tcp/8000
      no  blade002 kyverno/reports tcp/8000
      yes blade002 kube-system/metrics-server tcp/10250
      no  blade002 hello/web tcp/8080
      no  blade002 cert-manager/webhook tcp/6080
      no  blade002 cert-manager/cert-manager tcp/9402
      no  blade002 kube-system/coredns udp/53
      no  blade002 cilium/hubble-relay tcp/4245`,
    'pods reach the API, kubelets and agents of every node': `
      yes cert-manager/webhook blade002 tcp/6443
      no  cert-manager/webhook blade004 tcp/6443
      yes kube-system/metrics-server blade004 tcp/10250
      yes cilium/hubble-relay blade005 tcp/4244
      no  hello/web blade004 tcp/10250
      no  kube-system/coredns blade004 udp/53
      yes kube-system/coredns device:chateau udp/53
      no  kube-system/coredns home udp/53
      no  kube-system/coredns device:models udp/53`,
    'the controller leaves the cluster for its authority and the provider of the zone, by name': `
      yes cert-manager/cert-manager acme-v02.api.letsencrypt.org tcp/443
      yes cert-manager/cert-manager api.cloudflare.com tcp/443
      no  cert-manager/cert-manager acme-v02.api.letsencrypt.org tcp/80
      no  cert-manager/cert-manager api.digitalocean.com tcp/443
      no  cert-manager/cert-manager www.example.net tcp/443
      no  cert-manager/cert-manager world tcp/443
      no  cert-manager/webhook acme-v02.api.letsencrypt.org tcp/443
      no  cert-manager/cainjector api.cloudflare.com tcp/443
      no  hello/web acme-v02.api.letsencrypt.org tcp/443
      yes cert-manager/cert-manager kube-system/coredns udp/53 api.cloudflare.com
      yes cert-manager/cert-manager kube-system/coredns udp/53 zengarden.example
      yes cert-manager/cert-manager kube-system/coredns udp/53 _acme-challenge.zengarden.example
      yes cert-manager/cert-manager kube-system/coredns udp/53 _acme-challenge.www.homelab.zengarden.example
      yes cert-manager/cert-manager kube-system/coredns udp/53 cert-manager-webhook.cert-manager.svc.cluster.local
      no  cert-manager/cert-manager kube-system/coredns udp/53 zengarden.example.net
      no  cert-manager/webhook kube-system/coredns udp/53 api.cloudflare.com`,
    'networks of the house, as the router has them': `
      yes management host tcp/22
      yes management blade005 tcp/6443
      yes management host tcp/10250
      yes device:workstation blade003 tcp/22
      yes tunnel host tcp/22
      no  home host tcp/22
      no  home host tcp/6443
      no  world host tcp/443
      no  cluster host tcp/22
      no  device:chateau host tcp/22
      no  world host udp/51820
      yes home gateway tcp/443
      yes management gateway tcp/443
      yes tunnel gateway tcp/443
      yes world gateway tcp/443
      no  hello/web device:models tcp/11434
      no  hello/web home tcp/80
      no  kube-system/metrics-server device:chateau tcp/443`,
  },
  pitower: {
    'Talos: its own ports, and the desk': `
      yes device:desk host tcp/50000
      yes device:desk rpi4-4 tcp/50000
      yes device:desk host tcp/6443
      no  device:desk host tcp/22
      no  device:desk host tcp/10250
      no  lan host tcp/50000
      no  lan host tcp/6443
      no  world host tcp/50000
      no  lan host tcp/2379
      yes rpi4-1 host tcp/50001
      yes host rpi4-1 tcp/50000
      no  host rpi4-1 tcp/50001
      yes am06-2 host tcp/2380
      yes lan gateway tcp/443
      yes world gateway tcp/443
      no  10.66.0.2 gateway tcp/443
      no  hello/web device:synology tcp/2049
      yes kube-system/coredns device:home-router udp/53
      no  kube-system/coredns device:synology udp/53`,
  },
  'k3s-vault': {
    'the tunnel leads to servers only, the desk to all': `
      yes tunnel host tcp/22
      yes tunnel pi-s3 tcp/6443
      no  tunnel pi-w1 tcp/22
      no  tunnel vm-w3 tcp/443
      yes device:desk pi-w1 tcp/22
      yes device:desk vm-w3 tcp/10250
      no  private pi-w1 tcp/22
      no  public host tcp/6443
      no  device:truenas host tcp/22
      yes private gateway tcp/443
      yes cert-manager/cert-manager api.digitalocean.com tcp/443
      no  cert-manager/cert-manager api.cloudflare.com tcp/443
      no  hello/web device:truenas tcp/2049`,
  },
}

let flows = 0
for (const [name, reasons] of Object.entries(table))
  describe(`who may talk to whom in ${name}`, () => {
    const { site, manifests, known } = clusterOf(name)
    for (const [why, lines] of Object.entries(reasons))
      test(why, () => {
        const wrong = lines
          .trim()
          .split('\n')
          .flatMap((line) => {
            flows++
            const [wanted, from = '', to = '', port = '', query] = line.trim().split(/ +/)
            const [source, target] = [endpointOf(site, known, from), endpointOf(site, known, to)]
            const flow = { from: source, to: target, port, ...(query === undefined ? {} : { query }) }
            const { allowed, egress, ingress } = judge(manifests, known, flow)
            return allowed === (wanted === 'yes') ? [] : [`${line.trim()}: ${egress.by}, ${ingress.by}`]
          })
        assert.deepEqual(wrong, [])
      })
  })

test('at least 150 flows are written by hand', () => assert.ok(flows >= 150, `${flows}`))

/** What a word of router.never means on the map; nothing for what is not part of it. */
function meant({ site, known }: Cluster, word: string, way: 'from' | 'to'): Endpoint[] {
  if (word === 'pods') return known.filter(({ kind }) => kind === 'pod')
  const network = site.networks.find(({ name }) => name === word)?.network
  const nodes = known.filter(({ kind }) => kind === 'node')
  const there = nodes.filter((one) => network !== undefined && inside(network, one.address ?? ''))
  if (word === 'nodes') return nodes
  if (there.length > 0 && way === 'to') return there
  if (word === 'router')
    return site.tunnel.at === site.machines.find(isNode)?.name ? known.filter(({ here }) => here) : []
  if (word === 'internet') return known.filter(({ name }) => name === 'world')
  if (word === 'upstream') return [address('192.168.1.20'), address('172.16.9.9')]
  return known.filter(({ name }) => name === word)
}

for (const name of clusters)
  test(`what router.never of ${name} forbids, the policies do not allow`, () => {
    const cluster = clusterOf(name)
    const ends = (words: string | string[], way: 'from' | 'to') =>
      [words].flat().flatMap((word) => meant(cluster, word, way))
    const some = ['tcp/22', 'udp/53', 'tcp/443', 'tcp/6443', 'tcp/10250', 'tcp/8080']
    const flows = cluster.site.router.never.flatMap(({ from, to, ports = 'any' }) =>
      ends(from, 'from').flatMap((source) =>
        ends(to, 'to').flatMap((target) =>
          (ports === 'any' ? some : ports).map((port) => ({ from: source, to: target, port })),
        ),
      ),
    )
    // What leaves a node, and what is between others, is the affair of other firewalls.
    const ours = flows.filter(
      ({ from, to }) => from.kind === 'pod' || (from.kind === 'address' && to.kind !== 'address'),
    )
    assert.ok(ours.length > 0)
    const open = ours.filter((flow) => judge(cluster.manifests, cluster.known, flow).allowed)
    assert.deepEqual(
      open.map(({ from, to, port }) => `${from.name} → ${to.name} ${port}`),
      [],
    )
  })

// How the language is read

const pod = (name: string, labels: Record<string, string> = {}): Endpoint => ({
  name,
  kind: 'pod',
  labels: {
    'k8s:io.kubernetes.pod.namespace': name.split('/')[0] ?? '',
    'k8s:app': name.split('/')[1] ?? '',
    ...labels,
  },
  ports: [],
})
const [web, db, other] = [pod('shop/web'), pod('shop/db'), pod('other/web')]

/** A policy of a namespace, or for the whole cluster. */
const policy = (spec: Spec, namespace?: string): Manifest => ({
  component: 'try',
  policy: {
    apiVersion: 'cilium.io/v2',
    kind: namespace === undefined ? 'CiliumClusterwideNetworkPolicy' : 'CiliumNetworkPolicy',
    metadata: { name: 'try', ...(namespace === undefined ? {} : { namespace }) },
    spec,
  } as Policy,
  placeOf: () => ({ at: 'try.yaml:1' }),
})
const asked = (manifests: Manifest[], from: Endpoint, to: Endpoint, port = 'tcp/80'): boolean =>
  judge(manifests, [from, to], { from, to, port }).allowed

test('a selector of a namespaced policy means that namespace, for both ends', () => {
  const only = [
    policy(
      {
        endpointSelector: { matchLabels: { app: 'db' } },
        ingress: [{ fromEndpoints: [{ matchLabels: { app: 'web' } }] }],
      },
      'shop',
    ),
  ]
  assert.deepEqual(
    [asked(only, web, db), asked(only, other, db), asked(only, other, web)],
    [true, false, true],
  )
  const named = { matchLabels: { app: 'web', 'k8s:io.kubernetes.pod.namespace': 'other' } }
  const across = [policy({ endpointSelector: {}, ingress: [{ fromEndpoints: [named] }] }, 'shop')]
  assert.deepEqual([asked(across, web, db), asked(across, other, db)], [false, true])
})

test('{} of a policy for the cluster means pods of any namespace, and neither the Gateway nor the world', () => {
  const all = [
    policy({ endpointSelector: { matchLabels: { app: 'db' } }, ingress: [{ fromEndpoints: [{}] }] }),
  ]
  const gateway: Endpoint = { name: 'gateway', kind: 'gateway', labels: {}, ports: [] }
  assert.deepEqual(
    [asked(all, other, db), asked(all, gateway, db), asked(all, address('198.51.100.1'), db)],
    [true, false, false],
  )
})

test('an empty rule lets nobody through; a rule with ports alone lets everybody through on them', () => {
  assert.equal(asked([policy({ endpointSelector: {}, ingress: [{}] }, 'shop')], web, db), false)
  const ports = [
    policy(
      {
        endpointSelector: {},
        ingress: [{ toPorts: [{ ports: [{ port: '80', endPort: 90, protocol: 'TCP' }] }] }],
      },
      'shop',
    ),
  ]
  assert.deepEqual(
    ['tcp/79', 'tcp/80', 'tcp/90', 'tcp/91', 'udp/80', 'icmp/80'].map((port) =>
      asked(ports, other, db, port),
    ),
    [false, true, true, false, false, false],
  )
})

test('a deny wins over every allow; without enableDefaultDeny it denies the rest, too', () => {
  const allow = policy({ endpointSelector: {}, ingress: [{ fromEntities: ['all'] }] }, 'shop')
  const deny = policy(
    { endpointSelector: {}, ingressDeny: [{ fromEndpoints: [{ matchLabels: { app: 'web' } }] }] },
    'shop',
  )
  assert.deepEqual(
    [asked([allow], web, db), asked([allow, deny], web, db), asked([deny, allow], web, db)],
    [true, false, false],
  )
  assert.equal(asked([deny], other, db), false)
  const mild = policy({ ...deny.policy.spec, enableDefaultDeny: { ingress: false } }, 'shop')
  assert.deepEqual([asked([mild], other, db), asked([mild], web, db)], [true, false])
})

test('a node reaches its own pods, whatever is allowed, and not those of other nodes; a deny counts', () => {
  const closed = policy({ endpointSelector: {}, ingress: [{}] }, 'shop')
  const host: Endpoint = { name: 'host', kind: 'node', labels: {}, here: true, ports: [] }
  const remote: Endpoint = { name: 'two', kind: 'node', labels: {}, ports: [] }
  assert.deepEqual([asked([closed], host, db), asked([closed], remote, db)], [true, false])
  const never = policy({ endpointSelector: {}, ingressDeny: [{ fromEntities: ['host'] }] }, 'shop')
  assert.equal(asked([closed, never], host, db), false)
})

test('the first node is known by its own name, too', () => {
  const { site, known } = clusterOf('zengarden')
  const host = known.find(({ here }) => here)!
  assert.equal(endpointOf(site, known, host.host!), host)
})

test('a node is selected by its role and by labels of its own, and not by its name: Cilium leaves that label out', () => {
  const { known } = clusterOf('k3s-vault')
  const node = known.find(({ name }) => name === 'vm-w3')!
  const from = address('198.51.100.1')
  const closed = (matchLabels: Record<string, string>) =>
    !asked([policy({ nodeSelector: { matchLabels }, ingress: [{}] })], from, node)
  assert.deepEqual(
    [
      closed({}),
      closed({ gpu: 'nvidia' }),
      closed({ gpu: 'amd' }),
      closed({ 'kubernetes.io/hostname': 'vm-w3' }),
    ],
    [true, true, false, false],
  )
  const server = known.find(({ here }) => here)!
  const role = {
    matchExpressions: [{ key: 'node-role.kubernetes.io/control-plane', operator: 'Exists' as const }],
  }
  const servers = [policy({ nodeSelector: role, ingress: [{}] })]
  assert.deepEqual([asked(servers, from, server), asked(servers, from, node)], [false, true])
})

test('rules with addresses are about neither pods nor nodes', () => {
  const node: Endpoint = { name: 'two', kind: 'node', labels: {}, address: '192.0.2.7', ports: [] }
  const some = [
    policy(
      {
        endpointSelector: {},
        egress: [{ toCIDRSet: [{ cidr: '192.0.2.0/24', except: ['192.0.2.128/25'] }] }],
      },
      'shop',
    ),
  ]
  assert.deepEqual(
    [
      asked(some, web, address('192.0.2.9')),
      asked(some, web, address('192.0.2.200')),
      asked(some, web, node),
    ],
    [true, false, false],
  )
})

test('names: * is part of one label, **. any number of labels, * alone everything', () => {
  const says = (matchPattern: string, name: string) => nameMatches({ matchPattern }, name)
  assert.deepEqual(
    [
      says('*.example.com', 'www.example.com'),
      says('*.example.com', 'a.www.example.com'),
      says('*.example.com', 'example.com'),
      says('**.example.com', 'a.www.example.com'),
      says('**.example.com', 'example.com'),
      says('**.example.com', 'www.EXAMPLE.com.'),
      says('w*.example.com', 'www.example.com'),
      says('*', 'anything.at.all'),
      says('www.example.com', 'wwwxexample.com'),
    ],
    [true, false, false, true, false, true, true, true, false],
  )
  assert.equal(nameMatches({ matchName: 'www.example.com' }, 'WWW.example.com.'), true)
  assert.equal(nameMatches({ matchName: 'www.example.com' }, 'example.com'), false)
})

test('a rule without a list of names opens what another one with a list would close', () => {
  const dns = pod('kube-system/coredns', { 'k8s:k8s-app': 'kube-dns' })
  const to = { toEndpoints: [{ matchLabels: { 'io.kubernetes.pod.namespace': 'kube-system' } }] }
  const ports = [{ port: '53', protocol: 'UDP' }]
  const list = policy(
    {
      endpointSelector: {},
      egress: [{ ...to, toPorts: [{ ports, rules: { dns: [{ matchName: 'a.example' }] } }] }],
    },
    'shop',
  )
  const free = policy({ endpointSelector: {}, egress: [{ ...to, toPorts: [{ ports }] }] }, 'shop')
  const query = (manifests: Manifest[], name: string) =>
    judge(manifests, [web, dns], { from: web, to: dns, port: 'udp/53', query: name }).allowed
  assert.deepEqual(
    [query([list], 'a.example'), query([list], 'b.example'), query([list, free], 'b.example')],
    [true, false, true],
  )
})

// Commands

const run = (command: typeof may | typeof map, ...argv: string[]): { code: number; text: string } => {
  let text = ''
  const code = command({ name: command === may ? 'may' : 'map', argv }, (said) => void (text += said))
  return { code, text }
}

test('may says yes or no, and which line of which file says so', () => {
  const yes = run(may, 'gateway', 'hello/web:8080', '--site', 'fortress')
  assert.equal(yes.code, 0)
  assert.match(yes.text, /^Yes: gateway may open a connection to hello\/web on tcp\/8080\.\n/)
  assert.match(yes.text, /receiving +yes +hello\/web +config\/components\/hello\/policies\.yaml:\d+/)
  const no = run(may, 'hello/web', 'world:443', '--site', 'fortress')
  assert.equal(no.code, 1)
  assert.match(no.text, /sending +no +pods-default-deny +config\/components\/cilium\/policies\.yaml:\d+/)
  const tunnel = run(may, 'tunnel', 'api:6443', '--site', 'fortress')
  assert.match(tunnel.text, /site-servers .*\(router\.allow\[1\]: SSH, the gateway, the API\)/)
})

test('may names a name that cannot be looked up, and what a private address behind one would meet', () => {
  const no = run(may, 'hello/web', 'www.example.net:443', '--site', 'zengarden')
  assert.match(no.text, /its name +no +pods-names/)
  const yes = run(may, 'cert-manager/cert-manager', 'api.cloudflare.com:443', '--site', 'zengarden')
  assert.match(yes.text, /its name +yes[\s\S]*unless the name resolves to a private address: never-private/)
})

test('may gives one JSON document', () => {
  const { text } = run(may, 'hello/web', 'kube-system/coredns:udp/53', '--json', '--site', 'fortress')
  const { allowed, egress } = JSON.parse(text) as {
    allowed: boolean
    egress: { by: string; names: unknown[] }
  }
  assert.deepEqual(
    [allowed, egress.by, egress.names],
    [true, 'pods-names', [{ matchPattern: '**.cluster.local' }]],
  )
})

for (const [argv, wanted] of [
  [['hello/wep', 'world:443'], /'hello\/wep' is no workload of fortress; did you mean hello\/web\?/],
  [['hello/web', 'wrold:443'], /did you mean world\?/],
  [['hello/web', 'world'], /'world' has no port behind it/],
  [['hello/web', '10.42.0.7:443'], /10\.42\.0\.7 is an address inside of the cluster/],
  [['www.example.net', 'hello/web:80'], /is a name of the internet: who connects from there has an address/],
] as const)
  test(`may refuses ${argv.join(' ')}`, () =>
    assert.throws(
      () => run(may, ...argv, '--site', 'fortress'),
      (error: Error) => wanted.test(error.message),
    ))

test('may and map refuse a site without a cluster', () => {
  assert.throws(() => run(may, 'hello/web', 'world:443', '--site', 'lab'), /lab has no cluster/)
  assert.throws(() => run(map, '--site', 'lab'), /lab has no cluster/)
})

test('the map lists who may, and by which line; a graph and a picture hold the same', () => {
  const { text } = run(map, '--site', 'fortress')
  assert.match(
    text,
    /gateway +hello\/web +tcp\/8080\n +by gateway +config\/components\/cilium\/policies\.yaml:\d+\n/,
  )
  assert.doesNotMatch(text, /hello\/web +world/)
  assert.match(
    run(map, '--mermaid', '--site', 'fortress').text,
    /^flowchart LR\n[\s\S]*gateway -->\|"tcp\/8080"\| hello_web\n/,
  )
  const picture = run(map, '--svg', '--site', 'fortress').text
  assert.match(
    picture,
    /^<svg xmlns="http:\/\/www\.w3\.org\/2000\/svg"[\s\S]*<title>gateway → hello\/web[\s\S]*<\/svg>\n$/,
  )
  const entries = JSON.parse(run(map, '--json', '--site', 'fortress').text) as {
    from: string
    to: string
    ports: string[]
  }[]
  assert.deepEqual(entries.find(({ from, to }) => from === 'gateway' && to === 'hello/web')?.ports, [
    'tcp/8080',
  ])
  assert.equal(picture.match(/<g>/g)?.length, entries.length)
  assert.throws(() => run(map, '--svg', '--json', '--site', 'fortress'), /map takes one of/)
})

test('what no page installs yet is known, and every component of fortress with policies has a page', () => {
  const { manifests } = clusterOf('fortress')
  const without = new Map([...catalogue()].map(([name, one]) => [name, { ...one, built: name !== 'hello' }]))
  assert.deepEqual(notInstalled(manifests, without), ['hello'])
  assert.deepEqual(notInstalled(manifests, catalogue()), [])
})
