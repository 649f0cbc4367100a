// ./task backup and ./task backups: what a person does with the bundles of a cluster.
import { mkdirSync, readFileSync, statSync, unlinkSync } from 'node:fs'
import { join } from 'node:path'
import { collect } from '../engine/delivery.ts'
import type { Machine } from '../engine/machine.ts'
import { Fault } from '../ground/fault.ts'
import { sshPublicKey } from '../ground/keys.ts'
import { question } from '../ground/laptop.ts'
import { type Note, ask as query, byTime, copies, laptopNotes, nodeNotes, noteHere } from '../k3s/backup.ts'
import { madeAt } from '../k3s/bundle.ts'
import { backupSecrets, program, sshKey } from '../k3s/destinations.ts'
import { type Member, clusterOf } from '../k3s/members.ts'
import { backupOf } from '../site/cluster.ts'
import { machinesFor } from '../site/machines.ts'
import type { Call } from './call.ts'
import type { Given, Table } from './flags.ts'
import { type Session, named, withSession } from './session.ts'
import { backup as backupTable, backups as backupsTable } from './tables.ts'

/** A session about one node of a cluster. */
export interface ClusterSession extends Session {
  member: Member
  /** Connects to that node: most of this begins on the laptop. */
  node: () => Promise<Machine>
}

/** What a command line is about: the first server of the site, or the node that it names as its word `nodeWord`. */
export const withCluster = <T extends Table>(
  call: Call,
  table: T,
  work: (session: ClusterSession & { given: Given<T> }) => Promise<number>,
  nodeWord?: number,
): Promise<number> =>
  withSession(call, table, async (session) => {
    const { config, given, connect, needsHost } = session
    const members = clusterOf(config)
    const name = nodeWord === undefined ? undefined : given.words[nodeWord]
    const none = 'its nodes do not run k3s'
    const member =
      name === undefined
        ? members.find(({ first }) => first)
        : named(members, name, config.site.name, 'node', none)
    if (member === undefined) throw new Fault(`the site ${config.site.name} has no node that runs k3s`)
    const node = async () => {
      needsHost()
      return connect(named(machinesFor(config, 'node'), member.name, config.site.name, 'node'))
    }
    return work({ ...session, member, node })
  })

/**
 * `./task backup` makes a bundle now and copies it to the laptop. `./task backup ssh-key` shows the public half of the node's
 * key, and `./task backup s3-key` stores the key that is typed. Resolves to the exit code.
 */
export const backup = (call: Call): Promise<number> =>
  withCluster(call, backupTable, (session) => {
    const [action] = session.given.words
    return action === 'ssh-key' ? showKey(session) : action === 's3-key' ? storeKey(session) : backUp(session)
  })

const START_BACKUP = [
  `systemctl cat fortress-backup.service > /dev/null 2>&1 ||
    { answer refused why "this node makes no backups yet: ./task k3s-backup apply"; exit 0; }`,
  'systemctl start fortress-backup.service > /dev/null 2>&1; answer backup code "$?"',
]

async function backUp(session: ClusterSession): Promise<number> {
  const { report, node } = session
  const machine = await node()
  report.note(`${machine.label} makes a bundle. That takes as long as its destinations need.`)
  const { code } = await query(machine, START_BACKUP, 'the backup', 6 * 3600)
  const notes = await nodeNotes(machine)
  const made = notes.find(({ which }) => which === 'node')
  for (const note of notes.filter(({ which }) => ['node', 'directory', 'ssh', 's3'].includes(which)))
    report.note(outcomeOf(note))
  if (made === undefined || !made.ok)
    throw new Fault(`${machine.label} could not make a bundle`, {
      said: made?.why ?? 'it noted nothing',
      next: 'on the node: journalctl --unit fortress-backup',
    })
  const path = await copy(session, machine, made.name)
  report.note(`${path} is a copy of it. Prove that it can be restored: ./task drill`)
  return code === '0' ? 0 : 1
}

const outcomeOf = ({ which, ok, name, bytes, why }: Note): string =>
  ok ? `${which}: ${name}, ${size(bytes)}` : `${which}: failed: ${why}`

/** Fetches a bundle from the node; resolves to its path here. */
export async function copy({ state, config }: Session, machine: Machine, name: string): Promise<string> {
  const dir = join(state, 'backups')
  mkdirSync(dir, { recursive: true, mode: 0o700 })
  const path = join(dir, name)
  await collect(machine, `/var/lib/fortress/backup/${name}`, path)
  await noteHere(state, 'copy', name, statSync(path).size)
  for (const old of copies(state).slice(0, -backupOf(config.site).keep)) unlinkSync(join(dir, old))
  return path
}

