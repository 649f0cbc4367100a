#!/bin/bash
# ciliumbase.sh DIR — of Debian 13, the programs that Cilium's agent runs, as a directory tree: clang for its BPF, iptables, ipset, a shell.
#
# Environment
#   LAB_SOURCES   text of apt's sources (deb822)
#
# All packages with what they depend on are 500 MB; the programs below with their libraries are half of it, and every node of the tests
# imports them. DIR appears at the very end, by one rename. Runs as root.
set -euo pipefail

final=$1
packages=bash,bpftool,clang-19,coreutils,dash,findutils,grep,ipset,iproute2,iptables,kmod,mount,sed,util-linux
programs='bash sh cat chmod cp date dirname basename echo env find grep head id ip ipset kmod ln ls mkdir mount mountpoint mv nsenter
  readlink rm rmdir sed sleep tail tc test touch true umount uname bpftool clang-19
  xtables-nft-multi xtables-legacy-multi iptables-nft iptables-legacy'
plugins='/usr/lib/x86_64-linux-gnu/xtables'

all=$final.all part=$final.part
trap 'rm --recursive --force "$all" "$part"' EXIT
rm --recursive --force "$all" "$part"
mkdir --parents "$part"

# Unpacked and never configured: nothing of it has to be a system that runs.
mmdebstrap --quiet --mode=root --format=directory --variant=extract --include="$packages" \
  --aptopt='APT::Install-Recommends "false"' trixie "$all" - <<< "$LAB_SOURCES"

# Everything on the way to a file, links first; asked inside, because a link's target counts from there.
chroot "$all" bash -euo pipefail -c '
  way() {
    local at target
    at=$(realpath "$(dirname "$1")")/$(basename "$1")
    echo "$at"
    if [ -L "$at" ]; then
      target=$(readlink "$at")
      case $target in /*) way "$target" ;; *) way "$(dirname "$at")/$target" ;; esac
    fi
  }
  for link in /bin /lib /lib64 /sbin; do echo "$link"; done
  for program in $1; do
    file=$(PATH=/usr/bin:/usr/sbin type -P "$program")
    way "$file"
    /lib64/ld-linux-x86-64.so.2 --list "$file" | grep --only-matching "/[^ ]*" | while read -r library; do way "$library"; done
  done
  find $2
' - "$programs" "$plugins" | sort --unique | sed 's#^/#./#' |
  tar --create --no-recursion --directory="$all" --files-from=- |
  tar --extract --directory="$part"

# What the packages' own scripts would have done.
for program in iptables ip6tables; do
  for word in '' -save -restore; do ln --symbolic xtables-nft-multi "$part/usr/sbin/$program$word"; done
done
mkdir --parents "$part"/{etc,proc,root,run,sys,tmp,var}
ln --symbolic ../run "$part/var/run"
chmod 1777 "$part/tmp"
echo 'root:x:0:0:root:/root:/bin/bash' > "$part/etc/passwd"
echo 'root:x:0:' > "$part/etc/group"

mv --no-target-directory "$part" "$final"
