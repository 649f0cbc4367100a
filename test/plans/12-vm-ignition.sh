#!/bin/bash
# 12-vm-ignition: The first-boot configuration of every node: Ignition for Flatcar, a machine configuration for Talos.
#
# Run it as root on the machine. Each step asks first and changes only what does not hold.
set -euo pipefail
[ "$(id --user)" -eq 0 ] || { echo "this script needs root" >&2; exit 1; }
: "${FK_SECRETS:?a directory that holds the secrets of this page, one file each}"

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

# 1/2 /var/lib/libvirt/fortress exists, and QEMU has a user of its own
if ! { test -d /var/lib/libvirt/fortress && getent passwd libvirt-qemu; } > /dev/null 2>&1; then
  echo '/var/lib/libvirt/fortress exists, and QEMU has a user of its own: no' >&2
  echo '  ./task vm-host apply' >&2
  exit 1
fi

# 2/2 the Ignition of fortress-node is written
#   why: users, keys, address, settings and the pinned k3s come with the first boot: nothing is set up by hand afterwards
if ! { settled /var/lib/libvirt/fortress/fortress-node.ign && [ "$(stat --format='%a %U:%G' /var/lib/libvirt/fortress/fortress-node.ign)" = "400 libvirt-qemu:libvirt-qemu" ] && sha256sum --check --status /var/lib/fortress/secret/var/lib/libvirt/fortress/fortress-node.ign.sha256&& [ "$(cat /var/lib/fortress/secret/var/lib/libvirt/fortress/fortress-node.ign.sha256.around)" = 245e5db0d1104cb7c2d032ed9f509e3353c1b8df6a3a8ff31c588f40f8d6cbf7 ]; } > /dev/null 2>&1; then
  {
    put /var/lib/libvirt/fortress/fortress-node.ign 400 libvirt-qemu:libvirt-qemu
  } < "$FK_SECRETS/fortress-node-ignition"
  install --directory --mode=700 "$(dirname /var/lib/fortress/secret/var/lib/libvirt/fortress/fortress-node.ign.sha256)" && sha256sum /var/lib/libvirt/fortress/fortress-node.ign > /var/lib/fortress/secret/var/lib/libvirt/fortress/fortress-node.ign.sha256&& echo 245e5db0d1104cb7c2d032ed9f509e3353c1b8df6a3a8ff31c588f40f8d6cbf7 > /var/lib/fortress/secret/var/lib/libvirt/fortress/fortress-node.ign.sha256.around
  settle /var/lib/libvirt/fortress/fortress-node.ign
fi
