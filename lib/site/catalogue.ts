// What can be chosen for a cluster: an open list of components, one directory of config/components each.
import fs from 'node:fs'
import { createRequire } from 'node:module'
import path from 'node:path'
import type { JsonSchema } from '../ground/document.ts'
import { read, root } from '../ground/root.ts'
import { chosen } from './machines.ts'
import type { Site } from './model.ts'

/** Pods of a component that are alike. */
export interface Workload {
  name: string
  namespace: string
  labels: Record<string, string>
  /** Where it listens, such as tcp/8080. */
  ports?: string[]
}

/** A component that a site can choose; config/schema/component.json describes every key. */
export interface Component {
  name: string
  does: string
  slots: string[]
  needs?: string[]
  later?: string[]
  secret?: string
  keeps?: string
  gate?: string
  param?: string
  disk?: string
  /** Used only where a site chooses it. */
  optional?: boolean
  own_disk: boolean
  snapshots: boolean
  arch?: ('amd64' | 'arm64')[]
  end?: { since: string; why: string; use?: string }
  layer?: 'L3' | 'L4' | 'policy' | 'L5' | 'L6'
  namespace?: string
  /** Where it is not restricted. */
  pod_security?: { level: 'baseline' | 'privileged'; why: string }
  /** The pin of its chart. */
  chart?: string
  /** It has no chart: a page applies its objects.yaml. */
  objects?: boolean
  /** It has routes at a gateway. */
  routes?: boolean
  crds?: { pin: string; names: string[]; why: string }[]
  apis?: string[]
  ready?: { object: string; namespace?: string; condition?: string; seconds: number; why?: string }[]
  /** In MiB on one node. */
  memory?: number
  stateful?: { what: string; where: string }[]
  upgrade?: { jump: 'patch' | 'minor' | 'major'; why: string }
  undo?: { keeps: string[]; namespace: boolean }
  ignore?: { kind: string; name?: string; path: string; why: string }[]
  /** What of config/policy/rules.yaml is not asked of it; without a namespace in its own. */
  exempt?: { rules: 'all' | string[]; namespace?: string; labels?: Record<string, string>; why: string }[]
  /** Keys of values that are ignored in silence, and what takes their place. */
  removed?: Record<string, string>
  workloads?: Workload[]
  built: boolean
}

/** Every component by its name. */
export type Catalogue = ReadonlyMap<string, Component>

const directory = 'config/components'
const schema = 'config/schema/component.json'

/** The names of all components, sorted. */
const names = (): string[] => fs.readdirSync(path.join(root, directory)).sort()

const fileOf = (name: string): string => `${directory}/${name}/component.yaml`

let known: Catalogue | undefined

/** The catalogue of config/components. Throws with every fault of its files. */
export function catalogue(): Catalogue {
  known ??= new Map(names().map((name) => [name, componentOf(name)]))
  return known
}

/** What must be known of a component before a page installs it. */
export const whenBuilt = [
  'layer',
  'namespace',
  'chart',
  'ready',
  'memory',
  'stateful',
  'upgrade',
  'undo',
] as const satisfies (keyof Component)[]

/** What only a component with a chart has. */
const ofCharts: readonly (keyof Component)[] = ['chart', 'ready', 'upgrade']

const load = createRequire(import.meta.url)
let json: JsonSchema | undefined

function componentOf(name: string): Component {
  const { checkDocument, describe } = load('../ground/document.ts') as typeof import('../ground/document.ts')
  json ??= JSON.parse(read(schema)) as JsonSchema
  const file = fileOf(name)
  const { document, faults } = checkDocument<Component>(file, read(file), json, {}, function* (found) {
    if (found.name !== undefined && found.name !== name)
      yield { path: ['name'], reason: 'must be the name of its directory', suggestion: name }
    const needed = found.objects ? whenBuilt.filter((key) => !ofCharts.includes(key)) : whenBuilt
    for (const key of found.built ? needed : [])
      if (found[key] === undefined)
        yield { path: [key], reason: `is missing: ${json?.properties?.[key]?.description ?? ''}` }
  })
  if (faults.length > 0) throw new Error([`${file} cannot be used`, ...faults.map(describe)].join('\n'))
  return document
}

/** Whether a component fills a slot: it is chosen for it, or nothing is, and it is one for those who choose nothing. */
export const fills = (site: Pick<Site, 'components'>, slot: string, name: string): boolean =>
  chosen(site, slot).includes(name) ||
  (chosen(site, slot).length === 0 && catalogue().get(name)?.optional !== true)

/** What a component that fills a slot is given beside its name; nothing for one that is chosen by its name alone. */
export function parametersOf(
  { components }: Pick<Site, 'components'>,
  slot: string,
): Readonly<Record<string, unknown>> {
  const [choice] = [components[slot] ?? []].flat()
  return typeof choice === 'object' ? choice : {}
}
