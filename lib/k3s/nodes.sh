# shellcheck shell=bash
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
