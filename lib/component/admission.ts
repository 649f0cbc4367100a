// Rules for what may run as objects of the API server: one ValidatingAdmissionPolicy each, and what makes it warn or refuse. It
// hides how the objects in which pods stand are all seen as pods.
import { createRequire } from 'node:module'
import { type Exemption, type Rule, type Subject, exemptionsFor, rulesFor } from '../site/policy.ts'
import type { Site } from '../site/model.ts'

const load = createRequire(import.meta.url)

/** An annotation: whoever has it is judged although nothing about it has changed. The report sets it, without storing it. */
export const asked = 'fortress-kit/asked'

/** How the policy of a rule is called. */
export const policyOf = (rule: string): string => `fortress-${rule}`

/** The same for the binding that refuses; the one that warns has the name of the policy. */
const refusalOf = (rule: string): string => `${policyOf(rule)}-refuse`

const api = 'admissionregistration.k8s.io/v1'
export const policyKinds = ['policies', 'policybindings'].map(
  (kind) => `validatingadmission${kind}.admissionregistration.k8s.io`,
)

/** Group → the resources of it that a rule is asked about, in which versions. */
const workloads = {
  '': ['pods', 'pods/ephemeralcontainers', 'replicationcontrollers'],
  apps: ['daemonsets', 'deployments', 'replicasets', 'statefulsets'],
  batch: ['cronjobs', 'jobs'],
}
const routes = {
  'gateway.networking.k8s.io': ['gateways', 'grpcroutes', 'httproutes', 'listenersets', 'tlsroutes'],
  'networking.k8s.io': ['ingresses'],
}

const resourcesOf = (of: Subject): Record<string, string[]> =>
  of === 'services' ? { '': ['services'] } : of === 'routes' ? routes : workloads

/** What is annotated, in a dry run, to hear what the rules have against it: as kubectl names it. */
export const judged = [workloads, { '': ['services'] }, routes].flatMap((groups) =>
  Object.entries(groups).flatMap(([group, resources]) =>
    resources.flatMap((name) => (name.includes('/') ? [] : group === '' ? name : `${name}.${group}`)),
  ),
)

// Without types: the same expression is for a Pod and for a CronJob, and each has only some of the fields.
const object = 'dyn(object)'

/** CEL: the pod, or the template of pods, that an object has. */
const podOf = (of: string): string =>
  `(${of}.kind == 'Pod' ? ${of} : ${of}.kind == 'CronJob' ? ${of}.spec.jobTemplate.spec.template : ${of}.spec.template)`

/** CEL: what a rule is about, in an object. */
const subjectOf = (of: Subject, it: string): string => (of === 'services' || of === 'routes' ? it : podOf(it))

const text = (value: string): string => JSON.stringify(value)

const pod = { name: 'pod', expression: podOf(object) }
const lists = (...names: string[]): string =>
  names.map((name) => `variables.pod.spec.?${name}.orValue([])`).join(' + ')
const all = lists('containers', 'initContainers', 'ephemeralContainers')

/** CEL: the list of what a rule is about, each with a name. */
const listOf: Partial<Record<Subject, string>> = {
  images:
    `(${all}).map(one, {'name': dyn(one.name), 'image': dyn(one.?image.orValue(''))}) + ${lists('volumes')}` +
    `.filter(one, has(one.image)).map(one, {'name': dyn('volume ' + one.name), 'image': dyn(one.image.?reference.orValue(''))})`,
  containers: all,
  started: lists('containers', 'initContainers'),
  serving: `variables.pod.spec.?restartPolicy.orValue('Always') == 'Always' ? ${lists('containers')} : []`,
}

const where = "object.kind + ' ' + request.namespace + '/' + object.metadata.name + ': '"

/** What decides, in CEL: variables, the expression that must be true, and what is said where it is not. */
function judgement({ of, must, refused }: Rule): object {
  const list = listOf[of]
  const said = text(refused)
  if (list === undefined) {
    const it = { name: 'it', expression: subjectOf(of, object) }
    const expression = must.replaceAll(/\bit\b/g, 'variables.it')
    return {
      variables: [it],
      validations: [{ expression, message: refused, messageExpression: `${where} + ${said}` }],
    }
  }
  const bad = `variables.all.filter(it, !(${must})).map(it, it.name)`
  return {
    variables: [pod, { name: 'all', expression: list }, { name: 'bad', expression: bad }],
    validations: [
      {
        expression: 'size(variables.bad) == 0',
        message: refused,
        messageExpression: `${where} + ${said} + ': ' + variables.bad.join(', ')`,
      },
    ],
  }
}

