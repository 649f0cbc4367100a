// ./task secrets with the real sops and the real gitleaks: who opens a file and who does not, and what is found in clear.
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { type TestContext, describe, test } from 'node:test'
import { generateHybridIdentity, generateIdentity, identityToRecipient } from 'age-encryption'
import taskfile from '../../Taskfile.ts'
import { main } from '../../lib/cli/main.ts'
import { clusterKeys, keyLines } from '../../lib/component/clusterkey.ts'
import { encryptedAs } from '../../lib/component/sops.ts'
import { secretStore } from '../../lib/ground/secret.ts'
import { builtProgram } from '../../lib/lab/lab.ts'
import { innocent, plants } from './plants.ts'

const root = join(import.meta.dirname, '../..')
const programs = { sops: builtProgram('sops'), gitleaks: builtProgram('gitleaks') }
const absent = Object.entries(programs).find(([, path]) => path === undefined)?.[0]
const skip = absent === undefined ? false : `${absent} is not built`

interface Said {
  code: number
  text: string
}

let turn: Promise<unknown> = Promise.resolve()

/** A task of this process: one after the other, because its variables and its output are those of the process. */
function tasked(env: NodeJS.ProcessEnv, words: string[]): Promise<Said> {
  const run = async () => {
    const [own, streams] = [process.env, [process.stdout, process.stderr]]
    const writes = streams.map((stream) => stream.write)
    let text = ''
    process.env = { ...env }
    streams.forEach((stream, i) => {
      // What is no text is what the runner of tests is told.
      stream.write = ((part: string | Uint8Array, ...more: []) => {
        if (typeof part !== 'string') return writes[i]!.call(stream, part, ...more)
        text += part
        return true
      }) as typeof stream.write
    })
    try {
      return { code: await main(taskfile, words), text }
    } finally {
      process.env = own
      streams.forEach((stream, i) => (stream.write = writes[i]!))
    }
  }
  const said = turn.then(run).then((answer) => answer)
  turn = said.catch(() => undefined)
  return said
}

/** A person with a laptop of their own, and a tree in Git. */
function person(t: Pick<TestContext, 'after'>) {
  const dir = mkdtempSync(join(tmpdir(), 'fk-secrets-'))
  t.after(() => rmSync(dir, { recursive: true, force: true }))
  const at = (...names: string[]) => join(dir, ...names)
  mkdirSync(at('bin'))
  mkdirSync(at('tree'))
  for (const [name, path] of Object.entries(programs)) symlinkSync(path!, at('bin', name))
  const env = {
    ...process.env,
    PATH: `${at('bin')}:${process.env['PATH']}`,
    HOME: at(),
    FK_ENV_FILE: '/dev/null',
    FK_SITE: 'fortress-pi',
    FK_STATE_DIR: at('state'),
    FK_AGE_IDENTITY: at('identity.txt'),
    FK_LOG_DIR: at('log'),
    GIT_CONFIG_GLOBAL: at('gitconfig'),
    GIT_CONFIG_NOSYSTEM: '1',
  }
  writeFileSync(at('gitconfig'), '[user]\nname = me\nemail = me@example.org\n[init]\ndefaultBranch = main\n')
  const run = (
    program: string,
    words: string[],
    more: { cwd?: string; input?: string; env?: object } = {},
  ): Said => {
    const { status, stdout, stderr } = spawnSync(program, words, {
      cwd: more.cwd ?? at('tree'),
      env: { ...env, ...more.env },
      input: more.input ?? '',
      encoding: 'utf8',
      maxBuffer: 1 << 26,
    })
    return { code: status ?? -1, text: `${stdout}${stderr}` }
  }
  const must = (said: Said) => {
    assert.equal(said.code, 0, said.text)
    return said.text
  }
  const store = () =>
    secretStore({ dir: at('state/fortress-pi'), identity: at('identity.txt'), say: () => {} })
  return {
    at,
    run,
    must,
    store,
    task: (...words: string[]) => tasked(env, ['secrets', ...words]),
    identity: (...words: string[]) => tasked(env, ['identity', ...words]),
    git: (...words: string[]) => must(run('git', words)),
    put: (file: string, text: string) => {
      mkdirSync(dirname(at('tree', file)), { recursive: true })
      writeFileSync(at('tree', file), text)
    },
    read: (file: string) => readFileSync(at('tree', file), 'utf8'),
    /** What sops makes of a file with one key alone. */
    open: (key: string, file: string) =>
      run('sops', ['--disable-version-check', 'decrypt', file], {
        env: { SOPS_AGE_KEY: key, HOME: '/nonexistent' },
      }),
    encrypt: (file: string) => must(run('sops', ['--disable-version-check', 'encrypt', '--in-place', file])),
    laptop: () => keyLines(readFileSync(at('identity.txt'), 'utf8'))[0]!,
    cluster: async () => keyLines((await store().get(clusterKeys)).reveal()),
  }
}

