#!/bin/bash
# 33-certificates: Certificates for the gateways, renewed before they end: by a CA of the site's own, or by an authority outside.
#
# Run it on the laptop, as yourself:
#   KUBECONFIG=FILE FK_SECRETS=DIR FK_FILES=DIR bash 33-certificates.sh
# It has 17 steps. Each checks first, and changes only what does not hold.
# It needs kubectl and helm in PATH, and in KUBECONFIG the file that opens the API of the cluster.
# It keeps no record, so undo cannot take it back. It checks no controls: verify does.
# FK_SECRETS is a directory with one file for each of these secrets, as the machine gets it:
#   ca-root
# FK_FILES is a directory with these downloads. Each is proven before it is used:
#   https://charts.jetstack.io/charts/cert-manager-v1.21.2.tgz
# shellcheck disable=SC2034 # functions read what is set here
set -euo pipefail
FK_PAGE=33-certificates FK_FILE=33-certificates.sh
export FK_PAGE FK_FILE

main() {
  case ${1-} in '') ;; *) usage ;; esac
  begin_rootless kubectl helm
  : "${FK_SECRETS:?a directory with the secrets of this page}"
  : "${FK_FILES:?a directory with the downloads of this page}"
  : "${KUBECONFIG:?the file that opens the API of the cluster}"

  # 1/17 the root certificate of fortress is on the laptop, and signs names of the site alone
  #   why: who gets hold of its key could not pretend to be a bank
  check() { ca_root_holds /nonexistent/fortress/ca.crt fortress.internal; }
  apply() {
    {
      ca_root /nonexistent/fortress/ca.crt 'fortress root CA' fortress.internal
    } < "$FK_SECRETS"/ca-root
  }
  change 'the root certificate of fortress is on the laptop, and signs names of the site alone'

  # 2/17 the values of cert-manager are written: values.yaml
  check() {
    put_matches /nonexistent/fortress/components/cert-manager/values.yaml ba74cbc85f9e5b1e4dffe50d93b8f720eb895623e99d63db5ea70eea2b8402df 644 root:root
  }
  apply() {
    put /nonexistent/fortress/components/cert-manager/values.yaml 644 root:root << 'FORTRESS'
# cert-manager for every site.

# Undo takes the programs and leaves the definitions: with them every certificate would go.
crds: { enabled: true, keep: true }
# Its leases lie in its own namespace, and it needs no right in kube-system.
global: { leaderElection: { namespace: cert-manager } }
# CoreDNS, or the servers that the site names, say whether a record is there: nothing else is open to it.
dns01RecursiveNameserversOnly: true
# A certificate that nobody asks for any more takes its Secret with it.
enableCertificateOwnerRef: true
# We wait for its webhook ourselves, and see what it waits for.
startupapicheck: { enabled: false }
resources: { requests: { cpu: 10m, memory: 64Mi } }
webhook: { resources: { requests: { cpu: 10m, memory: 32Mi } } }
cainjector: { resources: { requests: { cpu: 10m, memory: 64Mi } } }
FORTRESS
    put_finish /nonexistent/fortress/components/cert-manager/values.yaml
  }
  recover() { put_restore /nonexistent/fortress/components/cert-manager/values.yaml; }
  change 'the values of cert-manager are written: values.yaml'

  # 3/17 namespace cert-manager has Pod Security level restricted
  #   why: nothing in cert-manager needs more
  check() {
    test "$(kubectl get namespace cert-manager --output=jsonpath='{.metadata.labels.pod-security\.kubernetes\.io/enforce} {.metadata.labels.pod-security\.kubernetes\.io/audit} {.metadata.labels.pod-security\.kubernetes\.io/warn}')" = 'restricted restricted restricted' &&
      account_quiet cert-manager
  }
  apply() {
    (
      kubectl get namespace cert-manager --output=name ||
        { release_awaited kubectl create namespace cert-manager && kubectl label namespace cert-manager fortress-kit=made; }
    )
    release_awaited kubectl label namespace cert-manager --overwrite \
      pod-security.kubernetes.io/enforce=restricted pod-security.kubernetes.io/audit=restricted pod-security.kubernetes.io/warn=restricted
    account_quieten cert-manager
  }
  change 'namespace cert-manager has Pod Security level restricted'

  # 4/17 the manifests of cert-manager-policies are written
  check() {
    put_matches /nonexistent/fortress/components/cert-manager-policies.yaml eb1b97ab3004f066ec3788d5da697a4d74b9e1321a4e689a93c74042031f871d 644 root:root
  }
  apply() {
    put /nonexistent/fortress/components/cert-manager-policies.yaml 644 root:root << 'FORTRESS'
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata:
  name: cert-manager
  namespace: cert-manager
  labels:
    fortress-kit: cert-manager-policies
spec:
  description: the controller asks the API, the authority and the provider of names
  endpointSelector:
    matchLabels:
      app.kubernetes.io/name: cert-manager
      app.kubernetes.io/component: controller
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
  name: cert-manager-webhook
  namespace: cert-manager
  labels:
    fortress-kit: cert-manager-policies
spec:
  description: the API asks the webhook
  endpointSelector:
    matchLabels:
      app.kubernetes.io/name: webhook
      app.kubernetes.io/component: webhook
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
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata:
  name: cert-manager-cainjector
  namespace: cert-manager
  labels:
    fortress-kit: cert-manager-policies
spec:
  description: the CA injector asks the API
  endpointSelector:
    matchLabels:
      app.kubernetes.io/name: cainjector
      app.kubernetes.io/component: cainjector
  egress:
    - toEntities:
        - kube-apiserver
      toPorts:
        - ports:
            - port: '6443'
              protocol: TCP
FORTRESS
    put_finish /nonexistent/fortress/components/cert-manager-policies.yaml
  }
  recover() { put_restore /nonexistent/fortress/components/cert-manager-policies.yaml; }
  change 'the manifests of cert-manager-policies are written'

  # 5/17 the network policies of cert-manager are applied
  #   why: under the default deny its pods reach nobody before that
  check() {
    objects_hold cert-manager-policies ciliumnetworkpolicies.cilium.io /nonexistent/fortress/components/cert-manager-policies.yaml
  }
  apply() {
    objects_apply cert-manager-policies ciliumnetworkpolicies.cilium.io /nonexistent/fortress/components/cert-manager-policies.yaml
  }
  change 'the network policies of cert-manager are applied'

  # 6/17 cert-manager can be upgraded to v1.21.2 directly
  #   why: its makers ask for one minor version after the other
  check() { release_jump cert-manager cert-manager v1.21.2 minor; }
  demand 'cert-manager can be upgraded to v1.21.2 directly' 'pin a version between the two in config/versions.yaml, apply this page, then go on; an older one needs an undo'

  # 7/17 the chart of cert-manager v1.21.2 is downloaded and verified
  #   why: it is proven by its SHA-256 before helm sees it
  check() {
    release_chart /nonexistent/fortress/components/cert-manager/cert-manager-v1.21.2.tgz 73a56e1728edd6c99f1f31082618c3259d279a76b7ebd3d4bdc5475c2442d34a
  }
  apply() {
    printf '%s  %s\n' 73a56e1728edd6c99f1f31082618c3259d279a76b7ebd3d4bdc5475c2442d34a "$FK_FILES"/cert-manager-v1.21.2.tgz | sha256sum --check --quiet
    digest=$(sha256sum "$FK_FILES"/cert-manager-v1.21.2.tgz | cut --delimiter=' ' --fields=1)
    cp "$FK_FILES"/cert-manager-v1.21.2.tgz /nonexistent/fortress/components/cert-manager/.cert-manager-v1.21.2.tgz."${digest:0:16}".part
    export FK_SENT="$digest"' /nonexistent/fortress/components/cert-manager/cert-manager-v1.21.2.tgz'
    release_received /nonexistent/fortress/components/cert-manager/cert-manager-v1.21.2.tgz
  }
  change 'the chart of cert-manager v1.21.2 is downloaded and verified'

  # 8/17 cert-manager v1.21.2 is installed with the declared values
  #   why: every object is compared with what the server makes of the chart, field by field
  check() {
          release_holds cert-manager cert-manager 'chart 73a56e1728edd6c9, values 64d49411ddc0ff84' \
            'MutatingWebhookConfiguration * webhooks[].clientConfig.caBundle
ValidatingWebhookConfiguration * webhooks[].clientConfig.caBundle' \
            /nonexistent/fortress/components/cert-manager/cert-manager-v1.21.2.tgz --values /nonexistent/fortress/components/cert-manager/values.yaml
  }
  apply() {
    release_settle cert-manager cert-manager
    release_awaited helm upgrade --install cert-manager /nonexistent/fortress/components/cert-manager/cert-manager-v1.21.2.tgz --namespace cert-manager \
      --values /nonexistent/fortress/components/cert-manager/values.yaml \
      --description 'chart 73a56e1728edd6c9, values 64d49411ddc0ff84' --labels "fortress-kit=$(release_by)" \
      --server-side=true --force-conflicts --history-max=5 --timeout=600s ||
      release_back cert-manager cert-manager
    release_take_added cert-manager cert-manager
  }
  change 'cert-manager v1.21.2 is installed with the declared values'

  # 9/17 deployment cert-manager/cert-manager is ready
  check() { kubectl rollout status deployment/cert-manager --namespace cert-manager --timeout=5s; }
  wait_for 'deployment cert-manager/cert-manager is ready' 300

  # 10/17 deployment cert-manager/cert-manager-cainjector is ready
  #   why: without it nobody trusts the webhook
  check() {
    kubectl rollout status deployment/cert-manager-cainjector --namespace cert-manager --timeout=5s
  }
  wait_for 'deployment cert-manager/cert-manager-cainjector is ready' 300

  # 11/17 deployment cert-manager/cert-manager-webhook is ready
  #   why: until it answers no Certificate can be written
  check() {
    kubectl rollout status deployment/cert-manager-webhook --namespace cert-manager --timeout=5s
  }
  wait_for 'deployment cert-manager/cert-manager-webhook is ready' 300

  # 12/17 the webhook of cert-manager answers the API
  #   why: its certificate has to reach the API first
  check() { issuers_answer; }
  wait_for 'the webhook of cert-manager answers the API' 120

  # 13/17 an intermediate CA that the root has signed is in the cluster
  #   why: the root key never gets there: whoever breaks in can sign until this one ends, and devices keep their root
  check() { ca_signs cert-manager own-ca /nonexistent/fortress/ca.crt fortress.internal; }
  apply() {
    {
      ca_intermediate cert-manager own-ca /nonexistent/fortress/ca.crt 'fortress intermediate CA' fortress.internal
    } < "$FK_SECRETS"/ca-root
  }
  change 'an intermediate CA that the root has signed is in the cluster'

  # 14/17 the manifests of certificates are written
  check() {
    put_matches /nonexistent/fortress/components/certificates.yaml 2e35227a37b395d2391ae0a3f13da75c0ee972e89072326bb869c65b9533c10f 644 root:root
  }
  apply() {
    put /nonexistent/fortress/components/certificates.yaml 644 root:root << 'FORTRESS'
---
apiVersion: cert-manager.io/v1
kind: ClusterIssuer
metadata:
  name: own-ca
  labels:
    fortress-kit: certificates
spec:
  ca:
    secretName: own-ca
---
apiVersion: cert-manager.io/v1
kind: Certificate
metadata:
  name: inside-tls
  namespace: gateways
  labels:
    fortress-kit: certificates
spec:
  secretName: inside-tls
  dnsNames:
    - fortress.internal
    - '*.fortress.internal'
  issuerRef:
    group: cert-manager.io
    kind: ClusterIssuer
    name: own-ca
  duration: 2160h
  renewBefore: 720h
  privateKey:
    algorithm: ECDSA
    size: 256
    rotationPolicy: Always
  usages:
    - digital signature
    - server auth
FORTRESS
    put_finish /nonexistent/fortress/components/certificates.yaml
  }
  recover() { put_restore /nonexistent/fortress/components/certificates.yaml; }
  change 'the manifests of certificates are written'

  # 15/17 issuers and certificates are declared
  #   why: cert-manager makes the certificates of gateways from them, and renews each a month before its end
  check() {
    objects_hold certificates clusterissuers.cert-manager.io,certificates.cert-manager.io /nonexistent/fortress/components/certificates.yaml
  }
  apply() {
    objects_apply certificates clusterissuers.cert-manager.io,certificates.cert-manager.io /nonexistent/fortress/components/certificates.yaml
  }
  change 'issuers and certificates are declared'

  # 16/17 issuer own-ca is ready
  check() { kubectl wait --for=condition=Ready --timeout=5s clusterissuer/own-ca; }
  wait_for 'issuer own-ca is ready' 120

  # 17/17 gateway inside has a certificate for fortress.internal and what is below it, of own-ca
  check() {
    certificate_holds gateways inside-tls /nonexistent/fortress/ca.crt fortress.internal '*.fortress.internal'
  }
  wait_for 'gateway inside has a certificate for fortress.internal and what is below it, of own-ca' 120
}

