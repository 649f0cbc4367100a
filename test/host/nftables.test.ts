// The firewall of a host as text: what a person reads in a review, and what nft must be able to take.
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { firewallOf } from '../../lib/host/nftables.ts'
import type { Site } from '../../lib/site/model.ts'
import firewall from '../../scripts/06-host-firewall.ts'
import type { Context } from '../../lib/engine/page.ts'
import { siteOf } from '../sites.ts'

/** The rules of a chain. */
function chain(text: string, name: string): string[] {
  const [, body = ''] = new RegExp(`^  chain ${name} \\{\\n((?:    .*\\n)*)  \\}$`, 'm').exec(text) ?? []
  return body
    .split('\n')
    .map((one) => one.trim())
    .filter(Boolean)
}
const withLine = (site: Site, line: Partial<Site['router']['allow'][number]>): Site => ({
  ...site,
  router: { ...site.router, allow: [{ from: 'tunnel', to: 'router', ports: 'any', why: 'a try', ...line }] },
})

describe('what holds while the rules cannot be loaded', () => {
  for (const site of ['fortress', 'fortress-pi', 'k3s-vault', 'zengarden'])
    test(`lets somebody in on every host of ${site}, and refers to nothing`, () => {
      for (const { name, roles } of siteOf(site).machines) {
        if (!roles.includes('host')) continue
        const { closed, ssh, open } = firewallOf(siteOf(site), name)
        assert.match(closed.way_in, new RegExp(`tcp dport ${ssh.port} accept$`, 'm'))
        for (const line of closed.way_in.split('\n'))
          assert.match(line, new RegExp(`^ *(udp dport \\d+|.*[ ]?tcp dport ${ssh.port}) accept$`))
        assert.doesNotMatch(`${closed.way_in}${closed.way_out}`, /@|jump|skuid|fib/)
        if (site === 'fortress') assert.ok(closed.way_in.startsWith(open[0] ?? ''), closed.way_in)
      }
    })
})

