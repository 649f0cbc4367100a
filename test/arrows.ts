// Who needs whom in this repository, read from the text of its files: imports of values and of types, and what is loaded later.
import { dirname, join, normalize } from 'node:path'

export interface Source {
  /** From the root of the repository. */
  path: string
  text: string
}

export interface Arrow {
  from: string
  to: string
  /** A static import of values; the other kinds are an import of types alone, and a file that is loaded when it is used. */
  kind: 'value' | 'type' | 'lazy'
}

/** The rooms of lib/, lowest first. A room needs those below it and never one above. */
export const rooms = ['ground', 'site', 'lab', 'engine', 'host', 'vm', 'k3s', 'cli']

/** How high a file stands: its room, then lib/script.ts, then the pages and what starts everything. */
export function floorOf(path: string): number {
  const [, room = ''] = /^lib\/(\w+)\//.exec(path) ?? []
  if (rooms.includes(room)) return rooms.indexOf(room)
  if (path === 'lib/script.ts') return rooms.length
  return path.startsWith('scripts/') ? rooms.length + 1 : rooms.length + 2
}

const statements =
  /^(?:import|export)\b(?:\s+(type)\b(?!\s*,|\s+from\b))?([^'"`;=]*?)(?:\bfrom\b|(?<=^import))\s*['"](\.{1,2}\/[^'"]+)['"]/gm
const typeof_ = /\btypeof\s+import\(\s*['"](\.{1,2}\/[^'"]+)['"]\s*\)/g
const loads = /(?<!\btypeof\s+import)\(\s*['"](\.{1,2}\/[^'"]+\.(?:ts|cjs))['"]\s*\)/g

/** Every arrow that leaves a file to another one here; `load('./x.ts')`, `require('./x.ts')` and `typeof import()` count. */
export function arrowsOf({ path, text }: Source): Arrow[] {
  const to = (target: string) => normalize(join(dirname(path), target))
  const code = text.replaceAll(/^\s*(\/\/|\*|\/\*).*$/gm, '')
  return [
    ...[...code.matchAll(statements)].map(([, type, names = '', target = '']): Arrow => {
      const all = /\{([\s\S]*)\}/
        .exec(names)?.[1]
        ?.split(',')
        .filter((name) => name.trim() !== '')
      const types = type !== undefined || (all?.every((name) => /^\s*type\s/.test(name)) ?? false)
      return { from: path, to: to(target), kind: types ? 'type' : 'value' }
    }),
    ...[...code.matchAll(typeof_)].map(([, target = '']): Arrow => ({
      from: path,
      to: to(target),
      kind: 'type',
    })),
    ...[...code.matchAll(loads)].map(([, target = '']): Arrow => ({
      from: path,
      to: to(target),
      kind: 'lazy',
    })),
  ]
}

/** The arrows that point up: to a room above one's own. */
export const upward = (sources: Source[]): Arrow[] =>
  sources
    .filter(({ path }) => path.startsWith('lib/'))
    .flatMap(arrowsOf)
    .filter(({ from, to }) => to.startsWith('bin/') || floorOf(to) > floorOf(from))

/** Rooms that need each other, as one list of room names for each circle; and files that do. */
export function circles(sources: Source[], nodeOf = (path: string) => path): string[][] {
  const next = new Map<string, Set<string>>()
  for (const { from, to } of sources.flatMap(arrowsOf)) {
    const [a, b] = [nodeOf(from), nodeOf(to)]
    if (a !== b) next.set(a, (next.get(a) ?? new Set()).add(b))
  }
  // Tarjan's strongly connected components.
  const index = new Map<string, number>()
  const low = new Map<string, number>()
  const stack: string[] = []
  const found: string[][] = []
  const visit = (node: string) => {
    index.set(node, index.size)
    low.set(node, index.get(node)!)
    stack.push(node)
    for (const to of next.get(node) ?? []) {
      if (!index.has(to)) visit(to)
      if (stack.includes(to)) low.set(node, Math.min(low.get(node)!, low.get(to)!))
    }
    if (low.get(node) !== index.get(node)) return
    const component = stack.splice(stack.indexOf(node))
    if (component.length > 1) found.push(component.toSorted())
  }
  for (const node of next.keys()) if (!index.has(node)) visit(node)
  return found
}

/** A file and everything that has to be loaded before it runs, with the lines of all of it. */
export function closure(path: string, sources: Source[]): { files: string[]; lines: number } {
  const known = new Map(sources.map((source) => [source.path, source]))
  const files = new Set<string>()
  const visit = (at: string) => {
    const source = known.get(at)
    if (source === undefined || files.has(at)) return
    files.add(at)
    for (const { to, kind } of arrowsOf(source)) if (kind === 'value') visit(to)
  }
  visit(path)
  const lines = [...files].reduce((sum, file) => sum + known.get(file)!.text.split('\n').length - 1, 0)
  return { files: [...files].toSorted(), lines }
}
