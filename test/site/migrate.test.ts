// A site document of the format before, carried over: what it says, its comments, and what is said about it.
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import { Ajv2020 } from 'ajv/dist/2020.js'
import { parse } from 'yaml'
import { type JsonSchema, checkDocument } from '../../lib/ground/document.ts'
import { commentsOf } from '../../lib/ground/edited.ts'
import { Fault } from '../../lib/ground/fault.ts'
import { uuidOf } from '../../lib/ground/keys.ts'
import { catalogue } from '../../lib/site/catalogue.ts'
import { withDefaults } from '../../lib/site/config.ts'
import { complete } from '../../lib/site/defaults.ts'
import { formats } from '../../lib/site/formats.ts'
import { guestsOf } from '../../lib/site/machines.ts'
import { editorLine, migrate } from '../../lib/site/migrate.ts'
import type { SiteDocument } from '../../lib/site/model.ts'
import { siteProblems } from '../../lib/site/rules.ts'

const root = join(import.meta.dirname, '../..')
const fixture = (name: string): string =>
  readFileSync(join(root, 'test/fixtures/migrate', `${name}.yaml`), 'utf8')
const schema = JSON.parse(readFileSync(join(root, 'config/schema/site.json'), 'utf8')) as JsonSchema

/** The values of a migrated text. */
const values = (text: string) =>
  parse(migrate(text, 'site.yaml').text) as SiteDocument & Record<string, unknown>

const whole = (document: unknown) => complete(withDefaults(document))

/** What the rules of the new format say of a migrated text, place by place. */
function faults(text: string, name: string): string[] {
  const next = migrate(text, 'site.yaml').text
  const found = checkDocument<SiteDocument>('site.yaml', next, schema, formats, (document) =>
    siteProblems(document, name, catalogue(), '2026-11-26'),
  )
  return found.faults.map(({ path, reason }) => `${path}  ${reason}`)
}

/** A document of the format before, with a few lines more. */
const box = (
  more: string,
  machines = '  - { name: box, roles: [host], os: debian-13, arch: amd64 }',
) => `name: box
machines:
${machines}
tunnel: { network: 10.66.0.0/24, address: 10.66.0.1, peers: [{ name: laptop, address: 10.66.0.2 }] }
${more}`

function refused(text: string): Fault {
  try {
    migrate(text, 'config/sites/box.yaml')
  } catch (error) {
    assert.ok(error instanceof Fault, String(error))
    return error
  }
  return assert.fail('it was carried over')
}

for (const name of ['fortress', 'fortress-pi', 'lab', 'several'])
  describe(name, () => {
    const old = fixture(name)
    const { text } = migrate(old, `config/sites/${name}.yaml`)

    test('every comment is there, and none twice', () => {
      const ours = /^# (yaml-language-server|Of |The lines of the default|Comments of lines)/
      assert.deepEqual(
        commentsOf(text)
          .filter((comment) => !ours.test(comment))
          .sort(),
        commentsOf(old).sort(),
      )
    })

    test('what is carried over once is not changed again', () =>
      assert.deepEqual(migrate(text, 'site.yaml'), { text, notes: [] }))

    test('an editor finds the schema by the first line', () => assert.ok(text.startsWith(`${editorLine}\n`)))
  })

test('a section that says nothing old stands as it stood, and the vault as it stood in its own', () => {
  for (const name of ['fortress', 'fortress-pi', 'lab']) {
    const { text } = migrate(fixture(name), 'x')
    const paragraphs = fixture(name).trimEnd().split('\n\n')
    const kept = paragraphs.filter((part) => /^(name|tunnel|components):/m.test(part))
    const [vault = ''] = paragraphs.filter((part) => /^vault:/m.test(part))
    assert.ok(kept.length > 1)
    for (const part of [...kept, vault.replaceAll(/^/gm, '    ')]) assert.ok(text.includes(`${part}\n`), part)
  }
})

test('the documents that ship have no fault after it', () => {
  for (const name of ['fortress', 'fortress-pi', 'lab']) assert.deepEqual(faults(fixture(name), name), [])
})

