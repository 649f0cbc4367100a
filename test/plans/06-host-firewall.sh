#!/bin/bash
# 06-host-firewall: An nftables firewall: nobody connects to whom router.allow of the site does not list. From outside that is WireGuard alone.
#
# Run it as root on fortress:
#   FK_CONFIRM=fortress bash 06-host-firewall.sh
# It has 12 steps. Each checks first, and changes only what does not hold.
# It keeps no record, so undo cannot take it back. It checks no controls: verify does.
# FK_CONFIRM=fortress confirms: what the firewall will cut off here is accepted
# Steps that could lock you out are transactions. When one is done, log in by a NEW connection and run:
#   touch /run/fortress-confirm
# If you do not within 180 seconds of its beginning, the machine rolls it back.
# At a console: FK_KEEP_CHANGES=yes, and nothing is rolled back.
# shellcheck disable=SC2034 # functions read what is set here
set -euo pipefail
FK_PAGE=06-host-firewall FK_FILE=06-host-firewall.sh
export FK_PAGE FK_FILE

main() {
  case ${1-} in '') ;; *) usage ;; esac
  begin

  # 1/12 what the firewall will cut off here is accepted
  check() {
    [ "${FK_CONFIRM-}" != fortress ] || return 0
    nft list table inet fortress > /dev/null 2>&1 || affected -- affected_links wg0 virbr-fort libvirtd.service virtnetworkd.service -- affected_engines wg0 virbr-fort libvirtd.service virtnetworkd.service -- affected_routes -- affected_tables inet.fortress wg0 virbr-fort libvirtd.service virtnetworkd.service -- affected_servers tcp/22 udp/51820 tcp/22 tcp/53 udp/53 udp/123 udp/67
  }
  demand 'what the firewall will cut off here is accepted' 'FK_CONFIRM=fortress before bash confirms it'

  # 2/12 nftables is installed
  check() {
    dpkg-query --show --showformat='${db:Status-Status} ${Package}\n' nftables |
    awk '$1 != "installed" { print "not installed:", $2; missing = 1 } END { exit missing }'
  }
  apply() {
    apt_get update
    apt_get --no-install-recommends install nftables
  }
  change 'nftables is installed'

  # Steps 3 to 12 are one transaction.
  FK_RESTART='' FK_TABLES='inet fortress'
  transaction 180 'through the tunnel'

  # 3/12 a peer has made a WireGuard handshake in the last three minutes
  #   why: SSH is closed outside of the tunnel only while somebody is inside; once it is closed, this holds by itself
  check() {
    nft list table inet fortress > /dev/null 2>&1 ||
    wg show wg0 latest-handshakes | awk -v now="$(date +%s)" '
  { print "last handshake of " $1 ": " ($2 ? now - $2 " s ago" : "never") }
  $2 > now - 180 { found = 1 }
  END { exit !found }'
  }
  demand 'a peer has made a WireGuard handshake in the last three minutes' './task peer show laptop --endpoint HOST
