#!/bin/bash
# 24-k3s-stage: The pinned version of k3s is on every node, proven, before anything stops on one of them.
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

# Nodes beside each other: one goes away for a while and comes back, gets another version, is forgotten. Everything that says no
# prints why. A Node bears what we did to it, so that whoever goes on knows it: what a person has cordoned stays cordoned.
AWAY=fortress-kit/away STAGED=fortress-kit/staged
export AWAY STAGED

# k3s_numbers VERSION: vMAJOR.MINOR.PATCH[-rcN]+k3sN as five numbers; what is no candidate comes after all candidates.
k3s_numbers() {
  [[ $1 =~ ^v([0-9]+)\.([0-9]+)\.([0-9]+)(-rc([0-9]+))?\+k3s([0-9]+)$ ]] || k3s_no "'$1' is no version of k3s" || return
  printf '%s %s %s %s %s\n' "${BASH_REMATCH[1]}" "${BASH_REMATCH[2]}" "${BASH_REMATCH[3]}" "${BASH_REMATCH[5]:-999999}" "${BASH_REMATCH[6]}"
}

# k3s_follows FROM TO: TO is FROM or a later one, and no minor version between them is left out.
k3s_follows() {
  local said i old new
  [ "$1" != "$2" ] || return 0
  said=$(k3s_numbers "$1" && k3s_numbers "$2") || k3s_no "$said" || return
  read -r -a old <<< "${said%$'\n'*}"
  read -r -a new <<< "${said#*$'\n'}"
  for i in 0 1 2 3 4; do
    [ "${new[i]}" -ge "${old[i]}" ] || k3s_no "$1 runs, and $2 is older" || return
    [ "${new[i]}" -eq "${old[i]}" ] || break
  done
  [ "${new[0]}" -eq "${old[0]}" ] && [ "${new[1]}" -le $((old[1] + 1)) ] ||
    k3s_no "$1 runs, and $2 leaves out v${old[0]}.$((old[1] + 1))"
}

# k3s_noted WORD: of the swap that has begun here and has not ended: from, ready (whether the node was Ready before), to.
k3s_noted() {
  local from='' ready='' to=''
  [ ! -s "$K3S_NOTES/upgrading" ] || read -r from ready to < "$K3S_NOTES/upgrading"
  printf '%s\n' "${!1}"
}

# k3s_from: the version that was last well here.
k3s_from() {
  local from
  from=$(k3s_noted from)
  printf '%s\n' "${from:-$(k3s_version)}"
}

# k3s_at VERSION: that is what starts here, or the way there or back has begun: then the questions before it were answered.
k3s_at() { [ "$(k3s_version)" = "$1" ] || [ "$(k3s_noted from)" = "$1" ] || [ "$(k3s_noted to)" = "$1" ]; }

# k3s_node ROLE NAME JSONPATH: of its own Node, as the admin on a server and as itself on an agent.
k3s_node() { if [ "$1" = server ]; then k3s_kubectl get node "$2" --output jsonpath="$3"; else k3s_self get node "$2" --output jsonpath="$3"; fi; }

# k3s_mark ROLE NAME: what we did to its Node: ours (we cordoned it) or theirs (it was cordoned), and whether its pods have left.
k3s_mark() { k3s_node "$1" "$2" "{.metadata.annotations.$AWAY}"; }

# k3s_staged VERSION NAME…: all of them have its program.
k3s_staged() {
  local version=$1 said name has missing=''
  shift
  said=$(k3s_kubectl get nodes --output jsonpath="{range .items[*]}{.metadata.name}{\" \"}{.metadata.annotations.$STAGED}{\"\\n\"}{end}" 2>&1) || k3s_no "$said" || return
  for name; do
    has=$(awk -v name="$name" '$1 == name { print $2 }' <<< "$said")
    [ "$has" = "$version" ] || missing+=" $name"
  done
  [ -z "$missing" ] || k3s_no "not yet on$missing"
}

# k3s_servers_run VERSION: a kubelet may be older than the API that it speaks to, and never newer.
k3s_servers_run() {
  local said
  said=$(k3s_kubectl get nodes --selector=node-role.kubernetes.io/control-plane=true --output \
    jsonpath='{range .items[*]}{.metadata.name}{" "}{.status.nodeInfo.kubeletVersion}{"\n"}{end}' 2>&1) || k3s_no "$said" || return
  said=$(awk -v version="$1" 'NF && $2 != version { print $1 " runs " $2 }' <<< "$said")
  [ -z "$said" ] || k3s_no "$said"
}

