// Files from a server: resumed where an earlier run was cut, tried again while bytes come, over https alone. It hides ranges,
// validators, redirects, stalls and full disks; whether what came is the right file is for others to say.
import { readFileSync, statSync } from 'node:fs'
import { open, rename, rm, statfs, writeFile } from 'node:fs/promises'
import { basename, dirname } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Fault } from '../ground/fault.ts'
import { type Meter, type Transfer, meter } from './transfer.ts'

export interface FetchOptions {
  /** FK_MIRROR: a server that stands in for those of the URLs. Only it may speak plain http. */
  mirror?: string | undefined
  signal?: AbortSignal
  onTransfer?: (transfer: Transfer) => void
  /** Milliseconds without a byte after which a connection is given up. Default 30000. */
  stall?: number
  /** Tries in a row, each a connection, that may transfer nothing. Default 5. */
  tries?: number
  /** Bytes that a small file may have. Default: a mebibyte. */
  largest?: number
}

const MIB = 1024 * 1024
/** Nothing that a pin names is larger. */
const LARGEST = 16 * 1024 * MIB
const SMALL = MIB
const REDIRECTS = 5

/** The file beside a part that says where it comes from: fetching goes on only while that is still the same file. */
export const sourceOf = (part: string): string => part.replace(/\.part$/, '.source')

interface Source {
  url: string
  validator?: string | undefined
}

/** Worth another try. */
class Interrupted extends Error {}

/**
 * Fetches `url` into `part`, over as many connections as it takes. Resolves to whether an earlier run had begun it. Throws a
 * Fault when it cannot be had; what has come stays, for the next run.
 */
export async function fetchPart(
  { name, url }: { name: string; url: string },
  part: string,
  options: FetchOptions,
): Promise<boolean> {
  const began = size(part)
  const transfer = meter(name, 'fetching', options.onTransfer)
  const from = mirrored(url, options.mirror)
  try {
    await tried(name, part, options, () =>
      fetchOnce({ name, url: from, part, largest: LARGEST, transfer, options }),
    )
  } finally {
    transfer.end()
  }
  return began > 0
}

/** Fetches a file of a mebibyte at most, or of `largest`: `to` is there whole or not at all. */
export async function fetchSmall(url: string, to: string, options: FetchOptions): Promise<void> {
  const part = `${to}.part`
  const name = basename(new URL(url).pathname)
  const from = mirrored(url, options.mirror)
  await rm(part, { force: true })
  try {
    await tried(name, part, options, () =>
      fetchOnce({ name, url: from, part, largest: options.largest ?? SMALL, options }),
    )
    await rename(part, to)
  } finally {
    for (const left of [part, sourceOf(part)]) await rm(left, { force: true })
  }
}

async function tried(
  name: string,
  part: string,
  { tries = 5, signal, stall = 30_000 }: FetchOptions,
  once: () => Promise<void>,
): Promise<void> {
  // A server that begins anew each time sends bytes each time: only what was never reached before counts.
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
      if (idle >= tries)
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
  options: FetchOptions
}

async function fetchOnce(fetching: Fetching): Promise<void> {
  const { name, url, part, options } = fetching
  const { stall = 30_000, signal } = options
  const late = new AbortController()
  let timer: NodeJS.Timeout | undefined
  const alive = () => {
    clearTimeout(timer)
    timer = setTimeout(() => late.abort(), stall)
  }
  alive()
  try {
    await transferOnce(fetching, AbortSignal.any([late.signal, ...(signal ? [signal] : [])]), alive)
  } catch (error) {
    if (error instanceof Fault || error instanceof Interrupted || signal?.aborted) throw error
    if (late.signal.aborted) throw new Interrupted(`${new URL(url).host} sent nothing for ${stall / 1000} s`)
    throw reason(name, part, url, error)
  } finally {
    clearTimeout(timer)
  }
}

