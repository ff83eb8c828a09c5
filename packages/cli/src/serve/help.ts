import { row } from "../options/help.ts";
import type { OptionSpec } from "../options/table.ts";
import { deviceWords, serveOptions } from "./table.ts";

const groups: readonly (readonly [OptionSpec["group"], string])[] = [
  ["short", "Where the front-end is met"],
  ["devices", "What is behind a device, as QEMU spells it (no id is needed)"],
  ["session", "For all devices"],
];

/** What `virtio serve --help` shows. */
export function serveHelp(): string {
  const options = groups.map(([group, title]) => {
    const rows = serveOptions.filter((option) => option.group === group);
    return `${title}:\n${rows.map((o) => row(`--${o.name}${o.value ? ` ${o.value}` : ""}`, o.help)).join("")}`;
  });
  return (
    "Usage: virtio serve DEVICE[,PROP=VALUE…] --socket PATH [OPTION]… [DEVICE…]\n\n" +
    "Serves VIRTIO devices to QEMU or another vhost-user front-end, one socket a device. Options belong to the device\n" +
    "before them. Sockets of systemd's socket activation are for the devices without --socket, in their order. SIGTERM and\n" +
    "SIGINT finish what is in flight, and end with status 0.\n\n" +
    `Devices:\n${deviceWords.map(({ word, help }) => row(word, help)).join("")}\n${options.join("\n")}\n` +
    "  virtio serve blk,serial=D1 --socket /tmp/blk.sock --drive file=disk.img\n"
  );
}
