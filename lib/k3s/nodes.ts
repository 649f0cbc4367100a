// What happens to the nodes of a cluster that runs: another version, new certificates, one taken out and put back.
import { pageNamed } from '../cli/scripts.ts'
import type { Context, Page } from '../engine/page.ts'
import type { Change, Step, Wait } from '../engine/step.ts'
import { Fault } from '../ground/fault.ts'
import { Command, sh, shellText } from '../ground/sh.ts'
import type { Config } from '../site/model.ts'
import { type Member, clusterOf, k3sShell, memberOf, programOf, urlOf, wellWithout } from './members.ts'

/** k3sShell, and the functions for nodes beside each other: lib/k3s/nodes.sh. */
export const clusterShell = new Command(
  `${k3sShell.text}\n${shellText('lib/k3s/nodes.sh')}`,
  undefined,
  'lib/k3s/nodes.sh',
)

/** Seconds that pods may take to leave, and that k3s may take to be well again. */
const DRAIN = 600
const START = 540

/** The server that does for `member` what it cannot do itself: another one, so that it still answers while this one does not. */
export function helperOf(members: Member[], member: Pick<Member, 'name'>): Member {
  const servers = members.filter(({ role }) => role === 'server')
  const found = servers.find(({ name }) => name !== member.name) ?? servers[0]
  if (found === undefined) throw new Error('a cluster without a server')
  return found
}

/** That no other server is away. */
const othersWell = (members: Member[], member: Member): Wait =>
  wellWithout(
    member,
    members,
    members.filter(({ role, name }) => role === 'server' && name !== member.name).length,
  )

const drained = (name: string, how: 'evict' | 'force'): Change => ({
  name: `the pods of ${name} have left, and no new ones come`,
  check: sh`case $(k3s_mark server ${name}) in *-drained) ;; *) k3s_no 'they are still there' ;; esac`,
  apply: [sh`k3s_drain ${name} ${how} ${DRAIN}`],
  recover: [sh`k3s_return ${name}`],
  seconds: DRAIN + 90,
})

const returned = (name: string): Change => ({
  name: `pods may come to ${name} again, unless a person has cordoned it`,
  check: sh`test -z "$(k3s_mark server ${name})"`,
  apply: [sh`k3s_return ${name}`],
})

/** On every node, before anything stops on one: the pinned version is here, and the cluster knows it. */
export function announcedOf(context: Context): Step[] {
  const { name, arch } = memberOf(context)
  const { version } = programOf(context, arch)
  return [
    {
      name: `the cluster knows that ${name} has k3s ${version}`,
      why: 'the upgrade begins nowhere before all nodes have it',
      check: sh`test "$(k3s_self get node ${name} --output jsonpath="{.metadata.annotations.$STAGED}")" = ${version}`,
      apply: [sh`k3s_self annotate node ${name} --overwrite "$STAGED"=${version}`],
    },
  ]
}

const bare = (text: string) => new Command(text, undefined, '')

