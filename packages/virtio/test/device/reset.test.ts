import { clause } from "@virtio/testkit/clause";
import { describe, expect, test } from "vitest";
import { LATER } from "../../src/device/device.ts";
import { VIRTIO_F_RING_PACKED, featureBits } from "../../src/spec/core.ts";
import type { DescriptorChain } from "../../src/virtqueue/types.ts";
import { DRIVER_OK, FAILED, MODERN, NEEDS_RESET, Rig, RUNNING, settle } from "./rig.ts";

describe.each([
  ["split", MODERN],
  ["packed", MODERN | featureBits(VIRTIO_F_RING_PACKED)],
])("device reset, %s", (_name, features) => {
  test(
    clause("dev.core.reset", "requests in flight are dropped: no byte, no notification after status 0"),
    async () => {
      const rig = new Rig();
      rig.start(features);
      rig.offer();
      rig.offer();
      expect(rig.device.requests).toHaveLength(2);
      rig.instance.writeStatus(0);
      expect(rig.status).toBe(0);
      rig.notifications.length = 0;
      const after = rig.memory.snapshot();
      rig.device.requests[0]?.done(5);
      rig.device.requests[1]?.fail(new Error("disk on fire"));
      await settle();
      rig.instance.notify(0);
      expect(rig.memory.changedSince(after)).toEqual([]);
      expect(rig.notifications).toEqual([]);
      expect(rig.status).toBe(0);
      expect(rig.faults).toEqual([]);
    },
  );

  test(clause("dev.core.reset", "late completions do not get into the rings of the next life"), async () => {
    const rig = new Rig();
    rig.start(features);
    rig.offer();
    rig.instance.writeStatus(0);
    rig.start(features);
    const token = rig.offer();
    const [old, fresh] = rig.device.requests;
    old?.done(7);
    await settle();
    expect(rig.used()).toEqual([]);
    fresh?.done(9);
    await settle();
    expect(rig.used()).toEqual([{ token, written: 9 }]);
  });

  test(clause("dev.core.reset", "a queue that a device held from before does nothing"), () => {
    const rig = new Rig();
    rig.start(features);
    const queue = rig.device.context?.queue(1);
    rig.offer(undefined, 1);
    const chain = queue?.popAvailable();
    expect(chain).toBeDefined();
    rig.instance.writeStatus(0);
    rig.notifications.length = 0;
    const after = rig.memory.snapshot();
    if (chain !== undefined) queue?.addUsed(chain, 4);
    queue?.flush();
    expect(queue?.popAvailable()).toBeUndefined();
    expect(rig.memory.changedSince(after)).toEqual([]);
    expect(rig.notifications).toEqual([]);
  });
});

describe("device reset", () => {
  test(
    clause(["dev.core.reset", "drv.core.reset"], "status reads 0 only when the device type is done"),
    async () => {
      const rig = new Rig();
      rig.start();
      let finish = (): void => undefined;
      rig.device.onReset = () => new Promise((resolve) => (finish = resolve));
      rig.instance.writeStatus(0);
      // Nothing of the life before is in it: a driver that does not wait would take that for its own.
      expect(rig.status).toBe(NEEDS_RESET);
      // A second reset is the same one.
      rig.set(FAILED);
      expect(rig.status).toBe(NEEDS_RESET | FAILED);
      rig.instance.writeStatus(0);
      expect(rig.status).toBe(NEEDS_RESET);
      expect(rig.device.calls.filter((call) => call === "reset")).toHaveLength(1);
      finish();
      await settle();
      expect(rig.status).toBe(0);
      rig.device.onReset = undefined;
      rig.start();
      expect(rig.status).toBe(RUNNING);
    },
  );

  test(clause("dev.core.reset", "a device type whose reset fails is reset all the same"), async () => {
    const rig = new Rig();
    rig.start();
    rig.device.onReset = () => Promise.reject(new Error("no"));
    rig.instance.writeStatus(0);
    await settle();
    expect(rig.status).toBe(0);
  });

  test("everything is as at the start, registers of virtqueues too", () => {
    const rig = new Rig();
    const registers = (): unknown =>
      [0, 1].map((index) => {
        const { size, enabled, descriptorArea, driverArea, deviceArea } = rig.instance.queue(index) ?? {};
        return { size, enabled, descriptorArea, driverArea, deviceArea };
      });
    const fresh = registers();
    let resets = 0;
    rig.instance.onReset = () => resets++;
    rig.start();
    const queue = rig.instance.queue(0);
    if (queue !== undefined) queue.size = 4;
    rig.instance.legacy = true;
    expect(registers()).not.toEqual(fresh);
    rig.instance.writeStatus(0);
    expect(registers()).toEqual(fresh);
    expect(rig.instance.legacy).toBe(false);
    expect(rig.instance.driverFeatures).toBe(0n);
    expect(resets).toBe(1);
  });

  test("a reset from within a request ends it", async () => {
    const rig = new Rig();
    rig.device.serve = () => {
      rig.instance.writeStatus(0);
      return 4;
    };
    rig.start();
    const before = rig.notifications.length;
    rig.offer();
    await settle();
    expect(rig.status).toBe(0);
    expect(rig.used()).toEqual([]);
    expect(rig.notifications).toHaveLength(before);
  });

  test("a device that needs a reset serves nothing, and a fault ends in one notification", async () => {
    const rig = new Rig();
    rig.start();
    rig.offer();
    rig.notifications.length = 0;
    // An address in nowhere.
    rig.offer([{ gpa: 0x7000_0000, length: 4, writable: true }]);
    expect(rig.status).toBe(RUNNING | NEEDS_RESET);
    expect(rig.notifications).toEqual(["config"]);
    expect(rig.faults[0]).toMatchObject({ clause: "drv.split.desc", queue: 0, value: 0x7000_0000 });
    rig.offer();
    await settle();
    expect(rig.device.requests).toHaveLength(1);
  });
});

