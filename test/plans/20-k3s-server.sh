#!/bin/bash
# 20-k3s-server: The first server of the cluster: hardened by files, and proven to answer before its configuration is kept.
#
# Run it as root on the machine. Each step asks first and changes only what does not hold.
# Some steps could close the door you came through. Before the first of them the present state of /etc and of the
# firewall is kept, and taken back by itself after three minutes, unless you log in by a NEW connection and run:
#   touch /run/fortress-keep            (or start this script with FK_KEEP_DOORS=yes, if you have a console)
set -euo pipefail
[ "$(id --user)" -eq 0 ] || { echo "this script needs root" >&2; exit 1; }
: "${FK_SECRETS:?a directory that holds the secrets of this page, one file each}"
: "${FK_FILES:?a directory that holds the downloads of this page; each step says from where}"

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
FK_RESTART='always	k3s.service	/etc/rancher/k3s/	/etc/rancher/k3s/k3s.yaml	/etc/rancher/k3s/token' FK_TABLES=''
# What a machine looked like, and the way back to it. Serves undo (from the record of a page) and the dead man (from a
# transaction). Needs nothing but coreutils, tar, awk and systemd: no network, no name service, nothing that a page changes.

# fk_etc: one line for every entry of /etc: path, kind, mode, owner, and content (hash, link target or nothing).
fk_etc() {
  find /etc -xdev \( -name '.*.fortress' -o -path /etc/mtab \) -prune -o -type f -printf '%p\tf\t%m\t%U:%G\t\n' \
    -o -printf '%p\t%y\t%m\t%U:%G\t%l\n' | LC_ALL=C sort > "$1.meta"
  find /etc -xdev -name '.*.fortress' -prune -o -type f -print0 | xargs --null --no-run-if-empty sha256sum |
    sed 's/^\\//' | awk '{ print substr($0, 67) "\t" substr($0, 1, 64) }' | LC_ALL=C sort > "$1.hash"
  awk -F '\t' 'NR == FNR { hash[$1] = $2; next } $2 == "f" { $5 = hash[$1] } { print $1 "\t" $2 "\t" $3 "\t" $4 "\t" $5 }' \
    "$1.hash" "$1.meta" > "$1"
  rm --force "$1.meta" "$1.hash"
}

fk_units() {
  systemctl list-units --all --plain --no-legend --no-pager --type=service,socket,timer,path,mount,target 2> /dev/null |
    awk '$1 !~ /^(run-|session-|user|fortress-(deadman|doors)|systemd-tmpfiles|apt-)/ { print $1 "\t" $3 }' | LC_ALL=C sort
}

fk_packages() { dpkg-query --show --showformat='${Package}:${Architecture}\t${db:Status-Abbrev}\n' 2> /dev/null | awk '$2 ~ /^i/ { print $1 }' | LC_ALL=C sort; }
fk_sysctls() { sysctl --all 2> /dev/null | LC_ALL=C sort; }
fk_tables() { if command -v nft > /dev/null; then nft list tables 2> /dev/null | LC_ALL=C sort; fi; }

# fk_functions NAME…: the text of the functions that know the way back, and of the named ones.
fk_functions() {
  declare -f fk_etc fk_units fk_packages fk_sysctls fk_tables fk_changed fk_restore_etc fk_restore_kept fk_restore_aside fk_restore_units \
    fk_restore_sysctls fk_restore_tables fk_sysctl_keys fk_rollback fk_restart "$@"
}

# fk_sure FUNCTION WORD…: in a bash of its own that ends at its first fault. Behind `if` and `||` bash ignores set -e, in
# subshells too, and a snapshot that was cut short would be a way back into nothing.
fk_sure() {
  # shellcheck disable=SC2016,SC2046 # expands in there; names have no spaces
  FK_STATE=$FK_STATE FK_RESTART=${FK_RESTART-} FK_TABLES=${FK_TABLES-} bash -eu -c "$(fk_functions $(compgen -A function fk_record) fk_add fk_describe fk_functions fk_room fk_snapshot $(compgen -A function fk_deadman) "$1")"$'\n''"$@"' fortress "$@"
}

# fk_room: there is room for a snapshot and for what comes after it.
fk_room() {
  local dir=$FK_STATE
  while [ ! -d "$dir" ]; do dir=$(dirname "$dir"); done
  if [ "$(df --output=avail --block-size=1M "$dir" | tail --lines=1)" -lt 32 ]; then
    echo "No space left on device: less than 32 MiB are free in $dir" >&2
    return 1
  fi
}

# fk_describe DIR: what the program knows of the way back joins the snapshot: `restart` has the units that start anew when files
# change (HOW, UNIT, PATH, EXCEPT and NEEDS, a dash for none), `own-tables` the tables of nftables that are ours.
fk_describe() {
  local name lines
  for name in restart own-tables; do
    lines=${FK_RESTART-}
    [ "$name" = restart ] || lines=${FK_TABLES-}
    touch "$1/$name"
    { cat "$1/$name" && [ -z "$lines" ] || printf '%s\n' "$lines"; } | LC_ALL=C sort --unique > "$1/$name.part"
    mv --no-target-directory "$1/$name.part" "$1/$name"
  done
}

