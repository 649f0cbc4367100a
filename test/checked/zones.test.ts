// router.allow of four sites by real packets: what lib/site/zones.ts says of a connection is what nftables does with it.
import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { contains, parseNetwork } from '../../lib/ground/address.ts'
import { statements } from '../../lib/host/nftables.ts'
import type { Site } from '../../lib/site/model.ts'
import { evaluate, openAgainstNever } from '../../lib/site/reach.ts'
import { type Zones, privateNetworks, zonesOf } from '../../lib/site/zones.ts'
import { without } from '../programs.ts'
import { siteOf } from '../sites.ts'
import { Packets, type Place, type Probe, pageRules } from './packets.ts'

const skip = without('nft', 'ip') || (process.getuid?.() === 0 ? false : 'network namespaces need root')
const dir = mkdtempSync(join(tmpdir(), 'zones-'))
after(() => rmSync(dir, { recursive: true }))

const ports = [
  22, 53, 67, 80, 123, 443, 514, 2379, 4240, 5432, 6443, 7946, 8291, 8472, 9100, 10250, 11434, 51820,
]
const world: Place = {
  zone: 'outside',
  interface: 'uplink',
  at: ['203.0.113.1/24', '192.168.1.1/24'],
  hosts: ['203.0.113.9', '198.51.100.7', '192.168.1.50', '100.64.3.4'],
  world: true,
}

interface Case {
  name: string
  /** The host whose page has the rules; absent where they are a router's, and nftables only stands in for it. */
  host?: string
  places: Place[]
}
const cases: Case[] = [
  {
    name: 'fortress',
    host: 'fortress',
    places: [
      { ...world, hosts: [...world.hosts, '10.42.0.7'], lies: ['10.77.0.99', '10.66.0.99', '10.66.0.2'] },
      {
        zone: 'guests',
        interface: 'virbr-fort',
        at: ['10.77.0.1/24'],
        hosts: ['10.77.0.2', '10.77.0.9', '10.77.0.240'],
        lies: ['10.66.0.99', '203.0.113.9'],
      },
      {
        zone: 'tunnel',
        interface: 'wg0',
        at: ['10.66.0.1/24'],
        hosts: ['10.66.0.2', '10.66.0.3'],
        lies: ['10.77.0.99'],
      },
    ],
  },
  {
    name: 'fortress-pi',
    host: 'fortress-pi',
    places: [
      { ...world, lies: ['10.66.0.99', '10.42.0.99'] },
      {
        zone: 'pods',
        interface: 'lxc1a2b3c',
        at: ['10.42.0.1/24'],
        hosts: ['10.42.0.7', '10.42.0.8', '10.43.0.10'],
      },
      {
        zone: 'tunnel',
        interface: 'wg0',
        at: ['10.66.0.1/24'],
        hosts: ['10.66.0.2', '10.66.0.3'],
        lies: ['10.42.0.7'],
      },
    ],
  },
  {
    name: 'zengarden',
    places: [
      { ...world, lies: ['192.168.77.170', '192.168.100.99'] },
      {
        zone: 'cluster',
        interface: 'z-cluster',
        at: ['192.168.77.1/24'],
        hosts: [
          '192.168.77.170',
          '192.168.77.171',
          '192.168.77.173',
          '192.168.77.160',
          '192.168.77.200',
          '192.168.77.201',
          '10.42.3.7',
          '10.43.0.10',
        ],
        lies: ['192.168.100.10'],
      },
      {
        zone: 'home',
        interface: 'z-home',
        at: ['192.168.88.1/24'],
        hosts: ['192.168.88.50', '192.168.88.15'],
        lies: ['192.168.77.170', '192.168.100.99'],
      },
      { zone: 'management', interface: 'z-management', at: ['192.168.100.1/24'], hosts: ['192.168.100.10'] },
      {
        zone: 'tunnel',
        interface: 'z-tunnel',
        at: ['192.168.216.1/24'],
        hosts: ['192.168.216.2'],
        lies: ['192.168.100.10'],
      },
    ],
  },
  {
    name: 'k3s-vault',
    places: [
      { ...world, lies: ['192.168.42.30'] },
      {
        zone: 'private',
        interface: 'z-private',
        at: ['192.168.42.1/24'],
        hosts: [
          '192.168.42.120',
          '192.168.42.130',
          '192.168.42.30',
          '192.168.42.20',
          '192.168.42.119',
          '192.168.42.150',
          '192.168.42.151',
          '10.42.3.7',
          '10.43.0.10',
        ],
      },
      {
        zone: 'public',
        interface: 'z-public',
        at: ['192.168.99.1/24'],
        hosts: ['192.168.99.150', '192.168.99.151'],
        lies: ['192.168.42.30'],
      },
      {
        zone: 'tunnel',
        interface: 'z-tunnel',
        at: ['10.66.0.1/24'],
        hosts: ['10.66.0.2'],
        lies: ['192.168.42.30'],
      },
    ],
  },
]

