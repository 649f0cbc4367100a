// Who may connect to whom, in words: each of them, on a router and on hosts; and what no line may open.
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { parse } from 'yaml'
import { complete } from '../../lib/site/defaults.ts'
import type { Allow, Never, Site } from '../../lib/site/model.ts'
import { evaluate, openAgainstNever, pointOf } from '../../lib/site/reach.ts'
import { zonesOf } from '../../lib/site/zones.ts'

/** A router with two networks; a cluster of two servers and an agent is in the first. */
const behindRouter = `
name: try
timezone: Etc/UTC
machines:
  - { name: one, roles: [host, server], os: debian-13, arch: amd64, address: 192.168.7.11 }
  - { name: two, roles: [host, server], os: debian-13, arch: amd64, address: 192.168.7.12 }
  - { name: three, roles: [host, agent], os: debian-13, arch: amd64, address: 192.168.7.13 }
devices:
  - { name: box, kind: router, address: 192.168.7.1 }
  - { name: nas, kind: nas, address: 192.168.8.20 }
networks:
  - { name: lab, network: 192.168.7.0/24, gateway: 192.168.7.1, pools: { web: 192.168.7.200-192.168.7.209 } }
  - { name: home, network: 192.168.8.0/24, gateway: 192.168.8.1 }
gateways: [{ name: inside, address: 192.168.7.200, audience: [home] }]
router: { kind: routeros, device: box }
tunnel: { kind: wireguard, at: router, network: 10.66.0.0/24, address: 10.66.0.1 }
cluster: { pods: 10.42.0.0/16, services: 10.43.0.0/16, servers_take_pods: true, api: { vip: 192.168.7.10 } }
components: {}
`
/** A host with a virtual machine. */
const host = `
name: try
timezone: Etc/UTC
machines:
  - { name: one, roles: [host], os: debian-13, arch: amd64 }
  - { name: one-vm, roles: [server], os: flatcar, arch: amd64, vm: { host: one, memory: 4096, cpus: 2, disk: 20 } }
cluster: { pods: 10.42.0.0/16, services: 10.43.0.0/16, servers_take_pods: true }
components: {}
`
/** A host that is the node. */
const metal = `
name: try
timezone: Etc/UTC
machines: [{ name: one, roles: [host, server], os: debian-13, arch: amd64 }]
cluster: { pods: 10.42.0.0/16, services: 10.43.0.0/16, servers_take_pods: true }
components: {}
`
function siteOf(document: string, allow?: Allow[], never: Never[] = []): Site {
  const site = complete(parse(document))
  return allow === undefined ? site : { ...site, router: { ...site.router, allow, never } }
}
const line = (from: Allow['from'], to: Allow['to'], ports: Allow['ports'] = ['tcp/443']): Allow => ({
  from,
  to,
  ports,
  why: 'a try',
})

/** Whether a line lets FROM open a connection to TO, as `ADDRESS` or `ZONE ADDRESS`. */
function lets(site: Site, from: string, to: string, port = 'tcp/443', at?: string): boolean {
  const zones = zonesOf(site, at)
  const point = (text: string) => {
    const [zone = '', address] = text.split(' ')
    return address === undefined && zone !== 'self' ? pointOf(zones, zone) : { zone, address: address ?? '' }
  }
  const [protocol = '', number] = port.split('/')
  return evaluate(zones, point(from), point(to), protocol as 'tcp', Number(number))?.line !== undefined
}

