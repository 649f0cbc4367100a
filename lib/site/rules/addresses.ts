// Addresses: networks that do not overlap, ranges inside of them, and every address in its place and only once.
import { type Network, formatNetwork, overlap, parseAddress, parseNetwork } from '../../ground/address.ts'
import type { Path, Problem } from '../../ground/document.ts'
import {
  type Claim,
  type Document,
  type Entry,
  type Machine,
  type NetworkPart,
  type Range,
  couldBeHost,
  entries,
  hasRole,
  homeOf,
  isNode,
  lies,
  machinesAreKnown,
  machinesOf,
  devicesOf,
  meet,
  networksOf,
  poolRange,
  rangeOf,
  repeated,
  unknown,
} from './parts.ts'

// Networks nobody on the internet can own (RFC 1918, RFC 6598): any other would hide real hosts.
const privateNetworks = ['10.0.0.0/8', '172.16.0.0/12', '192.168.0.0/16', '100.64.0.0/10']
const within = (a: Range, b: Range): boolean => a.first >= b.first && a.last <= b.last

/** Faults of the networks of a document, and of the addresses in them. */
export function* addressProblems(document: Document): Generator<Problem> {
  yield* repeated(networksOf(document).map(([at, { name }]): Claim => [[...at, 'name'], name]))
  yield* spaceProblems(document)
  for (const entry of networksOf(document)) {
    yield* networkProblems(entry)
    yield* bridgeProblems(document, entry)
  }
  const pools = networksOf(document).flatMap(([at, { pools }]) =>
    Object.keys(pools ?? {}).map((name): Claim => [[...at, 'pools', name], name]),
  )
  for (const problem of repeated(pools)) yield { ...problem, atKey: true }
  yield* missingProblems(document)
  for (const entry of machinesOf(document)) yield* homeProblems(document, entry)
  for (const [at, { address }] of devicesOf(document))
    yield* strayProblems(document, [...at, 'address'], address)
  yield* takenProblems(document)
}

/** Every space of addresses: private, large enough, and apart from the others. */
function* spaceProblems(document: Document): Generator<Problem> {
  const { cluster, tunnel } = document
  const named: [Path, string, string | undefined][] = [
    ...networksOf(document).map(([at, { name, network }]): [Path, string, string | undefined] => [
      [...at, 'network'],
      `networks.${name ?? '?'}`,
      network,
    ]),
    [['tunnel', 'network'], 'tunnel.network', tunnel?.network],
    [['cluster', 'pods'], 'cluster.pods', cluster?.pods],
    [['cluster', 'services'], 'cluster.services', cluster?.services],
  ]
  const seen: [string, Network][] = []
  for (const [path, name, text] of named) {
    const network = parseNetwork(text ?? '')
    if (network?.family !== 4) continue
    const other = seen.find(([, before]) => overlap(network, before))
    if (network.prefix > 30)
      yield { path, reason: 'has no room for two machines: the prefix length is at most 30' }
    else if (!privateNetworks.some((all) => within(network, parseNetwork(all)!)))
      yield { path, reason: `is not a part of a private network (${privateNetworks.join(', ')})` }
    else if (other) yield { path, reason: `overlaps ${other[0]} ${formatNetwork(other[1])}` }
    seen.push([name, network])
  }
}

/** The ranges of a network: inside of it, and apart from each other. */
function* networkProblems([at, part]: Entry<NetworkPart>): Generator<Problem> {
  const network = parseNetwork(part.network ?? '')
  if ('ipv6' in part) yield { path: [...at, 'ipv6'], reason: 'is not rendered yet: leave it out' }
  if (network === undefined || network.prefix > 30) return
  const { gateway } = part
  if (gateway !== undefined && !within(rangeOf(gateway) ?? network, inner(network)))
    yield { path: [...at, 'gateway'], reason: `is no address of a machine in ${part.network}` }
  const seen: [string, Range][] = []
  for (const [path, name, range] of rangesOf([at, part])) {
    const other = seen.find(([, before]) => meet(before, range))
    if (!within(range, inner(network))) yield { path, reason: `is not inside ${part.network}` }
    else if (other) yield { path, reason: `overlaps ${other[0]}: two would give away one address` }
    seen.push([name, range])
  }
}

