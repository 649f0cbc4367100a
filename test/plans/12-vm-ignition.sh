#!/bin/bash
# 12-vm-ignition: What a node becomes on its first boot, all at once.
#
# Run it as root on fortress:
#   FK_SECRETS=DIR bash 12-vm-ignition.sh
# It has 2 steps. Each checks first, and changes only what does not hold.
# No record is kept, and no control is checked: undo knows nothing of it, and verify says what holds.
# FK_SECRETS is a directory with one file for each of these secrets, as the machine gets it:
#   fortress-node-ignition
# shellcheck disable=SC2034 # functions read what is set here
set -euo pipefail
FK_PAGE=12-vm-ignition FK_FILE=12-vm-ignition.sh
export FK_PAGE FK_FILE

main() {
  begin
  : "${FK_SECRETS:?a directory with the secrets of this page}"

  # 1/2 the directory of the machines is there, and QEMU has a user of its own
  check() { test -d /var/lib/libvirt/fortress && getent passwd libvirt-qemu; }
  demand 'the directory of the machines is there, and QEMU has a user of its own' './task vm-host apply'

  # 2/2 what fortress-node becomes on its first boot is written down
  #   why: users, keys, address, settings and the pinned k3s come with the first start: nothing is set up by hand afterwards
  check() {
    settled /var/lib/libvirt/fortress/fortress-node.ign && [ "$(stat --format='%a %U:%G' /var/lib/libvirt/fortress/fortress-node.ign)" = "400 libvirt-qemu:libvirt-qemu" ] && sha256sum --check --status /var/lib/fortress/secret/var/lib/libvirt/fortress/fortress-node.ign.sha256&& [ "$(cat /var/lib/fortress/secret/var/lib/libvirt/fortress/fortress-node.ign.sha256.around)" = a3c86d7f885c06c8eb5f2726328876c08975cb2e1bb11428839f5e5602cacaf4 ]
  }
  apply() {
    {
      put /var/lib/libvirt/fortress/fortress-node.ign 400 libvirt-qemu:libvirt-qemu
    } < "$FK_SECRETS"/fortress-node-ignition
    (
      install --directory --mode=700 "$(dirname /var/lib/fortress/secret/var/lib/libvirt/fortress/fortress-node.ign.sha256)" && sha256sum /var/lib/libvirt/fortress/fortress-node.ign > /var/lib/fortress/secret/var/lib/libvirt/fortress/fortress-node.ign.sha256&& echo a3c86d7f885c06c8eb5f2726328876c08975cb2e1bb11428839f5e5602cacaf4 > /var/lib/fortress/secret/var/lib/libvirt/fortress/fortress-node.ign.sha256.around
    )
    settle /var/lib/libvirt/fortress/fortress-node.ign
  }
  recover() { putback /var/lib/libvirt/fortress/fortress-node.ign; }
  change 'what fortress-node becomes on its first boot is written down'
}

# What main uses.
# from lib/engine/shell/put.sh: FK_STATE put settle settled putback
# from lib/engine/shell/snapshot.sh: keep
# from lib/engine/shell/printed.sh: FK_OUT FK_RC FK_TX FK_VISIT FK_ARM FK_BACK FK_TMP begin lock recover holds change
# from lib/engine/shell/printed.sh: demand fail

main "$@"