/** A node gets the pinned version: what must be true before, the swap, and the way back. */
export function upgradeOf(context: Context): Step[] {
  const member = memberOf(context)
  const members = clusterOf(context)
  const { name, role, first } = member
  const { version } = programOf(context, member.arch)
  const alone = members.length === 1
  const helper = helperOf(members, member)
  const servers = members.filter((other) => other.role === 'server')
  const urls = servers.flatMap(
    (server) => urlOf(server) ?? (server.name === name ? 'https://127.0.0.1:6443' : []),
  )
  const snapshot = `before-${version.replace('+', '-')}`
  const asked: Step[] =
    role === 'agent'
      ? []
      : [
          {
            name: `all nodes have k3s ${version}`,
            check: sh`k3s_at ${version} || k3s_staged ${version} ${members.map((each) => each.name)}`,
            help: './task k3s-stage apply',
          },
          {
            name: 'the cluster is well',
            check: sh`k3s_at ${version} || { ${bare(othersWell(members, member).until.text)} && k3s_is server ${name} "$(k3s_version)" Unknown; }`,
            help: './task status says what is wrong. An upgrade takes a server away for a while: only a cluster that is well can do without it',
          },
          {
            name: `nobody uses an API that k3s ${version} does not have`,
            why: 'what asks for it would fail after the upgrade, and only then',
            check: sh`k3s_at ${version} || k3s_removed ${version} ${urls}`,
            help: `who asked stands in the audit log of the servers: grep removed-release /var/lib/rancher/k3s/server/logs/audit.log
They count since they started: when it is mended, systemctl restart k3s on one server after the other`,
          },
        ]
  const swap: Change = {
    name: `${name} runs k3s ${version}, and is well`,
    why: alone
      ? 'when it is not well with it, the old version runs again'
      : 'its pods leave first; when it is not well with it, the old version runs again, and nothing else is touched',
    check: sh`test ! -e "$K3S_NOTES/upgrading" && test "$(k3s_version)" = ${version} && k3s_runs ${role} ${name}`,
    apply: [sh`k3s_swap ${role} ${name} ${version} ${START}`],
    recover: [sh`k3s_back ${role} ${name} ${START}`],
    seconds: START + 60,
    ...(alone
      ? {}
      : {
          onOtherNode: {
            on: helper.name,
            before: [
              othersWell(members, member),
              ...(role === 'agent'
                ? [
                    {
                      name: `all servers run k3s ${version}`,
                      why: 'a kubelet may be older than the API that it speaks to, and never newer',
                      check: sh`k3s_servers_run ${version}`,
                      help: './task k3s-upgrade apply begins with them',
                    },
                  ]
                : []),
              drained(name, context.env.FK_DRAIN),
            ],
            after: [returned(name)],
          },
        }),
  }
  return [
    {
      name: `k3s ${version} follows what runs here`,
      why: 'a minor version that is left out, or taken back, is a way that nobody has tested',
      check: sh`k3s_at ${version} || k3s_follows "$(k3s_from)" ${version}`,
      help: 'pin what comes next in config/versions.yaml, and apply that first. What is older than the data of the cluster comes back with them: ./task restore',
    },
    ...asked,
    ...(alone
      ? [
          {
            name: `somebody knows that the API of ${name} is silent for a minute, because there is no other node`,
            why: 'pods go on, and have nowhere to go to: what needs the API meanwhile fails',
            check: sh`k3s_at ${version}`,
            help: `type ${name} when you are asked, or say --format ${name}`,
            typed: name,
          },
        ]
      : []),
    ...(first
      ? [
          {
            name: `the state before ${version} is kept`,
            why: 'what the new version writes, the old one may not read',
            check: sh`k3s_at ${version} || k3s_has_snapshot ${snapshot}`,
            apply: [sh`k3s_snapshot ${snapshot}`],
            seconds: 600,
          },
        ]
      : []),
    swap,
    ...(alone
      ? []
      : [
          {
            name: `pods may come to ${name}, unless a person has cordoned it`,
            why: 'a run that was killed left the node without them',
            check: sh`test -z "$(k3s_mark ${role} ${name})"`,
            apply: [sh`: # another server has done it`],
            onOtherNode: { on: helper.name, before: [returned(name)], after: [] },
          },
        ]),
  ]
}

/** k3s renews what ends within 120 days whenever it starts; here that happens while there is time, and one server after the other. */
export function renewalOf(context: Context): Step[] {
  const member = memberOf(context)
  const members = clusterOf(context)
  const { name, role } = member
  const well = othersWell(members, member)
  return [
    {
      name: `no certificate of ${name} ends within 90 days`,
      why: 'k3s renews them when it starts and never else: a node that just runs locks itself out after a year',
      check: sh`k3s_lasts leaf 90`,
      apply: [sh`k3s_renewed ${role} ${name} ${START}`],
      seconds: START + 60,
      ...(members.length === 1
        ? {}
        : {
            onOtherNode: {
              on: helperOf(members, member).name,
              // With ended certificates nobody is well, and only this makes them so.
              before: [{ ...well, until: sh`${well.until} || ! k3s_lasts leaf 0 > /dev/null` }],
              after: [],
            },
          }),
    },
    {
      name: 'the authorities of the cluster last for another year',
      why: 'they are made for ten years, and never renewed by themselves',
      check: sh`k3s_lasts authority 365`,
      help: 'docs.k3s.io/cli/certificate tells how to rotate them: k3s certificate rotate-ca. All nodes then join by another fingerprint',
    },
  ]
}

