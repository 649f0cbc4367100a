#!/usr/bin/env -S npx --no-install tsx
// A WireGuard tunnel for the peers of the site.
//
// Needs   nothing: the laptop makes the keys of the host and of every peer when this is applied, and the client file of its own.
// Leaves  the interface, its files in /etc/wireguard, and a timer that restarts it when it is gone. SSH stays open beside it.
// Undo    takes the tunnel down. Not where it is the only way in: the firewall is undone first.
import { file } from '../lib/engine/file.ts'
import { packages } from '../lib/engine/packages.ts'
import type { Demand, Step, Transaction } from '../lib/engine/step.ts'
import { library, sh } from '../lib/ground/sh.ts'
import { makeKeys } from '../lib/host/device.ts'
import { apart } from '../lib/host/overlap.ts'
import { peerKey, pskKey, publicHalf } from '../lib/host/wireguard.ts'
import { type Context, script } from '../lib/script.ts'
import { type TunnelEnd, machineOf, tunnelAddresses, tunnelOf } from '../lib/site/machines.ts'
import type { Site } from '../lib/site/model.ts'

const make = async (context: Context) => {
  if (endOf(context) !== undefined) await makeKeys(context)
}

const functions = library('lib/host/affected.sh', 'lib/host/controls.sh')

export default script(import.meta, { layer: 'L0', on: 'host', make, library: functions }, (context) => {
  const end = endOf(context)
  if (end === undefined) return [elsewhere(context.site)]
  const tunnel = describe(end, context)
  return [
    ...prerequisites(tunnel, context),
    ...keys(tunnel, context),
    ...configuration(tunnel),
    ...running(tunnel),
    ...watchdog(tunnel),
  ]
})

const dir = '/etc/wireguard'

const endOf = ({ site, machine }: Context): TunnelEnd | undefined =>
  tunnelOf(site, machineOf(site, machine.name))

/** A router, or another host, is where the tunnel ends. */
const elsewhere = ({ tunnel }: Site): Demand => ({
  name: `the tunnel ends at ${tunnel.at ?? 'no machine of the site'}, and no WireGuard interface ${tunnel.interface} is here`,
  check: sh`! ip link show dev ${tunnel.interface} > /dev/null 2>&1`,
  help: `take it down (wg-quick down ${tunnel.interface}), or give this machine a tunnel_address in the site document`,
})

type Tunnel = ReturnType<typeof describe>

/** The end of the tunnel, and the public keys that this laptop has for it; a placeholder stands for one that is missing. */
function describe(
  { interface: wg, network, port, prefix, address, peers, key }: TunnelEnd,
  { state }: Context,
) {
  const unit = `wg-quick@${wg}.service`
  const transaction: Transaction = {
    kind: 'wireguard',
    route: { gone: { route: 'tunnel', next: 'open SSH beside the tunnel first: ./task host-firewall undo' } },
    restart: [{ unit, path: `${dir}/`, how: 'active' }],
  }
  const publicKeys = peers.map((peer) => publicHalf(state, peerKey(peer.name)))
  return {
    wg,
    network,
    port,
    peers,
    /** Of the host, within the tunnel, with the length of its prefix. */
    inside: `${address}/${prefix}`,
    unit,
    transaction,
    key,
    hostPublicKey: publicHalf(state, key),
    publicKeys,
    // Named after the key of the peer: who is revoked and comes again has new ones of both.
    presharedKeys: publicKeys.map((key) => `${dir}/${wg}/${key.replaceAll('/', '_')}.psk`),
  }
}

