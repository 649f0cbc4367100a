// The age identity: the moment when it is made, and what ./task identity says of it.
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { connectTo, silentReport } from '../../lib/cli/access.ts'
import { keeper } from '../../lib/cli/keeper.ts'
import { copiedAt, noteCopied } from '../../lib/ground/identity.ts'
import { root } from '../../lib/ground/root.ts'
import { secretStore } from '../../lib/ground/secret.ts'
import { loadConfig } from '../../lib/site/config.ts'
import { machinesFor } from '../../lib/site/machines.ts'
import { without } from '../programs.ts'

const places: string[] = []
after(() => places.forEach((dir) => rmSync(dir, { recursive: true })))

/** A laptop of its own; `secrets` are stored on it. */
async function place(...secrets: string[]) {
  const dir = mkdtempSync(join(tmpdir(), 'identity-'))
  places.push(dir)
  const env = {
    FK_STATE_DIR: join(dir, 'secrets'),
    FK_AGE_IDENTITY: join(dir, 'identity.txt'),
    FK_SITE: 'fortress',
  }
  const store = secretStore({
    dir: join(env.FK_STATE_DIR, 'fortress'),
    identity: env.FK_AGE_IDENTITY,
    say: () => {},
  })
  for (const name of secrets) await store.put(name, 'value')
  const clean = { PATH: process.env['PATH'], HOME: dir, ...env }
  const task = (...words: string[]) => {
    const { status, stdout, stderr } = spawnSync(join(root, 'task'), ['identity', ...words], {
      encoding: 'utf8',
      env: clean,
    })
    return { code: status, text: stdout + stderr }
  }
  /** The same at a terminal. */
  const typed = (words: string, input = '') => {
    const command = `${join(root, 'task')} ${words}`
    const { status, stdout } = spawnSync(
      'script',
      ['--quiet', '--return', '--command', command, '/dev/null'],
      {
        encoding: 'utf8',
        env: { ...clean, FK_HOST: 'admin@192.0.2.10' },
        input,
      },
    )
    return { code: status, text: stdout.replaceAll(/\r|\x1b\[\d*[A-Z]/g, '') }
  }
  return { dir, env, identity: env.FK_AGE_IDENTITY, task, typed }
}

const narrow = (text: string) =>
  text.split('\n').filter((line) => line.replaceAll(/\S*\/\S*/g, 'PATH').length > 80)

test('without an identity it is said when there will be one', async () => {
  const { task, identity } = await place()
  assert.deepEqual(task(), {
    code: 0,
    text: `There is no age identity yet: ${identity}\nThe first secret makes it, when something is applied.\n`,
  })
  assert.equal(existsSync(identity), false)
})

test('it says where it is, its recipient, and that no copy is known until one is confirmed', async () => {
  const { task, identity } = await place('one')
  const { code, text } = task()
  assert.equal(code, 0, text)
  const recipient = /public key: (age1\S+)/.exec(readFileSync(identity, 'utf8'))?.[1]
  const shown = `${recipient?.slice(0, 24)}… (post-quantum, whole in the file)`
  assert.equal(text.includes(`identity   ${identity}\nrecipient  ${shown}\n`), true, text)
  assert.match(text, /^copied {5}no copy is known$/m)
  assert.equal(text.includes('AGE-SECRET-KEY'), false)
  assert.deepEqual(narrow(text), [])
  assert.equal(task('copied').code, 0)
  assert.match(readFileSync(join(identity, '../identity-copied'), 'utf8'), /^\d{4}-\d\d-\d\dT[\d:.]+Z\n$/)
  assert.match(task().text, /^copied {5}\d{4}-\d\d-\d\dT/m)
})

test('the identity itself is shown on a terminal only', { skip: without('script') }, async () => {
  const { task, typed, identity } = await place('one')
  const piped = task('show')
  assert.equal(piped.code, 1)
  assert.match(piped.text, /is shown on a terminal only/)
  assert.equal(piped.text.includes('AGE-SECRET-KEY'), false)
  const { code, text } = typed('identity show')
  assert.equal(code, 0, text)
  assert.equal(text.split('\n')[0], readFileSync(identity, 'utf8').trim().split('\n').at(-1))
  assert.deepEqual(narrow(text), [])
})

for (const [answer, known] of [
  ['y', true],
  ['', false],
] as const)
  test(
    `at a terminal a new identity is followed by a question, here answered with '${answer}'`,
    { skip: without('script') },
    async () => {
      const { typed, identity } = await place()
      const { code, text } = typed('peer show laptop', `${answer}\n`)
      assert.equal(code, 0, text)
      assert.match(text, /^Made the age identity .*\n(.+\n)+\nCopied\? \[y\/N\] /m)
      assert.equal(copiedAt(identity) !== undefined, known)
      assert.equal(/has no known copy yet: \.\/task identity$/m.test(text), !known)
      assert.deepEqual(narrow(text), [])
    },
  )

test('a copy is proven by the secrets that it opens, whatever modes its disk has', async () => {
  const { dir, task, identity } = await place('one', 'two')
  const copy = join(dir, 'copy.txt')
  copyFileSync(identity, copy)
  chmodSync(copy, 0o644)
  const { code, text } = task('check', copy)
  assert.equal(code, 0, text)
  assert.match(text, /copy\.txt opens all 2 secrets of fortress\.$/m)
  assert.notEqual(copiedAt(identity), undefined)
})

test('what is no copy is refused, and nothing is noted', async () => {
  const { dir, task, identity } = await place('one')
  const other = (await place('one')).identity
  const empty = join(dir, 'empty.txt')
  writeFileSync(empty, 'not a key\n')
  for (const [file, said] of [
    [other, /does not open one of fortress/],
    [empty, /is not a plain age identity file/],
    [identity, /is the identity itself, and no copy of it/],
    [join(dir, 'nowhere'), /is not there/],
  ] as const) {
    const { code, text } = task('check', file)
    assert.equal(code, 1, text)
    assert.match(text, said)
  }
  assert.equal(copiedAt(identity), undefined)
})

for (const [words, message] of [
  [['check'], 'identity check needs a FILE'],
  [['show', 'x'], 'identity show takes no FILE'],
] as const)
  test(`'identity ${words.join(' ')}' is refused: ${message}`, async () => {
    const { code, text } = (await place()).task(...words)
    assert.equal(code, 1)
    assert.equal(text.split('\n')[0], message)
  })

test('a run in which the identity was made ends with it, until a copy is known', async () => {
  const { identity } = await place('one')
  const notes: string[] = []
  const report = { note: (text: string) => void notes.push(text), pause: () => {} }
  const older = keeper(identity, report, false)
  older.remind()
  assert.deepEqual(notes, [], 'it was made by an earlier run: ./task status says so')
  noteCopied(identity)
  const copies = keeper(identity, report, false)
  await copies.made('Made it.')
  assert.equal(copiedAt(identity), undefined, 'what was noted was of another one')
  copies.remind()
  assert.deepEqual(notes, [
    '\nMade it.\n',
    `The age identity has no known copy yet: ./task identity\n  ${identity}`,
  ])
  noteCopied(identity)
  copies.remind()
  assert.equal(notes.length, 2)
})

test('a look at a node that was never built makes neither a key nor an identity', async () => {
  const { env, identity } = await place()
  const config = loadConfig({ env: { ...env, FK_HOST: 'admin@192.0.2.10' } })
  const node = machinesFor(config, 'node')[0]!
  await assert.rejects(connectTo(config, node, false, silentReport()), {
    message: `this laptop has no host key of ${node.name}: it was not built from here`,
  })
  assert.deepEqual([existsSync(identity), existsSync(env.FK_STATE_DIR)], [false, false])
})
