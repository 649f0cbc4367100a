// What follows from a site document where it says nothing: networks, addresses, the tunnel, and who may connect to whom.
import { formatAddress, lowestFree, parseNetwork } from '../ground/address.ts'
import { parsed, read } from '../ground/root.ts'
import { bridgeOf, hostOf, isNode, isServer } from './machines.ts'
import type {
  Allow,
  Board,
  Cluster,
  Gateway,
  MachineSpec,
  NetworkSpec,
  Never,
  Router,
  Site,
  SiteDocument,
  Tunnel,
  System,
  Vault,
  Zone,
} from './model.ts'
import { sshPort } from './machines.ts'
import { inside, many, spanOf } from './zones.ts'

/** The network that virtual machines get where the document has none for their host. */
const guests = '10.77.0.0/24'
const tunnelNetwork = '10.66.0.0/24'

/** The first host that has no virtual place itself: what a lone `at` means. */
export const firstHost = ({ machines }: Pick<SiteDocument, 'machines'>): string | undefined =>
  machines.find(({ roles, vm }) => roles.includes('host') && vm === undefined)?.name

/**
 * The site of a document that is free of faults. Nothing that it says is changed; what it leaves out follows from the rest,
 * always in the same way.
 */
export function complete(document: SiteDocument): Site {
  const networks = networksOf(document)
  const found = {
    people: [{ name: 'me', roles: ['owner' as const] }],
    devices: [],
    apps: {},
    gates: [],
    recovery: [],
    accepted: [],
    ...document,
    networks,
    machines: machinesOf(document, networks),
    tunnel: tunnelOf(document),
    cluster: clusterOf(document),
    data: dataOf(document),
  }
  const site = { ...found, ...gatewaysOf(document, found) }
  const router = routerOf(document, site)
  return { ...site, router, names: document.names ?? zonesFor(site, router) }
}

/** Networks of the document, and one for the virtual machines of each host that has none for them. */
function networksOf({ machines, networks = [] }: SiteDocument): NetworkSpec[] {
  const hosts = new Set(
    machines.flatMap(({ vm }) => (machines.some(({ name }) => name === vm?.host) ? (vm?.host ?? []) : [])),
  )
  const without = [...hosts].filter((host) => !networks.some(({ bridge }) => bridge?.at === host))
  const made = without.map((at, i) => ({
    name: i === 0 ? 'guests' : `guests-${at}`,
    network: guests.replace('77', String(77 + i)),
    bridge: { at, name: 'virbr-fort' },
  }))
  return [...networks, ...made]
}

/**
 * A vault of a host of metal. A Raspberry Pi has little memory, and no TPM2. What is bound to its kernel (8, 9) the machine
 * renews by itself, which systemd of Ubuntu 24.04 cannot, and which a PIN forbids.
 */
const vaultOf = (
  board: Board,
  os: System,
  { key_file = false, tpm2_pin = false }: Partial<Vault>,
): Vault => ({
  disk: '',
  name: 'vault',
  kdf_memory_kib: board === 'pc' ? 1048576 : 524288,
  discard: false,
  tpm2_pcrs: board !== 'pc' || key_file ? [] : tpm2_pin || os === 'ubuntu-24.04' ? [7, 14] : [7, 8, 9, 14],
  tpm2_pin,
  key_file,
})

/** Boards, vaults, and addresses: a virtual machine without one gets the lowest that is free, from the second on. */
function machinesOf(document: SiteDocument, networks: NetworkSpec[]): MachineSpec[] {
  const { machines, devices = [], gateways = [], cluster } = document
  const taken = new Set([
    ...[...machines, ...devices, ...gateways].map(({ address }) => address),
    cluster.api?.vip,
    ...networks.map(({ gateway }) => gateway),
  ])
  return machines.map((given) => {
    const board: Board = given.board ?? (given.os === 'raspios-13' ? 'rpi5' : 'pc')
    const { vault, ...rest } = given
    const has = given.roles.includes('host') || vault !== undefined
    const machine = {
      ...rest,
      board,
      ...(has ? { vault: { ...vaultOf(board, given.os, vault ?? {}), ...vault } } : {}),
    }
    const network = networks.find(({ bridge }) => bridge && bridge.at === machine.vm?.host)?.network
    const range = machine.address === undefined && network ? parseNetwork(network) : undefined
    const address = range && lowestFree(range, taken, 2)
    if (address === undefined) return machine
    taken.add(address)
    return { ...machine, address }
  })
}

