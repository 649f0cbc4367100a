# shellcheck shell=bash
# How a printed page runs its steps, where no laptop is behind it: the person who started it reads along, confirms what could lock
# that person out, and takes along what is to be kept elsewhere. Of a step the page defines check, and apply and recover before it
# calls `change`.
FK_SAVED=${FK_SAVED:-/root/fortress-saved}
FK_OUT='' FK_RC=0 FK_TX='' FK_VISIT='' FK_ARM='' FK_BACK=''
# Not in /tmp, which a page may mount anew.
FK_TMP=$(mktemp --directory --tmpdir="$([ -w /run ] && echo /run || echo "${TMPDIR:-/tmp}")" fortress.XXXXXXXXXX)
trap 'rm --recursive --force "$FK_TMP"' EXIT
export FK_TMP

# begin: the surroundings that commands have when the task runner sends them. One run at a time, also beside the task runner.
begin() {
  [ "$(id --user)" -eq 0 ] || { echo 'this needs root' >&2; exit 1; }
  umask 022
  export LC_ALL=C.UTF-8 PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
  lock
}

# begin_rootless PROGRAM…: the same on the laptop, as the user who started it, who has these programs.
begin_rootless() {
  local program
  for program; do
    command -v "$program" > /dev/null || { printf 'this needs %s in PATH\n' "$program" >&2; exit 1; }
  done
  umask 022
  # put.sh has a default for root.
  export LC_ALL=C.UTF-8 FK_STATE=${XDG_STATE_HOME:-$HOME/.local/state}/fortress-kit
}

lock() {
  install --directory --mode=700 /run/fortress
  exec 8>> /run/fortress/lock
  flock --nonblock 8 || { printf '%s is at work on this machine\n' "$(cat /run/fortress/owner)" >&2; exit 1; }
  printf 'the printed page %s\n' "$FK_PAGE" > /run/fortress/owner
}

# usage: somebody gave the page a word that it does not know.
usage() {
  echo "$FK_FILE takes no words but those that its first lines name. Nothing was run: read them." >&2
  exit 64
}

# recover: a page replaces it for a step that needs one.
recover() { :; }

# holds: runs check in a shell of its own. Always a plain statement: behind `if` or `&&` bash would ignore set -e inside.
holds() {
  set +e
  FK_OUT=$(
    set -euo pipefail
    check < /dev/null 2>&1
  )
  FK_RC=$?
  set -e
}

