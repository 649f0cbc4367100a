import assert from 'node:assert/strict'
import { test } from 'node:test'
import {
  contains,
  formatAddress,
  formatNetwork,
  overlap,
  parseAddress,
  parseNetwork,
} from '../../lib/ground/address.ts'
import { isHostName, parseHost } from '../../lib/ground/hostname.ts'

test('an address is read and written back in its short form', () => {
  const table: [string, string | undefined][] = [
    ['10.66.0.1', '10.66.0.1'],
    ['255.255.255.255', '255.255.255.255'],
    ['2001:DB8:0:0:0:0:0:1', '2001:db8::1'],
    ['::', '::'],
    ['::1', '::1'],
    ['fe80::', 'fe80::'],
    ['1:0:0:2:0:0:0:3', '1:0:0:2::3'],
    ['1:2:3:4:5:6:7:8', '1:2:3:4:5:6:7:8'],
    ['::ffff:192.0.2.1', '::ffff:c000:201'],
    ['10.66.0.01', undefined],
    ['10.66.0', undefined],
    ['10.66.0.256', undefined],
    ['10.66.0.1/24', undefined],
    ['fe80::1%eth0', undefined],
    ['', undefined],
  ]
  const again = table.map(([text]) => {
    const address = parseAddress(text)
    return [text, address && formatAddress(address.family, address.value)]
  })
  assert.deepEqual(again, table)
})

test('a network is what is left when the host bits are cleared', () => {
  const table: [string, string | undefined][] = [
    ['10.66.0.7/24', '10.66.0.0/24'],
    ['10.66.0.7/32', '10.66.0.7/32'],
    ['10.66.0.7/0', '0.0.0.0/0'],
    ['2001:db8:77::5/48', '2001:db8:77::/48'],
    ['10.66.0.0', undefined],
    ['10.66.0.0/33', undefined],
    ['10.66.0.0/024', undefined],
    ['10.66.0.0/24/24', undefined],
    ['::/129', undefined],
  ]
  const again = table.map(([text]) => {
    const network = parseNetwork(text)
    return [text, network && formatNetwork(network)]
  })
  assert.deepEqual(again, table)
})

test('networks know what is in them and what they share', () => {
  const network = parseNetwork('10.66.0.0/24')!
  assert.equal(contains(network, '10.66.0.255'), true)
  assert.equal(contains(network, '10.66.1.0'), false)
  assert.equal(contains(network, '::a42:1'), false)
  assert.equal(contains(network, 'fortress'), false)
  assert.equal(overlap(network, parseNetwork('10.0.0.0/8')!), true)
  assert.equal(overlap(network, parseNetwork('10.66.1.0/24')!), false)
  assert.equal(overlap(network, parseNetwork('::/0')!), false)
})

test('a host name is no mistyped address', () => {
  for (const name of ['fortress', 'a.example.org.', 'box_1', '1e100.net'])
    assert.equal(isHostName(name), true, name)
  for (const name of ['', '-o', 'a..b', '192.0.2.300', '10.66', 'a b', 'a/b', 'x'.repeat(64)])
    assert.equal(isHostName(name), false, name)
})

test('FK_HOST is read in every form it has', () => {
  assert.deepEqual(parseHost('local'), { kind: 'local' })
  assert.deepEqual(parseHost('lab'), { kind: 'lab' })
  assert.deepEqual(parseHost('fortress'), { kind: 'ssh', host: 'fortress' })
  assert.deepEqual(parseHost('admin@192.0.2.10:2222'), {
    kind: 'ssh',
    user: 'admin',
    host: '192.0.2.10',
    port: 2222,
  })
  assert.deepEqual(parseHost('admin@[fe80::1%eth0]'), { kind: 'ssh', user: 'admin', host: 'fe80::1%eth0' })
})

test('a password in FK_HOST is refused in every form, and never repeated', () => {
  for (const text of [
    'admin:correct-horse@192.0.2.10',
    'ssh://admin:correct-horse@192.0.2.10/', // gitleaks:allow
    'admin:correct-horse@::1',
  ])
    assert.deepEqual(parseHost(text), {
      reason: 'must not hold a password: use a key (FK_SSH_KEY) or your ssh agent',
    })
})
