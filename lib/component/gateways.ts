// The gateways of a site as objects of Kubernetes and of Cilium.
import { createRequire } from 'node:module'
import { gatewayLabel, gatewayNamespace } from '../site/gateways.ts'
import type { Gateway, Site } from '../site/model.ts'

const load = createRequire(import.meta.url)

/** The manifests of gateways of a site, with their addresses first; `what` is the value of their label fortress-kit. */
export function gatewayManifests(
  { names }: Pick<Site, 'names'>,
  gateways: Gateway[],
  what: string,
): string[] {
  const { stringify } = load('yaml') as typeof import('yaml')
  const zonesOf = ({ name }: Gateway) =>
    names.filter(({ points_at: at }) => at === name).map(({ zone }) => zone)
  const own = gateways.filter(({ listen = 'own' }) => listen === 'own')
  return [
    ...addressObjects(own, what),
    ...gateways.flatMap((one) => gatewayObjects(one, zonesOf(one), what)),
  ].map((object) => stringify(object, { lineWidth: 0, singleQuote: true, aliasDuplicateObjects: false }))
}

const marked = (what: string, name: string, namespace?: string) => ({
  name,
  ...(namespace === undefined ? {} : { namespace }),
  labels: { 'fortress-kit': what },
})

/** One address for each gateway, which nothing else is given, and the node that answers for it in the local network. */
function addressObjects(gateways: Gateway[], what: string): object[] {
  if (gateways.length === 0) return []
  const serviceSelector = (more: object) => ({
    matchLabels: { 'io.kubernetes.service.namespace': gatewayNamespace, ...more },
  })
  return [
    ...gateways.map(({ name, address }) => ({
      apiVersion: 'cilium.io/v2',
      kind: 'CiliumLoadBalancerIPPool',
      metadata: marked(what, `gateway-${name}`),
      spec: {
        blocks: [{ start: address, stop: address }],
        serviceSelector: serviceSelector({ 'gateway.networking.k8s.io/gateway-name': name }),
      },
    })),
    {
      apiVersion: 'cilium.io/v2alpha1',
      kind: 'CiliumL2AnnouncementPolicy',
      metadata: marked(what, what),
      spec: { loadBalancerIPs: true, serviceSelector: serviceSelector({}) },
    },
  ]
}

/**
 * A gateway and its one route of its own: from HTTP to HTTPS. Routes have names right below its zones, and no other; the first
 * zone has the listeners `http` and `https`. Without a zone any name is taken.
 */
function gatewayObjects({ name, address, listen = 'own' }: Gateway, zones: string[], what: string): object[] {
  const certificateRefs = [{ name: `${name}-tls` }]
  const from = (more: object) => ({ allowedRoutes: { namespaces: more } })
  const labelled = from({ from: 'Selector', selector: { matchLabels: { [gatewayLabel]: name } } })
  // Cilium takes a route for a name that any listener has, whichever of them the route means: so both have the same.
  const listeners = (zones.length === 0 ? [undefined] : zones).map((zone, i) => {
    const [end, hostname] = [i === 0 ? '' : `-${i + 1}`, zone === undefined ? {} : { hostname: `*.${zone}` }]
    const tls = { mode: 'Terminate', certificateRefs }
    return [
      { name: `http${end}`, port: 80, protocol: 'HTTP', ...hostname, ...from({ from: 'Same' }) },
      { name: `https${end}`, port: 443, protocol: 'HTTPS', ...hostname, tls, ...labelled },
    ] as const
  })
  const requestRedirect = { scheme: 'https', statusCode: 301 }
  return [
    {
      apiVersion: 'gateway.networking.k8s.io/v1',
      kind: 'Gateway',
      metadata: marked(what, name, gatewayNamespace),
      spec: {
        gatewayClassName: 'cilium',
        ...(listen === 'own' ? { addresses: [{ type: 'IPAddress', value: address }] } : {}),
        listeners: listeners.flat(),
      },
    },
    {
      apiVersion: 'gateway.networking.k8s.io/v1',
      kind: 'HTTPRoute',
      metadata: marked(what, `${name}-https`, gatewayNamespace),
      spec: {
        parentRefs: listeners.map(([http]) => ({ name, sectionName: http.name })),
        rules: [{ filters: [{ type: 'RequestRedirect', requestRedirect }] }],
      },
    },
  ]
}
