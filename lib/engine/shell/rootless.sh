# shellcheck shell=bash
# A program on the laptop, where we are not root. Its lock, and the record of what pages changed, lie in FK_STATE of this user.
# There is no /etc to record and no timer: an undo runs the steps' own commands and restores what `record_before` has copied, and
# so does the rollback of a transaction. That of a run which died is rolled back by the next one.
if [ -n "${FK_ROOTLESS-}" ]; then
  PATH=$FK_ROOTLESS # the programs of this user

  # fk_lock OWNER: one run at a time. What is not confirmed when nobody holds the lock belongs to a run that is dead.
  fk_lock() {
    local tx
    install --directory --mode=700 "$FK_STATE"
    exec 8>> "$FK_STATE/lock"
    if ! flock --nonblock 8; then
      frame locked "$(cat "$FK_STATE/owner" 2> /dev/null)" \
        "$(($(date +%s) - $(stat --format=%Y "$FK_STATE/owner" 2> /dev/null || date +%s)))"
      exit 75
    fi
    printf '%s\n' "$1" > "$FK_STATE/owner"
    for tx in "$FK_STATE"/tx/*/; do
      [ -d "$tx" ] || continue
      tx=$(basename "$tx")
      if [ -e "$FK_STATE/tx/$tx/armed" ]; then
        fk_rollback_now "$tx"
        frame note 'an unconfirmed change of an earlier run was rolled back'
      else
        fk_disarm "$tx"
      fi
    done
  }

  fk_unconfirmed() {
    local tx
    for tx in "$FK_STATE"/tx/*/; do
      [ ! -e "$tx/armed" ] || frame note "$(cat "$tx/page") made a change that is not confirmed; the next run rolls it back"
    done
  }

  fk_arm() {
    local dir=$FK_STATE/tx/$1
    fk_snapshot "$dir"
    install --directory "$dir/begun"
    printf '%s\n' "$FK_PAGE" > "$dir/page"
    [ ! -e "$FK_STATE/pages/$FK_PAGE/steps" ] || cp "$FK_STATE/pages/$FK_PAGE/steps" "$dir/steps"
    date --iso-8601=seconds > "$dir/armed"
    sync --file-system "$dir"
  }

  # fk_begun STEP COMMANDS: what undoes a step is written down before its commands run, with the functions that it may use.
  fk_begun() {
    local file
    file=$FK_STATE/tx/$FK_TX/begun/$(printf %05d "$1")
    { declare -fx && printf 'rc=0\n%s\nexit "$rc"\n' "$2"; } > "$file.part" && sync "$file.part" && mv "$file.part" "$file"
  }

  # fk_commit ID: as on a machine; who holds the lock here is the run itself, or what is left of it.
  fk_commit() {
    local dir=$FK_STATE/tx/$1
    [ -e "$dir/armed" ] || { printf 'this change was rolled back\n'; return 1; }
    exec 8>> "$FK_STATE/lock"
    flock --timeout 5 8 || { printf 'the run is not done yet\n'; return 75; }
    if [ ! -e "$dir/whole" ]; then
      fk_rollback_now "$1"
      printf 'the run died before its end\n'
      return 76
    fi
    fk_disarm "$1"
  }

  # fk_rollback_now ID: the newest step first. A step whose commands fail stays in the record of its page, for an undo.
  fk_rollback_now() {
    local dir=$FK_STATE/tx/$1 record one said failed=''
    record=$FK_STATE/pages/$(cat "$dir/page")
    for one in $(find "$dir/begun" -type f -name '*[0-9]' | LC_ALL=C sort --reverse); do
      said=$(FK_TX=$1 bash "$one" 2>&1 3>&- < /dev/null) || { failed=yes && frame note "rollback of $(cat "$dir/page"): $said"; }
    done
    fk_restore_kept "$dir"
    rm --recursive --force "$FK_STATE/pending"
    if [ -z "$failed" ]; then
      rm --force "$record/steps"
      [ ! -e "$dir/steps" ] || cp "$dir/steps" "$record/steps"
    fi
    fk_disarm "$1"
  }

  fk_disarm() {
    rm --recursive --force "${FK_STATE:?}/tx/$1"
    [ ! -d "$FK_STATE/tx" ] || rmdir --ignore-fail-on-non-empty "$FK_STATE/tx"
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
  fk_restart() { :; }
  fk_drop_overrides() { :; }
fi
