#!/bin/bash
# 08-host-vault: An encrypted disk that opens by itself on this machine, and on no other.
#
# Run it as root on fortress:
#   bash 08-host-vault.sh
# It has 1 step. Each checks first, and changes only what does not hold.
# No record is kept, and no control is checked: undo knows nothing of it, and verify says what holds.
# shellcheck disable=SC2034 # functions read what is set here
set -euo pipefail
FK_PAGE=08-host-vault FK_FILE=08-host-vault.sh
export FK_PAGE FK_FILE

main() {
  begin

  # 1/1 the site chooses no disk for the vault, so there is nothing to encrypt; verify lists the disks there are
  #   why: a disk is chosen by a person, by its id, in vault.disk of the site document
  #   F12 The data of the cluster has an encrypted disk of its own [NIST SP 800-53 SC-28(1)]
  check() { true; }
  demand 'the site chooses no disk for the vault, so there is nothing to encrypt; verify lists the disks there are' 'write one of the ids under /dev/disk/by-id into vault.disk'
}

# What main uses.
# from lib/engine/shell/printed.sh: FK_OUT FK_RC FK_TX FK_VISIT FK_ARM FK_BACK FK_TMP begin lock holds demand fail

main "$@"
