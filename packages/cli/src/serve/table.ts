import { bootOptions, type OptionSpec } from "../options/table.ts";

/** A device word of `virtio serve`, and what stands for it elsewhere. */
export interface DeviceWord {
  readonly word: string;
  readonly help: string;
  /** The name `-device` has for it: its properties are those of the word. */
  readonly driver: string;
  /** Options that name what is behind it. */
  readonly backends: readonly string[];
  /** The property that refers to one of them. */
  readonly reference?: string;
  /** What to say when there is none; absent: it needs none. */
  readonly example?: string;
  /** `VHostUserBackendCapabilities` of vhost-user.json. */
  readonly capabilities: { readonly type: string; readonly features?: readonly string[] };
}

/** Every device word; parser, help and error texts are made from this. */
export const deviceWords: readonly DeviceWord[] = [
  {
    word: "blk",
    help: "a disk",
    driver: "virtio-blk-device",
    backends: ["drive", "blockdev", "blk-file", "read-only", "object"],
    reference: "drive",
    example: "--drive file=FILE",
    capabilities: { type: "block", features: ["read-only", "blk-file"] },
  },
  {
    word: "net",
    help: "a network device",
    driver: "virtio-net-device",
    backends: ["netdev"],
    reference: "netdev",
    example: "--netdev hubport,hubid=N",
    capabilities: { type: "net" },
  },
  {
    word: "console",
    help: "a console, or with --device a bus with ports",
    driver: "virtio-serial-device",
    backends: ["chardev", "device"],
    example: "--chardev stdio",
    capabilities: { type: "console" },
  },
  {
    word: "entropy",
    help: "a source of entropy",
    driver: "virtio-rng-device",
    backends: ["object"],
    reference: "rng",
    capabilities: { type: "rng" },
  },
  {
    word: "9p",
    help: "a shared directory",
    driver: "virtio-9p-device",
    backends: ["fsdev", "share"],
    reference: "fsdev",
    example: "--share DIR",
    capabilities: { type: "9p" },
  },
];

/** Options of `virtio boot` that are read the same way here; ids may be left away. */
const shared: Readonly<Record<string, Partial<OptionSpec>>> = {
  drive: {
    value: "file=FILE[,PROP=VALUE…]",
    repeat: false,
    help: "a raw disk image or nbd://HOST/EXPORT: format, readonly, snapshot, discard, cache, serial",
  },
  blockdev: {
    value: "driver=file|nbd|raw,…",
    help: "a raw disk image or an export; the last one is the disk",
  },
  netdev: { value: "KIND[,…]", repeat: false },
  chardev: { value: "KIND[,…]" },
  device: {
    value: "virtconsole|virtserialport[,…]",
    help: "a port of the console device before it, with chardev=ID; without any, one console",
  },
  object: {
    value: "rng-random|rng-builtin|iothread[,…]",
    repeat: false,
    help: "another source than the system's; of blk: iothread,poll-max-ns=N, its thread",
  },
  share: {
    group: "devices",
    begins: true,
    help: "a shared directory: what the 9p before it is, or a device by itself (TAG: the directory's name)",
  },
  fsdev: { value: "local,path=DIR[,…]", repeat: false, help: "the directory, with 9p,mount_tag=TAG" },
  snapshot: { group: "session" },
  "snapshot-limit": { group: "session" },
  log: {},
  "log-file": {},
};

/** Where a device's front-end is met; one of them a device. */
export const socketOptions: readonly string[] = ["socket", "socket-path", "socket-fd", "fd"];

/** Options that `virtio boot` does not have, and that are no single device's. */
export const ownOptions: readonly string[] = ["sealed-memory", "process-per-device"];

/** Options that are no single device's, and may stand anywhere. */
export const sessionOptions: readonly string[] = [
  ...ownOptions,
  "snapshot",
  "snapshot-limit",
  "log",
  "log-file",
  "print-capabilities",
  "help",
];

/** Every option of `virtio serve`. */
export const serveOptions: readonly OptionSpec[] = [
  { group: "short", name: "socket", value: "PATH", help: "the Unix socket to listen at" },
  { group: "short", name: "socket-path", value: "PATH", help: "the same" },
  {
    group: "short",
    name: "socket-fd",
    value: "N|NAME",
    help: "a socket that is open already, listening or connected; or by its name, one that systemd passed",
  },
  { group: "short", name: "fd", value: "N", help: "the same" },
  { group: "devices", name: "blk-file", value: "FILE", help: "a raw disk image, or nbd://HOST/EXPORT" },
  { group: "devices", name: "read-only", help: "the guest may not write to the disk" },
  ...Object.entries(shared).flatMap(([name, changes]) =>
    bootOptions.filter((option) => option.name === name).map((option) => ({ ...option, ...changes })),
  ),
  {
    group: "session",
    name: "sealed-memory",
    help: "refuse guest memory that a front-end could take away, which would end this process",
  },
  {
    group: "session",
    name: "process-per-device",
    help: "a process for each device, so that no front-end can end the device of another; one that dies is started again",
  },
  {
    group: "session",
    name: "print-capabilities",
    help: "print what the (first) device is as JSON, and do nothing else",
  },
  { group: "session", name: "help", help: "this text; `virtio serve blk,help` lists the properties of blk" },
];
