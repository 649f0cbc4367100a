#!/bin/bash
# 11-vm-image: The system of the node, as its makers signed it.
#
# Run it as root on fortress:
#   FK_FILES=DIR bash 11-vm-image.sh
# It has 3 steps. Each checks first, and changes only what does not hold.
# No record is kept, and no control is checked: undo knows nothing of it, and verify says what holds.
# FK_FILES is a directory with these downloads. Each is proven before it is used:
#   https://stable.release.flatcar-linux.net/amd64-usr/4757.2.1/flatcar_production_qemu_uefi_image.img
#   https://stable.release.flatcar-linux.net/amd64-usr/4757.2.1/flatcar_production_qemu_uefi_image.img.sig
#   https://www.flatcar.org/security/image-signing-key/Flatcar_Image_Signing_Key.asc
# shellcheck disable=SC2034 # functions read what is set here
set -euo pipefail
FK_PAGE=11-vm-image FK_FILE=11-vm-image.sh
export FK_PAGE FK_FILE

main() {
  begin
  : "${FK_FILES:?a directory with the downloads of this page}"

  # 1/3 /var/lib/fortress/images belongs to root, and only root may write there
  check() {
    test "$(stat --format='%F %a %U:%G' /var/lib/fortress/images)" = 'directory 755 root:root'
  }
  apply() {
    record_before /var/lib/fortress/images
    install --directory --mode=755 --owner=root --group=root /var/lib/fortress/images
  }
  change '/var/lib/fortress/images belongs to root, and only root may write there'

  # 2/3 there is room for the image
  check() { image_room /var/lib/fortress/images/flatcar-4757.2.1-amd64.img 1536; }
  demand 'there is room for the image' 'make room on the disk of /var/lib'

  # 3/3 the image of Flatcar 4757.2.1 is here, as its makers signed it
  #   why: signed by the key F88CFEDEFF29A5B4D9523864E25D9AED0593B34A; nobody may write it, so that every node starts from the same bytes
  #   O17 The system of the node is proven by a signature, and read-only [NIST SP 800-53 SI-7(15), NIST SP 800-53 CM-14]
  check() { image_is /var/lib/fortress/images/flatcar-4757.2.1-amd64.img; }
  apply() {
    signed_by "$FK_FILES"/flatcar_production_qemu_uefi_image.img "$FK_FILES"/flatcar_production_qemu_uefi_image.img.sig "$FK_FILES"/Flatcar_Image_Signing_Key.asc F88CFEDEFF29A5B4D9523864E25D9AED0593B34A
    digest=$(sha256sum "$FK_FILES"/flatcar_production_qemu_uefi_image.img | cut --delimiter=' ' --fields=1)
    cp "$FK_FILES"/flatcar_production_qemu_uefi_image.img /var/lib/fortress/images/.flatcar-4757.2.1-amd64.img."${digest:0:16}".part
    export FK_SENT="$digest"' /var/lib/fortress/images/flatcar-4757.2.1-amd64.img'
    image_land /var/lib/fortress/images/flatcar-4757.2.1-amd64.img
  }
  change 'the image of Flatcar 4757.2.1 is here, as its makers signed it'
}

# What main uses.
# from lib/vm/image.sh: image_no image_is image_room image_land
# from lib/engine/shell/put.sh: FK_STATE put put_finish received
# from lib/engine/shell/snapshot.sh: record_before
# from lib/engine/shell/printed.sh: FK_OUT FK_RC FK_TX FK_VISIT FK_ARM FK_BACK FK_TMP begin lock recover holds change
# from lib/engine/shell/printed.sh: demand fail signed_by

main "$@"
