#!/bin/bash
# 07-host-vip: One address for the API of several servers, moved by keepalived to one that answers.
#
# Run it as root on fortress:
#   bash 07-host-vip.sh
# It has 1 step, which checks first, and changes only what does not hold.
# It keeps no record, so undo cannot take it back. It checks no controls: verify does.
# shellcheck disable=SC2034 # functions read what is set here
set -euo pipefail
FK_PAGE=07-host-vip FK_FILE=07-host-vip.sh
export FK_PAGE FK_FILE

main() {
  case ${1-} in '') ;; *) usage ;; esac
  begin
  # vip_interface ADDRESS: the definition of $_INTERFACE.
  vip_interface() {
    ip -oneline -4 address show | awk -v wanted="$1" '
    split($4, part, "/") && part[1] == wanted { print "$_INTERFACE=" $2; found = 1 }
    END { exit !found }'
  }
  export -f vip_interface

  # 1/1 no keepalived runs, because no address moves between this machine and others
  check() { ! systemctl --quiet is-active keepalived.service; }
  demand 'no keepalived runs, because no address moves between this machine and others' 'systemctl disable --now keepalived.service, or write cluster.api.vip into the site document'
}

# What main uses.
# from lib/engine/shell/printed.sh: FK_OUT FK_RC FK_TX FK_VISIT FK_ARM FK_BACK FK_TMP begin lock usage holds demand fail

main "$@"
