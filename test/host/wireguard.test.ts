import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import {
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
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, describe, test } from 'node:test'
import { encode } from 'uqr'
import { parse } from 'yaml'
import { peer as runPeer } from '../../lib/cli/peer.ts'
import type { Context } from '../../lib/engine/page.ts'
import { isChange } from '../../lib/engine/step.ts'
import { placeholder, publicKey } from '../../lib/ground/keys.ts'
import { Secret, secretStore } from '../../lib/ground/secret.ts'
import { clientFile, qr } from '../../lib/host/device.ts'
import {
  endpointsOf,
  keyless,
  keysOf,
  presharedKey,
  privateKey,
  publicHalf,
} from '../../lib/host/wireguard.ts'
import { loadConfig } from '../../lib/site/config.ts'
import type { Config, Site } from '../../lib/site/model.ts'
import { withPeer, withoutPeer } from '../../lib/site/peers.ts'
import page from '../../scripts/05-host-wireguard.ts'
import firewall from '../../scripts/06-host-firewall.ts'
import { without } from '../programs.ts'
import { type Short, estate, made } from '../site/made.ts'

const places: string[] = []
after(() => places.forEach((dir) => rmSync(dir, { recursive: true })))
const run = (program: string, args: string[], input: string) =>
  execFileSync(program, args, { encoding: 'utf8', input }).trim()

const document = `# A box.
name: box

machines:
  - { name: box, roles: [host], os: debian-13, arch: amd64 } # the metal

# The only door.
tunnel:
  network: 10.66.0.0/24
  address: 10.66.0.1
  peers:
    # Ada's.
    - { name: laptop, address: 10.66.0.2 } # replaced in 2025
    - { name: phone, address: 10.66.0.4 }

data:
  targets: [] # for example { name: nas, kind: sftp, host: nas.example.net, user: fortress, path: /bundles, append_only: true }
`
const site = made(parse(document) as Short)
const withGuests = made({
  ...(parse(document) as Short),
  machines: [
    { name: 'box', roles: ['host'] },
    { name: 'inside', roles: ['server'], vm: { host: 'box' } },
  ],
})

/** A checkout with one site, its state directory, and the words that were said. */
function place(FK_HOST: string | undefined = 'admin@192.0.2.10') {
  const root = mkdtempSync(join(tmpdir(), 'peers-'))
  places.push(root)
  const sites = join(root, 'config', 'sites')
  mkdirSync(sites, { recursive: true })
  writeFileSync(join(sites, 'box.yaml'), document)
  const state = join(root, 'state', 'box')
  const env = { FK_STATE_DIR: join(root, 'state'), FK_AGE_IDENTITY: join(root, 'identity.txt'), FK_HOST }
  const said: string[] = []
  const peer = (words: string, at: Site = site) =>
    runPeer(
      { name: 'peer', argv: words.split(' ') },
      {
        root,
        config: { env, site: at } as unknown as Config,
        say: (line) => said.push(line),
      },
    )
  return {
    root,
    state,
    env,
    said,
    peer,
    text: () => readFileSync(join(sites, 'box.yaml'), 'utf8'),
    path: join(sites, 'box.yaml'),
  }
}

test('keys are what WireGuard takes for keys', { skip: without('wg') }, () => {
  for (let i = 0; i < 5; i++) {
    const key = privateKey()
    assert.equal(run('wg', ['pubkey'], key), publicKey(key))
  }
  const theirs = run('wg', ['genkey'], '')
  assert.equal(publicKey(theirs), run('wg', ['pubkey'], theirs))
  assert.equal(Buffer.from(presharedKey(), 'base64').length, 32)
})

