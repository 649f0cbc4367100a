// Files that sops encrypts with age: for whom a file is, whether it is encrypted, and the same file for others. It hides sops,
// and what that decrypts stays in memory.
import { createHash } from 'node:crypto'
import { lstatSync, mkdtempSync, rmSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { Fault } from '../ground/fault.ts'
import { $, type ProcessOutput } from '../ground/laptop.ts'
import { land } from '../ground/secret.ts'

const load = createRequire(import.meta.url)

/** Somebody for whom files are encrypted. */
export interface Recipient {
  who: string
  key: string
}

/** The first line of a .sops.yaml of ours: one without it is somebody else's, and is left alone. */
export const header = '# Made by ./task secrets sops: for whom sops encrypts in this tree.'

/** .sops.yaml for these. Throws a Fault where they are fewer than two. */
export function rules(recipients: readonly Recipient[]): string {
  const different = new Set(recipients.map(({ key }) => key))
  if (different.size < 2)
    throw new Fault('what is encrypted for one key alone is lost with it', {
      said: `the laptop and the cluster have the same one: ${recipients.map(({ who }) => who).join(', ')}`,
      state: 'nothing was written',
      next: 'two keys are needed: the identity of the laptop, and another one of the cluster',
    })
  const whom = recipients.map(({ who, key }) => `      - ${key} # ${who}\n`).join('')
  return `${header}
# NAME.sops.yaml are Secrets of Kubernetes: encrypted below data and stringData. NAME.sops.ANYTHING are encrypted whole.
creation_rules:
  - path_regex: \\.sops\\.ya?ml$
    encrypted_regex: ^(data|stringData)$
    age:
${whom}  - path_regex: \\.sops\\.[^/]+$
    age:
${whom}`
}

/** What a file says of how it is encrypted; undefined for one that sops has not encrypted. */
export interface Encrypted {
  /** For whom, as age writes them. */
  recipients: string[]
  /** Keys of other kinds that open it, too: `pgp`. */
  others: string[]
  /** At least one value is encrypted. */
  closed: boolean
}

const kinds = ['kms', 'gcp_kms', 'hckms', 'azure_kv', 'hc_vault', 'pgp', 'key_groups']

/** Reads what sops writes beside the values: a map in YAML and JSON, lines in .env and .ini. */
export function encryptedAs(text: string): Encrypted | undefined {
  if (!/\bsops/.test(text) || !/\bmac\b|_mac=/.test(text)) return undefined
  const closed = /ENC\[AES256_GCM,/.test(text.replace(/mac["']?\s*[:=]\s*["']?ENC\[[^\]]*\]/, ''))
  // .env has sops_age__list_0__map_recipient=…, .ini the same below [sops] without the first word.
  const lines = [...text.matchAll(/^(?:sops_)?age__list_\d+__map_recipient\s*=\s*(\S+)$/gm)]
  if (lines.length > 0 || /^(sops_)?mac\s*=\s*ENC\[/m.test(text)) {
    const others = kinds.filter((kind) => new RegExp(`^(sops_)?${kind}__list_\\d`, 'm').test(text))
    return { recipients: lines.map(([, key = '']) => key), others, closed }
  }
  let found: unknown
  try {
    found = (load('yaml') as typeof import('yaml')).parseAllDocuments(text).at(-1)?.toJS()
  } catch {
    return undefined // what is no YAML, sops has not written
  }
  const sops = (found as { sops?: Record<string, unknown> } | null)?.sops
  if (typeof sops !== 'object' || sops === null || typeof sops['mac'] !== 'string') return undefined
  const list = (of: unknown) => (Array.isArray(of) ? of : [])
  return {
    recipients: list(sops['age']).map((one) => String((one as { recipient?: unknown }).recipient)),
    others: kinds.filter((kind) => list(sops[kind]).length > 0),
    closed,
  }
}

/**
 * Runs sops with these keys alone: what the person has beside them would open more. They are in a variable that nobody else can
 * read: sops reads them once for each recipient, so that a pipe would be empty at the second.
 */
function sops(program: string, keys: readonly string[], words: readonly string[]): Promise<ProcessOutput> {
  const none = Object.keys({ ...process.env }).filter((name) => name.startsWith('SOPS_'))
  const env = {
    ...Object.fromEntries(none.map((name) => [name, undefined])),
    SOPS_AGE_KEY: keys.join('\n'),
    HOME: '/nonexistent',
    XDG_CONFIG_HOME: '/nonexistent',
  }
  return $({ env, nothrow: true })`${program} --disable-version-check ${words}`
}

const digest = (text: string) => createHash('sha256').update(text).digest('hex')

/** A digest of what is in an encrypted file, by these keys. Rejects with a Fault where none of them opens it. */
export async function opened(program: string, keys: readonly string[], file: string): Promise<string> {
  const { exitCode, stdout, stderr } = await sops(program, keys, ['decrypt', file])
  if (exitCode === 0) return digest(stdout)
  throw new Fault(`${file} cannot be decrypted with the keys of this laptop`, {
    said: stderr.trim().split('\n').slice(-8).join('\n'),
  })
}

/**
 * The same file with a data key of its own that is new, for exactly these: whole or not at all. `keys` open it now, `proof` is
 * one of those that open it then.
 */
export async function reencrypt(
  program: string,
  file: string,
  given: { text: string; keys: readonly string[]; whom: readonly string[]; proof: string },
): Promise<void> {
  const { text, keys, whom, proof } = given
  const before = await opened(program, keys, file)
  const now = encryptedAs(text)?.recipients ?? []
  const [add, gone] = [
    whom.filter((one) => !now.includes(one)),
    now.filter((one) => !whom.includes(one)),
  ].map((list) => list.join(','))
  const words = [...(add ? ['--add-age', add] : []), ...(gone ? ['--rm-age', gone] : [])]
  const { exitCode, stdout, stderr } = await sops(program, keys, ['rotate', ...words, file])
  if (exitCode !== 0)
    throw new Fault(`${file} could not be encrypted anew`, {
      said: stderr.trim().split('\n').slice(-8).join('\n'),
      state: 'it is as it was',
    })
  const made = encryptedAs(stdout)
  const dir = mkdtempSync(join(tmpdir(), 'fk-sops-'))
  try {
    const copy = join(dir, basename(file))
    await land(copy, stdout, true)
    const same = made?.recipients.toSorted().join() === whom.toSorted().join()
    if (!same || (await opened(program, [proof], copy)) !== before)
      throw new Fault(`sops made something else of ${file} than it was to`, { state: 'it is as it was' })
  } finally {
    rmSync(dir, { recursive: true, force: true })
  }
  await land(file, stdout, true, lstatSync(file).mode & 0o777)
}
