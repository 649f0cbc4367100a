#!/bin/sh
# runsc of the node tier: Debian's, which is two years older than the release that is pinned, and not made for kernels from 6.11
# on. It is started by the shim of runc, so what gVisor's own would do is done here: the flags of runsc.toml, and a `start` that
# ends though a process of the sandbox keeps what it was given for its output. By that the logs of a container are lost.
here=$(dirname "$(readlink -f "$0")")
case $1 in --version) exec cat "$here/gvisor-bin/version" ;; esac

flags=$(sed -n "s/^  \([a-z-]*\) = '\(.*\)'$/--\1=\2/p" /etc/containerd/runsc.toml)
# The kubelet of a node of the lab names groups in this way only where this computer has cgroup v2.
[ "$(stat --file-system --format=%T /sys/fs/cgroup)" = cgroup2fs ] ||
  flags=$(echo "$flags" | grep --invert-match '^--systemd-cgroup')
for word in "$@"; do
  # shellcheck disable=SC2086 # one word for each
  case $word in start) exec "$here/gvisor-bin/runsc" $flags "$@" > /run/runsc.start 2>&1 ;; esac
done
# shellcheck disable=SC2086
exec "$here/gvisor-bin/runsc" $flags "$@"
