/** An option of `virtio boot`. */
export interface OptionSpec {
  readonly name: string;
  /** What stands for its value in the help; absent: the option takes none. */
  readonly value?: string;
  readonly group: "machine" | "devices" | "short" | "session";
  readonly help: string;
  readonly repeat?: boolean;
  /** It is a device by itself: what is given once may be given again behind it. */
  readonly begins?: boolean;
}

/** Headings of the help, in its order. */
export const optionGroups: readonly (readonly [OptionSpec["group"], string])[] = [
  ["short", "Short ways"],
  ["session", "The session"],
  ["machine", "The machine, as QEMU spells it"],
  ["devices", "Devices and what is behind them, as QEMU spells it"],
];

/** Every option; parser, help and error texts are made from this. */
export const bootOptions: readonly OptionSpec[] = [
  {
    group: "short",
    name: "disk",
    value: "FILE[,readonly=on][,snapshot=on]",
    repeat: true,
    help: "a raw disk image, or nbd://HOST/EXPORT, as the next virtio disk (/dev/vda, /dev/vdb …)",
  },
  {
    group: "short",
    name: "share",
    value: "DIR[:TAG]",
    repeat: true,
    help: "a directory of this host, mounted at /mnt/TAG (TAG: the directory's name)",
  },
  {
    group: "short",
    name: "root",
    value: "DIR",
    help: "boot into a directory of this host: its /sbin/init runs from it",
  },
  {
    group: "short",
    name: "sample",
    help: "a sample disk, a shared directory and /dev/hwrng, unless other devices are given",
  },
  {
    group: "session",
    name: "run",
    value: "COMMAND",
    help: "run one command without a terminal, print exactly its output, end with its status",
  },
  {
    group: "session",
    name: "save",
    value: "FILE",
    help: "save the whole machine: on leaving, on Ctrl-A S and on SIGUSR1",
  },
  {
    group: "session",
    name: "restore",
    value: "FILE",
    help: "go on from a saved machine; give the same devices",
  },
  {
    group: "session",
    name: "no-cache",
    help: "boot the kernel, and neither use nor make a saved state of the booted guest",
  },
  {
    group: "session",
    name: "log",
    value: "virtio[,registers]|hints",
    help: "log what happens in the devices, or only what drivers do wrong, to stderr",
  },
  { group: "session", name: "log-file", value: "FILE", help: "where --log goes" },
  { group: "session", name: "verbose", help: "show boot messages on stderr" },
  {
    group: "session",
    name: "help",
    help: "this text; `-device help` lists the devices, `-device NAME,help` its properties",
  },
  {
    group: "machine",
    name: "m",
    value: "[size=]MEGS",
    help: "guest memory in MiB, or with a suffix such as 1G (default 128)",
  },
  {
    group: "machine",
    name: "kernel",
    value: "FILE",
    help: "a Linux kernel for i386: bzImage or vmlinux (default: Debian's)",
  },
  { group: "machine", name: "initrd", value: "FILE", help: "its initial root file system" },
  {
    group: "machine",
    name: "append",
    value: "TEXT",
    help: "kernel command line; without -kernel, and with --run, it is added to ours",
  },
  { group: "machine", name: "snapshot", help: "no disk image is written to" },
  {
    group: "machine",
    name: "snapshot-limit",
    value: "SIZE",
    help: "memory that changes to one such disk may take (default 1G); a write beyond fails",
  },
  {
    group: "machine",
    name: "global",
    value: "virtio-mmio.force-legacy=on|off",
    repeat: true,
    help: "the legacy interface for virtio-mmio devices (default off)",
  },
  { group: "machine", name: "nographic", help: "accepted: there is no graphics here" },
  { group: "machine", name: "nodefaults", help: "no console but those that are given" },
  { group: "machine", name: "no-reboot", help: "accepted: a reboot ends the session" },
  { group: "machine", name: "name", value: "NAME", help: "accepted" },
  { group: "devices", name: "device", value: "DRIVER[,PROP=VALUE…]", repeat: true, help: "plug a device in" },
  {
    group: "devices",
    name: "drive",
    value: "file=FILE[,if=virtio|none][,id=ID]…",
    repeat: true,
    help: "a raw disk image or nbd://HOST/EXPORT, with a virtio-blk-pci of its own unless if=none",
  },
  {
    group: "devices",
    name: "blockdev",
    value: "driver=file|nbd|raw,node-name=ID,…",
    repeat: true,
    help: "a raw disk image, or an export of an NBD server, for -device …,drive=ID",
  },
  {
    group: "devices",
    name: "chardev",
    value: "KIND,id=ID[,…]",
    repeat: true,
    help: "the host end of a port: stdio, file, socket, ringbuf, null",
  },
  {
    group: "devices",
    name: "netdev",
    value: "KIND,id=ID[,…]",
    repeat: true,
    help: "the host end of a network device: stream, hubport",
  },
  {
    group: "devices",
    name: "fsdev",
    value: "local,id=ID,path=DIR[,…]",
    repeat: true,
    help: "a directory for -device virtio-9p-…,fsdev=ID",
  },
  {
    group: "devices",
    name: "virtfs",
    value: "local,path=DIR,mount_tag=TAG[,…]",
    repeat: true,
    help: "a directory with a virtio-9p-pci of its own",
  },
  {
    group: "devices",
    name: "object",
    value: "rng-random|rng-builtin,id=ID",
    repeat: true,
    help: "a source of entropy for -device virtio-rng-…,rng=ID",
  },
];
