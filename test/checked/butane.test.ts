// Our translation against upstream's butane, and both against the program that reads it on the node.
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import { gunzipSync } from 'node:zlib'
import { makeSshKey, sshPublicKey } from '../../lib/ground/keys.ts'
import { Secret } from '../../lib/ground/secret.ts'
import { fragmentOf } from '../../lib/k3s/configuration.ts'
import { loadConfig, siteNames } from '../../lib/site/config.ts'
import { guestsOf } from '../../lib/site/machines.ts'
import { type Ignition, translate } from '../../lib/vm/butane.ts'
import { ignition, ignitionFile } from '../../lib/vm/ignition.ts'

const root = join(import.meta.dirname, '../..')
const fixtures = join(root, 'test/fixtures/butane')
const files = join(fixtures, 'files')
const template = join(root, 'config/vm/flatcar-butane.yaml')
const named = (kind: string) =>
  readdirSync(join(fixtures, kind)).flatMap((name) => (name.endsWith('.yaml') ? [name.slice(0, -5)] : []))

/** Where a program is: what PATH finds, or what somebody without root has built into .cache/tools. */
function tool(name: string): string | undefined {
  const built = join(root, '.cache/tools', name)
  if (existsSync(built)) return built
  return spawnSync(name, ['--version']).error ? undefined : name
}
const butane = tool('butane')
const validate = tool('ignition-validate')
const noButane = butane === undefined ? 'butane is not installed' : false
const noValidate = validate === undefined ? 'ignition-validate is not installed' : false

/** What upstream makes of a text, or why it refuses; every warning is a reason, too. */
function upstream(text: string): { config: Ignition } | { said: string } {
  const args = ['--strict', '--files-dir', files]
  const { status, stdout, stderr } = spawnSync(butane!, args, { input: text, encoding: 'utf8' })
  return status === 0 && stderr === '' ? { config: JSON.parse(stdout) as Ignition } : { said: stderr }
}

function accepted(config: Ignition): void {
  const { status, stdout, stderr } = spawnSync(validate!, ['-'], {
    input: JSON.stringify(config),
    encoding: 'utf8',
  })
  assert.equal(stdout + stderr, '')
  assert.equal(status, 0)
}

interface Resource {
  source?: string
  compression?: string
}

/**
 * The same configuration with every content that upstream has compressed unpacked and in base64, so that what lands on the node
 * is compared and not how it was packed. Everything else, the data: URLs that it left uncompressed too, stays letter for letter.
 * `packed` says of `ours` where upstream compressed.
 */
function unpacked(config: Ignition, packed: (at: string) => boolean): unknown {
  const walk = (at: string, value: unknown): unknown => {
    if (Array.isArray(value)) return value.map((item, i) => walk(`${at}[${i}]`, item))
    if (typeof value !== 'object' || value === null) return value
    const { source, compression } = value as Resource
    if (source !== undefined && packed(at)) {
      assert.ok(source.startsWith('data:'), source)
      const data = content(source)
      return {
        ...value,
        source: (compression === 'gzip' ? gunzipSync(data) : data).toString('base64'),
        compression: '',
      }
    }
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, walk(`${at}.${key}`, item)]))
  }
  return walk('', config)
}

function content(url: string): Buffer {
  const [kind = '', data = ''] = url.split(/,(.*)/s)
  if (kind.endsWith(';base64')) return Buffer.from(data, 'base64')
  const bytes = data.replace(/%([0-9A-F]{2})/g, (_, hex: string) =>
    String.fromCharCode(Number.parseInt(hex, 16)),
  )
  return Buffer.from(bytes, 'latin1')
}

function compressed(config: Ignition): Set<string> {
  const found = new Set<string>()
  const walk = (at: string, value: unknown): void => {
    if (typeof value !== 'object' || value === null) return
    if ((value as Resource).compression === 'gzip') found.add(at)
    if (Array.isArray(value)) value.forEach((item, i) => walk(`${at}[${i}]`, item))
    else for (const [key, item] of Object.entries(value)) walk(`${at}.${key}`, item)
  }
  walk('', config)
  return found
}

function same(ours: Ignition, text: string): void {
  const theirs = upstream(text)
  assert.ok('config' in theirs, 'said' in theirs ? theirs.said : '')
  const packed = compressed(theirs.config)
  assert.deepEqual(
    unpacked(ours, (at) => packed.has(at)),
    unpacked(theirs.config, (at) => packed.has(at)),
  )
}

const ours = (text: string) => translate([{ file: 'node.yaml', text }], { files })
const fixture = (kind: string, name: string) => readFileSync(join(fixtures, kind, `${name}.yaml`), 'utf8')

describe('upstream makes the same of', { skip: noButane }, () => {
  for (const name of named('valid'))
    test(name.replaceAll('-', ' '), () => {
      const text = fixture('valid', name)
      same(ours(text), text)
    })
})

test('where upstream compresses, the comparison is of what is inside', { skip: noButane }, () => {
  const text = fixture('valid', 'file-that-is-long-and-repeats-itself')
  const theirs = upstream(text)
  assert.ok('config' in theirs)
  assert.deepEqual([...compressed(theirs.config)], ['.storage.files[0].contents'])
  const other = ours(text.replace('eth59', 'eth60'))
  assert.throws(() => same(other, text), /AssertionError/)
})

