// The public half of an age identity, known without waiting: a page is written before anything asynchronous runs.
import { createPrivateKey, createPublicKey } from 'node:crypto'
import { existsSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { bech32 } from '@scure/base'
import { Fault } from '../ground/fault.ts'
import { isProtected } from '../ground/secret.ts'

const load = createRequire(import.meta.url)

/** Loaded where an identity has a passphrase. */
const unlocking = () => load('../ground/unlock.ts') as typeof import('../ground/unlock.ts')

/** What stands before the 32 bytes of an X25519 private key in PKCS #8 (RFC 8410). */
const pkcs8 = Buffer.from('302e020100300506032b656e04220420', 'hex')

/** The recipient `age1…` of an X25519 identity `AGE-SECRET-KEY-1…`. Throws TypeError for anything else. */
export function recipientOf(identity: string): string {
  try {
    const { prefix, bytes: seed } = bech32.decodeToBytes(identity)
    if (prefix === 'age-secret-key-' && seed.length === 32) {
      const key = createPrivateKey({ key: Buffer.concat([pkcs8, seed]), format: 'der', type: 'pkcs8' })
      const { x = '' } = createPublicKey(key).export({ format: 'jwk' })
      return bech32.encodeFromBytes('age', Buffer.from(x, 'base64url'))
    }
  } catch {
    // no bech32, or a wrong checksum
  }
  throw new TypeError('this is no X25519 identity of age')
}

/**
 * The recipients of an identity file; none while the file is missing. The recipient of a post-quantum key stands in the comment
 * that age-keygen writes above it; those of a protected file lie beside it. Throws a Fault where that is missing.
 */
export function recipientsIn(path: string): string[] {
  if (!existsSync(path)) return []
  if (isProtected(path)) return unlocking().publicHalves(path)
  let comment: string | undefined
  return readFileSync(path, 'utf8')
    .split('\n')
    .flatMap((line) => {
      comment = /^# public key: (age1\S+)/.exec(line)?.[1] ?? comment
      if (!line.startsWith('AGE-SECRET-KEY-')) return []
      if (line.startsWith('AGE-SECRET-KEY-1')) return [recipientOf(line.trim())]
      if (comment !== undefined) return [comment]
      throw new Fault(`${path} does not say the public half of its identity`, {
        next: `age-keygen -y ${path} shows it: write it above the key, as # public key: age1…`,
      })
    })
}

const strong = (recipient: string): boolean => recipient.startsWith('age1pq1')

/**
 * For whom bundles are encrypted: the identity file, of which post-quantum keys count alone, and `recovery`. Throws a Fault where
 * one is post-quantum and the other is not: age takes them together for no file at all.
 */
export function recipientsFor(path: string, recovery: string | undefined): string[] {
  const all = recipientsIn(path)
  const own = all.some(strong) ? all.filter(strong) : all
  if (recovery === undefined) return own
  const [first] = own
  if (first !== undefined && strong(first) !== strong(recovery))
    throw new Fault(
      strong(first)
        ? 'data.recovery is an X25519 recipient, and the identity of this laptop is post-quantum: age mixes them in no file'
        : 'data.recovery is a post-quantum recipient, and the identity of this laptop is X25519: age mixes them in no file',
      {
        next: strong(first)
          ? 'age-keygen -pq makes a recovery identity of the same kind: give its public key in data.recovery'
          : 'give a recipient of X25519 in data.recovery, as age-keygen makes it without -pq',
      },
    )
  return [...own, recovery]
}
