// Nothing enters but WireGuard, and SSH only through it.
//
// Needs   the tunnel of host-wireguard, up on the laptop: SSH from anywhere else ends here.
// Leaves  the nftables table `inet fortress`, /etc/nftables.conf, /etc/nftables.d, and the unit that loads them. The tables of
//         libvirt and of a cluster network are left alone.
// Undo    opens the machine as it was.
import { isIP } from 'node:net'
import { file } from '../lib/engine/file.ts'
import type { Control, Transaction } from '../lib/engine/step.ts'
import { sh } from '../lib/ground/sh.ts'
import { script } from '../lib/script.ts'
import type { Site } from '../lib/site/model.ts'

export default script(import.meta, { layer: 'L0', on: 'host' }, ({ site, machine }) => {
  const { interface: tunnel, port, network: peers } = site.tunnel
  const metal = site.machines.some(({ name, roles }) => name === machine.name && roles.includes('node'))
  // Only a connection through the tunnel proves that the machine can still be reached; after undo, one from outside.
  const transaction: Transaction = {
    kind: 'firewall',
    route: { apply: 'tunnel', undo: 'direct' },
    tables: ['inet fortress'],
  }
  const test = sh`nft --check --file "$new"`

  return [
    {
      name: 'nftables is installed',
      check: sh`dpkg-query --show --showformat='\${db:Status-Abbrev}' nftables | grep ^ii > /dev/null`,
      apply: [
        sh`apt-get --quiet=2 update`,
        sh`DEBIAN_FRONTEND=noninteractive apt-get --quiet=2 --yes --no-install-recommends install nftables`,
      ],
      seconds: 900,
    },

    {
      name: 'a peer has come through the tunnel in the last three minutes',
      why: 'one door is closed only while somebody stands in the other; once it is closed, this is not asked again',
      check: sh`nft list table inet fortress > /dev/null 2>&1 || wg show ${tunnel} latest-handshakes | awk -v now="$(date +%s)" '{ print "last handshake of " $1 ": " ($2 ? now - $2 " s ago" : "never") } $2 > now - 180 { found = 1 } END { exit !found }'`,
      help: `on the laptop, make the client file and bring the tunnel up; then run this again
./task peer show ${site.tunnel.peers[0]?.name ?? 'NAME'}
sudo wg-quick up FILE && ping ${site.tunnel.address}`,
      transaction,
    },

    file('/etc/systemd/system/fortress-firewall.service', {
      from: 'config/host/fortress-firewall.service',
      then: [sh`systemctl daemon-reload`],
      name: 'the packet filter has a unit of its own',
      why: "Debian's empties every table of the machine when it stops, those of libvirt and of a cluster included",
      transaction,
    }),

    ...(metal
      ? [
          file('/etc/nftables.d/10-cluster.nft', {
            from: 'config/host/nftables-metal.nft',
            values: { tunnel, peers, others: others(site, machine.name) },
            test,
            name: 'pods pass, but not to SSH',
            transaction,
          }),
        ]
      : []),

    ...(site.nodes && !metal
      ? [
          file('/etc/nftables.d/10-cluster.nft', {
            from: 'config/host/nftables-nodes.nft',
            values: { bridge: site.nodes.bridge, nodes: site.nodes.network, tunnel, peers },
            test,
            name: 'virtual machines get names and addresses from the host, and nothing else',
            transaction,
          }),
        ]
      : []),

    file('/etc/nftables.d/20-egress.nft', {
      from: 'config/host/nftables-egress.nft',
      values: { rules: egress(site.firewall) },
      test,
      name:
        site.firewall.egress === 'listed'
          ? 'only what the site lists leaves'
          : 'what leaves is logged, now and then',
      transaction,
    }),

    file('/etc/nftables.conf', {
      from: 'config/host/nftables.conf',
      values: { port, tunnel, peers },
      mode: '640',
      test,
      name: 'the rules: one UDP port, and SSH within the tunnel',
      transaction,
    }),

    {
      name: 'the packet filter is on, and starts before the network',
      why: 'the rules in the kernel are compared with what the files give in an empty network namespace',
      check: sh`systemctl --quiet is-enabled fortress-firewall.service &&
        systemctl --quiet is-active fortress-firewall.service &&
        test "$(systemctl show --property=Id --value nftables.service)" = fortress-firewall.service &&
        diff <(unshare --net bash -c 'nft --file /etc/nftables.conf && nft --stateless --terse list table inet fortress') <(nft --stateless --terse list table inet fortress)`,
      apply: [
        sh`systemctl enable fortress-firewall.service`,
        sh`systemctl daemon-reload`,
        sh`systemctl reload-or-restart fortress-firewall.service`,
      ],
      transaction,
      controls: controls(port, tunnel),
    },

    {
      name: 'no other program manages the firewall',
      why: 'two managers undo each other at the next boot',
      check: sh`! systemctl list-units --plain --no-legend --state=active ufw.service firewalld.service netfilter-persistent.service | grep . &&
        ! systemctl list-unit-files --no-legend --state=enabled ufw.service firewalld.service netfilter-persistent.service | grep .`,
      apply: [
        sh`for unit in ufw.service firewalld.service netfilter-persistent.service; do
          if systemctl cat "$unit" > /dev/null 2>&1; then systemctl disable --now "$unit"; fi
        done`,
      ],
      transaction,
      controls: [
        {
          id: 'G01',
          title: 'One tool manages the firewall',
          check: sh`echo "nftables: $(systemctl is-enabled nftables.service)" && ! systemctl is-active ufw.service firewalld.service netfilter-persistent.service | grep --line-regexp active`,
          from: ['debian-cis', 'CIS Debian 13'],
        },
      ],
    },
  ]
})

