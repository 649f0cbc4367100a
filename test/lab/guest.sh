#!/bin/bash
# guest.sh TREE DISK_SCRIPT DIR: DIR/guest.qcow2, a Debian that does on its first boot what Flatcar does: the real Ignition reads
# its configuration from the firmware (fw_cfg), applies it before anything else runs, and a fault in it ends the machine.
set -euo pipefail
tree=$1 script=$2 dir=$3

mkdir --parents "$dir/upper" "$dir/work" "$dir/tree"
mount -t overlay -o "lowerdir=$tree,upperdir=$dir/upper,workdir=$dir/work" guest "$dir/tree"
rm "$dir/tree/usr/sbin/init"
cat > "$dir/tree/usr/sbin/init" << 'INIT'
#!/bin/bash
export PATH=/usr/sbin:/usr/bin
config=/sys/firmware/qemu_fw_cfg/by_name/opt/org.flatcar-linux/config/raw
exec > /dev/kmsg 2>&1
if [ ! -e /etc/.ignition-result.json ]; then
  mount -o remount,rw /
  modprobe --all qemu_fw_cfg virtio_net af_packet
  # Debian's build relabels for SELinux, whether there is any or not.
  mkdir --parents /etc/selinux/stub/contexts/files
  echo SELINUXTYPE=stub > /etc/selinux/config
  : > /etc/selinux/stub/contexts/files/file_contexts
  [ -e /usr/sbin/setfiles ] || { printf '#!/bin/sh\nexit 0\n' > /usr/sbin/setfiles && chmod 755 /usr/sbin/setfiles; }
  cat "$config" > /run/config.ign
  # As in Flatcar's own first boot: the network comes by DHCP, for as long as Ignition fetches.
  ip link set eth0 up
  busybox udhcpc -i eth0 -n -q -t 20 || echo 'ignition: no network'
  for stage in fetch disks mount files; do
    if ! IGNITION_CONFIG_FILE=/run/config.ign /usr/lib/dracut/modules.d/30ignition/ignition -platform=file \
      -stage="$stage" -root=/ -log-to-stdout > "/run/ignition-$stage.log" 2>&1; then
      echo "ignition: the stage $stage failed"
      tail --lines=5 "/run/ignition-$stage.log"
      echo o > /proc/sysrq-trigger
      sleep 60
    fi
    echo "ignition: $stage done"
  done
  ip address flush dev eth0
  ip link set eth0 down
  # A preset counts on a machine that has no id yet; this one has.
  sed --quiet 's/^enable //p' /etc/systemd/system-preset/20-ignition.preset |
    while read -r unit; do systemctl enable "$unit"; done
  rm --recursive --force /etc/selinux
  [ -e /etc/.ignition-result.json ] || echo "ignition: it left no report"
  sync
fi
exec /usr/lib/systemd/systemd "$@" > /dev/console 2>&1
INIT
chmod 755 "$dir/tree/usr/sbin/init"
# As on Flatcar.
echo 'core ALL=(ALL) NOPASSWD: ALL' > "$dir/tree/etc/sudoers.d/core"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -subj /CN=laptop \
  -addext subjectAltName=IP:10.78.0.1 -keyout "$dir/tls.key" -out "$dir/tls.crt" 2> /dev/null
mkdir --parents "$dir/tree/etc/ssl/certs"
cat "$dir/tls.crt" >> "$dir/tree/etc/ssl/certs/ca-certificates.crt"
bash "$script" "$dir/tree" "$dir"
umount "$dir/tree"
qemu-img convert -f raw -c -O qcow2 "$dir/disk" "$dir/guest.part"
mv "$dir/guest.part" "$dir/guest.qcow2"
rm --recursive --force "$dir/upper" "$dir/work" "$dir/tree" "$dir/disk"
