import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { fillTree } from "../../src/backends/fill-tree.ts";
import { MemoryFileSystem } from "../../src/backends/memory-file-system.ts";
import { VirtioFault } from "../../src/fault.ts";
import { writeLe32 } from "../../src/memory/bytes.ts";
import { MessageWriter } from "../../src/protocols/9p/message.ts";
import * as P from "../../src/protocols/9p/numbers.ts";
import { RawClient } from "./raw.ts";
import { slowFileSystem } from "./slow-file-system.ts";

/** Fields of each T-message: d fid or flags, q 64 bits, b byte, w 16 bits, s name. */
const SHAPES: readonly (readonly [number, string])[] = [
  [P.TSTATFS, "f"],
  [P.TLOPEN, "fd"],
  [P.TLCREATE, "fsddd"],
  [P.TSYMLINK, "fssd"],
  [P.TMKNOD, "fsdddd"],
  [P.TRENAME, "ffs"],
  [P.TREADLINK, "f"],
  [P.TGETATTR, "fq"],
  [P.TSETATTR, "fddddqqqqq"],
  [P.TXATTRWALK, "ffs"],
  [P.TXATTRCREATE, "fsqd"],
  [P.TREADDIR, "fqd"],
  [P.TFSYNC, "fd"],
  [P.TLOCK, "fbdqqds"],
  [P.TGETLOCK, "fbqqds"],
  [P.TLINK, "ffs"],
  [P.TMKDIR, "fsdd"],
  [P.TRENAMEAT, "fsfs"],
  [P.TUNLINKAT, "fsd"],
  [P.TVERSION, "ds"],
  [P.TAUTH, "fssd"],
  [P.TATTACH, "ffssd"],
  [P.TFLUSH, "w"],
  [P.TWALK, "ffns"],
  [P.TREAD, "fqd"],
  [P.TWRITE, "fqd"],
  [P.TCLUNK, "f"],
  [P.TREMOVE, "f"],
];

const fid = fc.oneof({ weight: 9, arbitrary: fc.nat(5) }, fc.constantFrom(P.NOFID, 0x8000_0000, 99));
const u32 = fc.oneof(
  fc.constantFrom(0, 1, 2, 4096, 0o102, 0o2002, 0o40000, 0o100644, 0x200, 65_536),
  fc.nat(70_000),
  fc.constantFrom(0x7fff_ffff, 0xffff_ffff, 0x8000_0000),
);
const u64 = fc.oneof(
  fc.nat(5000),
  fc.constantFrom(0, 1, 65_536, 2 ** 32, 2 ** 52, 2 ** 53 - 1, 2 ** 53, 2 ** 63, 1e9),
);
const name = fc.oneof(
  { weight: 6, arbitrary: fc.constantFrom("a", "b", "c", "file", "sub", "link", "user.x", "9P2000.L") },
  fc.constantFrom("", ".", "..", "a/b", "x\0", "x".repeat(255), "x".repeat(256), "\udc80\udcff"),
);

interface Step {
  readonly message: Uint8Array;
  readonly room: number;
  readonly cuts: readonly number[];
}

function build(type: number, shape: string, values: readonly [number, number, string][]): Uint8Array {
  const w = new MessageWriter(new Uint8Array(20_000)).start();
  let at = 0;
  for (const letter of shape) {
    const [small, large, text] = values[at++ % values.length] ?? [0, 0, ""];
    if (letter === "f") w.u32(small % 7 === 6 ? small : small % 6);
    else if (letter === "d") w.u32(small);
    else if (letter === "q") w.u64(Math.min(large, 2 ** 63));
    else if (letter === "b") w.u8(small);
    else if (letter === "w") w.u16(small);
    else if (letter === "n") w.u16(1);
    else w.text(text);
  }
  if (type === P.TWRITE) for (let i = 0; i < (values[0]?.[0] ?? 0) % 300; i++) w.u8(i);
  const size = w.finish(type, 1);
  return w.bytes.slice(0, size);
}

/** A message that is right but for its values, sometimes with bytes changed, cut off, or with a size that lies. */
const step: fc.Arbitrary<Step> = fc
  .record({
    shape: fc.constantFrom(...SHAPES),
    fid,
    values: fc.array(fc.tuple(fc.oneof(fid, u32), u64, name), { minLength: 1, maxLength: 6 }),
    damage: fc.option(
      fc.record({ at: fc.nat(60), value: fc.nat(255), cut: fc.nat(80), size: fc.option(u32) }),
      { freq: 4 },
    ),
    room: fc.oneof(fc.constant(8192), fc.integer({ min: 0, max: 300 }), fc.constant(70_000)),
    cuts: fc.array(fc.nat(200), { maxLength: 4 }),
  })
  .map(({ shape: [type, shape], values, damage, room, cuts }) => {
    let message = build(type, shape, values);
    if (damage !== null) {
      if (damage.at < message.length) message[damage.at] = damage.value;
      if (damage.size !== null && message.length >= 4) writeLe32(message, 0, damage.size);
      if (damage.cut < message.length) message = message.slice(0, damage.cut);
    }
    return { message, room, cuts };
  });

