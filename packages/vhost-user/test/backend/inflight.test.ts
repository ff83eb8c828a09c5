import fc from "fast-check";
import { expect, test, vi } from "vitest";
import { RegionMemory } from "virtio/memory/region-memory";
import { readLe16 } from "virtio/memory/bytes";
import { createDeviceQueue, createDriverQueue } from "virtio/virtqueue/create";
import type { DescriptorChain, DeviceQueue, QueueConfig } from "virtio/virtqueue/types";
import { InflightRegion } from "@virtio/vhost-user/backend/inflight";
import { PackedInflight, packedRegionBytes } from "@virtio/vhost-user/backend/inflight-packed";
import { PeerFiles } from "@virtio/vhost-user/memory/peer-file";

class Killed extends Error {}

const SIZE = 8;
const config: QueueConfig = {
  index: 0,
  size: SIZE,
  descriptorArea: 0x1000,
  driverArea: 0x2000,
  deviceArea: 0x3000,
  indirect: true,
};
const ID = 0x4000;

/** Runs `work`, and stops it before its n-th atomic store, as a SIGKILL would: what was stored stays. */
function killedAt(stores: number, work: () => void): boolean {
  const store = Atomics.store;
  let left = stores;
  const spy = vi.spyOn(Atomics, "store").mockImplementation((...values: Parameters<typeof store>) => {
    if (left-- <= 0) throw new Killed();
    return store(...values);
  });
  try {
    work();
    return false;
  } catch (error) {
    if (error instanceof Killed) return true;
    throw error;
  } finally {
    spy.mockRestore();
  }
}

const step = fc.record({
  offer: fc.integer({ min: 0, max: 3 }),
  segments: fc.integer({ min: 1, max: 3 }),
  pop: fc.integer({ min: 0, max: 4 }),
  /** Which of those in flight are used, by their place. */
  use: fc.array(fc.integer({ min: 0, max: 7 }), { maxLength: 4 }),
  publish: fc.boolean(),
  reap: fc.boolean(),
  /** The process dies before this store of the step. */
  kill: fc.option(fc.integer({ min: 0, max: 12 }), { nil: Infinity }),
  /** And the one that takes over dies before this store of its recovery. */
  killAgain: fc.option(fc.integer({ min: 0, max: 4 }), { nil: Infinity }),
});

