// The network policies of a site: what policies.yaml of each component says, filled in with what the site says, in an order in
// which they can be applied one by one. It hides the templates, and how lines of router.allow become rules of Cilium.
import { existsSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { formatNetwork } from '../ground/address.ts'
import { read, root } from '../ground/root.ts'
import type { Catalogue } from '../site/catalogue.ts'
import { bridgeOf, chosen, hostOf, isNode, isServer } from '../site/machines.ts'
import type { MachineSpec, Site } from '../site/model.ts'
import {
  type End,
  type Rule as ZoneRule,
  type View,
  endsOf,
  inside,
  needsOf,
  privateNetworks,
  spanOf,
  viewOf,
  zonesOf,
} from '../site/zones.ts'

const load = createRequire(import.meta.url)

export interface Selector {
  matchLabels?: Record<string, string>
  matchExpressions?: {
    key: string
    operator: 'In' | 'NotIn' | 'Exists' | 'DoesNotExist'
    values?: string[]
  }[]
}

export interface CidrRule {
  cidr: string
  except?: string[]
}

/** A name, or a pattern of names. */
export interface Names {
  matchName?: string
  matchPattern?: string
}

export interface Port {
  port: string
  endPort?: number
  protocol?: string
}

/** One entry of ingress, egress, ingressDeny or egressDeny: the part of Cilium's language that this kit writes. */
export interface Rule {
  fromEndpoints?: Selector[]
  toEndpoints?: Selector[]
  fromEntities?: string[]
  toEntities?: string[]
  fromCIDRSet?: CidrRule[]
  toCIDRSet?: CidrRule[]
  toFQDNs?: Names[]
  toPorts?: { ports: Port[]; rules?: { dns?: Names[] } }[]
  icmps?: { fields: { family?: string; type: number }[] }[]
}

export const sections = ['ingress', 'egress', 'ingressDeny', 'egressDeny'] as const

/** What a policy says of the pods, or nodes, that it selects. */
export interface Spec extends Partial<Record<(typeof sections)[number], Rule[]>> {
  description?: string
  endpointSelector?: Selector
  nodeSelector?: Selector
  enableDefaultDeny?: { ingress?: boolean; egress?: boolean }
}

/** A policy as the API server takes it. */
export interface Policy {
  apiVersion: string
  kind: 'CiliumNetworkPolicy' | 'CiliumClusterwideNetworkPolicy'
  metadata: { name: string; namespace?: string }
  spec?: Spec
  specs?: Spec[]
}

export interface Manifest {
  /** Whose directory it comes from. */
  component: string
  policy: Policy
  /** Where a rule, or a spec, is written: file:line, and the line of router.allow that it was made from. */
  placeOf: (part: Rule | Spec) => { at: string; why?: string }
}

export const specsOf = ({ spec, specs = [] }: Policy): Spec[] => [...(spec ? [spec] : []), ...specs]

/** The name of a policy, with its namespace where it has one. */
export const nameOf = ({ metadata: { name, namespace } }: Policy): string =>
  namespace === undefined ? name : `${namespace}/${name}`

/** The components of a site that have network policies: those that it chose, or that come where nothing is chosen. */
export const componentsOf = (site: Site, catalogue: Catalogue): string[] =>
  [...catalogue.values()].flatMap(({ name, slots, on_request: onRequest }) => {
    const taken = slots.filter((slot) => chosen(site, slot).length > 0)
    const used = (taken.length === 0 && !onRequest) || taken.some((slot) => chosen(site, slot).includes(name))
    return used && existsSync(join(root, fileOf(name))) ? [name] : []
  })

/** Whose pods are there before a page installs any: they come with the cluster, or with its network. */
export const withCluster = ['cilium', 'coredns', 'metrics-server']

/** Components that have policies and that no page installs yet: these are applied to no cluster. */
export const notInstalled = (manifests: readonly Manifest[], catalogue: Catalogue): string[] =>
  [...new Set(manifests.map(({ component }) => component))].filter(
    (name) => !withCluster.includes(name) && !catalogue.get(name)?.built,
  )

const fileOf = (component: string): string => `config/components/${component}/policies.yaml`

/**
 * Every network policy of a site in the order in which they are applied, the same each time; none for a site without a cluster.
 * Whatever all of them together allow, every first part of the list allows, too. Throws TypeError where a file and the values do
 * not fit, and a Fault for a provider of names whose API is not known.
 */
export function policiesFor(site: Site, catalogue: Catalogue): Manifest[] {
  if (!site.machines.some(isServer)) return []
  const values = valuesOf(site)
  // By role and not by name: of a node's labels Cilium leaves out what begins with kubernetes.io, its name among it.
  const roles = [
    { role: 'servers', is: 'Exists', nodes: site.machines.filter(isServer) },
    {
      role: 'agents',
      is: 'DoesNotExist',
      nodes: site.machines.filter((one) => isNode(one) && !isServer(one)),
    },
  ].flatMap(({ nodes, ...values }) =>
    nodes.length === 0 ? [] : [{ ...values, doors: doorsOf(site, nodes) }],
  )
  const all = componentsOf(site, catalogue).flatMap((component) =>
    documentsOf(component).flatMap((document) =>
      (document.names.has('role') ? roles : [{}]).flatMap((more) =>
        filled(component, document, { ...values, ...more }),
      ),
    ),
  )
  return [0, 1, 2, 3, 4].flatMap((stage) => all.filter(({ policy }) => stageOf(policy) === stage))
}

/**
 * When a policy can be applied. A list of names denies the others at once, so whoever has one of its own gets it before all pods
 * get theirs; then what allows and denies nothing else; then what denies the rest to one component, and has what that needs;
 * then what is never allowed; at last the deny for everybody.
 */
function stageOf(policy: Policy): number {
  const specs = specsOf(policy)
  const rules = specs.flatMap((spec) => sections.flatMap((section) => spec[section] ?? []))
  if (rules.every((rule) => Object.keys(rule).length === 0)) return 4
  if (specs.some(({ ingressDeny, egressDeny }) => ingressDeny ?? egressDeny)) return 3
  if (specs.every(({ enableDefaultDeny }) => enableDefaultDeny !== undefined)) return 1
  return rules.some(({ toPorts = [] }) => toPorts.some(({ rules: names }) => names?.dns)) ? 0 : 2
}

/** The text of a policy for kubectl; `label` is the value of fortress-kit, by which the page that applies it finds it again. */
export const textOf = (
  { policy: { apiVersion, kind, metadata, ...rest } }: Manifest,
  label: string,
): string =>
  (load('yaml') as typeof import('yaml')).stringify(
    { apiVersion, kind, metadata: { ...metadata, labels: { 'fortress-kit': label } }, ...rest },
    {
      lineWidth: 0,
      singleQuote: true,
      aliasDuplicateObjects: false,
    },
  )

// Templates

type Value = string | readonly unknown[]
type Values = Record<string, Value>

interface Document {
  value: unknown
  /** The names of values in it. */
  names: Set<string>
  /** The line of a map or list item, by its path. */
  lines: Map<string, number>
}

const template = /\{\{ (\w+) \}\}/g

function namesIn(value: unknown): Set<string> {
  return new Set([...JSON.stringify(value).matchAll(template)].map(([, name]) => name ?? ''))
}

/** The documents of a component's policies.yaml. */
function documentsOf(component: string): Document[] {
  const yaml = load('yaml') as typeof import('yaml')
  const counter = new yaml.LineCounter()
  const documents = yaml.parseAllDocuments(read(fileOf(component)), { lineCounter: counter })
  return documents.map((document) => {
    const [fault] = document.errors
    if (fault) throw new TypeError(`${fileOf(component)}: ${fault.message}`)
    const lines = new Map<string, number>()
    const visit = (node: unknown, path: string): void => {
      if (yaml.isNode(node) && node.range) lines.set(path, counter.linePos(node.range[0]).line)
      if (yaml.isSeq(node)) node.items.forEach((item, i) => visit(item, `${path}/${i}`))
      if (yaml.isMap(node))
        for (const { key, value } of node.items)
          visit(value, `${path}/${String((key as { value: unknown }).value)}`)
    }
    visit(document.contents, '')
    const value: unknown = document.toJS()
    return { value, names: namesIn(value), lines }
  })
}

/** A document with its values; nothing when no rule is left of it. */
function filled(component: string, { value, lines }: Document, values: Values): Manifest[] {
  const file = fileOf(component)
  const places = new Map<unknown, string>()
  const fill = (part: unknown, known: Values, path: string): unknown => {
    if (typeof part === 'string') return textWith(part, known, file)
    if (Array.isArray(part)) return part.flatMap((item, i) => items(item, known, `${path}/${i}`))
    if (typeof part !== 'object' || part === null) return part
    const made = Object.fromEntries(
      Object.entries(part).flatMap(([key, item]) => {
        const found = fill(item, known, `${path}/${key}`)
        const gone =
          (sections as readonly string[]).includes(key) && Array.isArray(found) && found.length === 0
        return gone ? [] : [[key, found]]
      }),
    )
    places.set(made, `${file}:${lines.get(path)}`)
    return made
  }
  // An item that names a list stands for one of each; a rule that names one without anything in it is left out.
  const items = (item: unknown, known: Values, path: string): unknown[] => {
    const names = [...namesIn(item)]
    const list = (name: string): readonly unknown[] | undefined =>
      Array.isArray(known[name]) ? (known[name] as readonly unknown[]) : undefined
    if (/\/(ingress|egress)(Deny)?\/\d+$/.test(path) && names.some((name) => list(name)?.length === 0))
      return []
    const own = [...namesIn(outsideLists(item))].find((name) => list(name) !== undefined)
    if (own === undefined) return [fill(item, known, path)]
    return (list(own) ?? []).map((one) => {
      const made = fill(item, { ...known, [own]: one as Value }, path)
      if (typeof made === 'object' && !places.has(made)) places.set(made, `${file}:${lines.get(path)}`)
      return made
    })
  }
  const policy = fill(value, values, '') as Policy
  if (specsOf(policy).every((spec) => sections.every((section) => spec[section] === undefined))) return []
  const placeOf = (part: Rule | Spec) => {
    const why = reasons.get(part)
    return { at: places.get(part) ?? file, ...(why === undefined ? {} : { why }) }
  }
  return [{ component, policy, placeOf }]
}

/** A value without what is in lists of it. */
function outsideLists(value: unknown): unknown {
  if (Array.isArray(value)) return []
  if (typeof value !== 'object' || value === null) return value
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, outsideLists(item)]))
}

