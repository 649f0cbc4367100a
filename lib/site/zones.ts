// Who may open a connection to whom: router.allow and router.never, compiled into rules for the place where they are enforced.
// One matrix for the router, for each host, and for tests; what renders rules for a firewall reads them from here.
import {
  type Network,
  contains,
  formatAddress,
  overlap,
  parseAddress,
  parseNetwork,
} from '../ground/address.ts'
import { bridgeOf, chosen, isNode, isServer, machineOf, tunnelOf } from './machines.ts'
import type { Allow, MachineSpec, Site } from './model.ts'

/** Addresses that nobody has on the internet: RFC 1122, 1918, 3927, 5771, 6598; of IPv6 all but 2000::/3. */
export const privateNetworks = [
  '0.0.0.0/8',
  '10.0.0.0/8',
  '100.64.0.0/10',
  '127.0.0.0/8',
  '169.254.0.0/16',
  '172.16.0.0/12',
  '192.168.0.0/16',
  '224.0.0.0/3',
  '::/3',
  '4000::/2',
  '8000::/1',
]

/** One end of a rule, as the machine that enforces it sees it. */
export interface End {
  /** The zone through which packets come or go; `self` is the machine itself. */
  zone: string
  /** Networks, addresses and ranges FIRST-LAST that it lies in. Absent: any. */
  within?: string[]
  /** Those that it does not lie in. */
  without?: string[]
}

/** Packets that may open a connection. What belongs to one that is open always passes. */
export interface Rule {
  from: End
  to: End
  /** Absent: any, and any port. */
  protocol?: 'tcp' | 'udp' | 'vrrp'
  /** Ports, and ranges FIRST-LAST. */
  ports?: string[]
  why: string
  /** The line of router.allow that it comes from. Absent: it follows from the site itself, as the port of the tunnel does. */
  line?: number
}

export interface Zone {
  name: string
  /** Addresses that are found there and in no other zone; none for `outside`, which has all that is left. */
  networks: string[]
  /** Interfaces of a host, with a * at the end of a pattern. Those of a router are its own affair. */
  interfaces: string[]
}

export interface Zones {
  /** Where the rules are enforced: the name of a host, or `router`. */
  at: string
  zones: Zone[]
  rules: Rule[]
  /** Networks of the site, wherever they are. */
  ours: string[]
}

/** What a firewall sees of a site. */
export type View = Omit<Zones, 'rules'> & {
  site: Site
  /** The machine, unless it is the router. */
  machine?: MachineSpec
  /** It is what the word `router` means. */
  isRouter: boolean
  /** Its own addresses. */
  own: string[]
}

/**
 * The zones around a firewall, and the rules for it. `at` is the name of a host; without it the rules are those of the router,
 * which is the host of router.at where hosts filter. Throws for a name that is no machine of the site.
 */
export function zonesOf(site: Site, at = site.router.kind === 'host' ? site.router.at : undefined): Zones {
  const view = viewOf(site, at)
  const rules = [...implied(view), ...site.router.allow.flatMap((line, i) => rulesOf(view, line, i))]
  const known = new Map(rules.map((rule) => [JSON.stringify(rule), rule]))
  return { at: view.at, zones: view.zones, ours: view.ours, rules: [...known.values()] }
}

