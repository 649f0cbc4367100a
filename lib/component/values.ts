// Files of values against the chart that reads them. Helm lets an unknown key through in silence: here it is a fault, with its
// line and the key that was probably meant.
import { createRequire } from 'node:module'
import {
  type Diagnostic,
  type Path,
  type Problem,
  checkDocument,
  pathText,
  show,
} from '../ground/document.ts'
import { nearest } from '../ground/nearest.ts'
import type { Chart } from './chart.ts'

const load = createRequire(import.meta.url)

type Tree = { [key: string]: unknown }

const isMap = (value: unknown): value is Tree =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

/**
 * The faults of one file of values. Below a map that the chart leaves empty (labels, annotations, resources) every key is free.
 * `removed`: keys that the chart no longer obeys, with what takes their place.
 */
export function checkValues(
  file: string,
  text: string,
  chart: Chart,
  removed: Readonly<Record<string, string>> = {},
): Diagnostic[] {
  const { parse } = load('yaml') as typeof import('yaml')
  const defaults = (parse(chart.text) ?? {}) as Tree
  const optional = inComments(chart.text)
  const free = new Set(['global', ...chart.parts])

  function* below(values: Tree, known: Tree, path: string[]): Iterable<Problem> {
    for (const [key, value] of Object.entries(values)) {
      const at = [...path, key]
      const instead = removed[at.join('.')]
      if (instead !== undefined) {
        yield {
          path: at,
          atKey: true,
          reason: `is obeyed no more by ${chart.name} ${chart.version}: ${instead}`,
        }
        continue
      }
      if (path.length === 0 && free.has(key)) continue
      if (!(key in known)) {
        if (optional.has(at.join('.'))) continue
        yield unknown(at, [...Object.keys(known), ...siblings(optional, path)])
        continue
      }
      const own = known[key]
      if (!isMap(own) || Object.keys(own).length === 0) {
        const wrong = mismatch(at, value, own)
        if (wrong !== undefined) yield wrong
      } else if (isMap(value)) yield* below(value, own, at)
      else if (value !== null) yield { path: at, reason: `must be a map, is ${show(value)}` }
    }
  }
  const unknown = (path: Path, keys: string[]): Problem => {
    const suggestion = nearest(String(path.at(-1)), keys)
    const reason = `is no value of ${chart.name} ${chart.version}`
    return suggestion === undefined
      ? { path, atKey: true, reason: `${reason}; known here: ${[...new Set(keys)].join(', ')}` }
      : { path, atKey: true, reason, suggestion: pathText([...path.slice(0, -1), suggestion]) }
  }
  return checkDocument<Tree>(file, text, { type: 'object' }, {}, (document) =>
    below(document as Tree, defaults, []),
  ).faults
}

/** A value of another kind than the chart's own: a list in place of text, a map in place of a list. */
function mismatch(path: Path, value: unknown, own: unknown): Problem | undefined {
  if (own === null || value === null || own === undefined) return undefined
  const kind = (of: unknown) => (Array.isArray(of) ? 'a list' : isMap(of) ? 'a map' : 'one value')
  // Text that is empty may stand for anything.
  if (kind(own) === kind(value) || own === '') return undefined
  return { path, reason: `must be ${kind(own)}, is ${show(value)}` }
}

/** The other optional keys of a map. */
const siblings = (optional: ReadonlySet<string>, path: string[]): string[] =>
  [...optional].flatMap((each) => {
    const names = each.split('.')
    const last = names.pop()
    return last !== undefined && names.join('.') === path.join('.') ? [last] : []
  })

/** Keys that stand in comments: `# key: value` as deep as its neighbours, as charts write what has no default. */
function inComments(text: string): Set<string> {
  const found = new Set<string>()
  const open: { indent: number; key: string }[] = []
  for (const line of text.split('\n')) {
    const [, blanks, hash, key] = /^( *)(# ?)?([A-Za-z][\w.-]*):(?: |$)/.exec(line) ?? []
    if (blanks === undefined || key === undefined) continue
    const indent = blanks.length
    while ((open.at(-1)?.indent ?? -1) >= indent) open.pop()
    if (hash === undefined) open.push({ indent, key })
    else found.add([...open.map((each) => each.key), key].join('.'))
  }
  return found
}
