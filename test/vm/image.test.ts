// The page of the image as text, and the shell that proves one where there is no laptop.
import assert from 'node:assert/strict'
import { execFileSync, spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import type { Context } from '../../lib/engine/page.ts'
import { printed } from '../../lib/engine/print.ts'
import { loadConfig } from '../../lib/site/config.ts'
import { imageOf } from '../../lib/vm/image.ts'
import page from '../../scripts/11-vm-image.ts'

const root = join(import.meta.dirname, '../..')

function context(site = 'fortress', env: Record<string, string> = {}, arch = 'amd64'): Context {
  const config = loadConfig({ env, site })
  return {
    ...config,
    machine: {
      name: config.site.machines[0]?.name ?? '',
      os: 'debian-13',
      arch,
      model: '',
      user: 'admin',
      via: '',
    },
    secrets: () => assert.fail('no secret is asked for'),
    has: () => false,
    state: '/nonexistent',
  }
}
const names = (given: Context) => page.steps(given).map((step) => step.name)

test('Flatcar is proven by its signature, for each architecture', () => {
  assert.deepEqual(names(context()).slice(0, 2), [
    '/var/lib/fortress/images is writable by root alone',
    'the disk of /var/lib/fortress/images has room for the base image',
  ])
  for (const arch of ['amd64', 'arm64'] as const) {
    const { artifact, format, path } = imageOf(context(), { os: 'flatcar', arch })
    assert.match(
      artifact.url,
      new RegExp(`^https://stable\\.release\\.flatcar-linux\\.net/${arch}-usr/[\\d.]+/.*\\.img$`),
    )
    assert.equal(artifact.signature?.url, `${artifact.url}.sig`)
    assert.equal(artifact.signature?.key, 'F88CFEDEFF29A5B4D9523864E25D9AED0593B34A')
    assert.match(path, new RegExp(`^/var/lib/fortress/images/flatcar-[\\d.]+-${arch}\\.img$`))
    assert.equal(format, 'qcow2')
  }
})

test('Talos stops before anything is changed, as long as nothing proves its image', () => {
  const talos = context('fortress', { FK_NODE_OS: 'talos' })
  const [first] = page.steps(talos)
  assert.match(first?.name ?? '', /^a signature or digest proves the image of Talos v/)
  const step = first && 'check' in first ? first : assert.fail('it is no demand')
  assert.equal(spawnSync('bash', ['--norc', '-c', step.check.text]).status, 1)
  const text = printed({ ...page, steps: page.steps(talos) })
  assert.match(text, /^ {4}echo 'nothing proves https:\/\/factory\.talos\.dev\/.*' >&2\n {4}return 1$/m)
})

test('Talos comes with the program that speaks to it, proven by its digest', () => {
  const talos = context('fortress', { FK_NODE_OS: 'talos' })
  assert.deepEqual(names(talos).slice(-2), [
    `talosctl ${talos.pins['talosctl']?.version} is on the host, proven by its SHA-256`,
    'talosctl is installed as /usr/local/sbin/talosctl',
  ])
  const text = printed({ ...page, steps: page.steps(talos) })
  assert.match(
    text,
    new RegExp(`${talos.pins['talosctl']?.sha256?.amd64} .*talosctl-linux-amd64.* \\| sha256sum`),
  )
  assert.doesNotMatch(printed({ ...page, steps: page.steps(context()) }), /talosctl/)
})

test('the schematic of Talos is what its URL says', () => {
  const schematic = readFileSync(join(root, 'config/vm/talos-schematic.yaml'))
  const id = createHash('sha256').update(schematic).digest('hex')
  for (const url of Object.values(loadConfig({ env: {} }).pins['talos']?.url ?? {}))
    assert.equal(/\/image\/([0-9a-f]{64})\//.exec(url)?.[1], id)
})

test('a Raspberry Pi has no virtual machine, and the page says what is lost', () => {
  const [step, ...more] = page.steps(context('fortress-pi'))
  assert.equal(step?.name, 'the site has no virtual machine, and no base image for one')
  assert.match(step?.why ?? '', /^what is lost: /)
  assert.deepEqual(more, [])
})

const noGpg = ['gpg', 'gpgv'].some((name) => spawnSync(name, ['--version']).error !== undefined)
  ? 'gpg and gpgv are not installed'
  : false

describe('a printed page believes the pinned key alone', { skip: noGpg }, () => {
  const scratch = mkdtempSync(join(tmpdir(), 'fortress-image-'))
  after(() => rmSync(scratch, { recursive: true, force: true }))
  const home = join(scratch, 'gpg')
  const gpg = (...words: string[]) =>
    execFileSync('gpg', ['--homedir', home, '--batch', '--quiet', '--yes', '--passphrase', '', ...words], {
      stdio: ['ignore', 'pipe', 'pipe'],
    })
  const fingerprint = (uid: string) =>
    /^fpr:+([0-9A-F]{40}):$/m.exec(gpg('--with-colons', '--list-keys', uid).toString())?.[1] ?? ''
  const file = join(scratch, 'image')
  const past = ['--faked-system-time', '20200101T000000']

  before(() => {
    mkdirSync(home, { mode: 0o700 })
    writeFileSync(file, 'an image')
    for (const name of ['maker', 'thief'])
      gpg('--quick-gen-key', `${name}@example.org`, 'ed25519', 'sign', '1y')
    gpg(...past, '--quick-gen-key', 'old@example.org', 'ed25519', 'sign', '1d')
  })
  after(() => spawnSync('gpgconf', ['--homedir', home, '--kill', 'all']))

  /** The exit code of signed_by. */
  const believes = (
    signer: string,
    offered: string[],
    pinned: string,
    content = 'an image',
  ): number | null => {
    const [sig, key] = [join(scratch, 'image.sig'), join(scratch, 'key.asc')]
    writeFileSync(file, 'an image')
    writeFileSync(
      sig,
      gpg(
        ...(signer === 'old' ? past : []),
        '--local-user',
        `${signer}@example.org`,
        '--detach-sign',
        '--output',
        '-',
        file,
      ),
    )
    writeFileSync(key, gpg('--armor', '--export', ...offered.map((name) => `${name}@example.org`)))
    writeFileSync(file, content)
    const script = `set -euo pipefail; . ${root}/lib/engine/shell/printed.sh; signed_by ${file} ${sig} ${key} ${fingerprint(`${pinned}@example.org`)}`
    return spawnSync('bash', ['--norc', '-c', script]).status
  }

  for (const [what, given, code] of [
    ['its own signature', ['maker', ['maker'], 'maker'], 0],
    ['its own signature when other keys lie beside it', ['maker', ['thief', 'maker'], 'maker'], 0],
    ['not another signer', ['thief', ['thief'], 'maker'], 1],
    ['not another signer whose key lies beside the pinned one', ['thief', ['thief', 'maker'], 'maker'], 1],
    ['not a file that was changed', ['maker', ['maker'], 'maker', 'another image'], 1],
    ['not a key that has expired', ['old', ['old'], 'old'], 1],
  ] as const)
    test(what, () => {
      const [signer, offered, pinned, content] = given
      const status = believes(signer, [...offered], pinned, content)
      assert.equal(status === 0, code === 0, String(status))
    })
})
