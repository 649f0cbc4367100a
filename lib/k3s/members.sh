# shellcheck shell=bash
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

# k3s_config_digest: one digest of all that a start depends on: the program, the unit, the configuration, the tokens. The page of
# gVisor asks itself for its own file.
k3s_config_digest() {
  local unit=/etc/systemd/system/k3s.service
  {
    readlink "$K3S"
    {
      find "$K3S_ETC" "$unit" "$unit.d" -type f ! -name k3s.yaml ! -name path-gvisor.conf ! -name '.*' -print0 2> /dev/null ||
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

# k3s_said: the last errors in its journal. Why it ends, and that it ends, are different lines. One start writes thousands: where
# it starts again and again, the reason lies far back. Without any error: the state of its unit, such as one that still starts.
k3s_said() {
  local said
  said=$(journalctl --unit=k3s.service --lines=20000 --output=cat --no-pager 2> /dev/null |
    grep --extended-regexp 'level=(fatal|error)|^[EF][0-9]{4} |[Ee]rror:' | cut --characters=1-400 | tail --lines=20 |
    awk '{ key = $0; sub(/time="[^"]*"/, "", key) } !seen[key]++' | tail --lines=3) || true # there may be none
  [ -n "$said" ] || said="its journal has no error; $(
    systemctl show --property=ActiveState,SubState,Result,NRestarts k3s.service 2> /dev/null | paste --serial --delimiters=' '
  )"
  printf '%s\n' "$said"
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
  # When this run is killed, the configuration that k3s was started with is unknown.
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

# k3s_alone: nothing is left in the kernel of what k3s brings by itself: flannel, and kube-proxy with iptables.
k3s_alone() {
  local left
  left=$(ip -oneline link | awk -F ': ' '$2 ~ /^flannel/ { sub(/@.*/, "", $2); print "interface " $2 }')
  if command -v iptables-save > /dev/null && iptables-save 2> /dev/null | grep '^:KUBE-SERVICES ' > /dev/null; then
    left+=${left:+$'\n'}'chain KUBE-SERVICES of iptables'
  fi
  [ -z "$left" ] || k3s_no "$left"
}

# k3s_stop: for undo. The containers that it started end too; the data stays.
k3s_stop() {
  systemctl disable --now k3s.service 2> /dev/null || true # it is gone already
  if [ -e /sys/fs/cgroup/kubepods.slice/cgroup.kill ]; then echo 1 > /sys/fs/cgroup/kubepods.slice/cgroup.kill; fi
}

export -f k3s_no k3s_program k3s_use k3s_version k3s_kubectl k3s_self k3s_config_digest k3s_answers k3s_said k3s_runs \
  k3s_restarted k3s_start k3s_votes k3s_well k3s_alone k3s_stop
