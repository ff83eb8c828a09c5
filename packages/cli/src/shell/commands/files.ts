import type { CommandSpec, CompletionContext, Context } from "../command.ts";
import { Disk, extentOf, type Extent } from "../disk/disk.ts";
import { readPartitions } from "../disk/partitions.ts";
import { CommandError, Interrupt, UsageError } from "../errors.ts";
import { NinePFiles } from "../files/nine-p-files.ts";
import { probe } from "../files/probe.ts";
import type { FileEntry, Files } from "../files/types.ts";
import { WorkerFiles } from "../files/worker-files.ts";
import { hex, rateText } from "../numbers.ts";
import { messageOf } from "../../user-error.ts";

const MAX_NAME = 4096;

/** The file system that `virtio 0:1` or `9p 0` names. Throws a CommandError in U-Boot's words. */
export async function openFiles(context: Context, kind: string, text: string | undefined): Promise<Files> {
  const place = text === undefined || text === "-" ? context.environment.get("bootdevice") : text;
  if (place === undefined) throw new CommandError("** No device specified **");
  const [deviceText = "", partText] = place.split(":");
  const bad = new CommandError(`** Bad device specification ${kind} ${deviceText} **`);
  if (!/^[0-9a-fA-F]{1,4}$/.test(deviceText) || (kind !== "virtio" && kind !== "9p")) throw bad;
  const number = Number.parseInt(deviceText, 16);
  if (kind === "9p") {
    const share = (await context.devices.driven(context, "9p")).find((each) => each.number === number);
    if (share === undefined || partText !== undefined) throw bad;
    return NinePFiles.open(share.driver.nineP, context);
  }
  const device = (await context.devices.driven(context, "blk")).find((each) => each.number === number);
  if (device === undefined) throw bad;
  const disk = new Disk(device.driver.blk, device.name, context);
  const extent = await findExtent(disk, `${kind} ${place}`, partText);
  const found = await probe(disk, extent);
  if (found === undefined) throw new CommandError(`** Unrecognized filesystem type on ${kind} ${place} **`);
  return new WorkerFiles(disk, extent, found, context);
}

/** No number: partition 1, or the whole disk when it has no table. `auto`: the first that can be booted, or the first. */
async function findExtent(disk: Disk, place: string, text: string | undefined): Promise<Extent> {
  const whole = { start: 0, sectors: disk.sectors };
  if (text !== undefined && text !== "" && text !== "auto" && !/^[0-9a-fA-F]{1,4}$/.test(text))
    throw new CommandError(`** Bad partition specification ${place} **`);
  const number = text === undefined || text === "" || text === "auto" ? undefined : Number.parseInt(text, 16);
  if (disk.sectors === 0) throw new CommandError(`** Bad device size - ${place} **`);
  if (number === 0) return whole;
  const table = await readPartitions(disk);
  if (table === undefined) {
    if (number !== undefined)
      throw new CommandError(`** No partition table - ${place.replace(/:.*/, "")} **`);
    return whole;
  }
  const usable = table.partitions.filter(({ extended }) => !extended);
  const chosen =
    text === "auto"
      ? (usable.find(({ bootable }) => bootable) ?? usable[0])
      : usable.find((each) => each.number === (number ?? 1));
  if (chosen === undefined)
    throw new CommandError(
      text === "auto" ? "** No valid partitions found **" : `** Invalid partition ${number ?? 1} **`,
    );
  return extentOf(disk, chosen);
}

/** Runs on a file system, and lets go of it. */
async function withFiles<T>(
  context: Context,
  kind: string,
  place: string | undefined,
  work: (files: Files) => Promise<T>,
): Promise<T> {
  const files = await openFiles(context, kind, place);
  try {
    return await work(files);
  } finally {
    // What went wrong before says more.
    await files.close().catch(() => undefined);
  }
}

function checkName(name: string): string {
  if (name.length > MAX_NAME)
    throw new CommandError(`a name of ${name.length} characters: the most are ${MAX_NAME}`);
  return name;
}

