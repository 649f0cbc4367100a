#!/bin/bash
# tree.sh DIR — a plain Debian 13 as a directory tree: what nodes run from and what the VM's disk is made of.
#
# Environment
#   LAB_CONFIG    config/lab: packages.txt and root/ (files that are copied as they are)
#   LAB_SOURCES   text of apt's sources (deb822), for the build and for the guest
#   LAB_KEYS      directory with id.pub and password, both of the user admin
#   LAB_EXTRA     further packages, separated by commas
#
# DIR appears at the very end, by one rename. Runs as root, in a mount and PID namespace of its own (unshare --mount --pid
# --fork --kill-child): when it is killed, nothing stays mounted or running.
set -euo pipefail

final=$1
[ ! -d "$final" ] || exit 0
dir=$final.part
rm --recursive --force "$dir"
mkdir --parents "$dir"

packages=$(grep --invert-match --extended-regexp '^(#|$)' "$LAB_CONFIG/packages.txt" | paste --serial --delimiters=,)
eatmydata=/usr/share/mmdebstrap/hooks/eatmydata

echo 'installing Debian 13 from packages into a directory (half a minute)'
# Installing without Recommends is the builder's choice, not the guest's: its apt keeps Debian's defaults.
mmdebstrap --quiet --mode=root --format=directory --variant=apt --include="$packages${LAB_EXTRA:+,$LAB_EXTRA}" \
  --hook-dir="$eatmydata" --aptopt='APT::Install-Recommends "false"' \
  --skip=download/empty,cleanup/apt/lists,output/dev \
  --setup-hook='tar --create --directory="$LAB_CONFIG/root" --owner=0 --group=0 --mode=u=rwX,go=rX etc/dpkg etc/initramfs-tools |
    tar --extract --directory="$1" --no-overwrite-dir' \
  trixie "$dir" - <<< "$LAB_SOURCES"

echo 'adding the user admin, the network and sshd'
rm --force "$dir/etc/apt/apt.conf.d/99mmdebstrap" "$dir/etc/apt/sources.list" "$dir/etc/apt/sources.list.d/"* \
  "$dir/etc/resolv.conf"
tar --create --directory="$LAB_CONFIG/root" --owner=0 --group=0 --mode='u=rwX,go=rX' . |
  tar --extract --directory="$dir" --no-overwrite-dir
printf '%s\n' "$LAB_SOURCES" > "$dir/etc/apt/sources.list.d/debian.sources"

chroot "$dir" useradd --create-home --shell /bin/bash --groups sudo,users --comment 'Lab admin' admin
# By Debian's yescrypt at its lowest cost: at the usual one each sudo takes a second longer under emulation. On standard
# input, because an argument can be read in /proc.
{ printf 'admin:'; cat "$LAB_KEYS/password"; } | chroot "$dir" chpasswd --crypt-method YESCRYPT --sha-rounds 1
install --directory --mode=700 "$dir/home/admin/.ssh"
install --mode=600 "$LAB_KEYS/id.pub" "$dir/home/admin/.ssh/authorized_keys"
chroot "$dir" chown --recursive admin:admin /home/admin/.ssh

echo lab > "$dir/etc/hostname"
printf '127.0.0.1\tlocalhost\n127.0.1.1\tlab\n' > "$dir/etc/hosts"
systemctl --quiet --root="$dir" enable systemd-networkd.service
# The outside network of a lab may have nothing at its other end: no boot waits for it.
systemctl --quiet --root="$dir" disable systemd-networkd-wait-online.service
# An empty machine-id would mean "first boot", which enables and disables units by preset once more.
rm --force "$dir/etc/machine-id"
tr --delete - < /proc/sys/kernel/random/uuid > "$dir/etc/machine-id"
chmod 444 "$dir/etc/machine-id"
# The linker's cache, the journal's catalog and the like are fresh: the first boot need not make them again.
touch "$dir/etc/.updated" "$dir/var/.updated"

mv --no-target-directory "$dir" "$final"
