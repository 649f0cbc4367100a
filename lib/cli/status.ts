// `./task status`: one screen for a tired admin. What needs attention comes first, with the command that mends it.
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Machine } from '../engine/machine.ts'
import { plain } from '../engine/program.ts'
import { clean, createReport } from '../engine/report.ts'
import { onAnswer } from '../engine/wire.ts'
import { Fault } from '../ground/fault.ts'
import { type Note, laptopNotes } from '../k3s/backup.ts'
import { type Member, clusterOf, programOf } from '../k3s/members.ts'
import { loadConfig } from '../site/config.ts'
import { type Placed, everyMachine } from '../site/machines.ts'
import type { Config } from '../site/model.ts'
import { flags } from './flags.ts'
import { connectTo } from './pages.ts'
import type { Call } from './taskfile.ts'

/** What a machine said of itself. */
export interface Answers {
  name: string
  /** Why it says nothing, and what to do. */
  silent?: { why: string; next?: string }
  /** Seconds since it started. */
  up?: number
  system?: string
  kernel?: string
  /** Why it has to start anew; empty when it need not. */
  restart?: string
  /** Units that failed, and file systems that are nearly full, as text. */
  failed?: string
  full?: string
  /** Pages that changed something, with the files that somebody else has changed since. */
  pages: { name: string; changed: string[] }[]
  k3s?: {
    active: boolean
    version: string
    staged: string[]
    /** The version that an upgrade is on its way to. */
    upgrading?: string
    /** The certificate that ends first. */
    certificate?: { days: number; path: string }
    said: string
    /** What did not come to its end: a restore of this node, or what was to follow when its data was put aside. */
    unfinished?: string
  }
  nodes?: Node[]
  notes: Note[]
}

/** A node as the API sees it. */
export interface Node {
  name: string
  version: string
  ready: string
  /** Why, in the kubelet's word. */
  reason: string
  voter: string
  cordoned: boolean
  /** Ours, when a page has cordoned it. */
  away: string
  staged: string
}

export interface Concern {
  state: 'bad' | 'warn'
  of: string
  says: string
  next: string
}

/** What a page came to when it was last looked at from this laptop. */
export interface Verdict {
  page: string
  machine: string
  layer: string
  mode: string
  time: string
  failed: number
  pending: number
}

export interface Status {
  site: string
  time: string
  concerns: Concern[]
  machines: Answers[]
  verdicts: Verdict[]
  cluster?: {
    pinned: string
    members: (Member & { state?: Node })[]
    backup: Note[]
  }
}

/** Days until a certificate is renewed, hours that a backup may be old, and days that a drill may be. */
const RENEW = 90
const BACKUP_HOURS = 26
const DRILL_DAYS = 31

/** Asks every machine of the site at once, and shows what they say. Exit code: 0 all is well, 1 something is broken, 2 needs attention. */
export async function status(call: Call): Promise<number> {
  const given = flags(call, [], ['json', 'site'])
  const config = loadConfig(given.site === undefined ? {} : { site: given.site })
  if (config.env.FK_HOST === undefined)
    throw new Fault('There is no machine: FK_HOST is not set', {
      next: 'FK_HOST=admin@192.0.2.10, in the environment or in .env',
    })
  const terminal = process.stdin.isTTY === true && process.stdout.isTTY === true && !given.json
  // A terminal can be asked one question at a time.
  const asks = terminal && config.env.FK_SUDO_PASSWORD_FILE === undefined
  const machines: Answers[] = []
  if (asks) for (const spec of everyMachine(config)) machines.push(await answersOf(config, spec, true))
  else
    machines.push(...(await Promise.all(everyMachine(config).map((spec) => answersOf(config, spec, false)))))
  const found = statusOf(config, machines, verdictsIn(config.env.FK_LOG_DIR), new Date())
  if (given.json) process.stdout.write(`${JSON.stringify(found, null, 2)}\n`)
  else
    process.stdout.write(
      screen(found, { color: process.stdout.isTTY === true && process.stdout.hasColors() }),
    )
  return found.concerns.some(({ state }) => state === 'bad') ? 1 : found.concerns.length > 0 ? 2 : 0
}