# k3s_removed VERSION URL…: nobody has asked these servers for an API that VERSION does not have. Each counts since it started.
k3s_removed() {
  local to said found='' server
  to=$(k3s_numbers "$1") || k3s_no "$to" || return
  shift
  for server; do
    said=$(K3S_SECONDS=60 k3s_kubectl --server="$server" get --raw /metrics 2>&1) || k3s_no "$server does not answer: $(tail --lines=1 <<< "$said")" || return
    found+=$(awk -v to="$to" '
      function label(name) { return match($0, name "=\"[^\"]*\"") ? substr($0, RSTART + length(name) + 2, RLENGTH - length(name) - 3) : "" }
      BEGIN { split(to, new, " ") }
      /^apiserver_requested_deprecated_apis\{/ && $NF > 0 {
        if (split(label("removed_release"), gone, ".") < 2 || gone[1] + 0 != new[1] + 0 || gone[2] + 0 > new[2] + 0) next
        group = label("group"); sub_ = label("subresource")
        print label("resource") (sub_ == "" ? "" : "/" sub_) " of " (group == "" ? "" : group "/") label("version") ", removed in " gone[1] "." gone[2]
      }' <<< "$said")$'\n'
  done
  found=$(grep . <<< "$found" | LC_ALL=C sort --unique) || return 0
  k3s_no "$found"
}

# k3s_snapshot NAME: the state of the cluster, once under this name.
k3s_snapshot() {
  local said
  said=$("$K3S" etcd-snapshot save --name "$1" 2>&1) || k3s_no "$(tail --lines=3 <<< "$said")" || return
  k3s_has_snapshot "$1" || k3s_no "k3s says that it saved $1, and nothing of that name is in $K3S_DATA/server/db/snapshots"
}

k3s_has_snapshot() { compgen -G "$K3S_DATA/server/db/snapshots/$1-*" > /dev/null; }

# k3s_drain NODE HOW SECONDS: its pods leave, and no new ones come. HOW: evict asks each PodDisruptionBudget, force asks nobody.
k3s_drain() {
  local node=$1 how=$2 seconds=$3 mark said forced=()
  mark=$(k3s_mark server "$node") || return
  if [ -z "$mark" ]; then
    mark=ours
    [ "$(k3s_node server "$node" '{.spec.unschedulable}')" != true ] || mark=theirs
    k3s_kubectl annotate node "$node" --overwrite "$AWAY=$mark" > /dev/null || return
  fi
  k3s_kubectl cordon "$node" > /dev/null || return
  [ "$how" != force ] || forced=(--force --disable-eviction)
  if ! said=$(K3S_SECONDS=$((seconds + 30)) k3s_kubectl drain "$node" --ignore-daemonsets --delete-emptydir-data --timeout="${seconds}s" "${forced[@]}" 2>&1); then
    k3s_blocked "$said"
    [ "$how" = force ] || printf 'FK_DRAIN=force ends what does not leave\n'
    k3s_return "$node"
    return 1
  fi
  k3s_kubectl annotate node "$node" --overwrite "$AWAY=${mark%-drained}-drained" > /dev/null
}

# k3s_blocked TEXT: who does not leave, and by whose word, from what kubectl drain said.
k3s_blocked() {
  local pod space budgets
  while read -r pod space; do
    [ -n "$pod" ] || continue
    budgets=$(k3s_kubectl get poddisruptionbudgets --namespace "$space" --output \
      jsonpath='{range .items[*]}{.metadata.name}{" "}{.status.disruptionsAllowed}{"\n"}{end}' 2> /dev/null | awk '$2 == 0 { printf "%s%s", sep, $1; sep = ", " }')
    printf '%s/%s does not leave: of the PodDisruptionBudgets there %s allows none to be missing\n' "$space" "$pod" "${budgets:-one}"
  done < <(sed --quiet --regexp-extended 's/^error when evicting pods\/"([^"]+)" -n "([^"]+)".*disruption budget.*/\1 \2/p' <<< "$1" | LC_ALL=C sort --unique)
  grep '^error:' <<< "$1" | tail --lines=2 || true # a drain that hangs says nothing more
}

# k3s_return NODE: pods may come again, unless a person has cordoned it.
k3s_return() {
  local mark
  mark=$(k3s_mark server "$1") || k3s_no "$mark" || return
  [ -n "$mark" ] || return 0
  case $mark in ours*) k3s_kubectl uncordon "$1" > /dev/null || return ;; esac
  k3s_kubectl annotate node "$1" "$AWAY-" > /dev/null
}

# k3s_is ROLE NAME VERSION READY: it runs this version and is well, and Ready if it was (without a network for pods no node is).
k3s_is() {
  local said version ready vote
  k3s_answers "$1" "$2" || return
  said=$(k3s_node "$1" "$2" '{.status.nodeInfo.kubeletVersion} {.status.conditions[?(@.type=="Ready")].status} {.status.conditions[?(@.type=="EtcdIsVoter")].status}' 2>&1) || k3s_no "$said" || return
  read -r version ready vote <<< "$said"
  [ "$version" = "$3" ] || k3s_no "the kubelet says that it is $version" || return
  [ "$4" != True ] || [ "$ready" = True ] || k3s_no "$2 was Ready, and is not" || return
  [ "$1" = agent ] && return
  said=$(k3s_kubectl get --raw /readyz/etcd 2>&1) || k3s_no "etcd is not ready: $(tail --lines=1 <<< "$said")" || return
  [ "$vote" = True ] || k3s_no "$2 has no vote in etcd"
}

# k3s_swap ROLE NAME VERSION SECONDS: the other version runs and is well. What ran before is noted first: a run that was killed knows
# the way back.
k3s_swap() {
  local from ready said deadline=$((SECONDS + $4)) K3S_SWAPS=yes
  from=$(k3s_from)
  ready=$(k3s_noted ready)
  [ -n "$ready" ] || ready=$(k3s_node "$1" "$2" '{.status.conditions[?(@.type=="Ready")].status}' 2> /dev/null) || ready=''
  install --directory --mode=700 "$K3S_NOTES"
  printf '%s %s %s\n' "$from" "${ready:-Unknown}" "$3" > "$K3S_NOTES/upgrading.part"
  sync "$K3S_NOTES/upgrading.part"
  mv --force "$K3S_NOTES/upgrading.part" "$K3S_NOTES/upgrading"
  # Undo keeps out of it: what the new version has written, the old one may not read.
  [ "$(k3s_version)" = "$3" ] || FK_KEEP='' k3s_use "$3" || return
  k3s_runs "$1" "$2" > /dev/null || k3s_start "$1" "$2" "$4" || return
  until said=$(k3s_is "$1" "$2" "$3" "$ready"); do
    [ "$SECONDS" -lt "$deadline" ] || k3s_no "$3 runs and is not well: $said" || return
    sleep 1
  done
  # What ran before stays, and nothing that is older.
  [ "$from" = "$3" ] || find /opt/k3s -mindepth 1 -maxdepth 1 -type d ! -name "$from" ! -name "$3" -exec rm --recursive {} +
  rm --force "$K3S_NOTES/upgrading"
}

# k3s_back ROLE NAME SECONDS: what ran before a swap that failed runs again.
k3s_back() {
  # shellcheck disable=SC2034 # k3s_start sees it
  local from K3S_SWAPS=yes
  from=$(k3s_noted from)
  [ -n "$from" ] || return 0
  FK_KEEP='' k3s_use "$from" && k3s_start "$1" "$2" "$3" || k3s_no "and $from does not come up again either: ./task restore brings the snapshot back that was made before" || return
  rm --force "$K3S_NOTES/upgrading"
}

# k3s_renewed ROLE NAME SECONDS: it starts anew, which renews every certificate that ends within 120 days, and is well again.
k3s_renewed() {
  local said deadline=$((SECONDS + $3)) ready version
  read -r version ready <<< "$(k3s_node "$1" "$2" '{.status.nodeInfo.kubeletVersion} {.status.conditions[?(@.type=="Ready")].status}' 2> /dev/null)" || true # with ended certificates it cannot be asked
  k3s_start "$1" "$2" "$3" || return
  until said=$(k3s_is "$1" "$2" "${version:-$(k3s_version)}" "${ready:-Unknown}"); do
    [ "$SECONDS" -lt "$deadline" ] || k3s_no "it started anew, and is not well: $said" || return
    sleep 1
  done
}

# k3s_certificates KIND: a line for each certificate of a kind (leaf, authority) on this node: days left, path; what ends first, first.
k3s_certificates() {
  local path kind end
  for path in "$K3S_DATA"/agent/*.crt "$K3S_DATA"/server/tls/*.crt "$K3S_DATA"/server/tls/etcd/*.crt; do
    [ -s "$path" ] || continue
    case $path in *-ca.crt | *-ca.nochain.crt) kind=authority ;; *) kind=leaf ;; esac
    [ "$kind" = "$1" ] || continue
    # The first certificate of a file is its own; those above it follow.
    end=$(openssl x509 -noout -enddate -in "$path" 2> /dev/null) || k3s_no "$path is no certificate" || return
    printf '%s %s\n' "$((($(date --date="${end#*=}" +%s) - $(date +%s)) / 86400))" "${path#"$K3S_DATA/"}"
  done | sort --numeric-sort
}

# k3s_lasts KIND DAYS: none of them ends before.
k3s_lasts() {
  local said days path
  said=$(k3s_certificates "$1") || k3s_no "$said" || return
  [ -n "$said" ] || k3s_no "there is no certificate in $K3S_DATA" || return
  read -r days path <<< "$said"
  printf '%s days are left of %s\n' "$days" "$path"
  [ "$days" -ge "$2" ]
}

# k3s_spare NAME: the servers that are left without it are well, and are more than half of all.
k3s_spare() {
  local said name vote all=0 well=0 one
  said=$(k3s_votes 2>&1) || k3s_no "the API does not answer: $(tail --lines=1 <<< "$said")" || return
  while read -r name vote; do
    [ -n "$name" ] || continue
    all=$((all + 1))
    if [ "$name" = "$1" ]; then one=yes; elif [ "$vote" = True ]; then well=$((well + 1)); fi
  done <<< "$said"
  [ -n "${one-}" ] || return 0
  [ "$well" -gt $((all / 2)) ] || k3s_no "of $all members of etcd $well are well without $1: they would be no majority, and nobody could write any more"
}

# k3s_silent NAME: the cluster does not hear of it either.
k3s_silent() {
  local said
  said=$(k3s_kubectl get node "$1" --ignore-not-found --output jsonpath='{.status.conditions[?(@.type=="Ready")].reason}' 2>&1) || k3s_no "$said" || return
  [ -z "$said" ] || [ "$said" = NodeStatusUnknown ] || k3s_no "$1 cannot be reached from here, and the cluster hears of it"
}

# k3s_absent NAME: the cluster has no such Node.
k3s_absent() {
  local said
  said=$(k3s_kubectl get node "$1" --ignore-not-found --output name 2>&1) || k3s_no "$said" || return
  [ -z "$said" ] || k3s_no "the cluster has $said"
}

# k3s_forgotten NAME: the cluster knows nothing of it.
k3s_forgotten() {
  local said
  k3s_absent "$1" || return
  said=$(k3s_kubectl get secret "$1.node-password.k3s" --namespace kube-system --ignore-not-found --output name 2>&1) || k3s_no "$said" || return
  [ -z "$said" ] || k3s_no "the cluster has $said, and would let no other machine take the name"
}

# k3s_forget NAME SECONDS: its member of etcd, its Node, and the password by which it is known. k3s takes the member out when the
# Node asks for it, and says there that it has; a Node that is deleted says nothing more.
k3s_forget() {
  local said member deadline=$((SECONDS + $2))
  said=$(k3s_kubectl get node "$1" --ignore-not-found --output \
    jsonpath='{.metadata.name} {.metadata.annotations.etcd\.k3s\.cattle\.io/node-name}' 2>&1) || k3s_no "$said" || return
  read -r _ member <<< "$said" || true # it has no Node any more
  if [ -n "${member-}" ]; then
    k3s_kubectl annotate node "$1" --overwrite etcd.k3s.cattle.io/remove=true > /dev/null || return
    until [ "$(k3s_node server "$1" '{.metadata.annotations.etcd\.k3s\.cattle\.io/removed-node-name}')" = "$member" ]; do
      [ "$SECONDS" -lt "$deadline" ] || k3s_no "k3s has not taken $member out of etcd: journalctl --unit k3s on a server says why" || return
      sleep 1
    done
  fi
  k3s_unnamed "$1"
}

# k3s_unnamed NAME: its Node goes, and the password by which it is known. Where it has no member of etcd, that is all.
k3s_unnamed() {
  k3s_kubectl delete node "$1" --ignore-not-found --wait=true > /dev/null || return
  k3s_kubectl delete secret "$1.node-password.k3s" --namespace kube-system --ignore-not-found > /dev/null
}

# k3s_empty: k3s does not run here, and has nothing of a cluster.
k3s_empty() {
  ! systemctl --quiet is-active k3s.service || k3s_no 'k3s runs' || return
  [ ! -e "$K3S_DATA/server/db" ] && [ ! -e "$K3S_DATA/agent" ] || k3s_no "a cluster has its data in $K3S_DATA"
}

# k3s_aside: k3s does not run here and has nothing of the cluster; what it had is kept until the next time.
k3s_aside() {
  local part
  k3s_stop > /dev/null
  rm --recursive --force "$K3S_DATA/replaced.old"
  [ ! -d "$K3S_DATA/replaced" ] || mv --no-target-directory "$K3S_DATA/replaced" "$K3S_DATA/replaced.old" || return
  for part in server agent; do
    [ -d "$K3S_DATA/$part" ] || continue
    install --directory --mode=700 "$K3S_DATA/replaced" && mv --no-target-directory "$K3S_DATA/$part" "$K3S_DATA/replaced/$part" || return
  done
  rm --recursive --force "$K3S_DATA/replaced.old"
  for part in /etc/rancher/node/password "$K3S_NOTES/started" "$K3S_NOTES/upgrading"; do
    [ ! -e "$part" ] || [ ! -d "$K3S_DATA/replaced" ] || cp --archive "$part" "$K3S_DATA/replaced/${part##*/}" || return
    rm --force "$part"
  done
  rm --force "$K3S_ETC/k3s.yaml"
  # Nobody can take this back, so nothing that came before it has to wait until somebody does.
  rm --recursive --force "${FK_STATE:?}/pages/${FK_PAGE:?}"
}

