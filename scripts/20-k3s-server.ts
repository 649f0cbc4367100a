#!/usr/bin/env -S npx --no-install tsx
// The first server of the cluster: hardened by files, and proven to answer before its configuration is kept.
//
// Needs   a node: the virtual machine of vm-provision, or the metal itself, hardened.
// Leaves  k3s with its own etcd, where everything stored is encrypted; /etc/rancher/k3s, and the program in /opt/k3s. There is no
//         network for pods yet, so the node is not Ready: that is another layer.
//         The laptop keeps the tokens and the kubeconfig, age-encrypted: ./task kubectl opens the cluster with it.
// Then    change config/k3s and apply again: a server that does not become ready gets its previous configuration back.
// Undo    stops it. The data of the cluster stays in /var/lib/rancher.
import type { Change, Step } from '../lib/engine/step.ts'
import { sh } from '../lib/ground/sh.ts'
import { configurationSteps } from '../lib/k3s/configuration.ts'
import { type Member, clusterOf, memberOf, secretNames, urlOf, wellWithout } from '../lib/k3s/members.ts'
import {
  noOtherNetwork,
  prerequisites,
  saveCredentials,
  serviceShell,
  startStep,
} from '../lib/k3s/service.ts'
import { type Context, script } from '../lib/script.ts'

export default script(
  import.meta,
  {
    layer: 'L2',
    on: 'node',
    needs: ['00-host-harden', '06-host-firewall', '13-vm-provision'],
    library: serviceShell,
  },
  (context) => {
    const member = memberOf(context)
    if (!member.first) return []
    return [
      ...prerequisites(context, member),
      noSecondCluster(context, member),
      ...configurationSteps(context, member),
      startStep(member, otherServersHealthy(context, member)),
      ...saveCredentials({ once: true }),
      noOtherNetwork,
    ]
  },
)

/** On an empty disk k3s would initialise another cluster beside the one of which the laptop has the join token. */
function noSecondCluster({ site, state, has }: Context, { name }: Member): Step {
  const { joinServer, joinAgent, kubeconfig } = secretNames
  const missing = has(joinServer)
    ? sh`{ echo 'the cluster is initialised, and etcd has no data on this disk'; false; }`
    : sh`true`
  return {
    name: 'no second cluster is initialised on an empty disk',
    why: 'it would get a new CA and new keys, and hold nothing of what the cluster held',
    check: sh`test -d /var/lib/rancher/k3s/server/db/etcd || ${missing}`,
    help: `restore a backup: ./task restore FILE.
Or put another server first in config/sites/${site.name}.yaml, and ${name} joins it.
If the old cluster is gone for good, and its backups too: delete
${[joinServer, joinAgent, kubeconfig].map((secret) => `${secret}.age`).join(', ')} in ${state}`,
  }
}

/** Once others have joined, a restart of the first server needs their quorum. With its own API down it may always start. */
function otherServersHealthy(context: Context, member: Member): Change['onOtherNode'] {
  const members = clusterOf(context)
  const second = members.find(({ role, first }) => role === 'server' && !first)
  if (second === undefined) return undefined
  const healthy = wellWithout(member, members, 0)
  const until = sh`
    test ! -e /etc/rancher/k3s/k3s.yaml ||
      ! k3s_kubectl --server=${urlOf(member) ?? ''} get --raw /readyz > /dev/null 2>&1 ||
      ${healthy.until}`
  return { on: second.name, before: [{ ...healthy, until }], after: [] }
}