// One of the machines behind a router, and one of several that are host, node and hypervisor in one.
const members: Case[] = [
  {
    name: 'zengarden',
    host: 'blade001',
    places: [
      {
        zone: 'outside',
        interface: 'eth7',
        at: ['192.168.77.170/24', '192.168.77.200/32'],
        hosts: [
          '192.168.77.1',
          '192.168.77.171',
          '192.168.77.173',
          '192.168.77.50',
          '192.168.88.50',
          '192.168.88.15',
          '192.168.100.10',
          '192.168.216.2',
          '203.0.113.9',
        ],
        lies: ['10.42.3.99'],
        world: true,
      },
      { zone: 'pods', interface: 'lxc1a2b3c', at: ['10.42.3.1/24'], hosts: ['10.42.3.7', '10.43.0.10'] },
    ],
  },
  {
    name: 'mixed',
    host: 'north',
    places: [
      {
        zone: 'outside',
        interface: 'eth7',
        at: ['192.168.1.10/24', '192.168.1.9/32'],
        hosts: ['192.168.1.1', '192.168.1.11', '192.168.1.12', '192.168.1.50', '203.0.113.9'],
        lies: ['10.77.0.99', '10.66.0.99'],
        world: true,
      },
      { zone: 'pods', interface: 'lxc1a2b3c', at: ['10.42.0.1/24'], hosts: ['10.42.0.7', '10.43.0.10'] },
      { zone: 'guests', interface: 'virbr-fort', at: ['10.77.0.1/24'], hosts: ['10.77.0.2', '10.77.0.9'] },
      {
        zone: 'tunnel',
        interface: 'wg0',
        at: ['10.66.0.1/24'],
        hosts: ['10.66.0.2'],
        lies: ['192.168.1.11'],
      },
    ],
  },
]

interface Cell extends Probe {
  /** Where it goes: the zone of `to`. */
  target: string
}

/** Every address of every zone, to every other zone and to the firewall, by every port. */
function cellsOf(places: Place[]): Cell[] {
  const own = places.flatMap(({ at }) => at.map((text) => text.split('/')[0]!))
  const targets = [
    ...places.flatMap(({ zone, hosts }) => hosts.map((to) => ({ target: zone, to }))),
    ...own.map((to) => ({ target: 'self', to })),
  ]
  const sources: { zone: string; from?: string; lie?: boolean }[] = [
    { zone: 'self' },
    ...places.flatMap(({ zone, hosts }) => hosts.map((from) => ({ zone, from }))),
    ...places.flatMap(({ zone, lies = [] }) => lies.map((from) => ({ zone, from, lie: true }))),
  ]
  return sources.flatMap((source) =>
    targets
      .filter(({ target }) => target !== source.zone)
      // Whoever has the address himself drops what claims to come from it.
      .filter(
        ({ target }) =>
          !places.some(({ zone, hosts }) => zone === target && hosts.includes(source.from ?? '')),
      )
      .flatMap((to) =>
        // Nobody answers a liar: only a packet that needs no answer shows whether it passed.
        (source.lie ? (['udp'] as const) : (['tcp', 'udp'] as const)).flatMap((protocol) =>
          ports.map((port) => ({ ...source, ...to, protocol, port })),
        ),
      ),
  )
}

/** The rules of a router in nftables, which stands in for it. */
function twin(zones: Zones): string {
  const named = {
    ...zones,
    zones: zones.zones.map((zone) => ({
      ...zone,
      interfaces: zone.name === 'outside' ? [] : [`z-${zone.name}`],
    })),
  }
  const chain = (hook: string, self: 'from' | 'to' | undefined) => `
  chain ${hook} {
    type filter hook ${hook} priority filter; policy drop;
    ct state { established, related } accept
    ${zones.rules
      .filter(
        ({ from, to }) => (from.zone === 'self' ? 'from' : to.zone === 'self' ? 'to' : undefined) === self,
      )
      .flatMap((rule) => statements(named, rule, 'accept'))
      .join('\n    ')}
  }`
  const elements = (list: string[], six: boolean) =>
    list.filter((text) => text.includes(':') === six).join(', ')
  return `table inet twin {
  set private { type ipv4_addr; flags interval; elements = { ${elements(privateNetworks, false)} }; }
  set private6 { type ipv6_addr; flags interval; elements = { ${elements(privateNetworks, true)} }; }
  set ours { type ipv4_addr; flags interval; elements = { ${elements(zones.ours, false)} }; }
  chain prerouting {
    type filter hook prerouting priority raw; policy accept;
    iif "lo" accept
    fib saddr . iif oif missing drop
  }
  ${chain('input', 'to')}
  ${chain('forward', undefined)}
  ${chain('output', 'from')}
}
`
}