const ls: CommandSpec = {
  name: "ls",
  summary: "list files in a directory (default /)",
  help:
    "<interface> [<dev[:part]> [directory]]\n    - List files in directory 'directory' of partition 'part' on\n" +
    "      device type 'interface' instance 'dev'.",
  words: 4,
  repeats: true,
  async run(context, [, kind, place, directory = "/"]) {
    if (kind === undefined) throw new UsageError();
    await withFiles(context, kind, place, async (files) => {
      const entries = await files.list(checkName(directory));
      context.out.write(files.type === "fat" ? fatList(entries, directory) : extList(entries));
    });
    return 0;
  },
  complete: completeDevice,
};

/** As U-Boot's documentation lists an ext4. */
function extList(entries: readonly FileEntry[]): string {
  const types = { directory: "<DIR>", symlink: "<SYM>", file: "", other: "" };
  return entries
    .map(
      ({ name, kind, size }) => `${types[kind].padEnd(5)} ${String(size).padStart(10)} ${printable(name)}\n`,
    )
    .join("");
}

/** As U-Boot lists every file system without sizes of directories. */
function fatList(entries: readonly FileEntry[], directory: string): string {
  const dots = /^\/*$/.test(directory) ? [] : ["./", "../"];
  const rows = entries.map(({ name, kind, size }) =>
    kind === "directory"
      ? `            ${printable(name)}/\n`
      : ` ${String(size).padStart(8)}   ${printable(name)}\n`,
  );
  const directories = entries.filter(({ kind }) => kind === "directory").length;
  const counts = `\n${entries.length - directories} file(s), ${directories + dots.length} dir(s)\n\n`;
  return dots.map((name) => `            ${name}\n`).join("") + rows.join("") + counts;
}

/** Names are what somebody else wrote: nothing in them may speak to the terminal. */
function printable(name: string): string {
  // oxlint-disable-next-line no-control-regex
  return name.replace(/[\u0000-\u001f\u007f-\u009f]/g, "?");
}

const load: CommandSpec = {
  name: "load",
  summary: "load binary file from a filesystem",
  help:
    "<interface> [<dev[:part]> [<addr> [<filename> [bytes [pos]]]]]\n" +
    "    - Load binary file 'filename' from partition 'part' on device\n" +
    "       type 'interface' instance 'dev' to address 'addr' in memory.\n" +
    "      'bytes' gives the size to load in bytes.\n" +
    "      If 'bytes' is 0 or omitted, the file is read until the end.\n" +
    "      'pos' gives the file byte position to start reading from.\n" +
    "      If 'pos' is 0 or omitted, the file is read from the start.",
  words: 7,
  async run(context, [, kind, place, addressText, nameText, bytesText, positionText]) {
    if (kind === undefined) throw new UsageError();
    const { environment, memory, out } = context;
    const address = hex(addressText ?? environment.get("loadaddr"), "load");
    const name = nameText ?? environment.get("bootfile");
    if (name === undefined) throw new CommandError("** No boot file defined **");
    const wanted = bytesText === undefined ? 0 : hex(bytesText, "load");
    const position = positionText === undefined ? 0 : hex(positionText, "load");
    const { bytes, milliseconds } = await withFiles(context, kind, place, async (files) => {
      try {
        return await loadFile(context, files, { name: checkName(name), address, wanted, position });
      } catch (error) {
        if (error instanceof Interrupt) throw error;
        throw new CommandError(`${messageOf(error)}\nFailed to load '${printable(name)}'`, { cause: error });
      }
    });
    memory.checkWritable(address, bytes);
    out.write(`${bytes} bytes read ${rateText(bytes, milliseconds)}\n`);
    environment.setHex("fileaddr", address);
    environment.setHex("filesize", bytes);
    return 0;
  },
  complete: completeDevice,
};

interface LoadRequest {
  readonly name: string;
  readonly address: number;
  /** 0: to the end. */
  readonly wanted: number;
  readonly position: number;
}

async function loadFile(
  context: Context,
  files: Files,
  { name, address, wanted, position }: LoadRequest,
): Promise<{ bytes: number; milliseconds: number }> {
  const { memory } = context;
  const room = memory.room(address);
  const there = Math.max(0, (await files.size(name)) - position);
  const length = wanted === 0 ? there : Math.min(wanted, there);
  if (length > room)
    throw new CommandError(
      `** ${length} bytes from 0x${address.toString(16)} on do not fit the shell's memory **`,
    );
  const shown = context.transfer(`load ${printable(name)}`, length);
  let at = 0;
  try {
    // What the size was, and what comes, need not agree.
    return await files.read(name, position, wanted === 0 ? room : Math.min(wanted, room), (piece) => {
      memory.writable(address + at, piece.length).set(piece);
      at += piece.length;
      shown.progress(at);
    });
  } finally {
    shown.end();
  }
}

const save: CommandSpec = {
  name: "save",
  summary: "save file to a filesystem",
  help:
    "<interface> <dev[:part]> <addr> <filename> bytes [pos]\n" +
    "    - Save binary file 'filename' to partition 'part' on device\n" +
    "      type 'interface' instance 'dev' from addr 'addr' in memory.\n" +
    "      'bytes' gives the size to save in bytes and is mandatory.\n" +
    "      'pos' gives the file byte position to start writing to.\n" +
    "      If 'pos' is 0 or omitted, the file is written from the start.",
  words: 7,
  async run(context, [, kind, place, addressText, name, bytesText, positionText]) {
    if (kind === undefined || name === undefined || bytesText === undefined) throw new UsageError();
    const source = context.memory.readable(hex(addressText, "save"), hex(bytesText, "save"));
    const position = positionText === undefined ? 0 : hex(positionText, "save");
    const { bytes, milliseconds } = await withFiles(context, kind, place, async (files) => {
      const shown = context.transfer(`save ${printable(name)}`, source.length);
      try {
        return await files.write(checkName(name), position, source, (done) => shown.progress(done));
      } catch (error) {
        if (error instanceof Interrupt) throw error;
        const what = `** Unable to write file ${printable(name)} **`;
        throw new CommandError(`${messageOf(error)}\n${what}`, { cause: error });
      } finally {
        shown.end();
      }
    });
    context.out.write(`${bytes} bytes written ${rateText(bytes, milliseconds)}\n`);
    return 0;
  },
  complete: completeDevice,
};

const size: CommandSpec = {
  name: "size",
  summary: "determine a file's size",
  help:
    "<interface> <dev[:part]> <filename>\n    - Find file 'filename' from 'dev' on 'interface'\n" +
    "      determine its size, and store in the 'filesize' variable.",
  words: 4,
  async run(context, [, kind, place, name]) {
    if (kind === undefined || name === undefined) throw new UsageError();
    const bytes = await withFiles(context, kind, place, (files) => files.size(checkName(name)));
    context.environment.setHex("filesize", bytes);
    return 0;
  },
  complete: completeDevice,
};

const fstype: CommandSpec = {
  name: "fstype",
  summary: "Look up a filesystem type",
  help:
    "<interface> <dev>:<part>\n- print filesystem type\nfstype <interface> <dev>:<part> <varname>\n" +
    "- set environment variable to filesystem type\n",
  words: 4,
  async run(context, [, kind, place, variable]) {
    if (kind === undefined || place === undefined) throw new UsageError();
    const { type } = await withFiles(context, kind, place, (files) => Promise.resolve(files));
    if (variable === undefined) context.out.write(`${type}\n`);
    else context.environment.set(variable, type);
    return 0;
  },
  complete: completeDevice,
};

function completeDevice({ devices }: CompletionContext, words: readonly string[]): readonly string[] {
  if (words.length === 1) return ["virtio", "9p"];
  if (words.length !== 2) return [];
  const kind = words[1] === "virtio" ? "blk" : words[1];
  return devices.known.filter((each) => each.kind === kind).map(({ number }) => number.toString(16));
}

export const fileCommands: readonly CommandSpec[] = [ls, load, save, size, fstype];
