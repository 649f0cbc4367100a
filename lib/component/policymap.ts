// Who may talk to whom in a cluster, on what, and because of which line: Cilium's rules, worked out from the policies of a site
// without a cluster. It hides identities, selectors, and what wins over what. Source: docs.cilium.io, "Network Policy".
import { isIP } from 'node:net'
import { Fault } from '../ground/fault.ts'
import { nearest } from '../ground/nearest.ts'
import type { Catalogue } from '../site/catalogue.ts'
import { gatewayLabel } from '../site/gateways.ts'
import { isNode, isServer } from '../site/machines.ts'
import type { Site } from '../site/model.ts'
import { inside, needsOf, spanOf } from '../site/zones.ts'
import {
  type Manifest,
  type Names,
  type Rule,
  type Selector,
  type Spec,
  componentsOf,
  nameOf,
  sections,
  specsOf,
} from './policies.ts'

/** Whom a policy can be about: pods that are alike, a node, the Gateway, an address, a name of the internet. */
export interface Endpoint {
  name: string
  kind: 'pod' | 'node' | 'gateway' | 'health' | 'address' | 'name'
  /** As Cilium has them: SOURCE:KEY, to the value. Those of a node are what a nodeSelector sees. */
  labels: Record<string, string>
  /** What Kubernetes calls a node. */
  host?: string
  /** The node where the pods are of which it is asked. */
  here?: boolean
  /** It runs the API server. */
  server?: boolean
  address?: string
  /** Where it listens: tcp/443, udp/53, icmp/8. */
  ports: string[]
}

export interface Flow {
  from: Endpoint
  to: Endpoint
  /** tcp/443, udp/53, icmp/8. */
  port: string
  /** The name that is asked for, of a flow to CoreDNS. */
  query?: string
}

/** What one end says of a flow. */
export interface Side {
  allowed: boolean
  /** The policy, or why there is none. */
  by: string
  /** file:line of the rule. */
  at?: string
  /** The line of the site document that it was made from. */
  why?: string
  /** Policies that say the same. */
  also?: string[]
  /** The names that may be asked for; absent: all. */
  names?: Names[]
}

export interface Verdict {
  allowed: boolean
  egress: Side
  ingress: Side
  /** Whether the name of the other end may be looked up. */
  lookup?: Side
}

/** An address of the internet that stands for all of them: RFC 5737. */
const somewhere = '198.51.100.1'

/** Everybody that the policies of a site can be about. */
export function endpointsOf(site: Site, catalogue: Catalogue, manifests: Manifest[]): Endpoint[] {
  const pods = componentsOf(site, catalogue)
    .flatMap((name) => catalogue.get(name) ?? [])
    .flatMap(({ workloads = [], routes }) => workloads.map((one) => ({ ...one, routes })))
    .map(({ name, namespace, labels, ports = [], routes }): Endpoint => ({
      name: `${namespace}/${name}`,
      kind: 'pod',
      labels: {
        'k8s:io.kubernetes.pod.namespace': namespace,
        ...k8s(labels),
        ...(routes ? { [`k8s:io.cilium.k8s.namespace.labels.${gatewayLabel}`]: 'any' } : {}),
      },
      ports: [...ports],
    }))
  const machines = site.machines.filter(isNode)
  const first = machines.find(isServer)
  const nodes = [...machines.filter((one) => one === first), ...machines.filter((one) => one !== first)].map(
    (machine): Endpoint => ({
      name: machine === first ? 'host' : machine.name,
      kind: 'node',
      labels: k8s({
        ...machine.labels,
        'kubernetes.io/hostname': machine.name,
        ...(isServer(machine) ? { 'node-role.kubernetes.io/control-plane': 'true' } : {}),
      }),
      host: machine.name,
      here: machine === first,
      server: isServer(machine),
      ...(machine.address === undefined ? {} : { address: machine.address }),
      ports: nodePorts(site, isServer(machine)),
    }),
  )
  const gateway: Endpoint = { name: 'gateway', kind: 'gateway', labels: {}, ports: ['tcp/80', 'tcp/443'] }
  const health: Endpoint = { name: 'health', kind: 'health', labels: {}, ports: ['tcp/4240', 'icmp/8'] }
  return [...pods, gateway, health, ...nodes, ...outside(site), ...namesIn(manifests)]
}

