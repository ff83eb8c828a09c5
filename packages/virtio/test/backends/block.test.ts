import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { BlockBackend } from "../../src/backends/block.ts";
import { MemoryBlockBackend } from "../../src/backends/memory-block.ts";
import { OverlayBlockBackend } from "../../src/backends/overlay-block.ts";
import { ReadOnlyBlockBackend } from "../../src/backends/read-only-block.ts";
import { MemoryBudget } from "../../src/backends/memory-budget.ts";
import { SparseBlockBackend } from "../../src/backends/sparse-block.ts";
import { SectorSet } from "../../src/backends/sector-set.ts";
import { SlowDisk } from "../blk/disks.ts";

const SECTORS = 600;
const SIZE = SECTORS * 512;

const step = fc.record({
  kind: fc.constantFrom("read", "write", "zero", "unmap", "discard"),
  sector: fc.nat(SECTORS),
  count: fc.nat(300),
});

function contents(): Uint8Array {
  return Uint8Array.from({ length: SIZE }, (_, i) => (i >>> 9) & 0xff);
}

function slow(bytes: Uint8Array): SlowDisk {
  const disk = new SlowDisk(bytes.length);
  disk.inner.write(0, bytes);
  return disk;
}

const backends: { name: string; make: () => BlockBackend }[] = [
  { name: "memory", make: () => new MemoryBlockBackend(contents()) },
  {
    name: "sparse memory",
    make: () => {
      const disk = new SparseBlockBackend(SIZE);
      disk.write(0, contents());
      return disk;
    },
  },
  { name: "overlay of memory", make: () => new OverlayBlockBackend(new MemoryBlockBackend(contents())) },
  {
    name: "overlay of an overlay",
    make: () => new OverlayBlockBackend(new OverlayBlockBackend(new MemoryBlockBackend(contents()))),
  },
  { name: "overlay, both slow", make: () => new OverlayBlockBackend(slow(contents()), new SlowDisk(SIZE)) },
  {
    name: "overlay of a slow base in RAM",
    make: () => new OverlayBlockBackend(new ReadOnlyBlockBackend(slow(contents()))),
  },
];

describe.each(backends)("$name", ({ make }) => {
  test("holds what a plain array holds, except where it was discarded", async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 20 }), async (steps) => {
        const disk = make();
        const model = contents();
        const open = new Uint8Array(SECTORS);
        for (const [i, { kind, sector, count }] of steps.entries()) {
          const end = Math.min(SECTORS, sector + count);
          const [offset, length] = [sector * 512, Math.max(0, end - sector) * 512];
          if (kind === "read") await check(disk, model, open, sector, Math.max(sector, end));
          else if (kind === "write") {
            const source = new Uint8Array(length).fill(i + 1);
            await disk.write(offset, source);
            model.set(source, offset);
            open.fill(0, sector, end);
          } else if (kind === "discard") {
            await disk.discard?.(offset, length);
            open.fill(1, sector, end);
          } else {
            await disk.writeZeroes?.(offset, length, kind === "unmap");
            model.fill(0, offset, offset + length);
            open.fill(0, sector, end);
          }
        }
        await check(disk, model, open, 0, SECTORS);
      }),
      { numRuns: 60 },
    );
  });
});

async function check(
  disk: BlockBackend,
  model: Uint8Array,
  open: Uint8Array,
  from: number,
  to: number,
): Promise<void> {
  const bytes = new Uint8Array((to - from) * 512).fill(0xcc);
  await disk.read(from * 512, bytes);
  for (let sector = from; sector < to; sector++) {
    if (open[sector] === 1) continue;
    const [got, wanted] = [
      bytes.subarray((sector - from) * 512, (sector - from + 1) * 512),
      model.subarray(sector * 512, (sector + 1) * 512),
    ];
    if (Buffer.compare(got, wanted) !== 0)
      throw new Error(`sector ${sector} holds ${got[0]}, not ${wanted[0]}`);
  }
}

describe("overlay disk", () => {
  test("the base is never changed", async () => {
    const base = contents();
    const overlay = new OverlayBlockBackend(new MemoryBlockBackend(base));
    await overlay.write(0, new Uint8Array(SIZE).fill(0xff));
    await overlay.writeZeroes?.(0, SIZE, true);
    await overlay.discard?.(0, SIZE);
    expect(Buffer.compare(base, contents())).toBe(0);
  });

  test("old data of the base does not come back after a discard", async () => {
    const overlay = new OverlayBlockBackend(new MemoryBlockBackend(contents()));
    await overlay.discard?.(0, SIZE);
    const bytes = new Uint8Array(SIZE);
    await overlay.read(0, bytes);
    expect(bytes.every((byte) => byte === 0)).toBe(true);
  });

  test("a write that failed leaves the base in view", async () => {
    const overlay = new OverlayBlockBackend(
      new MemoryBlockBackend(contents()),
      new MemoryBlockBackend(SIZE, { maxBytes: 0 }),
    );
    expect(() => overlay.write(512, new Uint8Array(512))).toThrow(/no space/);
    const bytes = new Uint8Array(512);
    await overlay.read(512, bytes);
    expect(bytes[0]).toBe(1);
  });

  test("a failing read is told when all of its pieces have ended", async () => {
    const base = slow(contents());
    const overlay = new OverlayBlockBackend(base, new SlowDisk(SIZE));
    await overlay.write(512, new Uint8Array(512));
    let turns = 0;
    base.turn = async () => {
      if (++turns === 1) throw new Error("bad sector");
      for (let i = 0; i < 10; i++) await Promise.resolve();
    };
    await expect(overlay.read(0, new Uint8Array(2048))).rejects.toThrow("bad sector");
    expect([turns, base.busy]).toEqual([2, 0]);
  });

  test("a top that is too small or read-only is refused", () => {
    const base = new MemoryBlockBackend(SIZE);
    expect(() => new OverlayBlockBackend(base, new MemoryBlockBackend(SIZE - 1))).toThrow(RangeError);
    expect(() => new OverlayBlockBackend(base, new ReadOnlyBlockBackend(base))).toThrow(RangeError);
  });
});

