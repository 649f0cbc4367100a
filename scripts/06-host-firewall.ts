// An nftables firewall: nothing enters but WireGuard, and SSH only through the tunnel.
//
// Needs   the tunnel of host-wireguard, up on the laptop: SSH from anywhere else is closed here.
// Leaves  the nftables table `inet fortress`, /etc/nftables.conf, /etc/nftables.d, and the unit that loads them. The tables of
//         libvirt and of a cluster network are left alone.
// Undo    opens the machine as it was.
import { isIP } from 'node:net'
import { file } from '../lib/engine/file.ts'
import { packages } from '../lib/engine/packages.ts'
import type { Control, Step, Transaction } from '../lib/engine/step.ts'
import { sh } from '../lib/ground/sh.ts'
import { script } from '../lib/script.ts'
import { isNode, isServer, otherNodes } from '../lib/site/machines.ts'
import type { Site } from '../lib/site/model.ts'

export default script(import.meta, { layer: 'L0', on: 'host' }, ({ site, machine }) => [
  packages(['nftables']),
  handshake(site),
  ...rules(site, machine.name),
  active(site.tunnel),
  onlyManager,
])

// Only a connection through the tunnel proves that the machine can still be reached; after undo, one from outside.
const transaction: Transaction = {
  kind: 'firewall',
  route: { apply: 'tunnel', undo: 'direct' },
  tables: ['inet fortress'],
}
const test = sh`nft --check --file "$new"`

/** The one way in is closed only while somebody uses the other. */
function handshake({ tunnel: { interface: wg, address, peers } }: Site): Step {
  return {
    name: 'a peer has made a WireGuard handshake in the last three minutes',
    why: 'SSH is closed outside of the tunnel only while somebody is inside; once it is closed, this holds by itself',
    check: sh`nft list table inet fortress > /dev/null 2>&1 ||
      wg show ${wg} latest-handshakes | awk -v now="$(date +%s)" '
        { print "last handshake of " $1 ": " ($2 ? now - $2 " s ago" : "never") }
        $2 > now - 180 { found = 1 }
        END { exit !found }'`,
    help: `on the laptop, make the client file and bring the tunnel up; then run this again
./task peer show ${peers[0]?.name ?? 'NAME'}
sudo wg-quick up FILE && ping ${address}`,
    transaction,
  }
}

/** The unit, and the files that it loads. */
function rules(site: Site, host: string): Step[] {
  const { interface: tunnel, port, network: peers } = site.tunnel
  return [
    file('/etc/systemd/system/fortress-firewall.service', {
      from: 'config/host/fortress-firewall.service',
      then: [sh`systemctl daemon-reload`],
      name: 'the unit that loads the nftables rules is installed',
      why: "Debian's own empties every table of the machine when it stops, those of libvirt and of a cluster included",
      transaction,
    }),

    ...clusterRules(site, host),

    file('/etc/nftables.d/20-egress.nft', {
      from: 'config/host/nftables-egress.nft',
      values: { rules: egress(site.firewall) },
      test,
      name:
        site.firewall.egress === 'listed'
          ? 'nftables rules let out only what the site lists (egress)'
          : 'nftables rules log a sample of what leaves (egress)',
      transaction,
    }),

    file('/etc/nftables.conf', {
      from: 'config/host/nftables.conf',
      values: { port, tunnel, peers },
      mode: '640',
      test,
      name: 'nftables rules let in one UDP port, and SSH within the tunnel',
      transaction,
    }),
  ]
}

/** What pods or virtual machines may, where the site has them. */
function clusterRules(site: Site, host: string): Step[] {
  const { interface: tunnel, network: peers } = site.tunnel
  const path = '/etc/nftables.d/10-cluster.nft'
  if (isNode(site, host))
    return [
      file(path, {
        from: 'config/host/nftables-metal.nft',
        values: { tunnel, peers, others: others(site, host) },
        test,
        name: 'nftables rules let pods pass, but not to SSH',
        transaction,
      }),
    ]
  if (site.nodes === undefined) return []
  return [
    file(path, {
      from: 'config/host/nftables-nodes.nft',
      values: { bridge: site.nodes.bridge, nodes: site.nodes.network, tunnel, peers },
      test,
      name: 'nftables rules give virtual machines DNS and DHCP of the host, and nothing else of it',
      transaction,
    }),
  ]
}

