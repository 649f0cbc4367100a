#!/bin/bash
# node.sh up   NAME DIR TREE [net] [pods STATE [SOURCE:PLACE...]]   a systemd and sshd node on a throw-away copy of TREE
# node.sh down NAME DIR                                             end it and leave nothing
#
# A node is a systemd-nspawn container in a network namespace of its own, fk-NAME, with the address 10.78.N.2 on the
# bridge fk-lab in the main namespace (10.78.0.1): the caller reaches every node and the nodes reach each other.
# DIR (one per node) holds its overlay in memory, its log and its state; `up` prints the address.
# Host keys are made here, before the node's first start, so that its very first connection can be pinned.
#
# With `pods` it may run containers: what they need lies in STATE (a directory on a disk: an overlay cannot lie on an
# overlay), every capability of this computer's root is the node's, and SOURCE is seen there at PLACE, read-only.
set -euo pipefail

action=$1 name=$2 dir=$3
bridge=fk-lab
lock=/run/lock/fk-lab

# Everything that belongs to a node runs in a cgroup of its own, fk-NAME: two systemds in one cgroup would end each
# other's services, and ending the cgroup ends the node and nothing else. Beside cgroup v1 systemd has a second tree.
cgroups=()
while read -r root; do
  cgroups+=("$root/fk-$name")
done < <(findmnt --noheadings --types cgroup2 --output TARGET | head --lines=1)
[ ! -d /sys/fs/cgroup/systemd ] || cgroups+=("/sys/fs/cgroup/systemd/fk-$name")
# Where controllers are of cgroup v1, containers need them one by one: a node for pods has a group of its own in each, in
# which its cgroup namespace begins. They are below the caller's groups, whose limits hold for the node as well.
controllers=()
if [ -s "$dir/controllers" ]; then mapfile -t controllers < "$dir/controllers"; fi

