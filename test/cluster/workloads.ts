// Objects for the rules of config/policy: good ones, and the same ones that are each bad in exactly one way.
import { stringify } from 'yaml'
import type { Subject } from '../../lib/site/policy.ts'

type Tree = Record<string, unknown>

/** An object with what it is, and where it would be created. */
export interface Made {
  what: string
  path: string
  body: Tree & { kind: string; metadata: Tree }
}

/** A bad one: the rule that must object, and what it says behind the object's name. */
export interface Bad extends Made {
  rule: string
  says: string
}

export const namespace = 'apps'
const digest = `sha256:${'ab'.repeat(32)}`
/** Not spelt out: nothing in this tree is called so. */
const newest = ['lat', 'est'].join('')
const image = `docker.io/library/busybox:1@${digest}`

const secured = (): Tree => ({
  allowPrivilegeEscalation: false,
  readOnlyRootFilesystem: true,
  capabilities: { drop: ['ALL'] },
})

const container = (name: string, more: Tree = {}): Tree => ({
  name,
  image,
  resources: { requests: { cpu: '10m', memory: '8Mi' }, limits: { memory: '16Mi' } },
  readinessProbe: { tcpSocket: { port: 80 } },
  securityContext: secured(),
  ...more,
})

/** One that can have neither resources nor probes. */
export const debugger_ = (more: Tree = {}): Tree => ({
  name: 'debug',
  image,
  securityContext: secured(),
  ...more,
})

const init = (more: Tree = {}): Tree => {
  const { readinessProbe: _, ...rest } = container('init', more)
  return rest
}

/** A pod that keeps to every rule, in which there is an init container as well. */
const pod = (spec: Tree = {}, metadata: Tree = {}): Tree => ({
  metadata: { labels: { app: 'web', 'fortress-kit/owner': 'me' }, ...metadata },
  spec: {
    automountServiceAccountToken: false,
    securityContext: { runAsNonRoot: true, runAsUser: 65534, seccompProfile: { type: 'RuntimeDefault' } },
    initContainers: [init()],
    containers: [container('web')],
    ...spec,
  },
})

const selector = { matchLabels: { app: 'web' } }

/** Every kind in which pods stand: its path, and the object around a pod. A Job and a CronJob do not run for ever. */
export const kinds: Record<
  string,
  { path: (at: string) => string; around: (pod: Tree, name: string) => Made['body'] }
> = {
  Pod: {
    path: (at) => `/api/v1/namespaces/${at}/pods`,
    around: (pod, name) => ({
      apiVersion: 'v1',
      kind: 'Pod',
      ...pod,
      metadata: { ...(pod['metadata'] as Tree), name },
    }),
  },
  ...Object.fromEntries(
    ['Deployment', 'StatefulSet', 'DaemonSet', 'ReplicaSet'].map((kind) => [
      kind,
      {
        path: (at: string) => `/apis/apps/v1/namespaces/${at}/${kind.toLowerCase()}s`,
        around: (template: Tree, name: string) => ({
          apiVersion: 'apps/v1',
          kind,
          metadata: { name },
          spec: { selector, template, ...(kind === 'StatefulSet' ? { serviceName: name } : {}) },
        }),
      },
    ]),
  ),
  ReplicationController: {
    path: (at) => `/api/v1/namespaces/${at}/replicationcontrollers`,
    around: (template, name) => ({
      apiVersion: 'v1',
      kind: 'ReplicationController',
      metadata: { name },
      spec: { selector: selector.matchLabels, template },
    }),
  },
  Job: {
    path: (at) => `/apis/batch/v1/namespaces/${at}/jobs`,
    around: (template, name) => ({
      apiVersion: 'batch/v1',
      kind: 'Job',
      metadata: { name },
      spec: { template: once(template) },
    }),
  },
  CronJob: {
    path: (at) => `/apis/batch/v1/namespaces/${at}/cronjobs`,
    around: (template, name) => ({
      apiVersion: 'batch/v1',
      kind: 'CronJob',
      metadata: { name },
      spec: { schedule: '17 3 * * *', jobTemplate: { spec: { template: once(template) } } },
    }),
  },
}

