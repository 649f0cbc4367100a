#!/bin/bash
# 13-vm-provision: An immutable system in a virtual machine of its own, confined by AppArmor, and kept only when it has answered.
#
# Run it as root on fortress:
#   FK_SECRETS=DIR bash 13-vm-provision.sh
# It has 12 steps. Each checks first, and changes only what does not hold.
# It keeps no record, so undo cannot take it back. It checks no controls: verify does.
# FK_SECRETS is a directory with one file for each of these secrets, as the machine gets it:
#   fortress-node-known-hosts
# shellcheck disable=SC2034 # functions read what is set here
set -euo pipefail
FK_PAGE=13-vm-provision FK_FILE=13-vm-provision.sh
export FK_PAGE FK_FILE

main() {
  case ${1-} in '') ;; *) usage ;; esac
  begin
  # vm_declared NAME: the domain XML that holds. Once the storage layer has plugged the vault in, that with the vault.
  vm_declared() {
    local when facts
    for when in '' --inactive; do
      # shellcheck disable=SC2086 # nothing, or one word
      facts=$(virsh dumpxml "$1" $when 2> /dev/null | vm_facts 2> /dev/null) || continue # there is no such machine yet
      if [ -e "$VM_DECLARED/$1-with-vault.xml" ] &&
        printf '%s\n' "$facts" | grep '^domain/devices/disk\[vdb\]/source/@dev=' > /dev/null; then
        printf '%s\n' "$VM_DECLARED/$1-with-vault.xml"
        return
      fi
    done
    printf '%s\n' "$VM_DECLARED/$1.xml"
  }

  # vm_on NAME: it runs.
  vm_on() {
    local state
    state=$(virsh domstate "$1" 2>&1 | head --lines=1) || true # the sentence says it
    [ "$state" = running ] || vm_no "it does not run: $state"
  }

  vm_defined() { virsh list --all --persistent --name | grep --line-regexp --fixed-strings -e "$1" > /dev/null; }

  # vm_kept NAME: what libvirt would start after a boot of the host is what was declared, and it would start it.
  vm_kept() {
    vm_defined "$1" || vm_no "it is not defined: after a boot of the host it would be gone" || return
    virsh dumpxml "$1" --inactive > "$FK_TMP/$1.kept.xml" &&
      vm_differs "$(vm_declared "$1")" "$FK_TMP/$1.kept.xml" || return
    virsh dominfo "$1" | grep --extended-regexp '^Autostart: +enable$' > /dev/null ||
      vm_no 'it does not start with the host' || return
    [ ! -e "$VM_NOTES/$1.trial" ] || vm_no 'it is on trial'
  }

  # vm_answers NAME ADDRESS: whoever has this address holds the host key that was made for the node, and its first boot is
  # complete: Ignition's report is what sshd says before it asks who is there. Nobody logs in.
  vm_answers() {
    local said
    vm_on "$1" || return # nobody is waited for who cannot answer
    said=$(timeout 30 ssh -F none -T -l core -o BatchMode=yes -o StrictHostKeyChecking=yes \
      -o UserKnownHostsFile="$VM_DECLARED/$1.known_hosts" -o GlobalKnownHostsFile=/dev/null \
      -o HostKeyAlgorithms=ssh-ed25519 -o IdentityAgent=none -o PubkeyAuthentication=no \
      -o PreferredAuthentications=none -o ConnectTimeout=5 "$2" true < /dev/null 2>&1) || true # it never lets us in
    [[ $said == *'Permission denied'* ]] ||
      vm_no "$(printf '%s\n' "${said:-$2 is silent}" | tail --lines=1)" || return
    printf '%s\n' "$said" | grep --extended-regexp '"userConfigProvided": *true' > /dev/null ||
      vm_no 'it answers with its key, and shows no complete report of Ignition'
  }

  # vm_talks NAME: Talos answers, with a certificate of the authority that was made for it, to the one that it knows.
  vm_talks() {
    local said
    vm_on "$1" || return
    said=$(timeout 30 talosctl --talosconfig "$VM_DECLARED/$1.talosconfig" version 2>&1) ||
      vm_no "$(printf '%s\n' "$said" | tail --lines=1)"
  }

  export -f vm_declared vm_on vm_defined vm_kept vm_answers vm_talks
  vm_disk_bytes() {
    qemu-img info --force-share --output=json "$(vm_disk "$1")" | awk -F '[:, ]+' '/^    "virtual-size"/ { print $3 }'
  }

  # vm_disk_room NAME GIB: it is not asked to shrink its disk, and there is room for all that the file may still grow.
  vm_disk_room() {
    local dir=$VM_DIR free have=0
    if [ -e "$(vm_disk "$1")" ]; then
      have=$(($(vm_disk_bytes "$1") / 1073741824))
      [ "$have" -le "$2" ] || vm_no "the disk has $have GiB, and a disk is never made smaller: vm.disk: $have" || return
      have=$(($(stat --format='%b * %B' "$(vm_disk "$1")") / 1073741824))
    fi
    while [ ! -d "$dir" ]; do dir=$(dirname "$dir"); done
    free=$(($(df --output=avail --block-size=1073741824 "$dir" | tail --lines=1)))
    # A file that has the snapshot of a trial may be larger than its disk.
    [ "$free" -ge $(($2 - have)) ] || vm_no "$free GiB are free in $dir, and the disk may grow from $have to $2"
  }

  # vm_disk_is NAME GIB: a qcow2 file of this size that stands on no other.
  vm_disk_is() {
    local disk
    disk=$(vm_disk "$1")
    [ -f "$disk" ] || vm_no "$disk is not there" || return
    qemu-img info --force-share --output=json "$disk" > "$FK_TMP/disk.json" || return
    grep '^    "format": "qcow2"' "$FK_TMP/disk.json" > /dev/null && ! grep backing-filename "$FK_TMP/disk.json" ||
      vm_no "$disk is not a qcow2 file that stands alone" || return
    [ "$(vm_disk_bytes "$1")" = $(($2 * 1073741824)) ] ||
      vm_no "$disk has $(($(vm_disk_bytes "$1") / 1073741824)) GiB, and should have $2"
  }

  # vm_disk_make NAME GIB BASE FORMAT: a copy of the base image, as large as asked for; or what is there, made larger. The
  # format is always given: qemu-img would guess it from the content, which a guest may have written.
  vm_disk_make() {
    local disk
    disk=$(vm_disk "$1")
    if [ ! -e "$disk" ]; then
      rm --force "$disk.part"
      qemu-img convert -f "$4" -O qcow2 "$3" "$disk.part"
      qemu-img resize --quiet -f qcow2 "$disk.part" "$2G"
      chmod 600 "$disk.part"
      sync "$disk.part"
      mv --no-target-directory "$disk.part" "$disk"
    elif [ "$(virsh domstate "$1" 2> /dev/null)" = running ]; then
      virsh blockresize "$1" vda "$2G"
    else
      qemu-img resize --quiet -f qcow2 "$disk" "$2G"
    fi
  }

  # vm_limited NAME KIB: the kernel gives it and its QEMU no more memory than this.
  vm_limited() {
    local group limit
    group=$(sed --quiet 's/^0:://p' "/proc/$(cat "/run/libvirt/qemu/$1.pid")/cgroup")
    while [ -n "$group" ]; do
      limit=$(cat "/sys/fs/cgroup$group/memory.max" 2> /dev/null) || limit=max # the groups of threads have none of their own
      if [ "$limit" != max ]; then
        printf 'memory.max of %s is %s\n' "$group" "$limit"
        [ "$limit" -le $(($2 * 1024)) ]
        return
      fi
      group=${group%/*}
    done
    vm_no 'the kernel limits it nowhere'
  }

  export -f vm_disk_bytes vm_disk_room vm_disk_is vm_disk_make vm_limited
  # vm_try NAME SECONDS: starts it as declared, after the two minutes that what runs now may take to end. Unless it is kept
  # within SECONDS, the host rolls it back, whatever has become of the laptop: what was defined before starts again, on the disk
  # as it was before.
  vm_try() {
    local declared
    declared=$(vm_declared "$1")
    if vm_kept "$1" > /dev/null && [ ! -e "$VM_NOTES/$1.rebuilding" ] &&
      [ "$(virsh domstate "$1" | head --lines=1)" = 'shut off' ]; then
      virsh start "$1"
      return
    fi
    install --directory --mode=700 "$VM_NOTES"
    {
      printf '#!/bin/bash\nset -u\n'
      declare -p VM_DIR VM_NOTES LIBVIRT_DEFAULT_URI
      declare -f vm_disk vm_defined vm_back
      printf 'vm_back %q\n' "$1"
    } > "$VM_NOTES/$1.back"
    systemctl stop "fortress-trial-$1.timer" 2> /dev/null || true # of an earlier try
    systemd-run --quiet --collect --on-active="$2" --timer-property=AccuracySec=1s \
      --unit="fortress-trial-$1" /bin/bash "$VM_NOTES/$1.back"
    date --iso-8601=seconds > "$VM_NOTES/$1.trial"
    vm_stop "$1"
    if [ ! -e "$VM_NOTES/$1.rebuilding" ] && vm_defined "$1"; then
      qemu-img snapshot -d before-trial "$(vm_disk "$1")" 2> /dev/null || true # there is none of an earlier try
      qemu-img snapshot -c before-trial "$(vm_disk "$1")"
    fi
    virsh create --validate "$declared"
  }

  # vm_forgotten NAME: its disk holds nothing of before a trial.
  vm_forgotten() {
    ! qemu-img snapshot --force-share -l "$(vm_disk "$1")" | grep --word-regexp before-trial > /dev/null ||
      vm_no 'its disk still holds what it was before the trial'
  }

  # vm_forget NAME: the trial was accepted. QEMU has the disk open, so QEMU takes the snapshot out of it.
  vm_forget() {
    local index
    ! vm_forgotten "$1" > /dev/null || return 0
    index=$(virsh dumpxml "$1" | awk -F "'" -v disk="$(vm_disk "$1")" '
    /<source file=/ { for (i = 1; i < NF; i++) if ($i ~ / index=$/) n = $(i + 1); if ($2 == disk) print n }')
    virsh qemu-monitor-command "$1" "$(printf \
      '{"execute":"blockdev-snapshot-delete-internal-sync","arguments":{"device":"libvirt-%s-format","name":"before-trial"}}' \
      "$index")" > /dev/null
    vm_forgotten "$1"
  }

  # vm_back NAME: the trial is over, and was not accepted.
  vm_back() {
    local disk
    disk=$(vm_disk "$1")
    exec 9>> "$VM_NOTES/$1.lock"
    flock 9
    [ -e "$VM_NOTES/$1.trial" ] || return 0
    virsh destroy "$1" > /dev/null 2>&1 || true # it has ended by itself
    if [ -e "$disk.previous" ] && [ -e "$VM_NOTES/$1.rebuilding" ]; then
      mv --force "$disk.previous" "$disk"
      rm --force "$VM_NOTES/$1.rebuilding"
    elif qemu-img snapshot --force-share -l "$disk" | grep --word-regexp before-trial > /dev/null; then
      qemu-img snapshot -a before-trial "$disk"
      qemu-img snapshot -d before-trial "$disk"
    fi
    rm --force "$VM_NOTES/$1.trial"
    if vm_defined "$1"; then virsh start "$1"; fi
  }

  export -f vm_try vm_forgotten vm_forget vm_back
  : "${FK_SECRETS:?a directory with the secrets of this page}"

  # 1/12 libvirt answers, and its network for virtual machines is up
  check() {
    virsh version --daemon > /dev/null &&
    virsh net-info fortress | grep --extended-regexp '^Active: +yes' > /dev/null
  }
  demand 'libvirt answers, and its network for virtual machines is up' './task vm-host apply'

  # 2/12 no virtual machine of another owner is called fortress-node
  #   why: what does not bear the mark of this site is never stopped, changed or deleted
  check() { vm_free fortress-node 789ca34b-84e9-537b-800f-8122270e3506 fortress; }
  demand 'no virtual machine of another owner is called fortress-node' 'rename yours on the host (virsh domrename fortress-node OTHER), or give the node another name under machines: of the site document'

  # 3/12 the host has memory for 8192 MiB, and room for a disk of 40 GiB
  check() { vm_cores 4 && vm_memory 8192 && vm_disk_room fortress-node 40; }
  demand 'the host has memory for 8192 MiB, and room for a disk of 40 GiB' 'ask for less: vm.memory, vm.cpus and vm.disk in the site document; or make room on the disk of /var/lib'

  # 4/12 the base image is on the host: Flatcar 4757.2.1
  check() { test -f /var/lib/fortress/images/flatcar-4757.2.1-amd64.img; }
  demand 'the base image is on the host: Flatcar 4757.2.1' './task vm-image apply'

  # 5/12 the Ignition of fortress-node is written
  check() { test -s /var/lib/libvirt/fortress/fortress-node.ign; }
  demand 'the Ignition of fortress-node is written' './task vm-ignition apply'

  # 6/12 the SSH host key of fortress-node is pinned in known_hosts of the host
  #   why: it was made on the laptop before there was a node: nobody can stand in between, not even the first time
  check() {
    put_finished /etc/fortress/vm/fortress-node.known_hosts && [ "$(stat --format='%a %U:%G' /etc/fortress/vm/fortress-node.known_hosts)" = "644 root:root" ] && sha256sum --check --status /var/lib/fortress/secret/etc/fortress/vm/fortress-node.known_hosts.sha256&& [ "$(cat /var/lib/fortress/secret/etc/fortress/vm/fortress-node.known_hosts.sha256.around)" = 93499ad037bff48d10e23efc5ba46de88defab37bfab8837822e08aa88091bc7 ]
  }
  apply() {
    {
      put /etc/fortress/vm/fortress-node.known_hosts 644 root:root
    } < "$FK_SECRETS"/fortress-node-known-hosts
    (
      install --directory --mode=700 "$(dirname /var/lib/fortress/secret/etc/fortress/vm/fortress-node.known_hosts.sha256)" && sha256sum /etc/fortress/vm/fortress-node.known_hosts > /var/lib/fortress/secret/etc/fortress/vm/fortress-node.known_hosts.sha256&& echo 93499ad037bff48d10e23efc5ba46de88defab37bfab8837822e08aa88091bc7 > /var/lib/fortress/secret/etc/fortress/vm/fortress-node.known_hosts.sha256.around
    )
    put_finish /etc/fortress/vm/fortress-node.known_hosts
  }
  recover() { put_restore /etc/fortress/vm/fortress-node.known_hosts; }
  change 'the SSH host key of fortress-node is pinned in known_hosts of the host'

  # 7/12 domain XML of fortress-node is written
  #   why: virtio and nothing else: each device is code that a guest can attack
  check() {
    put_matches /etc/fortress/vm/fortress-node.xml f4ee996d9876378c9968870ea4fcef26e4e0373c794dd1c48bcba1f94854f3fe 600 root:root
  }
  apply() {
    put /etc/fortress/vm/fortress-node.xml 600 root:root 'virt-xml-validate "$new" domain' << 'FORTRESS'
<domain type="kvm">
  <name>fortress-node</name>
  <uuid>789ca34b-84e9-537b-800f-8122270e3506</uuid>
  <metadata>
    <fortress:owner site="fortress" node="fortress-node" xmlns:fortress="urn:fortress-kit:domain"/>
  </metadata>
  <memory unit="KiB">8388608</memory>
  <currentMemory unit="KiB">8388608</currentMemory>
  <memoryBacking>
    <nosharepages/>
  </memoryBacking>
  <memtune>
    <hard_limit unit="KiB">9437184</hard_limit>
  </memtune>
  <vcpu placement="static">4</vcpu>
  <os>
    <type arch="x86_64" machine="q35">hvm</type>
    <loader readonly="yes" type="pflash">/usr/share/OVMF/OVMF_CODE_4M.fd</loader>
    <nvram template="/usr/share/OVMF/OVMF_VARS_4M.fd">/var/lib/libvirt/fortress/fortress-node.vars.fd</nvram>
    <boot dev="hd"/>
  </os>
  <sysinfo type="fwcfg">
    <entry name="opt/org.flatcar-linux/config" file="/var/lib/libvirt/fortress/fortress-node.ign"/>
  </sysinfo>
  <features>
    <acpi/>
    <apic/>
    <vmport state="off"/>
    <ps2 state="off"/>
    <pmu state="off"/>
  </features>
  <cpu mode="host-passthrough">
    <feature policy="disable" name="vmx"/>
    <feature policy="disable" name="svm"/>
  </cpu>
  <clock offset="utc">
    <timer name="hpet" present="no"/>
  </clock>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>restart</on_reboot>
  <on_crash>restart</on_crash>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type="file" device="disk">
      <driver name="qemu" type="qcow2" cache="none" io="native" discard="unmap"/>
      <source file="/var/lib/libvirt/fortress/fortress-node.qcow2"/>
      <target dev="vda" bus="virtio"/>
      <serial>system</serial>
    </disk>
    <interface type="network">
      <mac address="52:54:00:a0:62:12"/>
      <source network="fortress"/>
      <model type="virtio"/>
      <port isolated="yes"/>
    </interface>
    <rng model="virtio">
      <backend model="random">/dev/urandom</backend>
    </rng>
    <controller type="usb" index="0" model="none"/>
    <memballoon model="none"/>
  </devices>
</domain>
FORTRESS
    put_finish /etc/fortress/vm/fortress-node.xml
  }
  recover() { put_restore /etc/fortress/vm/fortress-node.xml; }
  change 'domain XML of fortress-node is written'

  # 8/12 fortress-node has a disk of 40 GiB, copied from the base image
  #   why: a copy, so that the virtual machine can reach no file that another one stands on
  check() { vm_disk_is fortress-node 40; }
  apply() { vm_disk_make fortress-node 40 /var/lib/fortress/images/flatcar-4757.2.1-amd64.img qcow2; }
  change 'fortress-node has a disk of 40 GiB, copied from the base image'

  # 9/12 fortress-node runs as its domain XML says
  #   why: first on trial: unless it answers in time, the host rolls it back, and what ran before runs again on its old disk
  check() {
    vm_on fortress-node && virsh dumpxml fortress-node > "$FK_TMP"/live.xml &&
    vm_differs "$(vm_declared fortress-node)" "$FK_TMP"/live.xml
  }
  apply() { vm_try fortress-node 900; }
  recover() { vm_back fortress-node; }
  change 'fortress-node runs as its domain XML says'

  # 10/12 fortress-node answers with its pinned SSH host key, and Ignition is complete
  check() { vm_answers fortress-node 10.77.0.2; }
  wait_for 'fortress-node answers with its pinned SSH host key, and Ignition is complete' 600

  # 11/12 fortress-node is defined in libvirt, and starts with the host
  check() { vm_kept fortress-node && vm_forgotten fortress-node; }
  apply() {
    (
      exec 9>> "$VM_NOTES"/fortress-node.lock
      flock --timeout 60 9 || { vm_no 'its trial is being rolled back'; exit 1; }
      vm_on fortress-node || { vm_no 'its trial was rolled back: it did not answer in time'; exit 1; }
      virsh define --validate "$(vm_declared fortress-node)"
      virsh autostart fortress-node
      rm --force "$VM_NOTES"/fortress-node.trial "$VM_NOTES"/fortress-node.rebuilding
      vm_forget fortress-node
      systemctl stop fortress-trial-fortress-node.timer 2> /dev/null || true # it was started by hand, or after a boot
    )
  }
  change 'fortress-node is defined in libvirt, and starts with the host'

  # 12/12 fortress-node is confined by its own AppArmor profile, without root and capabilities
  #   why: asked of the kernel, about the process that runs now
  #   O01 QEMU is not root [NIST SP 800-125A]
  #   O02 QEMU is confined by seccomp [NIST SP 800-125A]
  #   O04 QEMU has no capabilities [NIST SP 800-125A]
  #   O13 The memory of the virtual machine has a hard limit [NIST SP 800-125A]
  #   O15 The QEMU that runs is the one that is installed [NIST SP 800-125A]
  #   O06 The virtual machine has no USB, sound, serial port, screen, balloon or CD, only virtio [NIST SP 800-125A]
  #   O08 The format of every disk is declared, never probed [NIST SP 800-125A]
  #   O12 No QEMU guest agent takes commands from the host [NIST SP 800-125A]
  check() {
    profile=$(tr --delete '\0' < "/proc/$(cat /run/libvirt/qemu/fortress-node.pid)/attr/apparmor/current") &&
    echo "$profile" && test "$profile" = 'libvirt-789ca34b-84e9-537b-800f-8122270e3506 (enforce)'
  }
  demand 'fortress-node is confined by its own AppArmor profile, without root and capabilities' 'find out why on the host (journalctl --grep apparmor), and start it again: virsh destroy fortress-node; virsh start fortress-node'
}

# What main uses.
# from lib/vm/domain.sh: VM_DIR VM_DECLARED VM_NOTES VM_MARK LIBVIRT_DEFAULT_URI vm_no vm_facts vm_sift vm_differs
# from lib/vm/domain.sh: vm_mark vm_free vm_memory vm_cores vm_disk vm_stop
# from lib/engine/shell/put.sh: FK_STATE put put_owner put_finish put_finished put_restore put_matches
# from lib/engine/shell/snapshot.sh: record_before
# from lib/engine/shell/printed.sh: FK_OUT FK_RC FK_TX FK_VISIT FK_ARM FK_BACK FK_TMP begin lock usage recover holds
# from lib/engine/shell/printed.sh: change demand wait_for fail
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
