// Bundles of the cluster as commands see them: the notes about backups and drills, the copies on the laptop, and what a node
// answers.
import { existsSync, mkdirSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Machine } from '../engine/machine.ts'
import { plain } from '../engine/program.ts'
import { onAnswer } from '../engine/wire.ts'
import { Fault } from '../ground/fault.ts'
import { land } from '../ground/secret.ts'
import { type Command, library } from '../ground/sh.ts'
import { madeAt } from './bundle.ts'

/** The functions that commands about backups use: lib/k3s/backup.sh, and those of the pages about k3s below it. */
export const backupShell = library('lib/engine/shell/receive.sh', 'lib/k3s/members.sh', 'lib/k3s/backup.sh')

/** The last of its kind: `node`, `directory`, `ssh`, `s3`, `drill`, `restore`; with .good behind it the last that went well. */
export interface Note {
  which: string
  /** In UTC. */
  time: string
  name: string
  bytes: number
  ok: boolean
  why: string
}

/** The notes of a node about backups and drills; none where no backup was ever begun. */
export async function nodeNotes(machine: Machine): Promise<Note[]> {
  const { text = '' } = await ask(machine, ['answer notes text "$(backup_said)"'])
  return text
    .split('\n')
    .filter(Boolean)
    .map((line) => {
      const [which = '', time = '', name = '', bytes = '', state = '', why = ''] = line.split('\t')
      return { which, time, name, bytes: Number(bytes), ok: state === 'ok', why }
    })
}

/** The notes of the laptop, of the same form: the last `drill` and `copy`. `state` is the directory of the site on it. */
export function laptopNotes(state: string): Note[] {
  const path = join(state, 'backup-notes.json')
  return existsSync(path) ? (JSON.parse(readFileSync(path, 'utf8')) as Note[]) : []
}

/** Replaces the laptop's note of that kind. */
export async function noteHere(
  state: string,
  which: string,
  name: string,
  bytes: number,
  why = '',
): Promise<void> {
  const note = { which, time: new Date().toISOString(), name, bytes, ok: why === '', why }
  const mine = note.ok ? [note, { ...note, which: `${which}.good` }] : [note]
  const others = laptopNotes(state).filter((old) => !mine.some((n) => n.which === old.which))
  mkdirSync(state, { recursive: true, mode: 0o700 })
  await land(join(state, 'backup-notes.json'), `${JSON.stringify([...others, ...mine], null, 2)}\n`, true)
}

/** The bundles that the laptop has, the oldest first. */
export function copies(state: string): string[] {
  const dir = join(state, 'backups')
  return (existsSync(dir) ? readdirSync(dir) : []).filter((name) => madeAt(name) !== undefined).sort(byTime)
}
export const byTime = (a: string, b: string) => Number(madeAt(a)) - Number(madeAt(b))

/**
 * Runs bash on the node, where backupShell is defined; resolves to the values of the last answer. `answer refused why WHY` rejects
 * with a Fault.
 */
export async function ask(
  machine: Machine,
  statements: string[],
  what = 'the question',
  seconds = 300,
): Promise<Record<string, string>> {
  let answer: Record<string, string> = {}
  let refused: string | undefined
  const outcome = await machine.run(
    await plain('backup', statements, ['lib/k3s/members.sh', 'lib/k3s/backup.sh']),
    onAnswer((values, name) => {
      if (name === 'refused') refused = values['why'] ?? ''
      else answer = values
    }),
    seconds,
  )
  if (!outcome.finished || refused !== undefined)
    throw new Fault(`${machine.label}: ${what} failed`, {
      said: [refused, outcome.stderr.trim()].filter(Boolean).join('\n'),
    })
  return answer
}

/** `answer refused why WHY` when the command fails. */
export const orNo = (command: Command) =>
  `said=$({ ${command.text}; } 2>&1) || { answer refused why "$said"; exit 0; }`
