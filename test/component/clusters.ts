// The policies of shipped sites, for tests that ask them.
import { type Endpoint, type Flow, endpointsOf, judge } from '../../lib/component/policymap.ts'
import {
  type Manifest,
  type Rule,
  type Spec,
  policiesFor,
  sections,
  specsOf,
} from '../../lib/component/policies.ts'
import { catalogue } from '../../lib/site/catalogue.ts'
import type { Site } from '../../lib/site/model.ts'
import { siteOf } from '../sites.ts'

/** Every shipped site that has a cluster. */
export const clusters = ['fortress', 'fortress-pi', 'zengarden', 'pitower', 'k3s-vault']

export interface Cluster {
  site: Site
  manifests: Manifest[]
  known: Endpoint[]
}

const made = new Map<string, Cluster>()

export function clusterOf(name: string): Cluster {
  const before = made.get(name)
  if (before) return before
  const site = siteOf(name)
  const manifests = policiesFor(site, catalogue())
  const cluster = { site, manifests, known: endpointsOf(site, catalogue(), manifests) }
  made.set(name, cluster)
  return cluster
}

/** An address outside of the cluster, and what it is when it has a name. */
export const address = (at: string, name = at): Endpoint => ({
  name,
  kind: name === at ? 'address' : 'name',
  labels: {},
  address: at,
  ports: ['tcp/443', 'udp/53'],
})

/** Every flow between everybody: on the ports where the second listens and one where it does not, and names that CoreDNS is asked for. */
export function flowsOf({ known, manifests }: Cluster, more: Endpoint[] = []): Flow[] {
  const all = [...known, ...more]
  const rules = manifests.flatMap(({ policy }) => specsOf(policy).flatMap(({ egress = [] }) => egress))
  const lists = rules.flatMap(({ toPorts = [] }) => toPorts.flatMap(({ rules: names }) => names?.dns ?? []))
  const names = [
    'web.hello.svc.cluster.local',
    'www.example.net',
    ...lists.flatMap(({ matchName }) => matchName ?? []),
  ]
  return all.flatMap((from) =>
    all.flatMap((to) => {
      const outside = [from, to].every(({ kind }) => kind === 'address' || kind === 'name')
      if (from === to || outside || from.kind === 'name') return []
      const flows = [...to.ports, 'tcp/12345'].map((port): Flow => ({ from, to, port }))
      const asked = to.labels['k8s:k8s-app'] === 'kube-dns' ? [...new Set(names)] : []
      return [...flows, ...asked.map((query): Flow => ({ from, to, port: 'udp/53', query }))]
    }),
  )
}

/** One rule of a policy. */
export interface Place {
  manifest: Manifest
  spec: Spec
  section: (typeof sections)[number]
  rule: Rule
}

/** Every rule that says something; a rule without anything is only there to deny. */
export const placesOf = (manifests: Manifest[]): Place[] =>
  manifests.flatMap((manifest) =>
    specsOf(manifest.policy).flatMap((spec) =>
      sections.flatMap((section) =>
        (spec[section] ?? [])
          .filter((rule) => Object.keys(rule).length > 0)
          .map((rule) => ({ manifest, spec, section, rule })),
      ),
    ),
  )

/** The same policies without one rule; a direction that has no other still denies. */
export function withoutRule(manifests: Manifest[], { manifest, spec, section, rule }: Place): Manifest[] {
  const left = (spec[section] ?? []).filter((one) => one !== rule)
  const changed: Spec = { ...spec, [section]: left.length === 0 && !section.endsWith('Deny') ? [{}] : left }
  const { policy } = manifest
  const next =
    policy.spec === spec
      ? { ...policy, spec: changed }
      : { ...policy, specs: specsOf(policy).map((one) => (one === spec ? changed : one)) }
  return manifests.map((one) => (one === manifest ? { ...manifest, policy: next } : one))
}

export const isAllowed = (manifests: Manifest[], known: Endpoint[], flow: Flow): boolean => {
  const { egress, ingress } = judge(manifests, known, flow)
  return egress.allowed && ingress.allowed
}
