// What happens to a node of a running cluster: it is drained and comes back, it is taken out, or it joins what was restored.
import type { Page } from '../engine/page.ts'
import type { Change, Step, Wait } from '../engine/step.ts'
import { Fault } from '../ground/fault.ts'
import { library, sh } from '../ground/sh.ts'
import type { Config } from '../site/model.ts'
import { type Member, clusterOf, wellWithout } from './members.ts'

/** The functions of lib/k3s/members.sh, and those about a node that other nodes look after: lib/k3s/nodes.sh. */
export const clusterShell = library('lib/k3s/members.sh', 'lib/k3s/nodes.sh')

/** Seconds that a drain may take, and that k3s may take to become healthy. */
const DRAIN = 600
export const START = 540

/** The server that does for `member` what it cannot do itself while it is down: another one, or the only one. */
export function helperOf(members: Member[], member: Pick<Member, 'name'>): Member {
  const servers = members.filter(({ role }) => role === 'server')
  const found = servers.find(({ name }) => name !== member.name) ?? servers[0]
  if (found === undefined) throw new Error('a cluster without a server')
  return found
}

/** That no other server is away. */
export const othersHealthy = (members: Member[], member: Member): Wait =>
  wellWithout(
    member,
    members,
    members.filter(({ role, name }) => role === 'server' && name !== member.name).length,
  )

/** For the server that helps: the node is cordoned, and its pods have left. `force` ignores PodDisruptionBudgets. */
export const drained = (name: string, how: 'evict' | 'force'): Change => ({
  name: `${name} is cordoned and drained`,
  check: sh`
    case $(k3s_mark server ${name}) in
      *-drained) ;;
      *) k3s_no 'its pods have not left' ;;
    esac`,
  apply: [sh`k3s_drain ${name} ${how} ${DRAIN}`],
  recover: [sh`k3s_return ${name}`],
  seconds: DRAIN + 90,
})

/** For the server that helps: the node takes pods again. */
export const uncordoned = (name: string): Change => ({
  name: `${name} is uncordoned, unless an operator had cordoned it`,
  check: sh`test -z "$(k3s_mark server ${name})"`,
  apply: [sh`k3s_return ${name}`],
})

const about = { file: import.meta.filename, layer: 'L2', on: 'node', library: clusterShell } as const

const page = (word: string, summary: string, at: string, steps: Page['steps']): Page => ({
  ...about,
  name: `node-${word}`,
  summary,
  at,
  steps,
})

/** k3s is stopped on a node, and its cluster data archived. */
const archived = (name: string) =>
  page('stop', `k3s is stopped on ${name}, and its cluster data is archived.`, name, () => [
    {
      name: `k3s is stopped on ${name}, and its cluster data is archived`,
      why: 'the data stays in /var/lib/rancher/k3s/replaced until the next time',
      check: sh`k3s_empty`,
      apply: [sh`archive_data`],
    },
  ])

/**
 * The pages for the other servers while the first one is restored; `reachable` are those that answer, `join` is the page by
 * which a node joins. `before`: none of them runs, or could start with its data: two of three have the quorum, and would go on
 * as the old cluster. `failed`: they have their data back. `after`: they join what was restored.
 */
export function besideRestore(
  first: string,
  others: string[],
  reachable: string[],
  join: Page,
): { before: Page[]; failed: Page[]; after: Page[] } {
  return {
    before: reachable.map(archived),
    failed: reachable.map((name) =>
      page('return', `${name} has its cluster data back.`, name, () => [
        {
          name: `k3s on ${name} starts with its archived cluster data`,
          check: sh`test -e "$K3S_DATA/server/db" && systemctl --quiet is-enabled k3s.service`,
          apply: [sh`return_data`],
        },
      ]),
    ),
    after: [
      page('forget', `The restored cluster has no Node of a server that has not joined it.`, first, () =>
        others.map((name) => ({
          name: `Node and node password of ${name} are deleted`,
          why: 'the restored etcd has no member of it, and it joins as a new one',
          check: sh`node_deleted ${name}`,
          apply: [sh`delete_node ${name}`],
        })),
      ),
      ...reachable.map((at) => ({ ...join, at })),
    ],
  }
}

/**
 * The pages that take a node out of the cluster. `reachable`: the machine answers, so it is drained, and stopped before its
 * Node is deleted, because a server that runs would join again by itself. Throws a Fault for the first server of the site.
 */
export function leaving(
  config: Pick<Config, 'site' | 'env'>,
  name: string,
  reachable: boolean,
): { helper: Member; pages: Page[] } {
  const { site, env } = config
  const members = clusterOf(config)
  const member = members.find((found) => found.name === name)
  if (member?.first)
    throw new Fault(`${name} is the first server of ${site.name}, and cannot be taken out of the cluster`, {
      state: 'nothing was done',
      next: `put another server before it in config/sites/${site.name}.yaml, then ./task k3s-join apply, and try again`,
    })
  const helper = helperOf(members, { name })
  const pages = [
    page('leave', `${name} may leave the cluster.`, helper.name, () =>
      leaveSteps(name, reachable, drained(name, env.FK_DRAIN)),
    ),
    ...(reachable && member !== undefined ? [archived(name)] : []),
    page('forget', `${name} is no member of the cluster any more.`, helper.name, () => [
      {
        name: `etcd member, Node and node password of ${name} are deleted`,
        why: 'a member that never returns counts against the quorum, and the password lets no other machine take the name',
        check: sh`node_deleted ${name}`,
        apply: [sh`remove_node ${name} 120`],
      },
    ]),
  ]
  return { helper, pages }
}

/** What must hold on the server that helps, before the node is stopped and its Node deleted. */
function leaveSteps(name: string, reachable: boolean, drain: Change): Step[] {
  return [
    {
      name: `etcd keeps its quorum without ${name}`,
      why: 'without it nothing can be written any more, and only a backup would help',
      check: sh`quorum_without ${name}`,
      help: 'mend the other servers first: ./task status shows what is wrong',
    },
    ...(reachable
      ? []
      : [
          {
            name: `${name} is unreachable for the cluster too`,
            why: 'a server that runs and cannot be stopped from here would join again by itself',
            check: sh`node_unreachable ${name}`,
            help: 'switch the machine off, or find out why it cannot be reached from here',
          },
        ]),
    {
      name: `operator confirms that ${name} leaves the cluster`,
      why: 'what only this machine has is lost to the cluster: volumes on its disk, and pods without a controller',
      check: sh`node_deleted ${name} > /dev/null`,
      help: `type ${name} at the prompt, or say --confirm ${name}`,
      typed: name,
    },
    ...(reachable ? [{ ...drain, check: sh`node_absent ${name} > /dev/null || { ${drain.check}; }` }] : []),
  ]
}
