# shellcheck shell=bash
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