/** WireGuard on the first host, for one laptop, unless the document says otherwise; none where there is no host. */
function tunnelOf(document: SiteDocument): Tunnel {
  const { tunnel = {} } = document
  const at = firstHost(document)
  const kind = tunnel.kind ?? (at === undefined && tunnel.at === undefined ? 'none' : 'wireguard')
  const said = { interface: 'wg0', port: 51820, peers: [], ...tunnel, kind }
  if (kind !== 'wireguard') return said
  const network = tunnel.network ?? tunnelNetwork
  const range = parseNetwork(network)
  const nth = (n: bigint): string => (range ? formatAddress(range.family, range.first + n) : '')
  const end = tunnel.at ?? at
  return {
    ...said,
    ...(end === undefined ? {} : { at: end }),
    network,
    address: tunnel.address ?? nth(1n),
    peers: tunnel.peers ?? [{ name: 'laptop', address: nth(2n) }],
  }
}

/**
 * One gateway for those in the tunnel. Where the first server is a virtual machine it has an address of that network, from a pool
 * of the document or else from one that is made for it; where the tunnel ends on a node it listens there. Else there is none.
 */
function gatewaysOf(
  { gateways }: SiteDocument,
  site: Pick<Site, 'cluster' | 'devices' | 'machines' | 'networks' | 'tunnel'>,
): Pick<Site, 'gateways' | 'networks'> {
  const { machines, networks, tunnel } = site
  const server = machines.find(isServer)
  if (gateways !== undefined || server === undefined || tunnel.kind !== 'wireguard')
    return { gateways: gateways ?? [], networks }
  const inner: Pick<Gateway, 'name' | 'audience'> = { name: 'inside', audience: ['tunnel'] }
  const end = machines.find(({ name }) => name === tunnel.at)
  if (end !== undefined && isNode(end) && tunnel.address !== undefined)
    return { gateways: [{ ...inner, address: tunnel.address, listen: 'host' }], networks }
  const host = hostOf({ machines }, server)
  const network = host && bridgeOf({ networks }, host.name)
  const address = network && freeFor(network, site)
  if (network === undefined || address === undefined) return { gateways: [], networks }
  const pools = network.pools ?? { web: `${address}-${address}` }
  return {
    gateways: [{ ...inner, address }],
    networks: networks.map((one) => (one.name === network.name ? { ...one, pools } : one)),
  }
}

/** The first free address for Services in a network: of its first pool, or of those from the sixteenth before its end. */
function freeFor(
  { dhcp, network, pools }: NetworkSpec,
  { cluster, devices, machines }: Pick<Site, 'cluster' | 'devices' | 'machines'>,
): string | undefined {
  const whole = parseNetwork(network)
  if (whole === undefined) return undefined
  const taken = new Set([...machines, ...devices].map(({ address }) => address).concat(cluster.api?.vip))
  const [pool] = Object.values(pools ?? {})
  const range = spanOf(typeof pool === 'object' ? pool.range : (pool ?? ''))
  const [from, to] = range ? [range.first, range.last] : [whole.last - 15n, whole.last - 1n]
  for (let value = from > whole.first + 1n ? from : whole.first + 2n; value <= to; value++) {
    const address = formatAddress(whole.family, value)
    if (!taken.has(address) && !(dhcp !== undefined && inside(dhcp, address))) return address
  }
  return undefined
}