describe('the firewall of a host as nftables', () => {
  test('of one with a virtual machine', () => {
    const { cluster, egress, open, ssh } = firewallOf(siteOf('fortress'), 'fortress')
    assert.deepEqual(chain(cluster, 'cluster_input'), [
      'udp dport 51820 accept comment "WireGuard"',
      'iifname "wg0" ip saddr 10.66.0.0/24 tcp dport 22 jump ssh comment "SSH"',
      'iifname "virbr-fort" ip saddr 10.77.0.0/24 tcp dport 53 accept comment "names, addresses, time"',
      'iifname "virbr-fort" ip saddr 10.77.0.0/24 udp dport { 53, 123 } accept comment "names, addresses, time"',
      'iifname "virbr-fort" udp dport 67 accept comment "names, addresses, time"',
      'iifname "virbr-fort" drop',
    ])
    assert.deepEqual(chain(cluster, 'cluster_forward'), [
      'iifname "virbr-fort" ip saddr != 10.77.0.0/24 drop',
      'iifname "virbr-fort" meta nfproto ipv6 drop',
      'iifname "virbr-fort" oifname "virbr-fort" accept',
      'iifname "wg0" ip saddr 10.66.0.0/24 oifname "virbr-fort" ip daddr 10.77.0.0/24 tcp dport { 22, 443, 6443 } accept comment "SSH, the gateway, the API"',
      'iifname "virbr-fort" ip saddr 10.77.0.0/24 oifname != { "virbr-fort", "wg0" } ip daddr != @private tcp dport { 22, 80, 443 } accept comment "images, updates, Git, backups"',
    ])
    assert.deepEqual(chain(egress, 'egress'), [
      'oifname != { "virbr-fort", "wg0" } ip daddr != @ours jump sampled comment "updates, and the mirrors, names and time of the network around it"',
      'oifname != { "virbr-fort", "wg0" } meta nfproto ipv6 jump sampled comment "updates, and the mirrors, names and time of the network around it"',
    ])
    assert.deepEqual(open, ['udp dport 51820 accept'])
    assert.deepEqual(ssh, {
      rules: ['iifname "wg0" ip saddr 10.66.0.0/24 tcp dport 22 jump ssh'],
      port: '22',
    })
  })

  test('of one that has none, and no cluster, still lets peers in', () => {
    const { cluster } = firewallOf(siteOf('lab'), 'lab')
    assert.deepEqual(chain(cluster, 'cluster_input'), [
      'udp dport 51820 accept comment "WireGuard"',
      'iifname "wg0" ip saddr 10.66.0.0/24 tcp dport 22 jump ssh comment "SSH"',
    ])
    assert.deepEqual(chain(cluster, 'cluster_forward'), [])
    assert.doesNotMatch(cluster, /masquerade|lxc/)
  })

  test('of a node on metal lets nobody but its own pods through, and peers not past it', () => {
    const { cluster } = firewallOf(siteOf('fortress-pi'), 'fortress-pi')
    for (const rule of chain(cluster, 'cluster_forward').filter((one) => !one.startsWith('#')))
      assert.match(rule, /^iifname \{ "cilium_\*", "lxc\*" \}/)
    assert.doesNotMatch(chain(cluster, 'cluster_input').join('\n'), /2379/)
  })

  test('of a host that is both has the rules of both', () => {
    const { cluster } = firewallOf(siteOf('mixed'), 'north')
    const input = chain(cluster, 'cluster_input').join('\n')
    assert.match(
      input,
      /iifname "virbr-fort" ip saddr 10\.77\.0\.2 tcp dport 10250 accept comment "the kubelet"/,
    )
    assert.match(
      input,
      /ip saddr \{ 192\.168\.1\.11, 192\.168\.1\.12 \} tcp dport 2379-2380 accept comment "etcd"/,
    )
    assert.match(input, /ip saddr \{ 192\.168\.1\.11, 192\.168\.1\.12 \} meta l4proto 112 accept/)
    assert.match(cluster, /masquerade/)
  })

  test('of a machine whose tunnel ends at the router lets SSH in from what the site lists', () => {
    const { open, ssh } = firewallOf(siteOf('zengarden'), 'blade001')
    assert.deepEqual(open, [])
    assert.deepEqual(
      [...new Set(ssh.rules.map((rule) => / saddr (\S+) /.exec(rule)?.[1]))],
      ['192.168.100.0/24', '192.168.216.0/24'],
    )
  })

  test('is the same each time, and differs between the machines of a site', () => {
    const site = siteOf('zengarden')
    const all = site.machines.map(({ name }) => firewallOf(site, name).cluster)
    assert.deepEqual(
      site.machines.map(({ name }) => firewallOf(site, name).cluster),
      all,
    )
    assert.equal(new Set(all).size, all.length)
  })

  test('SSH goes by way of the chain that limits its rate, at the port of the machine, whatever the line says', () => {
    const site = siteOf('fortress')
    const machines = site.machines.map((one) => (one.name === 'fortress' ? { ...one, ssh_port: 2222 } : one))
    const from = 'iifname "wg0" ip saddr 10.66.0.0/24'
    for (const [ports, rules] of [
      ['any', [`${from} tcp dport 2222 jump ssh comment "a try"`, `${from} accept comment "a try"`]],
      [['tcp/2222'], [`${from} tcp dport 2222 jump ssh comment "a try"`]],
      [
        ['tcp/80', 'tcp/2222'],
        [`${from} tcp dport 2222 jump ssh comment "a try"`, `${from} tcp dport 80 accept comment "a try"`],
      ],
      [
        ['tcp/2000-3000'],
        [
          `${from} tcp dport 2222 jump ssh comment "a try"`,
          `${from} tcp dport 2000-3000 accept comment "a try"`,
        ],
      ],
      [['udp/2222'], [`${from} udp dport 2222 accept comment "a try"`]],
    ] as const) {
      const { cluster } = firewallOf(
        { ...withLine(site, { ports: ports === 'any' ? ports : [...ports] }), machines },
        'fortress',
      )
      assert.deepEqual(chain(cluster, 'cluster_input').slice(1, -1), rules)
    }
  })

  test('a reason becomes a comment that nft takes: without quotes, on one line, at most 128 bytes', () => {
    for (const [why, comment] of [
      ['the "house"\nand C:\\', "the 'house' and C: "],
      ['ü'.repeat(200), 'ü'.repeat(60)],
      [`x${'ü'.repeat(200)}`, `x${'ü'.repeat(59)}`],
    ] as const) {
      const { cluster } = firewallOf(withLine(siteOf('fortress'), { why, ports: ['tcp/80'] }), 'fortress')
      assert.match(cluster, new RegExp(`tcp dport 80 accept comment "${comment}"\n`))
    }
  })

  test('a file declares what it refers to, and nothing else', () => {
    const { cluster, egress } = firewallOf(siteOf('fortress'), 'fortress')
    assert.deepEqual(cluster.match(/^  (set|chain (ssh|sampled)).* \{$/gm), [
      '  set private {',
      '  chain ssh {',
    ])
    assert.deepEqual(egress.match(/^  (set|chain (ssh|sampled)).* \{$/gm), [
      '  set ours {',
      '  chain sampled {',
    ])
  })
})

describe('the firewall page refuses to shut out who runs it', () => {
  const first = (site: Site, name: string, via: string) => {
    const context = { site, machine: { name, via }, env: {}, state: '/nonexistent' } as unknown as Context
    const step = firewall.steps(context).find((one) => one.name.startsWith('router.allow lets you log in'))
    return step && 'help' in step ? step : undefined
  }
  const without = (site: Site, word: string): Site => ({
    ...site,
    router: { ...site.router, allow: site.router.allow.filter(({ from }) => ![from].flat().includes(word)) },
  })
  const zengarden = siteOf('zengarden')

  test('from an address that no line lets in, with the line that would', () => {
    const step = first(without(zengarden, 'management'), 'blade001', '192.168.100.7')
    assert.equal(step?.name, 'router.allow lets you log in from 192.168.100.7 (tcp/22)')
    assert.match(
      step?.help ?? '',
      /^add a line to router\.allow in config\/sites\/zengarden\.yaml, such as\n\{ from: management, to: 'machine:blade001', ports: \[tcp\/22\], why: administration \}$/,
    )
    assert.match(
      step?.check.text ?? '',
      /no line lets 192\.168\.100\.7 \(management\) connect to tcp\/22 of blade001/,
    )
    assert.match(first(zengarden, 'blade001', '203.0.113.7')?.help ?? '', /\{ from: upstream, /)
  })

  test('from the tunnel, where it ends at this host', () => {
    const step = first(without(siteOf('fortress'), 'tunnel'), 'fortress', '192.0.2.7')
    assert.equal(step?.name, 'router.allow lets you log in from the tunnel (tcp/22)')
    assert.match(step?.help ?? '', /\{ from: tunnel, to: 'machine:fortress', /)
  })

  test('and no one whom a line lets in, nor a page that is printed', () => {
    assert.equal(first(zengarden, 'blade001', '192.168.100.7'), undefined)
    assert.equal(first(without(zengarden, 'management'), 'blade001', ''), undefined)
    assert.equal(first(siteOf('fortress'), 'fortress', '192.0.2.7'), undefined)
  })
})
