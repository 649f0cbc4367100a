// Facts that follow from a site: which machines there are for what, and who is where. Nobody derives them twice.
import { join } from 'node:path'
import { createHash } from 'node:crypto'
import { contains, formatAddress, parseNetwork } from '../ground/address.ts'
import type { MachineSpec, NetworkSpec, Peer, Site, Vault, VmSpec } from './model.ts'
import type { On } from './place.ts'

/** Whether a machine runs Kubernetes, and whether it runs the control plane and etcd. */
export const isNode = ({ roles }: Pick<MachineSpec, 'roles'>): boolean =>
  roles.includes('server') || roles.includes('agent')
export const isServer = ({ roles }: Pick<MachineSpec, 'roles'>): boolean => roles.includes('server')

/** Whether the firmware of a Raspberry Pi starts it: without GRUB, and without a TPM2. */
export const isRaspberry = ({ board }: Pick<MachineSpec, 'board'>): boolean => board.startsWith('rpi')

/** The machine of this name. Throws for a name that the site does not have. */
export function machineOf({ name, machines }: Pick<Site, 'name' | 'machines'>, machine: string): MachineSpec {
  const found = machines.find((one) => one.name === machine)
  if (found === undefined) throw new Error(`${machine} is no machine of ${name}`)
  return found
}

/** What the site says of the vault of a host; every host has such an entry. */
export function vaultSpec(site: Pick<Site, 'name' | 'machines'>, machine: string): Vault {
  const { vault } = machineOf(site, machine)
  if (vault === undefined) throw new Error(`${machine} is no host, and has no vault`)
  return vault
}

/** The port of sshd on a machine: the one that a connection has come to, or the site's word for it. */
export const sshPort = ({ ssh_port }: Pick<MachineSpec, 'ssh_port'>, facts: { port?: number } = {}): number =>
  facts.port ?? ssh_port ?? 22

/** The host that runs a virtual machine by libvirt; undefined for metal, and for what another hypervisor runs. */
export const hostOf = (
  { machines }: Pick<Site, 'machines'>,
  { vm }: Pick<MachineSpec, 'vm'>,
): MachineSpec | undefined => machines.find(({ name, roles }) => name === vm?.host && roles.includes('host'))

/** The network of the site that an address lies in. */
export const networkOf = ({ networks }: Pick<Site, 'networks'>, address: string): NetworkSpec | undefined =>
  networks.find(({ network }) => {
    const range = parseNetwork(network)
    return range !== undefined && contains(range, address)
  })

/** The network behind the bridge of a host. */
export const bridgeOf = (
  { networks }: Pick<Site, 'networks'>,
  host: string,
): (NetworkSpec & { bridge: { at: string; name: string } }) | undefined =>
  networks.flatMap((one) => (one.bridge?.at === host ? { ...one, bridge: one.bridge } : []))[0]

/** A virtual machine that libvirt runs on a host of the site. */
export interface Guest {
  name: string
  arch: 'amd64' | 'arm64'
  os: 'flatcar' | 'talos'
  role: 'server' | 'agent'
  vm: VmSpec
  address: string
  /** The length of the prefix of its network. */
  prefix: number
  /** The host, as its guests see it: their way out, and their name server. */
  gateway: string
  /** Follows from the names of site and machine, so that host and guest compute the same one. */
  mac: string
}

/** The virtual machines of a site, or those of one host, in the order of the document. */
export function guestsOf(site: Site, host?: string): Guest[] {
  return site.machines.flatMap((machine) => {
    const { name, arch, os, vm, address } = machine
    const on = hostOf(site, machine)
    const range = parseNetwork((on && bridgeOf(site, on.name)?.network) ?? '')
    if (!vm || !on || (host !== undefined && on.name !== host) || (os !== 'flatcar' && os !== 'talos'))
      return []
    if (range === undefined || address === undefined) return []
    return {
      name,
      arch,
      os,
      role: isServer(machine) ? ('server' as const) : ('agent' as const),
      vm,
      address,
      prefix: range.prefix,
      gateway: formatAddress(range.family, range.first + 1n),
      mac: machine.mac ?? macOf(`${site.name}/${name}`),
    }
  })
}