test('what the new format asks a person is left to them', () =>
  assert.deepEqual(
    faults(fixture('several'), 'several').map((fault) => fault.replace(/  .*/, '')),
    ['machines[0]'],
  ))

describe('machines', () => {
  test('host and node in one is host and server; the vault is of the host', () => {
    const [machine, ...others] = values(fixture('fortress-pi')).machines
    assert.deepEqual(others, [])
    assert.deepEqual(machine, {
      name: 'fortress-pi',
      roles: ['host', 'server'],
      os: 'raspios-13',
      arch: 'arm64',
      vault: { disk: '', name: 'vault', kdf_memory_kib: 524288, discard: false, tpm2_pcrs: [] },
    })
  })

  test('the virtual machine of a host is in the list; its name, address, MAC and UUID are those of before', () => {
    const { name, ...document } = values(fixture('fortress'))
    assert.deepEqual(document.machines[1], {
      name: 'fortress-node',
      roles: ['server'],
      os: 'flatcar',
      arch: 'amd64',
      vm: { host: 'fortress' },
      address: '10.77.0.2',
    })
    const [guest] = guestsOf(whole({ name, ...document }))
    assert.equal(guest?.mac, '52:54:00:a0:62:12')
    assert.equal(uuidOf('domain', `${name}/${guest?.name}`), '789ca34b-84e9-537b-800f-8122270e3506')
  })

  test('listed ones are on the host that is no node, with the address that they had by their place', () => {
    const site = whole(values(fixture('several')))
    assert.deepEqual(
      guestsOf(site).map(({ name, role, os, address, mac, vm }) => [
        name,
        role,
        os,
        address,
        mac,
        vm.host,
        vm.console,
      ]),
      [
        ['node-1', 'agent', 'flatcar', '10.77.0.2', '52:54:00:de:0f:9e', 'box', true],
        ['node-2', 'agent', 'flatcar', '10.77.0.9', '52:54:00:4f:0e:6e', 'box', true],
      ],
    )
    assert.deepEqual(site.networks, [
      { name: 'guests', network: '10.77.0.0/24', bridge: { at: 'box', name: 'virbr-x' } },
    ])
  })

  test('a machine without a network for virtual ones gets none', () =>
    assert.equal(values(fixture('lab')).machines.length, 1))

  test('the SSH port has a name of its own, and a node of metal stays one', () => {
    const { machines } = values(
      box('', '  - { name: box, roles: [node, server], os: debian-13, arch: amd64, port: 2222 }'),
    )
    assert.deepEqual(machines, [
      { name: 'box', roles: ['server'], os: 'debian-13', arch: 'amd64', ssh_port: 2222 },
    ])
    const { notes } = migrate(
      box('', '  - { name: box, roles: [node], os: debian-13, arch: amd64 }'),
      'site.yaml',
    )
    assert.match(notes.join('\n'), /box has no role host, so no page hardens it/)
  })

  test('Ubuntu for ARM was taken for a machine with GRUB, and says so', () => {
    const { machines } = values(
      box('', '  - { name: box, roles: [host, node], os: ubuntu-24.04, arch: arm64 }'),
    )
    assert.equal(machines[0]?.board, 'pc')
  })

  test('a vault that had a default which is another now says it', () => {
    const pi = '  - { name: box, roles: [host, node], os: raspios-13, arch: arm64 }'
    const [machine] = values(box("vault: { disk: '', tpm2_pcrs: [] }", pi)).machines
    assert.deepEqual(machine?.vault, { disk: '', tpm2_pcrs: [], kdf_memory_kib: 1048576 })
  })

  test('the disk of the vault is written down for one host, and for the others it is to be chosen', () => {
    const [first, second] = values(fixture('several')).machines
    assert.deepEqual(
      [first?.vault?.disk, second?.vault?.disk, second?.vault?.tpm2_pcrs],
      ['/dev/disk/by-id/usb-x', '', []],
    )
    assert.match(
      migrate(fixture('several'), 'x').notes.join('\n'),
      /usb-x is written down for pi-1; no disk is chosen for box/,
    )
  })
})