function active({ port, interface: tunnel }: Site['tunnel']): Step {
  return {
    name: 'the firewall is active, and starts before the network',
    why: 'the rules in the kernel are compared with what the files give in an empty network namespace',
    check: sh`systemctl --quiet is-enabled fortress-firewall.service &&
      systemctl --quiet is-active fortress-firewall.service &&
      test "$(systemctl show --property=Id --value nftables.service)" = fortress-firewall.service &&
      diff <(unshare --net bash -c 'nft --file /etc/nftables.conf &&
        nft --stateless --terse list table inet fortress') <(nft --stateless --terse list table inet fortress)`,
    apply: [
      sh`systemctl enable fortress-firewall.service`,
      sh`systemctl daemon-reload`,
      sh`systemctl reload-or-restart fortress-firewall.service`,
    ],
    transaction,
    controls: [...inputControls(port, tunnel), ...otherControls()],
  }
}

const managers = ['ufw.service', 'firewalld.service', 'netfilter-persistent.service']

const onlyManager: Step = {
  name: 'no other firewall manager is active (ufw, firewalld, netfilter-persistent)',
  why: 'two managers undo each other at the next boot',
  check: sh`! systemctl list-units --plain --no-legend --state=active ${managers} | grep . &&
    ! systemctl list-unit-files --no-legend --state=enabled ${managers} | grep .`,
  apply: [
    sh`for unit in ${managers}; do
      if systemctl cat "$unit" > /dev/null 2>&1; then systemctl disable --now "$unit"; fi
    done`,
  ],
  transaction,
  controls: [
    {
      id: 'G01',
      title: 'One tool manages the firewall',
      check: sh`echo "nftables: $(systemctl is-enabled nftables.service)" &&
        ! systemctl is-active ${managers} | grep --line-regexp active`,
      from: ['debian-cis', 'CIS Debian 13'],
    },
  ],
}

/** Rules for the other nodes of the cluster: each may reach API and kubelet of this one, and servers one another's etcd. */
function others(site: Site, name: string): string {
  const own = site.machines.find((machine) => machine.name === name)
  const rules = otherNodes(site, name).map((node) => {
    const ports = own && isServer(own) && isServer(node) ? '2379, 2380, 6443, 10250' : '6443, 10250'
    const family = isIP(node.address) === 6 ? 'ip6' : 'ip'
    return `    ${family} saddr ${node.address} tcp dport { ${ports} } accept comment "${node.name}"`
  })
  return rules.join('\n') || '    # There is no other node.'
}

/** The rules of the chain `egress`, one for each destination that the site lists. */
function egress({ egress, allow }: Site['firewall']): string {
  if (egress === 'open')
    return `    ct state new limit rate 1/minute burst 5 packets log prefix "nft-egress "\n    accept`
  const rules = allow.map(({ name, to, protocol, ports }) => {
    const family = to === 'any' ? '' : `${to.includes(':') ? 'ip6' : 'ip'} daddr ${to} `
    return `    ${family}${protocol} dport { ${ports.join(', ')} } accept comment "${name}"`
  })
  return rules.join('\n') || '    # The site lists nothing.'
}

const chain = (name: string) => sh`nft --stateless list chain inet fortress ${name}`
const common = ['CIS Debian 13', 'CIS Ubuntu 24.04', 'debian-cis']

