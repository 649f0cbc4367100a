#!/bin/sh
# Sets the mount options of directories (nodev, nosuid, noexec). A directory that is no mount is bind-mounted onto itself: that
# gives it options, not space of its own. `fortress-mounts stop` removes them.
set -eu
ours=/run/fortress-mounts

# options DIRECTORY OPTIONS: only the flags of this mount change, nothing below it.
options() {
  [ -d "$1" ] && [ ! -L "$1" ] || return 0
  if ! mountpoint --quiet "$1"; then
    mount --rbind "$1" "$1"
    # A peer group of its own: mounts below must not appear a second time below the hidden original.
    mount --make-private "$1"
    mount --make-shared "$1"
    echo "$1" >> "$ours"
  fi
  mount --options "remount,bind,$2" "$1"
}

# present DIRECTORY OPTIONS: only where it is a mount already.
present() { if mountpoint --quiet "$1"; then mount --options "remount,bind,$2" "$1"; fi; }

if [ "${1-}" = stop ]; then
  # At a shutdown systemd unmounts in its own order.
  [ "$(systemctl is-system-running)" != stopping ] || exit 0
  [ ! -e "$ours" ] || tac "$ours" | while IFS= read -r directory; do umount --lazy "$directory"; done
  mount --options remount,bind,nodev,nosuid,exec /dev/shm
  rm -f "$ours"
  exit 0
fi

options /var nodev,nosuid
options /var/tmp nodev,nosuid,noexec
options /var/log nodev,nosuid,noexec
options /var/log/audit nodev,nosuid,noexec
options /home nodev,nosuid
options /dev/shm nodev,nosuid,noexec
present /boot nodev,nosuid,noexec
present /boot/efi nodev,nosuid,noexec
present /boot/firmware nodev,nosuid,noexec
