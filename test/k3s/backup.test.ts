// Bundles on the laptop, without a machine: what is opened, what is refused, and what a page makes of the site's word.
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import {
  Encrypter,
  generateHybridIdentity,
  generateX25519Identity,
  identityToRecipient,
} from 'age-encryption'
import type { Context } from '../../lib/engine/page.ts'
import { isChange } from '../../lib/engine/step.ts'
import { Secret } from '../../lib/ground/secret.ts'
import { laptopNotes } from '../../lib/k3s/backup.ts'
import { type Manifest, madeAt, readBundle } from '../../lib/k3s/bundle.ts'
import { recipientOf, recipientsFor, recipientsIn } from '../../lib/k3s/recipient.ts'
import { loadConfig } from '../../lib/site/config.ts'
import type { Data } from '../../lib/site/model.ts'
import backup from '../../scripts/23-k3s-backup.ts'
import { backupsTo } from '../site/made.ts'

const dir = mkdtempSync(join(tmpdir(), 'fk-bundle-'))
after(() => rmSync(dir, { recursive: true }))
const sha256 = (data: Buffer | string) => createHash('sha256').update(data).digest('hex')

/** One file of a tar archive. */
function entry(name: string, content: Buffer, kind = '0'): Buffer {
  const header = Buffer.alloc(512)
  header.write(name, 0)
  header.write('0000600\0', 100)
  header.write('0000000\0'.repeat(2), 108)
  header.write(`${content.length.toString(8).padStart(11, '0')}\0`, 124)
  header.write('00000000000\0', 136)
  header.write(' '.repeat(8), 148)
  header.write(kind, 156)
  header.write('ustar\x0000', 257, 'latin1')
  header.write(
    `${header
      .reduce((sum, byte) => sum + byte, 0)
      .toString(8)
      .padStart(6, '0')}\0 `,
    148,
  )
  return Buffer.concat([header, content, Buffer.alloc((512 - (content.length % 512)) % 512)])
}
const end = Buffer.alloc(1024)

const content: Record<string, Buffer> = {
  'rancher/k3s/token': Buffer.from('5e5e\n'),
  'server/token': Buffer.from('K10aa::server:5e5e\n'),
  // Larger than what is read at once, and not a multiple of anything.
  'snapshot/fortress-backup-1.zip': Buffer.alloc(700_001, 7),
}
const manifest = (more: Partial<Manifest> = {}): Manifest => ({
  format: 1,
  site: 'fortress',
  node: 'fortress-node',
  time: '2026-01-02T03:04:05Z',
  k3s: 'v1.36.4+k3s1',
  address: '10.77.0.2',
  revision: '12',
  database: 4096,
  authority: sha256('authority'),
  canary: { secret: sha256('a'), configmap: sha256('b') },
  files: Object.entries(content).map(([name, data]) => ({ name, bytes: data.length, sha256: sha256(data) })),
  ...more,
})
const tar = (files: [string, Buffer][] = Object.entries(content), first: unknown = manifest()) =>
  Buffer.concat([
    entry('manifest.json', Buffer.from(JSON.stringify(first))),
    ...files.map(([name, data]) => entry(name, data)),
    end,
  ])

