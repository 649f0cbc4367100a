// Where web requests come in: which gateways the pages serve, and under which name.
import { fills } from './catalogue.ts'
import type { Gateway, Site } from './model.ts'

/** The namespace of gateways and of their certificates: NAME-tls is that of the gateway NAME. */
export const gatewayNamespace = 'gateways'

/**
 * The label of a namespace whose routes a gateway takes: its value is the name of the gateway. The policies let gateways ask the
 * pods of namespaces that have it, and no other.
 */
export const gatewayLabel = 'fortress-kit/gateway'

/** Whether a page serves it: Cilium does, without a tunnel, a firewall or a login of another component in front. */
const isServed = (site: Pick<Site, 'components'>, { kind = 'http', entry, waf, login }: Gateway): boolean =>
  fills(site, 'gateway', 'cilium') &&
  fills(site, 'load-balancer', 'cilium') &&
  kind === 'http' &&
  (entry === undefined || entry === 'forward') &&
  waf === undefined &&
  login === undefined

/** The gateways of a site that pages serve. */
export const servedGateways = (site: Pick<Site, 'components' | 'gateways'>): Gateway[] =>
  site.gateways.filter((one) => isServed(site, one))

/** The gateways of a site that wait for a component without a page. */
export const otherGateways = (site: Pick<Site, 'components' | 'gateways'>): Gateway[] =>
  site.gateways.filter((one) => !isServed(site, one))

/** The first gateway that pages serve and that a zone leads to, with that zone; undefined where there is none. */
export function webOf(
  site: Pick<Site, 'components' | 'gateways' | 'names'>,
): { gateway: Gateway; zone: string } | undefined {
  return servedGateways(site).flatMap((gateway) =>
    site.names.flatMap(({ zone, points_at: at }) => (at === gateway.name ? { gateway, zone } : [])),
  )[0]
}
