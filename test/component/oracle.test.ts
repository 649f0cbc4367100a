// Cilium's own policy code, asked without a cluster: that it is asked as its agent would ask it.
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import {
  type Endpoint,
  type Flow,
  type Question,
  type Side,
  judge,
  withoutOracle,
} from '../oracle/cilium/oracle.ts'

const deny = (...expressions: string[]) => `
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: { name: default-deny }
spec:
  endpointSelector: { matchExpressions: [${expressions.join(', ')}] }
  ingress: [{}]
  egress:
    - toEndpoints: [{ matchLabels: { io.kubernetes.pod.namespace: kube-system, k8s-app: kube-dns } }]
      toPorts: [{ ports: [{ port: '53', protocol: UDP }], rules: { dns: [{ matchPattern: '*' }] } }]
`
const notSystem = '{ key: io.kubernetes.pod.namespace, operator: NotIn, values: [kube-system] }'
const pods = '{ key: io.kubernetes.pod.namespace, operator: Exists }'

const policies = `${deny(pods, notSystem)}
---
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: { name: host-firewall }
spec:
  nodeSelector: { matchLabels: { role: server } }
  ingress:
    - fromEntities: [cluster]
    - fromCIDR: [10.9.0.0/24]
      toPorts: [{ ports: [{ port: '22', protocol: TCP }] }]
    - icmps: [{ fields: [{ type: 8, family: IPv4 }] }]
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: { name: web, namespace: shop }
spec:
  endpointSelector: { matchLabels: { app: web } }
  ingress:
    - fromEntities: [ingress]
      toPorts: [{ ports: [{ port: http, protocol: TCP }] }]
  egress:
    - toEndpoints: [{ matchLabels: { app: db } }]
      toPorts: [{ ports: [{ port: sql, protocol: TCP }] }]
    - toEntities: [kube-apiserver]
      toPorts: [{ ports: [{ port: '6443', protocol: TCP }] }]
    - toFQDNs: [{ matchName: api.example }, { matchPattern: '*.cdn.example' }]
      toPorts: [{ ports: [{ port: '443', protocol: TCP }] }]
    - toCIDRSet: [{ cidr: 192.0.2.0/24, except: [192.0.2.128/25] }, { cidrGroupRef: partners }]
      toPorts: [{ ports: [{ port: '9000', endPort: 9010, protocol: TCP }] }]
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: { name: db, namespace: shop }
spec:
  endpointSelector: { matchLabels: { app: db } }
  ingress:
    - fromEndpoints: [{ matchLabels: { app: web } }]
      toPorts: [{ ports: [{ port: '5432', protocol: TCP }] }]
  ingressDeny:
    - fromEndpoints: [{ matchLabels: { tier: canary } }]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: jobs, namespace: batch }
spec:
  podSelector: { matchLabels: { pod-template-hash: abc } }
  policyTypes: [Ingress]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: metrics, namespace: kube-system }
spec:
  podSelector: { matchLabels: { app: metrics } }
  policyTypes: [Ingress]
  ingress:
    - from: [{ namespaceSelector: { matchLabels: { team: red } } }]
      ports: [{ port: 8080 }]
---
apiVersion: cilium.io/v2
kind: CiliumCIDRGroup
metadata: { name: partners }
spec: { externalCIDRs: [198.51.100.0/24] }
`

const endpoints: Endpoint[] = [
  { name: 'web', namespace: 'shop', labels: { app: 'web' }, ports: [tcp('http', 8080)] },
  { name: 'new', namespace: 'shop', labels: { app: 'web', tier: 'canary' } },
  { name: 'db', namespace: 'shop', labels: { app: 'db' }, ports: [tcp('sql', 5432)] },
  { name: 'web', namespace: 'other', labels: { app: 'web' }, namespaceLabels: { team: 'red' } },
  { name: 'dns', namespace: 'kube-system', labels: { 'k8s-app': 'kube-dns' } },
  { name: 'metrics', namespace: 'kube-system', labels: { app: 'metrics' } },
  { name: 'job', namespace: 'batch', labels: { 'pod-template-hash': 'abc' } },
  { name: 'node', reserved: ['host'], labels: { role: 'server' } },
  { name: 'peer', reserved: ['remote-node'] },
  { name: 'gateway', reserved: ['ingress'] },
  { name: 'health', reserved: ['health'] },
  { name: 'world', reserved: ['world'] },
  { name: 'api', reserved: ['kube-apiserver'], address: '10.9.0.5' },
  { name: 'admin', reserved: ['world'], address: '10.9.0.9' },
  { name: 'named', reserved: ['world'], address: '203.0.113.1', dns: ['API.example', 'other.example'] },
  { name: 'sub', reserved: ['world'], dns: ['a.cdn.example'] },
  { name: 'unnamed', reserved: ['world'], address: '203.0.113.2', dns: ['a.b.cdn.example'] },
  { name: 'inside', reserved: ['world'], address: '192.0.2.7' },
  { name: 'except', reserved: ['world'], address: '192.0.2.200' },
  { name: 'partner', reserved: ['world'], address: '198.51.100.8' },
]

