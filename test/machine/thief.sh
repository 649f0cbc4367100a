# shellcheck shell=bash
# A machine with a TPM2, as far as a directory and a program can be one: Debian 13's own systemd-cryptenroll and cryptsetup on a LUKS2
# header in a file, before a real software TPM. A boot is a TPM that starts anew, and what is measured into it.
export PATH=/usr/local/sbin:/usr/sbin:/usr/bin HOME=/root LC_ALL=C.UTF-8
export SYSTEMD_TPM2_DEVICE=swtpm:host=127.0.0.1,port=23210 TPM2TOOLS_TCTI=swtpm:host=127.0.0.1,port=23210
ip link set lo up
mkdir --parents /tpm /run/lock
umask 077

# boots SYSTEM: the same firmware, Secure Boot and shim for each system; its own command line, kernel and initrd.
boots() {
  local ready=''
  [ ! -e /run/swtpm.pid ] || { kill "$(cat /run/swtpm.pid)" && while [ -e /run/swtpm.pid ]; do sleep 0.05; done; }
  swtpm socket --tpm2 --tpmstate dir=/tpm --server type=tcp,port=23210,bindaddr=127.0.0.1 \
    --ctrl type=tcp,port=23211,bindaddr=127.0.0.1 --flags not-need-init,startup-clear --daemon --pid file=/run/swtpm.pid
  while [ -z "$ready" ]; do
    if measured 7 'Secure Boot by Microsoft' 2> /dev/null; then ready=yes; else sleep 0.05; fi
  done
  measured 14 "Debian's shim, and no other keys"
  measured 8 "command line of $1"
  measured 9 "kernel and initrd of $1"
}
measured() { tpm2_pcrextend "$1:sha256=$(sha256sum <<< "$2" | cut --delimiter=' ' --fields=1)"; }

# enrols REGISTERS [PIN]
enrols() {
  NEWPIN=${2-} systemd-cryptenroll --unlock-key-file=/pass --tpm2-device="$SYSTEMD_TPM2_DEVICE" --tpm2-pcrs="$1" \
    --tpm2-with-pin="$([ -n "${2-}" ] && echo yes || echo no)" /disk > /dev/null 2>&1
}
# opens TOKEN
opens() { if cryptsetup open --test-passphrase --token-only --token-id "$1" /disk > /dev/null 2>&1; then echo opens; else echo shut; fi; }
slots() { systemd-cryptenroll /disk 2> /dev/null | awk 'NR > 1 { print $1 "=" $2 }' | paste --serial --delimiters=' '; }
passes() { cryptsetup open --test-passphrase --disable-external-tokens --key-slot "$1" --key-file "$2" /disk && echo yes; }
binding() { /usr/local/sbin/fortress-vault "$1" /disk 7+8+9+14 7+14; }

printf passphrase > /pass
printf recovery > /recovery
truncate --size=64M /disk
cryptsetup luksFormat --batch-mode --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --offset 32768 \
  --luks2-keyslots-size 4m --key-slot 0 --key-file /pass /disk
cryptsetup luksAddKey --batch-mode --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --new-key-slot 1 --key-file /pass /disk /recovery
printf '{"type":"systemd-recovery","keyslots":["1"]}' | cryptsetup token import --json-file - /disk
mkdir --parents /boot
echo one > /boot/vmlinuz
