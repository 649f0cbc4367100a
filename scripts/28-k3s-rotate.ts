#!/usr/bin/env -S npx --no-install tsx
// The cluster has new CAs and a new key for tokens of pods, if the laptop has retired the old ones; those still pass.
//
// Needs   k3s-join, and a healthy cluster. ./task rotate ca retires what there is, and runs this page and the next.
// Does    makes new CAs on the first server, for which the old ones vouch; then each node starts anew with them, servers first.
// Leaves  a cluster that believes both. The laptop gets new join tokens, which hold the fingerprint of the new CA.
// Then    k3s-retire takes the old ones away; until then whoever has an old kubeconfig still comes in.
// Undo    nothing: what is retired does not come back.
import type { Step } from '../lib/engine/step.ts'
import { feed, sh } from '../lib/ground/sh.ts'
import {
  authorityShell,
  othersVote,
  retiredWords,
  savedAgain,
  startAnew,
  startSeconds,
} from '../lib/k3s/authorities.ts'
import { clusterOf, joinToken, memberOf, secretNames } from '../lib/k3s/members.ts'
import { script } from '../lib/script.ts'

const about = { layer: 'L2', on: 'node', needs: ['20-k3s-server'], library: authorityShell } as const

export default script(import.meta, about, (context) => {
  const member = memberOf(context)
  const { name, role, first } = member
  const retired = retiredWords(context.state)
  const current = sh`ca_unused first ${role} ${retired}`
  const common = {
    name: `certificates of ${name} are signed by CAs that are not retired`,
    check: current,
    seconds: startSeconds,
    ...othersVote(member, clusterOf(context)),
  }
  if (first)
    return [
      snapshotSaved(retired),
      {
        ...common,
        why: 'a client certificate cannot be revoked: it ends with the CA that signed it',
        apply: [sh`ca_make && ca_send`, startAnew(member)],
      },
      ...savedAgain(context),
    ]
  const token = joinToken(context.secrets, role === 'server' ? secretNames.joinServer : secretNames.joinAgent)
  return [
    {
      ...common,
      why: 'it joins by the fingerprint of the new CA, and gets its certificates when it starts',
      apply: [feed(token)`ca_token`, startAnew(member)],
    },
  ]
})

/** Before the CAs change for the first time. */
function snapshotSaved(retired: string[]): Step {
  const name = `before-rotation-${(retired.at(-1) ?? '').slice(0, 8)}`
  return {
    name: 'an etcd snapshot of before is saved, if CAs are retired',
    why: 'with a bundle of ./task backup the cluster can be brought back to it',
    check: sh`
      ca_unused first server ${retired} > /dev/null ||
        compgen -G ${`/var/lib/rancher/k3s/server/db/snapshots/${name}-*`} > /dev/null`,
    apply: [sh`/opt/bin/k3s etcd-snapshot save --name ${name}`],
    seconds: 600,
  }
}
