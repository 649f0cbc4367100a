#!/bin/bash
# 21-k3s-join: The other nodes of the cluster: servers one at a time, with every member of etcd well before the next; then agents.
#
# Run it as root on fortress-node:
#   bash 21-k3s-join.sh
# It has 1 step. Each checks first, and changes only what does not hold.
# No record is kept, and no control is checked: undo knows nothing of it, and verify says what holds.
# shellcheck disable=SC2034 # functions read what is set here
set -euo pipefail
FK_PAGE=21-k3s-join FK_FILE=21-k3s-join.sh
export FK_PAGE FK_FILE

main() {
  begin

  # 1/1 the site has one node: nobody joins it
  check() { test "$(k3s_kubectl get nodes --output name | wc --lines)" -le 1; }
  demand 'the site has one node: nobody joins it' 'the cluster has nodes that the site does not know: describe them under machines:, or ./task node remove NAME'
}

# What main uses.
# from lib/k3s/members.sh: K3S K3S_ETC K3S_DATA K3S_NOTES k3s_kubectl
# from lib/engine/shell/printed.sh: FK_OUT FK_RC FK_TX FK_VISIT FK_ARM FK_BACK FK_TMP begin lock holds demand fail

main "$@"
