// Large files on their way from a laptop to a machine, and back. This hides how an upload continues where the last one ended.
//
// The laptop downloads and verifies them, not the machine: it has the tools (a machine has sshd, sudo and bash), it reaches
// the network when the machine lets nothing out, several machines need one download, and it can begin while the machine is still
// being hardened. The machine checks the digest once more before the file gets its name.
import { createHash } from 'node:crypto'
import { closeSync, createReadStream, fsyncSync, openSync, renameSync, rmSync, writeSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Fault } from '../ground/fault.ts'
import { quote } from '../ground/sh.ts'
import { Stopped } from '../ground/stop.ts'
import type { Config } from '../site/model.ts'
import type { Artifact } from './artifact.ts'
import { type Verified, download } from './download.ts'
import type { Machine } from './machine.ts'
import { plain } from './program.ts'
import { type Transfer, meter } from './transfer.ts'
import { onAnswer } from './wire.ts'

/** Fetches an artifact, or gives it at once when it was fetched before in this run. */
export type Fetch = (artifact: Artifact) => Promise<Verified>

/** One run's downloads: each begins once, for the first that needs it, and may go on beside other work until `signal` ends it. */
export function downloads(
  { env }: Pick<Config, 'env'>,
  {
    signal,
    onTransfer,
    say,
  }: { signal: AbortSignal; onTransfer?: (t: Transfer) => void; say?: (s: string) => void },
): Fetch {
  const begun = new Map<string, Promise<Verified>>()
  return (artifact) => {
    let running = begun.get(artifact.name)
    if (running === undefined) {
      running = download(artifact, {
        dir: env.FK_DOWNLOAD_DIR,
        mirror: env.FK_MIRROR,
        signal,
        ...(onTransfer ? { onTransfer } : {}),
        ...(say ? { say } : {}),
      })
      begun.set(artifact.name, running)
      // The next that needs it tries again; whoever waits for it gets the failure, and nobody else has to.
      running.catch(() => begun.delete(artifact.name))
    }
    return running
  }
}

/** Where a file waits on the machine until its digest is checked: beside its place, named after its content. */
export const waitingPlace = (to: string, sha256: string): string =>
  join(dirname(to), `.${basename(to)}.${sha256.slice(0, 16)}.part`)

export interface Delivering {
  onTransfer?: (transfer: Transfer) => void
  signal?: AbortSignal
  /** Milliseconds before the second try of a connection that sent nothing; each further one waits twice as long. Default 500. */
  pause?: number
}

/** Connections in a row that may send nothing. */
const ATTEMPTS = 4

/**
 * Uploads a file to `waitingPlace(to)` on the machine, continuing what an earlier run has sent. Whether it arrived as it was sent
 * is for the machine to check, before it names it. Throws a Fault when it does not fit or the connection is no good, and
 * Stopped at `signal`: what has come by then stays.
 */
export async function deliver(
  machine: Machine,
  file: Verified,
  to: string,
  { onTransfer, signal, pause = 500 }: Delivering = {},
): Promise<void> {
  const part = waitingPlace(to, file.sha256)
  const name = basename(to)
  const transfer = meter(name, 'sending', onTransfer)
  let most = -1
  let said = ''
  try {
    for (let idle = 0; idle < ATTEMPTS;) {
      const { bytes: waiting, room } = await there(machine, part)
      if (waiting === file.bytes) return
      // More than all of it is none of it.
      const bytes = waiting > file.bytes ? 0 : waiting
      idle = bytes > most ? 0 : idle + 1
      most = Math.max(most, bytes)
      if (signal?.aborted) break
      const left = file.bytes - bytes
      if (room < left)
        throw new Fault(`${name} does not fit on ${machine.label}`, {
          said: `${dirname(to)} has ${Math.floor(room / 2 ** 20)} MiB left, ${Math.ceil(left / 2 ** 20)} MiB are still to come`,
          next: 'make room there',
        })
      if (idle > 0) await sleep(pause * 2 ** (idle - 1))
      const stream = createReadStream(file.path, { start: bytes, highWaterMark: 256 * 1024 })
      let sent = bytes
      stream.on('data', (chunk) => transfer.at((sent += chunk.length), file.bytes))
      const outcome = await machine.feed(appending(part, bytes), stream, signal)
      if (outcome.code === BUSY)
        throw new Fault(`somebody else is sending ${name} to ${machine.label}`, {
          next: 'wait, and run it again',
        })
      said = outcome.stderr.trim() || `the connection ended with ${outcome.code}`
    }
  } finally {
    transfer.end()
  }
  if (signal?.aborted) throw new Stopped()
  throw new Fault(`${name} could not be sent to ${machine.label}`, {
    said,
    state: `${Math.max(0, most)} of ${file.bytes} bytes are there`,
    next: 'run it again: it goes on where it was',
  })
}

