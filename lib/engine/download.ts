// Files from the network: fetched with patience, verified before they get their name, verified again whenever they are used.
import { execFile } from 'node:child_process'
import { createHash } from 'node:crypto'
import { createReadStream, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs'
import { chmod, link, open, readFile, rename, rm, statfs, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { basename, dirname, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import { Fault } from '../ground/fault.ts'
import type { Artifact } from './artifact.ts'

/** A file that is what its pin says. */
export interface Verified {
  path: string
  bytes: number
  sha256: string
}

/** How far a transfer has come. */
export interface Transfer {
  name: string
  does: 'fetching' | 'sending'
  bytes: number
  /** Absent where the server does not say. */
  total?: number
  /** Bytes a second since this run began. */
  rate: number
  /** The last of its events. */
  done?: boolean
}

export interface DownloadOptions {
  /** The cache. Made when it is not there. */
  dir: string
  /** FK_MIRROR: a server that is asked in place of the makers'. Only it may speak plain http. */
  mirror?: string | undefined
  signal?: AbortSignal
  onTransfer?: (transfer: Transfer) => void
  /** Told one sentence when it has to wait or to begin anew. */
  say?: (sentence: string) => void
  /** Milliseconds without a byte after which a connection is given up. Default 30000. */
  stall?: number
  /** Connections in a row that may bring nothing. Default 5. */
  attempts?: number
}

const MIB = 1024 * 1024
/** Nothing that a pin names is larger. */
const LARGEST = 16 * 1024 * MIB
const SMALL = MIB
const REDIRECTS = 5

/**
 * Gives the file, from the cache when it is there. Until it is verified it is called `NAME.part`; what a run that was cut or
 * killed has fetched is gone on with. Throws a Fault when it cannot be had or is not what the pin says; then nothing has its name.
 */
export async function download(artifact: Artifact, options: DownloadOptions): Promise<Verified> {
  const { name, sha256, sha512, signature, unproven } = artifact
  if (sha256 === undefined && sha512 === undefined && signature === undefined)
    throw new Fault(`${name} is not fetched: nothing proves that it is the right file`, {
      ...(unproven === undefined ? {} : { said: unproven }),
      next: 'give its proof in config/versions.yaml',
    })
  mkdirSync(options.dir, { recursive: true, mode: 0o700 })
  const path = join(options.dir, name)
  const part = `${path}.part`
  const free = await lock(`${path}.lock`, options)
  try {
    if (existsSync(path)) {
      try {
        return await verified(artifact, path, path, options)
      } catch (error) {
        if (!(error instanceof Refused)) throw error
        // Nothing that cannot be proven keeps the name; whether it was spoilt or only the key is too old shows when it is fetched anew.
        await rename(path, part)
        if (error.what === 'key') throw error
        await forget(path)
        throw new Fault(`${name} was changed after it was verified`, {
          said: error.message,
          state: `${path} is deleted`,
          next: 'find out who changed it; the next run fetches it again',
        })
      }
    }
    // What is small comes first: a wrong key is told before half a gigabyte has come.
    if (signature !== undefined) await keyring(artifact, options, false, (ring) => Promise.resolve(ring))
    const resumed = await fetchPart(artifact, part, options)
    const land = async (): Promise<Verified> => {
      const found = await verified(artifact, part, path, options)
      await chmod(part, 0o444)
      const file = await open(part, 'r')
      await file.sync().finally(() => file.close())
      await rename(part, path)
      return { ...found, path }
    }
    const landOrForget = () =>
      land().catch(async (error: unknown) => {
        if (error instanceof Refused && error.what === 'content') await forget(path)
        throw error
      })
    try {
      return await landOrForget()
    } catch (error) {
      if (!resumed || !(error instanceof Refused) || error.what === 'key') throw error
      // A power cut may have spoilt what an earlier run left behind: that is no reason to suspect anybody, once.
      options.say?.(`${name}: what an earlier run had fetched does not fit; fetching all of it`)
      await fetchPart(artifact, part, options)
      return await landOrForget()
    }
  } finally {
    await free()
  }
}

/** Nothing of it is used again: not what has come, not where it came from, and not its signature. */
async function forget(path: string): Promise<void> {
  for (const end of ['.part', '.source', '.sig']) await rm(path + end, { force: true })
}

// ─── proof ───────────────────────────────────────────────────────────────────────────────────────────────────────────

/** What came is not what the pin says. */
class Refused extends Fault {
  /** `key`: the file may be good, and the key that would prove it is not to be had. */
  readonly what: 'content' | 'key'
  constructor(
    what: 'content' | 'key',
    message: string,
    more: { said?: string; state?: string; next?: string },
  ) {
    super(message, more)
    this.what = what
  }
}

async function verified(
  artifact: Artifact,
  file: string,
  path: string,
  options: DownloadOptions,
): Promise<Verified> {
  const { name, url, signature } = artifact
  const [sha256, sha512] = [createHash('sha256'), createHash('sha512')]
  let bytes = 0
  for await (const chunk of createReadStream(file, { highWaterMark: MIB })) {
    bytes += (chunk as Buffer).length
    sha256.update(chunk as Buffer)
    if (artifact.sha512 !== undefined) sha512.update(chunk as Buffer)
  }
  const digest = sha256.digest('hex')
  for (const [kind, is, wanted] of [
    ['SHA-256', digest, artifact.sha256],
    ['SHA-512', artifact.sha512 === undefined ? '' : sha512.digest('hex'), artifact.sha512],
  ] as const)
    if (wanted !== undefined && is !== wanted)
      throw new Refused('content', `${name} is not the file that is pinned`, {
        said: `its ${kind} is ${is},\npinned is ${wanted}`,
        state: 'it is not used, and deleted',
        next: `is the pin right for ${url}? If it is, somebody has exchanged the file`,
      })
  if (signature !== undefined)
    await signed(artifact, file, path, options, false).catch(async (error: unknown) => {
      // Subkeys come and go: the key file of last year does not know the one that signs today.
      if (!(error instanceof Refused) || error.what !== 'key') throw error
      await signed(artifact, file, path, options, true).catch((again: unknown) => {
        throw again instanceof Refused ? again : error
      })
    })
  return { path, bytes, sha256: digest }
}

/** Checks the signature by gpgv, and that it hangs on the pinned primary key. The exit code says too little: see `judge`. */
async function signed(
  artifact: Artifact,
  file: string,
  path: string,
  options: DownloadOptions,
  anew: boolean,
): Promise<void> {
  const { name, signature } = artifact
  if (signature === undefined) return
  await keyring(artifact, options, anew, async (ring) => {
    const { stdout, stderr } = await tool('gpgv', [
      '--status-fd=1',
      '--weak-digest=SHA1',
      `--keyring=${ring}`,
      `${path}.sig`,
      file,
    ])
    const wrong = judge(stdout, signature.key)
    if (wrong !== undefined)
      throw new Refused(wrong.what, `${name} ${wrong.reason}`, {
        said: stderr.trim(),
        state: wrong.what === 'key' ? 'it is not used' : 'it is not used, and deleted',
        next: wrong.next,
      })
  })
}

/** Why the status lines of gpgv are no proof by the primary key `fingerprint`; undefined when they are. */
export function judge(
  status: string,
  fingerprint: string,
): { what: 'content' | 'key'; reason: string; next: string } | undefined {
  const lines = status.split('\n').flatMap((line) => {
    const [, word, rest] = /^\[GNUPG:\] (\w+) ?(.*)$/.exec(line) ?? []
    return word === undefined ? [] : [{ word, rest: (rest ?? '').split(' ') }]
  })
  const has = (word: string) => lines.some((line) => line.word === word)
  const exchanged = 'do not use it: the file or its signature was exchanged on the way'
  if (has('BADSIG')) return { what: 'content', reason: 'is not what its makers signed', next: exchanged }
  if (has('REVKEYSIG'))
    return {
      what: 'key',
      reason: 'is signed by a key that its owner has revoked',
      next: 'pin a newer version',
    }
  if (has('EXPKEYSIG'))
    return {
      what: 'key',
      reason: 'is signed by a key that has expired',
      next: 'pin a newer version: its makers sign with another subkey by now. Is the clock of this computer right?',
    }
  if (has('EXPSIG'))
    return { what: 'content', reason: 'has a signature that has expired', next: 'pin a newer version' }
  if (has('NO_PUBKEY'))
    return {
      what: 'key',
      reason: 'is not signed by the pinned key',
      next: `${exchanged}, or its makers changed their key: then pin the new one, from a source you trust`,
    }
  // One signature, by one key, and that key is the pinned one or a subkey that the pinned one vouches for.
  const valid = lines.filter((line) => line.word === 'VALIDSIG')
  if (valid.length !== 1 || !has('GOODSIG') || valid[0]?.rest.at(-1) !== fingerprint)
    return { what: 'content', reason: 'has no signature that proves anything', next: exchanged }
  return undefined
}

/** A public key as its file says: when the subkeys that sign expire. Times are in milliseconds. */
export interface SigningKey {
  fingerprint: string
  /** Infinity: never. Negative infinity: none can be used. */
  until: number
}

/** Looks at the cached file of a pinned key; undefined when it was never fetched or is another. */
export async function signingKey(dir: string, fingerprint: string): Promise<SigningKey | undefined> {
  const file = keyFile(dir, fingerprint)
  if (!existsSync(file)) return undefined
  return withHome(async (home) => {
    const { primaries, keys } = await imported(home, file)
    if (!primaries.includes(fingerprint)) return undefined
    const usable = keys.filter(
      (key) => key.primary === fingerprint && key.signs && !/[ird]/.test(key.validity),
    )
    return { fingerprint, until: Math.max(...usable.map((key) => key.until)) }
  })
}

const keyFile = (dir: string, fingerprint: string) => join(dir, `${fingerprint}.asc`)

/**
 * Fetches signature and key where they are missing (or `anew`), and lends a keyring that holds the pinned key alone. gpg
 * imports it into a home of its own first: that drops subkeys which somebody glued on without the primary key's consent.
 */
async function keyring<T>(
  artifact: Artifact,
  options: DownloadOptions,
  anew: boolean,
  use: (ring: string) => Promise<T>,
): Promise<T> {
  const { name } = artifact
  const { url, key, keyUrl } = artifact.signature as { url: string; key: string; keyUrl: string }
  const sig = `${join(options.dir, name)}.sig`
  const file = keyFile(options.dir, key)
  if (anew || !existsSync(sig)) await fetchSmall(url, sig, options)
  if (anew || !existsSync(file)) {
    const candidate = `${file}.${process.pid}.${Math.random().toString(36).slice(2)}`
    try {
      await fetchSmall(keyUrl, candidate, options)
      await withHome(async (home) => {
        const { primaries } = await imported(home, candidate)
        if (!primaries.includes(key))
          throw new Refused('key', `the key at ${keyUrl} is not the pinned one`, {
            said: `${primaries.length === 0 ? 'it holds no key' : `it is ${primaries.join(', ')}`},\npinned is ${key}`,
            state: `${name} was not fetched`,
            next: 'somebody has exchanged it, or its makers have a new one: then pin that, from a source you trust',
          })
      })
      await rename(candidate, file)
    } finally {
      await rm(candidate, { force: true })
    }
  }
  return withHome(async (home) => {
    const { primaries } = await imported(home, file)
    if (!primaries.includes(key))
      throw new Refused('key', `${file} is not the pinned key any more`, {
        next: `delete it: it is fetched again from ${keyUrl}`,
      })
    const ring = join(home, 'pinned.gpg')
    await tool('gpg', [...gpg(home), `--output=${ring}`, '--export', key])
    return use(ring)
  })
}

const gpg = (home: string) => [
  `--homedir=${home}`,
  '--batch',
  '--no-autostart',
  '--no-options',
  '--trust-model=always',
  '--no-auto-key-retrieve',
]

interface Listed {
  primary: string
  signs: boolean
  validity: string
  until: number
}

async function imported(home: string, file: string): Promise<{ primaries: string[]; keys: Listed[] }> {
  await tool('gpg', [...gpg(home), '--quiet', '--import-options=import-minimal', '--import', file])
  const { stdout } = await tool('gpg', [...gpg(home), '--with-colons', '--fixed-list-mode', '--list-keys'])
  const primaries: string[] = []
  const keys: Listed[] = []
  for (const line of stdout.split('\n')) {
    const field = line.split(':')
    if (field[0] === 'pub' || field[0] === 'sub') {
      if (field[0] === 'pub') primaries.push('')
      keys.push({
        primary: '',
        validity: field[1] ?? '',
        until: field[6] ? Number(field[6]) * 1000 : Infinity,
        // Small letters: this key itself; capitals would be the whole of it.
        signs: /s/.test(field[11] ?? ''),
      })
    } else if (field[0] === 'fpr' && primaries.at(-1) === '') primaries[primaries.length - 1] = field[9] ?? ''
    const last = keys.at(-1)
    if (last) last.primary = primaries.at(-1) ?? ''
  }
  return { primaries, keys }
}

async function withHome<T>(use: (home: string) => Promise<T>): Promise<T> {
  const home = mkdtempSync(join(tmpdir(), 'fk-gpg-'))
  try {
    return await use(home)
  } finally {
    rmSync(home, { recursive: true, force: true })
  }
}

/** Runs gpg or gpgv; what it found is in its status lines, so that it failed is no error here. */
async function tool(program: 'gpg' | 'gpgv', args: string[]): Promise<{ stdout: string; stderr: string }> {
  try {
    return await promisify(execFile)(program, args, { env: { ...process.env, LC_ALL: 'C.UTF-8' } })
  } catch (error) {
    const { code, stdout, stderr } = error as { code?: unknown; stdout?: string; stderr?: string }
    if (code === 'ENOENT')
      throw new Fault(`${program} is not installed, and without it no signature can be checked`, {
        next: 'apt install gnupg gpgv, or brew install gnupg',
      })
    return { stdout: stdout ?? '', stderr: stderr ?? '' }
  }
}

// ─── the network ─────────────────────────────────────────────────────────────────────────────────────────────────────

/** Where a part comes from: it is gone on with only while that is still the same file. */
interface Source {
  url: string
  validator?: string | undefined
}

const sourceOf = (part: string) => part.replace(/\.part$/, '.source')

/** Worth another try. */
class Interrupted extends Error {}

/** Fetches into `part`, over as many connections as it takes. Resolves to whether an earlier run had begun it. */
async function fetchPart(artifact: Artifact, part: string, options: DownloadOptions): Promise<boolean> {
  const began = size(part)
  const url = mirrored(artifact.url, options.mirror)
  const transfer = meter(artifact.name, 'fetching', options.onTransfer)
  try {
    await patiently(artifact.name, part, options, () =>
      fetchOnce({ name: artifact.name, url, part, largest: LARGEST, transfer, options }),
    )
  } finally {
    transfer.end()
  }
  return began > 0
}

async function fetchSmall(url: string, to: string, options: DownloadOptions): Promise<void> {
  const part = `${to}.part`
  await rm(part, { force: true })
  try {
    await patiently(basename(new URL(url).pathname), part, options, () =>
      fetchOnce({
        name: basename(new URL(url).pathname),
        url: mirrored(url, options.mirror),
        part,
        largest: SMALL,
        options,
      }),
    )
    await rename(part, to)
  } finally {
    for (const left of [part, sourceOf(part)]) await rm(left, { force: true })
  }
}

async function patiently(
  name: string,
  part: string,
  { attempts = 5, signal, stall = 30_000 }: DownloadOptions,
  once: () => Promise<void>,
): Promise<void> {
  // A server that begins anew each time brings bytes each time: only what was never reached before counts.
  let most = size(part)
  for (let idle = 0; ;) {
    try {
      await once()
      return
    } catch (error) {
      if (signal?.aborted)
        throw new Fault(`${name} was not fetched to its end`, { next: 'run it again: it goes on' })
      if (!(error instanceof Interrupted)) throw error
      idle = size(part) > most ? 0 : idle + 1
      most = Math.max(most, size(part))
      if (idle >= attempts)
        throw new Fault(`${name} cannot be fetched`, {
          said: error.message,
          state: size(part) > 0 ? `${size(part)} bytes are kept` : 'nothing was fetched',
          next: 'run it again: it goes on where it was',
        })
      await sleep(Math.min(stall, 250 * 2 ** idle), undefined, signal ? { signal } : {}).catch(() => {})
    }
  }
}

interface Fetching {
  name: string
  url: string
  part: string
  largest: number
  transfer?: Meter
  options: DownloadOptions
}

async function fetchOnce({ name, url, part, largest, transfer, options }: Fetching): Promise<void> {
  const { stall = 30_000, signal } = options
  const source = readSource(part)
  let from = source?.url === url && source.validator !== undefined ? size(part) : 0
  const late = new AbortController()
  let timer: NodeJS.Timeout | undefined
  const alive = () => {
    clearTimeout(timer)
    timer = setTimeout(() => late.abort(), stall)
  }
  alive()
  try {
    const headers = {
      // Bytes are counted: they must come as they are stored.
      'accept-encoding': 'identity',
      'user-agent': 'fortress-kit',
      ...(from > 0 && source?.validator ? { range: `bytes=${from}-`, 'if-range': source.validator } : {}),
    }
    const response = await request(
      name,
      url,
      headers,
      AbortSignal.any([late.signal, ...(signal ? [signal] : [])]),
      options,
    )
    const range = /^bytes (?:(\d+)-\d+|\*)\/(\d+|\*)$/.exec(response.headers.get('content-range') ?? '')
    if (response.status === 416) {
      await response.body?.cancel()
      if (range?.[2] === String(from)) return
      await rm(part, { force: true })
      throw new Interrupted('the server has less than was fetched already')
    }
    if (response.status === 206 && Number(range?.[1]) !== from) {
      await response.body?.cancel()
      await rm(part, { force: true })
      throw new Interrupted('the server goes on at another place than it was asked to')
    }
    if ((response.headers.get('content-encoding') ?? 'identity') !== 'identity') {
      await response.body?.cancel()
      throw new Fault(`${name} cannot be fetched: the server packs it`, {
        said: url,
        next: 'use another mirror',
      })
    }
    if (response.status === 200) from = 0
    const length = response.headers.get('content-length')
    const total = response.status === 206 ? Number(range?.[2]) : length === null ? Number.NaN : Number(length)
    const tooLarge = () =>
      new Fault(`${name} is larger than anything it could be`, {
        said: `${url} has more than ${largest} bytes`,
        next: 'is the URL right?',
      })
    if (total > largest) throw tooLarge()
    await room(name, part, Number.isNaN(total) ? 0 : total - from)
    if (from === 0) {
      await writeFile(part, '', { mode: 0o600 })
      await writeFile(
        sourceOf(part),
        `${JSON.stringify({ url, validator: validatorOf(response.headers) })}\n`,
      )
    }
    const file = await open(part, 'a', 0o600)
    try {
      transfer?.at(from, total)
      // oxlint-disable-next-line no-unnecessary-condition -- a reply without a body is an empty file
      for await (const chunk of response.body ?? []) {
        alive()
        from += chunk.length
        if (from > largest) throw tooLarge()
        await file.appendFile(chunk)
        transfer?.at(from, total)
      }
    } finally {
      await file.close()
    }
    if (!Number.isNaN(total) && from !== total) throw new Interrupted(`${from} of ${total} bytes came`)
  } catch (error) {
    if (error instanceof Fault || error instanceof Interrupted || signal?.aborted) throw error
    if (late.signal.aborted) throw new Interrupted(`${new URL(url).host} sent nothing for ${stall / 1000} s`)
    throw reason(name, part, url, error)
  } finally {
    clearTimeout(timer)
  }
}

/** Follows redirects itself: each of them must be allowed, and there are not many. */
async function request(
  name: string,
  first: string,
  headers: Record<string, string>,
  signal: AbortSignal,
  { mirror }: DownloadOptions,
): Promise<Response> {
  let url = first
  for (let hop = 0; hop <= REDIRECTS; hop += 1) {
    if (!allowed(url, mirror))
      throw new Fault(
        `${name} is not fetched: ${hop === 0 ? '' : 'the server sends us to '}${url}, which is not https`,
        {
          next: 'name another server, or a mirror of yours in FK_MIRROR',
        },
      )
    const response = await fetch(url, { headers, signal, redirect: 'manual' })
    const { status } = response
    if (status === 200 || status === 206 || status === 416) return response
    await response.body?.cancel()
    const target = response.headers.get('location')
    if (status >= 300 && status < 400 && target !== null) {
      url = new URL(target, url).href
      continue
    }
    if (status >= 500 || status === 408 || status === 429) throw new Interrupted(`${url} answers ${status}`)
    throw new Fault(
      `${name} cannot be fetched: ${status === 404 || status === 410 ? 'it is not there' : `the server answers ${status}`}`,
      {
        said: url,
        next:
          status === 404 || status === 410
            ? 'old releases are taken away: pin a newer version in config/versions.yaml'
            : 'try the same with curl --head',
      },
    )
  }
  throw new Fault(`${name} cannot be fetched: the server sends us round in a circle`, {
    said: `more than ${REDIRECTS} redirects, the last to ${url}`,
    next: 'is the URL right?',
  })
}

function allowed(url: string, mirror: string | undefined): boolean {
  const { protocol, origin } = new URL(url)
  return (
    protocol === 'https:' ||
    (mirror !== undefined && new URL(mirror).origin === origin && protocol === 'http:')
  )
}

const mirrored = (url: string, mirror: string | undefined) =>
  mirror === undefined ? url : `${mirror}/${url.replace(/^https?:\/\//, '')}`

/** Only what names these very bytes; a weak tag does not. */
function validatorOf(headers: Headers): string | undefined {
  const tag = headers.get('etag')
  return tag !== null && !tag.startsWith('W/') ? tag : (headers.get('last-modified') ?? undefined)
}

function readSource(part: string): Source | undefined {
  try {
    return JSON.parse(readFileSync(sourceOf(part), 'utf8')) as Source
  } catch {
    return undefined // it was never written, or not to its end: begin anew
  }
}

async function room(name: string, part: string, needed: number): Promise<void> {
  const { bavail, bsize } = await statfs(dirname(part))
  if (bavail * bsize >= needed) return
  throw new Fault(`${name} does not fit on this disk`, {
    said: `${dirname(part)} has ${mib(bavail * bsize)} left, ${mib(needed)} are still to come`,
    next: 'make room, or name another place in FK_DOWNLOAD_DIR',
  })
}

/** A failure in words: of the disk and of the certificate at once, of the connection after some patience. */
function reason(name: string, part: string, url: string, error: unknown): Error {
  const { cause, message, code: own } = error as { cause?: unknown; message: string; code?: string }
  const { code = own, message: deeper = message } = (cause ?? {}) as { code?: string; message?: string }
  if (['ENOSPC', 'EDQUOT', 'EFBIG'].includes(code ?? ''))
    return new Fault(`${name} does not fit on this disk`, {
      said: `${dirname(part)} is full: ${mib(size(part))} have come`,
      next: 'make room, or name another place in FK_DOWNLOAD_DIR; it goes on where it was',
    })
  if (code !== undefined && /CERT|SELF_SIGNED|UNABLE_TO_|TLS/.test(code))
    return new Fault(
      `${name} cannot be fetched: nobody vouches for the certificate of ${new URL(url).host}`,
      {
        said: deeper,
        next: 'is the clock right? Does something on the way look into TLS? Its certificate goes to NODE_EXTRA_CA_CERTS',
      },
    )
  if (code !== undefined && ['EACCES', 'EROFS', 'EPERM', 'EISDIR', 'ENOTDIR', 'EIO'].includes(code))
    return new Fault(`${name} cannot be written`, {
      said: message,
      next: 'name another place in FK_DOWNLOAD_DIR',
    })
  return new Interrupted(`${new URL(url).host}: ${deeper}`)
}

const size = (path: string): number => statSync(path, { throwIfNoEntry: false })?.size ?? 0
const mib = (bytes: number) => `${Math.floor(bytes / MIB)} MiB`

// ─── progress ────────────────────────────────────────────────────────────────────────────────────────────────────────

interface Meter {
  at(bytes: number, total?: number): void
  end(): void
}

/** Tells how far a transfer is, at most once a second, and once when it is over. */
export function meter(
  name: string,
  does: Transfer['does'],
  tell: ((transfer: Transfer) => void) | undefined,
): Meter {
  const began = Date.now()
  let first: number | undefined
  let told = 0
  let last: { bytes: number; total?: number } | undefined
  const say = (done: boolean) => {
    if (last === undefined) return
    told = Date.now()
    const seconds = Math.max(0.001, (told - began) / 1000)
    tell?.({ name, does, ...last, rate: (last.bytes - (first ?? 0)) / seconds, ...(done ? { done } : {}) })
  }
  return {
    at(bytes, total) {
      first = Math.min(first ?? bytes, bytes)
      last = { bytes, ...(total === undefined || Number.isNaN(total) ? {} : { total }) }
      if (Date.now() - told >= 1000) say(false)
    },
    end: () => say(true),
  }
}

// ─── one at a time ───────────────────────────────────────────────────────────────────────────────────────────────────

/** Waits until nobody else writes the same file. A lock whose process is gone is taken over. Resolves to the way out. */
async function lock(path: string, { signal, say }: DownloadOptions): Promise<() => Promise<void>> {
  const mine = `${path}.${process.pid}.${Math.random().toString(36).slice(2)}`
  const text = `${process.pid} ${started(process.pid)}\n`
  await writeFile(mine, text)
  try {
    for (let told = false; ;) {
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
      if (!told && owner !== '')
        say?.(`process ${pid} is fetching ${basename(path, '.lock')} already; waiting for it`)
      told = true
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
function started(pid: number): string {
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
