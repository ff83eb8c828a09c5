import { bootOptions, type OptionSpec } from "../options/table.ts";

/** Options of `virtio boot` that describe devices; they are read the same way here. */
export const deviceOptions: ReadonlySet<string> = new Set([
  "disk",
  "device",
  "drive",
  "blockdev",
  "chardev",
  "netdev",
  "fsdev",
  "virtfs",
  "object",
  "snapshot",
  "global",
]);

/** Every option of `virtio shell`. */
export const shellOptions: readonly OptionSpec[] = [
  {
    group: "short",
    name: "qemu",
    value: "'QEMU ARGUMENT…'",
    help: "the devices of a QEMU machine, without a guest: 'qemu-system-arm -M versatilepb …'",
  },
  {
    group: "short",
    name: "vhost-user",
    value: "TYPE:SOCKET",
    repeat: true,
    help: "a vhost-user back-end, such as blk:/tmp/disk.sock; again for more",
  },
  { group: "session", name: "c", value: "COMMANDS", help: "run these and end with the status of the last" },
  { group: "session", name: "script", value: "FILE", help: "the same with the lines of a file" },
  { group: "session", name: "help", help: "this text; `help` in the shell lists its commands" },
  ...bootOptions
    .filter(({ name }) => deviceOptions.has(name))
    .map((option) => ({ ...option, group: "devices" as const })),
];
