// The VPN of admins: where it ends, whose devices connect, and the addresses in it.
import { contains, formatNetwork, parseAddress, parseNetwork, lowestFree } from '../../ground/address.ts'
import type { Problem } from '../../ground/document.ts'
import { nearest } from '../../ground/nearest.ts'
import { endProblem } from './ends.ts'
import {
  type Claim,
  type Document,
  couldBeHost,
  entries,
  hasRole,
  isAccepted,
  machinesOf,
  present,
  repeated,
  machinesAreKnown,
  unknown,
} from './parts.ts'

/** Faults of the tunnel of a document. */
export function* tunnelProblems(document: Document): Generator<Problem> {
  const { tunnel } = document
  yield* placeProblems(document)
  yield* endProblems(document)
  yield* addressProblems(document)
  for (const [path, end] of entries(['tunnel', 'routes'], tunnel?.routes)) {
    const problem = endProblem(document, end)
    if (problem) yield { path, ...problem }
  }
  const people = (document.people ?? []).map((person) => person?.name)
  const peers = entries(['tunnel', 'peers'], tunnel?.peers)
  yield* repeated(peers.map(([at, { name }]): Claim => [[...at, 'name'], name]))
  if (document.people === undefined || people.includes(undefined)) return
  for (const [at, peer] of peers) {
    const path = [...at, 'person']
    yield* unknown(path, peer.person, people, 'is nobody of people')
  }
}

function* placeProblems(document: Document): Generator<Problem> {
  const { router, tunnel } = document
  if (tunnel === undefined) return
  if (tunnel.in === 'cluster' && !isAccepted(document, 'tunnel:in-cluster'))
    yield {
      path: ['tunnel', 'in'],
      reason:
        'is cluster: who is away could not mend a cluster that is down. Say so under accepted: what: tunnel:in-cluster',
    }
  if (tunnel.kind !== 'wireguard') return
  const path = ['tunnel', 'at']
  const hosts = machinesOf(document).flatMap(([, machine]) => (couldBeHost(machine) ? machine.name : []))
  if (tunnel.at === 'router') {
    const speaks = router?.kind === undefined || ['routeros', 'opnsense'].includes(router.kind)
    if (!speaks)
      yield {
        path,
        reason: `is router, and router.kind is ${router.kind}: nothing there speaks WireGuard for us`,
        suggestion: hosts[0],
      }
  } else if (tunnel.at !== undefined && machinesAreKnown(document) && !hosts.includes(tunnel.at))
    yield {
      path,
      reason: 'must be a host of this site, or router',
      suggestion: nearest(tunnel.at, present([...hosts, 'router'])),
    }
  if (!('at' in tunnel) && hosts.length === 0 && machinesAreKnown(document))
    yield {
      path,
      reason:
        'is missing: no machine here is a host, where WireGuard could end; say router where a router does',
    }
  if (tunnel.peers?.length === 0) yield { path: ['tunnel', 'peers'], reason: 'is empty: nobody could enter' }
}

/** Each host has its own end of the tunnel. */
function* endProblems(document: Document): Generator<Problem> {
  const { tunnel } = document
  const hosts = machinesOf(document).filter(([, machine]) => hasRole(machine, 'host'))
  if (tunnel?.kind !== 'wireguard') return
  if (tunnel.at === 'router') {
    for (const [at, machine] of machinesOf(document))
      if ('tunnel_address' in machine)
        yield { path: [...at, 'tunnel_address'], reason: 'has no effect: the tunnel ends at the router' }
    return
  }
  const main = hosts.find(([, { name }]) => name !== undefined && name === tunnel.at)
  if (main === undefined) return
  if ('tunnel_address' in main[1])
    yield {
      path: [...main[0], 'tunnel_address'],
      reason: 'is that of the host of tunnel.at, which tunnel.address says',
    }
  const network = parseNetwork(tunnel.network ?? '')
  const taken = claimsOf(document).map(([, address]) => address)
  for (const [at, machine] of hosts) {
    if (machine === main[1] || 'tunnel_address' in machine) continue
    const free = network && lowestFree(network, taken)
    taken.push(free)
    yield {
      path: [...at, 'tunnel_address'],
      reason: `is missing: once its firewall is up, ${machine.name} is reached through the tunnel only`,
      suggestion: free,
    }
  }
}

const claimsOf = (document: Document): Claim[] => [
  [['tunnel', 'address'], document.tunnel?.address],
  ...entries(['tunnel', 'peers'], document.tunnel?.peers).map(([at, { address }]): Claim => [
    [...at, 'address'],
    address,
  ]),
  ...machinesOf(document).map(([at, machine]): Claim => [[...at, 'tunnel_address'], machine.tunnel_address]),
]

function* addressProblems(document: Document): Generator<Problem> {
  const inside = parseNetwork(document.tunnel?.network ?? '')
  const claims = claimsOf(document)
  yield* repeated(claims)
  for (const [path, address] of claims) {
    if (address === undefined || inside === undefined || inside.prefix > 30) continue
    const value = parseAddress(address)?.value
    const none = 'address of tunnel.network, which no machine can have'
    if (!contains(inside, address))
      yield { path, reason: `is outside tunnel.network ${formatNetwork(inside)}` }
    else if (value === inside.first) yield { path, reason: `is the network ${none}` }
    else if (value === inside.last) yield { path, reason: `is the broadcast ${none}` }
  }
}
