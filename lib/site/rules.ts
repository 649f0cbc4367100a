// What no schema can say: how the parts of a site, and those of a pin, fit together.
import {
  type Network,
  contains,
  formatNetwork,
  overlap,
  parseAddress,
  parseNetwork,
} from '../ground/address.ts'
import { type Partially, type Path, type Problem, pathText, show } from '../ground/document.ts'
import type { PerArch, Pins, Site } from './model.ts'

// Networks nobody on the internet can own (RFC 1918, RFC 6598): any other would hide real hosts.
const privateNetworks = ['10.0.0.0/8', '172.16.0.0/12', '192.168.0.0/16', '100.64.0.0/10']

function within(network: Network, other: Network): boolean {
  return network.family === other.family && network.first >= other.first && network.last <= other.last
}

/** What no schema can say of a site: how its parts fit together. `file` is the name of its document. */
export function* siteProblems(site: Partially<Site>, file: string): Generator<Problem> {
  if (site.name !== undefined && site.name !== file)
    yield { path: ['name'], reason: 'must be the name of its file', suggestion: file }
  yield* machineProblems(site)
  yield* networkProblems(site)
  const { firewall, vault } = site
  const allow = entries(['firewall', 'allow'], firewall?.allow)
  yield* repeated(allow.map(([at, { name }]) => [[...at, 'name'], name]))
  if (firewall?.egress === 'open' && allow.length > 0)
    yield { path: ['firewall', 'allow'], reason: 'has no effect while firewall.egress is open' }
  const { backup } = site
  const away = backup?.ssh?.host
  if (away !== undefined && (site.machines ?? []).some((machine) => machine?.address === away))
    yield {
      path: ['backup', 'ssh', 'host'],
      reason: 'is a machine of this site: a backup that dies with it is none',
    }
  if (vault?.name === 'control')
    yield { path: ['vault', 'name'], reason: 'is taken: /dev/mapper/control belongs to the kernel' }
  const pi = (site.machines ?? []).some(
    (machine) => machine?.os === 'raspios-13' && machine.roles?.includes('host'),
  )
  if (pi && (vault?.tpm2_pcrs ?? []).length > 0)
    yield {
      path: ['vault', 'tpm2_pcrs'],
      reason: 'needs a TPM2, and a Raspberry Pi has none',
      suggestion: '[]',
    }
}

function* machineProblems(site: Partially<Site>): Generator<Problem> {
  const machines = entries(['machines'], site.machines)
  yield* repeated(machines.map(([at, { name }]) => [[...at, 'name'], name]))
  yield* repeated(
    machines.map(([at, { address, port }]) => [
      [...at, 'address'],
      address && `${address} port ${port ?? 22}`,
    ]),
  )
  const hosts = machines.filter(([, { roles }]) => roles?.includes('host'))
  const servers = machines.filter(([, { roles }]) => roles?.includes('node') && !roles.includes('agent'))
  if (servers.length > 0 && servers.length % 2 === 0)
    yield {
      path: ['machines'],
      reason:
        `has ${servers.length} servers: etcd needs a majority, so an even number bears the loss of no more than one less, ` +
        'and costs one more. Have 1, 3 or 5; the others can be agents',
    }
  // A role that is misspelt may have been the one.
  const known = machines.every(([, { roles }]) => roles?.length && roles.every((role) => role !== undefined))
  if (machines.length > 0 && hosts.length === 0 && known && machines.length === site.machines?.length)
    yield { path: ['machines'], reason: 'has no machine with the role host: the metal' }
  for (const [at, { roles = [], os: system, arch }] of machines) {
    const kinds = (['server', 'agent'] as const).filter((role) => roles.includes(role))
    if (kinds.length === 2)
      yield { path: [...at, 'roles'], reason: 'holds server and agent: a k3s server is an agent already' }
    else if (kinds.length === 1 && !roles.includes('node') && roles.every((role) => role !== undefined))
      yield { path: [...at, 'roles'], reason: `holds ${kinds[0]} without node: k3s runs on nodes` }
    if (system === 'raspios-13' && arch === 'amd64')
      yield {
        path: [...at, 'arch'],
        reason: 'does not fit raspios-13, which is for the Raspberry Pi',
        suggestion: 'arm64',
      }
  }
  // A host that is a node itself has no virtual machines.
  const owners = hosts.filter(([, { roles }]) => !roles?.includes('node'))
  if (site.nodes !== undefined && owners.length > 1)
    yield {
      path: ['nodes'],
      reason:
        `would be made on each of ${owners.map(([, { name }]) => name ?? 'a host').join(' and ')}: the same virtual machines ` +
        'with the same addresses twice. Give each host a site document of its own, or give all but one of them the role node too',
    }
  if (hosts.length < 2) return
  for (const [at, machine] of hosts)
    if (!('address' in machine))
      yield {
        path: [...at, 'address'],
        reason: 'is missing: FK_HOST names one machine, and several here have the role host',
      }
}

