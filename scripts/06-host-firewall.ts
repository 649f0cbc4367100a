#!/usr/bin/env -S npx --no-install tsx
// An nftables firewall: nobody connects to whom router.allow of the site does not list. From outside that is WireGuard alone.
//
// Needs   where the tunnel ends at this host, that it is up on the laptop: SSH from anywhere else is closed here.
// Leaves  the nftables table `inet fortress`, /etc/nftables.conf, /etc/nftables.d, and the unit that loads them. Where they
//         cannot be loaded, /etc/nftables-closed.nft lets in nothing but the way in. The tables of libvirt and of a cluster
//         network are left alone.
// Undo    opens the machine as it was.
import { createRequire } from 'node:module'
import { file } from '../lib/engine/file.ts'
import type { Context } from '../lib/engine/page.ts'
import { packages } from '../lib/engine/packages.ts'
import type { Control, Step, Transaction } from '../lib/engine/step.ts'
import { type Command, library, sh } from '../lib/ground/sh.ts'
import { type Firewall, firewallOf } from '../lib/host/nftables.ts'
import { accepted, ownThings, affectedShell } from '../lib/host/affected.ts'
import { script } from '../lib/script.ts'
import { type TunnelEnd, machineOf, sshPort, tunnelOf } from '../lib/site/machines.ts'
import { inside } from '../lib/site/zones.ts'

const about = {
  layer: 'L0',
  on: 'host',
  needs: ['05-host-wireguard'],
  library: sh`${affectedShell()}
${library('lib/host/controls.sh')}`,
} as const

export default script(import.meta, about, (context) => {
  const { site, machine } = context
  const end = tunnelOf(site, machineOf(site, machine.name))
  const firewall = firewallOf(site, machine.name, machine)
  const own = ownThings(site, machineOf(site, machine.name))
  const transaction = transactionOf(end)
  return [
    ...shutOut(context, end, firewall),
    accepted(
      site,
      machine.name,
      'what the firewall will cut off here is accepted',
      [
        ['affected_links', ...own],
        ['affected_engines', ...own],
        ['affected_routes'],
        ['affected_tables', 'inet.fortress', ...own],
        ['affected_servers', `tcp/${firewall.ssh.port}`, ...new Set(firewall.heard)],
      ],
      sh`nft list table inet fortress > /dev/null 2>&1`,
    ),
    packages(['nftables']),
    ...(end ? [handshake(end, howTo(context), transaction), insideToo(end, firewall, transaction)] : []),
    ...rules(firewall, transaction),
    active(firewall, end, transaction),
    onlyManager(transaction),
  ]
})

const load = createRequire(import.meta.url)
const howTo = (context: Context) =>
  (load('../lib/host/wireguard.ts') as typeof import('../lib/host/wireguard.ts')).enter(context)

// Where the tunnel ends here, only a connection through it proves that the machine can still be reached; after undo, one from
// outside. Where it ends at the router, connections come by the same way before and after.
const transactionOf = (end: TunnelEnd | undefined): Transaction => ({
  kind: 'firewall',
  ...(end ? { route: { apply: 'tunnel', undo: 'direct' } } : {}),
  tables: ['inet fortress'],
})

/** Nothing where a line lets the admin in, as far as this machine sees; else what says so, before anything is closed. */
function shutOut({ site, machine }: Context, end: TunnelEnd | undefined, { ssh, lets }: Firewall): Step[] {
  // A page that is printed does not know where from somebody will come.
  const sources = end
    ? site.tunnel.peers.map(({ address }) => address)
    : machine.via === ''
      ? []
      : [machine.via]
  const [address] = sources
  if (address === undefined || sources.some(lets)) return []
  const said = String(sshPort(machineOf(site, machine.name)))
  const around = site.networks.find(({ network }) => inside(network, address))
  const word = end ? 'tunnel' : (around?.name ?? 'upstream')
  return [
    {
      name: `router.allow lets you log in from ${end ? 'the tunnel' : address} (tcp/${ssh.port})`,
      check: sh`echo ${`no line lets ${address} (${word}) connect to tcp/${ssh.port} of ${machine.name}`}; false`,
      help: `add a line to router.allow in config/sites/${site.name}.yaml, such as
{ from: ${word}, to: 'machine:${machine.name}', ports: [tcp/${ssh.port}], why: administration }${
        ssh.port === said
          ? ''
          : `\nor, where the lines are those of the default: ssh_port: ${ssh.port} of ${machine.name}`
      }`,
    },
  ]
}