type Person = ReturnType<typeof person>

/** Files of every kind that sops knows, with what is in each. */
const kinds: Record<string, string> = {
  'apps/db.sops.yaml':
    'apiVersion: v1\nkind: Secret\nmetadata:\n    name: db\nstringData:\n    password: correct horse battery\n',
  'apps/values.sops.json': '{\n\t"password": "correct horse battery"\n}\n',
  'apps/db.sops.env': 'PASSWORD=correct horse battery\n',
  'apps/db.sops.ini': '[db]\npassword = correct horse battery\n',
  'apps/key.sops.bin': 'correct horse battery\n',
}

/** A tree whose files are encrypted by its .sops.yaml, committed. */
async function tree(t: Pick<TestContext, 'after'>): Promise<Person> {
  const me = person(t)
  me.must(await me.task('sops', me.at('tree')))
  for (const [file, text] of Object.entries(kinds)) {
    me.put(file, text)
    me.encrypt(file)
  }
  me.git('init', '--quiet')
  me.git('add', '--all')
  me.git('commit', '--quiet', '--message=one')
  return me
}

const all = (me: Person) => Object.fromEntries(Object.keys(kinds).map((file) => [file, me.read(file)]))

describe('files for people and cluster', { skip }, () => {
  test('.sops.yaml names the laptop and the cluster; a second run changes nothing', async (t) => {
    const me = person(t)
    me.must(await me.task('sops', me.at('tree')))
    const text = me.read('.sops.yaml')
    const wanted = await Promise.all(
      [me.laptop(), (await me.cluster())[0]!].map((key) => identityToRecipient(key)),
    )
    assert.deepEqual(
      [...text.matchAll(/^ {6}- (age1\S+)/gm)].map(([, key]) => key),
      [...wanted, ...wanted],
    )
    const before = statSync(me.at('tree/.sops.yaml'))
    assert.match(me.must(await me.task('sops', me.at('tree'))), /holds what it should/)
    const { ino, mtimeMs } = statSync(me.at('tree/.sops.yaml'))
    assert.deepEqual([ino, mtimeMs], [before.ino, before.mtimeMs])
    assert.equal(before.mode & 0o777, 0o644)
    assert.doesNotMatch(text, /AGE-SECRET/)
  })

  test('either key alone opens every kind of file, and a third one opens none', async (t) => {
    const me = await tree(t)
    const third = await generateHybridIdentity()
    const [cluster = ''] = await me.cluster()
    for (const [file, text] of Object.entries(kinds)) {
      assert.doesNotMatch(me.read(file), /correct horse/)
      for (const key of [me.laptop(), cluster]) assert.equal(me.must(me.open(key, file)), text, file)
      assert.notEqual(me.open(third, file).code, 0)
    }
    assert.match(me.must(await me.task('check', me.at('tree'))), /^No secret stands in clear in 6 files\.$/m)
  })

  test('a changed value, and a value under another name, are refused by sops', async (t) => {
    const me = await tree(t)
    const text = me.read('apps/db.sops.yaml')
    me.put('apps/db.sops.yaml', text.replace('name: db', 'name: other'))
    assert.match(me.open(me.laptop(), 'apps/db.sops.yaml').text, /MAC mismatch/)
  })

  test('one key for both is refused, and nothing is written', async (t) => {
    const me = person(t)
    const store = me.store()
    await store.put('other', 'x')
    await store.put(clusterKeys, me.laptop())
    const { code, text } = await me.task('sops', me.at('tree'))
    assert.equal(code, 1)
    assert.match(text, /encrypted for one key alone is lost with it/)
    assert.deepEqual(readdirSync(me.at('tree')), [])
  })

  test('a .sops.yaml of somebody else is left as it is', async (t) => {
    const me = person(t)
    me.put('.sops.yaml', 'creation_rules: []\n')
    const { code, text } = await me.task('sops', me.at('tree'))
    assert.equal(code, 1)
    assert.match(text, /is not one of ours[^]*age1/)
    assert.equal(me.read('.sops.yaml'), 'creation_rules: []\n')
    assert.equal((await me.task('rotate', me.at('tree'))).code, 1)
  })

  test('files for others are named', async (t) => {
    const me = await tree(t)
    const store = me.store()
    await store.put(clusterKeys, await generateHybridIdentity())
    const { code, text } = await me.task('sops', me.at('tree'))
    assert.equal(code, 2)
    assert.match(text, /5 files there are encrypted for others: \.\/task secrets rotate/)
  })

  test('what is no directory, and flags of another action, are refused', async (t) => {
    const me = person(t)
    for (const words of [
      ['sops', me.at('nowhere')],
      ['rotate', '--staged', me.at('tree')],
      ['check', '--history', me.at('tree')],
    ])
      assert.equal((await me.task(...words)).code, 1, words.join(' '))
  })
})

