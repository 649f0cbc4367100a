#!/bin/bash
# 45-runtime-class: RuntimeClass gvisor: a pod with runtimeClassName gvisor runs in a sandbox, and a pod on each node shows that it is one.
#
# Run it on the laptop, as yourself:
#   KUBECONFIG=FILE bash 45-runtime-class.sh
# It has 5 steps. Each checks first, and changes only what does not hold.
# It needs kubectl and helm in PATH, and in KUBECONFIG the file that opens the API of the cluster.
# It keeps no record, so undo cannot take it back. It checks no controls: verify does.
# shellcheck disable=SC2034 # functions read what is set here
set -euo pipefail
FK_PAGE=45-runtime-class FK_FILE=45-runtime-class.sh
export FK_PAGE FK_FILE

main() {
  case ${1-} in '') ;; *) usage ;; esac
  begin_rootless kubectl helm
  # handlers_there NODE...: the kubelet of each says that its containerd has the handler runsc.
  handlers_there() {
    local all node bad=0 one='{.metadata.name} {.status.runtimeHandlers[*].name}{"\n"}'
    all=$(kubectl get nodes --output=jsonpath="{range .items[*]}$one{end}") || return
    for node; do
      awk -v node="$node" '$1 == node { for (i = 2; i <= NF; i++) if ($i == "runsc") found = 1 } END { exit !found }' <<< "$all" ||
        { echo "Node $node has no handler runsc"; bad=1; }
    done
    return "$bad"
  }

  # sandboxed COUNT: on so many nodes the probe is ready, and on no other one is there one that is not.
  sandboxed() {
    local said numbers='{.status.desiredNumberScheduled} {.status.numberReady}'
    said=$(kubectl get daemonset probe --namespace=gvisor --output=jsonpath="$numbers") || return
    echo "probes: ${said% *}, of which ready: ${said#* }, nodes: $1"
    [ "$said" = "$1 $1" ]
  }

  # class_unused: no pod but the probes runs in the sandbox; the others are named.
  class_unused() {
    local pods one='{.metadata.namespace}/{.metadata.name} {.status.phase}{"\n"}'
    pods=$(kubectl get pods --all-namespaces --output \
      jsonpath='{range .items[?(@.spec.runtimeClassName=="gvisor")]}'"$one{end}") || return
    pods=$(awk '$2 != "Succeeded" && $2 != "Failed" && $1 !~ "^gvisor/probe-" { print $1 }' <<< "$pods" |
      paste --serial --delimiters=' ')
    [ -z "$pods" ] || { printf 'pods run in the sandbox: %s\ndelete them first\n' "$pods"; return 1; }
  }
  export -f handlers_there sandboxed class_unused
  : "${KUBECONFIG:?the file that opens the API of the cluster}"

  # 1/5 the kubelet of every node has the handler runsc
  #   why: a pod that is placed where there is none never starts
  check() { handlers_there fortress-node; }
  demand 'the kubelet of every node has the handler runsc' './task runtime-gvisor apply; a node of Talos has it in its image: config/vm/talos-schematic.yaml'

  # 2/5 namespace gvisor has Pod Security level restricted
  #   why: nothing in gvisor needs more
  check() {
    test "$(kubectl get namespace gvisor --output=jsonpath='{.metadata.labels.pod-security\.kubernetes\.io/enforce} {.metadata.labels.pod-security\.kubernetes\.io/audit} {.metadata.labels.pod-security\.kubernetes\.io/warn}')" = 'restricted restricted restricted' &&
      account_quiet gvisor
  }
  apply() {
    (
      kubectl get namespace gvisor --output=name ||
        { release_awaited kubectl create namespace gvisor && kubectl label namespace gvisor fortress-kit=made; }
    )
    release_awaited kubectl label namespace gvisor --overwrite \
      pod-security.kubernetes.io/enforce=restricted pod-security.kubernetes.io/audit=restricted pod-security.kubernetes.io/warn=restricted
    account_quieten gvisor
  }
  change 'namespace gvisor has Pod Security level restricted'

  # 3/5 the manifests of gvisor are written
  check() {
    put_matches /nonexistent/fortress/components/gvisor.yaml dacf3caf17c6cd3648ae01b1564b9989ce03f48ac1521290b3d3a840d7f416df 644 root:root
  }
  apply() {
    put /nonexistent/fortress/components/gvisor.yaml 644 root:root << 'FORTRESS'
---
# What a pod names to get a sandbox, and a pod on each node that shows that it is one.
apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata: { name: gvisor, labels: { fortress-kit: gvisor } }
handler: runsc
# On top of what its containers ask for: the kernel of the pod is inside its limits. Seen: 41 MB, and 23 MB for each container.
overhead: { podFixed: { cpu: 10m, memory: 96Mi } }
scheduling: { nodeSelector: { fortress-kit/gvisor: ready } }
---
apiVersion: apps/v1
kind: DaemonSet
metadata: { name: probe, namespace: gvisor, labels: { fortress-kit: gvisor } }
spec:
  selector: { matchLabels: { app.kubernetes.io/name: gvisor-probe } }
  template:
    metadata: { labels: { app.kubernetes.io/name: gvisor-probe } }
    spec:
      runtimeClassName: gvisor
      automountServiceAccountToken: false
      enableServiceLinks: false
      terminationGracePeriodSeconds: 1
      tolerations: [{ operator: Exists }]
      securityContext:
        runAsNonRoot: true
        runAsUser: 65534
        runAsGroup: 65534
        seccompProfile: { type: RuntimeDefault }
      containers:
        - name: probe
          image: docker.io/library/busybox:1.37.0@sha256:bdf57e528e45e4433820e045b29b4597825a1c9e38353532d90a01445013f82e
          command: [busybox, sleep, '2147483647']
          # It is ready where the kernel that it sees is gVisor's: by its name, or by the date that all of its releases give.
          readinessProbe:
            exec:
              {
                command:
                  [busybox, grep, -q, -e, gvisor, -e, 'SMP Sun Jan 10 15:06:54 PST 2016', /proc/version],
              }
            periodSeconds: 60
            timeoutSeconds: 10
          resources: { requests: { cpu: 1m, memory: 8Mi }, limits: { memory: 16Mi } }
          securityContext:
            allowPrivilegeEscalation: false
            readOnlyRootFilesystem: true
            capabilities: { drop: [ALL] }
FORTRESS
    put_finish /nonexistent/fortress/components/gvisor.yaml
  }
  recover() { put_restore /nonexistent/fortress/components/gvisor.yaml; }
  change 'the manifests of gvisor are written'

  # 4/5 RuntimeClass gvisor is declared, with a probe on each node
  check() {
    objects_hold gvisor runtimeclasses.node.k8s.io,daemonsets.apps /nonexistent/fortress/components/gvisor.yaml
  }
  apply() {
    objects_apply gvisor runtimeclasses.node.k8s.io,daemonsets.apps /nonexistent/fortress/components/gvisor.yaml
  }
  change 'RuntimeClass gvisor is declared, with a probe on each node'

  # 5/5 on every node the kernel in a sandbox is that of gVisor
  #   why: what a pod says itself of the kernel that it sees: its probe looks into /proc/version every minute
  check() { sandboxed 1; }
  wait_for 'on every node the kernel in a sandbox is that of gVisor' 300
}

# What main uses.
# from lib/component/release.sh: release_diff release_here release_fields release_awaited release_advice account_quiet
# from lib/component/release.sh: account_quieten
# from lib/component/objects.sh: objects_named objects_there objects_spare objects_hold objects_apply objects_keep
# from lib/component/objects.sh: objects_delete
# from lib/engine/shell/put.sh: FK_STATE put put_owner put_finish put_finished put_restore put_matches
# from lib/engine/shell/snapshot.sh: record_before
# from lib/engine/shell/printed.sh: FK_OUT FK_RC FK_TX FK_VISIT FK_ARM FK_BACK FK_TMP begin_rootless usage recover holds
# from lib/engine/shell/printed.sh: change demand wait_for fail

main "$@"