test.each([false, true])(
  "killed at any store, nothing is lost and nothing that the driver saw is served again (packed: %s)",
  (packed) => {
    let kills = 0;
    fc.assert(
      fc.property(fc.array(step, { minLength: 1, maxLength: 40 }), (steps) => {
        const memory = new RegionMemory([{ gpa: 0, bytes: new Uint8Array(0x8000) }]);
        const { descriptor, description } = InflightRegion.allocate(1, SIZE, packed);
        const record = InflightRegion.adopt(descriptor, description, new PeerFiles(true));
        descriptor.close();
        const driver = createDriverQueue(memory, config, packed);
        const boot = (): DeviceQueue => {
          const queue = record.queue(0, SIZE, packed);
          if (queue === undefined) throw new Error("no record");
          const base = packed ? 0x8000 : 0;
          const usedIdx = readLe16(memory.view(config.deviceArea + 2, 2), 0);
          const ringFlags = (at: number): number =>
            readLe16(memory.view(config.descriptorArea + 16 * at + 14, 2), 0);
          return createDeviceQueue(memory, config, packed, queue.recover({ base, usedIdx, ringFlags }));
        };
        let device = boot();
        /** By token: the number in its buffer. */
        const offered = new Map<number, number>();
        let held: { chain: DescriptorChain; number: number }[] = [];
        let next = 1;
        const seen = new Set<number>();
        const reap = (): void => {
          for (let used = driver.popUsed(); used !== undefined; used = driver.popUsed()) {
            const number = offered.get(used.token);
            expect(number).toBeDefined();
            expect(used.written).toBe(number);
            offered.delete(used.token);
            seen.add(number ?? 0);
          }
        };
        const pop = (): boolean => {
          const chain = device.popAvailable();
          if (chain === undefined) return false;
          const number = (chain.writable[0]?.gpa ?? 0) - ID;
          expect(seen.has(number)).toBe(false);
          held.push({ chain, number });
          return true;
        };
        const use = (place: number): void => {
          const [one] = held.splice(place % Math.max(held.length, 1), 1);
          if (one !== undefined) device.addUsed(one.chain, one.number);
        };
        for (const {
          offer,
          segments,
          pop: pops,
          use: uses,
          publish,
          reap: reaps,
          kill,
          killAgain,
        } of steps) {
          for (let i = 0; i < offer && driver.free >= segments && next < 3000; i++) {
            const token = driver.addAvailable(
              [],
              Array.from({ length: segments }, () => ({ gpa: ID + next, length: 0x1000 })),
            );
            if (token !== undefined) offered.set(token, next++);
          }
          driver.takeNotification();
          const work = (): void => {
            for (let i = 0; i < pops; i++) pop();
            for (const place of uses) use(place);
            if (publish) device.takeNotification();
          };
          if (killedAt(kill, work)) {
            kills++;
            held = [];
            killedAt(killAgain, boot);
            device = boot();
          }
          if (reaps) reap();
        }
        // In the end everything is served.
        for (let i = 0; i < 100 && offered.size > 0; i++) {
          while (pop());
          while (held.length > 0) use(i);
          device.takeNotification();
          reap();
        }
        expect(offered.size).toBe(0);
        record.close();
      }),
      { numRuns: 2000 },
    );
    expect(kills).toBeGreaterThan(100);
  },
);

test.each([false, true])(
  "rings are recorded up to 1024 entries, whatever was asked for (packed: %s)",
  (packed) => {
    const { descriptor, description } = InflightRegion.allocate(2, 128, packed);
    const record = InflightRegion.adopt(descriptor, description, new PeerFiles(true));
    expect(record.queue(1, 1024, packed)).toBeDefined();
    expect(record.queue(0, 2048, packed)).toBeUndefined();
    expect(record.queue(2, 128, packed)).toBeUndefined();
    record.close();
    // Another back-end's, as large as it had to be.
    const size = 2 * (packed ? 32 + 32 * 127 : 16 + 16 * 127);
    const less = { size, offset: 0, queues: 2, queueSize: 127 };
    const other = InflightRegion.adopt(descriptor, less, new PeerFiles(true));
    expect(other.queue(1, 127, packed)).toBeDefined();
    expect(other.queue(0, 128, packed)).toBeUndefined();
    other.close();
    descriptor.close();
  },
);

test("a packed record whose chains are endless or share their entries is read in bounded time, each entry once", () => {
  const entries = 32_768;
  for (const next of [(entry: number) => entry, (entry: number) => entry + 1, () => 0]) {
    const bytes = new Uint8Array(packedRegionBytes(entries));
    const view = new DataView(bytes.buffer);
    view.setUint16(8, 1, true);
    // Nothing is free.
    view.setUint16(12, entries, true);
    view.setUint16(14, entries, true);
    for (let entry = 0; entry < entries; entry++) {
      const at = 32 + 32 * entry;
      bytes[at] = 1;
      view.setUint16(at + 2, next(entry), true);
      view.setUint16(at + 6, entry % 2 === 0 ? 0xffff : entries - 1, true);
      view.setUint32(at + 8, entry, true);
    }
    const start = performance.now();
    const { again = [] } = new PackedInflight(bytes, entries, entries).recover({
      base: 0x8000,
      usedIdx: 0x8000,
      ringFlags: () => 0,
    });
    expect(performance.now() - start).toBeLessThan(1000);
    const held = again.reduce((sum, { descriptors }) => sum + (descriptors?.length ?? 0), 0);
    expect(held).toBeLessThanOrEqual(entries);
  }
});
