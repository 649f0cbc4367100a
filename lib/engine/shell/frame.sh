# shellcheck shell=bash
# How a program on a machine talks to the laptop: one line for each event, fields escaped, behind a word nobody else prints.
exec 3>&1
FK_OPENED='' FK_ARMED='' FK_FAILED='' FK_OUT='' FK_RC=0
for FK_TMP in "${TMPDIR:-/tmp}" /run; do
  FK_TMP=$(mktemp --directory --tmpdir="$FK_TMP" 2> /dev/null) || continue
  { printf '%1048576s' '' > "$FK_TMP/room"; } 2> /dev/null && rm "$FK_TMP/room" && break
  rm --recursive --force "$FK_TMP" && FK_TMP=''
done
[ -d "$FK_TMP" ] || { echo "No space left in ${TMPDIR:-/tmp} and in /run, so nothing can be asked" >&2; exit 74; }
trap 'rm --recursive --force "$FK_TMP"' EXIT
# When nobody listens any more, the step that is begun ends all the same. Commands do not inherit this.
trap : PIPE
export FK_TMP

frame() {
  local IFS=' ' field line=$FK_NONCE all
  all="$*"
  if [[ $all == *[$'\\\n\t']* ]] || [ ${#all} -gt 200000 ]; then
    for field; do
      field=${field:0:200000}
      field=${field//\\/\\\\}
      field=${field//$'\n'/\\n}
      line+=$'\t'${field//$'\t'/\\t}
    done
  else
    IFS=$'\t'
    line+=$'\t'$*
  fi
  printf '%s\n' "$line" >&3
}

# answer NAME KEY VALUE…: what a command of the laptop, or a layer, asked for. It may come more than once.
answer() { frame answer "$@"; }

# A check that is nothing but calls of functions that return, and that leave no variable behind for another check, needs no shell
# of its own, which is most of what it costs. FK_PLAIN has the names of such checks, FK_HERE says that they may do without.
# in one shell: fk_file_is
FK_PLAIN='' FK_HERE=''

# fk_run_check FUNCTION: in a shell of its own. Always a plain statement: behind `if` or `&&` bash would ignore set -e inside.
fk_run_check() {
  [ -z "${FK_STEPS-}" ] || printf '%s %s\n' "$BASHPID" "$EPOCHSECONDS" > "$FK_TMP/asking"
  fk_answer "$1"
  [ ! -e "$FK_TMP/late" ] || {
    rm --force "$FK_TMP/late"
    FK_RC=102 FK_OUT="could not ask: no answer after $FK_PATIENCE s${FK_OUT:+; $FK_OUT}"
  }
}

fk_answer() {
  if [ -n "$FK_HERE" ]; then
    case $FK_PLAIN in *" $1 "*)
      fk_run_here "$1"
      return
      ;;
    esac
  fi
  FK_OUT=$(
    exec < /dev/null 2>&1 3>&-
    unset FK_FACT FK_FACT_OF FK_LINES FK_KNOWN FK_SETTING FK_FOUND FK_SETTINGS_OF
    set -euo pipefail
    "$1"
  )
  FK_RC=$?
}

# A question that hangs takes down its own answer only. What walks over whole disks is no quicker.
FK_PATIENCE=${FK_PATIENCE:-100}

# fk_watch: ends what has been asked for too long, and what waits for the same answer.
fk_watch() {
  local worker pid since code
  while :; do
    code=0
    read -r -t 1 -u "$FK_NEVER" || code=$? # nothing comes, and so this is a second
    [ "$code" -gt 128 ] || return
    for worker in "$FK_FACTS"/worker.*; do
      { read -r pid since < "$worker/asking"; } 2> /dev/null || continue
      [ $((EPOCHSECONDS - since)) -ge "$FK_PATIENCE" ] || continue
      rm --force "$worker/asking"
      : > "$worker/late"
      fk_end_below "$pid"
    done
  done
}

# fk_end_below PID: everything that it has started ends, and nobody waits for it.
fk_end_below() {
  local file line pid below=" $1 " more=yes ended=()
  while [ -n "$more" ]; do
    more=''
    for file in /proc/[0-9]*/stat; do
      { read -r line < "$file"; } 2> /dev/null || continue # it has ended since
      pid=${line%% *} line=${line##*) ? }
      case $below in *" $pid "*) continue ;; *" ${line%% *} "*) below+="$pid " ended+=("$pid") more=yes ;; esac
    done
  done
  for file in "$FK_FACTS"/fact.*.by; do
    { read -r pid < "$file"; } 2> /dev/null || continue # there is none
    case $below in *" $pid "*) [ -e "${file%.by}.known" ] || echo 137 > "${file%.by}.known" ;; esac
  done
  [ ${#ended[@]} -eq 0 ] || kill -KILL "${ended[@]}" 2> /dev/null || true # it has ended by itself
}

# fk_run_here FUNCTION: in this shell.
fk_run_here() {
  "$1" > "$FK_TMP/said" 2>&1
  FK_RC=$?
  # There is no NUL, at which it would end.
  IFS= read -r -d '' FK_OUT < "$FK_TMP/said"
  while [[ $FK_OUT == *$'\n' ]]; do FK_OUT=${FK_OUT%$'\n'}; done
}

# fk_stopped: nothing more is to begin: whoever sent this program has closed its input (number 9), or is gone. A transaction
# that is begun goes on, because only a whole one can be confirmed.
fk_stopped() { [ -z "$FK_ARMED" ] && read -r -t 0 -u 9 2> /dev/null; }

# fk_over: no step begins any more.
fk_over() { [ -n "$FK_FAILED" ] || fk_stopped; }

# fk_holds STEP CONTROLS PHASE: checks the step and its controls; FK_HOLDS is empty when one of them does not hold.
fk_holds() {
  local n=$1 count=$2 phase=$3 c
  FK_HOLDS=yes
  fk_run_check "fk_check_$n"
  [ "$FK_RC" -eq 0 ] || FK_HOLDS=''
  frame check "$n" "$phase" "$FK_RC" "$FK_OUT"
  for ((c = 0; c < count; c++)); do
    fk_run_check "fk_control_${n}_$c"
    frame control "$n" "$phase" "$c" "$FK_RC" "$FK_OUT"
    case "$FK_RC $FK_WAIVED" in "0 "* | "100 "* | "101 "* | *" $n.$c "*) ;; *) FK_HOLDS='' ;; esac
  done
}

# fk_match_all 'PATH SHA256 MODE OWNER'…: FK_MATCHES names those files of a page that are as they should be, and FK_DIFFERS those
# with another content, by one look at all.
fk_match_all() {
  local file path right is
  right=$(
    for file; do
      path=${file% * * *} && file=${file#"$path "} && printf '%s  %s\n' "${file%% *}" "$path"
    done | sha256sum --check 2> /dev/null
  )
  is=$(stat --format='%n %a %U:%G' -- "${@% * * *}" 2> /dev/null)
  FK_MATCHES=$'\n' FK_DIFFERS=$'\n'
  for file; do
    path=${file% * * *}
    if ! put_finished "$path" || [[ $'\n'$right$'\n' != *$'\n'"$path: OK"$'\n'* ]]; then
      FK_DIFFERS+=$file$'\n'
    elif [[ $'\n'$is$'\n' == *$'\n'"$path ${file#"$path "* }"$'\n'* ]]; then
      FK_MATCHES+=$file$'\n'
    fi
  done
}

# fk_file_is PATH SHA256 MODE OWNER: as put_matches, and shows the content where that is another.
fk_file_is() {
  local code=0 is
  put_matches "$@" || code=$?
  [ "$code" -eq 0 ] || [ "$code" -eq 2 ] || [ ! -f "$1" ] || { mapfile is < "$1" && printf %s "${is[@]}"; }
  return "$code"
}

# fk_check_all 'STEP CONTROLS'…: checks all of them, as many at once as there are processors: none changes anything. Each
# worker takes the last one that nobody has, because the longest are at the end of a page, and has a directory of its own; only
# what is known of the machine is shared.
fk_check_all() {
  local workers worker file known=() at=() watch
  workers=$(nproc)
  export FK_FACTS=$FK_TMP
  FK_STEPS=("$@")
  # shellcheck disable=SC2034 # fact_pause reads it
  exec {FK_NEVER}<> <(:) # nothing ever arrives there: to wait a moment without a process
  for file in "$FK_TMP"/*; do [ ! -f "$file" ] || known+=("$file"); done
  # The deadline ends all of it: what has been checked by then still arrives, and so shows what has not. The signal
  # comes twice, from timeout(1) to this shell and to its group, and the second must not end what sends the results.
  trap 'trap "" TERM; cat "$FK_FACTS"/worker.*/frames >&3 2> /dev/null; exit 143' TERM
  for ((worker = 1; worker <= (workers < 8 ? workers : 8); worker++)); do
    (
      FK_TMP=$FK_FACTS/worker.$worker
      mkdir "$FK_TMP" && { [ ${#known[@]} -eq 0 ] || cp "${known[@]}" "$FK_TMP"; } || exit
      exec 3> "$FK_TMP/frames"
      exec < /dev/null
      fk_work
    ) &
    at+=($!)
  done
  fk_watch &
  watch=$!
  wait "${at[@]}"
  kill "$watch"
  trap - TERM
  cat "$FK_FACTS"/worker.*/frames >&3
}

# fk_work: checks those of FK_STEPS that no other worker has. A step in the middle of which a check ends the shell is checked once
# more, with a shell for each, and what is left goes on in another.
fk_work() {
  local i mine
  FK_HERE=yes FK_STEP=''
  # The deadline is no check that has ended its shell.
  trap 'FK_STEP=""; exit 143' TERM
  trap '[ -z "$FK_STEP" ] || { FK_HERE=""; fk_holds $FK_STEP before; (fk_work); }' EXIT
  for ((i = ${#FK_STEPS[@]}; i > 0; i--)); do
    ! fk_stopped || break
    set -o noclobber
    { : > "$FK_FACTS/claimed.$i"; } 2> /dev/null && mine=yes || mine=''
    set +o noclobber
    [ -n "$mine" ] || continue
    FK_STEP=${FK_STEPS[i - 1]}
    # shellcheck disable=SC2086 # two words
    fk_holds $FK_STEP before
  done
  FK_STEP=''
}

# fk_do STEP NUMBER SECONDS TEXT [SECRET]: one command of a step, in a bash of its own that dies with its deadline.
fk_do() {
  local FK_SAYS='' # where it is set, the command may say something meanwhile: what it starts in the background may not
  frame run "$1" "$2"
  case $4 in *apt_get*) exec 4>&3 && export FK_SAYS=$FK_NONCE ;; esac
  if [ $# -gt 4 ]; then
    FK_OUT=$(printf '%s' "$5" | timeout --kill-after=5 "$3" bash -euo pipefail -c "$4" 2>&1 3>&-)
  else
    FK_OUT=$(timeout --kill-after=5 "$3" bash -euo pipefail -c "$4" 2>&1 3>&- < /dev/null)
  fi
  FK_RC=$?
  [ -z "$FK_SAYS" ] || exec 4>&-
  [ "$FK_RC" -eq 0 ] || frame said "$1" "$2" "$FK_RC" "$FK_OUT"
  return "$FK_RC"
}

# fk_kept: what the command of an undo says that it keeps is for the person to know.
fk_kept() { [[ $FK_OUT != 'kept: '* ]] || frame note "$FK_OUT"; }

# fk_open: before the first change of this program: the record, and for a transaction its rollback timer. When it fails,
# FK_OUT says why.
fk_open() {
  if [ -z "$FK_OPENED" ]; then
    FK_OUT=$(fk_sure fk_record_open "$FK_PAGE" 2>&1) || return
    FK_OPENED=yes
    FK_KEEP=$FK_STATE/pages/$FK_PAGE/origin
  fi
  if [ -n "$FK_TX" ] && [ -z "$FK_ARMED" ]; then
    fk_guard "$FK_TX" "$FK_DEADMAN" "$FK_OWNER" || return
    FK_ARMED=yes
    # After a rollback the page has left what it had left before.
    if [ -e "$FK_STATE/pages/$FK_PAGE/left" ]; then
      install -D --mode=600 "$FK_STATE/pages/$FK_PAGE/left" "$FK_STATE/tx/$FK_TX/record/$FK_PAGE/left"
    fi
    FK_KEEP+=" $FK_STATE/tx/$FK_TX"
    frame armed "$FK_TX" "$FK_DEADMAN"
  fi
  export FK_KEEP FK_TX
}

fk_demand() {
  ! fk_over || return 0
  fk_holds "$1" "$2" before
  if [ -n "$FK_HOLDS" ]; then frame end "$1" ok; else fk_fail "$1" demand; fi
}

fk_wait() {
  local deadline=$((SECONDS + $3))
  while :; do
    ! fk_over || return 0
    fk_holds "$1" "$2" before
    [ -z "$FK_HOLDS" ] || { frame end "$1" ready; return 0; }
    [ "$SECONDS" -lt "$deadline" ] || break
    sleep 1
  done
  fk_fail "$1" deadline
}

fk_change() {
  ! fk_over || return 0
  fk_holds "$1" "$2" before
  [ -z "$FK_HOLDS" ] || { frame end "$1" ok; return 0; }
  # Its check may have taken long.
  ! fk_over || return 0
  fk_open || { frame said "$1" 0 1 "$FK_OUT"; fk_fail "$1" guard; return 0; }
  grep --line-regexp --fixed-strings -e "$3" "$FK_STATE/pages/$FK_PAGE/steps" > /dev/null 2>&1 ||
    { printf '%s\n' "$3" >> "$FK_STATE/pages/$FK_PAGE/steps" && sync "$FK_STATE/pages/$FK_PAGE/steps"; }
  if ! "fk_apply_$1"; then
    "fk_recover_$1"
    fk_fail "$1" apply
    return 0
  fi
  # What the laptop has to store first is checked again when it has, and a machine that starts anew when it is back.
  if [ -n "${4-}" ]; then
    frame end "$1" changed
    return 0
  fi
  fk_holds "$1" "$2" after
  if [ -n "$FK_HOLDS" ]; then frame end "$1" changed; else fk_fail "$1" after; fi
}

fk_fail() {
  FK_FAILED=yes
  if [ -n "$FK_ARMED" ]; then
    fk_rollback_now "$FK_TX"
    FK_ARMED=''
    frame end "$1" failed "$2" rolled-back
  else
    frame end "$1" failed "$2" kept
  fi
}

# fk_lock OWNER: one run at a time; the lock dies with the last process of the run.
fk_lock() {
  local since tx
  install --directory --mode=700 /run/fortress
  exec 8>> /run/fortress/lock
  if ! flock --nonblock 8; then
    since=$(stat --format=%Y /run/fortress/owner 2> /dev/null || date +%s)
    frame locked "$(cat /run/fortress/owner 2> /dev/null)" "$(($(date +%s) - since))"
    exit 75
  fi
  printf '%s\n' "$1" > /run/fortress/owner
  for tx in "$FK_STATE"/tx/*/; do
    [ -d "$tx" ] || continue
    tx=$(basename "$tx")
    if [ -e "$FK_STATE/tx/$tx/rolled-back" ] || [ ! -e "$FK_STATE/tx/$tx/armed" ]; then
      fk_disarm "$tx"
    elif [ "$(cat "$FK_STATE/tx/$tx/owner")" = "$1" ]; then
      # Our own run was killed before it could confirm: that is rolled back first.
      fk_rollback_now "$tx"
      frame note "an unconfirmed change of an earlier run was rolled back"
    else
      frame unconfirmed "$(cat "$FK_STATE/tx/$tx/owner")" "$(($(cat "$FK_STATE/tx/$tx/due") - $(date +%s)))"
      exit 75
    fi
  done
}

# fk_unconfirmed: says which changes of other runs wait to be confirmed.
fk_unconfirmed() {
  local tx left
  for tx in "$FK_STATE"/tx/*/; do
    [ -e "$tx/armed" ] || continue
    left=$(($(cat "$tx/due") - $(date +%s)))
    frame note "$(cat "$tx/owner") made a change that is not confirmed yet; it is rolled back in $left s"
  done
}

# saved NAME DIGEST: the laptop has confirmed that it holds NAME with this sha256.
saved() { [ -n "$2" ] && [ "$(cat "$FK_STATE"/pages/*/saved/"$1" 2> /dev/null)" = "$2" ]; }
export -f saved
