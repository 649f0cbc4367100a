#!/bin/bash
# 28-k3s-rotate: The cluster has new CAs and a new key for tokens of pods, if the laptop has retired the old ones; those still pass.
#
# Run it as root on fortress-node:
#   bash 28-k3s-rotate.sh
# It has 5 steps. Each checks first, and changes only what does not hold.
# It keeps no record, so undo cannot take it back. It checks no controls: verify does.
# What should not be on this machine alone is saved to /root/fortress-saved: take it away from there.
# shellcheck disable=SC2034 # functions read what is set here
set -euo pipefail
FK_PAGE=28-k3s-rotate FK_FILE=28-k3s-rotate.sh
export FK_PAGE FK_FILE

main() {
  case ${1-} in '') ;; *) usage ;; esac
  begin

  # 1/5 an etcd snapshot of before is saved, if CAs are retired
  #   why: with a bundle of ./task backup the cluster can be brought back to it
  check() {
    ca_unused first server none > /dev/null ||
      compgen -G '/var/lib/rancher/k3s/server/db/snapshots/before-rotation-none-*' > /dev/null
  }
  apply() { /opt/bin/k3s etcd-snapshot save --name before-rotation-none; }
  change 'an etcd snapshot of before is saved, if CAs are retired'

  # 2/5 certificates of fortress-node are signed by CAs that are not retired
  #   why: a client certificate cannot be revoked: it ends with the CA that signed it
  check() { ca_unused first server none; }
  apply() {
    (
      ca_make && ca_send
    )
    ca_start server fortress-node 540
  }
  change 'certificates of fortress-node are signed by CAs that are not retired'

  # 3/5 join token for servers is saved on the laptop, encrypted
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

  # 4/5 join token for agents is saved on the laptop, encrypted
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

  # 5/5 kubeconfig of the cluster is saved on the laptop, encrypted
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
# from lib/k3s/authorities.sh: CA_STAGED CA_NAMES ca_paths ca_bodies ca_print ca_live ca_unused ca_make ca_signed
# from lib/k3s/authorities.sh: ca_pair ca_send ca_start
# from lib/engine/shell/put.sh: FK_STATE
# from lib/engine/shell/printed.sh: FK_SAVED FK_OUT FK_RC FK_TX FK_VISIT FK_ARM FK_BACK FK_TMP begin lock usage recover
# from lib/engine/shell/printed.sh: holds change fail save saved

main "$@"