# What main uses.
# from lib/component/release.sh: release_holds release_would_change release_objects release_diff release_here
# from lib/component/release.sh: release_added release_take_added release_fields release_awaited release_advice
# from lib/component/release.sh: release_by release_revisions release_good RELEASE_LIMIT release_settle release_back
# from lib/component/release.sh: account_quiet account_quieten release_jump release_chart release_received
# from lib/component/objects.sh: objects_named objects_there objects_spare objects_hold objects_apply objects_keep
# from lib/component/objects.sh: objects_delete
# from lib/component/certificates.sh: CA_ROOT_DAYS CA_ROOT_LEFT CA_DAYS CA_LEFT ca_extensions ca_says ca_until ca_lasts
# from lib/component/certificates.sh: ca_root_holds ca_root ca_chain ca_verifies ca_signs ca_intermediate
# from lib/component/certificates.sh: certificate_holds certificate_why issuers_answer
# from lib/engine/shell/put.sh: FK_STATE put put_owner put_finish put_finished put_restore received put_matches
# from lib/engine/shell/snapshot.sh: record_before
# from lib/engine/shell/printed.sh: FK_OUT FK_RC FK_TX FK_VISIT FK_ARM FK_BACK FK_TMP begin_rootless usage recover holds
# from lib/engine/shell/printed.sh: change demand wait_for fail

main "$@"
