# shellcheck shell=bash
# What a thief of the machine meets: whether all that it starts had to be signed, and which of its disks can be read elsewhere.

# efi_byte NAME: the first byte of a variable of the firmware; the four before it are its attributes.
efi_byte() {
  od --address-radix=n --format=u1 --skip-bytes=4 --read-bytes=1 "${FK_ROOT-}/sys/firmware/efi/efivars/$1" | tr --delete ' '
}

# secure_boot: whether all that this machine has started had to be signed. The firmware says that it checks, shim says when a
# person has switched it off behind the firmware (mokutil --disable-validation), the kernel what it has found: each can say no.
secure_boot() {
  local firmware setup shim=0 kernel=0 root=${FK_ROOT-}
  [ -d "$root/sys/firmware/efi" ] || { echo 'this machine starts without UEFI, so there is no Secure Boot'; return 1; }
  firmware=$(efi_byte SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c) &&
    setup=$(efi_byte SetupMode-8be4df61-93ca-11d2-aa0d-00e098032b8c) ||
    { echo 'could not ask: the firmware shows no SecureBoot'; return 102; }
  [ ! -e "$root/sys/firmware/efi/efivars/MokSBStateRT-605dab50-e046-4300-abb6-3dd810dd8b23" ] ||
    shim=$(efi_byte MokSBStateRT-605dab50-e046-4300-abb6-3dd810dd8b23)
  # secure_boot of struct boot_params: 3 is on, 2 is off, 1 could not be told; only x86 has it.
  [ ! -e "$root/sys/kernel/boot_params/data" ] ||
    kernel=$(od --address-radix=n --format=u1 --skip-bytes=492 --read-bytes=1 "$root/sys/kernel/boot_params/data" |
      tr --delete ' ')
  case $firmware$setup$shim$kernel in
    1000 | 1003) echo 'Secure Boot is on' ;;
    101?) echo 'Secure Boot is on in the firmware, and switched off in shim: mokutil --enable-validation'; return 1 ;;
    11*) echo 'the firmware is in setup mode: it lets anybody enrol keys'; return 1 ;;
    1*) echo 'Secure Boot is on in the firmware, and the kernel was started without it'; return 1 ;;
    *) echo 'Secure Boot is off'; return 1 ;;
  esac
}
# encrypted NAME: all that the block device, by the kernel's name, lies on is behind dm-crypt with a cipher; 102 where nobody can
# say. The name and the uuid of a mapping are what whoever made it wrote there: the table that the kernel maps by decides.
encrypted() {
  local part name table file='' any='' dir=${FK_BLOCK-/sys/class/block}
  case $1 in
    zram*)
      read -r part < "$dir/$1/backing_dev" 2> /dev/null || part=none
      [ "$part" != none ] || return 0 # it is memory
      encrypted "${part##*/}"
      return
      ;;
    loop*) read -r file < "$dir/$1/loop/backing_file" 2> /dev/null || return 1 ;;
  esac
  if [ -n "$file" ]; then
    for part in $(disks_of "$file"); do any=yes && encrypted "$part" || return; done
  elif read -r name < "$dir/$1/dm/name" 2> /dev/null; then
    table=$(dmsetup table "$name") && [ -n "$table" ] || return 102
    case $table in
      *null*) return 1 ;; # a cipher that changes nothing
    esac
    ! awk '$3 != "crypt" { bad = 1 } END { exit bad }' <<< "$table" || return 0
  fi
  for part in "$dir/$1"/slaves/*; do
    [ -e "$part" ] || break
    any=yes
    encrypted "${part##*/}" || return
  done
  [ -n "$any" ] # else it is a disk, or a part of one
}

# disks_of PATH: the block devices, by the kernel's names, that the file system below PATH lies on.
disks_of() {
  local kind source uuid
  read -r kind source uuid < <(findmnt --raw --noheadings --first-only --output FSTYPE,SOURCE,UUID --target "$1")
  case $kind in
    btrfs) source=$(printf '%s\n' /sys/fs/btrfs/"$uuid"/devices/*) ;;
    *) source=$(readlink --canonicalize "${source%%\[*}") ;;
  esac
  [ -n "$source" ] || return
  while IFS= read -r source; do echo "${source##*/}"; done <<< "$source"
}

# clear_mounts: where a file system of a disk is mounted that whoever takes the disk could read. The kernel and its initrd have to
# lie in the clear for GRUB; what somebody mounts by hand is no part of the system.
clear_mounts() {
  local path disk
  findmnt --real --raw --noheadings --output TARGET,SOURCE | while read -r path disk; do
    case $path in /boot | /boot/* | /mnt | /mnt/* | /media/* | /run/media/*) continue ;; esac
    case $disk in /dev/*) ;; *) continue ;; esac
    for disk in $(disks_of "$path"); do
      encrypted "$disk" || case $? in
        102) exit 102 ;;
        *) printf '%s (on %s)\n' "$path" "$disk" && break ;;
      esac
    done
  done
}

export -f efi_byte secure_boot encrypted disks_of clear_mounts
