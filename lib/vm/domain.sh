# shellcheck shell=bash
# The virtual machines of a host: what libvirt says about them, and the few things that are done to them. Everything
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
    -e '^domain/devices/controller\[(pci|sata|virtio-serial) [0-9]+\]/' \
    -e '^domain/devices/(input\[(mouse|keyboard) ps2\]|audio\[none \])' \
    -e '^domain/devices/watchdog/@(model=itco|action=reset)$' \
    -e '^domain/devices/disk\[vd[abc]\]/source/@index=' \
    -e '^domain/devices/interface\[[^]]*\]/(target/@dev=vnet|source/@(portid|bridge)=)' \
    -e '^domain/devices/console/(@tty=|source/@path=/dev/pts/)' \
    -e '^domain/os/(loader|nvram)/@(format|templateFormat|secure|stateless|type)=(raw|no|file)$' \
    -e '^domain/os/(@firmware=efi|firmware/feature\[(enrolled-keys|secure-boot)\]/@(enabled=no|name=.*))$' \
    -e '^domain/cpu/@(check=none|migratable=on)$' -e '^domain/features/gic/@version=' -e '^domain/resource/partition=/machine$' \
    -e '^domain/seclabel\[(apparmor|dac) dynamic\]/' -e '^network/(forward|bridge)/@(dev|macTableManager)='
}

# vm_differs DECLARED ACTUAL: two files, compared by what they say. Prints what one has and the other has not.
vm_differs() {
  local lines
  vm_facts < "$1" > "$FK_TMP/declared.facts" && [ -s "$FK_TMP/declared.facts" ] || vm_no "$1 cannot be read" || return
  vm_facts < "$2" > "$FK_TMP/actual.facts" && [ -s "$FK_TMP/actual.facts" ] || vm_no "$2 cannot be read" || return
  lines=$(LC_ALL=C comm -3 "$FK_TMP/declared.facts" <(vm_sift < "$FK_TMP/actual.facts") |
    sed 's/^\t/is        /; t; s/^/should be /')
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
  [ "$uuid" = "$2" ] && vm_mark "$1" "$3" ||
    vm_no "there is a machine $1 that is not of the site $3: $(virsh domstate "$1" | head --lines=1), UUID $uuid"
}

# vm_memory MIB: beside it there is a GiB for QEMU, and one for the host.
vm_memory() {
  awk -v want="$1" '/^MemTotal:/ && int($2 / 1024) < want + 2048 {
    print "the host has", int($2 / 1024), "MiB, and needs 2048 beside the", want, "for guests"; bad = 1 }
    END { exit bad }' /proc/meminfo
}

# vm_cores N
vm_cores() { [ "$(nproc)" -ge "$1" ] || vm_no "the host has $(nproc) processors, and FK_VM_VCPUS wants $1"; }

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