/** Labels that no policy sees unless the chart says so (pkg/labelsfilter of Cilium): those of Kubernetes itself. */
const unseen =
  /^(kubernetes\.io|io\.kubernetes(?!\.pod\.namespace)|k8s\.io|topology\.kubernetes\.io|.*beta\.kubernetes\.io|pod-template-)/

const k8s = (labels: Record<string, string>): Record<string, string> =>
  Object.fromEntries(
    Object.entries(labels).flatMap(([key, value]) => (unseen.test(key) ? [] : [[`k8s:${key}`, value]])),
  )

/** Ports of a node that somebody may have business with: what nodes ask of one another, and what people do. */
const nodePorts = (site: Site, server: boolean): string[] => {
  const needs = needsOf(site).flatMap(({ protocol, ports = [], where }) =>
    where === undefined || server ? ports.map((port) => `${protocol}/${parseInt(port)}`) : [],
  )
  return [...new Set(['tcp/22', 'udp/53', 'tcp/443', ...needs, `udp/${site.tunnel.port}`, 'icmp/8'])]
}

/** Places outside of the cluster, each by an address that stands for it. */
function outside({ devices, networks, tunnel }: Site): Endpoint[] {
  const places = [
    ['world', somewhere],
    ['metadata', '169.254.169.254'],
    ['tunnel', tunnel.peers[0]?.address],
    ...networks.map(({ name, network }) => [name, lastOf(network)]),
    ...devices.map(({ name, address }) => [`device:${name}`, address]),
  ]
  return places.flatMap(([name, address]) =>
    name === undefined || address === undefined || isIP(address) === 0 ? [] : at(name, address),
  )
}

const at = (name: string, address: string): Endpoint => ({
  name,
  kind: 'address',
  labels: {},
  address,
  ports: ['tcp/443', 'udp/53'],
})

const called = (name: string): Endpoint => ({ ...at(name, somewhere), kind: 'name', ports: ['tcp/443'] })

/** An address of a network that no machine has: the last but one. */
function lastOf(network: string): string | undefined {
  const span = spanOf(network)
  if (span === undefined || span.family !== 4) return undefined
  const value = span.last - 1n
  return [24n, 16n, 8n, 0n].map((shift) => (value >> shift) & 255n).join('.')
}

/** The names outside that policies allow. */
function namesIn(manifests: Manifest[]): Endpoint[] {
  const names = manifests
    .flatMap(({ policy }) => specsOf(policy))
    .flatMap(({ egress = [] }) => egress.flatMap(({ toFQDNs = [] }) => toFQDNs))
    .flatMap(({ matchName }) => matchName ?? [])
  return [...new Set(names)].map(called)
}

/**
 * The endpoint that a word means: one of the list by its name, `api`, `internet`, an address, or a name of the internet. Throws a
 * Fault with the nearest name for any other.
 */
export function endpointOf(site: Site, known: Endpoint[], word: string): Endpoint {
  const found = known.find(({ name }) => name === word)
  if (found !== undefined) return found
  const host = known.find(({ here }) => here)
  if (host !== undefined && (word === 'api' || host.host === word)) return host
  if (word === 'internet') return { ...at('world', somewhere), name: word }
  if (isIP(word) === 4) {
    const node = known.find(({ kind, address }) => kind === 'node' && address === word)
    if (inside(site.cluster.pods, word) || inside(site.cluster.services, word))
      throw new Fault(`${word} is an address inside of the cluster: pods have names here`, {
        next: './task map lists them',
      })
    return node ?? at(word, word)
  }
  if (/^(?=.*\.)[a-z0-9]([a-z0-9.-]*[a-z0-9])?$/i.test(word) && isIP(word) === 0)
    return called(word.toLowerCase())
  const near = nearest(
    word,
    known.map(({ name }) => name),
  )
  throw new Fault(`'${word}' is no workload of ${site.name}${near ? `; did you mean ${near}?` : ''}`, {
    next: './task map lists all; an address or a name of the internet will do, too',
  })
}

