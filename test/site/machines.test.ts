// Who runs what: the machines of a site that a page runs on, and the virtual ones among them.
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { everyMachine, guestsOf, machinesFor } from '../../lib/site/machines.ts'
import { notBuilt } from '../../lib/site/planned.ts'
import { made } from './made.ts'

const names = (found: { name: string }[]) => found.map(({ name }) => name)

describe('where the metal is the node', () => {
  const metal = made({
    machines: [
      { name: 'a', roles: ['host', 'agent'] },
      { name: 'b', roles: ['host', 'server'] },
      { name: 'c', roles: ['host'] },
    ],
  })

  test('a host page runs on all metal, in the order of the document', () => {
    assert.deepEqual(names(machinesFor({ site: metal }, 'host')), ['a', 'b', 'c'])
  })

  test('a node page runs on servers first', () => {
    assert.deepEqual(names(machinesFor({ site: metal }, 'node')), ['b', 'a'])
  })

  test('a disk by its id needs a page that is named, because none formats it yet', () => {
    const pages = (disk?: { id?: string; etcd_gib?: number }) =>
      notBuilt(made({ machines: [{ name: 'a', roles: ['host', 'server'], ...(disk && { disk }) }] }))
        .map(({ page }) => page)
        .filter((page) => page === '19-node-disk')
    assert.deepEqual(pages({ id: '/dev/disk/by-id/nvme-eui.1' }), ['19-node-disk'])
    assert.deepEqual(pages({ etcd_gib: 10 }), ['19-node-disk'])
    assert.deepEqual(pages(), [])
  })

  test('there is no virtual machine', () => assert.deepEqual(guestsOf(metal), []))

  test('a machine with two roles is there once', () => {
    assert.deepEqual(names(everyMachine({ site: metal })), ['a', 'b', 'c'])
  })
})

describe('where nodes are virtual machines', () => {
  const box = { name: 'box', roles: ['host' as const] }
  const network = { name: 'inner', network: '10.67.0.0/24', bridge: { at: 'box', name: 'fk0' } }
  const one = made({
    machines: [box, { name: 'box-node', roles: ['server'], vm: { host: 'box' } }],
    networks: [network],
  })

  test('one is behind its host, at the second address of the network there', () => {
    const [node, ...more] = guestsOf(one)
    assert.deepEqual(more, [])
    assert.deepEqual(
      { ...node, mac: undefined },
      {
        name: 'box-node',
        arch: 'amd64',
        os: 'flatcar',
        role: 'server',
        vm: { host: 'box', memory: 8192, cpus: 4, disk: 40, accel: 'kvm', console: false },
        address: '10.67.0.2',
        prefix: 24,
        gateway: '10.67.0.1',
        mac: undefined,
      },
    )
  })

  test('several are counted from the second address, and keep one that is given', () => {
    const listed = made({
      machines: [
        box,
        { name: 'w', roles: ['agent'], vm: { host: 'box' } },
        { name: 's', roles: ['server'], vm: { host: 'box' }, address: '10.67.0.9' },
      ],
      networks: [network],
    })
    assert.deepEqual(
      guestsOf(listed).map(({ name, role, address }) => [name, role, address]),
      [
        ['w', 'agent', '10.67.0.2'],
        ['s', 'server', '10.67.0.9'],
      ],
    )
    const placed = machinesFor({ site: listed }, 'node')
    assert.deepEqual(names(placed), ['s', 'w'])
    assert.deepEqual([placed[0]?.behind, placed[0]?.user, placed[0]?.os], ['box', 'core', 'flatcar'])
  })

  test('their hardware addresses follow from the names, and differ', () => {
    const of = (name: string) => guestsOf({ ...one, name })[0]?.mac
    assert.match(of('one') ?? '', /^52:54:00(:[0-9a-f]{2}){3}$/)
    assert.equal(of('one'), of('one'))
    assert.notEqual(of('one'), of('two'))
  })

  test('that run Talos no page has a shell', () => {
    const talos = made({
      machines: [box, { name: 'box-node', roles: ['server'], os: 'talos', vm: { host: 'box' } }],
    })
    assert.deepEqual(machinesFor({ site: talos }, 'node'), [])
  })
})
