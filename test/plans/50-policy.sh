#!/bin/bash
# 50-policy: Rules for what may run, beyond Pod Security level restricted: the API server itself warns by them, and refuses when you say so.
#
# Run it on the laptop, as yourself:
#   KUBECONFIG=FILE bash 50-policy.sh
# It has 8 steps. Each checks first, and changes only what does not hold.
# It needs kubectl and helm in PATH, and in KUBECONFIG the file that opens the API of the cluster.
# It keeps no record, so undo cannot take it back. It checks no controls: verify does.
# shellcheck disable=SC2034 # functions read what is set here
set -euo pipefail
FK_PAGE=50-policy FK_FILE=50-policy.sh
export FK_PAGE FK_FILE

main() {
  case ${1-} in '') ;; *) usage ;; esac
  begin_rootless kubectl helm
  : "${KUBECONFIG:?the file that opens the API of the cluster}"

  # 1/8 the manifest of what every rule refuses is written
  check() {
    put_matches /nonexistent/fortress/components/policy-refused.yaml e1519a205b31797ab5a747367b11cda62a0f35f767700b7bb63c8dba312dce7c 644 root:root
  }
  apply() {
    put /nonexistent/fortress/components/policy-refused.yaml 644 root:root << 'FORTRESS'
# What 50-policy asks the API server about, without creating it: every rule has to object to one of these. Pod Security level
# restricted has nothing against them, and so it is the rules that speak.
apiVersion: v1
kind: Pod
metadata: { name: fortress-kit-asks, namespace: default }
spec:
  securityContext: { runAsNonRoot: true, runAsUser: 65534, seccompProfile: { type: RuntimeDefault } }
  containers:
    - name: nobody
      image: nowhere.invalid/nobody:latest
      securityContext: { allowPrivilegeEscalation: false, capabilities: { drop: [ALL] } }
---
apiVersion: v1
kind: Service
metadata: { name: fortress-kit-asks, namespace: default }
spec:
  type: NodePort
  ports: [{ port: 80 }]
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: { name: fortress-kit-asks, namespace: default }
spec:
  defaultBackend: { service: { name: nobody, port: { number: 80 } } }
FORTRESS
    put_finish /nonexistent/fortress/components/policy-refused.yaml
  }
  recover() { put_restore /nonexistent/fortress/components/policy-refused.yaml; }
  change 'the manifest of what every rule refuses is written'

  # 2/8 the manifests of policy are written
  check() {
    put_matches /nonexistent/fortress/components/policy.yaml 4ea1cdb3622baaddfa65c4bca29b6f945bad3fdc850cd177f4a2d650cf79f3a2 644 root:root
  }
  apply() {
    (
      put /nonexistent/fortress/components/policy.yaml 644 root:root << 'FORTRESS'
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata:
  name: fortress-digest
  labels:
    fortress-kit: policy
  annotations:
    fortress-kit/rule: "images are named by their digest: a tag may be another image tomorrow"
    fortress-kit/exempt: |-
      kube-system: the add-ons of k3s are its makers', and a node must come back from a power cut by itself
      cert-manager: its chart names images by their version
      cilium: without it no pod has a network, and its namespace is privileged anyway
      kyverno: its chart names images by their version
spec:
  failurePolicy: Fail
  matchConstraints:
    resourceRules:
      - apiGroups:
          - ""
        apiVersions:
          - "*"
        operations:
          - CREATE
          - UPDATE
        resources:
          - pods
          - pods/ephemeralcontainers
          - replicationcontrollers
      - apiGroups:
          - apps
        apiVersions:
          - "*"
        operations:
          - CREATE
          - UPDATE
        resources:
          - daemonsets
          - deployments
          - replicasets
          - statefulsets
      - apiGroups:
          - batch
        apiVersions:
          - "*"
        operations:
          - CREATE
          - UPDATE
        resources:
          - cronjobs
          - jobs
  matchConditions:
    - name: changed
      expression: "request.operation == 'CREATE' || (dyn(object).kind == 'Pod' ? dyn(object) : dyn(object).kind == 'CronJob' ? dyn(object).spec.jobTemplate.spec.template : dyn(object).spec.template).spec != (dyn(oldObject).kind == 'Pod' ? dyn(oldObject) : dyn(oldObject).kind == 'CronJob' ? dyn(oldObject).spec.jobTemplate.spec.template : dyn(oldObject).spec.template).spec || dyn(object).metadata.?annotations[?'fortress-kit/asked'].hasValue()"
    - name: exempt-1
      expression: '!(request.namespace == "kube-system")'
    - name: exempt-2
      expression: '!(request.namespace == "cert-manager")'
    - name: exempt-3
      expression: '!(request.namespace == "cilium")'
    - name: exempt-4
      expression: '!(request.namespace == "kyverno")'
  variables:
    - name: pod
      expression: "(dyn(object).kind == 'Pod' ? dyn(object) : dyn(object).kind == 'CronJob' ? dyn(object).spec.jobTemplate.spec.template : dyn(object).spec.template)"
    - name: all
      expression: "(variables.pod.spec.?containers.orValue([]) + variables.pod.spec.?initContainers.orValue([]) + variables.pod.spec.?ephemeralContainers.orValue([])).map(one, {'name': dyn(one.name), 'image': dyn(one.?image.orValue(''))}) + variables.pod.spec.?volumes.orValue([]).filter(one, has(one.image)).map(one, {'name': dyn('volume ' + one.name), 'image': dyn(one.image.?reference.orValue(''))})"
    - name: bad
      expression: variables.all.filter(it, !(it.image.matches('@sha256:[0-9a-f]{64}$'))).map(it, it.name)
  validations:
    - expression: size(variables.bad) == 0
      message: image without a digest, as in NAME@sha256:DIGEST
      messageExpression: "object.kind + ' ' + request.namespace + '/' + object.metadata.name + ': ' + \"image without a digest, as in NAME@sha256:DIGEST\" + ': ' + variables.bad.join(', ')"
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata:
  name: fortress-latest
  labels:
    fortress-kit: policy
  annotations:
    fortress-kit/rule: "no image is called latest: nobody can say which version that is, or was"
    fortress-kit/exempt: |-
      kube-system: the add-ons of k3s are its makers', and a node must come back from a power cut by itself
      cilium: without it no pod has a network, and its namespace is privileged anyway
spec:
  failurePolicy: Fail
  matchConstraints:
    resourceRules:
      - apiGroups:
          - ""
        apiVersions:
          - "*"
        operations:
          - CREATE
          - UPDATE
        resources:
          - pods
          - pods/ephemeralcontainers
          - replicationcontrollers
      - apiGroups:
          - apps
        apiVersions:
          - "*"
        operations:
          - CREATE
          - UPDATE
        resources:
          - daemonsets
          - deployments
          - replicasets
          - statefulsets
      - apiGroups:
          - batch
        apiVersions:
          - "*"
        operations:
          - CREATE
          - UPDATE
        resources:
          - cronjobs
          - jobs
  matchConditions:
    - name: changed
      expression: "request.operation == 'CREATE' || (dyn(object).kind == 'Pod' ? dyn(object) : dyn(object).kind == 'CronJob' ? dyn(object).spec.jobTemplate.spec.template : dyn(object).spec.template).spec != (dyn(oldObject).kind == 'Pod' ? dyn(oldObject) : dyn(oldObject).kind == 'CronJob' ? dyn(oldObject).spec.jobTemplate.spec.template : dyn(oldObject).spec.template).spec || dyn(object).metadata.?annotations[?'fortress-kit/asked'].hasValue()"
    - name: exempt-1
      expression: '!(request.namespace == "kube-system")'
    - name: exempt-2
      expression: '!(request.namespace == "cilium")'
  variables:
    - name: pod
      expression: "(dyn(object).kind == 'Pod' ? dyn(object) : dyn(object).kind == 'CronJob' ? dyn(object).spec.jobTemplate.spec.template : dyn(object).spec.template)"
    - name: all
      expression: "(variables.pod.spec.?containers.orValue([]) + variables.pod.spec.?initContainers.orValue([]) + variables.pod.spec.?ephemeralContainers.orValue([])).map(one, {'name': dyn(one.name), 'image': dyn(one.?image.orValue(''))}) + variables.pod.spec.?volumes.orValue([]).filter(one, has(one.image)).map(one, {'name': dyn('volume ' + one.name), 'image': dyn(one.image.?reference.orValue(''))})"
    - name: bad
      expression: variables.all.filter(it, !(!it.image.matches(':latest(@|$)'))).map(it, it.name)
  validations:
    - expression: size(variables.bad) == 0
      message: image with the tag latest
      messageExpression: "object.kind + ' ' + request.namespace + '/' + object.metadata.name + ': ' + \"image with the tag latest\" + ': ' + variables.bad.join(', ')"
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata:
  name: fortress-registries
  labels:
    fortress-kit: policy
  annotations:
    fortress-kit/rule: "images come from the registries of the site: a name that is spelt wrong fetches what somebody else has put there"
    fortress-kit/exempt: |-
      kube-system: the add-ons of k3s are its makers', and a node must come back from a power cut by itself
      cilium: without it no pod has a network, and its namespace is privileged anyway
spec:
  failurePolicy: Fail
  matchConstraints:
    resourceRules:
      - apiGroups:
          - ""
        apiVersions:
          - "*"
        operations:
          - CREATE
          - UPDATE
        resources:
          - pods
          - pods/ephemeralcontainers
          - replicationcontrollers
      - apiGroups:
          - apps
        apiVersions:
          - "*"
        operations:
          - CREATE
          - UPDATE
        resources:
          - daemonsets
          - deployments
          - replicasets
          - statefulsets
      - apiGroups:
          - batch
        apiVersions:
          - "*"
        operations:
          - CREATE
          - UPDATE
        resources:
          - cronjobs
          - jobs
  matchConditions:
    - name: changed
      expression: "request.operation == 'CREATE' || (dyn(object).kind == 'Pod' ? dyn(object) : dyn(object).kind == 'CronJob' ? dyn(object).spec.jobTemplate.spec.template : dyn(object).spec.template).spec != (dyn(oldObject).kind == 'Pod' ? dyn(oldObject) : dyn(oldObject).kind == 'CronJob' ? dyn(oldObject).spec.jobTemplate.spec.template : dyn(oldObject).spec.template).spec || dyn(object).metadata.?annotations[?'fortress-kit/asked'].hasValue()"
    - name: exempt-1
      expression: '!(request.namespace == "kube-system")'
    - name: exempt-2
      expression: '!(request.namespace == "cilium")'
  variables:
    - name: pod
      expression: "(dyn(object).kind == 'Pod' ? dyn(object) : dyn(object).kind == 'CronJob' ? dyn(object).spec.jobTemplate.spec.template : dyn(object).spec.template)"
    - name: all
      expression: "(variables.pod.spec.?containers.orValue([]) + variables.pod.spec.?initContainers.orValue([]) + variables.pod.spec.?ephemeralContainers.orValue([])).map(one, {'name': dyn(one.name), 'image': dyn(one.?image.orValue(''))}) + variables.pod.spec.?volumes.orValue([]).filter(one, has(one.image)).map(one, {'name': dyn('volume ' + one.name), 'image': dyn(one.image.?reference.orValue(''))})"
    - name: bad
      expression: variables.all.filter(it, !(["docker.io","ghcr.io","quay.io","registry.k8s.io"].exists(one, it.image.startsWith(one + "/")))).map(it, it.name)
  validations:
    - expression: size(variables.bad) == 0
      message: image of a registry that policy.registries does not list
      messageExpression: "object.kind + ' ' + request.namespace + '/' + object.metadata.name + ': ' + \"image of a registry that policy.registries does not list\" + ': ' + variables.bad.join(', ')"
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata:
  name: fortress-read-only-root
  labels:
    fortress-kit: policy
  annotations:
    fortress-kit/rule: "the root file system of containers is read-only: what breaks into a container can leave nothing behind in it"
    fortress-kit/exempt: |-
      kube-system: the add-ons of k3s are its makers', and a node must come back from a power cut by itself
      cilium: without it no pod has a network, and its namespace is privileged anyway
spec:
  failurePolicy: Fail
  matchConstraints:
    resourceRules:
      - apiGroups:
          - ""
        apiVersions:
          - "*"
        operations:
          - CREATE
          - UPDATE
        resources:
          - pods
          - pods/ephemeralcontainers
          - replicationcontrollers
      - apiGroups:
          - apps
        apiVersions:
          - "*"
        operations:
          - CREATE
          - UPDATE
        resources:
          - daemonsets
          - deployments
          - replicasets
          - statefulsets
      - apiGroups:
          - batch
        apiVersions:
          - "*"
        operations:
          - CREATE
          - UPDATE
        resources:
          - cronjobs
          - jobs
  matchConditions:
    - name: changed
      expression: "request.operation == 'CREATE' || (dyn(object).kind == 'Pod' ? dyn(object) : dyn(object).kind == 'CronJob' ? dyn(object).spec.jobTemplate.spec.template : dyn(object).spec.template).spec != (dyn(oldObject).kind == 'Pod' ? dyn(oldObject) : dyn(oldObject).kind == 'CronJob' ? dyn(oldObject).spec.jobTemplate.spec.template : dyn(oldObject).spec.template).spec || dyn(object).metadata.?annotations[?'fortress-kit/asked'].hasValue()"
    - name: exempt-1
      expression: '!(request.namespace == "kube-system")'
    - name: exempt-2
      expression: '!(request.namespace == "cilium")'
  variables:
    - name: pod
      expression: "(dyn(object).kind == 'Pod' ? dyn(object) : dyn(object).kind == 'CronJob' ? dyn(object).spec.jobTemplate.spec.template : dyn(object).spec.template)"
    - name: all
      expression: variables.pod.spec.?containers.orValue([]) + variables.pod.spec.?initContainers.orValue([]) + variables.pod.spec.?ephemeralContainers.orValue([])
    - name: bad
      expression: variables.all.filter(it, !(it.?securityContext.?readOnlyRootFilesystem.orValue(false))).map(it, it.name)
  validations:
    - expression: size(variables.bad) == 0
      message: container that can write to its root file system
      messageExpression: "object.kind + ' ' + request.namespace + '/' + object.metadata.name + ': ' + \"container that can write to its root file system\" + ': ' + variables.bad.join(', ')"
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata:
  name: fortress-requests
  labels:
    fortress-kit: policy
  annotations:
    fortress-kit/rule: "containers request CPU and memory: the scheduler places pods by what they request, and the node evicts by it"
    fortress-kit/exempt: |-
      kube-system: the add-ons of k3s are its makers', and a node must come back from a power cut by itself
      cilium: without it no pod has a network, and its namespace is privileged anyway
spec:
  failurePolicy: Fail
  matchConstraints:
    resourceRules:
      - apiGroups:
          - ""
        apiVersions:
          - "*"
        operations:
          - CREATE
          - UPDATE
        resources:
          - pods
          - pods/ephemeralcontainers
          - replicationcontrollers
      - apiGroups:
          - apps
        apiVersions:
          - "*"
        operations:
          - CREATE
          - UPDATE
        resources:
          - daemonsets
          - deployments
          - replicasets
          - statefulsets
      - apiGroups:
          - batch
        apiVersions:
          - "*"
        operations:
          - CREATE
          - UPDATE
        resources:
          - cronjobs
          - jobs
  matchConditions:
    - name: changed
      expression: "request.operation == 'CREATE' || (dyn(object).kind == 'Pod' ? dyn(object) : dyn(object).kind == 'CronJob' ? dyn(object).spec.jobTemplate.spec.template : dyn(object).spec.template).spec != (dyn(oldObject).kind == 'Pod' ? dyn(oldObject) : dyn(oldObject).kind == 'CronJob' ? dyn(oldObject).spec.jobTemplate.spec.template : dyn(oldObject).spec.template).spec || dyn(object).metadata.?annotations[?'fortress-kit/asked'].hasValue()"
    - name: exempt-1
      expression: '!(request.namespace == "kube-system")'
    - name: exempt-2
      expression: '!(request.namespace == "cilium")'
  variables:
    - name: pod
      expression: "(dyn(object).kind == 'Pod' ? dyn(object) : dyn(object).kind == 'CronJob' ? dyn(object).spec.jobTemplate.spec.template : dyn(object).spec.template)"
    - name: all
      expression: variables.pod.spec.?containers.orValue([]) + variables.pod.spec.?initContainers.orValue([])
    - name: bad
      expression: variables.all.filter(it, !(it.?resources.?requests.?cpu.hasValue() && it.?resources.?requests.?memory.hasValue())).map(it, it.name)
  validations:
    - expression: size(variables.bad) == 0
      message: container that does not request CPU and memory
      messageExpression: "object.kind + ' ' + request.namespace + '/' + object.metadata.name + ': ' + \"container that does not request CPU and memory\" + ': ' + variables.bad.join(', ')"
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata:
  name: fortress-limits
  labels:
    fortress-kit: policy
  annotations:
    fortress-kit/rule: "the memory of containers is limited: one that grows takes the memory of all others on its node"
    fortress-kit/exempt: |-
      kube-system: the add-ons of k3s are its makers', and a node must come back from a power cut by itself
      cert-manager: what it needs grows with the certificates, and one that is killed renews none
      cilium: without it no pod has a network, and its namespace is privileged anyway
spec:
  failurePolicy: Fail
  matchConstraints:
    resourceRules:
      - apiGroups:
          - ""
        apiVersions:
          - "*"
        operations:
          - CREATE
          - UPDATE
        resources:
          - pods
          - pods/ephemeralcontainers
          - replicationcontrollers
      - apiGroups:
          - apps
        apiVersions:
          - "*"
        operations:
          - CREATE
          - UPDATE
        resources:
          - daemonsets
          - deployments
          - replicasets
          - statefulsets
      - apiGroups:
          - batch
        apiVersions:
          - "*"
        operations:
          - CREATE
          - UPDATE
        resources:
          - cronjobs
          - jobs
  matchConditions:
    - name: changed
      expression: "request.operation == 'CREATE' || (dyn(object).kind == 'Pod' ? dyn(object) : dyn(object).kind == 'CronJob' ? dyn(object).spec.jobTemplate.spec.template : dyn(object).spec.template).spec != (dyn(oldObject).kind == 'Pod' ? dyn(oldObject) : dyn(oldObject).kind == 'CronJob' ? dyn(oldObject).spec.jobTemplate.spec.template : dyn(oldObject).spec.template).spec || dyn(object).metadata.?annotations[?'fortress-kit/asked'].hasValue()"
    - name: exempt-1
      expression: '!(request.namespace == "kube-system")'
    - name: exempt-2
      expression: '!(request.namespace == "cert-manager")'
    - name: exempt-3
      expression: '!(request.namespace == "cilium")'
  variables:
    - name: pod
      expression: "(dyn(object).kind == 'Pod' ? dyn(object) : dyn(object).kind == 'CronJob' ? dyn(object).spec.jobTemplate.spec.template : dyn(object).spec.template)"
    - name: all
      expression: variables.pod.spec.?containers.orValue([]) + variables.pod.spec.?initContainers.orValue([])
    - name: bad
      expression: variables.all.filter(it, !(it.?resources.?limits.?memory.hasValue())).map(it, it.name)
  validations:
    - expression: size(variables.bad) == 0
      message: container without a limit of memory
      messageExpression: "object.kind + ' ' + request.namespace + '/' + object.metadata.name + ': ' + \"container without a limit of memory\" + ': ' + variables.bad.join(', ')"
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata:
  name: fortress-probes
  labels:
    fortress-kit: policy
  annotations:
    fortress-kit/rule: "containers that serve say when they are ready: without a readiness probe requests go to what cannot answer yet"
    fortress-kit/exempt: |-
      kube-system: the add-ons of k3s are its makers', and a node must come back from a power cut by itself
      cert-manager app.kubernetes.io/name=cert-manager: nobody sends requests to the controller
      cert-manager app.kubernetes.io/name=cainjector: nobody sends requests to it
      cilium: without it no pod has a network, and its namespace is privileged anyway
      kyverno app.kubernetes.io/component=reports-controller: nobody sends requests to it
spec:
  failurePolicy: Fail
  matchConstraints:
    resourceRules:
      - apiGroups:
          - ""
        apiVersions:
          - "*"
        operations:
          - CREATE
          - UPDATE
        resources:
          - pods
          - pods/ephemeralcontainers
          - replicationcontrollers
      - apiGroups:
          - apps
        apiVersions:
          - "*"
        operations:
          - CREATE
          - UPDATE
        resources:
          - daemonsets
          - deployments
          - replicasets
          - statefulsets
      - apiGroups:
          - batch
        apiVersions:
          - "*"
        operations:
          - CREATE
          - UPDATE
        resources:
          - cronjobs
          - jobs
  matchConditions:
    - name: changed
      expression: "request.operation == 'CREATE' || (dyn(object).kind == 'Pod' ? dyn(object) : dyn(object).kind == 'CronJob' ? dyn(object).spec.jobTemplate.spec.template : dyn(object).spec.template).spec != (dyn(oldObject).kind == 'Pod' ? dyn(oldObject) : dyn(oldObject).kind == 'CronJob' ? dyn(oldObject).spec.jobTemplate.spec.template : dyn(oldObject).spec.template).spec || dyn(object).metadata.?annotations[?'fortress-kit/asked'].hasValue()"
    - name: exempt-1
      expression: '!(request.namespace == "kube-system")'
    - name: exempt-2
      expression: "!(request.namespace == \"cert-manager\" && (dyn(object).kind == 'Pod' ? dyn(object) : dyn(object).kind == 'CronJob' ? dyn(object).spec.jobTemplate.spec.template : dyn(object).spec.template).?metadata.?labels[?\"app.kubernetes.io/name\"].orValue('') == \"cert-manager\")"
    - name: exempt-3
      expression: "!(request.namespace == \"cert-manager\" && (dyn(object).kind == 'Pod' ? dyn(object) : dyn(object).kind == 'CronJob' ? dyn(object).spec.jobTemplate.spec.template : dyn(object).spec.template).?metadata.?labels[?\"app.kubernetes.io/name\"].orValue('') == \"cainjector\")"
    - name: exempt-4
      expression: '!(request.namespace == "cilium")'
    - name: exempt-5
      expression: "!(request.namespace == \"kyverno\" && (dyn(object).kind == 'Pod' ? dyn(object) : dyn(object).kind == 'CronJob' ? dyn(object).spec.jobTemplate.spec.template : dyn(object).spec.template).?metadata.?labels[?\"app.kubernetes.io/component\"].orValue('') == \"reports-controller\")"
  variables:
    - name: pod
      expression: "(dyn(object).kind == 'Pod' ? dyn(object) : dyn(object).kind == 'CronJob' ? dyn(object).spec.jobTemplate.spec.template : dyn(object).spec.template)"
    - name: all
      expression: "variables.pod.spec.?restartPolicy.orValue('Always') == 'Always' ? variables.pod.spec.?containers.orValue([]) : []"
    - name: bad
      expression: variables.all.filter(it, !(it.?readinessProbe.hasValue())).map(it, it.name)
  validations:
    - expression: size(variables.bad) == 0
      message: container without a readiness probe
      messageExpression: "object.kind + ' ' + request.namespace + '/' + object.metadata.name + ': ' + \"container without a readiness probe\" + ': ' + variables.bad.join(', ')"
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata:
  name: fortress-no-token
  labels:
    fortress-kit: policy
  annotations:
    fortress-kit/rule: "no token of the API is mounted unasked: whoever gets into a pod finds it there; who needs the API projects a token with an end"
    fortress-kit/exempt: |-
      kube-system: the add-ons of k3s are its makers', and a node must come back from a power cut by itself
      cert-manager: its programs read and write objects of the API all day
      cilium: without it no pod has a network, and its namespace is privileged anyway
      kyverno: its programs read what is in the cluster all day
spec:
  failurePolicy: Fail
  matchConstraints:
    resourceRules:
      - apiGroups:
          - ""
        apiVersions:
          - "*"
        operations:
          - CREATE
          - UPDATE
        resources:
          - pods
          - pods/ephemeralcontainers
          - replicationcontrollers
      - apiGroups:
          - apps
        apiVersions:
          - "*"
        operations:
          - CREATE
          - UPDATE
        resources:
          - daemonsets
          - deployments
          - replicasets
          - statefulsets
      - apiGroups:
          - batch
        apiVersions:
          - "*"
        operations:
          - CREATE
          - UPDATE
        resources:
          - cronjobs
          - jobs
  matchConditions:
    - name: changed
      expression: "request.operation == 'CREATE' || (dyn(object).kind == 'Pod' ? dyn(object) : dyn(object).kind == 'CronJob' ? dyn(object).spec.jobTemplate.spec.template : dyn(object).spec.template).spec != (dyn(oldObject).kind == 'Pod' ? dyn(oldObject) : dyn(oldObject).kind == 'CronJob' ? dyn(oldObject).spec.jobTemplate.spec.template : dyn(oldObject).spec.template).spec || dyn(object).metadata.?annotations[?'fortress-kit/asked'].hasValue()"
    - name: exempt-1
      expression: '!(request.namespace == "kube-system")'
    - name: exempt-2
      expression: '!(request.namespace == "cert-manager")'
    - name: exempt-3
      expression: '!(request.namespace == "cilium")'
    - name: exempt-4
      expression: '!(request.namespace == "kyverno")'
  variables:
    - name: it
      expression: "(dyn(object).kind == 'Pod' ? dyn(object) : dyn(object).kind == 'CronJob' ? dyn(object).spec.jobTemplate.spec.template : dyn(object).spec.template)"
  validations:
    - expression: variables.it.spec.?automountServiceAccountToken.orValue(true) == false
      message: automountServiceAccountToken is not false
      messageExpression: "object.kind + ' ' + request.namespace + '/' + object.metadata.name + ': ' + \"automountServiceAccountToken is not false\""
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata:
  name: fortress-default-namespace
  labels:
    fortress-kit: policy
  annotations:
    fortress-kit/rule: "nothing runs in the namespace default: who forgets --namespace lands there, beside everybody who forgot it, too"
    fortress-kit/exempt: |-
      kube-system: the add-ons of k3s are its makers', and a node must come back from a power cut by itself
      cilium: without it no pod has a network, and its namespace is privileged anyway
spec:
  failurePolicy: Fail
  matchConstraints:
    resourceRules:
      - apiGroups:
          - ""
        apiVersions:
          - "*"
        operations:
          - CREATE
          - UPDATE
        resources:
          - pods
          - pods/ephemeralcontainers
          - replicationcontrollers
      - apiGroups:
          - apps
        apiVersions:
          - "*"
        operations:
          - CREATE
          - UPDATE
        resources:
          - daemonsets
          - deployments
          - replicasets
          - statefulsets
      - apiGroups:
          - batch
        apiVersions:
          - "*"
        operations:
          - CREATE
          - UPDATE
        resources:
          - cronjobs
          - jobs
  matchConditions:
    - name: changed
      expression: "request.operation == 'CREATE' || (dyn(object).kind == 'Pod' ? dyn(object) : dyn(object).kind == 'CronJob' ? dyn(object).spec.jobTemplate.spec.template : dyn(object).spec.template).spec != (dyn(oldObject).kind == 'Pod' ? dyn(oldObject) : dyn(oldObject).kind == 'CronJob' ? dyn(oldObject).spec.jobTemplate.spec.template : dyn(oldObject).spec.template).spec || dyn(object).metadata.?annotations[?'fortress-kit/asked'].hasValue()"
    - name: exempt-1
      expression: '!(request.namespace == "kube-system")'
    - name: exempt-2
      expression: '!(request.namespace == "cilium")'
  variables:
    - name: it
      expression: "(dyn(object).kind == 'Pod' ? dyn(object) : dyn(object).kind == 'CronJob' ? dyn(object).spec.jobTemplate.spec.template : dyn(object).spec.template)"
  validations:
    - expression: request.namespace != 'default'
      message: the namespace default is no place for it
      messageExpression: "object.kind + ' ' + request.namespace + '/' + object.metadata.name + ': ' + \"the namespace default is no place for it\""
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata:
  name: fortress-owner
  labels:
    fortress-kit: policy
  annotations:
    fortress-kit/rule: "pods, or their namespace, say whose they are: when one misbehaves at night somebody must know whom to ask"
    fortress-kit/exempt: |-
      kube-system: the add-ons of k3s are its makers', and a node must come back from a power cut by itself
      cilium: without it no pod has a network, and its namespace is privileged anyway
      cert-manager: namespaces of components are those of the kit
      cilium: namespaces of components are those of the kit
      hello: namespaces of components are those of the kit
      kyverno: namespaces of components are those of the kit
      sops: namespaces of components are those of the kit
spec:
  failurePolicy: Fail
  matchConstraints:
    resourceRules:
      - apiGroups:
          - ""
        apiVersions:
          - "*"
        operations:
          - CREATE
          - UPDATE
        resources:
          - pods
          - pods/ephemeralcontainers
          - replicationcontrollers
      - apiGroups:
          - apps
        apiVersions:
          - "*"
        operations:
          - CREATE
          - UPDATE
        resources:
          - daemonsets
          - deployments
          - replicasets
          - statefulsets
      - apiGroups:
          - batch
        apiVersions:
          - "*"
        operations:
          - CREATE
          - UPDATE
        resources:
          - cronjobs
          - jobs
  matchConditions:
    - name: changed
      expression: "request.operation == 'CREATE' || (dyn(object).kind == 'Pod' ? dyn(object) : dyn(object).kind == 'CronJob' ? dyn(object).spec.jobTemplate.spec.template : dyn(object).spec.template).spec != (dyn(oldObject).kind == 'Pod' ? dyn(oldObject) : dyn(oldObject).kind == 'CronJob' ? dyn(oldObject).spec.jobTemplate.spec.template : dyn(oldObject).spec.template).spec || dyn(object).metadata.?annotations[?'fortress-kit/asked'].hasValue()"
    - name: exempt-1
      expression: '!(request.namespace == "kube-system")'
    - name: exempt-2
      expression: '!(request.namespace == "cilium")'
    - name: exempt-3
      expression: '!(request.namespace == "cert-manager")'
    - name: exempt-4
      expression: '!(request.namespace == "cilium")'
    - name: exempt-5
      expression: '!(request.namespace == "hello")'
    - name: exempt-6
      expression: '!(request.namespace == "kyverno")'
    - name: exempt-7
      expression: '!(request.namespace == "sops")'
  variables:
    - name: it
      expression: "(dyn(object).kind == 'Pod' ? dyn(object) : dyn(object).kind == 'CronJob' ? dyn(object).spec.jobTemplate.spec.template : dyn(object).spec.template)"
  validations:
    - expression: variables.it.?metadata.?labels[?'fortress-kit/owner'].orValue('') != '' || namespaceObject.metadata.?labels[?'fortress-kit/owner'].orValue('') != ''
      message: neither it nor its namespace has the label fortress-kit/owner
      messageExpression: "object.kind + ' ' + request.namespace + '/' + object.metadata.name + ': ' + \"neither it nor its namespace has the label fortress-kit/owner\""
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata:
  name: fortress-node-port
  labels:
    fortress-kit: policy
  annotations:
    fortress-kit/rule: "no Service opens a port of the nodes: it would be open on every address of every node, past the gateways"
    fortress-kit/exempt: |-
      kube-system: the add-ons of k3s are its makers', and a node must come back from a power cut by itself
      cilium: without it no pod has a network, and its namespace is privileged anyway
      gateways: its operator makes a Service of type LoadBalancer for each gateway, and leaves allocateLoadBalancerNodePorts as it is
spec:
  failurePolicy: Fail
  matchConstraints:
    resourceRules:
      - apiGroups:
          - ""
        apiVersions:
          - "*"
        operations:
          - CREATE
          - UPDATE
        resources:
          - services
  matchConditions:
    - name: changed
      expression: request.operation == 'CREATE' || dyn(object).spec != dyn(oldObject).spec || dyn(object).metadata.?annotations[?'fortress-kit/asked'].hasValue()
    - name: exempt-1
      expression: '!(request.namespace == "kube-system")'
    - name: exempt-2
      expression: '!(request.namespace == "cilium")'
    - name: exempt-3
      expression: '!(request.namespace == "gateways")'
  variables:
    - name: it
      expression: dyn(object)
  validations:
    - expression: variables.it.spec.?type.orValue('') != 'NodePort' && (variables.it.spec.?type.orValue('') != 'LoadBalancer' || variables.it.spec.?allocateLoadBalancerNodePorts.orValue(true) == false)
      message: type NodePort, or LoadBalancer without allocateLoadBalancerNodePorts false
      messageExpression: "object.kind + ' ' + request.namespace + '/' + object.metadata.name + ': ' + \"type NodePort, or LoadBalancer without allocateLoadBalancerNodePorts false\""
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata:
  name: fortress-hosts
  labels:
    fortress-kit: policy
  annotations:
    fortress-kit/rule: "routes name their hosts: one that takes any name takes those of others as well"
    fortress-kit/exempt: |-
      kube-system: the add-ons of k3s are its makers', and a node must come back from a power cut by itself
      cilium: without it no pod has a network, and its namespace is privileged anyway
      gateways: a gateway takes each name right below its zones, and its own route leads all of them to HTTPS
spec:
  failurePolicy: Fail
  matchConstraints:
    resourceRules:
      - apiGroups:
          - gateway.networking.k8s.io
        apiVersions:
          - "*"
        operations:
          - CREATE
          - UPDATE
        resources:
          - gateways
          - grpcroutes
          - httproutes
          - listenersets
          - tlsroutes
      - apiGroups:
          - networking.k8s.io
        apiVersions:
          - "*"
        operations:
          - CREATE
          - UPDATE
        resources:
          - ingresses
  matchConditions:
    - name: changed
      expression: request.operation == 'CREATE' || dyn(object).spec != dyn(oldObject).spec || dyn(object).metadata.?annotations[?'fortress-kit/asked'].hasValue()
    - name: exempt-1
      expression: '!(request.namespace == "kube-system")'
    - name: exempt-2
      expression: '!(request.namespace == "cilium")'
    - name: exempt-3
      expression: '!(request.namespace == "gateways")'
  variables:
    - name: it
      expression: dyn(object)
  validations:
    - expression: |-
        (variables.it.kind == 'Ingress'
          ? variables.it.spec.?rules.orValue([]).map(one, one.?host.orValue('')) + (has(variables.it.spec.defaultBackend) ? [''] : [])
          : variables.it.kind == 'Gateway' || variables.it.kind == 'ListenerSet'
          ? variables.it.spec.listeners.filter(one, one.protocol in ['HTTP', 'HTTPS', 'TLS']).map(one, one.?hostname.orValue(''))
          : variables.it.spec.?hostnames.orValue([''])
        ).all(host, host != '' && !host.contains('*'))
      message: a host is left out, or has a *
      messageExpression: "object.kind + ' ' + request.namespace + '/' + object.metadata.name + ': ' + \"a host is left out, or has a *\""
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata:
  name: fortress-digest
  labels:
    fortress-kit: policy
spec:
  policyName: fortress-digest
  validationActions:
    - Warn
    - Audit
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata:
  name: fortress-latest
  labels:
    fortress-kit: policy
spec:
  policyName: fortress-latest
  validationActions:
    - Warn
    - Audit
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata:
  name: fortress-registries
  labels:
    fortress-kit: policy
spec:
  policyName: fortress-registries
  validationActions:
    - Warn
    - Audit
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata:
  name: fortress-read-only-root
  labels:
    fortress-kit: policy
spec:
  policyName: fortress-read-only-root
  validationActions:
    - Warn
    - Audit
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata:
  name: fortress-requests
  labels:
    fortress-kit: policy
spec:
  policyName: fortress-requests
  validationActions:
    - Warn
    - Audit
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata:
  name: fortress-limits
  labels:
    fortress-kit: policy
spec:
  policyName: fortress-limits
  validationActions:
    - Warn
    - Audit
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata:
  name: fortress-probes
  labels:
    fortress-kit: policy
spec:
  policyName: fortress-probes
  validationActions:
    - Warn
    - Audit
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata:
  name: fortress-no-token
  labels:
    fortress-kit: policy
spec:
  policyName: fortress-no-token
  validationActions:
    - Warn
    - Audit
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata:
  name: fortress-default-namespace
  labels:
    fortress-kit: policy
spec:
  policyName: fortress-default-namespace
  validationActions:
    - Warn
    - Audit
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata:
  name: fortress-owner
  labels:
    fortress-kit: policy
spec:
  policyName: fortress-owner
  validationActions:
    - Warn
    - Audit
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata:
  name: fortress-node-port
  labels:
    fortress-kit: policy
spec:
  policyName: fortress-node-port
  validationActions:
    - Warn
    - Audit
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata:
  name: fortress-hosts
  labels:
    fortress-kit: policy
spec:
  policyName: fortress-hosts
  validationActions:
    - Warn
    - Audit
FORTRESS
    )
    put_finish /nonexistent/fortress/components/policy.yaml
  }
  recover() { put_restore /nonexistent/fortress/components/policy.yaml; }
  change 'the manifests of policy are written'

  # 3/8 12 rules for pods, Services and routes are declared, and warn
  #   why: the API server judges by itself, no pod has to run for it, and one more exemption made by hand is seen
  check() {
    policy_exact /nonexistent/fortress/components/policy.yaml && objects_hold policy validatingadmissionpolicies.admissionregistration.k8s.io,validatingadmissionpolicybindings.admissionregistration.k8s.io /nonexistent/fortress/components/policy.yaml
  }
  apply() {
    policy_replace /nonexistent/fortress/components/policy.yaml
    objects_apply policy validatingadmissionpolicies.admissionregistration.k8s.io,validatingadmissionpolicybindings.admissionregistration.k8s.io /nonexistent/fortress/components/policy.yaml
  }
  change '12 rules for pods, Services and routes are declared, and warn'

  # 4/8 every rule is in effect
  #   why: the API server gets objects that break each of them as a dry run, and has to warn of each
  check() {
    policy_warns /nonexistent/fortress/components/policy-refused.yaml digest latest registries read-only-root requests limits probes no-token default-namespace owner node-port hosts
  }
  wait_for 'every rule is in effect' 60

  # 5/8 the rules warn, and refuse nothing
  #   why: policy.mode is audit: ./task rules report shows what enforce would refuse
  check() {
    found=$(kubectl get validatingadmissionpolicybindings.admissionregistration.k8s.io --selector=fortress-kit=policy-refuse --output=name) || exit
    test -z "$found" || { printf '%s refuses\n' $found; false; }
  }
  apply() {
    kubectl delete validatingadmissionpolicybindings.admissionregistration.k8s.io --selector=fortress-kit=policy-refuse
  }
  change 'the rules warn, and refuse nothing'

  # 6/8 the manifests of kyverno-rules are written
  check() {
    put_matches /nonexistent/fortress/components/kyverno-rules.yaml 39673d3c968a6e17a7dcb02384973f1c20d189067e37356da4576e398314738f 644 root:root
  }
  apply() {
    (
      put /nonexistent/fortress/components/kyverno-rules.yaml 644 root:root << 'FORTRESS'
---
apiVersion: policies.kyverno.io/v1
kind: ValidatingPolicy
metadata:
  name: fortress-digest
  labels:
    fortress-kit: kyverno-rules
  annotations:
    fortress-kit/rule: "images are named by their digest: a tag may be another image tomorrow"
    fortress-kit/exempt: |-
      kube-system: the add-ons of k3s are its makers', and a node must come back from a power cut by itself
      cert-manager: its chart names images by their version
      cilium: without it no pod has a network, and its namespace is privileged anyway
      kyverno: its chart names images by their version
spec:
  validationActions:
    - Audit
  failurePolicy: Ignore
  webhookConfiguration:
    timeoutSeconds: 3
  evaluation:
    admission:
      enabled: true
    background:
      enabled: true
  autogen:
    podControllers:
      controllers: []
    validatingAdmissionPolicy:
      enabled: false
  matchConstraints:
    resourceRules:
      - apiGroups:
          - ""
        apiVersions:
          - "*"
        operations:
          - CREATE
          - UPDATE
        resources:
          - pods
          - pods/ephemeralcontainers
          - replicationcontrollers
      - apiGroups:
          - apps
        apiVersions:
          - "*"
        operations:
          - CREATE
          - UPDATE
        resources:
          - daemonsets
          - deployments
          - replicasets
          - statefulsets
      - apiGroups:
          - batch
        apiVersions:
          - "*"
        operations:
          - CREATE
          - UPDATE
        resources:
          - cronjobs
          - jobs
  matchConditions:
    - name: changed
      expression: "request.operation == 'CREATE' || (dyn(object).kind == 'Pod' ? dyn(object) : dyn(object).kind == 'CronJob' ? dyn(object).spec.jobTemplate.spec.template : dyn(object).spec.template).spec != (dyn(oldObject).kind == 'Pod' ? dyn(oldObject) : dyn(oldObject).kind == 'CronJob' ? dyn(oldObject).spec.jobTemplate.spec.template : dyn(oldObject).spec.template).spec || dyn(object).metadata.?annotations[?'fortress-kit/asked'].hasValue()"
    - name: exempt-1
      expression: '!(request.namespace == "kube-system")'
    - name: exempt-2
      expression: '!(request.namespace == "cert-manager")'
    - name: exempt-3
      expression: '!(request.namespace == "cilium")'
    - name: exempt-4
      expression: '!(request.namespace == "kyverno")'
  variables:
    - name: pod
      expression: "(dyn(object).kind == 'Pod' ? dyn(object) : dyn(object).kind == 'CronJob' ? dyn(object).spec.jobTemplate.spec.template : dyn(object).spec.template)"
    - name: all
      expression: "(variables.pod.spec.?containers.orValue([]) + variables.pod.spec.?initContainers.orValue([]) + variables.pod.spec.?ephemeralContainers.orValue([])).map(one, {'name': dyn(one.name), 'image': dyn(one.?image.orValue(''))}) + variables.pod.spec.?volumes.orValue([]).filter(one, has(one.image)).map(one, {'name': dyn('volume ' + one.name), 'image': dyn(one.image.?reference.orValue(''))})"
    - name: bad
      expression: variables.all.filter(it, !(it.image.matches('@sha256:[0-9a-f]{64}$'))).map(it, it.name)
  validations:
    - expression: size(variables.bad) == 0
      message: image without a digest, as in NAME@sha256:DIGEST
      messageExpression: "object.kind + ' ' + request.namespace + '/' + object.metadata.name + ': ' + \"image without a digest, as in NAME@sha256:DIGEST\" + ': ' + variables.bad.join(', ')"
---
apiVersion: policies.kyverno.io/v1
kind: ValidatingPolicy
metadata:
  name: fortress-latest
  labels:
    fortress-kit: kyverno-rules
  annotations:
    fortress-kit/rule: "no image is called latest: nobody can say which version that is, or was"
    fortress-kit/exempt: |-
      kube-system: the add-ons of k3s are its makers', and a node must come back from a power cut by itself
      cilium: without it no pod has a network, and its namespace is privileged anyway
spec:
  validationActions:
    - Audit
  failurePolicy: Ignore
  webhookConfiguration:
    timeoutSeconds: 3
  evaluation:
    admission:
      enabled: true
    background:
      enabled: true
  autogen:
    podControllers:
      controllers: []
    validatingAdmissionPolicy:
      enabled: false
  matchConstraints:
    resourceRules:
      - apiGroups:
          - ""
        apiVersions:
          - "*"
        operations:
          - CREATE
          - UPDATE
        resources:
          - pods
          - pods/ephemeralcontainers
          - replicationcontrollers
      - apiGroups:
          - apps
        apiVersions:
          - "*"
        operations:
          - CREATE
          - UPDATE
        resources:
          - daemonsets
          - deployments
          - replicasets
          - statefulsets
      - apiGroups:
          - batch
        apiVersions:
          - "*"
        operations:
          - CREATE
          - UPDATE
        resources:
          - cronjobs
          - jobs
  matchConditions:
    - name: changed
      expression: "request.operation == 'CREATE' || (dyn(object).kind == 'Pod' ? dyn(object) : dyn(object).kind == 'CronJob' ? dyn(object).spec.jobTemplate.spec.template : dyn(object).spec.template).spec != (dyn(oldObject).kind == 'Pod' ? dyn(oldObject) : dyn(oldObject).kind == 'CronJob' ? dyn(oldObject).spec.jobTemplate.spec.template : dyn(oldObject).spec.template).spec || dyn(object).metadata.?annotations[?'fortress-kit/asked'].hasValue()"
    - name: exempt-1
      expression: '!(request.namespace == "kube-system")'
    - name: exempt-2
      expression: '!(request.namespace == "cilium")'
  variables:
    - name: pod
      expression: "(dyn(object).kind == 'Pod' ? dyn(object) : dyn(object).kind == 'CronJob' ? dyn(object).spec.jobTemplate.spec.template : dyn(object).spec.template)"
    - name: all
      expression: "(variables.pod.spec.?containers.orValue([]) + variables.pod.spec.?initContainers.orValue([]) + variables.pod.spec.?ephemeralContainers.orValue([])).map(one, {'name': dyn(one.name), 'image': dyn(one.?image.orValue(''))}) + variables.pod.spec.?volumes.orValue([]).filter(one, has(one.image)).map(one, {'name': dyn('volume ' + one.name), 'image': dyn(one.image.?reference.orValue(''))})"
    - name: bad
      expression: variables.all.filter(it, !(!it.image.matches(':latest(@|$)'))).map(it, it.name)
  validations:
    - expression: size(variables.bad) == 0
      message: image with the tag latest
      messageExpression: "object.kind + ' ' + request.namespace + '/' + object.metadata.name + ': ' + \"image with the tag latest\" + ': ' + variables.bad.join(', ')"
---
apiVersion: policies.kyverno.io/v1
kind: ValidatingPolicy
metadata:
  name: fortress-registries
  labels:
    fortress-kit: kyverno-rules
  annotations:
    fortress-kit/rule: "images come from the registries of the site: a name that is spelt wrong fetches what somebody else has put there"
    fortress-kit/exempt: |-
      kube-system: the add-ons of k3s are its makers', and a node must come back from a power cut by itself
      cilium: without it no pod has a network, and its namespace is privileged anyway
spec:
  validationActions:
    - Audit
  failurePolicy: Ignore
  webhookConfiguration:
    timeoutSeconds: 3
  evaluation:
    admission:
      enabled: true
    background:
      enabled: true
  autogen:
    podControllers:
      controllers: []
    validatingAdmissionPolicy:
      enabled: false
  matchConstraints:
    resourceRules:
      - apiGroups:
          - ""
        apiVersions:
          - "*"
        operations:
          - CREATE
          - UPDATE
        resources:
          - pods
          - pods/ephemeralcontainers
          - replicationcontrollers
      - apiGroups:
          - apps
        apiVersions:
          - "*"
        operations:
          - CREATE
          - UPDATE
        resources:
          - daemonsets
          - deployments
          - replicasets
          - statefulsets
      - apiGroups:
          - batch
        apiVersions:
          - "*"
        operations:
          - CREATE
          - UPDATE
        resources:
          - cronjobs
          - jobs
  matchConditions:
    - name: changed
      expression: "request.operation == 'CREATE' || (dyn(object).kind == 'Pod' ? dyn(object) : dyn(object).kind == 'CronJob' ? dyn(object).spec.jobTemplate.spec.template : dyn(object).spec.template).spec != (dyn(oldObject).kind == 'Pod' ? dyn(oldObject) : dyn(oldObject).kind == 'CronJob' ? dyn(oldObject).spec.jobTemplate.spec.template : dyn(oldObject).spec.template).spec || dyn(object).metadata.?annotations[?'fortress-kit/asked'].hasValue()"
    - name: exempt-1
      expression: '!(request.namespace == "kube-system")'
    - name: exempt-2
      expression: '!(request.namespace == "cilium")'
  variables:
    - name: pod
      expression: "(dyn(object).kind == 'Pod' ? dyn(object) : dyn(object).kind == 'CronJob' ? dyn(object).spec.jobTemplate.spec.template : dyn(object).spec.template)"
    - name: all
      expression: "(variables.pod.spec.?containers.orValue([]) + variables.pod.spec.?initContainers.orValue([]) + variables.pod.spec.?ephemeralContainers.orValue([])).map(one, {'name': dyn(one.name), 'image': dyn(one.?image.orValue(''))}) + variables.pod.spec.?volumes.orValue([]).filter(one, has(one.image)).map(one, {'name': dyn('volume ' + one.name), 'image': dyn(one.image.?reference.orValue(''))})"
    - name: bad
      expression: variables.all.filter(it, !(["docker.io","ghcr.io","quay.io","registry.k8s.io"].exists(one, it.image.startsWith(one + "/")))).map(it, it.name)
  validations:
    - expression: size(variables.bad) == 0
      message: image of a registry that policy.registries does not list
      messageExpression: "object.kind + ' ' + request.namespace + '/' + object.metadata.name + ': ' + \"image of a registry that policy.registries does not list\" + ': ' + variables.bad.join(', ')"
---
apiVersion: policies.kyverno.io/v1
kind: ValidatingPolicy
metadata:
  name: fortress-read-only-root
  labels:
    fortress-kit: kyverno-rules
  annotations:
    fortress-kit/rule: "the root file system of containers is read-only: what breaks into a container can leave nothing behind in it"
    fortress-kit/exempt: |-
      kube-system: the add-ons of k3s are its makers', and a node must come back from a power cut by itself
      cilium: without it no pod has a network, and its namespace is privileged anyway
spec:
  validationActions:
    - Audit
  failurePolicy: Ignore
  webhookConfiguration:
    timeoutSeconds: 3
  evaluation:
    admission:
      enabled: true
    background:
      enabled: true
  autogen:
    podControllers:
      controllers: []
    validatingAdmissionPolicy:
      enabled: false
  matchConstraints:
    resourceRules:
      - apiGroups:
          - ""
        apiVersions:
          - "*"
        operations:
          - CREATE
          - UPDATE
        resources:
          - pods
          - pods/ephemeralcontainers
          - replicationcontrollers
      - apiGroups:
          - apps
        apiVersions:
          - "*"
        operations:
          - CREATE
          - UPDATE
        resources:
          - daemonsets
          - deployments
          - replicasets
          - statefulsets
      - apiGroups:
          - batch
        apiVersions:
          - "*"
        operations:
          - CREATE
          - UPDATE
        resources:
          - cronjobs
          - jobs
  matchConditions:
    - name: changed
      expression: "request.operation == 'CREATE' || (dyn(object).kind == 'Pod' ? dyn(object) : dyn(object).kind == 'CronJob' ? dyn(object).spec.jobTemplate.spec.template : dyn(object).spec.template).spec != (dyn(oldObject).kind == 'Pod' ? dyn(oldObject) : dyn(oldObject).kind == 'CronJob' ? dyn(oldObject).spec.jobTemplate.spec.template : dyn(oldObject).spec.template).spec || dyn(object).metadata.?annotations[?'fortress-kit/asked'].hasValue()"
    - name: exempt-1
      expression: '!(request.namespace == "kube-system")'
    - name: exempt-2
      expression: '!(request.namespace == "cilium")'
  variables:
    - name: pod
      expression: "(dyn(object).kind == 'Pod' ? dyn(object) : dyn(object).kind == 'CronJob' ? dyn(object).spec.jobTemplate.spec.template : dyn(object).spec.template)"
    - name: all
      expression: variables.pod.spec.?containers.orValue([]) + variables.pod.spec.?initContainers.orValue([]) + variables.pod.spec.?ephemeralContainers.orValue([])
    - name: bad
      expression: variables.all.filter(it, !(it.?securityContext.?readOnlyRootFilesystem.orValue(false))).map(it, it.name)
  validations:
    - expression: size(variables.bad) == 0
      message: container that can write to its root file system
      messageExpression: "object.kind + ' ' + request.namespace + '/' + object.metadata.name + ': ' + \"container that can write to its root file system\" + ': ' + variables.bad.join(', ')"
---
apiVersion: policies.kyverno.io/v1
kind: ValidatingPolicy
metadata:
  name: fortress-requests
  labels:
    fortress-kit: kyverno-rules
  annotations:
    fortress-kit/rule: "containers request CPU and memory: the scheduler places pods by what they request, and the node evicts by it"
    fortress-kit/exempt: |-
      kube-system: the add-ons of k3s are its makers', and a node must come back from a power cut by itself
      cilium: without it no pod has a network, and its namespace is privileged anyway
spec:
  validationActions:
    - Audit
  failurePolicy: Ignore
  webhookConfiguration:
    timeoutSeconds: 3
  evaluation:
    admission:
      enabled: true
    background:
      enabled: true
  autogen:
    podControllers:
      controllers: []
    validatingAdmissionPolicy:
      enabled: false
  matchConstraints:
    resourceRules:
      - apiGroups:
          - ""
        apiVersions:
          - "*"
        operations:
          - CREATE
          - UPDATE
        resources:
          - pods
          - pods/ephemeralcontainers
          - replicationcontrollers
      - apiGroups:
          - apps
        apiVersions:
          - "*"
        operations:
          - CREATE
          - UPDATE
        resources:
          - daemonsets
          - deployments
          - replicasets
          - statefulsets
      - apiGroups:
          - batch
        apiVersions:
          - "*"
        operations:
          - CREATE
          - UPDATE
        resources:
          - cronjobs
          - jobs
  matchConditions:
    - name: changed
      expression: "request.operation == 'CREATE' || (dyn(object).kind == 'Pod' ? dyn(object) : dyn(object).kind == 'CronJob' ? dyn(object).spec.jobTemplate.spec.template : dyn(object).spec.template).spec != (dyn(oldObject).kind == 'Pod' ? dyn(oldObject) : dyn(oldObject).kind == 'CronJob' ? dyn(oldObject).spec.jobTemplate.spec.template : dyn(oldObject).spec.template).spec || dyn(object).metadata.?annotations[?'fortress-kit/asked'].hasValue()"
    - name: exempt-1
      expression: '!(request.namespace == "kube-system")'
    - name: exempt-2
      expression: '!(request.namespace == "cilium")'
  variables:
    - name: pod
      expression: "(dyn(object).kind == 'Pod' ? dyn(object) : dyn(object).kind == 'CronJob' ? dyn(object).spec.jobTemplate.spec.template : dyn(object).spec.template)"
    - name: all
      expression: variables.pod.spec.?containers.orValue([]) + variables.pod.spec.?initContainers.orValue([])
    - name: bad
      expression: variables.all.filter(it, !(it.?resources.?requests.?cpu.hasValue() && it.?resources.?requests.?memory.hasValue())).map(it, it.name)
  validations:
    - expression: size(variables.bad) == 0
      message: container that does not request CPU and memory
      messageExpression: "object.kind + ' ' + request.namespace + '/' + object.metadata.name + ': ' + \"container that does not request CPU and memory\" + ': ' + variables.bad.join(', ')"
---
apiVersion: policies.kyverno.io/v1
kind: ValidatingPolicy
metadata:
  name: fortress-limits
  labels:
    fortress-kit: kyverno-rules
  annotations:
    fortress-kit/rule: "the memory of containers is limited: one that grows takes the memory of all others on its node"
    fortress-kit/exempt: |-
      kube-system: the add-ons of k3s are its makers', and a node must come back from a power cut by itself
      cert-manager: what it needs grows with the certificates, and one that is killed renews none
      cilium: without it no pod has a network, and its namespace is privileged anyway
spec:
  validationActions:
    - Audit
  failurePolicy: Ignore
  webhookConfiguration:
    timeoutSeconds: 3
  evaluation:
    admission:
      enabled: true
    background:
      enabled: true
  autogen:
    podControllers:
      controllers: []
    validatingAdmissionPolicy:
      enabled: false
  matchConstraints:
    resourceRules:
      - apiGroups:
          - ""
        apiVersions:
          - "*"
        operations:
          - CREATE
          - UPDATE
        resources:
          - pods
          - pods/ephemeralcontainers
          - replicationcontrollers
      - apiGroups:
          - apps
        apiVersions:
          - "*"
        operations:
          - CREATE
          - UPDATE
        resources:
          - daemonsets
          - deployments
          - replicasets
          - statefulsets
      - apiGroups:
          - batch
        apiVersions:
          - "*"
        operations:
          - CREATE
          - UPDATE
        resources:
          - cronjobs
          - jobs
  matchConditions:
    - name: changed
      expression: "request.operation == 'CREATE' || (dyn(object).kind == 'Pod' ? dyn(object) : dyn(object).kind == 'CronJob' ? dyn(object).spec.jobTemplate.spec.template : dyn(object).spec.template).spec != (dyn(oldObject).kind == 'Pod' ? dyn(oldObject) : dyn(oldObject).kind == 'CronJob' ? dyn(oldObject).spec.jobTemplate.spec.template : dyn(oldObject).spec.template).spec || dyn(object).metadata.?annotations[?'fortress-kit/asked'].hasValue()"
    - name: exempt-1
      expression: '!(request.namespace == "kube-system")'
    - name: exempt-2
      expression: '!(request.namespace == "cert-manager")'
    - name: exempt-3
      expression: '!(request.namespace == "cilium")'
  variables:
    - name: pod
      expression: "(dyn(object).kind == 'Pod' ? dyn(object) : dyn(object).kind == 'CronJob' ? dyn(object).spec.jobTemplate.spec.template : dyn(object).spec.template)"
    - name: all
      expression: variables.pod.spec.?containers.orValue([]) + variables.pod.spec.?initContainers.orValue([])
    - name: bad
      expression: variables.all.filter(it, !(it.?resources.?limits.?memory.hasValue())).map(it, it.name)
  validations:
    - expression: size(variables.bad) == 0
      message: container without a limit of memory
      messageExpression: "object.kind + ' ' + request.namespace + '/' + object.metadata.name + ': ' + \"container without a limit of memory\" + ': ' + variables.bad.join(', ')"
---
apiVersion: policies.kyverno.io/v1
kind: ValidatingPolicy
metadata:
  name: fortress-probes
  labels:
    fortress-kit: kyverno-rules
  annotations:
    fortress-kit/rule: "containers that serve say when they are ready: without a readiness probe requests go to what cannot answer yet"
    fortress-kit/exempt: |-
      kube-system: the add-ons of k3s are its makers', and a node must come back from a power cut by itself
      cert-manager app.kubernetes.io/name=cert-manager: nobody sends requests to the controller
      cert-manager app.kubernetes.io/name=cainjector: nobody sends requests to it
      cilium: without it no pod has a network, and its namespace is privileged anyway
      kyverno app.kubernetes.io/component=reports-controller: nobody sends requests to it
spec:
  validationActions:
    - Audit
  failurePolicy: Ignore
  webhookConfiguration:
    timeoutSeconds: 3
  evaluation:
    admission:
      enabled: true
    background:
      enabled: true
  autogen:
    podControllers:
      controllers: []
    validatingAdmissionPolicy:
      enabled: false
  matchConstraints:
    resourceRules:
      - apiGroups:
          - ""
        apiVersions:
          - "*"
        operations:
          - CREATE
          - UPDATE
        resources:
          - pods
          - pods/ephemeralcontainers
          - replicationcontrollers
      - apiGroups:
          - apps
        apiVersions:
          - "*"
        operations:
          - CREATE
          - UPDATE
        resources:
          - daemonsets
          - deployments
          - replicasets
          - statefulsets
      - apiGroups:
          - batch
        apiVersions:
          - "*"
        operations:
          - CREATE
          - UPDATE
        resources:
          - cronjobs
          - jobs
  matchConditions:
    - name: changed
      expression: "request.operation == 'CREATE' || (dyn(object).kind == 'Pod' ? dyn(object) : dyn(object).kind == 'CronJob' ? dyn(object).spec.jobTemplate.spec.template : dyn(object).spec.template).spec != (dyn(oldObject).kind == 'Pod' ? dyn(oldObject) : dyn(oldObject).kind == 'CronJob' ? dyn(oldObject).spec.jobTemplate.spec.template : dyn(oldObject).spec.template).spec || dyn(object).metadata.?annotations[?'fortress-kit/asked'].hasValue()"
    - name: exempt-1
      expression: '!(request.namespace == "kube-system")'
    - name: exempt-2
      expression: "!(request.namespace == \"cert-manager\" && (dyn(object).kind == 'Pod' ? dyn(object) : dyn(object).kind == 'CronJob' ? dyn(object).spec.jobTemplate.spec.template : dyn(object).spec.template).?metadata.?labels[?\"app.kubernetes.io/name\"].orValue('') == \"cert-manager\")"
    - name: exempt-3
      expression: "!(request.namespace == \"cert-manager\" && (dyn(object).kind == 'Pod' ? dyn(object) : dyn(object).kind == 'CronJob' ? dyn(object).spec.jobTemplate.spec.template : dyn(object).spec.template).?metadata.?labels[?\"app.kubernetes.io/name\"].orValue('') == \"cainjector\")"
    - name: exempt-4
      expression: '!(request.namespace == "cilium")'
    - name: exempt-5
      expression: "!(request.namespace == \"kyverno\" && (dyn(object).kind == 'Pod' ? dyn(object) : dyn(object).kind == 'CronJob' ? dyn(object).spec.jobTemplate.spec.template : dyn(object).spec.template).?metadata.?labels[?\"app.kubernetes.io/component\"].orValue('') == \"reports-controller\")"
  variables:
    - name: pod
      expression: "(dyn(object).kind == 'Pod' ? dyn(object) : dyn(object).kind == 'CronJob' ? dyn(object).spec.jobTemplate.spec.template : dyn(object).spec.template)"
    - name: all
      expression: "variables.pod.spec.?restartPolicy.orValue('Always') == 'Always' ? variables.pod.spec.?containers.orValue([]) : []"
    - name: bad
      expression: variables.all.filter(it, !(it.?readinessProbe.hasValue())).map(it, it.name)
  validations:
    - expression: size(variables.bad) == 0
      message: container without a readiness probe
      messageExpression: "object.kind + ' ' + request.namespace + '/' + object.metadata.name + ': ' + \"container without a readiness probe\" + ': ' + variables.bad.join(', ')"
---
apiVersion: policies.kyverno.io/v1
kind: ValidatingPolicy
metadata:
  name: fortress-no-token
  labels:
    fortress-kit: kyverno-rules
  annotations:
    fortress-kit/rule: "no token of the API is mounted unasked: whoever gets into a pod finds it there; who needs the API projects a token with an end"
    fortress-kit/exempt: |-
      kube-system: the add-ons of k3s are its makers', and a node must come back from a power cut by itself
      cert-manager: its programs read and write objects of the API all day
      cilium: without it no pod has a network, and its namespace is privileged anyway
      kyverno: its programs read what is in the cluster all day
spec:
  validationActions:
    - Audit
  failurePolicy: Ignore
  webhookConfiguration:
    timeoutSeconds: 3
  evaluation:
    admission:
      enabled: true
    background:
      enabled: true
  autogen:
    podControllers:
      controllers: []
    validatingAdmissionPolicy:
      enabled: false
  matchConstraints:
    resourceRules:
      - apiGroups:
          - ""
        apiVersions:
          - "*"
        operations:
          - CREATE
          - UPDATE
        resources:
          - pods
          - pods/ephemeralcontainers
          - replicationcontrollers
      - apiGroups:
          - apps
        apiVersions:
          - "*"
        operations:
          - CREATE
          - UPDATE
        resources:
          - daemonsets
          - deployments
          - replicasets
          - statefulsets
      - apiGroups:
          - batch
        apiVersions:
          - "*"
        operations:
          - CREATE
          - UPDATE
        resources:
          - cronjobs
          - jobs
  matchConditions:
    - name: changed
      expression: "request.operation == 'CREATE' || (dyn(object).kind == 'Pod' ? dyn(object) : dyn(object).kind == 'CronJob' ? dyn(object).spec.jobTemplate.spec.template : dyn(object).spec.template).spec != (dyn(oldObject).kind == 'Pod' ? dyn(oldObject) : dyn(oldObject).kind == 'CronJob' ? dyn(oldObject).spec.jobTemplate.spec.template : dyn(oldObject).spec.template).spec || dyn(object).metadata.?annotations[?'fortress-kit/asked'].hasValue()"
    - name: exempt-1
      expression: '!(request.namespace == "kube-system")'
    - name: exempt-2
      expression: '!(request.namespace == "cert-manager")'
    - name: exempt-3
      expression: '!(request.namespace == "cilium")'
    - name: exempt-4
      expression: '!(request.namespace == "kyverno")'
  variables:
    - name: it
      expression: "(dyn(object).kind == 'Pod' ? dyn(object) : dyn(object).kind == 'CronJob' ? dyn(object).spec.jobTemplate.spec.template : dyn(object).spec.template)"
  validations:
    - expression: variables.it.spec.?automountServiceAccountToken.orValue(true) == false
      message: automountServiceAccountToken is not false
      messageExpression: "object.kind + ' ' + request.namespace + '/' + object.metadata.name + ': ' + \"automountServiceAccountToken is not false\""
---
apiVersion: policies.kyverno.io/v1
kind: ValidatingPolicy
metadata:
  name: fortress-default-namespace
  labels:
    fortress-kit: kyverno-rules
  annotations:
    fortress-kit/rule: "nothing runs in the namespace default: who forgets --namespace lands there, beside everybody who forgot it, too"
    fortress-kit/exempt: |-
      kube-system: the add-ons of k3s are its makers', and a node must come back from a power cut by itself
      cilium: without it no pod has a network, and its namespace is privileged anyway
spec:
  validationActions:
    - Audit
  failurePolicy: Ignore
  webhookConfiguration:
    timeoutSeconds: 3
  evaluation:
    admission:
      enabled: true
    background:
      enabled: true
  autogen:
    podControllers:
      controllers: []
    validatingAdmissionPolicy:
      enabled: false
  matchConstraints:
    resourceRules:
      - apiGroups:
          - ""
        apiVersions:
          - "*"
        operations:
          - CREATE
          - UPDATE
        resources:
          - pods
          - pods/ephemeralcontainers
          - replicationcontrollers
      - apiGroups:
          - apps
        apiVersions:
          - "*"
        operations:
          - CREATE
          - UPDATE
        resources:
          - daemonsets
          - deployments
          - replicasets
          - statefulsets
      - apiGroups:
          - batch
        apiVersions:
          - "*"
        operations:
          - CREATE
          - UPDATE
        resources:
          - cronjobs
          - jobs
  matchConditions:
    - name: changed
      expression: "request.operation == 'CREATE' || (dyn(object).kind == 'Pod' ? dyn(object) : dyn(object).kind == 'CronJob' ? dyn(object).spec.jobTemplate.spec.template : dyn(object).spec.template).spec != (dyn(oldObject).kind == 'Pod' ? dyn(oldObject) : dyn(oldObject).kind == 'CronJob' ? dyn(oldObject).spec.jobTemplate.spec.template : dyn(oldObject).spec.template).spec || dyn(object).metadata.?annotations[?'fortress-kit/asked'].hasValue()"
    - name: exempt-1
      expression: '!(request.namespace == "kube-system")'
    - name: exempt-2
      expression: '!(request.namespace == "cilium")'
  variables:
    - name: it
      expression: "(dyn(object).kind == 'Pod' ? dyn(object) : dyn(object).kind == 'CronJob' ? dyn(object).spec.jobTemplate.spec.template : dyn(object).spec.template)"
  validations:
    - expression: request.namespace != 'default'
      message: the namespace default is no place for it
      messageExpression: "object.kind + ' ' + request.namespace + '/' + object.metadata.name + ': ' + \"the namespace default is no place for it\""
---
apiVersion: policies.kyverno.io/v1
kind: ValidatingPolicy
metadata:
  name: fortress-owner
  labels:
    fortress-kit: kyverno-rules
  annotations:
    fortress-kit/rule: "pods, or their namespace, say whose they are: when one misbehaves at night somebody must know whom to ask"
    fortress-kit/exempt: |-
      kube-system: the add-ons of k3s are its makers', and a node must come back from a power cut by itself
      cilium: without it no pod has a network, and its namespace is privileged anyway
      cert-manager: namespaces of components are those of the kit
      cilium: namespaces of components are those of the kit
      hello: namespaces of components are those of the kit
      kyverno: namespaces of components are those of the kit
      sops: namespaces of components are those of the kit
spec:
  validationActions:
    - Audit
  failurePolicy: Ignore
  webhookConfiguration:
    timeoutSeconds: 3
  evaluation:
    admission:
      enabled: true
    background:
      enabled: true
  autogen:
    podControllers:
      controllers: []
    validatingAdmissionPolicy:
      enabled: false
  matchConstraints:
    resourceRules:
      - apiGroups:
          - ""
        apiVersions:
          - "*"
        operations:
          - CREATE
          - UPDATE
        resources:
          - pods
          - pods/ephemeralcontainers
          - replicationcontrollers
      - apiGroups:
          - apps
        apiVersions:
          - "*"
        operations:
          - CREATE
          - UPDATE
        resources:
          - daemonsets
          - deployments
          - replicasets
          - statefulsets
      - apiGroups:
          - batch
        apiVersions:
          - "*"
        operations:
          - CREATE
          - UPDATE
        resources:
          - cronjobs
          - jobs
  matchConditions:
    - name: changed
      expression: "request.operation == 'CREATE' || (dyn(object).kind == 'Pod' ? dyn(object) : dyn(object).kind == 'CronJob' ? dyn(object).spec.jobTemplate.spec.template : dyn(object).spec.template).spec != (dyn(oldObject).kind == 'Pod' ? dyn(oldObject) : dyn(oldObject).kind == 'CronJob' ? dyn(oldObject).spec.jobTemplate.spec.template : dyn(oldObject).spec.template).spec || dyn(object).metadata.?annotations[?'fortress-kit/asked'].hasValue()"
    - name: exempt-1
      expression: '!(request.namespace == "kube-system")'
    - name: exempt-2
      expression: '!(request.namespace == "cilium")'
    - name: exempt-3
      expression: '!(request.namespace == "cert-manager")'
    - name: exempt-4
      expression: '!(request.namespace == "cilium")'
    - name: exempt-5
      expression: '!(request.namespace == "hello")'
    - name: exempt-6
      expression: '!(request.namespace == "kyverno")'
    - name: exempt-7
      expression: '!(request.namespace == "sops")'
  variables:
    - name: it
      expression: "(dyn(object).kind == 'Pod' ? dyn(object) : dyn(object).kind == 'CronJob' ? dyn(object).spec.jobTemplate.spec.template : dyn(object).spec.template)"
  validations:
    - expression: variables.it.?metadata.?labels[?'fortress-kit/owner'].orValue('') != '' || namespaceObject.metadata.?labels[?'fortress-kit/owner'].orValue('') != ''
      message: neither it nor its namespace has the label fortress-kit/owner
      messageExpression: "object.kind + ' ' + request.namespace + '/' + object.metadata.name + ': ' + \"neither it nor its namespace has the label fortress-kit/owner\""
---
apiVersion: policies.kyverno.io/v1
kind: ValidatingPolicy
metadata:
  name: fortress-node-port
  labels:
    fortress-kit: kyverno-rules
  annotations:
    fortress-kit/rule: "no Service opens a port of the nodes: it would be open on every address of every node, past the gateways"
    fortress-kit/exempt: |-
      kube-system: the add-ons of k3s are its makers', and a node must come back from a power cut by itself
      cilium: without it no pod has a network, and its namespace is privileged anyway
      gateways: its operator makes a Service of type LoadBalancer for each gateway, and leaves allocateLoadBalancerNodePorts as it is
spec:
  validationActions:
    - Audit
  failurePolicy: Ignore
  webhookConfiguration:
    timeoutSeconds: 3
  evaluation:
    admission:
      enabled: true
    background:
      enabled: true
  autogen:
    podControllers:
      controllers: []
    validatingAdmissionPolicy:
      enabled: false
  matchConstraints:
    resourceRules:
      - apiGroups:
          - ""
        apiVersions:
          - "*"
        operations:
          - CREATE
          - UPDATE
        resources:
          - services
  matchConditions:
    - name: changed
      expression: request.operation == 'CREATE' || dyn(object).spec != dyn(oldObject).spec || dyn(object).metadata.?annotations[?'fortress-kit/asked'].hasValue()
    - name: exempt-1
      expression: '!(request.namespace == "kube-system")'
    - name: exempt-2
      expression: '!(request.namespace == "cilium")'
    - name: exempt-3
      expression: '!(request.namespace == "gateways")'
  variables:
    - name: it
      expression: dyn(object)
  validations:
    - expression: variables.it.spec.?type.orValue('') != 'NodePort' && (variables.it.spec.?type.orValue('') != 'LoadBalancer' || variables.it.spec.?allocateLoadBalancerNodePorts.orValue(true) == false)
      message: type NodePort, or LoadBalancer without allocateLoadBalancerNodePorts false
      messageExpression: "object.kind + ' ' + request.namespace + '/' + object.metadata.name + ': ' + \"type NodePort, or LoadBalancer without allocateLoadBalancerNodePorts false\""
---
apiVersion: policies.kyverno.io/v1
kind: ValidatingPolicy
metadata:
  name: fortress-hosts
  labels:
    fortress-kit: kyverno-rules
  annotations:
    fortress-kit/rule: "routes name their hosts: one that takes any name takes those of others as well"
    fortress-kit/exempt: |-
      kube-system: the add-ons of k3s are its makers', and a node must come back from a power cut by itself
      cilium: without it no pod has a network, and its namespace is privileged anyway
      gateways: a gateway takes each name right below its zones, and its own route leads all of them to HTTPS
spec:
  validationActions:
    - Audit
  failurePolicy: Ignore
  webhookConfiguration:
    timeoutSeconds: 3
  evaluation:
    admission:
      enabled: true
    background:
      enabled: true
  autogen:
    podControllers:
      controllers: []
    validatingAdmissionPolicy:
      enabled: false
  matchConstraints:
    resourceRules:
      - apiGroups:
          - gateway.networking.k8s.io
        apiVersions:
          - "*"
        operations:
          - CREATE
          - UPDATE
        resources:
          - gateways
          - grpcroutes
          - httproutes
          - listenersets
          - tlsroutes
      - apiGroups:
          - networking.k8s.io
        apiVersions:
          - "*"
        operations:
          - CREATE
          - UPDATE
        resources:
          - ingresses
  matchConditions:
    - name: changed
      expression: request.operation == 'CREATE' || dyn(object).spec != dyn(oldObject).spec || dyn(object).metadata.?annotations[?'fortress-kit/asked'].hasValue()
    - name: exempt-1
      expression: '!(request.namespace == "kube-system")'
    - name: exempt-2
      expression: '!(request.namespace == "cilium")'
    - name: exempt-3
      expression: '!(request.namespace == "gateways")'
  variables:
    - name: it
      expression: dyn(object)
  validations:
    - expression: |-
        (variables.it.kind == 'Ingress'
          ? variables.it.spec.?rules.orValue([]).map(one, one.?host.orValue('')) + (has(variables.it.spec.defaultBackend) ? [''] : [])
          : variables.it.kind == 'Gateway' || variables.it.kind == 'ListenerSet'
          ? variables.it.spec.listeners.filter(one, one.protocol in ['HTTP', 'HTTPS', 'TLS']).map(one, one.?hostname.orValue(''))
          : variables.it.spec.?hostnames.orValue([''])
        ).all(host, host != '' && !host.contains('*'))
      message: a host is left out, or has a *
      messageExpression: "object.kind + ' ' + request.namespace + '/' + object.metadata.name + ': ' + \"a host is left out, or has a *\""
FORTRESS
    )
    put_finish /nonexistent/fortress/components/kyverno-rules.yaml
  }
  recover() { put_restore /nonexistent/fortress/components/kyverno-rules.yaml; }
  change 'the manifests of kyverno-rules are written'

  # 7/8 Kyverno has the same rules, and reports what breaks them
  #   why: the API server holds the same rules without it: while it is silent nothing comes in that they refuse, and after a power cut every pod comes back, its own among them
  check() {
    policy_exact /nonexistent/fortress/components/kyverno-rules.yaml && objects_hold kyverno-rules validatingpolicies.policies.kyverno.io /nonexistent/fortress/components/kyverno-rules.yaml
  }
  apply() {
    policy_replace /nonexistent/fortress/components/kyverno-rules.yaml
    objects_apply kyverno-rules validatingpolicies.policies.kyverno.io /nonexistent/fortress/components/kyverno-rules.yaml
  }
  change 'Kyverno has the same rules, and reports what breaks them'

  # 8/8 Kyverno judges by every rule
  #   why: and can never be asked about kube-system, or about its own pods
  check() {
    kyverno_judges Ignore digest latest registries read-only-root requests limits probes no-token default-namespace owner node-port hosts
  }
  wait_for 'Kyverno judges by every rule' 120
}

# What main uses.
# from lib/component/release.sh: release_diff release_here release_fields release_awaited release_advice
# from lib/component/objects.sh: objects_named objects_there objects_spare objects_hold objects_apply objects_keep
# from lib/component/objects.sh: objects_delete
# from lib/component/admission.sh: policy_lines policy_warns policy_exact policy_replace
# from lib/component/kyverno.sh: kyverno_judges
# from lib/engine/shell/put.sh: FK_STATE put put_owner put_finish put_finished put_restore put_matches
# from lib/engine/shell/snapshot.sh: record_before
# from lib/engine/shell/printed.sh: FK_OUT FK_RC FK_TX FK_VISIT FK_ARM FK_BACK FK_TMP begin_rootless usage recover holds
# from lib/engine/shell/printed.sh: change wait_for fail

main "$@"