test('the first key ever makes the host’s, and a second time nothing is made', async () => {
  const { state, env } = place()
  const open = () => secretStore({ dir: state, identity: env.FK_AGE_IDENTITY, say: () => {} })
  assert.deepEqual(keyless(state, site), ['laptop', 'phone'])
  assert.equal(publicHalf(state, 'wg-host'), placeholder('wg-host'))
  const keys = await keysOf(open().secret, state, site, 'laptop')
  const files = [
    'wg-host.age',
    'wg-host.pub',
    'wg-peer-laptop.age',
    'wg-peer-laptop.pub',
    'wg-psk-laptop.age',
  ]
  assert.deepEqual(readdirSync(state).sort(), files)
  const bytes = files.map((file) => readFileSync(join(state, file)))
  assert.deepEqual(await keysOf(open().secret, state, site, 'laptop'), keys)
  assert.deepEqual(
    files.map((file) => readFileSync(join(state, file))),
    bytes,
  )
  assert.equal(publicHalf(state, 'wg-host'), keys.hosts['wg-host'])
  assert.equal(publicHalf(state, 'wg-peer-laptop'), publicKey(keys.own))
  assert.deepEqual(keyless(state, site), ['phone'])
})

test('a public half that got lost comes back, and a wrong one is an error', async () => {
  const { state, env } = place()
  const store = secretStore({ dir: state, identity: env.FK_AGE_IDENTITY, say: () => {} })
  const keys = await keysOf(store.secret, state, site, 'laptop')
  rmSync(join(state, 'wg-host.pub'))
  assert.deepEqual((await keysOf(store.secret, state, site, 'laptop')).hosts, keys.hosts)
  writeFileSync(join(state, 'wg-host.pub'), `${placeholder('wg-host')}\n`)
  await assert.rejects(keysOf(store.secret, state, site, 'laptop'), {
    message: `wg-host.pub in ${state} does not belong to wg-host.age`,
  })
})

const keys = { own: 'OWN', preshared: 'SHARED', hosts: { 'wg-host': 'HOST' } }
test('the client file sends only the networks of the tunnel and of the virtual machines through the tunnel', () => {
  assert.equal(
    clientFile(withGuests, site.tunnel.peers[0]!, keys, { box: '192.0.2.10:51820' }),
    `# laptop enters box with this file. Whoever holds it can enter: keep it as you keep a key.
[Interface]
PrivateKey = OWN
Address = 10.66.0.2/32

[Peer]
PublicKey = HOST
PresharedKey = SHARED
Endpoint = 192.0.2.10:51820
AllowedIPs = 10.66.0.0/24, 10.77.0.0/24
PersistentKeepalive = 25
`,
  )
  assert.equal(
    clientFile(site, site.tunnel.peers[0]!, keys, { box: 'x' }).includes('AllowedIPs = 10.66.0.0/24\n'),
    true,
  )
})

test('the client file sends a network behind a router through the tunnel where a line lets the tunnel in', () => {
  const lan = (to: string[]) =>
    made({
      machines: [{ name: 'box', roles: ['host'], address: '192.168.77.10' }],
      networks: [
        {
          name: 'cluster',
          network: '192.168.77.0/24',
          gateway: '192.168.77.1',
          pools: { web: '192.168.77.200-192.168.77.210' },
        },
        { name: 'home', network: '192.168.88.0/24', gateway: '192.168.88.1' },
      ],
      devices: [{ name: 'nas', kind: 'nas', address: '192.168.88.5' }],
      router: { allow: [{ from: 'tunnel', to, ports: 'any', why: 'remote administration' }] },
    })
  const file = (to: string[], box = 'vpn.example.net:51820') => {
    const at = lan(to)
    return clientFile(at, at.tunnel.peers[0]!, keys, { box })
  }
  const allowed = (to: string[], box?: string) => /^AllowedIPs = (.*)$/m.exec(file(to, box))?.[1]
  assert.doesNotMatch(file(['router']), /route to/)
  assert.match(
    file(['home']),
    /^# 192\.168\.88\.0\/24: answers come back only where the router there has a route to 10\.66\.0\.0\/24 by 192\.168\.77\.10\.$/m,
  )
  assert.equal(allowed(['router']), '10.66.0.0/24')
  assert.equal(allowed(['router', 'cluster']), '10.66.0.0/24, 192.168.77.0/24')
  assert.equal(allowed(['pool:web']), '10.66.0.0/24, 192.168.77.0/24')
  assert.equal(allowed(['device:nas']), '10.66.0.0/24, 192.168.88.5/32')
  assert.equal(allowed(['home', 'device:nas']), '10.66.0.0/24, 192.168.88.0/24')
  assert.equal(allowed(['upstream', 'internet']), '10.66.0.0/24')
  assert.equal(allowed(['any']), '10.66.0.0/24, 192.168.77.0/24, 192.168.88.0/24')
  assert.equal(
    allowed(['any'], '192.168.77.10:51820'),
    '10.66.0.0/24, 192.168.88.0/24',
    'who enters from within that network has it already',
  )
})