# change NAME [reboots]: runs apply when check does not hold, and checks again. By phase and n a library sees that what it knew
# before does not count any more. With `reboots` the machine starts anew when the page has ended.
change() {
  FK_STEP=$((${FK_STEP-0} + 1))
  # shellcheck disable=SC2034 # functions of a library read them
  local gate phase=before n=$FK_STEP
  holds
  if [ "$FK_RC" -eq 0 ]; then
    printf 'ok       %s\n' "$1"
    recover() { :; }
    return
  fi
  for gate in $FK_VISIT $FK_ARM; do "$gate"; done
  printf 'running  %s\n' "$1"
  set +e
  (
    set -euo pipefail
    apply < /dev/null
  )
  FK_RC=$?
  [ "$FK_RC" -eq 0 ] || (recover < /dev/null)
  set -e
  [ "$FK_RC" -eq 0 ] || fail "$1" "a command ended with $FK_RC"
  if [ $# -gt 1 ]; then
    printf 'reboots  %s\nThe machine starts anew now. Run this once more when it is back: bash %s\n' "$1" "$FK_FILE"
    exit 0
  fi
  # shellcheck disable=SC2034
  phase=after
  holds
  [ "$FK_RC" -eq 0 ] || fail "$1" "its commands ran, and it does not hold: $FK_OUT"
  recover() { :; }
  printf 'changed  %s\n' "$1"
}

# demand NAME HELP: what only a person can make so.
demand() {
  holds
  [ "$FK_RC" -eq 0 ] || fail "$1" "$FK_OUT" "$2"
  printf 'ok       %s\n' "$1"
}

# wait_for NAME SECONDS: until check holds.
wait_for() {
  local deadline=$((SECONDS + $2))
  holds
  while [ "$FK_RC" -ne 0 ]; do
    [ "$SECONDS" -lt "$deadline" ] || fail "$1" "not yet after $2 s: $FK_OUT"
    sleep 1
    holds
  done
  printf 'ready    %s\n' "$1"
}

# fail NAME LINE…: the page ends here. A transaction that is open is rolled back at once.
fail() {
  printf 'failed   %s\n' "$1" >&2
  shift
  printf '  %s\n' "${@//$'\n'/$'\n  '}" >&2
  if [ -n "$FK_TX" ]; then
    "$FK_BACK" "$FK_TX"
    echo '  the steps of this transaction are rolled back' >&2
  fi
  exit 1
}

# needs_other_node NODE COMMAND WORD…: the next changes begin only when FK_OTHER_NODE is one of the words. Without any they may.
needs_other_node() {
  FK_NEEDS=("$@") FK_VISIT=''
  [ $# -eq 0 ] || FK_VISIT=other_node_is_done
}

other_node_is_done() {
  local word
  for word in "${FK_NEEDS[@]:2}"; do [ "${FK_OTHER_NODE-}" != "$word" ] || return 0; done
  fail 'the other node is ready for this step' "first, on ${FK_NEEDS[0]}: ${FK_NEEDS[1]}" \
    "then, here: FK_OTHER_NODE=${FK_NEEDS[2]} bash $FK_FILE" 'nothing of this step was changed'
}

# transaction SECONDS [HOW]: the steps up to `confirm` could lock somebody out: unless a new connection confirms them within this
# time, they are rolled back. HOW says what kind of connection.
transaction() {
  FK_WITHIN=$1 FK_HOW=${2-} FK_ARM=arm_rollback
  [ -z "${FK_KEEP_CHANGES-}" ] || FK_ARM=''
}

# arm_rollback: before the first change of a transaction, its snapshot, and the timer that rolls it back; the next boot does too.
arm_rollback() {
  local tx
  for tx in "$FK_STATE"/tx/*/; do
    tx=$(basename "$tx")
    if [ ! -e "$FK_STATE/tx/$tx/armed" ]; then
      [ ! -d "$FK_STATE/tx/$tx" ] || fk_disarm "$tx"
    else
      fail 'no other change waits to be confirmed' "that of $(cat "$FK_STATE/tx/$tx/owner") does: run this again when it is over"
    fi
  done
  rm --force /run/fortress-confirm
  tx=$FK_PAGE-$(date +%s)
  fk_guard "$tx" "${FK_DEADMAN_SECONDS:-$FK_WITHIN}" "the printed page $FK_PAGE" ||
    fail 'a snapshot is taken, for a rollback' "$FK_OUT"
  FK_TX=$tx FK_ARM='' FK_BACK=fk_rollback_now
  export FK_KEEP=$FK_STATE/tx/$FK_TX
}

# confirm: the transaction is done, and its changes stay when somebody comes in. A page that died before this is rolled back.
confirm() {
  FK_ARM=''
  [ -n "$FK_TX" ] || return 0
  fk_complete "$FK_TX"
  exec 8>&- # the timer ends whoever holds it, and this one has to say how it went
  printf 'Log in by a NEW connection%s now, and run as root: touch /run/fortress-confirm\n' "${FK_HOW:+ $FK_HOW}"
  until [ -e /run/fortress-confirm ] && FK_OUT=$(fk_commit "$FK_TX"); do
    if [ ! -e "$FK_STATE/tx/$FK_TX/armed" ]; then
      fk_disarm "$FK_TX"
      FK_TX=''
      fail 'a new connection has confirmed the changes' 'none did: they are rolled back'
    fi
    sleep 1
  done
  rm --force /run/fortress-confirm
  FK_TX='' FK_KEEP=''
  echo 'The changes stay.'
  lock
}

# save NAME [once]: standard input is what the laptop would have stored, encrypted. It lies here until somebody takes it away.
save() {
  local file=$FK_SAVED/$1 note=$FK_STATE/printed/$1 digest
  install --directory --mode=700 "$FK_SAVED" "$FK_STATE/printed"
  (umask 077 && cat > "$file.part")
  digest=$(sha256sum "$file.part" | cut --delimiter=' ' --fields=1)
  if [ -n "${2-}" ] && [ -e "$note" ] && [ "$(cat "$note")" != "$digest" ]; then
    rm --force "$file.part"
    echo "there is another $1 already, and it is never replaced: find out which of the two is the right one" >&2
    return 1
  fi
  mv --force "$file.part" "$file"
  printf '%s\n' "$digest" > "$note"
  printf 'saved    %s: keep it where this machine cannot lose it, encrypted, and delete it here\n' "$file"
}

# saved NAME DIGEST: a copy with this sha256 was saved.
saved() { [ -n "$2" ] && [ "$(cat "$FK_STATE/printed/$1" 2> /dev/null)" = "$2" ]; }
export -f saved

# signed_by FILE SIGNATURE KEY FINGERPRINT: by the key of this fingerprint, or a subkey that it vouches for.
signed_by() {
  local home status
  if ! command -v gpg > /dev/null || ! command -v gpgv > /dev/null; then
    echo 'gpg and gpgv prove it, and are not installed: apt-get install gpg gpgv' >&2
    return 1
  fi
  home=$(mktemp --directory "$FK_TMP/gpg.XXXXXX")
  gpg --homedir "$home" --batch --quiet --no-autostart --import "$3"
  gpg --homedir "$home" --batch --no-autostart --output "$home/pinned.gpg" --export "$4"
  # gpgv is content with a key that has expired: its status lines decide, not its exit code.
  status=$(gpgv --status-fd=1 --weak-digest=SHA1 --keyring="$home/pinned.gpg" "$2" "$1" 2> /dev/null) || true # its words decide
  grep '^\[GNUPG:\] GOODSIG ' <<< "$status" > /dev/null &&
    grep "^\\[GNUPG:\\] VALIDSIG .* $4\$" <<< "$status" > /dev/null &&
    ! grep --extended-regexp '^\[GNUPG:\] (BADSIG|EXPSIG|EXPKEYSIG|REVKEYSIG|ERRSIG) ' <<< "$status" > /dev/null ||
    { echo "$1 is not signed by $4" >&2; return 1; }
}