# fk_snapshot DIR: appears whole or not at all.
fk_snapshot() {
  local dir=$1
  [ ! -d "$dir" ] || return 0
  # Seen from a boot that is not over, the way back would stop what that boot starts a moment later.
  timeout 120 systemctl is-system-running --wait > /dev/null 2>&1 || true # degraded is over too; what hangs is as it is
  fk_room
  rm --recursive --force "$dir.part"
  install --directory --mode=700 "$(dirname "$dir")" "$dir.part" "$dir.part/kept"
  fk_etc "$dir.part/etc"
  # 1 says that a file changed while it was read: what it was a moment ago is as good.
  tar --create --file="$dir.part/etc.tar" --directory=/ --one-file-system --xattrs --acls --numeric-owner etc 2> /dev/null || [ $? -eq 1 ]
  fk_units > "$dir.part/units"
  fk_packages > "$dir.part/packages"
  fk_sysctls > "$dir.part/sysctls"
  fk_tables > "$dir.part/tables"
  if command -v nft > /dev/null; then nft --stateless list ruleset > "$dir.part/ruleset" 2> /dev/null || true; fi # no nf_tables, no ruleset
  fk_describe "$dir.part"
  : > "$dir.part/absent"
  : > "$dir.part/modes"
  sync --file-system "$dir.part"
  mv --no-target-directory "$dir.part" "$dir"
}