async function answersOf(config: Config, spec: Placed, terminal: boolean): Promise<Answers> {
  const answers: Answers = { name: spec.name, pages: [], notes: [] }
  const quiet = createReport({ stdout: { write: () => true }, tty: false, color: false })
  let machine: Machine | undefined
  try {
    machine = await connectTo(config, spec, terminal, quiet)
    const program = await plain(
      'status',
      ['status_machine', 'status_pages', 'status_k3s', 'status_backup'],
      ['put.sh', 'snapshot.sh', 'lib/k3s/members.sh', 'lib/k3s/nodes.sh', 'lib/cli/status.sh'],
    )
    const outcome = await machine.run(
      program,
      onAnswer((values, name) => take(answers, name, values)),
      60,
    )
    if (!outcome.finished)
      answers.silent = {
        why:
          outcome.code === 124
            ? 'it did not answer within a minute'
            : outcome.stderr.trim().split('\n').at(-1) || `it ended with ${outcome.code}`,
      }
  } catch (error) {
    const { message, said, next } = error as Partial<Fault> & Error
    answers.silent = {
      why: [message, said?.trim().split('\n').at(-1)].filter(Boolean).join(': '),
      ...(next === undefined ? {} : { next }),
    }
  } finally {
    await machine?.close()
  }
  return answers
}

const lines = (text = '') => text.split('\n').filter(Boolean)

/** One answer of lib/cli/status.sh. */
export function take(answers: Answers, kind: string, values: Record<string, string>): void {
  if (kind === 'machine') {
    const { up, system = '', kernel = '', restart = '', failed = '', full = '' } = values
    Object.assign(answers, { up: Number(up), system, kernel, restart, failed, full })
  } else if (kind === 'page')
    answers.pages.push({ name: values['name'] ?? '', changed: lines(values['changed']) })
  else if (kind === 'k3s') {
    const { active, version = '', staged, upgrading, certificate, said = '', unfinished } = values
    const [days, path] = certificate?.split(' ') ?? []
    answers.k3s = {
      active: active === 'active',
      version,
      staged: lines(staged),
      ...(upgrading ? { upgrading } : {}),
      ...(days && path ? { certificate: { days: Number(days), path } } : {}),
      said,
      ...(unfinished ? { unfinished } : {}),
    }
  } else if (kind === 'nodes')
    answers.nodes = lines(values['nodes']).map((line) => {
      const [name = '', version = '', ready = '', reason = '', voter = '', cordoned, away = '', staged = ''] =
        line.split('\t')
      return { name, version, ready, reason, voter, cordoned: cordoned === 'true', away, staged }
    })
  else if (kind === 'note') answers.notes.push(noteOf(values['which'] ?? '', values['line'] ?? ''))
}

function noteOf(which: string, line: string): Note {
  const [time = '', name = '', bytes = '', state, why = ''] = line.split('\t')
  return { which, time, name, bytes: Number(bytes), ok: state === 'ok', why }
}

