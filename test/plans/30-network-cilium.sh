#!/bin/bash
# 30-network-cilium: The network of pods: Cilium in place of kube-proxy, encryption between nodes, and every node Ready.
#
# Run it on the laptop, as yourself:
#   KUBECONFIG=FILE FK_FILES=DIR bash 30-network-cilium.sh
# It has 18 steps. Each checks first, and changes only what does not hold.
# It needs kubectl and helm in PATH, and in KUBECONFIG the file that opens the API of the cluster.
# It keeps no record, so undo cannot take it back. It checks no controls: verify does.
# FK_FILES is a directory with these downloads. Each is proven before it is used:
#   https://github.com/kubernetes-sigs/gateway-api/releases/download/v1.6.1/standard-install.yaml
#   https://helm.cilium.io/cilium-1.20.2.tgz
# shellcheck disable=SC2034 # functions read what is set here
set -euo pipefail
FK_PAGE=30-network-cilium FK_FILE=30-network-cilium.sh
export FK_PAGE FK_FILE

main() {
  case ${1-} in '') ;; *) usage ;; esac
  begin_rootless kubectl helm
  : "${FK_FILES:?a directory with the downloads of this page}"
  : "${KUBECONFIG:?the file that opens the API of the cluster}"

  # 1/18 no other network plug-in, and no kube-proxy, is in the cluster
  check() { cilium_alone; }
  demand 'no other network plug-in, and no kube-proxy, is in the cluster' 'Cilium takes the place of both. Take them away with what installed them, or leave this page out.
Those of k3s: ./task k3s-server apply starts it without them, and says what of them is left in the kernel of a node'

  # 2/18 pods have addresses of 10.42.0.0/16, and Services of 10.43.0.0/16
  #   why: what is encrypted, and who may talk to whom, is written for these networks
  check() { cilium_networks 10.42.0.0/16 10.43.0.0/16; }
  demand 'pods have addresses of 10.42.0.0/16, and Services of 10.43.0.0/16' 'a cluster keeps the networks that it was made with: write them into config/sites/fortress.yaml, as
