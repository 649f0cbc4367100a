import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { describe, test } from 'node:test'
import { parse } from 'yaml'
import { ConfigError } from '../../lib/site/config.ts'
import { type Filling, type Ignition, type Source, translate } from '../../lib/vm/butane.ts'

const root = join(import.meta.dirname, '../..')
const fixtures = 'test/fixtures/butane'
const files = `${fixtures}/files`
const read = (path: string) => readFileSync(join(root, path), 'utf8')
const named = (kind: string) =>
  readdirSync(join(root, fixtures, kind))
    .filter((name) => name.endsWith('.yaml'))
    .map((name) => basename(name, '.yaml'))

const head = 'variant: flatcar\nversion: 1.0.0\n'
const source = (text: string, file = 'node.yaml'): Source => ({ file, text: head + text })

/** What `translate` says when it refuses. */
function refusal(sources: Source[], filling?: Filling): string {
  try {
    translate(sources, filling)
  } catch (error) {
    assert.ok(error instanceof ConfigError, String(error instanceof Error ? error.stack : error))
    return `${error.message}\n`
  }
  return assert.fail('it was accepted')
}

describe('a Butane file that is right becomes Ignition', () => {
  for (const name of named('valid'))
    test(name.replaceAll('-', ' '), () => {
      const file = `${fixtures}/valid/${name}.yaml`
      const expected = JSON.parse(read(`${fixtures}/valid/${name}.json`)) as Ignition
      assert.deepEqual(translate([{ file, text: read(file) }], { files: join(root, files) }), expected)
    })
})

describe('a Butane file that is wrong is refused, every fault with its line', () => {
  for (const name of named('invalid'))
    test(name.replaceAll('-', ' '), () => {
      const text = read(`${fixtures}/invalid/${name}.yaml`)
      const values = name.startsWith('braces') ? { name: 'node-1' } : {}
      assert.equal(
        refusal([{ file: 'node.yaml', text }], { files, values }),
        read(`${fixtures}/invalid/${name}.txt`),
      )
    })
})

test('a file whose last line has no end is refused, because readers of YAML do not agree what it says', () => {
  const text = `${head}systemd: {}`
  assert.equal(
    refusal([{ file: 'node.yaml', text }]),
    'node.yaml: 1 problem; nothing was run\n  node.yaml:3  does not end with a newline\n',
  )
})

interface Schema {
  properties?: Record<string, Schema>
  items?: Schema
  not?: object
  $ref?: string
}

/** Every key of the schema, as `storage.files[].path`; with those that are refused, or without. */
function keys(refused: boolean): string[] {
  const schema = JSON.parse(read('config/schema/butane.json')) as Schema & { $defs: Record<string, Schema> }
  const found: string[] = []
  const walk = (at: string, part: Schema): void => {
    const { not, properties = {}, items } = { ...schema.$defs[part.$ref?.split('/').at(-1) ?? ''], ...part }
    if (at !== '' && (not !== undefined) === refused) found.push(at)
    if (items) walk(`${at}[]`, items)
    for (const [key, inner] of Object.entries(properties)) walk(at === '' ? key : `${at}.${key}`, inner)
  }
  walk('', schema)
  return found
}

/** Every key that the files of a kind use. */
function uses(kind: string): Set<string> {
  const found = new Set<string>()
  const walk = (at: string, value: unknown): void => {
    found.add(at)
    if (Array.isArray(value)) value.forEach((item) => walk(`${at}[]`, item))
    else if (typeof value === 'object' && value !== null)
      for (const [key, item] of Object.entries(value)) walk(at === '' ? key : `${at}.${key}`, item)
  }
  for (const name of named(kind))
    walk('', parse(read(`${fixtures}/${kind}/${name}.yaml`), { uniqueKeys: false }))
  return found
}

test('the files that are right use every construct that is allowed', () => {
  assert.ok(named('valid').length >= 40)
  const used = uses('valid')
  assert.deepEqual(
    keys(false).filter((key) => !used.has(key)),
    [],
  )
})

test('the files that are wrong use every construct that Butane has and we refuse', () => {
  assert.ok(named('invalid').length >= 15)
  const used = uses('invalid')
  assert.deepEqual(
    keys(true).filter((key) => !used.has(key)),
    [],
  )
})

test('no key that is refused is offered in place of another', () => {
  const said = refusal([source('storage: { disk: [] }\npasswd: { users: [{ name: a, pass: b }] }\n')])
  assert.match(said, /storage\.disk {2}is not a known key; known here: directories, files, links\n/)
  assert.match(
    said,
    /passwd\.users\[0\]\.pass {2}is not a known key; known here: name, uid, [a-z_, ]*, system\n/,
  )
})

describe('names in double braces', () => {
  test('stand for values, which need neither quotes nor an indent', async () => {
    const text = `storage:
  files:
    - path: /etc/{{ name }}
      contents:
        inline: |
          {{ key }}
          {{ name }}: {{ n }}
`
    const key = '-----BEGIN-----\n  \'quoted\': "and" # not a comment\n{{ name }}\n-----END-----'
    const { storage } = translate([source(text)], { values: { name: 'a b', key, n: 7 } })
    const [file] = storage!.files!
    assert.equal(file!.path, '/etc/a b')
    const bytes = await fetch(file!.contents!.source)
    assert.equal(await bytes.text(), `${key}\na b: 7\n`)
  })

  test('are checked by what they stand for, at the line where they stand', () => {
    const text = "storage:\n  files:\n    - path: '{{ path }}'\n"
    assert.match(
      refusal([source(text)], { values: { path: 'etc/x' } }),
      /node\.yaml:5:13 {2}storage\.files\[0\]\.path {2}must be an absolute path, is "etc\/x"/,
    )
  })

  test('that belong to every object of JavaScript have no value either', () => {
    const text = "storage:\n  files:\n    - path: '/{{ constructor }}'\n"
    assert.match(refusal([source(text)]), /asks for \{\{ constructor \}\}, which has no value\n/)
  })

  test('that nothing asks for are a mistake of the program', () => {
    assert.throws(() => translate([source(''), source('', 'k3s.yaml')], { values: { name: 'x', n: 1 } }), {
      name: 'TypeError',
      message: 'node.yaml and k3s.yaml: no use of {{ name }}, {{ n }}',
    })
  })
})

