# shellcheck shell=bash
# How Cilium comes alone, and is taken away again. helm deletes its objects and nothing else: its programs stay in the kernel
# of each node, and in force.

# cilium_alone: no other network plug-in, and no kube-proxy, is in the cluster.
cilium_alone() {
  local others known='kube-proxy|kube-flannel|flannel|calico-node|canal|kube-router|weave-net|antrea-agent'
  others=$(kubectl get daemonsets --all-namespaces \
    --output=go-template='{{ range .items }}{{ .metadata.namespace }}/{{ .metadata.name }}{{ "\n" }}{{ end }}') || return
  others=$(grep --extended-regexp "/($known)" <<< "$others" || true)
  [ -z "$others" ] || { printf 'there is %s\n' "$others"; return 1; }
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
  for _ in {1..150}; do
    ! cilium_cleaners || return 0
    sleep 2
  done
  echo 'what cleans the nodes does not run on each of them:' >&2
  kubectl get pods --namespace cilium --selector=app=cilium-clean --output=wide >&2
  return 1
}

# cilium_cleaners: on every node what cleans it runs.
cilium_cleaners() {
  local wanted running
  wanted=$(kubectl get daemonset cilium-clean --namespace cilium \
    --output=jsonpath='{.status.desiredNumberScheduled}') || return
  running=$(kubectl get pods --namespace cilium --selector=app=cilium-clean \
    --field-selector=status.phase=Running --output=name) || return
  [ "${wanted:-0}" -gt 0 ] && [ "$(grep --count . <<< "$running")" -ge "$wanted" ]
}

# cilium_clean_end: every node is clean, and the CRDs that Cilium has made itself are gone.
cilium_clean_end() {
  local cleaner
  cleaner=$(kubectl get daemonset cilium-clean --namespace cilium --ignore-not-found --output=name) || return
  if [ -n "$cleaner" ]; then
    kubectl rollout status daemonset/cilium-clean --namespace cilium --timeout=5m || {
      kubectl logs --namespace cilium --selector=app=cilium-clean --prefix --tail=5 >&2
      return 1
    }
    kubectl delete daemonset cilium-clean --namespace cilium --wait --timeout=2m
  fi
  cilium_crds_gone
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
export -f cilium_alone cilium_certified cilium_certify cilium_clean_begin cilium_cleaners cilium_clean_end cilium_crds_gone
