#!/bin/bash
# 14-vm-talos: A Talos node with its machine configuration applied, etcd bootstrapped once, and the kubeconfig saved.
#
# Run it as root on fortress:
#   bash 14-vm-talos.sh
# It has 1 step, which checks first, and changes only what does not hold.
# It keeps no record, so undo cannot take it back. It checks no controls: verify does.
# shellcheck disable=SC2034 # functions read what is set here
set -euo pipefail
FK_PAGE=14-vm-talos FK_FILE=14-vm-talos.sh
export FK_PAGE FK_FILE

main() {
  case ${1-} in '') ;; *) usage ;; esac
  begin
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

  # talos_try NAME: the node takes its machine configuration for two minutes, and keeps it only when it answers as before.
  talos_try() {
    local file=$TALOS_DECLARED/$1.talos.yaml second said
    said=$(talos "$1" apply-config --mode=try --timeout=2m --file "$file") ||
      talos_no "$(printf '%s\n' "$said" | talos_names)" || return
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

  # talos_closed ADDRESS PORT: whoever shows no certificate is refused. TLS says so after its handshake, so wait for the answer.
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
  check() { ! ls /etc/fortress/vm/*.talosconfig 2> /dev/null; }
  demand 'no node of the site runs Talos' 'credentials are left of a node that the site has no more: ./task vm-talos undo, or list it with os: talos again'
}

# What main uses.
# from lib/engine/shell/printed.sh: FK_OUT FK_RC FK_TX FK_VISIT FK_ARM FK_BACK FK_TMP begin lock usage holds demand fail

main "$@"
