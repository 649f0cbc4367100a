// What was worked out once is kept in .cache of the kit, and found again by the hash of what it was made from. It hides where
// that is, and when it may be trusted: only where nobody else can write. It is never needed: every failure means "anew".
import {
  lstatSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'

/** The value under this key; undefined where there is none. `what`: the kind of it, `root`: the kit. */
export function recall(root: string, what: string, key: string): unknown {
  try {
    const directory = join(root, '.cache', what)
    const { mode, uid } = lstatSync(directory)
    if ((mode & 0o170000) !== 0o040000 || (mode & 0o022) !== 0 || uid !== process.getuid?.()) return undefined
    return JSON.parse(readFileSync(join(directory, `${key}.json`), 'utf8')) as unknown
  } catch {
    return undefined
  }
}

/** Keeps a value that JSON can hold, and few others beside it. */
export function remember(root: string, what: string, key: string, value: unknown): void {
  try {
    // In somebody's checkout root would leave a directory that they cannot write.
    if (statSync(root).uid !== process.getuid?.()) return
    const directory = join(root, '.cache', what)
    mkdirSync(directory, { recursive: true, mode: 0o700 })
    for (const name of readdirSync(directory).slice(0, -KEPT)) rmSync(join(directory, name), { force: true })
    const candidate = join(directory, `${key}.${process.pid}`)
    writeFileSync(candidate, JSON.stringify(value), { mode: 0o600, flag: 'wx' })
    renameSync(candidate, join(directory, `${key}.json`))
  } catch {
    // A read-only checkout works it out anew on every run.
  }
}

/** Values of each kind. */
const KEPT = 15