test("DRIVER_OK after a fault does not bring a device to life", () => {
  const rig = new Rig();
  rig.negotiate();
  rig.enable();
  rig.instance.writeStatus(2);
  expect(rig.status & NEEDS_RESET).toBe(NEEDS_RESET);
  rig.set(DRIVER_OK);
  expect(rig.device.calls).not.toContain("activate");
  expect(rig.status & DRIVER_OK).toBe(0);
});

describe("virtqueue reset", () => {
  test(
    clause(
      ["dev.core.vq-reset", "dev.core.vq-reenable"],
      "drops what is in flight, tells the device, and starts afresh",
    ),
    async () => {
      const rig = new Rig();
      rig.start();
      rig.offer();
      const queue = rig.instance.queue(0);
      queue?.reset();
      expect(queue?.enabled).toBe(false);
      expect(queue?.descriptorArea).toBe(0);
      expect(queue?.size).toBe(queue?.maxSize);
      expect(rig.device.calls).toContain("resetQueue 0");
      // A request of it is still at work: the driver must wait.
      expect(queue?.resetting).toBe(true);
      rig.notifications.length = 0;
      const after = rig.memory.snapshot();
      rig.instance.notify(0);
      rig.device.requests[0]?.done(5);
      await settle();
      expect(rig.memory.changedSince(after)).toEqual([]);
      expect(rig.notifications).toEqual([]);
      expect(queue?.resetting).toBe(false);
      // The other virtqueue lives on, and this one comes back with another size.
      rig.offer(undefined, 1);
      expect(rig.device.context?.queue(1)?.popAvailable()).toBeDefined();
      expect(rig.device.context?.queue(0)).toBeUndefined();
      rig.enable([0]);
      const token = rig.offer();
      rig.device.requests[1]?.done(6);
      await settle();
      expect(rig.used()).toEqual([{ token, written: 6 }]);
      expect(rig.status).toBe(RUNNING);
    },
  );

  test("is over when the device has ended by itself what it had of the ring", () => {
    const rig = new Rig();
    rig.start();
    const queue = rig.device.context?.queue(0);
    const chains: DescriptorChain[] = [];
    rig.device.serve = (chain) => {
      chains.push(chain);
      return LATER;
    };
    rig.offer();
    rig.instance.queue(0)?.reset();
    expect(rig.instance.queue(0)?.resetting).toBe(true);
    const after = rig.memory.snapshot();
    for (const chain of chains) queue?.complete(chain, 4);
    expect(rig.instance.queue(0)?.resetting).toBe(false);
    expect(rig.memory.changedSince(after)).toEqual([]);
  });

  test(clause("dev.core.vq-reenable", "buffers that are there already are served when it comes back"), () => {
    const rig = new Rig();
    rig.start();
    rig.device.serve = () => 2;
    rig.instance.queue(0)?.reset();
    rig.enable([0]);
    // enable() made the ring first; so offer into a second one before it is enabled.
    rig.instance.queue(0)?.reset();
    const driver = rig.driver[0];
    const config = driver?.config;
    if (driver === undefined || config === undefined) throw new Error("no driver");
    driver.offer([{ gpa: 0x10_0000, length: 4, writable: true }]);
    driver.publish();
    const queue = rig.instance.queue(0);
    queue?.setArea("descriptorArea", "low", config.descriptorArea);
    queue?.setArea("driverArea", "low", config.driverArea);
    queue?.setArea("deviceArea", "low", config.deviceArea);
    queue?.enable();
    expect(rig.used()).toHaveLength(1);
  });

  test("a virtqueue that cannot be is a fault when it is enabled", () => {
    for (const size of [0, 3, 9, 16, 65_535]) {
      const rig = new Rig();
      rig.negotiate();
      const queue = rig.instance.queue(0);
      if (queue === undefined) throw new Error("no queue");
      queue.size = size;
      queue.enable();
      expect(rig.status & NEEDS_RESET, `size ${size}`).toBe(NEEDS_RESET);
      expect(rig.faults[0]).toMatchObject({ queue: 0, value: size });
    }
  });

  test("areas that cannot be are a fault when the ring is made", () => {
    for (const [area, half, value] of [
      ["descriptorArea", "low", 0x1008],
      ["driverArea", "low", 1],
      ["deviceArea", "high", 0x20_0000],
      ["descriptorArea", "high", 0xffff_ffff],
    ] as const) {
      const rig = new Rig();
      rig.negotiate();
      rig.enable();
      rig.instance.queue(1)?.setArea(area, half, value);
      rig.set(DRIVER_OK);
      expect(rig.status & NEEDS_RESET, area).toBe(NEEDS_RESET);
      expect(rig.faults[0]).toMatchObject({ clause: "drv.split.layout", queue: 1 });
      expect(rig.faults[0]?.value).toBeDefined();
      expect(rig.device.calls).not.toContain("activate");
    }
  });

  test("64-bit areas are written and read in halves, whatever they hold", () => {
    const queue = new Rig().instance.queue(0);
    queue?.setArea("deviceArea", "low", 0xffff_fff0);
    queue?.setArea("deviceArea", "high", 0x1f_ffff);
    expect(queue?.deviceArea).toBe(2 ** 53 - 16);
    expect(queue?.readArea("deviceArea", "low")).toBe(0xffff_fff0);
    expect(queue?.readArea("deviceArea", "high")).toBe(0x1f_ffff);
    queue?.setArea("deviceArea", "low", 4);
    expect(queue?.deviceArea).toBe(0x1f_ffff * 2 ** 32 + 4);
  });
});
