#!/bin/bash
# 12-vm-ignition: What a node becomes on its first boot, all at once.
#
# Run it as root on the machine. Each step asks first and changes only what does not hold.
set -euo pipefail
[ "$(id --user)" -eq 0 ] || { echo "this script needs root" >&2; exit 1; }
: "${FK_SECRETS:?a directory that holds the secrets of this page, one file each}"

# record_before PATH: only the task runner records what was there before; a printed page does not take back.
record_before() { :; }
export -f record_before
saved() { [ -e "$FK_STATE/saved-$1-$2" ]; }
FK_TMP=$(mktemp --directory)
export FK_TMP
# Files are written whole or not at all. These functions are part of every program that applies, and of printed pages.
: "${FK_STATE:=/var/lib/fortress}"

# put PATH MODE OWNER [TEST]: standard input becomes PATH. TEST is bash and sees the candidate as $new.
# The old file waits in pending/ until `put_finish PATH`, so that a run killed before its reload does not look finished.
put() {
  local path=$1 mode=$2 owner=$3 test=${4-} new pending
  new=$(dirname "$path")/.$(basename "$path").fortress
  pending=$FK_STATE/pending/${path//\//%}
  record_before "$path"
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

# put_finish PATH: the commands that follow the file have run.
put_finish() { rm --recursive --force "$FK_STATE/pending/${1//\//%}" "$FK_STATE/pending/${1//\//%}.part"; }

# put_finished PATH: no change of PATH waits for the commands that follow it.
put_finished() { [ ! -e "$FK_STATE/pending/${1//\//%}" ]; }

# put_restore PATH: the file that `put` replaced returns.
put_restore() {
  local pending=$FK_STATE/pending/${1//\//%}
  [ -d "$pending" ] || return 0
  if [ -e "$pending/old" ] || [ -L "$pending/old" ]; then
    mv --force --no-target-directory "$pending/old" "$1"
  else
    rm --force "$1"
  fi
  put_finish "$1"
}

# received PATH: FK_PART is the file beside PATH that was uploaded for it, and FK_DIGEST its digest, which the sender verified;
# another file is deleted. FK_SENT has a line for everything that was sent: digest, path.
received() {
  FK_DIGEST=$(awk -v path="$1" '{ d = $1; sub(/^[^ ]* /, "") } $0 == path { print d }' <<< "$FK_SENT")
  [ -n "$FK_DIGEST" ] || { echo "nothing was sent for $1" >&2; return 1; }
  FK_PART=$(dirname "$1")/.$(basename "$1").${FK_DIGEST:0:16}.part
  printf '%s  %s\n' "$FK_DIGEST" "$FK_PART" | sha256sum --check --status || {
    rm --force "$FK_PART"
    echo "what arrived for $1 is not what was sent; it is deleted, and sent again by the next run" >&2
    return 1
  }
}

# put_matches PATH SHA256 MODE OWNER: PATH has this content, and nothing is left to follow; 2 says that only mode or owner
# differ.
put_matches() {
  local is
  [[ ${FK_MATCHES-} != *$'\n'"$*"$'\n'* ]] || return 0 # checked for all files at once, and nothing has changed since
  put_finished "$1" && [ -f "$1" ] && [ ! -L "$1" ] && printf '%s  %s\n' "$2" "$1" | sha256sum --check --status || return 1
  is=$(stat --format='%a %U:%G' "$1")
  [ "$is" = "$3 $4" ] || { printf 'mode and owner are %s, and should be %s %s\n' "$is" "$3" "$4"; return 2; }
}
export -f put put_finish put_finished put_restore received put_matches
export FK_STATE

# 1/2 the directory of the machines is there, and QEMU has a user of its own
if ! { test -d /var/lib/libvirt/fortress && getent passwd libvirt-qemu; } > /dev/null 2>&1; then
  echo 'the directory of the machines is there, and QEMU has a user of its own: no' >&2
  echo '  ./task vm-host apply' >&2
  exit 1
fi

# 2/2 what fortress-node becomes on its first boot is written down
#   why: users, keys, address, settings and the pinned k3s come with the first start: nothing is set up by hand afterwards
if ! { put_finished /var/lib/libvirt/fortress/fortress-node.ign && [ "$(stat --format='%a %U:%G' /var/lib/libvirt/fortress/fortress-node.ign)" = "400 libvirt-qemu:libvirt-qemu" ] && sha256sum --check --status /var/lib/fortress/secret/var/lib/libvirt/fortress/fortress-node.ign.sha256&& [ "$(cat /var/lib/fortress/secret/var/lib/libvirt/fortress/fortress-node.ign.sha256.around)" = a3c86d7f885c06c8eb5f2726328876c08975cb2e1bb11428839f5e5602cacaf4 ]; } > /dev/null 2>&1; then
  {
    put /var/lib/libvirt/fortress/fortress-node.ign 400 libvirt-qemu:libvirt-qemu
  } < "$FK_SECRETS/fortress-node-ignition"
  install --directory --mode=700 "$(dirname /var/lib/fortress/secret/var/lib/libvirt/fortress/fortress-node.ign.sha256)" && sha256sum /var/lib/libvirt/fortress/fortress-node.ign > /var/lib/fortress/secret/var/lib/libvirt/fortress/fortress-node.ign.sha256&& echo a3c86d7f885c06c8eb5f2726328876c08975cb2e1bb11428839f5e5602cacaf4 > /var/lib/fortress/secret/var/lib/libvirt/fortress/fortress-node.ign.sha256.around
  put_finish /var/lib/libvirt/fortress/fortress-node.ign
fi
