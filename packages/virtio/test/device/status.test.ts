import { clause } from "@virtio/testkit/clause";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { DEVICE_TYPE_FEATURES, SUPPORTED_CORE_FEATURES } from "../../src/device/features.ts";
import { DeviceInstance } from "../../src/device/instance.ts";
import {
  VIRTIO_F_ANY_LAYOUT,
  VIRTIO_F_SUSPEND,
  VIRTIO_F_VERSION_1,
  featureBits,
} from "../../src/spec/core.ts";
import {
  ACKNOWLEDGE,
  DRIVER,
  DRIVER_OK,
  FAILED,
  FEATURES_OK,
  MODERN,
  NEEDS_RESET,
  ProbeDevice,
  Rig,
  RUNNING,
  SUSPEND,
} from "./rig.ts";

describe("device status", () => {
  test(
    clause(["dev.core.status", "dev.core.reset"], "starts as 0, takes each step, and is 0 after a reset"),
    () => {
      const rig = new Rig();
      expect(rig.status).toBe(0);
      rig.set(ACKNOWLEDGE);
      rig.set(DRIVER);
      expect(rig.status).toBe(ACKNOWLEDGE | DRIVER);
      rig.negotiate();
      expect(rig.status).toBe(ACKNOWLEDGE | DRIVER | FEATURES_OK);
      rig.enable();
      rig.set(DRIVER_OK);
      expect(rig.status).toBe(RUNNING);
      rig.instance.writeStatus(0);
      expect(rig.status).toBe(0);
      expect(rig.device.calls).toEqual(["activate", "refilled", "reset"]);
    },
  );

  test(clause("dev.core.status", "nothing is consumed or notified before DRIVER_OK"), () => {
    const rig = new Rig();
    rig.device.serve = () => 1;
    rig.negotiate();
    rig.enable();
    const before = rig.memory.snapshot();
    const token = rig.driver[0]?.offer([{ gpa: 0x10_0000, length: 4, writable: true }]);
    rig.driver[0]?.publish();
    const offered = rig.memory.snapshot();
    for (let i = 0; i < 3; i++) rig.instance.notify(0);
    rig.instance.notify(77);
    expect(rig.memory.changedSince(offered)).toEqual([]);
    expect(rig.memory.changedSince(before)).not.toEqual([]);
    expect(rig.notifications).toEqual([]);
    // What was offered before is served at once, without another notification.
    rig.set(DRIVER_OK);
    expect(rig.used()).toEqual([{ token, written: 1 }]);
    expect(rig.notifications).toEqual([0]);
  });

  test(clause("dev.core.status", "DRIVER_OK without FEATURES_OK is a fault"), () => {
    const rig = new Rig();
    rig.set(ACKNOWLEDGE | DRIVER | DRIVER_OK);
    expect(rig.status).toBe(ACKNOWLEDGE | DRIVER | NEEDS_RESET);
    expect(rig.faults[0]?.clause).toBe("drv.core.init");
    expect(rig.device.calls).toEqual([]);
    // Not DRIVER_OK: no notification.
    expect(rig.notifications).toEqual([]);
  });

  test(
    clause("dev.core.status", "a fault under DRIVER_OK sets DEVICE_NEEDS_RESET and sends one notification"),
    () => {
      const rig = new Rig();
      rig.start();
      rig.notifications.length = 0;
      rig.instance.writeStatus(RUNNING & ~DRIVER);
      rig.instance.writeStatus(RUNNING & ~ACKNOWLEDGE);
      expect(rig.status).toBe(RUNNING | NEEDS_RESET);
      expect(rig.notifications).toEqual(["config"]);
      expect(rig.faults.map((fault) => [fault.clause, fault.value])).toEqual([
        ["drv.core.status", DRIVER],
        ["drv.core.status", ACKNOWLEDGE],
      ]);
      rig.instance.writeStatus(0);
      expect(rig.status).toBe(0);
      rig.device.serve = () => 2;
      rig.start();
      const token = rig.offer();
      expect(rig.used()).toEqual([{ token, written: 2 }]);
    },
  );

  test(clause(["dev.core.status"], "the driver cannot set DEVICE_NEEDS_RESET itself"), () => {
    const rig = new Rig();
    rig.set(ACKNOWLEDGE | NEEDS_RESET);
    expect(rig.status).toBe(ACKNOWLEDGE);
  });

  test(clause(["dev.core.status"], "after FAILED nothing is served until a reset"), () => {
    const rig = new Rig();
    rig.device.serve = () => 1;
    rig.start();
    rig.set(FAILED);
    rig.offer();
    expect(rig.used()).toEqual([]);
    rig.set(DRIVER_OK);
    rig.instance.resume();
    expect(rig.used()).toEqual([]);
    rig.instance.writeStatus(0);
    rig.start();
    rig.offer();
    expect(rig.used()).toHaveLength(1);
  });

  test(
    clause(
      ["dev.core.status", "dev.core.suspend", "dev.core.features"],
      "any register writes leave a status that can be",
    ),
    () => {
      const write = fc.oneof(
        fc.record({ do: fc.constant("status" as const), value: fc.integer({ min: 0, max: 255 }) }),
        fc.record({
          do: fc.constant("add" as const),
          value: fc.constantFrom(ACKNOWLEDGE, DRIVER, FEATURES_OK, DRIVER_OK, SUSPEND, FAILED, 32),
        }),
        fc.record({
          do: fc.constant("features" as const),
          value: fc.constantFrom(
            MODERN,
            MODERN | featureBits(VIRTIO_F_SUSPEND),
            0n,
            MODERN | 2n,
            (1n << 128n) - 1n,
          ),
        }),
        fc.record({ do: fc.constant("start" as const) }),
        fc.record({ do: fc.constantFrom("offer" as const, "change" as const, "enable" as const) }),
      );
      fc.assert(
        fc.property(fc.array(write, { maxLength: 40, size: "max" }), (writes) => {
          const rig = new Rig();
          rig.device.serve = () => 1;
          for (const step of writes) {
            const before = rig.status;
            if (step.do === "status") rig.instance.writeStatus(step.value);
            if (step.do === "add") rig.set(step.value);
            if (step.do === "features") rig.accept(step.value);
            if (step.do === "enable" && (rig.status & FEATURES_OK) !== 0) rig.instance.queue(0)?.enable();
            if (step.do === "change") rig.device.context?.configChanged();
            if (step.do === "offer" && rig.driver[0] !== undefined && rig.driver[0].free > 1) {
              rig.driver[0].offer([{ gpa: 0x10_0000, length: 4, writable: true }]);
              rig.driver[0].publish();
              rig.instance.notify(0);
            }
            if (step.do === "start" && rig.status === 0) {
              rig.driver = [];
              const fresh = new Rig();
              fresh.start();
              expect(fresh.status).toBe(RUNNING);
            }
            const now = rig.status;
            const wasReset = step.do === "status" && step.value === 0;
            if ((now & DRIVER_OK) !== 0) expect(now & FEATURES_OK).toBe(FEATURES_OK);
            expect(now & (DRIVER_OK | SUSPEND)).not.toBe(DRIVER_OK | SUSPEND);
            if ((now & SUSPEND) !== 0)
              expect(rig.instance.driverFeatures & featureBits(VIRTIO_F_SUSPEND)).not.toBe(0n);
            if (wasReset) expect(now).toBe(0);
            else expect(now & before & ~(SUSPEND | DRIVER_OK)).toBe(before & ~(SUSPEND | DRIVER_OK));
          }
        }),
        { numRuns: 300 },
      );
    },
  );
});

