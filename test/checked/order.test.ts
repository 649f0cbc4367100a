// Network policies as 31-network-policies applies them, one by one, beside Cilium's own policy code: what a cluster lives by is
// allowed behind each of them, from none at all to the last.
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { type Manifest, letsIn, nameOf, textOf, withCluster } from '../../lib/component/policies.ts'
import { clusterOf, clusters } from '../component/clusters.ts'
import { type Endpoint, type Flow, judge, withoutOracle } from '../oracle/cilium/oracle.ts'

const role = { 'node-role.kubernetes.io/control-plane': 'true' }
const ends = (laptop: string): Endpoint[] => [
  { name: 'server', reserved: ['host', 'kube-apiserver'], labels: role },
  { name: 'other-server', reserved: ['remote-node', 'kube-apiserver'] },
  { name: 'agent', reserved: ['remote-node'] },
  { name: 'laptop', reserved: ['world'], address: laptop },
  { name: 'dns', namespace: 'kube-system', labels: { 'k8s-app': 'kube-dns' } },
  { name: 'metrics', namespace: 'kube-system', labels: { 'k8s-app': 'metrics-server' } },
  { name: 'relay', namespace: 'cilium', labels: { 'k8s-app': 'hubble-relay' } },
  { name: 'web', namespace: 'shop', labels: { app: 'web' } },
]

/** From, to, ports: what has to answer at any time, so that nothing waits for what waits for it. */
const vital = [
  ['shop/web', 'kube-system/dns', '53/UDP', '53/TCP'],
  ['cilium/relay', 'kube-system/dns', '53/UDP'],
  ['server', 'kube-system/dns', '8080/TCP', '8181/TCP'], // probes of the kubelet
  ['server', 'kube-system/metrics', '10250/TCP'],
  ['kube-system/dns', 'server', '6443/TCP'],
  ['kube-system/metrics', 'server', '6443/TCP', '10250/TCP'],
  ['kube-system/metrics', 'agent', '10250/TCP'],
  ['cilium/relay', 'server', '4244/TCP'],
  ['other-server', 'server', '2379/TCP', '2380/TCP', '6443/TCP', '10250/TCP', '8472/UDP'],
  ['agent', 'server', '6443/TCP', '8472/UDP'],
  ['laptop', 'server', '6443/TCP', '22/TCP'],
]

function flows(): Flow[] {
  return vital.flatMap(([from = '', to = '', ...ports]) =>
    ports.map((port) => {
      const [number, protocol] = port.split('/')
      return { from, to, port: Number(number), protocol: protocol as Flow['protocol'] }
    }),
  )
}

/** Which of these flows is denied behind which policy. */
function denied(policies: readonly Manifest[], laptop: string, asked: Flow[]): string[] {
  return [...policies.keys(), policies.length].flatMap((count) => {
    const text = policies.slice(0, count).map((one) => textOf(one, 'policies'))
    const answer = judge({ policies: text.join('---\n'), endpoints: ends(laptop), flows: asked })
    assert.deepEqual(answer.invalid, [])
    const behind = count === 0 ? 'none' : nameOf(policies[count - 1]!.policy)
    return answer.flows
      .filter(({ verdict }) => verdict === 'denied')
      .map(({ from, to, port, protocol }) => `behind ${behind}: ${from} → ${to} ${port}/${protocol}`)
  })
}

describe('policies that are applied one by one leave a cluster that answers', { skip: withoutOracle }, () => {
  for (const name of clusters) {
    const { site, manifests } = clusterOf(name)
    const applied = manifests.filter(({ component }) => withCluster.includes(component))
    const [{ address: laptop } = { address: '192.0.2.7' }] = site.tunnel.peers
    // Not every site lets the laptop log in on a server, its host does; and not every one has a laptop in a tunnel.
    const asked = flows().filter(({ from, port }) => from !== 'laptop' || letsIn(manifests, laptop, port))
    test(`in ${name}, behind each of ${applied.length}, and before the first`, () => {
      if (site.tunnel.peers.length > 0)
        assert.ok(asked.some(({ from, port }) => from === 'laptop' && port === 6443))
      assert.deepEqual(denied(applied, laptop, asked), [])
    })
  }

  test('and it would be seen if they did not', () => {
    const { site, manifests } = clusterOf('fortress')
    const laptop = site.tunnel.peers[0]!.address
    const reversed = denied(manifests.toReversed(), laptop, flows())
    assert.ok(reversed.some((line) => / laptop → server 6443/.test(line)))
    assert.ok(reversed.some((line) => / kube-system\/dns → server 6443/.test(line)))
    const closed = denied(manifests, laptop, [
      { from: 'shop/web', to: 'server', port: 6443, protocol: 'TCP' },
    ])
    assert.match(closed.at(-1) ?? '', /^behind nodes-default-deny/)
  })
})
