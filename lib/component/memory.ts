// A directory of memory for what must not reach a disk: for this user and this run alone, gone at its end. What a run leaves that
// was killed is taken away by the next. Memory can still be written to a swap partition: on a laptop that should be encrypted.
import { lstatSync, mkdtempSync, readdirSync, rmSync, statfsSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { started } from '../engine/lock.ts'

/** File systems that are memory, by the numbers that statfs(2) gives: tmpfs and ramfs. */
const memory = [0x0102_1994, 0x8584_58f6]

const prefix = 'fortress-kit-'

/**
 * Where there is memory: the directory of the user's session, and that of shared memory. macOS has none without root: there it
 * is the user's own directory for what is temporary, which is on the disk, and encrypted with it by FileVault.
 */
function places(): string[] {
  if (process.platform !== 'linux') return [tmpdir()]
  return [`/run/user/${process.getuid?.()}`, '/dev/shm'].filter((dir) => {
    try {
      const inMemory = memory.includes(statfsSync(dir).type)
      const { uid, mode } = lstatSync(dir)
      return inMemory && (uid === process.getuid?.() || (mode & 0o1777) === 0o1777)
    } catch {
      return false
    }
  })
}

/** Takes away what runs left behind that have died. */
export function sweep(dirs = places()): void {
  for (const dir of dirs)
    for (const name of readdirSync(dir)) {
      const [, pid = '', since = ''] = /^fortress-kit-(\d+)-(\w+)-/.exec(name) ?? []
      if (pid === '' || started(Number(pid)) === since) continue
      const path = join(dir, name)
      // Others may have one of that name in a directory that is everybody's.
      if (lstatSync(path, { throwIfNoEntry: false })?.uid === process.getuid?.())
        rmSync(path, { recursive: true, force: true })
    }
}

/** Makes a directory of mode 0700. It is removed by `remove`, at the latest when this process ends. `inMemory`: not on a disk. */
export function privateDir(dirs = places()): { path: string; inMemory: boolean; remove: () => void } {
  sweep(dirs)
  const [dir = tmpdir()] = dirs
  const path = mkdtempSync(join(dir, `${prefix}${process.pid}-${started(process.pid)}-`))
  const remove = () => {
    process.off('exit', remove)
    rmSync(path, { recursive: true, force: true })
  }
  process.on('exit', remove)
  return { path, inMemory: memory.includes(statfsSync(path).type), remove }
}
