import { row } from "../options/help.ts";

/** What `virtio qemu --help` shows. */
export const qemuHelp: string = `Usage: virtio qemu [OPTION]… QEMU ARGUMENT…

Runs QEMU (qemu-system-…) with its arguments, and with VIRTIO devices of this project where it has its own: each
-device virtio-blk-…, -drive if=virtio, -device virtio-net-… and -device virtio-rng-… that vhost-user can carry, with
what is behind it. The rest is passed on as it is. What is ours and what is left to QEMU is said on stderr.

Put it before a command line that you have:

  virtio qemu qemu-system-x86_64 -nographic -m 512 -drive if=virtio,file=disk.img,format=raw …

Options, before the name of QEMU:
${row("--dry-run", "print what would be run, and run nothing")}${row("--quiet", "do not say what is ours and what is QEMU's")}${row("--snapshot-limit SIZE", "memory that changes to one of our disks may take with snapshot=on (default 1G)")}${row("--sealed-memory", "refuse guest memory that QEMU could take away (a -mem-path or huge pages)")}${row("--log virtio[,registers]|hints", "log what happens in the devices, or only what drivers do wrong, to stderr")}${row("--log-file FILE", "where --log goes")}${row("--help", "this text")}
What is ours: raw images (-drive, -blockdev; format, cache, discard, snapshot, readonly), -netdev stream, hubport and
socket, -object rng-random and rng-builtin. Guest memory becomes shared: -m, -mem-path, -numa and -machine
memory-backend= go on working. The devices end when QEMU does, with its status.
`;
