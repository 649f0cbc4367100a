# shellcheck shell=bash
# The way back from network policies that close the nodes: config/components/cilium/guard.yaml, which opens them again by itself.

# guard_absent: no guard is there. One that is says that policies were applied, and that nobody has confirmed them.
guard_absent() {
  local there
  there=$(kubectl get daemonset policy-guard --namespace cilium --ignore-not-found --output=name) || return
  [ -z "$there" ] || {
    echo 'the guard of an earlier run is there: nobody has confirmed its policies, and nodes may report only what they would drop'
    return 1
  }
}

# guard_begin FILE SECONDS PORT…: each node that is alive opens SECONDS from now, unless guard_ends comes first. Of these ports
# those that answer this computer now have to do so then.
guard_begin() {
  local image file=$1 seconds=$2
  shift 2
  image=$(kubectl get daemonset cilium --namespace cilium \
    --output=jsonpath='{.spec.template.spec.containers[?(@.name=="cilium-agent")].image}') || return
  guard_gone || return
  sed "s#IMAGE.*#$image#; s#SECONDS#$seconds#" "$file" |
    kubectl apply --server-side --force-conflicts --field-manager=fortress-kit --filename=- || return
  cilium_runs policy-guard Ready 120 || {
    echo 'the guard does not run on each node, and no policy was applied:' >&2
    kubectl get pods --namespace cilium --selector=app=policy-guard --output=wide >&2
    return 1
  }
  guard_ports "$@" > "$FK_TMP/ports"
}

# guard_ports PORT…: those ports that answer this computer at the address of the API.
guard_ports() {
  local api port
  api=$(kubectl config view --minify --output=jsonpath='{.clusters[0].cluster.server}') || return
  api=${api#https://} && api=${api%:*} && api=${api#[} && api=${api%]}
  for port; do ! guard_open "$api" "$port" || echo "$api $port"; done
}

# guard_open ADDRESS PORT: a new connection is answered.
# shellcheck disable=SC2016 # for the other shell
guard_open() { timeout 5 bash -c ': > "/dev/tcp/$0/$1"' "$1" "$2" 2> /dev/null; }

# guard_ends COMMAND…: applies policies by it, and takes the guard away when they are in force and cut nobody off.
guard_ends() {
  "$@" && guard_proven && guard_gone && return
  guard_closed >&2
  echo 'These policies are not confirmed: they are taken back, and those before them return, as soon as the API answers.' >&2
  echo 'The guard opens the nodes for that.' >&2
  return 1
}

# guard_closed: says what answered this computer before, and does not any more.
guard_closed() {
  local address port
  while read -r address port; do
    guard_open "$address" "$port" || echo "With these policies port $port of $address no longer answers this computer."
  done < "$FK_TMP/ports"
}

# guard_proven: the policies are in force on each node that is alive, and this computer reaches what it reached before. Each
# command of kubectl is a new connection.
guard_proven() {
  local pods pod
  pods=$(guard_pods) || return
  sleep 3 # an agent hears of them from the API
  for pod in $pods; do
    # shellcheck disable=SC2016 # for the shell of the pod
    guard_on "$pod" 'node="[?(@.status.identity.id==1)]"
      for i in {1..60}; do
        want=$(cilium-dbg policy get --output=jsonpath={.revision}) &&
          is=$(cilium-dbg endpoint list --output=jsonpath="{$node.status.policy.realized.policy-revision}") &&
          [ "$is" -ge "$want" ] && exit
        sleep 1
      done; exit 1' || { echo "whether $pod has the policies in force cannot be seen" >&2; return 1; }
  done
  [ -z "$(guard_closed)" ] || return
  # What was seen when nodes were open already proves nothing.
  for pod in $pods; do
    guard_on "$pod" '[ ! -e /guard/opened ]' || { echo "$pod had opened its node before all this was seen" >&2; return 1; }
  done
}

# guard_pods: those of nodes that are alive.
guard_pods() {
  local alive all
  alive=$(cilium_nodes alive) && all=$(kubectl get pods --namespace cilium --selector=app=policy-guard --request-timeout=10s \
    --output=jsonpath='{range .items[*]}{.spec.nodeName}{"\t"}{.metadata.name}{"\n"}{end}') || return
  awk -F '\t' 'NR == FNR { alive[$1] = 1; next } $1 in alive { print $2 }' <(printf '%s\n' "$alive") <(printf '%s\n' "$all")
}

# guard_on POD COMMAND: runs it beside the agent.
guard_on() { timeout 90 kubectl exec "$1" --namespace cilium -- bash -c "$2"; }

# guard_gone: it is taken away, and with it what it has opened is closed. On a node that is dead it ends when that is back.
guard_gone() {
  local pods
  pods=$(guard_pods) || return
  kubectl delete daemonset policy-guard --namespace cilium --ignore-not-found --wait --timeout=60s --request-timeout=10s || return
  # shellcheck disable=SC2086 # one word for each
  [ -z "$pods" ] || kubectl wait --for=delete --timeout=90s --namespace cilium pod/${pods//$'\n'/ pod/}
}

# guard_waited SECONDS: the API answers this computer, at the latest when the guard has opened the nodes.
guard_waited() {
  local until=$((SECONDS + $1 + 120))
  [ -n "${KUBECONFIG-}" ] || { echo './task network-policies apply takes these policies back'; return 1; }
  until kubectl get --raw /readyz --request-timeout=5s > /dev/null 2>&1; do
    [ "$SECONDS" -lt "$until" ] || { echo 'the API does not answer, and no guard has opened its node'; return 1; }
    sleep 2
  done
}
export -f guard_absent guard_begin guard_ports guard_open guard_ends guard_closed guard_proven
export -f guard_pods guard_on guard_gone guard_waited
