// What is known of a copy of the age identity.
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'

/** Where it is noted when a copy of an identity was last confirmed: one date. */
export const copiedFile = (identity: string): string => join(dirname(identity), 'identity-copied')

/** What the secrets are called that hold identities of before: they open the backups of their time. */
export const olderIdentity = 'age-identity-'

/** When a copy of the identity was last confirmed, as an ISO date; undefined when no copy is known. */
export function copiedAt(identity: string): string | undefined {
  const path = copiedFile(identity)
  return existsSync(path) ? readFileSync(path, 'utf8').trim() : undefined
}

/** Notes that a copy of the identity was confirmed now. */
export const noteCopied = (identity: string): void =>
  writeFileSync(copiedFile(identity), `${new Date().toISOString()}\n`, { mode: 0o600 })

/** What was noted was of another identity. */
export const forgetCopied = (identity: string): void => rmSync(copiedFile(identity), { force: true })
