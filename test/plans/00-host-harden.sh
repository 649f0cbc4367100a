#!/bin/bash
# 00-host-harden: A Debian host hardened by kernel settings, mount options, SSH, PAM, audit and AIDE.
#
# Run it as root on fortress:
#   FK_SECRETS=DIR FK_CONFIRM=fortress bash 00-host-harden.sh
# It has 81 steps. Each checks first, and changes only what does not hold.
# It keeps no record, so undo cannot take it back. It checks no controls: verify does.
# FK_SECRETS is a directory with one file for each of these secrets, as the machine gets it:
#   fortress-boot-password
# FK_CONFIRM=fortress confirms: what this page stops, and who cannot log in any more, is accepted
# Steps that could lock you out are transactions. When one is done, log in by a NEW connection and run:
#   touch /run/fortress-confirm
# If you do not within 180 seconds of its beginning, the machine rolls it back.
# At a console: FK_KEEP_CHANGES=yes, and nothing is rolled back.
# shellcheck disable=SC2034 # functions read what is set here
set -euo pipefail
FK_PAGE=00-host-harden FK_FILE=00-host-harden.sh
export FK_PAGE FK_FILE

main() {
  case ${1-} in '') ;; *) usage ;; esac
  begin
  : "${FK_SECRETS:?a directory with the secrets of this page}"

  # 1/81 you log in as an ordinary user, not as root
  #   why: root will not be let in any more
  check() { ! grep --line-regexp root <<< admin > /dev/null; }
  demand 'you log in as an ordinary user, not as root' 'make a user who may use sudo, and name it in FK_HOST: adduser ada && adduser ada sudo; FK_HOST=ada@192.0.2.10'

  # 2/81 your authorized_keys has an Ed25519 key, or an RSA key from 3072 bits
  #   why: passwords stop working; Ed25519 keys, and RSA keys from 3072 bits, go on
  check() {
    IFS=: read -r _ _ _ _ _ home _ < <(getent passwd admin) &&
    { ssh-keygen -l -f "$home/.ssh/authorized_keys" || true; } | # it may be missing, or hold no key
      awk '/\(ED25519(-SK)?\)$/ || (/\(RSA\)$/ && $1 >= 3072) { ok = 1 } END { exit !ok }'
  }
  demand 'your authorized_keys has an Ed25519 key, or an RSA key from 3072 bits' 'from your laptop: ssh-keygen -t ed25519 && ssh-copy-id -i ~/.ssh/id_ed25519.pub admin@HOST'

  # 3/81 your account may use sudo, and has a password
  #   why: sudo is the only way to root, and a stolen key alone must not be enough
  check() {
    sudo --list --other-user=admin timeout 1 bash > /dev/null &&
    read -r _ state _ < <(passwd --status admin) && [ "$state" = P ]
  }
  demand 'your account may use sudo, and has a password' 'as root: adduser admin sudo; passwd admin'

  # 4/81 no sudoers file has NOPASSWD or !authenticate
  check() {
    none_of sudo_passwordless || {
      code=$?
      grep --recursive --extended-regexp '^[^#]*(NOPASSWD|!authenticate)' /etc/sudoers* || true # it may lie elsewhere
      exit "$code"
    }
  }
  demand 'no sudoers file has NOPASSWD or !authenticate' 'sudo passwd USER, then remove the line named above; cloud images and Raspberry Pi OS come with one'

  # 5/81 your password is younger than eleven months
  #   why: passwords will last a year, and sudo refuses one that ran out
  check() {
    getent shadow admin | awk -F : -v today="$((EPOCHSECONDS / 86400))" '{ exit today - $3 > 335 }'
  }
  demand 'your password is younger than eleven months' 'as admin: passwd'

  # 6/81 your SSH connection does not depend on IPv6 autoconfiguration
  #   why: the host will learn no IPv6 addresses and routes from its network any more
  check() {
    [ -z "$(ip -6 route show default proto ra)" ] || ss --no-header --tcp --numeric --processes state established |
    grep sshd | grep --invert-match --fixed-strings ::ffff: | grep --fixed-strings '[' > /dev/null
  }
  demand 'your SSH connection does not depend on IPv6 autoconfiguration' 'log in over IPv4, or give the host a fixed IPv6 address and route'

  # 7/81 no server software is installed that the host does not need
  #   M01 unneeded servers are absent (cups, samba, apache2) [CIS 2.1.2, xccdf:package_avahi_removed]
  check() {
    (
    package_absent avahi-daemon cups isc-dhcp-server bind9 vsftpd dovecot-core nfs-kernel-server ypserv rpcbind rsync-daemon samba snmpd tftpd-hpa squid apache2 nginx xinetd slapd xserver-common
    )
  }
  demand 'no server software is installed that the host does not need' 'this becomes a hypervisor and nothing else: apt-get purge what is named above, or take another machine'

  # 8/81 what this page stops, and who cannot log in any more, is accepted
  check() {
    [ "${FK_CONFIRM-}" != fortress ] || return 0
    affected -- affected_forwarding wg0 virbr-fort libvirtd.service virtnetworkd.service -- affected_routes -- affected_units bluetooth.service ModemManager.service 'avahi-daemon.*' 'cups*' 'rpcbind.*' kdump-tools.service + apport autofs ftp inetutils-telnet ldap-utils nis popularity-contest prelink rsh-client snapd talk telnet tftp tnftp ubuntu-report udisks2 whoopsie -- affected_logins ssh-admins admin
  }
  demand 'what this page stops, and who cannot log in any more, is accepted' 'FK_CONFIRM=fortress before bash confirms it'

  # 9/81 monitoring and audit packages are installed
  #   K01a AppArmor and its tools are installed [CIS 1.3.1.1, xccdf:package_apparmor-utils_installed]
  #   J01a auditd is installed [CIS 6.2.1.1, xccdf:package_audit_installed]
  #   L08b AIDE is installed [CIS 6.3.1, xccdf:package_aide_installed, LYNIS FINT-4350]
  #   L07 needrestart is installed [LYNIS DEB-0831]
  #   L09 debsums is installed [LYNIS PKGS-7370]
  #   K06a USBGuard is installed [LYNIS USB-3000]
  #   J28a acct and sysstat are installed [LYNIS ACCT-9622, LYNIS ACCT-9626]
  #   L01 unattended-upgrades is installed [LYNIS PKGS-7420]
  #   L11 compilers are not usable by everybody [LYNIS HRDN-7220, LYNIS HRDN-7222]
  check() {
    package_present acct aide apparmor apparmor-utils audispd-plugins auditd chrony cron debsums libcap2-bin libpam-pwquality logrotate needrestart sysstat unattended-upgrades usbguard
  }
  apply() {
    [ -e /etc/usbguard/rules.conf ] || systemctl --quiet mask usbguard.service
    apt_get update
    apt_get --no-install-recommends install acct aide apparmor apparmor-utils audispd-plugins auditd chrony cron debsums libcap2-bin libpam-pwquality logrotate needrestart sysstat unattended-upgrades usbguard
  }
  change 'monitoring and audit packages are installed'

  # 10/81 packages for telemetry, clear-text protocols and automatic mounting are removed
  #   L12 telemetry packages and prelink are absent [CIS 1.5.6, xccdf:disable_prelink]
  #   M02 clear-text clients are absent (telnet, ftp, rsh) [CIS 2.2.4, xccdf:package_telnet_removed]
  #   M06 automounters are absent (autofs, udisks2) [CIS 2.1.1, xccdf:service_autofs_disabled]
  #   M08 snapd is absent [apt(8)]
  check() {
    package_absent apport autofs ftp inetutils-telnet ldap-utils nis popularity-contest prelink rsh-client snapd talk telnet tftp tnftp ubuntu-report udisks2 whoopsie
  }
  apply() {
    dpkg-query --show --showformat='${Package}\n' apport autofs ftp inetutils-telnet ldap-utils nis popularity-contest prelink rsh-client snapd talk telnet tftp tnftp ubuntu-report udisks2 whoopsie 2> /dev/null |
    xargs bash -c 'apt_get purge "$@"' bash
  }
  change 'packages for telemetry, clear-text protocols and automatic mounting are removed'

  # 11/81 APT verifies signatures, installs no recommended packages, and updates every day
  #   L03 APT refuses unsigned packages and repositories [apt-secure(8)]
  #   L04 APT downloads run in a sandbox (seccomp) [apt.conf(5)]
  #   L05 APT installs no recommended packages [CIS 1.2.1.2, xccdf:apt_disable_weak_dependencies]
  #   L01a package updates are installed daily (unattended-upgrades) [LYNIS PKGS-7420, unattended-upgrade(8)]
  #   L01b timers that look for updates and install them run [unattended-upgrade(8), apt(8)]
  #   L01c unattended upgrades leave no package out, and cover security updates [unattended-upgrade(8), apt_preferences(5)]
  #   L13 old kernels and unused packages are removed [LYNIS PKGS-7346]
  #   L02 APT keys are bound to their source (Signed-By) [sources.list(5)]
  check() {
    put_matches /etc/apt/apt.conf.d/99-fortress 2474351e7aa68bd8e02fad9ae2164776a0d0c4236f2f9dce2fae66ffa215f073 644 root:root
  }
  apply() {
    put /etc/apt/apt.conf.d/99-fortress 644 root:root 'APT_CONFIG="$new" apt-config dump > /dev/null' << 'FORTRESS'
// Packages are signed and wanted, or they do not come.
APT::Get::AllowUnauthenticated "false";
Acquire::AllowInsecureRepositories "false";
Acquire::AllowWeakRepositories "false";
Acquire::AllowDowngradeToInsecureRepositories "false";
APT::Sandbox::Seccomp "1";
APT::Install-Recommends "0";
APT::Install-Suggests "0";
APT::AutoRemove::RecommendsImportant "0";
APT::AutoRemove::SuggestsImportant "0";
// /tmp runs nothing
APT::ExtractTemplates::TempDir "/var/cache/debconf";
// Security updates every day; a restart of the host stays a person's choice.
APT::Periodic::Update-Package-Lists "1";
APT::Periodic::Unattended-Upgrade "1";
APT::Periodic::AutocleanInterval "7";
Unattended-Upgrade::Automatic-Reboot "false";
Unattended-Upgrade::Remove-Unused-Dependencies "true";
Unattended-Upgrade::Remove-Unused-Kernel-Packages "true";
Unattended-Upgrade::SyslogEnable "true";
// Kernel and firmware of a Raspberry Pi come from its own archive, which is not among those that Debian's package knows.
Unattended-Upgrade::Origins-Pattern:: "site=archive.raspberrypi.com";
Unattended-Upgrade::Origins-Pattern:: "site=archive.raspberrypi.org";
FORTRESS
    put_finish /etc/apt/apt.conf.d/99-fortress
  }
  recover() { put_restore /etc/apt/apt.conf.d/99-fortress; }
  change 'APT verifies signatures, installs no recommended packages, and updates every day'

  # 12/81 needrestart lists services and restarts none
  check() {
    put_matches /etc/needrestart/conf.d/60-fortress.conf 194fcfe34d313a1d85c82312433caac852455ed0d5bc3bd87c30369c708324eb 644 root:root
  }
  apply() {
    put /etc/needrestart/conf.d/60-fortress.conf 644 root:root << 'FORTRESS'
# Only list services that run old code: an automatic restart could stop virtual machines.
$nrconf{restart} = 'l';
$nrconf{kernelhints} = -1;
FORTRESS
    put_finish /etc/needrestart/conf.d/60-fortress.conf
  }
  recover() { put_restore /etc/needrestart/conf.d/60-fortress.conf; }
  change 'needrestart lists services and restarts none'

  # 13/81 debsums compares the files of packages every week
  check() {
    put_matches /etc/default/debsums 86453d941e7beac23d7a77a5c8dc5678395fe32f0aeffff362fc868b15038960 644 root:root
  }
  apply() {
    put /etc/default/debsums 644 root:root << 'FORTRESS'
# Package files are verified weekly against their checksums.
CRON_CHECK=weekly
FORTRESS
    put_finish /etc/default/debsums
  }
  recover() { put_restore /etc/default/debsums; }
  change 'debsums compares the files of packages every week'

  # 14/81 sysctls are applied again when interfaces come up
  check() {
    put_matches /etc/systemd/system/sysctl-reapply-network.service 371c339dcbe923c7c2b7230020fad373de3f1f8ceede2515c7a0b49e9fd44d7f 644 root:root
  }
  apply() {
    put /etc/systemd/system/sysctl-reapply-network.service 644 root:root << 'FORTRESS'
# Debian sets some net.* keys again when interfaces appear, and an interface that appears takes its values from there.
[Unit]
Description=Apply the kernel's network settings again, after the interfaces are up
After=network.target network-online.target systemd-networkd.service networking.service NetworkManager.service
Before=virtnetworkd.service libvirtd.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/lib/systemd/systemd-sysctl /etc/sysctl.d/99-zz-fortress.conf

[Install]
WantedBy=multi-user.target
FORTRESS
    systemctl daemon-reload
    systemctl --quiet enable sysctl-reapply-network.service
    put_finish /etc/systemd/system/sysctl-reapply-network.service
  }
  recover() {
    put_restore /etc/systemd/system/sysctl-reapply-network.service
    { systemctl daemon-reload
    } || true # the old file was good for it once
    { systemctl --quiet enable sysctl-reapply-network.service
    } || true # the old file was good for it once
  }
  change 'sysctls are applied again when interfaces come up'

  # 15/81 kernel and network sysctls are hardened
  #   B01 ASLR is on (randomize_va_space) [CIS 1.5.9, xccdf:sysctl_kernel_randomize_va_space, LYNIS KRNL-6000]
  #   B02 kernel pointers are hidden (kptr_restrict) [CIS 1.5.8, xccdf:sysctl_kernel_kptr_restrict, LYNIS KRNL-6000, KSPP]
  #   B03 kernel log is root-only (dmesg_restrict) [CIS 1.5.5, xccdf:sysctl_kernel_dmesg_restrict, LYNIS KRNL-6000, KSPP]
  #   B04 ptrace is root-only (Yama ptrace_scope) [CIS 1.5.3, CIS 1.5.10, xccdf:sysctl_kernel_yama_ptrace_scope, ANSSI BP-028 R11]
  #   B05 unprivileged BPF is off [LYNIS KRNL-6000, KSPP, ANSSI BP-028 R9]
  #   B06 BPF JIT is hardened [LYNIS KRNL-6000, KSPP]
  #   B07 perf events need privilege (perf_event_paranoid) [LYNIS KRNL-6000, KSPP]
  #   B08 perf sampling is limited [ANSSI BP-028 R9]
  #   B09 kexec is off [KSPP]
  #   B10 magic SysRq is off [LYNIS KRNL-6000, ANSSI BP-028 R9]
  #   B11 TTY line disciplines are not loaded automatically (ldisc_autoload) [LYNIS KRNL-6000, KSPP]
  #   B12 TIOCSTI is off [KSPP, CVE-2023-28339]
  #   B13 unprivileged userfaultfd is off [KSPP]
  #   B14 low addresses cannot be mapped (mmap_min_addr) [KSPP, ANSSI BP-028 R9]
  #   B15 mmap randomness is at its maximum (mmap_rnd_bits) [KSPP]
  #   B16 setuid programs leave no core dumps (suid_dumpable) [CIS 1.5.4, xccdf:sysctl_fs_suid_dumpable, LYNIS KRNL-6000]
  #   B17 core dumps are discarded (core_pattern) [core(5)]
  #   B18 core dump names contain the process ID (core_uses_pid) [LYNIS KRNL-6000]
  #   B19 hard links are protected (protected_hardlinks) [CIS 1.5.1, xccdf:sysctl_fs_protected_hardlinks, KSPP]
  #   B20 symbolic links are protected (protected_symlinks) [CIS 1.5.2, xccdf:sysctl_fs_protected_symlinks, KSPP]
  #   B21 FIFOs in shared directories are protected (protected_fifos) [LYNIS KRNL-6000, KSPP]
  #   B22 files in shared directories are protected (protected_regular) [LYNIS KRNL-6000, KSPP]
  #   B23 kernel panics on an oops (panic_on_oops) [KSPP, ANSSI BP-028 R9]
  #   B24 host reboots 10 seconds after a kernel panic [kubelet: protectKernelDefaults]
  #   B26 user namespaces need privilege [KSPP, user_namespaces(7)]
  #   B28 unprivileged processes cannot become AppArmor-unconfined [aa-status(8), apparmor(7)]
  #   B29 io_uring needs privilege [https://docs.kernel.org/admin-guide/sysctl/kernel.html#io-uring-disabled]
  #   B31 immediate reboot by Ctrl-Alt-Del is off [LYNIS KRNL-6000]
  #   B30 loading of further kernel modules is off (modules_disabled) [LYNIS KRNL-6000, KSPP]
  #   C01 reverse path filtering is on (rp_filter) [CIS 3.3.1.12, xccdf:sysctl_net_ipv4_conf_all_rp_filter, LYNIS KRNL-6000]
  #   C05 ICMP redirects are not accepted [CIS 3.3.1.8, xccdf:sysctl_net_ipv4_conf_all_accept_redirects]
  #   C06 secure ICMP redirects are not accepted [CIS 3.3.1.10, xccdf:sysctl_net_ipv4_conf_all_secure_redirects]
  #   C07 ICMP redirects are not sent [CIS 3.3.1.4, xccdf:sysctl_net_ipv4_conf_all_send_redirects]
  #   C08 source-routed packets are not accepted [CIS 3.3.1.14, xccdf:sysctl_net_ipv4_conf_all_accept_source_route]
  #   C09 martian packets are logged (log_martians) [CIS 3.3.1.16, xccdf:sysctl_net_ipv4_conf_all_log_martians]
  #   C10 shared_media is off [ANSSI BP-028 R12]
  #   C11 ARP is limited to the interface of the address (arp_ignore, arp_announce) [ANSSI BP-028 R12]
  #   C12 gratuitous ARP is dropped [ANSSI BP-028 R12]
  #   C13a local and loopback addresses are not accepted from outside (accept_local, route_localnet) [ANSSI BP-028 R12, CVE-2020-8558]
  #   C14 proxy ARP is off [LYNIS KRNL-6000]
  #   C15 broadcast pings are ignored [CIS 3.3.1.7, xccdf:sysctl_net_ipv4_icmp_echo_ignore_broadcasts]
  #   C16 bogus ICMP errors are ignored [CIS 3.3.1.6, xccdf:sysctl_net_ipv4_icmp_ignore_bogus_error_responses]
  #   C17 ICMP replies are rate-limited [icmp(7)]
  #   C18 TCP SYN cookies are on [CIS 3.3.1.18, xccdf:sysctl_net_ipv4_tcp_syncookies, CVE-1999-0116]
  #   C19 TIME-WAIT assassination protection is on (tcp_rfc1337) [RFC 1337]
  #   C20 old TCP segments are detected (timestamps) [RFC 7323, LYNIS KRNL-6000]
  #   C21 half-open TCP connections are limited (SYN backlog, retries) [tcp(7)]
  #   C23 IPv6 router advertisements are ignored (accept_ra, autoconf) [CIS 3.3.2.7, xccdf:sysctl_net_ipv6_conf_all_accept_ra]
  #   C25 temporary IPv6 addresses are off (use_tempaddr) [RFC 8981]
  #   C27 ephemeral port range is wide (ip_local_port_range) [RFC 6056, ANSSI BP-028 R12]
  #   C28 bridge netfilter calls are off (bridge-nf-call) [https://libvirt.org/formatnwfilter.html]
  #   B35 network sysctls are reapplied when interfaces come up [CIS 3.3.1.16, CIS 3.3.1.17, xccdf:sysctl_reapply_after_network]
  check() {
    put_matches /etc/sysctl.d/99-zz-fortress.conf 04bcc0c71f6d2f9e82bbcc73fd9e7f138bb63f78679cc6acb96c6360eb914a6a 644 root:root
  }
  apply() {
    put /etc/sysctl.d/99-zz-fortress.conf 644 root:root << 'FORTRESS'
# Kernel settings of the host. The name 99-zz sorts after the distribution's 99-protect-links.conf, and the last file wins.
# A key is verified only when it has a line in controls.yaml too (steps kernel and network). Virtual machines, k3s: config/vm, config/k3s.
# A leading - : kernels without the key are no error.

# Kernel information: pointers, log, perf
kernel.randomize_va_space = 2
kernel.kptr_restrict = 2
kernel.dmesg_restrict = 1
kernel.yama.ptrace_scope = 2
kernel.perf_event_paranoid = 3
kernel.perf_event_max_sample_rate = 1
kernel.perf_cpu_time_max_percent = 1

# Privileged interfaces: ptrace, BPF, kexec, SysRq
kernel.unprivileged_bpf_disabled = 1
net.core.bpf_jit_harden = 2
-kernel.io_uring_disabled = 1
-kernel.unprivileged_userns_clone = 0
-kernel.apparmor_restrict_unprivileged_userns = 1
-kernel.apparmor_restrict_unprivileged_unconfined = 1
-vm.unprivileged_userfaultfd = 0
-kernel.kexec_load_disabled = 1
kernel.sysrq = 0
kernel.ctrl-alt-del = 0
-dev.tty.ldisc_autoload = 0
-dev.tty.legacy_tiocsti = 0

# Memory and addresses
vm.mmap_min_addr = 65536
vm.mmap_rnd_bits = 32
vm.mmap_rnd_compat_bits = 16

# Core dumps contain keys
fs.suid_dumpable = 0
kernel.core_pattern = |/bin/false
kernel.core_uses_pid = 1

# Links and files in world-writable directories
fs.protected_hardlinks = 1
fs.protected_symlinks = 1
fs.protected_fifos = 2
fs.protected_regular = 2

# Reboot after an oops or a panic. Exactly 10, because the kubelet refuses any other value.
kernel.panic_on_oops = 1
kernel.panic = 10

# Routing: no redirects, no source routes, no spoofed sources
net.ipv4.conf.all.rp_filter = 1
net.ipv4.conf.default.rp_filter = 1
net.ipv4.conf.all.accept_redirects = 0
net.ipv4.conf.default.accept_redirects = 0
net.ipv6.conf.all.accept_redirects = 0
net.ipv6.conf.default.accept_redirects = 0
net.ipv4.conf.all.secure_redirects = 0
net.ipv4.conf.default.secure_redirects = 0
net.ipv4.conf.all.send_redirects = 0
net.ipv4.conf.default.send_redirects = 0
net.ipv4.conf.all.accept_source_route = 0
net.ipv4.conf.default.accept_source_route = 0
net.ipv6.conf.all.accept_source_route = 0
net.ipv6.conf.default.accept_source_route = 0
net.ipv4.conf.all.log_martians = 1
net.ipv4.conf.default.log_martians = 1
net.ipv4.conf.all.shared_media = 0
net.ipv4.conf.default.shared_media = 0
net.ipv4.conf.all.accept_local = 0
net.ipv4.conf.default.accept_local = 0
net.ipv4.conf.all.route_localnet = 0
net.ipv4.conf.default.route_localnet = 0
net.ipv4.conf.all.bootp_relay = 0
net.ipv4.conf.all.proxy_arp = 0
net.ipv4.conf.default.proxy_arp = 0
net.ipv4.conf.all.arp_ignore = 1
net.ipv4.conf.default.arp_ignore = 1
net.ipv4.conf.all.arp_announce = 2
net.ipv4.conf.default.arp_announce = 2
net.ipv4.conf.all.arp_filter = 1
net.ipv4.conf.default.arp_filter = 1
net.ipv4.conf.all.drop_gratuitous_arp = 1
net.ipv4.conf.default.drop_gratuitous_arp = 1

# The kernel gives these to each interface by itself, and none of the lines above reaches one that is there already
net.ipv4.conf.*.accept_redirects = 0
net.ipv4.conf.*.secure_redirects = 0
net.ipv4.conf.*.send_redirects = 0
net.ipv4.conf.*.shared_media = 0
net.ipv6.conf.*.accept_redirects = 0
net.ipv6.conf.*.accept_ra = 0
net.ipv6.conf.*.autoconf = 0

# ICMP and TCP
net.ipv4.icmp_echo_ignore_broadcasts = 1
net.ipv4.icmp_ignore_bogus_error_responses = 1
net.ipv4.icmp_ratelimit = 100
net.ipv4.icmp_ratemask = 88089
net.ipv4.tcp_syncookies = 1
net.ipv4.tcp_rfc1337 = 1
net.ipv4.tcp_timestamps = 1
net.ipv4.tcp_max_syn_backlog = 20480
net.ipv4.tcp_syn_retries = 5
net.ipv4.tcp_synack_retries = 5
net.ipv4.ip_local_port_range = 32768 65535

# IPv6 addresses and routes are configured, not learnt from router advertisements
net.ipv6.conf.all.accept_ra = 0
net.ipv6.conf.default.accept_ra = 0
net.ipv6.conf.all.autoconf = 0
net.ipv6.conf.default.autoconf = 0
net.ipv6.conf.all.router_solicitations = 0
net.ipv6.conf.default.router_solicitations = 0
net.ipv6.conf.all.accept_ra_defrtr = 0
net.ipv6.conf.default.accept_ra_defrtr = 0
net.ipv6.conf.all.accept_ra_pinfo = 0
net.ipv6.conf.default.accept_ra_pinfo = 0
net.ipv6.conf.all.accept_ra_rtr_pref = 0
net.ipv6.conf.default.accept_ra_rtr_pref = 0
net.ipv6.conf.all.use_tempaddr = 0
net.ipv6.conf.default.use_tempaddr = 0

# Bridged packets of virtual machines are filtered once. The keys exist only where br_netfilter is loaded.
-net.bridge.bridge-nf-call-iptables = 0
-net.bridge.bridge-nf-call-ip6tables = 0
-net.bridge.bridge-nf-call-arptables = 0
FORTRESS
    /usr/lib/systemd/systemd-sysctl /etc/sysctl.d/99-zz-fortress.conf || systemd-detect-virt --quiet --container
    put_finish /etc/sysctl.d/99-zz-fortress.conf
  }
  recover() {
    put_restore /etc/sysctl.d/99-zz-fortress.conf
    { /usr/lib/systemd/systemd-sysctl /etc/sysctl.d/99-zz-fortress.conf || systemd-detect-virt --quiet --container
    } || true # the old file was good for it once
  }
  change 'kernel and network sysctls are hardened'

  # 16/81 IP forwarding serves only the host's own virtual machines
  #   C02 IPv4 forwarding is off except for nodes [CIS 3.3.1.1, xccdf:sysctl_net_ipv4_ip_forward, LYNIS KRNL-6000]
  #   C04 IPv6 forwarding is off except for nodes [CIS 3.3.2.1, xccdf:sysctl_net_ipv6_conf_all_forwarding]
  check() {
    put_matches /etc/sysctl.d/99-zz-fortress-forwarding.conf a7630dd7970701b3e4b54ba4539259a6d08da66c50e94413b5c455bba95166e7 644 root:root
  }
  apply() {
    put /etc/sysctl.d/99-zz-fortress-forwarding.conf 644 root:root << 'FORTRESS'
# IP forwarding is off, except for nodes. A file of its own: loading the other sysctls changes nothing of it.
# IPv4: libvirt turns it on when it starts the network of the guests, and nothing turns it off again under them.
net.ipv6.conf.all.forwarding = 0
net.ipv6.conf.default.forwarding = 0
FORTRESS
    /usr/lib/systemd/systemd-sysctl /etc/sysctl.d/99-zz-fortress-forwarding.conf
    /usr/lib/systemd/systemd-sysctl /etc/sysctl.d/99-zz-fortress.conf || systemd-detect-virt --quiet --container
    put_finish /etc/sysctl.d/99-zz-fortress-forwarding.conf
  }
  recover() {
    put_restore /etc/sysctl.d/99-zz-fortress-forwarding.conf
    { /usr/lib/systemd/systemd-sysctl /etc/sysctl.d/99-zz-fortress-forwarding.conf
    } || true # the old file was good for it once
    { /usr/lib/systemd/systemd-sysctl /etc/sysctl.d/99-zz-fortress.conf || systemd-detect-virt --quiet --container
    } || true # the old file was good for it once
  }
  change 'IP forwarding serves only the host'\''s own virtual machines'

  # 17/81 kernel modules that a server has no use for are blocked
  #   D01 cramfs does not load [CIS 1.1.1.1, xccdf:kernel_module_cramfs_disabled]
  #   D02 rare file systems do not load (freevxfs, jffs2, hfs, hfsplus) [CIS 1.1.1.2, CIS 1.1.1.3, CIS 1.1.1.4, CIS 1.1.1.5, xccdf:kernel_module_freevxfs_disabled, xccdf:kernel_module_hfs_disabled, xccdf:kernel_module_hfsplus_disabled, xccdf:kernel_module_jffs2_disabled]
  #   D03 udf does not load [CIS 1.1.1.8, xccdf:kernel_module_udf_disabled]
  #   D04 squashfs does not load [CIS 1.1.1.7, LYNIS STRG-1840]
  #   D05 overlay does not load [CIS 1.1.1.6, xccdf:kernel_module_overlayfs_disabled]
  #   D07 DCCP does not load [CIS 3.2.3, CVE-2017-6074, xccdf:kernel_module_dccp_disabled]
  #   D08 SCTP does not load [CIS 3.2.5, xccdf:kernel_module_sctp_disabled]
  #   D09 RDS and TIPC do not load [CIS 3.2.4, CIS 3.2.6, CVE-2021-43267, xccdf:kernel_module_rds_disabled, xccdf:kernel_module_tipc_disabled]
  #   D10 ATM and CAN do not load [CIS 3.2.1, CIS 3.2.2, xccdf:kernel_module_atm_disabled, xccdf:kernel_module_can_disabled]
  #   D11 USB storage does not load (usb-storage, uas) [CIS 1.1.1.10, xccdf:kernel_module_usb-storage_disabled, LYNIS USB-1000]
  #   D12 Bluetooth does not load [CIS 3.1.3, xccdf:service_bluetooth_disabled]
  #   D13 FireWire does not load [CIS 1.1.1.9, xccdf:kernel_module_firewire-core_disabled, LYNIS STRG-1846]
  #   D14 Thunderbolt does not load [https://thunderspy.io]
  #   D15 modules with local root vulnerabilities of 2026 do not load [CVE-2026-31431, CVE-2026-43284, CVE-2026-46300, CVE-2026-43500]
  #   D16 kernel SMB server does not load (ksmbd) [CVE-2022-47939]
  #   D17 old serial and network protocols do not load [CVE-2017-2636, KSPP]
  #   D18 cameras, speakers and floppies do not load [CVE-2024-53104]
  #   D19 the test driver vivid does not load [CVE-2019-18683]
  check() {
    put_matches /etc/modprobe.d/60-fortress.conf 64be4d62235a4f1579ed2303bdcc0d1aa249c409adbf168bf84ef0292bb860b6 644 root:root
  }
  apply() {
    put /etc/modprobe.d/60-fortress.conf 644 root:root << 'FORTRESS'
# Modules that this host never loads: `install` blocks modprobe, `blacklist` blocks udev.
# Not here, on purpose: vfat (the EFI system partition), overlay (containers and images of virtual machines).

# Rare file systems: parsers of foreign disks.
install cramfs /bin/false
blacklist cramfs
install freevxfs /bin/false
blacklist freevxfs
install jffs2 /bin/false
blacklist jffs2
install hfs /bin/false
blacklist hfs
install hfsplus /bin/false
blacklist hfsplus
install udf /bin/false
blacklist udf

# Rare network protocols.
install dccp /bin/false
blacklist dccp
install sctp /bin/false
blacklist sctp
install rds /bin/false
blacklist rds
install tipc /bin/false
blacklist tipc
install atm /bin/false
blacklist atm
install can /bin/false
blacklist can
install ax25 /bin/false
blacklist ax25
install netrom /bin/false
blacklist netrom
install rose /bin/false
blacklist rose
install x25 /bin/false
blacklist x25
install decnet /bin/false
blacklist decnet
install appletalk /bin/false
blacklist appletalk
install ipx /bin/false
blacklist ipx
install psnap /bin/false
blacklist psnap
install p8022 /bin/false
blacklist p8022

# Devices with direct memory access (FireWire, Thunderbolt), and radios.
install firewire-core /bin/false
blacklist firewire-core
install firewire-ohci /bin/false
blacklist firewire-ohci
install firewire-sbp2 /bin/false
blacklist firewire-sbp2
install thunderbolt /bin/false
blacklist thunderbolt
install bluetooth /bin/false
blacklist bluetooth
install bnep /bin/false
blacklist bnep
install btusb /bin/false
blacklist btusb

# Local root holes of 2026: CVE-2026-31431 (algif_aead), CVE-2026-43284 and CVE-2026-46300 (esp4, esp6), CVE-2026-43500 (rxrpc).
# Disables IPsec and kAFS; WireGuard, dm-crypt and Cilium use none of them. A patched kernel is the fix, this is a second line.
install algif_aead /bin/false
blacklist algif_aead
install esp4 /bin/false
blacklist esp4
install esp6 /bin/false
blacklist esp6
install ipcomp4 /bin/false
blacklist ipcomp4
install ipcomp6 /bin/false
blacklist ipcomp6
install rxrpc /bin/false
blacklist rxrpc

# Servers inside the kernel.
install ksmbd /bin/false
blacklist ksmbd

# Old serial protocols, loaded by opening a terminal.
install n_hdlc /bin/false
blacklist n_hdlc
install n_gsm /bin/false
blacklist n_gsm
install slip /bin/false
blacklist slip

# Devices that a server does not need.
install uvcvideo /bin/false
blacklist uvcvideo
install pcspkr /bin/false
blacklist pcspkr
install floppy /bin/false
blacklist floppy
install cpia2 /bin/false
blacklist cpia2
install snd-usb-audio /bin/false
blacklist snd-usb-audio
install vivid /bin/false
blacklist vivid

# Images of containers and system extensions.
install squashfs /bin/false
blacklist squashfs

# USB disks.
# Not blocked: the vault is a USB disk.
FORTRESS
    put_finish /etc/modprobe.d/60-fortress.conf
  }
  recover() { put_restore /etc/modprobe.d/60-fortress.conf; }
  change 'kernel modules that a server has no use for are blocked'

  # 18/81 /tmp is a tmpfs from the next boot on
  check() {
    put_matches /etc/systemd/system/tmp.mount 92b282d17c2e993d4e7e02172309e9f0ce8cfcf52a8b517e7768404f439d2b98 644 root:root
  }
  apply() {
    put /etc/systemd/system/tmp.mount 644 root:root << 'FORTRESS'
# tmpfs with noexec: emptied at each boot. Programs that unpack and execute files there need another TMPDIR.
[Unit]
Description=Temporary Directory /tmp
ConditionPathIsSymbolicLink=!/tmp
DefaultDependencies=no
Conflicts=umount.target
Before=local-fs.target umount.target
After=swap.target

[Mount]
What=tmpfs
Where=/tmp
Type=tmpfs
Options=mode=1777,strictatime,nosuid,nodev,noexec,size=50%%,nr_inodes=1m

[Install]
WantedBy=local-fs.target
FORTRESS
    systemctl daemon-reload
    systemctl --quiet enable tmp.mount
    put_finish /etc/systemd/system/tmp.mount
  }
  recover() {
    put_restore /etc/systemd/system/tmp.mount
    { systemctl daemon-reload
    } || true # the old file was good for it once
    { systemctl --quiet enable tmp.mount
    } || true # the old file was good for it once
  }
  change '/tmp is a tmpfs from the next boot on'

  # 19/81 noexec/nosuid mount options are set, directory by directory
  check() {
    put_matches /usr/local/libexec/fortress-mounts a61bf6e488da174ee0fc5fa90c75e630a2a9c669bb70cd7c1b34b7bc1d546fba 755 root:root
  }
  apply() {
    (
      put /usr/local/libexec/fortress-mounts 755 root:root 'sh -n "$new"' << 'FORTRESS'
#!/bin/sh
# Sets the mount options of directories (nodev, nosuid, noexec). A directory that is no mount is bind-mounted onto itself: that
# gives it options, not space of its own. `fortress-mounts stop` removes them.
set -eu
ours=/run/fortress-mounts

# options DIRECTORY OPTIONS: only the flags of this mount change, nothing below it.
options() {
  [ -d "$1" ] && [ ! -L "$1" ] || return 0
  if ! mountpoint --quiet "$1"; then
    mount --rbind "$1" "$1"
    # A peer group of its own: mounts below must not appear a second time below the hidden original.
    mount --make-private "$1"
    mount --make-shared "$1"
    echo "$1" >> "$ours"
  fi
  mount --options "remount,bind,$2" "$1"
}

# present DIRECTORY OPTIONS: only where it is a mount already.
present() { if mountpoint --quiet "$1"; then mount --options "remount,bind,$2" "$1"; fi; }

if [ "${1-}" = stop ]; then
  # At a shutdown systemd unmounts in its own order.
  [ "$(systemctl is-system-running)" != stopping ] || exit 0
  [ ! -e "$ours" ] || tac "$ours" | while IFS= read -r directory; do umount --lazy "$directory"; done
  mount --options remount,bind,nodev,nosuid,exec /dev/shm
  rm -f "$ours"
  exit 0
fi

options /var nodev,nosuid
options /var/tmp nodev,nosuid,noexec
options /var/log nodev,nosuid,noexec
options /var/log/audit nodev,nosuid,noexec
options /home nodev,nosuid
options /dev/shm nodev,nosuid,noexec
present /boot nodev,nosuid,noexec
present /boot/efi nodev,nosuid,noexec
present /boot/firmware nodev,nosuid,noexec
FORTRESS
    )
    put_finish /usr/local/libexec/fortress-mounts
  }
  recover() { put_restore /usr/local/libexec/fortress-mounts; }
  change 'noexec/nosuid mount options are set, directory by directory'

  # 20/81 /etc/fstab mounts /dev/shm with nodev, nosuid and noexec
  #   why: systemd mounts it before any unit of ours; here it reads with which options, and so do people and scanners
  check() {
    put_finished /etc/fstab && test "$(shm_lines /etc/fstab)" = 'tmpfs /dev/shm tmpfs rw,nodev,nosuid,noexec 0 0'
  }
  apply() {
    { [ ! -e /etc/fstab ] || awk '$2 != "/dev/shm"' /etc/fstab; echo 'tmpfs /dev/shm tmpfs rw,nodev,nosuid,noexec 0 0'; } |
    put /etc/fstab 644 root:root 'findmnt --verify --tab-file "$new" > /dev/null'
    systemctl daemon-reload
    put_finish /etc/fstab
  }
  change '/etc/fstab mounts /dev/shm with nodev, nosuid and noexec'

  # 21/81 noexec/nosuid mount options are set at every boot
  #   why: what somebody writes to /tmp, to a log or to shared memory must not be started from there
  check() {
    put_matches /etc/systemd/system/fortress-mounts.service 6721d040c7e7b7c567bd6fbdb8c9a315d28a2a680110d38fd12c1ebfdf031947 644 root:root
  }
  apply() {
    put /etc/systemd/system/fortress-mounts.service 644 root:root << 'FORTRESS'
[Unit]
Description=Mount options of the host
Documentation=https://www.freedesktop.org/wiki/Software/systemd/APIFileSystems/
DefaultDependencies=no
After=local-fs.target
Before=sysinit.target systemd-tmpfiles-setup.service systemd-journal-flush.service
Conflicts=shutdown.target
Before=shutdown.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/local/libexec/fortress-mounts
ExecStop=/usr/local/libexec/fortress-mounts stop

[Install]
WantedBy=sysinit.target
FORTRESS
    systemctl daemon-reload
    systemctl --quiet enable fortress-mounts.service
    put_finish /etc/systemd/system/fortress-mounts.service
  }
  recover() {
    put_restore /etc/systemd/system/fortress-mounts.service
    { systemctl daemon-reload
    } || true # the old file was good for it once
    { systemctl --quiet enable fortress-mounts.service
    } || true # the old file was good for it once
  }
  change 'noexec/nosuid mount options are set at every boot'

  # 22/81 noexec/nosuid mount options are active
  #   E01 /tmp is mounted with nodev, nosuid and noexec [CIS 1.1.2.1.4, xccdf:mount_option_tmp_noexec, LYNIS FILE-6374]
  #   E02 /dev/shm is mounted with nodev, nosuid and noexec [CIS 1.1.2.2.4, CIS 1.1.2.2.2, CIS 1.1.2.2.3, xccdf:mount_option_dev_shm_noexec, xccdf:mount_option_dev_shm_nodev, xccdf:mount_option_dev_shm_nosuid]
  #   E02a /etc/fstab mounts /dev/shm with nodev, nosuid and noexec [CIS 1.1.2.2.1, fstab(5)]
  #   E03 /var/tmp is mounted with nodev, nosuid and noexec [CIS 1.1.2.5.1, xccdf:partition_for_var_tmp, LYNIS FILE-6374]
  #   E04 /var is mounted with nodev and nosuid [CIS 1.1.2.4.1, xccdf:partition_for_var, LYNIS FILE-6310]
  #   E05 /var/log is mounted with nodev, nosuid and noexec [CIS 1.1.2.6.1, xccdf:partition_for_var_log]
  #   E06 /var/log/audit is mounted with nodev, nosuid and noexec [CIS 1.1.2.7.1, xccdf:partition_for_var_log_audit]
  #   E07 /home is mounted with nodev and nosuid [CIS 1.1.2.3.1, xccdf:partition_for_home, LYNIS FILE-6310]
  #   E08 /boot is mounted with nodev, nosuid and noexec [LYNIS FILE-6374, ANSSI BP-028 R28]
  #   E08a /boot/efi is mounted with nodev, nosuid and noexec [ANSSI BP-028 R28]
  #   E15 mount options are set at every boot (fortress-mounts) [mount(8)]
  check() { unit_is active fortress-mounts; }
  apply() {
    install --directory --mode=700 /var/log/audit
    systemctl restart fortress-mounts.service
    ! mountpoint --quiet /tmp || mount --options remount,nodev,nosuid,noexec /tmp
  }
  change 'noexec/nosuid mount options are active'

  # 23/81 no unencrypted swap is in use
  #   why: what is in memory, keys included, would still be readable there when the host is off
  #   E14 swap is off, encrypted or in memory (zram) [swapon(8)]
  check() { [ -z "$(clear_swaps)" ]; }
  apply() {
    clear_swaps | xargs --no-run-if-empty swapoff
    systemctl --quiet mask swap.target
    [ ! -e /etc/dphys-swapfile ] || systemctl --quiet disable dphys-swapfile.service
  }
  change 'no unencrypted swap is in use'

  # 24/81 core dumps are off for every login, root's too
  check() {
    put_matches /etc/security/limits.d/10-coredump-debian.conf a3a3832ab1cda376b793bc0ebbf6d9798d3fbfad5228c1a785bb5f8999ba5736 644 root:root
  }
  apply() {
    put /etc/security/limits.d/10-coredump-debian.conf 644 root:root << 'FORTRESS'
# Core dumps contain keys and passwords. Debian's file of this name raises the limit, for root by name, and a line for * in another
# file would not reach root: so all of the file is written here.
* soft core 0
root soft core 0
* hard core 0
root hard core 0
# No limit on open files: libvirt and containers need many.
* hard maxlogins 10
FORTRESS
    put_finish /etc/security/limits.d/10-coredump-debian.conf
  }
  recover() { put_restore /etc/security/limits.d/10-coredump-debian.conf; }
  change 'core dumps are off for every login, root'\''s too'

  # 25/81 systemd-coredump stores no core dump
  check() {
    put_matches /etc/systemd/coredump.conf.d/60-fortress.conf 6868e6143a5f267d1917b20f970db2219d8be52ede292e97a0e8410da0061a7f 644 root:root
  }
  apply() {
    put /etc/systemd/coredump.conf.d/60-fortress.conf 644 root:root << 'FORTRESS'
[Coredump]
Storage=none
ProcessSizeMax=0
FORTRESS
    put_finish /etc/systemd/coredump.conf.d/60-fortress.conf
  }
  recover() { put_restore /etc/systemd/coredump.conf.d/60-fortress.conf; }
  change 'systemd-coredump stores no core dump'

  # 26/81 core dumps are off for every service
  #   why: a copy of memory holds keys and passwords
  #   E12 core dumps are off [CIS 1.5.11, xccdf:disable_users_coredumps, LYNIS KRNL-5820]
  #   E12a systemd stores no core dumps [CIS 1.5.13, CIS 1.5.12, xccdf:coredump_disable_storage, xccdf:coredump_disable_backtraces]
  #   K05 systemd crash shell and core dump are off [systemd-system.conf(5)]
  check() {
    put_matches /etc/systemd/system.conf.d/60-fortress.conf 98ff8702bdcf9013d65ac6381ec77d442c994cfc896276a5cfe660919c414695 644 root:root
  }
  apply() {
    put /etc/systemd/system.conf.d/60-fortress.conf 644 root:root << 'FORTRESS'
[Manager]
DumpCore=no
CrashShell=no
CtrlAltDelBurstAction=none
DefaultLimitCORE=0
FORTRESS
    systemctl daemon-reexec
    put_finish /etc/systemd/system.conf.d/60-fortress.conf
  }
  recover() {
    put_restore /etc/systemd/system.conf.d/60-fortress.conf
    { systemctl daemon-reexec
    } || true # the old file was good for it once
  }
  change 'core dumps are off for every service'

  # 27/81 only members of the group ssh-admins may log in, and you are one
  check() {
    [[ " $(id --name --groups admin) " == *' ssh-admins '* ]] && getent group sugroup > /dev/null
  }
  apply() {
    for name in ssh-admins sugroup; do getent group "$name" > /dev/null || groupadd --system "$name"; done
    usermod --append --groups ssh-admins admin
  }
  change 'only members of the group ssh-admins may log in, and you are one'

  # 28/81 system accounts and root are locked, and home directories are private
  #   I01 root password is locked [CIS 5.4.2.4, passwd(1), xccdf:ensure_root_access_controlled]
  #   I02 only root has UID 0 and GID 0 [CIS 5.4.2.1, xccdf:accounts_no_uid_except_zero]
  #   I03 system accounts have no login shell [CIS 5.4.2.7, xccdf:no_shelllogin_for_systemaccounts, LYNIS AUTH-9266]
  #   I03a system accounts have no password [CIS 5.4.2.8, xccdf:no_invalid_shell_accounts_unlocked]
  #   I10a no account has an empty password [CIS 7.2.2, xccdf:no_empty_passwords_etc_shadow, LYNIS AUTH-9283]
  #   I16 home directories are private [CIS 7.2.9, xccdf:file_permissions_home_directories, LYNIS HOME-9304]
  #   I16b shell start-up files in homes are private [CIS 7.2.10, xccdf:file_permission_user_init_files]
  #   I16a homes have no .rhosts, .shosts, .forward or .netrc [CIS 7.2.10, xccdf:no_rsh_trust_files, netrc(5)]
  #   I23 user and group databases are consistent [CIS 7.2.5, xccdf:account_unique_id, LYNIS AUTH-9222]
  #   I26 nologin is not in /etc/shells [CIS 5.4.3.1, xccdf:no_nologin_in_shells]
  #   I08a group ssh-admins has members [sshd_config(5)]
  check() {
    none_of system_shells && none_of open_homes && passwd --status root | grep '^root L' > /dev/null
  }
  apply() {
    system_shells | xargs --no-run-if-empty --max-args=1 usermod --shell /usr/sbin/nologin
    open_homes | while IFS= read -r path; do record_before --meta "$path"; chmod g-w,o-rwx "$path"; done
    passwd --quiet --lock root
  }
  change 'system accounts and root are locked, and home directories are private'

  # 29/81 inactive accounts are disabled
  check() {
    put_matches /etc/default/useradd 8815a1144db9548cc6acea6053ddbea88388643df6c45ffc108d2c51a54a4305 644 root:root
  }
  apply() {
    put /etc/default/useradd 644 root:root << 'FORTRESS'
# Defaults of useradd. An account is disabled 45 days after its password has expired.
SHELL=/bin/bash
INACTIVE=45
FORTRESS
    put_finish /etc/default/useradd
  }
  recover() { put_restore /etc/default/useradd; }
  change 'inactive accounts are disabled'

  # 30/81 login.defs gives new accounts a private umask, and passwords that last a year
  check() {
    put_matches /etc/login.defs 4187c1323973b2446f08bd562af6a4d490c88fc50f2aa0c4909f98446f84984d 644 root:root
  }
  apply() {
    put /etc/login.defs 644 root:root << 'FORTRESS'
# Defaults of the tools that create users (shadow). They read this one file and no drop-ins, so all of it is written here.
MAIL_DIR /var/mail
FAILLOG_ENAB yes
LOG_UNKFAIL_ENAB no
LOG_OK_LOGINS yes
SYSLOG_SU_ENAB yes
SYSLOG_SG_ENAB yes
HUSHLOGIN_FILE .hushlogin
ENV_SUPATH PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
ENV_PATH PATH=/usr/local/bin:/usr/bin:/bin
TTYGROUP tty
TTYPERM 0600
ERASECHAR 0177
KILLCHAR 025

# New files and new homes are private
UMASK 027
HOME_MODE 0700
USERGROUPS_ENAB yes

# Passwords expire after a year, and cannot be changed twice a day
PASS_MAX_DAYS 365
PASS_MIN_DAYS 1
PASS_WARN_AGE 7

UID_MIN 1000
UID_MAX 60000
SYS_UID_MIN 100
SYS_UID_MAX 999
SUB_UID_MIN 100000
SUB_UID_MAX 600100000
SUB_UID_COUNT 65536
GID_MIN 1000
GID_MAX 60000
SYS_GID_MIN 100
SYS_GID_MAX 999
SUB_GID_MIN 100000
SUB_GID_MAX 600100000
SUB_GID_COUNT 65536

LOGIN_RETRIES 3
LOGIN_TIMEOUT 60
CHFN_RESTRICT rwh
DEFAULT_HOME no
NONEXISTENT /nonexistent

# yescrypt cost 7 needs 64 MiB for each hash; 11, the maximum, would need 1 GiB for a login.
ENCRYPT_METHOD YESCRYPT
YESCRYPT_COST_FACTOR 7
SHA_CRYPT_MIN_ROUNDS 640000
SHA_CRYPT_MAX_ROUNDS 640000
FORTRESS
    put_finish /etc/login.defs
  }
  recover() { put_restore /etc/login.defs; }
  change 'login.defs gives new accounts a private umask, and passwords that last a year'

  # 31/81 passwords expire after a year, and administrators are never disabled as inactive
  #   why: who comes with a key must not be refused because a password became old
  #   I12 new passwords expire after 365 days (PASS_MAX_DAYS) [CIS 5.4.1.1, xccdf:accounts_maximum_age_login_defs, LYNIS AUTH-9286]
  #   I10 password hash is yescrypt with cost 7 (login.defs) [CIS 5.4.1.4, xccdf:set_password_hashing_algorithm_logindefs, crypt(5)]
  #   I11 SHA-512 password hashes have 640000 rounds [LYNIS AUTH-9230]
  #   I13 default umask is 027 and homes have mode 0700 (login.defs) [CIS 5.4.3.3, xccdf:accounts_umask_etc_login_defs, LYNIS AUTH-9328]
  #   I12a inactive accounts are disabled after 45 days [CIS 5.4.1.5, xccdf:account_disable_post_pw_expiration]
  #   I12b existing passwords expire [CIS 5.4.1.1, xccdf:accounts_password_set_max_life_existing]
  #   I12c admin accounts do not expire [shadow(5), chage(1)]
  check() { none_of endless_passwords; }
  apply() {
    endless_passwords | xargs --no-run-if-empty --max-args=1 chage --mindays 1 --maxdays 365 --warndays 7
    getent group ssh-admins | cut --delimiter=: --fields=4 | tr , '\n' |
    xargs --no-run-if-empty --max-args=1 chage --inactive -1
  }
  change 'passwords expire after a year, and administrators are never disabled as inactive'

  # 32/81 accounts of admins who are no longer in the site document are locked
  #   why: only accounts that this page has made; what is in their homes stays
  check() {
    [ ! -d /var/lib/fortress/accounts ] || [ -z "$(find /var/lib/fortress/accounts -mindepth 1 -maxdepth 1 -printf '%f\n' 2> /dev/null |
    grep --invert-match --line-regexp --fixed-strings -e admin |
    while IFS= read -r name; do getent shadow "$name"; done | awk -F : '$8 != 1 { print $1 }')" ]
  }
  apply() {
    find /var/lib/fortress/accounts -mindepth 1 -maxdepth 1 -printf '%f\n' 2> /dev/null |
    grep --invert-match --line-regexp --fixed-strings -e admin |
    while IFS= read -r name; do getent shadow "$name"; done | awk -F : '$8 != 1 { print $1 }' | while IFS= read -r name; do
          usermod --lock --expiredate 1 --groups '' "$name"
          ! loginctl show-user "$name" > /dev/null 2>&1 || loginctl terminate-user "$name"
        done
  }
  change 'accounts of admins who are no longer in the site document are locked'

  # 33/81 logind ends idle sessions
  check() {
    put_matches /etc/systemd/logind.conf.d/60-fortress.conf 68276b32a876453f87d1874d4046f5bacf583bb32489720029a6090b1da6c8f2 644 root:root
  }
  apply() {
    put /etc/systemd/logind.conf.d/60-fortress.conf 644 root:root << 'FORTRESS'
# KillUserProcesses stays off: a run over SSH must outlive a laptop that sleeps.
[Login]
RemoveIPC=yes
StopIdleSessionSec=3600
FORTRESS
    systemctl reload systemd-logind.service
    put_finish /etc/systemd/logind.conf.d/60-fortress.conf
  }
  recover() {
    put_restore /etc/systemd/logind.conf.d/60-fortress.conf
    { systemctl reload systemd-logind.service
    } || true # the old file was good for it once
  }
  change 'logind ends idle sessions'

  # 34/81 interactive shells have the umask 027
  check() {
    put_matches /etc/bash.bashrc bf4ee4e59290b9ffe8e9c3b89f2d0d33c9788a0c136af1f656a574dfe262cd83 644 root:root
  }
  apply() {
    (
      put /etc/bash.bashrc 644 root:root << 'FORTRESS'
# Interactive bash. The file has no drop-ins, so all of it is written here.
[ -z "${PS1-}" ] && return

shopt -s checkwinsize
PS1='\u@\h:\w\$ '

# New files are private, in shells that do not read /etc/profile too.
umask 027
FORTRESS
    )
    put_finish /etc/bash.bashrc
  }
  recover() { put_restore /etc/bash.bashrc; }
  change 'interactive shells have the umask 027'

  # 35/81 login shells have the umask 027, and end when idle (TMOUT)
  check() {
    put_matches /etc/profile.d/60-fortress.sh eb1fe985f0c7a4acad0354eafa2634b78c7a052d98ff794cb8990fa4843a9a37 644 root:root
  }
  apply() {
    (
      put /etc/profile.d/60-fortress.sh 644 root:root << 'FORTRESS'
# Login shells: umask 027, and an idle shell ends after 15 minutes (TMOUT).
umask 027
if [ -n "${BASH_VERSION-}" ] && [ -z "${TMOUT-}" ]; then
  declare -xr TMOUT=900
fi
FORTRESS
    )
    put_finish /etc/profile.d/60-fortress.sh
  }
  recover() { put_restore /etc/profile.d/60-fortress.sh; }
  change 'login shells have the umask 027, and end when idle (TMOUT)'

  # 36/81 the console shows a warning banner
  check() {
    put_matches /etc/issue b86a02f5515bc406a7bb93224a6b654b489f1c7d7b404d09a8bcaddbb4bb3c41 644 root:root
  }
  apply() {
    put /etc/issue 644 root:root << 'FORTRESS'
This is a private system. Access is for authorized users only, under the policy of its owner.
All activity may be monitored, recorded and reported as evidence.
FORTRESS
    put_finish /etc/issue
  }
  recover() { put_restore /etc/issue; }
  change 'the console shows a warning banner'

  # 37/81 every session begins with a warning banner
  check() {
    put_matches /etc/motd b86a02f5515bc406a7bb93224a6b654b489f1c7d7b404d09a8bcaddbb4bb3c41 644 root:root
  }
  apply() {
    put /etc/motd 644 root:root << 'FORTRESS'
This is a private system. Access is for authorized users only, under the policy of its owner.
All activity may be monitored, recorded and reported as evidence.
FORTRESS
    put_finish /etc/motd
  }
  recover() { put_restore /etc/motd; }
  change 'every session begins with a warning banner'

  # 38/81 SSH shows a warning banner that names no system
  #   M09 login banners warn and hide the system (issue, motd) [CIS 1.6.2, xccdf:banner_etc_issue_cis, LYNIS BANN-7126]
  check() {
    put_matches /etc/issue.net b86a02f5515bc406a7bb93224a6b654b489f1c7d7b404d09a8bcaddbb4bb3c41 644 root:root
  }
  apply() {
    put /etc/issue.net 644 root:root << 'FORTRESS'
This is a private system. Access is for authorized users only, under the policy of its owner.
All activity may be monitored, recorded and reported as evidence.
FORTRESS
    put_finish /etc/issue.net
  }
  recover() { put_restore /etc/issue.net; }
  change 'SSH shows a warning banner that names no system'

  # Steps 39 to 52 are one transaction.
  FK_RESTART='reload	ssh.service	/etc/ssh/	-	-' FK_TABLES=''
  transaction 180

  # 39/81 sshd has a list of revoked keys
  check() {
    put_matches /etc/ssh/revoked_keys a5b0836d2ae3e3b9277b699f6a0907efa8064d92d3f4fcfed86a92db5a148b52 644 root:root
  }
  apply() {
    put /etc/ssh/revoked_keys 644 root:root << 'FORTRESS'
# Public keys that are refused whatever authorized_keys says, one a line.
FORTRESS
    put_finish /etc/ssh/revoked_keys
  }
  recover() { put_restore /etc/ssh/revoked_keys; }
  change 'sshd has a list of revoked keys'

  # 40/81 sshd keeps the ports that it listens at
  #   why: the file below replaces the one that may name them; drop-ins stay
  check() { sshd_keeps_ports; }
  apply() {
    sshd_ports | sed 's/^/Port /' | put /etc/ssh/sshd_config.d/10-fortress-port.conf 600 root:root
    put_finish /etc/ssh/sshd_config.d/10-fortress-port.conf
  }
  change 'sshd keeps the ports that it listens at'

  # 41/81 sshd accepts only public keys, of one group
  #   H01 SSH root login is off [CIS 5.1.21, xccdf:sshd_disable_root_login]
  #   H02 SSH password login is off [sshd_config(5)]
  #   H03 SSH logins require a public key [sshd_config(5)]
  #   H04 SSH empty passwords are refused [CIS 5.1.20, xccdf:sshd_disable_empty_passwords]
  #   H05 SSH host-based login is off [CIS 5.1.10, CIS 5.1.11, xccdf:disable_host_auth, xccdf:sshd_disable_rhosts]
  #   H06 SSH user environments are ignored (PermitUserEnvironment) [CIS 5.1.22, xccdf:sshd_do_not_permit_user_env]
  #   H07 SSH uses PAM [CIS 5.1.23, xccdf:sshd_enable_pam]
  #   H08 SSH logins are limited to group ssh-admins [CIS 5.1.4, xccdf:sshd_limit_user_access, LYNIS SSH-7440]
  #   H09 SSH forwarding is off [CIS 5.1.8, xccdf:sshd_disable_forwarding]
  #   H10 SSH agent and socket forwarding are off, TCP forwarding is limited [LYNIS SSH-7408]
  #   H11 SSH X11 forwarding, tunnels and gateway ports are off [LYNIS SSH-7408]
  #   H12 SSH Kerberos and GSSAPI are off [CIS 5.1.9, xccdf:sshd_disable_gssapi_auth]
  #   H13 dead SSH sessions are closed (ClientAliveInterval) [CIS 5.1.7, xccdf:sshd_set_idle_timeout, xccdf:sshd_set_keepalive]
  #   H14 SSH login grace time is 30 seconds [CIS 5.1.14, xccdf:sshd_set_login_grace_time]
  #   H15 SSH login attempts are limited to 3 (MaxAuthTries) [CIS 5.1.17, xccdf:sshd_set_max_auth_tries]
  #   H16 SSH sessions per connection are limited to 4 (MaxSessions) [CIS 5.1.18, xccdf:sshd_set_max_sessions]
  #   H17 unauthenticated SSH connections are limited (MaxStartups) [CIS 5.1.19, xccdf:sshd_set_maxstartups]
  #   H18 SSH logins are logged with their key (LogLevel VERBOSE) [LYNIS SSH-7408, sshd_config(5)]
  #   H19 SSH ciphers are strong [CIS 5.1.6, xccdf:sshd_use_strong_ciphers, CVE-2023-48795]
  #   H20 SSH MACs are strong [CIS 5.1.16, xccdf:sshd_use_strong_macs]
  #   H21 SSH key exchange is post-quantum [CIS 5.1.12, CIS 5.1.13, xccdf:sshd_use_strong_kex]
  #   H22 SSH keys are Ed25519 or RSA with SHA-2 [sshd_config(5)]
  #   H23 SSH RSA keys have at least 3072 bits [NIST SP 800-57]
  #   H24 SSH sessions are rekeyed (RekeyLimit) [sshd_config(5)]
  #   H25 SSH compression, DNS lookups and TCP keepalive are off [LYNIS SSH-7408]
  #   H26 SSH keys in files that others can write are refused (StrictModes) [LYNIS SSH-7408]
  #   H27 SSH warning banner is on, Debian version is hidden [CIS 5.1.5, xccdf:sshd_enable_warning_banner_net]
  #   H28 SSH shows the last login [LYNIS SSH-7408]
  #   H29 weak Diffie-Hellman groups are not offered by sshd (moduli) [CVE-2015-4000, sshd_config(5)]
  #   H30 sshd_config is root-only [CIS 5.1.1, xccdf:file_permissions_sshd_config]
  #   H31 SSH host keys are root-only [CIS 5.1.2, xccdf:file_permissions_sshd_private_key]
  #   H32 SSH host keys are not DSA or ECDSA [sshd_config(5)]
  #   H33 SSH keys can be revoked (RevokedKeys) [sshd_config(5)]
  #   H35 running sshd has loaded the current sshd_config [sshd(8)]
  #   H38 sshd has no settings for some people or addresses (Match) [sshd_config(5)]
  #   H39 sshd is started with its file alone, and no other words [sshd(8), systemd.service(5)]
  #   H40 SSH keys come from authorized_keys alone, and from no command or authority [sshd_config(5)]
  check() {
    put_matches /etc/ssh/sshd_config 5647dc7d9d490b3a01635d555564f51b7863a202a79147eb29127f755b6e128c 600 root:root
  }
  apply() {
    put /etc/ssh/sshd_config 600 root:root 'sshd -t -f "$new"' << 'FORTRESS'
# All settings of sshd. This is the main file and not a drop-in: the first value wins, so a file in sshd_config.d, now or of a
# later package, sets only what is not set here. What it says behind Match would win, for whom it names, and so would words on the
# command line: verify asks sshd itself for both (sshd -T -C user=…,addr=…).

# Authentication: members of one group, with a key. No passwords, no root.
AllowGroups ssh-admins
PermitRootLogin no
AuthenticationMethods publickey
PubkeyAuthentication yes
AuthorizedKeysFile .ssh/authorized_keys
AuthorizedKeysCommand none
AuthorizedPrincipalsFile none
TrustedUserCAKeys none
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitEmptyPasswords no
HostbasedAuthentication no
IgnoreRhosts yes
GSSAPIAuthentication no
KerberosAuthentication no
PermitUserEnvironment no
StrictModes yes
UsePAM yes
RevokedKeys /etc/ssh/revoked_keys

# Timeouts and limits
LoginGraceTime 30
MaxAuthTries 3
MaxSessions 4
MaxStartups 10:30:60
PerSourceMaxStartups 5
ClientAliveInterval 200
ClientAliveCountMax 2
TCPKeepAlive no

# Forwarding: administrators reach the guests through the host, by port 22 only.
AllowTcpForwarding local
PermitOpen *:22
AllowAgentForwarding no
AllowStreamLocalForwarding no
GatewayPorts no
PermitTunnel no
X11Forwarding no

# Cryptography: post-quantum key exchange first, where this sshd supports it
KexAlgorithms mlkem768x25519-sha256,sntrup761x25519-sha512@openssh.com,curve25519-sha256,curve25519-sha256@libssh.org
Ciphers chacha20-poly1305@openssh.com,aes256-gcm@openssh.com,aes256-ctr
MACs hmac-sha2-512-etm@openssh.com,hmac-sha2-256-etm@openssh.com
HostKey /etc/ssh/ssh_host_ed25519_key
HostKey /etc/ssh/ssh_host_rsa_key
HostKeyAlgorithms ssh-ed25519,sk-ssh-ed25519@openssh.com,rsa-sha2-512,rsa-sha2-256
PubkeyAcceptedAlgorithms ssh-ed25519,sk-ssh-ed25519@openssh.com,rsa-sha2-512,rsa-sha2-256
RequiredRSASize 3072
RekeyLimit 512M 1h
Compression no

# Logging and banners
LogLevel VERBOSE
Banner /etc/issue.net
DebianBanner no
PrintLastLog yes
PrintMotd no
UseDNS no

AcceptEnv LANG LC_*
Subsystem sftp internal-sftp

# Last, so that what the drop-ins say for everybody comes behind the settings above.
Include /etc/ssh/sshd_config.d/*.conf
FORTRESS
    (
      systemctl reset-failed ssh.service && systemctl try-restart ssh.service
    )
    put_finish /etc/ssh/sshd_config
  }
  recover() {
    put_restore /etc/ssh/sshd_config
    { systemctl reset-failed ssh.service && systemctl try-restart ssh.service
    } || true # the old file was good for it once
  }
  change 'sshd accepts only public keys, of one group'

  # 42/81 faillock locks an account for a while after four wrong passwords
  check() {
    put_matches /etc/security/faillock.conf 8becb6c51ede4163a433abcd19c966efbf2cb5fd1cb70ff63391c9bd597304fc 644 root:root
  }
  apply() {
    put /etc/security/faillock.conf 644 root:root << 'FORTRESS'
# Four wrong passwords within 15 minutes lock an account for 15 minutes, root's included.
# Logins with a key use no password and are not affected.
deny = 4
fail_interval = 900
unlock_time = 900
root_unlock_time = 900
audit
FORTRESS
    put_finish /etc/security/faillock.conf
  }
  recover() { put_restore /etc/security/faillock.conf; }
  change 'faillock locks an account for a while after four wrong passwords'

  # 43/81 pwquality demands long, mixed passwords
  check() {
    put_matches /etc/security/pwquality.conf 6eee4f5556c5df9cdb1ca889470fe3ae8d517bf43511e2c5d006dac40efbe0f0 644 root:root
  }
  apply() {
    put /etc/security/pwquality.conf 644 root:root << 'FORTRESS'
# Passwords: fifteen characters of four kinds, no runs, no words of a dictionary, for root too.
# The whole file and not a drop-in: the checkers read only this one.
minlen = 15
minclass = 4
dcredit = -1
ucredit = -1
lcredit = -1
ocredit = -1
difok = 4
maxrepeat = 3
maxsequence = 3
dictcheck = 1
usercheck = 1
enforcing = 1
retry = 3
enforce_for_root
FORTRESS
    put_finish /etc/security/pwquality.conf
  }
  recover() { put_restore /etc/security/pwquality.conf; }
  change 'pwquality demands long, mixed passwords'

  # 44/81 the PAM profile fortress-unix is available
  check() {
    put_matches /usr/share/pam-configs/fortress-unix 34b84b72c449d1c9b934dc42c7177bba1604d06926a75d3accea27e789958aaa 644 root:root
  }
  apply() {
    put /usr/share/pam-configs/fortress-unix 644 root:root << 'FORTRESS'
Name: Unix authentication: no empty passwords; an old password does not refuse a key
Default: yes
Priority: 257
Conflicts: unix
Auth-Type: Primary
Auth:
	[success=end default=ignore]	pam_unix.so try_first_pass
Auth-Initial:
	[success=end default=ignore]	pam_unix.so
Account-Type: Primary
Account:
	[success=end new_authtok_reqd=done default=ignore]	pam_unix.so no_pass_expiry
Account-Initial:
	[success=end new_authtok_reqd=done default=ignore]	pam_unix.so no_pass_expiry
Session-Type: Additional
Session:
	required	pam_unix.so
Session-Initial:
	required	pam_unix.so
Password-Type: Primary
Password:
	[success=end default=ignore]	pam_unix.so obscure use_authtok try_first_pass yescrypt
Password-Initial:
	[success=end default=ignore]	pam_unix.so obscure yescrypt
FORTRESS
    put_finish /usr/share/pam-configs/fortress-unix
  }
  recover() { put_restore /usr/share/pam-configs/fortress-unix; }
  change 'the PAM profile fortress-unix is available'

  # 45/81 the PAM profile fortress-faillock is available
  check() {
    put_matches /usr/share/pam-configs/fortress-faillock bf401a19eccc1c05d9609dbe39f2698000173550d710c8ceb5138401b39306a0 644 root:root
  }
  apply() {
    put /usr/share/pam-configs/fortress-faillock 644 root:root << 'FORTRESS'
Name: Wrong passwords are counted
Default: yes
Priority: 0
Auth-Type: Primary
Auth:
	[default=die]	pam_faillock.so authfail
	sufficient	pam_faillock.so authsucc
FORTRESS
    put_finish /usr/share/pam-configs/fortress-faillock
  }
  recover() { put_restore /usr/share/pam-configs/fortress-faillock; }
  change 'the PAM profile fortress-faillock is available'

  # 46/81 the PAM profile fortress-faillock-ask is available
  check() {
    put_matches /usr/share/pam-configs/fortress-faillock-ask 83bd0d7826f5da71ded6820618ab559fbd9d65f946a54967491d06d08ee7b19e 644 root:root
  }
  apply() {
    put /usr/share/pam-configs/fortress-faillock-ask 644 root:root << 'FORTRESS'
Name: An account with too many wrong passwords is closed for a while
Default: yes
Priority: 1024
Auth-Type: Primary
Auth:
	required	pam_faillock.so preauth
Account-Type: Primary
Account:
	required	pam_faillock.so
FORTRESS
    put_finish /usr/share/pam-configs/fortress-faillock-ask
  }
  recover() { put_restore /usr/share/pam-configs/fortress-faillock-ask; }
  change 'the PAM profile fortress-faillock-ask is available'

  # 47/81 the PAM profile fortress-delay is available
  check() {
    put_matches /usr/share/pam-configs/fortress-delay d2e5b9be97afe2219ac71a8b1f1a426605ca98c9cbb0fd45ab63b297850d4beb 644 root:root
  }
  apply() {
    put /usr/share/pam-configs/fortress-delay 644 root:root << 'FORTRESS'
Name: A wrong password costs four seconds
Default: yes
Priority: 1025
Auth-Type: Primary
Auth:
	optional	pam_faildelay.so delay=4000000
FORTRESS
    put_finish /usr/share/pam-configs/fortress-delay
  }
  recover() { put_restore /usr/share/pam-configs/fortress-delay; }
  change 'the PAM profile fortress-delay is available'

  # 48/81 the PAM profile fortress-pwhistory is available
  check() {
    put_matches /usr/share/pam-configs/fortress-pwhistory 2ad4b01ddc702ea7130cea504e582dda05b3349daa9c0be65e3db2ec858ac548 644 root:root
  }
  apply() {
    put /usr/share/pam-configs/fortress-pwhistory 644 root:root << 'FORTRESS'
Name: The last 24 passwords do not come back
Default: yes
Priority: 1000
Password-Type: Primary
Password:
	requisite	pam_pwhistory.so remember=24 enforce_for_root try_first_pass use_authtok
Password-Initial:
	requisite	pam_pwhistory.so remember=24 enforce_for_root
FORTRESS
    put_finish /usr/share/pam-configs/fortress-pwhistory
  }
  recover() { put_restore /usr/share/pam-configs/fortress-pwhistory; }
  change 'the PAM profile fortress-pwhistory is available'

  # 49/81 the PAM profile fortress-umask is available
  check() {
    put_matches /usr/share/pam-configs/fortress-umask 91f655bd7112f8c5a3e478917f611dc8f09b595e484847af67524096b7d5144e 644 root:root
  }
  apply() {
    put /usr/share/pam-configs/fortress-umask 644 root:root << 'FORTRESS'
Name: New files are private
Default: yes
Priority: 0
Session-Type: Additional
Session:
	optional	pam_umask.so umask=027
FORTRESS
    put_finish /usr/share/pam-configs/fortress-umask
  }
  recover() { put_restore /usr/share/pam-configs/fortress-umask; }
  change 'the PAM profile fortress-umask is available'

  # 50/81 PAM counts wrong passwords, and refuses empty and old ones
  #   why: pam-auth-update builds common-* from profiles; a line written there by hand would be lost, or stop it for good
  #   I14 idle shells end after 15 minutes (TMOUT) [CIS 5.4.3.2, xccdf:accounts_tmout, LYNIS SHLL-6220]
  #   I13a umask of shells is 027 [CIS 5.4.3.3, xccdf:accounts_umask_etc_profile, xccdf:accounts_umask_etc_bashrc, LYNIS AUTH-9328]
  #   I13b umask of PAM sessions is 027 [pam_umask(8)]
  #   I27 root PATH has only root-owned directories [CIS 5.4.2.5, xccdf:accounts_root_path_dirs_no_write]
  #   I15 logins per account and open files are limited (maxlogins, nofile) [limits.conf(5)]
  #   I25 logind removes leftover IPC and keeps processes (RemoveIPC) [logind.conf(5)]
  check() {
    grep pam_faillock.so /etc/pam.d/common-account > /dev/null &&
    grep umask=027 /etc/pam.d/common-session > /dev/null &&
    ! grep nullok /etc/pam.d/common-* > /dev/null
  }
  apply() {
    record_before /var/lib/pam; DEBIAN_FRONTEND=noninteractive pam-auth-update --enable fortress-unix fortress-faillock fortress-faillock-ask fortress-delay fortress-pwhistory fortress-umask pwquality
  }
  change 'PAM counts wrong passwords, and refuses empty and old ones'

  # 51/81 su is root-only
  #   I05 accounts are locked after 4 wrong passwords (faillock) [CIS 5.3.3.1.1, CIS 5.3.3.1.2, xccdf:accounts_passwords_pam_faillock_deny, xccdf:accounts_passwords_pam_faillock_unlock_time]
  #   I06 root is locked after wrong passwords too (faillock) [CIS 5.3.3.1.3, xccdf:accounts_passwords_pam_faillock_root_unlock_time]
  #   I08 passwords have at least 15 characters of 4 classes (pwquality) [CIS 5.3.3.2.2, xccdf:accounts_password_pam_minlen, LYNIS AUTH-9262]
  #   I08b passwords have no sequences and no dictionary words (pwquality) [CIS 5.3.3.2.4, xccdf:accounts_password_pam_maxrepeat]
  #   I05a faillock is on in PAM [CIS 5.3.2.2, xccdf:accounts_passwords_pam_faillock_enabled, pam_faillock(8)]
  #   I07 wrong passwords are delayed by 4 seconds (pam_faildelay) [pam_faildelay(8)]
  #   I09 last 24 passwords cannot be reused (pam_pwhistory) [CIS 5.3.3.3.1, xccdf:accounts_password_pam_pwhistory_remember]
  #   I10b empty passwords are refused in PAM (nullok) [CIS 5.3.3.4.1, xccdf:no_empty_passwords_unix]
  #   I10c new passwords are hashed with yescrypt (pam_unix) [CIS 5.3.3.4.3, xccdf:set_password_hashing_algorithm_systemauth]
  #   I12d expired passwords do not block SSH keys (no_pass_expiry) [pam_unix(8)]
  #   I08c pwquality is on in PAM [CIS 5.3.2.3, xccdf:accounts_password_pam_pwquality_enabled]
  #   I21 su is root-only [CIS 5.2.7, xccdf:use_pam_wheel_group_for_su, xccdf:ensure_pam_wheel_group_empty]
  check() {
    put_matches /etc/pam.d/su ab92e5e34c31c56177c6ef0475deb569b07cac58ae3fe5e5168bcaa5ef654150 644 root:root
  }
  apply() {
    put /etc/pam.d/su 644 root:root << 'FORTRESS'
# su is root-only: its group has no members. Administrators use sudo, which logs them.
# pam-auth-update does not manage this file, so all of it is written here.
auth       sufficient pam_rootok.so
auth       required   pam_wheel.so group=sugroup use_uid
session    required   pam_env.so readenv=1
session    required   pam_env.so readenv=1 envfile=/etc/default/locale
session    optional   pam_mail.so nopen
session    required   pam_limits.so
@include common-auth
@include common-account
@include common-session
FORTRESS
    put_finish /etc/pam.d/su
  }
  recover() { put_restore /etc/pam.d/su; }
  change 'su is root-only'

  # 52/81 sudo asks for the password, and logs every command
  #   I17 sudo uses a pty and writes a log [CIS 5.2.2, CIS 5.2.3, xccdf:sudo_add_use_pty, xccdf:sudo_custom_logfile]
  #   I18 sudo password times out after 5 minutes [CIS 5.2.6, xccdf:sudo_require_reauthentication]
  #   I19 sudo resets the environment and hides passwords [sudoers(5)]
  #   I20 sudo requires a password [CIS 5.2.4, CIS 5.2.5, xccdf:sudo_require_authentication, xccdf:sudo_remove_no_authenticate]
  #   I20a sudoers is valid and owned by root [visudo(8)]
  check() {
    put_matches /etc/sudoers.d/60-fortress 83c833273c6472fdfa530b69e787d990677a247eed3041e1937afcfaa9ace55a 440 root:root
  }
  apply() {
    put /etc/sudoers.d/60-fortress 440 root:root 'visudo --check --quiet --file="$new"' << 'FORTRESS'
# sudo requires a password, uses a pty, and logs commands.
Defaults use_pty
Defaults logfile="/var/log/sudo.log"
Defaults env_reset
Defaults secure_path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
Defaults ignore_dot
Defaults !visiblepw
Defaults !pwfeedback
Defaults umask=0027
Defaults timestamp_timeout=5
Defaults timestamp_type=tty
Defaults passwd_timeout=1
Defaults passwd_tries=3
FORTRESS
    put_finish /etc/sudoers.d/60-fortress
  }
  recover() { put_restore /etc/sudoers.d/60-fortress; }
  change 'sudo asks for the password, and logs every command'

  confirm

  # 53/81 sudo.log is rotated every month, and kept for a year
  #   I17a sudo.log is rotated (logrotate.timer is on) [logrotate(8)]
  check() {
    put_matches /etc/logrotate.d/fortress-sudo ddcbca1935f752f1027de9e8312132f56f0e54055c44f4165a43b561ba7eb68e 644 root:root
  }
  apply() {
    put /etc/logrotate.d/fortress-sudo 644 root:root 'logrotate --debug --state /dev/null "$new"' << 'FORTRESS'
# sudo writes a line here for every command that somebody runs as root, and nobody else takes old ones away.
/var/log/sudo.log {
    monthly
    rotate 12
    maxsize 10M
    missingok
    notifempty
    compress
    delaycompress
    create 0600 root root
}
FORTRESS
    put_finish /etc/logrotate.d/fortress-sudo
  }
  recover() { put_restore /etc/logrotate.d/fortress-sudo; }
  change 'sudo.log is rotated every month, and kept for a year'

  # 54/81 auditd keeps its logs
  #   J05 audit logs are kept (keep_logs) [CIS 6.2.2.2, xccdf:auditd_data_retention_max_log_file_action]
  #   J06 full audit disk does not halt the host [auditd.conf(5)]
  #   J07 low space for audit logs is reported at 2 GiB [CIS 6.2.2.4, auditd.conf(5), xccdf:auditd_data_retention_space_left_action]
  #   J29 audit is not suspended [auditd.conf(5), auditctl(8)]
  check() {
    put_matches /etc/audit/auditd.conf 5209874648a88f9022b6ee73c257f2993cdf2e06b746993e58cfdffd84d1d463 640 root:root
  }
  apply() {
    put /etc/audit/auditd.conf 640 root:root << 'FORTRESS'
# auditd has no drop-ins: the whole file. Names as in auditd.conf(5).
local_events = yes
write_logs = yes
log_file = /var/log/audit/audit.log
log_group = root
log_format = ENRICHED
flush = INCREMENTAL_ASYNC
freq = 50
priority_boost = 4
name_format = HOSTNAME

# auditd deletes no logs, so a flood of records cannot rotate evidence away; tmpfiles.d/fortress.conf removes what is older than
# 90 days.
max_log_file = 20
num_logs = 99
max_log_file_action = keep_logs

# A host that halts on a full disk locks its owner out: these log a warning, then stop writing, which verify says (J29). In MiB:
# a part of a disk on which virtual machines grow would be used up long before.
space_left = 2048
space_left_action = syslog
admin_space_left = 1024
admin_space_left_action = suspend
disk_full_action = suspend
disk_error_action = syslog
action_mail_acct = root
verify_email = yes

use_libwrap = no
distribute_network = no
transport = TCP
q_depth = 2000
overflow_action = SYSLOG
max_restarts = 10
plugin_dir = /etc/audit/plugins.d
end_of_event_timeout = 2
FORTRESS
    systemctl kill --signal=HUP auditd.service || systemd-detect-virt --quiet --container
    put_finish /etc/audit/auditd.conf
  }
  recover() {
    put_restore /etc/audit/auditd.conf
    { systemctl kill --signal=HUP auditd.service || systemd-detect-virt --quiet --container
    } || true # the old file was good for it once
  }
  change 'auditd keeps its logs'

  # 55/81 a faulty audit rule does not stop the others from loading
  check() {
    put_matches /etc/audit/rules.d/10-start.rules db2c14c9fa77e2e606f3905e116638ae260ff33bc0a74956d7ffea01e3baa4de 600 root:root
  }
  apply() {
    put /etc/audit/rules.d/10-start.rules 600 root:root << 'FORTRESS'
# How the audit rules are loaded. -c: continue after a rule that the kernel does not support.
-D
-b 8192
--backlog_wait_time 60000
-f 1
-c
FORTRESS
    put_finish /etc/audit/rules.d/10-start.rules
  }
  recover() { put_restore /etc/audit/rules.d/10-start.rules; }
  change 'a faulty audit rule does not stop the others from loading'

  # 56/81 audit rules for identity, access, time, modules and mounts are loaded
  #   J01 audit is on and auditd runs [CIS 6.2.1.2, xccdf:service_auditd_enabled, LYNIS ACCT-9628]
  #   J02 audit backlog is 8192 records and overflow does not halt the host [CIS 6.2.1.4, auditctl(8), xccdf:grub2_audit_backlog_limit_argument]
  #   J03 audit rules load past a failing rule (-c) [CIS 6.2.3.35, xccdf:audit_rules_continue_loading]
  #   J04 audit rules are immutable until reboot (-e 2) [CIS 6.2.3.36, xccdf:audit_rules_immutable]
  #   J08 changes to users and groups are audited [CIS 6.2.3.13, xccdf:audit_rules_usergroup_modification_passwd]
  #   J09 sudo and changes to sudoers are audited [CIS 6.2.3.1, CIS 6.2.3.3, CIS 6.2.3.2, xccdf:audit_rules_sysadmin_actions, xccdf:audit_sudo_log_events, xccdf:audit_rules_suid_auid_privilege_function]
  #   J10 clock changes are audited [CIS 6.2.3.4, xccdf:audit_rules_time_adjtimex, xccdf:audit_rules_time_clock_settime]
  #   J10a hostname and network changes are audited [CIS 6.2.3.8, xccdf:audit_rules_networkconfig_modification]
  #   J11 permission changes are audited (chmod, chown, setxattr) [CIS 6.2.3.18, xccdf:audit_rules_dac_modification_chmod, xccdf:audit_rules_dac_modification_fchmodat2]
  #   J12 denied file access is audited [CIS 6.2.3.11, xccdf:audit_rules_unsuccessful_file_modification_openat]
  #   J13 file deletions and renames are audited [CIS 6.2.3.25, xccdf:audit_rules_file_deletion_events_renameat2]
  #   J14 mounts are audited [CIS 6.2.3.21, xccdf:audit_rules_media_export]
  #   J15 kernel module loading is audited [CIS 6.2.3.32, xccdf:audit_rules_kernel_module_loading_init]
  #   J16 sessions and logins are audited [CIS 6.2.3.22, CIS 6.2.3.23, xccdf:audit_rules_session_events, xccdf:audit_rules_login_events_faillock]
  #   J18 AppArmor changes are audited [CIS 6.2.3.26, xccdf:audit_rules_mac_modification_etc_apparmor]
  #   J19 account and permission tools are audited (usermod, chcon) [CIS 6.2.3.27, CIS 6.2.3.30, xccdf:audit_rules_execution_chcon, xccdf:audit_rules_privileged_commands_usermod]
  #   J20 changes to libvirt, WireGuard, nftables and sshd_config are audited [audit.rules(7)]
  #   J20a risky system calls are audited (bpf, ptrace, userfaultfd) [bpf(2), ptrace(2), userfaultfd(2)]
  #   J22 loaded audit rules match the files on disk [augenrules(8)]
  check() {
    put_matches /etc/audit/rules.d/30-fortress.rules 2dd89b47402c7cfea7b0b8fe6446ad3ec82e745b2cbebb65a74137c7a62e9b27 600 root:root
  }
  apply() {
    put /etc/audit/rules.d/30-fortress.rules 600 root:root << 'FORTRESS'
# Audit rules. Keys (-k) are searched with ausearch --key. Failures and changes by people: auid>=1000.

# Users, groups, PAM
-w /etc/passwd -p wa -k identity
-w /etc/group -p wa -k identity
-w /etc/shadow -p wa -k identity
-w /etc/gshadow -p wa -k identity
-w /etc/security/opasswd -p wa -k identity
-w /etc/nsswitch.conf -p wa -k identity
-w /etc/pam.conf -p wa -k identity
-w /etc/pam.d/ -p wa -k identity

# sudo, and commands run as another user
-w /etc/sudoers -p wa -k scope
-w /etc/sudoers.d/ -p wa -k scope
-w /var/log/sudo.log -p wa -k sudo
-a always,exit -F arch=b64 -S execve -C euid!=uid -F auid!=unset -k user_emulation
-a always,exit -F arch=b32 -S execve -C euid!=uid -F auid!=unset -k user_emulation

# Time
-a always,exit -F arch=b64 -S adjtimex,settimeofday -k time
-a always,exit -F arch=b32 -S adjtimex,settimeofday,stime -k time
-a always,exit -F arch=b64 -S clock_settime -F a0=0x0 -k time
-a always,exit -F arch=b32 -S clock_settime -F a0=0x0 -k time
-w /etc/localtime -p wa -k time

# Hostname and network
-a always,exit -F arch=b64 -S sethostname,setdomainname -k network
-a always,exit -F arch=b64 -S sethostname,setdomainname -F auid>=1000 -F auid!=unset -k network
-a always,exit -F arch=b32 -S sethostname,setdomainname -k network
-a always,exit -F arch=b32 -S sethostname,setdomainname -F auid>=1000 -F auid!=unset -k network
-w /etc/issue -p wa -k network
-w /etc/issue.net -p wa -k network
-w /etc/hosts -p wa -k network
-w /etc/hostname -p wa -k network
-w /etc/networks -p wa -k network
-w /etc/network/ -p wa -k network
-w /etc/systemd/network -p wa -k network
-w /etc/netplan -p wa -k network
-w /etc/NetworkManager -p wa -k network
-w /etc/resolv.conf -p wa -k network

# Modes, owners, attributes
-a always,exit -F arch=b64 -S chmod,fchmod,fchmodat,fchmodat2 -F auid>=1000 -F auid!=unset -k perm_mod
-a always,exit -F arch=b32 -S chmod,fchmod,fchmodat,fchmodat2 -F auid>=1000 -F auid!=unset -k perm_mod
-a always,exit -F arch=b64 -S chown,fchown,fchownat,lchown -F auid>=1000 -F auid!=unset -k perm_mod
-a always,exit -F arch=b32 -S chown,fchown,fchownat,lchown -F auid>=1000 -F auid!=unset -k perm_mod
-a always,exit -F arch=b64 -S setxattr,lsetxattr,fsetxattr,removexattr,lremovexattr,fremovexattr -F auid>=1000 -F auid!=unset -k perm_mod
-a always,exit -F arch=b32 -S setxattr,lsetxattr,fsetxattr,removexattr,lremovexattr,fremovexattr -F auid>=1000 -F auid!=unset -k perm_mod

# Denied file access
-a always,exit -F arch=b64 -S creat,open,openat,openat2,open_by_handle_at,truncate,ftruncate -F exit=-EACCES -F auid>=1000 -F auid!=unset -k access
-a always,exit -F arch=b32 -S creat,open,openat,openat2,open_by_handle_at,truncate,ftruncate -F exit=-EACCES -F auid>=1000 -F auid!=unset -k access
-a always,exit -F arch=b64 -S creat,open,openat,openat2,open_by_handle_at,truncate,ftruncate -F exit=-EPERM -F auid>=1000 -F auid!=unset -k access
-a always,exit -F arch=b32 -S creat,open,openat,openat2,open_by_handle_at,truncate,ftruncate -F exit=-EPERM -F auid>=1000 -F auid!=unset -k access

# Files deleted or renamed
-a always,exit -F arch=b64 -S unlink,unlinkat,rename,renameat,renameat2 -F auid>=1000 -F auid!=unset -k delete
-a always,exit -F arch=b32 -S unlink,unlinkat,rename,renameat,renameat2 -F auid>=1000 -F auid!=unset -k delete

# Mounts
-a always,exit -F arch=b64 -S mount,umount2 -F auid>=1000 -F auid!=unset -k mounts
-a always,exit -F arch=b32 -S mount,umount2 -F auid>=1000 -F auid!=unset -k mounts

# Kernel modules
-a always,exit -F arch=b64 -S create_module,init_module,finit_module,delete_module,query_module -k modules
-a always,exit -F arch=b32 -S create_module,init_module,finit_module,delete_module,query_module -k modules

# Sessions and log-ins
-w /var/run/utmp -p wa -k session
-w /var/log/wtmp -p wa -k session
-w /var/log/btmp -p wa -k session
-w /var/log/lastlog -p wa -k logins
-w /var/run/faillock -p wa -k logins

# AppArmor
-w /etc/apparmor -p wa -k apparmor
-w /etc/apparmor.d -p wa -k apparmor

# libvirt, and configuration and keys of WireGuard, crypttab, nftables and sshd
-w /etc/libvirt -p wa -k hypervisor
-w /etc/wireguard -p wa -k keys
-w /etc/crypttab -p wa -k keys
-w /etc/nftables.conf -p wa -k keys
-w /etc/nftables.d -p wa -k keys
-w /etc/ssh/sshd_config -p wa -k keys
-w /etc/ssh/sshd_config.d -p wa -k keys

# Risky system calls (bpf, ptrace, userfaultfd)
-a always,exit -F arch=b64 -S bpf,perf_event_open,userfaultfd,kexec_load,kexec_file_load,io_uring_setup -F auid>=1000 -F auid!=unset -k exploit
-a always,exit -F arch=b32 -S bpf,perf_event_open,userfaultfd,io_uring_setup -F auid>=1000 -F auid!=unset -k exploit
-a always,exit -F arch=b64 -S ptrace -F a0=0x4 -k ptrace
-a always,exit -F arch=b32 -S ptrace -F a0=0x4 -k ptrace
-a always,exit -F arch=b64 -S ptrace -F a0=0x5 -k ptrace
-a always,exit -F arch=b32 -S ptrace -F a0=0x5 -k ptrace

# Account and permission tools, whether installed yet or not
-a always,exit -F path=/usr/bin/kmod -F perm=x -F auid>=1000 -F auid!=unset -k tools
-a always,exit -F path=/usr/bin/chcon -F perm=x -F auid>=1000 -F auid!=unset -k tools
-a always,exit -F path=/usr/bin/chacl -F perm=x -F auid>=1000 -F auid!=unset -k tools
-a always,exit -F path=/usr/bin/setfacl -F perm=x -F auid>=1000 -F auid!=unset -k tools
-a always,exit -F path=/usr/sbin/usermod -F perm=x -F auid>=1000 -F auid!=unset -k tools
FORTRESS
    (
      chmod 600 /etc/audit/rules.d/*.rules && { augenrules --load > /dev/null || systemd-detect-virt --quiet --container; }
    )
    put_finish /etc/audit/rules.d/30-fortress.rules
  }
  recover() {
    put_restore /etc/audit/rules.d/30-fortress.rules
    { chmod 600 /etc/audit/rules.d/*.rules && { augenrules --load > /dev/null || systemd-detect-virt --quiet --container; }
    } || true # the old file was good for it once
  }
  change 'audit rules for identity, access, time, modules and mounts are loaded'

  # 57/81 audit rules for every setuid and setgid program are loaded
  #   why: which there are differs between machines: the list is made there, and made again when it changes
  #   J17 setuid and setgid programs are audited [CIS 6.2.3.10, xccdf:audit_rules_privileged_commands]
  check() {
    put_finished /etc/audit/rules.d/40-privileged.rules && fact walk walk &&
            diff <(privileged_rules <<< "$FK_FACT") /etc/audit/rules.d/40-privileged.rules > /dev/null
  }
  apply() {
    walk | privileged_rules | put /etc/audit/rules.d/40-privileged.rules 600 root:root
    augenrules --load > /dev/null || systemd-detect-virt --quiet --container
    put_finish /etc/audit/rules.d/40-privileged.rules
  }
  change 'audit rules for every setuid and setgid program are loaded'

  # 58/81 sysstat keeps its records for a week, unreadable for others
  check() {
    put_matches /etc/sysstat/sysstat d4b5625586b8f893981dd536db3fe6df3b7b38f8160364a80d813fe45606b754 644 root:root
  }
  apply() {
    put /etc/sysstat/sysstat 644 root:root << 'FORTRESS'
# Usage of the host, one file a day, kept for a week, not world-readable.
HISTORY=7
COMPRESSAFTER=10
SADC_OPTIONS="-S DISK"
SA_DIR=/var/log/sysstat
ZIP=xz
UMASK=0027
DELAY_RANGE=0
FORTRESS
    put_finish /etc/sysstat/sysstat
  }
  recover() { put_restore /etc/sysstat/sysstat; }
  change 'sysstat keeps its records for a week, unreadable for others'

  # 59/81 the journal survives a reboot, never fills the disk, and is private
  #   J23 the journal is on disk and limited to 2 GB (journald) [CIS 6.1.1.1.5, CIS 6.1.1.1.6, xccdf:journald_storage, xccdf:journald_compress]
  #   J23a journald does not forward to syslog [CIS 6.1.1.1.4, xccdf:journald_disable_forward_to_syslog]
  #   J25 remote logs are not accepted (systemd-journal-remote) [CIS 6.1.1.2.4, xccdf:socket_systemd-journal-remote_disabled]
  #   J26 log files are not world-readable [CIS 6.1.3.1, xccdf:permissions_local_var_log]
  #   J28 process accounting and sysstat are on [LYNIS ACCT-9626]
  check() {
    put_matches /etc/systemd/journald.conf 4d71288be7c2509310a4736d2a8d27bf545fec539b6e3408e6a1155b844b477f 644 root:root
  }
  apply() {
    put /etc/systemd/journald.conf 644 root:root << 'FORTRESS'
# Logs stay over a restart, are compressed, and never fill the disk. The whole file and not a drop-in, because the checkers read
# only this one; the distribution's drop-in that copies everything to a syslog daemon is masked beside it.
# Nothing is sealed: where journald has restarted twice within a quarter of an hour, journalctl --verify calls its own seals broken.
[Journal]
Storage=persistent
Compress=yes
SystemMaxUse=2G
SystemKeepFree=1G
MaxRetentionSec=90day
ForwardToSyslog=no
ForwardToWall=no
FORTRESS
    (
      install --directory /etc/systemd/journald.conf.d &&
      ln --symbolic --force /dev/null /etc/systemd/journald.conf.d/syslog.conf
    )
    record_before --meta /var/log/journal
    install --directory --mode=2755 --group=systemd-journal /var/log/journal
    systemctl restart systemd-journald.service
    open_logs | while IFS= read -r path; do record_before --meta "$path"; chmod u-x,g-wx,o-rwx "$path"; done
    systemctl --quiet enable sysstat.service acct.service
    put_finish /etc/systemd/journald.conf
  }
  recover() {
    put_restore /etc/systemd/journald.conf
    { install --directory /etc/systemd/journald.conf.d &&
    ln --symbolic --force /dev/null /etc/systemd/journald.conf.d/syslog.conf
    } || true # the old file was good for it once
    { record_before --meta /var/log/journal
    install --directory --mode=2755 --group=systemd-journal /var/log/journal
    } || true # the old file was good for it once
    { systemctl restart systemd-journald.service
    } || true # the old file was good for it once
    { open_logs | while IFS= read -r path; do record_before --meta "$path"; chmod u-x,g-wx,o-rwx "$path"; done
    } || true # the old file was good for it once
    { systemctl --quiet enable sysstat.service acct.service
    } || true # the old file was good for it once
  }
  change 'the journal survives a reboot, never fills the disk, and is private'

  # 60/81 chrony follows time servers that prove who they are (NTS)
  #   J27 chrony is the only time service [CIS 2.3.1.1, xccdf:ntp_single_service_active, LYNIS TIME-3104]
  #   J27a NTS is required from all time servers, and 2 must agree (chrony) [RFC 8915, chrony.conf(5)]
  #   J27b NTP server is off, but for the virtual machines of the host (chrony) [chrony.conf(5), chronyc(1)]
  check() {
    put_matches /etc/chrony/chrony.conf 0cbca61904222ac875759c20ea1919d2de867f6ec9a2f5695c66daf63a7b036a 644 root:root
  }
  apply() {
    put /etc/chrony/chrony.conf 644 root:root 'chronyd -p -f "$new" > /dev/null' << 'FORTRESS'
# Time from servers that authenticate (NTS, RFC 8915), at least two of which agree. The whole file: the distribution's
# names a pool without NTS, and one such source could set a false time. Other servers, or fewer: change J27a in
# controls.yaml and var_multiple_time_servers in waivers.yaml too. Ports other than 123 and 4460: router.allow of the site.
server time.cloudflare.com iburst nts
server nts.netnod.se iburst nts
server ptbtime1.ptb.de iburst nts
server ntppool1.time.nl iburst nts
authselectmode require
minsources 2
# A host whose clock is far off at the start cannot judge certificates by date; so NTS skips that for the first update only.
nocerttimecheck 1
ntsdumpdir /var/lib/chrony

driftfile /var/lib/chrony/chrony.drift
maxupdateskew 100.0
rtcsync
makestep 1 3
leapseclist /usr/share/zoneinfo/leap-seconds.list

# A client, without a command port. Virtual machines of the host, where it has any, are the only ones that may ask it for the
# time; they get its own clock while no server answers.
allow 10.77.0.0/24
local stratum 10
cmdport 0
user _chrony
logdir /var/log/chrony
confdir /etc/chrony/conf.d
FORTRESS
    systemctl restart chrony.service || systemd-detect-virt --quiet --container
    put_finish /etc/chrony/chrony.conf
  }
  recover() {
    put_restore /etc/chrony/chrony.conf
    { systemctl restart chrony.service || systemd-detect-virt --quiet --container
    } || true # the old file was good for it once
  }
  change 'chrony follows time servers that prove who they are (NTS)'

  # 61/81 time zone is Etc/UTC
  #   why: times in the logs of all machines can be compared
  check() { [ /etc/localtime -ef /usr/share/zoneinfo/Etc/UTC ]; }
  apply() { ln --symbolic --force --no-dereference /usr/share/zoneinfo/Etc/UTC /etc/localtime; }
  change 'time zone is Etc/UTC'

  # 62/81 every loaded AppArmor profile is enforced
  #   why: a profile that only complains, or confines nothing, hides the ones that matter
  #   K01 AppArmor is on [CIS 1.3.1.1, LYNIS MACF-6208, xccdf:package_apparmor_installed]
  #   K02 all loaded AppArmor profiles are enforced [CIS 1.3.1.3, xccdf:all_apparmor_profiles_enforced]
  #   K07 Yama and Landlock are on [landlock(7)]
  check() { [ -z "$(slack_profiles 'flags *= *\(.*(complain|unconfined)')" ]; }
  apply() {
    slack_profiles 'flags *= *\(.*(complain|unconfined)' | while IFS= read -r path; do
      ln --symbolic --force "$path" /etc/apparmor.d/disable/
      apparmor_parser --remove "$path" 2> /dev/null || true # it may not be loaded
    done
  }
  change 'every loaded AppArmor profile is enforced'

  # 63/81 Ctrl-Alt-Del, the debug shell, the sockets of systemd-ssh-generator and radios are off
  #   A26 sshd does not listen on vsock or unix sockets [systemd-ssh-generator(8)]
  #   A23 ctrl-alt-del.target is masked [systemd.special(7)]
  #   A24 debug shell is masked [systemd-debug-generator(8)]
  #   A25 kdump is off [kdump(8)]
  #   M05 Bluetooth and ModemManager are off [CIS 3.1.3, xccdf:service_bluetooth_disabled]
  #   M01a Avahi, CUPS and rpcbind are off [CIS 2.1.2, xccdf:service_avahi-daemon_disabled]
  #   E11 automounting is off (autofs, udisks2) [CIS 2.1.1, xccdf:service_autofs_disabled]
  #   M07 cloud-init is disabled [https://docs.cloud-init.io]
  #   A21 rescue and emergency shells require a password [sulogin(8), LYNIS BOOT-5260]
  #   M04 no unexpected ports are open [ss(8)]
  #   M03 mail ports listen on loopback only [CIS 2.1.22, xccdf:postfix_network_listening_disabled]
  check() {
    unit_is masked ctrl-alt-del.target debug-shell && [ -L /etc/systemd/system-generators/systemd-ssh-generator ]
  }
  apply() {
    systemctl --quiet mask ctrl-alt-del.target debug-shell.service
    (
      install --directory /etc/systemd/system-generators && ln --symbolic --force /dev/null /etc/systemd/system-generators/systemd-ssh-generator
    )
    (
      systemctl daemon-reload && systemctl stop 'sshd-vsock*' 'sshd-unix*'
    )
    systemctl list-unit-files --no-legend bluetooth.service ModemManager.service 'avahi-daemon.*' 'cups*' 'rpcbind.*' kdump-tools.service |
    awk '$2 == "enabled" { print $1 }' | xargs --no-run-if-empty systemctl --quiet disable --now
    [ ! -d /etc/cloud ] || touch /etc/cloud/cloud-init.disabled
  }
  change 'Ctrl-Alt-Del, the debug shell, the sockets of systemd-ssh-generator and radios are off'

  # 64/81 USBGuard starts only on a machine that has USB
  check() {
    put_matches /etc/systemd/system/usbguard.service.d/60-fortress.conf a791ee0ff3cc1eb91fcbc5882416a8d259d00de4e340c9d8b22fca1c0ffbf6eb 644 root:root
  }
  apply() {
    put /etc/systemd/system/usbguard.service.d/60-fortress.conf 644 root:root << 'FORTRESS'
# On a machine without USB the unit is skipped and does not fail.
[Unit]
ConditionPathExists=/sys/bus/usb/devices
FORTRESS
    put_finish /etc/systemd/system/usbguard.service.d/60-fortress.conf
  }
  recover() { put_restore /etc/systemd/system/usbguard.service.d/60-fortress.conf; }
  change 'USBGuard starts only on a machine that has USB'

  # 65/81 USBGuard blocks every device that no rule names
  check() {
    put_matches /etc/usbguard/usbguard-daemon.conf fe377aab331be84d832a8c06f907fb31ed5fee88d503a2f45fb2ed428dfc6308 600 root:root
  }
  apply() {
    put /etc/usbguard/usbguard-daemon.conf 600 root:root << 'FORTRESS'
# Which USB devices the kernel may use: those in the rules. All others are blocked, whether attached before or after the start.
RuleFile=/etc/usbguard/rules.conf
ImplicitPolicyTarget=block
PresentDevicePolicy=apply-policy
PresentControllerPolicy=apply-policy
InsertedDevicePolicy=apply-policy
AuthorizedDefault=none
RestoreControllerDeviceState=false
DeviceManagerBackend=uevent
IPCAllowedUsers=root
IPCAllowedGroups=
IPCAccessControlFiles=/etc/usbguard/IPCAccessControl.d/
DeviceRulesWithPort=false
AuditBackend=LinuxAudit
HidePII=false
FORTRESS
    put_finish /etc/usbguard/usbguard-daemon.conf
  }
  recover() { put_restore /etc/usbguard/usbguard-daemon.conf; }
  change 'USBGuard blocks every device that no rule names'

  # 66/81 USBGuard allows what is plugged in now, and refuses unknown devices
  #   why: a stick can be a keyboard that types; disks and one keyboard may still come
  #   K06 USBGuard blocks unknown USB devices [usbguard-daemon.conf(5), LYNIS USB-3000]
  check() {
    put_finished /etc/usbguard/rules.conf &&
    grep --fixed-strings '!allowed-matches' /etc/usbguard/rules.conf > /dev/null &&
    [ "$(systemctl is-enabled usbguard.service)" = enabled ]
  }
  apply() {
    { [ ! -d /sys/bus/usb/devices ] || usbguard generate-policy; printf '%s\n' '# Hubs, the ones inside the computer too
allow with-interface equals { 09:00:00 }
allow with-interface equals { 09:00:01 }
allow with-interface equals { 09:00:01 09:00:02 }
# Disks and nothing else: a disk that is also a keyboard is no disk
allow with-interface all-of { 08:06:50 08:06:62 }
allow with-interface equals { 08:06:50 }
allow with-interface equals { 08:06:62 }
# One keyboard for the console, when no other is attached
allow with-interface one-of { 03:00:01 03:01:01 } if !allowed-matches(with-interface one-of { 03:00:01 03:01:01 })'; } |
              put /etc/usbguard/rules.conf 600 root:root
    (
      systemctl --quiet unmask usbguard.service && systemctl daemon-reload &&
      systemctl --quiet enable usbguard.service
    )
    systemctl restart usbguard.service || systemd-detect-virt --quiet --container
    put_finish /etc/usbguard/rules.conf
  }
  change 'USBGuard allows what is plugged in now, and refuses unknown devices'

  # 67/81 at is root-only
  check() {
    put_matches /etc/at.allow 53175bcc0524f37b47062fafdda28e3f8eb91d519ca0a184ca71bbebe72f969a 600 root:root
  }
  apply() {
    put /etc/at.allow 600 root:root << 'FORTRESS'
root
FORTRESS
    rm --force /etc/at.deny
    put_finish /etc/at.allow
  }
  recover() {
    put_restore /etc/at.allow
    { rm --force /etc/at.deny
    } || true # the old file was good for it once
  }
  change 'at is root-only'

  # 68/81 cron is root-only
  #   I24 cron and at are root-only [CIS 2.4.1.9, CIS 2.4.2.1, xccdf:file_cron_allow_exists, xccdf:file_at_allow_exists]
  check() {
    put_matches /etc/cron.allow 53175bcc0524f37b47062fafdda28e3f8eb91d519ca0a184ca71bbebe72f969a 600 root:root
  }
  apply() {
    put /etc/cron.allow 600 root:root << 'FORTRESS'
root
FORTRESS
    rm --force /etc/cron.deny
    put_finish /etc/cron.allow
  }
  recover() {
    put_restore /etc/cron.allow
    { rm --force /etc/cron.deny
    } || true # the old file was good for it once
  }
  change 'cron is root-only'

  # 69/81 a service that sets file modes is installed
  check() {
    put_matches /etc/systemd/system/fortress-modes.service e8489a55ecbe82ea37447b4dedcfda5ed36442187bf5181b67488a7dc228a48c 644 root:root
  }
  apply() {
    put /etc/systemd/system/fortress-modes.service 644 root:root << 'FORTRESS'
[Unit]
Description=Set the modes of sensitive files
# dpkg writes its log many times in a row: a limit would end the path unit for good.
StartLimitIntervalSec=0

[Service]
Type=oneshot
ExecStart=/usr/bin/systemd-tmpfiles --create /etc/tmpfiles.d/fortress.conf
FORTRESS
    put_finish /etc/systemd/system/fortress-modes.service
  }
  recover() { put_restore /etc/systemd/system/fortress-modes.service; }
  change 'a service that sets file modes is installed'

  # 70/81 file modes that other tools change are set back at once
  #   N12 file modes are restored after changes (fortress-modes) [tmpfiles.d(5)]
  check() {
    put_matches /etc/systemd/system/fortress-modes.path aa365b7b92901f4e2525709a1f2cd6197b1bd657c9d0c8de5cf2443683d0932d 644 root:root
  }
  apply() {
    put /etc/systemd/system/fortress-modes.path 644 root:root << 'FORTRESS'
# Tools that change users, packages and logs rewrite these files, with a mode of their own.
[Unit]
Description=Watch files whose mode other tools reset

[Path]
# dpkg writes its log hundreds of times in two seconds: at the limit the watch would end for good.
TriggerLimitIntervalSec=0
PathChanged=/etc/shadow-
PathChanged=/etc/gshadow-
PathChanged=/boot/grub/grub.cfg
PathChanged=/var/log/apt
PathChanged=/var/log/dpkg.log
PathChanged=/var/log/alternatives.log

[Install]
WantedBy=multi-user.target
FORTRESS
    systemctl daemon-reload
    systemctl --quiet enable fortress-modes.path
    systemctl restart fortress-modes.path
    put_finish /etc/systemd/system/fortress-modes.path
  }
  recover() {
    put_restore /etc/systemd/system/fortress-modes.path
    { systemctl daemon-reload
    } || true # the old file was good for it once
    { systemctl --quiet enable fortress-modes.path
    } || true # the old file was good for it once
    { systemctl restart fortress-modes.path
    } || true # the old file was good for it once
  }
  change 'file modes that other tools change are set back at once'

  # 71/81 file modes let only root read keys, password hashes and rules
  #   N01 /etc/passwd and /etc/group are writable by root only [CIS 7.1.1, xccdf:file_permissions_etc_passwd, LYNIS FILE-7524]
  #   N02 shadow and gshadow are root-only [CIS 7.1.5, CIS 7.1.6, xccdf:file_permissions_etc_shadow, xccdf:file_permissions_backup_etc_shadow]
  #   N03 opasswd is root-only [CIS 7.1.10, xccdf:file_permissions_etc_security_opasswd, xccdf:file_permissions_etc_security_opasswd_old]
  #   N04 crontab and cron directories are root-only [CIS 2.4.1.2, CIS 2.4.1.8, xccdf:file_permissions_crontab, xccdf:file_permissions_cron_d]
  #   L06 APT sources and keys are writable by root only [apt-secure(8)]
  #   J21 audit logs, rules and tools are owned by root [CIS 6.2.4.5, xccdf:file_permissions_etc_audit_rulesd]
  #   N08 sudoers.d, crypttab, WireGuard and nftables files are root-only [ANSSI BP-028 R50]
  #   N09 netplan files are root-only [netplan(5)]
  #   N11 /root is root-only [LYNIS HOME-9304]
  #   J07a audit logs older than 90 days are deleted [tmpfiles.d(5), auditd.conf(5)]
  check() {
    put_matches /etc/tmpfiles.d/fortress.conf 5b06914c666e52e766172adb4d7fc818f1a2a5049ad2be80a396fc5f6f88e9fb 644 root:root
  }
  apply() {
    put /etc/tmpfiles.d/fortress.conf 644 root:root << 'FORTRESS'
# Modes and owners of sensitive files: z sets them where the path exists, at each boot and when fortress-modes.path sees a change;
# d also removes what is older than it says.
z /etc/passwd                    0644 root root
z /etc/passwd-                   0600 root root
z /etc/group                     0644 root root
z /etc/group-                    0600 root root
z /etc/shells                    0644 root root
z /etc/shadow                    0640 root shadow
z /etc/gshadow                   0640 root shadow
z /etc/shadow-                   0000 root shadow
z /etc/gshadow-                  0000 root root
z /etc/security/opasswd          0600 root root
z /etc/security/opasswd.old      0600 root root
z /etc/crontab                   0600 root root
z /etc/cron.hourly               0700 root root
z /etc/cron.daily                0700 root root
z /etc/cron.weekly               0700 root root
z /etc/cron.monthly              0700 root root
z /etc/cron.yearly               0700 root root
z /etc/cron.d                    0700 root root
z /etc/sudoers.d                 0750 root root
z /etc/sysctl.d                  0755 root root
z /etc/crypttab                  0600 root root
z /etc/wireguard                 0700 root root
z /etc/nftables.conf             0640 root root
z /etc/netplan                   0700 root root
z /etc/ssh/sshd_config           0600 root root
z /etc/ssh/sshd_config.d/*.conf  0600 root root
z /etc/ssh/ssh_host_*_key        0600 root root
z /etc/ssh/ssh_host_*_key.pub    0644 root root
z /etc/apt/auth.conf.d           0750 root root
z /etc/audit                     0750 root root
z /etc/audit/auditd.conf         0640 root root
z /etc/audit/rules.d             0750 root root
z /etc/audit/rules.d/*.rules     0600 root root
z /etc/audit/audit.rules         0640 root root
d /var/log/audit                 0700 root root m:90d
z /var/log/apt/*                 0640 root adm
z /var/log/dpkg.log*             0640 root adm
z /var/log/alternatives.log*     0640 root adm
z /root                          0700 root root
z /boot/grub                     0700 root root
z /boot/grub/grub.cfg            0600 root root
FORTRESS
    for path in /boot/grub /boot/grub/grub.cfg /root /var/log/audit; do record_before --meta "$path"; done
    systemd-tmpfiles --create /etc/tmpfiles.d/fortress.conf
    put_finish /etc/tmpfiles.d/fortress.conf
  }
  recover() {
    put_restore /etc/tmpfiles.d/fortress.conf
    { for path in /boot/grub /boot/grub/grub.cfg /root /var/log/audit; do record_before --meta "$path"; done
    } || true # the old file was good for it once
    { systemd-tmpfiles --create /etc/tmpfiles.d/fortress.conf
    } || true # the old file was good for it once
  }
  change 'file modes let only root read keys, password hashes and rules'

  # 72/81 GRUB has kernel arguments for audit, lockdown and wiped memory
  check() {
    put_matches /etc/default/grub.d/60-fortress.cfg e0ddbce880defd850c350cafc3ea7a1f37542b12269323f959833d7147be9af3 644 root:root
  }
  apply() {
    put /etc/default/grub.d/60-fortress.cfg 644 root:root << 'FORTRESS'
# Kernel arguments of the host. They take effect at the next boot.
# GRUB_CMDLINE_LINUX and not ..._DEFAULT: they apply to the recovery entry too.

# Audit from the first process on, and a backlog for records before auditd runs.
GRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX audit=1 audit_backlog_limit=8192"

# AppArmor, and kernel lockdown: root cannot change the running kernel. Not confidentiality: that disables BPF tracing.
GRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX apparmor=1 security=apparmor lockdown=integrity module.sig_enforce=1"

# Memory: no merged slabs, wiping on allocation and free, randomised order of pages.
GRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX slab_nomerge init_on_alloc=1 init_on_free=1 page_alloc.shuffle=1 randomize_kstack_offset=on"

# The processor: separate page tables, no vsyscall page, all mitigations that the kernel selects.
GRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX pti=on vsyscall=none mitigations=auto"

# Devices reach only the memory they were given.
GRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX intel_iommu=on iommu.passthrough=0 iommu.strict=1"

# No debugfs in the tree, no writing through /proc/PID/mem.
GRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX debugfs=no-mount proc_mem.force_override=never"
FORTRESS
    put_finish /etc/default/grub.d/60-fortress.cfg
  }
  recover() { put_restore /etc/default/grub.d/60-fortress.cfg; }
  change 'GRUB has kernel arguments for audit, lockdown and wiped memory'

  # 73/81 GRUB starts the host without a password
  check() {
    put_matches /etc/grub.d/09_fortress_linux a636b0cb0d9f50f82396b83533b0f36e2cc613d7a030f7e15c080c4799854585 755 root:root
  }
  apply() {
    put /etc/grub.d/09_fortress_linux 755 root:root << 'FORTRESS'
#!/bin/sh
# The distribution's own entries, made by its own 10_linux (which is disabled), with one difference: booting them requires no
# password. Only changing them does, so a host without a keyboard boots unattended.
set -e
here=$(dirname "$0")
sed 's/^CLASS="/CLASS="--unrestricted /' "$here/10_linux" > "${TMPDIR:-/run}/fortress-10-linux"
sh "${TMPDIR:-/run}/fortress-10-linux"
rm -f "${TMPDIR:-/run}/fortress-10-linux"
FORTRESS
    [ ! -e /etc/grub.d/10_linux ] || chmod a-x /etc/grub.d/10_linux
    put_finish /etc/grub.d/09_fortress_linux
  }
  recover() {
    put_restore /etc/grub.d/09_fortress_linux
    { [ ! -e /etc/grub.d/10_linux ] || chmod a-x /etc/grub.d/10_linux
    } || true # the old file was good for it once
  }
  change 'GRUB starts the host without a password'

  # 74/81 GRUB has a password for changes at its menu
  #   why: a line typed at the menu of the boot loader is a root shell
  check() {
    ! command -v grub-mkpasswd-pbkdf2 > /dev/null ||
    grep password_pbkdf2 /etc/grub.d/01_fortress > /dev/null 2>&1
  }
  apply() {
    {
      password=$(cat)
      hash=$(printf '%s\n%s\n' "$password" "$password" |
        grub-mkpasswd-pbkdf2 --iteration-count=100000 | awk '/grub\.pbkdf2\.sha512/ { print $NF }')
      printf '%s\n' '#!/bin/sh' 'echo "set superusers=root"' "echo password_pbkdf2 root $hash" |
        put /etc/grub.d/01_fortress 700 root:root
      put_finish /etc/grub.d/01_fortress
    } < "$FK_SECRETS"/fortress-boot-password
  }
  change 'GRUB has a password for changes at its menu'

  # 75/81 grub.cfg is generated with the kernel arguments and the password
  #   A04 audit is on from boot (audit=1) [CIS 6.2.1.3, xccdf:grub2_audit_argument, LYNIS ACCT-9628]
  #   A05 audit backlog at boot is 8192 records (audit_backlog_limit) [CIS 6.2.1.4, xccdf:grub2_audit_backlog_limit_argument]
  #   A06 AppArmor is on from boot (apparmor=1) [CIS 1.3.1.2, xccdf:grub2_enable_apparmor]
  #   A07 kernel lockdown is on (lockdown=integrity) [kernel_lockdown(7), KSPP]
  #   A08 only signed kernel modules load (module.sig_enforce) [KSPP, ANSSI BP-028 R8]
  #   A09 slab caches are not merged (slab_nomerge) [KSPP, ANSSI BP-028 R8]
  #   A10 memory is wiped when it is allocated and freed (init_on_alloc, init_on_free) [KSPP]
  #   A11 page allocator is randomised (page_alloc.shuffle) [KSPP, ANSSI BP-028 R8]
  #   A12 kernel stack offset is randomised (randomize_kstack_offset) [KSPP]
  #   A13 page table isolation is on (pti) [CVE-2017-5754, KSPP]
  #   A14 vsyscall is off (vsyscall=none) [KSPP]
  #   A16 IOMMU is on and strict [KSPP, ANSSI BP-028 R7]
  #   A18 debugfs is not mounted [KSPP]
  #   A19 writes to protected memory through /proc/PID/mem are off (proc_mem.force_override) [KSPP, CVE-2016-5195]
  #   A15 CPU vulnerability mitigations are on [https://docs.kernel.org/admin-guide/hw-vuln/]
  #   A02 GRUB password is set for changes, not for booting [CIS 1.4.1, xccdf:grub2_password, LYNIS BOOT-5122]
  #   A03 grub.cfg is root-only [CIS 1.4.2, xccdf:file_permissions_grub2_cfg]
  check() {
    [ ! -e /boot/grub/grub.cfg ] || {
      [ /boot/grub/grub.cfg -nt /etc/default/grub.d/60-fortress.cfg ] &&
        [ /boot/grub/grub.cfg -nt /etc/grub.d/01_fortress ]
    }
  }
  apply() {
    (
      record_before /boot/grub/grub.cfg
      grub-mkconfig --output=/boot/grub/fortress.new 2> /dev/null
      # An entry that asks for a password at a plain start would leave a host without a keyboard at its menu.
      [ "$(grep --count '^menuentry .*--unrestricted' /boot/grub/fortress.new)" -ge 1 ]
      [ -z "$(grep 'menuentry .*gnu-linux' /boot/grub/fortress.new | grep --invert-match -e --unrestricted)" ]
      chmod 600 /boot/grub/fortress.new
      sync /boot/grub/fortress.new && mv /boot/grub/fortress.new /boot/grub/grub.cfg
    )
    touch /run/reboot-required && echo kernel-arguments >> /run/reboot-required.pkgs
  }
  change 'grub.cfg is generated with the kernel arguments and the password'

  # 76/81 the AIDE check service is installed
  check() {
    put_matches /etc/systemd/system/aidecheck.service bc2b6828ea118f9d51f30cd3fff19c5c1486c813f2fe823a2f5df684964b7250 644 root:root
  }
  apply() {
    put /etc/systemd/system/aidecheck.service 644 root:root << 'FORTRESS'
[Unit]
Description=Compare the files of this host with what AIDE remembers
ConditionPathExists=/var/lib/aide/aide.db

[Service]
# simple and idle: the boot neither waits for the check nor is slowed by it.
Type=simple
ExecStart=/usr/bin/aide --config /etc/aide/aide.conf --check
# Exit codes 1 to 7: kinds of difference; the journal lists them.
SuccessExitStatus=1 2 3 4 5 6 7
Nice=19
CPUSchedulingPolicy=idle
IOSchedulingClass=idle
ProtectSystem=strict
ReadWritePaths=/var/lib/aide /var/log/aide
PrivateNetwork=yes
NoNewPrivileges=yes

[Install]
WantedBy=multi-user.target
FORTRESS
    put_finish /etc/systemd/system/aidecheck.service
  }
  recover() { put_restore /etc/systemd/system/aidecheck.service; }
  change 'the AIDE check service is installed'

  # 77/81 AIDE is configured
  check() {
    put_matches /etc/aide/aide.conf e0aeb1d6a9494c95988efa031b986242015f0f2500b5f3bb5340a452f3abcc97 644 root:root
  }
  apply() {
    put /etc/aide/aide.conf 644 root:root 'aide --config "$new" --config-check' << 'FORTRESS'
# Which files AIDE records and compares. The whole file: the distribution's thousand lines include logs and disks of virtual
# machines, and its reports are too long to be read.
@@define DBDIR /var/lib/aide
database_in=file:@@{DBDIR}/aide.db
database_out=file:@@{DBDIR}/aide.db.new
database_new=file:@@{DBDIR}/aide.db.new
gzip_dbout=yes
log_level=warning
report_url=stdout
report_summarize_changes=yes

Full = p+i+n+u+g+s+b+acl+xattrs+sha512
Place = p+n+u+g+acl+xattrs

# Audit tools, with all attributes
/usr/sbin/auditctl p+i+n+u+g+s+b+acl+selinux+xattrs+sha512
/usr/sbin/auditd p+i+n+u+g+s+b+acl+selinux+xattrs+sha512
/usr/sbin/ausearch p+i+n+u+g+s+b+acl+selinux+xattrs+sha512
/usr/sbin/aureport p+i+n+u+g+s+b+acl+selinux+xattrs+sha512
/usr/sbin/autrace p+i+n+u+g+s+b+acl+selinux+xattrs+sha512
/usr/sbin/augenrules p+i+n+u+g+s+b+acl+selinux+xattrs+sha512

/boot Full
/etc Full
!/etc/mtab$
!/etc/resolv\.conf$
!/etc/\..*\.fortress$
/root Full
!/root/\.(bash_history|lesshst|viminfo|cache)
/usr/bin Full
/usr/sbin Full
/usr/local Full
/usr/lib Full
!/usr/lib/python3.*/__pycache__
!/usr/lib/python3/dist-packages/.*__pycache__
/var/spool/cron Full
/var/lib/dpkg$ Place
FORTRESS
    (
      systemctl daemon-reload && systemctl --quiet enable aidecheck.service
    )
    put_finish /etc/aide/aide.conf
  }
  recover() {
    put_restore /etc/aide/aide.conf
    { systemctl daemon-reload && systemctl --quiet enable aidecheck.service
    } || true # the old file was good for it once
  }
  change 'AIDE is configured'

  # 78/81 AIDE baseline exists
  check() { [ -s /var/lib/aide/aide.db ]; }
  apply() {
    install --directory --mode=700 /var/lib/aide /var/log/aide; record_before /var/lib/aide/aide.db
    aide --config /etc/aide/aide.conf --init > /dev/null && mv /var/lib/aide/aide.db.new /var/lib/aide/aide.db
  }
  change 'AIDE baseline exists'

  # 79/81 AIDE compares the files with its baseline every night
  #   L08 AIDE baseline exists [CIS 6.3.1, xccdf:aide_build_database]
  #   L08a AIDE check runs every night [CIS 6.3.2, xccdf:aide_periodic_checking_systemd_timer]
  #   L09a package files are verified weekly (debsums) [LYNIS PKGS-7370, debsums(1)]
  #   L08c audit tools are verified by AIDE [CIS 6.3.3, xccdf:aide_check_audit_tools]
  check() {
    put_matches /etc/systemd/system/aidecheck.timer 5cf5871288817ccbd3edad92b4dd88ee0e4a2d534e5e03960748f0b3dcf6664a 644 root:root
  }
  apply() {
    put /etc/systemd/system/aidecheck.timer 644 root:root << 'FORTRESS'
[Unit]
Description=Compare the files of this host every night

[Timer]
OnCalendar=*-*-* 05:00:00
RandomizedDelaySec=30min
Persistent=true

[Install]
WantedBy=timers.target
FORTRESS
    systemctl daemon-reload
    systemctl --quiet enable aidecheck.timer
    systemctl restart aidecheck.timer
    put_finish /etc/systemd/system/aidecheck.timer
  }
  recover() {
    put_restore /etc/systemd/system/aidecheck.timer
    { systemctl daemon-reload
    } || true # the old file was good for it once
    { systemctl --quiet enable aidecheck.timer
    } || true # the old file was good for it once
    { systemctl restart aidecheck.timer
    } || true # the old file was good for it once
  }
  change 'AIDE compares the files with its baseline every night'

  # 80/81 no file is without an owner, and none is world-writable
  #   N05 all files have an owner and a group [CIS 7.1.12, xccdf:no_files_unowned_by_user, xccdf:file_permissions_ungroupowned, LYNIS FILE-6362]
  #   E13 world-writable directories have the sticky bit [xccdf:dir_perms_world_writable_sticky_bits]
  #   N13 no files are world-writable [CIS 7.1.11, xccdf:file_permissions_unauthorized_world_writable]
  #   N06 all setuid and setgid programs are known [CIS 6.2.3.10, xccdf:audit_rules_privileged_commands, LYNIS FILE-7524]
  #   N07 all programs with file capabilities are known [capabilities(7)]
  check() {
    (
    walked u
    ) && (
    walked w
    ) && (
    walked f
    ) && (
    # in one shell
    local known new path
    # Debian's and Ubuntu's own, and those of the packages that later layers bring, where packages put them.
    known=' su sudo mount umount passwd chsh chfn newgrp gpasswd chage expiry unix_chkpwd crontab ssh-agent ssh-keysign '
    known+='dbus-daemon-launch-helper polkit-agent-helper-1 pkexec fusermount3 newuidmap newgidmap wall write bsd-write '
    known+='utempter dotlockfile mount.nfs ntfs-3g qemu-bridge-helper pam_extrausers_chkpwd at ping sg '
    new=''
    fact walk walk || return
    for path in "${FK_LINES[@]}"; do
      case $path in
        's /usr/bin/'* | 's /usr/sbin/'* | 's /usr/lib/'* | 's /usr/libexec/'*) case $known in *" ${path##*/} "*) continue ;; esac ;;
      esac
      case $path in 's '*) new+=" ${path#s }" ;; esac
    done
    echo "unknown:${new:- none}"; [ -z "$new" ]
    ) && (
    command -v getcap > /dev/null || { echo 'getcap is not installed'; exit 1; }
    caps() { getcap -r /usr /opt /srv /root /etc /boot 2> /dev/null | awk '{ print $1 "=" $2 }'; }
    fact caps caps
    new=''
    for line in "${FK_LINES[@]}"; do
      case $line in /usr/local/*) new+=" $line" ;; /usr/*/ping=cap_net_raw=ep | /usr/*/mtr-packet=* | /usr/*/gst-ptp-helper=* | /usr/*/clockdiff=* | /usr/*/arping=* | /usr/*/newuidmap=* | /usr/*/newgidmap=* | /usr/*/fping=*) ;; *) new+=" $line" ;; esac
    done
    echo "unknown:${new:- none}"; [ -z "$new" ]
    )
  }
  demand 'no file is without an owner, and none is world-writable' 'look at each file that is named above: give it an owner, take the right from it, or remove it'

  # 81/81 a thief of the machine finds an encrypted disk, Secure Boot and current microcode
  #   why: on a clear disk lie the virtual machines, the keys of their cluster and its etcd, for whoever takes it
  #   A01 Secure Boot is on, in the firmware, in shim and for the kernel [UEFI 2.10 32, https://wiki.debian.org/SecureBoot]
  #   E16 disks of the system and of virtual machines are encrypted [NIST SP 800-53 SC-28, cryptsetup(8)]
  #   A27 microcode of the processor is kept up to date [CVE-2023-20593, https://docs.kernel.org/arch/x86/microcode.html]
  check() { true; }
  demand 'a thief of the machine finds an encrypted disk, Secure Boot and current microcode' 'encrypt the disk when you install the system; switch on Secure Boot in the firmware setup; add non-free-firmware
to the sources of apt. Or live without it for a time, under accepted: in config/sites/fortress.yaml:
{ what: '\''control:fortress:ID'\'', why: …, until: 2027-05-31 }, with the ID that failed'
}

# What main uses.
# from lib/host/controls.sh: PATH fact fact_file fact_pause fact_is_mine sure_fact none_of package_states
# from lib/host/controls.sh: package_present package_absent unit_states unit_line unit_property unit_changed unit_is
# from lib/host/controls.sh: walk_roots walk walked privileged_rules entries all_entries sudoers_lines sudo_passwordless
# from lib/host/controls.sh: system_shells clear_swaps shm_lines endless_passwords open_logs open_homes slack_profiles
# from lib/host/thief.sh: encrypted disks_of
# from lib/host/affected.sh: affected affected_links affected_engines affected_routes affected_forwarding affected_units
# from lib/host/affected.sh: affected_logins sshd_says sshd_ports sshd_keeps_ports
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
FK_UNITS='sysctl-reapply-network.service fortress-mounts.service ssh.service ssh.socket logrotate.timer logrotate.service auditd.service audit-rules.service systemd-journald.service systemd-journal-remote.socket systemd-journal-gatewayd.socket sysstat.service acct.service sysstat-collect.timer sysstat-collect.service chrony.service systemd-timesyncd.service apt-daily.timer apt-daily.service apt-daily-upgrade.timer apt-daily-upgrade.service aidecheck.timer aidecheck.service cron.service ctrl-alt-del.target debug-shell.service kdump-tools.service kdump.service bluetooth.service ModemManager.service avahi-daemon.service avahi-daemon.socket cups.service cups.socket cups.path rpcbind.service rpcbind.socket autofs.service udisks2.service rescue.service emergency.service usbguard.service systemd-tmpfiles-clean.timer systemd-tmpfiles-clean.service fortress-modes.path fortress-modes.service'

main "$@"
