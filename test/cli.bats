# What a person at a terminal types, and what comes back. Every text is compared whole.
#
# The tests work on a copy of the project with two pages of its own, so that nothing of yours is read or written.
bats_require_minimum_version 1.5.0

bats_load_library() { load "../node_modules/$1/load.bash"; }

setup_file() {
  export KIT="$BATS_FILE_TMPDIR/kit"
  mkdir --parents "$KIT/scripts"
  cp --recursive "$BATS_TEST_DIRNAME"/../{bin,config,lib,task,Taskfile.ts,package.json,tsconfig.json} "$KIT"
  ln --symbolic "$(realpath "$BATS_TEST_DIRNAME/../node_modules")" "$KIT/node_modules"
  cat > "$KIT/scripts/00-host-greet.ts" <<'PAGE'
// A host that greets its owner.
import { file } from '../lib/engine/file.ts'
import { script } from '../lib/script.ts'
import { sh } from '../lib/ground/sh.ts'

export default script(import.meta, { layer: 'L0', on: 'host' }, () => [
  {
    name: 'the clock is set',
    why: 'a greeting depends on the time of day',
    check: sh`test "$(date +%Y)" -ge 2020`,
    help: 'set the clock',
  },
  file('/etc/greeting', { text: 'Good morning.\n' }),
])
PAGE
  cat > "$KIT/scripts/10-host-part.ts" <<'PAGE'
// A host that says goodbye.
import { script } from '../lib/script.ts'
import { sh } from '../lib/ground/sh.ts'

export default script(import.meta, { layer: 'L0', on: 'host' }, () => [
  { name: 'nobody is left', check: sh`true`, apply: [sh`true`] },
])
PAGE
  # Settings of the person who runs the tests are none of theirs.
  for name in $(compgen -e); do case $name in FK_*) unset "$name" ;; esac; done
  # Certificates that Node would load at each start: nothing here needs a network.
  unset DEBUG NO_COLOR FORCE_COLOR NODE_EXTRA_CA_CERTS
}

setup() {
  bats_load_library bats-support
  bats_load_library bats-assert
  cd "$KIT" || return
  rm --recursive --force out
}

nothing_written() {
  assert_not_exists "$KIT/out"
  assert_not_exists "$KIT/.cache/log"
}

assert_not_exists() {
  [ ! -e "$1" ] || fail "$1 was written"
}

@test "./task lists what there is, tasks first, then the pages by number" {
  run --separate-stderr ./task
  assert_success
  assert_line --index 0 './task NAME, and ./task NAME --help says more.'
  assert_line --regexp '^  build-all +build everything, in order; without FK_HOST a rehearsal that touches nothing$'
  assert_line --regexp '^  00 host-greet +A host that greets its owner\.$'
  assert_line --regexp '^  10 host-part +A host that says goodbye\.$'
  assert_equal "$stderr" ''
  nothing_written
}

@test "the list is never an old one" {
  ./task > /dev/null
  sed 's/greets its owner/greets nobody/' scripts/00-host-greet.ts > new
  cp scripts/00-host-greet.ts old
  mv new scripts/00-host-greet.ts
  run ./task
  assert_line --regexp '^  00 host-greet +A host that greets nobody\.$'
  mv old scripts/00-host-greet.ts
  cp scripts/10-host-part.ts scripts/20-host-rest.ts
  run ./task
  assert_line --regexp '^  00 host-greet +A host that greets its owner\.$'
  assert_line --regexp '^  20 host-rest +A host that says goodbye\.$'
  rm scripts/20-host-rest.ts
  echo broken > .cache/list.json
  run --separate-stderr ./task
  refute_output --partial host-rest
  assert_equal "$stderr" ''
}

@test "list, --list, -l, help, --help and -h show the same" {
  list=$(./task)
  for word in list --list -l help --help -h; do
    assert_equal "$(./task "$word")" "$list"
  done
}

@test "a task says what it does, what it takes and what it needs" {
  run ./task undo-all --help
  assert_success
  assert_output "./task undo-all [MACHINE]
  take everything back, newest page first
  flags:  --layer L0, --site NAME, --yes, --json, --verbose; ./task PAGE --help says what they do"
  run ./task help check
  assert_output "./task check
  everything that is checked without running it
  first:  types, lint, format, shell"
}

@test "a page explains itself by number, by name and by both" {
  run ./task 00 --help
  assert_success
  assert_line --index 0 '00-host-greet  A host that greets its owner.'
  help=$output
  for name in host-greet 00-host-greet; do assert_equal "$(./task "$name" --help)" "$help"; done
  assert_equal "$(./task help 00)" "$help"
  assert_equal "$(node_modules/.bin/tsx scripts/00-host-greet.ts --help)" "$help"
}