function textWith(text: string, known: Values, file: string): unknown {
  const whole = /^\{\{ (\w+) \}\}$/.exec(text)?.[1]
  const of = (name: string): Value => {
    const value = known[name]
    if (value === undefined) throw new TypeError(`${file} asks for {{ ${name} }}, which has no value`)
    return value
  }
  return whole === undefined ? text.replace(template, (_, name: string) => String(of(name))) : of(whole)
}

// What the site says

/** Why a rule is there that was made from a line of the site document. */
const reasons = new WeakMap<object, string>()

function valuesOf(site: Site): Values {
  const needs = needsOf(site)
  const ports = (of: typeof needs) =>
    of.flatMap(({ protocol, ports: list = ['0'] }) => list.map((one) => portOf(one, protocol)))
  return {
    audience: audienceOf(site),
    private: privateOf(site),
    resolvers: resolversOf(site),
    nodePorts: ports(needs.filter(({ where }) => where === undefined)),
    serverPorts: ports(needs.filter(({ where }) => where !== undefined)),
    ...authoritiesOf(site),
  }
}

/** A port, or a range FIRST-LAST. What has no ports, as VRRP, has 0. */
function portOf(text: string, protocol: string): Port {
  const [port = '', end] = text.split('-')
  return { port, ...(end === undefined ? {} : { endPort: Number(end) }), protocol: protocol.toUpperCase() }
}

