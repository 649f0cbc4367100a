// The screen of ./task status, as text.
import { clean } from '../engine/report.ts'
import { type Status, age, count, done, isBackup, isDrill, newest, RENEW } from './health.ts'

type Paint = (code: number, text: string) => string
const [red, green, yellow, cyan, bold] = [31, 32, 33, 36, 1] as const

/** Everything, section by section; what needs attention first. */
export function screen(status: Status, { color }: { color: boolean }): string {
  const paint: Paint = (code, text) => (color ? `\u001b[${code}m${text}\u001b[0m` : text)
  const sections = [
    ['', [title(status, paint)]],
    ['What needs you', concernLines(status, paint)],
    ['Machines', machineLines(status, paint)],
    ['Layers, as this laptop last saw them', layerLines(status, paint)],
    [`Cluster: k3s ${status.cluster?.pinned} is pinned`, clusterLines(status, paint)],
    ['Not built yet', status.notBuilt.map(({ page, does }) => `  ${page}  ${does}`)],
  ] as const
  const lines = sections.flatMap(([heading, body]) =>
    body.length === 0 ? [] : heading === '' ? body : ['', paint(bold, heading), ...body],
  )
  return `${lines.join('\n')}\n`
}

function title({ site, concerns }: Status, paint: Paint): string {
  const need = concerns.length === 1 ? 'needs' : 'need'
  const all =
    concerns.length === 0
      ? paint(green, 'nothing needs you')
      : `${count(concerns.length, 'thing')} ${need} you`
  return `${paint(bold, site)}: ${all}`
}

function concernLines({ concerns }: Status, paint: Paint): string[] {
  const width = Math.max(0, ...concerns.map(({ of }) => of.length))
  return concerns.flatMap(({ state, of, says, next }) => [
    `  ${paint(state === 'bad' ? red : yellow, state.padEnd(4))}  ${of.padEnd(width)}  ${oneLine(says)}`,
    `  ${' '.repeat(6 + width)}  ${paint(cyan, `→ ${oneLine(next)}`)}`,
  ])
}

function machineLines({ machines, time }: Status, paint: Paint): string[] {
  const now = new Date(time)
  return columns(
    ['name', 'up', 'system', 'kernel', 'pages'],
    machines.map(({ name, silent, up = 0, system = '', kernel = '', pages }) => {
      if (silent) return [name, paint(red, 'silent')]
      const since = new Date(now.getTime() - up * 1000).toISOString()
      return [name, age(since, now), system, kernel, String(pages.length)]
    }),
  )
}

function layerLines({ verdicts, time }: Status, paint: Paint): string[] {
  const now = new Date(time)
  return [...new Set(verdicts.map(({ layer }) => layer))].sort().map((layer) => {
    const mine = verdicts.filter((verdict) => verdict.layer === layer)
    const failed = mine.filter((verdict) => verdict.failed > 0)
    const last = mine.reduce((a, b) => (a.time > b.time ? a : b))
    const pages = new Set(mine.map(({ page }) => page)).size
    const result =
      failed.length > 0
        ? paint(red, failed.map(({ page, machine }) => `${page} failed on ${machine}`).join(', '))
        : `${count(pages, 'page')} hold${pages === 1 ? 's' : ''}`
    return `  ${layer}  ${result}, ${done(last.mode)} ${age(last.time, now)} ago`
  })
}

function clusterLines(status: Status, paint: Paint): string[] {
  const { cluster, time } = status
  if (cluster === undefined) return []
  const ago = (note: { time: string } | undefined) =>
    note === undefined ? paint(yellow, 'never') : `${age(note.time, new Date(time))} ago`
  return [
    ...columns(
      ['node', 'role', 'runs', 'staged', 'ready', 'etcd', 'certificates'],
      cluster.members.map((member) => memberRow(member, status, cluster.pinned, paint)),
    ),
    `  last backup ${ago(newest(cluster.backup, isBackup))}, last good drill ${ago(newest(cluster.backup, isDrill))}`,
  ]
}

type MemberState = NonNullable<Status['cluster']>['members'][number]

function memberRow(
  { name, role, state }: MemberState,
  { machines }: Status,
  pinned: string,
  paint: Paint,
): string[] {
  const k3s = machines.find((machine) => machine.name === name)?.k3s
  const runs = state?.version ?? k3s?.version ?? '-'
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
  return paint(red, state.ready === 'Unknown' ? 'silent' : 'no')
}

const oneLine = (text: string) =>
  clean(text)
    .trim()
    .replaceAll(/\s*\n\s*/g, '; ')

/** Columns as wide as what stands in them; colours have no width. */
function columns(head: string[], rows: string[][]): string[] {
  // oxlint-disable-next-line no-control-regex -- these are our own colour codes
  const bare = (text: string) => text.replaceAll(/\u001b\[\d+m/g, '')
  const widths = head.map((word, i) => Math.max(word.length, ...rows.map((row) => bare(row[i] ?? '').length)))
  const line = (row: string[]) =>
    `  ${row.map((cell, i) => cell + ' '.repeat(Math.max(0, (widths[i] ?? 0) - bare(cell).length))).join('  ')}`.trimEnd()
  return [head, ...rows].map(line)
}
