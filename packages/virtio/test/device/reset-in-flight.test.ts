/** Resets while requests are worked on: what drivers that do not wait for the end see, and what the host may rely on. */
import { clause } from "@virtio/testkit/clause";
import { TestMemory } from "@virtio/testkit/ring/test-memory";
import { describe, expect, test } from "vitest";
import { VIRTIO_F_RING_RESET, VIRTIO_F_SUSPEND, featureBits } from "../../src/spec/core.ts";
import {
  ACKNOWLEDGE,
  DATA,
  DRIVER,
  DRIVER_OK,
  FEATURES_OK,
  MODERN,
  NEEDS_RESET,
  Rig,
  RUNNING,
  SUSPEND,
  settle,
} from "./rig.ts";

/** A device type whose resets end when the test says so. */
function slowRig(): { readonly rig: Rig; readonly resets: (() => void)[] } {
  const rig = new Rig();
  const resets: (() => void)[] = [];
  rig.device.onReset = () => new Promise((resolve) => void resets.push(resolve));
  return { rig, resets };
}

/** Whether it is kept by now. */
async function isOver(promise: Promise<unknown>): Promise<boolean> {
  let over = false;
  void promise.then(() => (over = true));
  await settle();
  return over;
}

describe("a driver that goes on without waiting for the end of its reset", () => {
  test(
    clause("dev.core.status", "finds the bits that it sets, and no others but DEVICE_NEEDS_RESET"),
    async () => {
      const { rig, resets } = slowRig();
      rig.start();
      rig.instance.writeStatus(0);
      // Linux: get_status, then set_status with one bit more.
      rig.set(ACKNOWLEDGE);
      rig.set(DRIVER);
      expect(rig.status).toBe(NEEDS_RESET | ACKNOWLEDGE | DRIVER);
      rig.accept(MODERN);
      rig.set(FEATURES_OK);
      expect(rig.status & FEATURES_OK).toBe(FEATURES_OK);
      rig.set(DRIVER_OK);
      expect(rig.status).toBe(NEEDS_RESET | RUNNING);
      resets.shift()?.();
      await settle();
      expect(rig.status).toBe(RUNNING);
      expect(rig.faults).toEqual([]);
    },
  );

  test(
    clause("dev.core.reset", "is served when the life before has ended, what it offered meanwhile too"),
    async () => {
      const { rig, resets } = slowRig();
      rig.start();
      rig.instance.writeStatus(0);
      rig.device.calls.length = 0;
      rig.start();
      rig.device.serve = () => 7;
      const token = rig.offer();
      rig.instance.notify(0);
      expect(rig.device.calls).toEqual([]);
      expect(rig.used()).toEqual([]);
      resets.shift()?.();
      await settle();
      expect(rig.device.calls).toEqual(["activate", "refilled"]);
      expect(rig.used()).toEqual([{ token, written: 7 }]);
      expect(rig.notifications).toContain(0);
    },
  );

  test(
    clause("dev.core.reset", "has no byte of before in its memory, however late the request ends"),
    async () => {
      const { rig, resets } = slowRig();
      rig.start();
      rig.offer();
      const [old] = rig.device.requests;
      rig.instance.writeStatus(0);
      rig.start();
      rig.offer();
      const before = rig.memory.snapshot();
      old?.done(9);
      await settle();
      expect(rig.memory.changedSince(before)).toEqual([]);
      expect(rig.notifications).toEqual([]);
      resets.shift()?.();
      await settle();
      expect(rig.used()).toEqual([]);
      rig.device.requests.at(-1)?.done(2);
      await settle();
      expect(rig.used()).toHaveLength(1);
    },
  );

  test("is told of a change of the configuration when it is live", async () => {
    const { rig, resets } = slowRig();
    rig.start();
    rig.instance.writeStatus(0);
    rig.start();
    rig.notifications.length = 0;
    rig.instance.configChanged();
    expect(rig.notifications).toEqual([]);
    resets.shift()?.();
    await settle();
    expect(rig.notifications).toContain("config");
  });

  test("may reset again and again: one reset of the device type at a time, and one more for what was changed", async () => {
    const { rig, resets } = slowRig();
    rig.start();
    for (let round = 0; round < 100; round++) {
      rig.instance.writeStatus(0);
      rig.instance.writeConfig(0, 1, round);
      rig.negotiate();
      rig.set(DRIVER_OK);
    }
    expect(resets).toHaveLength(1);
    rig.instance.writeStatus(0);
    resets.shift()?.();
    await settle();
    expect(resets).toHaveLength(1);
    expect(rig.status).toBe(NEEDS_RESET);
    resets.shift()?.();
    await settle();
    expect(rig.status).toBe(0);
    expect(rig.device.calls.filter((call) => call === "activate")).toHaveLength(1);
  });

  test("a device type that resets at once is used at once, but for two lives of unfinished requests at most", async () => {
    const rig = new Rig();
    for (let life = 0; life < 5; life++) {
      rig.instance.writeStatus(0);
      rig.start();
      rig.offer();
    }
    expect(rig.device.requests).toHaveLength(2);
    for (const request of rig.device.requests.splice(0)) request.done(0);
    await settle();
    // The request of the last life, and none of those between.
    expect(rig.device.requests).toHaveLength(1);
    rig.device.requests[0]?.done(3);
    await settle();
    expect(rig.used()).toHaveLength(1);
    expect(rig.faults).toEqual([]);
  });
});

