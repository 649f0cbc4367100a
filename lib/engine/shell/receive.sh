# shellcheck shell=bash
# A file that the laptop has uploaded gets its name. A page that uploads lists this file before the shell files of its layer.

# receive PATH MODE: what was uploaded for PATH becomes PATH, root's own, whole or not at all. It fails when it is not what the
# laptop has proven: then it is deleted, and uploaded again by the next run.
receive() {
  arrived "$1" || return
  keep "$1"
  chown root:root "$FK_PART"
  chmod "$2" "$FK_PART"
  sync "$FK_PART"
  mv --force --no-target-directory "$FK_PART" "$1"
  sync "$(dirname "$1")"
}
export -f receive
