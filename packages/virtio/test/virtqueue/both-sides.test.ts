import { clause } from "@virtio/testkit/clause";
import { placeRing, type RingShape } from "@virtio/testkit/ring/place";
import { Arena } from "@virtio/testkit/ring/test-memory";
import { describe, expect, test } from "vitest";
import { RegionMemory } from "../../src/memory/region-memory.ts";
import { createDeviceQueue, createDriverQueue } from "../../src/virtqueue/create.ts";
import type { DescriptorChain } from "../../src/virtqueue/types.ts";

const DATA = 0x100_0000;

/** Both sides of ours on one memory, without anything around them. */
function pair(shape: RingShape) {
  const arena = new Arena(0x1000);
  const config = placeRing(arena, shape);
  const tables = { gpa: arena.take(shape.size * 16 * 4, 16), entries: Math.min(4, shape.size) };
  const end = Math.ceil(arena.take(0) / 8) * 8;
  const memory = new RegionMemory([
    { gpa: 0x1000, bytes: new Uint8Array(end - 0x1000) },
    { gpa: DATA, bytes: new Uint8Array(4096) },
  ]);
  const driver = createDriverQueue(memory, config, shape.packed, tables);
  const device = createDeviceQueue(memory, config, shape.packed);
  return { memory, config, driver, device };
}

/** Sends `total` chains through, in waves that fill the ring, and checks that each comes back in order. */
function wave(shape: RingShape, total: number, elements: number): number {
  const { driver, device } = pair(shape);
  const readable = [{ gpa: DATA, length: 16 }];
  const writable = Array.from({ length: elements - 1 }, (_, i) => ({ gpa: DATA + 64 * i, length: 32 }));
  const tokens: number[] = [];
  let notified = 0;
  let done = 0;
  for (let sent = 0; sent < total;) {
    for (let token = driver.addAvailable(readable, writable); token !== undefined; sent++) {
      tokens.push(token);
      if (tokens.length > shape.size) throw new Error("more chains than entries");
      token = sent + 1 < total ? driver.addAvailable(readable, writable) : undefined;
    }
    if (driver.takeNotification()) notified++;
    const chains: DescriptorChain[] = [];
    for (let chain = device.popAvailable(); chain !== undefined; chain = device.popAvailable())
      chains.push(chain);
    if (chains.length !== tokens.length)
      throw new Error(`${chains.length} chains of ${tokens.length} arrived`);
    chains.forEach((chain, i) => {
      if (chain.token !== tokens[i] || chain.writable.length !== writable.length)
        throw new Error("a wrong chain");
      device.addUsed(chain, (done + i) % 33);
    });
    device.takeNotification();
    for (let used = driver.popUsed(); used !== undefined; used = driver.popUsed(), done++) {
      const expected = Math.min(done % 33, 32 * writable.length);
      if (used.token !== tokens.shift() || used.written !== expected)
        throw new Error(`wrong after ${done} chains`);
    }
    if (tokens.length > 0) throw new Error(`${tokens.length} chains did not come back`);
    if (driver.free !== shape.size) throw new Error("descriptors were lost");
  }
  expect(done).toBe(total);
  return notified;
}

describe("our driver and our device on one ring", () => {
  const sizes: [packed: boolean, size: number][] = [
    [false, 1],
    [false, 2],
    [false, 256],
    [false, 32_768],
    [true, 1],
    [true, 3],
    [true, 255],
    [true, 32_767],
    [true, 32_768],
  ];
  const features = [
    {},
    { eventIdx: true },
    { indirect: true, eventIdx: true },
    { inOrder: true },
    { inOrder: true, indirect: true, eventIdx: true },
  ];

  describe.each(sizes)("packed: %s, Queue Size %i", (packed, size) => {
    test.each(features)(
      clause(
        packed ? ["drv.packed.layout", "dev.packed.layout"] : ["drv.split.layout", "drv.split.avail"],
        "every chain comes back past every wrap, with %o",
      ),
      (feature) => {
        const elements = Math.min(size, 3);
        // More than 2^16 indexes on the small rings, and more than one lap on the large ones.
        const total = size > 1000 ? size + 1000 : 66_000;
        expect(wave({ packed, size, ...feature }, total, elements)).toBeGreaterThan(0);
      },
    );
  });

  test.each([
    [false, 0],
    [false, 3],
    [false, 65_536],
    [true, 0],
    [true, 32_769],
    [false, 1.5],
    [true, Number.NaN],
  ])("packed: %s, Queue Size %d is refused", (packed, size) => {
    const config = { index: 0, size, descriptorArea: 0x1000, driverArea: 0x1100, deviceArea: 0x1200 };
    const memory = new RegionMemory([{ gpa: 0x1000, bytes: new Uint8Array(0x1000) }]);
    expect(() => createDeviceQueue(memory, config, packed)).toThrow(RangeError);
    expect(() => createDriverQueue(memory, config, packed)).toThrow(RangeError);
  });

  test.each([true, false])("states that cannot be are refused (packed: %s)", (packed) => {
    const shape = { packed, size: 4 };
    const { memory, config, device } = pair(shape);
    const good = device.save();
    const bad: unknown[] = [
      null,
      3,
      {},
      { ...good, nextUsed: undefined },
      { ...good, nextUsed: -1 },
      { ...good, nextUsed: 0.5 },
      { ...good, nextAvailable: "0" },
      { ...good, nextAvailable: 65_536, nextUsed: 65_536 },
      { ...good, nextAvailable: (good.nextAvailable + 1) & 0xffff },
      ...(packed ? [{ nextAvailable: 4, nextUsed: 4 }] : []),
    ];
    for (const state of bad)
      expect(
        () => createDeviceQueue(memory, config, packed, state as typeof good),
        JSON.stringify(state),
      ).toThrow(/saved virtqueue/);
    expect(createDeviceQueue(memory, config, packed, good).save()).toEqual(good);
  });

  test.each([true, false])(
    "a chain is used once, and only by the queue that popped it (packed: %s)",
    (packed) => {
      const one = pair({ packed, size: 4 });
      one.driver.addAvailable([{ gpa: DATA, length: 1 }], []);
      one.driver.takeNotification();
      const chain = one.device.popAvailable();
      if (chain === undefined) throw new Error("no chain");
      one.device.addUsed(chain, 0);
      expect(() => one.device.addUsed(chain, 0)).toThrow(/used twice/);
      expect(() => one.device.unpop(chain)).toThrow(/not in flight/);
      expect(() => one.device.addUsed({ ...chain }, 0)).toThrow(/not popped here/);
      expect(one.device.inFlight).toBe(0);
    },
  );
});
