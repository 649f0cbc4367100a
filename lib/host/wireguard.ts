// The devices that may enter: their keys on the laptop, and where they find the hosts.
import { randomBytes } from 'node:crypto'
import { createRequire } from 'node:module'
import { existsSync, readFileSync } from 'node:fs'
import { isIPv6 } from 'node:net'
import { join } from 'node:path'
import { contains, parseAddress, parseNetwork } from '../ground/address.ts'
import { Fault } from '../ground/fault.ts'
import { placeholder, publicKey } from '../ground/keys.ts'
import { shown } from '../ground/wrap.ts'
import { type Secrets, land } from '../ground/secret.ts'
import { type TunnelEnd, clientPath, tunnelOf } from '../site/machines.ts'
import type { Config, MachineSpec, Peer, Site } from '../site/model.ts'

const load = createRequire(import.meta.url)
const names = () => load('../ground/hostname.ts') as typeof import('../ground/hostname.ts')

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
export async function keysOf(secrets: Secrets, state: string, site: Site, peer: string): Promise<Keys> {
  const pair = async (name: string): Promise<string> => {
    const secret = (await secrets(name, privateKey).resolve()).trim()
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
  const preshared = (await secrets(pskKey(peer), presharedKey).resolve()).trim()
  return { own, preshared, hosts }
}

/** What the client file of a peer is made from, and where it lies. */
export interface Place extends Pick<Config, 'site' | 'env'> {
  /** The site's directory on the laptop. */
  state: string
  secrets: Secrets
}

/** The first peer of a site is the laptop that its pages run on. */
export const laptopOf = (site: Site): Peer | undefined => site.tunnel.peers[0]

/** How the laptop comes into the tunnel: what to type, and what is to be known about it. */
export function enter({ site, env, state }: Omit<Place, 'secrets'>): string {
  const laptop = laptopOf(site)
  if (laptop === undefined) return './task peer add NAME'
  const path = clientPath(state, laptop.name)
  const [phone] = site.tunnel.peers.slice(1)
  return [
    ...(existsSync(path) || (keyless(state, site).includes(laptop.name) && found({ site, env }, state))
      ? []
      : [`./task peer show ${laptop.name}${found({ site, env }, state) ? '' : ' --endpoint HOST'}`]),
    `sudo wg-quick up ${shown(path)}`,
    'on the laptop, with wireguard-tools installed',
    `a phone scans it: ./task peer show ${(phone ?? laptop).name} --qr`,
    'The file holds a private key in clear (mode 600).',
  ].join('\n')
}

/** Whether an endpoint is known under which devices reach the hosts. */
function found(config: Pick<Config, 'site' | 'env'>, state: string): boolean {
  try {
    return Object.keys(endpointsOf(config, state)).length > 0
  } catch (error) {
    if (error instanceof Fault) return false
    throw error
  }
}

/**
 * Where devices find each host where the tunnel ends, by its name. That of `tunnel.at` is what --endpoint last said, or the
 * address that SSH uses; the others have their address in the site document.
 */
export function endpointsOf(
  { site, env }: Pick<Config, 'site' | 'env'>,
  state: string,
  said?: string,
): Record<string, string> {
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
        endpoint(end, host.name, (main ? chosen : undefined) ?? publicAddress(env, host, main)),
      ]
    }),
  )
}

function endpoint({ network, port }: TunnelEnd, name: string, host: string | undefined): string {
  if (host === undefined)
    throw new Fault(`nothing says where devices find ${name}`, {
      next:
        'set FK_HOST to what devices reach without another machine in between, or give the address or name once: ' +
        './task peer show NAME --endpoint vpn.example.net',
    })
  const address = names().parseHost(host)
  if (!('kind' in address) || address.kind !== 'ssh' || address.user !== undefined)
    throw new Fault(`--endpoint ${host} is not HOST or HOST:PORT (IPv6 in brackets)`)
  const range = parseNetwork(network)
  if (range && contains(range, address.host))
    throw new Fault(`${address.host} is inside the tunnel: nobody outside finds ${name} there`, {
      next: 'give its public address or name: ./task peer show NAME --endpoint vpn.example.net',
    })
  return `${isIPv6(address.host) ? `[${address.host}]` : address.host}:${address.port ?? port}`
}

/**
 * The address of the document; of the only host, or the one of tunnel.at, else that of FK_HOST, which may be an alias of ssh.
 * What is reached through another machine has none that devices could use.
 */
function publicAddress(
  { FK_HOST, FK_SSH_CONFIG }: Pick<Config['env'], 'FK_HOST' | 'FK_SSH_CONFIG'>,
  { address }: MachineSpec,
  main: boolean,
): string | undefined {
  if (address !== undefined) return isIPv6(address) ? `[${address}]` : address
  const parsed = !main || FK_HOST === undefined ? undefined : names().parseHost(FK_HOST)
  if (!parsed || !('kind' in parsed) || parsed.kind !== 'ssh') return undefined
  const { settingsOf, wayOf } = load('../ground/ssh.ts') as typeof import('../ground/ssh.ts')
  const settings = parseAddress(parsed.host)
    ? {}
    : settingsOf(parsed.host, FK_SSH_CONFIG ? ['-F', FK_SSH_CONFIG] : [])
  const host = settings['hostname'] ?? parsed.host
  if (wayOf(settings) !== undefined) return undefined
  return isIPv6(host) ? `[${host}]` : host
}
