// Documents written by hand: YAML checked against a schema, every fault with its place and the likely spelling.
import { createRequire } from 'node:module'
import type { ErrorObject } from 'ajv'
import type { Ajv2020 } from 'ajv/dist/2020.js'
import type { Node, Pair, ScalarTag } from 'yaml'
import { nearest } from './nearest.ts'

/** One thing that is wrong. `line` and `column` count from 1 and are absent where there is no file. */
export interface Diagnostic {
  /** The file, or `environment`, or `--site`. */
  file: string
  line?: number | undefined
  column?: number | undefined
  /** The place in the document, such as `tunnel.peers[0].address`, or the name of a variable. */
  path: string
  reason: string
  /** The spelling that was probably meant. */
  suggestion?: string | undefined
  /** The line of the file; absent where it may hold a secret. */
  source?: string | undefined
}

export type Path = (string | number)[]

/** A fault whose place in the file is still to be found. */
export interface Problem {
  path: Path
  reason: string
  suggestion?: string | undefined
  /** Point at the key and not at its value. */
  atKey?: boolean
  /** The line may hold a secret, so it is not shown. */
  secret?: boolean
}

/** A document of which some parts are missing or were wrong. */
export type Partially<T> = T extends object ? { [K in keyof T]?: Partially<T[K]> | undefined } : T

export interface JsonSchema {
  [keyword: string]: unknown
  description?: string
  required?: string[]
  properties?: Record<string, JsonSchema>
}

/** What a format requires of a text: undefined when it holds, else what is wrong. */
export type Format = (text: string) => Omit<Problem, 'path'> | undefined

/** In what a document differs from plain YAML 1.2. */
export interface Reading {
  /** A whole number that begins with 0 is octal, as it is for programs written in Go. */
  octal?: boolean
  /** Gives the text that stands for a text of the document, before anything is checked; or why there is none. */
  fill?: (text: string) => string | Omit<Problem, 'path'>
}

const require = createRequire(import.meta.url)

/** The text of one fault: place, path, reason; then the line of the file with a caret, where there is one. */
export function describe(fault: Diagnostic): string {
  const { file, line, column, source } = fault
  const place = [file, line, column].filter((part) => part !== undefined).join(':')
  const hint = fault.suggestion === undefined ? '' : `; did you mean ${fault.suggestion}?`
  const text = printable(`  ${place}  ${fault.path === '' ? '' : `${fault.path}  `}${fault.reason}${hint}`)
  if (line === undefined || column === undefined || source === undefined) return text
  const margin = `${line}`.padStart(9)
  // A long line is shown around the fault.
  const from = source.length > 100 ? Math.max(0, column - 40) : 0
  const shown = printable(source.slice(from, from + 100)).trimEnd()
  return `${text}\n${margin} | ${shown}\n${' '.repeat(margin.length)} | ${' '.repeat(column - 1 - from)}^`
}

// A terminal obeys control characters, so what a file says is shown without them.
function printable(text: string): string {
  return text.replace(/\t/g, ' ').replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, '\ufffd')
}

/**
 * Checks the text of a YAML file: syntax, repeated keys, aliases, the schema (defaults are filled in), then `rules`,
 * which see the document without the parts that are already known to be wrong, and the text that a value was written with.
 * Gives the document and every fault; the document is whole only when there is none.
 */
export function checkDocument<T>(
  file: string,
  text: string,
  schema: JsonSchema,
  formats: Record<string, Format>,
  rules: (document: Partially<T>, raw: (path: Path) => string) => Iterable<Problem>,
  reading: Reading = {},
): { document: T; faults: Diagnostic[] } {
  const read = parsed(file, text, reading)
  if ('faults' in read) return { document: {} as T, faults: read.faults }
  const { root, fault } = read
  if (root === null)
    return {
      document: {} as T,
      faults: schema.required === undefined ? [] : [{ file, path: '', reason: 'is empty' }],
    }
  const { keys, values, faults, refused } = placesOf(root, fault)
  if (refused !== undefined) return { document: {} as T, faults: [...faults, refused] }

  const unfilled: Problem[] = []
  const document = filled(read.toJS(), [], reading.fill, unfilled) as T
  const raw = (path: Path): string => {
    const range = values.get(JSON.stringify(path))?.range
    return range ? text.slice(range[0], range[1]) : ''
  }
  const bare = (path: Path): boolean => {
    const range = keys.get(JSON.stringify(path))?.range
    return range ? !/^\s*:/.test(text.slice(range[1])) : false
  }
  const { problems, sound } = checkSchema(schema, formats, document, raw, bare)
  const all = sound === undefined ? problems : [...problems, ...rules(sound as Partially<T>, raw)]
  // What has no value cannot be wrong in another way as well.
  const empty = new Set(unfilled.map((problem) => JSON.stringify(problem.path)))
  for (const problem of [...unfilled, ...all.filter(({ path }) => !empty.has(JSON.stringify(path)))]) {
    let node = problem.atKey ? keys.get(JSON.stringify(problem.path)) : undefined
    for (let depth = problem.path.length; node === undefined; depth--)
      node = values.get(JSON.stringify(problem.path.slice(0, depth))) ?? (depth === 0 ? root : undefined)
    const found = fault(node.range![0], problem.path, problem.reason, problem.suggestion)
    faults.push(problem.secret ? { ...found, source: undefined } : found)
  }
  faults.sort((a, b) => a.line! - b.line! || a.column! - b.column!)
  return { document, faults }
}

