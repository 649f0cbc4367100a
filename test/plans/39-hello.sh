#!/bin/bash
# 39-hello: A first web page behind the gateway: it shows that names, certificates, policies and pods fit together.
#
# Run it on the laptop, as yourself:
#   KUBECONFIG=FILE bash 39-hello.sh
# It has 7 steps. Each checks first, and changes only what does not hold.
# It needs kubectl and helm in PATH, and in KUBECONFIG the file that opens the API of the cluster.
# It keeps no record, so undo cannot take it back. It checks no controls: verify does.
# shellcheck disable=SC2034 # functions read what is set here
set -euo pipefail
FK_PAGE=39-hello FK_FILE=39-hello.sh
export FK_PAGE FK_FILE

main() {
  case ${1-} in '') ;; *) usage ;; esac
  begin_rootless kubectl helm
  : "${KUBECONFIG:?the file that opens the API of the cluster}"

  # 1/7 namespace hello has Pod Security level restricted
  #   why: nothing in hello needs more
  check() {
    test "$(kubectl get namespace hello --output=jsonpath='{.metadata.labels.pod-security\.kubernetes\.io/enforce} {.metadata.labels.pod-security\.kubernetes\.io/audit} {.metadata.labels.pod-security\.kubernetes\.io/warn} {.metadata.labels.fortress-kit/gateway}')" = 'restricted restricted restricted inside' &&
      account_quiet hello
  }
  apply() {
    (
      kubectl get namespace hello --output=name ||
        { release_awaited kubectl create namespace hello && kubectl label namespace hello fortress-kit=made; }
    )
    release_awaited kubectl label namespace hello --overwrite \
      pod-security.kubernetes.io/enforce=restricted pod-security.kubernetes.io/audit=restricted pod-security.kubernetes.io/warn=restricted fortress-kit/gateway=inside
    account_quieten hello
  }
  change 'namespace hello has Pod Security level restricted'

  # 2/7 the manifests of hello-policies are written
  check() {
    put_matches /nonexistent/fortress/components/hello-policies.yaml 7bb6be7568b8fc9d5be3a078f36adf264ee9db53c5e9afe747280249448c75b4 644 root:root
  }
  apply() {
    put /nonexistent/fortress/components/hello-policies.yaml 644 root:root << 'FORTRESS'
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata:
  name: web
  namespace: hello
  labels:
    fortress-kit: hello-policies
spec:
  description: the Gateway asks the page
  endpointSelector:
    matchLabels:
      app.kubernetes.io/name: hello
  ingress:
    - fromEntities:
        - ingress
      toPorts:
        - ports:
            - port: '8080'
              protocol: TCP
FORTRESS
    put_finish /nonexistent/fortress/components/hello-policies.yaml
  }
  recover() { put_restore /nonexistent/fortress/components/hello-policies.yaml; }
  change 'the manifests of hello-policies are written'

  # 3/7 the network policies of hello are applied
  #   why: under the default deny its pods reach nobody before that
  check() {
    objects_hold hello-policies ciliumnetworkpolicies.cilium.io /nonexistent/fortress/components/hello-policies.yaml
  }
  apply() {
    objects_apply hello-policies ciliumnetworkpolicies.cilium.io /nonexistent/fortress/components/hello-policies.yaml
  }
  change 'the network policies of hello are applied'

  # 4/7 the manifests of hello are written
  check() {
    put_matches /nonexistent/fortress/components/hello.yaml 569ded321e10363f68b9da0a984755fee294f44b5c3a14b27a4a340f663dff92 644 root:root
  }
  apply() {
    put /nonexistent/fortress/components/hello.yaml 644 root:root << 'FORTRESS'
---
# The page, the pods that serve it, and the route from the gateway to them. Its network policy is in policies.yaml beside this file.
apiVersion: v1
kind: ConfigMap
metadata: { name: web, namespace: hello, labels: { fortress-kit: hello } }
data:
  index.html: |
    <!doctype html>
    <html lang="en">
    <meta charset="utf-8">
    <meta name="viewport" content="width=device-width">
    <title>fortress</title>
    <style>body { max-width: 34em; margin: 4em auto; padding: 0 1em; font: 1.1em/1.5 system-ui, sans-serif }</style>
    <h1>fortress is up</h1>
    <p>This page comes from a pod of the cluster. Between it and you are the tunnel, the firewall of the host, a gateway with a
    certificate, and a network policy: nothing but this gateway may connect to this pod.</p>
    <p>To remove it: <code>./task hello undo</code></p>
    </html>
---
apiVersion: apps/v1
kind: Deployment
metadata: { name: web, namespace: hello, labels: { fortress-kit: hello } }
spec:
  replicas: !!int '1'
  selector: { matchLabels: { app.kubernetes.io/name: hello } }
  template:
    metadata: { labels: { app.kubernetes.io/name: hello } }
    spec:
      automountServiceAccountToken: false
      enableServiceLinks: false
      terminationGracePeriodSeconds: 5
      securityContext:
        runAsNonRoot: true
        runAsUser: 65534
        runAsGroup: 65534
        seccompProfile: { type: RuntimeDefault }
      topologySpreadConstraints:
        - maxSkew: 1
          topologyKey: kubernetes.io/hostname
          whenUnsatisfiable: ScheduleAnyway
          labelSelector: { matchLabels: { app.kubernetes.io/name: hello } }
      containers:
        - name: web
          image: docker.io/library/busybox:1.37.0@sha256:bdf57e528e45e4433820e045b29b4597825a1c9e38353532d90a01445013f82e
          command: [httpd, -f, -p, '8080', -h, /www]
          ports: [{ name: http, containerPort: 8080 }]
          readinessProbe: { httpGet: { path: /, port: http }, periodSeconds: 5 }
          livenessProbe: { httpGet: { path: /, port: http }, periodSeconds: 10, failureThreshold: 3 }
          resources: { requests: { cpu: 10m, memory: 8Mi }, limits: { memory: 16Mi } }
          securityContext:
            allowPrivilegeEscalation: false
            readOnlyRootFilesystem: true
            capabilities: { drop: [ALL] }
          volumeMounts: [{ name: www, mountPath: /www, readOnly: true }]
      volumes: [{ name: www, configMap: { name: web } }]
---
apiVersion: v1
kind: Service
metadata: { name: web, namespace: hello, labels: { fortress-kit: hello } }
spec:
  selector: { app.kubernetes.io/name: hello }
  ports: [{ name: http, port: 80, targetPort: http }]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: web, namespace: hello, labels: { fortress-kit: hello } }
