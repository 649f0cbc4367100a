# shellcheck shell=bash
# How a proven base image gets its name, sent by the laptop or copied by hand for a printed page.

image_no() {
  echo "$*" >&2
  return 1
}

# image_land PATH: what was sent becomes PATH.
image_land() {
  local path=$1 new
  received "$path" || return
  new=$FK_PART
  if [[ $path = *.raw && $(od --address-radix=n --format=x1 --read-bytes=6 "$FK_PART") = ' fd 37 7a 58 5a 00' ]]; then
    new=${FK_PART%.part}.unpacked.part
    xz --decompress --stdout "$FK_PART" > "$new"
  fi
  record_before "$path"
  record_before "$path.sha256"
  chown root:root "$new"
  chmod 444 "$new"
  # The record first: killed in between, the next run finds the part and goes on.
  printf '%s  %s\n# of %s\n' "$(sha256sum "$new" | cut --delimiter=' ' --fields=1)" "$(basename "$path")" "$FK_DIGEST" |
    put "$path.sha256" 444 root:root
  sync "$new"
  mv --force --no-target-directory "$new" "$path"
  sync "$(dirname "$path")"
  put_finish "$path.sha256"
  rm --force "$FK_PART"
}

export -f image_no image_land