describe('a tunnel that ends at several hosts', () => {
  const far = estate()
  const texts = (state: string, name: string) => {
    const asked: string[] = []
    const steps = page.steps({
      site: far,
      state,
      machine: { name },
      secrets: (name: string) => {
        asked.push(name)
        return new Secret(name, () => 'x')
      },
    } as unknown as Context)
    const conf = steps.find((step) => isChange(step) && step.target?.path === '/etc/wireguard/wg0.conf')
    return {
      asked,
      names: steps.map(({ name }) => name),
      conf: conf && isChange(conf) ? conf.target?.text : '',
    }
  }

  test('has an address and a private key for each, and the same peers', () => {
    const { state } = place()
    const [north, south] = [texts(state, 'north'), texts(state, 'south')]
    assert.match(north.conf ?? '', /^Address = 10\.66\.0\.1\/24$/m)
    assert.match(south.conf ?? '', /^Address = 10\.66\.0\.20\/24$/m)
    assert.deepEqual([north.asked[0], south.asked[0]], ['wg-host', 'wg-host-south'])
    const peers = ({ conf }: typeof north) => /\n\[Peer\][^]*/.exec(conf ?? '')?.[0]
    assert.match(peers(south) ?? '', /AllowedIPs = 10\.66\.0\.2\/32$/m)
    assert.equal(peers(north), peers(south))
  })

  test('is nothing on a host that it does not end at', () => {
    const without = made({
      machines: [
        { name: 'north', roles: ['host'], address: '192.0.2.10' },
        { name: 'south', roles: ['host'], address: '192.0.2.20' },
      ],
    })
    const context = { site: without, state: '/nonexistent', machine: { name: 'south' } }
    const steps = page.steps(context as unknown as Context)
    assert.deepEqual(
      steps.map((step) => [step.name, isChange(step)]),
      [['the tunnel ends at north, and no WireGuard interface wg0 is here', false]],
    )
  })

  test('gives a device a peer for each host, with what is behind it and nothing of another', async () => {
    const { state, env } = place()
    const open = secretStore({ dir: state, identity: env.FK_AGE_IDENTITY, say: () => {} })
    assert.deepEqual(keyless(state, far), ['laptop'])
    const all = await keysOf(open.secret, state, far, 'laptop')
    assert.deepEqual(keyless(state, far), [])
    assert.equal(new Set(Object.values(all.hosts)).size, 3)
    assert.deepEqual(
      readdirSync(state).filter((name) => name.endsWith('.age')),
      ['wg-host-metal.age', 'wg-host-south.age', 'wg-host.age', 'wg-peer-laptop.age', 'wg-psk-laptop.age'],
    )
    const endpoints = endpointsOf({ env, site: far } as unknown as Config, state)
    const text = clientFile(far, far.tunnel.peers[0]!, all, endpoints)
    assert.deepEqual(
      text
        .split('[Peer]')
        .slice(1)
        .map((section) => [
          /# (\w+)/.exec(section)?.[1],
          /Endpoint = (.*)/.exec(section)?.[1],
          /AllowedIPs = (.*)/.exec(section)?.[1],
        ]),
      [
        ['north', '192.0.2.10:51820', '10.66.0.1/32, 10.77.0.0/24'],
        ['south', '192.0.2.20:51820', '10.66.0.20/32, 10.78.0.0/24'],
        ['metal', '192.0.2.30:51820', '10.66.0.30/32'],
      ],
    )
    for (const [name, key] of [
      ['north', 'wg-host'],
      ['south', 'wg-host-south'],
    ] as const)
      assert.ok(text.includes(`[Peer] # ${name}\nPublicKey = ${all.hosts[key]}\n`), name)
  })

  test('is found elsewhere by --endpoint at its main end alone', () => {
    const { state, env } = place()
    assert.deepEqual(endpointsOf({ env, site: far } as unknown as Config, state, 'vpn.example.net'), {
      north: 'vpn.example.net:51820',
      south: '192.0.2.20:51820',
      metal: '192.0.2.30:51820',
    })
  })

  test('gives the next device an address that no host has', () => {
    const taken = withPeer('name: estate\n', made({ ...shortOf('10.66.0.3') }), 'phone')
    assert.equal(taken.peer.address, '10.66.0.4')
  })

  /** Two hosts, the second at this address of the tunnel. */
  const shortOf = (tunnel_address: string): Short => ({
    machines: [
      { name: 'north', roles: ['host'], address: '192.0.2.10' },
      { name: 'south', roles: ['host'], address: '192.0.2.20', tunnel_address },
    ],
  })
})