/** What the firewall of a host sees, or that of the router. */
export function viewOf(site: Site, at: string | undefined): View {
  const { networks, tunnel, cluster, router, devices } = site
  const ours = [
    ...networks.map(({ network }) => network),
    ...(tunnel.network === undefined ? [] : [tunnel.network]),
    cluster.pods,
    cluster.services,
  ]
  const outside: Zone = { name: 'outside', networks: [], interfaces: [] }
  if (at === undefined) {
    const device = devices.find(({ name }) => name === router.device)?.address
    const own = [
      device,
      tunnel.at === 'router' ? tunnel.address : undefined,
      ...networks.map((n) => n.gateway),
    ]
    const zones = [...routedBy(site), outside]
    return { at: 'router', site, zones, ours, isRouter: true, own: own.flatMap((one) => one ?? []) }
  }
  const machine = machineOf(site, at)
  const bridge = bridgeOf(site, at)
  const end = tunnelOf(site, machine)
  const zones = [
    ...(bridge ? [{ name: bridge.name, networks: [bridge.network], interfaces: [bridge.bridge.name] }] : []),
    ...(end ? [{ name: 'tunnel', networks: [end.network], interfaces: [end.interface] }] : []),
    // Cilium names the host's ends of pods lxc…, and its own cilium_….
    ...(isNode(machine)
      ? [{ name: 'pods', networks: [cluster.pods, cluster.services], interfaces: ['cilium_*', 'lxc*'] }]
      : []),
    outside,
  ]
  const own = [machine.address, end?.address, bridge && firstOf(bridge.network)].flatMap((one) => one ?? [])
  return { at, site, machine, zones, ours, isRouter: router.kind === 'host', own }
}

/** The zones of a router: each network, with what is behind its machines, and the tunnel where it ends at the router. */
function routedBy({ cluster, machines, networks, tunnel }: Site): Zone[] {
  const homeOf = (addresses: (string | undefined)[]): string | undefined => {
    const one = addresses.find((address = '') => parseAddress(address) !== undefined)
    return networks.find(({ network }) => one !== undefined && inside(network, one))?.name
  }
  const nodes = homeOf([cluster.api?.vip, ...machines.filter(isNode).map(({ address }) => address)])
  const end = homeOf(machines.filter(({ name }) => name === tunnel.at).map(({ address }) => address))
  const peers = tunnel.network === undefined ? [] : [tunnel.network]
  const zones = networks.map(({ name, network }) => ({
    name,
    networks: [
      network,
      ...(name === nodes ? [cluster.pods, cluster.services] : []),
      ...(name === end ? peers : []),
    ],
    interfaces: [],
  }))
  return tunnel.at === 'router' ? [...zones, { name: 'tunnel', networks: peers, interfaces: [] }] : zones
}

/** The address that a host has on its bridge. */
function firstOf(network: string): string | undefined {
  const range = parseNetwork(network)
  return range && formatAddress(range.family, range.first + 1n)
}

/** The addresses from the first to the last of a network, a range FIRST-LAST or an address; undefined for anything else. */
export function spanOf(text: string): Network | undefined {
  const [first = '', last = first] = text.split('-')
  const [from, to] = [parseAddress(first), parseAddress(last)]
  if (from === undefined || to === undefined) return parseNetwork(text)
  return { family: from.family, first: from.value, last: to.value, prefix: 0 }
}

export const inside = (text: string, address: string): boolean => {
  const span = spanOf(text)
  return span !== undefined && contains(span, address)
}

/** Where addresses are: in each zone that has some of them, and outside for the rest. */
function placed({ zones, own }: Pick<View, 'zones' | 'own'>, text: string): End[] {
  if (own.includes(text)) return [{ zone: 'self', within: [text] }]
  const span = spanOf(text)
  if (span === undefined) return []
  const found = zones.flatMap(({ name, networks }) => {
    const ranges = networks.flatMap((network) => spanOf(network) ?? [])
    const whole = ranges.some((range) => range.family === span.family && holds(range, span))
    return ranges.some((range) => overlap(range, span)) ? [{ zone: name, within: [text], whole }] : []
  })
  const ends = found.map(({ zone, within }) => ({ zone, within }))
  return found.some(({ whole }) => whole) ? ends : [...ends, { zone: 'outside', within: [text] }]
}

const holds = (range: Network, span: Network): boolean => range.first <= span.first && range.last >= span.last

