// The two files that the API server reads when it starts: the settings of its admission plug-ins, and what it writes down.
import { type JsonSchema, type Path, type Problem, checkSchema, show } from '../../ground/document.ts'
import { nearest } from '../../ground/nearest.ts'
import { read } from '../../ground/root.ts'

/** A document, and what is wrong in it. */
interface Checked {
  document: Record<string, unknown>
  /** The text that a value was written with. */
  raw: (path: Path) => string
  problems: Problem[]
}

const schemas = new Map<string, JsonSchema>()
/** The schema of one of the documents. */
export function schemaOf(name: 'admission' | 'audit'): JsonSchema {
  const schema = schemas.get(name) ?? (JSON.parse(read(`config/schema/${name}.json`)) as JsonSchema)
  schemas.set(name, schema)
  return schema
}

interface Plugin {
  name?: string
  configuration?: { defaults?: { enforce?: string } }
}

/**
 * Adds what is wrong with the settings of plug-ins, of which `known` are all and `enabled` ours; gives the names that have
 * some.
 */
export function admissionProblems(source: Checked, enabled: string[], known: string[]): string[] {
  const settings = schemaOf('admission')['$defs'] as Record<string, JsonSchema>
  const plugins = ((source.document['plugins'] ?? []) as (Plugin | undefined)[]).map((plugin) => plugin ?? {})
  for (const [i, { name, configuration }] of plugins.entries()) {
    if (name === undefined) continue
    const at: Path = ['plugins', i]
    const add = (path: Path, problem: Omit<Problem, 'path'>): void => {
      source.problems.push({ ...problem, path: [...at, ...path] })
    }
    const first = plugins.findIndex((plugin) => plugin.name === name)
    if (!known.includes(name))
      add(['name'], {
        reason: `${show(name)} is no plug-in of the API server`,
        suggestion: nearest(name, known),
      })
    else if (first < i) add(['name'], { reason: `${name} has settings already, in plugins[${first}]` })
    else if (name === 'EventRateLimit' && !enabled.includes(name))
      add(['name'], { reason: `${name} is not enabled: add it to enable-admission-plugins` })
    if (configuration === undefined || settings[name] === undefined) continue
    const inner: Path = [...at, 'configuration']
    const { problems } = checkSchema(settings[name], {}, structuredClone(configuration), (path) =>
      source.raw([...inner, ...path]),
    )
    for (const problem of problems) add(['configuration', ...problem.path], problem)
    if (name === 'PodSecurity' && configuration.defaults?.enforce === 'privileged')
      add(['configuration', 'defaults', 'enforce'], {
        reason: 'is privileged: a pod in a namespace without labels may be root on the node',
        suggestion: 'restricted',
      })
  }
  return plugins.flatMap(({ name }) => name ?? [])
}

interface Rule {
  level?: string
  users?: string[]
  userGroups?: string[]
  verbs?: string[]
  namespaces?: string[]
  nonResourceURLs?: string[]
  resources?: ({ group?: string; resources?: string[]; resourceNames?: string[] } | undefined)[]
}

/** What carries a secret in its body, as group and resource. */
const bodies = [
  ['', 'secrets'],
  ['', 'serviceaccounts/token'],
  ['authentication.k8s.io', 'tokenreviews'],
] as const

/** Whether a rule can meet a resource, and whether it meets every request for it: as the API server compares them. */
function meets(rule: Rule, group: string, resource: string): { some: boolean; all: boolean } {
  const { resources = [], namespaces = [], nonResourceURLs = [] } = rule
  if (resources.length === 0 && namespaces.length === 0 && nonResourceURLs.length > 0)
    return { some: false, all: false }
  const sub = resource.split('/')[1]
  const hits = resources.filter(
    (entry) =>
      (entry?.group === '*' || (entry?.group ?? '') === group) &&
      (entry?.resources === undefined ||
        entry.resources.length === 0 ||
        entry.resources.some(
          (name) => name === '*' || name === resource || (sub !== undefined && name === `*/${sub}`),
        )),
  )
  const some = resources.length === 0 || hits.length > 0
  const narrow = [rule.users, rule.userGroups, rule.verbs, namespaces].some(
    (list) => list !== undefined && list.length > 0,
  )
  const byName = resources.length > 0 && hits.every((entry) => (entry?.resourceNames ?? []).length > 0)
  return { some, all: some && !narrow && !byName }
}

/** Adds what is wrong with the rules of an audit policy. */
export function auditProblems(source: Checked): void {
  const rules = ((source.document['rules'] ?? []) as (Rule | undefined)[]).map((rule) => rule ?? {})
  const add = (path: Path, problem: Omit<Problem, 'path'>): void => {
    source.problems.push({ ...problem, path: ['rules', ...path] })
  }
  const covered = new Set<string>()
  let all: number | undefined
  for (const [i, rule] of rules.entries()) {
    const { level, resources = [], namespaces = [], nonResourceURLs = [] } = rule
    if (all !== undefined) add([i], { reason: `is never reached: rules[${all}] matches everything` })
    if (nonResourceURLs.length > 0 && (resources.length > 0 || namespaces.length > 0))
      add([i, 'nonResourceURLs'], { reason: 'cannot stand beside resources or namespaces: make two rules' })
    for (const [j, entry] of resources.entries())
      if ((entry?.resourceNames ?? []).length > 0 && (entry?.resources ?? []).length === 0)
        add([i, 'resources', j, 'resourceNames'], { reason: 'needs resources beside it' })
    for (const [group, resource] of bodies) {
      const met = meets(rule, group, resource)
      if (met.some && !covered.has(resource) && (level === 'Request' || level === 'RequestResponse')) {
        add([i, 'level'], {
          reason:
            `is ${level} and meets ${resource}: secrets would be written into the log. ` +
            'A rule above with level Metadata prevents it',
        })
        covered.add(resource)
      }
      if (met.all) covered.add(resource)
    }
    const bare = [rule.users, rule.userGroups, rule.verbs, namespaces, resources, nonResourceURLs]
    if (all === undefined && bare.every((list) => list === undefined || list.length === 0)) all = i
  }
  if (rules.length > 0 && rules.every(({ level }) => level === 'None'))
    add([0, 'level'], { reason: 'is None, as every other: nothing at all is written down' })
  if (all === undefined && rules.length > 0)
    add([rules.length - 1], {
      reason: 'is the last and does not match everything: what no rule matches is not written down',
    })
}