function prerequisites(tunnel: Tunnel, { machine, site }: Context): Step[] {
  const { wg, unit, network, hostPublicKey, publicKeys } = tunnel
  return [
    ...apart({ called: 'tunnel.network', network, dev: wg, own: tunnelAddresses(site) }, site.name, machine),

    {
      name: 'the laptop has WireGuard keys for the host and every peer',
      why: 'keys are made once, where they are kept; a machine gets its own and the public halves of the others',
      check: sh`printf '%s\n' ${[hostPublicKey, ...publicKeys]} |
        awk '/^placeholder[/]/ { n++ } END { if (n) print n " keys are not made yet"; exit n > 0 }'`,
      // The laptop has made them before a page that it applies begins: this is for one that was printed before.
      apply: [
        sh`echo 'the laptop makes them: ./task host-wireguard apply, or ./task peer show NAME; then print this again' >&2 &&
          false`,
      ],
    },

    packages(['wireguard-tools']),

    {
      name: 'a WireGuard key that the host already has is the one of this laptop',
      why: 'with another one every device that another laptop let in would be cut off',
      check: sh`! test -s ${`${dir}/${wg}.key`} ||
        test "$(wg pubkey < ${`${dir}/${wg}.key`})" = ${hostPublicKey} ||
        { echo ${`the key in ${dir}/${wg}.key was made elsewhere`} && false; }`,
      help: `copy the secrets directory from the laptop that set this machine up;
or, when that is lost: sudo rm ${dir}/${wg}.key there`,
    },

    {
      name: 'the kernel or wireguard-go provides WireGuard',
      check: sh`test -d /sys/module/wireguard || modinfo wireguard > /dev/null 2>&1 ||
        command -v wireguard-go > /dev/null`,
      help: "start the distribution's own kernel (WireGuard is in Linux since 5.6), or install wireguard-go",
    },

    {
      name: `no other interface is called ${wg}`,
      check: sh`systemctl --quiet is-active ${unit} || ! ip link show dev ${wg} > /dev/null 2>&1 ||
        test "$(wg show ${wg} public-key)" = ${hostPublicKey}`,
      help: `an interface ${wg} is up that is not of this site: take it down, or choose another tunnel.interface`,
    },
  ]
}

function keys({ wg, key, peers, presharedKeys, transaction }: Tunnel, { secrets }: Context): Step[] {
  return [
    {
      name: `${dir} is readable by root alone`,
      check: sh`test "$(stat --format='%a %U:%G' ${dir} ${`${dir}/${wg}`})" = $'700 root:root\n700 root:root'`,
      apply: [sh`install --directory --mode=700 --owner=root --group=root ${dir} ${`${dir}/${wg}`}`],
      transaction,
    },

    file(`${dir}/${wg}.key`, {
      secret: secrets(key),
      mode: '600',
      name: 'the WireGuard private key of the host is installed',
      transaction,
    }),

    ...peers.map(({ name }, i) =>
      file(presharedKeys[i] ?? '', {
        secret: secrets(pskKey(name)),
        mode: '600',
        name: `the WireGuard preshared key of ${name} is installed`,
        why: 'who records the traffic today and breaks Curve25519 some day still cannot read it',
        transaction,
      }),
    ),
  ]
}

function configuration({ wg, port, peers, inside, unit, publicKeys, transaction }: Tunnel): Step[] {
  const peerSections = peers.map(
    (peer, i) => `\n[Peer] # ${peer.name}\nPublicKey = ${publicKeys[i]}\nAllowedIPs = ${peer.address}/32`,
  )
  return [
    file('/usr/local/sbin/fortress-wireguard', {
      from: 'config/host/fortress-wireguard',
      mode: '755',
      test: sh`bash -n "$new"`,
      name: 'a script adds and removes WireGuard peers without interrupting the others',
      transaction,
    }),

    file(`/etc/systemd/system/${unit}.d/fortress.conf`, {
      from: 'config/host/wireguard-unit.conf',
      then: [sh`systemctl daemon-reload`],
      name: `${unit} is restarted on failure`,
      transaction,
    }),

    file(`${dir}/${wg}.conf`, {
      from: 'config/host/wireguard.conf',
      values: { interface: wg, address: inside, port, peers: peerSections.join('\n') },
      mode: '600',
      then: [sh`! systemctl --quiet is-active ${unit} || systemctl reload ${unit}`],
      name: `${wg}.conf lists the peers of the site, and no others`,
      why: 'each may use one address and nothing else',
      transaction,
    }),
  ]
}

