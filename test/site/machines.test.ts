// Who runs what: the machines of a site that a page runs on, and the virtual ones that follow from it.
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { everyMachine, machinesFor, nodesOf } from '../../lib/site/machines.ts'
import type { MachineSpec, Site } from '../../lib/site/model.ts'

const machine = (name: string, roles: MachineSpec['roles'], more: Partial<MachineSpec> = {}): MachineSpec =>
  ({ name, roles, os: 'debian-13', arch: 'amd64', ...more }) as MachineSpec
const site = (machines: MachineSpec[], nodes?: Partial<Site['nodes']>): Site =>
  ({ name: 'trial', machines, ...(nodes ? { nodes } : {}) }) as unknown as Site
const network = { network: '10.67.0.0/24', bridge: 'fk0' }
const flatcar = { FK_NODE_OS: 'flatcar' } as const
const names = (found: { name: string }[]) => found.map(({ name }) => name)

describe('where the metal is the node', () => {
  const metal = site([
    machine('a', ['host', 'node', 'agent']),
    machine('b', ['host', 'node', 'server']),
    machine('c', ['host']),
  ])

  test('a host page runs on all metal, in the order of the document', () => {
    assert.deepEqual(names(machinesFor({ site: metal, env: flatcar }, 'host')), ['a', 'b', 'c'])
  })

  test('a node page runs on servers first', () => {
    assert.deepEqual(names(machinesFor({ site: metal, env: flatcar }, 'node')), ['b', 'a'])
  })

  test('there is no virtual machine', () => assert.deepEqual(nodesOf(metal), []))

  test('a machine with two roles is there once', () => {
    assert.deepEqual(names(everyMachine({ site: metal, env: flatcar })), ['a', 'b', 'c'])
  })
})

describe('where nodes are virtual machines', () => {
  test('one is named after its host when the site lists none', () => {
    const [node, ...more] = nodesOf(site([machine('box', ['host'])], network))
    assert.deepEqual(more, [])
    assert.deepEqual(
      { ...node, mac: undefined },
      {
        name: 'box-node',
        arch: 'amd64',
        role: 'server',
        address: '10.67.0.2',
        prefix: 24,
        gateway: '10.67.0.1',
        mac: undefined,
      },
    )
  })

  test('listed ones are counted from the second address, and keep one that is given', () => {
    const listed = site(
      [
        machine('box', ['host']),
        machine('w', ['node', 'agent']),
        machine('s', ['node', 'server'], { address: '10.67.0.9' }),
      ],
      network,
    )
    assert.deepEqual(
      nodesOf(listed).map(({ name, role, address }) => [name, role, address]),
      [
        ['w', 'agent', '10.67.0.2'],
        ['s', 'server', '10.67.0.9'],
      ],
    )
    const placed = machinesFor({ site: listed, env: flatcar }, 'node')
    assert.deepEqual(names(placed), ['s', 'w'])
    assert.deepEqual([placed[0]?.behind, placed[0]?.user, placed[0]?.os], ['box', 'core', 'flatcar'])
  })

  test('their hardware addresses follow from the names, and differ', () => {
    const of = (name: string) => nodesOf({ ...site([machine('box', ['host'])], network), name })[0]?.mac
    assert.match(of('one') ?? '', /^52:54:00(:[0-9a-f]{2}){3}$/)
    assert.equal(of('one'), of('one'))
    assert.notEqual(of('one'), of('two'))
  })

  test('that run Talos no page has a shell', () => {
    const talos = { site: site([machine('box', ['host'])], network), env: { FK_NODE_OS: 'talos' } as const }
    assert.deepEqual(machinesFor(talos, 'node'), [])
  })
})