cluster.pods and cluster.services, or make the cluster anew'

  # 3/18 the manifest that cleans nodes at undo is written
  check() {
    put_matches /nonexistent/fortress/components/cilium/clean.yaml c05dfbf7d95e2c9fd2afd60f8428acdab492ac5e0f04fab79eabca0cf5140abc 644 root:root
  }
  apply() {
    (
      put /nonexistent/fortress/components/cilium/clean.yaml 644 root:root << 'FORTRESS'
# What takes Cilium away from every node: its programs stay in the kernel, and in force, when the chart is uninstalled. The page
# starts this while the agent still runs, so that its image is there; it begins when the agent has ended.
apiVersion: apps/v1
kind: DaemonSet
metadata:
  name: cilium-clean
  namespace: cilium
spec:
  selector: { matchLabels: { app: cilium-clean } }
  template:
    metadata: { labels: { app: cilium-clean } }
    spec:
      hostNetwork: true
      hostPID: true # whether the agent still runs
      automountServiceAccountToken: false
      terminationGracePeriodSeconds: 1
      tolerations: [{ operator: Exists }]
      containers:
        - name: clean
          image: IMAGE # that of the agent
          imagePullPolicy: IfNotPresent
          securityContext: { privileged: true }
          command: [bash, -c]
          args:
            - |
              set -o pipefail # what is left is looked at in the end, whatever a command says
              agent() { grep --quiet --line-regexp --no-messages cilium-agent /proc/[0-9]*/comm; }
              links() { ip -brief link | sed --quiet --regexp-extended 's/^(cilium_[a-z0-9_]+|lxc_health|lxc[0-9a-f]{12})[@ ].*/\1/p'; }
              while agent; do sleep 1; done
              cilium-dbg post-uninstall-cleanup --force --all-state
              # Pods that still run have their end of a link here. No other network plug-in would adopt it.
              for link in $(links); do ip link delete "$link"; done
              for tables in iptables ip6tables; do
                for table in raw mangle nat filter; do
                  rules=$($tables --wait --table "$table" --list-rules 2> /dev/null) || continue
                  # Jumps to its chains first, then the chains.
                  grep -E -- '^-A .*-j (OLD_)?CILIUM_' <<< "$rules" | sed 's/^-A/-D/' |
                    while read -r rule; do eval "$tables --wait --table $table $rule"; done
                  chains=$(sed --quiet --regexp-extended 's/^-N ((OLD_)?CILIUM_.*)/\1/p' <<< "$rules")
                  for chain in $chains; do $tables --wait --table "$table" --flush "$chain"; done
                  for chain in $chains; do $tables --wait --table "$table" --delete-chain "$chain"; done
                done
              done
              for family in -4 -6; do
                # The rule for local addresses goes back to where the kernel has it.
                ip $family rule list priority 0 | grep local > /dev/null || ip $family rule add from all lookup local priority 0
                ip $family rule del from all lookup local priority 100
                for priority in 9 10; do
                  ip $family rule list priority $priority | grep --extended-regexp 'lookup (2004|2005)' > /dev/null &&
                    ip $family rule del priority $priority
                done
                for table in 2004 2005; do ip $family route flush table $table; done
              done 2> /dev/null
              rm --force /host/etc/sysctl.d/99-zzz-override_cilium.conf /host/opt/cni/bin/cilium-cni /host/etc/cni/net.d/05-cilium.conflist
              rm --recursive --force /host/var/lib/cilium
              # The agent has mounted it where the first process of the node sees it.
              if nsenter --mount=/proc/1/ns/mnt mountpoint --quiet /run/cilium/cgroupv2; then
                nsenter --mount=/proc/1/ns/mnt umount /run/cilium/cgroupv2
              fi
              # What cannot be asked is not clean.
              programs=$(bpftool prog show) && left=$(links) || exit 1
              programs=$(grep ' name cil_' <<< "$programs")
              echo "programs left: ${programs:-none}; links left:" ${left:-none}
              [ -z "$programs$left" ] && touch /tmp/clean
              exec sleep infinity
          readinessProbe:
            exec: { command: [test, -f, /tmp/clean] }
            periodSeconds: 1
          volumeMounts:
            - { name: bpf, mountPath: /sys/fs/bpf, mountPropagation: Bidirectional }
            - { name: run, mountPath: /var/run/cilium, mountPropagation: Bidirectional }
            - { name: netns, mountPath: /var/run/netns, mountPropagation: HostToContainer }
            - { name: cni, mountPath: /etc/cni/net.d }
            - { name: cni, mountPath: /host/etc/cni/net.d }
            - { name: plugins, mountPath: /host/opt/cni/bin }
            - { name: sysctl, mountPath: /host/etc/sysctl.d }
            - { name: lib, mountPath: /host/var/lib }
            - { name: lock, mountPath: /run/xtables.lock }
      volumes:
        - { name: bpf, hostPath: { path: /sys/fs/bpf } }
        - { name: run, hostPath: { path: /var/run/cilium, type: DirectoryOrCreate } }
        - { name: netns, hostPath: { path: /var/run/netns, type: DirectoryOrCreate } }
        - { name: cni, hostPath: { path: /etc/cni/net.d, type: DirectoryOrCreate } }
        - { name: plugins, hostPath: { path: /opt/cni/bin, type: DirectoryOrCreate } }
        - { name: sysctl, hostPath: { path: /etc/sysctl.d, type: DirectoryOrCreate } }
        - { name: lib, hostPath: { path: /var/lib } }
        - { name: lock, hostPath: { path: /run/xtables.lock, type: FileOrCreate } }
FORTRESS
    )
    put_finish /nonexistent/fortress/components/cilium/clean.yaml
  }
  recover() { put_restore /nonexistent/fortress/components/cilium/clean.yaml; }
  change 'the manifest that cleans nodes at undo is written'

  # 4/18 the values of cilium are written: values.yaml
  check() {
    put_matches /nonexistent/fortress/components/cilium/values.yaml 29d869598c9b7cc787e3b186a6fe32bf098555c1b4e7e02a3bbdf55000b8e266 644 root:root
  }
  apply() {
    put /nonexistent/fortress/components/cilium/values.yaml 644 root:root << 'FORTRESS'
# Cilium for every site. Addresses, networks and the number of nodes are in values.site.yaml, which the page makes from the site.

# What changes in the ConfigMap is read by a new pod only.
rollOutCiliumPods: true
operator: { rollOutPods: true }
envoy: { rollOutPods: true }

# Pods: the node's own part of the pod network, in VXLAN from node to node.
ipam: { mode: kubernetes }
routingMode: tunnel
tunnelProtocol: vxlan
kubeProxyReplacement: 'true'
bpf: { masquerade: true }

# Policies: default is that a pod which a policy selects gets what it allows; that all are selected is for 31-network-policies.
policyEnforcementMode: default
hostFirewall: { enabled: true }

# Between nodes: what leaves unencrypted is dropped. Traffic that stays on one node is never encrypted, and one node encrypts nothing.
encryption:
  enabled: true
  type: wireguard
  strictMode:
    # VXLAN needs the nodes' own addresses to get through. The network is the pods': values.site.yaml.
    egress: { enabled: true, allowRemoteNodeIdentities: true }
    ingress: { enabled: true }

# Gateways and Services of kind LoadBalancer: an address of the local network, announced by the node that answers for it.
gatewayAPI: { enabled: true }
l2announcements: { enabled: true }
# Leases for announcements are renewed by requests to the API: each Service adds to them.
k8sClientRateLimit: { qps: 20, burst: 40 }

# Hubble: what was dropped, and by which policy. A job renews its certificates: those that helm makes end after a year.
hubble:
  enabled: true
  relay: { enabled: true, rollOutPods: true }
  tls: { auto: { method: cronJob, certValidityDuration: 365 } }
  redact: { enabled: true, http: { urlQuery: true } }
  export:
    static:
      enabled: true
      # With what was allowed this would be every connection.
      allowList: ['{"verdict":["DROPPED","ERROR"]}']

# The list of the chart without SYS_MODULE: what the agent needs of the kernel is loaded before it starts.
securityContext:
  capabilities:
    ciliumAgent:
      - CHOWN
      - KILL
      - NET_ADMIN
      - NET_RAW
      - IPC_LOCK
      - SYS_ADMIN
      - SYS_RESOURCE
      - DAC_OVERRIDE
      - FOWNER
      - SETGID
      - SETUID
      - SYSLOG
    cleanCiliumState: [NET_ADMIN, SYS_ADMIN, SYS_RESOURCE]

resources: { requests: { cpu: 100m, memory: 400Mi } }
FORTRESS
    put_finish /nonexistent/fortress/components/cilium/values.yaml
  }
  recover() { put_restore /nonexistent/fortress/components/cilium/values.yaml; }
  change 'the values of cilium are written: values.yaml'

  # 5/18 the values of cilium are written: values.site.yaml
  check() {
    put_matches /nonexistent/fortress/components/cilium/values.site.yaml cf124a0bcaf29bce973205215d24b03fcc31aae74a81751294a09dd30f98944b 644 root:root
  }
  apply() {
    put /nonexistent/fortress/components/cilium/values.site.yaml 644 root:root << 'FORTRESS'
# What only the site fortress knows; made from its document.
cluster:
  name: fortress
operator:
  replicas: 1
k8sServiceHost: 127.0.0.1
k8sServicePort: 6444
encryption:
  strictMode:
    egress:
      cidr: 10.42.0.0/16
gatewayAPI:
  enabled: true
l2announcements:
  enabled: true
FORTRESS
    put_finish /nonexistent/fortress/components/cilium/values.site.yaml
  }
  recover() { put_restore /nonexistent/fortress/components/cilium/values.site.yaml; }
  change 'the values of cilium are written: values.site.yaml'

  # 6/18 namespace cilium has Pod Security level privileged
  #   why: its agent loads programs into the kernel of the node, in the node's own network; a namespace of its own, so that kube-system needs no exemption
  check() {
    test "$(kubectl get namespace cilium --output=jsonpath='{.metadata.labels.pod-security\.kubernetes\.io/enforce} {.metadata.labels.pod-security\.kubernetes\.io/audit} {.metadata.labels.pod-security\.kubernetes\.io/warn}')" = 'privileged privileged privileged' &&
      account_quiet cilium
  }
  apply() {
    (
      kubectl get namespace cilium --output=name ||
        { release_awaited kubectl create namespace cilium && kubectl label namespace cilium fortress-kit=made; }
    )
    release_awaited kubectl label namespace cilium --overwrite \
      pod-security.kubernetes.io/enforce=privileged pod-security.kubernetes.io/audit=privileged pod-security.kubernetes.io/warn=privileged
    account_quieten cilium
  }
  change 'namespace cilium has Pod Security level privileged'

  # 7/18 cilium can be upgraded to 1.20.2 directly
  #   why: its makers test an upgrade from the minor version before, and only from there
  check() { release_jump cilium cilium 1.20.2 minor; }
  demand 'cilium can be upgraded to 1.20.2 directly' 'pin a version between the two in config/versions.yaml, apply this page, then go on; an older one needs an undo'

  # 8/18 the CRDs of gateway-api have no other owner
  #   why: two owners take turns in replacing them, and what one of them drops is deleted with all its objects
  check() {
    release_crds_free backendtlspolicies.gateway.networking.k8s.io gatewayclasses.gateway.networking.k8s.io gateways.gateway.networking.k8s.io grpcroutes.gateway.networking.k8s.io httproutes.gateway.networking.k8s.io listenersets.gateway.networking.k8s.io referencegrants.gateway.networking.k8s.io tcproutes.gateway.networking.k8s.io tlsroutes.gateway.networking.k8s.io udproutes.gateway.networking.k8s.io
  }
  demand 'the CRDs of gateway-api have no other owner' 'take them away where they came from, or leave this component out: two cannot own them'

  # 9/18 the CRDs of gateway-api v1.6.1 are installed
  #   why: agent and operator look for them when they start, and do without gateways when they are not there
  check() {
    release_crds /nonexistent/fortress/components/cilium/gateway-api-v1.6.1.yaml backendtlspolicies.gateway.networking.k8s.io gatewayclasses.gateway.networking.k8s.io gateways.gateway.networking.k8s.io grpcroutes.gateway.networking.k8s.io httproutes.gateway.networking.k8s.io listenersets.gateway.networking.k8s.io referencegrants.gateway.networking.k8s.io tcproutes.gateway.networking.k8s.io tlsroutes.gateway.networking.k8s.io udproutes.gateway.networking.k8s.io
  }
  apply() {
    printf '%s  %s\n' 24d931f22abd8e40c973264319ead7cfa09d0fb7716b7ab1ee2ff174cb063a73 "$FK_FILES"/standard-install.yaml | sha256sum --check --quiet
    digest=$(sha256sum "$FK_FILES"/standard-install.yaml | cut --delimiter=' ' --fields=1)
    cp "$FK_FILES"/standard-install.yaml /nonexistent/fortress/components/cilium/.gateway-api-v1.6.1.yaml."${digest:0:16}".part
    export FK_SENT="$digest"' /nonexistent/fortress/components/cilium/gateway-api-v1.6.1.yaml'
    release_received /nonexistent/fortress/components/cilium/gateway-api-v1.6.1.yaml
    kubectl apply --server-side --field-manager=fortress-kit --filename=/nonexistent/fortress/components/cilium/gateway-api-v1.6.1.yaml
    kubectl wait --for=condition=Established --timeout=60s customresourcedefinitions backendtlspolicies.gateway.networking.k8s.io gatewayclasses.gateway.networking.k8s.io gateways.gateway.networking.k8s.io grpcroutes.gateway.networking.k8s.io httproutes.gateway.networking.k8s.io listenersets.gateway.networking.k8s.io referencegrants.gateway.networking.k8s.io tcproutes.gateway.networking.k8s.io tlsroutes.gateway.networking.k8s.io udproutes.gateway.networking.k8s.io
  }
  change 'the CRDs of gateway-api v1.6.1 are installed'

  # 10/18 the chart of cilium 1.20.2 is downloaded and verified
  #   why: it is proven by its SHA-256 before helm sees it
  check() {
    release_chart /nonexistent/fortress/components/cilium/cilium-1.20.2.tgz b2afd87b7f75f875f92a14559f14f59b7babbb479d968e3fd625a20bf30ec20e
  }
  apply() {
    printf '%s  %s\n' b2afd87b7f75f875f92a14559f14f59b7babbb479d968e3fd625a20bf30ec20e "$FK_FILES"/cilium-1.20.2.tgz | sha256sum --check --quiet
    digest=$(sha256sum "$FK_FILES"/cilium-1.20.2.tgz | cut --delimiter=' ' --fields=1)
    cp "$FK_FILES"/cilium-1.20.2.tgz /nonexistent/fortress/components/cilium/.cilium-1.20.2.tgz."${digest:0:16}".part
    export FK_SENT="$digest"' /nonexistent/fortress/components/cilium/cilium-1.20.2.tgz'
    release_received /nonexistent/fortress/components/cilium/cilium-1.20.2.tgz
  }
  change 'the chart of cilium 1.20.2 is downloaded and verified'

  # 11/18 cilium 1.20.2 is installed with the declared values
  #   why: every object is compared with what the server makes of the chart, field by field
  check() {
    release_holds cilium cilium 'chart b2afd87b7f75f875, values e44e9c95a263e6bf' \
      '' \
      /nonexistent/fortress/components/cilium/cilium-1.20.2.tgz --values /nonexistent/fortress/components/cilium/values.yaml --values /nonexistent/fortress/components/cilium/values.site.yaml
  }
  apply() {
    release_settle cilium cilium
    release_awaited helm upgrade --install cilium /nonexistent/fortress/components/cilium/cilium-1.20.2.tgz --namespace cilium \
      --values /nonexistent/fortress/components/cilium/values.yaml --values /nonexistent/fortress/components/cilium/values.site.yaml \
      --description 'chart b2afd87b7f75f875, values e44e9c95a263e6bf' --labels "fortress-kit=$(release_by)" \
      --server-side=true --force-conflicts --history-max=5 --timeout=600s ||
      release_back cilium cilium
    release_take_added cilium cilium
  }
  change 'cilium 1.20.2 is installed with the declared values'

  # 12/18 daemonset cilium/cilium is ready
  #   why: the first start pulls the image and compiles its programs; after a restart beside a Gateway it needs more than a minute
  check() { kubectl rollout status daemonset/cilium --namespace cilium --timeout=5s; }
  wait_for 'daemonset cilium/cilium is ready' 600

  # 13/18 deployment cilium/cilium-operator is ready
  check() { kubectl rollout status deployment/cilium-operator --namespace cilium --timeout=5s; }
  wait_for 'deployment cilium/cilium-operator is ready' 300

  # 14/18 every node is ready
  #   why: a node is Ready when the agent has written its CNI configuration
  check() { kubectl wait --for=condition=Ready --timeout=5s --namespace cilium node --all; }
  wait_for 'every node is ready' 180

  # 15/18 deployment kube-system/coredns is ready
  #   why: Hubble's relay finds the agents by a name
  check() { kubectl rollout status deployment/coredns --namespace kube-system --timeout=5s; }
  wait_for 'deployment kube-system/coredns is ready' 300

  # 16/18 the agents have the certificates of Hubble
  #   why: they begin before these are made; a kubelet looks for new ones once a minute, and at once where a pod changes
  check() { cilium_certified; }
  apply() { cilium_certify 300; }
  change 'the agents have the certificates of Hubble'

  # 17/18 deployment cilium/hubble-relay is ready
  check() { kubectl rollout status deployment/hubble-relay --namespace cilium --timeout=5s; }
  wait_for 'deployment cilium/hubble-relay is ready' 300

  # 18/18 namespace cilium-secrets gives a pod without an account no token
  #   why: the chart makes it, for certificates of gateways, with an account like any other
  check() { account_quiet cilium-secrets; }
  apply() { account_quieten cilium-secrets; }
  change 'namespace cilium-secrets gives a pod without an account no token'
}

# What main uses.
# from lib/component/release.sh: release_holds release_would_change release_objects release_diff release_here
# from lib/component/release.sh: release_added release_take_added release_fields release_awaited release_advice
# from lib/component/release.sh: release_by release_revisions release_good RELEASE_LIMIT release_settle release_back
# from lib/component/release.sh: account_quiet account_quieten release_crds_free release_crds release_jump release_chart
# from lib/component/release.sh: release_received
# from lib/component/cilium.sh: cilium_alone cilium_networks cilium_certified cilium_certify
# from lib/engine/shell/put.sh: FK_STATE put put_owner put_finish put_finished put_restore received put_matches
# from lib/engine/shell/snapshot.sh: record_before
# from lib/engine/shell/printed.sh: FK_OUT FK_RC FK_TX FK_VISIT FK_ARM FK_BACK FK_TMP begin_rootless usage recover holds
# from lib/engine/shell/printed.sh: change demand wait_for fail

main "$@"
