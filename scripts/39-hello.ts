#!/usr/bin/env -S npx --no-install tsx
// A first web page behind the gateway: it shows that names, certificates, policies and pods fit together.
//
// Needs   network-gateway, and certificates for HTTPS.
// Leaves  https://hello.ZONE in the tunnel. Its name is in no DNS yet: the last step says which line a laptop needs.
// Undo    takes the page away with its namespace.
import { namespaceStep, objects, ownPolicies } from '../lib/component/objects.ts'
import { content } from '../lib/engine/file.ts'
import { library, sh } from '../lib/ground/sh.ts'
import { script } from '../lib/script.ts'
import { gatewayLabel, gatewayNamespace, webOf } from '../lib/site/gateways.ts'
import { isNode } from '../lib/site/machines.ts'
import type { Site } from '../lib/site/model.ts'

const about = {
  layer: 'L4',
  on: 'api',
  needs: ['32-network-gateway', '33-certificates'],
  library: library('lib/component/release.sh', 'lib/component/objects.sh', 'lib/component/gateways.sh'),
} as const

const hello = 'hello'

export default script(import.meta, about, (context) => {
  const { site } = context
  const web = webOf(site)
  if (web === undefined) return []
  const { gateway, zone } = web
  const host = `${hello}.${zone}`
  return [
    namespaceStep({ name: hello, namespace: hello }, { [gatewayLabel]: gateway.name }),
    ...ownPolicies(hello, context),
    ...objects(
      {
        what: hello,
        name: `the page is declared, with its route at gateway ${gateway.name}`,
        manifests: [page(site, gateway.name, host)],
        kinds: ['configmaps', 'services', 'deployments.apps', 'httproutes.gateway.networking.k8s.io'],
      },
      context,
    ),
    {
      name: `deployment ${hello}/web is ready`,
      until: sh`kubectl rollout status deployment/web --namespace ${hello} --timeout=5s`,
      seconds: 300,
    },
    {
      name: `open https://${host} in the tunnel`,
      why: `until 34-names a laptop finds it by a line of its /etc/hosts: ${gateway.address} ${host}`,
      until: sh`
        route_ready ${hello} web && gateway_ready ${gatewayNamespace} ${gateway.name} '' https`,
      seconds: 120,
    },
  ]
})

/** What is in config/components/hello/objects.yaml, for this site. */
const page = (site: Site, gateway: string, host: string): string =>
  content(hello, {
    from: 'config/components/hello/objects.yaml',
    values: {
      site: site.name,
      host,
      gateway,
      gateways: gatewayNamespace,
      replicas: Math.min(site.machines.filter(isNode).length, 2),
    },
  })