async function showKey({ config, store, report }: Session): Promise<number> {
  const key = await sshKey(store.secret).resolve()
  report.note('For the account that stores the bundles, as one line of its authorized_keys:')
  // What is left is to read, and to write new files: umask takes the right to write from each as it is made.
  const only = backupOf(config.site).ssh?.append_only
    ? ' -u 0377 -p open,close,read,write,lstat,stat,fstat,opendir,readdir,realpath,fsync,limits'
    : ''
  process.stdout.write(`restrict,command="internal-sftp${only}" ${sshPublicKey(key)} fortress-backup\n`)
  return 0
}

async function storeKey({ store, terminal, report }: Session): Promise<number> {
  const text = terminal
    ? `${await question('Access key: ')}:${await question('Secret key: ', { hidden: true })}`
    : readFileSync(0, 'utf8').trim().replace(/\s+/, ':')
  if (!/^[\x21-\x39\x3b-\x7e]+:[\x21-\x7e]+$/.test(text))
    throw new Fault('not a key of object storage: an access key and a secret key are needed', {
      next: 'type both when ./task backup s3-key asks on a terminal; or give them on standard input, on one line or two',
    })
  await store.put(backupSecrets.s3, text)
  report.note('Stored, encrypted. The node gets it with the next ./task k3s-backup apply')
  return 0
}

/** Bytes, for people. */
export const size = (bytes: number) =>
  bytes < 2 ** 20 ? `${Math.ceil(bytes / 1024)} KiB` : `${(bytes / 2 ** 20).toFixed(1)} MiB`

/** How old, in the unit that says most. */
export function age(when: Date): string {
  const hours = (Date.now() - when.getTime()) / 3_600_000
  return hours < 1
    ? `${Math.floor(hours * 60)} min`
    : hours < 48
      ? `${Math.floor(hours)} h`
      : `${Math.floor(hours / 24)} d`
}

/** A bundle and where it is. */
type Row = [place: string, name: string, bytes: number]

/** `./task backups`: every bundle that there is, on the laptop, on the node and in each destination; where it is, and how old. */
export const backups = (call: Call): Promise<number> =>
  withCluster(call, backupsTable, async (session) => {
    const { state, report } = session
    const rows = copies(state).map((name): Row => [
      'laptop',
      name,
      statSync(join(state, 'backups', name)).size,
    ])
    const there = await bundlesOfNode(session, rows.length > 0)
    rows.push(...there.rows)
    rows.sort(([a, x], [b, y]) => byTime(y, x) || a.localeCompare(b))
    for (const [place, name, bytes] of rows)
      report.note(
        `${age(madeAt(name)!).padStart(6)}  ${size(bytes).padStart(9)}  ${place.padEnd(9)}  ${name}`,
      )
    if (rows.length === 0) report.note('There are none. ./task backup makes one')
    for (const note of there.notes)
      if (!note.ok) report.note(`The last for ${note.which} failed (${note.time}): ${note.why}`)
    const drill = laptopNotes(state).find(({ which }) => which === 'drill.good')
    report.note(
      drill
        ? `The last good drill was ${age(new Date(drill.time))} ago, of ${drill.name}.`
        : 'There was no good drill yet: ./task drill',
    )
    return there.complete ? 0 : 1
  })

/** What the node and its destinations have. A node that cannot be reached is a Fault, or a note when the `laptop` has bundles. */
async function bundlesOfNode(
  { node, report }: ClusterSession,
  laptop: boolean,
): Promise<{ rows: Row[]; notes: Note[]; complete: boolean }> {
  try {
    const machine = await node()
    const { text = '', said = '' } = await query(machine, [
      `text=$(${program} list 2> "$FK_TMP/said")`,
      'answer bundles text "$text" said "$(cat "$FK_TMP/said")"',
    ])
    if (said !== '') report.note(said)
    const rows = text
      .split('\n')
      .filter(Boolean)
      .map((line): Row => {
        const [place = '', name = '', bytes = ''] = line.split('\t')
        return [place, name, Number(bytes)]
      })
    return { rows, notes: await nodeNotes(machine), complete: said === '' }
  } catch (error) {
    if (!(error instanceof Fault) || !laptop) throw error
    report.note(`Only those of the laptop: ${error.message}`)
    return { rows: [], notes: [], complete: false }
  }
}