describe('a bundle', () => {
  const identity = join(dir, 'identity')
  let recipient: string
  before(async () => {
    const key = await generateX25519Identity()
    recipient = await identityToRecipient(key)
    writeFileSync(identity, `${key}\n`, { mode: 0o600 })
  })
  let count = 0
  const sealed = async (plain: Uint8Array, to = recipient) => {
    const encrypter = new Encrypter()
    encrypter.addRecipient(to)
    const path = join(dir, `bundle-${(count += 1)}.age`)
    writeFileSync(path, await encrypter.encrypt(plain))
    return path
  }
  const refused = async (plain: Uint8Array, reason: RegExp) =>
    assert.rejects(readBundle(await sealed(plain), identity), {
      message: reason,
      state: 'nothing of it was sent anywhere',
    })

  test('is opened, and every digest is right', async () => {
    const found = await readBundle(await sealed(tar()), identity)
    assert.deepEqual(found.manifest, manifest())
    assert.equal(found.text('server/token'), 'K10aa::server:5e5e\n')
  })

  test('of which one byte is another is refused', async () => {
    const path = await sealed(tar())
    const bytes = readFileSync(path)
    bytes[bytes.length - 1000]! ^= 1
    writeFileSync(path, bytes)
    await assert.rejects(readBundle(path, identity), /is no age file, or it was changed or cut off/)
  })

  test('that is cut off is refused, wherever', async () => {
    const path = await sealed(tar())
    const bytes = readFileSync(path)
    for (const length of [0, 10, 300, bytes.length >> 1, bytes.length - 1]) {
      writeFileSync(path, bytes.subarray(0, length))
      await assert.rejects(readBundle(path, identity), /is no age file, or it was changed or cut off/)
    }
    // Whoever has the public key can seal what they like: also half a tar.
    for (const length of [512, 2000, 100_000, tar().length - 1024, tar().length - 512])
      await refused(tar().subarray(0, length), /it is cut off/)
  })

  test('for other identities is refused, and one that others can read is not used', async () => {
    const other = await sealed(tar(), await identityToRecipient(await generateX25519Identity()))
    await assert.rejects(readBundle(other, identity), /does not open it: it was made for other identities/)
    const open = join(dir, 'open')
    writeFileSync(open, readFileSync(identity), { mode: 0o644 })
    await assert.rejects(readBundle(await sealed(tar()), open), /others can read the age identity/)
  })

  test('whose manifest lies is refused', async () => {
    const lie = (change: (file: Manifest['files'][number]) => void) => {
      const said = manifest()
      change(said.files[2]!)
      return tar(undefined, said)
    }
    await refused(
      lie((f) => (f.sha256 = sha256('other'))),
      /snapshot\/\S+ is not what its manifest says/,
    )
    await refused(
      lie((f) => (f.bytes += 1)),
      /has 700001 bytes, and its manifest says 700002/,
    )
    await refused(
      lie((f) => (f.name = 'snapshot/other')),
      /its manifest does not list snapshot\/fortress-backup-1\.zip/,
    )
    await refused(tar(Object.entries(content).slice(0, 2)), /snapshot\/fortress-backup-1\.zip is missing/)
    await refused(
      tar([...Object.entries(content), ...Object.entries(content).slice(0, 1)]),
      /rancher\/k3s\/token is in it twice/,
    )
  })

  test('without a token, with two snapshots or with none is refused', async () => {
    const some = (...names: string[]) => {
      const files = names.map((name) => [name, content[name] ?? Buffer.from('x')] as [string, Buffer])
      return tar(
        files,
        manifest({
          files: files.map(([name, data]) => ({ name, bytes: data.length, sha256: sha256(data) })),
        }),
      )
    }
    await refused(some('rancher/k3s/token', 'snapshot/a'), /it has no server\/token/)
    await refused(some('rancher/k3s/token', 'server/token'), /it has 0 snapshots in place of one/)
    await refused(some('rancher/k3s/token', 'server/token', 'snapshot/a', 'snapshot/b'), /it has 2 snapshots/)
  })

  test('that begins with something else, or holds what has no place in it, is refused', async () => {
    await refused(
      Buffer.concat([entry('server/token', Buffer.from('x')), end]),
      /does not begin with its manifest/,
    )
    await refused(Buffer.from('no tar at all'.repeat(100)), /it is no tar archive/)
    await refused(end, /it is empty/)
    for (const [name, kind] of [
      ['../../etc/shadow', '0'],
      ['/etc/shadow', '0'],
      ['server/../../x', '0'],
      ['server/.hidden', '0'],
      ['server/link', '2'],
      ['server/device', '3'],
    ] as const)
      await refused(
        Buffer.concat([
          entry('manifest.json', Buffer.from(JSON.stringify(manifest()))),
          entry(name, Buffer.alloc(0), kind),
          end,
        ]),
        /which does not belong there/,
      )
  })

  test('of another format, or whose manifest would end up in a shell as something else, is refused', async () => {
    await refused(tar(undefined, { ...manifest(), format: 2 }), /its format is 2, and this program reads 1/)
    await refused(tar(undefined, { ...manifest(), node: 'a; reboot' }), /no node that could be one/)
    await refused(tar(undefined, { ...manifest(), k3s: 'newest' }), /no k3s that could be one/)
    await refused(tar(undefined, { ...manifest(), canary: {} }), /says nothing of the canary/)
    await refused(tar(undefined, 'x'), /its format is undefined/)
    await refused(Buffer.concat([entry('manifest.json', Buffer.from('{')), end]), /its manifest is no JSON/)
  })

  test('tells its age by its name', () => {
    assert.equal(
      madeAt('/x/fortress-backup_a_b_20260102T030405Z.age')?.toISOString(),
      '2026-01-02T03:04:05.000Z',
    )
    assert.equal(madeAt('fortress-backup_a_b_20260102T030405Z.age.part'), undefined)
  })
})