const BUSY = 75

/** What is not as long as it was found begins anew. The lock ends with the process that holds it. */
const appending = (part: string, from: number) =>
  [
    'umask 077',
    `part=${quote(part)}`,
    `exec 9>> "$part" && flock --nonblock 9 || exit ${BUSY}`,
    `[ "$(stat --format=%s "$part")" -eq ${from} ] || : > "$part"`,
    from === 0 ? 'exec cat >&9' : `[ "$(stat --format=%s "$part")" -eq ${from} ] && exec cat >&9`,
  ].join('; ')

async function there(machine: Machine, part: string): Promise<{ bytes: number; room: number }> {
  let answer: Record<string, string> = {}
  const outcome = await machine.run(
    await plain('delivery', [
      `part=${quote(part)}`,
      'room=$(df --output=avail --block-size=1 "$(dirname "$part")" | tail --lines=1)',
      'answer part bytes "$(stat --format=%s "$part" 2> /dev/null || echo 0)" room "${room// /}"',
    ]),
    onAnswer((values) => (answer = values)),
  )
  const [bytes, room] = [Number(answer['bytes']), Number(answer['room'])]
  if (Number.isNaN(bytes) || Number.isNaN(room))
    throw new Fault(`${machine.label} did not answer`, { said: outcome.stderr.trim() })
  return { bytes, room }
}

/** Copies a file of the machine to the laptop, where it appears whole or not at all, for its owner alone; else throws a Fault. */
export async function collect(machine: Machine, path: string, to: string): Promise<void> {
  const beside = `${to}.part`
  const file = openSync(beside, 'w', 0o600)
  const hash = createHash('sha256')
  let is = ''
  try {
    const outcome = await machine.run(
      await plain('collect', [
        `file=${quote(path)}`,
        'digest=$(sha256sum "$file") || exit 1',
        // Lines of whole groups of four letters, each of which is decoded by itself.
        'base64 --wrap=65536 "$file" | awk -v word="$FK_NONCE" \'{ printf "%s\\tpiece\\t%s\\n", word, $0 }\' >&3',
        'answer digest sha256 "${digest%% *}"',
      ]),
      (frame) => {
        if (frame.kind === 'answer') is = frame.values['sha256'] ?? ''
        if (frame.kind !== 'piece') return
        const bytes = Buffer.from(frame.body, 'base64')
        hash.update(bytes)
        writeSync(file, bytes)
      },
      FETCH_LIMIT,
    )
    if (!outcome.finished || is !== hash.digest('hex'))
      throw new Fault(`${basename(path)} could not be copied from ${machine.label}`, {
        said: outcome.stderr.trim() || 'what arrived is not what is there',
        next: 'run it again',
      })
    fsyncSync(file)
    renameSync(beside, to)
  } finally {
    closeSync(file)
    rmSync(beside, { force: true })
  }
}

/** Seconds for a file of the machine. */
const FETCH_LIMIT = 3600