describe('words of the firewall, on a router', () => {
  const rows: [from: Allow['from'], to: Allow['to'], open: [string, string][], closed: [string, string][]][] =
    [
      [
        'home',
        'lab',
        [['192.168.8.5', '192.168.7.11']],
        [
          ['192.168.7.11', '192.168.8.5'],
          ['10.66.0.2', '192.168.7.11'],
          ['192.168.8.5', 'self'],
        ],
      ],
      [
        'home',
        'router',
        [['192.168.8.5', 'self']],
        [
          ['192.168.7.5', 'self'],
          ['192.168.8.5', '192.168.7.11'],
        ],
      ],
      ['home', 'device:box', [['192.168.8.5', 'self']], [['192.168.8.5', '192.168.7.11']]],
      [
        'home',
        '192.168.7.1',
        [['192.168.8.5', 'self 192.168.7.1']],
        [
          ['192.168.8.5', 'self 192.168.8.1'],
          ['192.168.7.5', 'self 192.168.7.1'],
        ],
      ],
      [
        'home',
        'internet',
        [
          ['192.168.8.5', '203.0.113.9'],
          ['192.168.8.5', '9.9.9.9'],
        ],
        [
          ['192.168.8.5', 'outside 192.168.1.1'],
          ['192.168.8.5', 'outside 100.64.0.1'],
          ['192.168.8.5', '192.168.7.11'],
        ],
      ],
      [
        'home',
        'upstream',
        [['192.168.8.5', 'outside 192.168.1.1']],
        [
          ['192.168.8.5', '203.0.113.9'],
          ['192.168.8.5', 'outside 10.42.0.1'],
          ['192.168.8.5', 'outside 192.168.7.11'],
        ],
      ],
      [
        'home',
        ['internet', 'upstream'],
        [
          ['192.168.8.5', 'outside 192.168.1.1'],
          ['192.168.8.5', '203.0.113.9'],
        ],
        [['192.168.8.5', 'outside 10.42.0.1']],
      ],
      [
        'tunnel',
        'nodes',
        [
          ['10.66.0.2', '192.168.7.11'],
          ['10.66.0.2', '192.168.7.13'],
        ],
        [
          ['10.66.0.2', '192.168.7.14'],
          ['192.168.8.5', '192.168.7.11'],
        ],
      ],
      ['tunnel', 'servers', [['10.66.0.2', '192.168.7.12']], [['10.66.0.2', '192.168.7.13']]],
      [
        'tunnel',
        'pods',
        [['10.66.0.2', '10.42.3.4']],
        [
          ['10.66.0.2', '10.43.3.4'],
          ['10.66.0.2', '192.168.7.11'],
        ],
      ],
      ['tunnel', 'services', [['10.66.0.2', '10.43.3.4']], [['10.66.0.2', '10.42.3.4']]],
      ['home', 'gateway:inside', [['192.168.8.5', '192.168.7.200']], [['192.168.8.5', '192.168.7.201']]],
      [
        'home',
        'pool:web',
        [
          ['192.168.8.5', '192.168.7.200'],
          ['192.168.8.5', '192.168.7.209'],
        ],
        [['192.168.8.5', '192.168.7.210']],
      ],
      [
        'machine:two',
        'device:nas',
        [['192.168.7.12', '192.168.8.20']],
        [
          ['192.168.7.11', '192.168.8.20'],
          ['192.168.7.12', '192.168.8.21'],
        ],
      ],
      [
        '192.168.8.64/26',
        '192.168.7.11',
        [['192.168.8.70', '192.168.7.11']],
        [['192.168.8.5', '192.168.7.11']],
      ],
      [
        'any',
        'home',
        [
          ['203.0.113.9', '192.168.8.5'],
          ['192.168.7.11', '192.168.8.5'],
          ['self', '192.168.8.5'],
        ],
        [['192.168.8.5', '192.168.7.11']],
      ],
      [
        'home',
        'any',
        [
          ['192.168.8.5', '203.0.113.9'],
          ['192.168.8.5', '10.66.0.2'],
          ['192.168.8.5', 'self'],
        ],
        [['192.168.7.11', '192.168.8.5']],
      ],
      [
        'router',
        'gateway:inside',
        [['self', '192.168.7.200']],
        [
          ['self', '192.168.7.201'],
          ['192.168.8.5', '192.168.7.200'],
        ],
      ],
    ]
  for (const [from, to, open, closed] of rows)
    test(`from ${from} to ${to}`, () => {
      const site = siteOf(behindRouter, [line(from, to)])
      for (const [source, target] of open)
        assert.equal(lets(site, source, target), true, `${source} → ${target}`)
      for (const [source, target] of closed)
        assert.equal(lets(site, source, target), false, `${source} → ${target}`)
      for (const [source, target] of open) assert.equal(lets(site, source, target, 'udp/443'), false)
    })

  test('an address counts where its network is, and from nowhere else', () => {
    const site = siteOf(behindRouter, [line('machine:one', 'home'), line('any', 'home')])
    assert.equal(lets(site, 'lab 192.168.7.11', '192.168.8.5'), true)
    for (const zone of ['tunnel', 'outside'])
      assert.equal(lets(site, `${zone} 192.168.7.11`, '192.168.8.5'), false)
  })

  test('a client without a lease may ask for one', () => {
    const site = siteOf(behindRouter, [line('home', 'router', ['udp/53', 'udp/67'])])
    assert.equal(lets(site, 'home 0.0.0.0', 'self', 'udp/67'), true)
    assert.equal(lets(site, 'home 0.0.0.0', 'self', 'udp/53'), false)
    assert.equal(lets(site, 'lab 0.0.0.0', 'self', 'udp/67'), false)
  })

  test('ports are single ones, ranges or any', () => {
    const site = siteOf(behindRouter, [
      line('home', 'lab', ['tcp/80', 'tcp/8000-8010', 'udp/53']),
      line('tunnel', 'lab', 'any'),
    ])
    for (const port of ['tcp/80', 'tcp/8000', 'tcp/8010', 'udp/53'])
      assert.equal(lets(site, '192.168.8.5', '192.168.7.11', port), true, port)
    for (const port of ['udp/80', 'tcp/8011', 'tcp/53'])
      assert.equal(lets(site, '192.168.8.5', '192.168.7.11', port), false, port)
    assert.equal(lets(site, '10.66.0.2', '192.168.7.11', 'udp/9'), true)
  })

  test('the verdict is the line that it comes from, or the need that it follows from', () => {
    const zones = zonesOf(siteOf(behindRouter, [line('home', 'lab'), line('tunnel', 'lab')]))
    const [peer, node, world] = ['10.66.0.2', '192.168.7.11', '203.0.113.9'].map((one) => pointOf(zones, one))
    assert.equal(evaluate(zones, peer!, node!, 'tcp', 443)?.line, 1)
    const door = evaluate(zones, world!, { zone: 'self', address: '' }, 'udp', 51820)
    assert.deepEqual([door?.why, door?.line], ['WireGuard', undefined])
  })
})

