// The age identity: the moment when it is made, and what ./task identity says of it.
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { connectTo, silentReport } from '../../lib/cli/access.ts'
import { keeper } from '../../lib/cli/keeper.ts'
import { copiedAt, noteCopied } from '../../lib/ground/identity.ts'
import { root } from '../../lib/ground/root.ts'
import { age as age_, decrypted, keysIn, secretStore } from '../../lib/ground/secret.ts'
import { publicHalves, sealed } from '../../lib/ground/unlock.ts'
import { recipientsIn } from '../../lib/k3s/recipient.ts'
import { loadConfig } from '../../lib/site/config.ts'
import { machinesFor } from '../../lib/site/machines.ts'
import { age, noAge, without } from '../programs.ts'
import { terminal } from '../terminal.ts'

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
  assert.equal(
    text.includes(`recipient  ${shown}\n`) &&
      text.startsWith(`identity   ${identity}\n           in clear: `),
    true,
    text,
  )
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

describe('an identity behind a passphrase', { skip: without('script') }, () => {
  const words = 'some words that nobody else would say'
  let laptop: Awaited<ReturnType<typeof place>>
  let env: Record<string, string | undefined>
  let key: string
  const at = (...task: string[]) => terminal([join(root, 'task'), ...task], { cwd: laptop.dir, env })
  const asked = /Passphrase of \S+: $/

  before(async () => {
    laptop = await place('one', 'two', 'three')
    env = { PATH: process.env['PATH'], HOME: laptop.dir, ...laptop.env }
    ;[key = ''] = await keysIn(laptop.identity)
    const screen = at('identity', 'protect')
    await screen.until(/A new passphrase for it, .*: /, 300)
    screen.type(words)
    await screen.until(/The same again: /)
    screen.type(words)
    assert.equal(await screen.ended, 0, screen.text())
    assert.ok(!screen.text().includes(words))
  })

  test('lies on no disk in clear, and secrets are stored and pages written without the passphrase', async () => {
    const { dir, identity, task } = laptop
    assert.match(readFileSync(identity, 'utf8'), /^-----BEGIN AGE ENCRYPTED FILE-----\n/)
    assert.equal(statSync(identity).mode & 0o777, 0o600)
    for (const file of readdirSync(dir, { recursive: true, encoding: 'utf8' }).map((one) => join(dir, one)))
      if (statSync(file).isFile()) assert.equal(readFileSync(file, 'latin1').includes(key), false, file)
    assert.match(task().text, /protected by a passphrase/)
    const store = secretStore({ dir: join(laptop.env.FK_STATE_DIR, 'fortress'), identity, say: () => {} })
    await store.put('later', 'value')
    assert.equal(await decrypted(join(dir, 'secrets/fortress/later.age'), [key], 'the key'), 'value')
    assert.match(recipientsIn(identity).join(), /^age1pq1[a-z0-9]+$/)
    await assert.rejects(store.get('later'), /protected by a passphrase, and nobody can be asked/)
    assert.throws(() => publicHalves(join(dir, 'nothing')), /nothing\.pub is not there, which says for whom/)
  })

  test('where there is no terminal a run ends and says so; no variable and no pipe holds a passphrase', () => {
    const { dir, identity } = laptop
    copyFileSync(identity, join(dir, 'copy'))
    const { status, stdout, stderr } = spawnSync(
      'setsid',
      ['--wait', join(root, 'task'), 'identity', 'check', join(dir, 'copy')],
      {
        encoding: 'utf8',
        env: { ...env, AGE_PASSPHRASE: words },
        input: `${words}\n`,
      },
    )
    assert.equal(status, 1)
    assert.match(stdout + stderr, /protected by a passphrase, and there is no terminal to type it at/)
  })

  test('it is asked at the terminal wherever input and output lead, again after a slip, and once in a run', async () => {
    const { dir } = laptop
    const line = `${join(root, 'task')} identity check ${dir}/copy < /dev/null > ${dir}/said 2>&1`
    const screen = terminal(['bash', '-c', line], { cwd: dir, env })
    await screen.until(asked, 300)
    screen.type('another one')
    await screen.until(/It does not open it\. Passphrase of \S+: $/, 300)
    screen.type(words)
    assert.equal(await screen.ended, 0, screen.text() + readFileSync(join(dir, 'said'), 'utf8'))
    // Four secrets were opened.
    assert.match(readFileSync(join(dir, 'said'), 'utf8'), /opens all 4 secrets/)
    assert.equal(screen.text().match(/Passphrase of/g)?.length, 2)
  })

  test('nothing typed leaves it closed', async () => {
    const before = readFileSync(laptop.identity, 'utf8')
    const screen = at('identity', 'unprotect')
    await screen.until(asked, 300)
    screen.type('')
    assert.equal(await screen.ended, 1)
    assert.match(screen.text(), /no passphrase was typed/)
    assert.equal(readFileSync(laptop.identity, 'utf8'), before)
  })

  test('the age program opens it, too', { skip: noAge }, async () => {
    const words_ = [age as string, '--decrypt', '--identity', laptop.identity]
    const screen = terminal([...words_, join(laptop.dir, 'secrets/fortress/one.age')], {
      cwd: laptop.dir,
      env,
    })
    await screen.until(/passphrase/i, 300)
    screen.type(words)
    await screen.until(/value/, 300)
    assert.equal(await screen.ended, 0, screen.text())
  })

  test('another identity takes its place behind the same passphrase, which is then taken away', async () => {
    const { dir, identity } = laptop
    const screen = at('identity', 'new')
    await screen.until(asked, 300)
    screen.type(words)
    assert.equal(await screen.ended, 0, screen.text())
    assert.equal(screen.text().match(/Passphrase of/g)?.length, 1)
    assert.match(readFileSync(identity, 'utf8'), /^-----BEGIN AGE ENCRYPTED FILE-----\n/)
    await assert.rejects(decrypted(join(dir, 'secrets/fortress/one.age'), [key], 'the old one'))
    const back = at('identity', 'unprotect')
    await back.until(asked, 300)
    back.type(words)
    assert.equal(await back.ended, 0, back.text())
    assert.equal(existsSync(`${identity}.pub`), false)
    assert.equal(
      await decrypted(join(dir, 'secrets/fortress/one.age'), await keysIn(identity), identity),
      'value',
    )
  })
})

