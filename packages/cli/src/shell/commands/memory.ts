import { crc32 } from "node:zlib";
import type { CommandSpec, Context } from "../command.ts";
import { CommandError, UsageError } from "../errors.ts";
import { hex, hex8 } from "../numbers.ts";

const SIZES: Readonly<Record<string, number>> = { b: 1, w: 2, l: 4, q: 8 };
const LINE = 16;
/** Objects of `md` without a length. */
const DEFAULT_LENGTH = 0x40;
/** Lines between turns of the event loop, in which Ctrl-C is heard. */
const LINES_A_TURN = 256;
const TYPES: Readonly<Record<number, string>> = { 1: "byte", 2: "halfword", 4: "word", 8: "double word" };
const SUFFIXES = "[.b, .w, .l, .q] ";

/** Bytes of an object, by the end of the command's name. */
function sizeOf(word: string): number {
  const suffix = /\.([a-z])$/.exec(word)?.[1] ?? "l";
  const size = SIZES[suffix];
  if (size === undefined) throw new UsageError();
  return size;
}

/** Bytes of so many objects. */
function lengthOf(count: number, size: number): number {
  const length = count * size;
  if (!Number.isSafeInteger(length)) throw new CommandError(`## Error: 0x${count.toString(16)} is too many`);
  return length;
}

/** Values are little-endian here as in the targets. */
function valueText(bytes: Uint8Array, at: number, size: number): string {
  let text = "";
  for (let i = size - 1; i >= 0; i--) text += (bytes[at + i] ?? 0).toString(16).padStart(2, "0");
  return text;
}

/** As `cmp` prints a value: as many characters as it has bytes at least, the 0x included. */
function shortText(bytes: Uint8Array, at: number, size: number): string {
  const digits = BigInt(`0x${valueText(bytes, at, size)}`).toString(16);
  return `0x${digits.padStart(size - 2, "0")}`;
}

/** Where the last `md` of a shell stopped: an empty line goes on there. */
const stopped = new WeakMap<object, number>();

const md: CommandSpec = {
  name: "md",
  summary: "memory display",
  help: `${SUFFIXES}address [# of objects]`,
  words: 3,
  repeats: true,
  sized: true,
  async run(context, words) {
    const [name = "", address, count] = words;
    if (address === undefined) throw new UsageError();
    const { memory } = context;
    const size = sizeOf(name);
    const begin = context.repeated ? (stopped.get(memory) ?? 0) : hex(address, "md");
    const length = lengthOf(count === undefined ? DEFAULT_LENGTH : hex(count, "md"), size);
    memory.readable(begin, length);
    for (let at = 0, lines = 0; at < length; at += LINE, lines++) {
      if (lines % LINES_A_TURN === LINES_A_TURN - 1) {
        await new Promise((resolve) => setImmediate(resolve));
        context.signal.throwIfAborted();
      }
      const bytes = memory.readable(begin + at, Math.min(LINE, length - at));
      context.out.write(`${dumpLine(begin + at, bytes, size)}\n`);
    }
    stopped.set(memory, begin + length);
    return 0;
  },
};

/** An address, up to 16 bytes as numbers, and as characters. */
export function dumpLine(address: number, bytes: Uint8Array, size: number): string {
  let line = `${hex8(address)}:`;
  for (let at = 0; at < bytes.length; at += size) line += ` ${valueText(bytes, at, size)}`;
  const missing = (LINE - bytes.length) / size;
  line += " ".repeat(Math.max(0, missing) * (size * 2 + 1));
  const characters = Array.from(bytes, (byte) =>
    byte >= 0x20 && byte < 0x7f ? String.fromCharCode(byte) : ".",
  );
  return `${line}    ${characters.join("")}`;
}

