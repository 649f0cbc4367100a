#!/usr/bin/env -S npx --no-install tsx
// The other nodes of the cluster: servers one at a time, with every member of etcd healthy before the next; then agents.
//
// Needs   k3s-server, and on each node what that page needs. The join token holds the fingerprint of the cluster CA.
// Leaves  the same as k3s-server, without secrets of its own; an agent has nothing of the control plane.
// Undo    stops k3s on the node. Its Node stays in the cluster: ./task node remove NAME takes it out.
import type { Step } from '../lib/engine/step.ts'
import { sh } from '../lib/ground/sh.ts'
import { configurationSteps } from '../lib/k3s/configuration.ts'
import { clusterOf, memberOf, wellWithout } from '../lib/k3s/members.ts'
import { noOtherNetwork, prerequisites, serviceShell, startStep } from '../lib/k3s/service.ts'
import { script } from '../lib/script.ts'

const about = {
  layer: 'L2',
  on: 'node',
  needs: ['20-k3s-server'],
  library: serviceShell,
  prepare: etcdVotes(),
} as const

export default script(import.meta, about, (context) => {
  const member = memberOf(context)
  const members = clusterOf(context)
  if (member.first) return members.length > 1 ? [] : [singleNode()]
  const servers = members.filter(({ role }) => role === 'server')
  const position = servers.findIndex(({ name }) => name === member.name)
  return [
    ...prerequisites(context, member),
    ...configurationSteps(context, member),
    // One server after the other: each waits until all those before it have a vote.
    startStep(member, {
      on: members[0]?.name ?? '',
      before: [wellWithout(member, members, member.role === 'server' ? position : servers.length)],
      after: [],
    }),
    ...(member.role === 'server'
      ? [
          {
            name: `${member.name} is a voting member of etcd, with all servers before it`,
            until: sh`etcd_votes ${position + 1}`,
            seconds: 300,
          },
        ]
      : []),
    noOtherNetwork,
  ]
})

/** A site of one node has nothing to join. */
function singleNode(): Step {
  return {
    name: 'the cluster has no Node that the site does not describe',
    check: sh`nodes=$(k3s_kubectl get nodes --output name) && test "$(wc --lines <<< "$nodes")" -le 1`,
    help: 'describe the other nodes under machines: of the site, or take them out: ./task node remove NAME',
  }
}

/** The members of etcd as this server sees them. Prints one line for each server without a vote, and the count of votes. */
function etcdVotes() {
  return sh`
# etcd_votes COUNT: etcd is ready on this server, COUNT servers or more are members, and every one of them has a vote.
etcd_votes() {
  local said name vote all=0 bad=0
  said=$(k3s_kubectl get --raw /readyz/etcd 2>&1) || k3s_no "etcd is not ready: $(tail --lines=1 <<< "$said")" || return
  said=$(k3s_votes 2>&1) || k3s_no "$said" || return
  while read -r name vote; do
    [ -n "$name" ] || continue
    all=$((all + 1))
    [ "$vote" = True ] || { printf '%s has no vote in etcd\n' "$name" && bad=$((bad + 1)); }
  done <<< "$said"
  printf '%s members of etcd have a vote\n' "$((all - bad))"
  [ "$bad" -eq 0 ] && [ "$all" -ge "$1" ]
}`
}
