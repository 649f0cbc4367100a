# shellcheck shell=bash
# The base images of nodes: what is asked of them, and how one gets its name.

image_no() {
  echo "$*" >&2
  return 1
}

# image_is PATH [DIGEST]: the image is there as it was when it was proven, and nobody may write it. DIGEST is that of the
# download, where the pin says it. The whole of it is read in every run.
image_is() {
  local path=$1 dir mark
  dir=$(dirname "$path")
  { [ -f "$path" ] && [ ! -L "$path" ]; } || image_no "$path is not there" || return
  [ "$(stat --format='%a %U:%G' "$path")" = '444 root:root' ] || image_no "$path can be changed: $(stat --format='%a %U:%G' "$path")" || return
  [ "$(stat --format='%a %U:%G' "$dir")" = '755 root:root' ] || image_no "$dir can be changed: $(stat --format='%a %U:%G' "$dir")" || return
  [ -f "$path.sha256" ] || image_no "$path.sha256 is not there, so nothing tells what was proven" || return
  [ -z "${2-}" ] || grep --line-regexp --fixed-strings "# of $2" "$path.sha256" > /dev/null || image_no "$path is not made of what is pinned now" || return
  # Step and control ask one after the other: what nobody has touched since is read once.
  mark=$FK_TMP/image.$(stat --format=%i.%s.%.9Z "$path" "$path.sha256" | paste --serial --delimiters=.)
  [ -e "$mark" ] || (cd "$dir" && sha256sum --check --status "$path.sha256") || image_no "$path is not what it was when it was proven" || return
  touch "$mark"
}

# image_room PATH MIB: it is there, or there is room for it.
image_room() {
  local dir=$1 free
  [ ! -f "$1" ] || return 0
  while [ ! -d "$dir" ]; do dir=$(dirname "$dir"); done
  free=$(($(df --output=avail --block-size=1048576 "$dir" | tail --lines=1)))
  echo "$free MiB are free in $dir, $2 are needed"
  [ "$free" -ge "$2" ]
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

export -f image_no image_is image_room image_land
