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

@test "./task shows one screen: site and machine, the commands of an ordinary day, the pages by layer" {
  run --separate-stderr env FK_HOST= ./task
  assert_success
  assert_line --index 0 'fortress-kit 0.1.0   site fortress   machine: none yet (rehearsal)'
  assert_line --regexp '^  ./task plan-all +what would change +./task verify-all +still so\?$'
  assert_line '  L0 host     00 host-greet  10 host-part'
  assert_equal "$stderr" ''
  printf 'FK_HOST="ada@192.0.2.7" # mine\nFK_SITE=zengarden\n' > .env
  run env --unset=FK_HOST ./task
  assert_line --index 0 'fortress-kit 0.1.0   site zengarden   machine: ada@192.0.2.7'
  run env FK_SITE=fortress FK_HOST=lab ./task
  assert_line --index 0 'fortress-kit 0.1.0   site fortress   machine: lab'
  rm .env
  nothing_written
}

@test "./task --all lists what there is, tasks first, then the pages by number" {
  run --separate-stderr ./task --all
  assert_success
  assert_line --index 0 './task NAME, and ./task NAME --help says more.'
  assert_line --regexp '^  build-all +build everything, in order; without FK_HOST a rehearsal$'
  assert_line --regexp '^  00 host-greet +A host that greets its owner\.$'
  assert_line --regexp '^  10 host-part +A host that says goodbye\.$'
  assert_equal "$stderr" ''
  nothing_written
}

@test "the first screen is never an old one" {
  ./task > /dev/null
  cp scripts/10-host-part.ts scripts/20-host-rest.ts
  run ./task
  assert_line --regexp '00 host-greet  10 host-part  20 host-rest$'
  rm scripts/20-host-rest.ts
  echo broken > .cache/list.json
  run --separate-stderr ./task
  refute_output --partial host-rest
  assert_equal "$stderr" ''
}

@test "help, --help and -h show the first screen; --all, list, --list and -l show everything" {
  first=$(./task)
  for word in help --help -h; do assert_equal "$(./task "$word")" "$first"; done
  all=$(./task --all)
  for word in list --list -l; do assert_equal "$(./task "$word")" "$all"; done
  assert_equal "$(./task --version)" 'fortress-kit 0.1.0'
}

@test "a task says what it does, what it takes and what it needs" {
  run ./task undo-all --help
  assert_success
  assert_line --index 0 './task undo-all'
  assert_line --index 1 '  take everything back, newest page first'
  assert_line --regexp '^  --layer LAYER +only the pages of this layer: L0, L1, L2, L3, L4, policy, L5, L6$'
  assert_line --regexp '^  --confirm NAME +confirm what destroys'
  run ./task help node
  assert_line --index 0 './task node rebuild|destroy|replace|remove|kubeconfig|shell|rekey [NAME]'
  assert_line --regexp '^  rebuild +a virtual machine is made anew'
  run ./task help check
  assert_line --index 2 '  first:  types, lint, format, shell'
}