const about = { file: import.meta.filename, layer: 'L2', on: 'node', library: clusterShell } as const

const page = (word: string, summary: string, at: string, steps: Page['steps']): Page => ({
  ...about,
  name: `node-${word}`,
  summary,
  at,
  steps,
})

/** k3s does not run on a node, and what it had of the cluster is put aside. */
const aside = (name: string) =>
  page('stop', `k3s does not run on ${name}, and begins anew there.`, name, () => [
    {
      name: 'what it had of the cluster is put aside',
      why: 'it is kept until the next time, in /var/lib/rancher/k3s/replaced',
      check: sh`k3s_empty`,
      apply: [sh`k3s_aside`],
    },
  ])

/**
 * The pages for the other servers while the first one is restored; `there` are those that answer. `before`: none of them runs, or could
 * begin with what it has: two of three are a majority, and would go on as the cluster that was. `failed`: they have it back. `after`:
 * they join what was restored.
 */
export function besideRestore(
  first: string,
  others: string[],
  there: string[],
): { before: Page[]; failed: Page[]; after: Page[] } {
  return {
    before: there.map(aside),
    failed: there.map((name) =>
      page('return', `${name} has back what it had of the cluster.`, name, () => [
        {
          name: 'k3s begins with what it had',
          check: sh`test -e "$K3S_DATA/server/db" && systemctl --quiet is-enabled k3s.service`,
          apply: [sh`k3s_returned`],
        },
      ]),
    ),
    after: [
      page('forget', `The restored cluster knows nobody who is not in it.`, first, () =>
        others.map((name) => ({
          name: `neither a Node nor a password is left of ${name}`,
          why: 'its member of etcd has gone, and it comes back as a new one',
          check: sh`k3s_forgotten ${name}`,
          apply: [sh`k3s_unnamed ${name}`],
        })),
      ),
      ...there.map((at) => ({ ...pageNamed('k3s-join'), at })),
    ],
  }
}

/**
 * The pages that take a node out of the cluster. `reachable` says whether the machine answers: then its pods leave first, and it is
 * stopped before the cluster forgets it, because a server that runs would join again by itself. Throws a Fault for the first server
 * of the site, and where no other server is left to do it.
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
    throw new Fault(
      `${name} begins the cluster of ${site.name}, and who begins it cannot be taken out of it`,
      {
        state: 'nothing was done',
        next: `put another server before it in config/sites/${site.name}.yaml, then ./task k3s-join apply, and try again`,
      },
    )
  const helper = helperOf(members, { name })
  const gone = sh`k3s_forgotten ${name} > /dev/null`
  const drain = drained(name, env.FK_DRAIN)
  const pages = [
    page('leave', `${name} may leave the cluster.`, helper.name, () => [
      {
        name: `the cluster can do without ${name}`,
        why: 'without a majority of etcd nobody can write any more, and only a backup would help',
        check: sh`k3s_spare ${name}`,
        help: 'mend the other servers first: ./task status says what is wrong',
      },
      ...(reachable
        ? []
        : [
            {
              name: `the cluster does not hear of ${name} either`,
              why: 'what runs and cannot be stopped from here would join again by itself',
              check: sh`k3s_silent ${name}`,
              help: 'switch the machine off, or find out why it cannot be reached from here',
            },
          ]),
      {
        name: `somebody typed the name of the node that leaves`,
        why: 'what only this machine has is lost to the cluster: volumes on its disk, and pods that nothing starts anew',
        check: gone,
        help: `type ${name} when you are asked, or say --format ${name}`,
        typed: name,
      },
      ...(reachable ? [{ ...drain, check: sh`k3s_absent ${name} > /dev/null || { ${drain.check}; }` }] : []),
    ]),
    ...(reachable && member !== undefined ? [aside(name)] : []),
    page('forget', `The cluster does not know ${name} any more.`, helper.name, () => [
      {
        name: `neither a member of etcd, nor a Node, nor a password is left of ${name}`,
        why: 'a member that never comes back counts against the majority, and the password lets no other machine take the name',
        check: sh`k3s_forgotten ${name}`,
        apply: [sh`k3s_forget ${name} 120`],
      },
    ]),
  ]
  return { helper, pages }
}
