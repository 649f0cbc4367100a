#!/usr/bin/env -S npx --no-install tsx
// Gateways: where web requests come into the cluster, by the address, the audience and the names of the site.
//
// Needs   network-policies. The definitions of the Gateway API are those of network-cilium.
// Leaves  port 80 leads to HTTPS and nothing else. HTTPS begins with certificates, which makes the Secret NAME-tls: until then
//         nothing answers there. Routes come from namespaces with the label fortress-kit/gateway=NAME.
// Undo    takes the gateways away, with their addresses and certificates. The routes of others stay, and lead nowhere.
import { gatewayManifests } from '../lib/component/gateways.ts'
import { namespaceStep, objects } from '../lib/component/objects.ts'
import type { Wait } from '../lib/engine/step.ts'
import { library, sh } from '../lib/ground/sh.ts'
import { script } from '../lib/script.ts'
import { gatewayNamespace, servedGateways } from '../lib/site/gateways.ts'
import type { Gateway } from '../lib/site/model.ts'

const about = {
  layer: 'L4',
  on: 'api',
  needs: ['31-network-policies'],
  library: library('lib/component/release.sh', 'lib/component/objects.sh', 'lib/component/gateways.sh'),
} as const

const what = 'gateways'
const kinds = [
  'ciliuml2announcementpolicies.cilium.io',
  'ciliumloadbalancerippools.cilium.io',
  'gateways.gateway.networking.k8s.io',
  'httproutes.gateway.networking.k8s.io',
]

export default script(import.meta, about, (context) => {
  const gateways = servedGateways(context.site)
  if (gateways.length === 0) return []
  return [
    {
      name: 'Cilium answers for gateways, and its CRDs are installed',
      why: 'its operator defines and accepts them when it starts',
      until: sh`
        kubectl wait --for=condition=Established --timeout=5s customresourcedefinitions ${kinds} &&
          kubectl wait --for=condition=Accepted --timeout=5s gatewayclasses.gateway.networking.k8s.io cilium`,
      seconds: 120,
    },
    namespaceStep({ name: what, namespace: gatewayNamespace }),
    ...objects(
      {
        what,
        name: `gateways are declared: ${gateways.map(({ name, address }) => `${name} at ${address}`).join(', ')}`,
        why: 'HTTP leads to HTTPS only; HTTPS begins when 33-certificates has made the certificates that they name',
        manifests: gatewayManifests(context.site, gateways, what),
        kinds,
      },
      context,
    ),
    ...gateways.map(ready),
  ]
})

/** The live state: what is declared may be refused, and an address may be somebody else's. */
const ready = ({ name, address, listen = 'own' }: Gateway): Wait => ({
  name: `gateway ${name} is accepted and programmed${listen === 'own' ? ` at ${address}` : ' on the nodes'}`,
  until: sh`
    gateway_ready ${gatewayNamespace} ${name} ${listen === 'own' ? [address] : sh`''`} &&
      route_ready ${gatewayNamespace} ${`${name}-https`}`,
  seconds: 180,
})
