import { row } from "../options/help.ts";
import type { OptionSpec } from "../options/table.ts";
import { shellOptions } from "./options.ts";

const groups: readonly (readonly [OptionSpec["group"], string])[] = [
  ["short", "Whose devices"],
  ["devices", "Or devices of this project, in this process, as virtio boot spells them"],
  ["session", "The session"],
];

/** What `virtio shell --help` shows. */
export function shellHelp(): string {
  const options = groups.map(([group, title]) => {
    const rows = shellOptions.filter((option) => option.group === group);
    const dash = group === "devices" ? "-" : "--";
    const text = rows.map(({ name, value, help }) =>
      row(`${name === "c" ? "-" : dash}${name}${value === undefined ? "" : ` ${value}`}`, help),
    );
    return `${title}:\n${text.join("")}`;
  });
  return (
    "Usage: virtio shell TARGET [OPTION]…\n\n" +
    "U-Boot's commands on VIRTIO devices: of a QEMU machine, behind vhost-user, or in this process.\n\n" +
    "  virtio shell --qemu 'qemu-system-arm -M versatilepb -drive if=none,file=disk.img,format=raw,id=d\n" +
    "                       -device virtio-blk-pci,drive=d' -c 'virtio info; ls virtio 0 /'\n" +
    "  virtio shell -drive file=disk.img -device virtio-rng-pci\n\n" +
    `${options.join("\n")}\n` +
    "Without -c and --script commands are read from the terminal (Tab completes, Ctrl-C ends a command, Ctrl-D\n" +
    "the shell), or from standard input when that is none. Numbers are hexadecimal, as in U-Boot.\n"
  );
}
