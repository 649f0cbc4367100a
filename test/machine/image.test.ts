import assert from 'node:assert/strict'
import { execFileSync, spawn, spawnSync } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { type Server, createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { type Kit, node, root, said } from './kit.ts'
import { type Checkout, checkout, differences } from './laptop.ts'
import { left, runPrinted, sameLeft } from './printed.ts'

const noGpg = ['gpg', 'gpgv'].some((name) => spawnSync(name, ['--version']).error !== undefined)
  ? 'gpg and gpgv are not installed'
  : false

describe('the image of the node', { skip: noGpg }, () => {
  const bytes = randomBytes(48 * 1024 * 1024 + 5)
  const digest = createHash('sha256').update(bytes).digest('hex')
  const scratch = mkdtempSync(join(tmpdir(), 'fk-image-'))
  const home = join(scratch, 'gpg')
  const files = new Map<string, Buffer>()
  const asked: string[] = []
  const server: Server = createServer((request, response) => {
    asked.push(request.url ?? '')
    const body = files.get(request.url ?? '')
    if (body) response.writeHead(200, { etag: '"1"', 'content-length': body.length }).end(body)
    else response.writeHead(404).end()
  })
  const at = '/var/lib/fortress/images'
  const path = (version: string) => `${at}/flatcar-${version}-amd64.img`
  let kit: Kit & { end(): Promise<void> }
  let copy: Checkout
  let maker = ''
  let untouched = ''
  let applied = ''

  const gpg = (...words: string[]) =>
    execFileSync('gpg', ['--homedir', home, '--batch', '--quiet', '--yes', '--passphrase', '', ...words], {
      stdio: ['ignore', 'pipe', 'pipe'],
      maxBuffer: 1 << 28,
    })
  const fingerprint = (uid: string) =>
    /^fpr:+([0-9A-F]{40}):$/m.exec(gpg('--with-colons', '--list-keys', uid).toString())?.[1] ?? ''
  /** Publishes a version, signed by `uid`, and pins it. */
  const publish = (version: string, uid: string) => {
    writeFileSync(join(scratch, 'image'), bytes)
    files.set(`/files.example/${version}/image.img`, bytes)
    files.set(
      `/files.example/${version}/image.img.sig`,
      gpg('--local-user', uid, '--detach-sign', '--output', '-', join(scratch, 'image')),
    )
    files.set('/files.example/key.asc', gpg('--armor', '--export', maker))
    writeFileSync(
      join(copy.dir, 'config/versions.yaml'),
      `flatcar:
  version: '${version}'
  url: { amd64: 'https://files.example/{version}/image.img' }
  signature:
    kind: gpg
    key: ${maker}
    key_url: https://files.example/key.asc
    url: { amd64: 'https://files.example/{version}/image.img.sig' }
  proof: a test
`,
    )
  }
  const page = (...words: string[]) => kit.page(copy.page('11-vm-image'), ...words)
  const there = async () => (await kit.root(`cd ${at} && find . -type f -printf '%f %m %u\\n' | sort`)).stdout

  before(async () => {
    kit = await node(undefined, 'image', { net: true })
    copy = checkout()
    mkdirSync(home, { mode: 0o700 })
    for (const name of ['maker', 'thief'])
      gpg('--quick-gen-key', `${name}@example.org`, 'ed25519', 'sign', '1y')
    maker = fingerprint('maker@example.org')
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    kit.env['FK_MIRROR'] = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
    kit.env['FK_DOWNLOAD_DIR'] = join(scratch, 'downloads')
    untouched = await kit.digest()
  })
  after(async () => {
    server.closeAllConnections()
    server.close()
    spawnSync('gpgconf', ['--homedir', home, '--kill', 'all'])
    copy?.end()
    await kit?.end()
    rmSync(scratch, { recursive: true, force: true })
  })

  test('one that somebody else signed never comes to the host', async () => {
    publish('0.9', 'thief@example.org')
    const { code, text } = await page('apply')
    assert.equal(code, 1, text)
    assert.match(text, /^ {2}said: +flatcar-0\.9-amd64\.img is not signed by the pinned key$/m)
    assert.equal(await there(), '')
  })

  test('a run that is killed while it sends is gone on with, and the host has it to the byte', async () => {
    publish('1.0', 'maker@example.org')
    const child = kit.start(copy.page('11-vm-image'), 'apply')
    const ended = said(child)
    const part = `${at}/.flatcar-1.0-amd64.img.${digest.slice(0, 16)}.part`
    let size = 0
    while (size === 0 && child.exitCode === null) {
      size = Number((await kit.root(`stat --format=%s ${part} 2> /dev/null || echo 0`)).stdout)
      await sleep(20)
    }
    child.kill('SIGKILL')
    await ended
    await sleep(1000)
    const half = Number((await kit.root(`stat --format=%s ${part} 2> /dev/null || echo 0`)).stdout)
    assert.ok(half > 0 && half <= bytes.length, `${half} bytes`)
    const { code, text } = await page('apply', '--json')
    assert.equal(code, 0, text)
    const events = text
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as Record<string, unknown>)
    const sent = events.filter(({ does }) => does === 'sending').map((event) => Number(event['bytes']))
    assert.ok(half === bytes.length || sent.length > 0, 'it does not tell how far it is')
    assert.ok(
      sent.every((n) => n > half),
      `${half} bytes were there, and it sent ${sent.join(', ')}`,
    )
    assert.equal((await kit.root(`sha256sum < ${path('1.0')}`)).stdout, `${digest}  -\n`)
    assert.equal(await there(), 'flatcar-1.0-amd64.img 444 root\nflatcar-1.0-amd64.img.sha256 444 root\n')
    assert.equal((await kit.root(`stat --format='%a %U:%G' ${at}`)).stdout, '755 root:root\n')
  })

  test('a second apply changes nothing, fetches nothing and sends nothing', async () => {
    asked.length = 0
    const { code, text } = await page('apply')
    assert.equal(code, 0, text)
    assert.match(text, /^11-vm-image: 3 steps hold, 1 of 1 control holds$/m)
    assert.deepEqual(asked, [])
    assert.doesNotMatch(text, /sending/)
  })

  for (const [what, harm, found] of [
    [
      'was changed on the host',
      `chmod u+w ${path('1.0')} && printf x >> ${path('1.0')} && chmod 444 ${path('1.0')}`,
      /is not what it was when it was proven/,
    ],
    ['can be written', `chmod 644 ${path('1.0')}`, /can be changed: 644 root:root/],
    [
      'is a link to another',
      `mv ${path('1.0')} /root/other && ln -s /root/other ${path('1.0')}`,
      /is not there/,
    ],
    ['has lost its record', `rm ${path('1.0')}.sha256`, /nothing tells what was proven/],
  ] as const)
    test(`one that ${what} is seen, and brought again from the laptop's cache`, async () => {
      asked.length = 0
      assert.equal((await kit.root(harm)).code, 0)
      const seen = await page('verify')
      assert.equal(seen.code, 1)
      assert.match(seen.text, found)
      const { code, text } = await page('apply')
      assert.equal(code, 0, text)
      assert.deepEqual(asked, [])
      assert.equal((await kit.root(`sha256sum < ${path('1.0')}`)).stdout, `${digest}  -\n`)
    })

  test('what arrives other than it was sent gets no name, and is sent again by the next run', async () => {
    publish('1.1', 'maker@example.org')
    const part = `${at}/.flatcar-1.1-amd64.img.${digest.slice(0, 16)}.part`
    await kit.root(`head --bytes=${bytes.length} /dev/zero > ${part}`)
    const { code, text } = await page('apply')
    assert.equal(code, 1)
    assert.match(
      text,
      /^ {2}said: +what arrived for .*flatcar-1\.1-amd64\.img is not what was sent; it is deleted/m,
    )
    assert.doesNotMatch(await there(), /1\.1/)
    assert.equal((await page('apply')).code, 0)
    assert.equal((await kit.root(`sha256sum < ${path('1.1')}`)).stdout, `${digest}  -\n`)
  })

  test('the doctor asks the machine everything, and changes nothing', async () => {
    const before = await kit.digest()
    const env = Object.fromEntries(
      Object.entries(process.env).filter(([name]) => !/^FK_(?!ENV_FILE)/.test(name)),
    )
    const { text } = await said(
      spawn(process.execPath, [join(root, 'bin/task.cjs'), 'doctor', '--json'], {
        env: { ...env, ...kit.env },
      }),
    )
    const found = text
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as Record<string, string>)
    const of = found.filter(({ of }) => of === 'fortress').map(({ subject }) => subject)
    for (const subject of [
      'access',
      'system',
      'clock',
      'cpu',
      'firmware',
      'tpm',
      'memory',
      'room',
      'disk',
      'nic',
      'apparmor',
    ])
      assert.ok(of.includes(subject), `${subject} is missing in\n${text}`)
    assert.match(found.find(({ subject }) => subject === 'clock')?.['found'] ?? '', /^as here/)
    assert.equal(found.find(({ subject }) => subject === 'system')?.['state'], 'ok', text)
    assert.deepEqual(differences(before, await kit.digest()), [])
  })

  test('undo takes it all back', async () => {
    applied = await left(kit)
    const { code, text } = await page('undo')
    assert.equal(code, 0, text)
    assert.deepEqual(differences(untouched, await kit.digest()), [])
    assert.equal(
      (await kit.root(`ls -A ${at} 2> /dev/null; ls -A /var/lib/fortress 2> /dev/null`)).stdout,
      '',
    )
  })

  test('taken home as a folder it leaves the same as apply', async () => {
    const { code, text } = await kit.page(await copy.take(kit, '11-vm-image'), 'apply')
    assert.equal(code, 0, text)
    // The laptop had applied an older version before.
    sameLeft(applied, await left(kit), /flatcar-1\.0-amd64/)
    assert.equal((await page('undo')).code, 0)
  })

  test('taken home as bash it leaves the same as apply, and believes the pinned key alone', async () => {
    const name = (path: string) => files.get(`/files.example/${path}`)!
    const given = {
      'image.img': name('1.1/image.img'),
      'image.img.sig': name('1.1/image.img.sig'),
      'key.asc': name('key.asc'),
    }
    const installed = await kit.root(
      'DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install gpg gpgv',
    )
    assert.equal(installed.code, 0, installed.stderr)
    const printed = await copy.takeBash(kit, '11-vm-image')
    const other = { ...given, 'image.img': Buffer.from('another image') }
    await assert.rejects(runPrinted(kit, printed, { files: other }), /is not signed by/)
    await runPrinted(kit, printed, { files: given })
    // The laptop had applied an older version before; gpg brings a socket along.
    sameLeft(applied, await left(kit), /flatcar-1\.0-amd64|keyboxd\.socket/)
  })

  test('Talos comes packed, has its name once it is unpacked, and brings talosctl', async (t) => {
    const host = await node(t, 'image-talos', { net: true })
    const pinned = (name: string, body: Buffer) => {
      files.set(`/files.example/v2.0.0/${name}`, body)
      const sha256 = createHash('sha256').update(body).digest('hex')
      return `  url: { amd64: 'https://files.example/{version}/${name}' }\n  sha256: { amd64: ${sha256} }\n  proof: a test\n`
    }
    const raw = randomBytes(1024 * 1024 + 3)
    const packed = execFileSync('xz', ['--stdout'], { input: raw, maxBuffer: 1 << 24 })
    const talosctl = Buffer.from('#!/bin/sh\n')
    writeFileSync(
      join(copy.dir, 'config/versions.yaml'),
      `talos:\n  version: v2.0.0\n${pinned('nocloud.raw.xz', packed)}talosctl:\n  version: v2.0.0\n${pinned('talosctl', talosctl)}`,
    )
    // The memory of a container is too small for what a real image may need.
    await host.root(`mkdir --parents ${at} && mount -t tmpfs -o size=7G,mode=755 images ${at}`)
    for (const name of ['FK_MIRROR', 'FK_DOWNLOAD_DIR'] as const) host.env[name] = kit.env[name] as string
    host.env['FK_NODE_OS'] = 'talos'
    const { code, text } = await host.page(copy.page('11-vm-image'), 'apply')
    assert.equal(code, 0, text)
    const sum = (body: Buffer) => `${createHash('sha256').update(body).digest('hex')}  -\n`
    assert.equal((await host.root(`sha256sum < ${at}/talos-v2.0.0-amd64.raw`)).stdout, sum(raw))
    assert.equal((await host.root('sha256sum < /usr/local/sbin/talosctl')).stdout, sum(talosctl))
    assert.doesNotMatch((await host.root(`ls -A ${at}`)).stdout, /part|xz/)
    const again = await host.page(copy.page('11-vm-image'), 'apply')
    assert.match(again.text, /steps hold, 1 of 1 control holds$/m)
    assert.doesNotMatch(again.text, /changed/)
  })
})
