#!/bin/bash
# 25-k3s-upgrade: Every node runs the pinned version: servers one at a time, then agents; a node that is not well with it goes back.
#
# Run it as root on fortress-node:
#   FK_CONFIRM=fortress-node bash 25-k3s-upgrade.sh
# It has 7 steps. Each checks first, and changes only what does not hold.
# No record is kept, and no control is checked: undo knows nothing of it, and verify says what holds.
# FK_CONFIRM=fortress-node confirms: somebody knows that the API of fortress-node is silent for a minute, because there is no other node
# shellcheck disable=SC2034 # functions read what is set here
set -euo pipefail
FK_PAGE=25-k3s-upgrade FK_FILE=25-k3s-upgrade.sh
export FK_PAGE FK_FILE

main() {
  begin

  # 1/7 k3s v1.36.4+k3s1 follows what runs here
  #   why: a minor version that is left out, or taken back, is a way that nobody has tested
  check() { k3s_at v1.36.4+k3s1 || k3s_follows "$(k3s_from)" v1.36.4+k3s1; }
  demand 'k3s v1.36.4+k3s1 follows what runs here' 'pin what comes next in config/versions.yaml, and apply that first. What is older than the data of the cluster comes back with them: ./task restore'

  # 2/7 all nodes have k3s v1.36.4+k3s1
  check() { k3s_at v1.36.4+k3s1 || k3s_staged v1.36.4+k3s1 fortress-node; }
  demand 'all nodes have k3s v1.36.4+k3s1' './task k3s-stage apply'

  # 3/7 the cluster is well
  check() {
    k3s_at v1.36.4+k3s1 || { k3s_well 0 fortress-node && k3s_is server fortress-node "$(k3s_version)" Unknown; }
  }
  demand 'the cluster is well' './task status says what is wrong. An upgrade takes a server away for a while: only a cluster that is well can do without it'

  # 4/7 nobody uses an API that k3s v1.36.4+k3s1 does not have
  #   why: what asks for it would fail after the upgrade, and only then
  check() { k3s_at v1.36.4+k3s1 || k3s_removed v1.36.4+k3s1 https://10.77.0.2:6443; }
  demand 'nobody uses an API that k3s v1.36.4+k3s1 does not have' 'who asked stands in the audit log of the servers: grep removed-release /var/lib/rancher/k3s/server/logs/audit.log
They count since they started: when it is mended, systemctl restart k3s on one server after the other'

  # 5/7 somebody knows that the API of fortress-node is silent for a minute, because there is no other node
  #   why: pods go on, and have nowhere to go to: what needs the API meanwhile fails
  check() {
    [ "${FK_CONFIRM-}" != fortress-node ] || return 0
    k3s_at v1.36.4+k3s1
  }
  demand 'somebody knows that the API of fortress-node is silent for a minute, because there is no other node' 'FK_CONFIRM=fortress-node before bash confirms it'

  # 6/7 the state before v1.36.4+k3s1 is kept
  #   why: what the new version writes, the old one may not read
  check() { k3s_at v1.36.4+k3s1 || k3s_has_snapshot before-v1.36.4-k3s1; }
  apply() { k3s_snapshot before-v1.36.4-k3s1; }
  change 'the state before v1.36.4+k3s1 is kept'

  # 7/7 fortress-node runs k3s v1.36.4+k3s1, and is well
  #   why: when it is not well with it, the old version runs again
  check() {
    test ! -e "$K3S_NOTES/upgrading" && test "$(k3s_version)" = v1.36.4+k3s1 && k3s_runs server fortress-node
  }
  apply() { k3s_swap server fortress-node v1.36.4+k3s1 540; }
  recover() { k3s_back server fortress-node 540; }
  change 'fortress-node runs k3s v1.36.4+k3s1, and is well'
}

# What main uses.
# from lib/k3s/members.sh: K3S K3S_ETC K3S_DATA K3S_NOTES k3s_no k3s_use k3s_version k3s_kubectl k3s_self k3s_told
# from lib/k3s/members.sh: k3s_answers k3s_said k3s_runs k3s_restarted k3s_start k3s_votes k3s_well
# from lib/k3s/nodes.sh: AWAY STAGED k3s_numbers k3s_follows k3s_noted k3s_from k3s_at k3s_node k3s_staged k3s_removed
# from lib/k3s/nodes.sh: k3s_snapshot k3s_has_snapshot k3s_is k3s_swap k3s_back
# from lib/engine/shell/snapshot.sh: keep
# from lib/engine/shell/printed.sh: FK_OUT FK_RC FK_TX FK_VISIT FK_ARM FK_BACK FK_TMP begin lock recover holds change
# from lib/engine/shell/printed.sh: demand fail

main "$@"
