#!/bin/bash
# 26-k3s-renew: No certificate of the cluster ends within 90 days: k3s renews them when it starts, one server after the other.
#
# Run it as root on fortress-node:
#   bash 26-k3s-renew.sh
# It has 2 steps. Each checks first, and changes only what does not hold.
# No record is kept, and no control is checked: undo knows nothing of it, and verify says what holds.
# shellcheck disable=SC2034 # functions read what is set here
set -euo pipefail
FK_PAGE=26-k3s-renew FK_FILE=26-k3s-renew.sh
export FK_PAGE FK_FILE

main() {
  begin

  # 1/2 no certificate of fortress-node ends within 90 days
  #   why: k3s renews them when it starts and never else: a node that just runs locks itself out after a year
  check() { k3s_lasts leaf 90; }
  apply() { k3s_renewed server fortress-node 540; }
  change 'no certificate of fortress-node ends within 90 days'

  # 2/2 the authorities of the cluster last for another year
  #   why: they are made for ten years, and never renewed by themselves
  check() { k3s_lasts authority 365; }
  demand 'the authorities of the cluster last for another year' 'docs.k3s.io/cli/certificate tells how to rotate them: k3s certificate rotate-ca. All nodes then join by another fingerprint'
}

# What main uses.
# from lib/k3s/members.sh: K3S K3S_ETC K3S_DATA K3S_NOTES k3s_no k3s_version k3s_kubectl k3s_self k3s_told k3s_answers
# from lib/k3s/members.sh: k3s_said k3s_start
# from lib/k3s/nodes.sh: k3s_node k3s_is k3s_renewed k3s_certificates k3s_lasts
# from lib/engine/shell/printed.sh: FK_OUT FK_RC FK_TX FK_VISIT FK_ARM FK_BACK FK_TMP begin lock recover holds change
# from lib/engine/shell/printed.sh: demand fail

main "$@"
