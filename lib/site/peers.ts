// The devices that may enter, as lines of the site document: one more, one less, and every comment stays.
import { lowestFree, parseNetwork } from '../ground/address.ts'
import { edited } from '../ground/edited.ts'
import { Fault } from '../ground/fault.ts'
import { nearest } from '../ground/nearest.ts'
import type { Peer, Site } from './model.ts'

/** The site document with one more peer, and its address: the lowest that is free. Comments and order stay. */
export function withPeer(text: string, site: Site, name: string): { text: string; peer: Peer } {
  if (!/^[a-z0-9]([a-z0-9-]{0,13}[a-z0-9])?$/.test(name))
    throw new Fault(`'${name}' cannot be the name of a peer: use at most 15 of a-z, 0-9 and -`)
  const { network = '', address, peers } = site.tunnel
  const same = peers.find((peer) => peer.name === name)
  if (same)
    throw new Fault(`there is a peer ${name} already (${same.address})`, { next: `./task peer show ${name}` })
  const range = parseNetwork(network)
  if (!range) throw new TypeError(`${network} is not a network`)
  const taken = [address, ...peers.map((p) => p.address), ...site.machines.map((m) => m.tunnel_address)]
  const free = lowestFree(range, taken)
  if (free === undefined) throw new Fault(`${network} has no free address left for ${name}`)
  const peer = { name, address: free }
  const add = (document: import('yaml').Document): void => {
    const flow = (one: Peer) => Object.assign(document.createNode(one), { flow: true })
    // A document that names no peer has the one that it gets by default.
    if (!document.hasIn(['tunnel', 'peers'])) document.setIn(['tunnel', 'peers'], document.createNode([]))
    const list = document.getIn(['tunnel', 'peers']) as import('yaml').YAMLSeq
    if (list.items.length === 0) for (const one of peers) list.add(flow(one))
    list.add(flow(peer))
  }
  return { text: edited(text, add), peer }
}

/** The site document without the peer. Refuses to take the last one. */
export function withoutPeer(text: string, site: Site, name: string): string {
  const names = site.tunnel.peers.map((peer) => peer.name)
  const at = names.indexOf(name)
  if (at < 0) {
    const near = nearest(name, names)
    throw new Fault(
      `there is no peer ${name}: ${names.join(', ')}`,
      near ? { next: `did you mean ${near}?` } : {},
    )
  }
  if (names.length === 1)
    throw new Fault(`${name} is the only peer: without it nobody could enter`, {
      next: './task peer add NAME first',
    })
  return edited(text, (document) => void document.deleteIn(['tunnel', 'peers', at]))
}
