import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { BlockBackend } from "../../src/backends/block.ts";
import { MemoryBlockBackend } from "../../src/backends/memory-block.ts";
import {
  VIRTIO_BLK_S_IOERR,
  VIRTIO_BLK_S_OK,
  VIRTIO_BLK_T_IN,
  VIRTIO_BLK_T_OUT,
  VIRTIO_BLK_T_WRITE_ZEROES,
} from "../../src/spec/blk.ts";
import { SlowDisk } from "./disks.ts";
import { BlkHarness } from "./harness.ts";

/** Requests that are done in pieces. */

const SECTOR = 512;
const LONG = 5 << 20;
const SIZE = 2 * LONG;
const MEMORY = 1 << 24;

/** Four bytes tell where they belong. */
function pattern(length: number, first: number): Uint8Array {
  return new Uint8Array(Uint32Array.from({ length: length / 4 }, (_, i) => i + first).buffer);
}

function make(slow: boolean, contents: Uint8Array): BlockBackend {
  if (!slow) return new MemoryBlockBackend(contents.slice());
  const disk = new SlowDisk(contents.length);
  disk.inner.write(0, contents);
  return disk;
}

const sector = fc.nat((SIZE - LONG) / SECTOR);
const cuts = fc.array(fc.nat(LONG), { maxLength: 4 });
const equal = (a: Uint8Array, b: Uint8Array): boolean => Buffer.compare(a, b) === 0;

describe.each([
  { name: "at once", slow: false, pinned: false },
  { name: "through buffers", slow: true, pinned: false },
  { name: "by promises, straight", slow: true, pinned: true },
])("a backend that answers $name", ({ slow, pinned }) => {
  test("a long read and write move what is asked for, however it is cut", async () => {
    const contents = pattern(SIZE, 7);
    await fc.assert(
      fc.asyncProperty(sector, cuts, cuts, async (at, readable, writable) => {
        const harness = new BlkHarness(make(slow, contents), {}, 0n, MEMORY, pinned);
        const read = await harness.request(
          { type: VIRTIO_BLK_T_IN, sector: at, in: LONG },
          { readable: [], writable },
        );
        expect([read.status, read.written]).toEqual([VIRTIO_BLK_S_OK, LONG + 1]);
        expect(equal(read.data, contents.subarray(at * SECTOR, at * SECTOR + LONG))).toBe(true);
        const out = pattern(LONG, 1 << 30);
        const write = await harness.request(
          { type: VIRTIO_BLK_T_OUT, sector: at, out },
          { readable, writable: [] },
        );
        expect(write.status).toBe(VIRTIO_BLK_S_OK);
        const expected = contents.slice();
        expected.set(out, at * SECTOR);
        const whole = await harness.request({ type: VIRTIO_BLK_T_IN, in: SIZE });
        expect(equal(whole.data, expected)).toBe(true);
      }),
      { numRuns: 4 },
    );
  });

  test("a failure in the middle is the request's, and the next one is served", async () => {
    const disk = make(slow, pattern(SIZE, 0));
    const read = disk.read.bind(disk);
    let fails = true;
    disk.read = (offset, target) => {
      if (fails && offset >= LONG / 2) throw new Error("a bad sector");
      return read(offset, target);
    };
    const harness = new BlkHarness(disk, {}, 0n, MEMORY, pinned);
    const { status } = await harness.request({ type: VIRTIO_BLK_T_IN, in: LONG });
    expect(status).toBe(VIRTIO_BLK_S_IOERR);
    fails = false;
    expect((await harness.request({ type: VIRTIO_BLK_T_IN, in: LONG })).status).toBe(VIRTIO_BLK_S_OK);
  });

  test("a reset in the middle waits for the piece, and no other one follows", async () => {
    const disk = make(slow, pattern(SIZE, 0));
    const read = disk.read.bind(disk);
    let pieces = 0;
    const harness = new BlkHarness(disk, {}, 0n, MEMORY, pinned);
    let reset: unknown;
    disk.read = (offset, target) => {
      if (++pieces === 2) reset = harness.device.reset();
      return read(offset, target);
    };
    const chain = harness.chain({ type: VIRTIO_BLK_T_IN, in: LONG });
    expect(await harness.serve(chain)).toBe(0);
    await reset;
    expect(pieces).toBe(2);
    // The status byte is the driver's.
    expect(harness.outcome(chain, 0).status).toBe(0xa5);
  });
});

test("long zeroes are those that were asked for", async () => {
  const contents = pattern(SIZE, 7);
  const harness = new BlkHarness(new MemoryBlockBackend(contents.slice()), {}, 0n, MEMORY);
  const ranges = new Uint8Array(32);
  const view = new DataView(ranges.buffer);
  const sectors = LONG / 2 / SECTOR;
  [3, 7 + sectors].forEach((first, i) => {
    view.setBigUint64(16 * i, BigInt(first), true);
    view.setUint32(16 * i + 8, sectors + 1, true);
    view.setUint32(16 * i + 12, i, true);
    contents.fill(0, first * SECTOR, (first + sectors + 1) * SECTOR);
  });
  const zeroes = await harness.request({ type: VIRTIO_BLK_T_WRITE_ZEROES, out: ranges });
  expect(zeroes.status).toBe(VIRTIO_BLK_S_OK);
  const whole = await harness.request({ type: VIRTIO_BLK_T_IN, in: SIZE });
  expect(equal(whole.data, contents)).toBe(true);
});
