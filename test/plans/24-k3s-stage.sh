#!/bin/bash
# 24-k3s-stage: The pinned version of k3s is on every node, verified, before anything stops on one of them.
#
# Run it as root on fortress-node:
#   FK_FILES=DIR bash 24-k3s-stage.sh
# It has 3 steps. Each checks first, and changes only what does not hold.
# It keeps no record, so undo cannot take it back. It checks no controls: verify does.
# FK_FILES is a directory with these downloads. Each is proven before it is used:
#   https://github.com/k3s-io/k3s/releases/download/v1.36.4%2Bk3s1/k3s
# shellcheck disable=SC2034 # functions read what is set here
set -euo pipefail
FK_PAGE=24-k3s-stage FK_FILE=24-k3s-stage.sh
export FK_PAGE FK_FILE

main() {
  case ${1-} in '') ;; *) usage ;; esac
  begin
  : "${FK_FILES:?a directory with the downloads of this page}"

  # 1/3 directory /opt/k3s/v1.36.4+k3s1 exists
  check() { test "$(stat --format='%F %a %U:%G' /opt/k3s/v1.36.4+k3s1)" = 'directory 755 root:root'; }
  apply() { install --directory --mode=755 --owner=root --group=root /opt/k3s /opt/k3s/v1.36.4+k3s1; }
  change 'directory /opt/k3s/v1.36.4+k3s1 exists'

  # 2/3 k3s v1.36.4+k3s1 is downloaded and verified
  #   why: it has the pinned SHA-256; nothing that comes from the network is run to install it
  check() { k3s_program v1.36.4+k3s1 835873f37245fc615f547a2fe2af9402a347875f13fa64a1f136de644955ea3f; }
  apply() {
    printf '%s  %s\n' 835873f37245fc615f547a2fe2af9402a347875f13fa64a1f136de644955ea3f "$FK_FILES"/k3s | sha256sum --check --quiet
    digest=$(sha256sum "$FK_FILES"/k3s | cut --delimiter=' ' --fields=1)
    cp "$FK_FILES"/k3s /opt/k3s/v1.36.4+k3s1/.k3s."${digest:0:16}".part
    export FK_SENT="$digest"' /opt/k3s/v1.36.4+k3s1/k3s'
    FK_KEEP='' receive /opt/k3s/v1.36.4+k3s1/k3s 755
  }
  change 'k3s v1.36.4+k3s1 is downloaded and verified'

  # 3/3 Node fortress-node is annotated as staged for k3s v1.36.4+k3s1
  #   why: k3s-upgrade begins nowhere before all nodes are staged
  check() {
    test v1.36.4+k3s1 = "$(k3s_self get node fortress-node \
      --output jsonpath='{.metadata.annotations.fortress-kit/staged}')"
  }
  apply() { k3s_self annotate node fortress-node --overwrite fortress-kit/staged=v1.36.4+k3s1; }
  change 'Node fortress-node is annotated as staged for k3s v1.36.4+k3s1'
}

# What main uses.
# from lib/engine/shell/receive.sh: receive
# from lib/k3s/members.sh: K3S K3S_ETC K3S_DATA K3S_NOTES k3s_no k3s_program k3s_self
# from lib/engine/shell/put.sh: received
# from lib/engine/shell/snapshot.sh: record_before
# from lib/engine/shell/printed.sh: FK_OUT FK_RC FK_TX FK_VISIT FK_ARM FK_BACK FK_TMP begin lock usage recover holds
# from lib/engine/shell/printed.sh: change fail

main "$@"
