#!/bin/bash
# 21-k3s-join: The other nodes of the cluster: servers one at a time, with every member of etcd healthy before the next; then agents.
#
# Run it as root on fortress-node:
#   bash 21-k3s-join.sh
# It has 1 step, which checks first, and changes only what does not hold.
# It keeps no record, so undo cannot take it back. It checks no controls: verify does.
# shellcheck disable=SC2034 # functions read what is set here
set -euo pipefail
FK_PAGE=21-k3s-join FK_FILE=21-k3s-join.sh
export FK_PAGE FK_FILE

main() {
  case ${1-} in '') ;; *) usage ;; esac
  begin
  # etcd_votes COUNT: etcd is ready on this server, COUNT servers or more are members, and every one of them has a vote.
  etcd_votes() {
    local said name vote all=0 bad=0
    said=$(k3s_kubectl get --raw /readyz/etcd 2>&1) || k3s_no "etcd is not ready: $(tail --lines=1 <<< "$said")" || return
    said=$(k3s_votes 2>&1) || k3s_no "$said" || return
    while read -r name vote; do
      [ -n "$name" ] || continue
      all=$((all + 1))
      [ "$vote" = True ] || { printf '%s has no vote in etcd\n' "$name" && bad=$((bad + 1)); }
    done <<< "$said"
    printf '%s members of etcd have a vote\n' "$((all - bad))"
    [ "$bad" -eq 0 ] && [ "$all" -ge "$1" ]
  }

  # 1/1 the cluster has no Node that the site does not describe
  check() { nodes=$(k3s_kubectl get nodes --output name) && test "$(wc --lines <<< "$nodes")" -le 1; }
  demand 'the cluster has no Node that the site does not describe' 'describe the other nodes under machines: of the site, or take them out: ./task node remove NAME'
}

# What main uses.
# from lib/k3s/members.sh: K3S K3S_ETC K3S_DATA K3S_NOTES k3s_no k3s_kubectl k3s_votes
# from lib/engine/shell/printed.sh: FK_OUT FK_RC FK_TX FK_VISIT FK_ARM FK_BACK FK_TMP begin lock usage holds demand fail

main "$@"