/** The ends that a word of the firewall means; none for a word that this site or this machine has no use for. */
export function endsOf(view: View, word: string): End[] {
  const { site, zones, ours, isRouter, machine, own } = view
  const [kind = '', name = ''] = word.split(/:(.*)/)
  const self: End = { zone: 'self' }
  if (word === 'any') return [...zones.map(({ name: zone }) => ({ zone })), self]
  if (word === 'internet') return [{ zone: 'outside', without: privateNetworks }]
  if (word === 'upstream') return [{ zone: 'outside', within: privateNetworks, without: ours }]
  if (word === 'router')
    return isRouter ? [self] : viewOf(site, undefined).own.flatMap((one) => placed(view, one))
  if (word === 'tunnel') return placed(view, site.tunnel.network ?? '')
  if (word === 'pods' || word === 'services') return placed(view, site.cluster[word])
  const machines = (of: MachineSpec[]): End[] =>
    of.flatMap((one) => (one.name === machine?.name ? [self] : placed(view, one.address ?? '')))
  if (word === 'nodes') return machines(site.machines.filter(isNode))
  if (word === 'servers') return machines(site.machines.filter(isServer))
  if (kind === 'machine' && name !== '') return machines(site.machines.filter((one) => one.name === name))
  if (kind === 'device' && name !== '') {
    const address = site.devices.find((one) => one.name === name)?.address ?? ''
    return own.includes(address) ? [self] : placed(view, address)
  }
  if (kind === 'gateway' && name !== '')
    return site.gateways.filter((one) => one.name === name).flatMap(({ address }) => served(view, address))
  if (kind === 'pool' && name !== '')
    return site.networks.flatMap(({ pools }) => {
      const pool = pools?.[name]
      return pool === undefined ? [] : served(view, typeof pool === 'string' ? pool : pool.range)
    })
  const network = site.networks.find((one) => one.name === word)
  if (network === undefined) return placed(view, word)
  // A machine that is in a network of the router is one of those that the name of the network means.
  const member = !isRouter && machine?.address !== undefined && inside(network.network, machine.address)
  return [...placed(view, network.network), ...(member ? [self] : [])]
}

/** Addresses of Services: a node on metal may be the one that answers for them. */
function served(view: View, text: string): End[] {
  const ends = placed(view, text)
  const may = view.machine !== undefined && isNode(view.machine)
  return may && ends.some(({ zone }) => zone === 'outside')
    ? [...ends, { zone: 'self', within: [text] }]
    : ends
}

/** The words of one end of a line. */
export const many = (ends: string | string[]): string[] => (Array.isArray(ends) ? ends : [ends])

/** All the ends of a line, one for each zone where it can be. Both internet and upstream are all outside that is not ours. */
function allEnds(view: View, words: string | string[]): End[] {
  const list = many(words)
  const both = list.includes('internet') && list.includes('upstream')
  const rest = both ? list.filter((word) => word !== 'internet' && word !== 'upstream') : list
  const ends = rest.flatMap((word) => endsOf(view, word))
  return together([...ends, ...(both ? [{ zone: 'outside', without: view.ours }] : [])])
}

/** Ends of one zone that name addresses become one; they say nothing beside an end that is all of the zone. */
function together(ends: End[]): End[] {
  const whole = (end: End) => end.within === undefined && end.without === undefined
  return ends.flatMap((end) => {
    const same = ends.filter(({ zone }) => zone === end.zone)
    if (whole(end)) return same.find(whole) === end ? [end] : []
    if (same.some(whole)) return []
    if (end.without !== undefined) return [end]
    const named = same.filter(({ without }) => without === undefined)
    const within = [...new Set(named.flatMap((one) => one.within ?? []))]
    return named[0] === end ? [{ zone: end.zone, within }] : []
  })
}

/** Ports by protocol, in the order of the line. */
export function portsOf(ports: Allow['ports']): Pick<Rule, 'protocol' | 'ports'>[] {
  if (ports === 'any') return [{}]
  return (['tcp', 'udp'] as const).flatMap((protocol) => {
    const of = ports.filter((port) => port.startsWith(`${protocol}/`)).map((port) => port.slice(4))
    return of.length === 0 ? [] : [{ protocol, ports: of }]
  })
}

