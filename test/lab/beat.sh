#!/bin/bash
# beat.sh TREE DISK_SCRIPT DIR: DIR/vmlinuz and DIR/initrd, a virtual machine that is nothing but a heart: each second it tells the
# address and port in its kernel's line beat=ADDRESS:PORT which start of it this is. It shuts down when its power button is pressed.
set -euo pipefail
tree=$1 dir=$3
root=$dir/root
mkdir --parents "$root"/{bin,modules,proc,sys,dev,var/log,var/run,etc/acpi/PWRF}
cp "$(command -v busybox)" "$root/bin/busybox"
kernel=$(basename "$tree"/boot/vmlinuz-*)
cp "$tree/boot/$kernel" "$dir/vmlinuz"
for module in net/core/failover drivers/net/net_failover drivers/net/virtio_net drivers/acpi/button drivers/input/evdev; do
  xz --decompress --stdout "$tree/lib/modules/${kernel#vmlinuz-}/kernel/$module.ko.xz" > "$root/modules/$(basename "$module").ko"
done
printf '#!/bin/busybox sh\nbusybox poweroff -f\n' > "$root/etc/acpi/PWRF/00000080"
cat > "$root/init" << 'INIT'
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
for module in failover net_failover virtio_net button evdev; do insmod "/modules/$module.ko"; done
acpid
ip link set eth0 up
ip address add 10.77.0.2/24 dev eth0
ip route add default via 10.77.0.1
to=$(sed 's/.*beat=\([^ ]*\).*/\1/' /proc/cmdline)
while :; do
  nc -w 5 "${to%:*}" "${to#*:}" < /proc/sys/kernel/random/boot_id
  sleep 1
done
INIT
chmod 755 "$root/init" "$root/etc/acpi/PWRF/00000080"
(cd "$root" && find . | busybox cpio -o -H newc 2> /dev/null | gzip --fast) > "$dir/initrd"
rm --recursive "$root"
