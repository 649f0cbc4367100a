// What must not be read over a shoulder: values that hide in logs and plans, and the encrypted store they come from.
import { randomBytes } from 'node:crypto'
import { chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, statSync } from 'node:fs'
import { link, open, rename, rm } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { basename, dirname, join } from 'node:path'
import { inspect } from 'node:util'

const load = createRequire(import.meta.url)

/** Loaded where a secret is written, or an identity has a passphrase. */
const unlocking = () => load('./unlock.ts') as typeof import('./unlock.ts')

/** Loaded when a secret is read or made: that takes longer than all else that a look at a machine loads. */
export const age = () => load('age-encryption') as typeof import('age-encryption')

/**
 * Node 20 warns that X25519, with which age encrypts, is experimental. Node 22 calls it finished, and nobody who reads the
 * warning can do anything about it. Every other warning is shown.
 */
const warn = process.emitWarning as (...words: unknown[]) => void
process.emitWarning = (warning: string | Error, ...more: unknown[]): void => {
  const text = warning instanceof Error ? warning.message : warning
  if (more[0] === 'ExperimentalWarning' && text.startsWith('The X25519 Web Crypto API ')) return
  warn.call(process, warning, ...more)
}

/** A value that shows only its name. It is fetched when it is resolved, and at most once. */
export class Secret {
  readonly name: string
  readonly #fetch: () => string | Promise<string>
  #fetched: Promise<string> | undefined
  #value: string | undefined

  /** `fetch` gives the value when it is first needed: a plan, a print and a rehearsal never call it. */
  constructor(name: string, fetch: () => string | Promise<string>) {
    this.name = name
    this.#fetch = fetch
  }

  /** Fetches the value. Rejects with what the store said when it cannot be read; asking again tries again. */
  async resolve(): Promise<string> {
    this.#fetched ??= Promise.resolve().then(this.#fetch)
    try {
      this.#value = await this.#fetched
      return this.#value
    } catch (error) {
      this.#fetched = undefined
      throw error
    }
  }

  /** The value, in clear. Throws when nobody has resolved it yet. */
  reveal(): string {
    if (this.#value === undefined) throw new Error(`${this} has not been resolved yet`)
    return this.#value
  }

  toString(): string {
    return `‹secret ${this.name}›`
  }

  toJSON(): string {
    return this.toString()
  }

  [inspect.custom](): string {
    return this.toString()
  }
}

/** A secret of a site by its name; `make` runs on the laptop the first time it is needed. */
export type Secrets = (name: string, make?: Make) => Secret

/** Makes a value the first time it is resolved. */
export type Make = () => string | Promise<string>

export interface SecretStore {
  /** A handle. Its value is read when it is resolved, and made by `make` when there is none yet. */
  secret(name: string, make?: Make): Secret
  /** The same, resolved. */
  get(name: string, make?: Make): Promise<Secret>
  /** Stores a value that came from somewhere else, in place of an older one. */
  put(name: string, value: string): Promise<void>
  has(name: string): boolean
  /** The names of everything stored, sorted. */
  list(): string[]
  /** Deletes a secret for good. */
  remove(name: string): Promise<void>
}

/**
 * Secrets as `<dir>/<name>.age`: ordinary age files, so `age --decrypt --identity <identity>` reads them too. A secret is made
 * once: a file that is there and cannot be read is an error, never a reason for a new one. The identity file is made when the
 * first secret is stored, and `say` is given the lines that ask for a copy of it; what it does then is waited for.
 */
export function secretStore({
  dir,
  identity,
  say = console.error,
}: {
  dir: string
  identity: string
  say?: (sentence: string) => unknown
}): SecretStore {
  const handles = new Map<string, Secret>()
  const makers = new Map<string, Make>()
  let making: Promise<void> | undefined
  const path = (name: string): string => {
    if (!/^[a-z0-9][a-z0-9._-]*$/.test(name))
      throw new Error(`a secret cannot be called '${name}': use a-z, 0-9, - . _`)
    return join(dir, `${name}.age`)
  }

  /** Lands beside and is then named; `replace` decides between two runs that make the same secret at once. */
  async function write(name: string, value: string, replace: boolean): Promise<void> {
    mkdirSync(dir, { recursive: true, mode: 0o700 })
    chmodSync(dir, 0o700)
    if (!existsSync(identity))
      await (making ??= makeIdentity(identity, dir, say).finally(() => (making = undefined)))
    await land(path(name), await unlocking().sealed(value, await recipients(identity, path(name))), replace)
  }

  async function fetch(name: string): Promise<string> {
    if (!existsSync(path(name))) {
      const make = makers.get(name)
      if (!make) throw new Error(`there is no secret '${name}' in ${dir}`)
      await write(name, await make(), false)
    }
    return decrypted(path(name), await identities(identity, path(name)), identity)
  }

  const store: SecretStore = {
    secret(name, make) {
      path(name)
      if (make) makers.set(name, make)
      let handle = handles.get(name)
      if (!handle) handles.set(name, (handle = new Secret(name, () => fetch(name))))
      return handle
    },
    async get(name, make) {
      const handle = store.secret(name, make)
      await handle.resolve()
      return handle
    },
    async put(name, value) {
      await write(name, value, true)
      handles.delete(name)
    },
    has: (name) => existsSync(path(name)),
    list: () =>
      (existsSync(dir) ? readdirSync(dir) : [])
        .filter((entry) => /^[a-z0-9].*\.age$/.test(entry))
        .map((entry) => basename(entry, '.age'))
        .sort(),
    async remove(name) {
      await rm(path(name), { force: true })
      handles.delete(name)
    },
  }
  return store
}

/** For whom a secret is encrypted. That takes no passphrase: the public halves lie beside a protected identity. */
async function recipients(identity: string, wanted: string): Promise<string[]> {
  if (existsSync(identity) && isProtected(identity)) return unlocking().publicHalves(identity)
  return Promise.all((await identities(identity, wanted)).map((key) => age().identityToRecipient(key)))
}

/** The text of an age file, by these keys; `of` is the file that they are from. Throws when they do not open it. */
export async function decrypted(path: string, keys: string[], of: string): Promise<string> {
  const decrypter = new (age().Decrypter)()
  for (const key of keys) decrypter.addIdentity(key)
  try {
    return await decrypter.decrypt(readFileSync(path), 'text')
  } catch (error) {
    throw new Error(
      `${path} cannot be decrypted with ${of}: ${said(error)}. ` +
        'Restore the file or the identity from your backup; it is never replaced by itself.',
    )
  }
}

/** Writes a file that appears whole or not at all, by default of mode 0600. Without `replace` an older one stays as it is. */
export async function land(
  path: string,
  content: string | Uint8Array,
  replace: boolean,
  mode = 0o600,
): Promise<void> {
  const beside = join(dirname(path), `.${basename(path)}.${randomBytes(6).toString('hex')}`)
  const file = await open(beside, 'wx', 0o600)
  try {
    await file.writeFile(content)
    await file.chmod(mode)
    await file.sync()
    await file.close()
    if (replace) await rename(beside, path)
    else
      await link(beside, path).catch((error: NodeJS.ErrnoException) => {
        if (error.code !== 'EEXIST') throw error
      })
    const directory = await open(dirname(path), 'r')
    await directory.sync().finally(() => directory.close())
  } finally {
    await file.close().catch(() => {}) // closed already, unless writing failed
    await rm(beside, { force: true })
  }
}

/** Makes the identity, unless there is a secret that another one opens. */
async function makeIdentity(path: string, dir: string, say: (sentence: string) => unknown): Promise<void> {
  const orphan = orphaned(dir)
  if (orphan)
    throw new Error(
      `the age identity ${path} is not there, and ${orphan} was encrypted for it. ` +
        'Restore it from your backup, or name the right one in FK_AGE_IDENTITY.',
    )
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 })
  // Post-quantum: what is copied today is kept by whoever wants to read it later. X25519 identities of before stay as they are.
  const { generateHybridIdentity, identityToRecipient } = age()
  const key = await generateHybridIdentity()
  const text = `# created: ${new Date().toISOString()}\n# public key: ${await identityToRecipient(key)}\n${key}\n`
  await land(path, text, false)
  await say(
    `Made the age identity ${path}
It opens every backup of a cluster, and every secret in ${dirname(dir)}
Copy it now to a place away from this computer: without it nothing opens them.
On paper: ./task identity show has it as one line.`,
  )
}

