#!/bin/bash
# 08-host-vault: A LUKS2 disk that opens at boot on this machine, and on no other without a key.
#
# Run it as root on fortress:
#   bash 08-host-vault.sh
# It has 1 step, which checks first, and changes only what does not hold.
# It keeps no record, so undo cannot take it back. It checks no controls: verify does.
# shellcheck disable=SC2034 # functions read what is set here
set -euo pipefail
FK_PAGE=08-host-vault FK_FILE=08-host-vault.sh
export FK_PAGE FK_FILE

main() {
  case ${1-} in '') ;; *) usage ;; esac
  begin
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
  vault_tpm2() { [ "$(cat /sys/class/tpm/tpm0/tpm_version_major 2> /dev/null)" = 2 ]; }

  # vault_bound DISK: the keys of the TPM2, as TOKEN REGISTERS and whether a PIN is wanted.
  vault_bound() {
    cryptsetup luksDump "$1" 2> /dev/null | awk '
    /^[A-Z]/ { part = $1 }
    part != "Tokens:" { next }
    /^  [0-9]+: / { token = $1 + 0; tpm2 = $2 == "systemd-tpm2"; bound = ""; pin = "false" }
    tpm2 && $1 == "tpm2-hash-pcrs:" { bound = $2 }
    tpm2 && $1 == "tpm2-pin:" { pin = $2 }
    tpm2 && $1 == "Keyslot:" { print token, bound, pin }'
  }

  # vault_gives DISK TOKEN REGISTERS PIN: the TPM2 gives this key now. A PIN is not tried, because the TPM2 counts tries: then
  # the policy that the key is bound to is compared with that of the registers as they are.
  vault_gives() {
    local policy
    if [ "$4" != true ]; then
      cryptsetup open --test-passphrase --token-only --token-id "$2" "$1" < /dev/null > /dev/null 2>&1
      return
    fi
    tpm2_startauthsession --quiet --session="$FK_TMP/session" &&
      tpm2_policypcr --quiet --session="$FK_TMP/session" --pcr-list="sha256:${3//+/,}" &&
      tpm2_policyauthvalue --quiet --session="$FK_TMP/session" --policy="$FK_TMP/policy" || return
    tpm2_flushcontext --quiet "$FK_TMP/session"
    policy=$(od --address-radix=n --format=x1 "$FK_TMP/policy" | tr --delete ' \n')
    cryptsetup token export --token-id "$2" "$1" | grep --fixed-strings "$policy" > /dev/null
  }

  # vault_unseals DISK: this machine's TPM2 gives one of its keys now.
  vault_unseals() {
    local token bound pin
    while read -r token bound pin; do
      ! vault_gives "$1" "$token" "$bound" "$pin" || return 0
    done < <(vault_bound "$1")
    vault_no 'the TPM2 does not give its key: what it was bound to has changed, or it was cleared'
  }

  # vault_sealed DISK REGISTERS PIN [BRIDGE]: a key is bound to these registers, the TPM2 gives it now, and it has no other, but
  # one bound to BRIDGE while an update waits for the next start.
  vault_sealed() {
    local token bound pin good='' bridge=''
    while read -r token bound pin; do
      if [ "$bound $pin" = "$2 $3" ]; then
        ! vault_gives "$1" "$token" "$bound" "$pin" || good=yes
      elif [ "$bound" = "${4-}" ] && fortress-vault pending "$1" "$2" "$4"; then
        bridge="until the next start bound to PCR $bound, too; "
      else
        vault_no "a key in the TPM2 is bound to PCR $bound$([ "$pin" != true ] || echo ' and a PIN')" || return
      fi
    done < <(vault_bound "$1")
    printf %s "$bridge"
    [ -n "$good" ] || vault_no "no key that the TPM2 gives now is bound to PCR $2"
  }

  export -f vault_tpm2 vault_bound vault_gives vault_unseals vault_sealed
  # vault_sector DISK: 4096 where the disk can be divided by it.
  vault_sector() { if [ $(($(blockdev --getsize64 "$1") % 4096)) -eq 0 ]; then echo 4096; else echo 512; fi; }

  # vault_salt DISK SLOT: what its key is mixed with: another for each key that was ever in the slot.
  vault_salt() {
    cryptsetup luksDump "$1" 2> /dev/null | awk -v want="$2" '
    /^[A-Z]/ { part = $1; slot = "" }
    part == "Keyslots:" && /^  [0-9]+: / { slot = $1 + 0 "" }
    part == "Keyslots:" && slot == want && $1 == "Salt:" { print; more = 1; next }
    more && /^\t +[0-9a-f ]+$/ { print; next }
    { more = 0 }' | tr --delete '[:space:]'
  }

  # vault_key_slot DISK: the slot of the key file.
  vault_key_slot() { vault_key_tokens "$1" | awk '$2 != "" { print $2; exit }'; }
  vault_key_tokens() {
    cryptsetup luksDump "$1" 2> /dev/null | awk '
    /^[A-Z]/ { if (ours) print token, slot; part = $1; ours = 0 }
    part == "Tokens:" && /^  [0-9]+: / {
      if (ours) print token, slot
      token = $1 + 0; slot = ""; ours = $2 == "fortress-key-file"
    }
    part == "Tokens:" && $1 == "Keyslot:" { slot = $2 }'
  }

  # vault_key_drop DISK: the key file opens it no more.
  vault_key_drop() {
    local token slot
    while read -r token slot; do
      [ -z "$slot" ] || cryptsetup luksKillSlot --batch-mode "$1" "$slot"
      cryptsetup token remove --token-id "$token" "$1"
    done < <(vault_key_tokens "$1")
  }

  # vault_header_digest DISK: of its header, as it was before fortress-vault bound the TPM2's key anew.
  vault_header_digest() {
    local now first last
    now=$(vault_header "$1" | sha256sum | cut --delimiter=' ' --fields=1)
    read -r first last 2> /dev/null < "$VAULT_NOTES/renewed" || last=''
    if [ "$last" = "$now" ]; then echo "$first"; else echo "$now"; fi
  }

  # vault_open DISK UUID NAME: the mapping is there, and it is this vault's.
  vault_open() {
    local node
    node=$(readlink --canonicalize-existing "/dev/mapper/$3") || vault_no "/dev/mapper/$3 is not there" || return
    [ "$(cat "/sys/class/block/${node##*/}/dm/uuid")" = "CRYPT-LUKS2-${2//-/}-$3" ] ||
      vault_no "/dev/mapper/$3 is something else"
  }

  # vault_slots DISK: every key that opens it, and no key that nobody knows.
  vault_slots() {
    systemd-cryptenroll "$1" | awk -v file="$(vault_key_slot "$1")" '
    NR > 1 { kind = $1 == 0 && $2 == "password" ? "passphrase" : file != "" && $1 == file ? "key-file" : $2
             line = line (line == "" ? "" : " ") $1 "=" kind }
    kind ~ /^(password|conflict|other)$/ { unknown = 1 }
    END { print line; exit unknown }'
  }

  export -f vault_sector vault_salt vault_key_slot vault_key_tokens vault_key_drop vault_header_digest vault_open vault_slots

  # 1/1 no disk is chosen for the vault (vault.disk), so nothing is encrypted
  #   why: a person chooses it by its id, in vault.disk of its machine in the site document; verify lists the disks there are
  #   F12 The data of the cluster has an encrypted disk of its own [NIST SP 800-53 SC-28(1)]
  check() { true; }
  demand 'no disk is chosen for the vault (vault.disk), so nothing is encrypted' 'write one of the ids under /dev/disk/by-id into vault.disk'
}

# What main uses.
# from lib/host/vault.sh: VAULT_NOTES VAULT_HEADER_BYTES vault_no vault_identity vault_uuid vault_is vault_candidates
# from lib/host/vault.sh: vault_carries vault_disk vault_idle vault_same vault_header
# from lib/engine/shell/printed.sh: FK_OUT FK_RC FK_TX FK_VISIT FK_ARM FK_BACK FK_TMP begin lock usage holds demand fail

main "$@"
