# shellcheck shell=bash
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
