#!/usr/bin/env -S npx --no-install tsx
// Nothing that a retired CA has signed opens the cluster: an old kubeconfig is refused, and an old token of a pod.
//
// Needs   k3s-rotate on every node, and pods that have begun since: a program reads the CA of the API once, when it starts.
// Does    takes the old CAs and the old key for tokens out of the cluster; then each node starts anew, servers first.
// Undo    nothing: what is retired does not come back.
import { sh } from '../lib/ground/sh.ts'
import {
  authorityShell,
  othersVote,
  retiredWords,
  savedAgain,
  startAnew,
  startSeconds,
} from '../lib/k3s/authorities.ts'
import { clusterOf, memberOf } from '../lib/k3s/members.ts'
import { script } from '../lib/script.ts'

const about = { layer: 'L2', on: 'node', needs: ['28-k3s-rotate'], library: authorityShell } as const

export default script(import.meta, about, (context) => {
  const member = memberOf(context)
  const { name, role, first } = member
  const retired = retiredWords(context.state)
  const gone = sh`ca_unused any ${role} ${retired}`
  const common = {
    name: `${name} trusts no retired CA`,
    why: 'until then every certificate that it has signed still passes',
    seconds: startSeconds,
    ...othersVote(member, clusterOf(context)),
  }
  if (!first)
    return [
      {
        ...common,
        check: role === 'server' ? sh`${gone} && ca_presented 127.0.0.1:6443` : gone,
        apply: [startAnew(member)],
      },
    ]
  return [
    {
      name: 'the kubelet of every Node has a certificate of the new CA, if CAs are retired',
      why: 'a node that was not started since would be shut out',
      check: sh`${gone} > /dev/null || ca_nodes`,
      help: './task k3s-rotate apply starts them anew; a node that is gone for good: ./task node remove NAME',
    },
    {
      name: 'pods are given the new CA by the controllers, if CAs are retired',
      until: sh`${gone} > /dev/null || ca_given`,
      seconds: 300,
    },
    {
      name: 'every pod with a token has begun since the new CA, if CAs are retired',
      why: 'programs read the CA of the API once, and would not find it any more',
      check: sh`${gone} > /dev/null || ca_pods`,
      help: `./task kubectl rollout restart deployment,statefulset,daemonset --namespace NAMESPACE restarts those of a namespace.
A pod without a controller is deleted, and made anew. Then run this again`,
    },
    {
      ...common,
      check: sh`${gone} && ca_presented 127.0.0.1:6443`,
      apply: [sh`ca_unused first server ${retired} && ca_without ${retired} && ca_send`, startAnew(member)],
    },
    ...savedAgain(context),
  ]
})