function* networkProblems(site: Partially<Site>): Generator<Problem> {
  const { tunnel, nodes } = site
  const inside = tunnel?.network === undefined ? undefined : parseNetwork(tunnel.network)
  const behind = nodes?.network === undefined ? undefined : parseNetwork(nodes.network)
  const networks: [Path, Network | undefined][] = [
    [['tunnel', 'network'], inside],
    [['nodes', 'network'], behind],
  ]
  for (const [path, network] of networks) {
    if (network === undefined) continue
    if (network.prefix > 30)
      yield { path, reason: 'has no room for two machines: the prefix length is at most 30' }
    else if (!privateNetworks.some((text) => within(network, parseNetwork(text)!)))
      yield { path, reason: `is not a part of a private network (${privateNetworks.join(', ')})` }
  }
  if (inside && behind && overlap(inside, behind))
    yield { path: ['nodes', 'network'], reason: `overlaps tunnel.network ${formatNetwork(inside)}` }
  if (nodes?.bridge !== undefined && nodes.bridge === tunnel?.interface)
    yield { path: ['nodes', 'bridge'], reason: 'is the name of tunnel.interface too' }

  const machines = entries(['machines'], site.machines)
  const peers = entries(['tunnel', 'peers'], tunnel?.peers)
  const addresses: Claim[] = [
    [['tunnel', 'address'], tunnel?.address],
    ...peers.map(([at, peer]): Claim => [[...at, 'address'], peer.address]),
    ...machines.map(([at, machine]): Claim => [[...at, 'tunnel_address'], machine.tunnel_address]),
  ]
  yield* repeated(peers.map(([at, { name }]) => [[...at, 'name'], name]))
  yield* repeated(addresses)
  for (const [path, address] of addresses) {
    if (address === undefined || inside === undefined || inside.prefix > 30) continue
    const { value } = parseAddress(address)!
    const none = 'address of tunnel.network, which no machine can have'
    if (!contains(inside, address))
      yield { path, reason: `is outside tunnel.network ${formatNetwork(inside)}` }
    else if (value === inside.first) yield { path, reason: `is the network ${none}` }
    else if (value === inside.last) yield { path, reason: `is the broadcast ${none}` }
  }
  for (const [at, { roles, address }] of machines)
    if (address !== undefined && behind && roles?.includes('host') && contains(behind, address))
      yield {
        path: [...at, 'address'],
        reason: `is inside nodes.network ${formatNetwork(behind)}, which is behind this machine`,
      }
}