describe("memory disk", () => {
  test("takes RAM only for what was written, and gives it back", () => {
    const disk = new MemoryBlockBackend(2 ** 40);
    disk.write(2 ** 39, new Uint8Array(512));
    expect(disk.allocated).toBe(65_536);
    disk.writeZeroes(2 ** 39, 65_536, false);
    expect(disk.allocated).toBe(65_536);
    disk.writeZeroes(2 ** 39, 65_536, true);
    expect(disk.allocated).toBe(0);
  });

  test("shrinking forgets, growing reads as zeroes", () => {
    const disk = new MemoryBlockBackend(contents());
    let told = 0;
    disk.onResize = () => told++;
    disk.resize(1000 * 100);
    disk.resize(SIZE);
    const bytes = new Uint8Array(SIZE);
    disk.read(0, bytes);
    expect(bytes.findLastIndex((byte) => byte !== 0)).toBe(99_999);
    expect(told).toBe(2);
    expect(() => disk.resize(-1)).toThrow(RangeError);
    expect(disk.size).toBe(SIZE);
  });
});

test("a read-only disk refuses writes, offers no discard, and passes resizes on", () => {
  const base = new MemoryBlockBackend(SIZE);
  const disk = new ReadOnlyBlockBackend(base);
  expect(() => disk.write()).toThrow(/read-only/);
  expect("discard" in disk || "writeZeroes" in disk).toBe(false);
  let told = 0;
  disk.onResize = () => told++;
  base.resize(512);
  expect([told, disk.size]).toEqual([1, 512]);
});

test("a sector set is a set, and its runs are the longest", () => {
  const range = fc.tuple(fc.nat(100_000), fc.nat(40_000));
  fc.assert(
    fc.property(
      fc.array(range, { maxLength: 8 }),
      fc.array(fc.nat(140_000), { maxLength: 20 }),
      (ranges, probes) => {
        const budget = new MemoryBudget(2 ** 20, "sectors");
        const set = new SectorSet(budget);
        const model = new Uint8Array(140_001);
        for (const [from, length] of ranges) {
          set.add(from, from + length);
          model.fill(1, from, from + length);
        }
        for (const probe of probes) {
          expect(set.has(probe)).toBe(model[probe] === 1);
          const limit = 140_000;
          let end = probe + 1;
          while (end < limit && model[end] === model[probe]) end++;
          expect(set.runEnd(probe, limit)).toBe(Math.min(end, limit));
        }
        // 140,000 sectors are 35 pages.
        expect(budget.used).toBeLessThanOrEqual(35 * (512 + 256));
      },
    ),
    { numRuns: 60 },
  );
});

test("changes that are scattered take little more than themselves; what is discarded can be had again", () => {
  const budget = new MemoryBudget(2 ** 30, "changes");
  const TIB = 2 ** 40;
  const overlay = new OverlayBlockBackend(new MemoryBlockBackend(TIB), undefined, budget);
  const sector = new Uint8Array(512).fill(7);
  const count = 20_000;
  // One in each 64 KiB, and one in each 48 MiB.
  for (const stride of [65_536, 48 << 20]) {
    const before = budget.used;
    for (let i = 0; i < count; i++) void overlay.write((i * stride) % TIB, sector);
    const each = (budget.used - before) / count;
    expect(each).toBeLessThan(stride === 65_536 ? 700 : 2000);
  }
  const used = budget.used;
  void overlay.discard?.(0, TIB);
  const target = new Uint8Array(512).fill(1);
  void overlay.read(65_536, target);
  expect(target.every((byte) => byte === 0)).toBe(true);
  // The books of a whole disk are places without bits.
  expect(budget.used - used).toBeLessThan((256 * TIB) / 2 ** 21);
  const full = budget.used;
  for (let i = 0; i < count; i++) void overlay.write(i * 65_536, sector);
  expect(budget.used - full).toBeLessThan(100 * count);
});

test("at its limit a snapshot refuses what is new, whole or in part, and goes on with what it has", () => {
  fc.assert(
    fc.property(
      fc.array(fc.tuple(fc.nat(4000), fc.integer({ min: 1, max: 40 })), { minLength: 50, maxLength: 200 }),
      (writes) => {
        const budget = new MemoryBudget(1 << 20, "changes (--snapshot-limit)");
        const base = new MemoryBlockBackend(4096 * 4096);
        const overlay = new OverlayBlockBackend(base, undefined, budget);
        const written = new Map<number, number>();
        let refused = 0;
        writes.forEach(([at, length], i) => {
          try {
            void overlay.write(at * 4096, new Uint8Array(length * 512).fill(i + 1));
            for (let s = 0; s < length; s++) written.set(at * 8 + s, (i + 1) & 0xff);
          } catch (error) {
            refused++;
            expect((error as Error).message).toBe(
              "no space left: changes (--snapshot-limit) may take 1048576 bytes of memory",
            );
            // What it holds is as before, or new.
            for (let s = 0; s < length; s++) written.delete(at * 8 + s);
          }
          expect(budget.used).toBeLessThanOrEqual(1 << 20);
        });
        const target = new Uint8Array(512);
        for (const [sector, value] of written) {
          void overlay.read(sector * 512, target);
          expect(target.every((byte) => byte === value)).toBe(true);
        }
        for (const [sector] of written) void overlay.write(sector * 512, target);
        return refused >= 0;
      },
    ),
    { numRuns: 20 },
  );
});
