// The other nodes of the cluster: servers one at a time, with every member of etcd well before the next; then agents.
//
// Needs   k3s-server, and on each node what that page needs. They know whom they join by the fingerprint of its authority.
// Leaves  the same as k3s-server, without secrets of its own; an agent knows nothing of the control plane.
// Undo    stops k3s on the node. The cluster still knows it: ./task node remove NAME takes it out.
import { sh } from '../lib/ground/sh.ts'
import { clusterOf, groundOf, k3sShell, memberOf, runningOf, wellWithout } from '../lib/k3s/members.ts'
import { script } from '../lib/script.ts'

export default script(import.meta, { layer: 'L2', on: 'node', library: k3sShell }, (context) => {
  const member = memberOf(context)
  const members = clusterOf(context)
  const servers = members.filter(({ role }) => role === 'server')
  const [first, ...others] = members
  if (member.first)
    return others.length > 0
      ? []
      : [
          {
            name: 'the site has one node: nobody joins it',
            check: sh`test "$(k3s_kubectl get nodes --output name | wc --lines)" -le 1`,
            help: 'the cluster has nodes that the site does not know: describe them under machines:, or ./task node remove NAME',
          },
        ]
  const before = servers.findIndex(({ name }) => name === member.name)
  return [
    ...groundOf(context, member),
    ...runningOf(context, member, {
      on: first?.name ?? '',
      before: [wellWithout(member, members, member.role === 'server' ? before : servers.length)],
      after: [],
    }),
    ...(member.role === 'server'
      ? [
          {
            name: `${member.name} has a vote in etcd, as those before it`,
            until: sh`k3s_etcd ${before + 1}`,
            seconds: 300,
          },
        ]
      : []),
  ]
})
