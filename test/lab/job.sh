#!/bin/bash
# job.sh TREE DISK_SCRIPT DIR: DIR/job.qcow2, a Debian that starts by the real boot chain and is off again when it has done its job:
# the bash at the beginning of the disk fk-spare, as the one process of the machine. What that prints is on the console.
set -euo pipefail
tree=$1 script=$2 dir=$3

mkdir --parents "$dir/upper" "$dir/work" "$dir/tree"
mount -t overlay -o "lowerdir=$tree,upperdir=$dir/upper,workdir=$dir/work" job "$dir/tree"
rm "$dir/tree/usr/sbin/init"
cat > "$dir/tree/usr/sbin/init" << 'INIT'
#!/bin/bash
export PATH=/usr/local/sbin:/usr/sbin:/usr/bin HOME=/root LC_ALL=C.UTF-8
exec < /dev/null > /dev/console 2>&1
mount -o remount,rw /
mount -t efivarfs efivarfs /sys/firmware/efi/efivars
head --bytes=1M /dev/disk/by-id/virtio-fk-spare | tr --delete '\0' > /run/job
bash /run/job
echo "job: ended with $?"
sync
# The kernel tells the TPM2 that it ends: without that it would count a try to guess.
systemctl poweroff --force --force
sleep infinity
INIT
chmod 755 "$dir/tree/usr/sbin/init"
bash "$script" "$dir/tree" "$dir"
umount "$dir/tree"
qemu-img convert -f raw -O qcow2 "$dir/disk" "$dir/job.qcow2"
rm --recursive --force "$dir/upper" "$dir/work" "$dir/tree" "$dir/disk"
