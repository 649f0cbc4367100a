// A site as a document of which each line says where it comes from.
import { createRequire } from 'node:module'
import { type JsonSchema, type Path, pathText } from '../ground/document.ts'
import { siteSchema, withDefaults } from '../site/config.ts'
import type { Env, Site } from '../site/model.ts'

const load = createRequire(import.meta.url)

/** Who says a value: the person's text, the schema, what follows from the rest, or the name of an FK_ variable. */
export type Origin = 'yours' | 'default' | 'computed' | `FK_${string}`

/** The origin of each value by its path; an empty list or map is a value. `text` is that of the document. */
export function originsOf(site: Site, text: string, env: Partial<Env>): Map<string, Origin> {
  const { parse } = load('yaml') as typeof import('yaml')
  const yours = parse(text) as unknown
  const filled = withDefaults(yours)
  const variables = variablesOf(site, env)
  return new Map(
    leaves(site, []).map(([path]) => {
      const name = pathText(path)
      const origin = has(yours, path) ? 'yours' : has(filled, path) ? 'default' : 'computed'
      return [name, variables.get(name) ?? origin]
    }),
  )
}

/** The values that FK_ variables give the virtual machines, by their paths. */
function variablesOf(site: Site, env: Partial<Env>): Map<string, Origin> {
  const places = {
    FK_NODE_OS: 'os',
    FK_VM_RAM_MB: 'vm.memory',
    FK_VM_VCPUS: 'vm.cpus',
    FK_VM_DISK_GB: 'vm.disk',
    FK_VM_ACCEL: 'vm.accel',
  } as const
  const names = (Object.keys(places) as (keyof typeof places)[]).filter((name) => env[name] !== undefined)
  return new Map(
    site.machines.flatMap(({ vm }, i) =>
      vm === undefined ? [] : names.map((name): [string, Origin] => [`machines[${i}].${places[name]}`, name]),
    ),
  )
}

const isBranch = (value: unknown): value is object => typeof value === 'object' && value !== null

function leaves(value: unknown, path: Path): [Path, unknown][] {
  if (!isBranch(value) || Object.keys(value).length === 0) return [[path, value]]
  return Object.entries(value)
    .filter(([, item]) => item !== undefined)
    .flatMap(([key, item]) => leaves(item, [...path, Array.isArray(value) ? Number(key) : key]))
}

function has(value: unknown, path: Path): boolean {
  let at = value
  for (const part of path) {
    if (!isBranch(at) || !Object.hasOwn(at, part)) return false
    at = (at as Record<string | number, unknown>)[part]
  }
  return true
}

interface Line {
  text: string
  origin: Origin
}

const widest = 100
const colors: Record<string, number> = { yours: 32, default: 90, computed: 36 }

/** The site as YAML, the origin behind each line as a comment. A map of one origin stands on one line where there is room. */
export function screen(
  site: Site,
  origins: Map<string, Origin>,
  { file, color }: { file: string; color: boolean },
): string {
  const sections = Object.entries(site).map(([key, value]) => block(`${key}:`, value, [key], '', origins))
  const width = Math.min(widest, Math.max(...sections.flat().map(({ text }) => text.length)))
  const printed = ({ text, origin }: Line): string => {
    const code = colors[origin] ?? 33
    return `${text.padEnd(width)}  ${color ? `\u001b[${code}m# ${origin}\u001b[0m` : `# ${origin}`}`
  }
  const head = [
    `# All that ${file} says, and what follows from it. Behind each line stands who says it:`,
    '# yours, the document; default, the schema; computed, it follows from the rest; FK_…, that variable.',
    '# Any of these lines may stand in the document.',
    '',
  ]
  const body = sections.flatMap((lines, i) => {
    const apart = i > 0 && (lines.length > 1 || (sections[i - 1]?.length ?? 0) > 1)
    return [...(apart ? [''] : []), ...lines.map(printed)]
  })
  return `${[...head, ...body].join('\n')}\n`
}

/** The keys in the order of the schema. */
export function ordered<T>(value: T, schema: JsonSchema = siteSchema(), root: JsonSchema = schema): T {
  const name = typeof schema['$ref'] === 'string' ? schema['$ref'].replace('#/$defs/', '') : undefined
  const meant = name === undefined ? schema : ((root['$defs'] ?? {}) as Record<string, JsonSchema>)[name]
  if (Array.isArray(value))
    return value.map((item) => ordered<unknown>(item, (meant?.['items'] ?? {}) as JsonSchema, root)) as T
  if (!isBranch(value)) return value
  const { properties = {} } = meant ?? {}
  const keys = [...new Set([...Object.keys(properties), ...Object.keys(value)])]
  const all = value as Record<string, unknown>
  return Object.fromEntries(
    keys
      .filter((key) => all[key] !== undefined)
      .map((key) => [key, ordered(all[key], properties[key] ?? {}, root)]),
  ) as T
}

/** Who says the first line of a map: whoever is nearest to the person. */
const nearestOf = (origins: Origin[]): Origin =>
  (['yours', 'default'] as const).find((origin) => origins.includes(origin)) ?? origins[0] ?? 'computed'

/** `head` (a key, or the dash of a list) with its value behind or below it. */
function block(
  head: string,
  value: unknown,
  path: Path,
  indent: string,
  origins: Map<string, Origin>,
): Line[] {
  const found = [...new Set(leaves(value, path).map(([at]) => origins.get(pathText(at)) ?? 'computed'))]
  const origin = nearestOf(found)
  const line = `${indent}${head} ${inline(value)}`
  const list = Array.isArray(value)
  const flat = !isBranch(value) || (list && !value.some(isBranch)) || (!list && indent !== '')
  if (!isBranch(value) || Object.keys(value).length === 0) return [{ text: line, origin }]
  if (found.length === 1 && flat && line.length <= widest) return [{ text: line, origin }]
  const below = `${indent}  `
  const items = Object.entries(value).filter(([, item]) => item !== undefined)
  const inner = items.flatMap(([key, item]) =>
    block(list ? '-' : `${word(key)}:`, item, [...path, list ? Number(key) : key], below, origins),
  )
  // A map in a list begins behind the dash.
  if (head === '-')
    return inner.map((one, i) => (i > 0 ? one : { ...one, text: `${indent}- ${one.text.trimStart()}` }))
  return [{ text: `${indent}${head}`, origin }, ...inner]
}

/** A value in one line of YAML. */
function inline(value: unknown): string {
  const { Document } = load('yaml') as typeof import('yaml')
  // In braces a text is quoted where it has to be in any place.
  const document = new Document([value])
  const { contents } = document
  Object.assign(contents ?? {}, { flow: true })
  const text = document.toString({ lineWidth: 0, singleQuote: true, flowCollectionPadding: true }).trim()
  return text
    .slice(1, -1)
    .trim()
    .replaceAll(/\[ ([^'"#[\]]*) \]/g, '[$1]')
}

const word = (key: string): string => inline(key)
