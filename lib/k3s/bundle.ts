// A bundle of the cluster on the laptop: opened, and proven to be whole, before anything of it goes anywhere.
import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { basename } from 'node:path'
import { Readable } from 'node:stream'
import type { ReadableStream as WebStream } from 'node:stream/web'
import { Fault } from '../ground/fault.ts'
import { age, identities } from '../ground/secret.ts'

/** What stands first in a bundle; config/k3s/backup.sh writes it. */
export interface Manifest {
  format: 1
  site: string
  node: string
  /** When it was begun, in UTC. */
  time: string
  /** The version of k3s that made it. */
  k3s: string
  /** Of the node, where others find it; empty where k3s knew none. */
  address: string
  /** Of etcd, when the canary was written. */
  revision: string
  /** Bytes of the database, unpacked. */
  database: number
  /** sha256 of the cluster's authority: the same that stands in a join token. */
  authority: string
  /** sha256 of the values of the canary. */
  canary: { secret: string; configmap: string }
  files: { name: string; bytes: number; sha256: string }[]
}

export interface Bundle {
  path: string
  manifest: Manifest
  /** Bytes of all files in it. */
  bytes: number
  /** The small files that the laptop itself has to know. */
  text: (
    name: 'rancher/k3s/token' | 'rancher/k3s/agent-token' | 'server/token' | 'server/agent-token',
  ) => string
}

const small = ['rancher/k3s/token', 'rancher/k3s/agent-token', 'server/token', 'server/agent-token']

const refused = (path: string, reason: string, said?: string) =>
  new Fault(`${path} is refused: ${reason}`, {
    ...(said === undefined ? {} : { said }),
    state: 'nothing of it was sent anywhere',
    next: 'take another bundle: ./task backups lists them',
  })

/** What is in an age file, in clear. `older`: identities of before, one of which it may have been made for. */
export async function* opened(path: string, identity: string, older: string[]): AsyncGenerator<Buffer> {
  const { Decrypter } = age()
  const decrypter = new Decrypter()
  for (const key of [...(await identities(identity, path)), ...older]) decrypter.addIdentity(key)
  try {
    const sealed = Readable.toWeb(createReadStream(path, { highWaterMark: 256 * 1024 }))
    const plain = await decrypter.decrypt(sealed as ReadableStream<Uint8Array>)
    for await (const chunk of plain as unknown as WebStream<Uint8Array>) yield Buffer.from(chunk)
  } catch (error) {
    const said = error instanceof Error ? error.message : String(error)
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') throw new Fault(`${path} is not there`)
    if (/no identity matched/i.test(said))
      throw refused(path, `${identity} does not open it: it was made for other identities`)
    throw refused(path, 'it is no age file, or it was changed or cut off', said)
  }
}

/**
 * Reads a tar of plain files: `begin` is called for each of them, and returns what takes its content. Throws for anything else.
 */
async function files(
  plain: AsyncIterable<Buffer>,
  begin: (name: string, bytes: number) => { data(chunk: Buffer): void; end(): void },
): Promise<void> {
  let rest: Buffer = Buffer.alloc(0)
  let left = 0
  let padding = 0
  let taking: ReturnType<typeof begin> | undefined
  let zeros = 0
  for await (const chunk of plain) {
    rest = rest.length === 0 ? chunk : Buffer.concat([rest, chunk])
    for (;;) {
      if (taking) {
        const part = rest.subarray(0, left)
        taking.data(part)
        left -= part.length
        rest = rest.subarray(part.length)
        if (left > 0) break
        taking.end()
        taking = undefined
      }
      const skipped = Math.min(padding, rest.length)
      padding -= skipped
      rest = rest.subarray(skipped)
      if (padding > 0 || rest.length < 512) break
      const block = rest.subarray(0, 512)
      rest = rest.subarray(512)
      if (block.every((byte) => byte === 0)) {
        zeros += 1
        continue
      }
      if (zeros > 0) throw new Error('it goes on behind its end')
      const { name, bytes, kind } = header(block)
      if (kind === 'directory') continue
      taking = begin(name, bytes)
      left = bytes
      padding = (512 - (bytes % 512)) % 512
    }
  }
  if (taking || padding > 0 || rest.length > 0 || zeros < 2) throw new Error('it is cut off')
}