describe('the tunnel', () => {
  test('of one host says no more than it did', () =>
    assert.deepEqual(Object.keys(values(fixture('fortress')).tunnel ?? {}), [
      'interface',
      'port',
      'network',
      'address',
      'peers',
    ]))

  test('of several hosts ends at one; the others get the lowest free address', () => {
    const { tunnel, machines } = values(fixture('several'))
    assert.equal(tunnel?.at, 'pi-1')
    assert.deepEqual(
      machines.map(({ tunnel_address }) => tunnel_address),
      [undefined, '10.66.0.4', undefined, undefined],
    )
  })

  test('an address that a host has in it already stays', () => {
    const hosts = [1, 2, 3].map(
      (n) =>
        `  - { name: pi-${n}, roles: [host, node], os: debian-13, arch: amd64, address: 192.0.2.1${n}${n === 2 ? ', tunnel_address: 10.66.0.1' : ''} }`,
    )
    const { tunnel, machines } = values(box('', hosts.join('\n')).replace('10.66.0.1,', '10.66.0.9,'))
    assert.equal(tunnel?.at, 'pi-1')
    assert.deepEqual(
      machines.map(({ tunnel_address }) => tunnel_address),
      [undefined, '10.66.0.1', '10.66.0.3'],
    )
  })
})

describe('the firewall', () => {
  const rules = (text: string) => whole(values(text)).router

  test('that let everything out of a host alone is the default', () => {
    assert.equal(values(fixture('lab')).router, undefined)
    assert.deepEqual(migrate(box('firewall: { egress: open }'), 'x').notes, [])
  })

  test('that let everything out of virtual machines or pods still does, in a line that can be deleted', () => {
    for (const [name, from] of [
      ['fortress', 'guests'],
      ['fortress-pi', 'pods'],
    ] as const) {
      const { allow, never } = rules(fixture(name))
      assert.deepEqual(allow.find((line) => line.from === from && line.ports === 'any')?.to, [
        'internet',
        'upstream',
      ])
      assert.deepEqual(never[0], { from, to: 'tunnel' })
      assert.match(
        migrate(fixture(name), 'x').notes.join('\n'),
        /may still open connections to private networks/,
      )
      assert.match(migrate(fixture(name), 'x').text, /Delete router: to have the default alone/)
    }
  })

  test('where it was not said at all everything was let out, too', () =>
    assert.deepEqual(rules(box('nodes: { network: 10.77.0.0/24 }')).allow.at(3)?.to, [
      'internet',
      'upstream',
    ]))

  test('that listed what it lets out says it in lines, each with its comment', () => {
    const { allow, never } = rules(fixture('several'))
    assert.deepEqual(allow.slice(4), [
      {
        from: 'guests',
        to: ['internet', 'upstream'],
        ports: ['udp/53', 'tcp/53', 'udp/123', 'tcp/853', 'tcp/4460'],
        why: 'names and time',
      },
      {
        from: ['router', 'guests', 'pods'],
        to: '192.0.2.80',
        ports: ['tcp/443', 'tcp/5000'],
        why: 'registry',
      },
      {
        from: ['router', 'guests', 'pods'],
        to: ['internet', 'upstream'],
        ports: ['udp/51820'],
        why: 'elsewhere',
      },
    ])
    assert.equal(
      allow.some(({ ports }) => ports === 'any'),
      false,
    )
    assert.equal(never.length, 3)
    assert.match(migrate(fixture('several'), 'x').text, /why: registry \} # ours$/m)
  })

  test('that listed nothing lets nothing out, but virtual machines ask for names and time', () => {
    const whys = (text: string) => values(text).router?.allow?.map(({ from, why }) => [from, why])
    assert.deepEqual(whys(box('firewall: { egress: listed }')), [['tunnel', 'SSH']])
    const text = box('nodes: { network: 10.77.0.0/24 }\nfirewall: { egress: listed }')
    assert.deepEqual(whys(text)?.at(-1), ['guests', 'names and time'])
    assert.deepEqual(faults(text, 'box'), [])
  })
})