describe('a page that is applied', () => {
  /** What pages 05 and 06 of the box get to write their steps. */
  const contextIn = ({ state, env }: ReturnType<typeof place>) => {
    const store = secretStore({ dir: state, identity: env.FK_AGE_IDENTITY, say: () => {} })
    return {
      context: { site, env, state, machine: { name: 'box' }, secrets: store.secret } as unknown as Context,
      store,
    }
  }
  const demand = (context: Context) => {
    const step = firewall.steps(context).find(({ name }) => name.startsWith('a peer has made'))
    assert.ok(step && 'help' in step)
    return step
  }

  test('makes the keys of every peer, and the file of the laptop alone', async () => {
    const here = place()
    const { context } = contextIn(here)
    page.steps(context)
    assert.equal(existsSync(here.state), false)
    await page.make?.(context)
    assert.deepEqual(keyless(here.state, site), [])
    const files = () => readdirSync(here.state).filter((name) => name.endsWith('.conf'))
    assert.deepEqual(files(), ['laptop.conf'])
    assert.equal((statSync(join(here.state, 'laptop.conf')).mode & 0o777).toString(8), '600')
    rmSync(join(here.state, 'laptop.conf'))
    await page.make?.(context)
    assert.deepEqual(files(), [], 'whoever has taken the file away keeps it away')
  })

  test('makes the keys also where nothing says how devices find the host', async () => {
    const here = place('local')
    const { context } = contextIn(here)
    await page.make?.(context)
    assert.deepEqual(keyless(here.state, site), [])
    assert.equal(existsSync(join(here.state, 'laptop.conf')), false)
  })

  test('replaces no key when the identity is lost', async () => {
    const here = place()
    const { context } = contextIn(here)
    await page.make?.(context)
    rmSync(here.env.FK_AGE_IDENTITY)
    rmSync(join(here.state, 'wg-psk-phone.age'))
    await assert.rejects(async () => page.make?.(contextIn(here).context), /the age identity .* is not there/)
  })

  test('waits for the tunnel, and says how the laptop comes in', async () => {
    const here = place()
    const { context } = contextIn(here)
    const file = join(here.state, 'laptop.conf')
    const lines = [
      `sudo wg-quick up ${file}`,
      'on the laptop, with wireguard-tools installed',
      'a phone scans it: ./task peer show phone --qr',
      'The file holds a private key in clear (mode 600).',
    ]
    assert.deepEqual(demand(context).person, { wait: 900 })
    assert.deepEqual(demand(context).help.split('\n'), lines, 'before 05 was applied')
    await page.make?.(context)
    assert.deepEqual(demand(context).help.split('\n'), lines)
    rmSync(file)
    assert.equal(demand(context).help.split('\n')[0], './task peer show laptop')
    const local = contextIn(place('local')).context
    assert.equal(demand(local).help.split('\n')[0], './task peer show laptop --endpoint HOST')
  })

  test('never takes the place of a key that another laptop has made', () => {
    const names = page.steps(contextIn(place()).context).map(({ name }) => name)
    const guard = names.indexOf('a WireGuard key that the host already has is the one of this laptop')
    assert.ok(guard > 0 && guard < names.indexOf('the WireGuard private key of the host is installed'))
  })
})

