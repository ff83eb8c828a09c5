import { clause } from "@virtio/testkit/clause";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { BlockBackend } from "../../src/backends/block.ts";
import { MemoryBlockBackend } from "../../src/backends/memory-block.ts";
import { OverlayBlockBackend } from "../../src/backends/overlay-block.ts";
import * as BLK from "../../src/spec/blk.ts";
import { SlowDisk, SlowVectorDisk, StartingDisk, VectorDisk, VolatileDisk } from "./disks.ts";
import { BlkHarness, type Framing, type RequestParts } from "./harness.ts";

const SECTORS = 96;
const SIZE = SECTORS * 512;

/** Everything about one request that a driver can choose within the rules, and a little beyond the capacity. */
const framing: fc.Arbitrary<Framing> = fc.record({
  readable: fc.array(fc.nat(70_000), { maxLength: 12 }),
  writable: fc.array(fc.nat(70_000), { maxLength: 12 }),
});
const place = fc.record({ sector: fc.nat(SECTORS + 3), sectors: fc.nat(20) });
const ranges = fc.array(fc.record({ sector: fc.nat(SECTORS), sectors: fc.nat(40), unmap: fc.boolean() }), {
  minLength: 1,
  maxLength: 3,
});
const operation = fc.oneof(
  fc.record({ kind: fc.constant("read" as const), place }),
  fc.record({ kind: fc.constant("write" as const), place, seed: fc.nat(255) }),
  fc.record({ kind: fc.constant("zero" as const), ranges }),
  fc.record({ kind: fc.constant("discard" as const), ranges }),
  fc.record({ kind: fc.constant("flush" as const) }),
  fc.record({ kind: fc.constant("id" as const) }),
);
type Operation = typeof operation extends fc.Arbitrary<infer T> ? T : never;

/** What the disk must hold; undefined where a discard left it open. */
class Model {
  readonly bytes: (number | undefined)[] = Array.from({ length: SIZE }, () => 0);

  fits(sector: number, sectors: number): boolean {
    return sector + sectors <= SECTORS;
  }

  fill(sector: number, values: readonly (number | undefined)[]): void {
    values.forEach((value, i) => (this.bytes[sector * 512 + i] = value));
  }
}

function pattern(seed: number, length: number): Uint8Array {
  return Uint8Array.from({ length }, (_, i) => (seed + i * 31) & 0xff);
}

function rangeBytes(
  list: readonly { sector: number; sectors: number; unmap: boolean }[],
  unmap: boolean,
): Uint8Array {
  const bytes = new DataView(new ArrayBuffer(16 * list.length));
  list.forEach((range, i) => {
    bytes.setBigUint64(16 * i, BigInt(range.sector), true);
    bytes.setUint32(16 * i + 8, range.sectors, true);
    bytes.setUint32(16 * i + 12, unmap && range.unmap ? 1 : 0, true);
  });
  return new Uint8Array(bytes.buffer);
}

function requestOf(op: Operation): RequestParts {
  switch (op.kind) {
    case "read":
      return { type: BLK.VIRTIO_BLK_T_IN, sector: op.place.sector, in: op.place.sectors * 512 };
    case "write":
      return {
        type: BLK.VIRTIO_BLK_T_OUT,
        sector: op.place.sector,
        out: pattern(op.seed, op.place.sectors * 512),
      };
    case "zero":
      return { type: BLK.VIRTIO_BLK_T_WRITE_ZEROES, out: rangeBytes(op.ranges, true) };
    case "discard":
      return { type: BLK.VIRTIO_BLK_T_DISCARD, out: rangeBytes(op.ranges, false) };
    case "flush":
      return { type: BLK.VIRTIO_BLK_T_FLUSH };
    case "id":
      return { type: BLK.VIRTIO_BLK_T_GET_ID, in: 20 };
  }
}

/** The status that must come, after which the model is as the disk must be. */
function apply(model: Model, op: Operation, emulated: boolean): number {
  switch (op.kind) {
    case "read":
      return model.fits(op.place.sector, op.place.sectors) ? 0 : 1;
    case "write":
      if (!model.fits(op.place.sector, op.place.sectors)) return 1;
      model.fill(op.place.sector, [...pattern(op.seed, op.place.sectors * 512)]);
      return 0;
    case "zero":
    case "discard": {
      if (op.kind === "discard" && emulated) return 2;
      if (!op.ranges.every(({ sector, sectors }) => model.fits(sector, sectors))) return 1;
      const value = op.kind === "zero" ? 0 : undefined;
      for (const { sector, sectors } of op.ranges)
        model.fill(
          sector,
          Array.from({ length: sectors * 512 }, () => value),
        );
      return 0;
    }
    default:
      return 0;
  }
}

const backends: { name: string; make: () => BlockBackend; emulated?: boolean; pinned?: boolean }[] = [
  { name: "memory", make: () => new MemoryBlockBackend(SIZE) },
  { name: "readv and writev", make: () => new VectorDisk(SIZE) },
  { name: "asynchronous", make: () => new SlowDisk(SIZE) },
  { name: "asynchronous, memory pinned", make: () => new SlowDisk(SIZE), pinned: true },
  {
    name: "asynchronous readv and writev, memory pinned",
    make: () => new SlowVectorDisk(SIZE),
    pinned: true,
  },
  {
    name: "that tells of the end, memory pinned",
    make: () => new StartingDisk(new MemoryBlockBackend(SIZE)),
    pinned: true,
    emulated: true,
  },
  { name: "overlay", make: () => new OverlayBlockBackend(new MemoryBlockBackend(SIZE)) },
  {
    name: "asynchronous overlay",
    make: () => new OverlayBlockBackend(new SlowDisk(SIZE), new SlowDisk(SIZE)),
  },
  { name: "no discard, no zeroes, slow flush", make: () => new VolatileDisk(SIZE, true), emulated: true },
];

describe.each(backends)("on a backend: $name", ({ make, emulated = false, pinned = false }) => {
  test(
    clause(
      ["dev.blk.operation", "dev.split.framing", "drv.split.framing"],
      "any requests in any framing do to the disk what they do to a model",
    ),
    async () => {
      await fc.assert(
        fc.asyncProperty(
          fc.array(fc.tuple(operation, framing), { maxLength: 25 }),
          fc.boolean(),
          async (history, writeCache) => {
            const harness = new BlkHarness(
              make(),
              { serial: "model disk", writeCache, configWce: false },
              0n,
              1 << 22,
              pinned,
            );
            const model = new Model();
            for (const [op, cuts] of history) {
              const expected = apply(model, op, emulated);
              const parts = requestOf(op);
              const { status, written, data } = await harness.request(parts, cuts);
              expect({ op, status }).toEqual({ op, status: expected });
              expect(written).toBe((parts.in ?? 0) + 1);
              if (status !== 0) expect(data.every((byte) => byte === 0)).toBe(true);
              else if (op.kind === "read") expectData(data, model, op.place.sector);
              else if (op.kind === "id")
                expect(Buffer.from(data).toString()).toBe("model disk".padEnd(20, "\0"));
            }
          },
        ),
        { numRuns: 60 },
      );
    },
  );
});

function expectData(data: Uint8Array, model: Model, sector: number): void {
  const wrong = data.findIndex((byte, i) => {
    const expected = model.bytes[sector * 512 + i];
    return expected !== undefined && expected !== byte;
  });
  expect(wrong).toBe(-1);
}