find_controllers() {
  local names path root
  while IFS=: read -r _ names path; do
    root=/sys/fs/cgroup/$names
    if [ -n "$names" ] && [ "${names#name=}" = "$names" ] && [ -d "$root" ]; then controllers+=("${root}${path%/}/fk-$name"); fi
  done < /proc/self/cgroup
  [ ${#controllers[@]} -eq 0 ] || printf '%s\n' "${controllers[@]}" > "$dir/controllers"
}

enter_controllers() {
  local group file
  for group in "${controllers[@]}"; do
    mkdir --parents "$group"
    for file in cpuset.cpus cpuset.mems; do
      [ ! -e "$group/$file" ] || cat "$group/../$file" > "$group/$file"
    done
    echo $BASHPID > "$group/cgroup.procs"
  done
}

enter() { # the calling shell joins the node's cgroup, or one below it
  local group
  for group in "${cgroups[@]/%/${1:-}}"; do
    mkdir --parents "$group"
    echo $BASHPID > "$group/cgroup.procs"
  done
}

again() { # seconds, what; then a command that is tried until it succeeds
  local tries=$(($1 * 50)) what=$2
  shift 2
  until "$@" 2> /dev/null; do
    tries=$((tries - 1))
    [ $tries -gt 0 ] || { echo "node $name: $what" >&2; return 1; }
    sleep 0.02
  done
}

empty() { # a cgroup that is gone or has no process below it
  [ ! -d "$1" ] || find "$1" -depth -type d -exec rmdir {} +
}

unmounted() { ! mountpoint --quiet "$1" || umount "$1"; }

down() {
  local group
  # Nothing in a node is worth a clean shutdown.
  [ ! -e "${cgroups[0]}/cgroup.kill" ] || echo 1 > "${cgroups[0]}/cgroup.kill"
  for group in "${cgroups[@]}" "${controllers[@]}"; do again 10 "its processes do not end ($group)" empty "$group"; done

  exec 9> "$lock"
  flock 9
  if [ -s "$dir/number" ] && [ -e "/sys/class/net/fk-$(cat "$dir/number")" ]; then
    ip link delete "fk-$(cat "$dir/number")"
  fi
  [ ! -e "/run/netns/fk-$name" ] || ip netns delete "fk-$name"
  # The bridge goes with the last node.
  if [ -e "/sys/class/net/$bridge" ] && [ -z "$(ls "/sys/class/net/$bridge/brif")" ]; then ip link delete "$bridge"; fi
  exec 9>&-

  # What nspawn would have put away itself.
  [ ! -d "/run/systemd/nspawn/propagate/fk-$name" ] || rmdir "/run/systemd/nspawn/propagate/fk-$name"
  again 10 "$dir/root stays mounted" unmounted "$dir/root"
  again 10 "$dir/memory stays mounted" unmounted "$dir/memory"
  if [ -s "$dir/state" ]; then rm --recursive --force "$(cat "$dir/state")"; fi
  rm --recursive --force "$dir"
}

greets() { (exec 3<> "/dev/tcp/$1/22" && read -r -t 2 line <&3 && [ "${line#SSH-}" != "$line" ]); }

ready() { # or the container has ended: then there is nothing to wait for
  greets "$1" || ! kill -0 "$2"
}

boot() {
  # The first variable gives the node a cgroup2 tree beside a machine that still runs cgroup v1; the second lets it
  # write its own net.* sysctls and no others. What a container cannot run is masked by arguments of its init, so
  # that no file of the tree differs from the VM's.
  export SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 SYSTEMD_NSPAWN_API_VFS_WRITABLE=network SYSTEMD_NSPAWN_LOCK=0
  local room=(--capability=CAP_NET_ADMIN --system-call-filter=@keyring --tmpfs=/var/lib/containerd) bind
  if [ -n "$state" ]; then
    enter_controllers
    # The kubelet reads from /dev/kmsg which container the kernel has ended; Cilium loads programs into the kernel.
    room=(--capability=all --system-call-filter='@keyring bpf perf_event_open' --bind=/dev/kmsg
      --bind="$state/rancher:/var/lib/rancher" --bind="$state/kubelet:/var/lib/kubelet")
    for bind in "${binds[@]}"; do room+=(--bind-ro="$bind"); done
  fi
  exec setsid systemd-nspawn --quiet --directory="$dir/root" --machine="fk-$name" --hostname="$name" --boot \
    --register=no --keep-unit --link-journal=no --resolv-conf=off --timezone=off --console=read-only \
    --network-namespace-path="/run/netns/fk-$name" "${room[@]}" -- \
    systemd.mask=systemd-networkd.service systemd.mask=systemd-networkd.socket systemd.mask=systemd-udevd.service \
    systemd.mask=systemd-timesyncd.service systemd.mask=console-getty.service
}

up() {
  local tree=$1 net='' state='' binds=() number=1 address kind pid group
  shift
  if [ "${1:-}" = net ]; then net=net; shift; fi
  if [ "${1:-}" = pods ]; then
    state=$2 binds=("${@:3}")
    echo "$state" > "$dir/state"
    mkdir --parents "$state/rancher" "$state/kubelet"
    find_controllers
  fi
  mkdir --parents "$dir/memory" "$dir/root"
  mount -t tmpfs -o size=2G,mode=755 "fk-$name" "$dir/memory"
  mkdir "$dir/memory/upper" "$dir/memory/work"
  mount -t overlay -o "lowerdir=$tree,upperdir=$dir/memory/upper,workdir=$dir/memory/work" "fk-$name" "$dir/root"

  echo "$name" > "$dir/root/etc/hostname"
  printf '127.0.0.1\tlocalhost\n127.0.1.1\t%s\n' "$name" > "$dir/root/etc/hosts"
  rm --force "$dir/root/etc/machine-id"
  tr --delete - < /proc/sys/kernel/random/uuid > "$dir/root/etc/machine-id"
  for kind in ed25519 ecdsa; do
    rm --force "$dir/root/etc/ssh/ssh_host_${kind}_key"
    ssh-keygen -q -t "$kind" -N '' -C "root@$name" -f "$dir/root/etc/ssh/ssh_host_${kind}_key"
  done

  ip netns add "fk-$name"
  # Numbers are given out one at a time.
  exec 9> "$lock"
  flock 9
  if [ ! -e "/sys/class/net/$bridge" ]; then
    ip -batch - <<END
link add $bridge type bridge forward_delay 0
address add 10.78.0.1/16 dev $bridge
link set $bridge up
END
  fi
  while [ -e "/sys/class/net/fk-$number" ]; do number=$((number + 1)); done
  [ $number -lt 255 ] || { echo "254 nodes are up: end some first" >&2; return 1; }
  echo $number > "$dir/number"
  # A fixed hardware address per number: who has the last node of this number in a cache need not resolve it again.
  ip -batch - <<END
link add fk-$number type veth peer name host0 address 02:00:0a:4e:00:$(printf %02x $number) netns fk-$name
link set fk-$number master $bridge up
END
  # All nodes and this computer share root's one count of inotify instances. A hardened node that runs k3s has some thirty,
  # and systemd ends units for good for which none is left.
  local instances=/proc/sys/fs/inotify/max_user_instances
  [ "$(cat "$instances")" -ge 1024 ] || echo 1024 2> /dev/null > "$instances" || echo "$instances stays low" >&2
  exec 9>&-
  address=10.78.$number.2
  ip -netns "fk-$name" -batch - <<END
link set lo up
address add $address/16 dev host0
link set host0 up
${state:+route add default via 10.78.0.1}
END
  for kind in ed25519 ecdsa rsa; do
    echo "$address $(cut --delimiter=' ' --fields=1,2 "$dir/root/etc/ssh/ssh_host_${kind}_key.pub")"
  done > "$dir/known_hosts"

  if [ "$net" = net ]; then
    (
      enter /network
      exec setsid slirp4netns --configure --mtu=1500 --disable-host-loopback --netns-type=path "/run/netns/fk-$name" tap0
    ) < /dev/null > "$dir/slirp.log" 2>&1 &
  fi

  (
    enter /keeper
    # nspawn says 133 when the node wants to boot again.
    status=133
    while [ $status -eq 133 ]; do
      status=0
      (enter && boot) || status=$?
      # A machine that boots anew has no groups of containers from before: a kubelet looks at each for seconds.
      for group in "${controllers[@]}"; do again 10 "its containers do not end ($group)" empty "$group" || break; done
    done
  ) < /dev/null > "$dir/nspawn.log" 2>&1 &
  pid=$!

  # A connection that is only greeted earns no penalty here: the lab's address is exempt (99-lab.conf).
  again 30 'no greeting from sshd after 30 s' ready "$address" "$pid"
  kill -0 "$pid" 2> /dev/null || { echo "node $name did not start: $(tail --lines=5 "$dir/nspawn.log")" >&2; return 1; }
  echo "$address"
}

case $action in
  up) up "${@:4}" ;;
  down) down ;;
esac