/** Makes a diagnostic of a place in the text: its offset, and the path that it has in the document. */
type FaultAt = (offset: number, path: Path, reason: string, suggestion?: string) => Diagnostic

/** The tree of a document (null: there is nothing in it), or why the text is not one. */
function parsed(
  file: string,
  text: string,
  reading: Reading,
): { root: Node | null; toJS: () => unknown; fault: FaultAt } | { faults: Diagnostic[] } {
  const yaml = require('yaml') as typeof import('yaml')
  const lineCounter = new yaml.LineCounter()
  const lines = text.split('\n')
  const fault: FaultAt = (offset, path, reason, suggestion) => {
    const { line, col } = lineCounter.linePos(offset)
    const source = (lines[line - 1] ?? '').replace(/\r$/, '')
    return { file, line, column: col, path: pathText(path), reason, suggestion, source }
  }
  const tooDeep = { faults: [{ file, path: '', reason: 'is nested too deeply' }] }
  let document: ReturnType<typeof yaml.parseDocument<Node>>
  try {
    document = yaml.parseDocument<Node>(text, {
      lineCounter,
      prettyErrors: false,
      uniqueKeys: false,
      customTags: (tags) => (reading.octal ? [octal, ...tags] : tags),
    })
  } catch (error) {
    if (error instanceof RangeError) return tooDeep
    return { faults: [{ file, path: '', reason: `is not YAML: ${String(error)}` }] }
  }
  if (document.errors.some(({ code }) => code === 'RESOURCE_EXHAUSTION')) return tooDeep
  const syntax = [...document.errors, ...document.warnings].map((e) =>
    fault(e.pos[0], [], yamlReason(e.code, e.message)),
  )
  // One slip often upsets the parser twice.
  if (syntax.length > 0)
    return { faults: syntax.filter((e, i) => syntax.findIndex((f) => f.line === e.line) === i) }
  const root = document.contents
  const empty = root === null || (yaml.isScalar(root) && root.value === null)
  return { root: empty ? null : root, toJS: () => document.toJS(), fault }
}

/**
 * Where each key and value of a document stands, by its path as JSON; `faults` are keys that stand twice, `refused` is the first
 * thing that no document may have.
 */
function placesOf(
  root: Node,
  fault: FaultAt,
): { keys: Map<string, Node>; values: Map<string, Node>; faults: Diagnostic[]; refused?: Diagnostic } {
  const yaml = require('yaml') as typeof import('yaml')
  const keys = new Map<string, Node>()
  const values = new Map<string, Node>()
  const faults: Diagnostic[] = []
  let refused: Diagnostic | undefined
  const walk = (node: Node | null, path: Path): void => {
    if (node === null) return
    values.set(JSON.stringify(path), node)
    if (yaml.isAlias(node))
      refused ??= fault(node.range![0], path, `is an alias (*${node.source}): write the value out`)
    else if (yaml.isSeq(node)) node.items.forEach((item, i) => walk(item as Node, [...path, i]))
    else if (yaml.isMap(node)) {
      for (const { key, value } of node.items as Pair<Node | null, Node | null>[]) {
        if (!yaml.isScalar(key) || key.value === null) {
          refused ??= fault((key ?? node).range![0], path, 'has a key that is no text')
          continue
        }
        const at = [...path, String(key.value)]
        const first = keys.get(JSON.stringify(at))
        if (first === undefined) keys.set(JSON.stringify(at), key)
        else {
          const { line } = fault(first.range![0], at, '')
          faults.push(fault(key.range![0], at, `is given twice; first in line ${line}`))
        }
        walk(value, at)
      }
    }
  }
  walk(root, [])
  return { keys, values, faults, ...(refused === undefined ? {} : { refused }) }
}

