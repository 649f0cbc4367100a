# shellcheck shell=bash
# The dead man's switch: a transaction is rolled back by the machine itself unless it is confirmed over a new connection.
# Two triggers: a timer, and the next boot. What they run is one static file, written before anything changes.

# fk_guard ID SECONDS OWNER: armed, or nothing of it stays and FK_OUT says why.
# shellcheck disable=SC2034 # frame.sh and undo read FK_OUT
fk_guard() {
  FK_OUT=$(fk_sure fk_arm "$@" 2>&1) || { fk_disarm "$1"; return 1; }
}

fk_arm() {
  local dir=$FK_STATE/tx/$1 units
  fk_snapshot "$dir"
  printf '%s\n' "$3" > "$dir/owner"
  {
    printf '#!/bin/bash\nset -u\nFK_STATE=%q\ndir=%q\n' "$FK_STATE" "$dir"
    fk_functions fk_deadman_holders fk_deadman_end
    cat << 'EOF'
exec 7>> "$dir/lock"
flock 7
[ -e "$dir/armed" ] || exit 0
[ -n "${FK_OURS-}" ] || [ "${1-}" = boot ] || fk_deadman_end > /dev/null
fk_rollback "$dir" "${1-}" > "$dir/log" 2>&1
if [ -d "$dir/record" ]; then mkdir --parents "$FK_STATE/pages" && cp --archive --force "$dir/record/." "$FK_STATE/pages/"; fi
date --iso-8601=seconds > "$dir/rolled-back"
rm --force "$dir/armed"
sync --file-system "$dir"
EOF
  } > "$dir/rollback"
  # Outside /etc, so that the rollback does not remove the unit that runs it.
  units=$(fk_deadman_units)
  install --directory --mode=755 "$units/sysinit.target.wants"
  cat > "$units/fortress-deadman.service" << EOF
[Unit]
Description=Roll back what nobody confirmed before the reboot
DefaultDependencies=no
RequiresMountsFor=$FK_STATE
After=local-fs.target
Before=sysinit.target network-pre.target
[Service]
Type=oneshot
ExecStart=/bin/bash -c 'for run in $FK_STATE/tx/*/rollback; do [ ! -e "\$\$run" ] || /bin/bash "\$\$run" boot; done'
EOF
  ln --symbolic --force ../fortress-deadman.service "$units/sysinit.target.wants/fortress-deadman.service"
  date --date="+$2 seconds" +%s > "$dir/due"
  date --iso-8601=seconds > "$dir/armed"
  sync --file-system "$dir"
  systemd-run --quiet --collect --on-active="$2" --timer-property=AccuracySec=1s --unit="fortress-deadman-$1" \
    /bin/bash "$dir/rollback"
}

# fk_deadman_holders: everything that a run has begun and that still lives: it has the lock open as number 8. What merely reads
# the file has not.
fk_deadman_holders() {
  # Processes end while they are looked at.
  { find /proc/[0-9]*/fd -name 8 -lname /run/fortress/lock 2> /dev/null || true; } | cut --delimiter=/ --fields=3
}

# fk_deadman_end: the run that holds the machine has ended, if need be by force. Prints what of it does not end.
fk_deadman_end() {
  local signal pids
  for signal in TERM TERM TERM TERM TERM KILL; do
    pids=$(fk_deadman_holders)
    [ -n "$pids" ] || return 0
    # shellcheck disable=SC2086 # one word for each
    kill -"$signal" $pids 2> /dev/null || true # one of them may have ended by itself
    sleep 1
  done
  fk_deadman_holders | paste --serial --delimiters=' '
}

# fk_complete ID: the run has done all that it meant to do. Before that nobody can confirm it.
fk_complete() {
  : > "$FK_STATE/tx/$1/whole"
  sync --file-system "$FK_STATE/tx/$1"
}

# fk_commit ID: confirms. Ends with 75 while the run is not done, and with 1 when the rollback has begun. For a run that
# died in the middle it begins now, and this ends with 76: half a change is nothing to confirm.
fk_commit() {
  local dir=$FK_STATE/tx/$1
  [ -d "$dir" ] || { printf 'there is no such transaction on this machine\n'; return 1; }
  exec 7>> "$dir/lock"
  flock --timeout 5 7 || { printf 'the machine is rolling the change back\n'; return 1; }
  [ -e "$dir/armed" ] || { printf 'the machine has rolled the change back\n'; return 1; }
  if [ ! -e "$dir/whole" ]; then
    [ -z "$(fk_deadman_holders)" ] || { printf 'the run on the machine is not done yet\n'; return 75; }
    # It may have ended meanwhile.
    if [ ! -e "$dir/whole" ]; then
      systemctl start "fortress-deadman-$1.service"
      printf 'the run on the machine died before its end\n'
      return 76
    fi
  fi
  rm --force "$dir/armed"
  exec 7>&-
  fk_disarm "$1"
}

# fk_deadman_units: where the trigger of the next boot stands. Where /usr cannot be written it stands in /etc, and the
# rollback removes it at its end, which is soon enough.
fk_deadman_units() { if [ -w /usr ]; then echo /usr/local/lib/systemd/system; else echo /etc/systemd/system; fi; }

# fk_disarm ID: the transaction is over; nothing of it stays.
fk_disarm() {
  local units
  systemctl stop "fortress-deadman-$1.timer" 2> /dev/null || true # it has fired
  rm --recursive --force "${FK_STATE:?}/tx/$1"
  rmdir --ignore-fail-on-non-empty "$FK_STATE/tx"
  rmdir "$FK_STATE" 2> /dev/null || true # it is empty where an undo of the last page was confirmed
  if [ ! -d "$FK_STATE/tx" ]; then
    units=$(fk_deadman_units)
    rm --force "$units/sysinit.target.wants/fortress-deadman.service" "$units/fortress-deadman.service"
    rmdir --parents --ignore-fail-on-non-empty "$units/sysinit.target.wants" 2> /dev/null || true # others use it too
  fi
}

# fk_rollback_now ID: now, and not when the timer says.
fk_rollback_now() {
  FK_OURS=yes /bin/bash "$FK_STATE/tx/$1/rollback" 2> /dev/null
  fk_disarm "$1"
}