describe('backups', () => {
  test('each destination is a target, and a row says what goes there', () => {
    const { data } = values(fixture('several'))
    assert.deepEqual(
      data?.targets?.map(({ name, kind }) => [name, kind]),
      [
        ['directory', 'directory'],
        ['sftp', 'sftp'],
        ['s3', 's3'],
      ],
    )
    assert.deepEqual(data?.targets?.[2], {
      name: 's3',
      kind: 's3',
      endpoint: 'https://s3.example.org',
      bucket: 'backups',
      region: 'us-east-1',
    })
    assert.deepEqual(data?.keep, [
      {
        what: 'cluster',
        every: 'Mon *-*-* 03:17',
        copies: 5,
        to: ['directory', 'sftp', 's3'],
        rpo: '7d',
        rto: '1h',
      },
    ])
    assert.match(data?.recovery ?? '', /^age1/)
    assert.deepEqual(
      values(fixture('several')).accepted?.map(({ what }) => what),
      ['deletable-backups'],
    )
  })

  test('without a schedule they are made every day, and as many are kept as before', () => {
    const { data } = values(box('backup: { directory: { path: /mnt/usb } }'))
    assert.deepEqual(data?.keep, [
      { what: 'cluster', every: 'daily', copies: 14, to: ['directory'], rpo: '24h', rto: '1h' },
    ])
  })

  for (const [schedule, rpo] of [
    ['hourly', '24h'],
    ['daily', '24h'],
    ["'*-*-* 03:17'", '24h'],
    ["'03:17'", '24h'],
    ['weekly', '7d'],
    ['Sat,Sun *-*-* 04:00', '7d'],
    ['monthly', '31d'],
    ["'*-*-01 03:17'", '31d'],
    ["'*-01-01 03:17'", '366d'],
  ] as const)
    test(`${schedule} may lose ${rpo}`, () =>
      assert.equal(values(box(`backup: { schedule: ${schedule} }`)).data?.keep?.[0]?.rpo, rpo))

  test('a section that says nothing is gone, but for its comments', () => {
    const { text } = migrate(box('# mine\nbackup: {} # none\n'), 'x')
    assert.equal('data' in parse(text), false)
    assert.match(text, /# Of backup:, which said nothing\.\n# mine\n# none\n/)
  })
})

describe('who may log in', () => {
  test('the one group there is needs no word', () =>
    assert.deepEqual(migrate(box('admin: { group: ssh-admins }'), 'x').notes, []))

  test('another group is named, with what its members need before page 00', () => {
    const { text, notes } = migrate(box('admin: { group: ops } # us'), 'x')
    assert.match(
      notes.join(),
      /group ops .*BEFORE page 00 \(host-harden\).*getent group ops.*usermod --append --groups ssh-admins/,
    )
    assert.match(text, /# Of admin\.group, which was ops and is ssh-admins now:\n# us/)
  })
})

test('components.cni is components.network', () =>
  assert.deepEqual(values(box('components: { cni: cilium, gateway: cilium }')).components, {
    network: 'cilium',
    gateway: 'cilium',
  }))

describe('a text as a person writes it', () => {
  test('keeps its indentation, its spaces, and the ends of its lines', () => {
    const { text } = migrate(
      `name:   box\r\nmachines:\r\n- name: box   # mine\r\n  roles:   [ host ]\r\n  os: debian-13\r\n  arch: "amd64"\r\n  port: 22\r\n`,
      'x',
    )
    assert.equal(
      text,
      `${editorLine}\r\nname:   box\r\nmachines:\r\n- name: box   # mine\r\n  roles:   [ host ]\r\n  os: debian-13\r\n  arch: "amd64"\r\n  ssh_port: 22\r\n`,
    )
  })

  test('in braces and brackets gets lines where it needs them, and an end of its last line', () => {
    const { text } = migrate(
      "name: box\nmachines: [{ name: box, roles: [host], os: debian-13, arch: amd64 }] # mine\nvault: { disk: '' }\n" +
        'nodes: { network: 10.77.0.0/24 }',
      'x',
    )
    assert.equal(
      text,
      `${editorLine}
name: box
machines:
  - name: box
    roles: [host]
    os: debian-13
    arch: amd64
    vault: { disk: '' }
  - { name: box-node, roles: [server], os: flatcar, arch: amd64, vm: { host: box }, address: 10.77.0.2 }
  # mine
networks:
  - { name: guests, network: 10.77.0.0/24, bridge: { at: box } }

router:
  # The lines of the default (config/host/allow.yaml), and upstream, as before. Delete router: to have the default alone.
  allow:
    - { from: tunnel, to: router, ports: [tcp/22], why: SSH }
    - { from: tunnel, to: guests, ports: [tcp/22, tcp/443, tcp/6443], why: 'SSH, the gateway, the API' }
    - { from: guests, to: router, ports: [udp/53, tcp/53, udp/67, udp/123], why: 'names, addresses, time' }
    - { from: guests, to: [internet, upstream], ports: any, why: 'images, updates, Git, backups' }
    - { from: router, to: [internet, upstream], ports: any, why: 'updates, and the mirrors, names and time of the network around it' }
  never:
    - { from: guests, to: tunnel }
    - { from: [internet, upstream], to: [router, guests] }
`,
    )
  })

  test('of the new format is not touched, whatever its first line is', () => {
    const text =
      'name: box\nmachines: [{ name: box, roles: [host, server], os: debian-13, arch: amd64, port: ether2 }]'
    assert.deepEqual(migrate(text, 'x'), { text, notes: [] })
    assert.deepEqual(migrate('', 'x'), { text: '', notes: [] })
  })

  test('with faults of its own is refused with their places', () => {
    assert.match(
      refused('name: [').message,
      /cannot be carried over as it is\n  config\/sites\/box\.yaml:1:8/,
    )
    assert.match(refused('admin: {}\nmachines: 3').message, /machines  must be a list, is the number 3/)
    assert.match(refused(box('nodes: { bridge: x }')).message, /nodes\.network  is missing/)
  })

  test('that says a thing in both formats is refused', () => {
    const said = refused(box('firewall: {}\nrouter: {}\nbackup: {}\ndata: {}'))
    assert.match(
      said.message,
      /firewall  is of the old format, and router says the same[^]*  backup  is of the old format/,
    )
    assert.equal(said.state, 'nothing was changed')
  })

  test('that lets out to IPv6 addresses is refused, because nothing would let them out any more', () =>
    assert.match(
      refused(
        box(
          "firewall: { egress: listed, allow: [{ name: six, to: '2001:db8::/32', protocol: tcp, ports: [443] }] }",
        ),
      ).message,
      /box\.yaml:5:\d+  firewall\.allow\[0\]\.to  is an IPv6 address/,
    ))

  test('that nobody could build is refused: virtual machines without a host that runs them', () =>
    assert.match(
      refused(
        box(
          'nodes: { network: 10.77.0.0/24 }',
          '  - { name: pi, roles: [host, node], os: debian-13, arch: arm64 }\n  - { name: a, roles: [node], os: debian-13, arch: arm64 }',
        ),
      ).message,
      /box\.yaml:6:1  nodes  has no host that could run a/,
    ))
})

describe('the schema in an editor', () => {
  test('is one of draft 2020-12 without our own keywords and formats, and every reference in it leads somewhere', () => {
    const ajv = new Ajv2020({ strict: false, validateFormats: false, validateSchema: true })
    const validate = ajv.compile(schema)
    for (const name of ['fortress', 'fortress-pi', 'lab'])
      assert.ok(validate(values(fixture(name))), JSON.stringify(validate.errors))
    assert.equal(validate({ name: 'x', machines: [], nodes: {} }), false)
  })

  test('says of every key what it is', () => {
    const silent: string[] = []
    const walk = (at: JsonSchema, path: string): void => {
      for (const [key, one] of Object.entries(at.properties ?? {})) {
        if (!('not' in one) && !one.description) silent.push(`${path}.${key}`)
        walk(one, `${path}.${key}`)
      }
      for (const part of ['items', 'then', 'else', 'additionalProperties'] as const) {
        const inner = at[part]
        if (typeof inner === 'object' && inner !== null) walk(inner as JsonSchema, `${path}[]`)
      }
    }
    walk(schema, '')
    for (const [name, one] of Object.entries(schema['$defs'] as Record<string, JsonSchema>)) walk(one, name)
    assert.deepEqual(silent, [])
  })
})
