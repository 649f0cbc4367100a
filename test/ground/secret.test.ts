import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { after, test } from 'node:test'
import { format, inspect } from 'node:util'
import { Secret, secretStore } from '../../lib/ground/secret.ts'
import { age, ageKeygen, noAge, without } from '../programs.ts'

const made: string[] = []
after(() => made.forEach((dir) => rmSync(dir, { recursive: true })))

/** An own state directory and identity for each test. */
function place() {
  const root = mkdtempSync(join(tmpdir(), 'secret-'))
  made.push(root)
  const dir = join(root, 'state', 'fortress')
  const identity = join(root, 'config', 'identity.txt')
  const said: string[] = []
  const open = () => secretStore({ dir, identity, say: (sentence) => said.push(sentence) })
  return { root, dir, identity, said, open, store: open() }
}

const mode = (path: string) => (statSync(path).mode & 0o777).toString(8)

test('a secret shows its name and never its value', async () => {
  const secret = new Secret('key', () => 'hunter2')
  await secret.resolve()
  assert.equal(secret.reveal(), 'hunter2')
  for (const text of [
    String(secret),
    `${secret}`,
    format('%s', secret),
    format('%o', secret),
    inspect(secret, { showHidden: true, depth: 9 }),
    JSON.parse(JSON.stringify(secret)) as string,
  ])
    assert.equal(text, '‹secret key›')
  assert.equal(inspect({ deep: [secret] }), '{ deep: [ ‹secret key› ] }')
  assert.equal(JSON.stringify({ secret }), '{"secret":"‹secret key›"}')
})

test('a secret is fetched when it is resolved, and once', async () => {
  let fetched = 0
  const secret = new Secret('key', () => `value ${++fetched}`)
  assert.throws(() => secret.reveal(), { message: '‹secret key› has not been resolved yet' })
  assert.equal(fetched, 0)
  assert.deepEqual(await Promise.all([secret.resolve(), secret.resolve()]), ['value 1', 'value 1'])
})

test('a secret that could not be fetched can be asked for again', async () => {
  let tries = 0
  const secret = new Secret('key', () => {
    if (++tries === 1) throw new Error('no disk')
    return 'value'
  })
  await assert.rejects(secret.resolve(), { message: 'no disk' })
  assert.equal(await secret.resolve(), 'value')
})

test('a second run finds the first run’s secret and makes no new one', async () => {
  const { store, open, dir, said, identity } = place()
  let n = 0
  const make = () => `value ${++n}`
  assert.equal((await store.get('wg-host', make)).reveal(), 'value 1')
  const file = readFileSync(join(dir, 'wg-host.age'))
  assert.equal((await open().get('wg-host', make)).reveal(), 'value 1')
  assert.deepEqual(readFileSync(join(dir, 'wg-host.age')), file)
  assert.equal(n, 1)
  assert.deepEqual(said, [
    `Made the age identity ${identity}
It opens every backup of a cluster, and every secret in ${join(dir, '..')}
Copy it now to a place away from this computer: without it nothing opens them.
On paper: ./task identity show has it as one line.`,
  ])
})

test('a handle touches nothing until it is resolved', async () => {
  const { store, dir, identity } = place()
  const handle = store.secret('later', () => 'value')
  assert.equal(String(handle), '‹secret later›')
  assert.equal(store.secret('later'), handle)
  assert.equal(existsSync(dir) || existsSync(identity), false)
  assert.equal(await handle.resolve(), 'value')
})

test('secrets and the identity are for their owner only', async () => {
  const { store, dir, identity } = place()
  await store.put('one', 'value')
  assert.deepEqual([dir, join(dir, 'one.age'), identity, join(identity, '..')].map(mode), [
    '700',
    '600',
    '600',
    '700',
  ])
  assert.equal(readFileSync(join(dir, 'one.age')).includes('value'), false)
  assert.deepEqual(readdirSync(dir), ['one.age'])
})

test('two runs that make the same secret at once agree on one', async () => {
  const { store, open } = place()
  await store.put('first', 'makes the identity')
  const values = await Promise.all(
    Array.from({ length: 8 }, async (_, i) => (await open().get('shared', () => `value ${i}`)).reveal()),
  )
  assert.equal(new Set(values).size, 1)
})

test('what is done about a new identity is waited for, once', async () => {
  const { dir, identity } = place()
  const order: string[] = []
  const say = async () => {
    order.push('asked')
    await new Promise((resolve) => setTimeout(resolve, 50))
    order.push('answered')
  }
  const store = secretStore({ dir, identity, say })
  const get = async (name: string) => {
    await store.get(name, () => 'value')
    order.push(name)
  }
  await Promise.all([get('one'), get('two')])
  assert.deepEqual(order.slice(0, 2), ['asked', 'answered'])
  assert.deepEqual(order.slice(2).sort(), ['one', 'two'])
})

test('put replaces, list names, remove deletes', async () => {
  const { store } = place()
  await store.put('b', '1')
  await store.put('a', '1')
  await store.put('b', '2')
  assert.equal((await store.get('b')).reveal(), '2')
  assert.deepEqual(store.list(), ['a', 'b'])
  await store.remove('b')
  assert.deepEqual([store.has('a'), store.has('b')], [true, false])
  await assert.rejects(store.get('b'), /^Error: there is no secret 'b' in /)
})

for (const name of ['', '../up', 'a/b', '.hidden', 'Upper', 'a b'])
  test(`'${name}' is no name for a secret`, () => {
    assert.throws(() => place().store.secret(name), {
      message: `a secret cannot be called '${name}': use a-z, 0-9, - . _`,
    })
  })