describe('words of the firewall, on a host', () => {
  test('a new host lets peers in for SSH and to its virtual machine, and that one to the world', () => {
    const site = siteOf(host)
    assert.equal(lets(site, '10.66.0.2', 'self', 'tcp/22'), true)
    for (const port of ['tcp/22', 'tcp/443', 'tcp/6443'])
      assert.equal(lets(site, '10.66.0.2', '10.77.0.2', port), true)
    assert.equal(lets(site, '10.66.0.2', '203.0.113.9'), false)
    assert.equal(lets(site, '10.77.0.2', '203.0.113.9'), true)
    for (const closed of ['192.168.1.1', '10.66.0.2', 'self'])
      assert.equal(lets(site, '10.77.0.2', closed), false, closed)
    for (const port of ['tcp/22', 'tcp/443', 'udp/53'])
      assert.equal(lets(site, '203.0.113.9', 'self', port), false, port)
    assert.equal(lets(site, 'self', '192.168.1.1'), true)
  })

  test('on metal the nodes are the host, and pods a zone of their own', () => {
    const site = siteOf(metal)
    assert.equal(lets(site, '10.66.0.2', 'self', 'tcp/6443'), true)
    assert.equal(lets(site, '10.42.0.7', '203.0.113.9'), true)
    for (const closed of ['192.168.1.1', '10.66.0.2', 'self'])
      assert.equal(lets(site, '10.42.0.7', closed), false, closed)
    const zones = zonesOf(site)
    const asks = (port: number) =>
      evaluate(zones, pointOf(zones, '10.42.0.7'), { zone: 'self', address: '' }, 'tcp', port)?.why
    assert.deepEqual([6443, 10250, 2379, 22].map(asks), ['the API', 'the kubelet', undefined, undefined])
  })

  test('a machine behind a router lets in what the router passes on to it, and goes where its network may', () => {
    const allow = [
      line('tunnel', 'lab', ['tcp/22']),
      line('lab', 'internet', 'any'),
      line('home', 'gateway:inside'),
    ]
    const site = siteOf(behindRouter, allow)
    const on = (from: string, to: string, port: string) => lets(site, from, to, port, 'one')
    assert.equal(on('10.66.0.2', 'self', 'tcp/22'), true)
    assert.equal(on('192.168.8.5', 'self', 'tcp/22'), false)
    assert.equal(on('192.168.7.50', 'self', 'tcp/22'), false)
    assert.equal(on('192.168.8.5', 'self 192.168.7.200', 'tcp/443'), true)
    assert.equal(on('192.168.8.5', 'self 192.168.7.11', 'tcp/443'), false)
    assert.equal(on('self', '203.0.113.9', 'tcp/443'), true)
    assert.equal(on('10.42.0.7', '203.0.113.9', 'tcp/443'), true)
    assert.equal(on('self', '192.168.8.5', 'tcp/443'), false)
  })

  test('a new host reaches the network around it, also one that the document names, and nobody there reaches it', () => {
    // Else the first rules would cut the connection of an admin in that network, before another could prove them.
    for (const networks of ['', 'networks: [{ name: lan, network: 192.168.7.0/24 }]'])
      for (const [from, to, open] of [
        ['self', '192.168.7.9', true],
        ['192.168.7.9', 'self', false],
      ] as const)
        assert.equal(lets(siteOf(metal + networks), from, to, 'tcp/22', 'one'), open, `${from} ${networks}`)
  })

  test('members reach what the cluster needs of one another, and nobody else does', () => {
    const site = siteOf(behindRouter, [])
    const asks = (at: string, from: string, protocol: 'tcp' | 'udp', port: number) => {
      const zones = zonesOf(site, at)
      return (
        evaluate(zones, pointOf(zones, from), { zone: 'self', address: '' }, protocol, port) !== undefined
      )
    }
    const ports = [
      ['tcp', 6443],
      ['tcp', 2379],
      ['tcp', 2380],
      ['tcp', 10250],
      ['udp', 8472],
      ['udp', 51871],
      ['tcp', 4240],
      ['tcp', 4244],
      ['tcp', 22],
    ] as const
    const of = (at: string, from: string) =>
      ports.filter(([protocol, port]) => asks(at, from, protocol, port)).map(([, port]) => port)
    assert.deepEqual(of('one', '192.168.7.12'), [6443, 2379, 2380, 10250, 8472, 51871, 4240, 4244])
    assert.deepEqual(of('one', '192.168.7.13'), [6443, 10250, 8472, 51871, 4240, 4244])
    assert.deepEqual(of('three', '192.168.7.11'), [10250, 8472, 51871, 4240, 4244])
    assert.deepEqual(of('one', '192.168.7.14'), [])
    assert.deepEqual(of('one', '192.168.8.20'), [])
    const vrrp = (at: string) =>
      zonesOf(site, at)
        .rules.filter(({ protocol }) => protocol === 'vrrp')
        .map(({ from }) => from.within)
    assert.deepEqual([vrrp('one'), vrrp('two'), vrrp('three')], [[['192.168.7.12']], [['192.168.7.11']], []])
  })

  test('pods reach the API of servers, and the kubelet of every node', () => {
    const zones = zonesOf(siteOf(behindRouter, []), 'one')
    const asks = (to: string, port: number) =>
      evaluate(zones, pointOf(zones, '10.42.0.7'), pointOf(zones, to), 'tcp', port) !== undefined
    const server = [6443, 10250, 2379].map((port) => asks('192.168.7.12', port))
    assert.deepEqual(server, [true, true, false])
    assert.deepEqual([asks('192.168.7.13', 6443), asks('192.168.7.13', 10250)], [false, true])
  })

  test('a host passes nothing on between two machines of the network around it', () => {
    const lines = [line('home', 'any', 'any'), line('tunnel', 'gateway:inside')]
    const { rules } = zonesOf(siteOf(behindRouter, lines), 'one')
    assert.deepEqual(
      rules.filter(({ from, to }) => from.zone === to.zone),
      [],
    )
  })

  test('a host that gives out addresses in a network around it answers a client without one, and nobody else', () => {
    const site = siteOf(metal, [line('lan', 'router', ['udp/67'])])
    const lan = { ...site, networks: [{ name: 'lan', network: '192.168.1.0/24' }] }
    assert.equal(lets(lan, 'outside 0.0.0.0', 'self', 'udp/67', 'one'), true)
    assert.equal(lets(lan, '192.168.1.5', 'self', 'udp/67', 'one'), true)
    assert.equal(lets(lan, '192.168.2.5', 'self', 'udp/67', 'one'), false)
  })

  test('an image mirror and MetalLB have ports of their own', () => {
    const site = siteOf(behindRouter, [])
    const more = {
      ...site,
      cluster: { ...site.cluster, mirror: 'embedded' as const },
      components: { 'load-balancer': 'metallb' },
    }
    const all = (of: Site) => [
      ...new Set(
        zonesOf(of, 'three').rules.flatMap(({ ports, to }) => (to.zone === 'self' ? (ports ?? []) : [])),
      ),
    ]
    assert.deepEqual(
      all(more).filter((port) => !all(site).includes(port)),
      ['5001', '6443', '7946'],
    )
  })

  test('a name that is no machine is refused', () => {
    assert.throws(() => zonesOf(siteOf(host), 'nobody'), /nobody is no machine of try/)
  })
})

