#!/bin/busybox sh
# The first process of the system on the disk: a shell that reads commands from the console, which does not echo.
/bin/busybox --install -s /bin
export PATH=/bin:/sbin HOME=/tmp
mount -t tmpfs tmp /tmp
cd /tmp || exit
# The kernel said how it came up; from now on only what is bad, for tests read what commands say.
dmesg -n 3
stty -echo
echo "<root is up>"
exec sh
