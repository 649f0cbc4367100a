#!/bin/bash
# 26-k3s-renew: No certificate of the cluster ends within 90 days: k3s renews them when it starts, one server after the other.
#
# Run it as root on fortress-node:
#   bash 26-k3s-renew.sh
# It has 2 steps. Each checks first, and changes only what does not hold.
# It keeps no record, so undo cannot take it back. It checks no controls: verify does.
# shellcheck disable=SC2034 # functions read what is set here
set -euo pipefail
FK_PAGE=26-k3s-renew FK_FILE=26-k3s-renew.sh
export FK_PAGE FK_FILE

main() {
  case ${1-} in '') ;; *) usage ;; esac
  begin
  # certificates_last KIND DAYS: no certificate of this kind (leaf, authority) in /var/lib/rancher/k3s ends before.
  certificates_last() {
    local said days path
    said=$(k3s_certificates "$1") || k3s_no "$said" || return
    [ -n "$said" ] || k3s_no "there is no certificate in $K3S_DATA" || return
    read -r days path <<< "$said"
    printf '%s days are left of %s\n' "$days" "$path"
    [ "$days" -ge "$2" ]
  }

  # restart_to_renew ROLE NAME SECONDS: restarts k3s, which renews what ends within 120 days, and waits until it is healthy.
  restart_to_renew() {
    local said deadline=$((SECONDS + $3)) ready version
    read -r version ready <<< "$(k3s_node "$1" "$2" \
      '{.status.nodeInfo.kubeletVersion} {.status.conditions[?(@.type=="Ready")].status}' 2> /dev/null)" ||
      true # with expired certificates the API does not answer
    k3s_start "$1" "$2" "$3" || return
    until said=$(k3s_is "$1" "$2" "${version:-$(k3s_version)}" "${ready:-Unknown}"); do
      [ "$SECONDS" -lt "$deadline" ] || k3s_no "k3s restarted, and is not healthy: $said" || return
      sleep 1
    done
  }
  export -f certificates_last restart_to_renew

  # 1/2 certificates of fortress-node are valid for 90 days or more
  #   why: k3s renews those that end within 120 days, and only when it starts: otherwise they expire after a year
  check() { certificates_last leaf 90; }
  apply() { restart_to_renew server fortress-node 540; }
  change 'certificates of fortress-node are valid for 90 days or more'

  # 2/2 cluster CA certificates are valid for 365 days or more
  #   why: they are made for ten years, and k3s never renews them by itself
  check() { certificates_last authority 365; }
  demand 'cluster CA certificates are valid for 365 days or more' 'docs.k3s.io/cli/certificate: k3s certificate rotate-ca. The fingerprint in the join token changes with it'
}

# What main uses.
# from lib/k3s/members.sh: K3S K3S_ETC K3S_DATA K3S_NOTES k3s_no k3s_version k3s_kubectl k3s_self k3s_config_digest
# from lib/k3s/members.sh: k3s_answers k3s_said k3s_start
# from lib/k3s/nodes.sh: k3s_node k3s_is k3s_certificates
# from lib/engine/shell/printed.sh: FK_OUT FK_RC FK_TX FK_VISIT FK_ARM FK_BACK FK_TMP begin lock usage recover holds
# from lib/engine/shell/printed.sh: change demand fail

main "$@"