const mw: CommandSpec = {
  name: "mw",
  summary: "memory write (fill)",
  help: `${SUFFIXES}address value [count]`,
  words: 4,
  sized: true,
  run({ memory }, [name = "", address, text, count]) {
    if (address === undefined || text === undefined) throw new UsageError();
    const size = sizeOf(name);
    if (!/^(0[xX])?[0-9a-fA-F]{1,16}$/.test(text)) hex(text, "mw");
    const value = BigInt(`0x${text.replace(/^0[xX]/, "")}`);
    const target = memory.writable(
      hex(address, "mw"),
      lengthOf(count === undefined ? 1 : hex(count, "mw"), size),
    );
    if (target.length === 0) return 0;
    for (let i = 0; i < size; i++) target[i] = Number((value >> BigInt(8 * i)) & 0xffn);
    // Twice as much each time.
    for (let done = size; done < target.length; done *= 2)
      target.copyWithin(done, 0, Math.min(done, target.length - done));
    return 0;
  },
};

const cp: CommandSpec = {
  name: "cp",
  summary: "memory copy",
  help: `${SUFFIXES}source target count`,
  words: 4,
  sized: true,
  run({ memory, out }, [name = "", source, target, count]) {
    if (source === undefined || target === undefined || count === undefined) throw new UsageError();
    const length = lengthOf(hex(count, "cp"), sizeOf(name));
    if (length === 0) {
      out.write("Zero length ???\n");
      return 1;
    }
    const from = memory.readable(hex(source, "cp"), length);
    memory.writable(hex(target, "cp"), length).set(from);
    return 0;
  },
};

const cmp: CommandSpec = {
  name: "cmp",
  summary: "memory compare",
  help: `${SUFFIXES}addr1 addr2 count`,
  words: 4,
  sized: true,
  run(context, [name = "", first, second, count]) {
    if (first === undefined || second === undefined || count === undefined) throw new UsageError();
    return compare(context, sizeOf(name), hex(first, "cmp"), hex(second, "cmp"), hex(count, "cmp"));
  },
};

function compare(
  { memory, out }: Context,
  size: number,
  first: number,
  second: number,
  count: number,
): number {
  const length = lengthOf(count, size);
  const a = memory.readable(first, length);
  const b = memory.readable(second, length);
  const type = TYPES[size] ?? "";
  let same = count;
  if (Buffer.compare(a, b) !== 0) {
    const at = a.findIndex((byte, index) => byte !== b[index]);
    same = Math.floor(at / size);
    const side = (address: number, bytes: Uint8Array): string =>
      `${type} at 0x${hex8(address + same * size)} (${shortText(bytes, same * size, size)})`;
    out.write(`${side(first, a)} != ${side(second, b)}\n`);
  }
  out.write(`Total of ${same} ${type}(s) were the same\n`);
  return Number(same !== count);
}

const crc: CommandSpec = {
  name: "crc32",
  summary: "checksum calculation",
  help: "address count [addr]\n    - compute CRC32 checksum [save at addr]\n-v address count crc\n    - verify crc of memory area",
  words: 5,
  run({ memory, out }, [, ...words]) {
    const verify = words[0] === "-v";
    const [address, count, third] = verify ? words.slice(1) : words;
    if (address === undefined || count === undefined || (verify && third === undefined))
      throw new UsageError();
    const begin = hex(address, "crc32");
    const length = hex(count, "crc32");
    const sum = crc32(memory.readable(begin, length));
    out.write(`crc32 for ${hex8(begin)} ... ${hex8(begin + length - 1)} ==> ${hex8(sum)}`);
    if (verify && hex(third, "crc32") !== sum) {
      out.write(` != ${hex8(hex(third, "crc32"))} ** ERROR **\n`);
      return 1;
    }
    out.write("\n");
    // U-Boot stores it as network order has it.
    if (!verify && third !== undefined)
      memory
        .writable(hex(third, "crc32"), 4)
        .set([sum >>> 24, (sum >>> 16) & 0xff, (sum >>> 8) & 0xff, sum & 0xff]);
    return 0;
  },
};

export const memoryCommands: readonly CommandSpec[] = [md, mw, cp, cmp, crc];
