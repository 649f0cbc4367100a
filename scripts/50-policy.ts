#!/usr/bin/env -S npx --no-install tsx
// Rules for what may run, beyond Pod Security level restricted: the API server itself warns by them, and refuses when you say so.
//
// Needs   k3s-server, or vm-talos; policy-engine where the site has one.
// Leaves  ./task rules lists the rules of a site and its exceptions, and ./task rules report what of the cluster would be refused
//         today. With policy.mode: enforce in the site document the rules refuse, once nothing that is there would be.
//         They need nothing that runs in a pod, and hold when nothing runs. Where Kyverno runs it judges by them as well.
// Undo    takes the rules away: then everything may run that Pod Security lets in.
import { join } from 'node:path'
import { judged, policyKinds, refusalManifests, ruleManifests } from '../lib/component/admission.ts'
import { kyvernoKinds, kyvernoManifests } from '../lib/component/kyverno.ts'
import { type Objects, objects } from '../lib/component/objects.ts'
import { file } from '../lib/engine/file.ts'
import type { Step } from '../lib/engine/step.ts'
import { library, sh } from '../lib/ground/sh.ts'
import { type Context, script } from '../lib/script.ts'
import { isServer } from '../lib/site/machines.ts'
import { kyverno, policyData, rulesFor, usesKyverno } from '../lib/site/policy.ts'

const about = {
  layer: 'policy',
  on: 'api',
  needs: ['20-k3s-server', '14-vm-talos', '49-policy-engine'],
  library: library(
    ...['release', 'objects', 'admission', 'kyverno'].map((name) => `lib/component/${name}.sh`),
  ),
} as const

const what = 'policy'
const refusals = 'policy-refuse'
const kyvernoRules = `${kyverno}-rules`
const [, bindings = ''] = policyKinds

export default script(import.meta, about, (context) => {
  const { site, state } = context
  if (!site.machines.some(isServer)) return []
  const { on } = rulesFor(site)
  const asked = join(state, 'components', 'policy-refused.yaml')
  return [
    file(asked, {
      from: 'config/policy/refused.yaml',
      name: 'the manifest of what every rule refuses is written',
    }),
    ...objects(
      {
        what,
        name: `${on.length} rules for pods, Services and routes are declared, and warn`,
        why: 'the API server judges by itself, no pod has to run for it, and one more exemption made by hand is seen',
        manifests: ruleManifests(site, what),
        kinds: policyKinds,
        around: exact(context, what),
      },
      context,
    ),
    {
      name: 'every rule is in effect',
      why: 'the API server gets objects that break each of them as a dry run, and has to warn of each',
      until: sh`policy_warns ${asked} ${on.map(({ id }) => id)}`,
      seconds: 60,
    },
    ...(site.policy.mode === 'enforce' ? enforced(context, asked) : audited),
    ...(usesKyverno(site) ? second(context) : []),
  ]
})

/** An object is the whole of what is declared: one more condition would let somebody through. */
function exact({ state }: Context, name: string): NonNullable<Objects['around']> {
  const path = join(state, 'components', `${name}.yaml`)
  return {
    holds: sh`policy_exact ${path}`,
    before: [sh`policy_replace ${path}`],
    apply: (command) => command,
    undo: { before: [], after: [] },
  }
}

/** What is refused from now on must not be what runs: its pods would not come back from the next restart. */
const enforced = (context: Context, asked: string): Step[] => [
  {
    name: 'what is in the cluster keeps to the rules',
    why: 'a pod that is refused does not come back when its node restarts',
    check: sh`policy_admitted ${judged}`,
    help: `mend these objects; or give what cannot be mended yet an exception, with a reason and an end, in
config/sites/${context.site.name}.yaml: policy: { exceptions: [{ rules: [RULE], namespace: …, why: …, until: 2027-11-30 }] }`,
  },
  ...objects(
    {
      what: refusals,
      name: 'what breaks a rule is refused',
      why: 'an object that only warns is one that somebody overlooks',
      manifests: refusalManifests(context.site, refusals),
      kinds: [bindings],
      around: exact(context, refusals),
    },
    context,
  ),
  {
    name: 'the API server refuses what breaks the rules',
    until: sh`policy_refuses ${asked}`,
    seconds: 60,
  },
]

const audited: Step[] = [
  {
    name: 'the rules warn, and refuse nothing',
    why: 'policy.mode is audit: ./task rules report shows what enforce would refuse',
    check: sh`
      found=$(kubectl get ${bindings} --selector=fortress-kit=${refusals} --output=name) || exit
      test -z "$found" || { printf '%s refuses\n' $found; false; }`,
    apply: [sh`kubectl delete ${bindings} --selector=fortress-kit=${refusals}`],
    undo: [sh`kubectl delete ${bindings} --selector=fortress-kit=${refusals} --ignore-not-found`],
  },
]

/** The same rules for Kyverno, last of all: while it is silent its policies cannot be changed, and the others hold already. */
const second = (context: Context): Step[] => [
  ...objects(
    {
      what: kyvernoRules,
      name: 'Kyverno has the same rules, and reports what breaks them',
      why: policyData().kyverno.why,
      manifests: kyvernoManifests(context.site, kyvernoRules),
      kinds: kyvernoKinds,
      around: exact(context, kyvernoRules),
    },
    context,
  ),
  {
    name: 'Kyverno judges by every rule',
    why: 'and can never be asked about kube-system, or about its own pods',
    until: sh`kyverno_judges ${policyData().kyverno.silent} ${rulesFor(context.site).on.map(({ id }) => id)}`,
    seconds: 120,
  },
]