describe('the recipient of an identity', () => {
  test('is the one that age itself finds', async () => {
    for (let i = 0; i < 20; i++) {
      const key = await generateX25519Identity()
      assert.equal(recipientOf(key), await identityToRecipient(key))
    }
  })

  test('is not found for a key with a slip', async () => {
    const key = await generateX25519Identity()
    const slip = key.slice(0, 30) + (key[30] === 'Q' ? 'P' : 'Q') + key.slice(31)
    for (const wrong of [slip, key.slice(0, -1), key.replace('AGE', 'EGA'), 'x', ''])
      assert.throws(() => recipientOf(wrong), TypeError)
  })

  test('is read from a file, of a post-quantum key from the comment above it, and nobody guesses', async () => {
    const path = join(dir, 'keys')
    assert.deepEqual(recipientsIn(path), [])
    const [one, two] = [await generateX25519Identity(), await generateHybridIdentity()]
    const said = await identityToRecipient(two)
    writeFileSync(path, `# created: today\n${one}\n# public key: ${said}\n${two}\n`)
    assert.deepEqual(recipientsIn(path), [await identityToRecipient(one), said])
    writeFileSync(path, `${two}\n`)
    assert.throws(() => recipientsIn(path), /does not say the public half of its identity/)
  })

  test('is not mixed with one of the other kind, which age would refuse at every backup', async () => {
    const path = join(dir, 'mixed')
    const [old, strong] = [await generateX25519Identity(), await generateHybridIdentity()]
    const [weak, safe] = [await identityToRecipient(old), await identityToRecipient(strong)]
    const both = `${old}\n# public key: ${safe}\n${strong}\n`
    writeFileSync(path, both)
    assert.deepEqual(recipientsFor(path, undefined), [safe])
    assert.deepEqual(recipientsFor(path, safe), [safe, safe])
    assert.throws(() => recipientsFor(path, weak), /data\.recovery is an X25519 recipient/)
    writeFileSync(path, `${old}\n`)
    assert.deepEqual(recipientsFor(path, weak), [weak, weak])
    assert.throws(() => recipientsFor(path, safe), /data\.recovery is a post-quantum recipient/)
    assert.deepEqual(recipientsFor(join(dir, 'none'), safe), [safe])
  })
})

describe('the configuration of backups on a node', () => {
  const steps = (data: Partial<Data>) => {
    const config = loadConfig({ env: { FK_AGE_IDENTITY: join(dir, 'none') }, site: 'fortress' })
    const context = {
      ...config,
      site: { ...config.site, data: { ...config.site.data, ...data } },
      machine: { name: 'fortress-node' },
      secrets: (name: string) => new Secret(name, () => 'x'),
      has: () => false,
      state: dir,
    } as unknown as Context
    return backup.steps(context)
  }
  const landed = (found: ReturnType<typeof steps>) =>
    Object.fromEntries(
      found.flatMap((step) => (isChange(step) && step.target ? [[step.target.path, step.target]] : [])),
    )

  test('is nothing of places that the site has not', () => {
    const files = landed(steps({}))
    assert.deepEqual(
      Object.keys(files).filter((path) => path.startsWith('/etc/fortress')),
      ['/etc/fortress/backup/recipients', '/etc/fortress/backup/settings'],
    )
    assert.equal(
      files['/etc/fortress/backup/settings']?.text?.split('\n').slice(1).join('\n'),
      'SITE=fortress\nNODE=fortress-node\nKEEP=14\n',
    )
  })

  test('is each place, and its secrets are in no text', () => {
    const files = landed(
      steps(
        backupsTo(
          { name: 'disk', kind: 'directory', path: '/mnt/x' },
          {
            name: 'nas',
            kind: 'sftp',
            host: '192.0.2.9',
            user: 'keeper',
            path: '/b',
            host_key: 'ssh-ed25519 AAAA',
          },
          {
            name: 'far',
            kind: 's3',
            endpoint: 'https://s3.example.net',
            bucket: 'b',
            region: 'r',
            prefix: 'p/',
          },
        ),
      ),
    )
    assert.match(
      files['/etc/fortress/backup/settings']?.text ?? '',
      /^DIRECTORY=\/mnt\/x\nSSH_HOST=192\.0\.2\.9\n/m,
    )
    assert.equal(files['/etc/fortress/backup/known_hosts']?.text, 'backup ssh-ed25519 AAAA\n')
    for (const secret of ['ssh-key', 's3']) {
      assert.equal(files[`/etc/fortress/backup/${secret}`]?.text, undefined)
      assert.equal(files[`/etc/fortress/backup/${secret}`]?.mode, '600')
    }
  })

  test('is the second recipient of the site', () => {
    const text = landed(steps({ recovery: 'age1abc' }))['/etc/fortress/backup/recipients']?.text
    assert.match(text ?? '', /^age1abc$/m)
  })
})

test('a laptop that never made a backup has no notes', () => assert.deepEqual(laptopNotes(dir), []))

test('a rehearsal on a laptop that has no identity yet finds no fault, and says what it could not check', () => {
  const env = {
    ...process.env,
    FK_HOST: '',
    FK_SITE: 'fortress',
    FK_AGE_IDENTITY: '/nonexistent/identity.txt',
  }
  const words = [join(import.meta.dirname, '../../bin/task.cjs'), 'k3s-backup']
  const { status, stdout } = spawnSync(process.execPath, words, { env, encoding: 'utf8' })
  assert.equal(status, 0, stdout)
  assert.match(stdout, /^Not checked: 1 file, grep: the laptop has no age identity yet$/m)
})