describe('a secret is not shown with the fault beside it', () => {
  for (const [what, text] of Object.entries({
    'a private key': "passwd: { users: [{ name: core, ssh_authorized_keys: ['BEGIN hunter2'] }] }\n",
    'half a key': 'passwd: { users: [{ name: core, ssh_authorized_keys: [ssh-ed25519 hunter2] }] }\n',
    'a password': "passwd: { users: [{ name: core, password_hash: 'hunter2' }] }\n",
    'a header':
      'storage: { files: [{ path: /a, contents: { inline: a, http_headers: [{ value: hunter2 }] } }] }\n',
  }))
    test(what, () => {
      const said = refusal([source(text)])
      assert.match(said, /node\.yaml:3:\d+ /)
      assert.doesNotMatch(said, /hunter2/)
    })
})

describe('documents of several layers', () => {
  const ours = source(`storage:
  directories:
    - path: /opt/bin
  files:
    - path: /etc/hostname
  links:
    - path: /etc/away
      target: /var/away
passwd:
  groups:
    - name: backup
  users:
    - name: core
systemd:
  units:
    - name: k3s.service
      contents: "[Service]"
      dropins:
        - name: 10.conf
          contents: "[Service]"
kernel_arguments:
  should_exist: [quiet]
`)

  test('become one configuration, in their order', () => {
    const theirs = source(
      `storage:
  directories:
    - path: /etc/rancher/k3s
      mode: 0700
  files:
    - path: /etc/rancher/k3s/config.yaml
      contents:
        inline: '{{ role }}'
systemd:
  units:
    - name: backup.timer
`,
      'k3s.yaml',
    )
    const { storage, systemd, passwd } = translate([ours, theirs], { values: { role: 'server' } })
    assert.deepEqual(
      [storage!.directories, storage!.files, systemd!.units, passwd!.users].map((list) =>
        list!.map((item) => ('path' in item ? item.path : item.name)),
      ),
      [
        ['/opt/bin', '/etc/rancher/k3s'],
        ['/etc/hostname', '/etc/rancher/k3s/config.yaml'],
        ['k3s.service', 'backup.timer'],
        ['core'],
      ],
    )
  })

  test('are refused when one touches what is another’s, with every such place', () => {
    const theirs = source(
      `storage:
  directories:
    - path: /etc/hostname
  files:
    - path: /opt/bin
    - path: /etc/away/inside
    - path: /etc/systemd/system/k3s.service.d/10.conf
passwd:
  groups:
    - name: backup
  users:
    - name: core
systemd:
  units:
    - name: k3s.service
kernel_arguments:
  should_not_exist: [quiet]
`,
      'k3s.yaml',
    )
    const lines = refusal([ours, theirs])
      .split('\n')
      .filter((line) => /^ {2}\S/.test(line))
    assert.deepEqual(lines, [
      '  k3s.yaml:5:13  storage.directories[0].path  path /etc/hostname is storage.files[0].path of node.yaml already',
      '  k3s.yaml:7:13  storage.files[0].path  path /opt/bin is storage.directories[0].path of node.yaml already',
      '  k3s.yaml:8:13  storage.files[1].path  lies below /etc/away, which is a link (storage.links[0].path of node.yaml)',
      '  k3s.yaml:9:13  storage.files[2].path  path /etc/systemd/system/k3s.service.d/10.conf is systemd.units[0].dropins[0].contents of node.yaml already',
      '  k3s.yaml:12:13  passwd.groups[0].name  group backup is passwd.groups[0].name of node.yaml already',
      '  k3s.yaml:14:13  passwd.users[0].name  user core is passwd.users[0].name of node.yaml already',
      '  k3s.yaml:17:13  systemd.units[0].name  unit k3s.service is systemd.units[0].name of node.yaml already',
      '  k3s.yaml:19:22  kernel_arguments.should_not_exist[0]  kernel argument quiet is kernel_arguments.should_exist[0] of node.yaml already',
    ])
  })

  test('are refused when one puts a link above what is another’s', () => {
    const theirs = source('storage:\n  links:\n    - { path: /opt, target: /var }\n', 'k3s.yaml')
    assert.match(
      refusal([ours, theirs]),
      /k3s\.yaml:5:15 {2}storage\.links\[0\]\.path {2}is a link, and \/opt\/bin lies below it \(storage\.directories\[0\]\.path of node\.yaml\)/,
    )
  })

  test('tell the faults of all of them at once', () => {
    const said = refusal([source('a: 1\n', 'one.yaml'), source('b: 1\n', 'two.yaml')])
    assert.match(
      said,
      /^one\.yaml, two\.yaml: 2 problems; nothing was run\n {2}one\.yaml:3:1 .*\n(.*\n)*? {2}two\.yaml:3:1 /,
    )
  })
})
