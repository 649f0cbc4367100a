// Downloads, against a server that does everything wrong that a server or a thief can do wrong.
import assert from 'node:assert/strict'
import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import {
  appendFileSync,
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { type IncomingMessage, type ServerResponse, createServer } from 'node:http'
import { createServer as createTlsServer } from 'node:https'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, beforeEach, describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { type Artifact, artifactOf } from '../../lib/engine/artifact.ts'
import { type DownloadOptions, download } from '../../lib/engine/download.ts'
import { judge, signingKey } from '../../lib/engine/signature.ts'
import type { Transfer } from '../../lib/engine/transfer.ts'
import { Fault } from '../../lib/ground/fault.ts'
import type { Pins } from '../../lib/site/model.ts'

const root = join(import.meta.dirname, '../..')
const scratch = mkdtempSync(join(tmpdir(), 'fortress-download-'))
after(() => rmSync(scratch, { recursive: true, force: true }))

const noGpg = ['gpg', 'gpgv'].some((name) => spawnSync(name, ['--version']).error !== undefined)
  ? 'gpg and gpgv are not installed'
  : false
const sha256 = (bytes: Buffer) => createHash('sha256').update(bytes).digest('hex')
const bytes = randomBytes(3 * 1024 * 1024 + 17)

// ─── a server ────────────────────────────────────────────────────────────────────────────────────────────────────────

type Answer = (request: IncomingMessage, response: ServerResponse, n: number) => void
const answers = new Map<string, Answer>()
const asked: { path: string; range: string | undefined; ifRange: string | undefined }[] = []

/** Serves `content` with ranges, as a good server does; `cut` ends each connection after so many bytes. */
const serves =
  (
    content: Buffer,
    { cut = Infinity, tag = `"${sha256(content).slice(0, 12)}"`, times = Infinity } = {},
  ): Answer =>
  (request, response, n) => {
    const range = /^bytes=(\d+)-$/.exec(request.headers.range ?? '')?.[1]
    const fits = range !== undefined && request.headers['if-range'] === tag
    const from = fits ? Number(range) : 0
    if (from > 0 && from >= content.length) {
      response.writeHead(416, { 'content-range': `bytes */${content.length}` }).end()
      return
    }
    response.writeHead(fits ? 206 : 200, {
      etag: tag,
      'content-length': content.length - from,
      ...(fits ? { 'content-range': `bytes ${from}-${content.length - 1}/${content.length}` } : {}),
    })
    if (n > times || content.length - from <= cut) response.end(content.subarray(from))
    else {
      response.write(content.subarray(from, from + cut))
      void arrived(from + cut).then(() => response.destroy())
    }
  }

/** The download has written so many bytes: what is cut off then was not on its way any more. */
async function arrived(wanted: number): Promise<void> {
  const part = join(dir, 'image-1.img.part')
  for (let i = 0; i < 1000 && (statSync(part, { throwIfNoEntry: false })?.size ?? 0) < wanted; i++)
    await sleep(10)
}

const server = createServer((request, response) => {
  const path = request.url ?? ''
  asked.push({
    path,
    range: request.headers.range,
    ifRange: request.headers['if-range'] as string | undefined,
  })
  const answer = answers.get(path)
  if (answer) answer(request, response, asked.filter((a) => a.path === path).length)
  else response.writeHead(404).end('not found')
})
let mirror = ''
before(async () => {
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  mirror = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
})
after(() => server.closeAllConnections())
after(() => server.close())

let dir = ''
beforeEach(() => {
  dir = mkdtempSync(join(scratch, 'cache-'))
  answers.clear()
  asked.length = 0
})

const at = (path: string) => `/files.example/${path}`
const image = (more: Partial<Artifact> = {}): Artifact => ({
  name: 'image-1.img',
  url: 'https://files.example/image.img',
  sha256: sha256(bytes),
  ...more,
})
const fetchIt = (artifact = image(), options: Partial<DownloadOptions> = {}) =>
  download(artifact, { dir, mirror, stall: 300, tries: 3, ...options })
const named = () => existsSync(join(dir, 'image-1.img'))

/** The whole text of a refusal; nothing has the final name after it. */
async function refusal(running: Promise<unknown>): Promise<string> {
  try {
    await running
  } catch (error) {
    if (!(error instanceof Fault)) throw error
    assert.equal(named(), false, 'the file has its name')
    return [error.message, error.said, error.state, error.next]
      .filter(Boolean)
      .join('\n')
      .replaceAll(mirror, 'MIRROR')
  }
  return assert.fail('it was not refused')
}

// ─── patience ────────────────────────────────────────────────────────────────────────────────────────────────────────

describe('a download', () => {
  test('gets its name when its digest is right, and is for reading only', async () => {
    answers.set(at('image.img'), serves(bytes))
    const found = await fetchIt()
    assert.deepEqual(found, { path: join(dir, 'image-1.img'), bytes: bytes.length, sha256: sha256(bytes) })
    assert.deepEqual(readFileSync(found.path), bytes)
    assert.equal(statSync(found.path).mode & 0o777, 0o444)
    assert.deepEqual(readdirSync(dir).sort(), ['image-1.img', 'image-1.img.source'])
  })

  test('is not fetched again, and checked again', async () => {
    answers.set(at('image.img'), serves(bytes))
    await fetchIt()
    assert.equal((await fetchIt()).sha256, sha256(bytes))
    assert.equal(asked.length, 1)
  })

  test('that is cut five times is complete, to the byte', async () => {
    const cut = Math.ceil(bytes.length / 6)
    answers.set(at('image.img'), serves(bytes, { cut }))
    const found = await fetchIt()
    assert.deepEqual(readFileSync(found.path), bytes)
    // An answer that a busy computer was late to read is asked for again, from the same byte.
    assert.deepEqual(
      [...new Set(asked.map(({ range }) => range))],
      [undefined, ...[1, 2, 3, 4, 5].map((n) => `bytes=${n * cut}-`)],
    )
  })

  test('that is cut begins anew where the server has other bytes by then', async () => {
    const other = randomBytes(bytes.length)
    answers.set(at('image.img'), (request, response, n) =>
      n === 1 ? serves(other, { cut: 1000 })(request, response, n) : serves(bytes)(request, response, n),
    )
    await fetchIt()
    assert.equal(asked[1]?.ifRange, `"${sha256(other).slice(0, 12)}"`)
    assert.deepEqual(readFileSync(join(dir, 'image-1.img')), bytes)
  })

  test('from a server that names no version of the file is never put together from two', async () => {
    answers.set(at('image.img'), (_request, response, n) => {
      response.writeHead(200, { 'content-length': bytes.length })
      if (n > 1) response.end(bytes)
      else {
        response.write(bytes.subarray(0, 5000))
        void arrived(5000).then(() => response.destroy())
      }
    })
    await fetchIt()
    assert.deepEqual(
      asked.map(({ range }) => range),
      [undefined, undefined],
    )
  })

  test('that is complete but has no name yet is asked for once', async () => {
    answers.set(at('image.img'), serves(bytes))
    await fetchIt()
    execFileSync('mv', [join(dir, 'image-1.img'), join(dir, 'image-1.img.part')])
    await fetchIt()
    assert.equal(asked.at(-1)?.range, `bytes=${bytes.length}-`)
    assert.equal(named(), true)
  })

  test('whose beginning was spoilt by a power cut is fetched anew, once, and says so', async () => {
    const said: string[] = []
    answers.set(at('image.img'), serves(bytes))
    await fetchIt()
    rmSync(join(dir, 'image-1.img'))
    writeFileSync(join(dir, 'image-1.img.part'), Buffer.alloc(1000))
    await fetchIt(image(), { say: (sentence) => said.push(sentence) })
    assert.deepEqual(readFileSync(join(dir, 'image-1.img')), bytes)
    assert.deepEqual(said, ['image-1.img: what an earlier run had fetched does not fit; fetching all of it'])
  })

  test('survives a server that is busy for a moment', async () => {
    answers.set(at('image.img'), (request, response, n) =>
      n === 1 ? response.writeHead(503).end() : serves(bytes)(request, response, n),
    )
    assert.equal((await fetchIt()).bytes, bytes.length)
  })

  test('follows a redirect to the same mirror', async () => {
    answers.set(at('image.img'), (_request, response) =>
      response.writeHead(302, { location: '/elsewhere' }).end(),
    )
    answers.set('/elsewhere', serves(bytes))
    assert.equal((await fetchIt()).bytes, bytes.length)
  })

  test('tells how far it is, and when it is over', async () => {
    const told: Transfer[] = []
    answers.set(at('image.img'), serves(bytes))
    await fetchIt(image(), { onTransfer: (transfer) => told.push(transfer) })
    const { rate, ...last } = told.at(-1) as Transfer
    assert.deepEqual(last, {
      name: 'image-1.img',
      does: 'fetching',
      bytes: bytes.length,
      total: bytes.length,
      done: true,
    })
    assert.ok(rate > 0)
  })

  test('stops when it is told to, and keeps what has come', async () => {
    answers.set(at('image.img'), (_request, response) => {
      response.writeHead(200, { etag: '"a"', 'content-length': bytes.length })
      response.write(bytes.subarray(0, 70_000))
    })
    const stop = new AbortController()
    const running = refusal(fetchIt(image(), { signal: stop.signal, stall: 20_000 }))
    await arrived(70_000)
    stop.abort()
    assert.equal(await running, 'image-1.img was not fetched to its end\nrun it again: it goes on')
    assert.equal(statSync(join(dir, 'image-1.img.part')).size, 70_000)
  })
})

// ─── what is refused ─────────────────────────────────────────────────────────────────────────────────────────────────

describe('refused, with nothing under the final name', () => {
  test('a file that was exchanged', async () => {
    const other = Buffer.from('something else')
    answers.set(at('image.img'), serves(other))
    assert.equal(
      await refusal(fetchIt()),
      `image-1.img is not the file that is pinned
its SHA-256 is ${sha256(other)},
pinned is ${sha256(bytes)}
it is not used, and deleted
is the pin right for https://files.example/image.img? If it is, somebody has exchanged the file`,
    )
    assert.deepEqual(readdirSync(dir), [])
  })

  test('a file whose SHA-512 is another', async () => {
    answers.set(at('image.img'), serves(bytes))
    const { sha256: _, ...rest } = image({ sha512: 'ab'.repeat(64) })
    assert.match(
      await refusal(fetchIt(rest)),
      /^image-1\.img is not the file that is pinned\nits SHA-512 is /,
    )
  })

  test('a file that ends too early on the server', async () => {
    answers.set(at('image.img'), serves(bytes.subarray(0, -1)))
    assert.match(await refusal(fetchIt()), /^image-1\.img is not the file that is pinned$/m)
  })

  test('a file that a server ends too early each time', async () => {
    answers.set(at('image.img'), (_request, response) => {
      response.writeHead(200, { etag: '"a"', 'content-length': bytes.length })
      response.write(bytes.subarray(0, 10))
      void arrived(10).then(() => response.destroy())
    })
    // The server ends it, and not the stall of the tests that are about one: a busy machine takes 0.3 s for ten bytes.
    const text = await refusal(fetchIt(image(), { stall: 5000 }))
    assert.match(
      text.replace(/: .+\n(10 bytes are kept|nothing was fetched)\n/, ': WHY\nKEPT\n'),
      /^image-1\.img cannot be fetched\n127\.0\.0\.1:\d+: WHY\nKEPT\nrun it again: it goes on where it was$/,
    )
  })

  test('a cached file that was changed; the next run fetches it again', async () => {
    answers.set(at('image.img'), serves(bytes))
    await fetchIt()
    const path = join(dir, 'image-1.img')
    chmodSync(path, 0o644)
    appendFileSync(path, 'x')
    assert.equal(
      await refusal(fetchIt()),
      `image-1.img was changed after it was verified
image-1.img is not the file that is pinned
${path} is deleted
find out who changed it; the next run fetches it again`,
    )
    assert.equal((await fetchIt()).sha256, sha256(bytes))
  })

  test('a redirect that leads round in a circle', async () => {
    answers.set(at('image.img'), (_request, response) =>
      response.writeHead(302, { location: '/round' }).end(),
    )
    answers.set('/round', (_request, response) =>
      response.writeHead(301, { location: at('image.img') }).end(),
    )
    assert.equal(
      await refusal(fetchIt()),
      `image-1.img cannot be fetched: the server sends us round in a circle
more than 5 redirects, the last to MIRROR/round
is the URL right?`.replace('MIRROR/round', 'MIRROR/files.example/image.img'),
    )
    assert.equal(asked.length, 6)
  })

  test('a redirect to where nothing is encrypted', async () => {
    answers.set(at('image.img'), (_request, response) =>
      response.writeHead(302, { location: 'http://127.0.0.2:9/image.img' }).end(),
    )
    assert.equal(
      await refusal(fetchIt()),
      `image-1.img is not fetched: the server sends us to http://127.0.0.2:9/image.img, which is not https
name another server, or a mirror of yours in FK_MIRROR`,
    )
  })

  test('http, without a mirror', async () => {
    const text = await refusal(fetchIt(image({ url: `${mirror}/image.img` }), { mirror: undefined }))
    assert.match(text, /^image-1\.img is not fetched: MIRROR\/image\.img, which is not https$/m)
    assert.equal(asked.length, 0)
  })

  test('a server whose certificate is not trusted', async (t) => {
    const [key, cert] = [join(scratch, 'tls.key'), join(scratch, 'tls.crt')]
    const made = spawnSync('openssl', [
      'req',
      '-x509',
      '-newkey',
      'ec',
      '-pkeyopt',
      'ec_paramgen_curve:P-256',
      '-nodes',
      '-subj',
      '/CN=localhost',
      '-keyout',
      key,
      '-out',
      cert,
    ])
    if (made.error !== undefined) return t.skip('openssl is not installed')
    const tls = createTlsServer({ key: readFileSync(key), cert: readFileSync(cert) }, (_request, response) =>
      response.end(bytes),
    )
    await new Promise<void>((resolve) => tls.listen(0, '127.0.0.1', resolve))
    t.after(() => tls.close())
    const url = `https://127.0.0.1:${(tls.address() as AddressInfo).port}/image.img`
    const said =
      /^image-1\.img cannot be fetched: the certificate of 127\.0\.0\.1:\d+ is not trusted\nself-signed certificate.*\n/
    assert.match(await refusal(fetchIt(image({ url }), { mirror: undefined })), said)
    // Where another server has sent us there, it is this one that is named.
    answers.set(at('image.img'), (_request, response) => response.writeHead(302, { location: url }).end())
    const text = await refusal(fetchIt())
    assert.match(text, said)
    assert.doesNotMatch(text, /MIRROR/)
  })

  test('a file that is not there', async () => {
    assert.equal(
      await refusal(fetchIt()),
      `image-1.img cannot be fetched: it is not there
MIRROR/files.example/image.img
old releases are taken away: pin a newer version in config/versions.yaml`,
    )
  })

  test('a server that asks who we are', async () => {
    answers.set(at('image.img'), (_request, response) => response.writeHead(401).end())
    assert.match(await refusal(fetchIt()), /^image-1\.img cannot be fetched: the server answers 401$/m)
  })

  test('a server that packs what it sends', async () => {
    answers.set(at('image.img'), (_request, response) =>
      response.writeHead(200, { 'content-encoding': 'gzip' }).end('x'),
    )
    assert.match(await refusal(fetchIt()), /^image-1\.img cannot be fetched: the server packs it$/m)
  })

  test('a connection that stalls before anything comes', async () => {
    answers.set(at('image.img'), () => {})
    assert.match(
      await refusal(fetchIt(image(), { tries: 2 })),
      /^image-1\.img cannot be fetched\n127\.0\.0\.1:\d+ sent nothing for 0\.3 s\nnothing was fetched\n/,
    )
    assert.equal(asked.length, 2)
  })

  test('a connection that stalls in the middle is given up, and gone on with', async () => {
    answers.set(at('image.img'), (request, response, n) => {
      if (n > 1) return serves(bytes)(request, response, n)
      response.writeHead(200, { etag: `"${sha256(bytes).slice(0, 12)}"`, 'content-length': bytes.length })
      return void response.write(bytes.subarray(0, 100_000))
    })
    assert.equal((await fetchIt()).bytes, bytes.length)
    assert.equal(asked[1]?.range, 'bytes=100000-')
  })

  test('nobody listens', async () => {
    const text = await refusal(fetchIt(image(), { mirror: 'http://127.0.0.1:1', tries: 2 }))
    assert.match(
      text,
      /^image-1\.img cannot be fetched\n127\.0\.0\.1:1: .*ECONNREFUSED|^image-1\.img cannot be fetched\n127\.0\.0\.1:1: bad port/,
    )
  })

  test('a file larger than the disk, before it is begun', async () => {
    answers.set(at('image.img'), (_request, response) => {
      response.writeHead(200, { 'content-length': 15 * 1024 ** 3 })
      response.write('x')
    })
    const { bavail, bsize } = (await import('node:fs')).statfsSync(dir)
    if (bavail * bsize > 15 * 1024 ** 3)
      answers.set(at('image.img'), (_request, response) =>
        response.writeHead(200, { 'content-length': 17 * 1024 ** 3 }).write('x'),
      )
    assert.match(
      await refusal(fetchIt()),
      /^image-1\.img (does not fit on this disk|is larger than anything it could be)$/m,
    )
  })

  test('a disk that is full', { skip: small() }, async (t) => {
    const disk = join(scratch, 'small')
    mkdirSync(disk)
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', disk])
    t.after(() => execFileSync('umount', [disk]))
    answers.set(at('image.img'), serves(bytes))
    assert.equal(
      (await refusal(fetchIt(image(), { dir: disk }))).replace(/has \d+ MiB left/, 'has N MiB left'),
      `image-1.img does not fit on this disk
${disk} has N MiB left, 3 MiB are still to come
make room, or name another place in FK_DOWNLOAD_DIR`,
    )
    // A server that does not say how much is coming: the disk itself says no.
    answers.set(
      at('image.img'),
      (_request, response) => void response.writeHead(200, { etag: '"a"' }).end(bytes),
    )
    assert.match(
      (await refusal(fetchIt(image(), { dir: disk }))).replace(/\n.* is full: \d MiB/, '\nIt is full: N MiB'),
      /^image-1\.img does not fit on this disk\nIt is full: N MiB have come\nmake room, .* FK_DOWNLOAD_DIR; it goes on where it was$/,
    )
    assert.equal(existsSync(join(disk, 'image-1.img')), false)
  })

  test('a pin without a proof, before anybody is asked', async () => {
    const { sha256: _, ...bare } = image({ unproven: 'nobody publishes it' })
    assert.equal(
      await refusal(fetchIt(bare)),
      `image-1.img is not fetched: nothing proves that it is the right file
nobody publishes it
give its proof in config/versions.yaml`,
    )
    assert.equal(asked.length, 0)
  })
})

function small(): string | false {
  if (process.getuid?.() !== 0) return 'a small disk is mounted by root only'
  const probe = mkdtempSync(join(scratch, 'probe-'))
  if (spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', probe]).status !== 0)
    return 'this container may not mount anything'
  execFileSync('umount', [probe])
  return false
}

// ─── signatures ──────────────────────────────────────────────────────────────────────────────────────────────────────

describe('signatures', { skip: noGpg }, () => {
  const made = { home: join(scratch, 'gpg') }
  const gpg = (...words: string[]) =>
    execFileSync(
      'gpg',
      [
        '--homedir',
        made.home,
        '--batch',
        '--quiet',
        '--yes',
        '--passphrase',
        '',
        '--pinentry-mode',
        'loopback',
        ...words,
      ],
      {
        stdio: ['ignore', 'pipe', 'pipe'],
      },
    )
  const fingerprints = (uid: string) =>
    [
      ...gpg('--with-colons', '--list-keys', '--with-subkey-fingerprint', uid)
        .toString()
        .matchAll(/^fpr:+([0-9A-F]{40}):$/gm),
    ].map((m) => m[1] as string)
  let maker = ''
  let sub = ''
  let thief = ''
  let old = ''
  const file = join(scratch, 'content')
  const detached = (key: string, ...words: string[]) =>
    gpg(...words, '--local-user', `${key}!`, '--detach-sign', '--output', '-', file)

  before(() => {
    mkdirSync(made.home, { mode: 0o700 })
    writeFileSync(file, bytes)
    gpg('--quick-gen-key', 'Maker <maker@example.org>', 'ed25519', 'cert', '5y')
    maker = fingerprints('maker@example.org')[0] as string
    gpg('--quick-add-key', maker, 'ed25519', 'sign', '1y')
    sub = fingerprints('maker@example.org')[1] as string
    gpg('--quick-gen-key', 'Thief <thief@example.org>', 'ed25519', 'cert,sign', '5y')
    thief = fingerprints('thief@example.org')[0] as string
    gpg(
      '--faked-system-time',
      '20200101T000000!', // and stands still: a key is made in a second, or not quite
      '--quick-gen-key',
      'Old <old@example.org>',
      'ed25519',
      'cert,sign',
      '1d',
    )
    old = fingerprints('old@example.org')[0] as string
  })
  after(() => spawnSync('gpgconf', ['--homedir', made.home, '--kill', 'all']))

  const key = (fingerprint: string) => gpg('--armor', '--export', fingerprint)
  const signedImage = (fingerprint = maker): Artifact => ({
    name: 'image-1.img',
    url: 'https://files.example/image.img',
    signature: {
      url: 'https://files.example/image.img.sig',
      key: fingerprint,
      keyUrl: 'https://keys.example/key.asc',
    },
  })
  const offer = (sig: Buffer, publicKey: Buffer, content = bytes) => {
    answers.set(at('image.img'), serves(content))
    answers.set(at('image.img.sig'), serves(sig))
    answers.set('/keys.example/key.asc', serves(publicKey))
  }

  test('a file signed by a subkey of the pinned key gets its name', async () => {
    offer(detached(sub), key(maker))
    const found = await fetchIt(signedImage())
    assert.equal(found.sha256, sha256(bytes))
    assert.deepEqual(
      asked.map(({ path }) => path),
      [at('image.img.sig'), '/keys.example/key.asc', at('image.img')],
    )
    // Without a network: the whole proof is in the cache.
    answers.clear()
    assert.equal((await fetchIt(signedImage())).sha256, sha256(bytes))
  })

  test('another key at the place of the pinned one is refused before the file is fetched', async () => {
    offer(detached(thief), key(thief))
    assert.equal(
      await refusal(fetchIt(signedImage())),
      `the key at https://keys.example/key.asc is not the pinned one
it is ${thief},
pinned is ${maker}
image-1.img was not fetched
somebody has exchanged it, or its makers have a new one: then pin that, from a source you trust`,
    )
    assert.equal(
      asked.some(({ path }) => path === at('image.img')),
      false,
    )
  })

  test('a page in place of the key is refused', async () => {
    offer(detached(sub), Buffer.from('<html>Please log in</html>'))
    assert.match(await refusal(fetchIt(signedImage())), /^it holds no key,$/m)
  })

  test('a signature by another key is refused, also when that key is in the same file', async () => {
    offer(detached(thief), Buffer.concat([gpg('--export', maker), gpg('--export', thief)]))
    const text = await refusal(fetchIt(signedImage()))
    assert.match(text, /^image-1\.img is not signed by the pinned key$/m)
  })

  test("a subkey that was glued onto the pinned key without that key's consent proves nothing", async () => {
    // The packets of the pinned key, and behind them the thief's subkey with the thief's own binding.
    gpg('--quick-add-key', thief, 'ed25519', 'sign', '1y')
    const theirs = fingerprints('thief@example.org')[1] as string
    const parts = join(scratch, 'parts')
    rmSync(parts, { recursive: true, force: true })
    mkdirSync(parts)
    writeFileSync(join(parts, 'thief.gpg'), gpg('--export', thief))
    execFileSync('gpgsplit', ['--prefix', 'p', 'thief.gpg'], { cwd: parts })
    const names = readdirSync(parts).sort()
    const from = names.findIndex((name) => name.endsWith('.public_subkey'))
    const glued = names
      .slice(from)
      .filter((name) => name !== 'thief.gpg')
      .map((name) => readFileSync(join(parts, name)))
    assert.ok(glued.length >= 2)
    offer(detached(theirs), Buffer.concat([gpg('--export', maker), ...glued]))
    assert.match(
      await refusal(fetchIt(signedImage())),
      /^image-1\.img (is not signed by the pinned key|has no signature that proves anything)$/m,
    )
  })

  test('a file that was exchanged under a good signature is refused and deleted', async () => {
    offer(detached(sub), key(maker), Buffer.concat([bytes, Buffer.from('x')]))
    const text = await refusal(fetchIt(signedImage()))
    assert.match(text, /^image-1\.img is not what its makers signed$/m)
    assert.match(text, /^it is not used, and deleted$/m)
    assert.deepEqual(readdirSync(dir), [`${maker}.asc`])
  })

  for (const [what, sig] of [
    ['an empty signature', Buffer.alloc(0)],
    ['a signature that is a page', Buffer.from('<html></html>')],
  ] as const)
    test(`${what} is refused`, async () => {
      offer(sig, key(maker))
      assert.match(
        await refusal(fetchIt(signedImage())),
        /^image-1\.img has no signature that proves anything$/m,
      )
    })

  test('two signatures of which one is good are refused', async () => {
    offer(Buffer.concat([detached(sub), detached(thief)]), key(maker))
    assert.notEqual(await refusal(fetchIt(signedImage())), '')
  })

  test('a signature with SHA-1 is refused', async () => {
    offer(detached(sub, '--digest-algo', 'SHA1'), key(maker))
    assert.match(
      await refusal(fetchIt(signedImage())),
      /^image-1\.img has no signature that proves anything$/m,
    )
  })

  test('an expired key is refused, although gpgv itself is content with it', async () => {
    offer(detached(old, '--faked-system-time', '20200101T010000'), key(old))
    const text = await refusal(fetchIt(signedImage(old)))
    assert.match(text, /^image-1\.img is signed by a key that has expired$/m)
    assert.match(text, /^pin a newer version: its makers sign with another subkey by now/m)
  })

  test('a key that was renewed by its makers is fetched again', async () => {
    const home = made.home
    gpg(
      '--faked-system-time',
      '20200101T000000!',
      '--quick-gen-key',
      'Renewed <renewed@example.org>',
      'ed25519',
      'cert,sign',
      '1d',
    )
    const renewed = fingerprints('renewed@example.org')[0] as string
    const before = key(renewed)
    gpg('--quick-set-expire', renewed, '5y')
    assert.ok(existsSync(home))
    offer(detached(renewed), key(renewed))
    writeFileSync(join(dir, `${renewed}.asc`), before)
    assert.equal((await fetchIt(signedImage(renewed))).sha256, sha256(bytes))
  })

  test('a revoked key is refused', async () => {
    gpg('--quick-gen-key', 'Gone <gone@example.org>', 'ed25519', 'cert,sign', '1y')
    const gone = fingerprints('gone@example.org')[0] as string
    const sig = detached(gone)
    const revocation = join(made.home, 'openpgp-revocs.d', `${gone}.rev`)
    writeFileSync(
      join(scratch, 'gone.rev'),
      readFileSync(revocation, 'utf8').replace(':-----BEGIN', '-----BEGIN'),
    )
    gpg('--import', join(scratch, 'gone.rev'))
    offer(sig, key(gone))
    assert.match(
      await refusal(fetchIt(signedImage(gone))),
      /^image-1\.img is signed by a key that its owner has revoked$/m,
    )
  })

  test('a cached file that was changed is refused, and so is one whose signature was', async () => {
    for (const spoilt of ['image-1.img', 'image-1.img.sig']) {
      offer(detached(sub), key(maker))
      await fetchIt(signedImage())
      chmodSync(join(dir, spoilt), 0o644)
      writeFileSync(join(dir, spoilt), 'x')
      assert.match(await refusal(fetchIt(signedImage())), /^image-1\.img was changed after it was verified$/m)
      assert.equal((await fetchIt(signedImage())).sha256, sha256(bytes))
      rmSync(join(dir, 'image-1.img'), { force: true })
    }
  })

  test('it is known when the key that signs expires', async () => {
    assert.equal(await signingKey(dir, maker), undefined)
    writeFileSync(join(dir, `${maker}.asc`), key(maker))
    const until = (await signingKey(dir, maker))?.until ?? 0
    const days = (until - Date.now()) / 86_400_000
    assert.ok(days > 363 && days < 367, `${days} days`)
    writeFileSync(join(dir, `${old}.asc`), key(old))
    assert.equal((await signingKey(dir, old))?.until, Date.UTC(2020, 0, 2))
    writeFileSync(join(dir, `${sub}.asc`), key(thief))
    assert.equal(await signingKey(dir, sub), undefined)
  })
})

describe('what gpgv says is a proof only when it is one', () => {
  const pinned = 'A'.repeat(40)
  const good = [
    '[GNUPG:] NEWSIG',
    '[GNUPG:] GOODSIG 1 Maker',
    `[GNUPG:] VALIDSIG ${'B'.repeat(40)} 2026-11-20 1 0 4 0 22 8 00 ${pinned}`,
  ]
  test('one good signature that hangs on the pinned key', () =>
    assert.equal(judge(good.join('\n'), pinned), undefined))
  for (const [what, lines] of [
    ['nothing', []],
    ['another primary key', good.map((line) => line.replace(pinned, 'C'.repeat(40)))],
    ['the pinned fingerprint only in a name', ['[GNUPG:] GOODSIG 1 Maker', `gpgv: VALIDSIG ${pinned}`]],
    ['valid, and not good', good.filter((line) => !line.includes('GOODSIG'))],
    ['two signatures', [...good, ...good]],
    ['a good one beside a bad one', [...good, '[GNUPG:] BADSIG 1 Maker']],
  ] as const)
    test(`not: ${what}`, () => assert.notEqual(judge(lines.join('\n'), pinned), undefined))
})

// ─── several at once, and killed ─────────────────────────────────────────────────────────────────────────────────────

describe('processes', () => {
  const start = (): ChildProcess => {
    const code = `
      import { download } from ${JSON.stringify(join(root, 'lib/engine/download.ts'))}
      const options = ${JSON.stringify({ dir, mirror })}
      const found = await download(${JSON.stringify(image())}, { ...options, say: (s) => console.log(s) })
      console.log(found.sha256)`
    return spawn(process.execPath, ['--import', 'tsx', '--input-type=module', '-e', code], {
      cwd: root,
      stdio: ['ignore', 'pipe', 'pipe'],
    })
  }
  let heard = ''
  const end = async (child: ChildProcess): Promise<{ text: string; signal: string | null }> => {
    let text = ''
    const hear = (d: Buffer) => {
      text += String(d)
      heard += String(d)
    }
    child.stdout?.on('data', hear)
    child.stderr?.on('data', hear)
    const signal = await new Promise<string | null>((resolve) => child.on('close', (_code, s) => resolve(s)))
    return { text, signal }
  }

  test('two at once fetch it once, and both have it', async () => {
    // The server answers when the second has found the first at work.
    const waits = /^process \d+ is fetching image-1\.img already; waiting for it$/m
    heard = ''
    answers.set(at('image.img'), async (request, response, n) => {
      for (let i = 0; i < 2000 && !waits.test(heard); i++) await sleep(10)
      serves(bytes)(request, response, n)
    })
    const said = await Promise.all([start(), start()].map(end))
    for (const { text } of said) assert.match(text, new RegExp(`^${sha256(bytes)}$`, 'm'))
    assert.equal(asked.length, 1)
    assert.equal(said.filter(({ text }) => waits.test(text)).length, 1)
    assert.deepEqual(readdirSync(dir).sort(), ['image-1.img', 'image-1.img.source'])
  })

  test('one that was killed in the middle is gone on with by the next', async () => {
    answers.set(at('image.img'), (request, response, n) => {
      if (n > 1) return serves(bytes)(request, response, n)
      response.writeHead(200, { etag: `"${sha256(bytes).slice(0, 12)}"`, 'content-length': bytes.length })
      return void response.write(bytes.subarray(0, 1_000_000))
    })
    const child = start()
    const ended = end(child)
    await arrived(1_000_000)
    child.kill('SIGKILL')
    assert.equal((await ended).signal, 'SIGKILL')
    assert.equal(named(), false)
    assert.equal(existsSync(join(dir, 'image-1.img.lock')), true)
    const found = await fetchIt()
    assert.deepEqual(readFileSync(found.path), bytes)
    assert.equal(asked[1]?.range, 'bytes=1000000-')
    assert.deepEqual(readdirSync(dir).sort(), ['image-1.img', 'image-1.img.source'])
  })

  test('many that find the lock of a dead one fetch it once', async () => {
    answers.set(at('image.img'), serves(bytes))
    writeFileSync(join(dir, 'image-1.img.lock'), '999999999 1\n')
    const found = await Promise.all(Array.from({ length: 8 }, () => fetchIt()))
    assert.deepEqual([...new Set(found.map((f) => f.sha256))], [sha256(bytes)])
    assert.equal(asked.length, 1)
  })
})

describe('what a pin stands for', () => {
  const pins: Pins = {
    tool: {
      version: 'v1.2',
      url: { any: 'https://example.org/v1.2/tool.tar.gz' },
      sha256: { any: 'a' },
      proof: 'x',
    },
    os: {
      version: '4757.2.1',
      url: { arm64: 'https://example.org/arm/os.img' },
      signature: {
        kind: 'gpg',
        key: 'F',
        key_url: 'https://example.org/key',
        url: { arm64: 'https://example.org/arm/os.img.sig' },
      },
      proof: 'x',
    },
  }
  test('its URL and proof for one architecture, and a name that says the version', () => {
    assert.deepEqual(artifactOf(pins, 'os', 'arm64'), {
      name: 'os-4757.2.1-arm64.img',
      url: 'https://example.org/arm/os.img',
      signature: { url: 'https://example.org/arm/os.img.sig', key: 'F', keyUrl: 'https://example.org/key' },
    })
    assert.deepEqual(artifactOf(pins, 'tool', 'arm64'), {
      name: 'tool-v1.2.tar.gz',
      url: 'https://example.org/v1.2/tool.tar.gz',
      sha256: 'a',
    })
  })
  test('a pin that is missing is told with what to do', () => {
    assert.throws(() => artifactOf(pins, 'other', 'amd64'), /^Error: config\/versions\.yaml has no other$/)
    assert.throws(
      () => artifactOf(pins, 'os', 'amd64'),
      /^Error: config\/versions\.yaml has no os for amd64$/,
    )
  })
})