function fill(fs: MemoryFileSystem): void {
  fillTree(fs, { file: "contents", link: { symlink: "file" }, sub: { directory: { a: "a", b: "b" } } });
}

function begin(client: RawClient): void {
  client.ready();
  for (const [number, path] of [
    [1, []],
    [2, ["file"]],
    [3, ["sub"]],
    [4, ["link"]],
    [5, ["sub", "a"]],
  ] as const) {
    client.walk(0, number, ...path);
  }
}

describe("any message at any time", () => {
  test("ends in a reply or a fault, and the memory stays bounded", () => {
    fc.assert(
      fc.property(fc.array(step, { minLength: 1, maxLength: 40 }), (steps) => {
        const fs = new MemoryFileSystem({ maxBytes: 1 << 20, maxInodes: 100 });
        fill(fs);
        const client = new RawClient(fs, { fids: 20, openFiles: 8, xattrBytes: 200_000 });
        begin(client);
        for (const { message, room, cuts } of steps) {
          try {
            const reply = client.sendBytes(message, { room, cuts });
            expect(reply).not.toBeInstanceOf(Promise);
          } catch (error) {
            expect(error).toBeInstanceOf(VirtioFault);
            expect(room).toBeLessThan(P.RLERROR_SIZE);
          }
        }
        expect(fs.bytesUsed).toBeLessThanOrEqual(1 << 20);
        // Everything is given back: what is left has names.
        void client.device.reset?.();
        expect(fs.inodesUsed).toBe(countNames(fs));
        for (const node of reachable(fs)) expect(node.references).toBe(0);
      }),
      { numRuns: 1500 },
    );
  });

  test("the same with an asynchronous file system, many at a time, resets in between", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(step, { minLength: 1, maxLength: 25 }),
        fc.array(fc.nat(6), { minLength: 1, maxLength: 20 }),
        fc.option(fc.nat(30)),
        async (steps, turns, resetAt) => {
          const memory = new MemoryFileSystem({ maxBytes: 1 << 20, maxInodes: 100 });
          fill(memory);
          let at = 0;
          const slow = slowFileSystem(() => turns[at++ % turns.length] ?? 0, memory);
          const client = new RawClient(slow.fs, { fids: 20, openFiles: 8, xattrBytes: 200_000 }, 1 << 22);
          await client.send(P.TVERSION, (w) => void w.u32(65_536).text("9P2000.L"));
          await client.send(P.TATTACH, (w) => void w.u32(0).u32(P.NOFID).text("").text("").u32(0));
          for (const fid of [1, 2, 3]) {
            await client.send(
              P.TWALK,
              (w) =>
                void w
                  .u32(0)
                  .u32(fid)
                  .u16(1)
                  .text(fid === 1 ? "file" : "sub"),
            );
          }
          const replies: Promise<unknown>[] = [];
          let wasReset = false;
          for (const [i, { message, room, cuts }] of steps.entries()) {
            if (i === resetAt) {
              wasReset = true;
              await client.device.reset?.();
              break;
            }
            // A lost reply of a reset device is all zeroes, which `sendBytes` would refuse.
            const sent = (async () => client.sendBytes(message, { room: Math.max(room, 11), cuts }))();
            replies.push(wasReset || resetAt !== null ? sent.catch(() => undefined) : sent);
            if ((turns[i % turns.length] ?? 0) > 3) await Promise.resolve();
          }
          await Promise.all(replies);
          await client.device.reset?.();
          for (let i = 0; i < 50; i++) await Promise.resolve();
          expect(memory.inodesUsed).toBe(countNames(memory));
          for (const node of reachable(memory)) expect(node.references).toBe(0);
        },
      ),
      { numRuns: 400 },
    );
  });
});

function reachable(fs: MemoryFileSystem): Set<MemoryFileSystem["root"]> {
  const found = new Set([fs.root]);
  for (const node of found)
    for (const { node: child } of node.directory?.entries.values() ?? []) found.add(child);
  return found;
}

const countNames = (fs: MemoryFileSystem): number => reachable(fs).size;