@test "every task has its help" {
  ./task --all | sed --quiet '/^One page/q; s/^  \([a-z][a-z0-9-]*\).*/\1/p' > names
  [ "$(wc --lines < names)" -gt 20 ]
  while read -r name; do
    run ./task "$name" --help
    assert_success
    assert_line --index 0 --regexp "^\./task $name"
  done < names
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

@test "a part of a page's name, and what only a page knows, lead to what was meant" {
  refused "There is no task 'greet'. Did you mean host-greet? ./task lists them." ./task greet plan
  refused "There is no task 'plan'. ./task plan-all is for every page, ./task PAGE plan for one. ./task lists them." ./task plan
  refused "There is no task 'apply'. ./task build-all is for every page, ./task 00 apply for one. ./task lists them." \
    ./task apply 00
  refused "There is no task 'build'. ./task build-all is for every page, ./task PAGE apply for one. ./task lists them." \
    ./task build
}

@test "a page is a program of its own" {
  cp "$BATS_TEST_DIRNAME/../scripts/05-host-wireguard.ts" scripts/
  run ./scripts/05-host-wireguard.ts --help
  assert_success
  assert_line --index 0 --regexp '^05-host-wireguard  A WireGuard tunnel'
  rm scripts/05-host-wireguard.ts
}

@test "a misspelt flag is refused, and all of them at once" {
  refused "build-all has no flag '--vrebose'; did you mean --verbose?
build-all has no flag '--dry-run': it has --layer, --from, --only, --diff, --site, --confirm, --yes, --json, --verbose
Nothing was run." ./task build-all --vrebose --dry-run
  refused "scripts/00-host-greet.ts has no flag '--jsno'; did you mean --json?
Nothing was run." ./task 00 plan --jsno
}

@test "a word too many is refused" {
  refused "build-all takes no words: 'now' is too much
Nothing was run." ./task build-all now
}

@test "a layer without a page is refused, and those that have one are named" {
  refused "There is no page of layer 'L2': there are L0. Nothing was run." ./task plan-all --layer L2
  refused "There is no page of layer 'policy': there are L0. Nothing was run." ./task plan-all --layer POLICY
  refused "--layer has no 'polcy'; did you mean policy?
Nothing was run." ./task plan-all --layer polcy
}

@test "an unknown mode is refused with the nearest" {
  refused "scripts/00-host-greet.ts has no mode 'aply'; did you mean apply?
Nothing was run." ./task 00 aply
  refused "scripts/00-host-greet.ts has no mode 'explode': it has plan, apply, verify, undo, print
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
  refused "'10' is the number of several pages: host-part, host-stay. Say which by its name." ./task 10 plan
  rm scripts/10-host-stay.ts
}

@test "without a machine build-all is a rehearsal: it ends well, needs no network, and writes out/" {
  network=()
  if [ "$(id --user)" -eq 0 ]; then network=(unshare --net); fi
  run "${network[@]}" ./task build-all
  assert_success
  assert_line --index 0 'Rehearsal for the site fortress: FK_HOST is not set, so nothing is touched.'
  assert_line --regexp '^L0 +00-host-greet +2 steps +1 file$'
  assert_line --regexp '^L0 +10-host-part +1 step$'
  assert [ -x out/fortress/print/00-host-greet.sh ]
  assert_equal "$(cat out/fortress/fortress/etc/greeting)" 'Good morning.'
}

@test "a run goes on from a page, or takes some pages alone, by number or by name" {
  run ./task build-all --from host-part
  assert_success
  refute_output --partial host-greet
  assert_output --partial 10-host-part
  run ./task build-all --only 00,10-host-part --layer l0
  assert_output --partial 00-host-greet
  assert_output --partial 10-host-part
  run ./task plan-all --only 00
  assert_line 'check    1/2 the clock is set'
  rm --recursive --force out
  refused "There is no page 'host-prat'. Did you mean host-part? Nothing was run." ./task plan-all --from host-prat
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
  for task in verify-all 'undo-all --confirm fortress' '00 verify' '00 undo'; do
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
    nap: {
      does: 'sleep',
      run: command('sh', '-c', 'trap "sleep 0.3; echo awake; exit 1" INT; touch begun; sleep 20 > /dev/null 2>&1 & wait'),
    },
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
Stopping when what is begun has ended. Ctrl-C again leaves it at once.
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
  colour=$(TERM=xterm-256color typescript './task 00 plan')
  plain=$(TERM=xterm-256color NO_COLOR=1 typescript './task 00 plan')
  assert_regex "$colour" $'\e\\[2mcheck\e\\[0m    1/2 the clock is set'
  [[ $plain != *$'\e['* ]] || fail "$plain"
  assert_equal "$(sed 's/\x1b\[[0-9]*m//g' <<< "$colour")" "$plain"
}

# A laptop with the keys of a vault, in $BATS_TEST_TMPDIR.
vault_keys() {
  export FK_STATE_DIR=$BATS_TEST_TMPDIR/state FK_AGE_IDENTITY=$BATS_TEST_TMPDIR/identity FK_LOG_DIR=$BATS_TEST_TMPDIR/log
  node --input-type=module --eval "
    import { createRequire } from 'node:module'
    const require = createRequire('$KIT/bin/task.cjs')
    require('./typescript.cjs')
    const { secretStore } = require('../lib/ground/secret.ts')
    const store = secretStore({ dir: '$FK_STATE_DIR/fortress', identity: '$FK_AGE_IDENTITY', say() {} })
    await store.put('fortress-vault-passphrase', 'a passphrase of seven words')
    await store.put('fortress-vault-recovery-key', 'abcdefgh-ijklmnop')
  "
}

@test "the keys of a vault are shown on a terminal, once for each time they are asked for, and stand in no log" {
  vault_keys
  run script --quiet --return --command './task vault keys' "$BATS_TEST_TMPDIR/terminal" < /dev/null
  assert_success
  assert_output --partial 'passphrase    a passphrase of seven words'
  assert_output --partial 'recovery key  abcdefgh-ijklmnop'
  assert_equal "$(grep --count --fixed-strings abcdefgh-ijklmnop <<< "$output")" 1
  rm "$BATS_TEST_TMPDIR/terminal"
  run grep --recursive --files-with-matches --extended-regexp 'a passphrase of seven|abcdefgh-ijk' \
    "$BATS_TEST_TMPDIR" .cache
  assert_output ''
}

@test "the keys of a vault are not shown where nobody looks" {
  vault_keys
  refused 'The keys of a vault are shown on a terminal only
  state: nothing was shown
  next:  ./task vault keys, typed at a terminal; then write the recovery key on paper' ./task vault keys
}

@test "a vault whose keys were never made has none to show" {
  export FK_STATE_DIR=$BATS_TEST_TMPDIR/state
  run -1 script --quiet --return --command './task vault keys' /dev/null < /dev/null
  assert_output --partial 'The vault of fortress has no keys yet'
  assert_output --partial 'it has no disk: choose one as vault.disk of the machine'
}

@test "gates lists what waits for a person, and notes what a person has confirmed" {
  export FK_STATE_DIR=$BATS_TEST_TMPDIR/state
  run ./task gates --site zengarden
  assert_failure 2
  assert_line --regexp '^your turn  cabling, before 01-router-network: '
  refused "cloudflare-token is not done: this laptop has no secret cloudflare-token
  next:  an API token: DNS edit of zengarden.example, and a tunnel" \
    ./task gates confirm cloudflare-token --site zengarden
  run ./task gates confirm cabling --site zengarden
  assert_success
  run ./task gates --site zengarden
  assert_line --regexp '^done       cabling, '
  run ./task gates
  assert_success
  assert_output 'fortress has no gates: nothing waits for a person.'
}

@test "a run over all pages ends with the names of those that the site needs and that are not built yet" {
  run ./task plan-all --site zengarden
  assert_line --regexp '^zengarden needs [0-9]+ pages that this kit does not have yet: 01-router-network, .*70-observability'
}

@test "a lost header is written back: without a machine a rehearsal" {
  refused "vault has no action 'restore-haeder'; did you mean restore-header?
Nothing was run." ./task vault restore-haeder
  sed "s/^name: .*/name: vaulted/; s|disk: ''|disk: /dev/disk/by-id/usb-Test_0-0:0|" config/sites/fortress.yaml \
    > config/sites/vaulted.yaml
  run ./task vault restore-header --site vaulted
  assert_success
  assert_line --regexp 'the LUKS header of the vault is the saved one$'
  rm config/sites/vaulted.yaml
}

@test "waivers say whose they are, how many, and where they stand" {
  run ./task waivers
  assert_success
  assert_line --index 0 --regexp '^Waivers of fortress: [0-9]+ requirements that it does not fulfil, why, and until when\.$'
  assert_line --index 1 --partial 'config/host/waivers.yaml'
  run ./task waivers --site lab
  assert_success
  assert_line --regexp '^E16 of lab \(until 2099-12-31\): it is thrown away$'
}

# What reads this computer as if it were a host: nothing of ours is on it.
here() { env FK_HOST=local FK_STATE_DIR="$BATS_TEST_TMPDIR/state" FK_LOG_DIR="$BATS_TEST_TMPDIR/log" "$@"; }

@test "where nothing is built status says so, cis scores nothing, and neither calls it a failure" {
  [ "$(id --user)" -eq 0 ] || skip 'it needs root'
  [ ! -e /var/lib/fortress/pages ] || skip 'pages were applied to this computer'
  run here ./task status
  assert_failure 2
  assert_line --regexp '^L0 host +0/2 +not built +- +./task build-all --layer L0$'
  assert_line --regexp '^fortress +here +'
  assert_line --regexp '^fortress-node +- +not built$'
  refute_output --partial failed
  run here ./task cis
  assert_failure 2
  assert_line --index 0 'fortress-node is not built yet, so there is nothing to score'
}

# A page for the laptop. It writes into $HOME, which the tests choose.
laptop_page() {
  cat > scripts/60-laptop-note.ts <<'PAGE'
// A laptop that has a note.
import { script } from '../lib/script.ts'
import { sh } from '../lib/ground/sh.ts'

export default script(import.meta, { layer: 'L2', on: 'laptop' }, () => [
  {
    name: 'the note is written',
    check: sh`grep --quiet hello "$HOME/note"`,
    apply: [sh`echo hello > "$HOME/note"`],
    undo: [sh`rm --force "$HOME/note"`],
  },
  { name: 'nobody is root here', check: sh`test "$(id --user)" -ne 0`, help: 'start it as yourself' },
])
PAGE
}

# as_user COMMAND…: as somebody who is not root, with a home and a state directory of their own, and a sudo that notes its calls.
as_user() {
  local home=$BATS_TEST_TMPDIR/home drop=()
  mkdir --parents "$home/bin"
  printf '#!/bin/sh\n[ "$1" = --reset-timestamp ] || echo called >> %s\nexit 1\n' "$home/sudo" > "$home/bin/sudo"
  chmod 755 "$home/bin/sudo"
  if [ "$(id --user)" -eq 0 ]; then
    chmod a+x "$BATS_RUN_TMPDIR" "$BATS_FILE_TMPDIR" "$(dirname "$BATS_FILE_TMPDIR")" \
      "$BATS_TEST_TMPDIR" "$(dirname "$BATS_TEST_TMPDIR")"
    chown --recursive 65534:65534 "$home"
    drop=(setpriv --reuid=65534 --regid=65534 --clear-groups)
  fi
  "${drop[@]}" env HOME="$home" PATH="$home/bin:$PATH" FK_HOST=local FK_STATE_DIR="$home/state" FK_LOG_DIR="$home/log" \
    FK_DOWNLOAD_DIR="$home/downloads" FK_AGE_IDENTITY="$home/identity" "$@"
}

@test "a page for the laptop runs on this computer, as the person who started it" {
  laptop_page
  run -2 as_user ./task laptop-note plan
  assert_line --regexp '^change +1/2 the note is written$'
  assert_not_exists "$BATS_TEST_TMPDIR/home/note"
  run as_user ./task laptop-note apply
  assert_success
  assert_line --regexp '^changed +1/2 the note is written$'
  assert_equal "$(cat "$BATS_TEST_TMPDIR/home/note")" hello
  run as_user ./task laptop-note verify
  assert_success
  run as_user ./task laptop-note apply
  assert_line --regexp '^ok +1/2 the note is written$'
  assert [ -d "$BATS_TEST_TMPDIR/home/state/fortress/record/pages/60-laptop-note" ]
  run as_user ./task laptop-note undo
  assert_success
  assert_not_exists "$BATS_TEST_TMPDIR/home/note"
  assert_not_exists "$BATS_TEST_TMPDIR/home/sudo"
  rm scripts/60-laptop-note.ts
}

@test "a page for the laptop is rehearsed and printed like any other" {
  laptop_page
  run ./task laptop-note
  assert_success
  assert_line --regexp '^step +1/2 the note is written$'
  assert [ -x out/fortress/print/60-laptop-note.sh ]
  run ./task laptop-note print
  assert_success
  assert_line --partial 'echo hello > "$HOME/note"'
  ./task laptop-note print > "$BATS_TEST_TMPDIR/note.sh"
  run as_user bash "$BATS_TEST_TMPDIR/note.sh"
  assert_success
  assert_equal "$(cat "$BATS_TEST_TMPDIR/home/note")" hello
  rm scripts/60-laptop-note.ts
}

@test "a page for the laptop writes its files as the user who runs it, by the task and printed" {
  laptop_page
  sed -e "s#^import { sh }.*#&\nimport { file } from '../lib/engine/file.ts'#" \
    -e "s#^  {\$#  file('$BATS_TEST_TMPDIR/home/dir/list', { text: 'one\\\\n' }),\n&#" scripts/60-laptop-note.ts > scripts/62-laptop-file.ts
  for how in task printed; do
    if [ "$how" = task ]; then run as_user ./task laptop-file apply
    else
      ./task laptop-file print > "$BATS_TEST_TMPDIR/file.sh"
      run as_user bash "$BATS_TEST_TMPDIR/file.sh"
    fi
    assert_success
    assert_equal "$(cat "$BATS_TEST_TMPDIR/home/dir/list")" one
    rm --recursive "$BATS_TEST_TMPDIR/home/dir" "$BATS_TEST_TMPDIR/home/note"
  done
  rm scripts/6*-laptop-*.ts
}

@test "a transaction of a page for the laptop is confirmed by its checks, and undone by its commands" {
  laptop_page
  sed "s/name: 'the note is written',/&\n    transaction: { kind: 'note' },/" scripts/60-laptop-note.ts \
    > scripts/61-laptop-guard.ts
  run as_user ./task laptop-guard apply
  assert_success
  assert_equal "$(cat "$BATS_TEST_TMPDIR/home/note")" hello
  run as_user ./task laptop-guard undo
  assert_success
  assert_not_exists "$BATS_TEST_TMPDIR/home/note"
  run -0 ./task laptop-guard print
  refute_line --regexp '^ *(transaction|confirm)'
  rm scripts/6*-laptop-*.ts
}

@test "a page for the API waits for the page that fetches the kubeconfig" {
  laptop_page
  sed "s/on: 'laptop'/on: 'api'/" scripts/60-laptop-note.ts > scripts/62-api-note.ts
  run -2 as_user ./task api-note apply
  assert_output '62-api-note: not built, after 20-k3s-server'
  assert_not_exists "$BATS_TEST_TMPDIR/home/note"
  rm scripts/6*-*-note.ts
}
