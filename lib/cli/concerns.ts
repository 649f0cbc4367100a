// What needs attention in what machines report: each with the command that mends it.
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { count, duration } from '../engine/report.ts'
import { copiedAt } from '../ground/identity.ts'
import { type Note, laptopNotes } from '../k3s/backup.ts'
import { type Member, clusterOf, programOf } from '../k3s/members.ts'
import type { Config } from '../site/model.ts'
import { seconds } from '../site/formats.ts'
import { notBuilt } from '../site/planned.ts'
import { exceptionsOf } from '../site/policy.ts'
import {
  type Answers,
  type Concern,
  type CertificateState,
  type NodeState,
  age,
  done,
  isBackup,
  isDrill,
  newest,
  RENEW,
  RENEWED,
} from './health.ts'
import type { Verdict } from './history.ts'
import { pinsSeen } from './pins.ts'
import { type Judged, type LayerState, type SitePage, judge, layersOf } from './layers.ts'

/** Hours that a backup may take to come, and days that a drill may be old. */
const GRACE_HOURS = 2
const DRILL_DAYS = 31

/** How much of the cluster may be lost, in hours: the rpo of its row under data.keep. */
const hoursOf = ({ site }: Config): number =>
  (seconds(site.data.keep.find(({ what }) => what === 'cluster')?.rpo) ?? 86_400) / 3600

type Add = (state: Concern['state'], of: string, says: string, next: string) => void

export interface Status {
  site: string
  time: string
  /** Seconds that it took to ask. */
  took: number
  concerns: Concern[]
  layers: LayerState[]
  pages: Judged[]
  machines: Answers[]
  /** Pages that the site needs, and that this kit does not have yet. */
  notBuilt: { page: string; does: string }[]
  cluster?: {
    pinned: string
    members: (Member & { state?: NodeState })[]
    backup: Note[]
  }
}

/** What is known before anything is concluded from it. */
export interface Known {
  pages: SitePage[]
  machines: Answers[]
  verdicts: Verdict[]
  /** The laptop's time, and the seconds that it took to ask. */
  now: Date
  took?: number
}

/** Everything together, and what needs attention: what is broken first. */
export function statusOf(config: Config, { pages, machines, verdicts, now, took = 0 }: Known): Status {
  const concerns: Concern[] = []
  const add: Add = (state, of, says, next) => void concerns.push({ state, of, says, next })
  const members = clusterOf(config)
  for (const machine of machines) {
    const { name, silent } = machine
    // Of a node the cluster says more, in the same line.
    const isNode = members.some((member) => member.name === name)
    if (silent && !silent.behind && !isNode) add('bad', name, silent.why, silent.next ?? './task doctor')
    machineConcerns(machine, add)
    releaseConcern(config, machine, add)
    replacedConcern(machine, verdicts, add)
  }
  const judged = judge(pages, machines, verdicts, now)
  pageConcerns(judged, add)
  const identity = config.env.FK_AGE_IDENTITY
  if (existsSync(identity) && copiedAt(identity) === undefined)
    add('warn', 'identity', 'no copy of it is known, and it opens every secret and backup', './task identity')
  for (const { rules, namespace, until } of exceptionsOf(config.site, now).ended)
    add(
      'warn',
      'policy',
      `the exception from ${listed(rules)} in ${namespace} ended with ${until}`,
      `./task policy apply, and take it out of config/sites/${config.site.name}.yaml`,
    )
  pinConcerns(config, add)
  const cluster = clusterState(config, machines, now, add)
  const order = { bad: 0, warn: 1 }
  concerns.sort((a, b) => order[a.state] - order[b.state])
  return {
    site: config.site.name,
    time: now.toISOString(),
    took,
    concerns,
    layers: layersOf(judged),
    pages: judged,
    machines,
    notBuilt: notBuilt(config.site).map(({ page, does }) => ({ page, does })),
    ...(cluster ? { cluster } : {}),
  }
}