# k3s_returned: what k3s_aside has put aside is back, and k3s begins with it. Nobody waits: it may need others to be well.
k3s_returned() {
  local part
  for part in server agent; do
    [ -d "$K3S_DATA/replaced/$part" ] || continue
    rm --recursive --force "${K3S_DATA:?}/$part"
    mv --no-target-directory "$K3S_DATA/replaced/$part" "$K3S_DATA/$part" || return
  done
  for part in /etc/rancher/node/password "$K3S_NOTES/started" "$K3S_NOTES/upgrading"; do
    [ ! -e "$K3S_DATA/replaced/${part##*/}" ] || mv --force "$K3S_DATA/replaced/${part##*/}" "$part" || return
  done
  rmdir --ignore-fail-on-non-empty "$K3S_DATA/replaced"
  systemctl --quiet enable k3s.service
  systemctl start --no-block k3s.service
}

export -f k3s_numbers k3s_follows k3s_noted k3s_from k3s_at k3s_node k3s_mark k3s_staged k3s_servers_run k3s_removed k3s_snapshot k3s_has_snapshot \
  k3s_drain k3s_blocked k3s_return k3s_is k3s_swap k3s_back k3s_renewed k3s_certificates k3s_lasts k3s_spare k3s_silent \
  k3s_absent k3s_forgotten k3s_forget k3s_unnamed k3s_empty k3s_aside k3s_returned


