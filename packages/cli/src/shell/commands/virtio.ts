import type { CommandSpec, Context } from "../command.ts";
import { Disk } from "../disk/disk.ts";
import { readPartitions } from "../disk/partitions.ts";
import { CommandError, UsageError } from "../errors.ts";
import { showFeatures } from "../inspect/features.ts";
import { showQueues } from "../inspect/queue.ts";
import { showRegisters, vendorOf } from "../inspect/registers.ts";
import { decimal, hex } from "../numbers.ts";
import { partitionMap } from "./partition-map.ts";

const HELP = [
  "scan - initialize virtio bus",
  "virtio info - show all available virtio block devices",
  "virtio device [dev] - show or set current virtio block device",
  "virtio part [dev] - print partition table of one or all virtio block devices",
  "virtio read addr blk# cnt - read `cnt' blocks starting at block",
  "     `blk#' to memory address `addr'",
  "virtio write addr blk# cnt - write `cnt' blocks starting at block",
  "     `blk#' from memory address `addr'",
].join("\n");
/** What U-Boot has not. */
const MORE = [
  "and here:",
  "virtio list - list all virtio devices",
  "virtio regs [dev] - show the registers",
  "virtio features [dev] - show which features are offered, and which are used",
  "virtio queue [dev] [n] - show the virtqueues, or one with its descriptors",
  "     `dev' is the number of a block device, or a name of `virtio list', or all",
  "",
].join("\n");

type BlockDevice = Awaited<ReturnType<typeof blockDevices>>[number];

function blockDevices(context: Context) {
  return context.devices.driven(context, "blk");
}

/** By the number that all commands count with: those that could not be opened keep theirs. */
async function blockDevice(context: Context, number: number): Promise<BlockDevice | undefined> {
  return (await blockDevices(context)).find((each) => each.number === number);
}

async function current(context: Context): Promise<BlockDevice> {
  const { current: number } = context.devices;
  const device = await blockDevice(context, number);
  if (device === undefined) throw new CommandError(`virtio device ${number} not available`);
  return device;
}

/** A disk as `virtio info` shows it. */
function infoText(context: Context, device: BlockDevice): string {
  const { capacity } = device.driver.blk.info;
  const { blocks, blockSize } = diskOf(context, device);
  const mb = Math.floor(capacity / 2048) * 10 + Math.floor(((capacity % 2048) * 10) / 2048);
  const gb = Math.floor(mb / 1024);
  const tenths = (value: number): string => `${Math.floor(value / 10)}.${value % 10}`;
  const size =
    capacity === 0 ? "not available" : `${tenths(mb)} MB = ${tenths(gb)} GB (${blocks} x ${blockSize})`;
  return `${vendorOf(device.device)} VirtIO Block Device\n            Type: Hard Disk\n            Capacity: ${size}\n`;
}

function diskOf(context: Context, { driver, name }: BlockDevice): Disk {
  return new Disk(driver.blk, name, context);
}

async function info(context: Context): Promise<number> {
  for (const device of await blockDevices(context))
    context.out.write(`Device ${device.number}: ${infoText(context, device)}`);
  return 0;
}

async function showDevice(context: Context, text: string | undefined): Promise<number> {
  const number = text === undefined ? context.devices.current : decimal(text, "virtio device");
  const found = await blockDevice(context, number);
  if (text === undefined) {
    // The word is U-Boot's, for every kind of disk.
    context.out.write(
      found === undefined
        ? "\nno virtio devices available\n"
        : `\nIDE device ${number}: ${infoText(context, found)}`,
    );
    return Number(found === undefined);
  }
  context.out.write(
    `\nDevice ${number}: ${found === undefined ? "unknown device\n" : infoText(context, found)}`,
  );
  if (found === undefined) return 1;
  context.devices.current = number;
  context.out.write("... is now current device\n");
  return 0;
}

