import { truncateSync, writeFileSync } from "node:fs";

import { bound } from "@virtio/testkit/bound";
import { afterEach, beforeEach, expect, test } from "vitest";
import { PeerRing, VERSION_1 } from "../../../vhost-user/test/backend/peer.ts";
import { Served } from "./lib/served.ts";

/** A guest that scatters what it writes over a snapshot. */

const SECTOR = 512;
const IOERR = 1;
const VIRTIO_BLK_T_OUT = 1;

let served: Served;
beforeEach(() => {
  served = new Served();
  writeFileSync(served.path("img"), "");
  truncateSync(served.path("img"), 2 ** 40);
});
afterEach(() => served.remove());

/** Writes a sector in each `stride` of the disk; gives the statuses, and MiB that the server has grown by. */
async function scatter(
  count: number,
  stride: number,
): Promise<{ statuses: Map<number, number>; grown: number }> {
  const peer = served.peer("a");
  await peer.open(VERSION_1);
  const ring = new PeerRing(peer, VERSION_1, 128);
  await ring.start();
  const { dma, ram } = peer;
  const data = dma.allocate(SECTOR, SECTOR);
  ram.memory.view(data, SECTOR).fill(7);
  const slots = Array.from({ length: 40 }, () => [dma.allocate(16, 16), dma.allocate(16, 16)] as const);
  const statuses = new Map<number, number>();
  let base = 0;
  for (let done = -slots.length; done < count;) {
    // The first round loads what is loaded once.
    if (done === 0) base = served.memory();
    for (const [header, status] of slots) {
      const bytes = ram.memory.view(header, 16);
      const view = new DataView(bytes.buffer, bytes.byteOffset, 16);
      view.setUint32(0, VIRTIO_BLK_T_OUT, true);
      view.setBigUint64(8, BigInt((Math.max(0, done++) * stride) / SECTOR), true);
      ring.driver.addAvailable(
        [
          { gpa: header, length: 16 },
          { gpa: data, length: SECTOR },
        ],
        [{ gpa: status, length: 1 }],
      );
    }
    ring.notify();
    for (let i = 0; i < slots.length; i++) await ring.used();
    for (const [, status] of slots) {
      const value = ram.memory.view(status, 1)[0] ?? -1;
      statuses.set(value, (statuses.get(value) ?? 0) + 1);
    }
  }
  const grown = served.memory() - base;
  ring.close();
  peer.close();
  return { statuses, grown };
}

test("a sector in each 64 KiB", async () => {
  await served.start("blk --socket a --drive file=img,snapshot=on,format=raw", 1);
  const count = 100_000;
  const { statuses, grown } = await scatter(count, 65_536);
  expect([...statuses.keys()]).toEqual([0]);
  const ratio = grown / ((count * SECTOR) / 2 ** 20);
  bound({ what: "--snapshot: memory for what a guest scatters", measured: ratio, limit: 3, unit: "times" });
});

test("a guest that writes without end", async () => {
  await served.start("blk --socket a --drive file=img,snapshot=on,format=raw --snapshot-limit 16M", 1);
  const { statuses, grown } = await scatter(60_000, 65_536);
  expect(new Set(statuses.keys())).toEqual(new Set([0, IOERR]));
  bound({ what: "--snapshot-limit 16M: memory", measured: grown, limit: 48, unit: "MiB" });
  const lines = served.text.split("\n").filter((line) => line.includes("no space left"));
  expect(lines[0]).toMatch(/virtio: disk0: .*changes \(--snapshot-limit\) may take 16777216 bytes of memory/);
  bound({ what: "--snapshot-limit 16M: lines said of it", measured: lines.length, limit: 60, unit: "" });
});
