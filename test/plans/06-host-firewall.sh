#!/bin/bash
# 06-host-firewall: An nftables firewall: nothing enters but WireGuard, and SSH only through the tunnel.
#
# Run it as root on the machine. Each step asks first and changes only what does not hold.
# Some steps could close the door you came through. Before the first of them the present state of /etc and of the
# firewall is kept, and taken back by itself after three minutes, unless you log in by a NEW connection and run:
#   touch /run/fortress-keep            (or start this script with FK_KEEP_DOORS=yes, if you have a console)
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
FK_RESTART='' FK_TABLES='inet fortress'
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

# 1/8 nftables is installed
if ! {
  dpkg-query --show --showformat='${db:Status-Status} ${Package}\n' nftables |
  awk '$1 != "installed" { print "not installed:", $2; missing = 1 } END { exit missing }'
} > /dev/null 2>&1; then
  apt-get --quiet=2 update
  DEBIAN_FRONTEND=noninteractive apt-get --quiet=2 --yes --no-install-recommends install nftables
fi

# 2/8 a peer has made a WireGuard handshake in the last three minutes
#   why: SSH is closed outside of the tunnel only while somebody is inside; once it is closed, this holds by itself
if ! {
  nft list table inet fortress > /dev/null 2>&1 ||
  wg show wg0 latest-handshakes | awk -v now="$(date +%s)" '
    { print "last handshake of " $1 ": " ($2 ? now - $2 " s ago" : "never") }
    $2 > now - 180 { found = 1 }
    END { exit !found }'
} > /dev/null 2>&1; then
  echo 'a peer has made a WireGuard handshake in the last three minutes: no' >&2
  echo '  on the laptop, make the client file and bring the tunnel up; then run this again' >&2
  echo '  ./task peer show laptop' >&2
  echo '  sudo wg-quick up FILE && ping 10.66.0.1' >&2
  exit 1
fi

# 3/8 the unit that loads the nftables rules is installed
#   why: Debian's own empties every table of the machine when it stops, those of libvirt and of a cluster included
if ! { landed /etc/systemd/system/fortress-firewall.service 79a24c75f28bc308c2de5765f78ccfad0c1577d16f5789b5d1e1bb834b862aaa 644 root:root; } > /dev/null 2>&1; then
  doors_arm
  put /etc/systemd/system/fortress-firewall.service 644 root:root << 'FORTRESS'
[Unit]
Description=Packet filter
Documentation=man:nft(8)
Wants=network-pre.target
# The dead man of a change that nobody confirmed before a reboot has the first word.
After=fortress-deadman.service
Before=network-pre.target shutdown.target
DefaultDependencies=no

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/sbin/nft --file /etc/nftables.conf
ExecReload=/usr/sbin/nft --file /etc/nftables.conf
# There is no ExecStop: a stopped unit, a restart and a shutdown leave the rules where they are.
# To open the machine on purpose: nft delete table inet fortress
ProtectSystem=full
ProtectHome=yes

[Install]
WantedBy=sysinit.target
# Debian's own unit empties every table of the machine when it stops; under its name there is this one.
Alias=nftables.service
FORTRESS
  systemctl daemon-reload
  settle /etc/systemd/system/fortress-firewall.service
fi

# 4/8 nftables rules give virtual machines DNS and DHCP of the host, and nothing else of it
if ! { landed /etc/nftables.d/10-cluster.nft b9dc33a9f1cd95ef5202b51ab664e2b182009533a8010206144407dae656b969 644 root:root; } > /dev/null 2>&1; then
  doors_arm
  put /etc/nftables.d/10-cluster.nft 644 root:root 'nft --check --file "$new"' << 'FORTRESS'
# The virtual machines behind virbr-fort: what they may ask of the host, of each other and of the world.
table inet fortress {
  chain egress {
  }

  chain cluster_input {
    # Addresses and names, and nothing else of the host.
    iifname "virbr-fort" udp dport { 53, 67 } accept
    iifname "virbr-fort" tcp dport 53 accept
    iifname "virbr-fort" drop
  }

  chain cluster_forward {
    iifname "virbr-fort" ip saddr != 10.77.0.0/24 drop
    iifname "virbr-fort" meta nfproto ipv6 drop
    iifname "virbr-fort" oifname "virbr-fort" accept
    # Peers reach the API, the gateway and SSH; no node opens a connection to a peer.
    iifname "wg0" oifname "virbr-fort" ip saddr 10.66.0.0/24 ip daddr 10.77.0.0/24 tcp dport { 22, 443, 6443 } accept
    iifname "virbr-fort" oifname "wg0" drop
    iifname "virbr-fort" udp dport { 53, 123 } accept
    iifname "virbr-fort" tcp dport { 53, 853, 4460 } accept
    iifname "virbr-fort" jump egress
  }

  chain cluster_output {
    oifname "virbr-fort" accept
  }

  # libvirt's own rules for a NAT network would reject what comes from the tunnel, so its network is of the kind `open` and
  # the addresses are translated here.
  chain cluster_postrouting {
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr 10.77.0.0/24 oifname != { "virbr-fort", "wg0" } masquerade
  }
}
FORTRESS
  settle /etc/nftables.d/10-cluster.nft
