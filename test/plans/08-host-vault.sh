#!/bin/bash
# 08-host-vault: A LUKS2 disk that the TPM2 of this machine opens at boot, and that no other machine opens without a key.
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
# What the page host-vault and ./task vault restore-header check of a disk. Everything here only reads, apart from vault_made, which
# writes a note under /var/lib/fortress/vault. A check that does not hold prints why.
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
# vault_blank DISK UUID: it carries nothing, or our header.
vault_blank() {
  local found
  found=$(wipefs --no-act --noheadings --output TYPE,UUID,LABEL,OFFSET "$1")
  if [ -n "$found" ]; then
    printf '%s\n' "$found" | awk -v ours="$2" '
      $1 == "crypto_LUKS" && $2 == ours { next }
      { print "it carries:", $0; bad = 1 }
      END { exit bad }'
  elif [ -e "$VAULT_NOTES/${1##*/}.made" ]; then
    vault_no 'it was made the vault, and its header is gone: the data can come back, see: ./task vault restore-header'
  elif [ ! -e "$VAULT_NOTES/${1##*/}.begun" ]; then
    cmp --bytes=1048576 "$1" /dev/zero > /dev/null 2>&1 ||
      vault_no 'it carries no known signature, yet its first MiB is not blank, like a disk encrypted without a header'
  fi
}

# vault_begin DISK UUID NAME: notes that this disk, as it is now, is about to be formatted. Not when it is ours already.
vault_begin() {
  local note=$VAULT_NOTES/${1##*/}
  if [ ! -e "$note.begun" ] && vault_is "$1" "$2"; then
    cryptsetup luksDump "$1" | grep --extended-regexp '^  0: luks2' > /dev/null ||
      vault_no 'its header is ours and has lost its keys: the data can come back, see: ./task vault restore-header'
    return
  fi
  vault_same "$1" && vault_idle "$1" "$3" && vault_blank "$1" "$2" || return
  if [ -e "$note.begun" ]; then return; fi
  install --directory --mode=700 /var/lib/fortress "$VAULT_NOTES"
  vault_identity "$1" > "$note.part"
  sync "$note.part"
  mv "$note.part" "$note.begun"
  sync "$VAULT_NOTES"
}

# vault_may_format DISK UUID NAME: it has been begun, it is the same disk, and there is nothing on it but our own beginning.
vault_may_format() {
  [ -e "$VAULT_NOTES/${1##*/}.begun" ] ||
    vault_no "$1 has our header, and our passphrase does not open it: it is not formatted again" || return
  vault_disk "$1" && vault_same "$1" && vault_idle "$1" "$3" && vault_blank "$1" "$2" || return
  [ ! -e "/dev/mapper/$3" ] || vault_no "/dev/mapper/$3 is open"
}

export -f vault_blank vault_begin vault_may_format
# vault_sector DISK: 4096 where the disk can be divided by it.
vault_sector() { if [ $(($(blockdev --getsize64 "$1") % 4096)) -eq 0 ]; then echo 4096; else echo 512; fi; }

vault_tpm2() { [ "$(cat /sys/class/tpm/tpm0/tpm_version_major 2> /dev/null)" = 2 ]; }

# vault_unseals DISK: this machine's TPM2 gives the key now.
vault_unseals() {
  cryptsetup open --test-passphrase --token-only --token-type systemd-tpm2 "$1" > /dev/null 2>&1 ||
    vault_no 'the TPM2 does not give its key: what it was bound to has changed, or it was cleared'
}

# vault_sealed DISK PCRS: the key of the TPM2 is bound to these registers, and the TPM2 gives it now.
vault_sealed() {
  cryptsetup luksDump "$1" 2> /dev/null |
    awk -v want="$2" '$1 == "tpm2-hash-pcrs:" && $2 == want { found = 1 } END { exit !found }' ||
    vault_no "no key is bound to PCR $2" || return
  vault_unseals "$1"
}

vault_header_digest() { vault_header "$1" | sha256sum | cut --delimiter=' ' --fields=1; }

# vault_open DISK UUID NAME: the mapping is there, and it is this vault's.
vault_open() {
  local node
  node=$(readlink --canonicalize-existing "/dev/mapper/$3") || vault_no "/dev/mapper/$3 is not there" || return
  [ "$(cat "/sys/class/block/${node##*/}/dm/uuid")" = "CRYPT-LUKS2-${2//-/}-$3" ] ||
    vault_no "/dev/mapper/$3 is something else"
}

# vault_slots DISK: every key that opens it, and no key that nobody knows.
vault_slots() {
  systemd-cryptenroll "$1" | awk '
    NR > 1 { kind = $1 == 0 && $2 == "password" ? "passphrase" : $2
             line = line (line == "" ? "" : " ") $1 "=" kind }
    kind ~ /^(password|conflict|other)$/ { unknown = 1 }
    END { print line; exit unknown }'
}

export -f vault_sector vault_tpm2 vault_unseals vault_sealed vault_header_digest vault_open vault_slots

# 1/1 no disk is chosen for the vault (vault.disk), so nothing is encrypted
#   why: a disk is chosen by a person, by its id, in vault.disk of the site document; verify lists the disks there are
#   F12 The data of the cluster has an encrypted disk of its own [NIST SP 800-53 SC-28(1)]
if ! { true; } > /dev/null 2>&1; then
  echo 'no disk is chosen for the vault (vault.disk), so nothing is encrypted: no' >&2
  echo '  write one of the ids under /dev/disk/by-id into vault.disk' >&2
  exit 1
fi