for (const [host, said, want] of [
  ['admin@192.0.2.10', undefined, '192.0.2.10:51820'],
  ['admin@fortress.example.net:2222', undefined, 'fortress.example.net:51820'],
  ['admin@[2001:db8::1]:22', undefined, '[2001:db8::1]:51820'],
  ['local', 'vpn.example.net', 'vpn.example.net:51820'],
  ['admin@192.0.2.10', 'vpn.example.net:443', 'vpn.example.net:443'],
] as const)
  test(`with FK_HOST ${host}${said ? ` and --endpoint ${said}` : ''} devices go to ${want}`, () => {
    // The SSH port is the SSH port: only --endpoint names one for the tunnel.
    const { env, state } = place(host)
    assert.deepEqual(endpointsOf({ env, site } as unknown as Config, state, said), { box: want })
  })

test('where the tunnel ends at a router there is no file to write, and the reason is given', () => {
  const { state } = place('local')
  const config = loadConfig({ env: {}, site: 'zengarden' })
  assert.throws(() => endpointsOf(config, state), {
    message: 'the tunnel of zengarden ends at no host of it: wireguard at router',
  })
})

for (const [host, said, message] of [
  [undefined, undefined, 'nothing says where devices find box'],
  ['local', undefined, 'nothing says where devices find box'],
  ['lab', undefined, 'nothing says where devices find box'],
  ['admin@10.66.0.1', undefined, '10.66.0.1 is inside the tunnel: nobody outside finds box there'],
  ['local', 'me@host', '--endpoint me@host is not HOST or HOST:PORT (IPv6 in brackets)'],
  ['local', '300.1.1.1', '--endpoint 300.1.1.1 is not HOST or HOST:PORT (IPv6 in brackets)'],
] as const)
  test(`with FK_HOST ${host ?? 'unset'}${said ? ` and --endpoint ${said}` : ''} there is no way in: ${message}`, () => {
    const { env, state } = place(host ?? '')
    assert.throws(
      () => endpointsOf({ env: { ...env, FK_HOST: host }, site } as unknown as Config, state, said),
      { message },
    )
  })

test('a new peer gets the lowest free address, and every comment stays', () => {
  const { text, peer } = withPeer(document, site, 'tablet')
  assert.deepEqual(peer, { name: 'tablet', address: '10.66.0.3' })
  assert.equal(
    text,
    document.replace(
      '    - { name: phone, address: 10.66.0.4 }\n',
      '    - { name: phone, address: 10.66.0.4 }\n    - { name: tablet, address: 10.66.0.3 }\n',
    ),
  )
})

test('adding a peer and revoking it gives the document back', () => {
  const { text, peer } = withPeer(document, site, 'tablet')
  const grown = { ...site, tunnel: { ...site.tunnel, peers: [...site.tunnel.peers, peer] } }
  assert.equal(withoutPeer(text, grown, 'tablet'), document)
})

test('the documents of this repository survive an edit to the byte', () => {
  for (const name of ['fortress', 'fortress-pi']) {
    const { site } = loadConfig({ env: {}, site: name })
    const text = readFileSync(join(import.meta.dirname, '../..', 'config', 'sites', `${name}.yaml`), 'utf8')
    const peer = '{ name: laptop, address: 10.66.0.2 }'
    const grown = withPeer(text, site, 'phone')
    assert.equal(grown.text, text.replace(peer, `${peer}, { name: phone, address: 10.66.0.3 }`))
  }
})