/** Before the other addresses are closed. */
const insideToo = ({ address }: TunnelEnd, { ssh: { port } }: Firewall, transaction: Transaction): Step => ({
  name: `sshd answers at ${address}, port ${port}: the address in the tunnel`,
  why: 'it is the only one that is left',
  check: sh`nft list table inet fortress > /dev/null 2>&1 ||
    timeout 10 bash -c 'exec 3<> "/dev/tcp/$1/$2" && read -r -t 5 line <&3 && echo "$line" && [[ $line == SSH-* ]]' \
      bash ${address} ${port}`,
  help: `sshd -T | grep -i listen, there: take ListenAddress out, and see that the port is ${port}`,
  transaction,
})

/** The one way in is closed only while somebody uses the other. */
function handshake({ interface: wg }: TunnelEnd, help: string, transaction: Transaction): Step {
  return {
    name: 'a peer has made a WireGuard handshake in the last three minutes',
    why: 'SSH is closed outside of the tunnel only while somebody is inside; once it is closed, this holds by itself',
    check: sh`nft list table inet fortress > /dev/null 2>&1 ||
      wg show ${wg} latest-handshakes | awk -v now="$(date +%s)" '
        { print "last handshake of " $1 ": " ($2 ? now - $2 " s ago" : "never") }
        $2 > now - 180 { found = 1 }
        END { exit !found }'`,
    help,
    // Time to install wireguard-tools, and to find the phone.
    person: { wait: 900 },
    transaction,
  }
}

/** The unit, and the files that it loads. */
function rules({ values, closed, cluster, egress }: Firewall, transaction: Transaction): Step[] {
  const test = sh`nft --check --file "$new"`
  return [
    file('/etc/nftables-closed.nft', {
      from: 'config/host/nftables-closed.nft',
      values: closed,
      mode: '640',
      test,
      name: 'nftables rules for when the others cannot be loaded let in WireGuard and SSH alone',
      why: 'one bad file in /etc/nftables.d must not leave the machine open, nor lock everybody out',
      transaction,
    }),

    file('/etc/systemd/system/fortress-closed.service', {
      from: 'config/host/fortress-closed.service',
      name: 'a unit that closes the machine when the firewall fails is installed',
      transaction,
    }),

    file('/etc/systemd/system/fortress-firewall.service', {
      from: 'config/host/fortress-firewall.service',
      then: [sh`systemctl daemon-reload`],
      name: 'the unit that loads the nftables rules is installed',
      why: "Debian's own empties every table of the machine when it stops, those of libvirt and of a cluster included",
      transaction,
    }),

    file('/etc/nftables.d/10-cluster.nft', {
      text: cluster,
      test,
      name: 'nftables rules let in, and pass on, what router.allow lists',
      transaction,
    }),

    file('/etc/nftables.d/20-egress.nft', {
      text: egress,
      test,
      name: 'nftables rules let out what router.allow lists (egress)',
      transaction,
    }),

    file('/etc/nftables.conf', {
      from: 'config/host/nftables.conf',
      values,
      mode: '640',
      test,
      name: 'nftables drops what no rule accepts, and what has a spoofed source',
      transaction,
    }),
  ]
}

function active(firewall: Firewall, end: TunnelEnd | undefined, transaction: Transaction): Step {
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
    controls: [...inputControls(firewall, end), ...otherControls()],
  }
}

const managers = ['ufw.service', 'firewalld.service', 'netfilter-persistent.service']

const onlyManager = (transaction: Transaction): Step => ({
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
})

// A table that sleeps is listed like any other, and stops nothing.
const chain = (
  name: string,
) => sh`{ ! nft --stateless --terse list table inet fortress | grep 'flags .*dormant' >&2 &&
    nft --stateless list chain inet fortress ${name}; }`
const common = ['CIS Debian 13', 'CIS Ubuntu 24.04', 'debian-cis']

/** Rules that accept whatever comes. */
const bare = (...names: string[]) =>
  sh`{ ${names.map((name) => chain(name)).reduce((all, one) => sh`${all} && ${one}`)}; } |
    grep --extended-regexp '^[[:space:]]+(counter [a-z0-9 ]*)?accept( comment .*)?$'`

