// The gateway and the zone that a site has when its document names none.
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { evaluate, pointOf } from '../../lib/site/reach.ts'
import { zonesOf } from '../../lib/site/zones.ts'
import { siteOf } from '../sites.ts'
import { type Short, made, metal } from './made.ts'

const box = { name: 'box', roles: ['host'] } as const
const inner = { name: 'in', roles: ['server'], vm: { host: 'box' } } as const

describe('without gateways in its document', () => {
  test('a server in a virtual machine gets one for the tunnel, at an address of its network that is in a pool', () => {
    const { gateways, networks, names } = made({ machines: [box, inner] })
    assert.deepEqual(gateways, [{ name: 'inside', address: '10.77.0.240', audience: ['tunnel'] }])
    assert.deepEqual(networks[0]?.pools, { web: '10.77.0.240-10.77.0.240' })
    assert.deepEqual(
      names.map(({ zone, points_at, issuer }) => [zone, points_at, issuer]),
      [['trial.internal', 'inside', 'own-ca']],
    )
  })

  test('it takes no address that a machine, a device, the API or DHCP has', () => {
    const { gateways } = made({
      machines: [box, { ...inner, address: '10.77.0.240' }],
      devices: [{ name: 'printer', kind: 'workstation', address: '10.77.0.241' }],
      cluster: { api: { vip: '10.77.0.242' } },
      networks: [
        {
          name: 'guests',
          network: '10.77.0.0/24',
          bridge: { at: 'box', name: 'virbr-fort' },
          dhcp: '10.77.0.243-10.77.0.245',
        },
      ],
    })
    assert.equal(gateways[0]?.address, '10.77.0.246')
  })

  test('it takes the first address of the first pool that its network has', () => {
    const { gateways, networks } = made({
      machines: [box, inner],
      networks: [
        {
          name: 'guests',
          network: '10.77.0.0/24',
          bridge: { at: 'box', name: 'virbr-fort' },
          pools: { own: '10.77.0.100-10.77.0.109' },
        },
      ],
    })
    assert.equal(gateways[0]?.address, '10.77.0.100')
    assert.deepEqual(networks[0]?.pools, { own: '10.77.0.100-10.77.0.109' })
  })

  test('a node on which the tunnel ends listens itself', () => {
    const { gateways } = made({ machines: metal('server', 'agent') })
    assert.deepEqual(gateways, [
      { name: 'inside', address: '10.66.0.1', listen: 'host', audience: ['tunnel'] },
    ])
  })

  for (const [why, short] of Object.entries<Short>({
    'no cluster': { machines: [box] },
    'no tunnel': { machines: [box, inner], tunnel: { kind: 'none' } },
    'a tunnel that ends at a router': { machines: metal('server'), tunnel: { at: 'router' } },
    'an empty list': { machines: [box, inner], gateways: [] },
  }))
    test(`a site with ${why} has none, and no zone`, () => {
      const { gateways, names } = made(short)
      assert.deepEqual([gateways, names], [[], []])
    })
})

for (const [name, source, target] of [
  ['fortress', 'tunnel', '10.77.0.240'],
  ['fortress-pi', 'tunnel', undefined],
] as const)
  test(`who is in the tunnel of ${name} reaches its gateway at tcp/443, and who is outside does not`, () => {
    const site = siteOf(name)
    const zones = zonesOf(site)
    const to = target ? pointOf(zones, target) : { zone: 'self', address: site.gateways[0]!.address }
    const from = { zone: source, address: site.tunnel.peers[0]!.address }
    assert.ok(evaluate(zones, from, to, 'tcp', 443))
    assert.equal(evaluate(zones, { zone: 'outside', address: '192.168.1.20' }, to, 'tcp', 443), undefined)
    assert.equal(evaluate(zones, { zone: 'outside', address: '198.51.100.1' }, to, 'tcp', 443), undefined)
  })
