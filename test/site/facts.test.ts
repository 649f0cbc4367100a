// What follows from a site of several hosts: who is where, what each is found by, and what is whose.
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { apiOf, backupOf, endpointOf, membersOf } from '../../lib/site/cluster.ts'
import {
  bridgeOf,
  chosen,
  everyMachine,
  guestsOf,
  hostOf,
  machineOf,
  machinesFor,
  networkOf,
  tunnelOf,
} from '../../lib/site/machines.ts'
import { estate, hostKey, made, metal } from './made.ts'

const site = estate()
const names = (found: { name: string }[]) => found.map(({ name }) => name)

describe('two hosts with a virtual machine each, and metal beside them', () => {
  test('the metal is no virtual machine of anybody', () => {
    assert.deepEqual(names(guestsOf(site)), ['north-1', 'south-1'])
    assert.equal(hostOf(site, machineOf(site, 'metal')), undefined)
    assert.deepEqual(
      membersOf(site).map(({ name, virtual, os, arch }) => [name, virtual, os, arch]),
      [
        ['north-1', true, 'flatcar', 'amd64'],
        ['south-1', true, 'flatcar', 'amd64'],
        ['metal', false, 'ubuntu-24.04', 'arm64'],
      ],
    )
  })

  test('each host has its own virtual machine and no other', () => {
    assert.deepEqual(names(guestsOf(site, 'north')), ['north-1'])
    assert.deepEqual(names(guestsOf(site, 'south')), ['south-1'])
    assert.deepEqual(guestsOf(site, 'metal'), [])
  })

  test('each virtual machine is in the network of its host, behind it, under a hardware address of its own', () => {
    const [north, south] = guestsOf(site)
    assert.deepEqual([north?.address, north?.gateway], ['10.77.0.2', '10.77.0.1'])
    assert.deepEqual([south?.address, south?.gateway], ['10.78.0.2', '10.78.0.1'])
    assert.notEqual(north?.mac, south?.mac)
    assert.equal(networkOf(site, '10.78.0.2')?.bridge?.at, 'south')
    assert.equal(networkOf(site, '192.0.2.20'), undefined)
    assert.notEqual(bridgeOf(site, 'north')?.name, bridgeOf(site, 'south')?.name)
    assert.equal(bridgeOf(site, 'metal'), undefined)
  })

  test('each virtual machine has its own size', () => {
    assert.deepEqual(
      guestsOf(site).map(({ vm }) => [vm.memory, vm.cpus, vm.disk, vm.accel, vm.console]),
      [
        [4096, 2, 30, 'kvm', false],
        [16384, 8, 100, 'tcg', true],
      ],
    )
  })

  test('pages of hosts come to all metal, and those of nodes reach each virtual machine through its own host', () => {
    assert.deepEqual(names(machinesFor({ site }, 'host')), ['north', 'south', 'metal'])
    assert.deepEqual(
      machinesFor({ site }, 'node').map(({ name, behind, user }) => [name, behind, user]),
      [
        ['north-1', 'north', 'core'],
        ['south-1', 'south', 'core'],
        ['metal', undefined, undefined],
      ],
    )
    assert.deepEqual(names(machinesFor({ site }, 'laptop')), ['laptop'])
    assert.deepEqual(names(machinesFor({ site }, 'api')), ['api'])
    assert.deepEqual(names(everyMachine({ site })), ['north', 'south', 'metal', 'north-1', 'south-1'])
  })

  test('each host has a vault of its own, by what its board can do', () => {
    const vault = (name: string) => machineOf(site, name).vault
    assert.equal(vault('north')?.disk, '/dev/disk/by-id/usb-Samsung_T7-0:0')
    assert.deepEqual([vault('south')?.name, vault('south')?.tpm2_pcrs], ['inner', []])
    assert.deepEqual([vault('metal')?.disk, vault('metal')?.tpm2_pcrs], ['', []])
    assert.deepEqual(vault('north')?.tpm2_pcrs, [7, 8, 9, 14])
    assert.equal(vault('north-1'), undefined)
  })
})

describe('where a virtual machine is', () => {
  test('on a hypervisor that is not ours it is a machine like any other', () => {
    const far = made({
      machines: [
        { name: 'box', roles: ['host'], address: '192.0.2.10' },
        {
          name: 'far',
          roles: ['host', 'server'],
          address: '192.0.2.11',
          tunnel_address: '10.66.0.11',
          vm: { host: 'pve1' },
          os: 'debian-13',
        },
      ],
      devices: [{ name: 'pve1', kind: 'hypervisor', address: '192.0.2.9' }],
    })
    assert.deepEqual(guestsOf(far), [])
    assert.deepEqual(names(machinesFor({ site: far }, 'host')), ['box', 'far'])
    assert.equal(machinesFor({ site: far }, 'node')[0]?.behind, undefined)
    assert.equal(membersOf(far)[0]?.virtual, false)
    assert.equal(bridgeOf(far, 'box'), undefined)
  })

  test('a hardware address of the document stays as it is', () => {
    const given = made({
      machines: [
        { name: 'box', roles: ['host'] },
        { name: 'in', roles: ['server'], vm: { host: 'box' }, mac: '02:00:00:00:00:07' },
      ],
    })
    assert.equal(guestsOf(given)[0]?.mac, '02:00:00:00:00:07')
  })

  test('a name that the site does not have is an error', () => {
    assert.throws(() => machineOf(site, 'sooth'), { message: 'sooth is no machine of estate' })
  })
})