/** The addresses that a machine can have: without the first and the last. */
const inner = ({ first, last }: Range): Range => ({ first: first + 1n, last: last - 1n })

/** What is given away in a network: to whom asks for it by DHCP, and to Services. */
function rangesOf([at, { dhcp, name, pools }]: Entry<NetworkPart>): [Path, string, Range, 'dhcp' | 'pool'][] {
  const lent = rangeOf(dhcp)
  const lists = Object.entries(pools ?? {}).flatMap(([pool, value]) => {
    const range = rangeOf(poolRange(value))
    return range
      ? [[[...at, 'pools', pool], `the pool ${pool}`, range, 'pool'] as [Path, string, Range, 'pool']]
      : []
  })
  return [
    ...(lent
      ? [[[...at, 'dhcp'], `the DHCP range of ${name}`, lent, 'dhcp'] as [Path, string, Range, 'dhcp']]
      : []),
    ...lists,
  ]
}

function* bridgeProblems(
  document: Document,
  [at, { bridge, name, network }]: Entry<NetworkPart>,
): Generator<Problem> {
  if (bridge?.at === undefined) return
  const machines = machinesOf(document)
  const hosts = machines.filter(([, machine]) => couldBeHost(machine))
  const hostNames = hosts.map(([, host]) => host.name)
  if (machinesAreKnown(document))
    yield* unknown([...at, 'bridge', 'at'], bridge.at, hostNames, 'is no host of this site')
  const first = networksOf(document).find(([, other]) => other.bridge?.at === bridge.at)
  if (first && first[0][1] !== at[1]) {
    const reason = `is ${bridge.at}, which has the bridge of ${first[1].name} already: a host has one for its virtual machines`
    yield { path: [...at, 'bridge', 'at'], reason }
    return
  }
  if (bridge.name !== undefined && bridge.name === document.tunnel?.interface)
    yield { path: [...at, 'bridge', 'name'], reason: 'is the name of tunnel.interface too' }
  const range = rangeOf(network)
  if (!hosts.some(([, { name: host, vm }]) => host === bridge.at && vm === undefined)) return
  for (const [place, machine] of machines) {
    const path = [...place, 'address']
    const inside = lies(machine.address, range)
    if (machine.name === bridge.at && inside && !machine.vm)
      yield { path, reason: `is inside ${name}, which is behind this machine` }
    else if (machine.vm?.host === bridge.at && machine.address !== undefined && range && !inside)
      yield { path, reason: `is outside ${name} ${network}, which is behind ${bridge.at}` }
    else if (machine.vm?.host !== bridge.at && inside)
      yield {
        path,
        reason: `lies in ${name}, a bridge of ${bridge.at}, and ${machine.name} is no virtual machine of ${bridge.at}`,
      }
  }
}

function* missingProblems(document: Document): Generator<Problem> {
  const machines = machinesOf(document)
  const hosts = machines.filter(([, machine]) => hasRole(machine, 'host'))
  const nodes = machines.filter(([, machine]) => isNode(machine))
  for (const [at, machine] of machines) {
    const path = [...at, 'address']
    const { address, name } = machine
    if (!('address' in machine) && hosts.length > 1 && hasRole(machine, 'host'))
      yield { path, reason: 'is missing: FK_HOST names one machine, and several here have the role host' }
    else if (!('address' in machine) && nodes.length > 1 && isNode(machine) && !machine.vm)
      yield { path, reason: `is missing: the other nodes of the cluster find ${name} by it` }
    else if (
      address !== undefined &&
      nodes.length > 1 &&
      isNode(machine) &&
      parseAddress(address) === undefined
    )
      yield { path, reason: `is a name: the other nodes of the cluster find ${name} by an IP address` }
  }
}

/** Whether networks of the document are more than what is behind bridges: then every address is in one. */
const hasPlan = (document: Document): boolean =>
  networksOf(document).some(([, { bridge, network }]) => bridge === undefined && network !== undefined)

/** Whether every network is sound: one that is wrong may be where an address lies. */
const networksAreKnown = ({ networks = [] }: Document): boolean =>
  networks.every((one) => (parseNetwork(one?.network ?? '')?.prefix ?? 32) <= 30)

