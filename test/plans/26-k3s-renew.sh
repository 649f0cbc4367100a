#!/bin/bash
# 26-k3s-renew: No certificate of the cluster ends within 90 days: k3s renews them when it starts, one server after the other.
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
# A node that others look after: it is drained and uncordoned, it is healthy or not, it is taken out of the cluster. Every
# function that fails prints why. An annotation of the Node says who cordoned it: what an operator has cordoned stays cordoned.
AWAY=fortress-kit/away STAGED=fortress-kit/staged
export AWAY STAGED

# k3s_noted WORD: of the swap that has begun here and has not ended: from, ready (whether the node was Ready before), to.
k3s_noted() {
  local from='' ready='' to=''
  [ ! -s "$K3S_NOTES/upgrading" ] || read -r from ready to < "$K3S_NOTES/upgrading"
  case $1 in from) echo "$from" ;; ready) echo "$ready" ;; to) echo "$to" ;; esac
}

# k3s_node ROLE NAME JSONPATH: of its own Node, as the admin on a server and as itself on an agent.
k3s_node() {
  if [ "$1" = server ]; then
    k3s_kubectl get node "$2" --output jsonpath="$3"
  else
    k3s_self get node "$2" --output jsonpath="$3"
  fi
}

# k3s_mark ROLE NAME: ours (cordoned by k3s_drain) or theirs (it was cordoned before), with -drained when its pods have left.
k3s_mark() { k3s_node "$1" "$2" "{.metadata.annotations.$AWAY}"; }

# k3s_drain NODE HOW SECONDS: cordons it and evicts its pods. HOW: evict respects each PodDisruptionBudget, force ignores them.
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
  if ! said=$(K3S_SECONDS=$((seconds + 30)) k3s_kubectl drain "$node" --ignore-daemonsets --delete-emptydir-data \
    --timeout="${seconds}s" "${forced[@]}" 2>&1); then
    k3s_blocked "$said"
    [ "$how" = force ] || printf 'FK_DRAIN=force deletes the pods that cannot be evicted\n'
    k3s_return "$node"
    return 1
  fi
  k3s_kubectl annotate node "$node" --overwrite "$AWAY=${mark%-drained}-drained" > /dev/null
}

# k3s_blocked TEXT: the pods that were not evicted, and their PodDisruptionBudgets, from the output of kubectl drain.
k3s_blocked() {
  local pod space budgets
  while read -r pod space; do
    [ -n "$pod" ] || continue
    budgets=$(k3s_kubectl get poddisruptionbudgets --namespace "$space" --output \
      jsonpath='{range .items[*]}{.metadata.name}{" "}{.status.disruptionsAllowed}{"\n"}{end}' 2> /dev/null |
      awk '$2 == 0 { printf "%s%s", sep, $1; sep = ", " }')
    printf '%s/%s cannot be evicted: the PodDisruptionBudget %s allows no disruption\n' "$space" "$pod" "${budgets:-there}"
  done < <(sed --quiet --regexp-extended \
    's/^error when evicting pods\/"([^"]+)" -n "([^"]+)".*disruption budget.*/\1 \2/p' <<< "$1" | LC_ALL=C sort --unique)
  grep '^error:' <<< "$1" | tail --lines=2 || true # a drain that hangs prints no error
}

# k3s_return NODE: uncordons it, unless an operator had cordoned it.
k3s_return() {
  local mark
  mark=$(k3s_mark server "$1") || k3s_no "$mark" || return
  [ -n "$mark" ] || return 0
  case $mark in ours*) k3s_kubectl uncordon "$1" > /dev/null || return ;; esac
  k3s_kubectl annotate node "$1" "$AWAY-" > /dev/null
}