function tcp(name: string, containerPort: number) {
  return { name, containerPort, protocol: 'TCP' } as const
}

/** "from to port", of TCP; or "from to port/protocol". */
function flowOf(line: string): Flow {
  const [from = '', to = '', on = ''] = line.split(' ')
  const [port, protocol = 'TCP'] = on.split('/')
  return { from, to, port: Number(port), protocol: protocol as Flow['protocol'] }
}

const short: Record<string, string> = {
  CiliumNetworkPolicy: 'CNP',
  CiliumClusterwideNetworkPolicy: 'CCNP',
  NetworkPolicy: 'NP',
}
const words = ({ verdict, reason, by }: Side) =>
  [verdict, reason, ...by.map((name) => name.replace(/^\w+/, (kind) => short[kind]!))].join(' ')

/** The egress and the ingress side of one flow, in words. */
function ask(line: string, other: Partial<Question> = {}): [string, string] {
  const { invalid, flows } = judge({ policies, endpoints, flows: [flowOf(line)], ...other })
  assert.deepEqual(invalid, [])
  return [words(flows[0]!.egress), words(flows[0]!.ingress)]
}

const web = 'allowed rule CNP shop/web'
const noWeb = 'denied no rule CCNP default-deny CNP shop/web'
const outside = 'allowed not judged'
const none = 'allowed no policy'

const table: Record<string, Record<string, [string, string]>> = {
  'between pods': {
    'shop/web shop/db 5432': [web, 'allowed rule CNP shop/db'],
    'shop/web shop/db 5433': [noWeb, 'denied no rule CCNP default-deny CNP shop/db'],
    'shop/web shop/db 5432/UDP': [noWeb, 'denied no rule CCNP default-deny CNP shop/db'],
    'shop/new shop/db 5432': [web, 'denied rule CNP shop/db'],
    'other/web shop/db 5432': [
      'denied no rule CCNP default-deny',
      'denied no rule CCNP default-deny CNP shop/db',
    ],
    'shop/web kube-system/dns 53/UDP': ['allowed rule CCNP default-deny', none],
    'other/web kube-system/metrics 8080': [
      'denied no rule CCNP default-deny',
      'allowed rule NP kube-system/metrics',
    ],
    'shop/db kube-system/metrics 8080': [
      'denied no rule CCNP default-deny',
      'denied no rule NP kube-system/metrics',
    ],
  },
  'out of the cluster': {
    'shop/web api 6443': [web, outside],
    'shop/db api 6443': ['denied no rule CCNP default-deny', outside],
    'shop/web named 443': [web, outside],
    'shop/web sub 443': [web, outside],
    'shop/web unnamed 443': [noWeb, outside],
    'shop/web world 443': [noWeb, outside],
    'shop/web inside 9005': [web, outside],
    'shop/web inside 9011': [noWeb, outside],
    'shop/web except 9005': [noWeb, outside],
    'shop/web partner 9005': [web, outside],
  },
  'of the node and through the gateway': {
    'node shop/web 9999': [none, 'allowed own host'],
    'peer shop/web 9999': [outside, noWeb],
    'admin node 22': [outside, 'allowed rule CCNP host-firewall'],
    'world node 22': [outside, 'denied no rule CCNP host-firewall'],
    'world node 8/ICMP': [outside, 'allowed rule CCNP host-firewall'],
    'world node 13/ICMP': [outside, 'denied no rule CCNP host-firewall'],
    'peer node 10250': [outside, 'allowed rule CCNP host-firewall'],
    'gateway shop/web 8080': [none, web],
    'gateway shop/web 8081': [none, noWeb],
    'world shop/web 8080': [outside, noWeb],
  },
}