/** The last word on each page and machine in the run logs of this laptop; of many logs the newest `most` are read. */
export function verdictsIn(dir: string, most = 100): Verdict[] {
  if (!existsSync(dir)) return []
  const found = new Map<string, Verdict>()
  const files = readdirSync(dir)
    .filter((name) => name.endsWith('.ndjson'))
    .sort()
    .toReversed()
  for (const file of files.slice(0, most)) {
    let page: { name: string; layer: string; mode: string; machine: string } | undefined
    for (const line of lines(readFileSync(join(dir, file), 'utf8'))) {
      let event: Record<string, unknown>
      try {
        event = JSON.parse(line) as Record<string, unknown>
      } catch {
        continue // the end of a run that was killed
      }
      if (event['event'] === 'page') page = event as unknown as typeof page
      if (event['event'] !== 'summary' || !page?.machine || page.mode === 'plan') continue
      const machine = page.machine.replace(/ \(.*$/, '')
      const key = `${page.name} ${machine}`
      const verdict: Verdict = {
        page: page.name,
        machine,
        layer: page.layer,
        mode: page.mode,
        time: String(event['time']),
        failed: Number(event['failed'] ?? 0),
        pending: Number(event['pending'] ?? 0),
      }
      const known = found.get(key)
      if (known === undefined || known.time < verdict.time) found.set(key, verdict)
    }
  }
  return [...found.values()].sort((a, b) => (a.page < b.page ? -1 : 1))
}

/** Everything together, and what needs attention: what is broken first. `now` is the laptop's time. */
export function statusOf(config: Config, machines: Answers[], verdicts: Verdict[], now: Date): Status {
  const { site } = config
  const concerns: Concern[] = []
  const tell = (state: Concern['state'], of: string, says: string, next: string) =>
    concerns.push({ state, of, says, next })
  const members = clusterOf(config)
  // Of a node the cluster says more, in the same line.
  const isNode = (name: string) => members.some((member) => member.name === name)
  for (const machine of machines) {
    const { name, silent, restart, failed, full, pages: changed } = machine
    if (silent && !isNode(name)) tell('bad', name, silent.why, silent.next ?? './task doctor')
    if (failed)
      tell('bad', name, `${failed} failed`, 'systemctl --failed, and journalctl --unit of it, on the machine')
    if (full) tell('warn', name, `${full} of the space is used`, 'make room there')
    if (restart)
      tell(
        'warn',
        name,
        `it waits for a restart (${restart})`,
        'sudo systemctl reboot, one node of a cluster after the other',
      )
    const files = changed.flatMap((page) => page.changed)
    if (files.length > 0)
      tell(
        'warn',
        name,
        `somebody changed ${files.slice(0, 3).join(', ')}${files.length > 3 ? ` and ${files.length - 3} more` : ''}`,
        './task plan-all shows how, ./task build-all takes it back',
      )
  }
  const known = verdicts.filter(({ machine }) => machines.some(({ name }) => name === machine))
  for (const { page, machine, mode, failed } of known)
    if (failed > 0)
      tell('warn', machine, `${page} failed when it was last ${done(mode)}`, `./task ${page.slice(3)} verify`)
  const cluster = clusterState(config, machines, now, tell)
  const order = { bad: 0, warn: 1 }
  concerns.sort((a, b) => order[a.state] - order[b.state])
  return {
    site: site.name,
    time: now.toISOString(),
    concerns,
    machines,
    verdicts: known,
    ...(cluster ? { cluster } : {}),
  }
}

const done = (mode: string) => ({ apply: 'applied', verify: 'verified', undo: 'taken back' })[mode] ?? mode

type Tell = (state: Concern['state'], of: string, says: string, next: string) => void

function clusterState(config: Config, machines: Answers[], now: Date, tell: Tell): Status['cluster'] {
  const members = clusterOf(config)
  const [first] = members
  if (first === undefined) return undefined
  const pinned = programOf(config, first.arch).version
  const seen = machines.find(({ nodes }) => nodes !== undefined)?.nodes
  const begun = machines.some(({ k3s }) => k3s !== undefined)
  const answers = (name: string) => machines.find((machine) => machine.name === name)
  if (begun && seen === undefined)
    tell(
      'bad',
      'cluster',
      'the API answers on no server',
      'journalctl --unit k3s on a server; ./task restore brings a backup back',
    )
  for (const { name } of members) {
    const { k3s, silent } = answers(name) ?? {}
    const node = seen?.find((found) => found.name === name)
    if (k3s?.unfinished === 'restore')
      tell(
        'bad',
        name,
        'a restore has begun here, and has not ended',
        'if nobody is at work: ./task restore FILE again. Until then the machine takes it back by itself, in half an hour at most',
      )
    else if (k3s?.unfinished === 'aside')
      tell(
        'bad',
        name,
        'what it had of the cluster is put aside, and nothing has taken its place',
        'after a restore that was cut off: ./task restore FILE again; where the cluster is well: ./task k3s-join apply',
      )
    else if (k3s && !k3s.active)
      tell(
        'bad',
        name,
        `k3s does not run${k3s.said ? `: ${k3s.said}` : ''}`,
        './task k3s-join verify; journalctl --unit k3s on the machine',
      )
    if (silent) {
      const heard =
        node === undefined
          ? ''
          : node.ready === 'Unknown'
            ? '; the cluster does not hear of it either'
            : '; the cluster still hears of it'
      const lost = node?.ready === 'Unknown' ? `; when it is lost for good: ./task node replace ${name}` : ''
      tell('bad', name, silent.why + heard, `${silent.next ?? './task doctor'}${lost}`)
      continue
    }
    if (node?.voter === 'False')
      tell(
        'bad',
        name,
        'it has no vote in etcd',
        'journalctl --unit k3s on it. Touch no other server meanwhile',
      )
    if (node && node.ready !== 'True')
      tell(
        node.ready === 'Unknown' ? 'bad' : 'warn',
        name,
        node.ready === 'Unknown'
          ? 'the cluster does not hear of it'
          : `it is not Ready (${node.reason || 'no reason given'})`,
        silent ? `when it is lost for good: ./task node replace ${name}` : `kubectl describe node ${name}`,
      )
    if (seen && !node) tell('warn', name, 'the cluster does not have it', './task k3s-join apply')
    if (k3s?.upgrading)
      tell('warn', name, `an upgrade to ${k3s.upgrading} has begun and not ended`, './task k3s-upgrade apply')
    else if (node?.away)
      tell('warn', name, 'its pods were sent away, and have not been let back', './task k3s-upgrade apply')
    else if (node?.cordoned)
      tell('warn', name, 'somebody has cordoned it', `kubectl uncordon ${name}, when that is over`)
  }
  certificateConcern(
    members.flatMap(({ name }) => {
      const found = answers(name)?.k3s?.certificate
      return found && found.days < RENEW ? [{ name, ...found }] : []
    }),
    tell,
  )
  const older = members.flatMap(({ name }) => {
    const runs = seen?.find((node) => node.name === name)?.version ?? answers(name)?.k3s?.version
    return runs !== undefined && runs !== pinned && !answers(name)?.k3s?.upgrading ? [{ name, runs }] : []
  })
  if (older.length > 0) {
    const staged = members.every(({ name }) => hasProgram(answers(name), seen, name, pinned))
    tell(
      'warn',
      'cluster',
      `${pinned} is pinned, and ${[...new Set(older.map(({ runs }) => runs))].map((runs) => `${listed(older.filter((one) => one.runs === runs).map(({ name }) => name))} ${older.filter((one) => one.runs === runs).length === 1 ? 'runs' : 'run'} ${runs}`).join(', ')}`,
      staged ? './task k3s-upgrade plan, then apply' : './task k3s-stage apply, then ./task k3s-upgrade plan',
    )
  }
  for (const { name } of seen ?? [])
    if (!members.some((member) => member.name === name))
      tell(
        'warn',
        name,
        'the cluster has it, and the site does not',
        `say it under machines:, or ./task node remove ${name}`,
      )
  const notes = [
    ...machines.flatMap((machine) => machine.notes),
    ...laptopNotes(join(config.env.FK_STATE_DIR, config.site.name)),
  ]
  if (begun) backupConcerns(notes, now, tell)
  return {
    pinned,
    members: members.map((member) => {
      const state = seen?.find(({ name }) => name === member.name)
      return { ...member, ...(state ? { state } : {}) }
    }),
    backup: notes,
  }
}

const listed = (names: string[]) =>
  names.length > 1 ? `${names.slice(0, -1).join(', ')} and ${names.at(-1)}` : (names[0] ?? '')

function certificateConcern(ending: { name: string; days: number; path: string }[], tell: Tell): void {
  const [first, ...others] = ending.toSorted((a, b) => a.days - b.days)
  if (first === undefined) return
  const { name, days, path } = first
  const when = days < 0 ? 'has ended' : `ends in ${count(days, 'day')}`
  const more = others.length > 0 ? `, and others on ${listed(others.map((other) => other.name))} soon` : ''
  tell(days < 7 ? 'bad' : 'warn', name, `${path} ${when}${more}`, './task k3s-renew apply')
}

const hasProgram = (answers: Answers | undefined, seen: Node[] | undefined, name: string, version: string) =>
  answers?.k3s?.staged.includes(version) || seen?.find((node) => node.name === name)?.staged === version

/** The newest note of some kinds that went well. */
const newest = (notes: Note[], kinds: (which: string) => boolean): Note | undefined =>
  notes
    .filter(({ which, ok }) => ok && kinds(which.replace(/\.good$/, '')))
    .sort((a, b) => (a.time < b.time ? 1 : -1))[0]

const isDrill = (which: string) => which === 'drill'
const isBackup = (which: string) => !['drill', 'restore'].includes(which)

function backupConcerns(notes: Note[], now: Date, tell: Tell): void {
  const hours = (note: Note) => (now.getTime() - Date.parse(note.time)) / 3_600_000
  const [backup, drill] = [newest(notes, isBackup), newest(notes, isDrill)]
  if (backup === undefined)
    tell('warn', 'backup', 'the cluster has no backup that anybody knows of', './task k3s-backup apply')
  else if (hours(backup) > BACKUP_HOURS)
    tell('warn', 'backup', `the last good one is ${age(backup.time, now)} old`, './task k3s-backup verify')
  for (const { which, ok, why } of notes)
    if (!ok && isBackup(which))
      tell('warn', 'backup', `${which} failed${why ? `: ${why}` : ''}`, './task backup')
  if (backup === undefined) return
  if (drill === undefined) tell('warn', 'backup', 'nobody has ever tried to restore one', './task drill')
  else if (hours(drill) > 24 * DRILL_DAYS)
    tell('warn', 'backup', `the last good drill was ${age(drill.time, now)} ago`, './task drill')
}

const count = (n: number, noun: string) => `${n} ${noun}${n === 1 ? '' : 's'}`

/** `40 min`, `5 h`, `12 d`. */
export function age(time: string, now: Date): string {
  const minutes = Math.max(0, (now.getTime() - Date.parse(time)) / 60_000)
  if (Number.isNaN(minutes)) return 'of unknown age'
  return minutes < 120
    ? `${Math.floor(minutes)} min`
    : minutes < 48 * 60
      ? `${Math.floor(minutes / 60)} h`
      : `${Math.floor(minutes / 1440)} d`
}

/** What stands on the screen. */
export function screen(
  { site, time, concerns, machines, verdicts, cluster }: Status,
  { color }: { color: boolean },
): string {
  const now = new Date(time)
  const paint = (code: number, text: string) => (color ? `\u001b[${code}m${text}\u001b[0m` : text)
  const out: string[] = []
  const heading = (text: string) => out.push('', paint(1, text))
  out.push(
    `${paint(1, site)}: ${concerns.length === 0 ? paint(32, 'nothing needs you') : `${count(concerns.length, 'thing')} ${concerns.length === 1 ? 'needs' : 'need'} you`}`,
  )

  if (concerns.length > 0) heading('What needs you')
  const width = Math.max(0, ...concerns.map(({ of }) => of.length))
  for (const { state, of, says, next } of concerns) {
    out.push(`  ${paint(state === 'bad' ? 31 : 33, state.padEnd(4))}  ${of.padEnd(width)}  ${oneLine(says)}`)
    out.push(`  ${' '.repeat(6 + width)}  ${paint(36, `→ ${oneLine(next)}`)}`)
  }

  heading('Machines')
  out.push(
    ...table(
      ['name', 'up', 'system', 'kernel', 'pages'],
      machines.map(({ name, silent, up, system = '', kernel = '', pages: known }) =>
        silent
          ? [name, paint(31, 'silent')]
          : [
              name,
              age(new Date(now.getTime() - (up ?? 0) * 1000).toISOString(), now),
              system,
              kernel,
              String(known.length),
            ],
      ),
    ),
  )

  const layers = [...new Set(verdicts.map(({ layer }) => layer))].sort()
  if (layers.length > 0) heading('Layers, as this laptop last saw them')
  for (const layer of layers) {
    const mine = verdicts.filter((verdict) => verdict.layer === layer)
    const failed = mine.filter((verdict) => verdict.failed > 0)
    const last = mine.reduce((a, b) => (a.time > b.time ? a : b))
    const said =
      failed.length > 0
        ? paint(31, `${failed.map(({ page, machine }) => `${page} failed on ${machine}`).join(', ')}`)
        : `${count(new Set(mine.map(({ page }) => page)).size, 'page')} hold${new Set(mine.map(({ page }) => page)).size === 1 ? 's' : ''}`
    out.push(`  ${layer}  ${said}, ${done(last.mode)} ${age(last.time, now)} ago`)
  }

  if (cluster) {
    heading(`Cluster: k3s ${cluster.pinned} is pinned`)
    out.push(
      ...table(
        ['node', 'role', 'runs', 'staged', 'ready', 'etcd', 'certificates'],
        cluster.members.map(({ name, role, state }) => {
          const k3s = machines.find((machine) => machine.name === name)?.k3s
          const runs = state?.version ?? k3s?.version ?? '-'
          const staged = k3s?.staged.includes(cluster.pinned) || state?.staged === cluster.pinned
          const days = k3s?.certificate?.days
          return [
            name,
            role,
            runs === cluster.pinned || runs === '-' ? runs : paint(33, runs),
            staged ? 'yes' : paint(33, 'no'),
            state === undefined
              ? '-'
              : state.ready === 'True'
                ? state.cordoned
                  ? paint(33, 'cordoned')
                  : 'yes'
                : paint(31, state.ready === 'Unknown' ? 'silent' : 'no'),
            role === 'agent' ? '' : state?.voter === 'True' ? 'votes' : state ? paint(31, 'no vote') : '-',
            days === undefined ? '-' : days < RENEW ? paint(33, count(days, 'day')) : count(days, 'day'),
          ]
        }),
      ),
    )
    const [backup, drill] = [newest(cluster.backup, isBackup), newest(cluster.backup, isDrill)]
    const ago = (note: Note | undefined) =>
      note === undefined ? paint(33, 'never') : `${age(note.time, now)} ago`
    out.push(`  last backup ${ago(backup)}, last good drill ${ago(drill)}`)
  }
  return `${out.join('\n')}\n`
}

const oneLine = (text: string) =>
  clean(text)
    .trim()
    .replaceAll(/\s*\n\s*/g, '; ')

/** Columns as wide as what stands in them; colours have no width. */
function table(head: string[], rows: string[][]): string[] {
  // oxlint-disable-next-line no-control-regex -- these are our own colour codes
  const bare = (text: string) => text.replaceAll(/\u001b\[\d+m/g, '')
  const widths = head.map((word, i) => Math.max(word.length, ...rows.map((row) => bare(row[i] ?? '').length)))
  const line = (row: string[]) =>
    `  ${row.map((cell, i) => cell + ' '.repeat(Math.max(0, (widths[i] ?? 0) - bare(cell).length))).join('  ')}`.trimEnd()
  return [head, ...rows].map(line)
}
