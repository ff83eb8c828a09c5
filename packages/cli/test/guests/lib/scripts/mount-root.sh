#!/bin/sh
# In the initrd: loads the drivers and goes on in the file system of /dev/vda.
export PATH=/bin:/sbin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
modprobe -a virtio_pci virtio_mmio virtio_blk virtio_rng virtio_net crc32c_generic ext4
tries=0
until [ -b /dev/vda ]; do
	tries=$((tries + 1))
	[ $tries -gt 300 ] && echo "no /dev/vda" && poweroff -f
	usleep 100000
done
mount -t ext4 /dev/vda /newroot || poweroff -f
for folder in proc sys dev; do mount -o move /$folder /newroot/$folder; done
exec switch_root /newroot /sbin/init
