#!/bin/sh
# lab-node COMMAND...: runs it where a container of the lab looks to a kubelet as a machine does.
#
# That is one mount namespace for all starts of the unit, so that a kubelet finds the volumes that the one before it has mounted.
# Mounts of the node are seen in it, its own are not seen outside.
set -e
export PATH="/opt/bin:/opt/lab:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:$PATH"
home=/run/lab-node

# The controllers of cgroup v1, where this computer has those: a group of the node's own each, made by lib/lab/node.sh.
hierarchies() { sed -n 's/^[0-9]*:\([^:]\{1,\}\):.*/\1/p' /proc/self/cgroup; }

# What a kubelet wants the kernel to be (protect-kernel-defaults), and a container may not change: read as it wants it.
look() {
  [ "$(cat "/proc/sys/$1")" != "$2" ] || return 0
  file=$home/$(echo "$1" | tr / .)
  echo "$2" > "$file"
  mount --bind "$file" "/proc/sys/$1"
}

prepare() {
  if [ -n "$(hierarchies)" ]; then
    umount --lazy /sys/fs/cgroup
    mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
    for names in $(hierarchies); do
      mkdir "/sys/fs/cgroup/${names#name=}"
      case $names in name=*) options=none,$names ;; *) options=$names ;; esac
      mount -t cgroup -o "$options" cgroup "/sys/fs/cgroup/${names#name=}"
    done
  fi
  look kernel/panic 10
  look kernel/panic_on_oops 1
  look vm/overcommit_memory 1
  look vm/panic_on_oom 0
  look kernel/keys/root_maxkeys 1000000
  look kernel/keys/root_maxbytes 25000000
  # Volumes may be mounted into containers so that later mounts below them are seen.
  mount --make-rshared /
}

case $1 in
  --prepare) prepare ;;
  --enter)
    shift
    for names in $(hierarchies); do echo $$ > "/sys/fs/cgroup/${names#name=}/cgroup.procs"; done
    exec "$@"
    ;;
  *)
    if [ ! -e $home/ready ]; then
      # systemd mounts it on a machine, and in a container leaves it alone.
      if ! mountpoint --quiet /sys/fs/bpf; then
        mount -o remount,rw /sys
        mkdir --parents /sys/fs/bpf
        mount -o remount,ro /sys
        mount -t bpf bpf /sys/fs/bpf
      fi
      mkdir --parents $home
      mount --bind $home $home
      mount --make-private $home
      : > $home/mounts
      # From Linux 6.18 on each processor numbers namespaces from a supply of its own, and one is bound only where its number is
      # higher than that of the present one: on the processor that made this one, if on no other.
      bound=''
      for cpu in $(seq 0 $(($(nproc --all) - 1))); do
        [ -n "$bound" ] ||
          ! taskset --cpu-list "$cpu" unshare --mount=$home/mounts --propagation slave "$0" --prepare || bound=yes
      done
      [ -n "$bound" ]
      : > $home/ready
    fi
    exec nsenter --mount=$home/mounts "$0" --enter "$@"
    ;;
esac
