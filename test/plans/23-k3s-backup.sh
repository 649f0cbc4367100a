#!/bin/bash
# 23-k3s-backup: The cluster is backed up by the clock, encrypted on the node, and brought away from it.
#
# Run it as root on the machine. Each step asks first and changes only what does not hold.
set -euo pipefail
[ "$(id --user)" -eq 0 ] || { echo "this script needs root" >&2; exit 1; }
: "${FK_FILES:?a directory that holds the downloads of this page; each step says from where}"

# record_before PATH: only the task runner records what was there before; a printed page does not take back.
record_before() { :; }
export -f record_before
saved() { [ -e "$FK_STATE/saved-$1-$2" ]; }
FK_TMP=$(mktemp --directory)
export FK_TMP
# Files are written whole or not at all. These functions are part of every program that applies, and of printed pages.
: "${FK_STATE:=/var/lib/fortress}"

# put PATH MODE OWNER [TEST]: standard input becomes PATH. TEST is bash and sees the candidate as $new.
# The old file waits in pending/ until `put_finish PATH`, so that a run killed before its reload does not look finished.
put() {
  local path=$1 mode=$2 owner=$3 test=${4-} new pending
  new=$(dirname "$path")/.$(basename "$path").fortress
  pending=$FK_STATE/pending/${path//\//%}
  record_before "$path"
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

# put_finish PATH: the commands that follow the file have run.
put_finish() { rm --recursive --force "$FK_STATE/pending/${1//\//%}" "$FK_STATE/pending/${1//\//%}.part"; }

# put_finished PATH: no change of PATH waits for the commands that follow it.
put_finished() { [ ! -e "$FK_STATE/pending/${1//\//%}" ]; }

# put_restore PATH: the file that `put` replaced returns.
put_restore() {
  local pending=$FK_STATE/pending/${1//\//%}
  [ -d "$pending" ] || return 0
  if [ -e "$pending/old" ] || [ -L "$pending/old" ]; then
    mv --force --no-target-directory "$pending/old" "$1"
  else
    rm --force "$1"
  fi
  put_finish "$1"
}

# received PATH: FK_PART is the file beside PATH that was uploaded for it, and FK_DIGEST its digest, which the sender verified;
# another file is deleted. FK_SENT has a line for everything that was sent: digest, path.
received() {
  FK_DIGEST=$(awk -v path="$1" '{ d = $1; sub(/^[^ ]* /, "") } $0 == path { print d }' <<< "$FK_SENT")
  [ -n "$FK_DIGEST" ] || { echo "nothing was sent for $1" >&2; return 1; }
  FK_PART=$(dirname "$1")/.$(basename "$1").${FK_DIGEST:0:16}.part
  printf '%s  %s\n' "$FK_DIGEST" "$FK_PART" | sha256sum --check --status || {
    rm --force "$FK_PART"
    echo "what arrived for $1 is not what was sent; it is deleted, and sent again by the next run" >&2
    return 1
  }
}

# put_matches PATH SHA256 MODE OWNER: PATH has this content, and nothing is left to follow; 2 says that only mode or owner
# differ.
put_matches() {
  local is
  [[ ${FK_MATCHES-} != *$'\n'"$*"$'\n'* ]] || return 0 # checked for all files at once, and nothing has changed since
  put_finished "$1" && [ -f "$1" ] && [ ! -L "$1" ] && printf '%s  %s\n' "$2" "$1" | sha256sum --check --status || return 1
  is=$(stat --format='%a %U:%G' "$1")
  [ "$is" = "$3 $4" ] || { printf 'mode and owner are %s, and should be %s %s\n' "$is" "$3" "$4"; return 2; }
}
export -f put put_finish put_finished put_restore received put_matches
export FK_STATE

# What several checks below look at.
# A node of k3s: what is asked of it, and how it starts. Everything that says no prints why.
K3S=/opt/bin/k3s K3S_ETC=/etc/rancher/k3s K3S_DATA=/var/lib/rancher/k3s K3S_NOTES=/var/lib/fortress/k3s
export K3S K3S_ETC K3S_DATA K3S_NOTES

k3s_no() {
  printf '%s\n' "$*"
  return 1
}

# k3s_program VERSION SHA256: it is here as it was published, and nobody else may write it.
k3s_program() {
  local path=/opt/k3s/$1/k3s
  [ -f "$path" ] && [ ! -L "$path" ] || k3s_no "$path is not there" || return
  [ "$(stat --format='%a %U:%G' "$path")" = '755 root:root' ] || k3s_no "$path can be changed: $(stat --format='%a %U:%G' "$path")" || return
  printf '%s  %s\n' "$2" "$path" | sha256sum --check --status || k3s_no "$path is not what is pinned"
}

# k3s_land VERSION: what was sent becomes the program of this version.
k3s_land() {
  local path=/opt/k3s/$1/k3s
  received "$path" || return
  record_before "$path"
  chown root:root "$FK_PART"
  chmod 755 "$FK_PART"
  sync "$FK_PART"
  mv --force --no-target-directory "$FK_PART" "$path"
}

# k3s_use VERSION: from the next start on. The link changes in one go.
k3s_use() {
  [ -x "/opt/k3s/$1/k3s" ] || k3s_no "/opt/k3s/$1/k3s is not there" || return
  record_before "$K3S"
  install --directory --mode=755 "$(dirname "$K3S")"
  ln --symbolic --force --no-dereference "../k3s/$1/k3s" "$K3S.new"
  mv --force --no-target-directory "$K3S.new" "$K3S"
  sync "$(dirname "$K3S")"
}

# k3s_version: that the link names; nothing where there is none.
k3s_version() {
  local link
  link=$(readlink "$K3S" 2> /dev/null) || return 0
  basename "$(dirname "$link")"
}

# k3s_kubectl WORD...: as the admin of the cluster, on a server.
k3s_kubectl() { timeout "${K3S_SECONDS:-30}" "$K3S" kubectl --kubeconfig "$K3S_ETC/k3s.yaml" "$@"; }

# k3s_self WORD...: as this node itself, which may read little more than itself.
k3s_self() { timeout 30 "$K3S" kubectl --kubeconfig "$K3S_DATA/agent/kubelet.kubeconfig" "$@"; }

# k3s_told: one digest of all that a start depends on: the program, the unit, the configuration, the secrets.
k3s_told() {
  {
    readlink "$K3S"
    { find "$K3S_ETC" /etc/systemd/system/k3s.service /etc/systemd/system/k3s.service.d -type f ! -name k3s.yaml ! -name '.*' -print0 2> /dev/null || true; } | # there need be no drop-in
      LC_ALL=C sort --zero-terminated | xargs --null --no-run-if-empty sha256sum
  } | sha256sum | cut --delimiter=' ' --fields=1
}

# k3s_answers ROLE: a server answers and says that it is ready; an agent is known to the cluster as a node.
k3s_answers() {
  local said
  systemctl --quiet is-active k3s.service || k3s_no "k3s does not run"$'\n'"$(k3s_said)" || return
  if [ "$1" = server ]; then
    said=$(k3s_kubectl get --raw /readyz 2>&1) || k3s_no "the API does not answer: $(tail --lines=1 <<< "$said")" || return
    [ "$said" = ok ] || k3s_no "the API is not ready: $said"
  else
    said=$(k3s_self get node "$2" --output name 2>&1) || k3s_no "the cluster does not know $2: $(tail --lines=1 <<< "$said")"
  fi
}

# k3s_said: the last things that it complained about. Why it ends, and that it ends, are different lines.
k3s_said() {
  journalctl --unit=k3s.service --lines=400 --output=cat --no-pager 2> /dev/null |
    grep --extended-regexp 'level=(fatal|error)|^[EF][0-9]{4} |[Ee]rror:' | cut --characters=1-400 | tail --lines=20 |
    awk '{ key = $0; sub(/time="[^"]*"/, "", key) } !seen[key]++' | tail --lines=3 || true # it may say nothing
}

# k3s_runs ROLE NAME: with all that is declared now, and not with what was declared when it started.
k3s_runs() {
  systemctl --quiet is-enabled k3s.service || k3s_no 'k3s does not start with the machine' || return
  k3s_answers "$1" "$2" || return
  [ "$(cat "$K3S_NOTES/started" 2> /dev/null)" = "$(systemctl show --property=InvocationID --value k3s.service) $(k3s_told)" ] ||
    k3s_restarted "$1" || k3s_no 'it was started before this was declared'
}

# k3s_restarted: the machine or systemd started it again, with what stands there now.
k3s_restarted() {
  local begun
  [ "$(cut --delimiter=' ' --fields=2 "$K3S_NOTES/started" 2> /dev/null)" = "$(k3s_told)" ] || return
  begun=$(systemctl show --property=ActiveEnterTimestamp --value k3s.service)
  [ -n "$begun" ] && [ "$(date --date="$begun" +%s)" -ge "$(stat --format=%Y "$K3S_NOTES/started")" ]
}

# k3s_start ROLE NAME SECONDS: it starts anew, and is waited for. What it was told is noted only when it answers.
k3s_start() {
  local told deadline=$((SECONDS + $3)) fails=0 said=''
  told=$(k3s_told)
  install --directory --mode=700 "$K3S_NOTES"
  # Set aside: when this run is killed, nobody knows with what it was started.
  [ ! -e "$K3S_NOTES/started" ] || mv --force "$K3S_NOTES/started" "$K3S_NOTES/started.before"
  systemctl daemon-reload
  systemctl --quiet enable k3s.service
  systemctl reset-failed k3s.service 2> /dev/null || true # it has not failed
  systemctl restart --no-block k3s.service
  while ! said=$(k3s_answers "$1" "$2"); do
    # A server that cannot read what it is told ends at once, again and again: nothing becomes better by waiting.
    fails=$(systemctl show --property=NRestarts --value k3s.service)
    if [ "$fails" -ge 3 ] || [ "$SECONDS" -ge "$deadline" ]; then
      said="it does not come up: $said"
      if [ -s "$K3S_NOTES/upgrading" ] && [ -z "${K3S_SWAPS-}" ]; then said+=$'\nan upgrade has begun here: ./task k3s-upgrade apply ends it, or goes back'; fi
      # What it was told before may come back, and with it what was noted then.
      [ ! -e "$K3S_NOTES/started.before" ] || mv --force "$K3S_NOTES/started.before" "$K3S_NOTES/started"
      k3s_no "$said"
      return
    fi
    sleep 1
  done
  printf '%s %s\n' "$(systemctl show --property=InvocationID --value k3s.service)" "$told" > "$K3S_NOTES/started.part"
  sync "$K3S_NOTES/started.part"
  mv --force "$K3S_NOTES/started.part" "$K3S_NOTES/started"
  rm --force "$K3S_NOTES/started.before"
}

# k3s_fresh BEGUN: this node has data of the cluster, or the cluster has not begun anywhere. On an empty disk the first server
# would begin another cluster beside the one that is known, and nobody would notice before the backup is missed.
k3s_fresh() {
  [ ! -d "$K3S_DATA/server/db/etcd" ] || return 0
  [ "$1" = no ] || k3s_no "the cluster has begun, and there is nothing of it on this disk"
}

# k3s_votes: a line for each server: its name, and whether it has a vote in etcd, as the leader found within the last 15 s.
k3s_votes() {
  k3s_kubectl get nodes --selector=node-role.kubernetes.io/etcd=true --output \
    jsonpath='{range .items[*]}{.metadata.name}{" "}{.status.conditions[?(@.type=="EtcdIsVoter")].status}{"\n"}{end}'
}

# k3s_etcd COUNT: its own member of etcd is healthy, and every member has a vote. Prints one line for each server.
k3s_etcd() {
  local said name vote all=0 bad=0
  said=$(k3s_kubectl get --raw '/readyz/etcd' 2>&1) || k3s_no "etcd is not ready: $(tail --lines=1 <<< "$said")" || return
  said=$(k3s_votes 2>&1) || k3s_no "$said" || return
  while read -r name vote; do
    [ -n "$name" ] || continue
    all=$((all + 1))
    [ "$vote" = True ] || { printf '%s has no vote in etcd\n' "$name" && bad=$((bad + 1)); }
  done <<< "$said"
  printf '%s members of etcd have a vote\n' "$((all - bad))"
  [ "$bad" -eq 0 ] && [ "$all" -ge "${1:-1}" ]
}

# k3s_well COUNT NAME 'NODE URL'…: COUNT servers are members of etcd, and all of them but NAME have a vote and answer at their URL, so
# that it costs nobody the majority when NAME stops or joins. What a member says of another is up to 15 s old; an answer is not.
k3s_well() {
  local count=$1 but=$2 said name vote server members=''
  shift 2
  said=$(k3s_votes 2>&1) || k3s_no "the API does not answer: $(tail --lines=1 <<< "$said")" || return
  while read -r name vote; do
    if [ -z "$name" ] || [ "$name" = "$but" ]; then continue; fi
    [ "$vote" = True ] || k3s_no "$name has no vote in etcd" || return
    members+=" $name"
  done <<< "$said"
  [ "$(wc --words <<< "$members")" -ge "$count" ] || k3s_no "of $count servers etcd knows$members" || return
  for server; do
    case " $members " in *" ${server% *} "*) ;; *) continue ;; esac
    said=$(k3s_kubectl --server="${server#* }" get --raw /readyz 2>&1) && [ "$said" = ok ] ||
      k3s_no "${server% *} does not answer, or is not ready: $(tail --lines=1 <<< "$said")" || return
  done
}

# k3s_stop: for undo. What containers it started is ended too; the data stays.
k3s_stop() {
  systemctl disable --now k3s.service 2> /dev/null || true # it is gone already
  if [ -e /sys/fs/cgroup/kubepods.slice/cgroup.kill ]; then echo 1 > /sys/fs/cgroup/kubepods.slice/cgroup.kill; fi
}

export -f k3s_no k3s_program k3s_land k3s_use k3s_version k3s_kubectl k3s_self k3s_told k3s_answers k3s_said k3s_runs k3s_restarted \
  k3s_start k3s_fresh k3s_votes k3s_etcd k3s_well k3s_stop
# What is asked of a node about its backups, and what a bundle becomes there: a drill beside the living cluster, or the cluster itself.
# It stands on lib/k3s.sh. A bundle in clear is in memory only, for root alone, and not for long.
BACKUP=/var/lib/fortress/backup BUNDLE=/run/fortress/bundle
export BACKUP BUNDLE

# backup_age VERSION SHA256: the program that encrypts is here, unpacked from what is pinned.
backup_age() {
  local dir=/opt/age/$1
  [ "$(cat "$dir/of" 2> /dev/null)" = "$2" ] || k3s_no "age $1 is not there" || return
  [ "$(stat --format='%a %U:%G' "$dir/age")" = '755 root:root' ] || k3s_no "$dir/age can be changed" || return
  (cd "$dir" && sha256sum --check --status age.sha256) || k3s_no "$dir/age is not what it was when it was unpacked" || return
  [ "$(readlink /opt/bin/age)" = "../age/$1/age" ] || k3s_no "/opt/bin/age is another one"
}

# backup_land VERSION: what was sent is unpacked.
backup_land() {
  local dir=/opt/age/$1
  received "$dir/age.tar.gz" || return
  record_before "$dir/age" && record_before "$dir/age.sha256" && record_before "$dir/of" && record_before /opt/bin/age
  tar --extract --gzip --to-stdout --file="$FK_PART" age/age > "$dir/age.part"
  chown root:root "$dir/age.part"
  chmod 755 "$dir/age.part"
  sync "$dir/age.part"
  mv --force --no-target-directory "$dir/age.part" "$dir/age"
  (cd "$dir" && sha256sum age > age.sha256)
  install --directory --mode=755 /opt/bin
  ln --symbolic --force --no-dereference "../age/$1/age" /opt/bin/age.new
  mv --force --no-target-directory /opt/bin/age.new /opt/bin/age
  printf '%s\n' "$FK_DIGEST" > "$dir/of"
  sync "$dir/of"
  rm --force "$FK_PART"
}

# backup_tools WORD...: the programs that the places need are here.
backup_tools() {
  local tool missing=''
  for tool; do command -v "$tool" > /dev/null || missing+=" $tool"; done
  [ -z "$missing" ] || k3s_no "not here:$missing"
}

# backup_timer: the timer runs, with what it is told now.
backup_timer() {
  systemctl --quiet is-enabled fortress-backup.timer && systemctl --quiet is-active fortress-backup.timer || k3s_no 'nothing starts it' || return
  [ "$(systemctl show --property=NeedDaemonReload --value fortress-backup.timer fortress-backup.service | sort --unique | tail --lines=1)" = no ] ||
    k3s_no 'systemd has not read what it is told now'
}

# backup_said: all notes of this node, one line each: which, then time, name, bytes, ok or failed, why.
backup_said() {
  local note
  for note in "$BACKUP"/notes/*; do
    case $note in *.part | *'*') ;; *) printf '%s\t%s\n' "${note##*/}" "$(cat "$note")" ;; esac
  done
}