/**
 * When a rule is asked at all. What runs already may go on, and be given labels and owners by controllers, until the part that
 * the rule is about is changed.
 */
function conditionsOf({ id, of }: Rule, exemptions: readonly Exemption[]): object[] {
  const [now, before] = [object, 'dyn(oldObject)'].map((it) => subjectOf(of, it))
  const mark = `${object}.metadata.?annotations[?'${asked}'].hasValue()`
  return [
    {
      name: 'changed',
      expression: `request.operation == 'CREATE' || ${now}.spec != ${before}.spec || ${mark}`,
    },
    ...exemptions
      .filter(({ rules }) => rules === 'all' || rules.includes(id))
      .map((one, i) => ({ name: `exempt-${i + 1}`, expression: isOther(one, of) })),
  ]
}

/** CEL: an object is not the one that is exempt. The time of a new object is the server's own, and nobody else can set it. */
function isOther({ namespace, labels = {}, until }: Exemption, of: Subject): string {
  const of_ = `${subjectOf(of, object)}.?metadata.?labels`
  const end = new Date(`${until}T00:00:00Z`).getTime() + 86_400_000
  return `!(${[
    `request.namespace == ${text(namespace)}`,
    ...Object.entries(labels).map(([key, value]) => `${of_}[?${text(key)}].orValue('') == ${text(value)}`),
    ...(until === undefined
      ? []
      : [`timestamp(${object}.metadata.creationTimestamp) < timestamp('${new Date(end).toISOString()}')`]),
  ].join(' && ')})`
}

/** What every engine that judges by a rule is told of it: what it is asked about, when, and what decides. */
export function judgedBy(rule: Rule, exemptions: readonly Exemption[]) {
  return {
    matchConstraints: {
      resourceRules: Object.entries(resourcesOf(rule.of)).map(([group, resources]) => ({
        apiGroups: [group],
        apiVersions: ['*'],
        operations: ['CREATE', 'UPDATE'],
        resources,
      })),
    },
    matchConditions: conditionsOf(rule, exemptions),
    ...judgement(rule),
  }
}

/** What somebody reads who finds the object of a rule in the cluster. */
export function notesOf({ id, is, why }: Rule, exemptions: readonly Exemption[]): Record<string, string> {
  const mine = exemptions.filter(({ rules }) => rules === 'all' || rules.includes(id))
  const reasons = mine.map(({ namespace, labels = {}, why: reason, until }) => {
    const those = Object.entries(labels).map(([key, value]) => ` ${key}=${value}`)
    return `${namespace}${those.join('')}${until === undefined ? '' : ` until ${until}`}: ${reason}`
  })
  return {
    'fortress-kit/rule': `${is}: ${why}`,
    ...(reasons.length === 0 ? {} : { 'fortress-kit/exempt': reasons.join('\n') }),
  }
}

const policy = (rule: Rule, exemptions: readonly Exemption[], what: string): object => ({
  apiVersion: api,
  kind: 'ValidatingAdmissionPolicy',
  metadata: {
    name: policyOf(rule.id),
    labels: { 'fortress-kit': what },
    annotations: notesOf(rule, exemptions),
  },
  spec: { failurePolicy: 'Fail', ...judgedBy(rule, exemptions) },
})

const binding = (name: string, { id }: Rule, validationActions: string[], what: string): object => ({
  apiVersion: api,
  kind: 'ValidatingAdmissionPolicyBinding',
  metadata: { name, labels: { 'fortress-kit': what } },
  spec: { policyName: policyOf(id), validationActions },
})

/** An object as YAML. */
export const manifest = (value: object): string =>
  (load('yaml') as typeof import('yaml')).stringify(value, { lineWidth: 0, aliasDuplicateObjects: false })

/** The rules of a site, each with the binding by which it warns and is noted in the audit log. `what`: their label. */
export function ruleManifests(site: Site, what: string, now?: Date): string[] {
  const exemptions = exemptionsFor(site, now)
  const { on } = rulesFor(site)
  return [
    ...on.map((rule) => policy(rule, exemptions, what)),
    ...on.map((rule) => binding(policyOf(rule.id), rule, ['Warn', 'Audit'], what)),
  ].map(manifest)
}

/** The bindings by which the rules of a site refuse; `what` is their label. */
export const refusalManifests = (site: Site, what: string): string[] =>
  rulesFor(site).on.map((rule) => manifest(binding(refusalOf(rule.id), rule, ['Deny'], what)))