sudo wg-quick up /nonexistent/fortress/laptop.conf
on the laptop, with wireguard-tools installed
a phone scans it: ./task peer show laptop --qr
The file holds a private key in clear (mode 600).'

  # 4/12 sshd answers at 10.66.0.1, port 22: the address in the tunnel
  #   why: it is the only one that is left
  check() {
    nft list table inet fortress > /dev/null 2>&1 ||
    timeout 10 bash -c 'exec 3<> "/dev/tcp/$1/$2" && read -r -t 5 line <&3 && echo "$line" && [[ $line == SSH-* ]]' \
      bash 10.66.0.1 22
  }
  demand 'sshd answers at 10.66.0.1, port 22: the address in the tunnel' 'sshd -T | grep -i listen, there: take ListenAddress out, and see that the port is 22'

  # 5/12 nftables rules for when the others cannot be loaded let in WireGuard and SSH alone
  #   why: one bad file in /etc/nftables.d must not leave the machine open, nor lock everybody out
  check() {
    put_matches /etc/nftables-closed.nft 1a5629c35e33d94b3e64c458b823f998a4aa56b0ae94cd81438d21bc3bfa963f 640 root:root
  }
  apply() {
    put /etc/nftables-closed.nft 640 root:root 'nft --check --file "$new"' << 'FORTRESS'
#!/usr/sbin/nft --file
# What holds while the rules of /etc/nftables.conf cannot be loaded: only the way in is open. It needs nothing that can be missing
# or broken: no other file, no user, no interface, no module but that which follows connections.
table inet fortress
delete table inet fortress
table inet fortress {
  chain input {
    type filter hook input priority filter; policy drop;
    iifname "lo" accept
    ct state { established, related } accept
    icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-advert } accept
    udp sport 67 udp dport 68 accept
    udp dport 51820 accept
    iifname "wg0" ip saddr 10.66.0.0/24 tcp dport 22 accept
  }

  chain forward {
    type filter hook forward priority filter; policy drop;
  }

  chain output {
    type filter hook output priority filter; policy drop;
    oifname "lo" accept
    ct state { established, related } accept
    meta l4proto { icmp, ipv6-icmp } accept
    udp sport 68 udp dport 67 accept
    udp sport 51820 accept
  }
}
FORTRESS
    put_finish /etc/nftables-closed.nft
  }
  recover() { put_restore /etc/nftables-closed.nft; }
  change 'nftables rules for when the others cannot be loaded let in WireGuard and SSH alone'

  # 6/12 a unit that closes the machine when the firewall fails is installed
  check() {
    put_matches /etc/systemd/system/fortress-closed.service de2ca0d60fe5cd44fb1d7ba816aea95022d35efb4ea18256838f1c4e7547ad04 644 root:root
  }
  apply() {
    put /etc/systemd/system/fortress-closed.service 644 root:root << 'FORTRESS'
[Unit]
Description=Close this machine but for the way in, because its packet filter did not load
Documentation=man:nft(8)
DefaultDependencies=no

[Service]
Type=oneshot
# The unit that failed has tried it before.
ExecStart=/bin/sh -c '/usr/sbin/nft list table inet fortress > /dev/null 2>&1 || exec /usr/sbin/nft --file /etc/nftables-closed.nft'
ExecStart=/usr/bin/logger --priority auth.crit 'The packet filter did not load: only the way in is open. See: systemctl status fortress-firewall'
Restart=on-failure
RestartSec=5
FORTRESS
    put_finish /etc/systemd/system/fortress-closed.service
  }
  recover() { put_restore /etc/systemd/system/fortress-closed.service; }
  change 'a unit that closes the machine when the firewall fails is installed'

  # 7/12 the unit that loads the nftables rules is installed
  #   why: Debian's own empties every table of the machine when it stops, those of libvirt and of a cluster included
  check() {
    put_matches /etc/systemd/system/fortress-firewall.service 805196f8fe45d07545f6290c32d83daa804acca6ab736b34210895f42e1e5dc8 644 root:root
  }
  apply() {
    put /etc/systemd/system/fortress-firewall.service 644 root:root << 'FORTRESS'
[Unit]
Description=Packet filter
Documentation=man:nft(8)
Wants=network-pre.target
# The rollback of a change that was not confirmed before a reboot runs first.
After=fortress-deadman.service
Before=network-pre.target shutdown.target
DefaultDependencies=no
OnFailure=fortress-closed.service

[Service]
Type=oneshot
RemainAfterExit=yes
# At the start of the machine, and wherever else there are no rules yet: should the next line fail, these stay.
ExecStartPre=-/bin/sh -c '/usr/sbin/nft list table inet fortress > /dev/null 2>&1 || exec /usr/sbin/nft --file /etc/nftables-closed.nft'
ExecStart=/usr/sbin/nft --file /etc/nftables.conf
ExecReload=/usr/sbin/nft --file /etc/nftables.conf
# There is no ExecStop: a stopped unit, a restart and a shutdown leave the rules where they are.
# To remove the firewall on purpose: nft delete table inet fortress
ProtectSystem=full
ProtectHome=yes

[Install]
WantedBy=sysinit.target
# Debian's own unit flushes all tables when it stops; this unit replaces it under its name.
Alias=nftables.service
FORTRESS
    systemctl daemon-reload
    put_finish /etc/systemd/system/fortress-firewall.service
  }
  recover() {
    put_restore /etc/systemd/system/fortress-firewall.service
    { systemctl daemon-reload
    } || true # the old file was good for it once
  }
  change 'the unit that loads the nftables rules is installed'

  # 8/12 nftables rules let in, and pass on, what router.allow lists
  check() {
    put_matches /etc/nftables.d/10-cluster.nft d06d3305c7cb10796d91a51edcc0cf670b09f7f43a8eb50570953a9c7a830d38 644 root:root
  }
  apply() {
    put /etc/nftables.d/10-cluster.nft 644 root:root 'nft --check --file "$new"' << 'FORTRESS'
# Who may connect to fortress, and through it: lines of router.allow, and what the site needs.
table inet fortress {
  set private {
    type ipv4_addr
    flags interval
  }

  chain ssh {
  }

  chain cluster_prerouting {
  }

  chain cluster_input {
    udp dport 51820 accept comment "WireGuard"
    iifname "wg0" ip saddr 10.66.0.0/24 tcp dport 22 jump ssh comment "SSH"
    iifname "virbr-fort" ip saddr 10.77.0.0/24 tcp dport 53 accept comment "names, addresses, time"
    iifname "virbr-fort" ip saddr 10.77.0.0/24 udp dport { 53, 123 } accept comment "names, addresses, time"
    iifname "virbr-fort" udp dport 67 accept comment "names, addresses, time"
    iifname "virbr-fort" drop
  }

  chain cluster_forward {
    iifname "virbr-fort" ip saddr != 10.77.0.0/24 drop
    iifname "virbr-fort" meta nfproto ipv6 drop
    iifname "virbr-fort" oifname "virbr-fort" accept
    iifname "wg0" ip saddr 10.66.0.0/24 oifname "virbr-fort" ip daddr 10.77.0.0/24 tcp dport { 22, 443, 6443 } accept comment "SSH, the gateway, the API"
    iifname "virbr-fort" ip saddr 10.77.0.0/24 oifname != { "virbr-fort", "wg0" } ip daddr != @private tcp dport { 22, 80, 443 } accept comment "images, updates, Git, backups"
  }

  chain cluster_output {
    udp sport 51820 accept comment "WireGuard"
    udp dport { 53, 123 } accept comment "names and time"
    tcp dport { 53, 853, 4460 } accept comment "names and time"
    oifname "virbr-fort" accept comment "the virtual machines of the host"
  }

  chain cluster_postrouting {
    # libvirt's own rules for a NAT network would reject packets from the tunnel: its network has the mode `open`.
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr 10.77.0.0/24 oifname != { "virbr-fort", "wg0" } masquerade
  }
}
FORTRESS
    put_finish /etc/nftables.d/10-cluster.nft
  }
  recover() { put_restore /etc/nftables.d/10-cluster.nft; }
  change 'nftables rules let in, and pass on, what router.allow lists'

  # 9/12 nftables rules let out what router.allow lists (egress)
  check() {
    put_matches /etc/nftables.d/20-egress.nft 50f4ee45fe5001b6667e1642760fea515e40199b34abc1868bb82d76096f42db 644 root:root
  }
  apply() {
    put /etc/nftables.d/20-egress.nft 644 root:root 'nft --check --file "$new"' << 'FORTRESS'
# Whereto fortress may connect: lines of router.allow.
table inet fortress {
  set ours {
    type ipv4_addr
    flags interval
  }

  chain sampled {
  }

  chain egress {
    oifname != { "virbr-fort", "wg0" } ip daddr != @ours jump sampled comment "updates, and the mirrors, names and time of the network around it"
    oifname != { "virbr-fort", "wg0" } meta nfproto ipv6 jump sampled comment "updates, and the mirrors, names and time of the network around it"
  }
}
FORTRESS
    put_finish /etc/nftables.d/20-egress.nft
  }
  recover() { put_restore /etc/nftables.d/20-egress.nft; }
  change 'nftables rules let out what router.allow lists (egress)'

  # 10/12 nftables drops what no rule accepts, and what has a spoofed source
  check() {
    put_matches /etc/nftables.conf f469ed1c61591972df9b0a869f2b0095c8b7a32070fc35b368892f9863655da0 640 root:root
  }
  apply() {
    put /etc/nftables.conf 640 root:root 'nft --check --file "$new"' << 'FORTRESS'
#!/usr/sbin/nft --file
# The firewall: input, output and forwarding of this machine. fortress-firewall.service loads all of it in one transaction: there is
# no moment without rules. Only this table is replaced; the tables of libvirt and of a cluster network stay as they are, and
# what is dropped here stays dropped whatever they accept. Who may connect to whom stands in the files of /etc/nftables.d, which
# fill the chains named cluster_… and egress.
table inet fortress
delete table inet fortress
table inet fortress {
  # Addresses that nobody has on the internet, and the networks of the site.
  set private {
    type ipv4_addr
    flags interval
    elements = { 0.0.0.0/8, 10.0.0.0/8, 100.64.0.0/10, 127.0.0.0/8, 169.254.0.0/16, 172.16.0.0/12, 192.168.0.0/16, 224.0.0.0/3 }
  }

  set private6 {
    type ipv6_addr
    flags interval
    elements = { ::/3, 4000::/2, 8000::/1 }
  }

  set ours {
    type ipv4_addr
    flags interval
    elements = { 10.77.0.0/24, 10.66.0.0/24, 10.42.0.0/16, 10.43.0.0/16 }
  }

  # Rate of new SSH connections of each source.
  set ssh_openings {
    type ipv4_addr
    size 1024
    flags dynamic
    timeout 2m
  }

  chain prerouting {
    type filter hook prerouting priority raw; policy accept;
    iif "lo" accept
    jump cluster_prerouting
    # Neighbour discovery and DHCP run before there is an address.
    icmpv6 type { nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert } accept
    udp sport 67 udp dport 68 accept
    udp sport 68 udp dport 67 accept
    # Spoofed sources: addresses that nobody can have, or whose return route is another interface. The kernel's rp_filter
    # has no IPv6; this does both.
    ip saddr { 0.0.0.0/8, 127.0.0.0/8, 224.0.0.0/3 } jump spoofed
    ip6 saddr { ::/128, ::1/128, ::ffff:0.0.0.0/96, ff00::/8 } jump spoofed
    fib saddr . iif oif missing jump spoofed
  }

  chain spoofed {
    limit rate 5/minute burst 5 packets log prefix "nft-drop-spoof "
    counter drop
  }

  # Whoever may connect to SSH: a source that opens more than 60 connections a minute waits.
  chain ssh {
    ct state new update @ssh_openings { ip saddr limit rate over 60/minute burst 60 packets } drop
    accept
  }

  # A connection to anywhere outside.
  chain sampled {
    ct state new limit rate 1/minute burst 5 packets log prefix "nft-egress "
    accept
  }

  chain input {
    type filter hook input priority filter; policy drop;
    iif "lo" accept
    ct state vmap { established : accept, related : accept, invalid : drop }
    jump cluster_input

    # Needed for IPv6 neighbour discovery and path MTU discovery.
    icmp type { destination-unreachable, time-exceeded, parameter-problem, echo-request } limit rate 10/second accept
    icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-advert } ip6 hoplimit 255 accept
    icmpv6 type { destination-unreachable, packet-too-big, time-exceeded, parameter-problem } accept
    icmpv6 type echo-request limit rate 10/second accept
    ip6 saddr fe80::/10 icmpv6 type mld-listener-query accept

    # Leases that are renewed by broadcast; all other answers are established.
    ip daddr 255.255.255.255 udp sport 67 udp dport 68 accept
    ip6 saddr fe80::/10 ip6 daddr fe80::/10 udp sport 547 udp dport 546 accept

    # Broadcasts and multicasts are dropped without a log line.
    meta pkttype { broadcast, multicast } drop
    limit rate 5/minute burst 10 packets log prefix "nft-drop-in "
  }

  chain forward {
    type filter hook forward priority filter; policy drop;
    ct state vmap { established : accept, related : accept, invalid : drop }
    jump cluster_forward
    limit rate 5/minute burst 10 packets log prefix "nft-drop-forward "
  }

  chain output {
    type filter hook output priority filter; policy drop;
    oif "lo" accept
    ct state { established, related } accept
    jump cluster_output

    # Always allowed, to any address: DHCP and ICMP.
    udp sport 68 udp dport 67 accept
    udp sport 546 udp dport 547 accept
    meta l4proto { icmp, ipv6-icmp } accept
    # Package updates: apt downloads as the user _apt.
    meta skuid "_apt" tcp dport { 80, 443 } accept

    jump egress
    limit rate 5/minute burst 10 packets log prefix "nft-drop-out "
  }

  chain cluster_prerouting {
  }

  chain cluster_input {
  }

  chain cluster_forward {
  }

  chain cluster_output {
  }

  chain egress {
  }
}

