// Age files that are written, and an identity behind a passphrase, which is an age file itself. It hides for whom a secret is
// encrypted, how the passphrase is asked for, once, and how a key is made of it.
import { createCipheriv, createDecipheriv, createHash, randomBytes, scrypt } from 'node:crypto'
import { existsSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import type { Identity, Recipient } from 'age-encryption'

const age = () => createRequire(import.meta.url)('age-encryption') as typeof import('age-encryption')

/** A text as an age file that these recipients open. */
export async function sealed(text: string, whom: string[]): Promise<Uint8Array> {
  const encrypter = new (age().Encrypter)()
  // Beside a post-quantum key no other: it would be the way in.
  const strong = whom.filter((one) => one.startsWith('age1pq1'))
  for (const recipient of strong.length > 0 ? strong : whom) encrypter.addRecipient(recipient)
  return encrypter.encrypt(text)
}

/** Where the public halves of a protected identity lie. */
export const publicFile = (path: string): string => `${path}.pub`

/** The public halves of a protected identity. Throws where they are not beside it. */
export function publicHalves(path: string): string[] {
  const file = publicFile(path)
  const found = existsSync(file) ? readFileSync(file, 'utf8').match(/^age1\S+$/gm) : null
  if (found === null)
    throw new Error(
      `${file} is not there, which says for whom ${path} opens: ./task identity protect writes it`,
    )
  return found
}

/** How the passphrase of an identity file is asked for; `again`: what was typed before does not open it. */
type AskPassphrase = (path: string, again: boolean) => Promise<string>
let askPassphrase: AskPassphrase = (path) =>
  Promise.reject(new Error(`the age identity ${path} is protected by a passphrase, and nobody can be asked`))
export const askBy = (ask: AskPassphrase): void => void (askPassphrase = ask)

const unlocked = new Map<string, Promise<{ text: string; passphrase: string }>>()

/** What a protected identity file holds, and the passphrase that opened it; asked for once in a run. */
export function unlock(path: string): Promise<{ text: string; passphrase: string }> {
  const bytes = readFileSync(path)
  const digest = createHash('sha256').update(bytes).digest('hex')
  const before = unlocked.get(digest)
  if (before !== undefined) return before
  const opened = opening(path, bytes)
  unlocked.set(digest, opened)
  opened.catch(() => unlocked.delete(digest))
  return opened
}

/** A protected identity file that this run has written itself: nobody is asked for what he has just typed. */
export function wrote(path: string, text: string, passphrase: string): void {
  const digest = createHash('sha256').update(readFileSync(path)).digest('hex')
  unlocked.set(digest, Promise.resolve({ text, passphrase }))
}

async function opening(path: string, bytes: Buffer): Promise<{ text: string; passphrase: string }> {
  const text = bytes.toString('latin1')
  const file = text.startsWith('-----') ? age().armor.decode(text) : bytes
  for (let tries = 1; ; tries++) {
    const passphrase = await askPassphrase(path, tries > 1)
    if (passphrase === '') throw new Error(`${path} stays closed: no passphrase was typed`)
    const decrypter = new (age().Decrypter)()
    decrypter.addIdentity(passphraseKey(passphrase))
    try {
      return { text: await decrypter.decrypt(file, 'text'), passphrase }
    } catch (error) {
      // The library says the same of another passphrase and of a file that is for a key.
      if (!/no identity matched/.test(said(error)))
        throw new Error(`${path} cannot be read: ${said(error)}. Restore it from your copy.`)
      if (tries === 3) throw new Error(`${path} stays closed: no passphrase that was typed opens it`)
    }
  }
}

/** An identity file that a passphrase opens, as ASCII. What was written is read again before anybody relies on it. */
export async function locked(text: string, passphrase: string): Promise<string> {
  const encrypter = new (age().Encrypter)()
  encrypter.addRecipient(passphraseKey(passphrase))
  const bytes = await encrypter.encrypt(text)
  const decrypter = new (age().Decrypter)()
  decrypter.addIdentity(passphraseKey(passphrase))
  if ((await decrypter.decrypt(bytes, 'text')) !== text)
    throw new Error('the protected identity does not open again')
  return age().armor.encode(bytes)
}

/** 2^18 rounds take a second, and 256 MB: the default of the age program. It takes none of more than four times that. */
const [ROUNDS, MOST] = [18, 20]

/**
 * The scrypt recipient of age (age-encryption.org/v1), and what it opens. The library has one, which is written in JavaScript and
 * takes a minute where this process was told to compile little; Node's takes a second, and holds nothing up.
 */
function passphraseKey(passphrase: string): Recipient & Identity {
  const derived = (salt: Buffer, rounds: number): Promise<Buffer> =>
    new Promise((resolve, reject) =>
      scrypt(
        passphrase,
        Buffer.concat([Buffer.from('age-encryption.org/v1/scrypt'), salt]),
        32,
        { N: 2 ** rounds, r: 8, p: 1, maxmem: 2 ** (rounds + 11) },
        (error, key) => (error ? reject(error) : resolve(key)),
      ),
    )
  const [cipher, none, options] = ['chacha20-poly1305', Buffer.alloc(12), { authTagLength: 16 }] as const
  return {
    async wrapFileKey(fileKey) {
      const salt = randomBytes(16)
      const lock = createCipheriv(cipher, await derived(salt, ROUNDS), none, options)
      const body = Buffer.concat([lock.update(fileKey), lock.final(), lock.getAuthTag()])
      const words = ['scrypt', salt.toString('base64').replace(/=+$/, ''), String(ROUNDS)]
      return [new (age().Stanza)(words, new Uint8Array(body))]
    },
    async unwrapFileKey([stanza, ...more]) {
      const [kind, salt = '', rounds = ''] = stanza?.args ?? []
      if (stanza === undefined || kind !== 'scrypt' || more.length > 0) return null
      if (!/^[1-9]\d?$/.test(rounds) || Number(rounds) > MOST || stanza.body.length !== 32)
        throw new Error('what its passphrase opens is written in a way that age does not take')
      const key = await derived(Buffer.from(salt, 'base64'), Number(rounds))
      const open = createDecipheriv(cipher, key, none, options)
      open.setAuthTag(stanza.body.subarray(16))
      try {
        return new Uint8Array(Buffer.concat([open.update(stanza.body.subarray(0, 16)), open.final()]))
      } catch {
        return null // it is another passphrase
      }
    },
  }
}

const said = (error: unknown): string => (error instanceof Error ? error.message : String(error))
