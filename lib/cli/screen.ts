// The screen of ./task status, as text.
import { stripVTControlCharacters } from 'node:util'
import { clean, count } from '../engine/report.ts'
import { widthOf, wrap } from '../ground/wrap.ts'
import type { Status } from './concerns.ts'
import { age, isBackup, isDrill, newest, RENEW } from './health.ts'
import type { LayerState, PageState } from './layers.ts'
import { layerNames } from './scripts.ts'

type Paint = (code: number, text: string) => string
const [red, green, yellow, cyan, bold, dim] = [31, 32, 33, 36, 1, 2] as const

/** Everything, section by section; what needs attention first. `columns` is how wide the terminal is. */
export function screen(
  status: Status,
  { color, columns = 80 }: { color: boolean; columns?: number },
): string {
  const paint: Paint = (code, text) => (color ? `\u001b[${code}m${text}\u001b[0m` : text)
  const sections = [
    [title(status, paint, columns), ...concernLines(status, paint, columns)],
    layerLines(status, paint, columns),
    machineLines(status, paint, columns),
    clusterLines(status, paint, columns),
    status.notBuilt.length === 0
      ? []
      : wrap(
          `no page does yet what this site needs: ${status.notBuilt.map(({ page }) => page).join(' ')}`,
          columns,
          2,
        ),
  ]
  return `${sections
    .filter((lines) => lines.length > 0)
    .map((lines) => lines.map((line) => `${line.trimEnd()}\n`).join(''))
    .join('\n')}`
}

function title({ site, concerns, time, took }: Status, paint: Paint, columns: number): string {
  const need = concerns.length === 1 ? 'needs' : 'need'
  const all =
    concerns.length === 0 ? paint(green, 'nothing needs you') : paint(bold, `${concerns.length} ${need} you`)
  const at = new Date(time)
  const two = (n: number) => String(n).padStart(2, '0')
  const asked = `asked ${two(at.getHours())}:${two(at.getMinutes())}, ${Math.ceil(took)} s`
  const left = `${paint(bold, site)}   ${all}`
  const gap = Math.max(3, Math.min(columns, 80) - widthOf(left) - asked.length)
  return left + ' '.repeat(gap) + paint(dim, asked)
}

/** `!!` is broken, `!` wants attention; the command that mends it stands below, whole. */
function concernLines({ concerns }: Status, paint: Paint, columns: number): string[] {
  return concerns.flatMap(({ state, of, says, next }) => {
    const mark = state === 'bad' ? '!!' : '! '
    const [first = '', ...more] = wrap(`${mark} ${of}: ${oneLine(says)}`, columns, 3)
    const remedy = wrap(`→ ${oneLine(next)}`, columns - 3, 2).map((line) => `   ${paint(cyan, line)}`)
    return [paint(state === 'bad' ? red : yellow, mark) + first.slice(2), ...more, ...remedy]
  })
}

const colourOf: Record<PageState, number> = {
  holds: green,
  failed: red,
  changed: yellow,
  unfinished: yellow,
  unchecked: yellow,
  waits: yellow,
  unknown: yellow,
  'not built': dim,
}

const wordsOf: Partial<Record<PageState, string>> = {
  changed: 'changed by somebody',
  unchecked: 'not checked since it started, or never',
  waits: 'waits for a restart, or for you',
}

function layerLines({ layers, time }: Status, paint: Paint, columns: number): string[] {
  const now = new Date(time)
  const rows = layers.map((layer) => {
    const { pages, hold, time: checked } = layer
    const known = checked === undefined ? '-' : agoOf(checked, now)
    return [
      `${layer.layer} ${layerNames[layer.layer] ?? ''}`,
      `${hold}/${pages}`,
      stateText(layer, paint),
      known,
    ]
  })
  const table = columnsOf(['layer', 'pages', 'state', 'checked'], rows, columns)
  const wide = Math.max(...table.map((line) => widthOf(line)))
  // The command that goes on stands beside the line where there is room, and below where there is none.
  return table.flatMap((line, i) => {
    const next = layers[i - 1]?.next
    if (next === undefined) return line.split('\n')
    const beside = `${line}${' '.repeat(Math.max(0, wide - widthOf(line)))}  ${paint(cyan, next)}`
    const fits = !line.includes('\n') && widthOf(beside) <= columns
    return fits ? [beside] : [...line.split('\n'), `   ${paint(cyan, `→ ${next}`)}`]
  })
}

const agoOf = (time: string, now: Date): string => {
  const old = age(time, now)
  return old.startsWith('of ') ? old : `${old} ago`
}

function stateText({ state, which }: LayerState, paint: Paint): string {
  const [first, ...more] = which
  const named = first === undefined ? '' : `: ${first}${more.length > 0 ? ` and ${more.length} more` : ''}`
  return paint(colourOf[state], (wordsOf[state] ?? state) + named)
}

