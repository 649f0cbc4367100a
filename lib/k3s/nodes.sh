# shellcheck shell=bash
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