describe('what router.never forbids', () => {
  const conflicts = (document: string, allow: Allow[], never: Never[]) =>
    openAgainstNever(siteOf(document, allow, never)).map(
      ({ line: i, never: j, from, to }) => `${i} ${from} → ${to} (${j})`,
    )

  test('is opened by no line of a new site', () => {
    for (const document of [host, metal, behindRouter])
      assert.deepEqual(openAgainstNever(siteOf(document)), [])
  })

  const never = (from: Never['from'], to: Never['to'], ports?: string[]): Never => ({
    from,
    to,
    ...(ports ? { ports } : {}),
  })
  for (const [what, document, allow, forbidden, expected] of [
    [
      'the same words',
      behindRouter,
      line('home', 'lab'),
      never('home', ['router', 'lab']),
      ['0 home → lab (0)'],
    ],
    ['any', behindRouter, line('home', 'any'), never('home', 'lab'), ['0 home → lab (0)']],
    [
      'a machine of the network',
      behindRouter,
      line('home', 'machine:two'),
      never('home', 'lab'),
      ['0 home → machine:two (0)'],
    ],
    [
      'the router by its device',
      behindRouter,
      line('home', 'device:box'),
      never('home', 'router'),
      ['0 home → device:box (0)'],
    ],
    [
      'an address in the internet',
      behindRouter,
      line('203.0.113.0/24', 'lab'),
      never('internet', 'lab'),
      ['0 203.0.113.0/24 → lab (0)'],
    ],
    ['a part of a network', behindRouter, line('192.168.8.64/26', 'lab'), never('device:nas', 'lab'), []],
    ['another network', behindRouter, line('tunnel', 'lab'), never('home', 'lab'), []],
    [
      'the internet without what is private',
      behindRouter,
      line('home', 'internet', 'any'),
      never('home', ['upstream', 'lab']),
      [],
    ],
    [
      'a port',
      behindRouter,
      line('home', 'lab', ['tcp/80-90']),
      never('home', 'lab', ['tcp/85']),
      ['0 home → lab (0)'],
    ],
    [
      'another port',
      behindRouter,
      line('home', 'lab', ['tcp/80-90']),
      never('home', 'lab', ['tcp/91', 'udp/85']),
      [],
    ],
    [
      'a node that is the host',
      metal,
      line('upstream', 'nodes'),
      never('upstream', 'router'),
      ['0 upstream → nodes (0)'],
    ],
    [
      'the virtual machines',
      host,
      line('guests', ['internet', 'upstream'], 'any'),
      never('guests', 'upstream'),
      ['0 guests → upstream (0)'],
    ],
  ] as const)
    test(`meets a line or not: ${what}`, () => {
      assert.deepEqual(conflicts(document, [allow], [forbidden]), expected)
    })
})
