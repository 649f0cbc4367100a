// The one door: a WireGuard tunnel for the peers of the site.
//
// Needs   the keys of the host and of every peer, made on the laptop: ./task peer show laptop
// Leaves  the interface, its files in /etc/wireguard, and a timer that puts it back when it is gone. SSH stays open beside it.
// Undo    takes the tunnel down. Not from within the tunnel: the machine would take that back.
import { file } from '../lib/engine/file.ts'
import type { Transaction } from '../lib/engine/step.ts'
import { sh } from '../lib/ground/sh.ts'
import { hostKey, peerKey, pskKey, publicHalf } from '../lib/host/wireguard.ts'
import { script } from '../lib/script.ts'

export default script(import.meta, { layer: 'L0', on: 'host' }, ({ site, secrets, state }) => {
  const { interface: wg, port, network, address, peers } = site.tunnel
  const unit = `wg-quick@${wg}.service`
  const dir = '/etc/wireguard'
  const own = publicHalf(state, hostKey)
  const halves = peers.map((peer) => publicHalf(state, peerKey(peer.name)))
  // Named after the key of the peer: who is revoked and comes again has new ones of both.
  const shared = halves.map((half) => `${dir}/${wg}/${half.replaceAll('/', '_')}.psk`)
  const inside = `${address}/${network.split('/')[1]}`
  const transaction: Transaction = {
    kind: 'wireguard',
    restart: [{ unit, path: `${dir}/`, how: 'active' }],
  }

  return [
    {
      name: 'every peer has its keys on the laptop',
      why: 'keys are made once, where they are kept; a machine gets its own and the public halves of the others',
      check: sh`! printf '%s\n' ${[own, ...halves]} | grep ^placeholder/`,
      help: peers.map(({ name }) => `./task peer show ${name}`).join('\n'),
    },

    {
      name: 'the tools of WireGuard are installed',
      check: sh`dpkg-query --show --showformat='\${db:Status-Abbrev}' wireguard-tools | grep ^ii > /dev/null`,
      apply: [
        sh`apt-get --quiet=2 update`,
        sh`DEBIAN_FRONTEND=noninteractive apt-get --quiet=2 --yes --no-install-recommends install wireguard-tools`,
      ],
      seconds: 900,
    },

    {
      name: 'this machine can speak WireGuard',
      check: sh`test -d /sys/module/wireguard || modinfo wireguard > /dev/null 2>&1 || command -v wireguard-go > /dev/null`,
      help: "start the distribution's own kernel (WireGuard is in Linux since 5.6), or install wireguard-go",
    },

    {
      name: `nobody else uses the name ${wg}`,
      check: sh`systemctl --quiet is-active ${unit} || ! ip link show dev ${wg} > /dev/null 2>&1 || test "$(wg show ${wg} public-key)" = ${own}`,
      help: `an interface ${wg} is up that is not of this site: take it down, or choose another tunnel.interface`,
    },

    {
      name: `${dir} is for root alone`,
      check: sh`test "$(stat --format='%a %U:%G' ${dir} ${`${dir}/${wg}`})" = $'700 root:root\n700 root:root'`,
      apply: [sh`install --directory --mode=700 --owner=root --group=root ${dir} ${`${dir}/${wg}`}`],
      transaction,
    },

    file(`${dir}/${wg}.key`, {
      secret: secrets(hostKey),
      mode: '600',
      name: 'the machine holds its own key',
      transaction,
    }),

    ...peers.map(({ name }, i) =>
      file(shared[i] ?? '', {
        secret: secrets(pskKey(name)),
        mode: '600',
        name: `the machine shares a key with ${name}`,
        why: 'who records the traffic today and breaks Curve25519 some day still cannot read it',
        transaction,
      }),
    ),

    file('/usr/local/sbin/fortress-wireguard', {
      from: 'config/host/fortress-wireguard',
      mode: '755',
      test: sh`bash -n "$new"`,
      name: 'peers come and go without an interruption for the others',
      transaction,
    }),

    file(`/etc/systemd/system/${unit}.d/fortress.conf`, {
      from: 'config/host/wireguard-unit.conf',
      then: [sh`systemctl daemon-reload`],
      name: 'a tunnel that failed is started again',
      transaction,
    }),

    file(`${dir}/${wg}.conf`, {
      from: 'config/host/wireguard.conf',
      values: {
        interface: wg,
        address: inside,
        port,
        peers: peers
          .map(
            (peer, i) => `\n[Peer] # ${peer.name}\nPublicKey = ${halves[i]}\nAllowedIPs = ${peer.address}/32`,
          )
          .join('\n'),
      },
      mode: '600',
      then: [sh`! systemctl --quiet is-active ${unit} || systemctl reload ${unit}`],
      name: 'the peers of the site, and no others, are in the file',
      why: 'each may use one address and nothing else',
      transaction,
    }),

    {
      name: 'the tunnel is up, and starts with the machine',
      why: 'the running interface is asked, not the file: a revoked peer is gone from the kernel',
      check: sh`systemctl --quiet is-enabled ${unit} &&
        systemctl --quiet is-active ${unit} &&
        ip -oneline -4 address show dev ${wg} | grep --fixed-strings ${` ${inside} `} > /dev/null &&
        test "$(wg show ${wg} public-key) $(wg show ${wg} listen-port)" = ${`${own} ${port}`} &&
        cmp <(wg show ${wg} allowed-ips | LC_ALL=C sort) <(printf '%s\t%s\n' ${halves.flatMap((half, i) => [half, `${peers[i]?.address}/32`])} | LC_ALL=C sort) &&
        cmp <(wg show ${wg} preshared-keys | LC_ALL=C sort) <(paste <(printf '%s\n' ${halves}) <(awk 1 ${shared}) | LC_ALL=C sort)`,
      apply: [
        sh`systemctl enable ${unit}`,
        // An interface of ours that a run which was taken back has left behind.
        sh`systemctl --quiet is-active ${unit} || ! ip link show dev ${wg} > /dev/null 2>&1 || ip link delete dev ${wg}`,
        // An address or a port cannot change under way.
        sh`if ip -oneline -4 address show dev ${wg} | grep --fixed-strings ${` ${inside} `} > /dev/null; then systemctl reload ${unit}; else systemctl restart ${unit}; fi`,
      ],
      undo: [sh`systemctl disable --now ${unit}`],
      transaction,
      controls: [
        {
          id: 'G13',
          title: 'The keys of WireGuard are files of their own, for root alone',
          check: sh`stat --format='%a %U %n' ${dir} $(find ${dir} -type f) && ! grep --ignore-case 'PrivateKey\|PresharedKey' ${`${dir}/${wg}.conf`} && test -z "$(find ${dir} ! -user root -o -perm /077)"`,
          from: ['WireGuard wg-quick(8)'],
        },
        {
          id: 'G14',
          title: 'A peer may use one address, and has a preshared key',
          check: sh`wg show ${wg} allowed-ips && ! wg show ${wg} allowed-ips | awk '{ for (i = 2; i <= NF; i++) print $i }' | grep --invert-match '/32$' && ! wg show ${wg} preshared-keys | grep '(none)$'`,
          from: ['WireGuard wg(8)'],
        },
      ],
    },

    {
      name: 'the keys of peers that were revoked are gone',
      check: sh`! find ${`${dir}/${wg}`} -type f ${shared.flatMap((path) => ['!', '-path', path])} | grep .`,
      apply: [sh`find ${`${dir}/${wg}`} -type f ${shared.flatMap((path) => ['!', '-path', path])} -delete`],
      transaction,
    },

    file('/etc/systemd/system/fortress-tunnel.service', {
      from: 'config/host/fortress-tunnel.service',
      values: { interface: wg },
      then: [sh`systemctl daemon-reload`],
      name: 'somebody can put the tunnel back',
      transaction,
    }),

    file('/etc/systemd/system/fortress-tunnel.timer', {
      from: 'config/host/fortress-tunnel.timer',
      then: [sh`systemctl daemon-reload`, sh`systemctl try-restart fortress-tunnel.timer`],
      name: 'and looks for it every minute',
      transaction,
    }),

    {
      name: 'the look-out is on, and starts with the machine',
      why: 'behind a closed firewall a tunnel that is gone is a machine that is gone',
      check: sh`systemctl --quiet is-enabled fortress-tunnel.timer && systemctl --quiet is-active fortress-tunnel.timer`,
      apply: [sh`systemctl enable --now fortress-tunnel.timer`],
      undo: [sh`systemctl disable --now fortress-tunnel.timer`],
      transaction,
      controls: [
        {
          id: 'G15',
          title: 'The tunnel comes back by itself: when it fails, when it vanishes, and after a reboot',
          check: sh`systemctl is-enabled ${unit} fortress-tunnel.timer && systemctl is-active fortress-tunnel.timer && systemctl show --property=Restart ${unit} | grep on-failure`,
          from: ['fortress-kit'],
        },
      ],
    },
  ]
})