/** The zone of a site whose document has none, for whom its gateway is for; none where nobody could answer for it. */
function zonesFor({ gateways: [gateway], name }: Pick<Site, 'gateways' | 'name'>, router: Router): Zone[] {
  if (gateway === undefined || router.kind === 'none') return []
  const { audience, name: points_at } = gateway
  const own = { authority: 'router', writer: 'pages', issuer: 'own-ca' }
  return [{ zone: `${name}.internal`, ...own, audience, points_at }]
}

/** What moves the address of the API: a program of the hosts, or Talos itself. */
function clusterOf({ cluster, machines }: SiteDocument): Cluster {
  const { vip, keeper = machines.some(({ os }) => os === 'talos') ? 'talos' : 'keepalived' } =
    cluster.api ?? {}
  return vip === undefined ? cluster : { ...cluster, api: { ...cluster.api, keeper } }
}

/** The cluster is backed up every night, on its node, unless the document has a row for it. */
function dataOf({ data = {}, machines }: SiteDocument): Site['data'] {
  const nodes = machines.some(({ roles }) => roles.includes('server'))
  const cluster = { what: 'cluster', every: 'daily', copies: 14, to: [], rpo: '24h', rto: '1h' }
  return { classes: [], targets: [], keep: nodes ? [cluster] : [], not: {}, ...data }
}

interface Rules {
  allow: Allow[]
  never: Never[]
}

/** The router; where hosts filter and the document has no lines, those of config/host/allow.yaml that the site has use for. */
function routerOf(
  { router = {} }: SiteDocument,
  site: Pick<Site, 'machines' | 'networks' | 'tunnel'>,
): Router {
  const kind = router.kind ?? (firstHost(site) === undefined ? 'none' : 'host')
  const at = kind === 'host' ? (router.at ?? firstHost(site)) : router.at
  const preset = kind === 'host' ? presetFor(site) : { allow: [], never: [] }
  return { routes: [], forwards: [], ...preset, ...router, kind, ...(at === undefined ? {} : { at }) }
}

function presetFor({ machines, networks, tunnel }: Pick<Site, 'machines' | 'networks' | 'tunnel'>): Rules {
  const bridges = networks.flatMap(({ bridge, name }) => (bridge === undefined ? [] : name))
  const metal = machines.some(({ roles, vm }) => !vm && roles.some((role) => role !== 'host'))
  const words = (ends: string | string[]): string[] =>
    many(ends).flatMap((end) => {
      if (end === 'guests') return bridges
      if ((end === 'nodes' || end === 'pods') && !metal) return []
      return end === 'tunnel' && tunnel.kind === 'none' ? [] : end
    })
  // What the document calls a network is not upstream any more, and still is the network around its hosts.
  const around = networks.flatMap(({ bridge, name }) => (bridge === undefined ? name : []))
  const used = <T extends { from: string | string[]; to: string | string[] }>(lines: T[]): T[] =>
    lines.flatMap((line) => {
      const [from, to] = [words(line.from), words(line.to)]
      const one = (ends: string[]) => (ends.length === 1 ? (ends[0] ?? '') : ends)
      return from.length > 0 && to.length > 0 ? { ...line, from: one(from), to: one(to) } : []
    })
  const { allow, never } = parsed(read('config/host/allow.yaml')) as Rules
  // The one line for SSH of the hosts: wherever sshd listens.
  const doors = machines.flatMap((one) => (one.roles.includes('host') ? `tcp/${sshPort(one)}` : []))
  const atSshd = ({ ports, to }: Allow): Pick<Allow, 'ports'> =>
    ports === 'any' || !many(to).includes('router')
      ? { ports }
      : { ports: [...new Set(ports.flatMap((port) => (port === 'tcp/22' ? doors : port)))] }
  const wider = allow.map((line) => ({
    ...line,
    ...atSshd(line),
    ...(many(line.to).includes('upstream') ? { to: [...many(line.to), ...around] } : {}),
  }))
  return { allow: used(wider), never: used(never) }
}