describe("features", () => {
  test(
    clause(
      ["dev.core.features", "dev.core.reserved-features"],
      "the offer is the device's and the core's, in 128 bits",
    ),
    () => {
      const rig = new Rig();
      const windows = [0, 1, 2, 3].map((window) => BigInt(rig.instance.readDeviceFeatures(window)));
      const offered = windows.reduce((sum, bits, window) => sum | (bits << BigInt(32 * window)), 0n);
      expect(offered).toBe(SUPPORTED_CORE_FEATURES | 0b111n);
      expect(offered & featureBits(VIRTIO_F_VERSION_1)).not.toBe(0n);
      for (const window of [4, 5, 0xffff_ffff]) expect(rig.instance.readDeviceFeatures(window)).toBe(0);
      // Nothing but what the spec gives to device types and to the core.
      const reserved = ~(DEVICE_TYPE_FEATURES | (((1n << 41n) - 1n) & ~((1n << 24n) - 1n)) | (1n << 43n));
      expect(offered & reserved).toBe(0n);
    },
  );

  test(clause("dev.core.features", "features that nobody implements cannot be offered"), () => {
    for (const bit of [30, 33, 36, 37, 41, 44, 49, 128])
      expect(() => new Rig({ features: MODERN | featureBits(bit) }), `bit ${bit}`).toThrow(/not implemented/);
  });

  test(clause("dev.core.features", "an offer whose dependencies are broken cannot be made"), () => {
    const device = new ProbeDevice();
    device.features = 0b10n;
    expect(() => new Rig({}, device)).toThrow(/feature bit 1 needs feature bit 0/);
  });

  test(
    clause(
      ["dev.core.features", "dev.core.reserved-features"],
      "FEATURES_OK sticks for what can be, and only for that",
    ),
    () => {
      const sticks = (features: bigint, prepare: (rig: Rig) => void = () => undefined): boolean => {
        const rig = new Rig();
        prepare(rig);
        rig.negotiate(features);
        return (rig.status & FEATURES_OK) !== 0;
      };
      expect(sticks(MODERN)).toBe(true);
      expect(sticks(MODERN | 0b11n)).toBe(true);
      expect(sticks(0n)).toBe(false);
      expect(sticks(1n)).toBe(false);
      // Bit 1 needs bit 0; bit 3 and bit 63 were not offered.
      expect(sticks(MODERN | 0b10n)).toBe(false);
      expect(sticks(MODERN | 0b1000n)).toBe(false);
      expect(sticks(MODERN | (1n << 63n))).toBe(false);
      expect(sticks(MODERN | (1n << 127n))).toBe(false);
      expect(sticks(MODERN, (rig) => (rig.device.refuses = "not today"))).toBe(false);
    },
  );

  test(clause("dev.core.features", "every valid subset is accepted, again and again after a reset"), () => {
    const offered = SUPPORTED_CORE_FEATURES | 0b111n;
    const bits = Array.from({ length: 64 }, (_, bit) => bit).filter((bit) => (offered >> BigInt(bit)) & 1n);
    fc.assert(
      fc.property(fc.subarray(bits), (subset) => {
        const valid = featureBits(
          ...subset.filter((bit) => bit !== 1 || subset.includes(0)),
          VIRTIO_F_VERSION_1,
        );
        const rig = new Rig();
        for (let round = 0; round < 2; round++) {
          rig.negotiate(valid);
          expect(rig.status & FEATURES_OK).toBe(FEATURES_OK);
          expect(rig.instance.driverFeatures).toBe(valid);
          rig.instance.writeStatus(0);
          expect(rig.instance.driverFeatures).toBe(0n);
        }
      }),
      { numRuns: 60 },
    );
  });

  test(clause("dev.core.features", "a refused subset may be changed; an accepted one may not"), () => {
    const rig = new Rig();
    rig.negotiate(MODERN | 0b10n);
    expect(rig.status & FEATURES_OK).toBe(0);
    rig.accept(MODERN | 0b11n);
    rig.set(FEATURES_OK);
    expect(rig.status & FEATURES_OK).toBe(FEATURES_OK);
    rig.accept(MODERN);
    expect(rig.instance.driverFeatures).toBe(MODERN | 0b11n);
    expect(rig.instance.readDriverFeatures(0)).toBe(0b11);
  });

  test("a legacy driver sees 32 bits with ANY_LAYOUT, and works without FEATURES_OK and before DRIVER_OK", () => {
    const rig = new Rig();
    rig.device.serve = () => 3;
    expect(rig.instance.readLegacyFeatures() & (1 << VIRTIO_F_ANY_LAYOUT)).not.toBe(0);
    rig.instance.legacy = true;
    rig.set(ACKNOWLEDGE | DRIVER);
    rig.accept(1n | featureBits(VIRTIO_F_ANY_LAYOUT));
    rig.enable([0]);
    const token = rig.offer();
    expect(rig.used()).toEqual([{ token, written: 3 }]);
    rig.set(DRIVER_OK);
    expect(rig.status).toBe(ACKNOWLEDGE | DRIVER | DRIVER_OK);
    rig.offer();
    expect(rig.used()).toHaveLength(1);
    expect(rig.faults).toEqual([]);
  });
});

