#!/bin/bash
# 49-policy-engine: Kyverno, a second engine for the rules of page 50: it reports on what is there, and may be silent without blocking anything.
#
# Run it on the laptop, as yourself:
#   KUBECONFIG=FILE FK_FILES=DIR bash 49-policy-engine.sh
# It has 11 steps. Each checks first, and changes only what does not hold.
# It needs kubectl and helm in PATH, and in KUBECONFIG the file that opens the API of the cluster.
# It keeps no record, so undo cannot take it back. It checks no controls: verify does.
# FK_FILES is a directory with these downloads. Each is proven before it is used:
#   https://kyverno.github.io/kyverno/kyverno-3.9.1.tgz
# shellcheck disable=SC2034 # functions read what is set here
set -euo pipefail
FK_PAGE=49-policy-engine FK_FILE=49-policy-engine.sh
export FK_PAGE FK_FILE

main() {
  case ${1-} in '') ;; *) usage ;; esac
  begin_rootless kubectl helm
  : "${FK_FILES:?a directory with the downloads of this page}"
  : "${KUBECONFIG:?the file that opens the API of the cluster}"

  # 1/11 the values of kyverno are written: values.yaml
  check() {
    put_matches /nonexistent/fortress/components/kyverno/values.yaml 1ca3d0550d4ff144efebfafbcf4465a32539851af9f89fb8b09c42d66b029f33 644 root:root
  }
  apply() {
    put /nonexistent/fortress/components/kyverno/values.yaml 644 root:root << 'FORTRESS'
# Kyverno for every site: it judges and reports. It changes nothing that somebody applies, and makes nothing by itself.

# Where its makers put their images: reg.kyverno.io only leads there.
global: { image: { registry: ghcr.io } }
# Undo takes the programs and leaves the definitions: with them every policy and report would go.
kyverno-api: { annotations: { helm.sh/resource-policy: keep } }
crds:
  annotations: { helm.sh/resource-policy: keep }
  # It would rewrite policies of older versions in a pod that reaches nobody; page 50 applies ours anew.
  migration: { enabled: false }
# Page 49 takes the webhooks away itself, when nothing is left that would make them anew.
webhooksCleanup: { enabled: false }
config:
  # Undo takes it away with the rest.
  preserve: false
  webhooks:
    # Whatever a policy says: what must run before Kyverno can is not asked about, nor (excludeKyvernoNamespace) is it itself.
    namespaceSelector:
      matchExpressions:
        - { key: kubernetes.io/metadata.name, operator: NotIn, values: [kube-system, cilium] }
  excludeKyvernoNamespace: true
  # The chart passes them over, and a person can make one.
  resourceFiltersExclude: ['[ReplicaSet,*,*]', '[ReplicaSet/?*,*,*]']
# Who administers a namespace gets no say over policies by that.
rbac: { roles: { aggregate: { admin: false } } }
features:
  # An exception of Kyverno's lives on after its day until somebody touches the policy. Ours are conditions of the rules.
  policyExceptions: { enabled: false }
  # The rules are in the API server already, and reported by Kyverno's own.
  generateValidatingAdmissionPolicy: { enabled: false }
  validatingAdmissionPolicyReports: { enabled: false }
  # The others would ask the clouds of their makers who they are.
  registryClient: { credentialHelpers: [default] }
# What would change or make objects, and what would delete them.
backgroundController: { enabled: false }
cleanupController: { enabled: false }
# To report on what a rule is about it has to read it: more than the role `view` lets it.
reportsController:
  rbac:
    clusterRole:
      extraResources:
        - { apiGroups: [''], resources: [pods/ephemeralcontainers], verbs: [get, list, watch] }
        - apiGroups: [gateway.networking.k8s.io]
          resources: [gateways, grpcroutes, httproutes, listenersets, tlsroutes]
          verbs: [get, list, watch]
FORTRESS
    put_finish /nonexistent/fortress/components/kyverno/values.yaml
  }
  recover() { put_restore /nonexistent/fortress/components/kyverno/values.yaml; }
  change 'the values of kyverno are written: values.yaml'

  # 2/11 the values of kyverno are written: values.site.yaml
  check() {
    put_matches /nonexistent/fortress/components/kyverno/values.site.yaml b88031454759dbc6437db294f0243571cbcb456c635859125d2c7cbf793a06fc 644 root:root
  }
  apply() {
    put /nonexistent/fortress/components/kyverno/values.site.yaml 644 root:root << 'FORTRESS'
# What only the site fortress knows; made from its document.
admissionController:
  replicas: 1
FORTRESS
    put_finish /nonexistent/fortress/components/kyverno/values.site.yaml
  }
  recover() { put_restore /nonexistent/fortress/components/kyverno/values.site.yaml; }
  change 'the values of kyverno are written: values.site.yaml'

  # 3/11 namespace kyverno has Pod Security level restricted
  #   why: nothing in kyverno needs more
  check() {
    test "$(kubectl get namespace kyverno --output=jsonpath='{.metadata.labels.pod-security\.kubernetes\.io/enforce} {.metadata.labels.pod-security\.kubernetes\.io/audit} {.metadata.labels.pod-security\.kubernetes\.io/warn}')" = 'restricted restricted restricted' &&
      account_quiet kyverno
  }
  apply() {
    (
      kubectl get namespace kyverno --output=name ||
        { release_awaited kubectl create namespace kyverno && kubectl label namespace kyverno fortress-kit=made; }
    )
    release_awaited kubectl label namespace kyverno --overwrite \
      pod-security.kubernetes.io/enforce=restricted pod-security.kubernetes.io/audit=restricted pod-security.kubernetes.io/warn=restricted
    account_quieten kyverno
  }
  change 'namespace kyverno has Pod Security level restricted'

  # 4/11 the manifests of kyverno-policies are written
  check() {
    put_matches /nonexistent/fortress/components/kyverno-policies.yaml ccc825990cb29e7cc1fa5a752eeb531ad99d14506ac0e430d43d91966cdeb6f4 644 root:root
  }
  apply() {
    put /nonexistent/fortress/components/kyverno-policies.yaml 644 root:root << 'FORTRESS'
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata:
  name: kyverno-admission
  namespace: kyverno
  labels:
    fortress-kit: kyverno-policies
spec:
  description: the API asks Kyverno, and Kyverno the API
  endpointSelector:
    matchLabels:
      app.kubernetes.io/part-of: kyverno
      app.kubernetes.io/component: admission-controller
  ingress:
    - fromEntities:
        - kube-apiserver
        - remote-node
      toPorts:
        - ports:
            - port: '9443'
              protocol: TCP
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
  name: kyverno-reports
  namespace: kyverno
  labels:
    fortress-kit: kyverno-policies
spec:
  description: what is there is read from the API, and reported to it
  endpointSelector:
    matchLabels:
      app.kubernetes.io/part-of: kyverno
      app.kubernetes.io/component: reports-controller
  egress:
    - toEntities:
        - kube-apiserver
      toPorts:
        - ports:
            - port: '6443'
              protocol: TCP
FORTRESS
    put_finish /nonexistent/fortress/components/kyverno-policies.yaml
  }
  recover() { put_restore /nonexistent/fortress/components/kyverno-policies.yaml; }
  change 'the manifests of kyverno-policies are written'

  # 5/11 the network policies of kyverno are applied
  #   why: under the default deny its pods reach nobody before that
  check() {
    objects_hold kyverno-policies ciliumnetworkpolicies.cilium.io /nonexistent/fortress/components/kyverno-policies.yaml
  }
  apply() {
    objects_apply kyverno-policies ciliumnetworkpolicies.cilium.io /nonexistent/fortress/components/kyverno-policies.yaml
  }
  change 'the network policies of kyverno are applied'

  # 6/11 kyverno can be upgraded to 3.9.1 directly
  #   why: its notes say for each minor version what to do before, and nothing for two at once
  check() { release_jump kyverno kyverno 3.9.1 minor; }
  demand 'kyverno can be upgraded to 3.9.1 directly' 'pin a version between the two in config/versions.yaml, apply this page, then go on; an older one needs an undo'

  # 7/11 the chart of kyverno 3.9.1 is downloaded and verified
  #   why: it is proven by its SHA-256 before helm sees it
  check() {
    release_chart /nonexistent/fortress/components/kyverno/kyverno-3.9.1.tgz 7b7fe51a431b5b133b0ce7eb9dcb222b6a37fb967c163223cf480054ad14d752
  }
  apply() {
    printf '%s  %s\n' 7b7fe51a431b5b133b0ce7eb9dcb222b6a37fb967c163223cf480054ad14d752 "$FK_FILES"/kyverno-3.9.1.tgz | sha256sum --check --quiet
    digest=$(sha256sum "$FK_FILES"/kyverno-3.9.1.tgz | cut --delimiter=' ' --fields=1)
    cp "$FK_FILES"/kyverno-3.9.1.tgz /nonexistent/fortress/components/kyverno/.kyverno-3.9.1.tgz."${digest:0:16}".part
    export FK_SENT="$digest"' /nonexistent/fortress/components/kyverno/kyverno-3.9.1.tgz'
    release_received /nonexistent/fortress/components/kyverno/kyverno-3.9.1.tgz
  }
  change 'the chart of kyverno 3.9.1 is downloaded and verified'

  # 8/11 kyverno 3.9.1 is installed with the declared values
  #   why: every object is compared with what the server makes of the chart, field by field
  check() {
    release_holds kyverno kyverno 'chart 7b7fe51a431b5b13, values a5b533a2aef870df' \
      'ClusterRole * rules' \
      /nonexistent/fortress/components/kyverno/kyverno-3.9.1.tgz --values /nonexistent/fortress/components/kyverno/values.yaml --values /nonexistent/fortress/components/kyverno/values.site.yaml
  }
  apply() {
    release_settle kyverno kyverno
    release_awaited helm upgrade --install kyverno /nonexistent/fortress/components/kyverno/kyverno-3.9.1.tgz --namespace kyverno \
      --values /nonexistent/fortress/components/kyverno/values.yaml --values /nonexistent/fortress/components/kyverno/values.site.yaml \
      --description 'chart 7b7fe51a431b5b13, values a5b533a2aef870df' --labels "fortress-kit=$(release_by)" \
      --server-side=true --force-conflicts --history-max=5 --timeout=600s ||
      release_back kyverno kyverno
    release_take_added kyverno kyverno
  }
  change 'kyverno 3.9.1 is installed with the declared values'

  # 9/11 deployment kyverno/kyverno-admission-controller is ready
  #   why: it makes its certificate and its webhooks when it starts
  check() {
    kubectl rollout status deployment/kyverno-admission-controller --namespace kyverno --timeout=5s
  }
  wait_for 'deployment kyverno/kyverno-admission-controller is ready' 600

  # 10/11 deployment kyverno/kyverno-reports-controller is ready
  check() {
    kubectl rollout status deployment/kyverno-reports-controller --namespace kyverno --timeout=5s
  }
  wait_for 'deployment kyverno/kyverno-reports-controller is ready' 300

  # 11/11 Kyverno answers the API server
  #   why: its certificate has to reach the API server first, by its webhooks
  check() { kyverno_answers; }
  wait_for 'Kyverno answers the API server' 180
}

# What main uses.
# from lib/component/release.sh: release_holds release_would_change release_objects release_diff release_here
# from lib/component/release.sh: release_added release_take_added release_fields release_awaited release_advice
# from lib/component/release.sh: release_by release_revisions release_good RELEASE_LIMIT release_settle release_back
# from lib/component/release.sh: account_quiet account_quieten release_jump release_chart release_received
# from lib/component/objects.sh: objects_named objects_there objects_spare objects_hold objects_apply objects_keep
# from lib/component/objects.sh: objects_delete
# from lib/component/kyverno.sh: kyverno_answers
# from lib/engine/shell/put.sh: FK_STATE put put_owner put_finish put_finished put_restore received put_matches
# from lib/engine/shell/snapshot.sh: record_before
# from lib/engine/shell/printed.sh: FK_OUT FK_RC FK_TX FK_VISIT FK_ARM FK_BACK FK_TMP begin_rootless usage recover holds
# from lib/engine/shell/printed.sh: change demand wait_for fail

main "$@"