/** A value of another type as `type` would spell it; undefined where that is anybody's guess. `text` is how it was written. */
function respelt(type: string, data: unknown, text: string): string | undefined {
  if (type === 'string') return ['number', 'boolean'].includes(typeof data) ? `'${text}'` : undefined
  if (typeof data !== 'string') return undefined
  if (type === 'integer' && /^(0|[1-9][0-9]*)$/.test(data)) return data
  if (type === 'boolean' && /^(yes|on|no|off|true|false)$/i.test(data))
    return String(/^(yes|on|true)$/i.test(data))
  return undefined
}

const octal: ScalarTag = {
  tag: 'tag:yaml.org,2002:int',
  default: true,
  test: /^[-+]?0[0-7]+$/,
  resolve: (text) => (text.startsWith('-') ? -1 : 1) * Number.parseInt(text.replace(/^[-+]/, ''), 8),
}

function filled(value: unknown, path: Path, fill: Reading['fill'], problems: Problem[]): unknown {
  if (fill === undefined || value === null) return value
  if (typeof value === 'string') {
    const text = fill(value)
    if (typeof text === 'string') return text
    problems.push({ path, ...text })
    return value
  }
  if (typeof value !== 'object') return value
  if (Array.isArray(value)) return value.map((item, i) => filled(item, [...path, i], fill, problems))
  return Object.fromEntries(
    Object.entries(value).map(([key, item]) => [key, filled(item, [...path, key], fill, problems)]),
  )
}

function yamlReason(code: string, message: string): string {
  if (code === 'TAB_AS_INDENT') return 'a tab indents this line: use spaces'
  if (code === 'BLOCK_AS_IMPLICIT_KEY') return 'a value that holds ": " must stand in quotes'
  if (code === 'TAG_RESOLVE_FAILED') return 'a tag (!) has no meaning here: write the value without it'
  const bracket = /end with a ([\]}])/.exec(message)?.[1]
  if (bracket !== undefined)
    return `the ${bracket === ']' ? 'list that [' : 'map that {'} opened has no ${bracket}`
  if (code === 'MULTIPLE_DOCS') return 'a second document begins here: one file holds one'
  return `is not YAML: ${message[0]!.toLowerCase()}${message.slice(1)}`
}

/** `tunnel.peers[0].address`; a key of other characters stands in quotes. */
export function pathText(path: Path): string {
  return path.reduce<string>((text, part) => {
    if (typeof part === 'number') return `${text}[${part}]`
    const name = /^[\w-]+$/.test(part) ? part : JSON.stringify(part)
    return text === '' ? name : `${text}.${name}`
  }, '')
}

let ajv: Ajv2020 | undefined

/**
 * Checks a value against a schema and fills in the defaults. Gives the problems, and a copy of the value without the
 * parts that are wrong (undefined when nothing is left). `raw` gives the text a value was written with;
 * `bare`: whether a key stands without a colon, as it can in a flow map.
 */
export function checkSchema(
  schema: JsonSchema,
  formats: Record<string, Format>,
  value: unknown,
  raw: (path: Path) => string = () => '',
  bare: (path: Path) => boolean = () => false,
): { problems: Problem[]; sound: unknown } {
  if (ajv === undefined) {
    const { Ajv2020: Ajv } = require('ajv/dist/2020.js') as typeof import('ajv/dist/2020.js')
    ajv = new Ajv({ allErrors: true, verbose: true, useDefaults: true, strict: true })
    // rule: the pattern in words, or why a key is refused; secret: its line is not to be shown; becomes: what a value is
    // in the format that the document is translated to. The others are of FK_ variables.
    for (const keyword of ['rule', 'when', 'path', 'internal', 'secret', 'becomes']) ajv.addKeyword(keyword)
  }
  for (const [name, format] of Object.entries(formats))
    ajv.addFormat(name, (text: string) => format(text) === undefined)
  const validate = ajv.compile(schema)
  if (validate(value)) return { problems: [], sound: value }

  const errors = validate.errors ?? []
  const problems: Problem[] = []
  let sound: unknown = structuredClone(value)
  for (const error of errors) {
    const path = pathOf(error, value)
    const problem = explain(error, path, formats, raw, bare)
    if (problem !== undefined) problems.push(problem)
    if (!about.includes(error.keyword)) sound = without(sound, path)
  }
  // A misspelt key and the key it should be are one fault.
  const meant = new Set(
    problems.filter((p) => p.atKey).map((p) => JSON.stringify([...p.path.slice(0, -1), p.suggestion])),
  )
  return { problems: problems.filter((p) => p.atKey || !meant.has(JSON.stringify(p.path))), sound }
}

// These speak about what is in a value, and leave the rest of it usable.
const about = [
  'additionalProperties',
  'if',
  'required',
  'minItems',
  'minProperties',
  'uniqueItems',
  'propertyNames',
]