/**
 * Whom cert-manager reaches for authorities outside: a rule for each of them and of what proves a zone; and the names that it
 * asks for, those of the zones with what may lie above them.
 */
function authoritiesOf(site: Site): { asked: Names[]; signing: Rule[] } {
  const { issuersOf } = load('./issuers.ts') as typeof import('./issuers.ts')
  const outside = issuersOf(site).flatMap(({ acme, zones }) => (acme ? { acme, zones } : []))
  const zones = outside.flatMap((one) => one.zones)
  const ends = outside.flatMap(({ acme }) => acme.reaches)
  const signing = ends.map(({ host, port, protocols }): Rule => {
    const to = spanOf(host) ? { toCIDRSet: [{ cidr: `${host}/32` }] } : { toFQDNs: [{ matchName: host }] }
    const rule = { ...to, toPorts: [{ ports: protocols.map((protocol) => ({ port: `${port}`, protocol })) }] }
    reasons.set(rule, 'components.certificates')
    return rule
  })
  const above = (zone: string): string[] => {
    const parent = zone.slice(zone.indexOf('.') + 1)
    return parent.includes('.') ? [zone, ...above(parent)] : [zone]
  }
  const named = [...ends.map(({ host }) => host).filter((host) => !spanOf(host)), ...zones.flatMap(above)]
  return {
    asked: [
      ...[...new Set(named)].map((matchName) => ({ matchName })),
      ...[...new Set(zones)].map((zone) => ({ matchPattern: `**.${zone}` })),
    ],
    signing: signing.filter(
      (one, i) => signing.findIndex((other) => JSON.stringify(other) === JSON.stringify(one)) === i,
    ),
  }
}