# backup_note WHICH NAME ok|failed [WHY]: as the program on the node notes its own.
backup_note() {
  local line why=${4-}
  why=${why//[$'\t\n\r']/ }
  line=$(printf '%(%Y-%m-%dT%H:%M:%SZ)T\t%s\t0\t%s\t%s' -1 "$2" "$3" "${why:0:500}")
  install --directory --mode=700 "$BACKUP" "$BACKUP/notes"
  printf '%s\n' "$line" > "$BACKUP/notes/$1.part"
  mv --force "$BACKUP/notes/$1.part" "$BACKUP/notes/$1"
  [ "$3" = failed ] || cp --force "$BACKUP/notes/$1" "$BACKUP/notes/$1.good"
}

# backup_open MIB: an empty place in memory for a bundle in clear. What an earlier run left there, because it was killed, goes first.
backup_open() {
  local free options=mode=0700,nosuid,nodev,size=${1}m
  install --directory --mode=700 /run/fortress
  ! systemctl --quiet is-active fortress-drill.service || k3s_no 'another drill is under way there' || return
  [ ! -e /run/fortress/lock ] || flock --nonblock /run/fortress/lock true || k3s_no "$(cat /run/fortress/owner) is at work there, and may need the bundle that is open: wait, or ./task unlock" || return
  backup_close
  free=$(($(awk '/^MemAvailable:/ { print $2 }' /proc/meminfo) / 1024))
  [ "$free" -gt "$(($1 + 256))" ] || k3s_no "it needs $(($1 + 256)) MiB of memory, and $free MiB are free" || return
  install --directory --mode=700 "$BUNDLE"
  mount --types tmpfs --options "$options,noswap" bundle "$BUNDLE" 2> /dev/null || mount --types tmpfs --options "$options" bundle "$BUNDLE" || return
  # When the laptop is gone before it could clear it.
  systemd-run --quiet --collect --unit=fortress-bundle --on-active=2h umount --lazy "$BUNDLE"
}

backup_close() {
  systemctl --quiet stop fortress-bundle.timer 2> /dev/null || true # nothing was to be cleared
  while mountpoint --quiet "$BUNDLE"; do umount --lazy "$BUNDLE" || return; done
}

# backup_whole: what arrived is what the laptop has proven. Standard input has a line for each file, as sha256sum writes it.
backup_whole() {
  (cd "$BUNDLE" && sha256sum --check --quiet --strict) || k3s_no 'what arrived is not what was sent'
}

# backup_newer VERSION: k3s here is not older than what made the bundle: data of a newer one it might not understand.
backup_newer() {
  local here
  here=$("$K3S" --version | awk '/^k3s version / { print $3 }')
  [ "$(printf '%s\n%s\n' "$1" "$here" | sort --version-sort | head --lines=1)" = "$1" ] ||
    k3s_no "the bundle is from k3s $1, and here is the older $here: upgrade it first"
}

# backup_reset WORD...: k3s makes a cluster of one out of the snapshot, with the token of the bundle, and ends.
backup_reset() {
  local said rc=0
  # It unpacks a compressed snapshot into the directory in which it is started.
  cd "$BUNDLE/snapshot" || return
  said=$(timeout 600 "$K3S" server --config "$K3S_ETC/config.yaml" "$@" --cluster-reset --cluster-reset-restore-path="$(printf '%s\n' "$BUNDLE"/snapshot/* | head --lines=1)" 2>&1) || rc=$?
  cd /
  [ "$rc" -eq 0 ] || k3s_no "k3s does not take the snapshot: $(grep --extended-regexp 'level=(fatal|error)|^Error: ' <<< "$said" | tail --lines=1 | cut --characters=1-400)"
}

# backup_canary SECRET CONFIGMAP: the canary is the one of this bundle, by the digests of its two values.
backup_canary() {
  local kind is
  for kind in secret configmap; do
    is=$(timeout 30 "$K3S" kubectl --kubeconfig "$K3S_ETC/k3s.yaml" get "$kind" canary --namespace fortress-canary --output jsonpath='{.data.value}' 2>&1) || k3s_no "there is no canary: $(tail --lines=1 <<< "$is")" || return
    [ "$kind" = configmap ] || is=$(base64 --decode <<< "$is")
    is=$(printf %s "$is" | sha256sum | cut --delimiter=' ' --fields=1)
    [ "$is" = "$1" ] || k3s_no "the $kind of the canary is not the one of this bundle" || return
    shift
  done
}

# backup_inside ADDRESS SECRET CONFIGMAP: runs where there is no network but its own, on files that are nobody else's.
backup_inside() {
  local pid deadline said='' same
  # By the address of the node in question, which nobody can meet here.
  ip address add "$1/32" dev lo
  ip route add default dev lo
  backup_reset --disable-agent --node-ip="$1" || return
  "$K3S" server --config "$K3S_ETC/config.yaml" --disable-agent --node-ip="$1" > "$BUNDLE/log" 2>&1 &
  pid=$!
  deadline=$((SECONDS + 300))
  until [ "$(timeout 10 "$K3S" kubectl --kubeconfig "$K3S_ETC/k3s.yaml" get --raw /readyz 2> /dev/null)" = ok ]; do
    if ! kill -0 "$pid" 2> /dev/null || [ "$SECONDS" -ge "$deadline" ]; then
      k3s_no "what was restored does not come up: $(grep --extended-regexp 'level=(fatal|error)|^Error: |^[EF][0-9]{4} ' "$BUNDLE/log" | tail --lines=1 | cut --characters=1-400)"
      return
    fi
    sleep 1
  done
  said=$(backup_canary "$2" "$3") || k3s_no "$said" || return
  for same in cred/encryption-config.json tls/server-ca.crt; do
    [ ! -e "$BUNDLE/server/$same" ] || cmp --silent "$BUNDLE/server/$same" "$K3S_DATA/server/$same" || k3s_no "$same in the bundle is not that of its snapshot" || return
  done
  kill "$pid"
  wait "$pid" || true # it ends with the signal that it got
}

# backup_drill NAME ADDRESS SECRET CONFIGMAP VERSION: the bundle becomes a cluster, beside the living one and unseen by it.
backup_drill() {
  local said inside rc=0
  said=$(backup_newer "$5") || k3s_no "$said" || return
  # A unit knows nothing of the shell that starts it.
  inside=$BUNDLE/inside
  { declare -p K3S K3S_ETC K3S_DATA BUNDLE && declare -f k3s_no backup_reset backup_canary backup_inside && printf 'backup_inside "$@"\n'; } > "$inside"
  install --directory --mode=700 "$BUNDLE/data" "$BUNDLE/data/server" "$BUNDLE/data/server/logs" "$BUNDLE/data/data" "$BUNDLE/rancher"
  # A program that the bundle might hold is never run, and nothing outside of the bundle can be written.
  said=$(systemd-run --quiet --collect --wait --pipe --unit=fortress-drill \
    --property=PrivateNetwork=yes --property=PrivateTmp=yes --property=PrivateIPC=yes --property=ProtectSystem=strict --property=ProtectHome=yes \
    --property=ProtectKernelTunables=yes --property=ProtectKernelModules=yes --property=ProtectControlGroups=yes --property=NoNewPrivileges=yes \
    --property="ReadWritePaths=$BUNDLE" --property="BindPaths=$BUNDLE/data:$K3S_DATA" --property="BindPaths=$BUNDLE/rancher:/etc/rancher" \
    --property="BindReadOnlyPaths=-$K3S_DATA/data" --property=LimitCORE=0 --property=Nice=5 --property=RuntimeMaxSec=1200 \
    bash --noprofile --norc -uo pipefail "$inside" "$2" "$3" "$4" 2>&1) || rc=$?
  if [ "$rc" -eq 0 ]; then
    backup_note drill "$1" ok
  else
    backup_note drill "$1" failed "$said"
    k3s_no "${said:-it was ended}"
  fi
}

# backup_nobody: there is no data of a cluster here that could be lost, also none that a restore put aside before it was killed.
backup_nobody() {
  local aside=$K3S_DATA/before-restore
  [ ! -e "$aside/begun" ] || [ ! -d "$aside/server" ] || k3s_no "a restore was killed here, and a cluster has its data in $aside" || return
  [ ! -d "$K3S_DATA/server/db/etcd/member" ] || k3s_no "a cluster has its data here: $(du --summarize --human-readable "$K3S_DATA/server/db/etcd" | cut --fields=1), changed $(date --utc --date="@$(stat --format=%Y "$K3S_DATA/server/db/etcd/member/wal")" +%FT%TZ)"
}

# backup_returns: what a restore has put aside comes back, also in the next run when the restore was killed.
backup_returns() {
  local aside=$K3S_DATA/before-restore
  [ -e "$aside/begun" ] || return 0
  systemctl stop k3s.service
  if [ -d "$aside/server" ]; then
    rm --recursive --force "$K3S_DATA/server"
    mv --no-target-directory "$aside/server" "$K3S_DATA/server"
  elif [ "$(cat "$aside/begun")" = nothing ]; then
    rm --recursive --force "$K3S_DATA/server"
  fi
  if [ -e "$aside/password" ]; then mv --force --no-target-directory "$aside/password" /etc/rancher/node/password; fi
  rm --force "$aside/begun"
}

# backup_restored WHEN: it was restored in this run.
backup_restored() { [ "$(cat "$BACKUP/restored" 2> /dev/null)" = "$1" ] || k3s_no 'it is not what runs here'; }

# backup_restore WHEN NAME NODE SECRET CONFIGMAP VERSION: the bundle becomes the cluster of this node. What was there is
# put aside, and comes back when this fails.
backup_restore() {
  local aside=$K3S_DATA/before-restore said when=$1
  shift
  backup_newer "$5" || return
  backup_returns
  systemctl stop k3s.service
  rm --recursive --force "$aside"
  install --directory --mode=700 "$aside"
  if [ -d "$K3S_DATA/server/db" ]; then echo something; else echo nothing; fi > "$aside/begun"
  sync "$aside/begun" "$aside"
  if [ -d "$K3S_DATA/server/db" ]; then move_aside "$K3S_DATA/server" "$aside/server" k3s.service; else rm --recursive --force "$K3S_DATA/server"; fi
  if [ -e /etc/rancher/node/password ]; then cp --preserve=mode /etc/rancher/node/password "$aside/password"; fi
  install --directory --mode=700 "$K3S_DATA/server" "$K3S_DATA/server/logs"
  # The restored cluster knows this node by it, and would refuse another one.
  if [ -e "$BUNDLE/rancher/node/password" ]; then
    install --directory --mode=755 /etc/rancher/node
    install --mode=600 "$BUNDLE/rancher/node/password" /etc/rancher/node/password
  fi
  if said=$(backup_reset 2>&1 && k3s_start server "$2" 600 && backup_canary "$3" "$4"); then
    rm --force "$aside/begun"
    backup_note restore "$1" ok
    printf '%s\n' "$when" > "$BACKUP/restored"
    [ -d "$aside/server" ] || rm --recursive --force "$aside"
    return 0
  fi
  backup_returns
  backup_note restore "$1" failed "$said"
  k3s_no "$said"
}

export -f backup_age backup_land backup_tools backup_timer backup_said backup_note backup_open backup_close backup_whole backup_newer \
  backup_reset backup_canary backup_inside backup_drill backup_nobody backup_returns backup_restored backup_restore


# 1/8 there is a place for age v1.3.2
if ! { test "$(stat --format='%F %a %U:%G' /opt/age/v1.3.2)" = 'directory 755 root:root'; } > /dev/null 2>&1; then
  record_before /opt/age && record_before /opt/age/v1.3.2
  install --directory --mode=755 --owner=root --group=root /opt/age /opt/age/v1.3.2
fi

# 2/8 age v1.3.2 is here, as its makers published it
#   why: the node encrypts what leaves it; it has public keys only, so it cannot open it again
if ! { backup_age v1.3.2 cbe24006683f8eb669266162894b9a522a1af52f2665fbc63a4bb032ed26ac10; } > /dev/null 2>&1; then
  # in $FK_FILES: https://github.com/FiloSottile/age/releases/download/v1.3.2/age-v1.3.2-linux-amd64.tar.gz
  printf '%s  %s\n' cbe24006683f8eb669266162894b9a522a1af52f2665fbc63a4bb032ed26ac10 "$FK_FILES"/age-v1.3.2-linux-amd64.tar.gz | sha256sum --check --quiet
  digest=$(sha256sum "$FK_FILES"/age-v1.3.2-linux-amd64.tar.gz | cut --delimiter=' ' --fields=1)
  cp "$FK_FILES"/age-v1.3.2-linux-amd64.tar.gz /opt/age/v1.3.2/.age.tar.gz."${digest:0:16}".part
  export FK_SENT="$digest"' /opt/age/v1.3.2/age.tar.gz'
  backup_land v1.3.2
fi

# 3/8 bundles are encrypted for the laptop, and for the second identity of the site where it has one
if ! { put_matches /etc/fortress/backup/recipients da8d8faec48bd1457e92d1ccdce746f9209180909de0b42ee463cf3e71980443 644 root:root; } > /dev/null 2>&1; then
  put /etc/fortress/backup/recipients 644 root:root 'grep --quiet '\''^age1'\'' "$new" || { echo '\''the laptop had no age identity when this began: run it again'\''; false; }' << 'FORTRESS'
# Whose identities open the bundles: the laptop’s, and the one for the day when it is lost.
FORTRESS
  put_finish /etc/fortress/backup/recipients
fi

# 4/8 the node knows where its bundles are brought
if ! { put_matches /etc/fortress/backup/settings dc4ecb63037b474d5ab226dbe25222b51641a05f2d67bf43bcb79e410a778144 600 root:root; } > /dev/null 2>&1; then
  put /etc/fortress/backup/settings 600 root:root << 'FORTRESS'
# What /opt/bin/fortress-backup is told; config/schema/site.json says what each means.
SITE=fortress
NODE=fortress-node
KEEP=14
FORTRESS
  put_finish /etc/fortress/backup/settings
fi

# 5/8 the node can make bundles by itself
if ! { put_matches /opt/bin/fortress-backup f8e16070d459c10e528827a0e7556027d654b5021119225fc38cb3414759fc1e 755 root:root; } > /dev/null 2>&1; then
  put /opt/bin/fortress-backup 755 root:root << 'FORTRESS'
#!/bin/bash
# fortress-backup: bundles of the cluster that this node serves, each one file that only the owner's age identities open.
#   make                makes one now, brings it to every place of /etc/fortress/backup/settings, and deletes the oldest there
#   list                what lies in each place: place, name, bytes
#   fetch PLACE NAME    brings one back from a place to this node, and prints its path
# A bundle is a tar: manifest.json with the digest of everything else, a snapshot of etcd, the tokens, the authorities, the keys by
# which Secrets are encrypted, and what k3s is told. Nothing of it touches a disk in clear, but the snapshot that k3s takes itself.
set -euo pipefail
umask 077
export LC_ALL=C.UTF-8 PATH=/opt/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

told=/etc/fortress/backup
home=/var/lib/fortress/backup
notes=$home/notes
data=/var/lib/rancher/k3s/server
etc=/etc/rancher
SITE='' NODE='' KEEP=14 DIRECTORY='' SSH_HOST='' SSH_PORT=22 SSH_USER='' SSH_PATH='' S3_ENDPOINT='' S3_BUCKET='' S3_REGION='' S3_PREFIX=''
# shellcheck disable=SC1091 # written by the page
. "$told/settings"
mine=fortress-backup_${SITE}_${NODE}_
work=''

no() {
  printf '%s\n' "$*" >&2
  return 1
}

# kubectl WORD...: as the admin of the cluster.
kubectl() { timeout 60 /opt/bin/k3s kubectl --kubeconfig "$etc/k3s/k3s.yaml" "$@"; }

# note PLACE NAME BYTES ok|failed [WHY]: the last of each place, and the last good one, for whoever asks how old the backup is.
note() {
  local line why=${5-}
  why=${why//[$'\t\n\r']/ }
  line=$(printf '%(%Y-%m-%dT%H:%M:%SZ)T\t%s\t%s\t%s\t%s' -1 "$2" "$3" "$4" "${why:0:500}")
  install --directory --mode=700 "$notes"
  printf '%s\n' "$line" > "$notes/$1.part"
  mv --force "$notes/$1.part" "$notes/$1"
  [ "$4" = failed ] || cp --force "$notes/$1" "$notes/$1.good"
}

# ours: the names on standard input that are bundles of this node, the oldest first. Their times sort as text.
ours() { grep --extended-regexp --line-regexp "${mine}[0-9]{8}T[0-9]{6}Z\.age" | sort || true; }

# surplus: the names on standard input without the newest KEEP.
surplus() { ours | head --lines="-$KEEP"; }

# room DIR BYTES: they fit there, and something is left.
room() {
  local free
  free=$(df --output=avail --block-size=1 "$1" | tail --lines=1)
  [ "$free" -gt $(($2 + 16777216)) ] || no "$1 has $((free / 1048576)) MiB left, and $(($2 / 1048576 + 16)) MiB are needed"
}

# places: where bundles are brought, beside this node.
places() {
  [ -z "$DIRECTORY" ] || echo directory
  [ -z "$SSH_HOST" ] || echo ssh
  [ -z "$S3_BUCKET" ] || echo s3
}

node_list() { find "$home" -maxdepth 1 -type f -name "$mine*.age" -printf '%f %s\n'; }
node_delete() { rm --force "$home/$1"; }

directory_there() { [ -d "$DIRECTORY" ] || no "$DIRECTORY is not there: is its disk mounted?"; }
directory_put() {
  directory_there || return
  room "$DIRECTORY" "$(stat --format=%s "$home/$1")" || return
  { cp "$home/$1" "$DIRECTORY/$1.part" && sync "$DIRECTORY/$1.part" && cmp "$home/$1" "$DIRECTORY/$1.part" &&
    mv --force --no-target-directory "$DIRECTORY/$1.part" "$DIRECTORY/$1" && sync "$DIRECTORY"; } || {
    rm --force "$DIRECTORY/$1.part"
    return 1
  }
}
directory_list() { directory_there && find "$DIRECTORY" -maxdepth 1 -type f -name "$mine*.age" -printf '%f %s\n'; }
directory_delete() { rm "$DIRECTORY/$1"; }
directory_get() { directory_there && cp "$DIRECTORY/$1" "$2"; }

# ssh_do: batch commands of sftp on standard input; the first that fails ends it. The host key is the one of the site document.
ssh_do() {
  { printf 'cd "%s"\n' "$SSH_PATH" && cat; } |
    timeout 3600 sftp -q -b - -F /dev/null -P "$SSH_PORT" -i "$told/ssh-key" -o IdentitiesOnly=yes -o BatchMode=yes -o StrictHostKeyChecking=yes \
      -o "UserKnownHostsFile=$told/known_hosts" -o GlobalKnownHostsFile=/dev/null -o HostKeyAlias=backup -o CheckHostIP=no -o ConnectTimeout=20 \
      -o ServerAliveInterval=15 "$SSH_USER@$SSH_HOST"
}
ssh_list() { ssh_do <<< 'ls -ln' | awk '!/^sftp>/ { print $NF, $5 }'; }
ssh_put() {
  local there
  ssh_do > /dev/null << COMMANDS || return
-rm "$1.part"
put "$home/$1" "$1.part"
-rm "$1"
rename "$1.part" "$1"
COMMANDS
  there=$(ssh_list | awk -v name="$1" '$1 == name { print $2 }')
  [ "$there" = "$(stat --format=%s "$home/$1")" ] || no "$SSH_HOST has ${there:-none} of its $(stat --format=%s "$home/$1") bytes"
}
ssh_delete() { ssh_do <<< "rm \"$1\"" > /dev/null; }
ssh_get() { ssh_do <<< "get \"$1\" \"$2\"" > /dev/null; }

# s3_do URL-PATH WORD...: a signed request. The key is in a file that curl reads itself.
s3_do() {
  local path=$1
  shift
  curl --silent --show-error --fail-with-body --connect-timeout 20 --max-time 3600 --proto =http,https --config "$told/s3" \
    --aws-sigv4 "aws:amz:$S3_REGION:s3" "$@" "$S3_ENDPOINT/$S3_BUCKET$path"
}
s3_said() { sed --quiet 's|.*<Code>\([^<]*\)</Code>.*|\1|p' <<< "$1" | head --lines=1; }
s3_put() {
  local said digest
  digest=$(sha256sum "$home/$1" | cut --delimiter=' ' --fields=1)
  # The digest is signed: what arrives as something else is refused there, and an object is whole or not at all.
  said=$(s3_do "/$S3_PREFIX$1" --header "x-amz-content-sha256: $digest" --upload-file "$home/$1" 2>&1) || no "$(s3_said "$said") ${said: -300}"
}
s3_list() {
  local said
  said=$(s3_do "?list-type=2&max-keys=1000&prefix=$(sed 's|/|%2F|g' <<< "$S3_PREFIX$mine")") || no "$(s3_said "$said")" || return
  sed 's|<Contents>|\n&|g' <<< "$said" |
    sed --quiet 's|^<Contents>.*<Key>\([^<]*\)</Key>.*<Size>\([0-9]*\)</Size>.*|\1 \2|p; s|^<Contents>.*<Size>\([0-9]*\)</Size>.*<Key>\([^<]*\)</Key>.*|\2 \1|p' |
    while read -r key size; do printf '%s %s\n' "${key#"$S3_PREFIX"}" "$size"; done
}
s3_delete() { s3_do "/$S3_PREFIX$1" --request DELETE > /dev/null; }
s3_get() { s3_do "/$S3_PREFIX$1" --output "$2"; }

# brought PLACE NAME: it arrives whole or not at all; then the oldest go, never the one that came, and nothing that is not ours.
brought() {
  local place=$1 name=$2 said old bytes
  bytes=$(stat --format=%s "$home/$name")
  if said=$("${place}_put" "$name" 2>&1); then
    note "$place" "$name" "$bytes" ok
  else
    note "$place" "$name" "$bytes" failed "$said"
    no "$place: $said" || return
  fi
  for old in $("${place}_list" | cut --delimiter=' ' --fields=1 | surplus); do
    [ "$old" = "$name" ] || "${place}_delete" "$old" || no "$place: $old is kept longer than it should be" || return
  done
}

# canary KIND VALUE: an object that changes with every backup: who finds it again has restored this backup and no other.
canary() {
  local field=data
  [ "$1" = ConfigMap ] || field=stringData
  printf 'apiVersion: v1\nkind: %s\nmetadata: {name: canary, namespace: fortress-canary}\n%s: {value: "%s"}\n' "$1" "$field" "$2"
}

digest() { sha256sum | cut --delimiter=' ' --fields=1; }

# collect: the parts of the bundle in $work; what is large is only named there.
collect() {
  local secret config file snapshot path
  secret=$(od --address-radix=n --format=x1 --read-bytes=32 /dev/urandom | tr --delete ' \n')
  config=$(od --address-radix=n --format=x1 --read-bytes=32 /dev/urandom | tr --delete ' \n')
  {
    printf 'apiVersion: v1\nkind: Namespace\nmetadata: {name: fortress-canary}\n---\n'
    canary Secret "$secret"
    printf -- '---\n'
    canary ConfigMap "$config"
  } | kubectl apply --server-side --force-conflicts --field-manager=fortress-backup --filename=- > /dev/null || no 'the canary cannot be written: does the API answer?' || return
  # The server takes it, in the directory that it has for that; its name tells it from those that it takes by the clock.
  /opt/bin/k3s etcd-snapshot save --name fortress-backup > "$work/said" 2>&1 || no "k3s takes no snapshot: $(tail --lines=1 "$work/said")" || return
  snapshot=$(find "$data/db/snapshots" -maxdepth 1 -type f -name 'fortress-backup-*' -printf '%T@ %p\n' | sort --numeric-sort | tail --lines=1 | cut --delimiter=' ' --fields=2-)
  [ -n "$snapshot" ] && [ "$(stat --format=%Y "$snapshot")" -ge "$began" ] || no 'k3s says that it took a snapshot, and there is none' || return
  mkdir "$work/bundle" "$work/bundle/snapshot"
  ln --symbolic "$snapshot" "$work/bundle/snapshot/"
  for path in "$etc"/k3s "$etc"/node/password; do
    [ ! -e "$path" ] || find "$path" -type f ! -name k3s.yaml ! -name '.*' -print
  done > "$work/files"
  for path in token agent-token cred/encryption-config.json cred/encryption-state.json cred/passwd cred/ipsec.psk tls/service.key \
    tls/{client,server,request-header,etcd/server,etcd/peer}-ca.{crt,key}; do
    [ ! -e "$data/$path" ] || printf '%s\n' "$data/$path"
  done >> "$work/files"
  while read -r path; do
    case $path in "$etc"/*) file=rancher/${path#"$etc/"} ;; *) file=server/${path#"$data/"} ;; esac
    install --directory --mode=700 "$(dirname "$work/bundle/$file")"
    cp --dereference "$path" "$work/bundle/$file"
  done < "$work/files"
  [ -s "$work/bundle/server/token" ] && [ -s "$work/bundle/rancher/k3s/token" ] || no "the token is not there, without which no snapshot opens: $data/token" || return
  {
    printf '{\n  "format": 1,\n  "site": "%s",\n  "node": "%s",\n  "time": "%s",\n' "$SITE" "$NODE" "$(date --utc --date="@$began" +%Y-%m-%dT%H:%M:%SZ)"
    printf '  "k3s": "%s",\n' "$(/opt/bin/k3s --version | awk '/^k3s version / { print $3 }')"
    printf '  "address": "%s",\n' "$(kubectl get node "$NODE" --output jsonpath='{.status.addresses[?(@.type=="InternalIP")].address}' | cut --delimiter=' ' --fields=1)"
    printf '  "revision": "%s",\n' "$(kubectl get configmap canary --namespace fortress-canary --output jsonpath='{.metadata.resourceVersion}')"
    printf '  "database": %s,\n' "$(stat --format=%s "$data/db/etcd/member/snap/db")"
    printf '  "authority": "%s",\n' "$(digest < "$data/tls/server-ca.crt")"
    printf '  "canary": { "secret": "%s", "configmap": "%s" },\n  "files": [' "$(printf %s "$secret" | digest)" "$(printf %s "$config" | digest)"
    path=''
    while read -r file; do
      printf '%s\n    { "name": "%s", "bytes": %s, "sha256": "%s" }' "$path" "$file" "$(stat --dereference --format=%s "$work/bundle/$file")" "$(digest < "$work/bundle/$file")"
      path=,
    done < <(cd "$work/bundle" && find . ! -type d -printf '%P\n' | sort)
    printf '\n  ]\n}\n'
  } > "$work/manifest.json"
  mv "$work/manifest.json" "$work/bundle/"
}

# make: one bundle. Whatever becomes of it is noted; one that is killed has been noted as failed before.
make() {
  local name part bytes began rc place said bad=0 failed=''
  # systemd makes it in memory, for root alone, and takes it away when this ends, however it ends.
  work=${RUNTIME_DIRECTORY-}
  [ -d "$work" ] || no 'it is started so: systemctl start fortress-backup' || return
  printf -v began '%(%s)T' -1
  name=$mine$(date --utc --date="@$began" +%Y%m%dT%H%M%SZ).age
  part=$home/$name.part
  install --directory --mode=700 "$home"
  note node "$name" 0 failed 'it was begun, and has not ended'
  rm --force "$home"/*.part
  set +e
  (
    set -e
    collect
  ) 2> "$work/why"
  rc=$?
  set -e
  if [ "$rc" -ne 0 ]; then
    failed=$(tail --lines=3 "$work/why")
  else
    bytes=$(du --dereference --bytes --summarize "$work/bundle" | cut --fields=1)
    # The manifest comes first, so that whoever opens it knows what must follow.
    if ! said=$({ room "$home" "$bytes" && cd "$work/bundle" &&
      tar --create --format=ustar --dereference --owner=root:0 --group=root:0 --sort=name manifest.json rancher server snapshot |
      age --encrypt --recipients-file "$told/recipients" --output "$part" && sync "$part"; } 2>&1); then
      failed=${said:-it could not be written}
    fi
  fi
  /opt/bin/k3s etcd-snapshot prune --name fortress-backup --snapshot-retention 1 > /dev/null 2>&1 || true # the next backup tries again
  if [ -n "$failed" ]; then
    rm --force "$part"
    note node "$name" 0 failed "$failed"
    no "$failed" || return
  fi
  mv --force --no-target-directory "$part" "$home/$name"
  sync "$home"
  bytes=$(stat --format=%s "$home/$name")
  note node "$name" "$bytes" ok
  for place in $(places); do brought "$place" "$name" || bad=1; done
  node_list | cut --delimiter=' ' --fields=1 | surplus | while read -r old; do node_delete "$old"; done
  printf '%s\t%s\n' "$name" "$bytes"
  return "$bad"
}

# list: one line for each bundle; a place that is away is told on standard error, and the others are listed all the same.
list() {
  local place bad=0 said
  for place in node $(places); do
    if said=$("${place}_list"); then
      while read -r name size; do
        [ -z "$(ours <<< "$name")" ] || printf '%s\t%s\t%s\n' "$place" "$name" "$size"
      done <<< "$said"
    else
      no "$place cannot be listed" || bad=1
    fi
  done
  return "$bad"
}

# fetch PLACE NAME
fetch() {
  local place=$1 name=$2
  [ -n "$(ours <<< "$name")" ] || no "$name is no bundle of $NODE" || return
  if [ ! -f "$home/$name" ]; then
    places | grep --line-regexp --fixed-strings "$place" > /dev/null || no "$name is not on this node, and '$place' is no other place" || return
    rm --force "$home/$name.fetch"
    "${place}_get" "$name" "$home/$name.fetch" || no "$name could not be brought back from $place" || return
    sync "$home/$name.fetch"
    mv --force --no-target-directory "$home/$name.fetch" "$home/$name"
  fi
  printf '%s\n' "$home/$name"
}

case "${1-} $#" in
  "make 1" | "list 1" | "fetch 3") "$@" ;;
  *) no 'usage: fortress-backup make | list | fetch PLACE NAME' ;;
esac
FORTRESS
  put_finish /opt/bin/fortress-backup
fi

# 6/8 a backup runs as a unit of its own
if ! { put_matches /etc/systemd/system/fortress-backup.service 9d95abd36c8f95b84d1828712b4c4b98c9f3c32b1c8ce9d65e32de68d42d6173 644 root:root; } > /dev/null 2>&1; then
  put /etc/systemd/system/fortress-backup.service 644 root:root << 'FORTRESS'
# One backup of the cluster, and what follows from it.
[Unit]
Description=Back up the cluster
After=k3s.service network-online.target
Wants=network-online.target
ConditionPathExists=/var/lib/rancher/k3s/server/token

[Service]
Type=oneshot
ExecStart=/opt/bin/fortress-backup make
# What it holds in clear is in memory, for root alone, and is gone when it ends, however it ends.
RuntimeDirectory=fortress-backup
RuntimeDirectoryMode=0700
NoNewPrivileges=yes
ProtectHome=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectControlGroups=yes
RestrictSUIDSGID=yes
LimitCORE=0
Nice=10
IOSchedulingClass=idle
TimeoutStartSec=6h
FORTRESS
  systemctl daemon-reload
  put_finish /etc/systemd/system/fortress-backup.service
fi

# 7/8 it is said when: *-*-* 03:17
if ! { put_matches /etc/systemd/system/fortress-backup.timer 0f8824e060b388311269b2ccf90d70f91f5e24d8da619a4134279533a094ef6b 644 root:root; } > /dev/null 2>&1; then
  put /etc/systemd/system/fortress-backup.timer 644 root:root 'systemd-analyze calendar -- "$(sed --quiet '\''s/^OnCalendar=//p'\'' "$new")" > /dev/null' << 'FORTRESS'
# A backup that was missed, because the machine was off, is made when it is on again.
[Unit]
Description=When the cluster is backed up

[Timer]
OnCalendar=*-*-* 03:17
Persistent=true
RandomizedDelaySec=15min

[Install]
WantedBy=timers.target
FORTRESS
  systemctl daemon-reload
  put_finish /etc/systemd/system/fortress-backup.timer
fi

# 8/8 backups are made by the clock
#   why: one that was missed is made when the machine is on again
if ! { backup_timer; } > /dev/null 2>&1; then
  systemctl daemon-reload
  systemctl --quiet enable fortress-backup.timer && systemctl restart fortress-backup.timer
fi
