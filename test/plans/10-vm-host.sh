#!/bin/bash
# 10-vm-host: KVM and libvirt on the host, so that virtual machines run confined by AppArmor, on a bridge of their own.
#
# Run it as root on the machine. Each step asks first and changes only what does not hold.
set -euo pipefail
[ "$(id --user)" -eq 0 ] || { echo "this script needs root" >&2; exit 1; }

# keep PATH: only the task runner records what was there before; a printed page does not take back.
keep() { :; }
export -f keep
saved() { [ -e "$FK_STATE/saved-$1-$2" ]; }
FK_TMP=$(mktemp --directory)
export FK_TMP
# Files land whole or not at all. These functions travel with every program and stand at the top of every printed script.
: "${FK_STATE:=/var/lib/fortress}"

# put PATH MODE OWNER [TEST]: standard input becomes PATH. TEST is bash and sees the candidate as $new.
# The old file waits in pending/ until `settle PATH`, so that a run killed before its reload does not look finished.
put() {
  local path=$1 mode=$2 owner=$3 test=${4-} new pending
  new=$(dirname "$path")/.$(basename "$path").fortress
  pending=$FK_STATE/pending/${path//\//%}
  keep "$path"
  [ -d "$(dirname "$path")" ] || install --directory --mode=755 "$(dirname "$path")"
  if ! { (umask 077 && cat > "$new") && chown "$owner" "$new" && chmod "$mode" "$new" &&
    { [ -z "$test" ] || new=$new bash -euo pipefail -c "$test"; } && sync "$new"; }; then
    rm --force "$new"
    return 1
  fi
  if [ ! -e "$pending" ]; then
    install --directory --mode=700 "$pending.part"
    if [ -e "$path" ] || [ -L "$path" ]; then cp --archive "$path" "$pending.part/old"; fi
    sync "$pending.part"
    mv --no-target-directory "$pending.part" "$pending"
  fi
  mv --force --no-target-directory "$new" "$path"
  sync "$(dirname "$path")"
}

# settle PATH: what had to follow the file has followed.
settle() { rm --recursive --force "$FK_STATE/pending/${1//\//%}" "$FK_STATE/pending/${1//\//%}.part"; }

# settled PATH: no change of PATH waits for what has to follow it.
settled() { [ ! -e "$FK_STATE/pending/${1//\//%}" ]; }

# putback PATH: the file that `put` replaced returns.
putback() {
  local pending=$FK_STATE/pending/${1//\//%}
  [ -d "$pending" ] || return 0
  if [ -e "$pending/old" ] || [ -L "$pending/old" ]; then
    mv --force --no-target-directory "$pending/old" "$1"
  else
    rm --force "$1"
  fi
  settle "$1"
}

# arrived PATH: FK_PART is the file beside PATH that was sent for it, and FK_DIGEST what the sender has proven of it; a file that
# is another is deleted. FK_SENT has a line for everything that was sent: digest, path.
arrived() {
  FK_DIGEST=$(awk -v path="$1" '{ d = $1; sub(/^[^ ]* /, "") } $0 == path { print d }' <<< "$FK_SENT")
  [ -n "$FK_DIGEST" ] || { echo "nothing was sent for $1" >&2; return 1; }
  FK_PART=$(dirname "$1")/.$(basename "$1").${FK_DIGEST:0:16}.part
  printf '%s  %s\n' "$FK_DIGEST" "$FK_PART" | sha256sum --check --status || {
    rm --force "$FK_PART"
    echo "what arrived for $1 is not what was sent; it is deleted, and sent again by the next run" >&2
    return 1
  }
}

# landed PATH SHA256 MODE OWNER: PATH has this content, and nothing is left to follow; 2 says that only mode or owner are others.
landed() {
  local is
  [[ ${FK_LANDED-} != *$'\n'"$*"$'\n'* ]] || return 0 # asked for all files at once, and nothing has changed since
  settled "$1" && [ -f "$1" ] && [ ! -L "$1" ] && printf '%s  %s\n' "$2" "$1" | sha256sum --check --status || return 1
  is=$(stat --format='%a %U:%G' "$1")
  [ "$is" = "$3 $4" ] || { printf 'mode and owner are %s, and should be %s %s\n' "$is" "$3" "$4"; return 2; }
}
export -f put settle settled putback arrived landed
export FK_STATE

# What several checks below look at.
# The virtual machines of a host: what is asked of libvirt about them, and the few things that are done to them. Everything
# that says no prints why.
#
#   /var/lib/libvirt/fortress   what QEMU reads and writes: NAME.qcow2, NAME.vars.fd, NAME.ign or NAME.cidata
#   /etc/fortress/vm            what was declared: NAME.xml, network.xml, the key that each node answers with, or ours for Talos
#   /var/lib/fortress/vm        notes: NAME.trial while a machine is on trial, NAME.back that takes the trial back
VM_DIR=/var/lib/libvirt/fortress VM_DECLARED=/etc/fortress/vm VM_NOTES=/var/lib/fortress/vm VM_MARK=urn:fortress-kit:domain
LIBVIRT_DEFAULT_URI=qemu:///system
export VM_DIR VM_DECLARED VM_NOTES VM_MARK LIBVIRT_DEFAULT_URI

vm_no() {
  printf '%s\n' "$*"
  return 1
}

# vm_facts: an XML of libvirt on standard input, as sorted lines.
vm_facts() { xsltproc --nonet "$FK_TMP/facts.xsl" - | LC_ALL=C sort; }

# vm_sift: without what libvirt adds to a machine or a network by itself: where things are plugged in, how they are called, and
# the few devices that its kind of board always has.
vm_sift() {
  grep --invert-match --extended-regexp \
    -e '^(domain|network)/@(id|connections|ipv6)=' -e '/alias/@name=' -e '/devices/[^/]*/address/@' -e '/backingStore$' \
    -e '^domain/devices/controller\[(pci|sata|virtio-serial) [0-9]+\]/' -e '^domain/devices/(input\[(mouse|keyboard) ps2\]|audio\[none \])' \
    -e '^domain/devices/watchdog/@(model=itco|action=reset)$' \
    -e '^domain/devices/disk\[vd[abc]\]/source/@index=' -e '^domain/devices/interface\[[^]]*\]/(target/@dev=vnet|source/@(portid|bridge)=)' \
    -e '^domain/devices/console/(@tty=|source/@path=/dev/pts/)' -e '^domain/os/(loader|nvram)/@(format|templateFormat|secure|stateless|type)=(raw|no|file)$' \
    -e '^domain/os/(@firmware=efi|firmware/feature\[(enrolled-keys|secure-boot)\]/@(enabled=no|name=.*))$' \
    -e '^domain/cpu/@(check=none|migratable=on)$' -e '^domain/features/gic/@version=' -e '^domain/resource/partition=/machine$' \
    -e '^domain/seclabel\[(apparmor|dac) dynamic\]/' -e '^network/(forward|bridge)/@(dev|macTableManager)='
}

# vm_differs DECLARED ACTUAL: two files, compared by what they say. Prints what one has and the other has not.
vm_differs() {
  local lines
  vm_facts < "$1" > "$FK_TMP/declared.facts" && [ -s "$FK_TMP/declared.facts" ] || vm_no "$1 cannot be read" || return
  vm_facts < "$2" > "$FK_TMP/actual.facts" && [ -s "$FK_TMP/actual.facts" ] || vm_no "$2 cannot be read" || return
  lines=$(LC_ALL=C comm -3 "$FK_TMP/declared.facts" <(vm_sift < "$FK_TMP/actual.facts") | sed 's/^\t/is        /; t; s/^/should be /')
  [ -z "$lines" ] || vm_no "$lines"
}

# vm_mark NAME [SITE]: the mark of its owner, or the question whether it is this site's.
vm_mark() {
  local mark
  mark=$(virsh metadata "$1" --uri "$VM_MARK" 2> /dev/null) || true # none: somebody else's
  if [ $# -eq 1 ]; then printf '%s\n' "$mark"; else [[ $mark == *" site=\"$2\""* || $mark == *" site='$2'"* ]]; fi
}

# vm_free NAME UUID SITE: nobody has this name or UUID, or it is this site's own machine.
vm_free() {
  local uuid name
  uuid=$(virsh domuuid "$1" 2> /dev/null | head --lines=1) || true # nobody is called that
  name=$(virsh domname "$2" 2> /dev/null | head --lines=1) || true
  [ -n "$uuid$name" ] || return 0
  [ "$name" = "$1" ] || [ -z "$name" ] || vm_no "the machine $name has the UUID $2" || return
  [ "$uuid" = "$2" ] && vm_mark "$1" "$3" || vm_no "there is a machine $1 that is not of the site $3: $(virsh domstate "$1" | head --lines=1), UUID $uuid"
}

# vm_memory MIB: beside it there is a GiB for QEMU, and one for the host.
vm_memory() {
  awk -v want="$1" '/^MemTotal:/ && int($2 / 1024) < want + 2048 {
    print "the host has", int($2 / 1024), "MiB, and needs 2048 beside the", want, "for guests"; bad = 1 } END { exit bad }' /proc/meminfo
}

# vm_cores N
vm_cores() { [ "$(nproc)" -ge "$1" ] || vm_no "the host has $(nproc) processors, and $1 are asked for"; }

# vm_disk NAME: where its system lies.
vm_disk() { printf '%s/%s.qcow2\n' "$VM_DIR" "$1"; }

vm_stop() {
  local second
  [ "$(virsh domstate "$1" 2> /dev/null)" = running ] || return 0
  virsh shutdown "$1" > /dev/null
  for second in $(seq 120); do
    [ "$(virsh domstate "$1" 2> /dev/null)" = running ] || return 0
    sleep 1
  done
  echo "it did not shut down in $second s, so its power was taken"
  virsh destroy "$1" > /dev/null
}

# vm_gone NAME: nothing of it is left on the host.
vm_gone() {
  ! virsh domuuid "$1" 2> /dev/null | grep . || return
  ! find "$VM_DIR" "$VM_NOTES" -name "$1.*" 2> /dev/null | grep .
}

# vm_destroy NAME UUID SITE: the machine and its disk go; the vault and the base image stay.
vm_destroy() {
  vm_free "$1" "$2" "$3"
  systemctl stop "fortress-trial-$1.timer" 2> /dev/null || true # it is on no trial
  vm_stop "$1"
  if virsh domuuid "$1" > /dev/null 2>&1; then virsh undefine "$1" --nvram; fi
  find "$VM_DIR" "$VM_NOTES" -name "$1.*" -delete
}

# vm_rebuild NAME WHEN: its disk is set aside, so that the next start makes a new one of the base image. It is kept until the
# next time. WHEN tells this time from others, and is noted last.
vm_rebuild() {
  local disk
  disk=$(vm_disk "$1")
  install --directory --mode=700 "$VM_NOTES"
  vm_stop "$1"
  # Talos may begin its etcd again.
  rm --force "$VM_NOTES/$1.bootstrapped"
  if [ ! -e "$disk" ]; then
    printf '%s\n' "$2" > "$VM_NOTES/$1.rebuilt"
    return
  fi
  rm --force "$disk.previous"
  date --iso-8601=seconds > "$VM_NOTES/$1.rebuilding"
  mv --force --no-target-directory "$disk" "$disk.previous"
  rm --force "$VM_DIR/$1.vars.fd"
  printf '%s\n' "$2" > "$VM_NOTES/$1.rebuilt"
}

export -f vm_no vm_facts vm_sift vm_differs vm_mark vm_free vm_memory vm_cores vm_disk vm_stop vm_gone vm_destroy vm_rebuild
cat > "$FK_TMP/facts.xsl" << 'XSL'
<!--
  What an XML of libvirt says, one fact a line, in no order: path/@attribute=value or path=text. Two machines are the same when
  their facts are. Devices are told apart by what they are for the guest, and a machine type by its family, because libvirt
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
if ! { vm_virtualises x86_64; } > /dev/null 2>&1; then
  echo 'the processor supports virtualization (VT-x or AMD-V), and the firmware allows it: no' >&2
  echo '  switch on Intel VT-x or AMD-V (SVM mode) in the firmware'\''s setup, and power the machine off and on once.' >&2
  echo '  In a virtual machine: let its own host pass virtualisation on.' >&2
  echo '  To see it work without, twenty times slower: FK_VM_ACCEL=tcg' >&2
  exit 1
fi

# 2/13 the kernel enforces AppArmor
#   why: a guest that breaks out of QEMU finds itself in a profile that knows this machine's own files and no others
if ! {
  test "$(cat /sys/module/apparmor/parameters/enabled)" = Y &&
  grep --word-regexp apparmor /sys/kernel/security/lsm
} > /dev/null 2>&1; then
  echo 'the kernel enforces AppArmor: no' >&2
  echo '  start the kernel with apparmor=1 security=apparmor; host-harden does that on a machine of its own' >&2
  exit 1
fi

# 3/13 the host has 4 processors, and memory for 8192 MiB of virtual machine
if ! { vm_cores 4 && vm_memory 8192; } > /dev/null 2>&1; then
  echo 'the host has 4 processors, and memory for 8192 MiB of virtual machine: no' >&2
  echo '  ask for less: FK_VM_RAM_MB and FK_VM_VCPUS' >&2
  exit 1
fi

# 4/13 nothing else uses the bridge virbr-fort or the addresses 10.77.0.0/24
if ! { vm_bridge_free virbr-fort 10.77.0.0/24 && vm_net_free fortress; } > /dev/null 2>&1; then
  echo 'nothing else uses the bridge virbr-fort or the addresses 10.77.0.0/24: no' >&2
  echo '  choose another nodes.bridge or nodes.network in the site document, or remove what is there: virsh net-undefine fortress' >&2
  exit 1
fi

# 5/13 KVM, QEMU and libvirt are installed
if ! {
  dpkg-query --show --showformat='${db:Status-Status} ${Package}\n' libvirt-daemon-system libvirt-clients dnsmasq-base qemu-utils qemu-system-x86 ovmf apparmor xsltproc openssh-client |
  awk '$1 != "installed" { print "not installed:", $2; missing = 1 } END { exit missing }'
} > /dev/null 2>&1; then
  apt-get --quiet=2 update
  DEBIAN_FRONTEND=noninteractive apt-get --quiet=2 --yes --no-install-recommends install libvirt-daemon-system libvirt-clients dnsmasq-base qemu-utils qemu-system-x86 ovmf apparmor xsltproc openssh-client
fi

# 6/13 nested virtualization is off
#   O10 Nested virtualisation is off [KVM documentation]
if ! { landed /etc/modprobe.d/fortress-kvm.conf 8b0b6de127edc2c62f1638b80f187d1326ae7446f0e1fb0435d2d9d67f507293 644 root:root; } > /dev/null 2>&1; then
  put /etc/modprobe.d/fortress-kvm.conf 644 root:root << 'FORTRESS'
# Whether virtual machines may have machines inside. Each level is more code between a guest and the host.
options kvm_intel nested=0
options kvm_amd nested=0
FORTRESS
  for module in kvm_intel kvm_amd; do
    if grep "^$module " /proc/modules > /dev/null && modprobe --remove "$module" 2> /dev/null; then
      modprobe "$module"
    fi
  done
  settle /etc/modprobe.d/fortress-kvm.conf
fi

# 7/13 AppArmor lets virt-aa-helper read the files of a virtual machine
#   why: libvirt looks at them when it writes the AppArmor profile of a virtual machine
if ! { landed /etc/apparmor.d/local/usr.lib.libvirt.virt-aa-helper 25283970a0901f03ac6c9d1f7e73203d8e295432064705f1f963f0697f793749 644 root:root; } > /dev/null 2>&1; then
  put /etc/apparmor.d/local/usr.lib.libvirt.virt-aa-helper 644 root:root << 'FORTRESS'
# The helper that writes each machine's AppArmor profile has one itself, and may look at what it allows the machine to read.
/var/lib/libvirt/fortress/ r,
/var/lib/libvirt/fortress/** r,
FORTRESS
  apparmor_parser --replace /etc/apparmor.d/usr.lib.libvirt.virt-aa-helper
  settle /etc/apparmor.d/local/usr.lib.libvirt.virt-aa-helper
fi

# 8/13 qemu.conf lets no virtual machine run unconfined, as root, or with capabilities
#   O18 libvirt confines by AppArmor, and starts nothing that it cannot confine [NIST SP 800-125A, libvirt sVirt]
if ! { landed /etc/libvirt/qemu.conf d0f71c88281aa9b149de86afe25786f11faf1eb43e4b5c3e8d1cc5e41bfe9cac 600 root:root; } > /dev/null 2>&1; then
  put /etc/libvirt/qemu.conf 600 root:root << 'FORTRESS'
# How libvirt runs every machine of this host. Each line is written down although some are the default today.

# No machine runs unconfined: each QEMU gets an AppArmor profile of its own, named after its UUID.
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
cgroup_device_acl = [ "/dev/null", "/dev/full", "/dev/zero", "/dev/random", "/dev/urandom", "/dev/ptmx", "/dev/kvm", "/dev/userfaultfd" ]
max_processes = 4096
max_core = 0

# What a guest prints goes through a daemon that limits it; a graphical console, should there ever be one, gets a socket and no port.
stdio_handler = "logd"
vnc_auto_unix_socket = 1
FORTRESS
  systemctl restart libvirtd.service
  settle /etc/libvirt/qemu.conf
fi

# 9/13 libvirtd runs, without TCP and TLS, for root alone
#   O05 libvirt has no port, and nobody is in its group [NIST SP 800-125A]
#   O11 Guests share no memory (KSM) [NIST SP 800-125A]
if ! {
  systemctl --quiet is-active libvirtd.socket &&
  systemctl --quiet is-enabled libvirtd.socket libvirtd.service &&
  test "$(systemctl show --property=LoadState --value libvirtd-tcp.socket)" = masked &&
  test "$(systemctl show --property=LoadState --value libvirtd-tls.socket)" = masked
} > /dev/null 2>&1; then
  systemctl mask --now libvirtd-tcp.socket libvirtd-tls.socket
  systemctl enable libvirtd.service libvirtd.socket virtlogd.socket
  systemctl start virtlogd.socket libvirtd.socket
  for user in $(getent group libvirt | cut --delimiter=: --fields=4 | tr , ' '); do
    gpasswd --delete "$user" libvirt
  done
fi

# 10/13 /var/lib/libvirt/fortress belongs to root, and others cannot list it
if ! { test "$(stat --format='%F %a %U:%G' /var/lib/libvirt/fortress)" = 'directory 711 root:root'; } > /dev/null 2>&1; then
  install --directory --mode=711 --owner=root --group=root /var/lib/libvirt/fortress
fi

# 11/13 libvirt's default network is off
#   why: it would give addresses and a way out to whatever is plugged into it
if ! {
  ! virsh net-list --name | grep --line-regexp default > /dev/null ||
  virsh net-port-list default | grep '[0-9a-f]-' > /dev/null
} > /dev/null 2>&1; then
  virsh net-destroy default
  virsh net-autostart default --disable
fi

# 12/13 network XML for the virtual machines is written
if ! { landed /etc/fortress/vm/network.xml b63bc78cdc17a69b3ff496f11cf8e7cc614c33019953b4f4774df6347a5ece4a 600 root:root; } > /dev/null 2>&1; then
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
  settle /etc/fortress/vm/network.xml
fi

# 13/13 the network of the virtual machines is up: 10.77.0.0/24 behind virbr-fort
#   why: libvirt gives names and addresses there and no rules; host-firewall decides what passes
#   O09 The virtual machines have a bridge of their own, which no cable is plugged into [NIST SP 800-125B]
if ! { vm_net /etc/fortress/vm/network.xml; } > /dev/null 2>&1; then
  virsh net-define --validate /etc/fortress/vm/network.xml
  virsh net-autostart fortress
  virsh net-dumpxml fortress > "$FK_TMP/net.xml" 2> /dev/null || true # it does not run yet
  if virsh net-list --name | grep --line-regexp fortress > /dev/null &&
    ! vm_differs /etc/fortress/vm/network.xml "$FK_TMP/net.xml" > /dev/null; then
    virsh net-destroy fortress
  fi
  virsh net-list --name | grep --line-regexp fortress > /dev/null || virsh net-start fortress
  [ "$(cat /proc/sys/net/ipv4/ip_forward)" = 1 ] || sysctl --quiet --write net.ipv4.ip_forward=1
  for name in $(virsh list --name); do
    for card in $(virsh domiflist "$name" | awk '$3 == "fortress" { print $1 }'); do
      ip link set dev "$card" master virbr-fort
      ! virsh dumpxml "$name" | grep "isolated='yes'" > /dev/null || bridge link set dev "$card" isolated on
    done
  done
fi
