// A real S3 server that keeps what it has: what an attacker on the node can do with the key of the backups, and what the page sees.
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { type AddressInfo, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { builtProgram } from '../../lib/lab/lab.ts'
import { without } from '../programs.ts'

const root = join(import.meta.dirname, '../..')
const program = builtProgram('versitygw')
const missing = program === undefined ? 'versitygw is not installed' : without('curl', 'bash')

describe('an S3 bucket that is append-only', { skip: missing }, () => {
  const dir = mkdtempSync(join(tmpdir(), 'fk-objects-'))
  const name = (day: number) => `fortress-backup_fortress_node_202601${day}T000000Z.age`
  const owner = { access: 'owner', secret: 'owner-secret-of-the-bucket' }
  const key = { access: 'node', secret: 'secret-that-lies-on-the-node' }
  const policy = readFileSync(join(root, 'config/k3s/append-only/s3-policy.json'), 'utf8')
  let server: ChildProcess
  let endpoint: string

  const curl = (who: typeof key, path: string, ...words: string[]) => {
    const all = [
      '--silent',
      '--show-error',
      '--header',
      'x-amz-content-sha256: UNSIGNED-PAYLOAD',
      '--aws-sigv4',
      'aws:amz:lab:s3',
      '--user',
      `${who.access}:${who.secret}`,
    ]
    const { stdout } = spawnSync(
      'curl',
      [...all, '--write-out', '\n%{http_code}', ...words, `${endpoint}${path}`],
      {
        encoding: 'utf8',
      },
    )
    const [, text = '', code] = /^([^]*)\n(\d+)$/.exec(stdout) ?? []
    return { text, code: Number(code) }
  }
  const ok = (who: typeof key, path: string, ...words: string[]) => {
    const { text, code } = curl(who, path, ...words)
    assert.ok(code >= 200 && code < 300, `${path} ${words.join(' ')}: ${code} ${text}`)
    return text
  }
  /** The program of the node, with the functions of it alone where there is a command. */
  const run = (words: string[], command?: string) => {
    const text = readFileSync(join(root, 'config/k3s/backup.sh'), 'utf8')
      .replace(/^settings=.*$/m, `settings=${dir}/etc`)
      .replace(/^home=.*$/m, `home=${dir}/home`)
    const part =
      command === undefined ? text : `${text.slice(0, text.lastIndexOf('case "${1-}'))}\n${command}\n`
    writeFileSync(join(dir, 'backup.sh'), part)
    const { status, stdout, stderr } = spawnSync('bash', [join(dir, 'backup.sh'), ...words], {
      encoding: 'utf8',
    })
    return { code: status, text: stdout + stderr }
  }
  const ask = () => run(['append-only', 's3'])
  const allow = (...actions: string[]) => {
    const document = JSON.parse(policy) as { Statement: { Action: string[] }[] }
    document.Statement[1]!.Action.push(...actions)
    writeFileSync(join(dir, 'policy.json'), JSON.stringify(document))
    ok(owner, '/bundles?policy=', '--request', 'PUT', '--data-binary', `@${dir}/policy.json`)
  }
  const versions = () =>
    [...ok(owner, '/bundles?versions=').matchAll(/<Version>.*?<ETag>(.*?)<\/ETag>.*?<Key>(.*?)<\/Key>/g)]
      .map(([, etag, object]) => `${object} ${etag}`)
      .sort()

  before(async () => {
    const port = await new Promise<number>((resolve) => {
      const probe = createServer().listen(0, '127.0.0.1', () => {
        const found = (probe.address() as AddressInfo).port
        probe.close(() => resolve(found))
      })
    })
    endpoint = `http://127.0.0.1:${port}`
    for (const part of ['objects', 'versions', 'iam', 'etc', 'home']) mkdirSync(join(dir, part))
    const users = {
      accessAccounts: { [key.access]: { access: key.access, secret: key.secret, role: 'user' } },
    }
    writeFileSync(join(dir, 'iam/users.json'), JSON.stringify(users))
    server = spawn(
      program!,
      [
        '--port',
        `127.0.0.1:${port}`,
        '--region',
        'lab',
        '--iam-dir',
        join(dir, 'iam'),
        '--quiet',
        'posix',
        '--versioning-dir',
        join(dir, 'versions'),
        join(dir, 'objects'),
      ],
      {
        env: { PATH: process.env['PATH'], ROOT_ACCESS_KEY: owner.access, ROOT_SECRET_KEY: owner.secret },
        stdio: 'inherit',
      },
    )
    for (let i = 0; curl(owner, '/').code !== 200; i++) {
      assert.ok(i < 100, 'versitygw does not answer')
      await sleep(100)
    }
    const settings = {
      SITE: 'fortress',
      NODE: 'node',
      KEEP: 2,
      S3_ENDPOINT: endpoint,
      S3_BUCKET: 'bundles',
      S3_REGION: 'lab',
      S3_PREFIX: 'fk/',
      S3_APPEND_ONLY: 'yes',
    }
    writeFileSync(
      join(dir, 'etc/settings'),
      Object.entries(settings)
        .map(([k, v]) => `${k}=${v}\n`)
        .join(''),
    )
    writeFileSync(join(dir, 'etc/s3'), `user = "${key.access}:${key.secret}"\n`)
    for (const day of [11, 12, 13]) writeFileSync(join(dir, 'home', name(day)), `bundle ${day}`)
    ok(owner, '/bundles', '--request', 'PUT')
  })
  after(() => {
    server?.kill()
    rmSync(dir, { recursive: true, force: true })
  })

  const versioning = (status: string) =>
    ok(
      owner,
      '/bundles?versioning=',
      '--request',
      'PUT',
      '--data-binary',
      `<VersioningConfiguration><Status>${status}</Status></VersioningConfiguration>`,
    )

  test('a bucket that may not be asked is neither', () => {
    assert.equal(ask().code, 102)
  })

  test('one without versions, and a key that deletes, are seen', () => {
    allow()
    const none = ask()
    assert.equal(none.code, 1, none.text)
    assert.match(none.text, /bundles keeps no versions/)
    versioning('Enabled')
    allow('s3:DeleteObject')
    const deletes = ask()
    assert.equal(deletes.code, 1, deletes.text)
    assert.match(deletes.text, /this key may delete objects of the bucket bundles/)
    allow('s3:DeleteObjectVersion')
    const further = ask()
    assert.equal(further.code, 1, further.text)
    assert.match(further.text, /this key may delete objects and their versions/)
  })

  test('with the policy of the kit it takes bundles, lists and gives them, and nothing is deleted from the node', () => {
    allow()
    const held = ask()
    assert.equal(held.code, 0, held.text)
    for (const day of [11, 12, 13]) {
      const { code, text } = run([], `uploaded s3 ${name(day)}`)
      assert.equal(code, 0, text)
    }
    const listed = run(['list'])
      .text.split('\n')
      .filter((line) => line.startsWith('s3\t'))
    assert.deepEqual(
      listed,
      [11, 12, 13].map((day) => `s3\t${name(day)}\t9`),
    )
    rmSync(join(dir, 'home', name(12)))
    assert.equal(run(['fetch', 's3', name(12)]).code, 0)
    assert.equal(readFileSync(join(dir, 'home', name(12)), 'utf8'), 'bundle 12')
  })

  test('an attacker with the key of the node deletes no bundle, and overwrites none', () => {
    const before = versions()
    assert.equal(before.length, 3)
    const object = `/bundles/fk/${name(12)}`
    const id = /<VersionId>(.*?)<\/VersionId>/.exec(ok(owner, '/bundles?versions='))?.[1]
    const tried: [string, string[]][] = [
      [object, ['--request', 'DELETE']],
      [`${object}?versionId=${id}`, ['--request', 'DELETE']],
      ['/bundles', ['--request', 'DELETE']],
      [
        '/bundles?delete=',
        ['--request', 'POST', '--data-binary', `<Delete><Object><Key>fk/${name(12)}</Key></Object></Delete>`],
      ],
      ['/bundles?policy=', ['--request', 'DELETE']],
      ['/bundles?policy=', ['--request', 'PUT', '--data-binary', policy]],
      [
        '/bundles?versioning=',
        [
          '--request',
          'PUT',
          '--data-binary',
          '<VersioningConfiguration><Status>Suspended</Status></VersioningConfiguration>',
        ],
      ],
    ]
    for (const [path, words] of tried) {
      const { code, text } = curl(key, path, ...words)
      if (path.endsWith('delete=')) assert.match(`${code} ${text}`, /^4|<Error>/, path)
      else assert.equal(code, 403, `${path}: ${code} ${text}`)
      assert.deepEqual(versions(), before, path)
    }
    // What it can do is a newer version, and the old one is still there for the owner.
    ok(key, object, '--upload-file', join(dir, 'etc/settings'))
    const now = versions()
    assert.equal(now.length, 4)
    for (const one of before) assert.ok(now.includes(one), one)
    assert.equal(ask().code, 0)
  })

  test('more than a thousand bundles are all listed', () => {
    const all = '/bundles/fk/fortress-backup_fortress_node_20250101T[000000-001004]Z.age'
    ok(owner, all, '--request', 'PUT', '--data-binary', 'x')
    const listed = run(['list'])
      .text.split('\n')
      .filter((line) => line.startsWith('s3\t'))
    assert.equal(listed.length, 1008)
    assert.ok(listed.at(-1)?.includes(name(13)))
  })

  test('where a time is locked nobody deletes a version before it, whatever the key may', () => {
    ok(owner, '/locked', '--request', 'PUT', '--header', 'x-amz-bucket-object-lock-enabled: true')
    const retention = '<DefaultRetention><Mode>COMPLIANCE</Mode><Days>30</Days></DefaultRetention>'
    const lock = `<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule>${retention}</Rule></ObjectLockConfiguration>`
    const md5 = createHash('md5').update(lock).digest('base64')
    ok(
      owner,
      '/locked?object-lock=',
      '--request',
      'PUT',
      '--header',
      `content-md5: ${md5}`,
      '--data-binary',
      lock,
    )
    const wide = policy.replaceAll('bundles', 'locked').replace('"s3:PutObject"', '"s3:*"')
    ok(owner, '/locked?policy=', '--request', 'PUT', '--data-binary', wide)
    const settings = readFileSync(join(dir, 'etc/settings'), 'utf8')
    writeFileSync(join(dir, 'etc/settings'), settings.replace('S3_BUCKET=bundles', 'S3_BUCKET=locked'))
    const { code, text } = ask()
    assert.equal(code, 0, text)
    assert.match(text, /locked \(COMPLIANCE\)/)
    assert.equal(run([], `uploaded s3 ${name(11)}`).code, 0)
    const id = /<VersionId>(.*?)<\/VersionId>/.exec(ok(owner, '/locked?versions='))?.[1]
    for (const who of [key, owner]) {
      const deleted = curl(who, `/locked/fk/${name(11)}?versionId=${id}`, '--request', 'DELETE')
      assert.equal(deleted.code, 403, deleted.text)
    }
  })
})
