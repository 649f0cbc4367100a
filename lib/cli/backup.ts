// ./task backup and ./task backups: what a person does with the bundles of a cluster.
import { mkdirSync, readFileSync, statSync, unlinkSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { collect } from '../engine/delivery.ts'
import type { Machine } from '../engine/machine.ts'
import type { Report } from '../engine/report.ts'
import { Fault } from '../ground/fault.ts'
import type { SecretStore } from '../ground/secret.ts'
import { ask, byTime, copies, laptopNotes, nodeNotes, noteHere } from '../k3s/backup.ts'
import { madeAt } from '../k3s/bundle.ts'
import { backupSecrets, program, sshKey } from '../k3s/destinations.ts'
import { type Member, clusterOf } from '../k3s/members.ts'
import { machinesFor } from '../site/machines.ts'
import type { Config } from '../site/model.ts'
import { publicHalf } from '../vm/hostkey.ts'
import { type Flags, flags } from './flags.ts'
import type { Call } from './taskfile.ts'

const load = createRequire(import.meta.url)

/** What a task about backups works with. */
export interface Here {
  config: Config
  state: string
  member: Member
  store: SecretStore
  report: Report
  given: Flags
  terminal: boolean
  signal: AbortSignal
  /** The node, when it is reached: most of this begins on the laptop. */
  reach: () => Promise<Machine>
}

/** What a command line is about: the first server of the site, or the node that it names. */
export async function here(
  call: Call,
  words: string[],
  named: (words: string[]) => string | undefined,
  work: (at: Here) => Promise<number>,
): Promise<number> {
  const given = flags(call, words)
  const { loadConfig } = load('../site/config.ts') as typeof import('../site/config.ts')
  const { connectTo, storeOf } = load('./pages.ts') as typeof import('./pages.ts')
  const { createReport } = load('../engine/report.ts') as typeof import('../engine/report.ts')
  const config = loadConfig(given.site === undefined ? {} : { site: given.site })
  const report = createReport({ json: given.json, verbose: given.verbose, tty: call.live })
  const terminal = process.stdin.isTTY === true && process.stdout.isTTY === true && !given.json
  const members = clusterOf(config)
  const name = named(given.words) ?? members.find(({ first }) => first)?.name
  const member = members.find((m) => m.name === name)
  if (member === undefined)
    throw new Fault(
      name === undefined
        ? `the site ${config.site.name} has no node that runs k3s`
        : `${name} is no node of ${config.site.name}: ${members.map((m) => m.name).join(', ')}`,
    )
  let machine: Promise<Machine> | undefined
  const reach = () => {
    if (config.env.FK_HOST === undefined)
      throw new Fault('There is no machine: FK_HOST is not set', {
        next: 'FK_HOST=admin@192.0.2.10, in the environment or in .env',
      })
    const spec = machinesFor(config, 'node').find((m) => m.name === member.name)!
    return (machine ??= connectTo(config, spec, terminal, report))
  }
  const { signal } = call
  const state = join(config.env.FK_STATE_DIR, config.site.name)
  const store = storeOf(config, report)
  try {
    return await work({ config, state, member, store, report, given, terminal, signal, reach })
  } finally {
    await machine?.then((m) => m.close()).catch(() => {}) // whoever asked for it was told
    report.close()
  }
}

/**
 * `./task backup` makes a bundle now and brings a copy to the laptop. `./task backup ssh-key` shows the public half of the node's
 * key, and `./task backup s3-key` stores the one that it asks for. Resolves to the exit code.
 */
export async function backup(call: Call): Promise<number> {
  return here(
    call,
    ['[ssh-key|s3-key]'],
    () => undefined,
    async (at) => {
      const [word] = at.given.words
      if (word === 'ssh-key') return showKey(at)
      if (word === 's3-key') return takeKey(at)
      if (word !== undefined) throw new Fault('usage: ./task backup [ssh-key|s3-key]')
      const machine = await at.reach()
      const { report } = at
      report.note(`${machine.label} makes a bundle. That takes as long as its places need.`)
      const { code } = await ask(
        machine,
        [
          'systemctl cat fortress-backup.service > /dev/null 2>&1 || { answer refused why "this node makes no backups yet: ./task k3s-backup apply"; exit 0; }',
          'systemctl start fortress-backup.service > /dev/null 2>&1; answer backup code "$?"',
        ],
        'the backup',
        6 * 3600,
      )
      const notes = await nodeNotes(machine)
      const made = notes.find(({ which }) => which === 'node')
      for (const note of notes.filter(({ which }) => ['node', 'directory', 'ssh', 's3'].includes(which)))
        report.note(
          note.ok ? `${note.which}: ${note.name}, ${size(note.bytes)}` : `${note.which}: failed: ${note.why}`,
        )
      if (made === undefined || !made.ok)
        throw new Fault(`${machine.label} could not make a bundle`, {
          said: made?.why ?? 'it noted nothing',
          next: `what is said there: journalctl --unit fortress-backup`,
        })
      const path = await copy(at, machine, made.name)
      report.note(`${path} is a copy of it. Prove that it can be restored: ./task drill`)
      return code === '0' ? 0 : 1
    },
  )
}

/** Fetches a bundle from the node; resolves to its path here. */
export async function copy({ state, config }: Here, machine: Machine, name: string): Promise<string> {
  const dir = join(state, 'backups')
  mkdirSync(dir, { recursive: true, mode: 0o700 })
  const path = join(dir, name)
  await collect(machine, `/var/lib/fortress/backup/${name}`, path)
  await noteHere(state, 'copy', name, statSync(path).size)
  for (const old of copies(state).slice(0, -config.site.backup.keep)) unlinkSync(join(dir, old))
  return path
}

async function showKey({ store, report }: Here): Promise<number> {
  const key = await sshKey(store.secret).resolve()
  report.note('For the account that takes the bundles, as one line of its authorized_keys:')
  process.stdout.write(`restrict,command="internal-sftp" ${publicHalf(key)} fortress-backup\n`)
  return 0
}

async function takeKey({ store, terminal, report }: Here): Promise<number> {
  const { ask: question } = load('./pages.ts') as typeof import('./pages.ts')
  const text = terminal
    ? `${await question('Access key: ')}:${await question('Secret key: ', true)}`
    : readFileSync(0, 'utf8').trim().replace(/\s+/, ':')
  if (!/^[\x21-\x39\x3b-\x7e]+:[\x21-\x7e]+$/.test(text))
    throw new Fault('this is no key of object storage: an access key and a secret key are asked for', {
      next: 'on a terminal ./task backup s3-key asks for them; or give both on standard input, on one line or two',
    })
  await store.put(backupSecrets.s3, text)
  report.note('Stored, encrypted. The node has it with the next ./task k3s-backup apply')
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

/** `./task backups`: every bundle that there is, on the laptop, on the node and in each of its places; where it is, and how old. */
export async function backups(call: Call): Promise<number> {
  return here(
    call,
    [],
    () => undefined,
    async ({ state, reach, report }) => {
      const rows: [string, string, number][] = copies(state).map((name) => [
        'laptop',
        name,
        statSync(join(state, 'backups', name)).size,
      ])
      let machine: Machine | undefined
      let missing = 0
      try {
        machine = await reach()
        const { text = '', said = '' } = await ask(machine, [
          `text=$(${program} list 2> "$FK_TMP/said")`,
          'answer bundles text "$text" said "$(cat "$FK_TMP/said")"',
        ])
        for (const line of text.split('\n').filter(Boolean)) {
          const [place = '', name = '', bytes = ''] = line.split('\t')
          rows.push([place, name, Number(bytes)])
        }
        if (said !== '') {
          report.note(said)
          missing = 1
        }
      } catch (error) {
        if (!(error instanceof Fault) || rows.length === 0) throw error
        report.note(`Only the laptop's: ${error.message}`)
        missing = 1
      }
      rows.sort(([a, x], [b, y]) => byTime(y, x) || a.localeCompare(b))
      for (const [place, name, bytes] of rows)
        report.note(
          `${age(madeAt(name)!).padStart(6)}  ${size(bytes).padStart(9)}  ${place.padEnd(9)}  ${name}`,
        )
      if (rows.length === 0) report.note('There are none. ./task backup makes one')
      for (const note of machine ? await nodeNotes(machine) : [])
        if (!note.ok) report.note(`The last for ${note.which} failed (${note.time}): ${note.why}`)
      const drill = laptopNotes(state).find(({ which }) => which === 'drill.good')
      report.note(
        drill
          ? `The last good drill was ${age(new Date(drill.time))} ago, of ${drill.name}.`
          : 'There was no good drill yet: ./task drill',
      )
      return missing
    },
  )
}
