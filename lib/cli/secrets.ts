// ./task secrets: files of a Git tree that sops encrypts for people and cluster, and what stands in clear where it should not.
import { existsSync, lstatSync, mkdirSync, readFileSync, statSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { clusterKeys, keyLines, makeKey, rotating } from '../component/clusterkey.ts'
import {
  type Leak,
  filesOf,
  git,
  inFiles,
  inHistory,
  inStaged,
  textOf,
  walk,
  without,
} from '../component/leaks.ts'
import { type Recipient, encryptedAs, header, opened, reencrypt, rules } from '../component/sops.ts'
import { type ToolName, toolFor } from '../component/tools.ts'
import { downloads } from '../engine/delivery.ts'
import { count } from '../engine/report.ts'
import { Fault } from '../ground/fault.ts'
import { olderIdentity } from '../ground/identity.ts'
import { quote } from '../ground/sh.ts'
import { root } from '../ground/root.ts'
import { age, keysIn, land } from '../ground/secret.ts'
import { recipientsIn } from '../k3s/recipient.ts'
import { backupOf } from '../site/cluster.ts'
import type { Call } from './call.ts'
import { type Session, withSession } from './session.ts'
import { secrets as table } from './tables.ts'

/**
 * `./task secrets sops DIR` writes for whom files of a tree are encrypted, `rotate` encrypts all of them anew, `check` looks for
 * what stands in clear, `hook` has Git do so before each commit. Exit code of check: 0 nothing was found, 2 something was.
 */
export const secrets = (call: Call): Promise<number> =>
  withSession(
    call,
    table,
    async (session) => {
      const { given } = session
      const [action, place = '.'] = given.words
      const dir = resolve(place)
      if (!existsSync(dir) || !statSync(dir).isDirectory()) throw new Fault(`${dir} is no directory`)
      if (action !== 'check' && (given.history || given.staged))
        throw new Fault('--history and --staged are for check')
      if (action === 'check') return check(session, dir, given)
      if (action === 'hook') return hook(dir)
      return action === 'rotate' ? rotate(session, dir) : sops(session, dir)
    },
    { document: true },
  )

const say = (line: string): void => void process.stdout.write(`${line}\n`)

/** The program of this name; where PATH has none that fits, the pinned one is fetched. */
async function program({ config, report, signal }: Session, name: ToolName): Promise<string> {
  const fetch = downloads(config, {
    signal,
    onTransfer: (transfer) => report.transfer(transfer),
    say: (sentence) => report.note(sentence),
  })
  return (await toolFor(name, config.pins, config.env.FK_DOWNLOAD_DIR, fetch)).path
}

/** For whom files are encrypted when `cluster` is the newest key of the cluster. */
async function whom({ config: { env, site } }: Session, cluster: string): Promise<Recipient[]> {
  const { recovery } = backupOf(site)
  return [
    ...recipientsIn(env.FK_AGE_IDENTITY).map((key) => ({ who: 'the laptop', key })),
    ...(recovery === undefined ? [] : [{ who: 'the day when the laptop is lost', key: recovery }]),
    { who: `the cluster of ${site.name}`, key: await age().identityToRecipient(cluster) },
  ]
}

/** The keys of the cluster, the newest first; the first one is made where there is none. */
const keysOf = async ({ store }: Session): Promise<string> => (await store.get(clusterKeys, makeKey)).reveal()

/** Writes .sops.yaml where it is another one. Throws a Fault where that is somebody else's. */
async function writeRules(dir: string, recipients: Recipient[]): Promise<boolean> {
  const file = join(dir, '.sops.yaml')
  const text = rules(recipients)
  const there = existsSync(file) ? readFileSync(file, 'utf8') : undefined
  if (there === text) return false
  if (there !== undefined && !there.startsWith(header))
    throw new Fault(`${file} is not one of ours`, {
      state: 'it was left as it is',
      next: `move it away, or write these recipients into it by hand:\n${recipients.map(({ key }) => key).join('\n')}`,
    })
  await land(file, text, true, 0o644)
  return true
}

async function sops(session: Session, dir: string): Promise<number> {
  const [newest = ''] = keyLines(await keysOf(session))
  const recipients = await whom(session, newest)
  const changed = await writeRules(dir, recipients)
  const file = join(dir, '.sops.yaml')
  say(changed ? `Written: ${file}` : `${file} holds what it should.`)
  for (const { who, key } of recipients) say(`  ${key.slice(0, 24)}${key.length > 24 ? '…' : ''}  ${who}`)
  const files = encryptedIn(dir)
  const wanted = recipients.map(({ key }) => key)
  const others = files.filter(({ recipients: now }) => !same(now, wanted))
  if (others.length === 0) return 0
  const are = `${count(others.length, 'file')} there ${others.length === 1 ? 'is' : 'are'}`
  say(`${are} encrypted for others: ./task secrets rotate ${dir}`)
  return 2
}

const same = (one: readonly string[], other: readonly string[]): boolean =>
  one.toSorted().join() === other.toSorted().join()

interface Closed {
  file: string
  text: string
  recipients: string[]
  others: string[]
}

/** Every file below a directory that sops has encrypted, whether Git takes it or not. */
const encryptedIn = (dir: string): Closed[] =>
  walk(dir).flatMap((name) => {
    const file = join(dir, name)
    const text = textOf(file)
    const found = text === undefined ? undefined : encryptedAs(text)
    return text === undefined || found === undefined ? [] : [{ file, text, ...found }]
  })

/** The keys by which this laptop opens files: its own, those of the cluster, and those of before. */
async function knownKeys({ config, store }: Session, cluster: string): Promise<string[]> {
  const before = store.list().filter((name) => name.startsWith(olderIdentity))
  const older = await Promise.all(before.map(async (name) => keyLines((await store.get(name)).reveal())))
  return [...keyLines(cluster), ...(await keysIn(config.env.FK_AGE_IDENTITY)), ...older.flat()]
}

/**
 * A new key of the cluster, and every file with a new data key for it and for the laptop. While that goes on the store says so: a
 * run that was interrupted goes on with the same key.
 */
async function rotate(session: Session, dir: string): Promise<number> {
  const { store } = session
  if (!existsSync(join(dir, '.sops.yaml')))
    throw new Fault(`${dir} has no .sops.yaml`, { next: `./task secrets sops ${quote(dir)}` })
  const run = await program(session, 'sops')
  let text = await keysOf(session)
  const files = encryptedIn(dir)
  const known = await knownKeys(session, text)
  await mayRotate(run, files, known, text)
  if (!text.startsWith(rotating)) {
    text = `${rotating}\n${await makeKey()}\n${keyLines(text).join('\n')}`
    await writeRules(dir, await whom(session, keyLines(text)[0]!))
    await store.put(clusterKeys, text)
  }
  const [newest = '', ...older] = keyLines(text)
  const recipients = await whom(session, newest)
  await writeRules(dir, recipients)
  const wanted = recipients.map(({ key }) => key)
  let changed = 0
  for (const { file, text: before, recipients: now } of files) {
    // It was encrypted for the newest key by a run before this one.
    if (same(now, wanted)) continue
    await reencrypt(run, file, { text: before, keys: [newest, ...known], whom: wanted, proof: newest })
    changed += 1
  }
  const left = encryptedIn(dir).filter((one) => !same(one.recipients, wanted))
  if (left.length > 0)
    throw new Fault('files came while this ran', {
      said: left.map(({ file }) => file).join('\n'),
      next: `./task secrets rotate ${quote(dir)} goes on`,
    })
  await store.put(clusterKeys, [newest, ...older].join('\n'))
  say(`${count(changed, 'file')} encrypted anew, for ${recipients.map(({ who }) => who).join(' and ')}.`)
  say(
    'In this tree the keys of before open nothing any more. In the history of Git, and in copies of it, they open what they did:',
  )
  say('whoever had one knows the values of then, and only new values help against that.')
  say('Next: ./task secrets apply gives the cluster the new key; then commit and push these files.')
  return 0
}

/** Throws a Fault with every file that stands against it, before anything is changed. */
async function mayRotate(run: string, files: Closed[], keys: string[], text: string): Promise<void> {
  const against: string[] = []
  for (const { file, others } of files) {
    if (others.length > 0)
      against.push(`${file}: opened by ${others.join(', ')} too, which this cannot renew`)
    else
      await opened(run, keys, file).catch((error: unknown) => {
        const said = error instanceof Fault ? (error.said ?? '') : String(error)
        against.push(
          `${file}: no key of this laptop opens it, or it was changed: ${said.split('\n').at(-1) ?? ''}`,
        )
      })
  }
  if (against.length === 0) return
  throw new Fault('not every file can be encrypted anew', {
    said: against.join('\n'),
    state: text.startsWith(rotating)
      ? 'a rotation is under way; nothing more was changed'
      : 'nothing was changed: no key was made, no file was written',
    next: 'restore these files, or take them away; then run this again',
  })
}

async function check(
  session: Session,
  dir: string,
  { history, staged, json }: { history: boolean; staged: boolean; json: boolean },
): Promise<number> {
  const repository = (await git(dir, 'rev-parse', '--is-inside-work-tree')) !== undefined
  if (!repository && (history || staged)) throw new Fault(`${dir} is in no Git repository`)
  const run = await program(session, 'gitleaks')
  const found = [
    ...(staged ? await inStaged(run, dir) : await inFiles(run, dir)),
    ...(history ? await inHistory(run, dir) : []),
  ]
  const leaks = without(dir, found).toSorted(
    (a, b) => a.file.localeCompare(b.file) || a.line - b.line || a.rule.localeCompare(b.rule),
  )
  if (history && (await git(dir, 'rev-parse', '--is-shallow-repository'))?.trim() === 'true')
    session.report.note('This clone is shallow: commits that it does not have were not looked at.')
  process.stdout.write(
    json ? `${JSON.stringify(leaks)}\n` : textOfLeaks(leaks, staged ? undefined : await filesOf(dir)),
  )
  return leaks.length === 0 ? 0 : 2
}

/** The places, for a person. */
function textOfLeaks(leaks: readonly Leak[], files: readonly string[] | undefined): string {
  const where = files === undefined ? 'what would be committed' : count(files.length, 'file')
  if (leaks.length === 0) return `No secret stands in clear in ${where}.\n`
  const lines = leaks.map(
    ({ file, line, rule, says, commit }) =>
      `${file}:${line}  ${rule}${commit === undefined ? '' : `, commit ${commit.slice(0, 12)}`}\n  ${says}\n`,
  )
  const old = leaks.some(({ commit }) => commit !== undefined)
  return [
    ...lines,
    `\n${count(leaks.length, 'secret')} in clear. Encrypt with sops what belongs into the tree; a line that only looks like a\n`,
    'secret gets the comment gitleaks:allow.\n',
    ...(old
      ? ['What a commit has brought is known to whoever has the history: change the secret itself.\n']
      : []),
  ].join('')
}

const hookMark = '# Made by ./task secrets hook'

/** Git runs the check before each commit, from whatever directory. */
async function hook(dir: string): Promise<number> {
  const place = (await git(dir, 'rev-parse', '--git-path', 'hooks/pre-commit'))?.trim()
  if (place === undefined) throw new Fault(`${dir} is in no Git repository`)
  const file = resolve(dir, place)
  const text = `#!/bin/sh
${hookMark}: no commit has a secret in clear. git commit --no-verify passes it by, once.
exec ${quote(join(root, 'task'))} secrets check --staged "$(git rev-parse --show-toplevel)"
`
  const there = lstatSync(file, { throwIfNoEntry: false })
  const before = there?.isFile() ? readFileSync(file, 'utf8') : undefined
  if (before === text && there!.mode & 0o100) {
    say(`${file} holds what it should.`)
    return 0
  }
  if (there !== undefined && !before?.includes(hookMark))
    throw new Fault(`${file} is not one of ours`, {
      state: 'it was left as it is',
      next: `add this line to it: ${text.trim().split('\n').at(-1)!.replace('exec ', '')}`,
    })
  mkdirSync(dirname(file), { recursive: true })
  await land(file, text, true, 0o755)
  say(`Written: ${file}`)
  return 0
}
