#!/bin/bash
# 29-k3s-retire: Nothing that a retired CA has signed opens the cluster: an old kubeconfig is refused, and an old token of a pod.
#
# Run it as root on fortress-node:
#   bash 29-k3s-retire.sh
# It has 7 steps. Each checks first, and changes only what does not hold.
# It keeps no record, so undo cannot take it back. It checks no controls: verify does.
# What should not be on this machine alone is saved to /root/fortress-saved: take it away from there.
# shellcheck disable=SC2034 # functions read what is set here
set -euo pipefail
FK_PAGE=29-k3s-retire FK_FILE=29-k3s-retire.sh
export FK_PAGE FK_FILE

main() {
  case ${1-} in '') ;; *) usage ;; esac
  begin

  # 1/7 the kubelet of every Node has a certificate of the new CA, if CAs are retired
  #   why: a node that was not started since would be shut out
  check() { ca_unused any server none > /dev/null || ca_nodes; }
  demand 'the kubelet of every Node has a certificate of the new CA, if CAs are retired' './task k3s-rotate apply starts them anew; a node that is gone for good: ./task node remove NAME'

  # 2/7 pods are given the new CA by the controllers, if CAs are retired
  check() { ca_unused any server none > /dev/null || ca_given; }
  wait_for 'pods are given the new CA by the controllers, if CAs are retired' 300

  # 3/7 every pod with a token has begun since the new CA, if CAs are retired
  #   why: programs read the CA of the API once, and would not find it any more
  check() { ca_unused any server none > /dev/null || ca_pods; }
  demand 'every pod with a token has begun since the new CA, if CAs are retired' './task kubectl rollout restart deployment,statefulset,daemonset --namespace NAMESPACE restarts those of a namespace.
A pod without a controller is deleted, and made anew. Then run this again'

  # 4/7 fortress-node trusts no retired CA
  #   why: until then every certificate that it has signed still passes
  check() { ca_unused any server none && ca_presented 127.0.0.1:6443; }
  apply() {
    (
      ca_unused first server none && ca_without none && ca_send
    )
    ca_start server fortress-node 540
  }
  change 'fortress-node trusts no retired CA'

  # 5/7 join token for servers is saved on the laptop, encrypted
  check() {
    saved k3s-join-server "$(sha256sum /var/lib/rancher/k3s/server/token | cut --delimiter=' ' --fields=1)"
  }
  apply() {
    : # the laptop makes the copy, see save
    {
      cat /var/lib/rancher/k3s/server/token
    } | save k3s-join-server once
  }
  change 'join token for servers is saved on the laptop, encrypted'

  # 6/7 join token for agents is saved on the laptop, encrypted
  check() {
    saved k3s-join-agent "$(sha256sum /var/lib/rancher/k3s/server/agent-token | cut --delimiter=' ' --fields=1)"
  }
  apply() {
    : # the laptop makes the copy, see save
    {
      cat /var/lib/rancher/k3s/server/agent-token
    } | save k3s-join-agent once
  }
  change 'join token for agents is saved on the laptop, encrypted'

  # 7/7 kubeconfig of the cluster is saved on the laptop, encrypted
  check() {
    saved k3s-kubeconfig "$(sha256sum /etc/rancher/k3s/k3s.yaml | cut --delimiter=' ' --fields=1)"
  }
  apply() {
    : # the laptop makes the copy, see save
    {
      cat /etc/rancher/k3s/k3s.yaml
    } | save k3s-kubeconfig
  }
  change 'kubeconfig of the cluster is saved on the laptop, encrypted'
}

# What main uses.
# from lib/k3s/members.sh: K3S K3S_ETC K3S_DATA K3S_NOTES k3s_no k3s_kubectl k3s_self k3s_config_digest k3s_answers
# from lib/k3s/members.sh: k3s_said k3s_start
# from lib/k3s/authorities.sh: CA_STAGED CA_NAMES ca_paths ca_bodies ca_print ca_live ca_unused ca_without ca_own
# from lib/k3s/authorities.sh: ca_send ca_presented ca_nodes ca_given ca_pods ca_start
# from lib/engine/shell/put.sh: FK_STATE
# from lib/engine/shell/printed.sh: FK_SAVED FK_OUT FK_RC FK_TX FK_VISIT FK_ARM FK_BACK FK_TMP begin lock usage recover
# from lib/engine/shell/printed.sh: holds change demand wait_for fail save saved

main "$@"