include "/etc/nftables.d/*.nft"
FORTRESS
    put_finish /etc/nftables.conf
  }
  recover() { put_restore /etc/nftables.conf; }
  change 'nftables drops what no rule accepts, and what has a spoofed source'

  # 11/12 the firewall is active, and starts before the network
  #   why: the rules in the kernel are compared with what the files give in an empty network namespace
  #   G02 The nftables rules are a table of their own, and nothing flushes the tables of others [nftables nft(8)]
  #   G03 Incoming packets are dropped by default [CIS Debian 13, CIS Ubuntu 24.04, debian-cis, DISA STIG Ubuntu 24.04, ANSSI BP-028]
  #   G04 Loopback and established connections pass, invalid packets are dropped [CIS Debian 13, CIS Ubuntu 24.04, debian-cis, Lynis FIRE-4520]
  #   G05 Forwarded packets are dropped by default [CIS Debian 13, CIS Ubuntu 24.04, debian-cis]
  #   G06 From outside, UDP 51820 is the one open port [fortress-kit]
  #   G07 SSH is reached through the tunnel only, and its connection rate is limited [konstruktoid hardening, DISA STIG Ubuntu 24.04]
  #   G08 The ICMP and ICMPv6 that networks need passes, rate-limited [debian-cis, RFC 4890]
  #   G09 Dropped packets are logged, rate-limited [CIS Debian 13, CIS Ubuntu 24.04, debian-cis, ANSSI BP-028, Lynis]
  #   G10 Outgoing packets are on a list, or logged (egress) [CIS Debian 13, CIS Ubuntu 24.04, debian-cis]
  #   G11 The nftables rules are loaded at boot, before the network is up [debian-cis]
  #   G16 When the nftables rules cannot be loaded, only the way in is open [fortress-kit]
  #   G12 Packets with a spoofed source address are dropped, IPv6 too [RFC 2827, RFC 3704]
  check() {
    systemctl --quiet is-enabled fortress-firewall.service &&
    systemctl --quiet is-active fortress-firewall.service &&
    test "$(systemctl show --property=Id --value nftables.service)" = fortress-firewall.service &&
    diff <(unshare --net bash -c 'nft --file /etc/nftables.conf &&
  nft --stateless --terse list table inet fortress') <(nft --stateless --terse list table inet fortress)
  }
  apply() {
    systemctl enable fortress-firewall.service
    systemctl daemon-reload
    systemctl reload-or-restart fortress-firewall.service
  }
  change 'the firewall is active, and starts before the network'

  # 12/12 no other firewall manager is active (ufw, firewalld, netfilter-persistent)
  #   why: two managers undo each other at the next boot
  #   G01 One tool manages the firewall [debian-cis, CIS Debian 13]
  check() {
    ! systemctl list-units --plain --no-legend --state=active ufw.service firewalld.service netfilter-persistent.service | grep . &&
    ! systemctl list-unit-files --no-legend --state=enabled ufw.service firewalld.service netfilter-persistent.service | grep .
  }
  apply() {
    for unit in ufw.service firewalld.service netfilter-persistent.service; do
      if systemctl cat "$unit" > /dev/null 2>&1; then systemctl disable --now "$unit"; fi
    done
  }
  change 'no other firewall manager is active (ufw, firewalld, netfilter-persistent)'

  confirm
}

# What main uses.
# from lib/host/affected.sh: affected affected_links affected_engines affected_routes affected_tables affected_servers
# from lib/host/controls.sh: PATH
# from lib/engine/shell/put.sh: FK_STATE put put_owner put_finish put_finished put_restore put_matches
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