describe("over memory that backends write to by themselves", () => {
  test(
    clause("dev.core.reset", "status does not read 0 while a request of before is worked on"),
    async () => {
      const rig = new Rig();
      Object.assign(rig.memory, { pinned: true });
      rig.start();
      rig.offer();
      rig.instance.writeStatus(0);
      expect(rig.status).toBe(NEEDS_RESET);
      rig.device.requests[0]?.done(4);
      await settle();
      expect(rig.status).toBe(0);
    },
  );
});

describe("a virtqueue that is enabled again while its requests are worked on", () => {
  test(
    clause("dev.core.vq-reenable", "runs when they have ended, and holds no more rings than that"),
    async () => {
      const rig = new Rig({ memory: new TestMemory([0x1000, 0x3000], [0x4000, 0x4000], [DATA, 4096]) });
      rig.start();
      rig.offer();
      for (let round = 0; round < 50; round++) {
        rig.instance.queue(0)?.disable();
        rig.enable([0]);
        rig.offer();
      }
      expect(rig.device.requests).toHaveLength(1);
      rig.device.requests.shift()?.done(1);
      await settle();
      expect(rig.device.requests).toHaveLength(1);
      rig.device.requests.shift()?.done(5);
      await settle();
      expect(rig.used()).toMatchObject([{ written: 5 }]);
      expect(rig.faults).toEqual([]);
    },
  );

  test("starts paused while the device is paused or suspended", async () => {
    const rig = new Rig();
    rig.start(MODERN | featureBits(VIRTIO_F_SUSPEND));
    rig.offer();
    rig.instance.queue(0)?.disable();
    rig.enable([0]);
    rig.offer();
    const pause = rig.instance.pause();
    rig.device.requests.shift()?.done(1);
    await pause;
    rig.set(SUSPEND);
    expect(rig.status & SUSPEND).toBe(SUSPEND);
    rig.instance.resume();
    expect(rig.device.requests).toEqual([]);
    rig.set(DRIVER_OK);
    expect(rig.device.requests).toHaveLength(1);
  });
});

describe("pause waits for all that could still touch memory, and save says when it has not", () => {
  const cases: readonly [string, (rig: Rig) => void][] = [
    ["a request", () => undefined],
    ["a request of a virtqueue that was reset", (rig) => rig.instance.queue(0)?.reset()],
    ["a request of a virtqueue that was taken back", (rig) => rig.instance.queue(0)?.disable()],
    ["a request of before a device reset", (rig) => rig.instance.writeStatus(0)],
    ["a request that a suspension waits for", (rig) => rig.set(SUSPEND)],
    [
      "a request of a virtqueue that was reset before the device was",
      (rig) => {
        rig.instance.queue(0)?.reset();
        rig.instance.writeStatus(0);
      },
    ],
  ];
  test.each(cases)("%s", async (_, act) => {
    const rig = new Rig();
    rig.start(MODERN | featureBits(VIRTIO_F_RING_RESET, VIRTIO_F_SUSPEND));
    rig.offer();
    act(rig);
    const pause = rig.instance.pause();
    expect(await isOver(pause)).toBe(false);
    expect(() => rig.instance.save()).toThrow(/the pause is not over/);
    expect(() => rig.instance.restore({})).toThrow(/pause before restore/);
    rig.device.requests[0]?.done(3);
    await pause;
    const state = JSON.parse(JSON.stringify(rig.instance.save())) as unknown;
    const next = new Rig({ memory: rig.memory });
    next.instance.restore(state);
    expect(next.instance.save()).toEqual(rig.instance.save());
    expect(next.status).toBe(rig.status);
  });

  test("the reset of a device type", async () => {
    const { rig, resets } = slowRig();
    rig.start();
    rig.instance.writeStatus(0);
    rig.set(ACKNOWLEDGE);
    const pause = rig.instance.pause();
    expect(await isOver(pause)).toBe(false);
    expect(() => rig.instance.save()).toThrow(/the pause is not over/);
    resets.shift()?.();
    await pause;
    expect(rig.instance.save()).toMatchObject({ status: ACKNOWLEDGE, active: null });
  });
});
