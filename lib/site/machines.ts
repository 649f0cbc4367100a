// Facts that follow from a site: which machines there are for what, who is where, and how each is found. Nobody derives them twice.
import { createHash } from 'node:crypto'
import { isIP } from 'node:net'
import { contains, formatAddress, parseNetwork } from '../ground/address.ts'
import type { BackupTarget, MachineSpec, NetworkSpec, Peer, Site, VmSpec } from './model.ts'

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

/** One machine of the cluster. */
export interface Member {
  name: string
  role: 'server' | 'agent'
  /** The server that initialises the cluster: the first of the site document. */
  first: boolean
  /** Where the laptop finds its API: in the tunnel, or behind the host. */
  endpoint: string
  /** Where other members find it; absent where the site gives no address, and there are no others. */
  address?: string
  os: MachineSpec['os']
  arch: 'amd64' | 'arm64'
  /** A virtual machine, whose system and program came with its first boot. */
  virtual: boolean
}

/** The members of the cluster in the order in which they start: servers first. */
export function membersOf(site: Site): Member[] {
  const nodes = site.machines.filter(isNode)
  const servers = nodes.filter(isServer)
  return [...servers, ...nodes.filter((one) => !servers.includes(one))].map((machine) => ({
    name: machine.name,
    role: isServer(machine) ? ('server' as const) : ('agent' as const),
    first: machine === servers[0],
    endpoint: endpointOf(site, machine),
    ...(machine.address !== undefined && isIP(machine.address) !== 0 ? { address: machine.address } : {}),
    os: machine.os,
    arch: machine.arch,
    virtual: !machine.roles.includes('host'),
  }))
}

/** Where the laptop finds a machine once its firewall is up: its end of the tunnel, or its address behind one. */
export function endpointOf(site: Site, machine: MachineSpec): string {
  const own = machine.roles.includes('host') ? tunnelOf(site, machine)?.address : undefined
  return own ?? machine.address ?? site.tunnel.address ?? ''
}

/**
 * How the API of the cluster is found: by which address joining nodes reach it, by which one the laptop does where it is not that of a
 * single server, and what it is called beside the addresses of the servers. Where each host has an end of the tunnel of its own, an
 * address that moves between them cannot be reached through it: WireGuard gives an address to one peer.
 */
export function apiOf(site: Site): { laptop?: string; join?: string; names: string[] } {
  const { vip, names = [] } = site.cluster.api ?? {}
  const join = vip ?? membersOf(site).find((member) => member.first)?.address
  const ends = site.machines.filter((machine) => machine.roles.includes('host') && tunnelOf(site, machine))
  const laptop = ends.length <= 1 ? vip : undefined
  return {
    ...(laptop === undefined ? {} : { laptop }),
    ...(join === undefined ? {} : { join }),
    names: [...(vip === undefined ? [] : [vip]), ...names],
  }
}

/** The nodes of the cluster with a fixed address, without the one of this name. */
export const otherNodes = (
  { machines }: Pick<Site, 'machines'>,
  name: string,
): (MachineSpec & { address: string })[] =>
  machines.flatMap((machine) =>
    isNode(machine) && machine.name !== name && isIP(machine.address ?? '') !== 0
      ? [{ ...machine, address: machine.address ?? '' }]
      : [],
  )

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

/** Whether it is this computer. */
export const isLaptop = (spec: Placed): boolean => spec === laptop

/**
 * The machines of a site that pages for `on` run on, in the order of the document; of nodes the servers come before the agents. A
 * host is hardened by pages 00 to 09. A node runs k3s; one that runs Talos is none, because it has no shell and no k3s.
 */
export function machinesFor({ site }: { site: Site }, on: 'laptop' | 'host' | 'node'): Placed[] {
  if (on === 'laptop') return [laptop]
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

/** When the cluster is backed up, and where its bundles are copied beside the node itself; each place is optional. */
export interface Backup {
  schedule: string
  keep: number
  /** An age recipient beside the laptop's own. */
  recovery?: string
  directory?: { path: string }
  ssh?: { host: string; port: number; user: string; path: string; host_key: string }
  s3?: { endpoint: string; bucket: string; region: string; prefix: string }
}

/** How the site backs up its cluster. Of each kind of target the first that its row names counts. */
export function backupOf({ data }: Pick<Site, 'data'>): Backup {
  const row = data.keep.find(({ what }) => what === 'cluster')
  const first = (kind: BackupTarget['kind']) =>
    data.targets.find((target) => target.kind === kind && row?.to.includes(target.name))
  const [directory, ssh, s3] = [first('directory'), first('sftp'), first('s3')]
  return {
    schedule: row?.every ?? 'daily',
    keep: row?.copies ?? 14,
    ...(data.recovery === undefined ? {} : { recovery: data.recovery }),
    ...(directory ? { directory: { path: directory.path ?? '' } } : {}),
    ...(ssh
      ? {
          ssh: {
            host: ssh.host ?? '',
            port: ssh.port ?? 22,
            user: ssh.user ?? '',
            path: ssh.path ?? '',
            host_key: ssh.host_key ?? '',
          },
        }
      : {}),
    ...(s3
      ? {
          s3: {
            endpoint: s3.endpoint ?? '',
            bucket: s3.bucket ?? '',
            region: s3.region ?? 'us-east-1',
            prefix: s3.prefix ?? '',
          },
        }
      : {}),
  }
}

/** A server that may hold the address of the API by keepalived. */
export interface VipMember {
  name: string
  address: string
  vip: string
  /** virtual_router_id: 1 to 255, the same on all. */
  id: number
  /** 1 to 254: who takes the address when several could. */
  priority: number
  /** The addresses of the other servers. */
  peers: string[]
}

/**
 * What keepalived on a machine is for; undefined where the site has no such address, something else keeps it, or the machine is no
 * server. The id follows from the last byte of the address, so that two clusters of one network have two.
 */
export function vipOf(site: Site, machine: string): VipMember | undefined {
  const { vip, keeper } = site.cluster.api ?? {}
  const servers = membersOf(site).filter(
    ({ role, os }) => role === 'server' && os !== 'talos' && os !== 'flatcar',
  )
  const own = servers.find(({ name }) => name === machine)
  if (vip === undefined || keeper !== 'keepalived' || own?.address === undefined) return undefined
  return {
    name: machine,
    address: own.address,
    vip,
    id: Number(vip.split('.').at(-1)) || 1,
    priority: 150 - servers.indexOf(own),
    peers: servers.flatMap(({ name, address }) => (name === machine ? [] : (address ?? []))),
  }
}
