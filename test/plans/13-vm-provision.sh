#!/bin/bash
# 13-vm-provision: The node: an immutable system in a virtual machine of its own, confined, and proven before it is kept.
#
# Run it as root on fortress:
#   FK_SECRETS=DIR bash 13-vm-provision.sh
# It has 12 steps. Each checks first, and changes only what does not hold.
# No record is kept, and no control is checked: undo knows nothing of it, and verify says what holds.
# FK_SECRETS is a directory with one file for each of these secrets, as the machine gets it:
#   fortress-node-known-hosts
# shellcheck disable=SC2034 # functions read what is set here
set -euo pipefail
FK_PAGE=13-vm-provision FK_FILE=13-vm-provision.sh
export FK_PAGE FK_FILE

main() {
  begin
  : "${FK_SECRETS:?a directory with the secrets of this page}"

  # 1/12 libvirt answers, and the network of the nodes is up
  check() {
    virsh version --daemon > /dev/null && virsh net-info fortress | grep --extended-regexp '^Active: +yes' > /dev/null
  }
  demand 'libvirt answers, and the network of the nodes is up' './task vm-host apply'

  # 2/12 no machine of somebody else is called fortress-node
  #   why: what does not bear the mark of this site is never stopped, changed or deleted
  check() { vm_free fortress-node 789ca34b-84e9-537b-800f-8122270e3506 fortress; }
  demand 'no machine of somebody else is called fortress-node' 'rename yours on the host (virsh domrename fortress-node OTHER), or give the node another name under machines: of the site document'

  # 3/12 there is memory for 8192 MiB, and room for a disk of 40 GiB
  check() { vm_cores 4 && vm_memory 8192 && vm_disk_room fortress-node 40; }
  demand 'there is memory for 8192 MiB, and room for a disk of 40 GiB' 'ask for less: FK_VM_RAM_MB, FK_VM_VCPUS, FK_VM_DISK_GB; or make room on the disk of /var/lib'

  # 4/12 the base image is here: Flatcar 4757.2.1
  check() { test -f /var/lib/fortress/images/flatcar-4757.2.1-amd64.img; }
  demand 'the base image is here: Flatcar 4757.2.1' './task vm-image apply'

  # 5/12 what fortress-node becomes on its first boot is written down
  check() { test -s /var/lib/libvirt/fortress/fortress-node.ign; }
  demand 'what fortress-node becomes on its first boot is written down' './task vm-ignition apply'

  # 6/12 the host knows the key that fortress-node will answer with
  #   why: it was made on the laptop before there was a node: nobody can stand in between, not even the first time
  check() {
    put_finished /etc/fortress/vm/fortress-node.known_hosts && [ "$(stat --format='%a %U:%G' /etc/fortress/vm/fortress-node.known_hosts)" = "644 root:root" ] && sha256sum --check --status /var/lib/fortress/secret/etc/fortress/vm/fortress-node.known_hosts.sha256
  }
  apply() {
    {
      put /etc/fortress/vm/fortress-node.known_hosts 644 root:root
    } < "$FK_SECRETS"/fortress-node-known-hosts
    (
      install --directory --mode=700 "$(dirname /var/lib/fortress/secret/etc/fortress/vm/fortress-node.known_hosts.sha256)" && sha256sum /etc/fortress/vm/fortress-node.known_hosts > /var/lib/fortress/secret/etc/fortress/vm/fortress-node.known_hosts.sha256
    )
    put_finish /etc/fortress/vm/fortress-node.known_hosts
  }
  recover() { put_restore /etc/fortress/vm/fortress-node.known_hosts; }
  change 'the host knows the key that fortress-node will answer with'

  # 7/12 the machine of fortress-node is written down
  #   why: virtio and nothing else: each device is code that a guest can attack
  check() {
    put_matches /etc/fortress/vm/fortress-node.xml ffa3a69aeafcd22a75d52631264987af3c93f69e2871a9f8a261df2da5c6163f 600 root:root
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
  </features>
  <cpu mode="host-passthrough">
    <feature policy="disable" name="vmx"/>
    <feature policy="disable" name="svm"/>
  </cpu>
  <clock offset="utc"/>
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
  change 'the machine of fortress-node is written down'

  # 8/12 fortress-node has a disk of 40 GiB, made of the base image
  #   why: a copy, so that the machine can reach no file that another one stands on
  check() { vm_disk_is fortress-node 40; }
  apply() { vm_disk_make fortress-node 40 /var/lib/fortress/images/flatcar-4757.2.1-amd64.img qcow2; }
  change 'fortress-node has a disk of 40 GiB, made of the base image'

  # 9/12 fortress-node runs as it is written down
  #   why: first on trial: unless it answers in time, the host takes it back, and what ran before runs again on its old disk
  check() { vm_runs fortress-node; }
  apply() { vm_try fortress-node 900; }
  recover() { vm_back fortress-node; }
  change 'fortress-node runs as it is written down'

  # 10/12 fortress-node answers with the key that was made for it, and its first boot is complete
  check() { vm_answers fortress-node 10.77.0.2; }
  wait_for 'fortress-node answers with the key that was made for it, and its first boot is complete' 600

  # 11/12 fortress-node is kept, and starts with the host
  check() { vm_kept fortress-node; }
  apply() { vm_accept fortress-node; }
  change 'fortress-node is kept, and starts with the host'

  # 12/12 fortress-node is confined: one profile of its own, no root, no capabilities, few system calls
  #   why: asked of the kernel, about the process that runs now
  #   O01 QEMU is not root [NIST SP 800-125A]
  #   O02 QEMU may make few system calls [NIST SP 800-125A]
  #   O04 QEMU has no capabilities [NIST SP 800-125A]
  #   O06 No USB, no sound, no serial port, no screen, no balloon, no CD: virtio and what the board has [NIST SP 800-125A]
  #   O08 The format of every disk is said, never guessed [NIST SP 800-125A]
  #   O12 Nothing inside takes orders from the host [NIST SP 800-125A]
  #   O13 Its memory has a hard limit [NIST SP 800-125A]
  #   O15 The QEMU that runs is the one that is installed [NIST SP 800-125A]
  check() { vm_confined fortress-node 789ca34b-84e9-537b-800f-8122270e3506; }
  demand 'fortress-node is confined: one profile of its own, no root, no capabilities, few system calls' 'find out why on the host (journalctl --grep apparmor), and start it again: virsh destroy fortress-node; virsh start fortress-node'
}

# What main uses.
# from lib/vm/domain.sh: VM_DIR VM_DECLARED VM_NOTES VM_MARK LIBVIRT_DEFAULT_URI vm_no vm_facts vm_sift vm_differs
# from lib/vm/domain.sh: vm_mark vm_free vm_memory vm_cores vm_disk vm_disk_bytes vm_disk_room vm_disk_is vm_disk_make
# from lib/vm/domain.sh: vm_declared vm_on vm_runs vm_defined vm_kept vm_stop vm_try vm_back vm_accept vm_answers
# from lib/vm/domain.sh: vm_confined
# from lib/engine/shell/put.sh: FK_STATE put put_finish put_finished put_restore put_matches
# from lib/engine/shell/snapshot.sh: record_before
# from lib/engine/shell/printed.sh: FK_OUT FK_RC FK_TX FK_VISIT FK_ARM FK_BACK FK_TMP begin lock recover holds change
# from lib/engine/shell/printed.sh: demand wait_for fail
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

main "$@"
