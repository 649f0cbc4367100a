# shellcheck shell=bash
# How Cilium comes alone, and is taken away again. helm deletes its objects and nothing else: its programs stay in the kernel
# of each node, and in force.

# cilium_alone: no other network plug-in, and no kube-proxy, is in the cluster.
cilium_alone() {
  local others known='kube-proxy|kube-flannel|flannel|calico-node|canal|kube-router|weave-net|antrea-agent'
  local args='{{ with .metadata.annotations }}{{ with index . "k3s.io/node-args" }}{{ . }}{{ end }}{{ end }}'
  others=$(kubectl get daemonsets --all-namespaces \
    --output=go-template='{{ range .items }}{{ .metadata.namespace }}/{{ .metadata.name }}{{ "\n" }}{{ end }}') || return
  others=$(grep --extended-regexp "/($known)" <<< "$others" || true)
  [ -z "$others" ] || { printf 'there is %s\n' "$others"; return 1; }
  # k3s has both in its own process, where no DaemonSet shows them, unless its servers were started without.
  others=$(kubectl get nodes --output=go-template="{{ range .items }}{{ .metadata.name }} $args{{ \"\\n\" }}{{ end }}") || return
  awk '
    $2 !~ /^\["server"/ { next }
    !/"--flannel-backend","none"/ { print "k3s on " $1 " runs flannel"; other = 1 }
    !/"--disable-kube-proxy"(,"true"|,"--|\])/ { print "k3s on " $1 " runs kube-proxy"; other = 1 }
    END { exit other }' <<< "$others"
}

# cilium_networks PODS SERVICES: nodes and Services have addresses of these networks (IPv4): rules of encryption and of policies
# are written for them.
cilium_networks() {
  local nodes service
  nodes=$(kubectl get nodes \
    --output=go-template='{{ range .items }}{{ .metadata.name }} {{ or .spec.podCIDR "" }}{{ "\n" }}{{ end }}') &&
    service=$(kubectl get service kubernetes --namespace default --output=jsonpath='{.spec.clusterIP}') || return
  awk -v pods="$1" -v services="$2" -v service="$service" '
    function number(text,   at) { split(text, at, /[.\/]/); return ((at[1] * 256 + at[2]) * 256 + at[3]) * 256 + at[4] }
    function inside(text, network,   prefix) {
      split(network, prefix, "/")
      return int(number(text) / 2 ^ (32 - prefix[2])) == int(number(network) / 2 ^ (32 - prefix[2]))
    }
    NF == 2 && !inside($2, pods) { print "pods of " $1 " have addresses of " $2 ", and not of cluster.pods " pods; wrong = 1 }
    END {
      if (!inside(service, services)) {
        print "Services have addresses such as " service ", and not of cluster.services " services
        wrong = 1
      }
      exit wrong
    }' <<< "$nodes"
}

# cilium_certified: the agents have the certificates of Hubble: they began after these were made, or have been pointed to them.
cilium_certified() {
  local made all late pods='{.metadata.name}{" "}{.metadata.creationTimestamp}{" "}'
  pods="{range .items[*]}$pods{.metadata.annotations.fortress-kit/certificates}{\"\\n\"}{end}"
  made=$(kubectl get secret hubble-server-certs --namespace cilium --ignore-not-found \
    --output=jsonpath='{.metadata.creationTimestamp}') || return
  [ -n "$made" ] || { echo 'the job hubble-generate-certs has made none yet'; return 1; }
  all=$(kubectl get pods --namespace cilium --selector k8s-app=cilium --output=jsonpath="$pods") || return
  late=$(awk -v made="$made" 'NF == 2 && $2 <= made { print $1 }' <<< "$all")
  [ -z "$late" ] || { printf '%s began before they were made\n' "$late"; return 1; }
}

# cilium_certify SECONDS: waits until they are made. The kubelet looks at once at the Secrets of a pod that has changed.
cilium_certify() {
  kubectl wait --for=create secret/hubble-server-certs --namespace cilium --timeout="${1}s" || {
    kubectl get jobs,pods --namespace cilium --selector k8s-app=hubble-generate-certs >&2
    return 1
  }
  kubectl annotate pods --namespace cilium --selector k8s-app=cilium --overwrite fortress-kit/certificates=made
}

# cilium_clean_begin FILE: starts what cleans each node, with the image that its agent has. It waits until the agent has ended.
cilium_clean_begin() {
  local image
  image=$(kubectl get daemonset cilium --namespace cilium --ignore-not-found \
    --output=jsonpath='{.spec.template.spec.containers[?(@.name=="cilium-agent")].image}') || return
  # Without an agent an earlier undo has begun it, or there is nothing to clean.
  [ -n "$image" ] || return 0
  sed "s#IMAGE.*#$image#" "$1" | kubectl apply --server-side --force-conflicts --field-manager=fortress-kit --filename=-
  cilium_runs cilium-clean Running 300 || {
    echo 'what cleans the nodes does not run on each of them:' >&2
    kubectl get pods --namespace cilium --selector=app=cilium-clean --output=wide >&2
    return 1
  }
}

# cilium_nodes STATE: names of the nodes that are dead, or alive. One is dead when its kubelet reports no status any more; a node
# that reports NotReady, as without a network, still runs pods.
cilium_nodes() {
  local each='{.metadata.name}{"\t"}{.status.conditions[?(@.type=="Ready")].status}{"\n"}' all
  all=$(kubectl get nodes --request-timeout=10s --output=jsonpath="{range .items[*]}$each{end}") || return
  awk -F '\t' -v state="$1" '($2 == "Unknown") == (state == "dead") { print $1 }' <<< "$all"
}

# cilium_runs APP STATE SECONDS: on every node that is alive a pod of it is Running, or Ready. What cleans a node is Ready when
# that is clean.
cilium_runs() {
  local alive there until=$((SECONDS + $3))
  local each='{.spec.nodeName}{"\t"}{.status.phase}{"\t"}{.status.conditions[?(@.type=="Ready")].status}{"\n"}'
  while :; do
    alive=$(cilium_nodes alive) && there=$(kubectl get pods --namespace cilium --selector="app=$1" --request-timeout=10s \
      --output=jsonpath="{range .items[*]}$each{end}") || return
    there=$(awk -F '\t' -v state="$2" '$2 == "Running" && (state == "Running" || $3 == "True") { print $1 }' <<< "$there")
    [ -n "$(grep --fixed-strings --line-regexp --invert-match --file=<(printf '%s\n' "${there:-/}") <<< "$alive")" ] || return 0
    [ "$SECONDS" -lt "$until" ] || return 1
    sleep 2
  done
}

# cilium_clean_end: every node that is alive is clean, and the CRDs that Cilium has made itself are gone.
cilium_clean_end() {
  local cleaner node dead
  cleaner=$(kubectl get daemonset cilium-clean --namespace cilium --ignore-not-found --output=name) || return
  if [ -n "$cleaner" ]; then
    cilium_runs cilium-clean Ready 300 || {
      kubectl logs --namespace cilium --selector=app=cilium-clean --prefix --tail=5 >&2
      return 1
    }
    kubectl delete daemonset cilium-clean --namespace cilium --wait --timeout=2m
  fi
  # Nobody there says that a pod has ended, and the namespace would wait for it. A kubelet that is back ends what the API has not.
  dead=$(cilium_nodes dead) || return
  for node in $dead; do
    kubectl delete pods --namespace cilium --field-selector="spec.nodeName=$node" --force --grace-period=0 --wait=false || return
  done
  cilium_crds_gone
}

# cilium_not_clean: what undo has left on nodes that are dead, and how it goes.
cilium_not_clean() {
  local dead
  dead=$(cilium_nodes dead | paste --serial --delimiters=,) || return
  [ -z "$dead" ] || printf '%s\n' \
    "kept: Cilium on ${dead//,/, }, which does not answer: its programs are in force there. When it is back, run there:" \
    'rm -rf /etc/cni/net.d/05-cilium.conflist /opt/cni/bin/cilium-cni /etc/sysctl.d/99-zzz-override_cilium.conf /var/lib/cilium' \
    'reboot' 'Or, where it has no shell, as with Talos: ./task network-cilium apply, then undo again.'
}

# cilium_crds_gone: of the CRDs of Cilium (Tetragon has others in the same group) those stay in which somebody has objects, such
# as network policies of their own; what Cilium itself writes is nobody's.
cilium_crds_gone() {
  local all one objects kept=()
  all=$(kubectl get customresourcedefinitions --output=name) || return
  all=$(grep --extended-regexp '/cilium[a-z0-9]+\.cilium\.io$' <<< "$all" || true)
  for one in $all; do
    one=${one##*/}
    case $one in
      ciliumendpoints.* | ciliumendpointslices.* | ciliumidentities.* | ciliumnodes.*) ;;
      *)
        objects=$(kubectl get "$one" --all-namespaces --output=name) || return
        [ -z "$objects" ] || { kept+=("$one"); continue; }
        ;;
    esac
    kubectl delete customresourcedefinition "$one" --wait --timeout=2m || return
  done
  [ ${#kept[@]} -eq 0 ] || printf 'kept, with the objects in it: %s\n' "${kept[@]}"
}
export -f cilium_alone cilium_networks cilium_certified cilium_certify
export -f cilium_clean_begin cilium_nodes cilium_runs cilium_clean_end cilium_not_clean cilium_crds_gone