/** Whether a flow is let through by both ends, and by which rule. */
export function judge(manifests: Manifest[], known: Endpoint[], flow: Flow): Verdict {
  const egress = sideOf(manifests, 'egress', flow)
  const ingress = sideOf(manifests, 'ingress', flow)
  const dns = known.find(({ labels }) => labels['k8s:k8s-app'] === 'kube-dns')
  const asks = flow.to.kind === 'name' && flow.from.kind === 'pod' && dns !== undefined && flow.from !== dns
  const lookup = asks
    ? sideOf(manifests, 'egress', { ...flow, to: dns, port: 'udp/53', query: flow.to.name })
    : undefined
  const allowed = egress.allowed && ingress.allowed && (lookup?.allowed ?? true)
  return { allowed, egress, ingress, ...(lookup === undefined ? {} : { lookup }) }
}

type Way = 'ingress' | 'egress'

/** What the policies say that select one end of a flow. */
function sideOf(manifests: Manifest[], way: Way, flow: Flow): Side {
  const [subject, peer] = way === 'egress' ? [flow.from, flow.to] : [flow.to, flow.from]
  if (subject.kind === 'address' || subject.kind === 'name')
    return { allowed: true, by: 'outside of the cluster, where no policy of it counts' }
  const mine = selecting(manifests, way, subject)
  const matching = (section: (typeof sections)[number]) =>
    mine.flatMap(({ manifest, spec }) =>
      (spec[section] ?? [])
        .filter((rule) => portMatches(rule, flow.port) && peerMatches(manifest, rule, way, peer, subject))
        .map((rule) => ({ rule, side: { by: nameOf(manifest.policy), ...manifest.placeOf(rule) } })),
    )
  const denying = matching(`${way}Deny`)
  if (denying.length > 0) return { allowed: false, ...withAlso(denying) }
  const allowing = matching(way)
  if (allowing.length > 0)
    return withNames(
      withAlso(allowing),
      allowing.map(({ rule }) => namesOf(rule, flow.port)),
      flow.query,
    )
  if (way === 'ingress' && subject.kind !== 'node' && peer.here)
    return { allowed: true, by: 'a node always reaches its own pods: the kubelet probes them' }
  const closed = mine.filter(({ spec }) => spec.enableDefaultDeny?.[way] ?? true).at(-1)
  if (closed === undefined) return { allowed: true, by: 'no policy selects it' }
  const { manifest, spec } = closed
  return { allowed: false, by: nameOf(manifest.policy), ...manifest.placeOf(spec[way]?.[0] ?? spec) }
}

interface Selecting {
  manifest: Manifest
  spec: Spec
}
const selected = new WeakMap<Manifest[], Map<string, Selecting[]>>()

/** The policies of a list that are about one end in one direction; a list is asked for many flows of the same ends. */
function selecting(manifests: Manifest[], way: Way, subject: Endpoint): Selecting[] {
  const before = selected.get(manifests) ?? new Map<string, Selecting[]>()
  selected.set(manifests, before)
  const key = `${way} ${subject.name}`
  const found =
    before.get(key) ??
    manifests.flatMap((manifest) =>
      specsOf(manifest.policy)
        .filter((spec) => spec[way] !== undefined || spec[`${way}Deny`] !== undefined)
        .filter((spec) => selects(manifest, spec, subject))
        .map((spec) => ({ manifest, spec })),
    )
  before.set(key, found)
  return found
}

/** The first of several that say the same, with the names of the others. */
function withAlso(found: { side: Omit<Side, 'allowed'> }[]): Omit<Side, 'allowed'> {
  const [first, ...more] = found.map(({ side }) => side)
  const also = [...new Set(more.map(({ by }) => by))].filter((by) => by !== first?.by)
  return { by: '', ...first, ...(also.length === 0 ? {} : { also }) }
}

/** Lists of names add up, and say nothing beside a rule without one. */
function withNames(side: Omit<Side, 'allowed'>, lists: (Names[] | undefined)[], query?: string): Side {
  if (lists.some((list) => list === undefined)) return { allowed: true, ...side }
  const names = lists.flatMap((list) => list ?? [])
  const allowed = query === undefined || names.some((one) => nameMatches(one, query))
  return { allowed, ...side, names }
}