fi

# 5/8 nftables rules log a sample of what leaves (egress)
if ! { landed /etc/nftables.d/20-egress.nft 32f32f6d45a775e27c00d5efab3d36fae2f2d2a3aa6cbd764a23835ee240f419 644 root:root; } > /dev/null 2>&1; then
  doors_arm
  put /etc/nftables.d/20-egress.nft 644 root:root 'nft --check --file "$new"' << 'FORTRESS'
# What may leave this machine, and the machines behind it, beyond what they cannot live without.
table inet fortress {
  chain egress {
    ct state new limit rate 1/minute burst 5 packets log prefix "nft-egress "
    accept
  }
}
FORTRESS
  settle /etc/nftables.d/20-egress.nft
fi

# 6/8 nftables rules let in one UDP port, and SSH within the tunnel
if ! { landed /etc/nftables.conf c1fc21621388c9e6e1c9404e61fce322ddd2ac6122e86c7e6511e37b0af7a8d4 640 root:root; } > /dev/null 2>&1; then
  doors_arm
  put /etc/nftables.conf 640 root:root 'nft --check --file "$new"' << 'FORTRESS'
#!/usr/sbin/nft --file
# What may enter, leave and pass this machine. Loaded by fortress-firewall.service, whole, in one transaction: there is no
# moment without rules. Only this table is replaced; the tables of libvirt and of a cluster network stay as they are, and
# what is dropped here stays dropped whatever they accept. The files of /etc/nftables.d fill the chains named cluster_… and
# egress.
table inet fortress
delete table inet fortress
table inet fortress {
  # How often each peer has opened a connection to SSH lately.
  set ssh_openings {
    type ipv4_addr
    size 1024
    flags dynamic
    timeout 2m
  }

  chain prerouting {
    type filter hook prerouting priority raw; policy accept;
    iif "lo" accept
    jump cluster_prerouting
    # Neighbour discovery and DHCP speak before there is an address to judge by.
    icmpv6 type { nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert } accept
    udp sport 67 udp dport 68 accept
    udp sport 68 udp dport 67 accept
    # Nobody can rightly have these addresses, or one whose way back is not the way it came. The kernel's rp_filter knows
    # no IPv6; this does both.
    ip saddr { 0.0.0.0/8, 127.0.0.0/8, 224.0.0.0/3 } jump spoofed
    ip6 saddr { ::/128, ::1/128, ::ffff:0.0.0.0/96, ff00::/8 } jump spoofed
    fib saddr . iif oif missing jump spoofed
  }

  chain spoofed {
    limit rate 5/minute burst 5 packets log prefix "nft-drop-spoof "
    counter drop
  }

  chain input {
    type filter hook input priority filter; policy drop;
    iif "lo" accept
    ct state vmap { established : accept, related : accept, invalid : drop }

    # The one door. WireGuard answers nobody who does not hold a key.
    udp dport 51820 accept

    # SSH only from within the tunnel; a peer that opens more than 60 connections a minute waits.
    iifname "wg0" ip saddr 10.66.0.0/24 tcp dport 22 ct state new update @ssh_openings { ip saddr limit rate over 60/minute burst 60 packets } drop
    iifname "wg0" ip saddr 10.66.0.0/24 tcp dport 22 ct state new accept
    jump cluster_input

    # Without these, IPv6 has no neighbours and large packets vanish.
    icmp type { destination-unreachable, time-exceeded, parameter-problem, echo-request } limit rate 10/second accept
    icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-advert } ip6 hoplimit 255 accept
    icmpv6 type { destination-unreachable, packet-too-big, time-exceeded, parameter-problem } accept
    icmpv6 type echo-request limit rate 10/second accept
    ip6 saddr fe80::/10 icmpv6 type mld-listener-query accept

    # Leases that are renewed by broadcast; all other answers are established.
    ip daddr 255.255.255.255 udp sport 67 udp dport 68 accept
    ip6 saddr fe80::/10 ip6 daddr fe80::/10 udp sport 547 udp dport 546 accept

    # What a network says to everybody is no news.
    meta pkttype { broadcast, multicast } drop
    limit rate 5/minute burst 10 packets log prefix "nft-drop-in "
  }

  chain forward {
    type filter hook forward priority filter; policy drop;
    ct state vmap { established : accept, related : accept, invalid : drop }
    jump cluster_forward
    limit rate 5/minute burst 10 packets log prefix "nft-drop-forward "
  }

  chain output {
    type filter hook output priority filter; policy drop;
    oif "lo" accept
    ct state { established, related } accept
    jump cluster_output

    # What the machine cannot live without: the tunnel, names, time, addresses, and word of broken paths.
    udp sport 51820 accept
    udp dport { 53, 123 } accept
    tcp dport { 53, 853, 4460 } accept
    udp sport 68 udp dport 67 accept
    udp sport 546 udp dport 547 accept
    meta l4proto { icmp, ipv6-icmp } accept
    # Its security updates: apt fetches as a user of its own.
    meta skuid "_apt" tcp dport { 80, 443 } accept

    jump egress
    limit rate 5/minute burst 10 packets log prefix "nft-drop-out "
  }

  chain cluster_prerouting {
  }

  chain cluster_input {
  }

  chain cluster_forward {
  }

  chain cluster_output {
  }

  chain egress {
  }
}