function pathOf(error: ErrorObject, value: unknown): Path {
  const path: Path = []
  for (const part of error.instancePath.split('/').slice(1)) {
    const name = part.replaceAll('~1', '/').replaceAll('~0', '~')
    path.push(Array.isArray(value) ? Number(name) : name)
    value = (value as Record<string, unknown>)[name]
  }
  return path
}

function without(value: unknown, path: Path): unknown {
  const last = path.at(-1)
  if (last === undefined) return undefined
  let parent = value as Record<string | number, unknown> | undefined
  for (const part of path.slice(0, -1)) parent = parent?.[part] as typeof parent
  if (parent) parent[last] = undefined
  return value
}

const kinds: Record<string, string> = {
  string: 'text',
  integer: 'a whole number',
  number: 'a number',
  boolean: 'true or false',
  array: 'a list',
  object: 'a map',
}

function explain(
  error: ErrorObject,
  path: Path,
  formats: Record<string, Format>,
  raw: (path: Path) => string,
  bare: (path: Path) => boolean,
): Problem | undefined {
  const { data, params, keyword } = error
  const parent = (error.parentSchema ?? {}) as JsonSchema & Record<string, string | number | undefined>
  const properties = parent.properties ?? {}
  switch (keyword) {
    case 'additionalProperties': {
      const known = Object.keys(properties).filter((name) => !('not' in properties[name]!))
      return unknownKey(String(params['additionalProperty']), Object.keys(data as object), known, path, bare)
    }
    case 'required': {
      const key = String(params['missingProperty'])
      return {
        path: [...path, key],
        reason: `is missing: ${properties[key]?.description ?? 'it has no default'}`,
      }
    }
    case 'type': {
      const type = String(params['type'])
      const reason = `must be ${kinds[type]}, is ${typeof data === 'number' ? `the number ${raw(path)}` : show(data)}`
      const suggestion = respelt(type, data, raw(path))
      return { path, reason, suggestion }
    }
    case 'enum': {
      const known = (params['allowedValues'] as unknown[]).map(String)
      const suggestion = typeof data === 'string' ? nearest(data, known) : undefined
      const only = known.length === 1 ? `must be ${known[0]}` : `must be one of ${known.join(', ')}`
      return {
        path,
        reason: `${only}, is ${show(data)}`,
        suggestion,
      }
    }
    case 'if':
      // What is wrong with the value is reported by the branch that was taken.
      return undefined
    case 'not':
      return { path, atKey: true, reason: String(parent['rule']), secret: Boolean(parent['secret']) }
    case 'pattern':
      // The pattern of a key is reported by propertyNames, which has the key.
      if (error.propertyName !== undefined) return undefined
      return { path, reason: `must be ${parent['rule']}, is ${show(data)}` }
    case 'propertyNames': {
      const names = parent['propertyNames'] as unknown as JsonSchema
      return {
        path: [...path, String(params['propertyName'])],
        atKey: true,
        reason: `must be ${String(names['rule'])}`,
      }
    }
    case 'format':
      return { path, ...formats[String(params['format'])]!(String(data))! }
    case 'minimum':
    case 'maximum':
      return { path, reason: `must be ${parent['minimum']} to ${parent['maximum']}, is ${String(data)}` }
    case 'minItems':
    case 'minProperties':
      return { path, reason: 'must not be empty' }
    case 'minLength':
      return { path, reason: 'must not be empty' }
    case 'uniqueItems':
      return {
        path: [...path, Math.max(Number(params['i']), Number(params['j']))],
        reason: 'is in the list twice',
      }
    default:
      return { path, reason: error.message ?? keyword }
  }
}

/** A key that the schema does not have: one that is misspelt, or the rest of a text that a comma of a flow map ended. */
function unknownKey(
  key: string,
  keys: string[],
  known: string[],
  path: Path,
  bare: (path: Path) => boolean,
): Problem | undefined {
  const at = { path: [...path, key], atKey: true }
  if (bare(at.path)) {
    const before = keys[keys.indexOf(key) - 1]
    // One fault for a text, however many commas it has.
    if (before !== undefined && bare([...path, before])) return undefined
    if (before !== undefined)
      return { ...at, reason: 'is not a known key; the text before it has a comma: put it in quotes' }
  }
  const suggestion = nearest(key, known)
  if (suggestion !== undefined) return { ...at, reason: 'is not a known key', suggestion }
  return { ...at, reason: `is not a known key; known here: ${known.join(', ')}` }
}

/** A value in a sentence. */
export function show(value: unknown): string {
  if (value === null || value === undefined || value === '') return 'empty'
  if (Array.isArray(value)) return 'a list'
  if (typeof value === 'object') return 'a map'
  if (typeof value === 'number') return `the number ${value}`
  if (typeof value === 'boolean') return String(value)
  const text = JSON.stringify(value)
  return text.length > 60 ? `${text.slice(0, 57)}…"` : text
}
