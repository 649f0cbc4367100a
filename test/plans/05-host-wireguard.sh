#!/bin/bash
# 05-host-wireguard: A WireGuard tunnel for the peers of the site.
#
# Run it as root on fortress:
#   FK_SECRETS=DIR bash 05-host-wireguard.sh
# It has 17 steps. Each checks first, and changes only what does not hold.
# It keeps no record, so undo cannot take it back. It checks no controls: verify does.
# FK_SECRETS is a directory with one file for each of these secrets, as the machine gets it:
#   wg-host
#   wg-psk-laptop
# Steps that could lock you out are transactions. When one is done, log in by a NEW connection and run:
#   touch /run/fortress-confirm
# If you do not within 180 seconds of its beginning, the machine rolls it back.
# At a console: FK_KEEP_CHANGES=yes, and nothing is rolled back.
# shellcheck disable=SC2034 # functions read what is set here
set -euo pipefail
FK_PAGE=05-host-wireguard FK_FILE=05-host-wireguard.sh
export FK_PAGE FK_FILE

main() {
  case ${1-} in '') ;; *) usage ;; esac
  begin
  : "${FK_SECRETS:?a directory with the secrets of this page}"

  # 1/17 10.66.0.0/24 (tunnel.network) is in use nowhere else on this machine
  #   why: its route would cut off who is there now: perhaps you
  check() { network_apart wg0 10.66.0.0/24; }
  demand '10.66.0.0/24 (tunnel.network) is in use nowhere else on this machine' 'write another tunnel.network into config/sites/fortress.yaml, one that is in use at neither end'

  # 2/17 the laptop has WireGuard keys for the host and every peer
  #   why: keys are made once, where they are kept; a machine gets its own and the public halves of the others
  check() {
    printf '%s\n' placeholder/wg+host///////////////////////A= placeholder/wg+peer+laptop////////////////A= |
    awk '/^placeholder[/]/ { n++ } END { if (n) print n " keys are not made yet"; exit n > 0 }'
  }
  apply() {
    echo 'the laptop makes them: ./task host-wireguard apply, or ./task peer show NAME; then print this again' >&2 &&
    false
  }
  change 'the laptop has WireGuard keys for the host and every peer'

  # 3/17 wireguard-tools is installed
  check() {
    dpkg-query --show --showformat='${db:Status-Status} ${Package}\n' wireguard-tools |
    awk '$1 != "installed" { print "not installed:", $2; missing = 1 } END { exit missing }'
  }
  apply() {
    apt_get update
    apt_get --no-install-recommends install wireguard-tools
  }
  change 'wireguard-tools is installed'

  # 4/17 a WireGuard key that the host already has is the one of this laptop
  #   why: with another one every device that another laptop let in would be cut off
  check() {
    ! test -s /etc/wireguard/wg0.key ||
    test "$(wg pubkey < /etc/wireguard/wg0.key)" = placeholder/wg+host///////////////////////A= ||
    { echo 'the key in /etc/wireguard/wg0.key was made elsewhere' && false; }
  }
  demand 'a WireGuard key that the host already has is the one of this laptop' 'copy the secrets directory from the laptop that set this machine up;