const full = {
  ...site,
  tunnel: { ...site.tunnel, network: '10.66.0.0/30', peers: [{ name: 'laptop', address: '10.66.0.2' }] },
} as Site
for (const [at, name, message] of [
  [site, 'laptop', 'there is a peer laptop already (10.66.0.2)'],
  [site, 'Laptop', "'Laptop' cannot be the name of a peer: use at most 15 of a-z, 0-9 and -"],
  [
    site,
    'a-very-long-name',
    "'a-very-long-name' cannot be the name of a peer: use at most 15 of a-z, 0-9 and -",
  ],
  [site, '../x', "'../x' cannot be the name of a peer: use at most 15 of a-z, 0-9 and -"],
  [full, 'phone', '10.66.0.0/30 has no free address left for phone'],
] as const)
  test(`peer add ${name} is refused: ${message}`, () =>
    assert.throws(() => withPeer(document, at, name), { message }))

for (const [at, name, message] of [
  [site, 'lapdog', 'there is no peer lapdog: laptop, phone'],
  [full, 'laptop', 'laptop is the only peer: without it nobody could enter'],
] as const)
  test(`peer revoke ${name} is refused: ${message}`, () =>
    assert.throws(() => withoutPeer(document, at, name), { message }))

test('peer add makes keys and a client file for its owner only, then writes the document', async () => {
  const { state, peer, text, said, path } = place()
  chmodSync(path, 0o664)
  assert.equal(await peer('add tablet'), 0)
  assert.equal(text(), withPeer(document, site, 'tablet').text)
  assert.equal((statSync(path).mode & 0o777).toString(8), '664')
  const file = join(state, 'tablet.conf')
  const mode = (name: string) => (statSync(name).mode & 0o777).toString(8)
  assert.deepEqual([mode(state), mode(file)], ['700', '600'])
  assert.equal(/^Address = (.*)$/m.exec(readFileSync(file, 'utf8'))?.[1], '10.66.0.3/32')
  const secret = /^PrivateKey = (.*)$/m.exec(readFileSync(file, 'utf8'))![1]!
  assert.equal(said.join('\n').includes(secret), false)
  assert.match(said.join('\n'), /The host does not have it yet: \.\/task host-wireguard$/m)
  assert.match(said.at(-1) ?? '', /^The age identity has no known copy yet: \.\/task identity$/m)
})

test('peer add writes nothing to the document when the keys cannot be made', async () => {
  const { peer, text } = place('local')
  await assert.rejects(peer('add tablet'), { message: 'nothing says where devices find box' })
  assert.equal(text(), document)
})

test('peer show gives the same file each time, and remembers --endpoint', async () => {
  const { state, peer } = place('local')
  await peer('show laptop --endpoint vpn.example.net')
  const first = readFileSync(join(state, 'laptop.conf'), 'utf8')
  assert.equal(/^Endpoint = (.*)$/m.exec(first)?.[1], 'vpn.example.net:51820')
  await peer('show laptop')
  assert.equal(readFileSync(join(state, 'laptop.conf'), 'utf8'), first)
})

test('peer revoke takes the document’s line, the keys and the file away', async () => {
  const { state, peer, text } = place()
  await peer('show laptop')
  await peer('show phone')
  await peer('revoke phone')
  assert.equal(text(), document.replace('    - { name: phone, address: 10.66.0.4 }\n', ''))
  assert.deepEqual(readdirSync(state).sort(), [
    'laptop.conf',
    'wg-host.age',
    'wg-host.pub',
    'wg-peer-laptop.age',
    'wg-peer-laptop.pub',
    'wg-psk-laptop.age',
  ])
})

