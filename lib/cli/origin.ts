// A site as a document of which each line says where it comes from.
import { createRequire } from 'node:module'
import { type JsonSchema, type Path, checkSchema, pathText } from '../ground/document.ts'
import { read } from '../ground/root.ts'
import { hostOf } from '../site/machines.ts'
import { formats } from '../site/formats.ts'
import type { Env, Site } from '../site/model.ts'

const load = createRequire(import.meta.url)

/** Who says a value: the person's text, the schema, what follows from the rest, or the name of an FK_ variable. */
export type Origin = 'yours' | 'default' | 'computed' | `FK_${string}`

/** The origin of each value by its path, in the order of the document; an empty list or map is a value. `text` is the document's. */
export function originsOf(site: Site, text: string, env: Partial<Env>): Map<string, Origin> {
  const { parse } = load('yaml') as typeof import('yaml')
  const yours = parse(text) as unknown
  const filled = parse(text) as unknown
  checkSchema(JSON.parse(read('config/schema/site.json')) as JsonSchema, formats, filled)
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
    site.machines.flatMap((machine, i) =>
      hostOf(site, machine) === undefined
        ? []
        : names.map((name): [string, Origin] => [`machines[${i}].${places[name]}`, name]),
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
  const lines = Object.entries(site)
    .filter(([, value]) => value !== undefined)
    .flatMap(([key, value]): (Line | undefined)[] => [
      undefined,
      ...block(`${key}:`, value, [key], '', origins),
    ])
  const width = Math.min(widest, Math.max(...lines.map((line) => line?.text.length ?? 0)))
  const body = lines.map((line) => {
    if (line === undefined) return ''
    const comment = `# ${line.origin}`
    const code = colors[line.origin] ?? 33
    return `${line.text.padEnd(width)}  ${color ? `\u001b[${code}m${comment}\u001b[0m` : comment}`
  })
  const head = [
    `# The whole site, by ${file}. Behind each line who says it: yours, the document; default, the schema;`,
    '# computed, it follows from the rest; FK_…, the variable. What is left out of the document has this value.',
  ]
  // The name and what is a line by itself need no space between them.
  return `${[...head, ...body.filter((line, i) => line !== '' || (lines[i + 2] !== undefined && tall(lines, i)))].join('\n')}\n`
}

/** Whether the section that begins behind an empty line, or the one before it, has several lines. */
function tall(lines: (Line | undefined)[], i: number): boolean {
  return lines[i + 2] !== undefined || (i > 1 && lines[i - 2] !== undefined)
}

/** `head` (a key, or the dash of a list) with its value behind or below it. */
function block(
  head: string,
  value: unknown,
  path: Path,
  indent: string,
  origins: Map<string, Origin>,
): Line[] {
  const found = [...new Set(leaves(value, path).map(([at]) => origins.get(pathText(at)) ?? 'computed'))]
  const [origin = 'computed'] = found
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
  return [{ text: `${indent}${head}`, origin: found.length === 1 ? origin : inner[0]!.origin }, ...inner]
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
