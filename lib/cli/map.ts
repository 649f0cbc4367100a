// ./task map: who may talk to whom in the cluster of a site, as a table, a graph, or a picture.
import { type Endpoint, type Flow, type Verdict, mapOf } from '../component/policymap.ts'
import { notInstalled } from '../component/policies.ts'
import { Fault } from '../ground/fault.ts'
import { catalogue } from '../site/catalogue.ts'
import type { Call } from './call.ts'
import { parse } from './flags.ts'
import { policiesOf, reason } from './may.ts'
import { map as table } from './tables.ts'

interface Entry {
  from: Endpoint
  to: Endpoint
  ports: string[]
  /** What lets it through, each once. */
  rules: string[]
}

/** Writes the map of a site to standard output. */
export function map(
  call: Pick<Call, 'name' | 'argv'>,
  say = (text: string) => void process.stdout.write(text),
): number {
  const given = parse(call, table)
  if ([given.mermaid, given.svg, given.json].filter(Boolean).length > 1)
    throw new Fault('map takes one of --mermaid, --svg and --json')
  const { site, manifests, known } = policiesOf(given.site)
  const all = entriesOf(mapOf(manifests, known))
  if (given.json)
    say(
      `${JSON.stringify(
        all.map(({ from, to, ...more }) => ({ from: from.name, to: to.name, ...more })),
        null,
        2,
      )}\n`,
    )
  else
    say(
      given.svg
        ? svg(site.name, all)
        : given.mermaid
          ? mermaid(all)
          : text(site.name, all, notInstalled(manifests, catalogue())),
    )
  return 0
}

/** One entry for each two ends. */
export function entriesOf(found: { flow: Flow; verdict: Verdict }[]): Entry[] {
  const entries = new Map<string, Entry>()
  for (const { flow, verdict } of found) {
    const key = `${flow.from.name} ${flow.to.name}`
    const { egress, ingress } = verdict
    const own = [egress, ingress].filter(({ at }) => at !== undefined).map(reason)
    const { ports = [], rules = [] } = entries.get(key) ?? {}
    entries.set(key, {
      from: flow.from,
      to: flow.to,
      ports: [...ports, flow.port],
      rules: [...new Set([...rules, ...(own.length > 0 ? own : [ingress.by])])],
    })
  }
  return [...entries.values()]
}

function text(site: string, entries: Entry[], absent: string[]): string {
  const [one, two] = [width(entries.map(({ from }) => from.name)), width(entries.map(({ to }) => to.name))]
  const lines = entries.map((entry) => {
    const { from, to, rules } = entry
    const head = `${from.name.padEnd(one)}  ${to.name.padEnd(two)}  ${shown(entry).join(' ')}`
    return `${head}\n${rules.map((rule) => `${' '.repeat(one + two + 4)}by ${rule}\n`).join('')}`
  })
  const head = [
    `Who may open a connection to whom in ${site}, and by which rule. What is not here is denied.`,
    'What leaves a node itself is not decided here: the firewall of the host, or the router, does.',
    ...(absent.length > 0
      ? [`No page installs ${absent.join(' and ')} yet: their policies are not applied.`]
      : []),
  ]
  return `${head.join('\n')}\n\n${lines.join('')}`
}

const width = (names: string[]): number => Math.max(0, ...names.map((name) => name.length))

function mermaid(entries: Entry[]): string {
  const id = ({ name }: Endpoint) => name.replaceAll(/[^a-z0-9]/gi, '_')
  const ends = [...new Set(entries.flatMap(({ from, to }) => [from, to]))]
  return [
    'flowchart LR',
    ...ends.map((end) => `  ${id(end)}["${end.name}"]`),
    ...entries.map(({ from, to, ports }) => `  ${id(from)} -->|"${ports.join(' ')}"| ${id(to)}`),
    '',
  ].join('\n')
}

const colours = {
  pod: '#2563eb',
  gateway: '#7c3aed',
  node: '#475569',
  health: '#475569',
  address: '#b45309',
  name: '#b45309',
}
const escaped = (words: string): string =>
  words.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('"', '&quot;')

/** What stands for the ports: all of them, or each. */
const shown = ({ to, ports }: Entry): string[] =>
  ports.length > 3 && ports.length === to.ports.length ? ['all'] : ports

/** A matrix: a row for each that may talk, a column for each that it may talk to, the ports where they meet. */
export function svg(site: string, entries: Entry[]): string {
  const rows = [...new Set(entries.map(({ from }) => from))]
  const columns = [...new Set(entries.map(({ to }) => to))]
  const left = 24 + 7 * width(rows.map(({ name }) => name))
  const top = 70 + 5 * width(columns.map(({ name }) => name))
  const cell = 76
  const heights = rows.map(
    (row) => 10 + 12 * Math.max(...entries.map((one) => (one.from === row ? shown(one).length : 1))),
  )
  const y = (i: number): number => top + heights.slice(0, i).reduce((sum, height) => sum + height, 0)
  const label = (x: number, at: number, { name, kind }: Endpoint, more: string) =>
    `<text x="${x}" y="${at}" fill="${colours[kind]}" ${more}>${escaped(name)}</text>`
  const cells = entries.map((entry) => {
    const { from, to, rules } = entry
    const [words, i] = [shown(entry), rows.indexOf(from)]
    const [x, height] = [left + columns.indexOf(to) * cell, heights[i] ?? 0]
    const first = y(i) + height / 2 - 6 * words.length + 10
    const lines = words.map(
      (word, n) => `<text x="${x + cell / 2}" y="${first + 12 * n}" text-anchor="middle">${word}</text>`,
    )
    const place = `x="${x + 2}" y="${y(i) + 2}" width="${cell - 4}" height="${height - 4}"`
    const box = `<rect ${place} rx="4" fill="#dcfce7" stroke="#16a34a"/>`
    const title = escaped(`${from.name} → ${to.name}\n${rules.join('\n')}`)
    return `<g><title>${title}</title>${box}${lines.join('')}</g>`
  })
  const [wide, high] = [left + columns.length * cell + 110, y(rows.length) + 16]
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${wide}" height="${high}" viewBox="0 0 ${wide} ${high}"` +
      ' font-family="system-ui, sans-serif" font-size="11" fill="#14532d">',
    '<rect width="100%" height="100%" fill="#ffffff"/>',
    `<text x="12" y="24" font-size="15" fill="#0f172a">Who may talk to whom in ${escaped(site)}</text>`,
    '<text x="12" y="42" fill="#475569">rows open connections to columns; what is empty is denied</text>',
    ...rows.flatMap((from, i) => [
      ...(i % 2 === 0
        ? [`<rect x="0" y="${y(i)}" width="100%" height="${heights[i]}" fill="#f1f5f9"/>`]
        : []),
      label(12, y(i) + (heights[i] ?? 0) / 2 + 4, from, ''),
    ]),
    ...columns.map((to, i) => {
      const x = left + i * cell + cell / 2
      return label(x, top - 8, to, `transform="rotate(-45 ${x} ${top - 8})"`)
    }),
    ...cells,
    '</svg>',
    '',
  ].join('\n')
}