const once = ({ spec, ...rest }: Tree): Tree => ({
  ...rest,
  spec: { ...(spec as Tree), restartPolicy: 'Never' },
})

/** A way in which a pod is bad: `says` is what the rule says of it. */
interface Way {
  what: string
  rule: string
  says: string
  pod: Tree
  /** The kinds of which it is one; absent: all. */
  of?: string[]
}

const gone = (from: Tree, ...keys: string[]): Tree =>
  Object.fromEntries(Object.entries(from).filter(([key]) => !keys.includes(key)))

const resources = (requests: Tree, limits: Tree): Tree => ({ resources: { requests, limits } })
const [noDigest, isNewest, foreign, writable, noCpu, noMemory, noLimit, noProbe] = [
  'image without a digest, as in NAME@sha256:DIGEST',
  `image with the tag ${newest}`,
  'image of a registry that policy.registries does not list',
  'container that can write to its root file system',
  'container that does not request CPU and memory',
  'container that does not request CPU and memory',
  'container without a limit of memory',
  'container without a readiness probe',
]

/** What is wrong with one container, whichever list it stands in; those that a debugging container can have are `everywhere`. */
const faults: { what: string; rule: string; says: string; more: Tree; everywhere: boolean }[] = [
  {
    what: 'a tag alone',
    rule: 'digest',
    says: noDigest,
    more: { image: 'docker.io/library/busybox:1' },
    everywhere: true,
  },
  {
    what: 'no tag',
    rule: 'digest',
    says: noDigest,
    more: { image: 'docker.io/library/busybox' },
    everywhere: true,
  },
  {
    what: 'half a digest',
    rule: 'digest',
    says: noDigest,
    more: { image: 'docker.io/library/busybox@sha256:abab' },
    everywhere: true,
  },
  {
    what: `the tag ${newest}`,
    rule: 'latest',
    says: isNewest,
    more: { image: `docker.io/library/busybox:${newest}@${digest}` },
    everywhere: true,
  },
  {
    what: 'another registry',
    rule: 'registries',
    says: foreign,
    more: { image: `evil.example/x@${digest}` },
    everywhere: true,
  },
  {
    what: 'a registry that only begins like ours',
    rule: 'registries',
    says: foreign,
    more: { image: `docker.io.evil.example/x@${digest}` },
    everywhere: true,
  },
  {
    what: 'no registry',
    rule: 'registries',
    says: foreign,
    more: { image: `busybox@${digest}` },
    everywhere: true,
  },
  {
    what: 'a writable root',
    rule: 'read-only-root',
    says: writable,
    more: { securityContext: gone(secured(), 'readOnlyRootFilesystem') },
    everywhere: true,
  },
  {
    what: 'a root that says that it is writable',
    rule: 'read-only-root',
    says: writable,
    more: { securityContext: { ...secured(), readOnlyRootFilesystem: false } },
    everywhere: true,
  },
  {
    what: 'no request of CPU',
    rule: 'requests',
    says: noCpu,
    more: resources({ memory: '8Mi' }, { memory: '16Mi' }),
    everywhere: false,
  },
  {
    what: 'no limit of memory',
    rule: 'limits',
    says: noLimit,
    more: resources({ cpu: '10m', memory: '8Mi' }, {}),
    everywhere: false,
  },
]