const verdict = (zones: Zones, { zone, from = '', to, target, protocol, port }: Cell) =>
  evaluate(zones, { zone, address: from }, { zone: target, address: to }, protocol, port)
const text = ({ zone, from, to, protocol, port }: Cell) => `${zone} ${from ?? ''} → ${to} ${protocol}/${port}`

/** Whether a word of router.never means this end of a cell; said here a second time, and in another way. */
function means(site: Site, word: string, zone: string, address: string): boolean {
  const within = (...networks: string[]) => networks.some((one) => contains(parseNetwork(one)!, address))
  const isPrivate = within('10.0.0.0/8', '172.16.0.0/12', '192.168.0.0/16', '100.64.0.0/10')
  if (word === 'router') return zone === 'self'
  if (word === 'internet') return zone === 'outside' && !isPrivate
  if (word === 'upstream')
    return (
      zone === 'outside' &&
      isPrivate &&
      !within('10.42.0.0/16', '10.43.0.0/16', '10.77.0.0/24', '10.66.0.0/24')
    )
  if (word === 'tunnel') return zone === 'tunnel'
  if (word === 'pods') return within(site.cluster.pods) && zone !== 'outside'
  if (word.startsWith('device:'))
    return site.devices.some((one) => `device:${one.name}` === word && one.address === address)
  return zone === word && within(site.networks.find(({ name }) => name === word)!.network)
}
const many = (words: string | string[]) => [words].flat()

let total = 0

/** Both kinds of answer for every cell: what the site says, and what happens. */
function compared({ name, host, places }: Case): { site: Site; cells: Cell[]; found: boolean[] } {
  const site = siteOf(name)
  const zones = zonesOf(site, host)
  const cells = cellsOf(places)
  const found: boolean[] = []
  let packets: Packets
  before(async () => {
    packets = new Packets(places)
    await packets.listen(ports)
  })
  after(() => packets?.end())

  test('without rules every packet passes, so what does not is dropped by them', async () => {
    const open = await packets.send(cells)
    assert.deepEqual(cells.filter((_, i) => !open[i]).map(text), [])
  })

  test('what the site says of a connection is what happens to it, in every cell', async () => {
    const file = host === undefined ? join(dir, name) : pageRules(site, host, dir)
    if (host === undefined) writeFileSync(file, twin(zones))
    packets.on('self', 'nft', '--file', file)
    found.push(...(await packets.send(cells)))
    const said = cells.map((cell) => verdict(zones, cell))
    const differ = cells.flatMap((cell, i) =>
      (said[i] !== undefined) === found[i] ? [] : `${text(cell)}: said ${said[i]?.why ?? 'closed'}`,
    )
    assert.deepEqual(differ.slice(0, 20), [])
    total += cells.length
  })
  return { site, cells, found }
}

for (const one of members)
  describe(`what ${one.host} of ${one.name} lets in, through and out`, { skip }, () => void compared(one))

for (const one of cases) {
  const by = one.host === undefined ? 'rules that stand in for its router' : 'the rules of its page'
  describe(`the matrix of ${one.name}, by ${by}`, { skip }, () => {
    const { site, cells, found } = compared(one)

    test('what router.never names is closed', () => {
      assert.deepEqual(openAgainstNever(site), [])
      for (const { from, to } of site.router.never) {
        const its = cells.flatMap((cell, i) => {
          const source = many(from).some((word) => means(site, word, cell.zone, cell.from ?? ''))
          return source && !cell.lie && many(to).some((word) => means(site, word, cell.target, cell.to))
            ? [[cell, i] as const]
            : []
        })
        assert.notEqual(its.length, 0)
        // The port of the tunnel is open by tunnel.port, not by a line.
        const open = its.filter(
          ([cell, i]) => found[i] && !(cell.protocol === 'udp' && cell.port === site.tunnel.port),
        )
        assert.deepEqual(
          open.map(([cell]) => text(cell)),
          [],
        )
      }
    })

    test('every line of router.allow is needed: without it some cell is closed', () => {
      site.router.allow.forEach((line, i) => {
        const allow = site.router.allow.filter((other) => other !== line)
        const less = zonesOf({ ...site, router: { ...site.router, allow } }, one.host)
        const closed = cells.filter((cell, j) => found[j] && verdict(less, cell) === undefined)
        assert.notEqual(closed.length, 0, `line ${i}: ${line.why}`)
      })
    })
  })
}

test('there are cells by the thousand', { skip }, (t) => {
  t.diagnostic(`${total} cells`)
  assert.equal(total >= 8000, true, `${total} cells`)
})