/** The data keys of a file, by one identity. */
const sections = (text: string) => text.match(/-----BEGIN AGE[^]*?END AGE ENCRYPTED FILE-----/g) ?? []

describe('a new key', { skip }, () => {
  test('old keys open nothing in the tree; new ones open what was in it; the history is as it was', async (t) => {
    const me = await tree(t)
    const [old = ''] = await me.cluster()
    const oldRecipient = await identityToRecipient(old)
    const before = all(me)
    chmodSync(me.at('tree/apps/db.sops.env'), 0o640)
    // A file that Git does not have is in the tree, too.
    me.put('.gitignore', 'kept.sops.txt\n')
    me.put('kept.sops.txt', 'correct horse battery\n')
    me.encrypt('kept.sops.txt')
    const said = me.must(await me.task('rotate', me.at('tree')))
    assert.match(said, /6 files encrypted anew/)
    assert.match(said, /In the history of Git[^]*they open what they did/)
    const [made = '', ...kept] = await me.cluster()
    assert.deepEqual(kept, [old])
    for (const [file, text] of Object.entries(kinds)) {
      const now = me.read(file)
      assert.notEqual(me.open(old, file).code, 0, file)
      for (const key of [made, me.laptop()]) assert.equal(me.must(me.open(key, file)), text, file)
      assert.deepEqual(encryptedAs(now)?.recipients.includes(oldRecipient), false)
      // Nothing that was encrypted is as it was: neither values nor the data key.
      const values = (of: string) => of.match(/ENC\[AES256_GCM,data:[^,]*/g) ?? []
      assert.ok(values(now).length > 0 && values(now).every((one) => !before[file]!.includes(one)), file)
      assert.ok(
        sections(now).every((one) => !before[file]!.includes(one)),
        file,
      )
    }
    assert.notEqual(me.open(old, 'kept.sops.txt').code, 0)
    const hits = me.run('grep', [
      '--recursive',
      '--files-with-matches',
      '--exclude-dir=.git',
      oldRecipient,
      '.',
    ])
    assert.deepEqual(hits, { code: 1, text: '' })
    assert.equal(statSync(me.at('tree/apps/db.sops.env')).mode & 0o777, 0o640)
    // What is honest: the commit of before opens with the key of before.
    me.put('old.sops.yaml', me.must(me.run('git', ['show', 'HEAD:apps/db.sops.yaml'])))
    assert.match(me.must(me.open(old, 'old.sops.yaml')), /correct horse/)
  })

  test('a data key is a new one, for who knows the old one, too', async (t) => {
    const me = await tree(t)
    const [old = ''] = await me.cluster()
    const dataKey = async (key: string, text: string) => {
      const { Decrypter, armor } = await import('age-encryption')
      for (const section of sections(text.replaceAll('\\n', '\n'))) {
        const decrypter = new Decrypter()
        decrypter.addIdentity(key)
        const lines = section.split('\n').map((line) => line.trim())
        try {
          return Buffer.from(await decrypter.decrypt(armor.decode(lines.join('\n')))).toString('hex')
        } catch {
          // for the other one
        }
      }
      return undefined
    }
    const before = await dataKey(old, me.read('apps/db.sops.yaml'))
    assert.ok(before !== undefined)
    me.must(await me.task('rotate', me.at('tree')))
    const [made = ''] = await me.cluster()
    const after = await dataKey(made, me.read('apps/db.sops.yaml'))
    assert.ok(after !== undefined && after !== before)
    assert.equal(await dataKey(old, me.read('apps/db.sops.yaml')), undefined)
  })

  test('what was interrupted goes on with the same key', async (t) => {
    const me = await tree(t)
    const [old = ''] = await me.cluster()
    // The third file that is encrypted anew ends it.
    rmSync(me.at('bin/sops'))
    const wrapper = `#!/bin/bash
if [[ " $* " == *" rotate "* ]]; then
  echo >> ${me.at('count')}
  [ "$(wc --lines < ${me.at('count')})" -ne 3 ] || { cat > /dev/null; echo killed >&2; exit 1; }
fi
exec ${programs.sops} "$@"
`
    writeFileSync(me.at('bin/sops'), wrapper, { mode: 0o755 })
    const { code, text } = await me.task('rotate', me.at('tree'))
    assert.equal(code, 1, text)
    assert.match(text, /could not be encrypted anew[^]*killed/)
    const [made = ''] = await me.cluster()
    assert.notEqual(made, old)
    const files = Object.keys(kinds)
    const opened = files.filter((file) => me.open(old, file).code === 0)
    assert.equal(opened.length, 3)
    // Either key of the laptop opens all of it at any moment.
    for (const file of files) me.must(me.open(me.laptop(), file))
    assert.match(me.must(await me.task('rotate', me.at('tree'))), /3 files encrypted anew/)
    assert.deepEqual(await me.cluster(), [made, old])
    for (const file of files) assert.notEqual(me.open(old, file).code, 0)
    assert.deepEqual(readdirSync(me.at('tree/apps')).length, files.length)
  })

  for (const [what, spoil, says] of [
    [
      'a file that no key of the laptop opens',
      async (me: Person) => {
        const other = await identityToRecipient(await generateIdentity())
        me.put('x.txt', 'correct horse\n')
        me.must(
          me.run('sops', [
            '--disable-version-check',
            '--config',
            '/dev/null',
            'encrypt',
            '--age',
            other,
            '--in-place',
            'x.txt',
          ]),
        )
      },
      /x\.txt: no key of this laptop opens it/,
    ],
    [
      'a file that somebody has changed',
      (me: Person) =>
        me.put('apps/db.sops.yaml', me.read('apps/db.sops.yaml').replace('name: db', 'name: x')),
      /db\.sops\.yaml: no key of this laptop opens it, or it was changed/,
    ],
    [
      'a file that a key of another kind opens, too',
      (me: Person) =>
        me.put(
          'apps/db.sops.yaml',
          me.read('apps/db.sops.yaml').replace('sops:\n', 'sops:\n    pgp: [{ fp: X }]\n'),
        ),
      /db\.sops\.yaml: opened by pgp too/,
    ],
    ['a tree without .sops.yaml', (me: Person) => rmSync(me.at('tree/.sops.yaml')), /has no \.sops\.yaml/],
    ['a .sops.yaml of somebody else', (me: Person) => me.put('.sops.yaml', '# mine\n'), /is not one of ours/],
  ] as const)
    test(`${what} is refused before anything is changed`, async (t) => {
      const me = await tree(t)
      await spoil(me)
      const [files, keys] = [all(me), await me.cluster()]
      const { code, text } = await me.task('rotate', me.at('tree'))
      assert.equal(code, 1, text)
      assert.match(text, says)
      assert.deepEqual(all(me), files)
      assert.deepEqual(await me.cluster(), keys)
    })

  test('after a new identity of the laptop the old one opens nothing, either', async (t) => {
    const me = await tree(t)
    const before = me.laptop()
    me.must(await me.identity('new'))
    assert.equal((await me.task('sops', me.at('tree'))).code, 2)
    me.must(await me.task('rotate', me.at('tree')))
    for (const [file, text] of Object.entries(kinds)) {
      assert.notEqual(me.open(before, file).code, 0)
      assert.equal(me.must(me.open(me.laptop(), file)), text)
    }
  })
})

const planted = (me: Person) => {
  const made = plants()
  for (const { file, text } of made) me.put(file, text)
  return made
}
const found = ({ text }: Said) => [...text.matchAll(/^(\S+):\d+ {2}\S/gm)].map(([, file]) => file!)
const quiet = (text: string, made: ReturnType<typeof plants>) => {
  for (const { value, what } of made)
    for (const line of value?.trim().split('\n') ?? [])
      assert.ok(line.startsWith('-----') || !text.includes(line), `the report has ${what}`)
}

describe('what stands in clear', { skip }, () => {
  test('every kind of it is found in files, and none is shown', async (t) => {
    const me = person(t)
    me.git('init', '--quiet')
    const made = planted(me)
    assert.ok(made.length >= 25)
    const said = await me.task('check', me.at('tree'))
    assert.equal(said.code, 2)
    const files = found(said)
    assert.deepEqual(
      made.filter(({ file }) => !files.includes(file)).map(({ what }) => what),
      [],
    )
    quiet(said.text, made)
    // Without Git, too.
    rmSync(me.at('tree/.git'), { recursive: true })
    const without = found(await me.task('check', me.at('tree')))
    assert.deepEqual([...new Set(without)].sort(), [...new Set(files)].sort())
  })

  test('every kind of it is found in the history, when no file has it any more', async (t) => {
    const me = person(t)
    me.git('init', '--quiet')
    const made = plants().filter(({ value }) => value !== undefined)
    assert.ok(made.length >= 25)
    for (const { file, text } of made) me.put(file, text)
    me.git('add', '--all')
    me.git('commit', '--quiet', '--message=one')
    for (const { file } of made) rmSync(me.at('tree', file))
    me.put('README', 'nothing\n')
    me.git('add', '--all')
    me.git('commit', '--quiet', '--message=two')
    // What somebody has set for their own reading hides nothing.
    me.git('config', 'diff.noprefix', 'true')
    me.git('config', 'color.ui', 'always')
    assert.equal((await me.task('check', me.at('tree'))).code, 0)
    const said = await me.task('check', '--history', me.at('tree'))
    assert.equal(said.code, 2)
    const files = found(said)
    assert.deepEqual(
      made.filter(({ file }) => !files.includes(file)).map(({ what }) => what),
      [],
    )
    assert.match(said.text, /, commit [0-9a-f]{12}\n/)
    quiet(said.text, made)
  })

  test('what only looks like it is not', async (t) => {
    const me = person(t)
    me.git('init', '--quiet')
    for (const { file, text } of innocent()) me.put(file, text)
    const said = await me.task('check', me.at('tree'))
    assert.equal(said.code, 0, said.text)
    me.git('add', '--all')
    me.git('commit', '--quiet', '--message=one')
    const past = await me.task('check', '--history', me.at('tree'))
    assert.equal(past.code, 0, past.text)
  })

  test('another branch, a stash, and a merge that brings what neither side had, are looked through', async (t) => {
    const me = person(t)
    const token = (name: string) => me.put(name, plants()[0]!.text)
    me.git('init', '--quiet')
    me.put('README', 'one\n')
    me.git('add', '--all')
    me.git('commit', '--quiet', '--message=one')
    me.git('switch', '--quiet', '--create', 'other')
    token('on-a-branch')
    me.git('add', '--all')
    me.git('commit', '--quiet', '--message=other')
    me.git('rm', '--quiet', 'on-a-branch')
    me.git('commit', '--quiet', '--message=gone')
    me.git('switch', '--quiet', 'main')
    token('in-a-stash')
    me.git('add', '--all')
    me.git('stash', '--quiet')
    me.git('merge', '--quiet', '--no-ff', '--no-commit', 'other')
    token('in-a-merge')
    me.git('add', '--all')
    me.git('commit', '--quiet', '--message=merged')
    me.git('rm', '--quiet', 'in-a-merge')
    me.git('commit', '--quiet', '--message=gone')
    assert.equal((await me.task('check', me.at('tree'))).code, 0)
    const files = found(await me.task('check', '--history', me.at('tree')))
    assert.deepEqual([...new Set(files)].sort(), ['in-a-merge', 'in-a-stash', 'on-a-branch'])
  })

  test('what Git does not take, what is allowed in its line, and what the tree ignores, is left out', async (t) => {
    const me = person(t)
    const [one, two, three] = [0, 1, 2].map(() => plants()[0]!.text.trim())
    me.git('init', '--quiet')
    me.put('.gitignore', '.env\n')
    me.put('.env', `${one}\n`)
    me.put('a.txt', `${two} # gitleaks:allow\n`)
    me.put('b.txt', `${three}\n`)
    assert.deepEqual(found(await me.task('check', me.at('tree'))), ['b.txt'])
    me.put('.gitleaksignore', 'b.txt:age-secret-key:1\n')
    assert.equal((await me.task('check', me.at('tree'))).code, 0)
    // A line further down it is another one.
    me.put('b.txt', `\n${three}\n`)
    assert.deepEqual(found(await me.task('check', me.at('tree'))), ['b.txt'])
  })

  test('a file that sops has taken and left open, and one for a single key, are found', async (t) => {
    const me = await tree(t)
    me.put('values.sops.yaml', 'replicas: 3\npassword: correct horse\n')
    me.encrypt('values.sops.yaml')
    assert.match(
      (await me.task('check', me.at('tree'))).text,
      /values\.sops\.yaml:1 {2}sops-nothing-encrypted/,
    )
    rmSync(me.at('tree/values.sops.yaml'))
    const only = await identityToRecipient(me.laptop())
    me.put('one.sops.txt', 'x\n')
    me.must(
      me.run('sops', [
        '--disable-version-check',
        '--config',
        '/dev/null',
        'encrypt',
        '--age',
        only,
        '--in-place',
        'one.sops.txt',
      ]),
    )
    assert.match((await me.task('check', me.at('tree'))).text, /one\.sops\.txt:1 {2}sops-one-key/)
  })

  test('a scan that fails is no scan that finds nothing', async (t) => {
    const me = person(t)
    me.git('init', '--quiet')
    rmSync(me.at('bin/gitleaks'))
    const wrapper = `#!/bin/bash\n[ "$1" != version ] || exec ${programs.gitleaks} version\necho '[]'; echo 'FTL broken' >&2; exit 1\n`
    writeFileSync(me.at('bin/gitleaks'), wrapper, { mode: 0o755 })
    const { code, text } = await me.task('check', me.at('tree'))
    assert.equal(code, 1)
    assert.match(text, /could not look at everything[^]*broken/)
  })

  test('this tree has none', async (t) => {
    const me = person(t)
    const said = await me.task('check', root)
    assert.equal(said.code, 0, said.text)
  })
})

describe('the hook of Git', { skip }, () => {
  const hooked = async (t: Pick<TestContext, 'after'>) => {
    const me = person(t)
    me.git('init', '--quiet')
    me.put('README', 'one\n')
    me.git('add', '--all')
    me.git('commit', '--quiet', '--message=one')
    me.must(await me.task('hook', me.at('tree')))
    return me
  }
  const count = (me: Person) => me.git('rev-list', '--count', 'HEAD').trim()

  test('it refuses a secret, however it is committed, and lets the rest pass', async (t) => {
    const me = await hooked(t)
    const token = plants()[0]!
    me.put('dir/token', token.text)
    me.git('add', '--all')
    const refused = me.run('git', ['commit', '--message=two'], { cwd: me.at('tree/dir') })
    assert.notEqual(refused.code, 0)
    assert.match(refused.text, /dir\/token:1 {2}age-secret-key/)
    quiet(refused.text, [token])
    me.git('rm', '--quiet', '--cached', 'dir/token')
    me.put('README', `one\n${token.text}`)
    for (const words of [['--all'], ['--', 'README'], ['--only', 'README']])
      assert.notEqual(me.run('git', ['commit', '--message=two', ...words]).code, 0, words.join(' '))
    assert.equal(count(me), '1')
    // The token is in the directory, and not in the commit.
    me.put('README', 'two\n')
    me.git('commit', '--quiet', '--all', '--message=two')
    assert.equal(count(me), '2')
  })

  test('a Secret in clear is refused, and the same encrypted is not', async (t) => {
    const me = await hooked(t)
    me.must(await me.task('sops', me.at('tree')))
    me.put('db.sops.yaml', kinds['apps/db.sops.yaml']!)
    me.git('add', '--all')
    const { text } = me.run('git', ['commit', '--message=two'])
    assert.match(text, /db\.sops\.yaml:1 {2}sops-not-encrypted/)
    me.encrypt('db.sops.yaml')
    // What is staged counts, and not what is beside it.
    assert.notEqual(me.run('git', ['commit', '--message=two']).code, 0)
    me.git('add', '--all')
    me.git('commit', '--quiet', '--message=two')
    assert.equal(count(me), '2')
  })

  test('a second run changes nothing, and a hook of somebody else is left as it is', async (t) => {
    const me = await hooked(t)
    const hook = me.at('tree/.git/hooks/pre-commit')
    const before = statSync(hook).mtimeMs
    assert.match(me.must(await me.task('hook', me.at('tree'))), /holds what it should/)
    assert.equal(statSync(hook).mtimeMs, before)
    writeFileSync(hook, '#!/bin/sh\nexit 0\n')
    const { code, text } = await me.task('hook', me.at('tree'))
    assert.equal(code, 1)
    assert.match(text, /is not one of ours[^]*secrets check --staged/)
    assert.equal(readFileSync(hook, 'utf8'), '#!/bin/sh\nexit 0\n')
    assert.equal((await me.task('hook', me.at('bin'))).code, 1)
  })

  test('it goes where Git looks for it: another directory of hooks, and a second work tree', async (t) => {
    const me = await hooked(t)
    me.git('worktree', 'add', '--quiet', me.at('second'))
    writeFileSync(me.at('second/token'), plants()[0]!.text)
    me.must(me.run('git', ['add', '--all'], { cwd: me.at('second') }))
    assert.notEqual(me.run('git', ['commit', '--message=two'], { cwd: me.at('second') }).code, 0)
    me.git('config', 'core.hooksPath', me.at('hooks'))
    me.must(await me.task('hook', me.at('tree')))
    assert.ok(existsSync(me.at('hooks/pre-commit')))
  })
})
