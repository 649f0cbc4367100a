// The members of a site's cluster: which machines they are, where they find each other, and the program that each of them runs.
import { isIP } from 'node:net'
import { type Artifact, artifactOf } from '../engine/artifact.ts'
import type { Context } from '../engine/page.ts'
import type { Transaction, Wait } from '../engine/step.ts'
import { Fault } from '../ground/fault.ts'
import { library, sh } from '../ground/sh.ts'
import { type Placed, machinesFor } from '../site/machines.ts'

/** The functions that all pages about k3s share: lib/k3s/members.sh. */
export const k3sShell = library('lib/k3s/members.sh')

/** One machine that runs k3s. */
export interface Member {
  name: string
  role: 'server' | 'agent'
  /** The server that initialises the cluster: the first of the site document. */
  first: boolean
  /** Where the laptop finds the API: in the tunnel, or behind the host. */
  endpoint: string
  /** Where other members find it; absent where the site gives no address, and there are no others. */
  address?: string
  arch: 'amd64' | 'arm64'
  /** A virtual machine, whose system and program came with its first boot. */
  virtual: boolean
}

/** Names under which the laptop keeps the secrets of the cluster. */
export const secretNames = {
  server: 'k3s-server-token',
  agent: 'k3s-agent-token',
  /** The same with the fingerprint of the cluster CA, by which a joining node knows which cluster it joins. */
  joinServer: 'k3s-join-server',
  joinAgent: 'k3s-join-agent',
  kubeconfig: 'k3s-kubeconfig',
}

/**
 * A node whose k3s does not become ready gets its previous configuration back: the rollback restarts k3s when a file of it
 * changed, other than k3s.yaml, which k3s writes itself. `seconds`: how long a start may take.
 */
export const k3sTransaction = (seconds?: number): Transaction => ({
  kind: 'k3s',
  restart: [
    {
      unit: 'k3s.service',
      path: '/etc/rancher/k3s/',
      except: '/etc/rancher/k3s/k3s.yaml',
      how: 'always',
      needs: '/etc/rancher/k3s/token',
    },
  ],
  ...(seconds === undefined ? {} : { within: seconds + 60 }),
})

/**
 * The members of the site's cluster, in the order in which they start: servers first. Throws a Fault for agents without a
 * server.
 */
export function clusterOf({ site, env }: Pick<Context, 'site' | 'env'>): Member[] {
  const found = machinesFor({ site, env }, 'node')
  const role = ({ roles }: Placed) => (roles.includes('agent') ? 'agent' : 'server')
  const servers = found.filter((machine) => role(machine) === 'server')
  const [first] = servers
  if (found.length > 0 && first === undefined)
    throw new Fault(`the site ${site.name} has agents and no server`, {
      next: `give one of its nodes the role server in config/sites/${site.name}.yaml`,
    })
  return [...servers, ...found.filter((machine) => role(machine) === 'agent')].map((machine) => {
    const { name, arch, address, tunnel_address: tunnel } = machine
    const virtual = !machine.roles.includes('host')
    if (found.length > 1 && (address === undefined || isIP(address) === 0))
      throw new Fault(`${name} has no address that the other nodes of the cluster could find it at`, {
        next: `give its IP address under machines: in config/sites/${site.name}.yaml`,
      })
    return {
      name,
      role: role(machine),
      first: machine === first,
      endpoint: virtual && address ? address : (tunnel ?? site.tunnel.address),
      ...(address !== undefined && isIP(address) !== 0 ? { address } : {}),
      arch,
      virtual,
    }
  })
}

/** The member that a page is about. Throws for a machine that is no node. */
export function memberOf(context: Pick<Context, 'site' | 'env' | 'machine'>): Member {
  const found = clusterOf(context).find(({ name }) => name === context.machine.name)
  if (found === undefined) throw new Error(`${context.machine.name} is no node of ${context.site.name}`)
  return found
}

/** The pinned k3s: its version, where it is installed, and where it comes from. Each version has a directory of its own. */
export function programOf(
  { pins }: Pick<Context, 'pins'>,
  arch: string,
): { version: string; path: string; artifact: Artifact } {
  const artifact = artifactOf(pins, 'k3s', arch)
  const version = pins['k3s']?.version ?? ''
  return { version, path: `/opt/k3s/${version}/k3s`, artifact }
}

/** Where others reach the API of a member; undefined where the site gives no address, and there are no others. */
export const urlOf = ({ address }: Member): string | undefined =>
  address === undefined ? undefined : `https://${isIP(address) === 6 ? `[${address}]` : address}:6443`

/**
 * At least `count` servers but `member` are healthy voting members of etcd: `member` may stop or join without costing the
 * cluster its quorum. What one server reports of another is some seconds old, so the step waits.
 */
export function wellWithout({ name }: Member, members: Member[], count: number): Wait {
  const others = members.filter((other) => other.role === 'server' && other.name !== name)
  const reachable = others.flatMap((server) => {
    const url = urlOf(server)
    return url === undefined ? [] : [`${server.name} ${url}`]
  })
  return {
    name: `etcd and API servers are healthy without ${name}`,
    why: 'two servers that are away at the same time cost etcd its quorum: then nothing can be written any more',
    until:
      reachable.length === 0 ? sh`k3s_well ${count} ${name}` : sh`k3s_well ${count} ${name} ${reachable}`,
    seconds: 30,
  }
}
