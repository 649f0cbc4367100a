#!/bin/bash
# disk.sh TREE DIR — a bootable disk made of a Debian tree: DIR/disk (GPT: EFI system partition and ext4 root) and the public
# host keys of the machine that will boot from it, DIR/host_keys.
#
# The boot chain is the one Debian's installer leaves: firmware, signed shim, signed GRUB, GRUB's own menu file, kernel.
# Nothing is mounted but an overlay, in a mount namespace of its own; no loop device is needed.
set -euo pipefail

tree=$1 dir=$2
work=$dir/work
disk_mib=6144 esp_mib=64
root_uuid=$(cat /proc/sys/kernel/random/uuid)
esp_id=$(head --bytes=4 /dev/urandom | od --address-radix=n --format=x4 | tr --delete ' ' | tr a-f A-F)

mkdir --parents "$work/upper" "$work/overlay" "$work/root"
mount -t overlay -o "lowerdir=$tree,upperdir=$work/upper,workdir=$work/overlay" disk "$work/root"
root=$work/root
kernel=$(basename "$root"/boot/vmlinuz-*)

cat > "$root/etc/fstab" <<END
UUID=$root_uuid / ext4 errors=remount-ro 0 1
UUID=${esp_id:0:4}-${esp_id:4} /boot/efi vfat umask=0077 0 1
END
mkdir --parents "$root/boot/efi" "$root/boot/grub/fonts"
cp --recursive "$root/usr/lib/grub/x86_64-efi" "$root/boot/grub/"
cp "$root/usr/share/grub/unicode.pf2" "$root/boot/grub/fonts/"
# For the very first boot; then the guest's own update-grub writes it.
cat > "$root/boot/grub/grub.cfg" <<END
search --no-floppy --fs-uuid --set=root $root_uuid
linux /boot/$kernel root=UUID=$root_uuid ro console=ttyS0 quiet
initrd /boot/initrd.img-${kernel#vmlinuz-}
boot
END
for key in "$root"/etc/ssh/ssh_host_*_key.pub; do cut --delimiter=' ' --fields=1,2 "$key"; done > "$dir/host_keys"

truncate --size=${disk_mib}M "$dir/disk"
sfdisk --quiet "$dir/disk" <<END
label: gpt
start=1MiB, size=${esp_mib}MiB, type=uefi, name=EFI
type=linux, name=root
END
# The last MiB holds the second copy of the partition table.
mke2fs -q -t ext4 -L root -U "$root_uuid" -E "offset=$(((1 + esp_mib) * 1024 * 1024)),lazy_itable_init=1,root_owner=0:0" \
  -d "$root" "$dir/disk" $((disk_mib - esp_mib - 2))M

cat > "$work/grub.cfg" <<END
search.fs_uuid $root_uuid root
set prefix=(\$root)'/boot/grub'
configfile \$prefix/grub.cfg
END
truncate --size=${esp_mib}M "$work/esp"
mkfs.vfat -F 32 -n ESP -i "$esp_id" "$work/esp" > /dev/null
mmd -i "$work/esp" ::EFI ::EFI/BOOT ::EFI/debian
shim=$root/usr/lib/shim grub=$root/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed
mcopy -i "$work/esp" "$shim/shimx64.efi.signed" ::EFI/BOOT/BOOTX64.EFI
mcopy -i "$work/esp" "$shim/fbx64.efi.signed" ::EFI/BOOT/fbx64.efi
mcopy -i "$work/esp" "$shim/shimx64.efi.signed" ::EFI/debian/shimx64.efi
mcopy -i "$work/esp" "$shim/mmx64.efi.signed" ::EFI/debian/mmx64.efi
mcopy -i "$work/esp" "$shim/BOOTX64.CSV" ::EFI/debian/BOOTX64.CSV
mcopy -i "$work/esp" "$grub" ::EFI/debian/grubx64.efi
mcopy -i "$work/esp" "$work/grub.cfg" ::EFI/debian/grub.cfg

dd if="$work/esp" of="$dir/disk" bs=1M seek=1 conv=notrunc,sparse status=none

umount "$root"
rm --recursive --force "$work"
