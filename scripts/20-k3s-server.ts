// The first server of the cluster: hardened by files, and proven to answer before it is kept.
//
// Needs   a node: the virtual machine of vm-provision, or the metal itself, hardened.
// Leaves  k3s with its own etcd, where everything stored is encrypted; /etc/rancher/k3s, and the program in /opt/k3s. There is no
//         network for pods yet, so the node is not Ready: that is another layer.
//         The laptop keeps the tokens and the kubeconfig, age-encrypted: ./task node kubeconfig NAME writes it out.
// Then    change config/k3s and apply again: a server that does not come up with it gets back what it had.
// Undo    stops it. The data of the cluster stays in /var/lib/rancher.
import type { Change, Step } from '../lib/engine/step.ts'
import { sh } from '../lib/ground/sh.ts'
import {
  type Member,
  clusterOf,
  groundOf,
  k3sShell,
  kept,
  memberOf,
  runningOf,
  urlOf,
  wellWithout,
} from '../lib/k3s/members.ts'
import { type Context, script } from '../lib/script.ts'

export default script(import.meta, { layer: 'L2', on: 'node', library: k3sShell }, (context) => {
  const member = memberOf(context)
  if (!member.first) return []
  const { name } = member
  return [
    ...groundOf(context, member),
    {
      name: 'no second cluster begins beside the one that the laptop knows',
      why: 'on an empty disk the first server would make new authorities and forget everything: secrets are never made anew silently',
      check: sh`k3s_fresh ${context.has(kept.joinServer) ? 'yes' : 'no'}`,
      help: `bring a backup back: ./task restore FILE. Or put another server first in config/sites/${context.site.name}.yaml, so that ${name} joins it.
If the old cluster is gone for good, and its backups too: delete ${kept.joinServer}.age, ${kept.joinAgent}.age and ${kept.kubeconfig}.age in ${context.state}`,
    },
    ...runningOf(context, member, others(context, member)),
    ...papers(),
  ]
})

/** Where other servers have joined, they must be able to do without the first while it starts anew. One that is away may come back. */
function others(context: Context, member: Member): Change['onOtherNode'] {
  const members = clusterOf(context)
  const second = members.find(({ role, first }) => role === 'server' && !first)
  if (second === undefined) return undefined
  const well = wellWithout(member, members, 0)
  return {
    on: second.name,
    before: [
      {
        ...well,
        until: sh`test ! -e "$K3S_ETC/k3s.yaml" || ! k3s_kubectl --server=${urlOf(member) ?? ''} get --raw /readyz > /dev/null 2>&1 || ${well.until}`,
      },
    ],
    after: [],
  }
}

/** What its owner holds. */
function papers(): Step[] {
  const keep = (name: string, path: string, what: string, once: boolean): Step => ({
    name: what,
    check: sh`saved ${name} "$(sha256sum ${path} | cut --delimiter=' ' --fields=1)"`,
    apply: [sh`: # the copy is made by the laptop, see save`],
    save: { name, command: sh`cat ${path}`, once },
  })
  const server = '/var/lib/rancher/k3s/server'
  return [
    keep(
      kept.joinServer,
      `${server}/token`,
      'the laptop knows what another server joins with, and whom',
      true,
    ),
    keep(
      kept.joinAgent,
      `${server}/agent-token`,
      'the laptop knows what an agent joins with, and whom',
      true,
    ),
    keep(kept.kubeconfig, '/etc/rancher/k3s/k3s.yaml', 'the laptop has the kubeconfig, encrypted', false),
  ]
}