/** Lines for `diff`: what the site says, and what the kernel has. */
const lines = (expected: string[]): Command => (expected.length === 0 ? sh`:` : sh`printf '%s\n' ${expected}`)

/** What comes in, by the rules in the kernel. */
function inputControls({ open, ssh }: Firewall, end: TunnelEnd | undefined): Control[] {
  const doors = open.length > (end ? 1 : 0) ? 'only what router.allow opens is open' : 'no port is open'
  const inside = end !== undefined && ssh.rules.every((line) => line.startsWith(`iifname "${end.interface}"`))
  const entries = sh`{ ${chain('input')} && ${chain('cluster_input')}; } |
    sed --regexp-extended 's/^\s+//; s/ comment ".*"$//'`
  return [
    {
      id: 'G02',
      title: 'The nftables rules are a table of their own, and nothing flushes the tables of others',
      // What is loaded, with all that it includes, leaves another table where it is.
      check: sh`nft list tables | grep 'inet fortress' &&
        unshare --net bash -c 'nft add table inet others && nft --file /etc/nftables.conf && nft list tables' |
          grep --line-regexp 'table inet others' > /dev/null &&
        ! systemctl show --property=ExecStart,ExecReload,ExecStop nftables.service |
          grep 'argv' | grep --invert-match 'argv\[\]=/usr/sbin/nft --file /etc/nftables.conf ;'`,
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
      check: sh`${chain('forward')} | grep 'hook forward .*policy drop' && ! ${bare('forward', 'cluster_forward')}`,
      from: common,
    },
    {
      id: 'G06',
      title:
        end && open.length === 1
          ? `From outside, UDP ${end.port} is the one open port`
          : `From outside, ${doors}`,
      // Of all rules that accept, these bind to no source and no kind of packet that only answers or reports.
      check: sh`diff <(${lines(open)}) <(${entries} |
        awk '/accept$|jump ssh/ && !/iif "lo"|iifname [^!]|saddr [^!@]|ct state|icmp|udp sport (67|547)/') &&
        ${lines(open)}`,
      from: ['fortress-kit'],
    },
    {
      id: 'G07',
      title: `SSH is reached ${inside ? 'through the tunnel' : 'by router.allow'} only, and its connection rate is limited`,
      // Also what lets in all ports, and is not what lets answers or errors in.
      check: sh`diff <(${lines(ssh.rules)}) <(${entries} |
        awk -v port=${`tcp dport.*[ -]${ssh.port}[ ,-]`} '/jump ssh/ || /accept$/ && ($0 ~ port ||
          !/dport|l4proto|icmp|ct state|iif "lo"/)') && ${lines(ssh.rules)} &&
        ${chain('ssh')} | grep 'limit rate over .*drop' > /dev/null`,
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
      check: sh`${chain('output')} | grep 'hook output .*policy drop' && ! ${bare('output', 'cluster_output', 'egress')}`,
      from: common,
    },
    {
      id: 'G11',
      title: 'The nftables rules are loaded at boot, before the network is up',
      check: sh`FK_UNITS=fortress-firewall.service; unit_is on fortress-firewall.service &&
        systemctl show --property=ExecStart fortress-firewall.service |
          grep --only-matching 'argv\[\]=/usr/sbin/nft --file /etc/nftables.conf ;' &&
        systemctl show --property=Before --property=DefaultDependencies fortress-firewall.service |
          grep 'network-pre.target\|=no' | wc --lines | grep --line-regexp 2 > /dev/null`,
      from: ['debian-cis'],
    },
    {
      id: 'G16',
      title: 'When the nftables rules cannot be loaded, only the way in is open',
      check: sh`said=$(systemctl show --property=ExecStartPre,OnFailure fortress-firewall.service) &&
        [[ $said == *--file\ /etc/nftables-closed.nft* && $said == *OnFailure=fortress-closed.service* ]] &&
        unshare --net bash -c 'nft --file /etc/nftables-closed.nft && nft --stateless list table inet fortress' |
        grep 'policy drop'`,
      from: ['fortress-kit'],
    },
    {
      id: 'G12',
      title: 'Packets with a spoofed source address are dropped, IPv6 too',
      check: sh`${chain('prerouting')} | grep 'fib saddr . iif oif missing' && ${chain('prerouting')} | grep 'ip6 saddr'`,
      from: ['RFC 2827', 'RFC 3704'],
    },
  ]
}
