// Who reaches whom on nodes of the lab: what the map says of a flow, what became of it, and what Hubble has seen dropped. Beside
// the nodes there is an outside: a router with a resolver, and addresses of the local network and of the internet behind it.
import { execFile, execFileSync, spawn, spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import type { Endpoint, Verdict } from '../../lib/component/policymap.ts'
import { type Manifest, nameOf as policyName, specsOf } from '../../lib/component/policies.ts'
import type { Seen } from '../../lib/cli/net.ts'
import { builtProgram } from '../../lib/lab/lab.ts'
import { type PodFleet, podImage } from './kit.ts'

const run = promisify(execFile)
const pod = () => join(builtProgram('pod')!, 'pod')

// Outside

export const router = '10.78.200.1'
/** The second byte of addresses in the tunnel. */
export const tunnel = 68
const laptop = `10.${tunnel}.0.2`
/** Who is outside: two people in the local network, a storage there, somebody and something in the internet. */
export const people = { ours: '10.78.200.7', theirs: '10.78.200.8', stranger: '203.0.113.5' }
export const places = {
  storage: '192.168.77.9',
  private: '192.168.77.7',
  metadata: '169.254.169.254',
  world: '198.51.100.7',
}
/** Names, and what the resolver says that they are. */
export const names: Record<string, string> = {
  'allowed.example.org': '198.51.100.10',
  'other.example.org': '198.51.100.11',
  'inside.example.org': places.private,
}

/** A socket for pings needs a group that may: outside of pods that is nobody, and Cilium has nodes read their sysctls again. */
const pings = "echo '0 0' > /proc/sys/net/ipv4/ping_group_range"

export interface Outside {
  /** Has a node ask this router, and this resolver; once more when it has booted anew. */
  join(cluster: PodFleet, name: string): Promise<void>
  end(): void
}

/** Everything around the nodes, in a network namespace on their bridge; call it when they are up, and its `end` before theirs. */
export function outside(): Outside {
  const [space, link] = ['fk-outside', 'fko']
  const ip = (...words: string[]) => execFileSync('ip', words)
  const gone = () => {
    spawnSync('ip', ['netns', 'delete', space])
    spawnSync('ip', ['link', 'delete', link])
  }
  gone()
  ip('netns', 'add', space)
  ip('link', 'add', link, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', space)
  ip('link', 'set', link, 'master', 'fk-lab', 'up')
  for (const address of [router, people.ours, people.theirs])
    ip('-netns', space, 'address', 'add', `${address}/16`, 'dev', 'eth0')
  for (const address of new Set([people.stranger, ...Object.values(places), ...Object.values(names)]))
    ip('-netns', space, 'address', 'add', `${address}/32`, 'dev', 'lo')
  for (const one of ['lo', 'eth0']) ip('-netns', space, 'link', 'set', one, 'up')
  ip('netns', 'exec', space, 'sh', '-c', pings)
  const dir = mkdtempSync(join(tmpdir(), 'fk-outside-'))
  const hosts = Object.entries(names).map(([name, address]) => `    ${address} ${name}`)
  writeFileSync(join(dir, 'Corefile'), `.:53 {\n  hosts {\n${hosts.join('\n')}\n  }\n}\n`)
  const within = (program: string, ...words: string[]) =>
    spawn('ip', ['netns', 'exec', space, program, ...words], { stdio: 'ignore' })
  const running = [
    within(pod(), 'http', '443', '80'),
    within(join(builtProgram('coredns')!, 'coredns'), '-conf', join(dir, 'Corefile')),
  ]
  return {
    async join({ on }, name) {
      await on(name, `ip route replace default via ${router} && echo nameserver ${router} > /etc/resolv.conf`)
    },
    end() {
      for (const one of running) one.kill('SIGKILL')
      gone()
      rmSync(dir, { recursive: true })
    },
  }
}

// Who is in the cluster

/** Namespace and name of what runs, one pod on each node. */
export const workloads = ['shop/web', 'shop/client', 'shop/roamer', 'shop/visitor', 'other/web']

const dnsOf = (names: string) => `
    - toEndpoints:
        - matchLabels: { io.kubernetes.pod.namespace: kube-system, k8s-app: kube-dns }
      toPorts:
        - ports: [{ port: '53', protocol: UDP }, { port: '53', protocol: TCP }]
          rules: { dns: ${names} }`
const known = '[{ matchName: allowed.example.org }, { matchName: inside.example.org }]'
const policy = (name: string, rules: string) => `apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: { name: ${name}, namespace: shop }
spec:
  endpointSelector: { matchLabels: { app: ${name} } }
${rules}
`
/** As a component has them: client may much, roamer the internet, visitor every port of every node, other/web nothing. */
const policies = [
  policy(
    'web',
    `  ingress:
    - fromEndpoints: [{ matchLabels: { app: client } }]
      toPorts: [{ ports: [{ port: '8080', protocol: TCP }, { port: '5353', protocol: UDP }] }]
    - fromCIDRSet: [{ cidr: 203.0.113.0/24 }]
      toPorts: [{ ports: [{ port: '8080', protocol: TCP }] }]`,
  ),
  policy(
    'client',
    `  egress:
    - toEndpoints: [{ matchLabels: { app: web } }]
      toPorts: [{ ports: [{ port: '8080', protocol: TCP }, { port: '5353', protocol: UDP }] }]
    - toEntities: [kube-apiserver]
      toPorts: [{ ports: [{ port: '6443', protocol: TCP }] }]
    - toCIDRSet: [{ cidr: ${places.storage}/32 }, { cidr: ${places.private}/32 }]
      toPorts: [{ ports: [{ port: '443', protocol: TCP }] }]
    - toFQDNs: [{ matchName: allowed.example.org }, { matchName: inside.example.org }]
      toPorts: [{ ports: [{ port: '443', protocol: TCP }] }]${dnsOf(known)}`,
  ),
  policy(
    'roamer',
    `  egress:
    - toEntities: [world]${dnsOf(`[{ matchPattern: '*' }]`)}`,
  ),
  policy('visitor', '  egress:\n    - toEntities: [host, remote-node]'),
  // What k3s serves to agents at 6443, beside the API, the stand-in for it serves at 9345.
  `apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: { name: supervisor }
spec:
  enableDefaultDeny: { ingress: false }
  nodeSelector: {}
  ingress:
    - fromEntities: [remote-node]
      toPorts: [{ ports: [{ port: '9345', protocol: TCP }] }]
`,
]

/** Lines of router.allow: what this site opens on nodes, and to pods. */
export const lines = [
  { from: people.ours, to: 'nodes', ports: ['tcp/9100'], why: 'metrics' },
  { from: 'pods', to: places.storage, ports: ['tcp/443'], why: 'the storage' },
]

/** Puts the component into a checkout. */
export function describeWorkloads(dir: string): void {
  const at = join(dir, 'config/components/flows')
  mkdirSync(at)
  const all = workloads.map((one) => {
    const [namespace, name] = one.split('/')
    return `  - { name: ${name}, namespace: ${namespace}, labels: { app: ${name} }, ports: [tcp/8080] }\n`
  })
  writeFileSync(
    join(at, 'component.yaml'),
    `name: flows\ndoes: what tests try\nslots: [flows]\nworkloads:\n${all.join('')}`,
  )
  writeFileSync(join(at, 'policies.yaml'), policies.join('---\n'))
}

/** All of them, one pod on each of two nodes, and the Services of shop/web. */
export function manifests(): string {
  const objects = workloads.flatMap((one) => {
    const [namespace = '', name = ''] = one.split('/')
    const labels = { app: name }
    const constraint = {
      maxSkew: 1,
      topologyKey: 'kubernetes.io/hostname',
      whenUnsatisfiable: 'DoNotSchedule',
    }
    const container = {
      name,
      image: podImage,
      imagePullPolicy: 'Never',
      command: ['/bin/pod', 'http', '8080', '8081', 'udp/5353'],
      readinessProbe: { httpGet: { path: '/healthz', port: 8080 }, periodSeconds: 1 },
      securityContext: {
        allowPrivilegeEscalation: false,
        readOnlyRootFilesystem: true,
        capabilities: { drop: ['ALL'] },
      },
    }
    const spec = {
      automountServiceAccountToken: false,
      topologySpreadConstraints: [{ ...constraint, labelSelector: { matchLabels: labels } }],
      securityContext: { runAsNonRoot: true, seccompProfile: { type: 'RuntimeDefault' } },
      terminationGracePeriodSeconds: 1,
      containers: [container],
    }
    return {
      apiVersion: 'apps/v1',
      kind: 'Deployment',
      metadata: { name, namespace },
      spec: {
        replicas: 2,
        selector: { matchLabels: labels },
        template: { metadata: { labels }, spec },
      },
    }
  })
  const namespaces = ['shop', 'other'].map((name) => ({
    apiVersion: 'v1',
    kind: 'Namespace',
    metadata: { name },
  }))
  const service = {
    apiVersion: 'v1',
    kind: 'Service',
    metadata: { name: 'web', namespace: 'shop' },
    spec: {
      type: 'NodePort',
      // With Cluster a node passes some on to pods of others, which see an address of the node: no rule for addresses holds.
      externalTrafficPolicy: 'Local',
      selector: { app: 'web' },
      ports: [{ port: 80, targetPort: 8080, nodePort: 30080 }],
    },
  }
  return [...namespaces, ...objects, service].map((object) => JSON.stringify(object)).join('\n---\n')
}

// Flows

/** Where one can be, and by what the map knows it. */
export interface Place {
  /** A word for ./task may. */
  word: string
  /** The node that it is, or where it runs; nothing for what is outside. */
  node?: string
  address: string
  /** The name of a pod, with its namespace. */
  pod?: string
}

export interface Attempt {
  from: Place
  to: Place
  /** The port of the map. */
  port: string
  /** What is tried, as `pod try` has it. */
  what: string
  /** The name that CoreDNS is asked for. */
  query?: string
}

/** The pods of the workloads, and CoreDNS. */
export async function podsOf(cluster: PodFleet): Promise<Place[]> {
  const { items } = JSON.parse(await cluster.kubectl('get pods --all-namespaces --output json')) as {
    items: {
      metadata: {
        name: string
        namespace: string
        labels: Record<string, string>
        deletionTimestamp?: string
      }
      spec: { nodeName: string; hostNetwork?: boolean }
      status: { podIP: string; phase: string }
    }[]
  }
  return items.flatMap(({ metadata: { name, namespace, labels, deletionTimestamp }, spec, status }) => {
    const word = `${namespace}/${labels['app'] ?? (labels['k8s-app'] === 'kube-dns' ? 'coredns' : '')}`
    const counts = [...workloads, 'kube-system/coredns'].includes(word) && deletionTimestamp === undefined
    return counts && status.phase === 'Running'
      ? [{ word, node: spec.nodeName, address: status.podIP, pod: `${namespace} ${name}` }]
      : []
  })
}

/** Everything that is tried: by every pod, by the nodes, and by who is outside, to every place that makes a difference. */
export async function tableOf(cluster: PodFleet): Promise<Attempt[]> {
  const pods = await podsOf(cluster)
  const nodes = cluster.names.map((name): Place => ({
    word: name,
    node: name,
    address: cluster.machineOf(name).host,
  }))
  const at = (address: string): Place => ({ word: address, address })
  const service = async (name: string) =>
    (await cluster.kubectl(`get service ${name} --output jsonpath={.spec.clusterIP}`)).trim()
  const [web, api] = [await service('web --namespace=shop'), await service('kubernetes')]
  const own = pods.filter(({ word }) => workloads.includes(word))
  const [server, agent] = nodes as [Place, Place]
  const webs = own.filter(({ word }) => word === 'shop/web')
  const dns = pods.find(({ word }) => word === 'kube-system/coredns')!
  const to = (place: Place, ...ports: string[]) =>
    ports.map((port) => {
      const [protocol, number] = port.split('/')
      const what = protocol === 'icmp' ? `icmp/${place.address}` : `${protocol}/${place.address}:${number}`
      return { to: place, port, what }
    })
  const anywhere = [
    ...webs.flatMap((one) => to(one, 'tcp/8080', 'tcp/8081', 'udp/5353')),
    ...own.filter(({ word }) => word === 'other/web').flatMap((one) => to(one, 'tcp/8080')),
    // A Service is who is behind it.
    { to: webs[0]!, port: 'tcp/8080', what: `tcp/${web}:80` },
  ]
  const ofNodes = nodes.flatMap((one) => to(one, 'tcp/22', 'tcp/10250', 'tcp/9100', 'tcp/4244', 'icmp/8'))
  const ofServer = to(server, 'tcp/6443', 'tcp/2379')
  const fromPods = own.flatMap((from) =>
    [
      // Of its own Service a pod may be the one behind it.
      ...anywhere.filter(({ to }) => to !== from && (to !== webs[0] || from.word !== to.word)),
      ...ofNodes,
      ...ofServer,
      { to: server, port: 'tcp/6443', what: `tcp/${api}:443` },
      ...to(dns, 'tcp/9153'),
      ...Object.values(places).flatMap((address) => to(at(address), 'tcp/443', 'tcp/80')),
      ...to(at(people.ours), 'tcp/443'),
    ].map((one): Attempt => ({ from, ...one })),
  )
  const fromNodes = nodes.flatMap((from) =>
    [
      ...webs.flatMap((one) => to(one, 'tcp/8080', 'tcp/8081')),
      ...[...ofNodes, ...(from === agent ? ofServer : [])].filter(({ to }) => to !== from),
    ].map((one): Attempt => ({ from, ...one })),
  )
  const outside = [at(people.ours), at(people.theirs), at(people.stranger), { ...at(laptop), word: 'tunnel' }]
  const fromOutside = outside.flatMap((from) =>
    [
      ...ofNodes.filter(({ port }) => from.word !== 'tunnel' || port !== 'icmp/8'),
      ...ofServer,
      ...nodes.flatMap(({ node, address }) =>
        webs
          .filter((one) => one.node === node)
          .map((one) => ({ to: one, port: 'tcp/8080', what: `tcp/${address}:30080` })),
      ),
    ].map((one): Attempt => ({ from, ...one })),
  )
  return [...fromPods, ...fromNodes, ...fromOutside]
}

/** Every pod tries names: by the addresses that they will have, by asking what these are, and by the names themselves. */
export async function namesOf(cluster: PodFleet): Promise<Record<'before' | 'asked' | 'named', Attempt[]>> {
  const pods = await podsOf(cluster)
  const dns = pods.find(({ word }) => word === 'kube-system/coredns')!
  const own = pods.filter(({ word }) => workloads.includes(word))
  const of = (attempt: (name: string, address: string) => Omit<Attempt, 'from'>) =>
    own.flatMap((from) =>
      Object.entries(names).map(([name, address]): Attempt => ({ from, ...attempt(name, address) })),
    )
  const port = 'tcp/443'
  return {
    before: of((_, address) => ({ to: { word: address, address }, port, what: `tcp/${address}:443` })),
    asked: of((name) => ({ to: dns, port: 'udp/53', what: `name/${name}.`, query: name })),
    named: of((name, address) => ({ to: { word: name, address }, port, what: `tcp/${name}.:443` })),
  }
}

/** An attempt, for people. */
export const nameOf = ({ from, to, what, query }: Attempt): string =>
  [from.word, from.pod && `on ${from.node}`, '→', to.word, to.node && `on ${to.node}`, what, query]
    .filter(Boolean)
    .join(' ')

/** The map of the checkout, as ./task may has it. */
export interface Judge {
  manifests: Manifest[]
  texts(component: string): string
  /** What it says of an attempt, seen from the node of the pod that takes part. */
  of(attempt: Attempt): Verdict
}

export function judgeOf(dir: string, site: string): Judge {
  const load = createRequire(join(dir, 'package.json'))
  const map = load('./lib/component/policymap.ts') as typeof import('../../lib/component/policymap.ts')
  const { policiesOf } = load('./lib/cli/may.ts') as typeof import('../../lib/cli/may.ts')
  const { textOf } = load('./lib/component/policies.ts') as typeof import('../../lib/component/policies.ts')
  const all = policiesOf(site)
  return {
    manifests: all.manifests,
    texts: (component) =>
      all.manifests
        .filter((one) => one.component === component)
        .map((one) => textOf(one, 'flows'))
        .join('---\n'),
    of({ from, to, port, query }) {
      const here = from.pod === undefined && to.pod !== undefined ? to.node : (from.node ?? to.node)
      const known = all.known.map((one): Endpoint =>
        one.kind === 'node' ? { ...one, here: one.host === here } : one,
      )
      const end = ({ word, node, pod }: Place): Endpoint =>
        pod === undefined && node !== undefined
          ? known.find((one) => one.host === node)!
          : map.endpointOf(all.site, known, word)
      return map.judge(all.manifests, known, {
        from: end(from),
        to: end(to),
        port,
        ...(query === undefined ? {} : { query }),
      })
    },
  }
}

/** What came of attempts, in their order: the answer, or `none` with the reason. All of one source are made at once. */
export async function tried(cluster: PodFleet, attempts: Attempt[], seconds = 2): Promise<string[]> {
  const sources = [...new Set(attempts.map(({ from }) => from))]
  const answers = new Map<Attempt, string>()
  const heard = (mine: Attempt[], text: string) => {
    const said = text.trim().split('\n')
    for (const [i, one] of mine.entries())
      answers.set(
        one,
        said[i]?.startsWith(`${one.what} `) ? said[i].slice(one.what.length + 1) : `?: ${text}`,
      )
  }
  const words = (mine: Attempt[]) => `try ${seconds} ${mine.map(({ what }) => what).join(' ')}`
  const mineOf = (from: Place) => attempts.filter((one) => one.from === from)
  const inPods = sources.filter((one) => one.pod !== undefined)
  const [first] = cluster.names as [string]
  const ofPods = async () => {
    if (inPods.length === 0) return
    const execs = inPods.map(({ pod = '' }, i) => {
      const exec = `/opt/bin/k3s kubectl exec --namespace=${pod}`
      return `${exec} -- /bin/pod ${words(mineOf(inPods[i]!))} > /run/try-${i} 2>&1 &`
    })
    const all = await cluster.on(
      first,
      `${execs.join('\n')}\nwait\nfor i in $(seq 0 ${inPods.length - 1}); do cat /run/try-$i; echo "== end"; done`,
    )
    for (const [i, text] of all.split('== end\n').slice(0, -1).entries()) heard(mineOf(inPods[i]!), text)
  }
  const elsewhere = sources
    .filter((one) => one.pod === undefined)
    .map(async (from) => {
      const mine = mineOf(from)
      if (from.node !== undefined)
        return heard(mine, await cluster.on(from.node, `${pings}; /opt/pod/pod ${words(mine)}`))
      const space = from.address === laptop ? [] : ['ip', 'netns', 'exec', 'fk-outside']
      const [program = '', ...rest] = [...space, pod(), ...words(mine).split(' ')]
      const { stdout } = await run(program, rest, { env: { ...process.env, FROM: from.address } })
      return heard(mine, stdout)
    })
  await Promise.all([ofPods(), ...elsewhere])
  return attempts.map((one) => answers.get(one) ?? '?')
}

export const isThrough = (answer: string): boolean => /^(answered|refused)/.test(answer)

/** Waits until both agents have their policies in force, and know who is behind the Services that are tried. */
export async function inForce(cluster: PodFleet, peers: Place[]): Promise<void> {
  const kubectl = '/opt/bin/k3s kubectl --namespace=cilium'
  const [first = ''] = cluster.names
  const behind = [
    `${cluster.machineOf(first).host}:6443`,
    ...peers.flatMap(({ word, address }) =>
      word === 'shop/web' ? [`${address}:8080`] : word === 'kube-system/coredns' ? [`${address}:53`] : [],
    ),
  ]
  const known = behind.map((one) => `grep --quiet "=> ${one}/" <<< "$all"`).join(' && ')
  await cluster.on(
    first,
    `for pod in $(${kubectl} get pods --selector=k8s-app=cilium --output=name); do
  ${kubectl} exec --stdin $pod --container=cilium-agent -- bash -s << 'END' || exit 1
set -e
cilium-dbg policy wait "$(cilium-dbg policy get | sed --quiet 's/^Revision: //p')" --max-wait-time 180 --fail-wait-time 180
for try in {1..180}; do
  all=$(cilium-dbg service list)
  ! { ${known}; } || exit 0
  sleep 1
done
echo "behind Services there are not ${behind.join(', ')}: $all" >&2
exit 1
END
done`,
  )
}

/** What comes of `attempt`, and what Hubble of all nodes has seen dropped meanwhile. It keeps few flows: it is listened to. */
export async function withDrops<T>(
  cluster: PodFleet,
  attempt: () => Promise<T>,
): Promise<[T, NonNullable<Seen['flow']>[]]> {
  const [first] = cluster.names as [string]
  const kubectl = '/opt/bin/k3s kubectl --namespace=cilium'
  const observe = `hubble observe --follow --verdict DROPPED --since ${new Date().toISOString()} --output json`
  const listening = cluster.on(
    first,
    `rm --force /run/drops-*
for pod in $(${kubectl} get pods --selector=k8s-app=cilium --output=name); do
  ${kubectl} exec $pod --container=cilium-agent -- ${observe} > /run/drops-\${pod#pod/} &
done
until [ -e /run/drops-end ]; do sleep 0.2; done
kill $(jobs -p) || exit 1
rm /run/drops-end
# A last line that was cut off has no end.
for file in /run/drops-*; do while IFS= read -r line; do printf '%s\\n' "$line"; done < $file; done`,
  )
  const attempting = async () => {
    try {
      return await attempt()
    } finally {
      // Agents read what the kernel tells them a moment later.
      await sleep(3000)
      await cluster.on(first, 'touch /run/drops-end')
    }
  }
  const [came, text] = await Promise.all([attempting(), listening])
  const lines = text.split('\n').filter(Boolean)
  return [came, lines.flatMap((line) => (JSON.parse(line) as Seen).flow ?? [])]
}

/** Why the drops that Hubble has seen are not what the map says of this attempt; nothing when one of them is. */
export function missed(
  { from, to, port, what, query }: Attempt,
  { egress, ingress }: Verdict,
  drops: NonNullable<Seen['flow']>[],
  judge: Judge,
  peers: Place[],
): string | undefined {
  const side = egress.allowed ? ingress : egress
  const direction = egress.allowed ? 'INGRESS' : 'EGRESS'
  const policy = judge.manifests.find((one) => policyName(one.policy) === side.by)?.policy
  const explicit = policy !== undefined && specsOf(policy).some((spec) => spec.egressDeny ?? spec.ingressDeny)
  const [protocol = '', number] = port.split('/')
  // A node has an address in the network of pods, too. A Service is any pod behind it.
  const isOfNode = (labels: string[] = []) =>
    labels.some((one) => /^reserved:(host|remote-node|kube-apiserver)$/.test(one))
  const behind = peers.filter(({ word }) => word === to.word).map(({ address }) => address)
  const targets = [to.address, ...behind, /\/([\d.]+)(:\d+)?$/.exec(what)?.[1]]
  const about = drops.filter(({ IP, l4, source }) => {
    const [name = '', { destination_port: at } = {}] = Object.entries(l4 ?? {})[0] ?? []
    if (!IP || !targets.includes(IP.destination)) return false
    if (IP.source !== from.address && !(from.node && !from.pod && isOfNode(source?.labels))) return false
    return protocol === 'icmp' ? /^icmp/i.test(name) : name.toLowerCase() === protocol && `${at}` === number
  })
  if (query !== undefined)
    return about.some(({ l7 }) => l7?.dns?.query === `${query}.`)
      ? undefined
      : `no drop has the name ${query}`
  const seen = about.map((drop) => {
    const by = [...(drop.egress_denied_by ?? []), ...(drop.ingress_denied_by ?? [])].map(({ name }) => name)
    return { way: drop.traffic_direction, reason: drop.drop_reason_desc, by }
  })
  const right = seen.some(
    ({ way, reason, by }) =>
      way === direction &&
      (explicit ? reason === 'POLICY_DENY' && by.includes(side.by) : reason === 'POLICY_DENIED'),
  )
  return right
    ? undefined
    : `${direction} by ${side.by}${explicit ? ' (explicit)' : ''} is not among ${JSON.stringify(seen)}`
}
