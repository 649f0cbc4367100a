# shellcheck shell=bash
# A program on a computer where we are not root: the laptop. Its lock, and the record of what pages changed, lie in FK_STATE of
# this user. There is no /etc to record and no transaction: an undo runs the steps' own commands, and restores what
# `record_before` has copied.
if [ -n "${FK_ROOTLESS-}" ]; then
  PATH=$FK_ROOTLESS # the programs of this user

  # fk_lock OWNER: one run at a time.
  fk_lock() {
    install --directory --mode=700 "$FK_STATE"
    exec 8>> "$FK_STATE/lock"
    if ! flock --nonblock 8; then
      frame locked "$(cat "$FK_STATE/owner" 2> /dev/null)" \
        "$(($(date +%s) - $(stat --format=%Y "$FK_STATE/owner" 2> /dev/null || date +%s)))"
      exit 75
    fi
    printf '%s\n' "$1" > "$FK_STATE/owner"
  }

  fk_snapshot() {
    [ ! -d "$1" ] || return 0
    install --directory --mode=700 "$(dirname "$1")" "$1.part" "$1.part/kept"
    : > "$1.part/absent"
    : > "$1.part/modes"
    fk_etc "$1.part/etc"
    : > "$1.part/packages"
    mv --no-target-directory "$1.part" "$1"
  }

  fk_etc() { : > "$1"; }
  fk_units() { :; }
  fk_packages() { :; }
  fk_sysctls() { :; }
  fk_tables() { :; }
  fk_restore_etc() { :; }
  fk_restore_units() { :; }
  fk_restore_sysctls() { :; }
  fk_restore_tables() { :; }
  fk_reload() { :; }
fi
