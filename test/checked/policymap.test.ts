// The policy map beside Cilium's own policy code, for every two ends of every shipped site on every port: both directions agree, and
// so do the names of the policies.
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { type Endpoint, type Flow, type Side, judge } from '../../lib/component/policymap.ts'
import { type Manifest, nameOf, textOf } from '../../lib/component/policies.ts'
import * as oracle from '../oracle/cilium/oracle.ts'
import { type Cluster, address, clusterOf, clusters, flowsOf } from '../component/clusters.ts'

/** How the oracle calls an endpoint, seen from the node `here`: only its own host has a firewall that it judges. */
function described(one: Endpoint, here: Endpoint): oracle.Endpoint {
  const plain = Object.fromEntries(
    Object.entries(one.labels).map(([key, value]) => [key.replace(/^k8s:/, ''), value]),
  )
  if (one.kind === 'pod') {
    const { 'io.kubernetes.pod.namespace': namespace = '', ...rest } = plain
    // Those of its namespace are given apart: the oracle gives them this prefix itself, as the agent does.
    const prefix = 'io.cilium.k8s.namespace.labels.'
    const of = (inherited: boolean) =>
      Object.entries(rest).filter(([key]) => key.startsWith(prefix) === inherited)
    const namespaceLabels = Object.fromEntries(
      of(true).map(([key, value]) => [key.slice(prefix.length), value]),
    )
    return {
      name: one.name.split('/')[1] ?? '',
      namespace,
      labels: Object.fromEntries(of(false)),
      namespaceLabels,
    }
  }
  if (one.kind === 'gateway') return { name: one.name, reserved: ['ingress'] }
  if (one.kind === 'health') return { name: one.name, reserved: ['health'] }
  if (one.kind === 'node') {
    const api = one.server ? (['kube-apiserver'] as const) : []
    if (one.name === here.name) return { name: one.name, reserved: ['host', ...api], labels: plain }
    return { name: one.name, reserved: ['remote-node', ...api] }
  }
  return {
    name: one.name,
    reserved: ['world'],
    ...(one.address === undefined ? {} : { address: one.address }),
    ...(one.kind === 'name' ? { dns: [one.name] } : {}),
  }
}

/** Of nodes that the oracle cannot tell apart only the first stays: this host, a server elsewhere, an agent elsewhere. */
const distinct = (all: Endpoint[], here: Endpoint): Endpoint[] =>
  all.filter((one, i) => {
    if (one.kind !== 'node' || one.name === here.name) return true
    return (
      all.findIndex(
        (other) => other.kind === 'node' && other.name !== here.name && other.server === one.server,
      ) === i
    )
  })

const ports = ({ port }: Flow): Pick<oracle.Flow, 'port' | 'protocol'> => {
  const [protocol = '', number] = port.split('/')
  return { protocol: protocol.toUpperCase() as oracle.Flow['protocol'], port: Number(number) }
}

/** Every difference between the two, as seen from one node: pods are on it. */
function differences(
  { manifests, told = manifests }: Pick<Cluster, 'manifests'> & { told?: Manifest[] },
  all: Endpoint[],
  here: Endpoint,
  flows: Flow[],
): string[] {
  const known = distinct(all, here).map((one) =>
    one.kind === 'node' ? { ...one, here: one.name === here.name } : one,
  )
  const of = (one: Endpoint) => known.find(({ name }) => name === one.name)
  const mine = flows.flatMap(({ from, to, port, query }): Flow[] => {
    const [source, target] = [of(from), of(to)]
    return query === undefined && source && target ? [{ from: source, to: target, port }] : []
  })
  assert.ok(mine.length > 0)
  const answer = oracle.judge({
    policies: told.map((one) => textOf(one, 'map')).join('---\n'),
    endpoints: known.map((one) => described(one, here)),
    flows: mine.map((flow) => ({ from: flow.from.name, to: flow.to.name, ...ports(flow) })),
  })
  assert.deepEqual(answer.invalid, [])
  const kinds = new Map(manifests.map(({ policy }) => [nameOf(policy), `${policy.kind} ${nameOf(policy)}`]))
  return mine.flatMap((flow, i) => {
    const judged = answer.flows[i]!
    const verdict = judge(manifests, known, flow)
    return (['egress', 'ingress'] as const).flatMap((way) => {
      const [ours, theirs]: [Side, oracle.Side] = [verdict[way], judged[way]]
      // Another node's firewall is judged when it is the turn of that node.
      if (theirs.reason === 'not judged') return []
      const same = ours.allowed === (theirs.verdict === 'allowed')
      const names = [ours.by, ...(ours.also ?? [])].flatMap((one) => kinds.get(one) ?? [])
      const by = names.length === 0 ? theirs.reason !== 'rule' : theirs.by.some((one) => names.includes(one))
      const text = `${flow.from.name} → ${flow.to.name} ${flow.port}, ${way}`
      return same && by
        ? []
        : [
            `${text}: here ${ours.allowed} (${ours.by}), Cilium ${theirs.verdict} (${theirs.reason} ${theirs.by.join(', ')})`,
          ]
    })
  })
}

/** Addresses at both ends of what the rules name, and beside them. */
const edges = [
  '10.66.0.0',
  '10.66.0.255',
  '10.66.1.0',
  '10.77.0.1',
  '10.77.0.3',
  '100.63.255.255',
  '100.64.0.0',
  '172.15.255.255',
]
  .concat([
    '172.16.0.0',
    '192.167.255.255',
    '192.168.255.255',
    '169.254.0.1',
    '223.255.255.255',
    '224.0.0.1',
    '192.168.42.30',
  ])
  .map((one) => address(one))

/** Everybody of a site, and addresses at the edges of what rules name. */
function everybody({ known }: Cluster): Endpoint[] {
  const taken = new Set(known.map((one) => one.address))
  return [
    ...known.filter(({ kind }) => kind !== 'name'),
    // Cilium has one identity for an address, whatever its names are.
    ...known
      .filter(({ kind }) => kind === 'name')
      .map((one, i) => ({ ...one, address: `198.51.100.${10 + i}` })),
    ...edges.filter((one) => !taken.has(one.address)),
  ]
}

describe("the policy map says what Cilium's own code says", { skip: oracle.withoutOracle }, () => {
  for (const name of clusters) {
    const cluster = clusterOf(name)
    const all = everybody(cluster)
    const flows = flowsOf({ ...cluster, known: all })
    const nodes = cluster.known.filter(({ kind }) => kind === 'node')
    for (const here of new Set([...nodes.slice(0, 2), ...nodes.slice(-1)]))
      test(`${name}, seen from ${here.name}`, () =>
        assert.deepEqual(differences(cluster, all, here, flows).slice(0, 20), []))
  }

  const cluster = clusterOf('fortress')
  const all = everybody(cluster)
  const flows = flowsOf({ ...cluster, known: all })
  const host = cluster.known.find(({ here }) => here)!

  test('of every first part of the list, too', () => {
    for (const [i] of cluster.manifests.entries()) {
      const manifests = cluster.manifests.slice(0, i + 1)
      assert.deepEqual(differences({ manifests }, all, host, flows).slice(0, 20), [], `${i + 1} policies`)
    }
  })

  test('and it would be seen if it did not', () => {
    for (const left of ['gateway', 'hello/web', 'never-metadata', 'nodes-default-deny']) {
      const told = cluster.manifests.filter(({ policy }) => nameOf(policy) !== left)
      assert.notDeepEqual(differences({ ...cluster, told }, all, host, flows), [], left)
    }
  })
})