# k3s_is ROLE NAME VERSION READY: it runs this version and is healthy; READY=True: it is Ready (without a pod network no node is).
k3s_is() {
  local said version ready vote
  k3s_answers "$1" "$2" || return
  said='{.status.nodeInfo.kubeletVersion} {.status.conditions[?(@.type=="Ready")].status}'
  said=$(k3s_node "$1" "$2" "$said {.status.conditions[?(@.type==\"EtcdIsVoter\")].status}" 2>&1) || k3s_no "$said" || return
  read -r version ready vote <<< "$said"
  [ "$version" = "$3" ] || k3s_no "the version of its kubelet is $version" || return
  [ "$4" != True ] || [ "$ready" = True ] || k3s_no "$2 was Ready, and is not" || return
  [ "$1" = agent ] && return
  said=$(k3s_kubectl get --raw /readyz/etcd 2>&1) || k3s_no "etcd is not ready: $(tail --lines=1 <<< "$said")" || return
  [ "$vote" = True ] || k3s_no "$2 has no vote in etcd"
}

# k3s_certificates KIND: for each certificate of a kind (leaf, authority) the days left and its path; the first to end first.
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

# quorum_without NAME: the other servers that have a vote are more than half of all.
quorum_without() {
  local said name vote all=0 well=0 one
  said=$(k3s_votes 2>&1) || k3s_no "the API does not answer: $(tail --lines=1 <<< "$said")" || return
  while read -r name vote; do
    [ -n "$name" ] || continue
    all=$((all + 1))
    if [ "$name" = "$1" ]; then one=yes; elif [ "$vote" = True ]; then well=$((well + 1)); fi
  done <<< "$said"
  [ -n "${one-}" ] || return 0
  [ "$well" -gt $((all / 2)) ] ||
    k3s_no "of $all members of etcd $well are healthy without $1: that is no quorum, and nothing could be written any more"
}

# node_unreachable NAME: the cluster has no heartbeat of it either.
node_unreachable() {
  local said
  said=$(k3s_kubectl get node "$1" --ignore-not-found --output \
    jsonpath='{.status.conditions[?(@.type=="Ready")].reason}' 2>&1) || k3s_no "$said" || return
  [ -z "$said" ] || [ "$said" = NodeStatusUnknown ] ||
    k3s_no "$1 cannot be reached from here, and its kubelet reports to the cluster"
}

# node_absent NAME: the cluster has no such Node.
node_absent() {
  local said
  said=$(k3s_kubectl get node "$1" --ignore-not-found --output name 2>&1) || k3s_no "$said" || return
  [ -z "$said" ] || k3s_no "the cluster has $said"
}

# node_deleted NAME: the cluster has neither a Node nor a node password of it.
node_deleted() {
  local said
  node_absent "$1" || return
  said=$(k3s_kubectl get secret "$1.node-password.k3s" --namespace kube-system --ignore-not-found --output name 2>&1) ||
    k3s_no "$said" || return
  [ -z "$said" ] || k3s_no "the cluster has $said, and no other machine could take the name"
}

# remove_node NAME SECONDS: removes its member of etcd, its Node and its node password. k3s takes the member out when an
# annotation of the Node says so, and notes there that it has: the Node is deleted last.
remove_node() {
  local said member deadline=$((SECONDS + $2))
  said=$(k3s_kubectl get node "$1" --ignore-not-found --output \
    jsonpath='{.metadata.name} {.metadata.annotations.etcd\.k3s\.cattle\.io/node-name}' 2>&1) || k3s_no "$said" || return
  read -r _ member <<< "$said" || true # it has no Node any more
  if [ -n "${member-}" ]; then
    k3s_kubectl annotate node "$1" --overwrite etcd.k3s.cattle.io/remove=true > /dev/null || return
    until [ "$(k3s_node server "$1" '{.metadata.annotations.etcd\.k3s\.cattle\.io/removed-node-name}')" = "$member" ]; do
      [ "$SECONDS" -lt "$deadline" ] ||
        k3s_no "k3s has not taken $member out of etcd: journalctl --unit k3s on a server says why" || return
      sleep 1
    done
  fi
  delete_node "$1"
}

# delete_node NAME: its Node and its node password. Where it has no member of etcd, that is all.
delete_node() {
  k3s_kubectl delete node "$1" --ignore-not-found --wait=true > /dev/null || return
  k3s_kubectl delete secret "$1.node-password.k3s" --namespace kube-system --ignore-not-found > /dev/null
}