/** One connection: from where the part ends to the end of the file. `alive` is called with every chunk. */
async function transferOnce(
  { name, url, part, largest, transfer, options }: Fetching,
  signal: AbortSignal,
  alive: () => void,
): Promise<void> {
  const source = readSource(part)
  const had = source?.url === url && source.validator !== undefined ? size(part) : 0
  const headers = {
    // Bytes are counted: they must come as they are stored.
    'accept-encoding': 'identity',
    'user-agent': 'fortress-kit',
    ...(had > 0 && source?.validator ? { range: `bytes=${had}-`, 'if-range': source.validator } : {}),
  }
  const response = await request({ name, url, part, options }, headers, signal)
  const place = await placeOf(response, name, url, part, had)
  if (place === 'complete') return
  let { from } = place
  const { total } = place
  const tooLarge = () =>
    new Fault(`${name} is larger than anything it could be`, {
      said: `${url} has more than ${largest} bytes`,
      next: 'is the URL right?',
    })
  if (total > largest) throw tooLarge()
  await room(name, part, Number.isNaN(total) ? 0 : total - from)
  if (from === 0) {
    await writeFile(part, '', { mode: 0o600 })
    await writeFile(sourceOf(part), `${JSON.stringify({ url, validator: validatorOf(response.headers) })}\n`)
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
}

/**
 * Where a reply goes on, and how many bytes the whole file has (NaN: the server does not say); `complete` when the part is the
 * whole of it already. Throws Interrupted when the part is of no use any more, and removes it.
 */
async function placeOf(
  response: Response,
  name: string,
  url: string,
  part: string,
  had: number,
): Promise<{ from: number; total: number } | 'complete'> {
  const range = /^bytes (?:(\d+)-\d+|\*)\/(\d+|\*)$/.exec(response.headers.get('content-range') ?? '')
  const useless = async (why: string) => {
    await rm(part, { force: true })
    return new Interrupted(why)
  }
  if (response.status === 416) {
    await response.body?.cancel()
    if (range?.[2] === String(had)) return 'complete'
    throw await useless('the server has less than was fetched already')
  }
  if (response.status === 206 && Number(range?.[1]) !== had) {
    await response.body?.cancel()
    throw await useless('the server goes on at another place than was requested')
  }
  if ((response.headers.get('content-encoding') ?? 'identity') !== 'identity') {
    await response.body?.cancel()
    throw new Fault(`${name} cannot be fetched: the server packs it`, {
      said: url,
      next: 'use another mirror',
    })
  }
  if (response.status === 206) return { from: had, total: Number(range?.[2]) }
  const length = response.headers.get('content-length')
  return { from: 0, total: length === null ? Number.NaN : Number(length) }
}

/** Follows redirects itself: each of them must be allowed, and there are not many. A failure is that of the server it led to. */
async function request(
  { name, url: first, part, options: { mirror } }: Pick<Fetching, 'name' | 'url' | 'part' | 'options'>,
  headers: Record<string, string>,
  signal: AbortSignal,
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
    const at = url
    const response = await fetch(at, { headers, signal, redirect: 'manual' }).catch((error: unknown) => {
      throw signal.aborted ? error : reason(name, part, at, error)
    })
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

/** A failure in words: of the disk and of the certificate at once, of the connection after several tries. */
function reason(name: string, part: string, url: string, error: unknown): Error {
  const { cause, message, code: own } = error as { cause?: unknown; message: string; code?: string }
  const { code = own, message: deeper = message } = (cause ?? {}) as { code?: string; message?: string }
  if (['ENOSPC', 'EDQUOT', 'EFBIG'].includes(code ?? ''))
    return new Fault(`${name} does not fit on this disk`, {
      said: `${dirname(part)} is full: ${mib(size(part))} have come`,
      next: 'make room, or name another place in FK_DOWNLOAD_DIR; it goes on where it was',
    })
  if (code !== undefined && /CERT|SELF_SIGNED|UNABLE_TO_|TLS/.test(code))
    return new Fault(`${name} cannot be fetched: the certificate of ${new URL(url).host} is not trusted`, {
      said: deeper,
      next: 'is the clock right? Does a proxy inspect TLS? Its certificate goes to NODE_EXTRA_CA_CERTS',
    })
  if (code !== undefined && ['EACCES', 'EROFS', 'EPERM', 'EISDIR', 'ENOTDIR', 'EIO'].includes(code))
    return new Fault(`${name} cannot be written`, {
      said: message,
      next: 'name another place in FK_DOWNLOAD_DIR',
    })
  return new Interrupted(`${new URL(url).host}: ${deeper}`)
}

const size = (path: string): number => statSync(path, { throwIfNoEntry: false })?.size ?? 0
const mib = (bytes: number) => `${Math.floor(bytes / MIB)} MiB`