const ways: Way[] = [
  ...faults.flatMap(({ what, rule, says, more }): Way[] => [
    { what, rule, says: `${says}: web`, pod: pod({ containers: [container('web', more)] }) },
    {
      what: `${what} in an init container`,
      rule,
      says: `${says}: init`,
      pod: pod({ initContainers: [init(more)] }),
    },
  ]),
  {
    what: 'one of two containers without a digest',
    rule: 'digest',
    says: `${noDigest}: second`,
    pod: pod({
      containers: [container('web'), container('second', { image: 'docker.io/library/busybox:1' })],
    }),
  },
  {
    what: 'no request of memory, and no limit that would stand for it',
    rule: 'requests',
    says: `${noMemory}: web`,
    pod: pod({ containers: [container('web', resources({ cpu: '10m' }, { memory: '16Mi' }))] }),
    // A pod that has a limit requests as much where it says nothing.
    of: ['Deployment', 'StatefulSet', 'CronJob'],
  },
  {
    what: 'no readiness probe',
    rule: 'probes',
    says: `${noProbe}: web`,
    pod: pod({ containers: [gone(container('web'), 'readinessProbe')] }),
    of: ['Pod', 'Deployment', 'StatefulSet', 'DaemonSet', 'ReplicaSet', 'ReplicationController'],
  },
  {
    what: 'a liveness probe alone',
    rule: 'probes',
    says: `${noProbe}: web`,
    pod: pod({
      containers: [
        { ...gone(container('web'), 'readinessProbe'), livenessProbe: { tcpSocket: { port: 80 } } },
      ],
    }),
    of: ['Pod', 'Deployment'],
  },
  {
    what: 'a token that nobody asked for',
    rule: 'no-token',
    says: 'automountServiceAccountToken is not false',
    pod: (() => {
      const { spec, ...rest } = pod()
      return { ...rest, spec: gone(spec as Tree, 'automountServiceAccountToken') }
    })(),
  },
  {
    what: 'a token that it asks for',
    rule: 'no-token',
    says: 'automountServiceAccountToken is not false',
    pod: pod({ automountServiceAccountToken: true }),
  },
  {
    what: 'no owner',
    rule: 'owner',
    says: 'neither it nor its namespace has the label fortress-kit/owner',
    pod: pod({}, { labels: { app: 'web' } }),
  },
  {
    what: 'an owner without a name',
    rule: 'owner',
    says: 'neither it nor its namespace has the label fortress-kit/owner',
    pod: pod({}, { labels: { app: 'web', 'fortress-kit/owner': '' } }),
  },
]

const slug = (text: string): string =>
  text
    .toLowerCase()
    .replaceAll(/[^a-z0-9]+/g, '-')
    .replaceAll(/^-|-$/g, '')
    .slice(0, 40)
    .replace(/-$/, '')

/** An object of a kind around a pod. */
export const around = (kind: string, what: string, given: Tree = pod(), at = namespace): Made => ({
  what: `${kind}: ${what}`,
  path: kinds[kind]!.path(at),
  body: kinds[kind]!.around(given, slug(what)),
})

const service = (spec: Tree): Made => ({
  what: `Service ${JSON.stringify(spec)}`,
  path: `/api/v1/namespaces/${namespace}/services`,
  body: {
    apiVersion: 'v1',
    kind: 'Service',
    metadata: { name: 'web' },
    spec: { selector: { app: 'web' }, ports: [{ port: 80 }], ...spec },
  },
})

const backend = { service: { name: 'web', port: { number: 80 } } }
const rule = (host?: string): Tree => ({
  ...(host === undefined ? {} : { host }),
  http: { paths: [{ path: '/', pathType: 'Prefix', backend }] },
})
const ingress = (spec: Tree): Made => ({
  what: `Ingress ${JSON.stringify(spec).slice(0, 60)}`,
  path: `/apis/networking.k8s.io/v1/namespaces/${namespace}/ingresses`,
  body: { apiVersion: 'networking.k8s.io/v1', kind: 'Ingress', metadata: { name: 'web' }, spec },
})
const route = (kind: string, version: string, spec: Tree): Made => ({
  what: `${kind} ${JSON.stringify(spec).slice(0, 60)}`,
  path: `/apis/gateway.networking.k8s.io/${version}/namespaces/${namespace}/${kind.toLowerCase()}s`,
  body: { apiVersion: `gateway.networking.k8s.io/${version}`, kind, metadata: { name: 'web' }, spec },
})
const gateway = (...listeners: Tree[]): Made =>
  route('Gateway', 'v1', {
    gatewayClassName: 'cilium',
    listeners: listeners.map((one, i) => ({ name: `one-${i}`, port: 80, protocol: 'HTTP', ...one })),
  })

const [opensPort, anyHost] = [
  'type NodePort, or LoadBalancer without allocateLoadBalancerNodePorts false',
  'a host is left out, or has a *',
]
const named = (made: Made, rule: string, says: string): Bad => ({ ...made, rule, says })

