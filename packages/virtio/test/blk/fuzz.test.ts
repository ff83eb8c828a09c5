import { clause } from "@virtio/testkit/clause";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { BlockBackend } from "../../src/backends/block.ts";
import { MemoryBlockBackend } from "../../src/backends/memory-block.ts";
import { ReadOnlyBlockBackend } from "../../src/backends/read-only-block.ts";
import { VirtioFault } from "../../src/fault.ts";
import { SlowDisk, VectorDisk, VolatileDisk } from "./disks.ts";
import { BlkHarness } from "./harness.ts";

const SIZE = 1 << 18;

/** Numbers that are near an edge more often than not. */
const edge = fc.oneof(
  fc.constantFrom(
    0n,
    1n,
    511n,
    512n,
    2n ** 31n,
    2n ** 32n - 1n,
    2n ** 32n,
    2n ** 44n,
    2n ** 53n,
    2n ** 55n,
    2n ** 64n - 1n,
  ),
  fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
  fc.bigInt({ min: 0n, max: BigInt(SIZE / 512) + 2n }),
);
const word = edge.map((value) => Number(value & 0xffff_ffffn));
const type = fc.oneof(fc.constantFrom(0, 1, 4, 5, 8, 11, 13, 14), word);
const payload = fc.oneof(
  fc.uint8Array({ maxLength: 5000 }),
  fc
    .array(fc.record({ sector: edge, sectors: word, flags: fc.oneof(fc.constantFrom(0, 1), word) }), {
      maxLength: 20,
    })
    .map((list) => {
      const view = new DataView(new ArrayBuffer(16 * list.length));
      list.forEach(({ sector, sectors, flags }, i) => {
        view.setBigUint64(16 * i, sector, true);
        view.setUint32(16 * i + 8, sectors, true);
        view.setUint32(16 * i + 12, flags, true);
      });
      return new Uint8Array(view.buffer);
    }),
);
const request = fc.record({
  type,
  sector: edge,
  payload,
  /** Bytes cut off or added at the end of what is readable. */
  shorten: fc.oneof(fc.constant(0), fc.nat(30)),
  writable: fc.oneof(fc.constantFrom(0, 1, 21, 513, 4097), fc.nat(9000)),
  framing: fc.record({
    readable: fc.array(fc.nat(6000), { maxLength: 30 }),
    writable: fc.array(fc.nat(9000), { maxLength: 30 }),
  }),
});

const disks: { name: string; make: () => BlockBackend }[] = [
  { name: "memory", make: () => new MemoryBlockBackend(SIZE + 100) },
  { name: "read-only", make: () => new ReadOnlyBlockBackend(new MemoryBlockBackend(SIZE)) },
  { name: "without discard", make: () => new VolatileDisk(SIZE) },
  { name: "vectors", make: () => new VectorDisk(SIZE) },
  { name: "asynchronous", make: () => new SlowDisk(SIZE) },
];

describe.each(disks)("hostile requests on a backend: $name", ({ make }) => {
  test(
    clause(
      ["dev.blk.operation", "dev.split.framing"],
      "every request ends in a status inside its used length, or a fault",
    ),
    async () => {
      const tally = new Map<string, number>();
      await fc.assert(
        fc.asyncProperty(fc.array(request, { maxLength: 10 }), async (requests) => {
          const harness = new BlkHarness(make(), {}, 0n, 1 << 18);
          for (const { type: kind, sector, payload: out, shorten, writable, framing } of requests) {
            harness.rewind();
            const head = harness.chain({ type: kind, sector, out });
            const bytes = Uint8Array.from(
              head.readable.flatMap(({ gpa, length }) => [...harness.bytes.subarray(gpa, gpa + length)]),
            );
            harness.rewind();
            const chain = harness.rawChain(
              bytes.subarray(0, Math.max(0, bytes.length - shorten)),
              writable,
              framing,
            );
            let outcome: string;
            try {
              const written = await harness.serve(chain);
              const { status } = harness.outcome(chain, written);
              expect(status).toBeLessThanOrEqual(2);
              expect(written).toBe(writable);
              outcome = `status ${status}`;
            } catch (error) {
              if (!(error instanceof VirtioFault)) throw error;
              expect(writable).toBe(0);
              outcome = error.clause;
            }
            tally.set(outcome, (tally.get(outcome) ?? 0) + 1);
          }
        }),
        { numRuns: 150 },
      );
      // A fuzzer that only ever sees one outcome tests nothing.
      expect([...tally.keys()].sort()).toEqual(["drv.blk.operation", "status 0", "status 1", "status 2"]);
    },
  );
});

test("arbitrary configuration writes never throw and leave only writeback changed", () => {
  const harness = new BlkHarness(new MemoryBlockBackend(SIZE));
  const { config } = harness.device;
  const before = new Uint8Array(config.length);
  config.read(0, before);
  fc.assert(
    fc.property(fc.nat(config.length - 1), fc.uint8Array({ minLength: 1, maxLength: 8 }), (offset, bytes) => {
      config.write(offset, bytes.subarray(0, config.length - offset), harness.context);
      const after = new Uint8Array(config.length);
      config.read(0, after);
      expect(after[32]).toBeLessThanOrEqual(1);
      after[32] = before[32] ?? 0;
      expect(after).toEqual(before);
    }),
  );
});
