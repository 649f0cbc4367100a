#!/bin/bash
# 32-network-gateway: Gateways: where web requests come into the cluster, by the address, the audience and the names of the site.
#
# Run it on the laptop, as yourself:
#   KUBECONFIG=FILE bash 32-network-gateway.sh
# It has 5 steps. Each checks first, and changes only what does not hold.
# It needs kubectl and helm in PATH, and in KUBECONFIG the file that opens the API of the cluster.
# It keeps no record, so undo cannot take it back. It checks no controls: verify does.
# shellcheck disable=SC2034 # functions read what is set here
set -euo pipefail
FK_PAGE=32-network-gateway FK_FILE=32-network-gateway.sh
export FK_PAGE FK_FILE

main() {
  case ${1-} in '') ;; *) usage ;; esac
  begin_rootless kubectl helm
  : "${KUBECONFIG:?the file that opens the API of the cluster}"

  # 1/5 Cilium answers for gateways, and its CRDs are installed
  #   why: its operator defines and accepts them when it starts
  check() {
    kubectl wait --for=condition=Established --timeout=5s customresourcedefinitions ciliuml2announcementpolicies.cilium.io ciliumloadbalancerippools.cilium.io gateways.gateway.networking.k8s.io httproutes.gateway.networking.k8s.io &&
      kubectl wait --for=condition=Accepted --timeout=5s gatewayclasses.gateway.networking.k8s.io cilium
  }
  wait_for 'Cilium answers for gateways, and its CRDs are installed' 120

  # 2/5 namespace gateways has Pod Security level restricted
  #   why: nothing in gateways needs more
  check() {
    test "$(kubectl get namespace gateways --output=jsonpath='{.metadata.labels.pod-security\.kubernetes\.io/enforce} {.metadata.labels.pod-security\.kubernetes\.io/audit} {.metadata.labels.pod-security\.kubernetes\.io/warn}')" = 'restricted restricted restricted' &&
      account_quiet gateways
  }
  apply() {
    (
      kubectl get namespace gateways --output=name ||
        { release_awaited kubectl create namespace gateways && kubectl label namespace gateways fortress-kit=made; }
    )
    release_awaited kubectl label namespace gateways --overwrite \
      pod-security.kubernetes.io/enforce=restricted pod-security.kubernetes.io/audit=restricted pod-security.kubernetes.io/warn=restricted
    account_quieten gateways
  }
  change 'namespace gateways has Pod Security level restricted'

  # 3/5 the manifests of gateways are written
  check() {
    put_matches /nonexistent/fortress/components/gateways.yaml e37206f58832fd391afed0ee0e5cc3e681a142cad93b248c0fb549bd9a34c27f 644 root:root
  }
  apply() {
    put /nonexistent/fortress/components/gateways.yaml 644 root:root << 'FORTRESS'
---
apiVersion: cilium.io/v2
kind: CiliumLoadBalancerIPPool
metadata:
  name: gateway-inside
  labels:
    fortress-kit: gateways
spec:
  blocks:
    - start: 10.77.0.240
      stop: 10.77.0.240
  serviceSelector:
    matchLabels:
      io.kubernetes.service.namespace: gateways
      gateway.networking.k8s.io/gateway-name: inside
---
apiVersion: cilium.io/v2alpha1
kind: CiliumL2AnnouncementPolicy
metadata:
  name: gateways
  labels:
    fortress-kit: gateways
spec:
  loadBalancerIPs: true
  serviceSelector:
    matchLabels:
      io.kubernetes.service.namespace: gateways
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata:
  name: inside
  namespace: gateways
  labels:
    fortress-kit: gateways
spec:
  gatewayClassName: cilium
  addresses:
    - type: IPAddress
      value: 10.77.0.240
  listeners:
    - name: http
      port: 80
      protocol: HTTP
      hostname: '*.fortress.internal'
      allowedRoutes:
        namespaces:
          from: Same
    - name: https
      port: 443
      protocol: HTTPS
      hostname: '*.fortress.internal'
      tls:
        mode: Terminate
        certificateRefs:
          - name: inside-tls
      allowedRoutes:
        namespaces:
          from: Selector
          selector:
            matchLabels:
              fortress-kit/gateway: inside
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: inside-https
  namespace: gateways
  labels:
    fortress-kit: gateways
spec:
  parentRefs:
    - name: inside
      sectionName: http
  rules:
    - filters:
        - type: RequestRedirect
          requestRedirect:
            scheme: https
            statusCode: 301
FORTRESS
    put_finish /nonexistent/fortress/components/gateways.yaml
  }
  recover() { put_restore /nonexistent/fortress/components/gateways.yaml; }
  change 'the manifests of gateways are written'

  # 4/5 gateways are declared: inside at 10.77.0.240
  #   why: HTTP leads to HTTPS only; HTTPS begins when 33-certificates has made the certificates that they name
  check() {
    objects_hold gateways ciliuml2announcementpolicies.cilium.io,ciliumloadbalancerippools.cilium.io,gateways.gateway.networking.k8s.io,httproutes.gateway.networking.k8s.io /nonexistent/fortress/components/gateways.yaml
  }
  apply() {
    objects_apply gateways ciliuml2announcementpolicies.cilium.io,ciliumloadbalancerippools.cilium.io,gateways.gateway.networking.k8s.io,httproutes.gateway.networking.k8s.io /nonexistent/fortress/components/gateways.yaml
  }
  change 'gateways are declared: inside at 10.77.0.240'

  # 5/5 gateway inside is accepted and programmed at 10.77.0.240
  check() {
    gateway_ready gateways inside 10.77.0.240 &&
      route_ready gateways inside-https
  }
  wait_for 'gateway inside is accepted and programmed at 10.77.0.240' 180
}

# What main uses.
# from lib/component/release.sh: release_diff release_here release_fields release_awaited release_advice account_quiet
# from lib/component/release.sh: account_quieten
# from lib/component/objects.sh: objects_named objects_there objects_spare objects_hold objects_apply objects_keep
# from lib/component/objects.sh: objects_delete
# from lib/component/gateways.sh: gateway_ready route_ready
# from lib/engine/shell/put.sh: FK_STATE put put_owner put_finish put_finished put_restore put_matches
# from lib/engine/shell/snapshot.sh: record_before
# from lib/engine/shell/printed.sh: FK_OUT FK_RC FK_TX FK_VISIT FK_ARM FK_BACK FK_TMP begin_rootless usage recover holds
# from lib/engine/shell/printed.sh: change wait_for fail

main "$@"