function running(tunnel: Tunnel): Step[] {
  const { wg, port, peers, inside, unit, hostPublicKey, publicKeys, presharedKeys, transaction } = tunnel
  const hasAddress = sh`ip -oneline -4 address show dev ${wg} | grep --fixed-strings ${` ${inside} `} > /dev/null`
  const allowedIps = publicKeys.flatMap((key, i) => [key, `${peers[i]?.address}/32`])
  const unknown = sh`find ${`${dir}/${wg}`} -type f ${presharedKeys.flatMap((path) => ['!', '-path', path])}`
  return [
    {
      name: 'the WireGuard tunnel is up, and starts at boot',
      why: 'the running interface decides, not the file: a revoked peer is gone from the kernel',
      check: sh`systemctl --quiet is-enabled ${unit} &&
        systemctl --quiet is-active ${unit} &&
        ${hasAddress} &&
        test "$(wg show ${wg} public-key) $(wg show ${wg} listen-port)" = ${`${hostPublicKey} ${port}`} &&
        cmp <(wg show ${wg} allowed-ips | LC_ALL=C sort) <(printf '%s\t%s\n' ${allowedIps} | LC_ALL=C sort) &&
        cmp <(wg show ${wg} preshared-keys | LC_ALL=C sort) <(
          paste <(printf '%s\n' ${publicKeys}) <(awk 1 ${presharedKeys}) | LC_ALL=C sort)`,
      apply: [
        sh`systemctl enable ${unit}`,
        // An interface of ours that a run which was rolled back has left behind.
        sh`systemctl --quiet is-active ${unit} || ! ip link show dev ${wg} > /dev/null 2>&1 ||
          ip link delete dev ${wg}`,
        // A reload changes neither address nor port.
        sh`if ${hasAddress}; then systemctl reload ${unit}; else systemctl restart ${unit}; fi`,
      ],
      undo: [sh`systemctl disable --now ${unit}`],
      transaction,
      controls: [
        {
          id: 'G13',
          title: 'WireGuard keys are files of their own, readable by root alone',
          // What the interface has in the kernel is what these files hold, whoever else may have given it something.
          check: sh`FK_PATHS=''; mode_is 600 root:root $(find ${dir} -type f) &&
              mode_is 700 root:root ${[dir, `${dir}/${wg}`]} &&
              cmp <(wg show ${wg} private-key) <(awk 1 ${`${dir}/${wg}.key`}) &&
              cmp <(wg show ${wg} preshared-keys | cut --fields=2 | LC_ALL=C sort) <(
                awk 1 ${presharedKeys} < /dev/null | LC_ALL=C sort) &&
              ! wg-quick strip ${wg} | grep --ignore-case --only-matching 'PrivateKey\|PresharedKey'`,
          from: ['WireGuard wg-quick(8)'],
        },
        {
          id: 'G14',
          title: 'A WireGuard peer may use one address, and has a preshared key',
          check: sh`wg show ${wg} allowed-ips &&
            ! wg show ${wg} allowed-ips | awk '{ for (i = 2; i <= NF; i++) print $i }' | grep --invert-match '/32$' &&
            ! wg show ${wg} preshared-keys | grep '(none)$'`,
          from: ['WireGuard wg(8)'],
        },
      ],
    },

    {
      name: 'preshared keys of revoked peers are deleted',
      check: sh`! ${unknown} | grep .`,
      apply: [sh`${unknown} -delete && put_forget`],
      transaction,
    },
  ]
}

function watchdog({ wg, unit, transaction }: Tunnel): Step[] {
  return [
    file('/etc/systemd/system/fortress-tunnel.service', {
      from: 'config/host/fortress-tunnel.service',
      values: { interface: wg },
      then: [sh`systemctl daemon-reload`],
      name: 'tunnel watchdog service is installed',
      transaction,
    }),

    file('/etc/systemd/system/fortress-tunnel.timer', {
      from: 'config/host/fortress-tunnel.timer',
      then: [sh`systemctl daemon-reload`, sh`systemctl try-restart fortress-tunnel.timer`],
      name: 'tunnel watchdog timer runs every minute',
      transaction,
    }),

    {
      name: 'tunnel watchdog is enabled',
      why: 'behind a closed firewall a tunnel that is gone is a machine that is gone',
      check: sh`systemctl --quiet is-enabled fortress-tunnel.timer &&
        systemctl --quiet is-active fortress-tunnel.timer`,
      apply: [sh`systemctl enable --now fortress-tunnel.timer`],
      undo: [sh`systemctl disable --now fortress-tunnel.timer`],
      transaction,
      controls: [
        {
          id: 'G15',
          title: 'The tunnel is restarted when it fails, when its interface is gone, and after a reboot',
          check: sh`FK_UNITS=${`${unit} fortress-tunnel.timer fortress-tunnel.service`}
            unit_is on ${unit} fortress-tunnel.timer &&
              systemctl show --property=Restart --property=RestartUSec ${unit} &&
              test "$(systemctl show --property=Restart --value ${unit})" = on-failure &&
              test "$(systemctl show --property=NextElapseUSecMonotonic --value fortress-tunnel.timer)" != infinity`,
          from: ['fortress-kit'],
        },
      ],
    },
  ]
}