/** Every bad object, of every kind. */
export const bad: Bad[] = [
  ...ways.flatMap(({ what, rule, says, pod: given, of = Object.keys(kinds) }) =>
    of.map((kind) => named(around(kind, what, given), rule, says)),
  ),
  ...Object.keys(kinds).map((kind) =>
    named(
      around(kind, 'the namespace default', pod(), 'default'),
      'default-namespace',
      'the namespace default is no place for it',
    ),
  ),
  ...[
    { type: 'NodePort' },
    { type: 'LoadBalancer' },
    { type: 'LoadBalancer', allocateLoadBalancerNodePorts: true },
  ].map((spec) => named(service(spec), 'node-port', opensPort)),
  ...[
    ingress({ rules: [rule()] }),
    ingress({ rules: [rule('*.home.arpa')] }),
    ingress({ rules: [rule('web.home.arpa'), rule('*.home.arpa')] }),
    ingress({ defaultBackend: backend }),
    ingress({ rules: [rule('web.home.arpa')], defaultBackend: backend }),
    route('HTTPRoute', 'v1', {}),
    route('HTTPRoute', 'v1', { hostnames: ['*.home.arpa'] }),
    route('HTTPRoute', 'v1', { hostnames: ['web.home.arpa', '*.home.arpa'] }),
    route('GRPCRoute', 'v1', { hostnames: ['*.home.arpa'] }),
    gateway({}),
    gateway({ hostname: 'web.home.arpa' }, { hostname: '*.home.arpa' }),
  ].map((made) => named(made, 'hosts', anyHost)),
]

/** What is bad of a debugging container: put into a pod that is good. */
export const badDebuggers = faults
  .filter(({ everywhere }) => everywhere)
  .map(({ what, rule, says, more }) => ({
    what,
    rule,
    says: `${says}: debug`,
    container: debugger_(more),
  }))

/** Objects that keep to every rule. */
export const good: Made[] = [
  ...Object.keys(kinds).map((kind) => around(kind, 'good')),
  around('Pod', 'no init container', pod({ initContainers: [] })),
  around(
    'Pod',
    'of another registry of ours',
    pod({ containers: [container('web', { image: `quay.io/a/b@${digest}` })] }),
  ),
  around('Job', 'no probe, for it ends', pod({ containers: [gone(container('web'), 'readinessProbe')] })),
  around(
    'Pod',
    'no probe, for it ends',
    once(pod({ containers: [gone(container('web'), 'readinessProbe')] })),
  ),
  service({}),
  service({ type: 'LoadBalancer', allocateLoadBalancerNodePorts: false }),
  service({ clusterIP: 'None' }),
  ingress({ rules: [rule('web.home.arpa')] }),
  route('HTTPRoute', 'v1', { hostnames: ['web.home.arpa'] }),
  gateway({ hostname: 'web.home.arpa' }),
  gateway({ protocol: 'TCP' }),
]

/** A pod with a volume that is an image. */
export const withVolume = (reference: string): Made =>
  around('Pod', 'image volume', pod({ volumes: [{ name: 'data', image: { reference } }] }))

export { pod, container, digest, newest }
export type { Subject }

/** Kinds that other pages bring, as far as an API server has to know them to be asked. */
export const definitions = [
  ...['Gateway', 'GRPCRoute', 'HTTPRoute'].map((kind) => definition(kind, 'gateway.networking.k8s.io', 'v1')),
  definition('CiliumNetworkPolicy', 'cilium.io', 'v2'),
]
  .map((one) => `---\n${stringify(one)}`)
  .join('')

function definition(kind: string, group: string, version: string): object {
  const plural = kind.toLowerCase().replace(/icy$/, 'icie') + 's'
  return {
    apiVersion: 'apiextensions.k8s.io/v1',
    kind: 'CustomResourceDefinition',
    metadata: {
      name: `${plural}.${group}`,
      annotations: {
        'api-approved.kubernetes.io': 'https://github.com/kubernetes-sigs/gateway-api/pull/3328',
      },
    },
    spec: {
      group,
      scope: 'Namespaced',
      names: { kind, plural, singular: kind.toLowerCase() },
      versions: [
        {
          name: version,
          served: true,
          storage: true,
          schema: { openAPIV3Schema: { type: 'object', 'x-kubernetes-preserve-unknown-fields': true } },
        },
      ],
    },
  }
}
