import { clause } from "@virtio/testkit/clause";
import { describe, expect, test } from "vitest";
import { VIRTIO_F_SUSPEND, featureBits } from "../../src/spec/core.ts";
import { ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, MODERN, Rig, RUNNING, settle, SUSPEND } from "./rig.ts";

const FEATURES = MODERN | featureBits(VIRTIO_F_SUSPEND);
const SUSPENDED = ACKNOWLEDGE | DRIVER | FEATURES_OK | SUSPEND;

describe("device suspend", () => {
  test(clause("dev.core.suspend", "resumes with SUSPEND written as 0 or as 1"), () => {
    for (const value of [RUNNING, RUNNING | SUSPEND]) {
      const rig = new Rig();
      rig.start(FEATURES);
      rig.set(SUSPEND);
      expect(rig.status).toBe(SUSPENDED);
      rig.instance.writeStatus(value);
      expect(rig.status).toBe(RUNNING);
      expect(rig.faults).toEqual([]);
    }
  });

  test(clause("dev.core.suspend", "is ignored before DRIVER_OK and without VIRTIO_F_SUSPEND"), () => {
    const early = new Rig();
    early.negotiate(FEATURES);
    early.set(SUSPEND);
    expect(early.status & SUSPEND).toBe(0);
    early.enable();
    early.set(DRIVER_OK);
    expect(early.status).toBe(RUNNING);

    const without = new Rig();
    without.start(MODERN);
    without.set(SUSPEND);
    expect(without.status).toBe(RUNNING);
  });

  test(
    clause(
      "dev.core.suspend",
      "waits for what is being processed, uses it, and says so before SUSPEND is set",
    ),
    async () => {
      const rig = new Rig();
      rig.start(FEATURES);
      const token = rig.offer();
      rig.notifications.length = 0;
      rig.set(SUSPEND);
      expect(rig.status).toBe(RUNNING);
      rig.device.requests[0]?.done(3);
      await settle();
      expect(rig.status).toBe(SUSPENDED);
      expect(rig.notifications).toEqual([0]);
      expect(rig.used()).toEqual([{ token, written: 3 }]);
    },
  );

  test(clause("dev.core.suspend", "while suspended no ring is touched and nothing is notified"), async () => {
    const rig = new Rig();
    rig.start(FEATURES);
    rig.device.serve = () => 1;
    rig.set(SUSPEND);
    expect(rig.status).toBe(SUSPENDED);
    rig.driver[0]?.offer([{ gpa: 0x10_0000, length: 4, writable: true }]);
    rig.driver[0]?.publish();
    rig.notifications.length = 0;
    const before = rig.memory.snapshot();
    rig.instance.notify(0);
    rig.instance.notify(1);
    expect(rig.device.context?.queue(1)?.popAvailable()).toBeUndefined();
    rig.device.context?.configChanged();
    rig.instance.writeConfig(0, 4, 0x5555_5555);
    rig.instance.writeConfigBytes(4, Uint8Array.of(9));
    await settle();
    expect(rig.memory.changedSince(before)).toEqual([]);
    expect(rig.notifications).toEqual([]);
    expect([...rig.device.configBytes]).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);

    // Resumed: the change is told, and what the driver made available is served.
    rig.set(DRIVER_OK);
    expect(rig.status).toBe(RUNNING);
    expect(rig.notifications).toContain("config");
    expect(rig.used()).toHaveLength(1);
    rig.instance.writeConfig(0, 1, 0x55);
    expect(rig.instance.readConfig(0, 1)).toBe(0x55);
  });

  test(
    clause("dev.core.suspend", "a pause of the host while suspended changes nothing for the driver"),
    async () => {
      const rig = new Rig();
      rig.device.serve = () => 1;
      rig.start(FEATURES);
      rig.set(SUSPEND);
      await rig.instance.pause();
      rig.instance.resume();
      expect(rig.status).toBe(SUSPENDED);
      await rig.instance.pause();
      rig.set(DRIVER_OK);
      rig.offer();
      expect(rig.used()).toEqual([]);
      rig.instance.resume();
      expect(rig.used()).toHaveLength(1);
    },
  );

  test(clause("dev.core.suspend", "a reset while it waits, or while suspended, is a reset"), async () => {
    const rig = new Rig();
    rig.start(FEATURES);
    rig.offer();
    rig.set(SUSPEND);
    rig.instance.writeStatus(0);
    expect(rig.status).toBe(0);
    rig.device.requests[0]?.done(1);
    await settle();
    expect(rig.status).toBe(0);
    rig.start(FEATURES);
    rig.set(SUSPEND);
    expect(rig.status).toBe(SUSPENDED);
    rig.instance.writeStatus(0);
    expect(rig.status).toBe(0);
    rig.start(FEATURES);
    expect(rig.status).toBe(RUNNING);
  });

  test(
    clause(
      "dev.core.suspend",
      "a reset and a new life while the old suspension waits leaves the new one running",
    ),
    async () => {
      const rig = new Rig();
      rig.start(FEATURES);
      rig.offer();
      rig.set(SUSPEND);
      rig.instance.writeStatus(0);
      rig.start(FEATURES);
      rig.offer();
      rig.set(SUSPEND);
      rig.device.requests[0]?.done(1);
      await settle();
      // The new life's own request is still being processed.
      expect(rig.status).toBe(RUNNING);
      rig.device.requests[1]?.done(1);
      await settle();
      expect(rig.status).toBe(SUSPENDED);
      expect(rig.used()).toHaveLength(1);
    },
  );

  test(
    clause(
      "dev.core.suspend",
      "a device that pops by itself and holds a chain does not touch the ring while suspended",
    ),
    () => {
      const rig = new Rig();
      rig.start(FEATURES);
      rig.offer(undefined, 1);
      const queue = rig.device.context?.queue(1);
      const chain = queue?.popAvailable();
      if (queue === undefined || chain === undefined) throw new Error("no chain");
      rig.set(SUSPEND);
      const suspended = rig.status === SUSPENDED;
      rig.notifications.length = 0;
      const before = rig.memory.snapshot();
      queue.addUsed(chain, 4);
      queue.flush();
      if (suspended) {
        expect(rig.memory.changedSince(before)).toEqual([]);
        expect(rig.notifications).toEqual([]);
        rig.set(DRIVER_OK);
      }
      expect(rig.used(1)).toHaveLength(1);
    },
  );
});
