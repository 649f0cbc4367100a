// The cluster of a site: who is a member, how its API is found, which address moves between servers, and where its backups go.
import { isIP } from 'node:net'
import { isNode, isServer, tunnelOf } from './machines.ts'
import type { BackupTarget, MachineSpec, Site } from './model.ts'

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

/** The name under which the laptop keeps the kubeconfig of k3s. */
export const k3sKubeconfig = 'k3s-kubeconfig'

/** The kubeconfig of the cluster of a first server: its secret on the laptop, and the page that fetches it. */
export const kubeconfigSecret = ({ name, os }: Pick<Member, 'name' | 'os'>) =>
  os === 'talos'
    ? { secret: `${name}-kubeconfig`, page: '14-vm-talos' }
    : { secret: k3sKubeconfig, page: '20-k3s-server' }

/** Where the laptop finds a machine once its firewall is up: its end of the tunnel, or its address behind one. */
export function endpointOf(site: Site, machine: MachineSpec): string {
  const own = machine.roles.includes('host') ? tunnelOf(site, machine)?.address : undefined
  return own ?? machine.address ?? site.tunnel.address ?? ''
}

/**
 * How the API of the cluster is found: by which address joining nodes reach it, by which one the laptop does where it is not that
 * of a single server, and what it is called beside the addresses of the servers. Where each host has an end of the tunnel of its
 * own, an address that moves between them cannot be reached through it: WireGuard gives an address to one peer.
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

/** When the cluster is backed up, and where its bundles are copied beside the node itself; each place is optional. */
export interface Backup {
  schedule: string
  keep: number
  /** An age recipient beside the laptop's own. */
  recovery?: string
  directory?: { path: string }
  ssh?: { host: string; port: number; user: string; path: string; host_key: string; append_only: boolean }
  s3?: { endpoint: string; bucket: string; region: string; prefix: string; append_only: boolean }
  /** Targets of the row that nothing is uploaded to: a second one of a kind, and kinds that are not built. */
  left: string[]
}

/** How the site backs up its cluster: bundles go to the first target of each kind that its row names. */
export function backupOf({ data }: Pick<Site, 'data'>): Backup {
  const row = data.keep.find(({ what }) => what === 'cluster')
  const first = (kind: BackupTarget['kind']) =>
    data.targets.find((target) => target.kind === kind && row?.to.includes(target.name))
  const [directory, ssh, s3] = [first('directory'), first('sftp'), first('s3')]
  return {
    schedule: row?.every ?? 'daily',
    keep: row?.copies ?? 14,
    left: (row?.to ?? []).filter((name) => ![directory, ssh, s3].some((target) => target?.name === name)),
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
            append_only: ssh.append_only ?? false,
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
            append_only: s3.append_only ?? false,
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
 * What keepalived on a machine is for; undefined where the site has no such address, something else keeps it, or the machine is
 * no server. The id follows from the last byte of the address, so that two clusters of one network have two.
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
