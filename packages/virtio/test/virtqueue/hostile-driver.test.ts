import { clause } from "@virtio/testkit/clause";
import { faultMismatch, HOSTILE_DRIVERS, provoke, removeRing } from "@virtio/testkit/hostile-driver";
import { createWorld } from "@virtio/testkit/ring/history";
import { describe, expect, test } from "vitest";
import { VirtioFault } from "../../src/fault.ts";
import { createDeviceQueue } from "../../src/virtqueue/create.ts";

describe("a hostile driver ends in a fault that names clause, queue, descriptor and value", () => {
  test.each(HOSTILE_DRIVERS.map((hostile) => [hostile.name, hostile] as const))("%s", (_name, hostile) => {
    expect(faultMismatch(hostile, provoke(hostile, createDeviceQueue))).toBeUndefined();
  });

  test("the catalogue has no name twice and knows its clauses", () => {
    expect(new Set(HOSTILE_DRIVERS.map((hostile) => hostile.name)).size).toBe(HOSTILE_DRIVERS.length);
    for (const { fault, name } of HOSTILE_DRIVERS) expect(clause(fault.clause, name)).toContain(name);
  });

  test.each([false, true])("memory that goes away under the ring is a fault (packed: %s)", (packed) => {
    const world = createWorld({ packed, size: 8 });
    const queue = createDeviceQueue(world.memory, world.config, packed);
    removeRing(world);
    expect(() => queue.popAvailable()).toThrow(VirtioFault);
    expect(() => queue.setNotifications(true)).toThrow(VirtioFault);
  });
});
