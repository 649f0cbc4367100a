# shellcheck shell=bash
# What a machine looked like, and the rollback to it. Serves undo (from the record of a page) and the dead man's switch (from a
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

# fk_strayed: what differs from how the last page that changed it left it, a line each: the page, and the path behind a tab.
fk_strayed() {
  local dir
  for dir in "$FK_STATE"/pages/*/; do
    if [ -s "$dir/seq" ]; then printf '%s\t%s\n' "$(cat "$dir/seq")" "${dir%/}"; fi
  done | sort --numeric-sort | cut --fields=2 > "$FK_TMP/recorded"
  [ -s "$FK_TMP/recorded" ] || return 0
  fk_etc "$FK_TMP/etc"
  while IFS= read -r dir; do
    if [ -e "$dir/left" ]; then sed "s|^|${dir##*/}\t|" "$dir/left"; fi
  done < "$FK_TMP/recorded" | awk -F '\t' 'NR == FNR { now[$1] = $0; next }
    { page[$2] = $1; line[$2] = substr($0, length($1) + 2) }
    END { for (path in line) if (now[path] != line[path]) print page[path] "\t" path }' "$FK_TMP/etc" - | LC_ALL=C sort
}

fk_units() {
  systemctl list-units --all --plain --no-legend --no-pager --type=service,socket,timer,path,mount,target 2> /dev/null |
    awk '$1 !~ /^(run-|session-|user|fortress-deadman|systemd-tmpfiles|apt-)/ { print $1 "\t" $3 }' | LC_ALL=C sort
}

# fk_packages [STATE]: which are installed (^i), or in another STATE of dpkg: a pattern.
# shellcheck disable=SC2120 # record.sh names a state
fk_packages() {
  dpkg-query --show --showformat='${Package}:${Architecture}\t${db:Status-Abbrev}\n' 2> /dev/null |
    awk -v state="${1-^i}" '$2 ~ state { print $1 }' | LC_ALL=C sort
}
fk_sysctls() { sysctl --all 2> /dev/null | LC_ALL=C sort; }
fk_tables() { if command -v nft > /dev/null; then nft list tables 2> /dev/null | LC_ALL=C sort; fi; }

# fk_functions NAME…: the text of the functions that a rollback needs, and of the named ones.
fk_functions() {
  declare -f fk_etc fk_units fk_packages fk_sysctls fk_tables fk_changed \
    fk_restore_etc fk_restore_kept fk_restore_aside fk_restore_units fk_restore_sysctls \
    fk_restore_tables fk_sysctl_keys fk_rollback fk_restart "$@"
}

# fk_sure FUNCTION WORD…: in a bash of its own that ends at its first fault. Behind `if` and `||` bash ignores set -e, in
# subshells too, and a snapshot that was cut short would be a rollback to nothing.
fk_sure() {
  local functions
  # shellcheck disable=SC2046 # names have no spaces
  functions=$(fk_functions fk_add fk_describe fk_functions fk_room fk_snapshot "$1" \
    $(compgen -A function fk_record) $(compgen -A function fk_deadman)) || true # a printed page has not all of them
  # shellcheck disable=SC2016 # expands in there
  FK_STATE=$FK_STATE FK_RESTART=${FK_RESTART-} FK_TABLES=${FK_TABLES-} \
    bash -eu -c "$functions"$'\n''"$@"' fortress "$@"
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

# fk_describe DIR: what the program knows of a rollback joins the snapshot: `restart` has the units that start anew when files
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
  # Taken while a boot is not over, a snapshot would make the rollback stop what that boot starts a moment later.
  timeout 120 systemctl is-system-running --wait > /dev/null 2>&1 || true # degraded is over too; what hangs is as it is
  fk_room
  rm --recursive --force "$dir.part"
  install --directory --mode=700 "$(dirname "$dir")" "$dir.part" "$dir.part/kept"
  fk_etc "$dir.part/etc"
  # 1 says that a file changed while it was read: what it was a moment ago is as good.
  tar --create --file="$dir.part/etc.tar" --directory=/ --one-file-system --xattrs --acls --numeric-owner \
    etc 2> /dev/null || [ $? -eq 1 ]
  fk_units > "$dir.part/units"
  fk_packages > "$dir.part/packages"
  fk_sysctls > "$dir.part/sysctls"
  fk_tables > "$dir.part/tables"
  if command -v nft > /dev/null; then
    nft --stateless list ruleset > "$dir.part/ruleset" 2> /dev/null || true # no nf_tables, no ruleset
  fi
  fk_describe "$dir.part"
  : > "$dir.part/absent"
  : > "$dir.part/modes"
  sync --file-system "$dir.part"
  mv --no-target-directory "$dir.part" "$dir"
}