const namesOf = ({ toPorts = [] }: Rule, port: string): Names[] | undefined =>
  toPorts.find(({ ports }) => ports.some((one) => isPort(one, port)))?.rules?.dns

/** Whether a name is one of those: * stands for letters of one label, **. at the beginning for labels. */
export function nameMatches({ matchName, matchPattern = '' }: Names, query: string): boolean {
  const name = query.toLowerCase().replace(/\.$/, '')
  if (matchName !== undefined) return matchName.toLowerCase().replace(/\.$/, '') === name
  if (/^\*+\.?$/.test(matchPattern)) return true
  const pattern = matchPattern
    .toLowerCase()
    .replace(/\.$/, '')
    .replaceAll('.', '[.]')
    .replace(/^\*{2,}\[\.\]/, '([-a-z0-9_]+[.])+')
    .replaceAll(/\*+/g, '[-a-z0-9_]*')
    .replace('([-a-z0-9_][-a-z0-9_]*[.])+', '([-a-z0-9_]+[.])+')
  return new RegExp(`^${pattern}$`).test(name)
}

// Selectors

/** Whether a policy is about an endpoint: pods by their labels, nodes by theirs. */
function selects({ policy }: Manifest, { endpointSelector, nodeSelector }: Spec, subject: Endpoint): boolean {
  if (subject.kind === 'node') return nodeSelector !== undefined && labelsMatch(nodeSelector, subject.labels)
  if (endpointSelector === undefined) return false
  return labelsMatch(within(endpointSelector, policy.metadata.namespace), identityOf(subject, subject))
}

const namespaceLabel = 'io.kubernetes.pod.namespace'

/** A selector of a namespaced policy means pods of its namespace, unless it names one. */
function within(selector: Selector, namespace: string | undefined): Selector {
  return namespace === undefined || mentions(selector, namespaceLabel)
    ? selector
    : { ...selector, matchLabels: { ...selector.matchLabels, [namespaceLabel]: namespace } }
}

const bare = (key: string): string => key.replace(/^(k8s|any|reserved):/, '')
const keysOf = ({ matchLabels = {}, matchExpressions = [] }: Selector): string[] => [
  ...Object.keys(matchLabels),
  ...matchExpressions.map(({ key }) => key),
]
const mentions = (selector: Selector, label: string): boolean =>
  keysOf(selector).some((key) => bare(key) === label)

/** The labels by which policies see an endpoint; nodes differ by whether they are the one where the other end is. */
function identityOf(peer: Endpoint, subject: Endpoint): Record<string, string> {
  const reserved = (...names: string[]) => Object.fromEntries(names.map((name) => [`reserved:${name}`, '']))
  if (peer.kind === 'pod') return peer.labels
  if (peer.kind === 'gateway') return reserved('ingress')
  if (peer.kind === 'health') return reserved('health')
  if (peer.kind !== 'node') return reserved('world')
  const local = subject.kind === 'node' ? subject.host === peer.host : peer.here === true
  return reserved(local ? 'host' : 'remote-node', ...(peer.server ? ['kube-apiserver'] : []))
}

function labelsMatch(
  { matchLabels = {}, matchExpressions = [] }: Selector,
  labels: Record<string, string>,
): boolean {
  const value = (key: string): string | undefined =>
    /^(k8s|reserved):/.test(key)
      ? labels[key]
      : (labels[`k8s:${bare(key)}`] ?? labels[`reserved:${bare(key)}`])
  return (
    Object.entries(matchLabels).every(([key, wanted]) => value(key) === wanted) &&
    matchExpressions.every(({ key, operator, values = [] }) => {
      const found = value(key)
      if (operator === 'Exists') return found !== undefined
      if (operator === 'DoesNotExist') return found === undefined
      const among = found !== undefined && values.includes(found)
      return operator === 'In' ? among : !among
    })
  )
}