/** A Flatcar that is not the pinned one. */
function releaseConcern({ pins }: Config, { name, system = '' }: Answers, add: Add): void {
  const runs = /^Flatcar\b.* (\d+\.\d+\.\d+)\b/.exec(system)?.[1]
  const pinned = pins['flatcar']?.version
  if (runs !== undefined && pinned !== undefined && runs !== pinned)
    add(
      'warn',
      name,
      `Flatcar ${pinned} is pinned, and it runs ${runs}`,
      './task node-update plan, then apply',
    )
}

/** What ./task pins check has seen last, of pins that are still the same. */
function pinConcerns(config: Config, add: Add): void {
  const seen = pinsSeen(config)
  for (const { pin, version, files, out } of seen?.pins ?? []) {
    if (config.pins[pin]?.version !== version) continue
    const wrong = files.filter(({ state }) => state === 'differs').map(({ arch }) => arch)
    if (wrong.length > 0)
      add('bad', pin, `its digest (${listed(wrong)}) is not what its maker publishes`, './task pins check')
    if (out?.newer)
      add(
        'warn',
        pin,
        `${out.newest} is out, and ${version} is pinned (seen ${out.when.slice(0, 10)})`,
        './task pins check; then config/versions.yaml',
      )
  }
}

/** A machine of that name answers, and it is not the one that pages were run on. */
function replacedConcern({ name, id }: Answers, verdicts: Verdict[], add: Add): void {
  const newest = verdicts.filter((one) => one.machine === name).sort((a, b) => (a.time < b.time ? 1 : -1))[0]
  if (id === undefined || newest?.id === undefined || newest.id === id) return
  add(
    'bad',
    name,
    'another machine answers than the one that was built (it has another machine-id)',
    'is FK_HOST right? If you have reinstalled it: ./task build-all',
  )
}

/** Pages that failed or were cut short: a line for each machine, however many there are. */
function pageConcerns(judged: Judged[], add: Add): void {
  for (const state of ['failed', 'unfinished'] as const) {
    const all = judged.filter((one) => one.state === state)
    for (const machine of new Set(all.map((one) => one.machine))) {
      const mine = all.filter((one) => one.machine === machine)
      const [first] = mine
      if (first === undefined) continue
      const { mode = 'verify' } = first
      const names = mine.map(({ page }) => page)
      const shown =
        names.length > 3 ? `${names.slice(0, 2).join(', ')} and ${names.length - 2} more` : listed(names)
      const next = names.length === 1 ? `./task ${first.page.slice(3)}` : undefined
      if (state === 'failed') {
        const was = names.length === 1 ? 'it was' : 'they were'
        add(
          'warn',
          machine,
          `${shown} failed when ${was} last ${done(mode)}`,
          next ? `${next} verify` : './task verify-all',
        )
      } else {
        const says = `the last ${mode} of ${shown} did not finish`
        add('warn', machine, says, next ? `${next} ${mode}` : './task build-all')
      }
    }
  }
}

/** What status.sh says of a node that has fetched another version of its system. */
const NEW_SYSTEM = 'a new system'

function machineConcerns({ name, restart, failed, full, pages, ahead = 0 }: Answers, add: Add): void {
  if (failed)
    add(
      'bad',
      name,
      `${failed} failed`,
      `on it: systemctl status ${failed}; journalctl --boot ${failed
        .split(' ')
        .map((unit) => `--unit ${unit}`)
        .join(' ')}`,
    )
  if (Math.abs(ahead) >= 60)
    add(
      'warn',
      name,
      `its clock is ${duration(Math.abs(ahead))} ${ahead > 0 ? 'ahead of' : 'behind'} this laptop's`,
      'on it: chronyc tracking; and is the clock of this laptop right?',
    )
  if (full) add('warn', name, `${full} of the space is used`, 'make room there')
  if (restart)
    add(
      'warn',
      name,
      `it waits for a reboot (${restart})`,
      restart === NEW_SYSTEM ? './task node-update apply' : './task host-reboot apply',
    )
  const files = pages.flatMap((page) => page.changed)
  const more = files.length > 3 ? ` and ${files.length - 3} more` : ''
  if (files.length > 0)
    add(
      'warn',
      name,
      `somebody changed ${files.slice(0, 3).join(', ')}${more}`,
      './task plan-all shows how, ./task build-all takes it back',
    )
}