include "/etc/nftables.d/*.nft"
FORTRESS
  settle /etc/nftables.conf
fi

# 7/8 the firewall is active, and starts before the network
#   why: the rules in the kernel are compared with what the files give in an empty network namespace
#   G02 The nftables rules are a table of their own, and nothing flushes the tables of others [nftables nft(8)]
#   G03 Incoming packets are dropped by default [CIS Debian 13, CIS Ubuntu 24.04, debian-cis, DISA STIG Ubuntu 24.04, ANSSI BP-028]
#   G04 Loopback and established connections pass, invalid packets are dropped [CIS Debian 13, CIS Ubuntu 24.04, debian-cis, Lynis FIRE-4520]
#   G05 Forwarded packets are dropped by default [CIS Debian 13, CIS Ubuntu 24.04, debian-cis]
#   G06 From outside, UDP 51820 is the one open port [fortress-kit]
#   G07 SSH is reached through the tunnel only, and its connection rate is limited [konstruktoid hardening, DISA STIG Ubuntu 24.04]
#   G08 The ICMP and ICMPv6 that networks need passes, rate-limited [debian-cis, RFC 4890]
#   G09 Dropped packets are logged, rate-limited [CIS Debian 13, CIS Ubuntu 24.04, debian-cis, ANSSI BP-028, Lynis]
#   G10 Outgoing packets are on a list, or logged (egress) [CIS Debian 13, CIS Ubuntu 24.04, debian-cis]
#   G11 The nftables rules are loaded at boot, before the network is up [debian-cis]
#   G12 Packets with a spoofed source address are dropped, IPv6 too [RFC 2827, RFC 3704]
if ! {
  systemctl --quiet is-enabled fortress-firewall.service &&
  systemctl --quiet is-active fortress-firewall.service &&
  test "$(systemctl show --property=Id --value nftables.service)" = fortress-firewall.service &&
  diff <(unshare --net bash -c 'nft --file /etc/nftables.conf &&
    nft --stateless --terse list table inet fortress') <(nft --stateless --terse list table inet fortress)
} > /dev/null 2>&1; then
  doors_arm
  systemctl enable fortress-firewall.service
  systemctl daemon-reload
  systemctl reload-or-restart fortress-firewall.service
fi

# 8/8 no other firewall manager is active (ufw, firewalld, netfilter-persistent)
#   why: two managers undo each other at the next boot
#   G01 One tool manages the firewall [debian-cis, CIS Debian 13]
if ! {
  ! systemctl list-units --plain --no-legend --state=active ufw.service firewalld.service netfilter-persistent.service | grep . &&
  ! systemctl list-unit-files --no-legend --state=enabled ufw.service firewalld.service netfilter-persistent.service | grep .
} > /dev/null 2>&1; then
  doors_arm
  for unit in ufw.service firewalld.service netfilter-persistent.service; do
    if systemctl cat "$unit" > /dev/null 2>&1; then systemctl disable --now "$unit"; fi
  done
fi

doors_prove