/** Whether a rule is about the other end. One without anybody is about all; one without anything is about nobody. */
function peerMatches({ policy }: Manifest, rule: Rule, way: Way, peer: Endpoint, subject: Endpoint): boolean {
  if (Object.keys(rule).length === 0) return false
  const [endpoints, entities, cidrs] =
    way === 'egress'
      ? [rule.toEndpoints, rule.toEntities, rule.toCIDRSet]
      : [rule.fromEndpoints, rule.fromEntities, rule.fromCIDRSet]
  const { toFQDNs } = rule
  if (!endpoints && !entities && !cidrs && !toFQDNs) return true
  const labels = identityOf(peer, subject)
  const { namespace } = policy.metadata
  const selected = (endpoints ?? []).some((selector) => {
    const reserved = keysOf(selector).some((key) => key.startsWith('reserved:'))
    // {} of a clusterwide policy means pods, and not everybody.
    const pods = namespace === undefined && !reserved && !mentions(selector, namespaceLabel)
    if (pods && peer.kind !== 'pod') return false
    return labelsMatch(reserved ? selector : within(selector, namespace), labels)
  })
  return (
    selected ||
    (entities ?? []).some((entity) => isEntity(entity, labels, peer)) ||
    (cidrs ?? []).some(
      ({ cidr, except = [] }) => isIn(peer, cidr) && !except.some((hole) => isIn(peer, hole)),
    ) ||
    (peer.kind === 'name' && (toFQDNs ?? []).some((one) => nameMatches(one, peer.name)))
  )
}

/** Rules with addresses are about what is outside: neither pods nor nodes are meant, whatever address they have. */
const isIn = ({ kind, address = '' }: Endpoint, network: string): boolean =>
  (kind === 'address' || kind === 'name') && inside(network, address)

function isEntity(entity: string, labels: Record<string, string>, { kind }: Endpoint): boolean {
  if (entity === 'all') return true
  if (entity === 'cluster') return kind !== 'address' && kind !== 'name'
  return `reserved:${entity}` in labels
}

// Ports

function portMatches({ toPorts, icmps }: Rule, port: string): boolean {
  if (toPorts === undefined && icmps === undefined) return true
  const [protocol, number] = port.split('/')
  const type = (icmps ?? []).some(({ fields }) => fields.some((one) => `${one.type}` === number))
  return (
    (protocol === 'icmp' && type) ||
    (toPorts ?? []).some(({ ports }) => ports.some((one) => isPort(one, port)))
  )
}

function isPort(
  { port, endPort, protocol = 'ANY' }: { port: string; endPort?: number; protocol?: string },
  flow: string,
) {
  const [name = '', number] = flow.split('/')
  const same = protocol === name.toUpperCase() || (protocol === 'ANY' && name !== 'icmp')
  return same && Number(number) >= Number(port) && Number(number) <= (endPort ?? Number(port))
}

// The whole map

/**
 * Everything that is allowed between two endpoints of a list, on the ports where the second listens. Nodes of a role are one: no
 * policy tells them apart. What leaves a node is no affair of these policies, and is left out.
 */
export function mapOf(manifests: Manifest[], known: Endpoint[]): { flow: Flow; verdict: Verdict }[] {
  const ends = together(known).filter(({ kind }) => kind !== 'health')
  return ends.flatMap((from) =>
    ends.flatMap((to) =>
      from === to || from.kind === 'name' || (isOutside(to) && (isOutside(from) || from.kind === 'node'))
        ? []
        : to.ports
            .map((port): Flow => ({ from, to, port }))
            .map((flow) => ({ flow, verdict: judge(manifests, known, flow) }))
            .filter(({ verdict }) => verdict.allowed),
    ),
  )
}

const isOutside = ({ kind }: Endpoint): boolean => kind === 'address' || kind === 'name'

/** The node that is here, one for the other servers, and one for the agents. */
function together(known: Endpoint[]): Endpoint[] {
  const alike = (one: Endpoint) =>
    known.filter(({ kind, here, server }) => kind === 'node' && here !== true && server === one.server)
  return known.flatMap((one) => {
    if (one.kind !== 'node' || one.here) return [one]
    const [first, ...more] = alike(one)
    const last = more.at(-1)
    return first === one ? [{ ...one, name: last ? `${one.name} … ${last.name}` : one.name }] : []
  })
}
