// One process at a time for one file: a lock that names its owner, and is taken over when that one is gone.
import { existsSync, readFileSync, statSync } from 'node:fs'
import { link, readFile, rm, writeFile } from 'node:fs/promises'
import { basename } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Fault } from '../ground/fault.ts'

/**
 * Waits until no other process holds the lock at `path`; `say` is given one sentence when it has to wait. A lock whose process
 * is gone is taken over. Resolves to what releases it. Throws a Fault when `signal` aborts the wait.
 */
export async function lock(
  path: string,
  { signal, say }: { signal?: AbortSignal | undefined; say?: ((sentence: string) => void) | undefined },
): Promise<() => Promise<void>> {
  const mine = `${path}.${process.pid}.${Math.random().toString(36).slice(2)}`
  const text = `${process.pid} ${started(process.pid)}\n`
  await writeFile(mine, text)
  try {
    for (let announced = false; ;) {
      try {
        await link(mine, path)
        return () => rm(path, { force: true })
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
      }
      const owner = await readFile(path, 'utf8').catch(() => '')
      const [pid = '', since = ''] = owner.trim().split(' ')
      if (owner !== '' && started(Number(pid)) !== since) {
        await takeOver(path, owner, mine)
        continue
      }
      if (signal?.aborted) throw new Fault(`process ${pid} is fetching the same file; nothing was begun`)
      if (!announced && owner !== '')
        say?.(`process ${pid} is fetching ${basename(path, '.lock')} already; waiting for it`)
      announced = true
      await sleep(200)
    }
  } finally {
    await rm(mine, { force: true })
  }
}

/** Two that wait must not both take over: whoever holds the second lock looks again, and only then removes the first. */
async function takeOver(path: string, owner: string, mine: string): Promise<void> {
  const guard = `${path}.takeover`
  try {
    await link(mine, guard)
  } catch {
    const since = statSync(guard, { throwIfNoEntry: false })?.mtimeMs ?? Date.now()
    if (Date.now() - since > 10_000) await rm(guard, { force: true }) // it takes a millisecond: that one was killed, too
    await sleep(50)
    return
  }
  try {
    if ((await readFile(path, 'utf8').catch(() => '')) === owner) await rm(path, { force: true })
  } finally {
    await rm(guard, { force: true })
  }
}

/** When a process began, so that a number which was given out again is not taken for it; empty when it is gone. */
export function started(pid: number): string {
  try {
    process.kill(pid, 0)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EPERM') return ''
  }
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19] ?? 'alive'
  } catch {
    return existsSync('/proc/self/stat') ? '' : 'alive'
  }
}