// What upstream takes and we refuse on purpose: secrets, things without a proof, and what is only ever a mistake.
const stricter = [
  'file-that-is-fetched-from-a-strange-place',
  'file-that-is-fetched-with-a-header',
  'file-that-is-fetched-without-a-proof',
  'file-with-a-number-as-its-text',
  'ignition-section',
  'password-of-a-user',
  'unit-with-a-comment-that-goes-on',
  'user-who-is-taken-away',
  'user-with-a-bad-name',
  'user-with-a-private-key',
  'user-with-an-option-that-sshd-has-not',
  'user-with-half-a-key',
  'variant-of-another-system',
  'version-that-is-newer',
]

test('upstream refuses what we refuse, but for what is on the list', { skip: noButane }, () => {
  const taken = named('invalid').filter((name) => 'config' in upstream(fixture('invalid', name)))
  assert.deepEqual(taken.sort(), stricter)
})

test('what we make of a damaged file is what upstream makes of it, or nothing', { skip: noButane }, () => {
  let compared = 0
  for (const name of named('valid')) {
    const lines = fixture('valid', name).split('\n')
    for (const damage of damages(lines)) {
      const text = damage.join('\n')
      let made: Ignition
      try {
        made = ours(text)
      } catch {
        continue // refused, which is never wrong
      }
      same(made, text)
      compared++
    }
  }
  assert.ok(compared > 200, `${compared} were compared`)
})

/** Each file with one line left out, doubled, or less indented: a slip of the hand on every line, and no chance in it. */
function* damages(lines: string[]): Generator<string[]> {
  for (let i = 2; i < Math.min(lines.length, 30); i++) {
    yield lines.toSpliced(i, 1)
    yield lines.toSpliced(i, 0, lines[i]!)
    yield lines.toSpliced(i, 1, lines[i]!.replace(/^ {2}/, ''))
  }
}

describe('ignition-validate accepts', { skip: noValidate }, () => {
  for (const name of named('valid'))
    test(name.replaceAll('-', ' '), () => accepted(ours(fixture('valid', name))))

  test('nothing that is no configuration', () => {
    assert.throws(() => accepted({ ignition: { version: '9.9.9' } }), /AssertionError/)
  })
})

describe('the template of a node', () => {
  const text = readFileSync(template, 'utf8')
  const placeholders = Object.fromEntries(
    [...text.matchAll(/\{\{ ([a-z0-9_]+) \}\}/g)].map(([, name = '']) => [name, '']),
  )

  test('is taken by upstream as it stands, without a warning', { skip: noButane }, () => {
    const made = upstream(text)
    assert.ok('config' in made, 'said' in made ? made.said : '')
    assert.ok(Object.keys(placeholders).length >= 8)
  })

  const key = makeSshKey('test')
  const indented = (lines: string) => lines.trimEnd().replaceAll('\n', '\n          ')
  for (const name of siteNames())
    for (const arch of ['amd64', 'arm64'] as const) {
      const config = loadConfig({ env: {}, site: name })
      for (const node of guestsOf(config.site).map((made) => ({ ...made, arch }))) {
        const given = { nodeKey: `${sshPublicKey(key)} ada`, hostKey: key }
        const made = ignition(config, node, given)
        test(`becomes the same for ${node.name} of ${name} on ${arch}`, { skip: noButane }, () => {
          const values: Record<string, string> = {
            name: node.name,
            address: node.address,
            prefix: `${node.prefix}`,
            gateway: node.gateway,
            mac: node.mac,
            timezone: config.site.timezone,
            node_key: `${sshPublicKey(key)} ada`,
            // By hand they take an indent.
            sshd_keys: indented(readFileSync(join(root, 'config/vm/sshd-keys.conf'), 'utf8')),
            ssh_host_key: indented(key),
          }
          same(
            made,
            text.replace(/\{\{ ([a-z0-9_]+) \}\}/g, (_, place: string) => values[place]!),
          )
        })
        test(`gets the same of k3s for ${node.name} of ${name} on ${arch}`, { skip: noButane }, () => {
          const metal = config.site.machines.map((machine) => ({ ...machine, arch }))
          const fragment = fragmentOf({ ...config, site: { ...config.site, machines: metal } }, node.name)
          same(translate([fragment]), fragment.text)
        })
        test(
          `is accepted for ${node.name} of ${name} on ${arch}, and what a rehearsal shows`,
          {
            skip: noValidate,
          },
          () => {
            accepted(ignition(config, node, { ...given, fragments: [fragmentOf(config, node.name)] }))
            const secrets = (secret: string) => new Secret(secret, () => key)
            accepted(
              JSON.parse(ignitionFile({ ...config, secrets, state: '/nonexistent' }, node).shown) as Ignition,
            )
          },
        )
      }
    }
})

test('ssh-keygen reads the host keys that we make', (t) => {
  const dir = mkdtempSync(join(tmpdir(), 'hostkey-'))
  t.after(() => rmSync(dir, { recursive: true }))
  for (let i = 0; i < 20; i++) {
    const key = makeSshKey(`node-${'x'.repeat(i)}`)
    const path = join(dir, `${i}`)
    writeFileSync(path, key, { mode: 0o600 })
    const { status, stdout, stderr } = spawnSync('ssh-keygen', ['-y', '-f', path], { encoding: 'utf8' })
    assert.equal(stderr, '')
    assert.equal(stdout, `${sshPublicKey(key)} node-${'x'.repeat(i)}\n`)
    assert.equal(status, 0)
  }
})