describe('another identity', () => {
  test('opens every secret of every site, the old one opens none, and is kept for the backups of before', async () => {
    const { dir, env, identity, task } = await place('one', 'two')
    const other = secretStore({ dir: join(env.FK_STATE_DIR, 'elsewhere'), identity, say: () => {} })
    await other.put('three', 'of another site')
    const old = await keysIn(identity)
    noteCopied(identity)
    const { code, text } = task('new')
    assert.equal(code, 0, text)
    assert.match(text, /is another identity now: 3 secrets/)
    const now = await keysIn(identity)
    assert.equal(now.length, 1)
    assert.notDeepEqual(now, old)
    for (const file of ['fortress/one', 'fortress/two', 'elsewhere/three']) {
      const path = join(dir, 'secrets', `${file}.age`)
      assert.match(await decrypted(path, now, identity), /^(value|of another site)$/)
      await assert.rejects(decrypted(path, old, 'the old one'), /cannot be decrypted/)
    }
    const [kept] = readdirSync(join(dir, 'secrets/fortress')).filter((name) =>
      name.startsWith('age-identity-'),
    )
    assert.equal(await decrypted(join(dir, 'secrets/fortress', kept!), now, identity), old[0])
    assert.equal(copiedAt(identity), undefined)
    assert.match(recipientsIn(identity).join(), /^age1pq1[a-z0-9]+$/)
  })

  test('goes on where a run was interrupted: nothing is lost, and no third one is made', async () => {
    const { dir, identity, task } = await place('one', 'two')
    const [old] = await keysIn(identity)
    const before = readFileSync(identity, 'utf8')
    assert.equal(task('new').code, 0)
    const [made] = await keysIn(identity)
    // As after the first half: both keys, and one secret still of the old one.
    const half = readFileSync(identity, 'utf8')
    writeFileSync(identity, `# replaces the keys below\n${half}${before}`)
    const whom = [await age_().identityToRecipient(old!)]
    writeFileSync(join(dir, 'secrets/fortress/two.age'), await sealed('value', whom))
    const { code, text } = task('new')
    assert.equal(code, 0, text)
    assert.deepEqual(await keysIn(identity), [made])
    for (const name of ['one', 'two'])
      assert.equal(await decrypted(join(dir, `secrets/fortress/${name}.age`), [made!], identity), 'value')
  })
})