/** The other nodes of the cluster: each finds the API and the kubelet here, and servers one another's etcd. */
function others({ machines }: Site, name: string): string {
  const nodes = machines.filter((found) => found.roles.includes('node') && isIP(found.address ?? '') !== 0)
  const server = ({ roles }: { roles: string[] }) => !roles.includes('agent')
  const me = nodes.find((found) => found.name === name)
  const rules = nodes.flatMap((node) => {
    if (node === me) return []
    const ports = me && server(me) && server(node) ? '2379, 2380, 6443, 10250' : '6443, 10250'
    const family = isIP(node.address ?? '') === 6 ? 'ip6' : 'ip'
    return [`    ${family} saddr ${node.address} tcp dport { ${ports} } accept comment "${node.name}"`]
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

/** What verify reports one by one; each asks the kernel. */
function controls(port: number, tunnel: string): Control[] {
  const chain = (name: string) => sh`nft --stateless list chain inet fortress ${name}`
  const common = ['CIS Debian 13', 'CIS Ubuntu 24.04', 'debian-cis']
  return [
    {
      id: 'G02',
      title: 'The rules are a table of their own, replaced whole, and nothing flushes the tables of others',
      check: sh`nft list tables | grep 'inet fortress' && ! grep --recursive --with-filename '^[^#]*flush ruleset' /etc/nftables.conf /etc/nftables.d && ! systemctl show --property=ExecStart,ExecReload,ExecStop nftables.service | grep 'flush ruleset'`,
      from: ['nftables nft(8)'],
    },
    {
      id: 'G03',
      title: 'What nothing lets in is dropped',
      check: sh`${chain('input')} | grep 'hook input .*policy drop'`,
      from: [...common, 'DISA STIG Ubuntu 24.04', 'ANSSI BP-028'],
    },
    {
      id: 'G04',
      title: 'Loopback and answers pass, packets of no connection do not',
      check: sh`${chain('input')} | grep 'iif "lo" accept' && ${chain('input')} | grep 'ct state vmap .*established : accept' && ${chain('input')} | grep 'invalid : drop'`,
      from: [...common, 'Lynis FIRE-4520'],
    },
    {
      id: 'G05',
      title: 'What nothing forwards is dropped',
      check: sh`${chain('forward')} | grep 'hook forward .*policy drop'`,
      from: common,
    },
    {
      id: 'G06',
      title: `From outside, UDP ${port} is the one open port`,
      // Of all rules that accept, these bind to no interface and no kind of packet that only answers or reports.
      check: sh`diff <(echo udp dport ${port} accept) <(${chain('input')} | awk '/accept/ && !/iif|ct state|icmp|udp sport (67|547)/ { $1 = $1; print }') && echo udp dport ${port}`,
      from: ['fortress-kit'],
    },
    {
      id: 'G07',
      title: 'SSH is reached through the tunnel only, and not in a hurry',
      check: sh`${chain('input')} | grep 'dport 22' && ! ${chain('input')} | grep 'dport 22' | grep --invert-match --fixed-strings ${`iifname "${tunnel}"`} && ${chain('input')} | grep 'dport 22 .*limit rate over .*drop' > /dev/null`,
      from: ['konstruktoid hardening', 'DISA STIG Ubuntu 24.04'],
    },
    {
      id: 'G08',
      title: 'The ICMP that networks need passes, slowly',
      check: sh`${chain('input')} | grep 'icmp type .*limit' && ${chain('input')} | grep 'icmpv6 type .*nd-neighbor-solicit.*hoplimit 255 accept' && ${chain('input')} | grep 'icmpv6 type .*packet-too-big.*accept'`,
      from: ['debian-cis', 'RFC 4890'],
    },
    {
      id: 'G09',
      title: 'What is dropped is logged, and the log cannot be flooded',
      check: sh`nft --stateless list table inet fortress | grep 'log prefix' && ! nft --stateless list table inet fortress | grep 'log prefix' | grep --invert-match 'limit rate'`,
      from: [...common, 'ANSSI BP-028', 'Lynis'],
    },
    {
      id: 'G10',
      title: 'What leaves is on a list, or is logged',
      check: sh`${chain('output')} | grep 'hook output .*policy drop' && ${chain('egress')} | grep 'accept\|}'`,
      from: common,
    },
    {
      id: 'G11',
      title: 'The rules are there after a reboot, before the network is',
      check: sh`systemctl is-enabled fortress-firewall.service && systemctl show --property=Before fortress-firewall.service | grep network-pre.target`,
      from: ['debian-cis'],
    },
    {
      id: 'G12',
      title: 'Addresses that cannot come from there are dropped, IPv6 too',
      check: sh`${chain('prerouting')} | grep 'fib saddr . iif oif missing' && ${chain('prerouting')} | grep 'ip6 saddr'`,
      from: ['RFC 2827', 'RFC 3704'],
    },
  ]
}
