# shellcheck shell=bash
# What each page changed on this machine: pages/<page>/ holds how things were before its first change (origin), the lists at
# the start of the run under way (open), and the paths, packages and units that differ since (touched, packages, units).

# fk_record_open PAGE: before the first change of a run. A run that was killed left its start behind: that start still counts.
fk_record_open() {
  local dir=$FK_STATE/pages/$1 other last
  for other in "$FK_STATE"/pages/*/open; do
    [ ! -d "$other" ] || [ "$other" = "$dir/open" ] || fk_record_close "$(basename "$(dirname "$other")")"
  done
  if [ ! -d "$dir/origin" ]; then
    install --directory --mode=700 "$FK_STATE/pages" "$dir"
    fk_snapshot "$dir/origin"
  fi
  fk_describe "$dir/origin"
  if [ ! -s "$dir/seq" ]; then
    last=$(cat "$FK_STATE"/pages/*/seq 2> /dev/null | sort --numeric-sort | tail --lines=1)
    printf '%s\n' "$((last + 1))" > "$dir/seq"
  fi
  if [ ! -d "$dir/open" ]; then
    rm --recursive --force "$dir/open.part"
    install --directory --mode=700 "$dir/open.part"
    fk_etc "$dir/open.part/etc"
    fk_units > "$dir/open.part/units"
    fk_packages > "$dir/open.part/packages"
    mv --no-target-directory "$dir/open.part" "$dir/open"
  fi
  sync --file-system "$dir" # a power cut after the first change must find all of this
}

# fk_record_close PAGE: what differs since fk_record_open is this page's.
fk_record_close() {
  local dir=$FK_STATE/pages/$1
  [ -d "$dir/open" ] || return 0
  fk_etc "$dir/now"
  fk_changed "$dir/open/etc" "$dir/now" | fk_add "$dir/touched"
  { awk -F '\t' 'NR == FNR { want[$1]; next } $1 in want' "$dir/touched" "$dir/now"; } > "$dir/left.part"
  sync "$dir/left.part"
  mv --no-target-directory "$dir/left.part" "$dir/left"
  fk_packages | LC_ALL=C comm -13 "$dir/open/packages" - | fk_add "$dir/packages"
  fk_units | LC_ALL=C comm -3 "$dir/open/units" - | sed 's/^\t//' | cut --fields=1 | fk_add "$dir/units"
  rm --recursive --force "$dir/open" "$dir/now"
}

# fk_add FILE: lines of standard input join the sorted set in FILE.
fk_add() {
  touch "$1"
  LC_ALL=C sort --unique - "$1" > "$1.part"
  sync "$1.part"
  mv --no-target-directory "$1.part" "$1"
}