/** What no schema can say of the pins: that each has a proof for each of its downloads. */
export function* pinProblems(pins: Partially<Pins>): Generator<Problem> {
  for (const [name, pin] of Object.entries(pins)) {
    if (pin === undefined) continue
    const { version, url, sha256, sha512, signature, unproven } = pin
    if (version !== undefined && /^(latest|stable|edge|main|master|current)$/i.test(version))
      yield { path: [name, 'version'], reason: `is not one version: ${show(version)} moves` }
    yield* archProblems([name, 'url'], url)
    yield* versionProblems([name, 'url'], url, version)
    if (signature !== undefined) {
      yield* archProblems([name, 'signature', 'url'], signature.url)
      const rule = signature.kind === undefined ? undefined : keys[signature.kind]
      if (rule !== undefined && signature.key !== undefined && !rule.pattern.test(signature.key))
        yield { path: [name, 'signature', 'key'], reason: `must be ${rule.is}, is ${show(signature.key)}` }
      if (signature.kind === 'gpg' && !('key_url' in signature))
        yield {
          path: [name, 'signature'],
          reason: 'has no key_url: there is no place to fetch the key file from',
        }
    }
    if (unproven !== undefined && [sha256, sha512, signature].some((proof) => proof !== undefined))
      yield { path: [name, 'unproven'], reason: 'is not so any more: there is a proof, so delete this line' }
    for (const arch of architectures) {
      // A digest that is there and malformed has been reported already.
      const proven = [sha256, sha512, signature?.url].some((proof) => proof !== undefined && arch in proof)
      const alone = arch !== 'any' || Object.keys(url ?? {}).length === 1
      if (
        url !== undefined &&
        arch in url &&
        alone &&
        !proven &&
        !('unproven' in pin) &&
        !('signature' in pin && signature === undefined)
      )
        yield {
          path: [name, 'url', arch],
          reason: `has no proof: give its sha256 or sha512 under ${arch}, or a signature`,
        }
      for (const [field, proof] of Object.entries({ sha256, sha512, 'signature.url': signature?.url }))
        if (url !== undefined && proof !== undefined && arch in proof && !(arch in url))
          yield {
            path: [name, ...field.split('.'), arch],
            reason: `proves nothing: there is no url for ${arch}`,
          }
    }
  }
}

const architectures = ['amd64', 'arm64', 'any'] as const

const keys = {
  gpg: {
    pattern: /^([0-9A-F]{40}|[0-9A-F]{64})$/,
    is: 'the fingerprint: 40 or 64 hexadecimal digits in capitals',
  },
  minisign: { pattern: /^RW[A-Za-z0-9+/]{54}$/, is: 'a minisign public key: 56 letters that begin with RW' },
  cosign: {
    pattern: /^config\/[a-z0-9/._-]+\.pub$/,
    is: 'the file of a public key in config, such as config/keys/name.pub',
  },
}

function* archProblems(path: Path, urls: Partially<PerArch> | undefined): Generator<Problem> {
  if (urls !== undefined && 'any' in urls && Object.keys(urls).length > 1)
    yield { path: [...path, 'any'], reason: 'stands for every architecture, so no other can stand beside it' }
}

function* versionProblems(
  path: Path,
  urls: Partially<PerArch> | undefined,
  version: string | undefined,
): Generator<Problem> {
  for (const [arch, url] of Object.entries(urls ?? {}))
    if (version !== undefined && url !== undefined && !url.includes('{version}'))
      yield {
        path: [...path, arch],
        reason: 'does not say {version}, so a new version would fetch the old file',
      }
}

/** A place and the value that nothing else may have. */
type Claim = [Path, string | undefined]

function* repeated(claims: Claim[]): Generator<Problem> {
  const owners = new Map<string, Path>()
  for (const [path, value] of claims) {
    if (value === undefined) continue
    const owner = owners.get(value)
    if (owner === undefined) owners.set(value, path)
    else yield { path, reason: `is the same as ${pathText(owner)}` }
  }
}

/** The entries of a list with their place, without those that were wrong. */
function entries<T>(at: Path, list: (T | undefined)[] | undefined): [Path, T][] {
  return (list ?? []).flatMap((entry, i): [Path, T][] => (entry === undefined ? [] : [[[...at, i], entry]]))
}
