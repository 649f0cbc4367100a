#!/bin/bash
# 10-vm-host: KVM and libvirt on the host, so that virtual machines run confined by AppArmor, on a bridge of their own.
#
# Run it as root on fortress:
#   bash 10-vm-host.sh
# It has 13 steps. Each checks first, and changes only what does not hold.
# It keeps no record, so undo cannot take it back. It checks no controls: verify does.
# shellcheck disable=SC2034 # functions read what is set here
set -euo pipefail
FK_PAGE=10-vm-host FK_FILE=10-vm-host.sh
export FK_PAGE FK_FILE

main() {
  case ${1-} in '') ;; *) usage ;; esac
  begin
  # vm_virtualises ARCH: the processor and its firmware allow KVM, for virtual machines of the host's own architecture.
  vm_virtualises() {
    [ "$(uname --machine)" = "$1" ] ||
      vm_no "the node is $1 and the host is $(uname --machine): KVM runs only its own kind" || return
    if [ "$1" = x86_64 ]; then
      grep --extended-regexp --word-regexp --max-count=1 'vmx|svm' /proc/cpuinfo > /dev/null ||
        vm_no 'the processor offers neither VT-x (vmx) nor AMD-V (svm)' || return
    fi
    [ -c /dev/kvm ] || modprobe --dry-run --quiet kvm_intel || modprobe --dry-run --quiet kvm_amd ||
      vm_no 'there is no /dev/kvm'
  }

  # vm_bridge_free BRIDGE NETWORK: the bridge and the addresses are ours, or nobody's.
  vm_bridge_free() {
    local owner ours other
    owner=$(virsh net-list --all --name 2> /dev/null | while read -r name; do
      [ -z "$name" ] || [ "$name" = fortress ] ||
        ! virsh net-dumpxml "$name" | grep --fixed-strings "<bridge name='$1'" > /dev/null || echo "$name"
    done) || true # libvirt is not here yet
    [ -z "$owner" ] || vm_no "the bridge $1 belongs to the network $owner of libvirt" || return
    ours=$(virsh net-info fortress 2> /dev/null | awk '$1 == "Bridge:" { print $2 }') || true # not yet
    if [ -e "/sys/class/net/$1" ] && [ "$ours" != "$1" ]; then
      vm_no "there is an interface $1 already, and it is not ours: $(ip -brief address show dev "$1" | xargs)" || return
    fi
    other=$(ip -4 route show root "$2" match "$2" 2> /dev/null | awk '$1 != "default"'; ip -4 route show root "$2")
    other=$(printf '%s\n' "$other" | grep . | grep --invert-match --word-regexp "dev $1") || true # nothing else is there
    [ -z "$other" ] ||
      vm_no "the addresses $2 are somewhere else already: $(printf '%s\n' "$other" | sed --quiet 1p | xargs)"
  }

  # vm_net_free SITE: no network of somebody else is called fortress.
  vm_net_free() {
    virsh net-info fortress > /dev/null 2>&1 || return 0
    virsh net-dumpxml fortress | vm_facts |
      grep --line-regexp --fixed-strings "network/metadata/owner/@site=$1" > /dev/null ||
      vm_no "there is a network called fortress that is not of the site $1"
  }

  # vm_net DECLARED: the network is up, starts with the host, and is what was declared.
  vm_net() {
    local when
    for when in '' --inactive; do
      # shellcheck disable=SC2086 # nothing, or one word
      virsh net-dumpxml fortress $when > "$FK_TMP/net.xml" 2>&1 || vm_no "$(head --lines=1 "$FK_TMP/net.xml")" || return
      vm_differs "$1" "$FK_TMP/net.xml" || return
    done
    virsh net-info fortress | awk '
    $1 == "Active:" { a = $2 }
    $1 == "Autostart:" { s = $2 }
    $1 == "Persistent:" { p = $2 }
    END { print "active:", a ", starts with the host:", s; exit !(a == "yes" && s == "yes" && p == "yes") }' || return
    [ "$(cat /proc/sys/net/ipv4/ip_forward)" = 1 ] ||
      vm_no 'the host does not forward (net.ipv4.ip_forward is 0), so nodes reach nobody'
  }

  export -f vm_virtualises vm_bridge_free vm_net_free vm_net

  # 1/13 the processor supports virtualization (VT-x or AMD-V), and the firmware allows it
  #   why: the wall between a guest and its host is in the processor
  check() { vm_virtualises x86_64; }
  demand 'the processor supports virtualization (VT-x or AMD-V), and the firmware allows it' 'switch on Intel VT-x or AMD-V (SVM mode) in the firmware'\''s setup, and power the machine off and on once.
