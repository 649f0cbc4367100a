// The machines of a site: those that its document lists, and the virtual ones that follow from it.
import { createHash } from 'node:crypto'
import { formatAddress, parseNetwork } from '../ground/address.ts'
import type { Env, MachineSpec, Site } from './model.ts'

/** One virtual machine of a site. */
export interface Node {
  name: string
  arch: 'amd64' | 'arm64'
  role: 'server' | 'agent'
  address: string
  /** The length of the prefix of its network. */
  prefix: number
  /** The host, as its nodes see it: their way out, and their name server. */
  gateway: string
  /** Follows from the names of site and node, so that host and node compute the same one. */
  mac: string
}

/**
 * The virtual machines of a site: those that it lists as nodes and not as hosts, or one that is named after the host. Empty
 * where the metal itself is the node. Addresses that the site does not say are counted from the second of nodes.network,
 * because the first is the host's.
 */
export function nodesOf(site: Site): Node[] {
  const network = site.nodes && parseNetwork(site.nodes.network)
  if (network === undefined) return []
  const address = (n: number) => formatAddress(network.family, network.first + BigInt(n))
  const listed = site.machines.filter(({ roles }) => roles.includes('node') && !roles.includes('host'))
  const [host] = site.machines.filter(({ roles }) => roles.includes('host'))
  const made = host ? [{ name: `${host.name}-node`, arch: host.arch, roles: [], address: undefined }] : []
  return (listed.length > 0 ? listed : made).map((machine, i) => ({
    name: machine.name,
    arch: machine.arch,
    role: machine.roles.some((role) => role === 'agent') ? 'agent' : 'server',
    address: machine.address ?? address(2 + i),
    prefix: network.prefix,
    gateway: address(1),
    mac: macOf(`${site.name}/${machine.name}`),
  }))
}

// 52:54:00 is what QEMU's machines begin with.
function macOf(name: string): string {
  const digest = createHash('sha256').update(`mac ${name}`).digest('hex')
  return `52:54:00:${digest.slice(0, 2)}:${digest.slice(2, 4)}:${digest.slice(4, 6)}`
}

/** A machine that pages run on: of the site document, or a virtual one behind its host. */
export interface Placed extends Omit<MachineSpec, 'os'> {
  os: MachineSpec['os'] | 'flatcar'
  /** The host that it is reached through. */
  behind?: string
}

/** Every machine of a site once: the metal, and what is behind it. */
export function everyMachine(config: { site: Site; env: Pick<Env, 'FK_NODE_OS'> }): Placed[] {
  const found = [...machinesFor(config, 'host'), ...machinesFor(config, 'node')]
  return found.filter(({ name }, i) => found.findIndex((other) => other.name === name) === i)
}

/**
 * The machines of a site that pages for `on` run on, in the order of the document; of nodes the servers come before the agents. A
 * host is the metal. A node runs k3s: the metal itself, or the virtual machines on it; where these run Talos there is none,
 * because it has no shell and no k3s.
 */
export function machinesFor(
  { site, env }: { site: Site; env: Pick<Env, 'FK_NODE_OS'> },
  on: 'laptop' | 'host' | 'node',
): Placed[] {
  if (on === 'laptop') return []
  const metal: Placed[] = site.machines.filter(({ roles }) => roles.includes(on))
  if (on === 'host') return metal
  const serversFirst = (nodes: Placed[]) => [
    ...nodes.filter(({ roles }) => !roles.includes('agent')),
    ...nodes.filter(({ roles }) => roles.includes('agent')),
  ]
  if (site.nodes === undefined) return serversFirst(metal)
  const [host] = site.machines.filter(({ roles }) => roles.includes('host'))
  const inside = env.FK_NODE_OS === 'flatcar' ? nodesOf(site) : []
  return serversFirst([
    ...metal.filter(({ roles }) => roles.includes('host')),
    ...inside.map(({ name, role, arch, address }): Placed => ({
      name,
      roles: ['node', role],
      os: 'flatcar',
      arch,
      address,
      user: 'core',
      ...(host ? { behind: host.name } : {}),
    })),
  ])
}