refused() { # MESSAGE; then a command that says it on standard error and nothing else
  local message=$1
  shift
  run --separate-stderr -1 "$@"
  assert_equal "$stderr" "$message"
  assert_output ''
  nothing_written
}

@test "a misspelt task is refused with the nearest" {
  refused "There is no task 'biuld-all'. Did you mean build-all? ./task lists them." ./task biuld-all
  refused "There is no task 'host-great'. Did you mean host-greet? ./task lists them." ./task host-great plan
  refused "There is no task '77'. ./task lists them." ./task 77
}

@test "a misspelt flag is refused, and all of them at once" {
  refused "build-all has no flag '--vrebose'; did you mean --verbose?
build-all has no flag '--dry-run': it knows --yes, --json, --verbose, --site, --format, --layer
Nothing was run." ./task build-all --vrebose --dry-run
  refused "scripts/00-host-greet.ts has no flag '--jsno'; did you mean --json?
Nothing was run." ./task 00 plan --jsno
}

@test "a word too many is refused" {
  refused "build-all takes no words: 'now' is too much
Nothing was run." ./task build-all now
}

@test "a layer without a page is refused, and those that have one are named" {
  refused "There is no page of layer 'L9': there are L0. Nothing was run." ./task plan-all --layer L9
}

@test "an unknown mode is refused with the nearest" {
  refused "scripts/00-host-greet.ts has no mode 'aply'; did you mean apply?
Nothing was run." ./task 00 aply
  refused "scripts/00-host-greet.ts has no mode 'explode': it knows plan, apply, verify, undo, print
Nothing was run." ./task host-greet explode
}

@test "a page refuses the same by itself as by its task" {
  for words in 'aply' 'plan --jsno'; do
    # shellcheck disable=SC2086 # these are words
    run -1 ./task 00 $words
    by_task=$output
    # shellcheck disable=SC2086 # these are words
    run -1 node_modules/.bin/tsx scripts/00-host-greet.ts $words
    assert_output "$by_task"
  done
}

@test "two pages with one number must be named" {
  cp scripts/10-host-part.ts scripts/10-host-stay.ts
  refused "'10' is the number of 2 pages: host-part, host-stay. Say which by its name." ./task 10 plan
  rm scripts/10-host-stay.ts
}

@test "without a machine build-all is a rehearsal: it ends well, needs no network, and writes out/" {
  network=()
  if [ "$(id --user)" -eq 0 ]; then network=(unshare --net); fi
  run "${network[@]}" ./task build-all
  assert_success
  assert_line --index 0 'Rehearsal for the site fortress: FK_HOST is not set, so nothing is touched.'
  assert_line '00-host-greet  A host that greets its owner.'
  assert_line 'demand   1/2 the clock is set'
  assert_line '10-host-part  A host that says goodbye.'
  assert [ -x out/fortress/print/00-host-greet.sh ]
  assert_equal "$(cat out/fortress/fortress/etc/greeting)" 'Good morning.'
}

@test "an empty FK_HOST is no machine" {
  run env FK_HOST= ./task plan-all
  assert_success
  assert_line --index 0 'Rehearsal for the site fortress: FK_HOST is not set, so nothing is touched.'
}

