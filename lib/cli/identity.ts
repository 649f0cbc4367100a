// ./task identity: what opens every secret of the laptop, and whether a copy of it is known.
import { createHash } from 'node:crypto'
import { existsSync, readFileSync, readdirSync, rmSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { Fault } from '../ground/fault.ts'
import { copiedAt, copiedFile, forgetCopied, noteCopied, olderIdentity } from '../ground/identity.ts'
import { atTerminal } from '../ground/laptop.ts'
import { age, decrypted, isProtected, keysIn, land } from '../ground/secret.ts'
import { locked, publicFile, sealed, unlock, wrote } from '../ground/unlock.ts'
import { recipientsIn } from '../k3s/recipient.ts'
import type { Call } from './call.ts'
import { type Session, withSession } from './session.ts'
import { identity as table } from './tables.ts'

/**
 * `./task identity` says where it is and whether a copy is known; `show` writes it on a terminal, for paper; `check FILE` proves
 * that a copy opens the secrets of the site, and notes it; `copied` only notes it; `protect` and `unprotect` put a passphrase
 * before it and take it away; `new` replaces it. Resolves to the exit code.
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
    if (action === 'show') await show(path, terminal)
    else if (action === 'copied') confirm(path)
    else if (action === 'protect') await protect(path)
    else if (action === 'unprotect') await unprotect(path)
    else if (action === 'new') await renew(session, path)
    else about(session, path)
    return 0
  })

const say = (line: string): void => void process.stdout.write(`${line}\n`)

function about({ store, state }: Session, path: string): void {
  const copied = copiedAt(path)
  say(`identity   ${path}`)
  const clear = 'in clear: who has the disk has it. ./task identity protect'
  say(`           ${isProtected(path) ? 'protected by a passphrase' : clear}`)
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

async function show(path: string, terminal: boolean): Promise<void> {
  // A pipe, a file, a log of a pipeline: there it would stay.
  if (!terminal)
    throw new Fault('The identity is shown on a terminal only', {
      state: 'nothing was shown',
      next: './task identity show, typed at a terminal',
    })
  for (const key of await keysIn(path)) say(key)
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
  const keys = await keysIn(file)
  const names = store.list()
  for (const name of names)
    await decrypted(join(state, `${name}.age`), keys, file).catch((error: unknown) => {
      throw new Fault(`${file} does not open ${name} of ${config.site.name}`, {
        said: error instanceof Error ? error.message : String(error),
        next: 'it is the copy of another identity: copy the right one again',
      })
    })
  if (names.length === 0 && !(existsSync(path) && (await keysIn(path)).every((key) => keys.includes(key))))
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

/** The text of an identity file, whether it is protected or not. */
const textOf = async (path: string): Promise<string> =>
  isProtected(path) ? (await unlock(path)).text : readFileSync(path, 'utf8')

/** Writes it, with a passphrase in front where there is one. */
async function write(path: string, text: string, passphrase: string | undefined): Promise<void> {
  if (passphrase === undefined) return land(path, text, true)
  const file = await locked(text, passphrase)
  await publish(path, text)
  await land(path, file, true)
  wrote(path, text, passphrase)
}

/** Beside a protected identity lie its public halves, so that a secret is stored and a page is written without the passphrase. */
async function publish(path: string, text: string): Promise<void> {
  const keys = text.match(/^AGE-SECRET-KEY-\S+$/gm) ?? []
  const halves = await Promise.all(keys.map((key) => age().identityToRecipient(key)))
  await land(publicFile(path), `${halves.join('\n')}\n`, true)
}

async function protect(path: string): Promise<void> {
  const text = await textOf(path)
  await keysIn(path)
  const first = await atTerminal('A new passphrase for it, of 15 letters or more: ')
  if (first === undefined)
    throw new Fault('A passphrase is typed at a terminal', { state: 'nothing was changed' })
  if (first.length < 15)
    throw new Fault('That is too short: whoever has the file tries as many as he likes', {
      state: 'nothing was changed',
      next: 'six words that nobody else would put together',
    })
  if ((await atTerminal('The same again: ')) !== first)
    throw new Fault('The two are not the same', { state: 'nothing was changed' })
  await write(path, text, first)
  say(`${path} is protected. A run asks for the passphrase once, when it first needs a secret.`)
  say('Without the passphrase nothing opens it: copies of before are as they were, on paper, too.')
}

async function unprotect(path: string): Promise<void> {
  if (!isProtected(path)) throw new Fault(`${path} has no passphrase`)
  await write(path, await textOf(path), undefined)
  rmSync(publicFile(path), { force: true })
  say(`${path} lies in clear again.`)
}

/** Stands above the key that replaces those below it, until nothing is encrypted for them any more. */
const replacing = '# replaces the keys below'

/**
 * Another identity. While its secrets are encrypted anew the file holds both, the new one first: a run that is interrupted goes
 * on when it is run again. The old one is kept as a secret: it opens the backups of before.
 */
async function renew({ config, state }: Session, path: string): Promise<void> {
  await keysIn(path)
  const passphrase = isProtected(path) ? (await unlock(path)).passphrase : undefined
  const before = await textOf(path)
  if (!before.startsWith(replacing)) {
    const made = await age().generateHybridIdentity()
    const half = `# public key: ${await age().identityToRecipient(made)}`
    const head = `${replacing}\n# created: ${new Date().toISOString()}\n${half}\n${made}\n`
    await write(path, head + before, passphrase)
  }
  const [key = '', ...old] = await keysIn(path)
  const whom = [await age().identityToRecipient(key)]
  const sites = readdirSync(config.env.FK_STATE_DIR, { withFileTypes: true }).filter((one) =>
    one.isDirectory(),
  )
  const files = sites.flatMap(({ name }) => {
    const dir = join(config.env.FK_STATE_DIR, name)
    return readdirSync(dir).flatMap((file) => (/^[a-z0-9].*\.age$/.test(file) ? join(dir, file) : []))
  })
  for (const file of files) {
    const text = await decrypted(file, [key, ...old], path)
    await land(file, await sealed(text, whom), true)
  }
  for (const one of old) {
    const digest = createHash('sha256').update(one).digest('hex').slice(0, 8)
    await land(join(state, `${olderIdentity}${digest}.age`), await sealed(one, whom), true)
  }
  const text = await textOf(path)
  await write(path, text.slice(replacing.length + 1, text.indexOf(key) + key.length + 1), passphrase)
  forgetCopied(path)
  say(`${path} is another identity now: ${files.length} secrets are encrypted for it.`)
  say(`The one of before is kept among them, as ${olderIdentity}…: it opens the backups of its time.`)
  say('Copy the new one away from this computer, then ./task identity check FILE.')
  say('./task k3s-backup apply has the next backups made for it.')
}