describe('the tunnel', () => {
  const end = (name: string) => tunnelOf(site, machineOf(site, name))

  test('ends at each host under an address and a key of its own', () => {
    assert.deepEqual(
      ['north', 'south', 'metal'].map((name) => [end(name)?.address, end(name)?.key]),
      [
        ['10.66.0.1', 'wg-host'],
        ['10.66.0.20', 'wg-host-south'],
        ['10.66.0.30', 'wg-host-metal'],
      ],
    )
    assert.equal(end('north-1'), undefined)
  })

  test('ends at no host where a router has it', () => {
    const routed = made({
      machines: [{ name: 'box', roles: ['host'], address: '192.0.2.10' }],
      devices: [{ name: 'rt', kind: 'router', address: '192.0.2.1' }],
      router: { kind: 'routeros', device: 'rt' },
      tunnel: { at: 'router' },
    })
    const [box] = routed.machines
    assert.equal(tunnelOf(routed, box!), undefined)
    assert.equal(endpointOf(routed, box!), '192.0.2.10')
  })

  test('is not there where nothing is a host, and no page of a host runs', () => {
    const talos = made({
      machines: ['a', 'b', 'c'].map((name, i) => ({
        name,
        roles: ['server'] as const,
        os: 'talos' as const,
        address: `192.0.2.${11 + i}`,
      })),
    })
    assert.deepEqual([talos.tunnel.kind, talos.router.kind], ['none', 'none'])
    assert.deepEqual(everyMachine({ site: talos }), [])
    assert.deepEqual(names(membersOf(talos)), ['a', 'b', 'c'])
    assert.deepEqual(
      membersOf(talos).map(({ endpoint }) => endpoint),
      ['192.0.2.11', '192.0.2.12', '192.0.2.13'],
    )
  })
})

describe('the members of a cluster', () => {
  test('are found at as many addresses as there are members', () => {
    const five = made({ machines: metal('server', 'server', 'server', 'agent', 'agent') })
    const endpoints = membersOf(five).map(({ endpoint }) => endpoint)
    assert.deepEqual(endpoints, ['10.66.0.1', '10.66.0.12', '10.66.0.13', '10.66.0.14', '10.66.0.15'])
  })

  test('join at the first server, or at the address that moves, where there is one', () => {
    const machines = metal('server', 'server', 'server')
    assert.deepEqual(apiOf(made({ machines })), { join: '192.0.2.11', names: [] })
    const cluster = { api: { vip: '192.0.2.9', names: ['api.example.net'] } }
    const found = apiOf(made({ machines, cluster }))
    assert.deepEqual([found.join, found.names], ['192.0.2.9', ['192.0.2.9', 'api.example.net']])
  })

  test('have their API at the address that moves for a laptop that reaches it', () => {
    const cluster = { api: { vip: '192.0.2.9' } }
    const machines = metal('server', 'server', 'server').map(({ tunnel_address: _, ...rest }) => rest)
    assert.equal(apiOf(made({ machines, cluster })).laptop, '192.0.2.9')
    // Each host is a peer of its own there, and one address belongs to one peer.
    assert.equal(apiOf(made({ machines: metal('server', 'server', 'server'), cluster })).laptop, undefined)
  })
})

test('a component is chosen by its name, with parameters, or as one of several', () => {
  const { machines } = site
  const components = {
    network: 'cilium',
    volumes: { use: 'longhorn', replicas: 2 },
    secrets: ['sops', { use: 'openbao' }],
  }
  const some = made({ machines, components })
  assert.deepEqual(
    ['network', 'volumes', 'secrets', 'runtime'].map((slot) => chosen(some, slot)),
    [['cilium'], ['longhorn'], ['sops', 'openbao'], []],
  )
})

describe('the backup of the cluster', () => {
  const targets = [
    { name: 'far', kind: 's3' as const, endpoint: 'https://s3.example.net', bucket: 'bundles' },
    { name: 'near', kind: 'sftp' as const, host: 'nas', user: 'u', path: '/a', host_key: hostKey },
    { name: 'other', kind: 'sftp' as const, host: 'old', user: 'u', path: '/b', host_key: hostKey },
  ]
  const row = { every: 'hourly', copies: 3, rpo: '1h', rto: '2h' }

  test('goes to the targets that its own row names', () => {
    const keep = [
      { what: 'volumes', to: ['far'], ...row },
      { what: 'cluster', to: ['near'], ...row },
    ]
    const found = backupOf(made({ machines: site.machines, data: { targets, keep } }))
    assert.deepEqual(
      [found.schedule, found.keep, found.ssh?.host, found.ssh?.port, found.s3, found.directory],
      ['hourly', 3, 'nas', 22, undefined, undefined],
    )
  })

  test('names the targets that nothing is uploaded to: a second one of a kind, and a kind that is not built', () => {
    const rest = { name: 'rest', kind: 'rest' as const }
    const keep = [{ what: 'cluster', to: ['near', 'other', 'rest'], ...row }]
    const of = made({ machines: site.machines, data: { targets: [...targets, rest], keep } })
    assert.deepEqual(backupOf(of).left, ['other', 'rest'])
  })

  test('is made every night where the document says nothing, and stays on the node', () => {
    assert.deepEqual(backupOf(site), { schedule: 'daily', keep: 14, left: [] })
  })
})

test('a virtual machine without an address gets none that another thing of the site has', () => {
  const machines = [
    { name: 'box', roles: ['host' as const] },
    { name: 'one', roles: ['server' as const], os: 'flatcar' as const, vm: { host: 'box' } },
  ]
  const found = made({ machines, cluster: { api: { vip: '10.77.0.2', keeper: 'none' } } } as Parameters<
    typeof made
  >[0])
  assert.equal(found.machines[1]?.address, '10.77.0.3')
})