function* strayProblems(document: Document, path: Path, address: string | undefined): Generator<Problem> {
  if (address === undefined || rangeOf(address) === undefined || !networksAreKnown(document)) return
  if (hasPlan(document) && homeOf(document, address) === undefined)
    yield { path, reason: 'lies in no network of this site' }
}

function* homeProblems(
  document: Document,
  [at, { address, interfaces }]: Entry<Machine>,
): Generator<Problem> {
  const path = [...at, 'address']
  for (const [place, one] of entries([...at, 'interfaces'], interfaces)) {
    const there = networksOf(document).find(([, { name }]) => name === one.network)?.[1].network
    if (one.address !== undefined && there !== undefined && !lies(one.address, rangeOf(there)))
      yield { path: [...place, 'address'], reason: `is outside ${one.network} ${there}` }
  }
  yield* strayProblems(document, path, address)
  const home = homeOf(document, address)
  const network = rangeOf(home?.network)
  if (home === undefined || network === undefined) return
  if (!lies(address, inner(network)))
    yield { path, reason: `is the first or the last address of ${home.name}, which no machine can have` }
  else if (address === home.gateway) yield { path, reason: `is the gateway of ${home.name}` }
  else if (home.bridge && lies(address, { first: network.first + 1n, last: network.first + 1n }))
    yield { path, reason: `is the address of the bridge of ${home.bridge.at}` }
}

interface Owner {
  path: Path
  address: string
  kind: 'machine' | 'leased' | 'device' | 'vip' | 'gateway' | 'app'
}

function ownersOf(document: Document): Owner[] {
  const { apps, cluster, gateways } = document
  const own = (path: Path, address: string | undefined, kind: Owner['kind']): Owner[] =>
    address === undefined ? [] : [{ path: [...path, 'address'], address, kind }]
  const vip = cluster?.api?.vip
  return [
    ...machinesOf(document).flatMap(([at, { address, interfaces, mac }]) => [
      ...own(at, address, mac === undefined ? 'machine' : 'leased'),
      ...entries([...at, 'interfaces'], interfaces).flatMap(([path, one]) =>
        own(path, one.address, 'machine'),
      ),
    ]),
    ...devicesOf(document).flatMap(([at, { address }]) => own(at, address, 'device')),
    ...entries(['gateways'], gateways).flatMap(([at, { address, listen }]) =>
      listen === 'host' ? [] : own(at, address, 'gateway'),
    ),
    ...Object.entries(apps ?? {}).flatMap(([group, list]) =>
      entries(['apps', group], list).flatMap(([at, app]) =>
        typeof app === 'object' && typeof app['address'] === 'string' ? own(at, app['address'], 'app') : [],
      ),
    ),
    ...(vip === undefined ? [] : [{ path: ['cluster', 'api', 'vip'], address: vip, kind: 'vip' as const }]),
  ]
}

function* takenProblems(document: Document): Generator<Problem> {
  const fixed = 'a lease by MAC is fixed outside of it'
  const owners = ownersOf(document)
  // Behind one address there can be several machines, each at an SSH port of its own.
  const port = ({ path }: Owner): string => {
    const own =
      path.length === 3 && path[0] === 'machines' ? document.machines?.[Number(path[1])]?.ssh_port : undefined
    return own === undefined || own === 22 ? '' : ` port ${own}`
  }
  yield* repeated(owners.map((owner): Claim => [owner.path, `${owner.address}${port(owner)}`]))
  for (const entry of networksOf(document))
    for (const [, name, range, kind] of rangesOf(entry))
      for (const { path, address, kind: whose } of owners) {
        if (!lies(address, range)) continue
        if (kind === 'pool' && ['machine', 'leased', 'device', 'vip'].includes(whose))
          yield { path, reason: `lies in ${name}: a Service may be given it` }
        // A gateway that its pool and DHCP claim is a fault of the pool, which is reported.
        if (kind === 'dhcp' && whose !== 'gateway')
          yield {
            path,
            reason: `lies in ${name}: ${whose === 'leased' ? fixed : 'somebody else may be given it'}`,
          }
      }
}