In a virtual machine: let its own host pass virtualisation on.
To see it work without, twenty times slower: FK_VM_ACCEL=tcg'

  # 2/13 the kernel enforces AppArmor
  #   why: a guest that breaks out of QEMU finds itself in a profile that knows this machine's own files and no others
  check() {
    test "$(cat /sys/module/apparmor/parameters/enabled)" = Y &&
    grep --word-regexp apparmor /sys/kernel/security/lsm
  }
  demand 'the kernel enforces AppArmor' 'start the kernel with apparmor=1 security=apparmor; host-harden does that on a machine of its own'

  # 3/13 the host has 4 processors, and memory for 8192 MiB of virtual machines
  check() { vm_cores 4 && vm_memory 8192; }
  demand 'the host has 4 processors, and memory for 8192 MiB of virtual machines' 'ask for less: vm.memory and vm.cpus in the site document, or FK_VM_RAM_MB and FK_VM_VCPUS'

  # 4/13 nothing else uses the bridge virbr-fort or the addresses 10.77.0.0/24
  check() { vm_bridge_free virbr-fort 10.77.0.0/24 && vm_net_free fortress; }
  demand 'nothing else uses the bridge virbr-fort or the addresses 10.77.0.0/24' 'choose another network or bridge under networks: in the site document, or remove what is there: virsh net-undefine fortress'

  # 5/13 KVM, QEMU and libvirt are installed
  check() {
    dpkg-query --show --showformat='${db:Status-Status} ${Package}\n' libvirt-daemon-system libvirt-clients dnsmasq-base qemu-utils qemu-system-x86 ovmf apparmor xsltproc openssh-client |
    awk '$1 != "installed" { print "not installed:", $2; missing = 1 } END { exit missing }'
  }
  apply() {
    apt_get update
    apt_get --no-install-recommends install libvirt-daemon-system libvirt-clients dnsmasq-base qemu-utils qemu-system-x86 ovmf apparmor xsltproc openssh-client
  }
  change 'KVM, QEMU and libvirt are installed'

  # 6/13 nested virtualization is off
  #   O10 Nested virtualisation is off [KVM documentation]
  check() {
    put_matches /etc/modprobe.d/fortress-kvm.conf 377fba3463960b8fc40552c49bea3d2ee79c20ac8e7e25fd5ab353f79ac4f9ec 644 root:root
  }
  apply() {
    put /etc/modprobe.d/fortress-kvm.conf 644 root:root << 'FORTRESS'
# Nested virtualization. Each level is more code that a virtual machine can attack.
options kvm_intel nested=0
options kvm_amd nested=0
FORTRESS
    (
      for module in kvm_intel kvm_amd; do
        if grep "^$module " /proc/modules > /dev/null && modprobe --remove "$module" 2> /dev/null; then
          modprobe "$module"
        fi
      done
    )
    put_finish /etc/modprobe.d/fortress-kvm.conf
  }
  recover() {
    put_restore /etc/modprobe.d/fortress-kvm.conf
    { for module in kvm_intel kvm_amd; do
      if grep "^$module " /proc/modules > /dev/null && modprobe --remove "$module" 2> /dev/null; then
        modprobe "$module"
      fi
    done
    } || true # the old file was good for it once
  }
  change 'nested virtualization is off'

  # 7/13 AppArmor lets virt-aa-helper read the files of a virtual machine
  #   why: libvirt looks at them when it writes the AppArmor profile of a virtual machine
  check() {
    put_matches /etc/apparmor.d/local/usr.lib.libvirt.virt-aa-helper 0573704a505331b395aff699af621e512f55948640ae8a36fda2822c0d871c81 644 root:root
  }
  apply() {
    put /etc/apparmor.d/local/usr.lib.libvirt.virt-aa-helper 644 root:root << 'FORTRESS'
# The helper that writes the AppArmor profile of each virtual machine has a profile itself, and may read the files that it allows.
/var/lib/libvirt/fortress/ r,
/var/lib/libvirt/fortress/** r,
FORTRESS
    apparmor_parser --replace /etc/apparmor.d/usr.lib.libvirt.virt-aa-helper
    put_finish /etc/apparmor.d/local/usr.lib.libvirt.virt-aa-helper
  }
  recover() {
    put_restore /etc/apparmor.d/local/usr.lib.libvirt.virt-aa-helper
    { apparmor_parser --replace /etc/apparmor.d/usr.lib.libvirt.virt-aa-helper
    } || true # the old file was good for it once
  }
  change 'AppArmor lets virt-aa-helper read the files of a virtual machine'

  # 8/13 qemu.conf lets no virtual machine run unconfined, as root, or with capabilities
  #   O18 libvirt confines by AppArmor, and starts nothing that it cannot confine [NIST SP 800-125A, libvirt sVirt]
  check() {
    put_matches /etc/libvirt/qemu.conf 101e413897ab7309d2d73f02f47cc0b6adc27795305107daf6cb86c0e77ce42e 600 root:root
  }
  apply() {
    put /etc/libvirt/qemu.conf 600 root:root << 'FORTRESS'
# How libvirt runs all virtual machines of this host. Each setting is explicit, although some are today's default.

# No virtual machine runs unconfined: each QEMU gets an AppArmor profile of its own, named after its UUID.
security_driver = "apparmor"
security_default_confined = 1
security_require_confined = 1

# Not root, without capabilities, with few system calls, and with a /dev of its own that holds what the machine needs.
user = "libvirt-qemu"
group = "libvirt-qemu"
dynamic_ownership = 1
remember_owner = 1
clear_emulator_capabilities = 1
seccomp_sandbox = 1
namespaces = [ "mount" ]

# Limits that the kernel enforces, and no devices beyond these and the machine's own disks.
cgroup_controllers = [ "cpu", "devices", "memory", "blkio", "cpuset", "cpuacct" ]
cgroup_device_acl = [ "/dev/null", "/dev/full", "/dev/zero", "/dev/random", "/dev/urandom", "/dev/ptmx", "/dev/kvm" ]
max_processes = 4096
max_core = 0

# Console output goes through virtlogd, which limits it; a graphical console, if there is one, has a socket and no port.
stdio_handler = "logd"
vnc_auto_unix_socket = 1
FORTRESS
    systemctl restart libvirtd.service
    put_finish /etc/libvirt/qemu.conf
  }
  recover() {
    put_restore /etc/libvirt/qemu.conf
    { systemctl restart libvirtd.service
    } || true # the old file was good for it once
  }
  change 'qemu.conf lets no virtual machine run unconfined, as root, or with capabilities'

  # 9/13 libvirtd runs, without TCP and TLS, for root alone
  #   O05 libvirt has no port, and nobody is in its group [NIST SP 800-125A]
  #   O11 Guests share no memory (KSM) [NIST SP 800-125A]
  check() {
    systemctl --quiet is-active libvirtd.socket &&
    systemctl --quiet is-enabled libvirtd.socket libvirtd.service &&
    test "$(systemctl show --property=LoadState --value libvirtd-tcp.socket)" = masked &&
    test "$(systemctl show --property=LoadState --value libvirtd-tls.socket)" = masked
  }
  apply() {
    systemctl mask --now libvirtd-tcp.socket libvirtd-tls.socket
    systemctl enable libvirtd.service libvirtd.socket virtlogd.socket
    systemctl start virtlogd.socket libvirtd.socket
    for user in $(getent group libvirt | cut --delimiter=: --fields=4 | tr , ' '); do
      gpasswd --delete "$user" libvirt
    done
  }
  change 'libvirtd runs, without TCP and TLS, for root alone'

  # 10/13 /var/lib/libvirt/fortress belongs to root, and others cannot list it
  check() {
    test "$(stat --format='%F %a %U:%G' /var/lib/libvirt/fortress)" = 'directory 711 root:root'
  }
  apply() { install --directory --mode=711 --owner=root --group=root /var/lib/libvirt/fortress; }
  change '/var/lib/libvirt/fortress belongs to root, and others cannot list it'

  # 11/13 libvirt's default network is off
  #   why: it would give addresses and a way out to whatever is plugged into it
  check() {
    ! virsh net-list --name | grep --line-regexp default > /dev/null ||
    virsh net-port-list default | grep '[0-9a-f]-' > /dev/null
  }
  apply() {
    virsh net-destroy default
    virsh net-autostart default --disable
  }
  change 'libvirt'\''s default network is off'

  # 12/13 network XML for the virtual machines is written
  check() {
    put_matches /etc/fortress/vm/network.xml b63bc78cdc17a69b3ff496f11cf8e7cc614c33019953b4f4774df6347a5ece4a 600 root:root
  }
  apply() {
    put /etc/fortress/vm/network.xml 600 root:root 'virt-xml-validate "$new" network' << 'FORTRESS'
<network>
  <name>fortress</name>
  <uuid>71dafe79-99c7-536f-81a5-44519f09a3fe</uuid>
  <metadata>
    <fortress:owner site="fortress" xmlns:fortress="urn:fortress-kit:domain"/>
  </metadata>
  <forward mode="open"/>
  <bridge name="virbr-fort" stp="off" delay="0"/>
  <mac address="52:54:00:71:da:fe"/>
  <ip address="10.77.0.1" prefix="24">
    <dhcp>
      <host mac="52:54:00:a0:62:12" name="fortress-node" ip="10.77.0.2"/>
    </dhcp>
  </ip>
</network>
FORTRESS
    put_finish /etc/fortress/vm/network.xml
  }
  recover() { put_restore /etc/fortress/vm/network.xml; }
  change 'network XML for the virtual machines is written'

  # 13/13 the network of the virtual machines is up: 10.77.0.0/24 behind virbr-fort
  #   why: libvirt gives names and addresses there and no rules; host-firewall decides what passes
  #   O09 The virtual machines have a bridge of their own, which no cable is plugged into [NIST SP 800-125B]
  check() { vm_net /etc/fortress/vm/network.xml; }
  apply() {
    virsh net-define --validate /etc/fortress/vm/network.xml
    virsh net-autostart fortress
    (
      virsh net-dumpxml fortress > "$FK_TMP/net.xml" 2> /dev/null || true # it does not run yet
      if virsh net-list --name | grep --line-regexp fortress > /dev/null &&
        ! vm_differs /etc/fortress/vm/network.xml "$FK_TMP/net.xml" > /dev/null; then
        virsh net-destroy fortress
      fi
    )
    virsh net-list --name | grep --line-regexp fortress > /dev/null || virsh net-start fortress
    [ "$(cat /proc/sys/net/ipv4/ip_forward)" = 1 ] || sysctl --quiet --write net.ipv4.ip_forward=1
    (
      for name in $(virsh list --name); do
        for card in $(virsh domiflist "$name" | awk '$3 == "fortress" { print $1 }'); do
          ip link set dev "$card" master virbr-fort
          ! virsh dumpxml "$name" | grep "isolated='yes'" > /dev/null || bridge link set dev "$card" isolated on
        done
      done
    )
  }
  change 'the network of the virtual machines is up: 10.77.0.0/24 behind virbr-fort'
}

# What main uses.
# from lib/vm/domain.sh: vm_no vm_facts vm_sift vm_differs vm_memory vm_cores
# from lib/engine/shell/put.sh: FK_STATE put put_owner put_finish put_finished put_restore put_matches
# from lib/engine/shell/snapshot.sh: record_before
# from lib/engine/shell/apt.sh: apt_get apt_says
# from lib/engine/shell/printed.sh: FK_OUT FK_RC FK_TX FK_VISIT FK_ARM FK_BACK FK_TMP begin lock usage recover holds
# from lib/engine/shell/printed.sh: change demand fail
cat > "$FK_TMP/facts.xsl" << 'XSL'
<!--
  The facts of a libvirt XML, one a line, in no order: path/@attribute=value or path=text. Two machines are the same when
  their facts are. Devices are identified by what they are for the guest, and a machine type by its family, because libvirt
  writes down which version of q35 it took.
-->
<xsl:stylesheet version="1.0" xmlns:xsl="http://www.w3.org/1999/XSL/Transform">
  <xsl:output method="text"/>
  <xsl:strip-space elements="*"/>

  <xsl:template match="*">
    <xsl:param name="above"/>
    <xsl:variable name="here">
      <xsl:value-of select="concat($above, local-name())"/>
      <xsl:choose>
        <xsl:when test="self::disk">[<xsl:value-of select="target/@dev"/>]</xsl:when>
        <xsl:when test="self::interface">[<xsl:value-of select="mac/@address"/>]</xsl:when>
        <xsl:when test="self::controller">[<xsl:value-of select="concat(@type, ' ', @index)"/>]</xsl:when>
        <xsl:when test="self::input or self::audio">[<xsl:value-of select="concat(@type, ' ', @bus)"/>]</xsl:when>
        <xsl:when test="self::feature or self::entry">[<xsl:value-of select="@name"/>]</xsl:when>
        <xsl:when test="self::seclabel">[<xsl:value-of select="concat(@model, ' ', @type)"/>]</xsl:when>
        <xsl:when test="self::host">[<xsl:value-of select="@mac"/>]</xsl:when>
        <xsl:when test="preceding-sibling::*[name() = name(current())]">[<xsl:number/>]</xsl:when>
      </xsl:choose>
    </xsl:variable>
    <xsl:if test="not(@* | * | text())">
      <xsl:value-of select="concat($here, '&#10;')"/>
    </xsl:if>
    <xsl:for-each select="@*">
      <xsl:value-of select="concat($here, '/@', local-name(), '=')"/>
      <xsl:choose>
        <xsl:when test="local-name() = 'machine' and starts-with(., 'pc-q35-')">q35</xsl:when>
        <xsl:when test="local-name() = 'machine' and starts-with(., 'virt-')">virt</xsl:when>
        <xsl:otherwise><xsl:value-of select="."/></xsl:otherwise>
      </xsl:choose>
      <xsl:text>&#10;</xsl:text>
    </xsl:for-each>
    <xsl:for-each select="text()">
      <xsl:value-of select="concat($here, '=', normalize-space(.), '&#10;')"/>
    </xsl:for-each>
    <xsl:apply-templates select="*">
      <xsl:with-param name="above" select="concat($here, '/')"/>
    </xsl:apply-templates>
  </xsl:template>
</xsl:stylesheet>
XSL

main "$@"