/** A cluster as the site, its machines and its API describe it. */
interface Cluster {
  members: Member[]
  pinned: string
  /** The nodes that the API lists; undefined where it does not answer. */
  seen: NodeState[] | undefined
  /** k3s is installed somewhere. */
  begun: boolean
  machine: (name: string) => Answers | undefined
}

function clusterState(config: Config, machines: Answers[], now: Date, add: Add): Status['cluster'] {
  const members = clusterOf(config)
  const [first] = members
  if (first === undefined) return undefined
  const cluster: Cluster = {
    members,
    pinned: programOf(config, first.arch).version,
    seen: machines.find(({ nodes }) => nodes !== undefined)?.nodes,
    begun: machines.some(({ k3s }) => k3s !== undefined),
    machine: (name) => machines.find((machine) => machine.name === name),
  }
  const { seen, begun, pinned } = cluster
  if (begun && seen === undefined)
    add(
      'bad',
      'cluster',
      'the API answers on no server',
      'journalctl --unit k3s on a server; ./task restore restores a backup',
    )
  for (const { name } of members) memberConcerns(name, cluster, add)
  certificateConcern(cluster, add)
  for (const one of machines.find(({ certificates }) => certificates !== undefined)?.certificates ?? [])
    webConcern(one, now, add)
  versionConcern(cluster, add)
  for (const { name } of seen ?? [])
    if (!members.some((member) => member.name === name))
      add(
        'warn',
        name,
        'the cluster has it, and the site does not',
        `list it under machines:, or ./task node remove ${name}`,
      )
  const notes = [
    ...machines.flatMap((machine) => machine.notes),
    ...laptopNotes(join(config.env.FK_STATE_DIR, config.site.name)),
  ]
  if (begun) backupConcerns(config, notes, now, add)
  const stateOf = (member: Member) => {
    const state = seen?.find(({ name }) => name === member.name)
    return state ? { state } : {}
  }
  return { pinned, members: members.map((member) => ({ ...member, ...stateOf(member) })), backup: notes }
}

function memberConcerns(name: string, { seen, machine }: Cluster, add: Add): void {
  const { k3s, silent, notBuilt: missing } = machine(name) ?? {}
  if (missing || (silent?.behind && seen === undefined)) return
  const node = seen?.find((found) => found.name === name)
  if (k3s) serviceConcern(name, k3s, add)
  if (silent) {
    const known =
      { Unknown: '; the cluster does not see it either' }[node?.ready ?? ''] ?? '; the cluster still sees it'
    const lost = node?.ready === 'Unknown' ? `; when it is lost for good: ./task node replace ${name}` : ''
    add(
      'bad',
      name,
      silent.why + (node === undefined ? '' : known),
      `${silent.next ?? './task doctor'}${lost}`,
    )
    return
  }
  if (node) nodeConcern(name, node, add)
  if (seen && !node) add('warn', name, 'the cluster does not have it', './task k3s-join apply')
  if (k3s?.upgrading)
    add('warn', name, `an upgrade to ${k3s.upgrading} has begun and not ended`, './task k3s-upgrade apply')
  else if (node?.away)
    add('warn', name, 'it is drained, and not uncordoned again', './task k3s-upgrade apply')
  else if (node?.cordoned)
    add('warn', name, 'somebody has cordoned it', `./task kubectl uncordon ${name}, when that is over`)
}

function serviceConcern(
  name: string,
  { unfinished, active, said }: NonNullable<Answers['k3s']>,
  add: Add,
): void {
  if (unfinished === 'restore')
    add(
      'bad',
      name,
      'a restore has begun here, and has not ended',
      'if nobody is at work: ./task restore FILE again. Until then the machine rolls it back by itself, in half an hour at most',
    )
  else if (unfinished === 'aside')
    add(
      'bad',
      name,
      'what it had of the cluster is put aside, and nothing has taken its place',
      'after a restore that was cut off: ./task restore FILE again; where the cluster is well: ./task k3s-join apply',
    )
  else if (!active)
    add(
      'bad',
      name,
      `k3s does not run${said ? `: ${said}` : ''}`,
      './task k3s-join verify; journalctl --unit k3s on the machine',
    )
}

