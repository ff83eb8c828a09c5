#!/bin/sh
# The first process of a guest that lives in its initrd: drivers, and a shell on the console, which does not echo. What is on the
# disks is up to the tests.
export PATH=/bin:/sbin HOME=/tmp
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/shm /tools
mount -t tmpfs tmp /tmp
mount -t tmpfs shm /dev/shm
modprobe -a virtio_pci virtio_mmio virtio_blk virtio_rng virtio_net crc32c_generic ext4 af_packet
ip link set lo up
cd /tmp || exit
# The kernel said how it came up; from now on only what is bad, for tests read what commands say.
dmesg -n 3
stty -echo
echo "<guest is up>"
sh
poweroff -f
