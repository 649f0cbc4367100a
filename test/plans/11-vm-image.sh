#!/bin/bash
# 11-vm-image: The base image that virtual machines start from, proven by its signature or digest.
#
# Run it as root on fortress:
#   FK_FILES=DIR bash 11-vm-image.sh
# It has 3 steps. Each checks first, and changes only what does not hold.
# It keeps no record, so undo cannot take it back. It checks no controls: verify does.
# FK_FILES is a directory with these downloads. Each is proven before it is used, by gpg and gpgv:
#   https://stable.release.flatcar-linux.net/amd64-usr/4757.2.1/flatcar_production_qemu_uefi_image.img
#   https://stable.release.flatcar-linux.net/amd64-usr/4757.2.1/flatcar_production_qemu_uefi_image.img.sig
#   https://www.flatcar.org/security/image-signing-key/Flatcar_Image_Signing_Key.asc
# shellcheck disable=SC2034 # functions read what is set here
set -euo pipefail
FK_PAGE=11-vm-image FK_FILE=11-vm-image.sh
export FK_PAGE FK_FILE

main() {
  case ${1-} in '') ;; *) usage ;; esac
  begin
  # image_is PATH [DIGEST]: the file is there as it was when it was proven, and nobody may write it. DIGEST is that of the
  # download, where the pin says it. The whole of it is read in every run.
  image_is() {
    local path=$1 dir mark mode
    dir=$(dirname "$path")
    { [ -f "$path" ] && [ ! -L "$path" ]; } || image_no "$path is not there" || return
    mode=$(stat --format='%a %U:%G' "$path")
    [ "$mode" = '444 root:root' ] || image_no "$path can be changed: $mode" || return
    mode=$(stat --format='%a %U:%G' "$dir")
    [ "$mode" = '755 root:root' ] || image_no "$dir can be changed: $mode" || return
    [ -f "$path.sha256" ] || image_no "$path.sha256 is not there, so nothing tells what was proven" || return
    [ -z "${2-}" ] || grep --line-regexp --fixed-strings "# of $2" "$path.sha256" > /dev/null ||
      image_no "$path is not made of what is pinned now" || return
    # Step and control ask one after the other: what nobody has touched since is read once.
    mark=$FK_TMP/image.$(stat --format=%i.%s.%.9Z "$path" "$path.sha256" | paste --serial --delimiters=.)
    [ -e "$mark" ] || (cd "$dir" && sha256sum --check --status "$path.sha256") ||
      image_no "$path is not what it was when it was proven" || return
    touch "$mark"
  }
  export -f image_is
  : "${FK_FILES:?a directory with the downloads of this page}"

  # 1/3 /var/lib/fortress/images is writable by root alone
  check() {
    test "$(stat --format='%F %a %U:%G' /var/lib/fortress/images)" = 'directory 755 root:root'
  }
  apply() {
    record_before /var/lib/fortress/images
    install --directory --mode=755 --owner=root --group=root /var/lib/fortress/images
  }
  change '/var/lib/fortress/images is writable by root alone'

  # 2/3 the disk of /var/lib/fortress/images has room for the base image
  check() {
    test -f /var/lib/fortress/images/flatcar-4757.2.1-amd64.img || {
      dir=/var/lib/fortress/images
      while [ ! -d "$dir" ]; do dir=$(dirname "$dir"); done
      free=$(($(df --output=avail --block-size=1048576 "$dir" | tail --lines=1)))
      echo "$free MiB are free in $dir, and needed are" 1536 && test "$free" -ge 1536
    }
  }
  demand 'the disk of /var/lib/fortress/images has room for the base image' 'make room on the disk of /var/lib'

  # 3/3 the base image Flatcar 4757.2.1 is on the host, proven by a signature
  #   why: signed by the key F88CFEDEFF29A5B4D9523864E25D9AED0593B34A; nobody may write it, so that every virtual machine starts from the same bytes
  #   O17 The base image is proven by a signature, and read-only [NIST SP 800-53 SI-7(15), NIST SP 800-53 CM-14]
  check() { image_is /var/lib/fortress/images/flatcar-4757.2.1-amd64.img; }
  apply() {
    signed_by "$FK_FILES"/flatcar_production_qemu_uefi_image.img "$FK_FILES"/flatcar_production_qemu_uefi_image.img.sig "$FK_FILES"/Flatcar_Image_Signing_Key.asc F88CFEDEFF29A5B4D9523864E25D9AED0593B34A
    digest=$(sha256sum "$FK_FILES"/flatcar_production_qemu_uefi_image.img | cut --delimiter=' ' --fields=1)
    cp "$FK_FILES"/flatcar_production_qemu_uefi_image.img /var/lib/fortress/images/.flatcar-4757.2.1-amd64.img."${digest:0:16}".part
    export FK_SENT="$digest"' /var/lib/fortress/images/flatcar-4757.2.1-amd64.img'
    image_land /var/lib/fortress/images/flatcar-4757.2.1-amd64.img
  }
  change 'the base image Flatcar 4757.2.1 is on the host, proven by a signature'
}

# What main uses.
# from lib/vm/image.sh: image_no image_land
# from lib/engine/shell/put.sh: FK_STATE put put_owner put_finish received
# from lib/engine/shell/snapshot.sh: record_before
# from lib/engine/shell/printed.sh: FK_OUT FK_RC FK_TX FK_VISIT FK_ARM FK_BACK FK_TMP begin lock usage recover holds
# from lib/engine/shell/printed.sh: change demand fail signed_by

main "$@"