/** What comes in, by the rules in the kernel. */
function inputControls(port: number, tunnel: string): Control[] {
  return [
    {
      id: 'G02',
      title: 'The nftables rules are a table of their own, and nothing flushes the tables of others',
      check: sh`nft list tables | grep 'inet fortress' &&
        ! grep --recursive --with-filename '^[^#]*flush ruleset' /etc/nftables.conf /etc/nftables.d &&
        ! systemctl show --property=ExecStart,ExecReload,ExecStop nftables.service | grep 'flush ruleset'`,
      from: ['nftables nft(8)'],
    },
    {
      id: 'G03',
      title: 'Incoming packets are dropped by default',
      check: sh`${chain('input')} | grep 'hook input .*policy drop'`,
      from: [...common, 'DISA STIG Ubuntu 24.04', 'ANSSI BP-028'],
    },
    {
      id: 'G04',
      title: 'Loopback and established connections pass, invalid packets are dropped',
      check: sh`${chain('input')} | grep 'iif "lo" accept' &&
        ${chain('input')} | grep 'ct state vmap .*established : accept' &&
        ${chain('input')} | grep 'invalid : drop'`,
      from: [...common, 'Lynis FIRE-4520'],
    },
    {
      id: 'G05',
      title: 'Forwarded packets are dropped by default',
      check: sh`${chain('forward')} | grep 'hook forward .*policy drop'`,
      from: common,
    },
    {
      id: 'G06',
      title: `From outside, UDP ${port} is the one open port`,
      // Of all rules that accept, these bind to no interface and no kind of packet that only answers or reports.
      check: sh`diff <(echo udp dport ${port} accept) <(${chain('input')} |
        awk '/accept/ && !/iif|ct state|icmp|udp sport (67|547)/ { $1 = $1; print }') &&
        echo udp dport ${port}`,
      from: ['fortress-kit'],
    },
    {
      id: 'G07',
      title: 'SSH is reached through the tunnel only, and its connection rate is limited',
      check: sh`${chain('input')} | grep 'dport 22' &&
        ! ${chain('input')} | grep 'dport 22' | grep --invert-match --fixed-strings ${`iifname "${tunnel}"`} &&
        ${chain('input')} | grep 'dport 22 .*limit rate over .*drop' > /dev/null`,
      from: ['konstruktoid hardening', 'DISA STIG Ubuntu 24.04'],
    },
  ]
}

/** Everything else, by the rules in the kernel. */
function otherControls(): Control[] {
  return [
    {
      id: 'G08',
      title: 'The ICMP and ICMPv6 that networks need passes, rate-limited',
      check: sh`${chain('input')} | grep 'icmp type .*limit' &&
        ${chain('input')} | grep 'icmpv6 type .*nd-neighbor-solicit.*hoplimit 255 accept' &&
        ${chain('input')} | grep 'icmpv6 type .*packet-too-big.*accept'`,
      from: ['debian-cis', 'RFC 4890'],
    },
    {
      id: 'G09',
      title: 'Dropped packets are logged, rate-limited',
      check: sh`nft --stateless list table inet fortress | grep 'log prefix' &&
        ! nft --stateless list table inet fortress | grep 'log prefix' | grep --invert-match 'limit rate'`,
      from: [...common, 'ANSSI BP-028', 'Lynis'],
    },
    {
      id: 'G10',
      title: 'Outgoing packets are on a list, or logged (egress)',
      check: sh`${chain('output')} | grep 'hook output .*policy drop' && ${chain('egress')} | grep 'accept\|}'`,
      from: common,
    },
    {
      id: 'G11',
      title: 'The nftables rules are loaded at boot, before the network is up',
      check: sh`systemctl is-enabled fortress-firewall.service &&
        systemctl show --property=Before fortress-firewall.service | grep network-pre.target`,
      from: ['debian-cis'],
    },
    {
      id: 'G12',
      title: 'Packets with a spoofed source address are dropped, IPv6 too',
      check: sh`${chain('prerouting')} | grep 'fib saddr . iif oif missing' && ${chain('prerouting')} | grep 'ip6 saddr'`,
      from: ['RFC 2827', 'RFC 3704'],
    },
  ]
}