function rulesOf(view: View, { from, to, ports, why }: Allow, line: number): Rule[] {
  const sources = allEnds(view, from)
  // Pods leave their node with its address: what it may reach beyond a router, they may.
  const pods = view.zones.some(({ name }) => name === 'pods') && !view.isRouter
  const more = pods && sources.some(({ zone }) => zone === 'self') ? endsOf(view, 'pods') : []
  return [...sources, ...more].flatMap((source) =>
    allEnds(view, to).flatMap((target) =>
      // Nothing passes a router between two addresses of one zone.
      source.zone === target.zone
        ? []
        : portsOf(ports).flatMap((which) => leases({ from: source, to: target, ...which, why, line })),
    ),
  )
}

/** A client without a lease has the address 0.0.0.0: a rule for DHCP asks for the interface only, or for that address too. */
function leases(rule: Rule): Rule[] {
  const { from, to, protocol, ports = [] } = rule
  if (protocol !== 'udp' || !ports.includes('67') || to.zone !== 'self' || from.within === undefined)
    return [rule]
  const rest = ports.filter((port) => port !== '67')
  const source =
    from.zone === 'outside' ? { ...from, within: ['0.0.0.0', ...from.within] } : { zone: from.zone }
  return [...(rest.length === 0 ? [] : [{ ...rule, ports: rest }]), { ...rule, from: source, ports: ['67'] }]
}

/** What a site needs that stands in no line: the port of the tunnel, a host's own needs, and those of the cluster. */
function implied(view: View): Rule[] {
  const { site, machine, zones } = view
  const { tunnel } = site
  const self = { zone: 'self' }
  const end = machine ? tunnelOf(site, machine) !== undefined : tunnel.at === 'router'
  const everywhere = zones.map(({ name }) => ({ zone: name }))
  const peers = { to: self, protocol: 'udp' as const, ports: [String(tunnel.port)], why: 'WireGuard' }
  const door: Rule[] = end ? everywhere.map((from) => ({ from, ...peers })) : []
  if (machine === undefined) return door
  const needs = everywhere.flatMap((to): Rule[] => [
    { from: self, to, protocol: 'udp', ports: ['53', '123'], why: 'names and time' },
    { from: self, to, protocol: 'tcp', ports: ['53', '853', '4460'], why: 'names and time' },
  ])
  const bridge = bridgeOf(site, machine.name)?.name
  const guests: Rule[] =
    bridge === undefined
      ? []
      : [{ from: self, to: { zone: bridge }, why: 'the virtual machines of the host' }]
  return [...door, ...needs, ...guests, ...beside(view, machine), ...membership(view, machine)]
}

/** The network that a machine is in has no router inside: what it may reach there no line says. */
function beside({ site, isRouter }: View, { address = '' }: MachineSpec): Rule[] {
  const own = isRouter ? [] : site.networks.filter(({ network }) => inside(network, address))
  return own.map(({ network }) => ({
    from: { zone: 'self' },
    to: { zone: 'outside', within: [network] },
    why: 'the network that it is in',
  }))
}

/** What one node asks of another. */
export interface Need {
  protocol: 'tcp' | 'udp' | 'vrrp'
  ports?: string[]
  why: string
  /** Pods ask it too. */
  pods?: boolean
  /** Absent: every node. */
  where?: 'on a server' | 'between servers'
}

/**
 * What nodes ask of one another: k3s ("Networking" of its installation requirements, "Embedded Registry Mirror"), Cilium ("System
 * Requirements": which of its overlays is in use is a choice of the network), MetalLB (memberlist), keepalived, Talos ("Network
 * Connectivity").
 */