test('a peer that is revoked and added again gets new keys', async () => {
  const { state, peer } = place()
  const half = () => readFileSync(join(state, 'wg-peer-phone.pub'), 'utf8')
  await peer('show phone')
  const old = half()
  await peer('revoke phone')
  await peer('add phone', { ...site, tunnel: { ...site.tunnel, peers: [site.tunnel.peers[0]!] } })
  assert.notEqual(half(), old)
})

test('peer list says who has keys here', async () => {
  const { state, peer, said } = place()
  await peer('show laptop')
  said.length = 0
  await peer('list')
  assert.deepEqual(said, [
    `10.66.0.2\tlaptop\t${readFileSync(join(state, 'wg-peer-laptop.pub'), 'utf8').trim()}`,
    '10.66.0.4\tphone\tno keys on this computer yet',
  ])
})

for (const [words, message] of [
  ['', "peer has no action '': it has add, show, revoke, list"],
  ['add', 'peer add needs a NAME'],
  ['list laptop', 'peer list takes no name'],
  ['show a b', "peer takes add|show|revoke|list [NAME]: 'b' is too much"],
  ['shwo laptop', "peer has no action 'shwo'; did you mean show?"],
  ['show laptop --qrr', "peer has no flag '--qrr'; did you mean --qr?"],
] as const)
  test(`'peer ${words}' is refused, and the reason given`, async () => {
    const { peer, state } = place()
    await assert.rejects(peer(words), (error: Error) => error.message.startsWith(message))
    assert.equal(existsSync(state), false)
  })

const client = clientFile(
  withGuests,
  site.tunnel.peers[0]!,
  {
    own: `${'k'.repeat(42)}A=`,
    preshared: `${'s'.repeat(42)}A=`,
    hosts: { 'wg-host': placeholder('wg-host') },
  },
  { box: '192.0.2.10:51820' },
)

test('the QR code is the one qrencode makes, but for the mask', { skip: without('qrencode') }, () => {
  const ascii = execFileSync(
    'qrencode',
    ['--level=L', '--8bit', '--margin=0', '--type=ASCII', '--output=-'],
    { input: client, encoding: 'utf8' },
  )
  const theirs = ascii
    .split('\n')
    .filter(Boolean)
    .map((line) => line.match(/../g)!.map((cell) => cell === '##'))
  const masks = [0, 1, 2, 3, 4, 5, 6, 7].map(
    (maskPattern) => encode(client, { ecc: 'L', border: 0, maskPattern, boostEcc: false }).data,
  )
  assert.equal(masks.filter((ours) => JSON.stringify(ours) === JSON.stringify(theirs)).length, 1)
})

test('what stands on the terminal is that QR code', () => {
  const { data } = encode(client, { ecc: 'L', border: 2 })
  const rows = qr(client)
    .split('\n')
    .slice(0, -1)
    .flatMap((line) => {
      const blocks = [...line.replace('\x1b[30;107m', '').replace('\x1b[0m', '')]
      return [
        blocks.map((block) => block === '█' || block === '▀'),
        blocks.map((block) => block === '█' || block === '▄'),
      ]
    })
  assert.deepEqual(rows.slice(0, data.length), data)
})

test('a phone reads the client file from the QR code', { skip: without('zbarimg') }, () => {
  const { data } = encode(client, { ecc: 'L', border: 4 })
  const scale = 4
  const row = (line: boolean[]) => line.flatMap((dark) => Array<number>(scale).fill(dark ? 0 : 255))
  const pixels = Buffer.from(data.flatMap((line) => Array.from({ length: scale }, () => row(line)).flat()))
  const image = Buffer.concat([Buffer.from(`P5 ${data.length * scale} ${data.length * scale} 255\n`), pixels])
  const read = execFileSync('zbarimg', ['--quiet', '--raw', '-Sdisable', '-Sqrcode.enable', '-'], {
    input: image,
    encoding: 'utf8',
  })
  assert.equal(read.trimEnd(), client.trimEnd())
})
