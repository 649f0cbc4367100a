// The rooms of this repository, and which way its arrows point.
import { type Arrow, type Source, arrowsOf } from '../lib/cli/imports.ts'

/** The rooms of lib/, lowest first. A room needs those below it and never one above. */
export const rooms = ['ground', 'site', 'lab', 'engine', 'host', 'vm', 'k3s', 'component', 'cli']

/** How high a file stands: its room, then lib/script.ts, then the pages and what starts everything. */
export function floorOf(path: string): number {
  const [, room = ''] = /^lib\/(\w+)\//.exec(path) ?? []
  if (rooms.includes(room)) return rooms.indexOf(room)
  if (path === 'lib/script.ts') return rooms.length
  return path.startsWith('scripts/') ? rooms.length + 1 : rooms.length + 2
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