/** Any secret of this site or of one beside it. */
function orphaned(dir: string): string | undefined {
  const list = (path: string) => {
    try {
      return readdirSync(path).map((entry) => join(path, entry))
    } catch {
      return [] // not a directory, or not ours to read
    }
  }
  return [dir, ...list(dirname(dir))].flatMap(list).find((path) => /^[a-z0-9].*\.age$/.test(basename(path)))
}

/**
 * The keys of an identity file, as age-keygen writes it; `wanted` is what they are to open. Where it is protected by a passphrase
 * somebody is asked for that, once in a run. Throws when others can read it.
 */
export async function identities(path: string, wanted: string): Promise<string[]> {
  if (!existsSync(path))
    throw new Error(
      `the age identity ${path} is not there, and ${wanted} needs it. Restore it, or name it in FK_AGE_IDENTITY.`,
    )
  const mode = statSync(path).mode & 0o777
  if (mode & 0o077)
    throw new Error(`others can read the age identity ${path} (mode ${mode.toString(8)}): chmod 600 ${path}`)
  return keysIn(path)
}

/** Whether an identity file is an age file itself, which a passphrase opens: as ./task identity protect and `age -p` make it. */
export const isProtected = (path: string): boolean =>
  /^(age-encryption\.org\/v1\n|-----BEGIN AGE ENCRYPTED FILE-----)/.test(readFileSync(path, 'latin1'))

/** The keys of an identity file, whoever can read it: a copy on a stick has no modes. Throws for a file of another kind. */
export const keysIn = async (path: string): Promise<string[]> =>
  keysOf(isProtected(path) ? (await unlocking().unlock(path)).text : readFileSync(path, 'utf8'), path)

function keysOf(text: string, path: string): string[] {
  const lines = text
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '' && !line.startsWith('#'))
  const keys = lines.filter((line) => /^AGE-SECRET-KEY-(PQ-)?1/.test(line))
  if (lines.some((line) => line.startsWith('AGE-PLUGIN-')))
    throw new Error(
      `${path} is an identity of a plug-in of age, and the library of this kit speaks to none. ` +
        'Use a key that age-keygen makes; ./task identity protect puts a passphrase before it.',
    )
  if (keys.length === 0 || keys.length < lines.length)
    throw new Error(
      `${path} is not a plain age identity file: its lines must begin with AGE-SECRET-KEY-1, as age-keygen makes them`,
    )
  return keys
}

const said = (error: unknown): string => (error instanceof Error ? error.message : String(error))
