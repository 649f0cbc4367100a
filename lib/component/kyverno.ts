// Rules for what may run as objects of Kyverno: the same expressions that the API server judges by, word for word. It hides what
// Kyverno would make of a policy by itself.
import type { Site } from '../site/model.ts'
import { exemptionsFor, policyData, rulesFor } from '../site/policy.ts'
import { judgedBy, manifest, notesOf, policyOf } from './admission.ts'

export const kyvernoKinds = ['validatingpolicies.policies.kyverno.io']

/**
 * The rules of a site for Kyverno; `what` is their label. It refuses where the API server does, and reports on what is there
 * either way. Exceptions are conditions of the rules here too, and end when they do: Kyverno's own live on after their day.
 */
export function kyvernoManifests(site: Site, what: string, now?: Date): string[] {
  const exemptions = exemptionsFor(site, now)
  const { silent, seconds } = policyData().kyverno
  return rulesFor(site).on.map((rule) =>
    manifest({
      apiVersion: 'policies.kyverno.io/v1',
      kind: 'ValidatingPolicy',
      metadata: {
        name: policyOf(rule.id),
        labels: { 'fortress-kit': what },
        annotations: notesOf(rule, exemptions),
      },
      spec: {
        validationActions: [site.policy.mode === 'enforce' ? 'Deny' : 'Audit'],
        failurePolicy: silent,
        webhookConfiguration: { timeoutSeconds: seconds },
        evaluation: { admission: { enabled: true }, background: { enabled: true } },
        // A rule names the objects in which pods stand itself, and is in the API server already.
        autogen: { podControllers: { controllers: [] }, validatingAdmissionPolicy: { enabled: false } },
        ...judgedBy(rule, exemptions),
      },
    }),
  )
}