const isIPv4 = (text: string): boolean => !text.includes(':')

/** Whether the first of two networks lies in the other. */
function within(some: string, other: string): boolean {
  const [one, whole] = [spanOf(some), spanOf(other)]
  if (one === undefined || whole === undefined) return false
  return one.family === whole.family && one.first >= whole.first && one.last <= whole.last
}

/** Networks that together are an address, a network, or a range FIRST-LAST. */
function networksOf(text: string): string[] {
  const span = spanOf(text)
  if (span === undefined || span.family !== 4) return []
  const found: string[] = []
  for (let { first } = span; first <= span.last;) {
    let prefix = 32
    while (prefix > 0) {
      const size = 1n << BigInt(33 - prefix)
      if (first % size !== 0n || first + size - 1n > span.last) break
      prefix--
    }
    found.push(formatNetwork({ family: 4, first, last: first, prefix }))
    first += 1n << BigInt(32 - prefix)
  }
  return found
}

/** Where packets of these ends come from, or go to. Cilium's rules for addresses leave out pods and nodes by themselves. */
function cidrsOf(ends: End[], { zones, own }: Pick<View, 'zones' | 'own'>): CidrRule[] {
  const all = ends.flatMap(({ zone, within: some, without = [] }): CidrRule[] => {
    const list =
      some ??
      (zone === 'self'
        ? own
        : zone === 'outside'
          ? ['0.0.0.0/0']
          : zones.find((one) => one.name === zone)?.networks)
    return (list ?? []).flatMap(networksOf).flatMap((cidr) => {
      if (without.some((hole) => within(cidr, hole))) return []
      const except = without.filter((hole) => isIPv4(hole) && within(hole, cidr)).flatMap(networksOf)
      return [except.length === 0 ? { cidr } : { cidr, except }]
    })
  })
  const whole = all.filter(({ except }) => except === undefined)
  return all.filter(
    (one, i) =>
      !whole.some((other) => other !== one && other.cidr !== one.cidr && within(one.cidr, other.cidr)) &&
      all.findIndex((other) => JSON.stringify(other) === JSON.stringify(one)) === i,
  )
}

/** Who may use the gateways of the site; without any: who is in the tunnel. */
function audienceOf(site: Site): CidrRule[] {
  const view = viewOf(site, site.router.kind === 'host' ? site.router.at : undefined)
  const web = site.gateways.filter(({ kind = 'http' }) => kind === 'http')
  const words = site.gateways.length === 0 ? ['tunnel'] : web.flatMap(({ audience }) => audience)
  return cidrsOf(
    [...new Set(words)].flatMap((word) => endsOf(view, word)),
    view,
  )
}

/** Networks that no pod reaches: private ones and those of the site, but for what lines of router.allow open to nodes there. */
function privateOf(site: Site): CidrRule[] {
  const at = site.router.kind === 'host' ? site.router.at : undefined
  const some = [...privateNetworks, ...viewOf(site, at).ours].filter(isIPv4)
  const closed = some.filter(
    (one, i) => !some.some((other, j) => i !== j && within(one, other) && (one !== other || j < i)),
  )
  const except = [...new Set(openedTo(site).flatMap(networksOf))]
  return closed
    .flatMap((one) => networksOf(one))
    .map((cidr) => {
      const holes = except.filter((hole) => within(hole, cidr))
      return holes.length === 0 ? { cidr } : { cidr, except: holes }
    })
}

/** Addresses in private networks that lines of router.allow open to pods, by the rules that count. */
const openedTo = (site: Site, counts: (rule: ZoneRule) => boolean = () => true): string[] =>
  site.machines
    .filter(isNode)
    .flatMap(({ name }) => zonesOf(site, name).rules)
    .filter(({ from, to, line }) => line !== undefined && from.zone === 'pods' && to.zone === 'outside')
    .filter(counts)
    .flatMap(({ to }) => to.within ?? [])
    .filter((one) => !privateNetworks.includes(one))

