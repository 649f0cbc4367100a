#!/usr/bin/env -S npx --no-install tsx
// The network of pods: Cilium in place of kube-proxy, encryption between nodes, and every node Ready.
//
// Needs   a cluster: k3s-server or vm-talos. The tunnel is up on the laptop, which reaches the API through it.
// Leaves  pods get addresses and find Services. Nothing is denied yet: that is network-policies.
// Undo    takes the programs of Cilium out of the kernel of every node. Pods that run then have no network any more.
import { join } from 'node:path'
import { release } from '../lib/component/release.ts'
import { file } from '../lib/engine/file.ts'
import { library, sh } from '../lib/ground/sh.ts'
import { script } from '../lib/script.ts'
import { fills, parametersOf } from '../lib/site/catalogue.ts'
import { servedGateways } from '../lib/site/gateways.ts'
import { isNode } from '../lib/site/machines.ts'
import type { Site } from '../lib/site/model.ts'

const about = {
  layer: 'L4',
  on: 'api',
  needs: ['20-k3s-server', '14-vm-talos'],
  library: library('lib/component/release.sh', 'lib/component/cilium.sh'),
} as const

/** The name that the chart gives it. */
const secrets = 'cilium-secrets'

export default script(import.meta, about, (context) => {
  const { pods, services } = context.site.cluster
  const clean = join(context.state, 'components', 'cilium', 'clean.yaml')
  return [
    {
      name: 'no other network plug-in, and no kube-proxy, is in the cluster',
      check: sh`cilium_alone`,
      help: `Cilium takes the place of both. Take them away with what installed them, or leave this page out.
Those of k3s: ./task k3s-server apply starts it without them, and says what of them is left in the kernel of a node`,
    },
    {
      name: `pods have addresses of ${pods}, and Services of ${services}`,
      why: 'what is encrypted, and who may talk to whom, is written for these networks',
      check: sh`cilium_networks ${pods} ${services}`,
      help: `a cluster keeps the networks that it was made with: write them into config/sites/${context.site.name}.yaml, as
cluster.pods and cluster.services, or make the cluster anew`,
    },
    file(clean, {
      from: 'config/components/cilium/clean.yaml',
      name: 'the manifest that cleans nodes at undo is written',
    }),
    ...release('cilium', context, {
      facts: facts(context.site),
      before: {
        'deployment/hubble-relay': [
          {
            name: 'the agents have the certificates of Hubble',
            why: 'they begin before these are made; a kubelet looks for new ones once a minute, and at once where a pod changes',
            check: sh`cilium_certified`,
            apply: [sh`cilium_certify 300`],
            seconds: 330,
          },
        ],
      },
      undo: {
        before: [sh`cilium_clean_begin ${clean}`],
        after: [sh`cilium_clean_end`, sh`cilium_not_clean`],
      },
    }),
    {
      name: `namespace ${secrets} gives a pod without an account no token`,
      why: 'the chart makes it, for certificates of gateways, with an account like any other',
      check: sh`account_quiet ${secrets}`,
      apply: [sh`account_quieten ${secrets}`],
    },
  ]
})

/** What only the site knows, as the chart names it. */
function facts(site: Site): Record<string, unknown> {
  const nodes = site.machines.filter(isNode)
  const { routing, load_balancing, algorithm, external_services } = parametersOf(site, 'network')
  const listens = servedGateways(site).some(({ listen }) => listen === 'host')
  const balancing = {
    ...(load_balancing ? { mode: load_balancing } : {}),
    ...(algorithm ? { algorithm } : {}),
  }
  return {
    cluster: { name: site.name },
    operator: { replicas: Math.min(nodes.length, 2) },
    // Before there is a network no Service answers: each node has the API, or a balancer to it, on its own loopback address.
    k8sServiceHost: '127.0.0.1',
    k8sServicePort: nodes.some(({ os }) => os === 'talos') ? 7445 : 6444,
    encryption: { strictMode: { egress: { cidr: site.cluster.pods } } },
    // Without a tunnel nodes send to each other's pods: they are in one network.
    ...(routing === 'native'
      ? { routingMode: 'native', ipv4NativeRoutingCIDR: site.cluster.pods, autoDirectNodeRoutes: true }
      : {}),
    ...(Object.keys(balancing).length > 0 ? { loadBalancer: balancing } : {}),
    ...(external_services ? { bpf: { lbExternalClusterIP: true } } : {}),
    // keepalived of 07-host-vip speaks VRRP, which is neither TCP nor UDP: the firewall of the node would drop it.
    ...(site.cluster.api?.vip ? { extraConfig: { 'enable-extended-ip-protocols': 'true' } } : {}),
    gatewayAPI: {
      enabled: fills(site, 'gateway', 'cilium'),
      ...(listens ? { hostNetwork: { enabled: true } } : {}),
    },
    // Envoy gives up what it may, all but the ports below 1024 where gateways listen on the node itself.
    ...(listens
      ? {
          envoy: {
            securityContext: {
              capabilities: {
                keepCapNetBindService: true,
                envoy: ['NET_ADMIN', 'SYS_ADMIN', 'NET_BIND_SERVICE'],
              },
            },
          },
        }
      : {}),
    l2announcements: { enabled: fills(site, 'load-balancer', 'cilium') },
  }
}
