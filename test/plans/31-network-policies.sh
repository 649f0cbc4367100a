#!/bin/bash
# 31-network-policies: Who may talk to whom in the cluster: nobody, unless a policy allows it, both ways, for every pod and every node.
#
# Run it on the laptop, as yourself:
#   KUBECONFIG=FILE bash 31-network-policies.sh
# It has 6 steps. Each checks first, and changes only what does not hold.
# It needs kubectl and helm in PATH, and in KUBECONFIG the file that opens the API of the cluster.
# It keeps no record, so undo cannot take it back. It checks no controls: verify does.
# Steps that could cut you off (network policies are applied, and all other traffic is denied) are transactions in ./task network-policies apply alone: here nothing rolls them back.
# shellcheck disable=SC2034 # functions read what is set here
set -euo pipefail
FK_PAGE=31-network-policies FK_FILE=31-network-policies.sh
export FK_PAGE FK_FILE

main() {
  case ${1-} in '') ;; *) usage ;; esac
  begin_rootless kubectl helm
  : "${KUBECONFIG:?the file that opens the API of the cluster}"

  # 1/6 the policies let this laptop reach the API
  #   why: the firewall of the nodes is one of them, and it is in force at once
  check() { echo 'router.allow lets laptop (10.66.0.2) in'; }
  demand 'the policies let this laptop reach the API' 'let the tunnel in: a line of router.allow such as
{ from: tunnel, to: nodes, ports: [tcp/22, tcp/6443], why: administration } in config/sites/fortress.yaml'

  # 2/6 the CRDs of Cilium network policies are installed
  #   why: its operator defines that when it starts
  check() {
    kubectl wait --for=condition=Established --timeout=5s customresourcedefinitions ciliumnetworkpolicies.cilium.io ciliumclusterwidenetworkpolicies.cilium.io
  }
  wait_for 'the CRDs of Cilium network policies are installed' 120

  # 3/6 the manifest of the guard, which opens nodes again, is written
  check() {
    put_matches /nonexistent/fortress/components/cilium/guard.yaml 50f9d6670fbb5b5275814caad6b3eb896b5a831a684ea465114c23883bceb17f 644 root:root
  }
  apply() {
    (
      put /nonexistent/fortress/components/cilium/guard.yaml 644 root:root << 'FORTRESS'
# What opens a node again that new policies have closed. It runs on each node beside the agent, with its image, and speaks to it by its
# socket: neither the API nor another node is needed. 31-network-policies starts it before it applies policies, and takes it away,
# by new connections, when they are in force: whoever can do that is not cut off. Where nobody does, the agent reports what the
# policies of the node would drop, and lets it through (PolicyAuditMode), until this is taken away. Those of pods stay in force.
apiVersion: apps/v1
kind: DaemonSet
metadata:
  name: policy-guard
  namespace: cilium
spec:
  selector: { matchLabels: { app: policy-guard } }
  template:
    metadata: { labels: { app: policy-guard } }
    spec:
      hostNetwork: true # it must start also where pods have no network
      automountServiceAccountToken: false
      priorityClassName: system-node-critical
      terminationGracePeriodSeconds: 60
      tolerations: [{ operator: Exists }]
      containers:
        - name: guard
          image: IMAGE # that of the agent
          imagePullPolicy: IfNotPresent
          securityContext: { allowPrivilegeEscalation: false, capabilities: { drop: [ALL] } }
          env:
            - { name: WITHIN, value: 'SECONDS' }
          command: [bash, -c]
          args:
            - |
              # What is 1 is the identity of the node itself.
              node() { cilium-dbg endpoint list --output=jsonpath='{[?(@.status.identity.id==1)].id}'; }
              audit() { id=$(node) && [ -n "$id" ] && cilium-dbg endpoint config "$id" PolicyAuditMode="$1"; }
              closed() { until audit Disabled; do sleep 1; done; exit; }
              trap closed TERM
              # A container that starts anew does not begin anew.
              [ -e /guard/until ] || { audit Disabled; echo $(($(date +%s) + WITHIN)) > /guard/until; }
              while :; do
                if [ "$(date +%s)" -ge "$(cat /guard/until)" ]; then touch /guard/opened; audit Enabled; fi
                sleep 2 & wait $!
              done
          readinessProbe:
            exec: { command: [test, -e, /guard/until] }
            periodSeconds: 1
          volumeMounts:
            - { name: run, mountPath: /var/run/cilium }
            - { name: guard, mountPath: /guard }
      volumes:
        - { name: run, hostPath: { path: /var/run/cilium } }
        - { name: guard, emptyDir: {} }
FORTRESS
    )
    put_finish /nonexistent/fortress/components/cilium/guard.yaml
  }
  recover() { put_restore /nonexistent/fortress/components/cilium/guard.yaml; }
  change 'the manifest of the guard, which opens nodes again, is written'

  # 4/6 the manifests of policies are written
  check() {
    put_matches /nonexistent/fortress/components/policies.yaml bdb1ace20f54acb1496d92ab346893fcd01169eae5f45af20fd8c22e6de839e1 644 root:root
  }
  apply() {
    put /nonexistent/fortress/components/policies.yaml 644 root:root << 'FORTRESS'
---
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata:
  name: pods-names
  labels:
    fortress-kit: policies
spec:
  description: pods ask CoreDNS for the names of the cluster
  enableDefaultDeny:
    egress: false
  endpointSelector:
    matchExpressions:
      - key: io.kubernetes.pod.namespace
        operator: Exists
  egress:
    - toEndpoints:
        - matchLabels:
            io.kubernetes.pod.namespace: kube-system
            k8s-app: kube-dns
      toPorts:
        - ports:
            - port: '53'
              protocol: UDP
            - port: '53'
              protocol: TCP
          rules:
            dns:
              - matchPattern: '**.cluster.local'
---
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata:
  name: nodes-nodes
  labels:
    fortress-kit: policies
spec:
  description: nodes ask each other
  enableDefaultDeny:
    ingress: false
  nodeSelector: {}
  ingress:
    - fromEntities:
        - remote-node
      toPorts:
        - ports:
            - port: '10250'
              protocol: TCP
            - port: '8472'
              protocol: UDP
            - port: '51871'
              protocol: UDP
            - port: '4240'
              protocol: TCP
            - port: '4244'
              protocol: TCP
    - fromEntities:
        - all
      icmps:
        - fields:
            - family: IPv4
              type: 8
---
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata:
  name: nodes-servers
  labels:
    fortress-kit: policies
spec:
  description: nodes ask the servers
  enableDefaultDeny:
    ingress: false
  nodeSelector:
    matchExpressions:
      - key: node-role.kubernetes.io/control-plane
        operator: Exists
  ingress:
    - fromEntities:
        - remote-node
      toPorts:
        - ports:
            - port: '6443'
              protocol: TCP
            - port: '2379'
              endPort: 2380
              protocol: TCP
    - fromEndpoints:
        - {}
      toPorts:
        - ports:
            - port: '6443'
              protocol: TCP
---
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata:
  name: nodes-hubble
  labels:
    fortress-kit: policies
spec:
  description: Hubble Relay asks the agents
  enableDefaultDeny:
    ingress: false
  nodeSelector: {}
  ingress:
    - fromEndpoints:
        - matchLabels:
            io.kubernetes.pod.namespace: cilium
            k8s-app: hubble-relay
      toPorts:
        - ports:
            - port: '4244'
              protocol: TCP
---
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata:
  name: site-servers
  labels:
    fortress-kit: policies
spec:
  description: what router.allow opens on servers
  enableDefaultDeny:
    ingress: false
  nodeSelector:
    matchExpressions:
      - key: node-role.kubernetes.io/control-plane
        operator: Exists
  ingress:
    - fromCIDRSet:
        - cidr: 10.77.0.1/32
    - fromCIDRSet:
        - cidr: 10.66.0.0/24
      toPorts:
        - ports:
            - port: '22'
              protocol: TCP
            - port: '443'
              protocol: TCP
            - port: '6443'
              protocol: TCP
---
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata:
  name: nodes-names
  labels:
    fortress-kit: policies
spec:
  description: CoreDNS asks the resolver of its node
  enableDefaultDeny:
    ingress: false
  nodeSelector: {}
  ingress:
    - fromEndpoints:
        - matchLabels:
            io.kubernetes.pod.namespace: kube-system
            k8s-app: kube-dns
      toPorts:
        - ports:
            - port: '53'
              protocol: UDP
            - port: '53'
              protocol: TCP
---
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata:
  name: nodes-figures
  labels:
    fortress-kit: policies
spec:
  description: metrics-server asks the kubelets
  enableDefaultDeny:
    ingress: false
  nodeSelector: {}
  ingress:
    - fromEndpoints:
        - matchLabels:
            io.kubernetes.pod.namespace: kube-system
            k8s-app: metrics-server
      toPorts:
        - ports:
            - port: '10250'
              protocol: TCP
---
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata:
  name: gateway
  labels:
    fortress-kit: policies
spec:
  description: the audience of the site reaches the Gateway, and the Gateway reaches pods that have routes
  endpointSelector:
    matchExpressions:
      - key: reserved:ingress
        operator: Exists
  ingress:
    - fromCIDRSet:
        - cidr: 10.66.0.0/24
  egress:
    - toEndpoints:
        - matchExpressions:
            - key: io.cilium.k8s.namespace.labels.fortress-kit/gateway
              operator: Exists
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata:
  name: hubble-relay
  namespace: cilium
  labels:
    fortress-kit: policies
spec:
  description: Hubble Relay asks the agents
  endpointSelector:
    matchLabels:
      k8s-app: hubble-relay
  egress:
    - toEntities:
        - host
        - remote-node
      toPorts:
        - ports:
            - port: '4244'
              protocol: TCP
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata:
  name: hubble-generate-certs
  namespace: cilium
  labels:
    fortress-kit: policies
spec:
  description: the job that renews the certificates of Hubble asks the API
  endpointSelector:
    matchLabels:
      k8s-app: hubble-generate-certs
  egress:
    - toEntities:
        - kube-apiserver
      toPorts:
        - ports:
            - port: '6443'
              protocol: TCP
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata:
  name: coredns
  namespace: kube-system
  labels:
    fortress-kit: policies
spec:
  description: pods ask for names; CoreDNS asks the API and the resolver of the node
  endpointSelector:
    matchLabels:
      k8s-app: kube-dns
  ingress:
    - fromEndpoints:
        - matchExpressions:
            - key: io.kubernetes.pod.namespace
              operator: Exists
      toPorts:
        - ports:
            - port: '53'
              protocol: UDP
            - port: '53'
              protocol: TCP
  egress:
    - toEntities:
        - kube-apiserver
      toPorts:
        - ports:
            - port: '6443'
              protocol: TCP
    - toEntities:
        - host
      toPorts:
        - ports:
            - port: '53'
              protocol: UDP
            - port: '53'
              protocol: TCP
    - toCIDRSet:
        - cidr: 0.0.0.0/0
          except:
            - 0.0.0.0/8
            - 10.0.0.0/8
            - 100.64.0.0/10
            - 127.0.0.0/8
            - 169.254.0.0/16
            - 172.16.0.0/12
            - 192.168.0.0/16
            - 224.0.0.0/3
        - cidr: 10.77.0.1/32
      toPorts:
        - ports:
            - port: '53'
              protocol: UDP
            - port: '53'
              protocol: TCP
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata:
  name: metrics-server
  namespace: kube-system
  labels:
    fortress-kit: policies
spec:
  description: the API asks for figures, which come from the kubelets
  endpointSelector:
    matchLabels:
      k8s-app: metrics-server
  ingress:
    - fromEntities:
        - kube-apiserver
        - remote-node
      toPorts:
        - ports:
            - port: '10250'
              protocol: TCP
  egress:
    - toEntities:
        - kube-apiserver
      toPorts:
        - ports:
            - port: '6443'
              protocol: TCP
    - toEntities:
        - host
        - remote-node
      toPorts:
        - ports:
            - port: '10250'
              protocol: TCP
---
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata:
  name: never-metadata
  labels:
    fortress-kit: policies
spec:
  description: no pod reaches the metadata of a cloud
  enableDefaultDeny:
    egress: false
  endpointSelector:
    matchExpressions:
      - key: io.kubernetes.pod.namespace
        operator: Exists
  egressDeny:
    - toCIDRSet:
        - cidr: 169.254.0.0/16
---
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata:
  name: never-private
  labels:
    fortress-kit: policies
specs:
  - description: no pod reaches a private network
    enableDefaultDeny:
      egress: false
    endpointSelector:
      matchExpressions:
        - key: io.kubernetes.pod.namespace
          operator: Exists
        - key: io.kubernetes.pod.namespace
          operator: NotIn
          values:
            - kube-system
    egressDeny:
      - toCIDRSet:
          - cidr: 0.0.0.0/8
          - cidr: 10.0.0.0/8
          - cidr: 100.64.0.0/10
          - cidr: 127.0.0.0/8
          - cidr: 169.254.0.0/16
          - cidr: 172.16.0.0/12
          - cidr: 192.168.0.0/16
          - cidr: 224.0.0.0/3
  - description: no pod reaches a private network
    enableDefaultDeny:
      egress: false
    endpointSelector:
      matchExpressions:
        - key: io.kubernetes.pod.namespace
          operator: In
          values:
            - kube-system
        - key: k8s-app
          operator: NotIn
          values:
            - kube-dns
    egressDeny:
      - toCIDRSet:
          - cidr: 0.0.0.0/8
          - cidr: 10.0.0.0/8
          - cidr: 100.64.0.0/10
          - cidr: 127.0.0.0/8
          - cidr: 169.254.0.0/16
          - cidr: 172.16.0.0/12
          - cidr: 192.168.0.0/16
          - cidr: 224.0.0.0/3
---
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata:
  name: pods-default-deny
  labels:
    fortress-kit: policies
spec:
  description: what is not allowed is denied
  endpointSelector:
    matchExpressions:
      - key: io.kubernetes.pod.namespace
        operator: Exists
  ingress:
    - {}
  egress:
    - {}
---
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata:
  name: nodes-default-deny
  labels:
    fortress-kit: policies
spec:
  description: what is not allowed is denied
  nodeSelector: {}
  ingress:
    - {}
FORTRESS
    put_finish /nonexistent/fortress/components/policies.yaml
  }
  recover() { put_restore /nonexistent/fortress/components/policies.yaml; }
  change 'the manifests of policies are written'

  # 5/6 network policies are applied, and all other traffic is denied
  #   why: what a pod may reach is a line that somebody wrote: whoever gets into one gets nowhere from there
  check() {
    guard_absent && objects_hold policies ciliumnetworkpolicies.cilium.io,ciliumclusterwidenetworkpolicies.cilium.io /nonexistent/fortress/components/policies.yaml
  }
  apply() {
    guard_begin /nonexistent/fortress/components/cilium/guard.yaml 180 6443 22
    guard_ends objects_apply policies ciliumnetworkpolicies.cilium.io,ciliumclusterwidenetworkpolicies.cilium.io /nonexistent/fortress/components/policies.yaml
  }
  change 'network policies are applied, and all other traffic is denied'

  # 6/6 CoreDNS is ready under these policies
  #   why: CoreDNS is Ready only while it reaches the API, and the kubelet reaches CoreDNS
  check() { kubectl rollout status deployment/coredns --namespace kube-system --timeout=5s; }
  wait_for 'CoreDNS is ready under these policies' 120
}

# What main uses.
# from lib/component/release.sh: release_diff release_here release_fields release_awaited release_advice
# from lib/component/objects.sh: objects_named objects_there objects_spare objects_hold objects_apply objects_keep
# from lib/component/objects.sh: objects_delete
# from lib/component/cilium.sh: cilium_nodes cilium_runs
# from lib/component/guard.sh: guard_absent guard_begin guard_ports guard_open guard_ends guard_closed guard_proven
# from lib/component/guard.sh: guard_pods guard_on guard_gone
# from lib/engine/shell/put.sh: FK_STATE put put_owner put_finish put_finished put_restore put_matches
# from lib/engine/shell/snapshot.sh: record_before
# from lib/engine/shell/printed.sh: FK_OUT FK_RC FK_TX FK_VISIT FK_ARM FK_BACK FK_TMP begin_rootless usage recover holds
# from lib/engine/shell/printed.sh: change demand wait_for fail

main "$@"
