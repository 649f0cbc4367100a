#!/bin/bash
# 14-vm-talos: A Talos node with its machine configuration applied, etcd bootstrapped once, and the kubeconfig saved.
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
TALOS_DECLARED=/etc/fortress/vm TALOS_NOTES=/var/lib/fortress/vm
export TALOS_DECLARED TALOS_NOTES
talos_names() { sed --quiet --expression='1p' \
--expression='2,$s/^\([[:space:]-]*[A-Za-z0-9_./-]*:\).*/\1/p' --expression='2,$s/^[[:space:]]*\* //p'; }
export -f talos_names
talos_no() {
  printf '%s\n' "$*"
  return 1
}

# talos NAME WORD...: talosctl, as somebody whom the node knows. A node that is silent holds nobody up for long.
talos() { timeout 15 talosctl --talosconfig "$TALOS_DECLARED/$1.talosconfig" "${@:2}" 2>&1; }

# talos_runs NAME VERSION: of its system.
talos_runs() {
  local said is
  said=$(talos "$1" version) || talos_no "it does not answer: $(printf '%s\n' "$said" | tail --lines=1)" || return
  is=$(printf '%s\n' "$said" | awk '/^Server:/ { there = 1 } there && $1 == "Tag:" { print $2 }')
  printf 'it runs Talos %s\n' "$is"
  [ "$is" = "$2" ]
}

# talos_applied NAME: the node itself finds no difference between its settings and its machine configuration.
talos_applied() {
  local said
  said=$(talos "$1" apply-config --dry-run --mode=try --file "$TALOS_DECLARED/$1.talos.yaml") ||
    talos_no "it refuses the machine configuration: $(printf '%s\n' "$said" | talos_names)" || return
  ! printf '%s\n' "$said" | grep --line-regexp 'No changes\.' || return 0
  printf 'it would change:\n'
  printf '%s\n' "$said" |
    sed --quiet 's/^\([+-]\) *\(- \)\?\([A-Za-z][A-Za-z0-9_./-]*\):.*/\1 \3/p' | LC_ALL=C sort --unique
  return 1
}

# talos_try NAME: the node takes its machine configuration for two minutes, and keeps it only when it answers then as it did before.
talos_try() {
  local file=$TALOS_DECLARED/$1.talos.yaml second said
  said=$(talos "$1" apply-config --mode=try --timeout=2m --file "$file") || talos_no "$(printf '%s\n' "$said" | talos_names)" || return
  for second in $(seq 12); do
    sleep 5
    # Twice: the first answer may still be the old one.
    if [ "$second" -gt 1 ] && talos "$1" version > /dev/null; then
      talos "$1" apply-config --mode=no-reboot --file "$file"
      return
    fi
  done
  talos_no "it has not answered since: in two minutes it takes the change back by itself"
}

export -f talos_no talos talos_runs talos_applied talos_try
# talos_service NAME SERVICE WORD...: the state and health of one of its services, when it is one of these.
talos_service() {
  local said is
  said=$(talos "$1" service "$2") || talos_no "$(printf '%s\n' "$said" | tail --lines=1)" || return
  is=$(printf '%s\n' "$said" | awk '$1 == "STATE" || $1 == "HEALTH" { printf "%s%s", there++ ? " " : "", $2 }')
  printf '%s: %s\n' "$2" "$is"
  printf '%s\n' "${@:3}" | grep --line-regexp --fixed-strings -e "$is" > /dev/null
}

# talos_member NAME: it is in its own list of etcd's members.
talos_member() {
  local said
  said=$(talos "$1" etcd members) || talos_no "$(printf '%s\n' "$said" | tail --lines=1)" || return
  printf '%s\n' "$said"
  printf '%s\n' "$said" | awk -v name="$1" '{ for (i = 1; i <= NF; i++) if ($i == name) found = 1 } END { exit !found }'
}

# talos_bootstrap NAME: bootstraps etcd, once. The note says that it was done; only a node that is made anew loses it.
talos_bootstrap() {
  local note=$TALOS_NOTES/$1.bootstrapped try said=''
  if [ -e "$note" ]; then
    talos_no "etcd was bootstrapped here on $(cat "$note"), and is gone: a new bootstrap would forget what it held." \
      "Restore a snapshot (talosctl bootstrap --recover-from FILE), or delete $note"
    return
  fi
  # Its disk and its clock may not be ready yet, and an earlier run may have been killed before it could note what it did.
  for ((try = 1; ; try++)); do
    ! said=$(talos "$1" bootstrap) || break
    [[ $said != *AlreadyExists* ]] || break
    [[ $try -lt 60 && $said = *@(FailedPrecondition|Unavailable)* ]] || talos_no "$said" || return
    sleep 5
  done
  install --directory --mode=700 "$TALOS_NOTES"
  date --iso-8601=seconds > "$note.part"
  sync "$note.part"
  mv "$note.part" "$note"
  for ((try = 1; try < 60; try++)); do
    ! said=$(talos_member "$1") || return 0
    sleep 5
  done
  talos_no "etcd is bootstrapped, and $1 is no member yet: $said"
}

export -f talos_service talos_member talos_bootstrap
# talos_certificate FILE KEY DAYS: the certificate in this file is good for so many days more.
talos_certificate() {
  local until
  [ -s "$1" ] || talos_no "$1 is not there" || return
  [ "$(stat --format='%a %U:%G' "$1")" = '600 root:root' ] || talos_no "others may read $1" || return
  awk -v key="$2:" '$1 == key { print $2; exit }' "$1" | base64 --decode > "$FK_TMP/certificate" 2> /dev/null
  until=$(openssl x509 -in "$FK_TMP/certificate" -noout -enddate 2> /dev/null) || talos_no "$1 holds no certificate" || return
  printf 'its certificate is good until %s\n' "${until#notAfter=}"
  openssl x509 -in "$FK_TMP/certificate" -noout -checkend $(($3 * 86400)) > /dev/null
}

# talos_closed ADDRESS PORT: whoever shows no certificate is refused. TLS says so after its handshake, so the answer is waited for.
talos_closed() {
  local said
  said=$(timeout 15 openssl s_client -connect "$1:$2" -alpn h2 2>&1 < <(sleep 2)) || true # the words decide
  if [ -z "$said" ] ||
    printf '%s\n' "$said" | grep --extended-regexp 'connect:errno|Connection refused|timed out' > /dev/null; then
    talos_no "nobody answers at $1 port $2"
    return
  fi
  printf '%s\n' "$said" |
    grep --only-matching --ignore-case --extended-regexp \
      'alert (certificate required|bad certificate|handshake failure)' | sed --quiet 1p |
    grep . || talos_no "$1 port $2 speaks to whoever comes"
}

export -f talos_certificate talos_closed

# 1/1 no node of the site runs Talos
if ! { ! ls /etc/fortress/vm/*.talosconfig 2> /dev/null; } > /dev/null 2>&1; then
  echo 'no node of the site runs Talos: no' >&2
  echo '  credentials are left of a node that the site has no more: ./task vm-talos undo, or set FK_NODE_OS=talos again' >&2
  exit 1
fi
