#!/bin/bash
# 22-k3s-cis: The CIS Kubernetes benchmark, checked on a node that runs.
#
# Run it as root on fortress-node:
#   bash 22-k3s-cis.sh
# It has 19 steps. Each checks first, and changes only what does not hold.
# It keeps no record, so undo cannot take it back. It checks no controls: verify does.
# shellcheck disable=SC2034 # functions read what is set here
set -euo pipefail
FK_PAGE=22-k3s-cis FK_FILE=22-k3s-cis.sh
export FK_PAGE FK_FILE

main() {
  case ${1-} in '') ;; *) usage ;; esac
  begin
  # too_open: a line for each of them: the mode for chmod, and the path.
  too_open() {
    more_than u-x,go= 177 "$K3S_ETC/k3s.yaml" "$K3S_DATA"/{server/cred,agent}/*.kubeconfig "$K3S_DATA"/agent/*.key \
      "$K3S_DATA"/agent/etc/kubelet.conf.d/*.conf
    more_than go= 077 "$K3S_DATA/server/db/etcd" "$K3S_DATA/agent/etc/kubelet.conf.d"
    more_than a-x,go-w 133 "$K3S_DATA/agent/client-ca.crt"
    [ ! -d "$K3S_DATA/server/tls" ] || find "$K3S_DATA/server/tls" -xdev ! -type l | while IFS= read -r path; do
      case $path in
        *.key) more_than u-x,go= 177 "$path" ;;
        *.crt) more_than a-x,go-w 133 "$path" ;;
        *) more_than go-w 022 "$path" ;;
      esac
    done
  }

  # more_than MODE MASK PATH…: of these, those that have a bit of MASK, or are not root's.
  more_than() {
    local mode=$1 mask=$2 path
    shift 2
    for path; do
      [ ! -e "$path" ] || find "$path" -maxdepth 0 \( -perm "/$mask" -o ! -user root -o ! -group root \) -printf "$mode %p\n"
    done
  }
  export -f too_open more_than

  # 1/19 k3s components listen on their ports
  #   why: the API answers some seconds before the controller manager, the scheduler and the kubelet do
  check() { cis_up 10257 10259 10250; }
  wait_for 'k3s components listen on their ports' 120

  # 2/19 keys, certificates and kubeconfigs of k3s are private to root
  #   why: who reads one of the keys or kubeconfigs is admin of the cluster, or of the node
  check() { test -z "$(too_open)"; }
  apply() {
    too_open | while read -r mode path; do
      record_before --meta "$path"
      chown root:root "$path"
      chmod "$mode" "$path"
    done
  }
  change 'keys, certificates and kubeconfigs of k3s are private to root'

  # 3/19 default service accounts mount no token
  #   why: a pod without an account of its own gets this one, and needs no access to the API
  check() { quiet_accounts; }
  apply() {
            deadline=$((SECONDS + 60))
            until [ "$(k3s_kubectl get namespaces --field-selector status.phase=Active --output name | wc --lines)" -le \
              "$(k3s_kubectl get serviceaccounts --all-namespaces --field-selector metadata.name=default --output \
    jsonpath='{range .items[*]}{.metadata.namespace}{" "}{.automountServiceAccountToken}{"\n"}{end}' | wc --lines)" ] || [ "$SECONDS" -ge "$deadline" ]; do sleep 1; done
            k3s_kubectl get serviceaccounts --all-namespaces --field-selector metadata.name=default --output \
    jsonpath='{range .items[*]}{.metadata.namespace}{" "}{.automountServiceAccountToken}{"\n"}{end}' | awk '$2 != "false"' | while read -r space was; do
              k3s_kubectl annotate serviceaccount default --namespace "$space" --overwrite \
                "fortress-kit/token-was=${was:-unset}" > /dev/null
              k3s_kubectl patch serviceaccount default --namespace "$space" \
                --patch '{"automountServiceAccountToken":false}' > /dev/null
            done
  }
  change 'default service accounts mount no token'

  # 4/19 CIS 1.1, control plane files: every control passes or is waived
  #   1.1.1 API server manifest is private [CIS Kubernetes 2.1, 1.1.1]
  #   1.1.2 API server manifest is owned by root [CIS Kubernetes 2.1, 1.1.2]
  #   1.1.3 controller manager manifest is private [CIS Kubernetes 2.1, 1.1.3]
  #   1.1.4 controller manager manifest is owned by root [CIS Kubernetes 2.1, 1.1.4]
  #   1.1.5 scheduler manifest is private [CIS Kubernetes 2.1, 1.1.5]
  #   1.1.6 scheduler manifest is owned by root [CIS Kubernetes 2.1, 1.1.6]
  #   1.1.7 etcd manifest is private [CIS Kubernetes 2.1, 1.1.7]
  #   1.1.8 etcd manifest is owned by root [CIS Kubernetes 2.1, 1.1.8]
  #   1.1.9 CNI files are private [CIS Kubernetes 2.1, 1.1.9]
  #   1.1.10 CNI files are owned by root [CIS Kubernetes 2.1, 1.1.10]
  #   1.1.11 etcd data directory is private [CIS Kubernetes 2.1, 1.1.11]
  #   1.1.12 etcd data directory is owned by the etcd account [CIS Kubernetes 2.1, 1.1.12]
  #   1.1.13 admin kubeconfigs are private [CIS Kubernetes 2.1, 1.1.13]
  #   1.1.14 admin kubeconfigs are owned by root [CIS Kubernetes 2.1, 1.1.14]
  #   1.1.15 scheduler kubeconfig is private [CIS Kubernetes 2.1, 1.1.15]
  #   1.1.16 scheduler kubeconfig is owned by root [CIS Kubernetes 2.1, 1.1.16]
  #   1.1.17 controller manager kubeconfig is private [CIS Kubernetes 2.1, 1.1.17]
  #   1.1.18 controller manager kubeconfig is owned by root [CIS Kubernetes 2.1, 1.1.18]
  #   1.1.19 PKI files are owned by root [CIS Kubernetes 2.1, 1.1.19]
  #   1.1.20 PKI certificates are writable by root only [CIS Kubernetes 2.1, 1.1.20]
  #   1.1.21 PKI private keys are readable by root only [CIS Kubernetes 2.1, 1.1.21]
  check() { systemctl is-active k3s.service; }
  demand 'CIS 1.1, control plane files: every control passes or is waived' './task k3s-cis apply sets owners and modes of files that k3s has written. If a mode changes back, another program writes the file: its modification time shows when'

  # 5/19 CIS 1.2, API server: every control passes or is waived
  #   1.2.1 API server anonymous auth is off [CIS Kubernetes 2.1, 1.2.1]
  #   1.2.2 API server token file is not set [CIS Kubernetes 2.1, 1.2.2]
  #   1.2.3 DenyServiceExternalIPs admission is on [CIS Kubernetes 2.1, 1.2.3]
  #   1.2.4 API server client certificate for kubelets is set [CIS Kubernetes 2.1, 1.2.4]
  #   1.2.5 API server verifies kubelet certificates [CIS Kubernetes 2.1, 1.2.5]
  #   1.2.6 API server authorization is not AlwaysAllow [CIS Kubernetes 2.1, 1.2.6]
  #   1.2.7 Node authorization is on [CIS Kubernetes 2.1, 1.2.7]
  #   1.2.8 RBAC authorization is on [CIS Kubernetes 2.1, 1.2.8]
  #   1.2.9 EventRateLimit admission is on [CIS Kubernetes 2.1, 1.2.9]
  #   1.2.10 AlwaysAdmit admission is off [CIS Kubernetes 2.1, 1.2.10]
  #   1.2.11 AlwaysPullImages admission is on [CIS Kubernetes 2.1, 1.2.11]
  #   1.2.12 ServiceAccount admission is on [CIS Kubernetes 2.1, 1.2.12]
  #   1.2.13 NamespaceLifecycle admission is on [CIS Kubernetes 2.1, 1.2.13]
  #   1.2.14 NodeRestriction admission is on [CIS Kubernetes 2.1, 1.2.14]
  #   1.2.15 API server profiling is off [CIS Kubernetes 2.1, 1.2.15]
  #   1.2.16 API server audit log is on [CIS Kubernetes 2.1, 1.2.16]
  #   1.2.17 audit logs of the API server are kept for 30 days [CIS Kubernetes 2.1, 1.2.17]
  #   1.2.18 at least 10 audit log files of the API server are kept [CIS Kubernetes 2.1, 1.2.18]
  #   1.2.19 audit log files of the API server rotate at 100 MB or more [CIS Kubernetes 2.1, 1.2.19]
  #   1.2.20 API server request timeout is at most 300 seconds [CIS Kubernetes 2.1, 1.2.20]
  #   1.2.21 tokens of deleted service accounts are refused [CIS Kubernetes 2.1, 1.2.21]
  #   1.2.22 service account key file is set [CIS Kubernetes 2.1, 1.2.22]
  #   1.2.23 API server client certificate for etcd is set [CIS Kubernetes 2.1, 1.2.23]
  #   1.2.24 API server TLS certificate is set [CIS Kubernetes 2.1, 1.2.24]
  #   1.2.25 API server client CA is set [CIS Kubernetes 2.1, 1.2.25]
  #   1.2.26 API server verifies etcd certificates [CIS Kubernetes 2.1, 1.2.26]
  #   1.2.27 encryption at rest is on [CIS Kubernetes 2.1, 1.2.27]
  #   1.2.28 encryption at rest uses a strong cipher [CIS Kubernetes 2.1, 1.2.28]
  #   1.2.29 API server TLS ciphers are strong [CIS Kubernetes 2.1, 1.2.29]
  #   1.2.30 service account tokens are not extended to a year [CIS Kubernetes 2.1, 1.2.30]
  check() { cis_known kube-apiserver; }
  demand 'CIS 1.2, API server: every control passes or is waived' 'correct kube-apiserver-arg in config/k3s/config.yaml, then ./task k3s-server apply and ./task k3s-join apply; do not set there what k3s sets by default'

  # 6/19 CIS 1.3, controller manager: every control passes or is waived
  #   1.3.1 terminated pods are garbage-collected [CIS Kubernetes 2.1, 1.3.1]
  #   1.3.2 controller manager profiling is off [CIS Kubernetes 2.1, 1.3.2]
  #   1.3.3 controllers use their own service accounts [CIS Kubernetes 2.1, 1.3.3]
  #   1.3.4 service account signing key is set [CIS Kubernetes 2.1, 1.3.4]
  #   1.3.5 root CA for pods is set [CIS Kubernetes 2.1, 1.3.5]
  #   1.3.6 kubelet server certificates are rotated (controller manager) [CIS Kubernetes 2.1, 1.3.6]
  #   1.3.7 controller manager listens on loopback only [CIS Kubernetes 2.1, 1.3.7]
  check() { cis_known kube-controller-manager; }
  demand 'CIS 1.3, controller manager: every control passes or is waived' 'correct kube-controller-manager-arg in config/k3s/config.yaml, then ./task k3s-server apply and ./task k3s-join apply'

  # 7/19 CIS 1.4, scheduler: every control passes or is waived
  #   1.4.1 scheduler profiling is off [CIS Kubernetes 2.1, 1.4.1]
  #   1.4.2 scheduler listens on loopback only [CIS Kubernetes 2.1, 1.4.2]
  check() { cis_known kube-scheduler; }
  demand 'CIS 1.4, scheduler: every control passes or is waived' 'correct kube-scheduler-arg in config/k3s/config.yaml, then ./task k3s-server apply and ./task k3s-join apply'

  # 8/19 CIS 2, etcd: every control passes or is waived
  #   2.1 etcd TLS certificate is set [CIS Kubernetes 2.1, 2.1]
  #   2.2 etcd requires client certificates [CIS Kubernetes 2.1, 2.2]
  #   2.3 etcd self-signed client certificates are off (auto-tls) [CIS Kubernetes 2.1, 2.3]
  #   2.4 etcd peer TLS certificate is set [CIS Kubernetes 2.1, 2.4]
  #   2.5 etcd requires peer certificates [CIS Kubernetes 2.1, 2.5]
  #   2.6 etcd self-signed peer certificates are off (peer-auto-tls) [CIS Kubernetes 2.1, 2.6]
  #   2.7 etcd has its own CA [CIS Kubernetes 2.1, 2.7]
  check() { cis_known etcd; }
  demand 'CIS 2, etcd: every control passes or is waived' 'k3s writes /var/lib/rancher/k3s/server/db/etcd/config at each start: remove etcd-arg from config/k3s/config.yaml, and restart k3s'

  # 9/19 CIS 3.1, authentication: every control passes or is waived
  #   3.1.1 client certificates are not used by people [CIS Kubernetes 2.1, 3.1.1]
  #   3.1.2 service account tokens are not used by people [CIS Kubernetes 2.1, 3.1.2]
  #   3.1.3 bootstrap tokens are not used by people [CIS Kubernetes 2.1, 3.1.3]
  check() { cis_known api; }
  demand 'CIS 3.1, authentication: every control passes or is waived' 'kubectl delete secret, and give the person credentials that can be revoked'

  # 10/19 CIS 3.2, audit logging: every control passes or is waived
  #   3.2.1 audit policy is set [CIS Kubernetes 2.1, 3.2.1]
  #   3.2.2 audit policy covers Secrets, tokens, exec and RBAC [CIS Kubernetes 2.1, 3.2.2]
  check() { cis_known kube-apiserver; }
  demand 'CIS 3.2, audit logging: every control passes or is waived' 'correct config/k3s/audit.yaml, then ./task k3s-server apply and ./task k3s-join apply'

  # 11/19 CIS 4.1, node files: every control passes or is waived
  #   4.1.1 kubelet service file is private [CIS Kubernetes 2.1, 4.1.1]
  #   4.1.2 kubelet service file is owned by root [CIS Kubernetes 2.1, 4.1.2]
  #   4.1.3 kube-proxy kubeconfig is private [CIS Kubernetes 2.1, 4.1.3]
  #   4.1.4 kube-proxy kubeconfig is owned by root [CIS Kubernetes 2.1, 4.1.4]
  #   4.1.5 kubelet kubeconfig is private [CIS Kubernetes 2.1, 4.1.5]
  #   4.1.6 kubelet kubeconfig is owned by root [CIS Kubernetes 2.1, 4.1.6]
  #   4.1.7 kubelet client CA is writable by root only [CIS Kubernetes 2.1, 4.1.7]
  #   4.1.8 kubelet client CA is owned by root [CIS Kubernetes 2.1, 4.1.8]
  #   4.1.9 kubelet config file is private [CIS Kubernetes 2.1, 4.1.9]
  #   4.1.10 kubelet config file is owned by root [CIS Kubernetes 2.1, 4.1.10]
  #   4.1.11 kubelet config directory is private [CIS Kubernetes 2.1, 4.1.11]
  check() { systemctl is-active k3s.service; }
  demand 'CIS 4.1, node files: every control passes or is waived' './task k3s-cis apply sets owners and modes of files that k3s has written'

  # 12/19 CIS 4.2, kubelet: every control passes or is waived
  #   4.2.1 kubelet anonymous auth is off [CIS Kubernetes 2.1, 4.2.1]
  #   4.2.2 kubelet authorization is Webhook [CIS Kubernetes 2.1, 4.2.2]
  #   4.2.3 kubelet client CA is set [CIS Kubernetes 2.1, 4.2.3]
  #   4.2.4 kubelet read-only port is off [CIS Kubernetes 2.1, 4.2.4]
  #   4.2.5 idle kubelet connections time out [CIS Kubernetes 2.1, 4.2.5]
  #   4.2.6 kubelet iptables chains are on [CIS Kubernetes 2.1, 4.2.6]
  #   4.2.7 kubelet hostname is not overridden [CIS Kubernetes 2.1, 4.2.7]
  #   4.2.8 kubelet events are recorded [CIS Kubernetes 2.1, 4.2.8]
  #   4.2.9 kubelet TLS certificate is set [CIS Kubernetes 2.1, 4.2.9]
  #   4.2.10 kubelet client certificate rotation is on [CIS Kubernetes 2.1, 4.2.10]
  #   4.2.11 kubelet server certificate rotation is on [CIS Kubernetes 2.1, 4.2.11]
  #   4.2.12 kubelet TLS ciphers are strong [CIS Kubernetes 2.1, 4.2.12]
  #   4.2.13 processes per pod are limited (pod-max-pids) [CIS Kubernetes 2.1, 4.2.13]
  #   4.2.14 seccomp is on by default (seccomp-default) [CIS Kubernetes 2.1, 4.2.14]
  check() { cis_known kubelet; }
  demand 'CIS 4.2, kubelet: every control passes or is waived' 'correct kubelet-arg in config/k3s/config.yaml and config/k3s/agent.yaml, then ./task k3s-server apply and ./task k3s-join apply'

  # 13/19 CIS 4.3, kube-proxy: every control passes or is waived
  #   4.3.1 kube-proxy metrics listen on loopback only [CIS Kubernetes 2.1, 4.3.1]
  check() { systemctl is-active k3s.service; }
  demand 'CIS 4.3, kube-proxy: every control passes or is waived' 'remove metrics-bind-address from kube-proxy-arg'

  # 14/19 CIS 5.1, RBAC and service accounts: every control passes or is waived
  #   5.1.1 cluster-admin is bound only where it is needed [CIS Kubernetes 2.1, 5.1.1]
  #   5.1.2 Secrets are not readable by service accounts without a role [CIS Kubernetes 2.1, 5.1.2]
  #   5.1.3 RBAC roles have no wildcards [CIS Kubernetes 2.1, 5.1.3]
  #   5.1.4 pods cannot be created by service accounts without a role [CIS Kubernetes 2.1, 5.1.4]
  #   5.1.5 default service accounts are not used [CIS Kubernetes 2.1, 5.1.5]
  #   5.1.6 service account tokens are not mounted in pods [CIS Kubernetes 2.1, 5.1.6]
  #   5.1.7 system:masters has no further bindings [CIS Kubernetes 2.1, 5.1.7]
  #   5.1.8 bind, escalate and impersonate are not granted [CIS Kubernetes 2.1, 5.1.8]
  #   5.1.9 creating persistent volumes is not granted [CIS Kubernetes 2.1, 5.1.9]
  #   5.1.10 access to nodes/proxy is not granted [CIS Kubernetes 2.1, 5.1.10]
  #   5.1.11 approving certificates is not granted [CIS Kubernetes 2.1, 5.1.11]
  #   5.1.12 changing admission webhooks is not granted [CIS Kubernetes 2.1, 5.1.12]
  #   5.1.13 creating service account tokens is not granted [CIS Kubernetes 2.1, 5.1.13]
  #   5.1.14 reading nodes/proxy is not granted to metrics readers [CIS Kubernetes 2.1, 5.1.14]
  check() { cis_known api; }
  demand 'CIS 5.1, RBAC and service accounts: every control passes or is waived' 'each name above is a role or a binding: kubectl get clusterrole NAME --output yaml. Reduce or delete it, allow it in config/k3s/cis.yaml, or add a waiver with the reason to config/k3s/waivers.yaml'

  # 15/19 CIS 5.2, pod security: every control passes or is waived
  #   5.2.1 PodSecurity admission is on [CIS Kubernetes 2.1, 5.2.1]
  #   5.2.2 privileged containers are refused [CIS Kubernetes 2.1, 5.2.2]
  #   5.2.3 host PID namespace is refused [CIS Kubernetes 2.1, 5.2.3]
  #   5.2.4 host IPC namespace is refused [CIS Kubernetes 2.1, 5.2.4]
  #   5.2.5 host network is refused [CIS Kubernetes 2.1, 5.2.5]
  #   5.2.6 privilege escalation is refused [CIS Kubernetes 2.1, 5.2.6]
  #   5.2.7 root containers are refused [CIS Kubernetes 2.1, 5.2.7]
  #   5.2.8 NET_RAW capability is refused [CIS Kubernetes 2.1, 5.2.8]
  #   5.2.9 added capabilities are refused [CIS Kubernetes 2.1, 5.2.9]
  #   5.2.10 Windows HostProcess containers are refused [CIS Kubernetes 2.1, 5.2.10]
  #   5.2.11 hostPath volumes are refused [CIS Kubernetes 2.1, 5.2.11]
  #   5.2.12 host ports are refused [CIS Kubernetes 2.1, 5.2.12]
  #   5.2.13 unmasked /proc is refused (procMount) [CIS Kubernetes 2.1, 5.2.13]
  check() { cis_known api; }
  demand 'CIS 5.2, pod security: every control passes or is waived' 'correct config/k3s/admission.yaml; for a pod outside kube-system, give its namespace a stricter label, or add a waiver with the reason to config/k3s/waivers.yaml'

  # 16/19 CIS 5.3, network policies: every control passes or is waived
  #   5.3.1 network plug-in enforces NetworkPolicies [CIS Kubernetes 2.1, 5.3.1]
  #   5.3.2 all namespaces have a NetworkPolicy [CIS Kubernetes 2.1, 5.3.2]
  check() { cis_known api; }
  demand 'CIS 5.3, network policies: every control passes or is waived' 'the network layer creates a NetworkPolicy in every namespace'

  # 17/19 CIS 5.4, Secrets: every control passes or is waived
  #   5.4.1 Secrets are files, not environment variables [CIS Kubernetes 2.1, 5.4.1]
  #   5.4.2 Secrets have their source outside the cluster [CIS Kubernetes 2.1, 5.4.2]
  check() { cis_known api; }
  demand 'CIS 5.4, Secrets: every control passes or is waived' 'mount the Secret as a file: a volume of type secret'

  # 18/19 CIS 5.5, container images: every control passes or is waived
  #   5.5.1 image signatures are verified [CIS Kubernetes 2.1, 5.5.1]
  check() { cis_known api; }
  demand 'CIS 5.5, container images: every control passes or is waived' 'these controls are reviewed by a person'

  # 19/19 CIS 5.6, namespaces and seccomp: every control passes or is waived
  #   5.6.1 namespaces separate owners [CIS Kubernetes 2.1, 5.6.1]
  #   5.6.2 seccomp profile is set on every pod [CIS Kubernetes 2.1, 5.6.2]
  #   5.6.3 security contexts are set on every pod [CIS Kubernetes 2.1, 5.6.3]
  #   5.6.4 default namespace is not used [CIS Kubernetes 2.1, 5.6.4]
  check() { cis_known api; }
  demand 'CIS 5.6, namespaces and seccomp: every control passes or is waived' 'move the objects named above into a namespace of their own'
}

# What main uses.
# from lib/k3s/members.sh: K3S K3S_ETC K3S_DATA K3S_NOTES k3s_no k3s_kubectl k3s_self
# from lib/host/controls.sh: PATH fact fact_file fact_pause fact_is_mine
# from lib/k3s/cis.sh: cis_up cis_listens cis_started cis_flagz cis_flags cis_name cis_words cis_begun cis_json cis_yaml
# from lib/k3s/cis.sh: CIS_KUBELET cis_kubelet_names cis_kubelet_started cis_kubelet cis_etcd cis_known cis_objects
# from lib/k3s/cis.sh: cis_api cis_none quiet_accounts
# from lib/engine/shell/snapshot.sh: record_before
# from lib/engine/shell/printed.sh: FK_OUT FK_RC FK_TX FK_VISIT FK_ARM FK_BACK FK_TMP begin lock usage recover holds
# from lib/engine/shell/printed.sh: change demand wait_for fail

main "$@"
