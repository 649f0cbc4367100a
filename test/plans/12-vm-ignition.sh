#!/bin/bash
# 12-vm-ignition: The first-boot configuration of every node: Ignition for Flatcar, a machine configuration for Talos.
#
# Run it as root on fortress:
#   FK_SECRETS=DIR bash 12-vm-ignition.sh
# It has 2 steps. Each checks first, and changes only what does not hold.
# It keeps no record, so undo cannot take it back. It checks no controls: verify does.
# FK_SECRETS is a directory with one file for each of these secrets, as the machine gets it:
#   fortress-node-ignition
# shellcheck disable=SC2034 # functions read what is set here
set -euo pipefail
FK_PAGE=12-vm-ignition FK_FILE=12-vm-ignition.sh
export FK_PAGE FK_FILE

main() {
  case ${1-} in '') ;; *) usage ;; esac
  begin
  : "${FK_SECRETS:?a directory with the secrets of this page}"

  # 1/2 /var/lib/libvirt/fortress exists, and QEMU has a user of its own
  check() { test -d /var/lib/libvirt/fortress && getent passwd libvirt-qemu; }
  demand '/var/lib/libvirt/fortress exists, and QEMU has a user of its own' './task vm-host apply'

  # 2/2 the Ignition of fortress-node is written
  #   why: users, keys, address, settings and the pinned k3s come with the first boot: nothing is set up by hand afterwards
  check() {
    put_finished /var/lib/libvirt/fortress/fortress-node.ign && [ "$(stat --format='%a %U:%G' /var/lib/libvirt/fortress/fortress-node.ign)" = "400 libvirt-qemu:libvirt-qemu" ] && sha256sum --check --status /var/lib/fortress/secret/var/lib/libvirt/fortress/fortress-node.ign.sha256&& [ "$(cat /var/lib/fortress/secret/var/lib/libvirt/fortress/fortress-node.ign.sha256.around)" = 4977fe7dad6988b589b0c5e25c92cd7e9aed8ec592f9231b55ec3f3d0354a048 ]
  }
  apply() {
    {
      put /var/lib/libvirt/fortress/fortress-node.ign 400 libvirt-qemu:libvirt-qemu
    } < "$FK_SECRETS"/fortress-node-ignition
    (
      install --directory --mode=700 "$(dirname /var/lib/fortress/secret/var/lib/libvirt/fortress/fortress-node.ign.sha256)" && sha256sum /var/lib/libvirt/fortress/fortress-node.ign > /var/lib/fortress/secret/var/lib/libvirt/fortress/fortress-node.ign.sha256&& echo 4977fe7dad6988b589b0c5e25c92cd7e9aed8ec592f9231b55ec3f3d0354a048 > /var/lib/fortress/secret/var/lib/libvirt/fortress/fortress-node.ign.sha256.around
    )
    put_finish /var/lib/libvirt/fortress/fortress-node.ign
  }
  recover() { put_restore /var/lib/libvirt/fortress/fortress-node.ign; }
  change 'the Ignition of fortress-node is written'
}

# What main uses.
# from lib/engine/shell/put.sh: FK_STATE put put_owner put_finish put_finished put_restore
# from lib/engine/shell/snapshot.sh: record_before
# from lib/engine/shell/printed.sh: FK_OUT FK_RC FK_TX FK_VISIT FK_ARM FK_BACK FK_TMP begin lock usage recover holds
# from lib/engine/shell/printed.sh: change demand fail

main "$@"