/** Whom CoreDNS may ask outside of the cluster: the world, and what in a private network may be the resolver of a node. */
function resolversOf(site: Site): CidrRule[] {
  const hosts = site.machines.filter(isNode).flatMap((machine) => {
    const host = hostOf(site, machine)
    const bridge = host && bridgeOf(site, host.name)
    return host && bridge ? ownOn(viewOf(site, host.name), bridge.network) : []
  })
  const around = site.networks.flatMap(({ network, gateway }) =>
    site.machines.some((one) => isNode(one) && inside(network, one.address ?? '')) ? (gateway ?? []) : [],
  )
  const asked = openedTo(site, ({ ports }) => ports === undefined || ports.includes('53'))
  const near = [...new Set([...hosts, ...around, ...asked])].flatMap(networksOf).map((cidr) => ({ cidr }))
  return [{ cidr: '0.0.0.0/0', except: privateNetworks.filter(isIPv4) }, ...near]
}

/** Rules for what the site opens on nodes, one for each line of router.allow; what it opens on one of them, all of them have. */
function doorsOf(site: Site, nodes: MachineSpec[]): Rule[] {
  const all = new Map<string, Rule>()
  for (const node of nodes)
    for (const rule of doorsOn(site, node)) {
      const key = `${reasons.get(rule)} ${JSON.stringify(rule)}`
      if (!all.has(key)) all.set(key, rule)
    }
  return [...all.values()]
}

/** What the site opens on a node; for a virtual machine the lines that lead to it from its host, and beyond. */
function doorsOn(site: Site, machine: MachineSpec): Rule[] {
  const host = hostOf(site, machine)
  const at = host?.name ?? machine.name
  const view = viewOf(site, at)
  const bridge = host && bridgeOf(site, host.name)
  const own = host ? [machine.address ?? ''] : view.own
  const leads = ({ to }: ZoneRule): boolean =>
    to.zone === (bridge?.name ?? 'self') &&
    (to.within === undefined || to.within.some((text) => own.some((address) => inside(text, address))))
  const isDoor = ({ from, ports = [] }: Pick<ZoneRule, 'from' | 'ports'>) =>
    from.within === undefined && ports.includes(`${site.tunnel.port}`)
  // What nodes and pods ask of a node is in config/components/cilium/policies.yaml: to Cilium they have no addresses.
  const counts = ({ from, line, protocol, ports = [] }: ZoneRule): boolean =>
    from.zone !== 'pods' && (line !== undefined || (host ? protocol === undefined : isDoor({ from, ports })))
  const rules = zonesOf(site, at).rules.filter((rule) => leads(rule) && counts(rule))
  const key = ({ line, why, protocol, ports }: ZoneRule) => JSON.stringify([line, why, protocol, ports])
  return [...new Set(rules.map(key))].flatMap((one) => {
    const same = rules.filter((rule) => key(rule) === one)
    const [{ protocol, ports, why, line }] = same as [ZoneRule]
    const from = cidrsOf(
      same.map((rule) => rule.from),
      { zones: view.zones, own: ownOn(view, bridge?.network) },
    )
    if (from.length === 0 || protocol === 'vrrp') return []
    const rule: Rule = {
      fromCIDRSet: from,
      ...(protocol && ports ? { toPorts: [{ ports: ports.map((port) => portOf(port, protocol)) }] } : {}),
    }
    reasons.set(rule, line === undefined ? why : `router.allow[${line}]: ${why}`)
    return [rule]
  })
}

/** The addresses of a host in the network of its virtual machines: from there it asks them. */
const ownOn = ({ own }: View, network: string | undefined): string[] =>
  network === undefined ? own : own.filter((address) => inside(network, address))

/** Whether the firewall of servers, as these policies have it, lets an address of IPv4 in at a port of TCP. */
export function letsIn(manifests: readonly Manifest[], address: string, port: number): boolean {
  const covers = ({ cidr, except = [] }: CidrRule) =>
    inside(cidr, address) && !except.some((hole) => inside(hole, address))
  const has = ({ port: first, endPort = Number(first), protocol = 'TCP' }: Port) =>
    protocol === 'TCP' && Number(first) <= port && port <= endPort
  return manifests
    .flatMap(({ policy }) => specsOf(policy))
    .filter(
      ({ nodeSelector }) =>
        nodeSelector !== undefined && !JSON.stringify(nodeSelector).includes('DoesNotExist'),
    )
    .flatMap(({ ingress = [] }) => ingress)
    .some(
      ({ fromCIDRSet = [], toPorts }) =>
        fromCIDRSet.some(covers) && (toPorts === undefined || toPorts.some(({ ports }) => ports.some(has))),
    )
}
