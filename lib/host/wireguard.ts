// The devices that may enter: their keys on the laptop, their lines in the site document, their files and QR codes.
import { randomBytes } from 'node:crypto'
import { existsSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { isIPv6 } from 'node:net'
import { join } from 'node:path'
import { contains, parseHost, parseNetwork, lowestFree } from '../ground/address.ts'
import { edited } from '../ground/edited.ts'
import { Fault } from '../ground/fault.ts'
import { placeholder, publicKey } from '../ground/keys.ts'
import { nearest } from '../ground/nearest.ts'
import { type SecretStore, land } from '../ground/secret.ts'
import { type TunnelEnd, bridgeOf, tunnelOf } from '../site/machines.ts'
import type { Config, MachineSpec, Peer, Site } from '../site/model.ts'

const load = createRequire(import.meta.url)

/** A new WireGuard private key, as `wg genkey` makes it: 32 random bytes, clamped as Curve25519 asks, in base64. */
export function privateKey(): string {
  const bytes = randomBytes(32)
  bytes[0] = bytes[0]! & 0b1111_1000
  bytes[31] = (bytes[31]! & 0b0111_1111) | 0b0100_0000
  return bytes.toString('base64')
}

/** A new preshared key, as `wg genpsk` makes it. */
export const presharedKey = (): string => randomBytes(32).toString('base64')

/** Names of the files that hold a key pair (NAME.age, NAME.pub) and a preshared key (NAME.age). */
export const peerKey = (peer: string): string => `wg-peer-${peer}`
export const pskKey = (peer: string): string => `wg-psk-${peer}`

/** The public half of a stored key pair, or its placeholder. `state` is the site's directory on the laptop. */
export function publicHalf(state: string, name: string): string {
  const path = join(state, `${name}.pub`)
  return existsSync(path) ? readFileSync(path, 'utf8').trim() : placeholder(name)
}

/** The ends of the tunnel on hosts of the site, each with the host that it is on. */
export const endsOf = (site: Site): { host: MachineSpec; end: TunnelEnd }[] =>
  site.machines.flatMap((host) => {
    const end = host.roles.includes('host') ? tunnelOf(site, host) : undefined
    return end === undefined ? [] : { host, end }
  })

/** Peers of the site that have no keys on this laptop yet, for themselves and for the hosts that they enter. */
export function keyless(state: string, site: Site): string[] {
  const hosts = endsOf(site).map(({ end }) => `${end.key}.pub`)
  const all = ({ name }: Peer) => [...hosts, `${peerKey(name)}.pub`, `${pskKey(name)}.age`]
  return site.tunnel.peers
    .filter((peer) => !all(peer).every((file) => existsSync(join(state, file))))
    .map((peer) => peer.name)
}

export interface Keys {
  /** The peer's private key. */
  own: string
  preshared: string
  /** The public key of each host, by the name of its key pair. */
  hosts: Record<string, string>
}

/** The keys of a peer; what is not there yet is made, and so are those of the hosts. */
export async function keysOf(store: SecretStore, state: string, site: Site, peer: string): Promise<Keys> {
  const pair = async (name: string): Promise<string> => {
    const secret = (await store.get(name, privateKey)).reveal().trim()
    const half = publicKey(secret)
    await land(join(state, `${name}.pub`), `${half}\n`, false)
    if (publicHalf(state, name) !== half)
      throw new Fault(`${name}.pub in ${state} does not belong to ${name}.age`, {
        next: 'restore the two from one backup; neither is replaced by itself',
      })
    return secret
  }
  const hosts: Record<string, string> = {}
  for (const { end } of endsOf(site)) hosts[end.key] = publicKey(await pair(end.key))
  const own = await pair(peerKey(peer))
  const preshared = (await store.get(pskKey(peer), presharedKey)).reveal().trim()
  return { own, preshared, hosts }
}

/**
 * What a device needs to enter, for wg-quick and the WireGuard apps: one peer for each host where the tunnel ends. `endpoints`
 * gives host:port of each host by its name.
 */
export function clientFile(site: Site, peer: Peer, keys: Keys, endpoints: Record<string, string>): string {
  const ends = endsOf(site)
  const sections = ends.map(({ host, end }) => {
    const behind = bridgeOf(site, host.name)
    // A host that is the only one is reached with the whole network of the tunnel, as long as there is no other.
    const inside = [ends.length > 1 ? `${end.address}/32` : end.network, ...(behind ? [behind.network] : [])]
    return `
[Peer]${ends.length > 1 ? ` # ${host.name}` : ''}
PublicKey = ${keys.hosts[end.key]}
PresharedKey = ${keys.preshared}
Endpoint = ${endpoints[host.name]}
AllowedIPs = ${inside.join(', ')}
PersistentKeepalive = 25
`
  })
  return `# ${peer.name} enters ${site.name} with this file. Whoever holds it can enter: keep it as you keep a key.
[Interface]
PrivateKey = ${keys.own}
Address = ${peer.address}/32
${sections.join('')}`
}

/** A QR code of half blocks, black on white whatever the colours of the terminal are. */
export function qr(text: string): string {
  const { encode } = load('uqr') as typeof import('uqr')
  const { data } = encode(text, { ecc: 'L', border: 2 })
  const lines: string[] = []
  for (let y = 0; y < data.length; y += 2) {
    const blocks = data[y]!.map((top, x) => {
      const bottom = data[y + 1]?.[x] ?? false
      return top ? (bottom ? '█' : '▀') : bottom ? '▄' : ' '
    })
    lines.push(`\x1b[30;107m${blocks.join('')}\x1b[0m\n`)
  }
  return lines.join('')
}

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

/**
 * Where devices find each host where the tunnel ends, by its name. That of `tunnel.at` is what --endpoint last said, or the
 * address that SSH uses; the others have their address in the site document.
 */
export function endpointsOf(config: Config, state: string, said?: string): Record<string, string> {
  const { site, env } = config
  if (endsOf(site).length === 0)
    throw new Fault(
      `the tunnel of ${site.name} ends at no host of it: ${site.tunnel.kind} at ${site.tunnel.at ?? 'no machine'}`,
      {
        next: 'the pages that set up a tunnel on a router or in the cluster are not built yet: use its own tools',
      },
    )
  const stored = join(state, 'endpoint')
  const chosen = said ?? (existsSync(stored) ? readFileSync(stored, 'utf8').trim() : undefined)
  return Object.fromEntries(
    endsOf(site).map(({ host, end }) => {
      const main = host.name === site.tunnel.at
      return [
        host.name,
        endpoint(end, host.name, (main ? chosen : undefined) ?? publicAddress(env.FK_HOST, host, main)),
      ]
    }),
  )
}

function endpoint({ network, port }: TunnelEnd, name: string, host: string | undefined): string {
  if (host === undefined)
    throw new Fault(`nothing says where devices find ${name}`, {
      next: 'set FK_HOST, or give the address or name once: ./task peer show NAME --endpoint vpn.example.net',
    })
  const address = parseHost(host)
  if (!('kind' in address) || address.kind !== 'ssh' || address.user !== undefined)
    throw new Fault(`--endpoint ${host} is not HOST or HOST:PORT (IPv6 in brackets)`)
  const range = parseNetwork(network)
  if (range && contains(range, address.host))
    throw new Fault(`${address.host} is inside the tunnel: nobody outside finds ${name} there`, {
      next: 'give its public address or name: ./task peer show NAME --endpoint vpn.example.net',
    })
  return `${isIPv6(address.host) ? `[${address.host}]` : address.host}:${address.port ?? port}`
}

/** The address of the document; of the only host, or the one of tunnel.at, else that of FK_HOST. */
function publicAddress(
  fkHost: string | undefined,
  { address }: MachineSpec,
  main: boolean,
): string | undefined {
  if (address !== undefined) return isIPv6(address) ? `[${address}]` : address
  const parsed = !main || fkHost === undefined ? undefined : parseHost(fkHost)
  if (!parsed || !('kind' in parsed) || parsed.kind !== 'ssh') return undefined
  return isIPv6(parsed.host) ? `[${parsed.host}]` : parsed.host
}
