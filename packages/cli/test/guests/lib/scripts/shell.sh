#!/bin/sh
# In the initrd: loads the drivers and reads commands from the console, which does not echo.
export PATH=/bin:/sbin HOME=/tmp
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
modprobe -a virtio_pci virtio_mmio virtio_blk virtio_rng virtio_net
# The kernel said how it came up; from now on only what is bad, for tests read what commands say.
dmesg -n 3
stty -echo
echo "<shell is up>"
exec sh