# fk_undo_refused PAGE: prints why this page cannot be undone now.
fk_undo_refused() {
  local dir=$FK_STATE/pages/$1 other shared
  for other in "$FK_STATE"/pages/*/; do
    other=${other%/}
    if [ ! -e "$other/seq" ] || [ "$(cat "$other/seq")" -le "$(cat "$dir/seq")" ]; then continue; fi
    fk_record_close "$(basename "$other")"
    shared=$(LC_ALL=C comm -12 "$dir/touched" "$other/touched" | head --lines=3 | paste --serial --delimiters=' ')
    [ -z "$shared" ] || printf '%s came later and changed %s too: undo it first\n' "$(basename "$other")" "$shared"
  done
}

# fk_drop_overrides: dpkg refuses to do anything while its statoverride names a user or a group that is gone, and the purge of a
# package can leave such a line.
fk_drop_overrides() {
  local file=/var/lib/dpkg/statoverride user group rest
  [ -s "$file" ] || return 0
  while read -r user group rest; do
    case $user in '#'*) ;; *) getent passwd "$user" > /dev/null || continue ;; esac
    case $group in '#'*) ;; *) getent group "$group" > /dev/null || continue ;; esac
    printf '%s %s %s\n' "$user" "$group" "$rest"
  done < "$file" > "$file.fortress"
  if cmp --silent "$file" "$file.fortress"; then
    rm "$file.fortress"
  else
    chmod --reference="$file" "$file.fortress" && sync "$file.fortress" && mv --force "$file.fortress" "$file"
  fi
}

# fk_undo PAGE: everything that the record says this page changed becomes what it was. Prints what it could not do.
fk_undo() {
  local dir=$FK_STATE/pages/$1 aside packages extra
  [ -e "$dir/before" ] || fk_etc "$dir/before"
  # Somebody may have changed a file after us: the way it was stays true, but nothing of theirs is lost. What a rollback brought
  # back is the origin's, or what this page had left before.
  aside=$FK_STATE/aside/$1-$(date +%Y%m%dT%H%M%S)
  awk -F '\t' 'NR == FNR { want[$1]; next } $1 in want' "$dir/touched" "$dir/before" | LC_ALL=C sort |
    LC_ALL=C comm -13 <(LC_ALL=C sort "$dir/left" "$dir/origin/etc") - |
    awk -F '\t' '$2 == "f" { print $1 }' > "$dir/theirs"
  if [ -s "$dir/theirs" ]; then
    install --directory --mode=700 "$aside"
    tar --create --file="$aside/changed-since.tar" --directory=/ --files-from=<(sed 's|^/||' "$dir/theirs") 2> /dev/null
    printf 'changed by somebody else since, kept in %s: %s\n' \
      "$aside/changed-since.tar" "$(paste --serial --delimiters=' ' "$dir/theirs")"
  fi
  # shellcheck disable=SC2046 # paths of sysctl.d have no spaces
  fk_sysctl_keys $(grep '^/etc/sysctl' "$dir/touched") > "$dir/keys"
  # Also what was removed since: its files in /etc go below, and dpkg never writes again what it believes an admin has deleted.
  packages=$(fk_packages '^(i|.c)' | LC_ALL=C comm -12 - "$dir/packages" | LC_ALL=C comm -23 - "$dir/origin/packages")
  if [ -n "$packages" ]; then
    # shellcheck disable=SC2086 # one word for each package
    extra=$(apt-get --simulate purge $packages |
      awk '/^(Purg|Remv) / { sub(/:.*/, "", $2); print $2 }' | LC_ALL=C sort --unique |
      LC_ALL=C comm -23 - <(cut --delimiter=: --fields=1 <<< "$packages" | LC_ALL=C sort))
    if [ -n "$extra" ]; then
      printf 'packages stay, because others need them: %s\n' "$(paste --serial --delimiters=' ' <<< "$extra")"
    else
      # shellcheck disable=SC2086
      apt_get purge $packages > "$dir/apt" 2>&1 ||
        printf 'apt-get purge: %s\n' "$(tail --lines=1 "$dir/apt")"
    fi
  fi
  # A purge, and a page's own undo, have side effects in /etc: what they moved away from the origin comes back too.
  fk_etc "$dir/purged"
  fk_changed "$dir/before" "$dir/purged" | LC_ALL=C comm -12 - <(fk_changed "$dir/origin/etc" "$dir/purged") |
    LC_ALL=C sort --unique - "$dir/touched" > "$dir/paths"
  # The record stays: when there is room again, undo goes on from it.
  fk_restore_etc "$dir/origin" "$dir/paths" || return 1
  fk_drop_overrides
  fk_restore_kept "$dir/origin"
  FK_KEEP=${FK_TX:+$FK_STATE/tx/$FK_TX} put_forget
  fk_restore_tables "$dir/origin"
  fk_restore_sysctls "$dir/origin" "$dir/keys"
  fk_restore_units "$dir/origin" "$dir/units"
  fk_restart "$dir/origin" "$dir/paths"
  rm --recursive --force "$dir"
  # Other pages may still have records.
  rmdir --ignore-fail-on-non-empty "$FK_STATE/pages" "$FK_STATE/pending" "$FK_STATE" 2> /dev/null || true # see above
}