function header(block: Buffer): { name: string; bytes: number; kind: 'file' | 'directory' } {
  const text = (from: number, length: number) =>
    block
      .subarray(from, from + length)
      .toString('latin1')
      .replace(/\0.*$/s, '')
  const sum = block.reduce((total, byte, i) => total + (i >= 148 && i < 156 ? 32 : byte), 0)
  if (text(257, 5) !== 'ustar' || sum !== Number.parseInt(text(148, 8).trim(), 8))
    throw new Error('it is no tar archive')
  const [folder, own] = [text(345, 155), text(0, 100)]
  const name = folder === '' ? own : `${folder}/${own}`
  const kind = { '0': 'file', '': 'file', '5': 'directory' }[text(156, 1)] as 'file' | 'directory' | undefined
  // A name could lead out of the place where it is unpacked, and a link could, too.
  if (
    kind === undefined ||
    !/^(manifest\.json|(rancher|server|snapshot)(\/[A-Za-z0-9_+-][A-Za-z0-9._+-]*)*\/?)$/.test(name)
  )
    throw new Error(`it holds ${JSON.stringify(name)}, which does not belong there`)
  return { name, kind, bytes: Number.parseInt(text(124, 12).trim(), 8) }
}

/**
 * Opens a bundle with the identities of the file `identity`, or with an older one, and proves it: the manifest comes first, every
 * file that it names is there with its size and digest, and nothing else is. Keeps none of it but what is small. Throws a Fault
 * that says why not.
 */
export async function readBundle(path: string, identity: string, older: string[] = []): Promise<Bundle> {
  let manifest: Manifest | undefined
  const texts = new Map<string, string>()
  const found = new Set<string>()
  let bytes = 0
  try {
    await files(opened(path, identity, older), (name, size) => {
      if (found.has(name)) throw new Error(`${name} is in it twice`)
      found.add(name)
      bytes += size
      const hash = createHash('sha256')
      const kept: Buffer[] = []
      const listed = manifest?.files.find((file) => file.name === name)
      if (name !== 'manifest.json') {
        if (manifest === undefined) throw new Error('it does not begin with its manifest')
        if (listed === undefined) throw new Error(`its manifest does not list ${name}`)
        if (listed.bytes !== size)
          throw new Error(`${name} has ${size} bytes, and its manifest says ${listed.bytes}`)
      }
      const keep = name === 'manifest.json' || small.includes(name)
      if (keep && size > 1_000_000) throw new Error(`${name} is too large to be what it is called`)
      return {
        data: (chunk) => {
          hash.update(chunk)
          if (keep) kept.push(Buffer.from(chunk))
        },
        end: () => {
          if (keep) texts.set(name, Buffer.concat(kept).toString('utf8'))
          if (name === 'manifest.json') manifest = understood(texts.get(name) ?? '')
          else if (hash.digest('hex') !== listed?.sha256)
            throw new Error(`${name} is not what its manifest says`)
        },
      }
    })
    if (manifest === undefined) throw new Error('it is empty')
    const missing = manifest.files.find(({ name }) => !found.has(name))
    if (missing) throw new Error(`${missing.name} is missing, and its manifest names it`)
    for (const name of ['server/token', 'rancher/k3s/token'])
      if (!texts.has(name)) throw new Error(`it has no ${name}, without which no snapshot opens`)
    const snapshots = manifest.files.filter(({ name }) => name.startsWith('snapshot/'))
    if (snapshots.length !== 1) throw new Error(`it has ${snapshots.length} snapshots in place of one`)
  } catch (error) {
    throw error instanceof Fault
      ? error
      : refused(path, error instanceof Error ? error.message : String(error))
  }
  return { path, manifest, bytes, text: (name) => texts.get(name) ?? '' }
}

const digest = /^[0-9a-f]{64}$/

function understood(text: string): Manifest {
  let found: Manifest
  try {
    found = JSON.parse(text) as Manifest
  } catch {
    throw new Error('its manifest is no JSON')
  }
  if (found.format !== 1)
    throw new Error(`its format is ${JSON.stringify(found.format)}, and this program reads 1`)
  const wrong = (
    [
      ['site', /^[a-z0-9-]{1,63}$/],
      ['node', /^[a-z0-9-]{1,63}$/],
      ['time', /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/],
      ['k3s', /^v\d+\.\d+\.\d+[A-Za-z0-9.+-]*$/],
      ['address', /^[0-9a-f.:]*$/],
      ['authority', digest],
    ] as const
  ).find(([key, pattern]) => !pattern.test(String(found[key])))
  if (wrong) throw new Error(`its manifest has no ${wrong[0]} that could be one`)
  if (
    !Number.isSafeInteger(found.database) ||
    !digest.test(found.canary?.secret) ||
    !digest.test(found.canary.configmap)
  )
    throw new Error('its manifest says nothing of the canary, or of the size of the database')
  if (
    !Array.isArray(found.files) ||
    found.files.some(({ sha256, bytes }) => !digest.test(sha256) || !Number.isSafeInteger(bytes))
  )
    throw new Error('its manifest does not name its files')
  return found
}

/** When a bundle was made, by its name; undefined for what is named otherwise. */
export function madeAt(name: string): Date | undefined {
  const [, y, m, d, h, min, s] = /_(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z\.age$/.exec(basename(name)) ?? []
  return y === undefined ? undefined : new Date(`${y}-${m}-${d}T${h}:${min}:${s}Z`)
}