spec:
  parentRefs: [{ name: 'inside', namespace: 'gateways', sectionName: https }]
  hostnames: ['hello.fortress.internal']
  rules:
    - backendRefs: [{ name: web, port: 80 }]
      filters:
        - type: ResponseHeaderModifier
          responseHeaderModifier:
            set:
              - { name: Content-Security-Policy, value: "default-src 'none'; style-src 'unsafe-inline'" }
              - { name: X-Content-Type-Options, value: nosniff }
FORTRESS
    put_finish /nonexistent/fortress/components/hello.yaml
  }
  recover() { put_restore /nonexistent/fortress/components/hello.yaml; }
  change 'the manifests of hello are written'

  # 5/7 the page is declared, with its route at gateway inside
  check() {
    objects_hold hello configmaps,services,deployments.apps,httproutes.gateway.networking.k8s.io /nonexistent/fortress/components/hello.yaml
  }
  apply() {
    objects_apply hello configmaps,services,deployments.apps,httproutes.gateway.networking.k8s.io /nonexistent/fortress/components/hello.yaml
  }
  change 'the page is declared, with its route at gateway inside'

  # 6/7 deployment hello/web is ready
  check() { kubectl rollout status deployment/web --namespace hello --timeout=5s; }
  wait_for 'deployment hello/web is ready' 300

  # 7/7 open https://hello.fortress.internal in the tunnel
  #   why: until 34-names a laptop finds it by a line of its /etc/hosts: 10.77.0.240 hello.fortress.internal
  check() { route_ready hello web && gateway_ready gateways inside '' https; }
  wait_for 'open https://hello.fortress.internal in the tunnel' 120
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