describe("configuration space", () => {
  test(clause("dev.core.config", "is readable from the start, at any width and offset"), () => {
    const { instance } = new Rig();
    expect(instance.configLength).toBe(8);
    expect(instance.readConfig(0, 4)).toBe(0x0403_0201);
    expect(instance.readConfig(3, 2)).toBe(0x0504);
    expect(instance.readConfig(7, 4)).toBe(8);
    for (const offset of [8, 9, 4095, 2 ** 32]) expect(instance.readConfig(offset, 4)).toBe(0);
    const bytes = new Uint8Array(12).fill(0xff);
    instance.readConfigBytes(2, bytes);
    expect([...bytes]).toEqual([3, 4, 5, 6, 7, 8, 0, 0, 0, 0, 0, 0]);
  });

  test("writes beyond the end, or where all is read-only, are dropped", () => {
    const rig = new Rig();
    rig.instance.writeConfig(6, 4, 0x0403_0201);
    expect([...rig.device.configBytes]).toEqual([1, 2, 3, 4, 5, 6, 1, 2]);
    rig.instance.writeConfig(8, 4, 0xffff_ffff);
    rig.instance.writeConfigBytes(2 ** 40, Uint8Array.of(1));
    expect([...rig.device.configBytes]).toEqual([1, 2, 3, 4, 5, 6, 1, 2]);
    const plain = new DeviceInstance(
      { id: 4, name: "plain", features: 0n, queues: [] },
      { label: "x", memory: rig.memory, features: MODERN },
    );
    plain.writeConfig(0, 4, 1);
    expect(plain.readConfig(0, 4)).toBe(0);
    expect(plain.configLength).toBe(0);
  });

  test(clause("dev.core.config", "every change gives another generation and one notification"), () => {
    const rig = new Rig();
    rig.device.context?.configChanged();
    rig.start();
    const first = rig.instance.generation;
    rig.notifications.length = 0;
    rig.device.context?.configChanged();
    expect(rig.instance.generation).not.toBe(first);
    expect(rig.notifications).toEqual(["config"]);
    // The activation of before is dead after a reset.
    const { context } = rig.device;
    rig.instance.writeStatus(0);
    context?.configChanged();
    expect(context?.live).toBe(false);
    expect(context?.queue(0)).toBeUndefined();
    expect(rig.notifications).toEqual(["config"]);
  });
});
