#!/usr/bin/env -S npx --no-install tsx
// Who may talk to whom in the cluster: nobody, unless a policy allows it, both ways, for every pod and every node.
//
// Needs   network-cilium.
// Leaves  ./task map shows who may talk to whom, and ./task may FROM TO:PORT says by which line. A component that a later page
//         installs brings its own policies, in config/components/NAME/policies.yaml.
// Guard   policies that cut this laptop off from the API, or from SSH, are taken back: config/components/cilium/guard.yaml opens
//         the nodes again by itself. A printed page has the guard, and leaves it to you to take the policies back.
// Undo    deletes the policies: then everybody may talk to everybody.
import { join } from 'node:path'
import { objects } from '../lib/component/objects.ts'
import { letsIn, policiesFor, textOf, withCluster } from '../lib/component/policies.ts'
import { file } from '../lib/engine/file.ts'
import { library, sh } from '../lib/ground/sh.ts'
import { script } from '../lib/script.ts'
import { catalogue } from '../lib/site/catalogue.ts'

const about = {
  layer: 'L4',
  on: 'api',
  needs: ['30-network-cilium'],
  library: library(...['release', 'objects', 'cilium', 'guard'].map((name) => `lib/component/${name}.sh`)),
} as const

/** Seconds from the moment when the guard runs until it opens the nodes, unless it was taken away. */
const within = 180

const kinds = ['ciliumnetworkpolicies.cilium.io', 'ciliumclusterwidenetworkpolicies.cilium.io']

export default script(import.meta, about, (context) => {
  const { site } = context
  const all = policiesFor(site, catalogue())
  const [laptop] = site.tunnel.peers
  const stays = laptop === undefined || letsIn(all, laptop.address, 6443)
  // The API, SSH, and the API of Talos, as far as the policies mean to let the laptop in.
  const ports = [6443, ...[22, 50000].filter((port) => laptop && letsIn(all, laptop.address, port))]
  const guard = join(context.state, 'components', 'cilium', 'guard.yaml')
  return [
    {
      name: 'the policies let this laptop reach the API',
      why: 'the firewall of the nodes is one of them, and it is in force at once',
      check: stays
        ? sh`echo ${laptop ? `router.allow lets ${laptop.name} (${laptop.address}) in` : 'there is no tunnel'}`
        : sh`echo ${`no line of router.allow lets ${laptop.name} (${laptop.address}) reach tcp/6443 of a server`} && false`,
      help: `let the tunnel in: a line of router.allow such as
{ from: tunnel, to: nodes, ports: [tcp/22, tcp/6443], why: administration } in config/sites/${site.name}.yaml`,
    },
    {
      name: 'the CRDs of Cilium network policies are installed',
      why: 'its operator defines that when it starts',
      until: sh`kubectl wait --for=condition=Established --timeout=5s customresourcedefinitions ${kinds}`,
      seconds: 120,
    },
    file(guard, {
      from: 'config/components/cilium/guard.yaml',
      name: 'the manifest of the guard, which opens nodes again, is written',
    }),
    ...objects(
      {
        what: 'policies',
        name: 'network policies are applied, and all other traffic is denied',
        why: 'what a pod may reach is a line that somebody wrote: whoever gets into one gets nowhere from there',
        manifests: all
          .filter(({ component }) => withCluster.includes(component))
          .map((manifest) => textOf(manifest, 'policies')),
        kinds,
        transaction: { kind: 'policies', within },
        around: {
          holds: sh`guard_absent`,
          before: [sh`guard_begin ${guard} ${within} ${ports}`],
          apply: (command) => sh`guard_ends ${command}`,
          undo: { before: [sh`guard_waited ${within}`], after: [sh`guard_gone`] },
        },
      },
      context,
    ),
    {
      name: 'CoreDNS is ready under these policies',
      why: 'CoreDNS is Ready only while it reaches the API, and the kubelet reaches CoreDNS',
      until: sh`kubectl rollout status deployment/coredns --namespace kube-system --timeout=5s`,
      seconds: 120,
    },
  ]
})
