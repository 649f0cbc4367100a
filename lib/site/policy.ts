// What the cluster of a site refuses to run: the rules of config/policy/rules.yaml that hold there, and where they are not asked.
import { createRequire } from 'node:module'
import type { JsonSchema } from '../ground/document.ts'
import { read } from '../ground/root.ts'
import { type Component, catalogue, fills } from './catalogue.ts'
import { chosen, isServer } from './machines.ts'
import type { PolicyException, Site } from './model.ts'

/** What a rule is about: `it` in its CEL. config/policy/rules.yaml says what each is. */
export const subjects = ['images', 'containers', 'started', 'serving', 'pods', 'services', 'routes'] as const
export type Subject = (typeof subjects)[number]

export interface Rule {
  id: string
  /** What is true where it holds. */
  is: string
  why: string
  of: Subject
  /** A line of CEL about `it`. */
  must: string
  /** What is said of an object that is refused, in front of the names of its containers. */
  refused: string
  /** Why it is not asked in namespaces of components. */
  platform?: string
  /** It is off where the site has chosen nothing for this slot, or what no page installs. */
  slot?: string
}

/** Where rules are not asked. */
export interface Exemption {
  namespace: string
  rules: 'all' | readonly string[]
  /** Those of the pods, or of an object that has none; absent: everything in the namespace. */
  labels?: Readonly<Record<string, string>>
  why: string
  /** The last day on which it counts, in UTC. */
  until?: string
}

/** How Kyverno is asked by the rules. */
export interface Asking {
  /** What happens to a request while it does not answer. */
  silent: 'Ignore' | 'Fail'
  /** How long the API server waits for it. */
  seconds: number
  why: string
}

interface Document {
  rules: Rule[]
  exempt: Exemption[]
  kyverno: Asking
}

const file = 'config/policy/rules.yaml'
const load = createRequire(import.meta.url)
let known: Document | undefined

/** All rules as they are written, and the exemptions beside them. Throws with every fault of the file. */
export function policyData(): Document {
  if (known !== undefined) return known
  const { checkDocument, describe } = load('../ground/document.ts') as typeof import('../ground/document.ts')
  const schema = JSON.parse(read('config/schema/policy.json')) as JsonSchema
  const { document, faults } = checkDocument<Document>(file, read(file), schema, {}, function* (found) {
    const ids = (found.rules ?? []).map((rule) => rule?.id)
    for (const [i, id] of ids.entries())
      if (id !== undefined && ids.indexOf(id) < i)
        yield { path: ['rules', i, 'id'], reason: 'is that of another rule' }
  })
  if (faults.length > 0) throw new Error([`${file} cannot be used`, ...faults.map(describe)].join('\n'))
  return (known = document)
}

/** The second engine. */
export const kyverno = 'kyverno'

/** Whether a site runs it. */
export const usesKyverno = (site: Site): boolean =>
  site.machines.some(isServer) && fills(site, 'policy', kyverno)

/** Whether a site uses a component that pages install. */
const isUsed = (site: Site, { built, name, slots }: Component): boolean =>
  built && slots.some((slot) => fills(site, slot, name))

/** What a site has chosen for a slot, as far as pages install it. */
const installed = (site: Site, slot: string): string[] =>
  chosen(site, slot).filter((name) => catalogue().get(name)?.built)

/** The rules that hold at a site, filled in with what it says; and those that are off, with what they wait for. */
export function rulesFor(site: Site): { on: Rule[]; off: Rule[] } {
  const isOff = ({ slot }: Rule) => slot !== undefined && installed(site, slot).length === 0
  const values: Record<string, string[]> = {
    registries: site.policy.registries,
    runtimes: installed(site, 'runtime'),
  }
  const { rules } = policyData()
  const filled = (rule: Rule): Rule => ({
    ...rule,
    must: rule.must.replaceAll(/\{\{ (\w+) \}\}/g, (text, name: string) => {
      if (values[name] === undefined) throw new TypeError(`${file}: ${text} is no value of a site`)
      return JSON.stringify(values[name])
    }),
  })
  return { on: rules.filter((rule) => !isOff(rule)).map(filled), off: rules.filter(isOff) }
}

/** The day that ends last, such as 2026-11-30. */
const dayOf = (now: Date): string => now.toISOString().slice(0, 10)

/** The exceptions of a site that have ended, and the others. */
export function exceptionsOf(
  { policy }: Pick<Site, 'policy'>,
  now = new Date(),
): { ended: PolicyException[]; running: PolicyException[] } {
  const has = ({ until }: PolicyException) => until < dayOf(now)
  return { ended: policy.exceptions.filter(has), running: policy.exceptions.filter((one) => !has(one)) }
}

/** Where rules are not asked at a site: what the kit says of itself, and the exceptions of the site that have not ended. */
export function exemptionsFor(site: Site, now?: Date): Exemption[] {
  const used = [...catalogue().values()].filter((component) => isUsed(site, component))
  const own = used.flatMap(({ exempt = [], namespace = '' }) => exempt.map((one) => ({ namespace, ...one })))
  const namespaces = [...new Set(used.flatMap(({ namespace }) => namespace ?? []))]
  const platform = policyData().rules.flatMap(({ id, platform: why }) =>
    why === undefined ? [] : namespaces.map((namespace) => ({ namespace, rules: [id], why })),
  )
  return [...policyData().exempt, ...own, ...platform, ...exceptionsOf(site, now).running]
}
