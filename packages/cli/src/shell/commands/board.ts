import type { CommandSpec, Context } from "../command.ts";
import { UsageError } from "../errors.ts";
import { macText } from "../net/addresses.ts";

const WIDTH = 12;

export const bdinfo: CommandSpec = {
  name: "bdinfo",
  summary: "print Board Info structure",
  help:
    "\nbdinfo -a\n  - print all Board Info structure\nbdinfo -e\n  - print Board Info related to network\n" +
    "bdinfo -m\n  - print Board Info related to DRAM",
  words: 2,
  async run(context, [, option]) {
    if (option !== undefined && !["-a", "-e", "-m"].includes(option)) throw new UsageError();
    if (option !== "-e") dram(context);
    if (option === undefined || option === "-a") {
      row(context, "shell RAM", range(context.memory.start, context.memory.size));
      row(context, "loadaddr", address(Number.parseInt(context.environment.get("loadaddr") ?? "0", 16)));
      row(context, "target", context.target.title);
    }
    if (option !== "-m") await network(context);
    return 0;
  },
};

function dram(context: Context): void {
  for (const [index, { start, size }] of context.target.banks.entries()) {
    row(context, "DRAM bank", address(index));
    row(context, "-> start", address(start));
    row(context, "-> size", address(size));
  }
}

async function network(context: Context): Promise<void> {
  const [net] = await context.devices.driven(context, "net");
  if (net === undefined) return;
  row(context, "current eth", `virtio-net#${net.number}`);
  row(context, "ethaddr", macText(net.driver.net.driver.mac));
  row(context, "IP addr", context.environment.get("ipaddr") ?? "<NULL>");
}

function row({ out }: Context, name: string, value: string): void {
  out.write(`${name.padEnd(WIDTH)}= ${value}\n`);
}

function address(value: number): string {
  return `0x${value.toString(16).padStart(16, "0")}`;
}

function range(start: number, size: number): string {
  return `${address(start)} - ${address(start + size - 1)}`;
}