export function needsOf(site: Site): Need[] {
  const { api, mirror } = site.cluster
  const embedded: Need[] =
    mirror === 'embedded' ? [{ protocol: 'tcp', ports: ['5001', '6443'], why: 'images of its mirror' }] : []
  const metallb = chosen(site, 'load-balancer').includes('metallb')
  const talos: Need[] = site.machines.some(({ os }) => os === 'talos')
    ? [
        { protocol: 'tcp', ports: ['50000'], why: 'the API of Talos' },
        { protocol: 'tcp', ports: ['50001'], why: 'certificates of Talos', where: 'on a server' },
      ]
    : []
  const memberlist = { ports: ['7946'], why: 'MetalLB' }
  return [
    { protocol: 'tcp', ports: ['6443'], why: 'the API', where: 'on a server', pods: true },
    { protocol: 'tcp', ports: ['2379-2380'], why: 'etcd', where: 'between servers' },
    { protocol: 'tcp', ports: ['10250'], why: 'the kubelet', pods: true },
    ...embedded,
    ...talos,
    { protocol: 'udp', ports: ['8472', '51871'], why: 'the overlay of Cilium: VXLAN, WireGuard' },
    { protocol: 'tcp', ports: ['4240', '4244'], why: 'health and Hubble of Cilium', pods: true },
    ...(metallb ? (['tcp', 'udp'] as const).map((protocol) => ({ protocol, ...memberlist })) : []),
    ...(api?.keeper === 'keepalived'
      ? [
          {
            protocol: 'vrrp' as const,
            why: 'who has the address of the API',
            where: 'between servers' as const,
          },
        ]
      : []),
  ]
}

/** What a node on metal, its pods and the other nodes need of one another. */
function membership(view: View, machine: MachineSpec): Rule[] {
  const { site } = view
  if (!isNode(machine)) return []
  const [self, pods] = [{ zone: 'self' }, { zone: 'pods', within: [site.cluster.pods] }]
  const server = isServer(machine)
  const needs = needsOf(site)
  const all = site.machines.filter((one) => isNode(one) && one !== machine)
  const servers = all.filter(isServer)
  const at = (nodes: { address?: string }[]) =>
    together(nodes.flatMap(({ address = '' }) => placed(view, address)))
  const rule = ({ protocol, ports, why }: Need, from: End, to: End): Rule => ({
    from,
    to,
    protocol,
    ...(ports ? { ports } : {}),
    why,
  })
  const asked = needs.filter(({ where }) => where === undefined || server)
  const names: Rule[] = (['tcp', 'udp'] as const).map((protocol) => ({
    from: pods,
    to: self,
    protocol,
    ports: ['53'],
    why: 'names: the cluster asks the resolver of its node',
  }))
  const vip = site.cluster.api?.vip
  return [
    ...asked.filter((need) => need.pods).map((need) => rule(need, pods, self)),
    ...names,
    ...asked.flatMap((need) =>
      at(need.where === 'between servers' ? servers : all).map((from) => rule(need, from, self)),
    ),
    ...needs
      .filter((need) => need.pods)
      .flatMap((need) => at(need.where === undefined ? all : servers).map((to) => rule(need, pods, to))),
    { from: self, to: { zone: 'pods' }, why: 'probes of the kubelet' },
    ...at([...all, ...(vip === undefined ? [] : [{ address: vip }])])
      .filter(({ zone }) => zone !== 'self')
      .map((to) => ({ from: self, to, why: 'the other members, and the address of the API' })),
  ]
}

/** Whether two of these have a port in common: ports, and ranges FIRST-LAST. */
export function portsShared(some: string[], others: string[]): boolean {
  const ranges = (ports: string[]) =>
    ports.map((text) => {
      const [first = NaN, last = first] = text.split('-').map(Number)
      return { first, last }
    })
  return ranges(some).some((one) =>
    ranges(others).some((other) => one.first <= other.last && other.first <= one.last),
  )
}
