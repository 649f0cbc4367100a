// ./task identity: what opens every secret of the laptop, and whether a copy of it is known.
import { existsSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { Fault } from '../ground/fault.ts'
import { copiedAt, copiedFile, noteCopied } from '../ground/identity.ts'
import { decrypted, keysIn } from '../ground/secret.ts'
import { recipientsIn } from '../k3s/recipient.ts'
import type { Call } from './call.ts'
import { type Session, withSession } from './session.ts'
import { identity as table } from './tables.ts'

/**
 * `./task identity` says where it is and whether a copy is known; `show` writes it on a terminal, for paper; `check FILE` proves
 * that a copy opens the secrets of the site, and notes it; `copied` only notes it. Resolves to the exit code.
 */
export const identity = (call: Call): Promise<number> =>
  withSession(call, table, async (session) => {
    const { given, config, terminal } = session
    const path = config.env.FK_AGE_IDENTITY
    const [action, file] = given.words
    if ((action === 'check') !== (file !== undefined))
      throw new Fault(action === 'check' ? 'identity check needs a FILE' : `identity ${action} takes no FILE`)
    if (action === 'check') return check(session, file!)
    if (!existsSync(path)) {
      say(`There is no age identity yet: ${path}`)
      say('The first secret makes it, when something is applied.')
      return 0
    }
    if (action === 'show') show(path, terminal)
    else if (action === 'copied') confirm(path)
    else about(session, path)
    return 0
  })

const say = (line: string): void => void process.stdout.write(`${line}\n`)

function about({ store, state }: Session, path: string): void {
  const copied = copiedAt(path)
  say(`identity   ${path}`)
  // A post-quantum one has 2,000 letters; the file has them all.
  for (const recipient of recipientsIn(path))
    say(
      recipient.length > 100
        ? `recipient  ${recipient.slice(0, 24)}… (post-quantum, whole in the file)`
        : `recipient  ${recipient}`,
    )
  say(`opens      ${store.list().length} secrets in ${state}, and the backups of the cluster`)
  say(`copied     ${copied ?? 'no copy is known'}`)
  if (copied !== undefined) return
  say('Copy the file away from this computer, or write down ./task identity show.')
  say('Then: ./task identity check FILE, or ./task identity copied')
}

function show(path: string, terminal: boolean): void {
  // A pipe, a file, a log of a pipeline: there it would stay.
  if (!terminal)
    throw new Fault('The identity is shown on a terminal only', {
      state: 'nothing was shown',
      next: './task identity show, typed at a terminal',
    })
  for (const key of keysIn(path)) say(key)
  say('Whoever has this line opens every secret: keep the paper as you keep a key.')
  say('A file with this one line is an identity. Then: ./task identity copied')
}

function confirm(path: string): void {
  noteCopied(path)
  say(`Noted in ${copiedFile(path)}`)
}

/** Every secret of the site is decrypted with the copy alone. */
async function check({ config, state, store }: Session, file: string): Promise<number> {
  const path = config.env.FK_AGE_IDENTITY
  if (!existsSync(file)) throw new Fault(`${file} is not there`)
  if (existsSync(path) && same(file, path))
    throw new Fault(`${file} is the identity itself, and no copy of it`, {
      next: 'give the file on the other disk or stick',
    })
  const keys = keysIn(file)
  const names = store.list()
  for (const name of names)
    await decrypted(join(state, `${name}.age`), keys, file).catch((error: unknown) => {
      throw new Fault(`${file} does not open ${name} of ${config.site.name}`, {
        said: error instanceof Error ? error.message : String(error),
        next: 'it is the copy of another identity: copy the right one again',
      })
    })
  if (names.length === 0 && !(existsSync(path) && keysIn(path).every((key) => keys.includes(key))))
    throw new Fault(`there is no secret of ${config.site.name} to try ${file} on`, {
      next: 'copy the directory of secrets first',
    })
  say(`${file} opens all ${names.length} secrets of ${config.site.name}.`)
  if (existsSync(path)) confirm(path)
  return 0
}

function same(a: string, b: string): boolean {
  const [one, other] = [statSync(a), statSync(b)]
  return one.dev === other.dev && one.ino === other.ino
}
