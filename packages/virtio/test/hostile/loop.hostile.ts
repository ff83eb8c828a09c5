import { bound } from "@virtio/testkit/bound";
import { BusyQueues, leastWaits } from "@virtio/testkit/busy-queues";
import { expect, test } from "vitest";
import { MemoryBlockBackend } from "../../src/backends/memory-block.ts";
import { OverlayBlockBackend } from "../../src/backends/overlay-block.ts";
import { SparseBlockBackend } from "../../src/backends/sparse-block.ts";
import { immediateScheduler } from "../../src/device/scheduler.ts";
import {
  VIRTIO_BLK_T_DISCARD,
  VIRTIO_BLK_T_IN,
  VIRTIO_BLK_T_OUT,
  VIRTIO_BLK_T_WRITE_ZEROES,
} from "../../src/spec/blk.ts";
import { BusyDisk, type DiskRequest } from "./busy-disk.ts";

/** docs/embedding.md, "Your event loop". */
const LIMIT = 20;

/** Drivers that never stop, on Node's main loop. */
test.each([
  ["served", false],
  ["popped by the device", true],
] as const)("64 virtqueues that are always full, %s, and notify unasked", async (how, pops) => {
  const scheduler = { ...immediateScheduler };
  const busy = new BusyQueues(scheduler, { queues: 64, chainMs: 0.1, pops });
  const waits = await leastWaits(busy, scheduler, 60, 3);
  const what = `64 virtqueues, always full, ${how}: processor time that`;
  bound({ what: `${what} a timer of 1 ms waits`, measured: waits.timer, limit: LIMIT, unit: "ms" });
  bound({ what: `${what} another device waits`, measured: waits.device, limit: LIMIT, unit: "ms" });
});

const LENGTH = 2 ** 28;
const ZEROES = 2 ** 17;
const requests: Readonly<Record<string, DiskRequest>> = {
  "reads of 256 MiB": { type: VIRTIO_BLK_T_IN, length: LENGTH },
  "writes of 256 MiB": { type: VIRTIO_BLK_T_OUT, length: LENGTH },
  "zeroes for 256 MiB": {
    type: VIRTIO_BLK_T_WRITE_ZEROES,
    ranges: [0, 1, 2, 3].map((i) => ({ sector: i * ZEROES, sectors: ZEROES })),
  },
  "discards of 32 GiB": {
    type: VIRTIO_BLK_T_DISCARD,
    ranges: Array.from({ length: 16 }, (_, i) => ({ sector: i * 2 ** 22, sectors: 2 ** 22 })),
  },
};
const disks = {
  "in memory": () => new MemoryBlockBackend(2 ** 35),
  "sector by sector": () => new SparseBlockBackend(2 ** 35),
  "over another": () => new OverlayBlockBackend(new MemoryBlockBackend(2 ** 35)),
};

/** Drivers whose requests are as long as they may be, of disks that answer at once. */
test.each(
  Object.entries(disks).flatMap(([disk, make]) =>
    Object.entries(requests).map(([what, request]) => ({ disk, make, what, request })),
  ),
)("requests of a disk: $what, $disk", async ({ disk, make, what, request }) => {
  const scheduler = { ...immediateScheduler };
  const busy = new BusyDisk(make(), scheduler, request);
  const waits = await leastWaits(busy, scheduler, 50, 3);
  expect(new Set(busy.statuses)).toEqual(new Set([0]));
  const of = `${what}, of a disk ${disk}: processor time that`;
  bound({ what: `${of} a timer of 1 ms waits`, measured: waits.timer, limit: LIMIT, unit: "ms" });
  bound({ what: `${of} another device waits`, measured: waits.device, limit: LIMIT, unit: "ms" });
});
