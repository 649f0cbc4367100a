# shellcheck shell=bash
# What a machine says of itself, read-only: one finding for each thing, as subject, state (ok, warn, bad, n/a), what was found,
# and what to do. FK_ROOT is a directory in place of / (for tests); FK_ROLE is what the site needs of the machine:
# vm MIB CPUS GIB, or metal; FK_DISK is the disk of the vault; FK_TPM is yes where the vault wants one; FK_USER is who logs in.
: "${FK_ROOT=}" "${FK_ROLE=metal}" "${FK_DISK=}" "${FK_TPM=no}" "${FK_USER=}"

finding() { answer finding subject "$1" state "$2" found "$3" remedy "${4-}"; }

# What page 00 refuses before it changes anything: these three are how cloud images and Raspberry Pi OS come.
doctor_account() {
  local free
  [ -n "$FK_USER" ] || return 0
  if [ "$FK_USER" = root ]; then
    finding account bad 'you log in as root, whom 00-host-harden will not let in any more' \
      'on it: adduser ada && adduser ada sudo, with your key in her authorized_keys; then FK_HOST=ada@… in .env'
    return
  fi
  free=$(grep --recursive --files-with-matches --extended-regexp '^[^#]*(NOPASSWD|!authenticate)' \
    "$FK_ROOT/etc/sudoers" "$FK_ROOT/etc/sudoers.d" 2> /dev/null | head --lines=1)
  if ! awk -F : -v user="$FK_USER" '$1 == user && $2 !~ /^[!*]|^$/ { ok = 1 } END { exit !ok }' "$FK_ROOT/etc/shadow"; then
    finding account bad "$FK_USER has no password, and 00-host-harden wants one for sudo" "on it: sudo passwd $FK_USER"
  elif [ -n "$free" ]; then
    finding account bad "${free#"$FK_ROOT"} lets sudo work without a password, which 00-host-harden refuses" \
      "on it: sudo passwd $FK_USER, then take NOPASSWD out of that file; cloud images and Raspberry Pi OS come with one"
  else
    finding account ok "$FK_USER, who has a password for sudo"
  fi
}

doctor_cpu() {
  local flag threads vendor want
  threads=$(grep --count '^processor' "$FK_ROOT/proc/cpuinfo")
  flag=$(grep --only-matching --max-count=1 --word-regexp --extended-regexp 'vmx|svm' "$FK_ROOT/proc/cpuinfo" | head --lines=1)
  case $flag in vmx) vendor='VT-x' ;; svm) vendor='AMD-V' ;; *) vendor='virtualisation' ;; esac
  if [[ $FK_ROLE = metal ]]; then
    finding cpu ok "$threads threads; no virtual machine is planned here"
  elif [ -e "$FK_ROOT/dev/kvm" ]; then
    read -r _ _ want _ <<< "$FK_ROLE"
    if [ "$threads" -lt "$want" ]; then
      finding cpu warn "$vendor, /dev/kvm, $threads threads, and the virtual machine is to have $want" "FK_VM_VCPUS=$threads"
    else
      finding cpu ok "$vendor, /dev/kvm, $threads threads"
    fi
  elif [ -n "$flag" ]; then
    finding cpu bad "$vendor, but there is no /dev/kvm" \
      "modprobe kvm_$([ "$flag" = vmx ] && echo intel || echo amd); if that fails, the firmware has switched $vendor off"
  else
    finding cpu bad 'the processor offers no virtualisation' \
      'switch on VT-x (Intel) or SVM (AMD) in the firmware setup; inside a virtual machine, allow it nesting'
  fi
}

doctor_firmware() {
  local model file=$FK_ROOT/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c
  if [ -e "$FK_ROOT/proc/device-tree/model" ] && [ ! -d "$FK_ROOT/sys/firmware/efi" ]; then
    model=$(tr --delete '\0' < "$FK_ROOT/proc/device-tree/model")
    finding firmware n/a "$model starts by its own firmware: nothing checks what it boots"
  elif [ ! -d "$FK_ROOT/sys/firmware/efi" ]; then
    finding firmware warn 'started by BIOS, so there is no Secure Boot' \
      'choose UEFI in the firmware setup, before the system is installed'
  elif [ ! -e "$file" ]; then
    finding firmware warn 'UEFI without Secure Boot' 'see whether the firmware setup offers it'
  elif [ "$(od --address-radix=n --format=u1 --skip-bytes=4 --read-bytes=1 "$file" | tr --delete ' ')" = 1 ]; then
    finding firmware ok 'UEFI, Secure Boot is on'
  else
    finding firmware warn 'UEFI, Secure Boot is off: whoever has the machine for a minute chooses what it boots' \
      'switch it on in the firmware setup'
  fi
}

doctor_tpm() {
  local version
  version=$(cat "$FK_ROOT/sys/class/tpm/tpm0/tpm_version_major" 2> /dev/null) || version=''
  if [ "$version" = 2 ]; then
    finding tpm ok 'TPM 2.0'
  elif [ "$FK_TPM" = no ]; then
    finding tpm n/a 'none, and the site wants none: the passphrase of the vault is typed after each boot'
  elif [ -n "$version" ]; then
    finding tpm warn "TPM $version.x cannot seal the key of the vault" \
      'vault.tpm2_pcrs: [] in the site document, and type the passphrase after each boot'
  else
    finding tpm warn 'none is seen' \
      'switch on PTT (Intel) or fTPM (AMD) in the firmware setup; or vault.tpm2_pcrs: [] in the site document'
  fi
}

