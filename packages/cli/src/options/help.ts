import { bootOptions, optionGroups } from "./table.ts";
import { deviceTypes, type DeviceType } from "./devices.ts";

const column = 34;

/** What `virtio boot --help` shows. */
export function bootHelp(): string {
  const groups = optionGroups.map(([group, title]) => {
    const rows = bootOptions.filter((option) => option.group === group);
    const dash = group === "short" || group === "session" ? "--" : "-";
    return `${title}:\n${rows.map((o) => row(`${dash}${o.name}${o.value ? ` ${o.value}` : ""}`, o.help)).join("")}`;
  });
  return (
    `Usage: virtio boot [OPTION]…\n\nBoots Linux in the embedded machine (v86) with VIRTIO devices of this project.\n` +
    `One dash or two make no difference.\n\n${groups.join("\n")}\n` +
    "In the session Ctrl-A X leaves, Ctrl-A ? lists the keys.\n"
  );
}

/** What `-device help` shows. */
export function deviceListHelp(): string {
  return `Devices:\n${deviceTypes.map((type) => row(type.name, type.help)).join("")}`;
}

/** What `-device NAME,help` shows. */
export function deviceHelp(type: DeviceType): string {
  const rows = type.properties.map((property) => {
    const kind = typeof property.kind === "string" ? property.kind : property.kind.join("|");
    return row(
      `${property.name}=<${kind}>`,
      property.ignored ? `${property.help} (accepted)` : property.help,
    );
  });
  return `${type.name}: ${type.help}\n${rows.join("")}`;
}

/** A line of help: what there is, and what it does. */
export function row(left: string, right: string): string {
  return left.length + 2 >= column
    ? `  ${left}\n${" ".repeat(column)}${right}\n`
    : `  ${left.padEnd(column - 2)}${right}\n`;
}