// 52:54:00 is what QEMU's machines begin with.
function macOf(name: string): string {
  const digest = createHash('sha256').update(`mac ${name}`).digest('hex')
  return `52:54:00:${digest.slice(0, 2)}:${digest.slice(2, 4)}:${digest.slice(4, 6)}`
}

/** The client file of a peer of the tunnel; `state` is the directory of the site on the laptop. */
export const clientPath = (state: string, peer: string): string => join(state, `${peer}.conf`)

/** Where WireGuard ends on a host. */
export interface TunnelEnd {
  interface: string
  port: number
  network: string
  address: string
  /** The length of the network's prefix. */
  prefix: number
  peers: Peer[]
  /** The name of its key pair on the laptop: each host has its own. */
  key: string
}

/** The end of the tunnel on a host; undefined where it has none, because a router or another host has it. */
export function tunnelOf({ tunnel }: Pick<Site, 'tunnel'>, host: MachineSpec): TunnelEnd | undefined {
  const { kind, network, interface: name, port, peers, at } = tunnel
  const main = at === host.name
  const address = main ? tunnel.address : host.tunnel_address
  const range = parseNetwork(network ?? '')
  if (kind !== 'wireguard' || network === undefined || range === undefined || address === undefined)
    return undefined
  return {
    interface: name,
    port,
    network,
    address,
    prefix: range.prefix,
    peers,
    key: main ? 'wg-host' : `wg-host-${host.name}`,
  }
}

/** Every address of the site in its tunnel: of hosts and of peers. */
export const tunnelAddresses = ({ machines, tunnel }: Pick<Site, 'machines' | 'tunnel'>): string[] =>
  [
    tunnel.address,
    ...tunnel.peers.map(({ address }) => address),
    ...machines.map((one) => one.tunnel_address),
  ].filter((address) => address !== undefined)

/** A machine that pages run on: of the site document, or this computer. */
export interface Placed extends Pick<
  MachineSpec,
  'name' | 'arch' | 'address' | 'user' | 'ssh_port' | 'tunnel_address'
> {
  roles: MachineSpec['roles']
  os: MachineSpec['os'] | 'laptop'
  /** The host that it is reached through. */
  behind?: string
}

/** Every machine of a site that pages run on. */
export function everyMachine(config: { site: Site }): Placed[] {
  const found = [...machinesFor(config, 'host'), ...machinesFor(config, 'node')]
  return found.filter(({ name }, i) => found.findIndex((other) => other.name === name) === i)
}

/** This computer: any system, and no machine of the site. Pages run on it as the person who started them. */
const laptop: Placed = {
  name: 'laptop',
  roles: [],
  os: 'laptop',
  arch: process.arch === 'arm64' ? 'arm64' : 'amd64',
}

/** This computer again, with the credentials of the cluster. */
const api: Placed = { ...laptop, name: 'api' }

/** Whether it is this computer. */
export const isLaptop = (spec: Placed): boolean => spec === laptop || spec === api

/** Whether it is this computer for pages about the API of the cluster. */
export const isApi = (spec: Placed): boolean => spec === api

/**
 * The machines of a site that pages for `on` run on, in the order of the document; of nodes the servers come before the agents. A
 * host is hardened by pages 00 to 09. A node runs k3s; one that runs Talos is none, because it has no shell and no k3s. Pages for
 * the API run on this computer, where the site has a cluster.
 */
export function machinesFor({ site }: { site: Site }, on: On): Placed[] {
  if (on === 'laptop') return [laptop]
  if (on === 'api') return site.machines.some(isServer) ? [api] : []
  const placed = site.machines.map((machine): Placed => {
    const behind = machine.roles.includes('host') ? undefined : hostOf(site, machine)?.name
    const user = machine.user ?? (machine.os === 'flatcar' ? 'core' : undefined)
    return { ...machine, ...(user ? { user } : {}), ...(behind === undefined ? {} : { behind }) }
  })
  if (on === 'host') return placed.filter(({ roles }) => roles.includes('host'))
  const nodes = placed.filter((one) => isNode(one) && one.os !== 'talos')
  return [...nodes.filter(isServer), ...nodes.filter((one) => !isServer(one))]
}

/** The components that are chosen for a slot. */
export function chosen({ components }: Pick<Site, 'components'>, slot: string): string[] {
  const choice = components[slot] ?? []
  return (Array.isArray(choice) ? choice : [choice]).map((one) => (typeof one === 'string' ? one : one.use))
}
