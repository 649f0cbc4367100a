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

  # 4/19 CIS 1.1, files of the control plane: every control passes or is waived
  #   1.1.1 Mode of the API server's manifest [CIS Kubernetes 2.1, 1.1.1]
  #   1.1.2 Owner of the API server's manifest [CIS Kubernetes 2.1, 1.1.2]
  #   1.1.3 Mode of the controller manager's manifest [CIS Kubernetes 2.1, 1.1.3]
  #   1.1.4 Owner of the controller manager's manifest [CIS Kubernetes 2.1, 1.1.4]
  #   1.1.5 Mode of the scheduler's manifest [CIS Kubernetes 2.1, 1.1.5]
  #   1.1.6 Owner of the scheduler's manifest [CIS Kubernetes 2.1, 1.1.6]
  #   1.1.7 Mode of etcd's manifest [CIS Kubernetes 2.1, 1.1.7]
  #   1.1.8 Owner of etcd's manifest [CIS Kubernetes 2.1, 1.1.8]
  #   1.1.9 What the network of pods writes down is private [CIS Kubernetes 2.1, 1.1.9]
  #   1.1.10 What the network of pods writes down is root's [CIS Kubernetes 2.1, 1.1.10]
  #   1.1.11 The data of etcd is private [CIS Kubernetes 2.1, 1.1.11]
  #   1.1.12 The data of etcd belongs to an account etcd [CIS Kubernetes 2.1, 1.1.12]
  #   1.1.13 Kubeconfigs of the admin are private [CIS Kubernetes 2.1, 1.1.13]
  #   1.1.14 Kubeconfigs of the admin are root's [CIS Kubernetes 2.1, 1.1.14]
  #   1.1.15 The scheduler's kubeconfig is private [CIS Kubernetes 2.1, 1.1.15]
  #   1.1.16 The scheduler's kubeconfig is root's [CIS Kubernetes 2.1, 1.1.16]
  #   1.1.17 The controller manager's kubeconfig is private [CIS Kubernetes 2.1, 1.1.17]
  #   1.1.18 The controller manager's kubeconfig is root's [CIS Kubernetes 2.1, 1.1.18]
  #   1.1.19 Keys and certificates are root's [CIS Kubernetes 2.1, 1.1.19]
  #   1.1.20 Certificates are written by root alone [CIS Kubernetes 2.1, 1.1.20]
  #   1.1.21 Keys are read by root alone [CIS Kubernetes 2.1, 1.1.21]
  check() { systemctl is-active k3s.service; }
  demand 'CIS 1.1, files of the control plane: every control passes or is waived' './task k3s-cis apply sets owners and modes of what k3s has written. What comes back is written by something else: look at its time'

  # 5/19 CIS 1.2, the API server: every control passes or is waived
  #   1.2.1 Nobody asks without a name [CIS Kubernetes 2.1, 1.2.1]
  #   1.2.2 No file of tokens [CIS Kubernetes 2.1, 1.2.2]
  #   1.2.3 Services take no addresses of others [CIS Kubernetes 2.1, 1.2.3]
  #   1.2.4 It shows kubelets a certificate [CIS Kubernetes 2.1, 1.2.4]
  #   1.2.5 It checks whom it takes for a kubelet [CIS Kubernetes 2.1, 1.2.5]
  #   1.2.6 Not everybody may do everything [CIS Kubernetes 2.1, 1.2.6]
  #   1.2.7 Kubelets may do what nodes need [CIS Kubernetes 2.1, 1.2.7]
  #   1.2.8 Rights follow roles [CIS Kubernetes 2.1, 1.2.8]
  #   1.2.9 A flood of events is limited [CIS Kubernetes 2.1, 1.2.9]
  #   1.2.10 Nothing admits everything [CIS Kubernetes 2.1, 1.2.10]
  #   1.2.11 Images are always asked for anew [CIS Kubernetes 2.1, 1.2.11]
  #   1.2.12 Pods have accounts [CIS Kubernetes 2.1, 1.2.12]
  #   1.2.13 Nothing is made in a namespace that ends [CIS Kubernetes 2.1, 1.2.13]
  #   1.2.14 A node changes itself only [CIS Kubernetes 2.1, 1.2.14]
  #   1.2.15 It is not profiled [CIS Kubernetes 2.1, 1.2.15]
  #   1.2.16 What is asked is written down [CIS Kubernetes 2.1, 1.2.16]
  #   1.2.17 That is kept for 30 days [CIS Kubernetes 2.1, 1.2.17]
  #   1.2.18 In ten files or more [CIS Kubernetes 2.1, 1.2.18]
  #   1.2.19 Of 100 MB or more [CIS Kubernetes 2.1, 1.2.19]
  #   1.2.20 Requests end [CIS Kubernetes 2.1, 1.2.20]
  #   1.2.21 A deleted account's token is no good [CIS Kubernetes 2.1, 1.2.21]
  #   1.2.22 Tokens are checked by a key of their own [CIS Kubernetes 2.1, 1.2.22]
  #   1.2.23 It shows etcd a certificate [CIS Kubernetes 2.1, 1.2.23]
  #   1.2.24 It serves with a certificate [CIS Kubernetes 2.1, 1.2.24]
  #   1.2.25 It knows who signs for its clients [CIS Kubernetes 2.1, 1.2.25]
  #   1.2.26 It checks whom it takes for etcd [CIS Kubernetes 2.1, 1.2.26]
  #   1.2.27 What is stored is encrypted [CIS Kubernetes 2.1, 1.2.27]
  #   1.2.28 By a cipher that is strong [CIS Kubernetes 2.1, 1.2.28]
  #   1.2.29 It speaks strong ciphers only [CIS Kubernetes 2.1, 1.2.29]
  #   1.2.30 Tokens of accounts are not made to last a year [CIS Kubernetes 2.1, 1.2.30]
  check() { cis_known kube-apiserver; }
  demand 'CIS 1.2, the API server: every control passes or is waived' 'mend kube-apiserver-arg in config/k3s/config.yaml, then ./task k3s-server apply and ./task k3s-join apply; what k3s sets by itself must not stand there'

  # 6/19 CIS 1.3, the controller manager: every control passes or is waived
  #   1.3.1 Pods that have ended are forgotten [CIS Kubernetes 2.1, 1.3.1]
  #   1.3.2 It is not profiled [CIS Kubernetes 2.1, 1.3.2]
  #   1.3.3 Each controller has rights of its own [CIS Kubernetes 2.1, 1.3.3]
  #   1.3.4 It signs tokens with a key of their own [CIS Kubernetes 2.1, 1.3.4]
  #   1.3.5 Pods are told whom to believe [CIS Kubernetes 2.1, 1.3.5]
  #   1.3.6 Certificates of kubelets are renewed [CIS Kubernetes 2.1, 1.3.6]
  #   1.3.7 It answers on this machine only [CIS Kubernetes 2.1, 1.3.7]
  check() { cis_known kube-controller-manager; }
  demand 'CIS 1.3, the controller manager: every control passes or is waived' 'mend kube-controller-manager-arg in config/k3s/config.yaml, then ./task k3s-server apply and ./task k3s-join apply'

  # 7/19 CIS 1.4, the scheduler: every control passes or is waived
  #   1.4.1 It is not profiled [CIS Kubernetes 2.1, 1.4.1]
  #   1.4.2 It answers on this machine only [CIS Kubernetes 2.1, 1.4.2]
  check() { cis_known kube-scheduler; }
  demand 'CIS 1.4, the scheduler: every control passes or is waived' 'mend kube-scheduler-arg in config/k3s/config.yaml, then ./task k3s-server apply and ./task k3s-join apply'

  # 8/19 CIS 2, etcd: every control passes or is waived
  #   2.1 Clients are served with its certificate [CIS Kubernetes 2.1, 2.1]
  #   2.2 Clients show a certificate [CIS Kubernetes 2.1, 2.2]
  #   2.3 No certificate for clients that signs itself [CIS Kubernetes 2.1, 2.3]
  #   2.4 Members are served with its certificate [CIS Kubernetes 2.1, 2.4]
  #   2.5 Members show a certificate [CIS Kubernetes 2.1, 2.5]
  #   2.6 No certificate for members that signs itself [CIS Kubernetes 2.1, 2.6]
  #   2.7 Its authorities sign for nothing else [CIS Kubernetes 2.1, 2.7]
  check() { cis_known etcd; }
  demand 'CIS 2, etcd: every control passes or is waived' 'k3s writes /var/lib/rancher/k3s/server/db/etcd/config at each start: take etcd-arg out of config/k3s/config.yaml, and start k3s again'

  # 9/19 CIS 3.1, who people are: every control passes or is waived
  #   3.1.1 People do not come with certificates [CIS Kubernetes 2.1, 3.1.1]
  #   3.1.2 People do not come with tokens of accounts [CIS Kubernetes 2.1, 3.1.2]
  #   3.1.3 People do not come with tokens to join with [CIS Kubernetes 2.1, 3.1.3]
  check() { cis_known api; }
  demand 'CIS 3.1, who people are: every control passes or is waived' 'kubectl delete secret, and give the person another way: what the cluster checks has to be revocable'

  # 10/19 CIS 3.2, what is written down: every control passes or is waived
  #   3.2.1 A policy says what is written down [CIS Kubernetes 2.1, 3.2.1]
  #   3.2.2 It covers what matters [CIS Kubernetes 2.1, 3.2.2]
  check() { cis_known kube-apiserver; }
  demand 'CIS 3.2, what is written down: every control passes or is waived' 'mend config/k3s/audit.yaml, then ./task k3s-server apply and ./task k3s-join apply'

  # 11/19 CIS 4.1, files of the node: every control passes or is waived
  #   4.1.1 Mode of the kubelet's unit [CIS Kubernetes 2.1, 4.1.1]
  #   4.1.2 Owner of the kubelet's unit [CIS Kubernetes 2.1, 4.1.2]
  #   4.1.3 The kubeconfig of kube-proxy is private [CIS Kubernetes 2.1, 4.1.3]
  #   4.1.4 The kubeconfig of kube-proxy is root's [CIS Kubernetes 2.1, 4.1.4]
  #   4.1.5 The kubelet's kubeconfig is private [CIS Kubernetes 2.1, 4.1.5]
  #   4.1.6 The kubelet's kubeconfig is root's [CIS Kubernetes 2.1, 4.1.6]
  #   4.1.7 The authority of its clients is written by root alone [CIS Kubernetes 2.1, 4.1.7]
  #   4.1.8 The authority of its clients is root's [CIS Kubernetes 2.1, 4.1.8]
  #   4.1.9 Mode of the kubelet's configuration [CIS Kubernetes 2.1, 4.1.9]
  #   4.1.10 Owner of the kubelet's configuration [CIS Kubernetes 2.1, 4.1.10]
  #   4.1.11 The files that k3s configures it with are private [CIS Kubernetes 2.1, 4.1.11]
  check() { systemctl is-active k3s.service; }
  demand 'CIS 4.1, files of the node: every control passes or is waived' './task k3s-cis apply sets owners and modes of what k3s has written'

  # 12/19 CIS 4.2, the kubelet: every control passes or is waived
  #   4.2.1 Nobody asks it without a name [CIS Kubernetes 2.1, 4.2.1]
  #   4.2.2 It asks the API server who may [CIS Kubernetes 2.1, 4.2.2]
  #   4.2.3 It knows who signs for its clients [CIS Kubernetes 2.1, 4.2.3]
  #   4.2.4 It has no second port without names [CIS Kubernetes 2.1, 4.2.4]
  #   4.2.5 Idle connections end [CIS Kubernetes 2.1, 4.2.5]
  #   4.2.6 It sets up the chains of iptables [CIS Kubernetes 2.1, 4.2.6]
  #   4.2.7 Its name is not given to it [CIS Kubernetes 2.1, 4.2.7]
  #   4.2.8 It tells of what happens [CIS Kubernetes 2.1, 4.2.8]
  #   4.2.9 It serves with a certificate [CIS Kubernetes 2.1, 4.2.9]
  #   4.2.10 Nobody has switched off that its certificate is renewed [CIS Kubernetes 2.1, 4.2.10]
  #   4.2.11 Nobody has switched off that the one it serves with is renewed [CIS Kubernetes 2.1, 4.2.11]
  #   4.2.12 It speaks strong ciphers only [CIS Kubernetes 2.1, 4.2.12]
  #   4.2.13 A pod has only so many processes [CIS Kubernetes 2.1, 4.2.13]
  #   4.2.14 System calls are filtered unless a pod says otherwise [CIS Kubernetes 2.1, 4.2.14]
  check() { cis_known kubelet; }
  demand 'CIS 4.2, the kubelet: every control passes or is waived' 'mend kubelet-arg in config/k3s/config.yaml and config/k3s/agent.yaml, then ./task k3s-server apply and ./task k3s-join apply'

  # 13/19 CIS 4.3, kube-proxy: every control passes or is waived
  #   4.3.1 It tells its figures to this machine only [CIS Kubernetes 2.1, 4.3.1]
  check() { systemctl is-active k3s.service; }
  demand 'CIS 4.3, kube-proxy: every control passes or is waived' 'take metrics-bind-address out of kube-proxy-arg'

  # 14/19 CIS 5.1, rights and accounts: every control passes or is waived
  #   5.1.1 Nobody is bound to cluster-admin [CIS Kubernetes 2.1, 5.1.1]
  #   5.1.2 An account alone reads no Secrets [CIS Kubernetes 2.1, 5.1.2]
  #   5.1.3 Roles name what they are for [CIS Kubernetes 2.1, 5.1.3]
  #   5.1.4 An account alone makes no pods [CIS Kubernetes 2.1, 5.1.4]
  #   5.1.5 Nobody uses accounts called default [CIS Kubernetes 2.1, 5.1.5]
  #   5.1.6 No pod carries the token of one [CIS Kubernetes 2.1, 5.1.6]
  #   5.1.7 The group that may do everything is given nothing more [CIS Kubernetes 2.1, 5.1.7]
  #   5.1.8 Nobody gives himself rights, or takes another's name [CIS Kubernetes 2.1, 5.1.8]
  #   5.1.9 Nobody makes volumes out of directories of the node [CIS Kubernetes 2.1, 5.1.9]
  #   5.1.10 Nobody goes through the API to kubelets [CIS Kubernetes 2.1, 5.1.10]
  #   5.1.11 Nobody approves certificates [CIS Kubernetes 2.1, 5.1.11]
  #   5.1.12 Nobody changes what is asked before something is let in [CIS Kubernetes 2.1, 5.1.12]
  #   5.1.13 Nobody makes tokens for accounts [CIS Kubernetes 2.1, 5.1.13]
  #   5.1.14 Who reads figures of kubelets may read nothing else [CIS Kubernetes 2.1, 5.1.14]
  check() { cis_known api; }
  demand 'CIS 5.1, rights and accounts: every control passes or is waived' 'each name above is a role, or what binds one: kubectl get clusterrole NAME --output yaml. Give it less, delete it, or say in config/k3s/cis.yaml or waivers.yaml why it is needed'

  # 15/19 CIS 5.2, what pods may: every control passes or is waived
  #   5.2.1 Something decides what pods may [CIS Kubernetes 2.1, 5.2.1]
  #   5.2.2 None is privileged [CIS Kubernetes 2.1, 5.2.2]
  #   5.2.3 None sees processes of the node [CIS Kubernetes 2.1, 5.2.3]
  #   5.2.4 None shares memory with the node [CIS Kubernetes 2.1, 5.2.4]
  #   5.2.5 None is in the network of the node [CIS Kubernetes 2.1, 5.2.5]
  #   5.2.6 None gains rights [CIS Kubernetes 2.1, 5.2.6]
  #   5.2.7 None is root [CIS Kubernetes 2.1, 5.2.7]
  #   5.2.8 None forges packets [CIS Kubernetes 2.1, 5.2.8]
  #   5.2.9 None has parts of root's rights [CIS Kubernetes 2.1, 5.2.9]
  #   5.2.10 None is a process of a Windows node [CIS Kubernetes 2.1, 5.2.10]
  #   5.2.11 None sees directories of the node [CIS Kubernetes 2.1, 5.2.11]
  #   5.2.12 None takes ports of the node [CIS Kubernetes 2.1, 5.2.12]
  #   5.2.13 None sees all of /proc [CIS Kubernetes 2.1, 5.2.13]
  check() { cis_known api; }
  demand 'CIS 5.2, what pods may: every control passes or is waived' 'mend config/k3s/admission.yaml; of a pod that runs outside of kube-system, give the namespace a stricter label, or say in config/k3s/waivers.yaml why it needs that'

  # 16/19 CIS 5.3, the network of pods: every control passes or is waived
  #   5.3.1 The network obeys policies [CIS Kubernetes 2.1, 5.3.1]
  #   5.3.2 Every namespace has a policy [CIS Kubernetes 2.1, 5.3.2]
  check() { cis_known api; }
  demand 'CIS 5.3, the network of pods: every control passes or is waived' 'the layer of the network writes a NetworkPolicy into every namespace'

  # 17/19 CIS 5.4, Secrets: every control passes or is waived
  #   5.4.1 Programs read Secrets from files [CIS Kubernetes 2.1, 5.4.1]
  #   5.4.2 Secrets are kept outside of the cluster [CIS Kubernetes 2.1, 5.4.2]
  check() { cis_known api; }
  demand 'CIS 5.4, Secrets: every control passes or is waived' 'let the program read its Secret from a file: a volume of kind secret'

  # 18/19 CIS 5.5, images: every control passes or is waived
  #   5.5.1 Only images of known makers run [CIS Kubernetes 2.1, 5.5.1]
  check() { cis_known api; }
  demand 'CIS 5.5, images: every control passes or is waived' 'no machine checks these'

  # 19/19 CIS 5.6, how the cluster is used: every control passes or is waived
  #   5.6.1 Namespaces part what does not belong together [CIS Kubernetes 2.1, 5.6.1]
  #   5.6.2 System calls of every pod are filtered [CIS Kubernetes 2.1, 5.6.2]
  #   5.6.3 Pods say what they need [CIS Kubernetes 2.1, 5.6.3]
  #   5.6.4 Nothing is in the namespace default [CIS Kubernetes 2.1, 5.6.4]
  check() { cis_known api; }
  demand 'CIS 5.6, how the cluster is used: every control passes or is waived' 'move what is named above into a namespace of its own'
}

# What main uses.
# from lib/k3s/members.sh: K3S K3S_ETC K3S_DATA K3S_NOTES k3s_no k3s_kubectl k3s_self
# from lib/host/controls.sh: fact
# from lib/k3s/cis.sh: cis_up cis_listens cis_started cis_flagz cis_flags cis_name cis_words cis_begun cis_json cis_yaml
# from lib/k3s/cis.sh: CIS_KUBELET cis_kubelet_names cis_kubelet_started cis_kubelet cis_etcd cis_known cis_objects
# from lib/k3s/cis.sh: cis_api cis_none quiet_accounts
# from lib/engine/shell/snapshot.sh: record_before
# from lib/engine/shell/printed.sh: FK_OUT FK_RC FK_TX FK_VISIT FK_ARM FK_BACK FK_TMP begin lock usage recover holds
# from lib/engine/shell/printed.sh: change demand wait_for fail

main "$@"
