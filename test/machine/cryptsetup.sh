#!/bin/bash
# In a chroot the plugin of cryptsetup looks for a device and finds none. systemd-cryptenroll asks the TPM in its place, on a copy of
# the header that has this token alone: the same unseal, by the same library.
set -euo pipefail
real=/usr/sbin/cryptsetup
case "$*" in
  'open --test-passphrase --token-only --token-id '*) ;;
  *) exec "$real" "$@" ;;
esac
id=$5 copy=$(mktemp)
trap 'rm --force "$copy"' EXIT
cp "$6" "$copy"
for token in $("$real" luksDump "$copy" |
  awk '/^[A-Z]/ { part = $1 } part == "Tokens:" && /^  [0-9]+: / { print $1 + 0 }'); do
  [ "$token" = "$id" ] || "$real" token remove --token-id "$token" "$copy"
done
systemd-cryptenroll --unlock-tpm2-device="$SYSTEMD_TPM2_DEVICE" --recovery-key "$copy"
