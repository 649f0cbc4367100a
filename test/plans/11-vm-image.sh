#!/bin/bash
# 11-vm-image: The base image that virtual machines start from, proven by its signature or digest.
#
# Run it as root on the machine. Each step asks first and changes only what does not hold.
set -euo pipefail
[ "$(id --user)" -eq 0 ] || { echo "this script needs root" >&2; exit 1; }
: "${FK_FILES:?a directory that holds the downloads of this page; each step says from where}"

# keep PATH: only the task runner records what was there before; a printed page does not take back.
keep() { :; }
export -f keep
saved() { [ -e "$FK_STATE/saved-$1-$2" ]; }
FK_TMP=$(mktemp --directory)
export FK_TMP
# Files land whole or not at all. These functions travel with every program and stand at the top of every printed script.
: "${FK_STATE:=/var/lib/fortress}"

# put PATH MODE OWNER [TEST]: standard input becomes PATH. TEST is bash and sees the candidate as $new.
# The old file waits in pending/ until `settle PATH`, so that a run killed before its reload does not look finished.
put() {
  local path=$1 mode=$2 owner=$3 test=${4-} new pending
  new=$(dirname "$path")/.$(basename "$path").fortress
  pending=$FK_STATE/pending/${path//\//%}
  keep "$path"
  [ -d "$(dirname "$path")" ] || install --directory --mode=755 "$(dirname "$path")"
  if ! { (umask 077 && cat > "$new") && chown "$owner" "$new" && chmod "$mode" "$new" &&
    { [ -z "$test" ] || new=$new bash -euo pipefail -c "$test"; } && sync "$new"; }; then
    rm --force "$new"
    return 1
  fi
  if [ ! -e "$pending" ]; then
    install --directory --mode=700 "$pending.part"
    if [ -e "$path" ] || [ -L "$path" ]; then cp --archive "$path" "$pending.part/old"; fi
    sync "$pending.part"
    mv --no-target-directory "$pending.part" "$pending"
  fi
  mv --force --no-target-directory "$new" "$path"
  sync "$(dirname "$path")"
}

# settle PATH: what had to follow the file has followed.
settle() { rm --recursive --force "$FK_STATE/pending/${1//\//%}" "$FK_STATE/pending/${1//\//%}.part"; }

# settled PATH: no change of PATH waits for what has to follow it.
settled() { [ ! -e "$FK_STATE/pending/${1//\//%}" ]; }

# putback PATH: the file that `put` replaced returns.
putback() {
  local pending=$FK_STATE/pending/${1//\//%}
  [ -d "$pending" ] || return 0
  if [ -e "$pending/old" ] || [ -L "$pending/old" ]; then
    mv --force --no-target-directory "$pending/old" "$1"
  else
    rm --force "$1"
  fi
  settle "$1"
}

# arrived PATH: FK_PART is the file beside PATH that was sent for it, and FK_DIGEST what the sender has proven of it; a file that
# is another is deleted. FK_SENT has a line for everything that was sent: digest, path.
arrived() {
  FK_DIGEST=$(awk -v path="$1" '{ d = $1; sub(/^[^ ]* /, "") } $0 == path { print d }' <<< "$FK_SENT")
  [ -n "$FK_DIGEST" ] || { echo "nothing was sent for $1" >&2; return 1; }
  FK_PART=$(dirname "$1")/.$(basename "$1").${FK_DIGEST:0:16}.part
  printf '%s  %s\n' "$FK_DIGEST" "$FK_PART" | sha256sum --check --status || {
    rm --force "$FK_PART"
    echo "what arrived for $1 is not what was sent; it is deleted, and sent again by the next run" >&2
    return 1
  }
}

# landed PATH SHA256 MODE OWNER: PATH has this content, and nothing is left to follow; 2 says that only mode or owner are others.
landed() {
  local is
  [[ ${FK_LANDED-} != *$'\n'"$*"$'\n'* ]] || return 0 # asked for all files at once, and nothing has changed since
  settled "$1" && [ -f "$1" ] && [ ! -L "$1" ] && printf '%s  %s\n' "$2" "$1" | sha256sum --check --status || return 1
  is=$(stat --format='%a %U:%G' "$1")
  [ "$is" = "$3 $4" ] || { printf 'mode and owner are %s, and should be %s %s\n' "$is" "$3" "$4"; return 2; }
}
export -f put settle settled putback arrived landed
export FK_STATE

# What several checks below look at.
# How a proven base image gets its name, sent by the laptop or copied by hand for a printed page.

image_no() {
  echo "$*" >&2
  return 1
}

# image_land PATH: what was sent becomes PATH.
image_land() {
  local path=$1 new
  arrived "$path" || return
  new=$FK_PART
  if [[ $path = *.raw && $(od --address-radix=n --format=x1 --read-bytes=6 "$FK_PART") = ' fd 37 7a 58 5a 00' ]]; then
    new=${FK_PART%.part}.unpacked.part
    xz --decompress --stdout "$FK_PART" > "$new"
  fi
  keep "$path"
  keep "$path.sha256"
  chown root:root "$new"
  chmod 444 "$new"
  # The record first: killed in between, the next run finds the part and goes on.
  printf '%s  %s\n# of %s\n' "$(sha256sum "$new" | cut --delimiter=' ' --fields=1)" "$(basename "$path")" "$FK_DIGEST" |
    put "$path.sha256" 444 root:root
  sync "$new"
  mv --force --no-target-directory "$new" "$path"
  sync "$(dirname "$path")"
  settle "$path.sha256"
  rm --force "$FK_PART"
}

# For printed pages, where no laptop has proven anything.
# image_signed FILE SIGNATURE KEY FINGERPRINT: by the key of this fingerprint, or a subkey that it vouches for.
image_signed() {
  local home status
  home=$(mktemp --directory "$FK_TMP/gpg.XXXXXX")
  gpg --homedir "$home" --batch --quiet --no-autostart --import "$3"
  gpg --homedir "$home" --batch --no-autostart --output "$home/pinned.gpg" --export "$4"
  # gpgv is content with a key that has expired: its status lines are asked, not its exit code.
  status=$(gpgv --status-fd=1 --weak-digest=SHA1 --keyring="$home/pinned.gpg" "$2" "$1" 2> /dev/null) || true # its words decide
  grep '^\[GNUPG:\] GOODSIG ' <<< "$status" > /dev/null && grep "^\\[GNUPG:\\] VALIDSIG .* $4\$" <<< "$status" > /dev/null &&
    ! grep --extended-regexp '^\[GNUPG:\] (BADSIG|EXPSIG|EXPKEYSIG|REVKEYSIG|ERRSIG) ' <<< "$status" > /dev/null ||
    image_no "$1 is not signed by $4"
}

export -f image_no image_land
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

# 1/3 /var/lib/fortress/images is writable by root alone
if ! { test "$(stat --format='%F %a %U:%G' /var/lib/fortress/images)" = 'directory 755 root:root'; } > /dev/null 2>&1; then
  keep /var/lib/fortress/images
  install --directory --mode=755 --owner=root --group=root /var/lib/fortress/images
fi

# 2/3 the disk of /var/lib/fortress/images has room for the base image
if ! {
  test -f /var/lib/fortress/images/flatcar-4757.2.1-amd64.img || {
    dir=/var/lib/fortress/images
    while [ ! -d "$dir" ]; do dir=$(dirname "$dir"); done
    free=$(($(df --output=avail --block-size=1048576 "$dir" | tail --lines=1)))
    echo "$free MiB are free in $dir, and needed are" 1536 && test "$free" -ge 1536
  }
} > /dev/null 2>&1; then
  echo 'the disk of /var/lib/fortress/images has room for the base image: no' >&2
  echo '  make room on the disk of /var/lib' >&2
  exit 1
fi

# 3/3 the base image Flatcar 4757.2.1 is on the host, proven by a signature
#   why: signed by the key F88CFEDEFF29A5B4D9523864E25D9AED0593B34A; nobody may write it, so that every virtual machine starts from the same bytes
#   O17 The base image is proven by a signature, and read-only [NIST SP 800-53 SI-7(15), NIST SP 800-53 CM-14]
if ! { image_is /var/lib/fortress/images/flatcar-4757.2.1-amd64.img; } > /dev/null 2>&1; then
  # in $FK_FILES: https://stable.release.flatcar-linux.net/amd64-usr/4757.2.1/flatcar_production_qemu_uefi_image.img
  #               https://stable.release.flatcar-linux.net/amd64-usr/4757.2.1/flatcar_production_qemu_uefi_image.img.sig
  #               https://www.flatcar.org/security/image-signing-key/Flatcar_Image_Signing_Key.asc
  image_signed "$FK_FILES"/flatcar_production_qemu_uefi_image.img "$FK_FILES"/flatcar_production_qemu_uefi_image.img.sig "$FK_FILES"/Flatcar_Image_Signing_Key.asc F88CFEDEFF29A5B4D9523864E25D9AED0593B34A
  digest=$(sha256sum "$FK_FILES"/flatcar_production_qemu_uefi_image.img | cut --delimiter=' ' --fields=1)
  cp "$FK_FILES"/flatcar_production_qemu_uefi_image.img /var/lib/fortress/images/.flatcar-4757.2.1-amd64.img."${digest:0:16}".part
  export FK_SENT="$digest"' /var/lib/fortress/images/flatcar-4757.2.1-amd64.img'
  image_land /var/lib/fortress/images/flatcar-4757.2.1-amd64.img
fi