function nodeConcern(name: string, { voter, ready, reason }: NodeState, add: Add): void {
  if (voter === 'False')
    add('bad', name, 'it has no vote in etcd', 'journalctl --unit k3s on it. Touch no other server meanwhile')
  if (ready === 'True') return
  const lost = ready === 'Unknown'
  add(
    lost ? 'bad' : 'warn',
    name,
    lost ? 'the cluster does not see it' : `it is not Ready (${reason || 'no reason given'})`,
    `./task kubectl describe node ${name}`,
  )
}

function certificateConcern({ members, machine }: Cluster, add: Add): void {
  const ending = members.flatMap(({ name }) => {
    const certificate = machine(name)?.k3s?.certificate
    return certificate && certificate.days < RENEW ? [{ name, ...certificate }] : []
  })
  const [first, ...others] = ending.toSorted((a, b) => a.days - b.days)
  if (first === undefined) return
  const { name, days, path } = first
  const when = days < 0 ? 'has ended' : `ends in ${count(days, 'day')}`
  const more = others.length > 0 ? `, and others on ${listed(others.map((other) => other.name))} soon` : ''
  add(days < 7 ? 'bad' : 'warn', name, `${path} ${when}${more}`, './task k3s-renew apply')
}

/** A certificate that gateways show, or that signs them. */
function webConcern({ name, why, until, byApply }: CertificateState, now: Date, add: Add): void {
  const of = `certificate ${name}`
  const days = Math.floor((Date.parse(until) - now.getTime()) / 86_400_000)
  const next = byApply ? './task certificates apply' : './task certificates verify says why'
  if (why !== '') add('warn', of, why, next)
  if (days < (byApply ? RENEW : RENEWED))
    add(days < 7 ? 'bad' : 'warn', of, days < 0 ? 'has ended' : `ends in ${count(days, 'day')}`, next)
}

/** Nodes that do not run the pinned version. */
function versionConcern({ members, machine, seen, pinned }: Cluster, add: Add): void {
  const byVersion = new Map<string, string[]>()
  for (const { name } of members) {
    const k3s = machine(name)?.k3s
    const runs = seen?.find((node) => node.name === name)?.version ?? k3s?.version
    if (runs === undefined || runs === pinned || k3s?.upgrading) continue
    byVersion.set(runs, [...(byVersion.get(runs) ?? []), name])
  }
  if (byVersion.size === 0) return
  const staged = members.every(
    ({ name }) =>
      machine(name)?.k3s?.staged.includes(pinned) ||
      seen?.find((node) => node.name === name)?.staged === pinned,
  )
  const older = [...byVersion].map(
    ([runs, names]) => `${listed(names)} ${names.length === 1 ? 'runs' : 'run'} ${runs}`,
  )
  add(
    'warn',
    'cluster',
    `${pinned} is pinned, and ${older.join(', ')}`,
    staged ? './task k3s-upgrade plan, then apply' : './task k3s-stage apply, then ./task k3s-upgrade plan',
  )
}

const listed = (names: string[]) =>
  names.length > 1 ? `${names.slice(0, -1).join(', ')} and ${names.at(-1)}` : (names[0] ?? '')

function backupConcerns(config: Config, notes: Note[], now: Date, add: Add): void {
  const hours = (note: Note) => (now.getTime() - Date.parse(note.time)) / 3_600_000
  const [backup, drill] = [newest(notes, isBackup), newest(notes, isDrill)]
  if (backup === undefined)
    add('warn', 'backup', 'no backup of the cluster is known', './task k3s-backup apply')
  else if (hours(backup) > hoursOf(config) + GRACE_HOURS)
    add('warn', 'backup', `the last good one is ${age(backup.time, now)} old`, './task k3s-backup verify')
  for (const { which, ok, why } of notes)
    if (!ok && isBackup(which))
      add('warn', 'backup', `${which} failed${why ? `: ${why}` : ''}`, './task backup')
  if (backup === undefined) return
  if (drill === undefined) add('warn', 'backup', 'no restore drill was made yet', './task drill')
  else if (hours(drill) > 24 * DRILL_DAYS)
    add('warn', 'backup', `the last good drill was ${age(drill.time, now)} ago`, './task drill')
}
