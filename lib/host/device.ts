// The file with which a device enters: which networks it sends through the tunnel, its text, its QR code.
import { createRequire } from 'node:module'
import { isIPv4 } from 'node:net'
import { join } from 'node:path'
import { content } from '../engine/file.ts'
import { Fault } from '../ground/fault.ts'
import { land } from '../ground/secret.ts'
import { bridgeOf, clientPath } from '../site/machines.ts'
import type { MachineSpec, Peer, Site } from '../site/model.ts'
import { type Keys, type Place, endpointsOf, endsOf, keyless, keysOf, laptopOf } from './wireguard.ts'

const load = createRequire(import.meta.url)

/**
 * Networks of the site, or addresses in them, that lines of router.allow let the tunnel into beyond a host: behind no bridge, but
 * behind a router. Not one with the endpoint in it: WireGuard would send its own packets into itself. Nothing translates
 * addresses on the way, so they answer only where their router has a route back to the tunnel: the file says so.
 */
function beyond(site: Site, host: MachineSpec, endpoint = ''): string[] {
  const { inside, zonesOf } = load('../site/zones.ts') as typeof import('../site/zones.ts')
  const around = site.networks.filter(
    ({ bridge, network }) => !bridge && !inside(network, endpoint.replace(/:\d+$/, '')),
  )
  const found = zonesOf(site, host.name).rules.flatMap(({ from, line, to }) => {
    if (line === undefined || from.zone !== 'tunnel' || to.zone !== 'outside' || to.without) return []
    return around.flatMap(({ network }) =>
      (to.within ?? [network]).flatMap((text) => {
        const [first = '', last = first] = text.split(/[-/]/)
        const whole =
          text === network || (text.includes('-') && inside(network, first) && inside(network, last))
        if (whole) return network
        return isIPv4(text) && inside(network, text) ? `${text}/32` : []
      }),
    )
  })
  return [...new Set(found)].filter(
    (text) => !text.endsWith('/32') || !found.some((one) => one !== text && inside(one, text.slice(0, -3))),
  )
}

const routeBack = (site: Site, host: MachineSpec, tunnel: string, further: string[]): string =>
  site.router.kind === 'host' || site.router.kind === 'none'
    ? `# ${further.join(', ')}: answers come back only where the router there has a route to ${tunnel} by ` +
      `${host.address ?? host.name}.\n`
    : ''

/**
 * What a device needs to enter, for wg-quick and the WireGuard apps: one peer for each host where the tunnel ends. `endpoints`
 * gives host:port of each host by its name.
 */
export function clientFile(site: Site, peer: Peer, keys: Keys, endpoints: Record<string, string>): string {
  const ends = endsOf(site)
  const sections = ends.map(({ host, end }) => {
    const behind = bridgeOf(site, host.name)
    const further = host.name === site.tunnel.at ? beyond(site, host, endpoints[host.name]) : []
    // A host that is the only one is reached with the whole network of the tunnel, as long as there is no other.
    const allowed = [
      ends.length > 1 ? `${end.address}/32` : end.network,
      ...(behind ? [behind.network] : []),
      ...further,
    ]
    const back = further.length > 0 ? routeBack(site, host, end.network, further) : ''
    return content(peer.name, {
      from: 'config/host/wireguard-device-peer.conf',
      values: {
        peer: `${back}[Peer]${ends.length > 1 ? ` # ${host.name}` : ''}`,
        public: keys.hosts[end.key] ?? '',
        preshared: keys.preshared,
        endpoint: endpoints[host.name] ?? '',
        allowed: allowed.join(', '),
      },
    })
  })
  return content(peer.name, {
    from: 'config/host/wireguard-device.conf',
    values: {
      name: peer.name,
      site: site.name,
      private: keys.own,
      address: peer.address,
      peers: sections.join('\n').trimEnd(),
    },
  })
}

/**
 * Writes the client file of a peer, with mode 600, and makes the keys that are missing; `said` is the endpoint of --endpoint.
 * Resolves to its text. Rejects with a Fault, before anything is made, where nothing says where devices find a host.
 */
export async function writeClient(
  { site, env, state, secrets }: Place,
  peer: Peer,
  said?: string,
): Promise<string> {
  const endpoints = endpointsOf({ site, env }, state, said)
  const keys = await keysOf(secrets, state, site, peer.name)
  const text = clientFile(site, peer, keys, endpoints)
  if (said !== undefined) await land(join(state, 'endpoint'), `${said}\n`, true)
  await land(clientPath(state, peer.name), text, true)
  return text
}

/**
 * Makes the keys of every peer that has none yet. Where the laptop is among them, its client file is written too; where nothing
 * says how a device finds the host (the pages run on the host itself), `./task peer show` asks for that.
 */
export async function makeKeys(place: Place): Promise<void> {
  const { site, state, secrets } = place
  const missing = keyless(state, site)
  for (const name of missing) await keysOf(secrets, state, site, name)
  const laptop = laptopOf(site)
  if (laptop !== undefined && missing.includes(laptop.name))
    await writeClient(place, laptop).catch((error: unknown) => {
      if (!(error instanceof Fault)) throw error
    })
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
