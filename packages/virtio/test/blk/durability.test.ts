import { clause } from "@virtio/testkit/clause";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import * as BLK from "../../src/spec/blk.ts";
import { VIRTIO_F_VERSION_1, featureBits } from "../../src/spec/core.ts";
import { StartingDisk, VolatileDisk } from "./disks.ts";
import { BlkHarness } from "./harness.ts";

const SECTORS = 16;
const WCE = featureBits(BLK.VIRTIO_BLK_F_CONFIG_WCE);
const FLUSH = featureBits(BLK.VIRTIO_BLK_F_FLUSH);
const ALL = featureBits(VIRTIO_F_VERSION_1, BLK.VIRTIO_BLK_F_WRITE_ZEROES);

const step = fc.oneof(
  fc.record({
    kind: fc.constant("write" as const),
    sector: fc.nat(SECTORS - 1),
    value: fc.integer({ min: 1, max: 255 }),
  }),
  fc.record({ kind: fc.constant("zero" as const), sector: fc.nat(SECTORS - 1) }),
  fc.record({ kind: fc.constant("flush" as const) }),
  fc.record({ kind: fc.constant("mode" as const), writeback: fc.boolean() }),
);

describe.each([
  { name: "CONFIG_WCE and FLUSH", features: ALL | WCE | FLUSH },
  { name: "CONFIG_WCE alone", features: ALL | WCE },
  { name: "FLUSH alone", features: ALL | FLUSH },
  { name: "neither", features: ALL },
])("with $name negotiated", ({ features }) => {
  test(clause("dev.blk.operation", "what is stable by the three conditions outlives a crash"), async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(step, { maxLength: 20 }),
        fc.boolean(),
        fc.boolean(),
        async (history, slowFlush, starting) => {
          const disk = new VolatileDisk(SECTORS * 512, slowFlush);
          const harness = new BlkHarness(starting ? new StartingDisk(disk) : disk, {}, 0n, 1 << 22, true);
          void harness.device.reset();
          harness.start(features);
          const now = new Uint8Array(SECTORS);
          const stable = new Uint8Array(SECTORS);
          let writeback = (features & FLUSH) !== 0n;
          for (const op of history) {
            if (op.kind === "mode") {
              if ((features & WCE) === 0n) continue;
              writeback = op.writeback;
              const value = Uint8Array.of(Number(writeback));
              harness.device.config.write(BLK.VIRTIO_BLK_CONFIG.writeback, value, harness.context);
            } else if (op.kind === "flush") {
              expect((await harness.request({ type: BLK.VIRTIO_BLK_T_FLUSH })).status).toBe(0);
              stable.set(now);
            } else {
              const value = op.kind === "write" ? op.value : 0;
              const out = op.kind === "write" ? new Uint8Array(512).fill(value) : zeroSegment(op.sector);
              const type = op.kind === "write" ? BLK.VIRTIO_BLK_T_OUT : BLK.VIRTIO_BLK_T_WRITE_ZEROES;
              const sector = op.kind === "write" ? op.sector : 0;
              expect((await harness.request({ type, sector, out })).status).toBe(0);
              now[op.sector] = value;
              // A flush makes all completed writes durable, and so may that of a writethrough.
              if (!writeback) stable.set(now);
            }
          }
          disk.crash();
          for (let sector = 0; sector < SECTORS; sector++)
            expect(
              disk.medium.subarray(sector * 512, (sector + 1) * 512).every((byte) => byte === stable[sector]),
            ).toBe(true);
        },
      ),
      { numRuns: 60 },
    );
  });
});

function zeroSegment(sector: number): Uint8Array {
  const view = new DataView(new ArrayBuffer(16));
  view.setUint32(0, sector, true);
  view.setUint32(8, 1, true);
  return new Uint8Array(view.buffer);
}

test("with FLUSH and without CONFIG_WCE, write-cache=off stays writethrough", async () => {
  const disk = new VolatileDisk(SECTORS * 512);
  const harness = new BlkHarness(disk, { writeCache: false }, WCE);
  await harness.request({ type: BLK.VIRTIO_BLK_T_OUT, out: new Uint8Array(512).fill(5) });
  expect([disk.flushes, disk.medium[0]]).toEqual([1, 5]);
});