async function part(context: Context, text: string | undefined): Promise<number> {
  const all = await blockDevices(context);
  const number = text === undefined ? undefined : decimal(text, "virtio part");
  const asked = number === undefined ? all : all.filter((each) => each.number === number);
  let shown = 0;
  for (const each of asked) {
    const table = await readPartitions(diskOf(context, each));
    if (table !== undefined) {
      context.out.write(partitionMap("virtio", each.number, table));
      shown++;
    } else if (number !== undefined) context.out.write("## Unknown partition table type 0\n");
  }
  if (number !== undefined && asked.length === 0) {
    context.out.write(`\nvirtio device ${number} not available\n`);
    return 1;
  }
  if (shown === 0 && number === undefined) context.out.write("\nno virtio partition table available\n");
  return 0;
}

async function transfer(context: Context, write: boolean, words: readonly string[]): Promise<number> {
  const [addressText, blockText, countText] = words;
  if (countText === undefined) throw new UsageError();
  const verb = write ? "write" : "read";
  const address = hex(addressText, `virtio ${verb}`);
  const block = hex(blockText, `virtio ${verb}`);
  const count = hex(countText, `virtio ${verb}`);
  const found = await current(context);
  const { memory, out } = context;
  const disk = diskOf(context, found);
  const length = count * disk.blockSize;
  const bytes = write ? memory.readable(address, length) : memory.writable(address, length);
  const line = `virtio ${verb}: device ${context.devices.current} block # ${block}, count ${count} ... `;
  out.write(`\n${line}`);
  const shown = context.transfer(line, length);
  const failed = (done: number): void =>
    out.write(`${done} blocks ${write ? "written" : "read"}: ${done === count ? "OK" : "ERROR"}\n`);
  let done = 0;
  const moved = (at: number): void => {
    done = Math.floor(at / disk.blockSize);
    shown.progress(at);
  };
  try {
    await (write ? disk.write(block * disk.unit, bytes, moved) : disk.read(block * disk.unit, bytes, moved));
    if (write) await disk.flush();
  } catch (error) {
    shown.end();
    failed(Math.min(done, Math.max(0, count - 1)));
    throw error;
  }
  shown.end();
  failed(count);
  return 0;
}

async function list(context: Context): Promise<number> {
  for (const {
    name,
    device: { name: place },
    driver,
    transport,
  } of await context.devices.all(context)) {
    const state =
      transport === undefined
        ? "cannot be opened"
        : driver.kind === "none"
          ? "no driver here"
          : "driver running";
    context.out.write(`${name.padEnd(12)}${place.padEnd(24)}${state}\n`);
  }
  return 0;
}

export const virtio: CommandSpec = {
  name: "virtio",
  summary: "virtio block devices sub-system",
  help: HELP,
  more: MORE,
  words: 8,
  repeats: true,
  async run(context, [, what, ...words]) {
    if (what === undefined) throw new UsageError();
    const [first] = words;
    const alone = words.length === 0;
    if (what === "scan" && alone) {
      await context.wait(context.devices.scan(), "virtio scan", 60_000);
      return 0;
    }
    if (what.startsWith("inf") && alone) return info(context);
    if (what.startsWith("dev") && words.length < 2) return showDevice(context, first);
    if (what.startsWith("part") && words.length < 2) return part(context, first);
    if (what === "read" || what === "write") return transfer(context, what === "write", words);
    if (what === "list" && alone) return list(context);
    if (what === "regs" && words.length < 2) return showRegisters(context, first);
    if (what === "features" && words.length < 2) return showFeatures(context, first);
    if (what === "queue" && words.length < 3) return showQueues(context, words);
    throw new UsageError();
  },
  complete({ devices }, words) {
    if (words.length === 1)
      return ["scan", "info", "device", "part", "read", "write", "list", "regs", "features", "queue"];
    const named = ["regs", "features", "queue"].includes(words[1] ?? "");
    if (words.length === 2 && named) return devices.known.map(({ name }) => name);
    if (words.length === 2 && ["device", "part"].includes(words[1] ?? ""))
      return devices.known.filter(({ kind }) => kind === "blk").map(({ number }) => String(number));
    return [];
  },
};