describe("Cilium's own policy code", { skip: withoutOracle }, () => {
  for (const [name, flows] of Object.entries(table))
    test(`judges flows ${name}, and says by which policy`, () => {
      const answer = judge({ policies, endpoints, flows: Object.keys(flows).map(flowOf) })
      assert.deepEqual(answer.invalid, [])
      const lines = Object.keys(flows)
      assert.deepEqual(
        Object.fromEntries(
          answer.flows.map((flow, n) => [lines[n], [words(flow.egress), words(flow.ingress)]]),
        ),
        flows,
      )
      for (const { verdict, egress, ingress } of answer.flows)
        assert.equal(
          verdict,
          egress.verdict === 'allowed' && ingress.verdict === 'allowed' ? 'allowed' : 'denied',
        )
    })

  // Seen on a real agent as well: such a policy cuts the Gateway off from everything behind it.
  test('selects the gateway and the health probe with a NotIn on the namespace, unless it must exist', () => {
    const flows = ['gateway shop/web 8080', 'health other/web 4240'].map(flowOf)
    const egress = (text: string) =>
      judge({ policies: text, endpoints, flows }).flows.map((flow) => words(flow.egress))
    const denied = 'denied no rule CCNP default-deny'
    assert.deepEqual(egress(deny(notSystem)), [denied, denied])
    assert.deepEqual(egress(deny(notSystem, pods)), [none, none])
  })

  test('makes an identity of those labels only of which the agent does', () => {
    assert.deepEqual(ask('world batch/job 80'), [outside, 'denied no rule CCNP default-deny'])
  })

  test('heeds what the chart sets for all of it', () => {
    assert.deepEqual(ask('world node 22', { hostFirewall: false }), [outside, none])
    assert.deepEqual(ask('world kube-system/dns 80'), [outside, none])
    assert.deepEqual(ask('world kube-system/dns 80', { enforcement: 'always' }), [outside, 'denied no rule'])
    assert.deepEqual(ask('world shop/web 80', { enforcement: 'never' }), [outside, none])
    const everywhere = deny(pods).replace('ingress: [{}]', "ingress: [{ fromCIDR: ['0.0.0.0/0'] }]")
    const six = {
      policies: everywhere,
      endpoints: [endpoints[0]!, { name: 'six', reserved: ['world' as const], address: '2001:db8::1' }],
    }
    assert.deepEqual(ask('six shop/web 80', { ...six, ipv6: true })[1], 'denied no rule CCNP default-deny')
  })

  test('says which policy it would not take, and judges nothing then', () => {
    const bad = policies.replace("port: '6443'", "port: '66443'").replace('podSelector:', 'podSelektor:')
    const { invalid, flows } = judge({ policies: bad, endpoints, flows: [flowOf('shop/web shop/db 5432')] })
    assert.deepEqual(flows, [])
    assert.deepEqual(
      invalid.map(({ policy }) => policy),
      ['CiliumNetworkPolicy shop/web', 'NetworkPolicy batch/jobs'],
    )
    assert.match(invalid[0]!.error, /66443/)
    assert.match(invalid[1]!.error, /podSelektor/)
  })

  const questions: Record<string, [Partial<Question>, RegExp]> = {
    'an endpoint that is not there': [
      { flows: [flowOf('shop/web shop/bd 5432')] },
      /no endpoint is called "shop\/bd"/,
    ],
    'two names of one identity': [
      { endpoints: [...endpoints, { name: 'me', reserved: ['host'] }] },
      /same identity as node/,
    ],
    'what only an agent resolves': [
      {
        policies: policies.replace(
          'toFQDNs: [',
          'toServices: [{ k8sService: { serviceName: x } }]\n    - toFQDNs: [',
        ),
      },
      /toServices/,
    ],
    'an object that is no policy': [
      { policies: 'apiVersion: v1\nkind: Namespace\nmetadata: { name: shop }\n' },
      /Namespace shop/,
    ],
    'a field that it does not know': [{ polices: '' } as Partial<Question>, /polices/],
  }
  for (const [name, [change, error]] of Object.entries(questions))
    test(`refuses to answer about ${name}`, () => {
      assert.throws(() => judge({ policies, endpoints, flows: [], ...change }), { message: error })
    })
})
