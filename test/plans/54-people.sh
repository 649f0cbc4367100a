#!/bin/bash
# 54-people: Who may do what in the cluster: roles for people, certificates for some hours, and an account for when nothing else opens.
#
# Run it on the laptop, as yourself:
#   KUBECONFIG=FILE FK_SECRETS=DIR bash 54-people.sh
# It has 4 steps. Each checks first, and changes only what does not hold.
# It needs kubectl and helm in PATH, and in KUBECONFIG the file that opens the API of the cluster.
# It keeps no record, so undo cannot take it back. It checks no controls: verify does.
# FK_SECRETS is a directory with one file for each of these secrets, as the machine gets it:
#   break-glass
# shellcheck disable=SC2034 # functions read what is set here
set -euo pipefail
FK_PAGE=54-people FK_FILE=54-people.sh
export FK_PAGE FK_FILE

main() {
  case ${1-} in '') ;; *) usage ;; esac
  begin_rootless kubectl helm
  : "${FK_SECRETS:?a directory with the secrets of this page}"
  : "${KUBECONFIG:?the file that opens the API of the cluster}"

  # 1/4 the manifests of people are written
  check() {
    put_matches /nonexistent/fortress/components/people.yaml b92d0051522cabee01dbe63899513ed788db898408d7224970628e8ec262969f 644 root:root
  }
  apply() {
    (
      put /nonexistent/fortress/components/people.yaml 644 root:root << 'FORTRESS'
---
# What people may do in the cluster: one ClusterRole for each role of `people:` in the site document. Page 54 declares them, and
# `./task kubeconfig --for NAME` binds one of them to one certificate. Nothing is allowed by * here: what a new version brings is
# nobody's until it stands in this file. config/policy/can-i.yaml says what must come out of it.
#
# None of them has what leads to more than itself: escalate, bind, impersonate, tokens of service accounts, nodes/proxy, approving
# certificates, changing webhooks, admission policies or definitions, creating volumes of the node. That is for the pages.
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: fortress:viewer
  labels: { fortress-kit: people }
# Everything is seen but Secrets, and nothing is changed.
rules:
  - apiGroups: ['']
    resources:
      - configmaps
      - endpoints
      - events
      - limitranges
      - namespaces
      - nodes
      - persistentvolumeclaims
      - persistentvolumes
      - pods
      - pods/log
      - pods/status
      - replicationcontrollers
      - resourcequotas
      - serviceaccounts
      - services
    verbs: [get, list, watch]
  - apiGroups: [apps]
    resources:
      [
        controllerrevisions,
        daemonsets,
        deployments,
        deployments/scale,
        replicasets,
        statefulsets,
        statefulsets/scale,
      ]
    verbs: [get, list, watch]
  - apiGroups: [autoscaling]
    resources: [horizontalpodautoscalers]
    verbs: [get, list, watch]
  - apiGroups: [batch]
    resources: [cronjobs, jobs]
    verbs: [get, list, watch]
  - apiGroups: [discovery.k8s.io]
    resources: [endpointslices]
    verbs: [get, list, watch]
  - apiGroups: [events.k8s.io]
    resources: [events]
    verbs: [get, list, watch]
  - apiGroups: [networking.k8s.io]
    resources: [ingressclasses, ingresses, networkpolicies]
    verbs: [get, list, watch]
  - apiGroups: [policy]
    resources: [poddisruptionbudgets]
    verbs: [get, list, watch]
  - apiGroups: [rbac.authorization.k8s.io]
    resources: [clusterrolebindings, clusterroles, rolebindings, roles]
    verbs: [get, list, watch]
  - apiGroups: [scheduling.k8s.io]
    resources: [priorityclasses]
    verbs: [get, list, watch]
  - apiGroups: [node.k8s.io]
    resources: [runtimeclasses]
    verbs: [get, list, watch]
  - apiGroups: [storage.k8s.io]
    resources: [csidrivers, csinodes, csistoragecapacities, storageclasses, volumeattachments]
    verbs: [get, list, watch]
  - apiGroups: [coordination.k8s.io]
    resources: [leases]
    verbs: [get, list, watch]
  - apiGroups: [certificates.k8s.io]
    resources: [certificatesigningrequests]
    verbs: [get, list, watch]
  - apiGroups: [admissionregistration.k8s.io]
    resources:
      - mutatingwebhookconfigurations
      - validatingadmissionpolicies
      - validatingadmissionpolicybindings
      - validatingwebhookconfigurations
    verbs: [get, list, watch]
  - apiGroups: [apiextensions.k8s.io]
    resources: [customresourcedefinitions]
    verbs: [get, list, watch]
  - apiGroups: [apiregistration.k8s.io]
    resources: [apiservices]
    verbs: [get, list, watch]
  - apiGroups: [metrics.k8s.io]
    resources: [nodes, pods]
    verbs: [get, list]
  - apiGroups: [cilium.io]
    resources:
      - ciliumclusterwidenetworkpolicies
      - ciliumendpoints
      - ciliumidentities
      - ciliuml2announcementpolicies
      - ciliumloadbalancerippools
      - ciliumnetworkpolicies
      - ciliumnodes
    verbs: [get, list, watch]
  - apiGroups: [gateway.networking.k8s.io]
    resources: [gatewayclasses, gateways, grpcroutes, httproutes, referencegrants, tlsroutes]
    verbs: [get, list, watch]
  - apiGroups: [cert-manager.io]
    resources: [certificaterequests, certificates, clusterissuers, issuers]
    verbs: [get, list, watch]
  - apiGroups: [acme.cert-manager.io]
    resources: [challenges, orders]
    verbs: [get, list, watch]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: fortress:deployer
  labels: { fortress-kit: people }
# Brings applications into one namespace. It is bound there and nowhere else. Who may make a pod in a namespace can read its Secrets
# by mounting them, and has what its service accounts may do: so these Secrets are open, and Roles are not.
rules:
  - apiGroups: ['']
    resources: [configmaps, persistentvolumeclaims, pods, secrets, serviceaccounts, services]
    verbs: [get, list, watch, create, update, patch, delete, deletecollection]
  - apiGroups: ['']
    resources: [endpoints, events, limitranges, pods/log, pods/status, resourcequotas]
    verbs: [get, list, watch]
  - apiGroups: ['']
    resources: [pods/attach, pods/exec, pods/portforward]
    verbs: [get, create]
  - apiGroups: ['']
    resources: [pods/ephemeralcontainers]
    verbs: [update, patch]
  - apiGroups: ['']
    resources: [pods/eviction]
    verbs: [create]
  - apiGroups: [apps]
    resources: [deployments, deployments/scale, replicasets, statefulsets, statefulsets/scale]
    verbs: [get, list, watch, create, update, patch, delete, deletecollection]
  - apiGroups: [apps]
    resources: [controllerrevisions, daemonsets]
    verbs: [get, list, watch]
  - apiGroups: [autoscaling]
    resources: [horizontalpodautoscalers]
    verbs: [get, list, watch, create, update, patch, delete, deletecollection]
  - apiGroups: [batch]
    resources: [cronjobs, jobs]
    verbs: [get, list, watch, create, update, patch, delete, deletecollection]
  - apiGroups: [policy]
    resources: [poddisruptionbudgets]
    verbs: [get, list, watch, create, update, patch, delete, deletecollection]
  - apiGroups: [networking.k8s.io]
    resources: [ingresses]
    verbs: [get, list, watch, create, update, patch, delete, deletecollection]
  - apiGroups: [gateway.networking.k8s.io]
    resources: [grpcroutes, httproutes]
    verbs: [get, list, watch, create, update, patch, delete, deletecollection]
  # Who may talk to whom, and how long a name lasts, is decided by the site document.
  - apiGroups: [networking.k8s.io]
    resources: [networkpolicies]
    verbs: [get, list, watch]
  - apiGroups: [cilium.io]
    resources: [ciliumendpoints, ciliumnetworkpolicies]
    verbs: [get, list, watch]
  - apiGroups: [gateway.networking.k8s.io]
    resources: [gateways]
    verbs: [get, list, watch]
  - apiGroups: [cert-manager.io]
    resources: [certificates]
    verbs: [get, list, watch]
  - apiGroups: [discovery.k8s.io]
    resources: [endpointslices]
    verbs: [get, list, watch]
  - apiGroups: [events.k8s.io]
    resources: [events]
    verbs: [get, list, watch]
  - apiGroups: [metrics.k8s.io]
    resources: [pods]
    verbs: [get, list]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: fortress:admin
  labels: { fortress-kit: people }
# Runs the cluster from day to day: workloads, namespaces, nodes and routes. It reads no Secrets: who needs those of a namespace is
# its deployer for an hour. Rights, definitions and admission are read only; config/policy/people-guard.yaml keeps the namespaces of
# the platform shut, where a pod could get what this role does not have.
rules:
  - apiGroups: ['']
    resources:
      - configmaps
      - limitranges
      - namespaces
      - persistentvolumeclaims
      - pods
      - replicationcontrollers
      - resourcequotas
      - serviceaccounts
      - services
    verbs: [get, list, watch, create, update, patch, delete, deletecollection]
  - apiGroups: ['']
    resources: [nodes, persistentvolumes]
    verbs: [get, list, watch, update, patch]
  - apiGroups: ['']
    resources: [endpoints, events, pods/log, pods/status]
    verbs: [get, list, watch]
  - apiGroups: ['']
    resources: [pods/attach, pods/exec, pods/portforward]
    verbs: [get, create]
  - apiGroups: ['']
    resources: [pods/ephemeralcontainers]
    verbs: [update, patch]
  - apiGroups: ['']
    resources: [pods/eviction]
    verbs: [create]
  - apiGroups: [apps]
    resources: [daemonsets, deployments, deployments/scale, replicasets, statefulsets, statefulsets/scale]
    verbs: [get, list, watch, create, update, patch, delete, deletecollection]
  - apiGroups: [apps]
    resources: [controllerrevisions]
    verbs: [get, list, watch]
  - apiGroups: [autoscaling]
    resources: [horizontalpodautoscalers]
    verbs: [get, list, watch, create, update, patch, delete, deletecollection]
  - apiGroups: [batch]
    resources: [cronjobs, jobs]
    verbs: [get, list, watch, create, update, patch, delete, deletecollection]
  - apiGroups: [policy]
    resources: [poddisruptionbudgets]
    verbs: [get, list, watch, create, update, patch, delete, deletecollection]
  - apiGroups: [networking.k8s.io]
    resources: [ingresses, networkpolicies]
    verbs: [get, list, watch, create, update, patch, delete, deletecollection]
  - apiGroups: [cilium.io]
    resources: [ciliumnetworkpolicies]
    verbs: [get, list, watch, create, update, patch, delete, deletecollection]
  - apiGroups: [gateway.networking.k8s.io]
    resources: [grpcroutes, httproutes, tlsroutes]
    verbs: [get, list, watch, create, update, patch, delete, deletecollection]
  - apiGroups: [cert-manager.io]
    resources: [certificaterequests, certificates]
    verbs: [get, list, watch, create, update, patch, delete, deletecollection]
  - apiGroups: [discovery.k8s.io]
    resources: [endpointslices]
    verbs: [get, list, watch]
  - apiGroups: [events.k8s.io]
    resources: [events]
    verbs: [get, list, watch]
  - apiGroups: [networking.k8s.io]
    resources: [ingressclasses]
    verbs: [get, list, watch]
  - apiGroups: [rbac.authorization.k8s.io]
    resources: [clusterrolebindings, clusterroles, rolebindings, roles]
    verbs: [get, list, watch]
  - apiGroups: [scheduling.k8s.io]
    resources: [priorityclasses]
    verbs: [get, list, watch]
  - apiGroups: [node.k8s.io]
    resources: [runtimeclasses]
    verbs: [get, list, watch]
  - apiGroups: [storage.k8s.io]
    resources: [csidrivers, csinodes, csistoragecapacities, storageclasses, volumeattachments]
    verbs: [get, list, watch]
  - apiGroups: [coordination.k8s.io]
    resources: [leases]
    verbs: [get, list, watch]
  - apiGroups: [certificates.k8s.io]
    resources: [certificatesigningrequests]
    verbs: [get, list, watch]
  - apiGroups: [admissionregistration.k8s.io]
    resources:
      - mutatingwebhookconfigurations
      - validatingadmissionpolicies
      - validatingadmissionpolicybindings
      - validatingwebhookconfigurations
    verbs: [get, list, watch]
  - apiGroups: [apiextensions.k8s.io]
    resources: [customresourcedefinitions]
    verbs: [get, list, watch]
  - apiGroups: [apiregistration.k8s.io]
    resources: [apiservices]
    verbs: [get, list, watch]
  - apiGroups: [metrics.k8s.io]
    resources: [nodes, pods]
    verbs: [get, list]
  - apiGroups: [cilium.io]
    resources:
      - ciliumclusterwidenetworkpolicies
      - ciliumendpoints
      - ciliumidentities
      - ciliuml2announcementpolicies
      - ciliumloadbalancerippools
      - ciliumnodes
    verbs: [get, list, watch]
  - apiGroups: [gateway.networking.k8s.io]
    resources: [gatewayclasses, gateways, referencegrants]
    verbs: [get, list, watch]
  - apiGroups: [cert-manager.io]
    resources: [clusterissuers, issuers]
    verbs: [get, list, watch]
  - apiGroups: [acme.cert-manager.io]
    resources: [challenges, orders]
    verbs: [get, list, watch]
---
# What no role of a person can give, because RBAC only adds: the namespaces of the platform are changed by its pages, and the Pod
# Security level of a namespace is not loosened. Otherwise who may make a pod there would be root on a node, or have the rights of
# a controller. Evicting and deleting pods is allowed: a node is drained by it. The API server judges this by itself, and only
# requests with a certificate of a person.
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata:
  name: fortress-people-platform
  labels: { fortress-kit: people }
spec:
  failurePolicy: Fail
  matchConstraints:
    namespaceSelector:
      matchExpressions:
        - { key: kubernetes.io/metadata.name, operator: In, values: ["kube-system","kube-public","kube-node-lease","default","cert-manager","cilium","gvisor","hello","kyverno","sealed-secrets","sops"] }
    resourceRules:
      - apiGroups: ['*']
        apiVersions: ['*']
        operations: [CREATE, UPDATE, DELETE, CONNECT]
        resources: ['*/*']
        scope: Namespaced
      - apiGroups: ['']
        apiVersions: [v1]
        operations: [CREATE, UPDATE, DELETE]
        resources: [namespaces]
  matchConditions:
    - name: person
      expression: request.userInfo.groups.exists(one, one == 'fortress:people')
    - name: no-drain
      expression: >-
        !(request.resource.group == '' && request.resource.resource == 'pods' &&
        (request.operation == 'DELETE' || (has(request.subResource) && request.subResource == 'eviction')))
  validations:
    - expression: 'false'
      message: this namespace belongs to the platform, and only its pages change it
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata:
  name: fortress-people-platform
  labels: { fortress-kit: people }
spec:
  policyName: fortress-people-platform
  validationActions: [Deny]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata:
  name: fortress-people-level
  labels: { fortress-kit: people }
spec:
  failurePolicy: Fail
  matchConstraints:
    resourceRules:
      - apiGroups: ['']
        apiVersions: [v1]
        operations: [CREATE, UPDATE]
        resources: [namespaces]
  matchConditions:
    - name: person
      expression: request.userInfo.groups.exists(one, one == 'fortress:people')
  variables:
    - name: now
      expression: object.metadata.?labels.orValue({})
    - name: was
      expression: 'oldObject == null ? {} : oldObject.metadata.?labels.orValue({})'
    - name: level
      expression: variables.now[?'pod-security.kubernetes.io/enforce'].orValue('restricted')
    - name: version
      expression: variables.now[?'pod-security.kubernetes.io/enforce-version'].orValue('latest')
  validations:
    - expression: >-
        variables.level == 'restricted' ||
        variables.level == variables.was[?'pod-security.kubernetes.io/enforce'].orValue('restricted')
      message: the Pod Security level of a namespace is loosened by pages alone
    - expression: >-
        variables.version == 'latest' ||
        variables.version == variables.was[?'pod-security.kubernetes.io/enforce-version'].orValue('latest')
      message: the version of the Pod Security level of a namespace is chosen by pages alone
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata:
  name: fortress-people-level
  labels: { fortress-kit: people }
spec:
  policyName: fortress-people-level
  validationActions: [Deny]
FORTRESS
    )
    put_finish /nonexistent/fortress/components/people.yaml
  }
  recover() { put_restore /nonexistent/fortress/components/people.yaml; }
  change 'the manifests of people are written'

  # 2/4 the roles viewer, deployer and admin are declared, and what none of them can give
  #   why: nobody works with the account of the pages, which may do everything and is never asked who it is
  check() {
    policy_exact /nonexistent/fortress/components/people.yaml && objects_hold people clusterroles,clusterrolebindings,validatingadmissionpolicies.admissionregistration.k8s.io,validatingadmissionpolicybindings.admissionregistration.k8s.io /nonexistent/fortress/components/people.yaml
  }
  apply() {
    policy_replace /nonexistent/fortress/components/people.yaml
    objects_apply people clusterroles,clusterrolebindings,validatingadmissionpolicies.admissionregistration.k8s.io,validatingadmissionpolicybindings.admissionregistration.k8s.io /nonexistent/fortress/components/people.yaml
  }
  change 'the roles viewer, deployer and admin are declared, and what none of them can give'

  # 3/4 every certificate is of a person of the site, for a role that the site document gives
  #   why: who is taken out of the document has nothing from the next apply on
  check() { people_hold me=viewer,deployer,admin; }
  apply() { people_end me=viewer,deployer,admin; }
  change 'every certificate is of a person of the site, for a role that the site document gives'

  # 4/4 a break-glass account is there, and its key is encrypted on the laptop
  #   why: when no identity provider and no page opens the cluster, it does; a certificate lasts a year, and is made anew before
  check() { glass_holds /nonexistent/fortress/break-glass.crt /nonexistent/fortress/break-glass.age; }
  apply() {
    {
      glass_make /nonexistent/fortress/break-glass.crt
    } < "$FK_SECRETS"/break-glass
  }
  change 'a break-glass account is there, and its key is encrypted on the laptop'
}

# What main uses.
# from lib/component/release.sh: release_diff release_here release_fields release_awaited release_advice
# from lib/component/objects.sh: objects_named objects_there objects_spare objects_hold objects_apply objects_keep
# from lib/component/objects.sh: objects_delete
# from lib/component/admission.sh: policy_exact policy_replace
# from lib/component/people.sh: people_certificate people_grants people_spare people_hold people_take people_end
# from lib/component/people.sh: glass_bound glass_user glass_holds glass_make
# from lib/engine/shell/put.sh: FK_STATE put put_owner put_finish put_finished put_restore put_matches
# from lib/engine/shell/snapshot.sh: record_before
# from lib/engine/shell/printed.sh: FK_OUT FK_RC FK_TX FK_VISIT FK_ARM FK_BACK FK_TMP begin_rootless usage recover holds
# from lib/engine/shell/printed.sh: change fail

main "$@"
