// The members of a site's cluster: which machines they are, where they find each other, and the program that each of them runs.
import { isIP } from 'node:net'
import { type Artifact, artifactOf } from '../engine/artifact.ts'
import type { Context } from '../engine/page.ts'
import type { Transaction, Wait } from '../engine/step.ts'
import { Fault } from '../ground/fault.ts'
import { Secret } from '../ground/secret.ts'
import { library, sh } from '../ground/sh.ts'
import { type Member, k3sKubeconfig, membersOf } from '../site/cluster.ts'

export type { Member } from '../site/cluster.ts'

/** The functions that all pages about k3s share: lib/k3s/members.sh. */
export const k3sShell = library('lib/k3s/members.sh')

/** Names under which the laptop keeps the secrets of the cluster. */
export const secretNames = {
  server: 'k3s-server-token',
  agent: 'k3s-agent-token',
  /** The same with the fingerprint of the cluster CA, by which a joining node knows which cluster it joins. */
  joinServer: 'k3s-join-server',
  joinAgent: 'k3s-join-agent',
  kubeconfig: k3sKubeconfig,
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

/** The members of the site's cluster that run k3s, in the order in which they start: servers first. */
export const clusterOf = ({ site }: Pick<Context, 'site'>): Member[] =>
  membersOf(site).filter(({ os }) => os !== 'talos')

/** The member that a page is about. Throws for a machine that is no node. */
export function memberOf(context: Pick<Context, 'site' | 'machine'>): Member {
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

/** The URL of an API server at an address. */
export const apiUrl = (address: string): string =>
  `https://${isIP(address) === 6 ? `[${address}]` : address}:6443`

/** Where others reach the API of a member; undefined where the site gives no address, and there are no others. */
export const urlOf = ({ address }: Member): string | undefined =>
  address === undefined ? undefined : apiUrl(address)

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

/** The join token that was saved from the first server. Rejects with a Fault while there is none. */
export function joinToken(secrets: Context['secrets'], name: string): Secret {
  const saved = secrets(name)
  return new Secret(name, async () => {
    const text = await saved.resolve().catch(() => {
      throw new Fault('no join token on this laptop: the cluster is not initialised', {
        next: './task k3s-server apply',
      })
    })
    return Buffer.from(text, 'base64').toString('utf8')
  })
}
