// Data: classes of volumes, places for backups, and whether what is kept is kept often and far enough.
import type { Path, Problem } from '../../ground/document.ts'
import type { Catalogue } from '../catalogue.ts'
import {
  type Claim,
  type Document,
  type Entry,
  entries,
  isAccepted,
  isNode,
  machinesAreKnown,
  machinesOf,
  repeated,
  seconds,
  unknown,
} from './parts.ts'

type Data = NonNullable<Document['data']>
type Row = NonNullable<NonNullable<Data['keep']>[number]>
type Target = NonNullable<NonNullable<Data['targets']>[number]>

/** Faults of the part `data` of a document. */
export function* dataProblems(document: Document, catalogue: Catalogue): Generator<Problem> {
  const { data } = document
  if (data === undefined) return
  yield* classProblems(document)
  const targets = entries(['data', 'targets'], data.targets)
  yield* repeated(targets.map(([at, { name }]): Claim => [[...at, 'name'], name]))
  for (const entry of targets) yield* targetProblems(document, entry)
  for (const entry of entries(['data', 'keep'], data.keep)) {
    yield* placeProblems(document, entry)
    yield* timeProblems(document, entry, catalogue)
  }
  const nodes = machinesOf(document).some(([, machine]) => isNode(machine))
  const { keep } = data
  if (
    nodes &&
    keep !== undefined &&
    !keep.includes(undefined) &&
    !keep.some((row) => row?.what === 'cluster')
  )
    yield { path: ['data', 'keep'], reason: 'has no row for cluster: its objects would be lost with it' }
}

function* classProblems(document: Document): Generator<Problem> {
  const { data, devices } = document
  const classes = entries(['data', 'classes'], data?.classes)
  yield* repeated(classes.map(([at, { name }]): Claim => [[...at, 'name'], name]))
  const usual = classes.filter(([, one]) => one.default === true)
  if (classes.length > 0 && usual.length !== 1)
    yield { path: ['data', 'classes'], reason: `has ${usual.length} classes with default: true; have one` }
  const names = (devices ?? []).map((device) => device?.name)
  const nodes = machinesOf(document).flatMap(([, machine]) => (isNode(machine) ? machine : []))
  for (const [at, one] of classes) {
    yield* unknown([...at, 'at'], one.at, names, 'names no device')
    const labels = Object.entries(one.on ?? {})
    const fitting = nodes.filter((node) => labels.every(([key, value]) => node.labels?.[key] === value))
    if (labels.length > 0 && fitting.length < (one.replicas ?? 1) && machinesAreKnown(document))
      yield {
        path: [...at, 'on'],
        reason: `asks for labels that ${fitting.length} nodes have, for ${one.replicas ?? 1} copies`,
      }
  }
}

/** What a target of each kind cannot do without, and what that is. */
const asked: Record<string, Record<string, string>> = {
  s3: { endpoint: 'the URL of the storage', bucket: 'the bucket' },
  sftp: {
    host: 'the machine',
    user: 'who logs in there',
    host_key: 'the host key of that machine, as ssh-keyscan shows it: kind and key',
    path: 'the directory there',
  },
  directory: { path: 'the directory' },
  rest: { endpoint: 'the URL of the server' },
}

function* targetProblems(document: Document, [at, target]: Entry<Target>): Generator<Problem> {
  const { endpoint, host, kind } = target
  for (const [key, what] of Object.entries(asked[kind ?? ''] ?? {}))
    if (!(key in target)) yield { path: [...at, key], reason: `is missing: ${what}` }
  const place = host ?? /^https?:\/\/(\[[^\]]+\]|[^/:]+)/.exec(endpoint ?? '')?.[1]
  const path = [...at, host === undefined ? 'endpoint' : 'host']
  const own = [
    ...(document.machines ?? []).flatMap((machine) => [machine?.address, machine?.name]),
    ...(document.gateways ?? []).map((gateway) => gateway?.address),
  ]
  if (place !== undefined && own.includes(place))
    yield { path, reason: 'is a machine or gateway of this site: a backup that dies with it is none' }
}

function* placeProblems(document: Document, [at, { to, what }]: Entry<Row>): Generator<Problem> {
  const { components, data } = document
  if (data?.targets?.includes(undefined)) return
  const targets = (data?.targets ?? []).flatMap((one) => one ?? [])
  const places = [...targets.map(({ name }) => name), ...Object.keys(components ?? {})]
  for (const [path, place] of entries([...at, 'to'], to))
    yield* unknown(path, place, places, 'names no target')
  const guarded = (ends: Row['to']): boolean =>
    (ends ?? []).some((end) => targets.some(({ append_only, name }) => name === end && append_only === true))
  const away = (to ?? []).some((end) => targets.some(({ name }) => name === end))
  const sure = (data?.keep ?? []).some((row) => row?.what === what && guarded(row?.to))
  if (away && !sure && !isAccepted(document, 'deletable-backups'))
    yield {
      path: [...at, 'to'],
      reason:
        `holds no target with append_only: who takes a node could delete every copy of ${what}. ` +
        'Give one a key that cannot delete, or say under accepted: what: deletable-backups',
    }
}

/** Seconds between two events of a calendar: every 15 minutes, every hour, day or week. */
function interval(event: string): number {
  const day = 86_400
  const words: Record<string, number> = {
    minutely: 60,
    hourly: 3600,
    daily: day,
    weekly: 7 * day,
    monthly: 31 * day,
    quarterly: 92 * day,
    semiannually: 184 * day,
    biannually: 184 * day,
    'half-yearly': 184 * day,
    yearly: 366 * day,
    annually: 366 * day,
  }
  const word = words[event.toLowerCase().split(' ')[0] ?? '']
  if (word !== undefined) return word
  const [, month, date] = /([^\s-]+)-([^\s-]+)(?:\s|$)/.exec(event) ?? []
  if (month !== undefined && /^\d+$/.test(month)) return 366 * day
  if (date !== undefined && /^\d+$/.test(date)) return 31 * day
  const minutes = /\*:\d+\/(\d+)/.exec(event)?.[1]
  const hours = /(?:^|\s)\d+\/(\d+):/.exec(event)?.[1]
  if (minutes !== undefined) return Number(minutes) * 60
  if (hours !== undefined) return Number(hours) * 3600
  if (/(^|\s)\*:\d/.test(event)) return 3600
  return /^[a-z]{3,9}(\s|$)/i.test(event) ? 7 * day : day
}

function* timeProblems({ data }: Document, [at, row]: Entry<Row>, catalogue: Catalogue): Generator<Problem> {
  const { engine, every, rpo, what } = row
  const most = seconds(rpo)
  const between = every === undefined ? undefined : interval(every)
  const path: Path = [...at, 'rpo']
  if (most !== undefined && between !== undefined && between > most) {
    const time = between % 3600 === 0 ? `${between / 3600} h` : `${between / 60} min`
    yield { path, reason: `is ${rpo}, and a copy is made only every ${time}` }
  }
  const usual = (data?.classes ?? []).find((one) => one?.default === true)?.use
  const component = catalogue.get(usual ?? '')
  if (what === 'volumes' && /snapshot|volsync/.test(engine ?? '') && component?.snapshots === false)
    yield { path: [...at, 'engine'], reason: `takes snapshots, and ${usual} has none`, suggestion: 'restic' }
}