# k3s_empty: k3s does not run here, and no cluster has data here.
k3s_empty() {
  ! systemctl --quiet is-active k3s.service || k3s_no 'k3s runs' || return
  [ ! -e "$K3S_DATA/server/db" ] && [ ! -e "$K3S_DATA/agent" ] || k3s_no "a cluster has its data in $K3S_DATA"
}

# archive_data: stops k3s and moves its cluster data to /var/lib/rancher/k3s/replaced, which holds one such archive.
archive_data() {
  local part
  k3s_stop > /dev/null
  rm --recursive --force "$K3S_DATA/replaced.old"
  [ ! -d "$K3S_DATA/replaced" ] || mv --no-target-directory "$K3S_DATA/replaced" "$K3S_DATA/replaced.old" || return
  for part in server agent; do
    [ -d "$K3S_DATA/$part" ] || continue
    install --directory --mode=700 "$K3S_DATA/replaced" || return
    mv --no-target-directory "$K3S_DATA/$part" "$K3S_DATA/replaced/$part" || return
  done
  rm --recursive --force "$K3S_DATA/replaced.old"
  for part in /etc/rancher/node/password "$K3S_NOTES/started" "$K3S_NOTES/upgrading"; do
    [ ! -e "$part" ] || [ ! -d "$K3S_DATA/replaced" ] || cp --archive "$part" "$K3S_DATA/replaced/${part##*/}" || return
    rm --force "$part"
  done
  rm --force "$K3S_ETC/k3s.yaml"
  # There is no undo of this, so no earlier page has to wait for it.
  rm --recursive --force "${FK_STATE:?}/pages/${FK_PAGE:?}"
}

# return_data: what archive_data moved is back, and k3s starts with it. It is not waited for: it may need others to be healthy.
return_data() {
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

export -f k3s_noted k3s_node k3s_mark k3s_drain k3s_blocked k3s_return k3s_is k3s_certificates quorum_without node_unreachable \
  node_absent node_deleted remove_node delete_node k3s_empty archive_data return_data
# certificates_last KIND DAYS: no certificate of this kind (leaf, authority) in /var/lib/rancher/k3s ends before.
certificates_last() {
  local said days path
  said=$(k3s_certificates "$1") || k3s_no "$said" || return
  [ -n "$said" ] || k3s_no "there is no certificate in $K3S_DATA" || return
  read -r days path <<< "$said"
  printf '%s days are left of %s\n' "$days" "$path"
  [ "$days" -ge "$2" ]
}

# restart_to_renew ROLE NAME SECONDS: restarts k3s, which renews what ends within 120 days, and waits until it is healthy.
restart_to_renew() {
  local said deadline=$((SECONDS + $3)) ready version
  read -r version ready <<< "$(k3s_node "$1" "$2" \
    '{.status.nodeInfo.kubeletVersion} {.status.conditions[?(@.type=="Ready")].status}' 2> /dev/null)" ||
    true # with expired certificates the API does not answer
  k3s_start "$1" "$2" "$3" || return
  until said=$(k3s_is "$1" "$2" "${version:-$(k3s_version)}" "${ready:-Unknown}"); do
    [ "$SECONDS" -lt "$deadline" ] || k3s_no "k3s restarted, and is not healthy: $said" || return
    sleep 1
  done
}
export -f certificates_last restart_to_renew

# 1/2 certificates of fortress-node are valid for 90 days or more
#   why: k3s renews those that end within 120 days, and only when it starts: otherwise they expire after a year
if ! { certificates_last leaf 90; } > /dev/null 2>&1; then
  restart_to_renew server fortress-node 540
fi

# 2/2 cluster CA certificates are valid for 365 days or more
#   why: they are made for ten years, and k3s never renews them by itself
if ! { certificates_last authority 365; } > /dev/null 2>&1; then
  echo 'cluster CA certificates are valid for 365 days or more: no' >&2
  echo '  docs.k3s.io/cli/certificate: k3s certificate rotate-ca. The fingerprint in the join token changes with it' >&2
  exit 1
fi
