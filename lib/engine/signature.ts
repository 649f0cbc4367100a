// Signatures: whether a file was signed by the pinned OpenPGP key. It hides gpg and gpgv, whose exit codes say too little.
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { rename, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Fault } from '../ground/fault.ts'
import { type ProcessOutput, $, orFault } from '../ground/laptop.ts'
import { type FetchOptions, fetchSmall } from './fetch.ts'

/** A detached OpenPGP signature, and the fingerprint of the primary key that it must come from. */
export interface Signature {
  url: string
  key: string
  keyUrl: string
}

/** A file whose signature is checked: its name, where it lies now, and where it will lie; `PATH.sig` is its signature. */
export interface Signed {
  name: string
  file: string
  path: string
  signature: Signature
}

/** How signatures and keys are fetched, and the directory where they are kept. */
type Options = FetchOptions & { dir: string }

/** What came is not what the pin says. */
export class Refused extends Fault {
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

/**
 * Checks the signature of a file, with the keys fetched again where those of the cache do not know the one that signed: subkeys
 * come and go. Throws Refused.
 */
export async function checkSignature(signed: Signed, options: Options): Promise<void> {
  await checkOnce(signed, options, false).catch(async (error: unknown) => {
    if (!(error instanceof Refused) || error.what !== 'key') throw error
    await checkOnce(signed, options, true).catch((again: unknown) => {
      throw again instanceof Refused ? again : error
    })
  })
}

/** Checks by gpgv that a signature hangs on the pinned primary key. The exit code says too little: see `judge`. */
async function checkOnce(
  { name, file, path, signature }: Signed,
  options: Options,
  anew: boolean,
): Promise<void> {
  await keyring(name, signature, options, anew, async (ring) => {
    const { stdout, stderr } =
      await gpgTool`gpgv --status-fd=1 --weak-digest=SHA1 --keyring=${ring} ${path}.sig ${file}`
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

/** Fetches the signature and the key where they are missing, and throws Refused for a key that is not the pinned one. */
export const fetchProof = (name: string, signature: Signature, options: Options): Promise<void> =>
  keyring(name, signature, options, false, () => Promise.resolve())

/**
 * Fetches signature and key where they are missing (or `anew`), and lends a keyring that holds the pinned key alone. gpg
 * imports it into a home of its own first: that drops subkeys which somebody glued on without the primary key's consent.
 */
async function keyring<T>(
  name: string,
  { url, key, keyUrl }: Signature,
  options: Options,
  anew: boolean,
  use: (ring: string) => Promise<T>,
): Promise<T> {
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
    await gpgTool`gpg ${gpg(home)} --output=${ring} --export ${key}`
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
  await gpgTool`gpg ${gpg(home)} --quiet --import-options=import-minimal --import ${file}`
  const { stdout } = await gpgTool`gpg ${gpg(home)} --with-colons --fixed-list-mode --list-keys`
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
function gpgTool(strings: TemplateStringsArray, ...values: (string | string[])[]): Promise<ProcessOutput> {
  const command = $({ env: { LC_ALL: 'C.UTF-8' } })(strings, ...values)
  return orFault(command, { code: 'any', install: 'apt install gnupg gpgv, or brew install gnupg' })
}