# keep PATH: a path outside /etc is about to change; every open snapshot gets a copy first.
# keep --meta PATH: only its mode and owner are about to change.
keep() {
  local dir meta=
  [ "$1" != --meta ] || { meta=yes && shift; }
  case $1 in /etc/*) return 0 ;; esac
  for dir in ${FK_KEEP-}; do
    if [ -n "$meta" ]; then
      [ ! -e "$1" ] || awk -F '\t' -v p="$1" '$3 == p { f = 1 } END { exit !f }' "$dir/modes" ||
        stat --printf='%a\t%u:%g\t%n\n' "$1" >> "$dir/modes"
    elif [ ! -e "$dir/kept$1" ] && [ ! -L "$dir/kept$1" ] && ! grep --line-regexp --fixed-strings "$1" "$dir/absent" > /dev/null; then
      if [ -e "$1" ] || [ -L "$1" ]; then
        rm --recursive --force "$dir/kept.part"
        cp --archive "$1" "$dir/kept.part"
        install --directory --mode=700 "$(dirname "$dir/kept$1")"
        mv --no-target-directory "$dir/kept.part" "$dir/kept$1"
        printf '%s\n' "$1" >> "$dir/present"
      else
        printf '%s\n' "$1" >> "$dir/absent"
      fi
    fi
  done
}

# aside PATH TO UNIT: PATH is moved to TO, for the case that a transaction is taken back: too much to be copied. The way back stops
# UNIT, which writes there.
aside() {
  local dir
  for dir in ${FK_KEEP-}; do
    case $dir in "$FK_STATE"/tx/*) printf '%s\t%s\t%s\n' "$@" >> "$dir/aside" && sync "$dir/aside" || return ;; esac
  done
  mv --no-target-directory "$1" "$2"
}
export -f keep aside

# fk_changed OLD NEW: the paths whose line differs between two lists of fk_etc.
fk_changed() { LC_ALL=C comm -3 <(LC_ALL=C sort "$1") <(LC_ALL=C sort "$2") | sed 's/^\t//' | cut --fields=1 | LC_ALL=C sort --unique; }

# fk_restore_etc DIR PATHS: the listed paths of /etc become what DIR holds: absent ones go, the others come back by rename.
fk_restore_etc() {
  local dir=$1 paths=$2 work path
  [ -s "$paths" ] || return 0
  work=/etc/.fortress-restore.fortress
  rm --recursive --force "$work"
  install --directory --mode=700 "$work"
  LC_ALL=C comm -12 "$paths" <(cut --fields=1 "$dir/etc" | LC_ALL=C sort) > "$dir/coming"
  LC_ALL=C comm -23 "$paths" <(cut --fields=1 "$dir/etc" | LC_ALL=C sort) > "$dir/going"
  # Nothing moves before all of it is there: a disk may be full.
  if ! sed 's|^/||' "$dir/coming" | tar --extract --file="$dir/etc.tar" --directory="$work" --xattrs --acls --numeric-owner \
    --same-permissions --same-owner --no-recursion --verbatim-files-from --files-from=- 2> "$dir/tar"; then
    printf 'the old files could not be brought back: %s\n' "$(tail --lines=1 "$dir/tar")"
    rm --recursive --force "$work"
    return 1
  fi
  LC_ALL=C sort --reverse "$dir/going" | while IFS= read -r path; do
    if [ -d "$path" ] && [ ! -L "$path" ]; then rmdir "$path" 2> /dev/null || true; else rm --force "$path"; fi # a directory that others use stays
  done
  while IFS= read -r path; do
    if [ -d "$work$path" ] && [ ! -L "$work$path" ]; then
      if [ ! -d "$path" ] || [ -L "$path" ]; then rm --recursive --force "$path" && mkdir "$path"; fi
    else
      [ ! -d "$path" ] || [ -L "$path" ] || rm --recursive --force "$path"
      mv --force --no-target-directory "$work$path" "$path"
    fi
  done < "$dir/coming"
  # Directories last: their own times and modes change with what happens inside them.
  LC_ALL=C sort --reverse "$dir/coming" | while IFS= read -r path; do
    [ ! -d "$work$path" ] || [ -L "$work$path" ] || { chown --reference="$work$path" "$path" && chmod --reference="$work$path" "$path" && touch --reference="$work$path" "$path"; }
  done
  rm --recursive --force "$work"
  sync --file-system /etc
}

fk_restore_kept() {
  local dir=$1 path mode owner
  if [ -e "$dir/present" ]; then
    while IFS= read -r path; do
      rm --recursive --force "$path.fortress-old"
      cp --archive "$dir/kept$path" "$path.fortress-old"
      if [ -d "$path" ] && [ ! -L "$path" ]; then rm --recursive --force "$path"; fi
      mv --force --no-target-directory "$path.fortress-old" "$path"
    done < "$dir/present"
  fi
  LC_ALL=C sort --reverse "$dir/absent" | while IFS= read -r path; do
    if [ -d "$path" ] && [ ! -L "$path" ]; then rmdir --ignore-fail-on-non-empty "$path"; else rm --force "$path"; fi
  done
  while IFS=$'\t' read -r mode owner path; do
    [ ! -e "$path" ] || { chown "$owner" "$path" && chmod "$mode" "$path"; }
  done < "$dir/modes"
}

# fk_restore_aside DIR [boot]: what was moved aside is where it was, and what took its place is gone. At boot nothing has begun to
# write, and whoever stops a unit then also takes away that it is to be started.
fk_restore_aside() {
  local path to unit
  [ -e "$1/aside" ] || return 0
  while IFS=$'\t' read -r path to unit; do
    [ -e "$to" ] || continue
    [ "${2-}" = boot ] || systemctl stop "$unit"
    rm --recursive --force "$path"
    mv --no-target-directory "$to" "$path"
  done < "$1/aside"
}

# fk_restore_units DIR: units that ran run again, units that did not are stopped. AFTER limits it to what we changed.
fk_restore_units() {
  local unit now before
  systemctl daemon-reload
  LC_ALL=C comm -3 "$1/units" <(fk_units) | sed 's/^\t//' | cut --fields=1 | LC_ALL=C sort --unique | while IFS= read -r unit; do
    [ -z "${2-}" ] || grep --line-regexp --fixed-strings "$unit" "$2" > /dev/null || continue
    before=$(awk -F '\t' -v u="$unit" '$1 == u { print $2 }' "$1/units")
    now=$(systemctl is-active "$unit") || true # inactive is an answer, not a failure
    if [ "$before" = active ] && [ "$now" != active ]; then
      systemctl start --no-block "$unit" || true # what cannot start now is said by the digest
    elif [ "$before" != active ] && [ "$now" = active ]; then
      # A way in that was not open before is no reason to cut somebody off.
      case $unit in ssh.* | ssh@*) continue ;; esac
      systemctl stop "$unit" || true # a unit that refuses a manual stop stays
    fi
  done
  # systemd remembers that a unit failed even after its file has gone.
  systemctl list-units --all --plain --no-legend --no-pager --state=failed | awk '$2 == "not-found" { print $1 }' |
    LC_ALL=C sort | LC_ALL=C comm -23 - <(cut --fields=1 "$1/units") | xargs --no-run-if-empty systemctl reset-failed
  return 0
}

# fk_restore_sysctls DIR KEYS: keys that a file of ours named, and what the kernel changed along with them.
fk_restore_sysctls() {
  local key value turn last
  [ -s "$2" ] || return 0
  last=$(awk -F '[./]' '{ print $NF }' "$2" | LC_ALL=C sort --unique | paste --serial --delimiters=' ')
  for turn in 1 2; do
    LC_ALL=C comm -23 "$1/sysctls" <(fk_sysctls) | awk -v last=" $last " '{ n = split($1, part, "."); if (index(last, " " part[n] " ")) print }' |
      while IFS= read -r key; do
        value=${key#* = }
        key=${key%% = *}
        sysctl --quiet --write "$key=$value" 2> /dev/null || [ "$turn" = 1 ] || printf 'needs a reboot: %s = %s\n' "$key" "$value"
      done
  done
}

# fk_restore_tables DIR: of the tables that are ours, those that were not there go, and the others become what they were.
fk_restore_tables() {
  local table
  command -v nft > /dev/null && [ -s "$1/own-tables" ] || return 0
  while IFS= read -r table; do
    if grep --line-regexp --fixed-strings "table $table" "$1/tables" > /dev/null; then
      {
        printf 'table %s\ndelete table %s\n' "$table" "$table" &&
          awk -v head="table $table {" 'index($0, head) == 1 { p = 1 } p { print } p && /^}/ { p = 0 }' "$1/ruleset"
      } | nft --file -
    elif fk_tables | grep --line-regexp --fixed-strings "table $table" > /dev/null; then
      nft "delete table $table"
    fi
  done < "$1/own-tables"
}

# fk_sysctl_keys FILES…: the keys that sysctl.d files set.
fk_sysctl_keys() { cat /dev/null "$@" 2> /dev/null | awk -F '=' '/^[^#;[]/ && NF > 1 { gsub(/[ \t]/, "", $1); sub(/^-/, "", $1); print $1 }' | LC_ALL=C sort --unique; }

# fk_rollback DIR [boot]: everything as DIR holds it. At boot nothing runs yet, so only files matter.
fk_rollback() {
  local dir=$1
  fk_etc "$dir/now"
  fk_changed "$dir/etc" "$dir/now" > "$dir/paths"
  grep '^/etc/sysctl' "$dir/paths" > "$dir/sysctl-files" || : > "$dir/sysctl-files"
  # shellcheck disable=SC2046 # paths of sysctl.d have no spaces
  fk_sysctl_keys $(cat "$dir/sysctl-files") > "$dir/keys"
  fk_restore_etc "$dir" "$dir/paths"
  fk_restore_kept "$dir"
  fk_restore_aside "$dir" "${2-}"
  rm --recursive --force "$FK_STATE/pending"
  [ "${2-}" != boot ] || { systemctl daemon-reload; return 0; }
  fk_restore_tables "$dir"
  fk_restore_sysctls "$dir" "$dir/keys"
  fk_restore_units "$dir"
  fk_restart "$dir" "$dir/paths"
}

# fk_restart DIR PATHS: units that do not watch their files start anew, as fk_describe has written it.
fk_restart() {
  local how unit path except needs
  [ -s "$1/restart" ] || return 0
  while IFS=$'\t' read -r how unit path except needs; do
    awk -v under="$path" -v except="$except" 'index($0, under) == 1 && $0 != except { f = 1 } END { exit !f }' "$2" || continue
    [ "$needs" = - ] || [ -e "$needs" ] || continue
    case $how in
      reload) systemctl try-reload-or-restart "$unit" || systemctl restart "$unit" ;;
      active) [ "$(systemctl is-active "$unit")" != active ] || systemctl restart "$unit" ;;
      always)
        # It may have given up over its files, so whether it is active says nothing.
        systemctl reset-failed "$unit" 2> /dev/null || true # it has not failed
        systemctl restart --no-block "$unit"
        ;;
    esac
  done < "$1/restart"
}
# The doors of a printed page. Nobody watches from a laptop here: the admin is the proof.

# doors_arm: before the first change of a door, keep what is, and let a timer and the next boot take it back.
doors_arm() {
  [ -z "${FK_KEEP_DOORS-}" ] && [ ! -e /run/fortress-doors ] || return 0
  fk_sure fk_snapshot "$FK_STATE/doors"
  {
    printf '#!/bin/bash\nset -u\nFK_STATE=%q\n' "$FK_STATE"
    fk_functions
    # shellcheck disable=SC2016 # expands when it runs
    printf '%s\n' '[ -e /run/fortress-keep ] && [ -s /run/fortress-doors ] || fk_rollback "$FK_STATE/doors"' 'rm --recursive --force "$FK_STATE/doors" /run/fortress-doors /run/fortress-keep'
  } > "$FK_STATE/doors/rollback"
  systemd-run --quiet --collect --on-active="${FK_DEADMAN_SECONDS:-180}" --timer-property=AccuracySec=1s --unit=fortress-doors /bin/bash "$FK_STATE/doors/rollback"
  touch /run/fortress-doors
}

# doors_prove: all steps are done; wait for the person who came in again. A script that died before this is taken back all the same.
doors_prove() {
  [ -e /run/fortress-doors ] || return 0
  echo whole > /run/fortress-doors
  echo 'Log in by a NEW connection now and run: touch /run/fortress-keep'
  while [ -e /run/fortress-doors ]; do
    if [ -e /run/fortress-keep ]; then
      systemctl stop fortress-doors.timer
      rm --recursive --force "$FK_STATE/doors" /run/fortress-doors /run/fortress-keep
      echo 'kept'
      return 0
    fi
    sleep 1
  done
  echo 'nobody came in: the doors are as they were' >&2
  return 1
}

# What several checks below look at.
# A file that the laptop has uploaded gets its name. A page that uploads lists this file before the shell files of its layer.

# receive PATH MODE: what was uploaded for PATH becomes PATH, root's own, whole or not at all. It fails when it is not what the
# laptop has proven: then it is deleted, and uploaded again by the next run.
receive() {
  arrived "$1" || return
  keep "$1"
  chown root:root "$FK_PART"
  chmod "$2" "$FK_PART"
  sync "$FK_PART"
  mv --force --no-target-directory "$FK_PART" "$1"
  sync "$(dirname "$1")"
}
export -f receive
# A node of k3s: the checks about it, and how it starts. Every function that fails prints why.
K3S=/opt/bin/k3s K3S_ETC=/etc/rancher/k3s K3S_DATA=/var/lib/rancher/k3s K3S_NOTES=/var/lib/fortress/k3s
export K3S K3S_ETC K3S_DATA K3S_NOTES

# k3s_no TEXT: prints why, and fails.
k3s_no() {
  printf '%s\n' "$*"
  return 1
}

# k3s_program VERSION SHA256: the program of this version is installed as it was published, and root alone may write it.
k3s_program() {
  local path=/opt/k3s/$1/k3s
  [ -f "$path" ] && [ ! -L "$path" ] || k3s_no "$path is missing" || return
  [ "$(stat --format='%a %U:%G' "$path")" = '755 root:root' ] ||
    k3s_no "$path can be changed: $(stat --format='%a %U:%G' "$path")" || return
  printf '%s  %s\n' "$2" "$path" | sha256sum --check --status || k3s_no "$path differs from the pinned file"
}

# k3s_use VERSION: /opt/bin/k3s becomes this version, for the next start. The link changes atomically.
k3s_use() {
  [ -x "/opt/k3s/$1/k3s" ] || k3s_no "/opt/k3s/$1/k3s is missing" || return
  keep "$K3S"
  install --directory --mode=755 "$(dirname "$K3S")"
  ln --symbolic --force --no-dereference "../k3s/$1/k3s" "$K3S.new"
  mv --force --no-target-directory "$K3S.new" "$K3S"
  sync "$(dirname "$K3S")"
}

# k3s_version: that the link names; nothing where there is none.
k3s_version() {
  local link
  link=$(readlink "$K3S" 2> /dev/null) || return 0
  basename "$(dirname "$link")"
}

# k3s_kubectl WORD...: as the admin of the cluster, on a server.
k3s_kubectl() { timeout "${K3S_SECONDS:-30}" "$K3S" kubectl --kubeconfig "$K3S_ETC/k3s.yaml" "$@"; }

# k3s_self WORD...: as this node itself, which may read little more than itself.
k3s_self() { timeout 30 "$K3S" kubectl --kubeconfig "$K3S_DATA/agent/kubelet.kubeconfig" "$@"; }

# k3s_config_digest: one digest of all that a start depends on: the program, the unit, the configuration, the tokens.
k3s_config_digest() {
  local unit=/etc/systemd/system/k3s.service
  {
    readlink "$K3S"
    {
      find "$K3S_ETC" "$unit" "$unit.d" -type f ! -name k3s.yaml ! -name '.*' -print0 2> /dev/null ||
        true # there need be no drop-in
    } | LC_ALL=C sort --zero-terminated | xargs --null --no-run-if-empty sha256sum
  } | sha256sum | cut --delimiter=' ' --fields=1
}

# k3s_answers ROLE NAME: a server answers and says that it is ready; of an agent the cluster has a Node.
k3s_answers() {
  local said
  systemctl --quiet is-active k3s.service || k3s_no "k3s does not run"$'\n'"$(k3s_said)" || return
  if [ "$1" = server ]; then
    said=$(k3s_kubectl get --raw /readyz 2>&1) || k3s_no "the API does not answer: $(tail --lines=1 <<< "$said")" || return
    [ "$said" = ok ] || k3s_no "the API is not ready: $said"
  else
    said=$(k3s_self get node "$2" --output name 2>&1) || k3s_no "the cluster has no Node $2: $(tail --lines=1 <<< "$said")"
  fi
}

# k3s_said: the last errors in its journal. Why it ends, and that it ends, are different lines.
k3s_said() {
  journalctl --unit=k3s.service --lines=400 --output=cat --no-pager 2> /dev/null |
    grep --extended-regexp 'level=(fatal|error)|^[EF][0-9]{4} |[Ee]rror:' | cut --characters=1-400 | tail --lines=20 |
    awk '{ key = $0; sub(/time="[^"]*"/, "", key) } !seen[key]++' | tail --lines=3 || true # there may be none
}

# k3s_runs ROLE NAME: with the configuration that is on the node now, and not with the one that it was started with.
k3s_runs() {
  systemctl --quiet is-enabled k3s.service || k3s_no 'k3s.service is not enabled' || return
  k3s_answers "$1" "$2" || return
  [ "$(cat "$K3S_NOTES/started" 2> /dev/null)" = \
    "$(systemctl show --property=InvocationID --value k3s.service) $(k3s_config_digest)" ] ||
    k3s_restarted || k3s_no 'k3s was started before the current configuration was written'
}

# k3s_restarted: the machine or systemd has restarted it since, with the configuration that it has now.
k3s_restarted() {
  local begun
  [ "$(cut --delimiter=' ' --fields=2 "$K3S_NOTES/started" 2> /dev/null)" = "$(k3s_config_digest)" ] || return
  begun=$(systemctl show --property=ActiveEnterTimestamp --value k3s.service)
  [ -n "$begun" ] && [ "$(date --date="$begun" +%s)" -ge "$(stat --format=%Y "$K3S_NOTES/started")" ]
}

# k3s_start ROLE NAME SECONDS: restarts it and waits until it is ready; only then is the digest of its configuration noted.
k3s_start() {
  local digest deadline=$((SECONDS + $3)) fails=0 said=''
  digest=$(k3s_config_digest)
  install --directory --mode=700 "$K3S_NOTES"
  # When this run is killed, nothing tells with which configuration k3s was started.
  [ ! -e "$K3S_NOTES/started" ] || mv --force "$K3S_NOTES/started" "$K3S_NOTES/started.before"
  systemctl daemon-reload
  systemctl --quiet enable k3s.service
  systemctl reset-failed k3s.service 2> /dev/null || true # it has not failed
  systemctl restart --no-block k3s.service
  while ! said=$(k3s_answers "$1" "$2"); do
    # A server that cannot read its configuration ends at once, again and again: waiting does not help.
    fails=$(systemctl show --property=NRestarts --value k3s.service)
    if [ "$fails" -ge 3 ] || [ "$SECONDS" -ge "$deadline" ]; then
      said="k3s did not become ready: $said"
      if [ -s "$K3S_NOTES/upgrading" ] && [ -z "${K3S_SWAPS-}" ]; then
        said+=$'\nan upgrade of this node is not finished: ./task k3s-upgrade apply finishes it, or goes back'
      fi
      # The previous configuration may return, and with it its digest.
      [ ! -e "$K3S_NOTES/started.before" ] || mv --force "$K3S_NOTES/started.before" "$K3S_NOTES/started"
      k3s_no "$said"
      return
    fi
    sleep 1
  done
  printf '%s %s\n' "$(systemctl show --property=InvocationID --value k3s.service)" "$digest" > "$K3S_NOTES/started.part"
  sync "$K3S_NOTES/started.part"
  mv --force "$K3S_NOTES/started.part" "$K3S_NOTES/started"
  rm --force "$K3S_NOTES/started.before"
}

# k3s_votes: a line for each server: its name, and whether it has a vote in etcd, as the leader found within the last 15 s.
k3s_votes() {
  k3s_kubectl get nodes --selector=node-role.kubernetes.io/etcd=true --output \
    jsonpath='{range .items[*]}{.metadata.name}{" "}{.status.conditions[?(@.type=="EtcdIsVoter")].status}{"\n"}{end}'
}

# k3s_well COUNT NAME 'NODE URL'…: COUNT servers are members of etcd, and all of them but NAME have a vote and answer at their
# URL: etcd keeps its quorum when NAME stops or joins. What a member reports of another is up to 15 s old; an answer is not.
k3s_well() {
  local count=$1 but=$2 said name vote server members=''
  shift 2
  said=$(k3s_votes 2>&1) || k3s_no "the API does not answer: $(tail --lines=1 <<< "$said")" || return
  while read -r name vote; do
    if [ -z "$name" ] || [ "$name" = "$but" ]; then continue; fi
    [ "$vote" = True ] || k3s_no "$name has no vote in etcd" || return
    members+=" $name"
  done <<< "$said"
  [ "$(wc --words <<< "$members")" -ge "$count" ] || k3s_no "of $count servers the members of etcd are:$members" || return
  for server; do
    case " $members " in *" ${server% *} "*) ;; *) continue ;; esac
    said=$(k3s_kubectl --server="${server#* }" get --raw /readyz 2>&1) && [ "$said" = ok ] ||
      k3s_no "${server% *} does not answer, or is not ready: $(tail --lines=1 <<< "$said")" || return
  done
}

# k3s_stop: for undo. The containers that it started end too; the data stays.
k3s_stop() {
  systemctl disable --now k3s.service 2> /dev/null || true # it is gone already
  if [ -e /sys/fs/cgroup/kubepods.slice/cgroup.kill ]; then echo 1 > /sys/fs/cgroup/kubepods.slice/cgroup.kill; fi
}

export -f k3s_no k3s_program k3s_use k3s_version k3s_kubectl k3s_self k3s_config_digest k3s_answers k3s_said k3s_runs \
  k3s_restarted k3s_start k3s_votes k3s_well k3s_stop


# 1/17 cgroup v2 is mounted and the clock is synchronised
#   why: the kubelet of this version refuses cgroup v1, and certificates are not valid before their time
if ! {
  test "$(stat --file-system --format=%T /sys/fs/cgroup)" = cgroup2fs &&
    { systemd-detect-virt --quiet --container || test "$(timedatectl show --property=NTPSynchronized --value)" = yes; }
} > /dev/null 2>&1; then
  echo 'cgroup v2 is mounted and the clock is synchronised: no' >&2
  echo '  find out why the clock is not synchronised: timedatectl timesync-status, or chronyc tracking' >&2
  exit 1
fi

# 2/17 directory /opt/k3s/v1.36.4+k3s1 exists
if ! { test "$(stat --format='%F %a %U:%G' /opt/k3s/v1.36.4+k3s1)" = 'directory 755 root:root'; } > /dev/null 2>&1; then
  keep /opt/k3s && keep /opt/k3s/v1.36.4+k3s1
  install --directory --mode=755 --owner=root --group=root /opt/k3s /opt/k3s/v1.36.4+k3s1
fi

# 3/17 k3s v1.36.4+k3s1 is downloaded and verified
#   why: it has the pinned SHA-256; nothing that comes from the network is run to install it
if ! { k3s_program v1.36.4+k3s1 835873f37245fc615f547a2fe2af9402a347875f13fa64a1f136de644955ea3f; } > /dev/null 2>&1; then
  # in $FK_FILES: https://github.com/k3s-io/k3s/releases/download/v1.36.4%2Bk3s1/k3s
  printf '%s  %s\n' 835873f37245fc615f547a2fe2af9402a347875f13fa64a1f136de644955ea3f "$FK_FILES"/k3s | sha256sum --check --quiet
  digest=$(sha256sum "$FK_FILES"/k3s | cut --delimiter=' ' --fields=1)
  cp "$FK_FILES"/k3s /opt/k3s/v1.36.4+k3s1/.k3s."${digest:0:16}".part
  export FK_SENT="$digest"' /opt/k3s/v1.36.4+k3s1/k3s'
  receive /opt/k3s/v1.36.4+k3s1/k3s 755
fi

# 4/17 /opt/bin/k3s links to an installed version
#   why: only k3s-upgrade changes to which: it drains the node first, and goes back when the new version fails
if ! { test -n "$(k3s_version)" && test -x /opt/bin/k3s; } > /dev/null 2>&1; then
  k3s_use v1.36.4+k3s1
fi

# 5/17 no second cluster is initialised on an empty disk
#   why: it would get a new CA and new keys, and hold nothing of what the cluster held
if ! { test -d /var/lib/rancher/k3s/server/db/etcd || true; } > /dev/null 2>&1; then
  echo 'no second cluster is initialised on an empty disk: no' >&2
  echo '  restore a backup: ./task restore FILE.' >&2
  echo '  Or put another server first in config/sites/fortress.yaml, and fortress-node joins it.' >&2
  echo '  If the old cluster is gone for good, and its backups too: delete' >&2
  echo '  k3s-join-server.age, k3s-join-agent.age, k3s-kubeconfig.age in /nonexistent/fortress' >&2
  exit 1
fi

# 6/17 k3s.service unit is installed
if ! { landed /etc/systemd/system/k3s.service 8d3f5bc4c878f81a7c70c8630117857be6c380029c8ee01eb18294ea0724c047 644 root:root; } > /dev/null 2>&1; then
  doors_arm
  put /etc/systemd/system/k3s.service 644 root:root << 'FORTRESS'
# k3s as server. It waits for the secrets of the cluster: until they are there systemd passes over this unit, which is no failure.
[Unit]
Description=Lightweight Kubernetes
Documentation=https://docs.k3s.io
ConditionPathExists=/etc/rancher/k3s/token
ConditionFileIsExecutable=/opt/bin/k3s
Wants=network-online.target
After=network-online.target

[Service]
Type=notify
ExecStart=/opt/bin/k3s server --config /etc/rancher/k3s/config.yaml
KillMode=process
Delegate=yes
LimitNOFILE=infinity
LimitNPROC=infinity
LimitCORE=0
TasksMax=infinity
TimeoutStartSec=0
Restart=always
RestartSec=5s

[Install]
WantedBy=multi-user.target
FORTRESS
  systemctl daemon-reload
  settle /etc/systemd/system/k3s.service
fi

# 7/17 k3s configuration: config.yaml
if ! { landed /etc/rancher/k3s/config.yaml e0524fb11e6a1de056048a53b3dacbda376e94fbd435cefc3e7e68f0ee4a90da 600 root:root; } > /dev/null 2>&1; then
  doors_arm
  put /etc/rancher/k3s/config.yaml 600 root:root << 'FORTRESS'
# What k3s is told on every server of the cluster: the same on all, or they disagree about what is encrypted and who may join.
# What differs from node to node stands beside it, in config.yaml.d. Here each key stands once: k3s would take the last one.

# Secrets come from files that only root can read. Agents have a token of their own, with which nobody can become a server.
token-file: /etc/rancher/k3s/token
agent-token-file: /etc/rancher/k3s/agent-token
write-kubeconfig-mode: '0600'

# What is stored is encrypted before it reaches the disk. This cannot be switched on later.
secrets-encryption: true
secrets-encryption-provider: secretbox

# Cilium is the network and does the work of kube-proxy. The gateway and the volumes come with their own layers.
flannel-backend: none
disable-network-policy: true
disable-kube-proxy: true
disable:
  - traefik
  - servicelb
  - local-storage
# It would install charts with the rights of cluster-admin for whoever may create a HelmChart.
disable-helm-controller: true

# A snapshot every six hours, for a week. They stay on this disk: the backup takes them away from it.
etcd-snapshot-schedule-cron: '17 */6 * * *'
etcd-snapshot-retention: 28
etcd-snapshot-compress: true

kube-apiserver-arg:
  # Who may ask, and how much
  - anonymous-auth=false
  - enable-admission-plugins=NodeRestriction,EventRateLimit,DenyServiceExternalIPs
  - admission-control-config-file=/etc/rancher/k3s/admission.yaml
  - request-timeout=300s
  - service-account-extend-token-expiration=false
  - profiling=false
  # What was asked is written down
  - audit-policy-file=/etc/rancher/k3s/audit.yaml
  - audit-log-path=/var/lib/rancher/k3s/server/logs/audit.log
  - audit-log-maxage=30
  - audit-log-maxbackup=10
  - audit-log-maxsize=100
  # Only ciphers that keep old traffic secret when a key is lost
  - tls-min-version=VersionTLS12
  - tls-cipher-suites=TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384

kube-controller-manager-arg:
  - terminated-pod-gc-threshold=100
  - profiling=false

kube-scheduler-arg:
  - profiling=false

# The kubelet refuses to start unless the kernel is as it wants it, in place of changing it.
protect-kernel-defaults: true
# As arguments and not in a file of the kubelet's own: scanners read these.
kubelet-arg:
  - streaming-connection-idle-timeout=5m
  - pod-max-pids=4096
  - seccomp-default=true
  - event-qps=50
  - make-iptables-util-chains=true
  - tls-min-version=VersionTLS12
  - tls-cipher-suites=TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384
FORTRESS
  settle /etc/rancher/k3s/config.yaml
fi

# 8/17 k3s configuration: config.yaml.d/10-node.yaml
if ! { landed /etc/rancher/k3s/config.yaml.d/10-node.yaml 06b4b7ee8a6e834df675f5ca3578bf6a27f005fc459e61dd228a07272c805ec1 600 root:root; } > /dev/null 2>&1; then
  doors_arm
  put /etc/rancher/k3s/config.yaml.d/10-node.yaml 600 root:root << 'FORTRESS'
# The configuration of this node alone; the rest is the same on all.
node-name: fortress-node
node-ip: 10.77.0.2
cluster-init: true
tls-san:
  - fortress-node
  - 10.77.0.2
FORTRESS
  settle /etc/rancher/k3s/config.yaml.d/10-node.yaml
fi

# 9/17 k3s configuration: admission.yaml
if ! { landed /etc/rancher/k3s/admission.yaml 6a0d757b000af77175fd4d3a63a41a8c6be959853dfea1eaf0a7ec71f8b97ce2 600 root:root; } > /dev/null 2>&1; then
  doors_arm
  put /etc/rancher/k3s/admission.yaml 600 root:root << 'FORTRESS'
# What the API server asks before it lets anything in.
apiVersion: apiserver.config.k8s.io/v1
kind: AdmissionConfiguration
plugins:
  # A namespace is restricted unless its label says otherwise (pod-security.kubernetes.io/enforce): labels are seen in the audit log.
  - name: PodSecurity
    configuration:
      apiVersion: pod-security.admission.config.k8s.io/v1
      kind: PodSecurityConfiguration
      defaults:
        enforce: restricted
        enforce-version: latest
        audit: restricted
        audit-version: latest
        warn: restricted
        warn-version: latest
      exemptions:
        usernames: []
        runtimeClasses: []
        # The network of the nodes and what k3s brings itself.
        namespaces: [kube-system]
  # Without limits here the API server would not start: the plug-in demands one.
  - name: EventRateLimit
    configuration:
      apiVersion: eventratelimit.admission.k8s.io/v1alpha1
      kind: Configuration
      limits:
        - type: Server
          qps: 500
          burst: 5000
        - type: Namespace
          qps: 50
          burst: 200
          cacheSize: 1000
FORTRESS
  settle /etc/rancher/k3s/admission.yaml
fi

# 10/17 k3s configuration: audit.yaml
if ! { landed /etc/rancher/k3s/audit.yaml 0a2c83ea15eb40c8f53d751dfa9754ed7c192f687459dba5978f76c7f42cb0a4 600 root:root; } > /dev/null 2>&1; then
  doors_arm
  put /etc/rancher/k3s/audit.yaml 600 root:root << 'FORTRESS'
# Who asked the API for what. The first rule that matches decides; of Secrets nothing is ever written down but that they were asked for.
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
omitManagedFields: true
rules:
  # Noise: whether the server is well, and heartbeats.
  - level: None
    nonResourceURLs: ['/healthz*', '/livez*', '/readyz*', '/version']
  - level: None
    verbs: [get, update, patch]
    users: ['system:kube-controller-manager', 'system:kube-scheduler', 'system:k3s-controller']
    resources:
      - group: coordination.k8s.io
        resources: [leases]
  - level: None
    userGroups: ['system:nodes']
    verbs: [get, update, patch]
    resources:
      - group: coordination.k8s.io
        resources: [leases]
  - level: None
    resources:
      - group: ''
        resources: [events]
      - group: events.k8s.io
        resources: [events]

  # Bodies of these hold secrets, so no rule below ever sees them.
  - level: Metadata
    resources:
      - group: ''
        resources: [secrets, configmaps, serviceaccounts/token]
      - group: authentication.k8s.io
        resources: [tokenreviews]

  # Who enters a running pod, or passes through the API to one.
  - level: Request
    resources:
      - group: ''
        resources:
          - pods/attach
          - pods/ephemeralcontainers
          - pods/exec
          - pods/portforward
          - pods/proxy
          - services/proxy
          - nodes/proxy

  # What decides about rights, and about what is let in at all: with the answer.
  - level: RequestResponse
    verbs: [create, update, patch, delete, deletecollection]
    resources:
      - group: rbac.authorization.k8s.io
      - group: admissionregistration.k8s.io
      - group: certificates.k8s.io
      - group: apiextensions.k8s.io
      - group: policies.kyverno.io
      - group: cilium.io
      - group: networking.k8s.io
      - group: ''
        resources: [namespaces, nodes, serviceaccounts]

  # Everything else that changes something.
  - level: Request
    verbs: [create, update, patch, delete, deletecollection]

  - level: Metadata
FORTRESS
  settle /etc/rancher/k3s/audit.yaml
fi

# 11/17 audit log directory is readable by root alone
if ! { test "$(stat --format='%a %U:%G' /var/lib/rancher/k3s/server/logs)" = '700 root:root'; } > /dev/null 2>&1; then
  doors_arm
  install --directory --mode=700 --owner=root --group=root \
    /var/lib/rancher/k3s/server /var/lib/rancher/k3s/server/logs
fi

# 12/17 agent token is installed
#   why: agents join with a token of their own, with which no machine becomes a server
if ! { settled /etc/rancher/k3s/agent-token && [ "$(stat --format='%a %U:%G' /etc/rancher/k3s/agent-token)" = "600 root:root" ] && sha256sum --check --status /var/lib/fortress/secret/etc/rancher/k3s/agent-token.sha256; } > /dev/null 2>&1; then
  doors_arm
  {
    put /etc/rancher/k3s/agent-token 600 root:root
  } < "$FK_SECRETS/k3s-agent-token"
  install --directory --mode=700 "$(dirname /var/lib/fortress/secret/etc/rancher/k3s/agent-token.sha256)" && sha256sum /etc/rancher/k3s/agent-token > /var/lib/fortress/secret/etc/rancher/k3s/agent-token.sha256
  settle /etc/rancher/k3s/agent-token
fi

# 13/17 server token is installed
#   why: servers join with it, and it encrypts the bootstrap data in etcd
if ! { settled /etc/rancher/k3s/token && [ "$(stat --format='%a %U:%G' /etc/rancher/k3s/token)" = "600 root:root" ] && sha256sum --check --status /var/lib/fortress/secret/etc/rancher/k3s/token.sha256; } > /dev/null 2>&1; then
  doors_arm
  {
    put /etc/rancher/k3s/token 600 root:root
  } < "$FK_SECRETS/k3s-server-token"
  install --directory --mode=700 "$(dirname /var/lib/fortress/secret/etc/rancher/k3s/token.sha256)" && sha256sum /etc/rancher/k3s/token > /var/lib/fortress/secret/etc/rancher/k3s/token.sha256
  settle /etc/rancher/k3s/token
fi

# 14/17 k3s server fortress-node runs with the current configuration
#   why: it restarts only after a change of its version, unit, configuration or tokens; when it fails, the previous ones return
if ! { k3s_runs server fortress-node; } > /dev/null 2>&1; then
  doors_arm
  k3s_start server fortress-node 540
fi

# 15/17 join token for servers is saved on the laptop, encrypted
if ! { saved k3s-join-server "$(sha256sum /var/lib/rancher/k3s/server/token | cut --delimiter=' ' --fields=1)"; } > /dev/null 2>&1; then
  : # the laptop makes the copy, see save
fi

# 16/17 join token for agents is saved on the laptop, encrypted
if ! { saved k3s-join-agent "$(sha256sum /var/lib/rancher/k3s/server/agent-token | cut --delimiter=' ' --fields=1)"; } > /dev/null 2>&1; then
  : # the laptop makes the copy, see save
fi

# 17/17 kubeconfig of the cluster is saved on the laptop, encrypted
if ! { saved k3s-kubeconfig "$(sha256sum /etc/rancher/k3s/k3s.yaml | cut --delimiter=' ' --fields=1)"; } > /dev/null 2>&1; then
  : # the laptop makes the copy, see save
fi

doors_prove
