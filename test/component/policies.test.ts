// Network policies of shipped sites: what is rendered, in which order it can be applied, and that nothing in it is there for nothing.
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { type Endpoint, type Flow, judge } from '../../lib/component/policymap.ts'
import { type Manifest, letsIn, nameOf, policiesFor, specsOf, textOf } from '../../lib/component/policies.ts'
import { catalogue } from '../../lib/site/catalogue.ts'
import { siteOf } from '../sites.ts'
import {
  type Cluster,
  address,
  clusterOf,
  clusters,
  flowsOf,
  isAllowed,
  placesOf,
  withoutRule,
} from './clusters.ts'

const named = (manifests: Manifest[], name: string): Manifest => {
  const found = manifests.find(({ policy }) => nameOf(policy) === name)
  assert.ok(found, name)
  return found
}

/** The flows that the whole list allows and some first part of it does not. */
function brokenOnTheWay({ known, manifests }: Pick<Cluster, 'known' | 'manifests'>, flows: Flow[]): string[] {
  const allowed = flows.filter((flow) => isAllowed(manifests, known, flow))
  assert.ok(allowed.length > 50)
  return manifests.flatMap((manifest, i) => {
    const part = manifests.slice(0, i + 1)
    return allowed
      .filter((flow) => !isAllowed(part, known, flow))
      .map(({ from, to, port }) => `after ${nameOf(manifest.policy)}: ${from.name} → ${to.name} ${port}`)
  })
}