# 1/3 there is a place for k3s v1.36.4+k3s1
if ! { test "$(stat --format='%F %a %U:%G' /opt/k3s/v1.36.4+k3s1)" = 'directory 755 root:root'; } > /dev/null 2>&1; then
  install --directory --mode=755 --owner=root --group=root /opt/k3s /opt/k3s/v1.36.4+k3s1
fi

# 2/3 k3s v1.36.4+k3s1 is here, as its makers published it
#   why: it has the digest that is pinned; nothing that comes from the network is run to install it
if ! { k3s_program v1.36.4+k3s1 835873f37245fc615f547a2fe2af9402a347875f13fa64a1f136de644955ea3f; } > /dev/null 2>&1; then
  # in $FK_FILES: https://github.com/k3s-io/k3s/releases/download/v1.36.4%2Bk3s1/k3s
  printf '%s  %s\n' 835873f37245fc615f547a2fe2af9402a347875f13fa64a1f136de644955ea3f "$FK_FILES"/k3s | sha256sum --check --quiet
  digest=$(sha256sum "$FK_FILES"/k3s | cut --delimiter=' ' --fields=1)
  cp "$FK_FILES"/k3s /opt/k3s/v1.36.4+k3s1/.k3s."${digest:0:16}".part
  export FK_SENT="$digest"' /opt/k3s/v1.36.4+k3s1/k3s'
  FK_KEEP='' k3s_land v1.36.4+k3s1
fi

# 3/3 the cluster knows that fortress-node has k3s v1.36.4+k3s1
#   why: the upgrade begins nowhere before all nodes have it
if ! { test "$(k3s_self get node fortress-node --output jsonpath="{.metadata.annotations.$STAGED}")" = v1.36.4+k3s1; } > /dev/null 2>&1; then
  k3s_self annotate node fortress-node --overwrite "$STAGED"=v1.36.4+k3s1
fi