# record_before PATH: a path outside /etc is about to change; every open snapshot gets a copy first. On the laptop /etc is a
# directory like any other.
# record_before --meta PATH: only its mode and owner are about to change.
record_before() {
  local dir meta=
  [ "$1" != --meta ] || { meta=yes && shift; }
  case $1 in /etc/*) [ -n "${FK_ROOTLESS-}" ] || return 0 ;; esac
  for dir in ${FK_KEEP-}; do
    if [ -n "$meta" ]; then
      [ ! -e "$1" ] || awk -F '\t' -v p="$1" '$3 == p { f = 1 } END { exit !f }' "$dir/modes" ||
        stat --printf='%a\t%u:%g\t%n\n' "$1" >> "$dir/modes"
    elif [ ! -e "$dir/kept$1" ] && [ ! -L "$dir/kept$1" ] &&
      ! grep --line-regexp --fixed-strings "$1" "$dir/absent" > /dev/null; then
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

# move_aside PATH TO UNIT: PATH is moved to TO, from where a rollback moves it back: it is too much to be copied.
# The rollback stops UNIT, which writes there.
move_aside() {
  local dir
  for dir in ${FK_KEEP-}; do
    case $dir in "$FK_STATE"/tx/*) printf '%s\t%s\t%s\n' "$@" >> "$dir/aside" && sync "$dir/aside" || return ;; esac
  done
  mv --no-target-directory "$1" "$2"
}
export -f record_before move_aside

# fk_changed OLD NEW: the paths whose line differs between two lists of fk_etc.
fk_changed() {
  LC_ALL=C comm -3 <(LC_ALL=C sort "$1") <(LC_ALL=C sort "$2") | sed 's/^\t//' | cut --fields=1 | LC_ALL=C sort --unique
}

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
    printf 'the old files could not be restored: %s\n' "$(tail --lines=1 "$dir/tar")"
    rm --recursive --force "$work"
    return 1
  fi
  LC_ALL=C sort --reverse "$dir/going" | while IFS= read -r path; do
    if [ -d "$path" ] && [ ! -L "$path" ]; then
      rmdir "$path" 2> /dev/null || true # a directory that others use stays
    else
      rm --force "$path"
    fi
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
    if [ ! -d "$work$path" ] || [ -L "$work$path" ]; then continue; fi
    chown --reference="$work$path" "$path" && chmod --reference="$work$path" "$path" &&
      touch --reference="$work$path" "$path"
  done
  rm --recursive --force "$work"
  sync --file-system /etc
}

fk_restore_kept() {
  local dir=$1 path mode owner
  if [ -e "$dir/present" ]; then
    while IFS= read -r path; do
      rm --recursive --force "$path.fortress-old"
      mkdir --parents "$(dirname "$path")"
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
# write, and stopping a unit then would also cancel its start.
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
    LC_ALL=C comm -23 "$1/sysctls" <(fk_sysctls) |
      awk -v last=" $last " '{ n = split($1, part, "."); if (index(last, " " part[n] " ")) print }' |
      while IFS= read -r key; do
        value=${key#* = }
        key=${key%% = *}
        sysctl --quiet --write "$key=$value" 2> /dev/null || [ "$turn" = 1 ] ||
          printf 'needs a reboot: %s = %s\n' "$key" "$value"
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
fk_sysctl_keys() {
  cat /dev/null "$@" 2> /dev/null |
    awk -F '=' '/^[^#;[]/ && NF > 1 { gsub(/[ \t]/, "", $1); sub(/^-/, "", $1); print $1 }' | LC_ALL=C sort --unique
}

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
  local how unit path except needs socket
  [ -s "$1/restart" ] || return 0
  while IFS=$'\t' read -r how unit path except needs; do
    awk -v under="$path" -v except="$except" 'index($0, under) == 1 && $0 != except { f = 1 } END { exit !f }' "$2" || continue
    [ "$needs" = - ] || [ -e "$needs" ] || continue
    case $how in
      reload)
        # What a socket unit listens for, a daemon that reads its files anew cannot open itself.
        # Not one start too many: systemd would refuse it.
        systemctl reset-failed "$unit" 2> /dev/null || true # it may not be loaded
        socket=$(systemctl show --property=TriggeredBy --value "$unit")
        # shellcheck disable=SC2086 # there may be several
        if [ -n "$socket" ] && systemctl --quiet is-active $socket; then
          systemctl restart "$unit"
        else
          systemctl try-reload-or-restart "$unit" || systemctl restart "$unit"
        fi
        ;;
      active) [ "$(systemctl is-active "$unit")" != active ] || systemctl restart "$unit" ;;
      always)
        # It may have given up over its files, so whether it is active says nothing.
        systemctl reset-failed "$unit" 2> /dev/null || true # it has not failed
        systemctl restart --no-block "$unit"
        ;;
    esac
  done < "$1/restart"
}