@test "with --json every line is one event" {
  run bash -c "./task build-all --json | node -e '
    for (const line of require(\"fs\").readFileSync(0, \"utf8\").trim().split(\"\\n\")) console.log(JSON.parse(line).event)'"
  assert_success
  assert_line page
  assert_line step
  refute_line undefined
}

@test "what needs a machine says so when there is none" {
  for task in verify-all 'undo-all fortress' '00 verify' '00 undo'; do
    # shellcheck disable=SC2086 # these are words
    run -1 --separate-stderr ./task $task
    assert_output ''
    assert_regex "$stderr" 'FK_HOST is not set'
  done
}

@test "print gives bash that bash understands" {
  run --separate-stderr bash -c './task 00 print | bash -n'
  assert_success
  assert_equal "$stderr" ''
}

@test "print of the whole runbook writes a file for each page, and one that they share" {
  run -0 ./task print
  assert_line --index 0 'Written to out/fortress/print/: 2 files, one for each page.'
  assert_equal "$(ls out/fortress/print | xargs)" '00-host-greet.sh 10-host-part.sh functions.sh'
  for file in out/fortress/print/*; do bash -n "$file"; done
}

@test "a misspelt setting stops everything before it begins" {
  run -1 --separate-stderr env FK_HOTS=admin@192.0.2.10 ./task build-all
  assert_output ''
  assert_regex "$stderr" 'FK_HOTS .*did you mean FK_HOST'
  nothing_written
}

@test "a reader who leaves early gets no stack trace" {
  for task in '' build-all '00 print'; do
    # shellcheck disable=SC2086 # an empty word is no word
    run --separate-stderr bash -c './task "$@" | head --lines=1' - $task
    assert_success
    assert_equal "${#lines[@]}" 1
    assert_equal "$stderr" ''
  done
}

@test "it works from another folder, and through a link" {
  ln --symbolic "$KIT/task" "$BATS_TEST_TMPDIR/task"
  ln --symbolic "$KIT/bin/task.cjs" "$BATS_TEST_TMPDIR/by-npm"
  list=$(./task)
  cd /
  assert_equal "$("$KIT/task")" "$list"
  assert_equal "$("$BATS_TEST_TMPDIR/task")" "$list"
  assert_equal "$("$BATS_TEST_TMPDIR/by-npm")" "$list"
}

@test "before npm ci it says what to run" {
  mkdir "$BATS_TEST_TMPDIR/clone"
  cp --recursive task bin lib Taskfile.ts "$BATS_TEST_TMPDIR/clone"
  run -69 --separate-stderr "$BATS_TEST_TMPDIR/clone/task" build-all
  assert_output ''
  assert_equal "$stderr" "The libraries are not installed yet. Run this once: (cd $BATS_TEST_TMPDIR/clone && npm ci)"
}

@test "without Node, and with an old one, it says which is needed" {
  shell=$(command -v sh)
  run -69 --separate-stderr env PATH=/nonexistent "$shell" ./task
  assert_equal "$stderr" 'Node 20.19 or newer is needed, and no node is in the PATH.'
  run -69 --separate-stderr node --eval "
    Object.defineProperty(process.versions, 'node', { value: '18.20.4' })
    require('./bin/task.cjs')"
  assert_equal "$stderr" "Node 20.19 or newer is needed; this is 18.20.4, at $(node --print process.execPath)."
}

@test "code is not run from a cache that others can write" {
  chmod a+w .cache
  run -77 --separate-stderr ./task
  assert_output ''
  assert_equal "$stderr" "$KIT/.cache can be written by others, and code is run from it. Remove it: rm -r $KIT/.cache"
  mv .cache "$BATS_TEST_TMPDIR/elsewhere"
  chmod go-w "$BATS_TEST_TMPDIR/elsewhere"
  ln --symbolic "$BATS_TEST_TMPDIR/elsewhere" .cache
  run -77 ./task
  rm .cache
  ./task > /dev/null
  assert_equal "$(stat --format=%a .cache)" 700
}

@test "Ctrl-C stops when what is begun has ended, and says so" {
  cat > Taskfile.ts <<'TASKS'
import { command, type Taskfile } from './lib/cli/taskfile.ts'

export default {
  'A night': {
    nap: { does: 'sleep', run: command('sh', '-c', 'trap "sleep 0.3; echo awake; exit 1" INT; touch begun; sleep 20 > /dev/null 2>&1 & wait') },
    rise: { does: 'get up', needs: ['nap'], run: command('touch', 'risen') },
  },
} satisfies Taskfile
TASKS
  rm --force begun risen
  set -o monitor # in a process group of its own, as at a terminal
  ./task rise > said 2>&1 &
  pid=$!
  set +o monitor
  until [ -e begun ]; do sleep 0.05; done
  kill -INT -- "-$pid"
  code=0
  wait "$pid" || code=$?
  cp "$BATS_TEST_DIRNAME/../Taskfile.ts" .
  assert_equal "$code" 130
  assert_equal "$(cat said)" "
Stopping when what is begun has ended. Ctrl-C again stops at once.
failed   1/2 nap: sleep
  ran:   sh -c trap \"sleep 0.3; echo awake; exit 1\" INT; touch begun; sleep 20 > /dev/null 2>&1 & wait
  said:  awake
  next:  ./task nap runs it alone
not started: rise"
  assert_not_exists risen
}

@test "on a terminal there is colour, with NO_COLOR there is none, and the text is the same" {
  # Node takes a terminal in CI for one without colour.
  typescript() { env --unset=CI script --quiet --return --command "$1" /dev/null < /dev/null | tr --delete '\r'; }
  colour=$(TERM=xterm-256color typescript './task plan-all')
  plain=$(TERM=xterm-256color NO_COLOR=1 typescript './task plan-all')
  assert_regex "$colour" $'\e\\[33mdemand\e\\[0m   1/2 the clock is set'
  [[ $plain != *$'\e['* ]] || fail "$plain"
  assert_equal "$(sed 's/\x1b\[[0-9]*m//g' <<< "$colour")" "$plain"
}