test('a damaged secret is an error and stays as it is', async () => {
  const { store, open, dir, identity } = place()
  await store.put('one', 'value')
  const path = join(dir, 'one.age')
  const damaged = readFileSync(path)
  damaged[damaged.length - 1]! ^= 1
  writeFileSync(path, damaged)
  await assert.rejects(
    open().get('one', () => 'new'),
    (error: Error) => {
      assert.equal(error.message.startsWith(`${path} cannot be decrypted with ${identity}: `), true)
      assert.equal(
        error.message.endsWith(
          '. Restore the file or the identity from your backup; it is never replaced by itself.',
        ),
        true,
      )
      return true
    },
  )
  assert.deepEqual(readFileSync(path), damaged)
})

test('a secret of somebody else’s identity is an error and stays as it is', async () => {
  const mine = place()
  const theirs = place()
  await theirs.store.put('one', 'value')
  await mine.store.put('two', 'makes the identity')
  copyFileSync(join(theirs.dir, 'one.age'), join(mine.dir, 'one.age'))
  await assert.rejects(
    mine.open().get('one', () => 'new'),
    /cannot be decrypted with/,
  )
  assert.deepEqual(readFileSync(join(mine.dir, 'one.age')), readFileSync(join(theirs.dir, 'one.age')))
})

test('a lost identity is not replaced while secrets wait for it', async () => {
  const { root, store, open, dir, identity } = place()
  await store.put('one', 'value')
  rmSync(identity)
  const lost =
    `the age identity ${identity} is not there, and ${join(dir, 'one.age')} was encrypted for it. ` +
    'Restore it from your backup, or name the right one in FK_AGE_IDENTITY.'
  await assert.rejects(open().put('two', 'value'), { message: lost })
  await assert.rejects(secretStore({ dir: join(root, 'state', 'other'), identity }).put('two', 'value'), {
    message: lost,
  })
  await assert.rejects(open().get('one'), {
    message:
      `the age identity ${identity} is not there, and ${join(dir, 'one.age')} needs it. ` +
      'Restore it, or name it in FK_AGE_IDENTITY.',
  })
  assert.equal(existsSync(identity), false)
})

test('an identity that others can read is refused', async () => {
  const { store, identity } = place()
  await store.put('one', 'value')
  chmodSync(identity, 0o640)
  await assert.rejects(store.get('one'), {
    message: `others can read the age identity ${identity} (mode 640): chmod 600 ${identity}`,
  })
})

test('an identity file of another kind is refused', async () => {
  const { store, identity } = place()
  await store.put('one', 'value')
  writeFileSync(identity, 'AGE-PLUGIN-YUBIKEY-1QQQQ\n')
  await assert.rejects(
    store.get('one'),
    /is an identity of a plug-in of age, and the library of this kit speaks to none/,
  )
  writeFileSync(identity, 'ssh-ed25519 AAAA\n')
  await assert.rejects(store.get('one'), {
    message: `${identity} is not a plain age identity file: its lines must begin with AGE-SECRET-KEY-1, as age-keygen makes them`,
  })
})

test('the age program reads what we store, and we read what it stores', { skip: noAge }, async () => {
  const { store, dir, identity } = place()
  await store.put('ours', 'from here, with ü\n')
  const theirs = execFileSync(age, ['--decrypt', '--identity', identity, join(dir, 'ours.age')], {
    encoding: 'utf8',
  })
  assert.equal(theirs, 'from here, with ü\n')
  const recipient = execFileSync(ageKeygen, ['-y', identity], { encoding: 'utf8' }).trim()
  execFileSync(age, ['--recipient', recipient, '--output', join(dir, 'theirs.age')], { input: 'from there' })
  assert.equal((await store.get('theirs')).reveal(), 'from there')
})

test(
  'an identity that we make is post-quantum, and its file says the public half',
  { skip: noAge },
  async () => {
    const { store, identity } = place()
    await store.put('one', 'value')
    const text = readFileSync(identity, 'utf8')
    assert.match(text, /^AGE-SECRET-KEY-PQ-1/m)
    const said = execFileSync(ageKeygen, ['-y', identity], { encoding: 'utf8' }).trim()
    assert.equal(/^# public key: (\S+)$/m.exec(text)?.[1], said)
  },
)

test('beside a post-quantum key nothing is encrypted for another, and what was before stays readable', async () => {
  const { dir, identity, store, open } = place()
  const { generateX25519Identity } = await import('age-encryption')
  const old = await generateX25519Identity()
  mkdirSync(dirname(identity), { recursive: true })
  writeFileSync(identity, `${old}\n`, { mode: 0o600 })
  await store.put('before', 'old')
  const strong = place()
  await strong.store.put('x', 'y')
  writeFileSync(identity, `${old}\n${readFileSync(strong.identity, 'utf8')}`, { mode: 0o600 })
  assert.equal((await open().get('before')).reveal(), 'old')
  await open().put('after', 'new')
  assert.equal((await open().get('after')).reveal(), 'new')
  const stanzas = readFileSync(join(dir, 'after.age'), 'latin1').match(/^-> \S+/gm)
  assert.deepEqual(stanzas, ['-> mlkem768x25519'])
})

test('an identity made by age-keygen serves as it is', { skip: without('age-keygen') }, async () => {
  const { root, dir } = place()
  const identity = join(root, 'keygen.txt')
  execFileSync('age-keygen', ['--output', identity], { stdio: 'ignore' })
  const said: string[] = []
  const store = secretStore({ dir, identity, say: (sentence) => said.push(sentence) })
  assert.equal((await store.get('one', () => 'value')).reveal(), 'value')
  assert.deepEqual(said, [])
})