function machineLines({ machines, time }: Status, paint: Paint, columns: number): string[] {
  const now = new Date(time)
  return columnsOf(
    ['machine', 'way', 'system', 'up', 'restart'],
    machines.map(({ name, silent, notBuilt, way = '-', up = 0, system = '', restart }) => {
      if (notBuilt) return [name, '-', paint(dim, 'not built')]
      if (silent) return [name, way, paint(yellow, 'unknown')]
      const since = new Date(now.getTime() - up * 1000).toISOString()
      return [name, way, system, age(since, now), restart ? paint(yellow, 'yes') : 'no']
    }),
    columns,
  ).flatMap((line) => line.split('\n'))
}

function clusterLines(status: Status, paint: Paint, width: number): string[] {
  const { cluster, time } = status
  if (cluster === undefined) return []
  // Where nobody could be asked, nobody knows.
  const asked = status.machines.some(({ silent, notBuilt }) => !silent && !notBuilt)
  const ago = (note: { time: string } | undefined) =>
    note === undefined ? paint(yellow, asked ? 'never' : 'unknown') : agoOf(note.time, new Date(time))
  const running = [...new Set(cluster.members.flatMap((member) => versionOf(member, status) ?? []))].join(
    ', ',
  )
  const version =
    running === cluster.pinned
      ? `${running}, as pinned`
      : `pinned ${cluster.pinned}, running ${running || '-'}`
  const backups = `backup  ${ago(newest(cluster.backup, isBackup))}   drill  ${ago(newest(cluster.backup, isDrill))}`
  const last = wrap(`${backups}   k3s ${version}`, width, 8)
  if (running === '') return last
  const members = cluster.members.map((member) => memberRow(member, status, cluster.pinned, paint))
  return [
    ...columnsOf(['node', 'role', 'runs', 'staged', 'ready', 'etcd', 'certificates'], members, width).flatMap(
      (line) => line.split('\n'),
    ),
    '',
    ...last,
  ]
}

type MemberState = NonNullable<Status['cluster']>['members'][number]

/** The version of k3s that a node runs, as the cluster or else its machine says; undefined where nobody does. */
const versionOf = ({ name, state }: MemberState, { machines }: Status): string | undefined =>
  state?.version ?? machines.find((machine) => machine.name === name)?.k3s?.version

function memberRow(member: MemberState, status: Status, pinned: string, paint: Paint): string[] {
  const { name, role, state } = member
  const k3s = status.machines.find((machine) => machine.name === name)?.k3s
  const runs = versionOf(member, status) ?? '-'
  const staged = k3s?.staged.includes(pinned) || state?.staged === pinned
  const days = k3s?.certificate?.days
  const vote = state?.voter === 'True' ? 'votes' : state ? paint(red, 'no vote') : '-'
  return [
    name,
    role,
    runs === pinned || runs === '-' ? runs : paint(yellow, runs),
    staged ? 'yes' : paint(yellow, 'no'),
    readiness(state, paint),
    role === 'agent' ? '' : vote,
    days === undefined ? '-' : days < RENEW ? paint(yellow, count(days, 'day')) : count(days, 'day'),
  ]
}

function readiness(state: MemberState['state'], paint: Paint): string {
  if (state === undefined) return '-'
  if (state.ready === 'True') return state.cordoned ? paint(yellow, 'cordoned') : 'yes'
  return paint(red, state.ready === 'Unknown' ? 'unknown' : 'no')
}

const oneLine = (text: string) =>
  clean(text)
    .trim()
    .replaceAll(/\s*\n\s*/g, '; ')

/** Columns as wide as what stands in them; where the terminal is too narrow, the widest breaks between its words. */
function columnsOf(head: string[], rows: string[][], width: number): string[] {
  const all = [head, ...rows]
  const widths = head.map((_, i) => Math.max(...all.map((row) => widthOf(row[i] ?? ''))))
  const over = widths.reduce((sum, one) => sum + one + 2, -2) - width
  const widest = widths.indexOf(Math.max(...widths))
  if (over > 0) widths[widest] = Math.max(12, widths[widest]! - over)
  return all.map((row) => {
    const cells = row.map((cell, i) => (i === widest ? within(cell, widths[i]!) : [cell]))
    const rest = widths.slice(0, widest).reduce((sum, one) => sum + one + 2, 0)
    const [, ...more] = cells[widest] ?? []
    const first = cells.map(([cell = ''], i) => cell + ' '.repeat(Math.max(0, widths[i]! - widthOf(cell))))
    return [first.join('  ').trimEnd(), ...more.map((line) => ' '.repeat(rest) + line)].join('\n')
  })
}

/** A cell in lines of its column, each in its colour. */
function within(cell: string, width: number): string[] {
  // oxlint-disable-next-line no-control-regex -- these are our own colour codes
  const code = /^\u001b\[\d+m/.exec(cell)?.[0]
  if (widthOf(cell) <= width) return [cell]
  return wrap(stripVTControlCharacters(cell), width).map((line) => (code ? `${code}${line}\u001b[0m` : line))
}