or, when that is lost: sudo rm /etc/wireguard/wg0.key there'

  # 5/17 the kernel or wireguard-go provides WireGuard
  check() {
    test -d /sys/module/wireguard || modinfo wireguard > /dev/null 2>&1 ||
    command -v wireguard-go > /dev/null
  }
  demand 'the kernel or wireguard-go provides WireGuard' 'start the distribution'\''s own kernel (WireGuard is in Linux since 5.6), or install wireguard-go'

  # 6/17 no other interface is called wg0
  check() {
    systemctl --quiet is-active wg-quick@wg0.service || ! ip link show dev wg0 > /dev/null 2>&1 ||
    test "$(wg show wg0 public-key)" = placeholder/wg+host///////////////////////A=
  }
  demand 'no other interface is called wg0' 'an interface wg0 is up that is not of this site: take it down, or choose another tunnel.interface'

  # Steps 7 to 17 are one transaction.
  FK_RESTART='active	wg-quick@wg0.service	/etc/wireguard/	-	-' FK_TABLES=''
  transaction 180

  # 7/17 /etc/wireguard is readable by root alone
  check() {
    test "$(stat --format='%a %U:%G' /etc/wireguard /etc/wireguard/wg0)" = $'700 root:root\n700 root:root'
  }
  apply() {
    install --directory --mode=700 --owner=root --group=root /etc/wireguard /etc/wireguard/wg0
  }
  change '/etc/wireguard is readable by root alone'

  # 8/17 the WireGuard private key of the host is installed
  check() {
    put_finished /etc/wireguard/wg0.key && [ "$(stat --format='%a %U:%G' /etc/wireguard/wg0.key)" = "600 root:root" ] && sha256sum --check --status /var/lib/fortress/secret/etc/wireguard/wg0.key.sha256
  }
  apply() {
    {
      put /etc/wireguard/wg0.key 600 root:root
    } < "$FK_SECRETS"/wg-host
    (
      install --directory --mode=700 "$(dirname /var/lib/fortress/secret/etc/wireguard/wg0.key.sha256)" && sha256sum /etc/wireguard/wg0.key > /var/lib/fortress/secret/etc/wireguard/wg0.key.sha256
    )
    put_finish /etc/wireguard/wg0.key
  }
  recover() { put_restore /etc/wireguard/wg0.key; }
  change 'the WireGuard private key of the host is installed'

  # 9/17 the WireGuard preshared key of laptop is installed
  #   why: who records the traffic today and breaks Curve25519 some day still cannot read it
  check() {
    put_finished /etc/wireguard/wg0/placeholder_wg+peer+laptop________________A=.psk && [ "$(stat --format='%a %U:%G' /etc/wireguard/wg0/placeholder_wg+peer+laptop________________A=.psk)" = "600 root:root" ] && sha256sum --check --status /var/lib/fortress/secret/etc/wireguard/wg0/placeholder_wg+peer+laptop________________A=.psk.sha256
  }
  apply() {
    {
      put /etc/wireguard/wg0/placeholder_wg+peer+laptop________________A=.psk 600 root:root
    } < "$FK_SECRETS"/wg-psk-laptop
    (
      install --directory --mode=700 "$(dirname /var/lib/fortress/secret/etc/wireguard/wg0/placeholder_wg+peer+laptop________________A=.psk.sha256)" && sha256sum /etc/wireguard/wg0/placeholder_wg+peer+laptop________________A=.psk > /var/lib/fortress/secret/etc/wireguard/wg0/placeholder_wg+peer+laptop________________A=.psk.sha256
    )
    put_finish /etc/wireguard/wg0/placeholder_wg+peer+laptop________________A=.psk
  }
  recover() { put_restore /etc/wireguard/wg0/placeholder_wg+peer+laptop________________A=.psk; }
  change 'the WireGuard preshared key of laptop is installed'

  # 10/17 a script adds and removes WireGuard peers without interrupting the others
  check() {
    put_matches /usr/local/sbin/fortress-wireguard b2cb83c857fe11a35f687888c19539b43172caaadade2db679537948fa489c9c 755 root:root
  }
  apply() {
    put /usr/local/sbin/fortress-wireguard 755 root:root 'bash -n "$new"' << 'FORTRESS'
#!/bin/bash
# fortress-wireguard INTERFACE: sets exactly the peers of its file, with the keys in the same directory, in one step.
# Sessions of peers that stay are not interrupted. A preshared key is named after the key of its peer, with _ for /.
set -euo pipefail
interface=$1
umask 077
whole=$(mktemp /run/fortress-wireguard.XXXXXXXX)
trap 'rm --force "$whole"' EXIT
wg-quick strip "$interface" | awk -v dir=/etc/wireguard -v interface="$interface" '
  function key(path) { if ((getline line < path) != 1) { print "cannot read " path > "/dev/stderr"; exit 1 } return line }
  { print }
  /^\[Interface\]/ { print "PrivateKey = " key(dir "/" interface ".key") }
  /^PublicKey = / { name = $3; gsub("/", "_", name); print "PresharedKey = " key(dir "/" interface "/" name ".psk") }' > "$whole"
wg syncconf "$interface" "$whole"
FORTRESS
    put_finish /usr/local/sbin/fortress-wireguard
  }
  recover() { put_restore /usr/local/sbin/fortress-wireguard; }
  change 'a script adds and removes WireGuard peers without interrupting the others'

  # 11/17 wg-quick@wg0.service is restarted on failure
  check() {
    put_matches /etc/systemd/system/wg-quick@wg0.service.d/fortress.conf c2146d2877ce641fdc29d4996b465359e0124272306b7743ce023b0cd990fa74 644 root:root
  }
  apply() {
    put /etc/systemd/system/wg-quick@wg0.service.d/fortress.conf 644 root:root << 'FORTRESS'
[Unit]
StartLimitIntervalSec=0

[Service]
Restart=on-failure
RestartSec=5
# Debian's own reload would remove the keys, because they are not in the file.
ExecReload=
ExecReload=/usr/local/sbin/fortress-wireguard %i
FORTRESS
    systemctl daemon-reload
    put_finish /etc/systemd/system/wg-quick@wg0.service.d/fortress.conf
  }
  recover() {
    put_restore /etc/systemd/system/wg-quick@wg0.service.d/fortress.conf
    { systemctl daemon-reload
    } || true # the old file was good for it once
  }
  change 'wg-quick@wg0.service is restarted on failure'

  # 12/17 wg0.conf lists the peers of the site, and no others
  #   why: each may use one address and nothing else
  check() {
    put_matches /etc/wireguard/wg0.conf b609c94447cd81be925ba2757b911109ddc876954a60e20941854e75660ba564 600 root:root
  }
  apply() {
    put /etc/wireguard/wg0.conf 600 root:root << 'FORTRESS'
# The WireGuard tunnel of this machine. Keys are in the same directory: wg0.key and wg0/*.psk.
[Interface]
Address = 10.66.0.1/24
ListenPort = 51820
PostUp = /usr/local/sbin/fortress-wireguard %i

[Peer] # laptop
PublicKey = placeholder/wg+peer+laptop////////////////A=
AllowedIPs = 10.66.0.2/32
FORTRESS
    ! systemctl --quiet is-active wg-quick@wg0.service || systemctl reload wg-quick@wg0.service
    put_finish /etc/wireguard/wg0.conf
  }
  recover() {
    put_restore /etc/wireguard/wg0.conf
    { ! systemctl --quiet is-active wg-quick@wg0.service || systemctl reload wg-quick@wg0.service
    } || true # the old file was good for it once
  }
  change 'wg0.conf lists the peers of the site, and no others'

  # 13/17 the WireGuard tunnel is up, and starts at boot
  #   why: the running interface decides, not the file: a revoked peer is gone from the kernel
  #   G13 WireGuard keys are files of their own, readable by root alone [WireGuard wg-quick(8)]
  #   G14 A WireGuard peer may use one address, and has a preshared key [WireGuard wg(8)]
  check() {
    systemctl --quiet is-enabled wg-quick@wg0.service &&
    systemctl --quiet is-active wg-quick@wg0.service &&
    ip -oneline -4 address show dev wg0 | grep --fixed-strings ' 10.66.0.1/24 ' > /dev/null &&
    test "$(wg show wg0 public-key) $(wg show wg0 listen-port)" = 'placeholder/wg+host///////////////////////A= 51820' &&
    cmp <(wg show wg0 allowed-ips | LC_ALL=C sort) <(printf '%s\t%s\n' placeholder/wg+peer+laptop////////////////A= 10.66.0.2/32 | LC_ALL=C sort) &&
    cmp <(wg show wg0 preshared-keys | LC_ALL=C sort) <(
      paste <(printf '%s\n' placeholder/wg+peer+laptop////////////////A=) <(awk 1 /etc/wireguard/wg0/placeholder_wg+peer+laptop________________A=.psk) | LC_ALL=C sort)
  }
  apply() {
    systemctl enable wg-quick@wg0.service
    systemctl --quiet is-active wg-quick@wg0.service || ! ip link show dev wg0 > /dev/null 2>&1 ||
    ip link delete dev wg0
    if ip -oneline -4 address show dev wg0 | grep --fixed-strings ' 10.66.0.1/24 ' > /dev/null; then systemctl reload wg-quick@wg0.service; else systemctl restart wg-quick@wg0.service; fi
  }
  change 'the WireGuard tunnel is up, and starts at boot'

  # 14/17 preshared keys of revoked peers are deleted
  check() {
    ! find /etc/wireguard/wg0 -type f '!' -path /etc/wireguard/wg0/placeholder_wg+peer+laptop________________A=.psk | grep .
  }
  apply() {
    find /etc/wireguard/wg0 -type f '!' -path /etc/wireguard/wg0/placeholder_wg+peer+laptop________________A=.psk -delete && put_forget
  }
  change 'preshared keys of revoked peers are deleted'

  # 15/17 tunnel watchdog service is installed
  check() {
    put_matches /etc/systemd/system/fortress-tunnel.service 68da94599dda6f95eb4dd79be8cd9c245be92635a064e08eb8ebfb074bcb423a 644 root:root
  }
  apply() {
    put /etc/systemd/system/fortress-tunnel.service 644 root:root << 'FORTRESS'
[Unit]
Description=Put the tunnel back when it is gone
Documentation=man:wg-quick(8)

[Service]
Type=oneshot
ExecStart=/bin/bash -c '[ "$(wg show wg0 public-key)" = "$(wg pubkey < /etc/wireguard/wg0.key)" ] || systemctl restart wg-quick@wg0.service'
FORTRESS
    systemctl daemon-reload
    put_finish /etc/systemd/system/fortress-tunnel.service
  }
  recover() {
    put_restore /etc/systemd/system/fortress-tunnel.service
    { systemctl daemon-reload
    } || true # the old file was good for it once
  }
  change 'tunnel watchdog service is installed'

  # 16/17 tunnel watchdog timer runs every minute
  check() {
    put_matches /etc/systemd/system/fortress-tunnel.timer 18941128461609d2d6cb2a47c6dc741066240272c8ade5693b606bde469fe050 644 root:root
  }
  apply() {
    put /etc/systemd/system/fortress-tunnel.timer 644 root:root << 'FORTRESS'
[Unit]
Description=Every minute: is the tunnel there?

[Timer]
OnBootSec=2min
OnUnitInactiveSec=1min
AccuracySec=5s

[Install]
WantedBy=timers.target
FORTRESS
    systemctl daemon-reload
    systemctl try-restart fortress-tunnel.timer
    put_finish /etc/systemd/system/fortress-tunnel.timer
  }
  recover() {
    put_restore /etc/systemd/system/fortress-tunnel.timer
    { systemctl daemon-reload
    } || true # the old file was good for it once
    { systemctl try-restart fortress-tunnel.timer
    } || true # the old file was good for it once
  }
  change 'tunnel watchdog timer runs every minute'

  # 17/17 tunnel watchdog is enabled
  #   why: behind a closed firewall a tunnel that is gone is a machine that is gone
  #   G15 The tunnel is restarted when it fails, when its interface is gone, and after a reboot [fortress-kit]
  check() {
    systemctl --quiet is-enabled fortress-tunnel.timer &&
    systemctl --quiet is-active fortress-tunnel.timer
  }
  apply() { systemctl enable --now fortress-tunnel.timer; }
  change 'tunnel watchdog is enabled'

  confirm
}

# What main uses.
# from lib/host/affected.sh: network_apart
# from lib/host/controls.sh: PATH
# from lib/engine/shell/put.sh: FK_STATE put put_owner put_finish put_finished put_restore put_forget put_matches
# from lib/engine/shell/snapshot.sh: fk_etc fk_units fk_packages fk_sysctls fk_tables fk_functions fk_sure fk_room
# from lib/engine/shell/snapshot.sh: fk_describe fk_snapshot record_before fk_changed fk_restore_etc fk_restore_kept
# from lib/engine/shell/snapshot.sh: fk_restore_aside fk_restore_units fk_restore_sysctls fk_restore_tables
# from lib/engine/shell/snapshot.sh: fk_sysctl_keys fk_rollback fk_restart
# from lib/engine/shell/apt.sh: apt_get apt_says
# from lib/engine/shell/guard.sh: fk_guard fk_arm fk_deadman_holders fk_deadman_end fk_complete fk_commit
# from lib/engine/shell/guard.sh: fk_deadman_units fk_disarm fk_rollback_now
# from lib/engine/shell/record.sh: fk_add
# from lib/engine/shell/printed.sh: FK_OUT FK_RC FK_TX FK_VISIT FK_ARM FK_BACK FK_TMP begin lock usage recover holds
# from lib/engine/shell/printed.sh: change demand fail transaction arm_rollback confirm

main "$@"
