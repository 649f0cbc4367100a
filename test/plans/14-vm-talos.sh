#!/bin/bash
# 14-vm-talos: The node of Talos: it does what is written down, its cluster has begun, once, and you hold the key to it.
#
# Run it as root on fortress:
#   bash 14-vm-talos.sh
# It has 1 step. Each checks first, and changes only what does not hold.
# No record is kept, and no control is checked: undo knows nothing of it, and verify says what holds.
# shellcheck disable=SC2034 # functions read what is set here
set -euo pipefail
FK_PAGE=14-vm-talos FK_FILE=14-vm-talos.sh
export FK_PAGE FK_FILE

main() {
  begin

  # 1/1 no node of the site runs Talos
  check() { ! ls /etc/fortress/vm/*.talosconfig 2> /dev/null; }
  demand 'no node of the site runs Talos' 'papers of a node are left that the site does not have any more: ./task vm-talos undo, or set FK_NODE_OS=talos again'
}

# What main uses.
# from lib/engine/shell/printed.sh: FK_OUT FK_RC FK_TX FK_VISIT FK_ARM FK_BACK FK_TMP begin lock holds demand fail

main "$@"
