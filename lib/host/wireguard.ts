// The devices that may enter: their keys on the laptop, their lines in the site document, their files and QR codes.
import { randomBytes } from 'node:crypto'
import { existsSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { isIPv6 } from 'node:net'
import { join } from 'node:path'
import { contains, formatAddress, parseHost, parseNetwork } from '../ground/address.ts'
import { Fault } from '../ground/fault.ts'
import { placeholder, publicKey } from '../ground/keys.ts'
import { nearest } from '../ground/nearest.ts'
import { type SecretStore, land } from '../ground/secret.ts'
import type { Config, Peer, Site } from '../site/model.ts'

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
export const hostKey = 'wg-host'
export const peerKey = (peer: string): string => `wg-peer-${peer}`
export const pskKey = (peer: string): string => `wg-psk-${peer}`

/** The public half of a stored key pair, or its placeholder. `state` is the site's directory on the laptop. */
export function publicHalf(state: string, name: string): string {
  const path = join(state, `${name}.pub`)
  return existsSync(path) ? readFileSync(path, 'utf8').trim() : placeholder(name)
}

/** Peers of the site that have no keys on this laptop yet. */
export function keyless(state: string, peers: readonly Peer[]): string[] {
  const all = ({ name }: Peer) => [`${hostKey}.pub`, `${peerKey(name)}.pub`, `${pskKey(name)}.age`]
  return peers
    .filter((peer) => !all(peer).every((file) => existsSync(join(state, file))))
    .map((peer) => peer.name)
}

export interface Keys {
  /** The peer's private key. */
  own: string
  preshared: string
  /** The host's public key. */
  host: string
}

/** The keys of a peer; what is not there yet is made, and so is the host's. */
export async function keysOf(store: SecretStore, state: string, peer: string): Promise<Keys> {
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
  const host = publicKey(await pair(hostKey))
  const own = await pair(peerKey(peer))
  const preshared = (await store.get(pskKey(peer), presharedKey)).reveal().trim()
  return { own, preshared, host }
}

/** What a device needs to enter, for wg-quick and the WireGuard apps. `endpoint` is host:port. */
export function clientFile(site: Site, peer: Peer, keys: Keys, endpoint: string): string {
  const inside = [site.tunnel.network, ...(site.nodes ? [site.nodes.network] : [])]
  return `# ${peer.name} enters ${site.name} with this file. Whoever holds it can enter: keep it as you keep a key.
[Interface]
PrivateKey = ${keys.own}
Address = ${peer.address}/32

[Peer]
PublicKey = ${keys.host}
PresharedKey = ${keys.preshared}
Endpoint = ${endpoint}
AllowedIPs = ${inside.join(', ')}
PersistentKeepalive = 25
`
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
  const { network, address, peers } = site.tunnel
  const same = peers.find((peer) => peer.name === name)
  if (same)
    throw new Fault(`there is a peer ${name} already (${same.address})`, { next: `./task peer show ${name}` })
  const range = parseNetwork(network)
  if (!range) throw new TypeError(`${network} is not a network`)
  const taken = new Set([
    address,
    ...peers.map((p) => p.address),
    ...site.machines.map((m) => m.tunnel_address),
  ])
  // The first and the last address of an IPv4 network are not for machines.
  let next = range.first + 1n
  while (taken.has(formatAddress(range.family, next))) next += 1n
  if (next >= range.last) throw new Fault(`${network} has no free address left for ${name}`)
  const peer = { name, address: formatAddress(range.family, next) }
  const add = (document: import('yaml').Document): void => {
    const item = document.createNode(peer)
    item.flow = true
    document.addIn(['tunnel', 'peers'], item)
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
  return edited(text, (document) => document.deleteIn(['tunnel', 'peers', at]))
}

/** The document after a change, with its comments. Long lines stay long. */
function edited(text: string, change: (document: import('yaml').Document) => void): string {
  const { parseDocument } = load('yaml') as typeof import('yaml')
  const document = parseDocument(text)
  change(document)
  // The library has its own taste in spaces: a line that says the same stands as it stood.
  const same = (line: string) => /^ */.exec(line)![0] + line.replaceAll(/\s/g, '')
  const stood = new Map(text.split('\n').map((line) => [same(line), line]))
  const lines = document.toString({ lineWidth: 0 }).split('\n')
  return lines.map((line) => stood.get(same(line)) ?? line).join('\n')
}

/** Where devices find the host: what --endpoint last said, or the address that SSH uses. */
export function endpointOf({ env, site }: Config, state: string, said?: string): string {
  const stored = join(state, 'endpoint')
  const host =
    said ??
    (existsSync(stored) ? readFileSync(stored, 'utf8').trim() : undefined) ??
    publicAddress(env.FK_HOST, site)
  if (host === undefined)
    throw new Fault(`nothing says where devices find ${site.name}`, {
      next: 'set FK_HOST, or give the address or name once: ./task peer show NAME --endpoint vpn.example.net',
    })
  const address = parseHost(host)
  if (!('kind' in address) || address.kind !== 'ssh' || address.user !== undefined)
    throw new Fault(`--endpoint ${host} is not HOST or HOST:PORT (IPv6 in brackets)`)
  const range = parseNetwork(site.tunnel.network)
  if (range && contains(range, address.host))
    throw new Fault(`${address.host} is inside the tunnel: nobody outside finds the host there`, {
      next: 'give its public address or name: ./task peer show NAME --endpoint vpn.example.net',
    })
  return `${isIPv6(address.host) ? `[${address.host}]` : address.host}:${address.port ?? site.tunnel.port}`
}

function publicAddress(fkHost: string | undefined, site: Site): string | undefined {
  const own = site.machines.find((machine) => machine.roles.includes('host'))?.address
  if (own !== undefined) return isIPv6(own) ? `[${own}]` : own
  const parsed = fkHost === undefined ? undefined : parseHost(fkHost)
  if (!parsed || !('kind' in parsed) || parsed.kind !== 'ssh') return undefined
  return isIPv6(parsed.host) ? `[${parsed.host}]` : parsed.host
}
