import type { Context } from "../command.ts";
import type { ShellDevice } from "../devices.ts";
import { CommandError } from "../errors.ts";

/** The devices that a word names: a block device's number, a name, a kind; without a word the current block device, or all. */
export async function findDevices(
  context: Context,
  text: string | undefined,
): Promise<readonly ShellDevice[]> {
  const all = await context.devices.all(context);
  if (text === "all") return all;
  const number =
    text === undefined ? context.devices.current : /^\d{1,4}$/.test(text) ? Number(text) : undefined;
  const found =
    number === undefined
      ? all.filter(({ name, kind, device }) => [name, kind, device.name].includes(text ?? ""))
      : all.filter((each) => each.kind === "blk" && each.number === number);
  if (found.length > 0) return found;
  if (text === undefined && all.length > 0) return all;
  const names = all.map(({ name }) => name).join(", ");
  throw new CommandError(
    text === undefined || all.length === 0
      ? "no virtio devices available"
      : `virtio device ${text.slice(0, 40)} not available; there are ${names}`,
  );
}

/** `blk0 (pci 00:05.0)`, as a heading. */
export function heading({ name, device }: ShellDevice): string {
  return `${name} (${device.name})`;
}
