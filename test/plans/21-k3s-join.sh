#!/bin/bash
# 21-k3s-join: The other nodes of the cluster: servers one at a time, with every member of etcd healthy before the next; then agents.
#
# Run it as root on the machine. Each step asks first and changes only what does not hold.
set -euo pipefail
[ "$(id --user)" -eq 0 ] || { echo "this script needs root" >&2; exit 1; }

# keep PATH: only the task runner records what was there before; a printed page does not take back.
keep() { :; }
export -f keep
saved() { [ -e "$FK_STATE/saved-$1-$2" ]; }
FK_TMP=$(mktemp --directory)
export FK_TMP
# Files land whole or not at all. These functions travel with every program and stand at the top of every printed script.
: "${FK_STATE:=/var/lib/fortress}"

# put PATH MODE OWNER [TEST]: standard input becomes PATH. TEST is bash and sees the candidate as $new.
# The old file waits in pending/ until `settle PATH`, so that a run killed before its reload does not look finished.
put() {
  local path=$1 mode=$2 owner=$3 test=${4-} new pending
  new=$(dirname "$path")/.$(basename "$path").fortress
  pending=$FK_STATE/pending/${path//\//%}
  keep "$path"
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

# settle PATH: what had to follow the file has followed.
settle() { rm --recursive --force "$FK_STATE/pending/${1//\//%}" "$FK_STATE/pending/${1//\//%}.part"; }

# settled PATH: no change of PATH waits for what has to follow it.
settled() { [ ! -e "$FK_STATE/pending/${1//\//%}" ]; }

# putback PATH: the file that `put` replaced returns.
putback() {
  local pending=$FK_STATE/pending/${1//\//%}
  [ -d "$pending" ] || return 0
  if [ -e "$pending/old" ] || [ -L "$pending/old" ]; then
    mv --force --no-target-directory "$pending/old" "$1"
  else
    rm --force "$1"
  fi
  settle "$1"
}

# arrived PATH: FK_PART is the file beside PATH that was sent for it, and FK_DIGEST what the sender has proven of it; a file that
# is another is deleted. FK_SENT has a line for everything that was sent: digest, path.
arrived() {
  FK_DIGEST=$(awk -v path="$1" '{ d = $1; sub(/^[^ ]* /, "") } $0 == path { print d }' <<< "$FK_SENT")
  [ -n "$FK_DIGEST" ] || { echo "nothing was sent for $1" >&2; return 1; }
  FK_PART=$(dirname "$1")/.$(basename "$1").${FK_DIGEST:0:16}.part
  printf '%s  %s\n' "$FK_DIGEST" "$FK_PART" | sha256sum --check --status || {
    rm --force "$FK_PART"
    echo "what arrived for $1 is not what was sent; it is deleted, and sent again by the next run" >&2
    return 1
  }
}

# landed PATH SHA256 MODE OWNER: PATH has this content, and nothing is left to follow; 2 says that only mode or owner are others.
landed() {
  local is
  [[ ${FK_LANDED-} != *$'\n'"$*"$'\n'* ]] || return 0 # asked for all files at once, and nothing has changed since
  settled "$1" && [ -f "$1" ] && [ ! -L "$1" ] && printf '%s  %s\n' "$2" "$1" | sha256sum --check --status || return 1
  is=$(stat --format='%a %U:%G' "$1")
  [ "$is" = "$3 $4" ] || { printf 'mode and owner are %s, and should be %s %s\n' "$is" "$3" "$4"; return 2; }
}
export -f put settle settled putback arrived landed
export FK_STATE

# What several checks below look at.
# A file that the laptop has uploaded gets its name. A page that uploads lists this file before the shell files of its layer.

# receive PATH MODE: what was uploaded for PATH becomes PATH, root's own, whole or not at all. It fails when it is not what the
# laptop has proven: then it is deleted, and uploaded again by the next run.
receive() {
  arrived "$1" || return
  keep "$1"
  chown root:root "$FK_PART"
  chmod "$2" "$FK_PART"
  sync "$FK_PART"
  mv --force --no-target-directory "$FK_PART" "$1"
  sync "$(dirname "$1")"
}
export -f receive
# A node of k3s: the checks about it, and how it starts. Every function that fails prints why.
K3S=/opt/bin/k3s K3S_ETC=/etc/rancher/k3s K3S_DATA=/var/lib/rancher/k3s K3S_NOTES=/var/lib/fortress/k3s
export K3S K3S_ETC K3S_DATA K3S_NOTES

# k3s_no TEXT: prints why, and fails.
k3s_no() {
  printf '%s\n' "$*"
  return 1
}

# k3s_program VERSION SHA256: the program of this version is installed as it was published, and root alone may write it.
k3s_program() {
  local path=/opt/k3s/$1/k3s
  [ -f "$path" ] && [ ! -L "$path" ] || k3s_no "$path is missing" || return
  [ "$(stat --format='%a %U:%G' "$path")" = '755 root:root' ] ||
    k3s_no "$path can be changed: $(stat --format='%a %U:%G' "$path")" || return
  printf '%s  %s\n' "$2" "$path" | sha256sum --check --status || k3s_no "$path differs from the pinned file"
}

# k3s_use VERSION: /opt/bin/k3s becomes this version, for the next start. The link changes atomically.
k3s_use() {
  [ -x "/opt/k3s/$1/k3s" ] || k3s_no "/opt/k3s/$1/k3s is missing" || return
  keep "$K3S"
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

# k3s_config_digest: one digest of all that a start depends on: the program, the unit, the configuration, the tokens.
k3s_config_digest() {
  local unit=/etc/systemd/system/k3s.service
  {
    readlink "$K3S"
    {
      find "$K3S_ETC" "$unit" "$unit.d" -type f ! -name k3s.yaml ! -name '.*' -print0 2> /dev/null ||
        true # there need be no drop-in
    } | LC_ALL=C sort --zero-terminated | xargs --null --no-run-if-empty sha256sum
  } | sha256sum | cut --delimiter=' ' --fields=1
}

# k3s_answers ROLE NAME: a server answers and says that it is ready; of an agent the cluster has a Node.
k3s_answers() {
  local said
  systemctl --quiet is-active k3s.service || k3s_no "k3s does not run"$'\n'"$(k3s_said)" || return
  if [ "$1" = server ]; then
    said=$(k3s_kubectl get --raw /readyz 2>&1) || k3s_no "the API does not answer: $(tail --lines=1 <<< "$said")" || return
    [ "$said" = ok ] || k3s_no "the API is not ready: $said"
  else
    said=$(k3s_self get node "$2" --output name 2>&1) || k3s_no "the cluster has no Node $2: $(tail --lines=1 <<< "$said")"
  fi
}

# k3s_said: the last errors in its journal. Why it ends, and that it ends, are different lines.
k3s_said() {
  journalctl --unit=k3s.service --lines=400 --output=cat --no-pager 2> /dev/null |
    grep --extended-regexp 'level=(fatal|error)|^[EF][0-9]{4} |[Ee]rror:' | cut --characters=1-400 | tail --lines=20 |
    awk '{ key = $0; sub(/time="[^"]*"/, "", key) } !seen[key]++' | tail --lines=3 || true # there may be none
}

# k3s_runs ROLE NAME: with the configuration that is on the node now, and not with the one that it was started with.
k3s_runs() {
  systemctl --quiet is-enabled k3s.service || k3s_no 'k3s.service is not enabled' || return
  k3s_answers "$1" "$2" || return
  [ "$(cat "$K3S_NOTES/started" 2> /dev/null)" = \
    "$(systemctl show --property=InvocationID --value k3s.service) $(k3s_config_digest)" ] ||
    k3s_restarted || k3s_no 'k3s was started before the current configuration was written'
}

# k3s_restarted: the machine or systemd has restarted it since, with the configuration that it has now.
k3s_restarted() {
  local begun
  [ "$(cut --delimiter=' ' --fields=2 "$K3S_NOTES/started" 2> /dev/null)" = "$(k3s_config_digest)" ] || return
  begun=$(systemctl show --property=ActiveEnterTimestamp --value k3s.service)
  [ -n "$begun" ] && [ "$(date --date="$begun" +%s)" -ge "$(stat --format=%Y "$K3S_NOTES/started")" ]
}

# k3s_start ROLE NAME SECONDS: restarts it and waits until it is ready; only then is the digest of its configuration noted.
k3s_start() {
  local digest deadline=$((SECONDS + $3)) fails=0 said=''
  digest=$(k3s_config_digest)
  install --directory --mode=700 "$K3S_NOTES"
  # When this run is killed, nothing tells with which configuration k3s was started.
  [ ! -e "$K3S_NOTES/started" ] || mv --force "$K3S_NOTES/started" "$K3S_NOTES/started.before"
  systemctl daemon-reload
  systemctl --quiet enable k3s.service
  systemctl reset-failed k3s.service 2> /dev/null || true # it has not failed
  systemctl restart --no-block k3s.service
  while ! said=$(k3s_answers "$1" "$2"); do
    # A server that cannot read its configuration ends at once, again and again: waiting does not help.
    fails=$(systemctl show --property=NRestarts --value k3s.service)
    if [ "$fails" -ge 3 ] || [ "$SECONDS" -ge "$deadline" ]; then
      said="k3s did not become ready: $said"
      if [ -s "$K3S_NOTES/upgrading" ] && [ -z "${K3S_SWAPS-}" ]; then
        said+=$'\nan upgrade of this node is not finished: ./task k3s-upgrade apply finishes it, or goes back'
      fi
      # The previous configuration may return, and with it its digest.
      [ ! -e "$K3S_NOTES/started.before" ] || mv --force "$K3S_NOTES/started.before" "$K3S_NOTES/started"
      k3s_no "$said"
      return
    fi
    sleep 1
  done
  printf '%s %s\n' "$(systemctl show --property=InvocationID --value k3s.service)" "$digest" > "$K3S_NOTES/started.part"
  sync "$K3S_NOTES/started.part"
  mv --force "$K3S_NOTES/started.part" "$K3S_NOTES/started"
  rm --force "$K3S_NOTES/started.before"
}

# k3s_votes: a line for each server: its name, and whether it has a vote in etcd, as the leader found within the last 15 s.
k3s_votes() {
  k3s_kubectl get nodes --selector=node-role.kubernetes.io/etcd=true --output \
    jsonpath='{range .items[*]}{.metadata.name}{" "}{.status.conditions[?(@.type=="EtcdIsVoter")].status}{"\n"}{end}'
}

# k3s_well COUNT NAME 'NODE URL'…: COUNT servers are members of etcd, and all of them but NAME have a vote and answer at their
# URL: etcd keeps its quorum when NAME stops or joins. What a member reports of another is up to 15 s old; an answer is not.
k3s_well() {
  local count=$1 but=$2 said name vote server members=''
  shift 2
  said=$(k3s_votes 2>&1) || k3s_no "the API does not answer: $(tail --lines=1 <<< "$said")" || return
  while read -r name vote; do
    if [ -z "$name" ] || [ "$name" = "$but" ]; then continue; fi
    [ "$vote" = True ] || k3s_no "$name has no vote in etcd" || return
    members+=" $name"
  done <<< "$said"
  [ "$(wc --words <<< "$members")" -ge "$count" ] || k3s_no "of $count servers the members of etcd are:$members" || return
  for server; do
    case " $members " in *" ${server% *} "*) ;; *) continue ;; esac
    said=$(k3s_kubectl --server="${server#* }" get --raw /readyz 2>&1) && [ "$said" = ok ] ||
      k3s_no "${server% *} does not answer, or is not ready: $(tail --lines=1 <<< "$said")" || return
  done
}

# k3s_stop: for undo. The containers that it started end too; the data stays.
k3s_stop() {
  systemctl disable --now k3s.service 2> /dev/null || true # it is gone already
  if [ -e /sys/fs/cgroup/kubepods.slice/cgroup.kill ]; then echo 1 > /sys/fs/cgroup/kubepods.slice/cgroup.kill; fi
}

export -f k3s_no k3s_program k3s_use k3s_version k3s_kubectl k3s_self k3s_config_digest k3s_answers k3s_said k3s_runs \
  k3s_restarted k3s_start k3s_votes k3s_well k3s_stop
# etcd_votes COUNT: etcd is ready on this server, COUNT servers or more are members, and every one of them has a vote.
etcd_votes() {
  local said name vote all=0 bad=0
  said=$(k3s_kubectl get --raw /readyz/etcd 2>&1) || k3s_no "etcd is not ready: $(tail --lines=1 <<< "$said")" || return
  said=$(k3s_votes 2>&1) || k3s_no "$said" || return
  while read -r name vote; do
    [ -n "$name" ] || continue
    all=$((all + 1))
    [ "$vote" = True ] || { printf '%s has no vote in etcd\n' "$name" && bad=$((bad + 1)); }
  done <<< "$said"
  printf '%s members of etcd have a vote\n' "$((all - bad))"
  [ "$bad" -eq 0 ] && [ "$all" -ge "$1" ]
}

# 1/1 the cluster has no Node that the site does not describe
if ! { test "$(k3s_kubectl get nodes --output name | wc --lines)" -le 1; } > /dev/null 2>&1; then
  echo 'the cluster has no Node that the site does not describe: no' >&2
  echo '  describe the other nodes under machines: of the site, or take them out: ./task node remove NAME' >&2
  exit 1
fi
