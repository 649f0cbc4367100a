#!/usr/bin/env -S npx --no-install tsx
// Kyverno, a second engine for the rules of page 50: it reports on what is there, and may be silent without blocking anything.
//
// Needs   network-policies.
// Leaves  Kyverno with its webhooks for policies. What it judges by comes with page 50. It changes and makes nothing by itself.
// Undo    takes it away with its webhooks. Its definitions stay, with the policies and reports that are in the cluster.
import { ownPolicies } from '../lib/component/objects.ts'
import { release } from '../lib/component/release.ts'
import { library, sh } from '../lib/ground/sh.ts'
import { script } from '../lib/script.ts'
import { isNode } from '../lib/site/machines.ts'
import { kyverno, usesKyverno } from '../lib/site/policy.ts'

const about = {
  layer: 'policy',
  on: 'api',
  needs: ['31-network-policies'],
  library: library(...['release', 'objects', 'kyverno'].map((name) => `lib/component/${name}.sh`)),
} as const

export default script(import.meta, about, (context) => {
  const { site } = context
  if (!usesKyverno(site)) return []
  const nodes = site.machines.filter(isNode).length
  return [
    ...release(kyverno, context, {
      first: ownPolicies(kyverno, context),
      facts: { admissionController: { replicas: Math.min(nodes, 3) } },
      undo: { before: [], after: [sh`kyverno_unhooked`] },
    }),
    {
      name: 'Kyverno answers the API server',
      why: 'its certificate has to reach the API server first, by its webhooks',
      until: sh`kyverno_answers`,
      seconds: 180,
    },
  ]
})