doctor_memory() {
  local mib need vm
  mib=$(($(awk '$1 == "MemTotal:" { print $2 }' "$FK_ROOT/proc/meminfo") / 1024))
  if [[ $FK_ROLE = metal ]]; then
    if [ "$mib" -ge 3500 ]; then finding memory ok "$mib MiB"; else finding memory warn "$mib MiB are little for a node" \
      'leave monitoring and storage off, or take a machine with 4 GiB'; fi
    return
  fi
  read -r _ vm _ _ <<< "$FK_ROLE"
  need=$((vm + 1024))
  if [ "$mib" -ge "$need" ]; then
    finding memory ok "$mib MiB, $vm of them for the virtual machine"
  elif [ $((mib - 1024)) -ge 2048 ]; then
    finding memory bad "$mib MiB, and the virtual machine with the host needs $need" "FK_VM_RAM_MB=$((mib - 1024))"
  else
    finding memory bad "$mib MiB are too little for a virtual machine of 2048 MiB" \
      'take a machine with more memory, or build on the metal (FK_SITE=fortress-pi shows how)'
  fi
}

doctor_room() {
  local free need=10
  free=$(($(df --output=avail --block-size=1073741824 "$FK_ROOT/var/lib" | tail --lines=1)))
  [[ $FK_ROLE = metal ]] || need=$((${FK_ROLE##* } + 4))
  if [ "$free" -ge "$need" ]; then
    finding room ok "$free GiB are free in /var/lib"
  else
    finding room warn "$free GiB are free in /var/lib, and $need are good to have" \
      "$([[ $FK_ROLE = metal ]] && echo 'make room there' || echo 'make room there, or choose a smaller FK_VM_DISK_GB')"
  fi
}

doctor_disks() {
  local link disk chosen='' seen='' size
  for link in "$FK_ROOT"/dev/disk/by-id/*; do
    case $link in *-part[0-9]* | */wwn-* | */nvme-eui.* | */dm-* | */md-* | */lvm-* | *'/*') continue ;; esac
    disk=$(basename "$(readlink "$link")")
    [ -e "$FK_ROOT/sys/block/$disk/size" ] || continue
    size=$(($(< "$FK_ROOT/sys/block/$disk/size") / 2097152))
    seen='write one of the ids above'
    if [ "/dev/disk/by-id/${link##*/}" = "$FK_DISK" ]; then
      chosen=yes
      finding disk ok "$FK_DISK, $size GiB, the vault of this site"
    else
      finding disk ok "/dev/disk/by-id/${link##*/}, $size GiB"
    fi
  done
  if [ -n "$FK_DISK" ] && [ -z "$chosen" ]; then
    finding disk bad "$FK_DISK, the disk of the vault, is not there" \
      'plug it in, or write another id into vault.disk of the site document'
  elif [ -z "$FK_DISK" ]; then
    finding disk warn 'the site chooses no disk for the vault' \
      "${seen:-plug one in and write its id} into vault.disk of the site document"
  fi
}

doctor_nics() {
  local nic name speed state seen=''
  for nic in "$FK_ROOT"/sys/class/net/*; do
    [ -e "$nic/device" ] || continue
    name=${nic##*/} seen=yes
    state=$(cat "$nic/operstate" 2> /dev/null) || state=unknown
    speed=$(cat "$nic/speed" 2> /dev/null) || speed=-1 # a link that is down has none
    if [ -d "$nic/wireless" ]; then
      finding nic warn "$name is wireless, $state" 'use a cable: whoever jams the radio shuts you out'
    elif [ "$state" = up ]; then
      finding nic ok "$name is up$([ "$speed" -le 0 ] || echo ", $speed Mbit/s")"
    else
      finding nic ok "$name is $state"
    fi
  done
  [ -n "$seen" ] || finding nic warn 'no network card of its own is seen' \
    'in a virtual machine or container that is as it should be; else look for its driver in dmesg'
}

doctor_apparmor() {
  local enforced
  if [ "$(cat "$FK_ROOT/sys/module/apparmor/parameters/enabled" 2> /dev/null)" = Y ]; then
    if [ ! -r "$FK_ROOT/sys/kernel/security/apparmor/profiles" ]; then
      finding apparmor ok 'on'
      return
    fi
    enforced=$(grep --count '(enforce)$' "$FK_ROOT/sys/kernel/security/apparmor/profiles")
    finding apparmor ok "on, $enforced profiles are enforced"
  else
    finding apparmor bad 'off, and what confines programs and virtual machines here is AppArmor' \
      'start the kernel with lsm=landlock,lockdown,yama,integrity,apparmor,bpf; host-harden does it where there is GRUB'
  fi
}

doctor_node() {
  [[ $FK_ROLE = metal ]] || return 0
  case $(getconf PAGE_SIZE) in
    4096) ;;
    *) finding kernel warn "it has pages of $(getconf PAGE_SIZE) bytes, and some images of containers abort on them" \
      'kernel=kernel8.img in /boot/firmware/config.txt, and restart' ;;
  esac
  case " $(cat "$FK_ROOT/sys/fs/cgroup/cgroup.controllers" 2> /dev/null) " in
    *' memory '*) ;;
    *) finding cgroup bad 'the kernel counts no memory of groups, and k3s needs that' \
      'add cgroup_enable=memory to /boot/firmware/cmdline.txt, and restart' ;;
  esac
}

doctor_restart() {
  [ ! -e "$FK_ROOT/run/reboot-required" ] || finding restart warn 'updates wait for a restart' 'restart it when it suits you'
}

doctor() {
  answer clock now "$(date +%s%3N)" synchronised "$(timedatectl show --property=NTPSynchronized --value 2> /dev/null)"
  doctor_account
  doctor_cpu
  doctor_firmware
  doctor_tpm
  doctor_memory
  doctor_room
  doctor_disks
  doctor_nics
  doctor_apparmor
  doctor_node
  doctor_restart
}