for (const name of clusters)
  describe(`the network policies of ${name}`, () => {
    const cluster = clusterOf(name)
    // Two servers and an agent stand for all nodes.
    const nodes = cluster.known.filter(({ kind }) => kind === 'node')
    const few = new Set([...nodes.slice(0, 2), ...nodes.slice(-1)])
    const flows = flowsOf({
      ...cluster,
      known: cluster.known.filter((one) => one.kind !== 'node' || few.has(one)),
    })

    test('are the same bytes each time, and hold no value that nobody filled in', () => {
      const texts = () =>
        policiesFor(siteOf(name), catalogue()).map((manifest) => textOf(manifest, 'policies'))
      assert.deepEqual(texts(), texts())
      assert.doesNotMatch(texts().join(), /\{\{|undefined|null/)
    })

    test('have a name of their own each', () => {
      const names = cluster.manifests.map(({ policy }) => nameOf(policy))
      assert.deepEqual(names, [...new Set(names)])
    })

    test('can be applied one by one: what all allow, every first part allows', () => {
      assert.deepEqual(brokenOnTheWay(cluster, flows), [])
    })

    test('would break a cluster in another order', () => {
      const broken = (manifests: Manifest[]) => brokenOnTheWay({ ...cluster, manifests }, flows)
      assert.notDeepEqual(broken(cluster.manifests.toReversed()), [])
      const last = cluster.manifests.at(-1)!
      assert.notDeepEqual(broken([last, ...cluster.manifests.slice(0, -1)]), [])
    })

    test('leave no rule between two ports of the Gateway: the deny for pods selects neither it nor the health endpoint', () => {
      const deny = named(cluster.manifests, 'pods-default-deny')
      for (const kind of ['gateway', 'health'] as const) {
        const subject = cluster.known.find((one) => one.kind === kind)!
        const pod = cluster.known[0]!
        assert.equal(
          judge([deny], cluster.known, { from: subject, to: address('198.51.100.9'), port: 'tcp/1' }).egress
            .by,
          'no policy selects it',
        )
        assert.equal(
          judge([deny], cluster.known, { from: pod, to: subject, port: 'tcp/1' }).ingress.by,
          'no policy selects it',
        )
      }
    })

    test('say where each of their rules is written', () => {
      for (const { manifest, rule } of placesOf(cluster.manifests))
        assert.match(manifest.placeOf(rule).at, /^config\/components\/[a-z-]+\/policies\.yaml:\d+$/)
    })
  })

test('a deny that asks for no namespace would cut the Gateway off', () => {
  const { manifests, known } = clusterOf('fortress')
  const text = JSON.stringify(named(manifests, 'pods-default-deny').policy)
  const policy = JSON.parse(
    text.replace('"operator":"Exists"', '"operator":"NotIn","values":["kube-system"]'),
  ) as Manifest['policy']
  const planted = [...manifests, { ...manifests[0]!, policy }]
  const gateway = known.find(({ kind }) => kind === 'gateway')!
  const health = known.find(({ kind }) => kind === 'health')!
  const side = judge(planted, known, { from: health, to: address('198.51.100.9'), port: 'tcp/1' }).egress
  assert.deepEqual([side.allowed, side.by], [false, 'pods-default-deny'])
  assert.equal(
    judge([{ ...manifests[0]!, policy }], known, { from: gateway, to: known[0]!, port: 'tcp/1' }).egress
      .allowed,
    false,
  )
})

test('a site without a cluster has none', () => assert.deepEqual(policiesFor(siteOf('lab'), catalogue()), []))

test('a provider of names whose API is not known is refused by name', () => {
  const site = siteOf('zengarden')
  const odd = {
    ...site,
    components: { ...site.components, certificates: { use: 'cert-manager', dns01: 'nobody' } },
  }
  assert.throws(() => policiesFor(odd, catalogue()), /the API of nobody is not known/)
})

test('a component that another one was chosen for has no policies', () => {
  const site = siteOf('fortress')
  const other = { ...site, components: { ...site.components, certificates: 'none' } }
  const components = new Set(policiesFor(other, catalogue()).map(({ component }) => component))
  assert.deepEqual([...components].sort(), ['cilium', 'coredns', 'hello', 'kyverno', 'metrics-server'])
})

describe('pages apply the policies of a component before it is there', () => {
  for (const name of clusters)
    test(`${name}: without the later ones, what is there already keeps all that it has`, () => {
      const cluster = clusterOf(name)
      const later = ['cert-manager', 'hello']
      const first = cluster.manifests.filter(({ component }) => !later.includes(component))
      const rest = cluster.manifests.filter(({ component }) => later.includes(component))
      const early = (one: Endpoint) => !/^(cert-manager|hello)\//.test(one.name)
      const flows = flowsOf({ ...cluster, known: cluster.known.filter(early) })
      assert.deepEqual(brokenOnTheWay({ known: cluster.known, manifests: [...first, ...rest] }, flows), [])
    })
})

/** Addresses that rules name, so that a flow can be about each. */
const addressesIn = ({ manifests }: Cluster): Endpoint[] =>
  [
    ...new Set(
      placesOf(manifests).flatMap(({ rule: { fromCIDRSet = [], toCIDRSet = [] } }) =>
        [...fromCIDRSet, ...toCIDRSet].map(({ cidr }) =>
          cidr === '0.0.0.0/0' ? '198.51.100.3' : cidr.replace(/\/.*/, ''),
        ),
      ),
    ),
  ].map((one) => address(one))

describe('each rule that allows is needed: without it a flow is denied that only it lets through', () => {
  const needed = new Map<string, string>()
  const all = new Map<string, string>()
  for (const name of clusters) {
    const cluster = clusterOf(name)
    const flows = flowsOf(cluster, addressesIn(cluster))
    const judged = flows.map((flow) => ({ flow, verdict: judge(cluster.manifests, cluster.known, flow) }))
    const allowed = judged.filter(({ verdict }) => verdict.egress.allowed && verdict.ingress.allowed)
    for (const place of placesOf(cluster.manifests).filter(({ section }) => !section.endsWith('Deny'))) {
      const { at, why = '' } = place.manifest.placeOf(place.rule)
      const key = `${nameOf(place.manifest.policy)} ${at} ${why}`
      all.set(key, name)
      const without = withoutRule(cluster.manifests, place)
      const likely = allowed.filter(({ verdict }) => [verdict.egress.at, verdict.ingress.at].includes(at))
      const lost = likely.find(({ flow }) => !isAllowed(without, cluster.known, flow))
      if (lost)
        needed.set(
          key,
          `${lost.flow.from.name} → ${lost.flow.to.name} ${lost.flow.port} ${lost.flow.query ?? ''}`,
        )
    }
  }
  for (const [key, site] of all)
    test(key.trim(), () => assert.ok(needed.has(key), `of ${site} and the others, nothing needs it`))
})

describe('each deny is needed: without it a flow gets through that nothing else stops', () => {
  const cluster = clusterOf('fortress')
  /** What a person may add: a pod that may reach all the world. */
  const open = (namespace: string): Manifest => ({
    ...cluster.manifests[0]!,
    policy: {
      apiVersion: 'cilium.io/v2',
      kind: 'CiliumNetworkPolicy',
      metadata: { name: 'open', namespace },
      spec: { endpointSelector: {}, egress: [{ toEntities: ['world'] }] },
    },
  })
  const pod = (namespace: string): Endpoint => ({
    name: `${namespace}/open`,
    kind: 'pod',
    labels: { 'k8s:io.kubernetes.pod.namespace': namespace, 'k8s:app': 'open' },
    ports: ['tcp/80'],
  })
  const manifests = [...cluster.manifests, open('shop'), open('kube-system')]
  const known = [...cluster.known, pod('shop'), pod('kube-system')]
  const targets = ['169.254.169.254', '192.168.1.1', '10.77.0.1', '10.66.0.2', '172.20.1.1', '100.64.0.1']
  const flows = [
    ...known.flatMap((from) => targets.map((to): Flow => ({ from, to: address(to), port: 'udp/53' }))),
    ...known.map((from): Flow => ({
      from,
      to: address('192.168.1.1', 'acme-v02.api.letsencrypt.org'),
      port: 'tcp/443',
    })),
  ]
  for (const place of placesOf(manifests).filter(({ section }) => section.endsWith('Deny')))
    test(`${nameOf(place.manifest.policy)} ${place.manifest.placeOf(place.rule).at}`, () => {
      const without = withoutRule(manifests, place)
      assert.ok(flows.some((flow) => !isAllowed(manifests, known, flow) && isAllowed(without, known, flow)))
    })

  for (const name of ['pods-default-deny', 'nodes-default-deny'])
    test(name, () => {
      const without = cluster.manifests.filter(({ policy }) => nameOf(policy) !== name)
      const all = flowsOf(cluster)
      assert.ok(
        all.some((flow) => !isAllowed(cluster.manifests, known, flow) && isAllowed(without, known, flow)),
      )
    })

  test('a pod that may reach the world reaches it, and neither the metadata of a cloud nor any private network', () => {
    for (const from of [pod('shop'), pod('kube-system')]) {
      assert.equal(isAllowed(manifests, known, { from, to: address('198.51.100.7'), port: 'tcp/443' }), true)
      for (const to of targets)
        assert.equal(isAllowed(manifests, known, { from, to: address(to), port: 'tcp/443' }), false, to)
    }
  })

  test('a name that resolves to a private address leads nowhere', () => {
    const { manifests: found, known: all } = clusterOf('zengarden')
    const from = all.find(({ name }) => name === 'cert-manager/cert-manager')!
    const to = (at: string) => address(at, 'acme-v02.api.letsencrypt.org')
    assert.equal(isAllowed(found, all, { from, to: to('198.51.100.7'), port: 'tcp/443' }), true)
    assert.equal(isAllowed(found, all, { from, to: to('192.168.88.20'), port: 'tcp/443' }), false)
  })
})

test('what a line of router.allow opens to the nodes in a private network, the deny for pods leaves out', () => {
  const policy = named(clusterOf('zengarden').manifests, 'never-private').policy
  const holes = specsOf(policy).flatMap(({ egressDeny = [] }) =>
    egressDeny.flatMap(({ toCIDRSet = [] }) => toCIDRSet.flatMap(({ except = [] }) => except)),
  )
  assert.ok(holes.includes('192.168.88.15/32'), 'the model server')
  assert.ok(!holes.some((hole) => hole.startsWith('192.168.88.0')), 'not the network that it is in')
})

test('policies that would cut the laptop off from the API are seen before they are applied', () => {
  for (const name of clusters) {
    const { manifests, site } = clusterOf(name)
    const [laptop] = site.tunnel.peers
    if (laptop) assert.ok(letsIn(manifests, laptop.address, 6443), name)
  }
  const { manifests } = clusterOf('fortress')
  assert.ok(!letsIn(manifests, '10.66.0.2', 9345))
  assert.ok(!letsIn(manifests, '192.0.2.7', 6443))
})
