# shellcheck shell=bash
# What the page host-vault and ./task vault restore-header check of a disk. Everything here only reads, apart from vault_made:
# it writes a note under /var/lib/fortress/vault. A check that does not hold prints why.
#
# Two notes for each disk: <id>.begun from just before the format until a key is proven to open it, <id>.made from then on.
# While <id>.begun is there nothing can be stored on the disk, so a format that a power cut ended may be begun again. While
# <id>.made is there the disk is never formatted, whatever it looks like: a wiped header looks like an empty disk.
VAULT_NOTES=/var/lib/fortress/vault
export VAULT_NOTES

# Both metadata areas and the keyslots area of our format (see the luksFormat line of the page): what luksHeaderBackup stores.
VAULT_HEADER_BYTES=4227072
export VAULT_HEADER_BYTES

vault_no() {
  printf '%s\n' "$*"
  return 1
}

# vault_identity DISK: what does not change while it is the same disk. A by-id link alone may be shared by bridges that have
# no serial number of their own.
vault_identity() { lsblk --nodeps --noheadings --bytes --pairs --output SIZE,SERIAL,WWN,MODEL "$1"; }

# vault_uuid DISK: the UUID of the LUKS2 header on it, or nothing. Asks the disk, not what udev remembers of it.
vault_uuid() { wipefs --no-act --noheadings --output TYPE,UUID "$1" | awk '$1 == "crypto_LUKS" { print $2; exit }'; }

vault_is() { [ "$(vault_uuid "$1")" = "$2" ]; }

# vault_candidates: the disks that have an id, and what each carries.
vault_candidates() {
  local link type
  for link in /dev/disk/by-id/*; do
    case $link in */wwn-* | */nvme-eui.*) continue ;; esac
    type=$(lsblk --nodeps --noheadings --output TYPE "$link" 2> /dev/null) || continue # a link to something that has just gone
    [ "$type" = disk ] || continue
    printf '%s  %s  %s\n' "$link" "$(lsblk --nodeps --noheadings --output SIZE,TRAN,MODEL "$link" | xargs)" \
      "$(vault_carries "$link")"
  done
}

vault_carries() {
  local use
  use=$(lsblk --noheadings --raw --output TYPE,NAME,MOUNTPOINTS "$1" | awk 'NR > 1 || NF > 2' | head --lines=3 |
    paste --serial --delimiters=,)
  [ -n "$use" ] || use=$(wipefs --no-act --noheadings --output TYPE,LABEL "$1" | sort --unique | head --lines=3 |
    paste --serial --delimiters=,)
  printf '%s\n' "${use:-empty}"
}

# vault_disk DISK: it is there, it is one whole disk, it can be written, and nothing else claims its id.
vault_disk() {
  local type claims
  if [ ! -b "$1" ]; then
    printf '%s is not plugged in. These disks are:\n' "$1"
    vault_candidates
    return 1
  fi
  type=$(lsblk --nodeps --noheadings --output TYPE "$1")
  [ "$type" = disk ] || vault_no "$1 is not a whole disk but a thing of type '$type'" || return
  [ "$(blockdev --getro "$1")" = 0 ] || vault_no "$1 is write-protected" || return
  claims=$(udevadm info --export-db | awk -v link="S: ${1#/dev/}" '$0 == link { n++ } END { print n + 0 }')
  [ "$claims" = 1 ] || vault_no "$claims disks claim the id $1: unplug the others, or choose an id that is only one's own"
}

# vault_idle DISK NAME: no mount, swap, partition, RAID, volume group or foreign mapping is on it. Ours may be.
vault_idle() {
  lsblk --noheadings --raw --output TYPE,NAME,MOUNTPOINTS "$1" | awk -v vault="$2" '
    NR == 1 && NF == 2 { next }
    NR == 2 && $1 == "crypt" && $2 == vault { ours = 1 }
    !ours { print "in use:", $0; bad = 1 }
    END { exit bad }'
}

# vault_same DISK: it is the disk that the note was written for, when there is one. A by-id link does not prove that.
vault_same() {
  local was now
  was=$(cat "$VAULT_NOTES/${1##*/}".{begun,made} 2> /dev/null) || true # there is one of them at most
  now=$(vault_identity "$1")
  [ -z "$was" ] || [ "$now" = "$was" ] || vault_no "the disk behind $1 is now $now, and was $was"
}

# vault_hold DISK: descriptor 9. The lock keeps udev and partitioning tools off; the open descriptor keeps the kernel from
# giving this device number to another disk that is plugged in meanwhile.
vault_hold() {
  local node
  exec 9< "$1"
  flock --exclusive --timeout 10 9 || vault_no "somebody else is working on $1" || return
  node=$(readlink --canonicalize "$1")
  [ "$(stat --dereference --format=%t:%T /dev/fd/9)" = "$(stat --format=%t:%T "$node")" ] ||
    vault_no "$1 has just become another disk"
}

# vault_made DISK: a key opens it. From now on it is never formatted.
vault_made() {
  local note=$VAULT_NOTES/${1##*/}
  install --directory --mode=700 /var/lib/fortress "$VAULT_NOTES"
  [ -e "$note.begun" ] || vault_identity "$1" > "$note.begun"
  sync "$note.begun"
  mv "$note.begun" "$note.made"
  sync "$VAULT_NOTES"
}

# vault_opens DISK SLOT: the key on standard input opens this slot.
vault_opens() { cryptsetup open --test-passphrase --type luks2 --key-slot "$2" --key-file - "$1" > /dev/null 2>&1; }

# vault_token DISK TYPE: this kind of key is enrolled.
vault_token() { systemd-cryptenroll "$1" 2> /dev/null | awk -v type="$2" '$2 == type { found = 1 } END { exit !found }'; }

# vault_header DISK: its header, as luksHeaderBackup would store it, to the byte.
vault_header() { head --bytes="$VAULT_HEADER_BYTES" "$1"; }

export -f vault_no vault_identity vault_uuid vault_is vault_candidates vault_carries vault_disk vault_idle vault_same \
  vault_hold vault_made vault_opens vault_token vault_header
