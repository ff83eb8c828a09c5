import { clause } from "@virtio/testkit/clause";
import { loadStructs } from "@virtio/testkit/oracles";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { SUPPORTED_CORE_FEATURES } from "virtio/device/features";
import type { VirtioObserver } from "virtio/device/observer";
import {
  VIRTIO_F_NOTIF_CONFIG_DATA,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_RING_RESET,
  VIRTIO_F_VERSION_1,
  featureBits,
} from "virtio/spec/core";
import { echoDevice, PciRig } from "./support.ts";

const fields = loadStructs()["virtio_pci_common_cfg"]?.fields ?? [];
/** Offset of a field, from the spec's own listing. */
function at(name: string): number {
  const offset = fields.find((field) => field.name === name)?.off;
  if (offset === undefined || offset === null) throw new Error(`no field ${name}`);
  return offset;
}
const V1 = featureBits(VIRTIO_F_VERSION_1);
const ALL = SUPPORTED_CORE_FEATURES;
const NEEDS_RESET = 64;

const word = fc.nat({ max: 0xffffffff });

describe("features", () => {
  test(
    clause("dev.pci.common-cfg", "device_feature shows what is offered, 32 bits at a time, 0 beyond"),
    () => {
      const rig = new PciRig({ ...echoDevice(), features: 0b11n | (1n << 77n) }, {}, { features: ALL });
      let shown = 0n;
      for (const select of [0, 1, 2, 3]) {
        rig.setCommon(at("device_feature_select"), 4, select);
        expect(rig.common(at("device_feature_select"), 4)).toBe(select);
        shown |= BigInt(rig.common(at("device_feature"), 4)) << BigInt(32 * select);
      }
      expect(shown).toBe(rig.instance.offered);
      for (const select of [4, 5, 0x7fffffff, 0xffffffff]) {
        rig.setCommon(at("device_feature_select"), 4, select);
        expect(rig.common(at("device_feature"), 4)).toBe(0);
      }
    },
  );

  test(clause("dev.pci.common-cfg", "driver_feature shows the valid bits that were written"), () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(fc.nat({ max: 5 }), word), { maxLength: 10 }), (writes) => {
        const rig = new PciRig(echoDevice(), {}, { features: ALL });
        const model = new Map<number, number>();
        for (const [select, value] of writes) {
          rig.setCommon(at("driver_feature_select"), 4, select);
          rig.setCommon(at("driver_feature"), 4, value);
          model.set(select, value);
        }
        for (const [select, value] of model) {
          rig.setCommon(at("driver_feature_select"), 4, select);
          const offered = rig.instance.readDeviceFeatures(select);
          expect(rig.common(at("driver_feature"), 4) & offered).toBe(value & offered);
        }
      }),
    );
  });

  test("the read-only registers stay", () => {
    const rig = new PciRig(echoDevice({ queues: 3 }), {}, { features: ALL });
    rig.negotiate(V1);
    for (const name of [
      "device_feature",
      "num_queues",
      "config_generation",
      "queue_notify_off",
      "queue_notif_config_data",
      "admin_queue_index",
      "admin_queue_num",
    ]) {
      const size = name === "device_feature" ? 4 : name === "config_generation" ? 1 : 2;
      const before = rig.common(at(name), size);
      rig.setCommon(at(name), size, before ^ 0xff);
      expect(rig.common(at(name), size), name).toBe(before);
    }
    expect(rig.common(at("num_queues"), 2)).toBe(3);
    expect(rig.common(at("admin_queue_index"), 2)).toBe(0);
    expect(rig.common(at("admin_queue_num"), 2)).toBe(0);
    expect(rig.instance.status & NEEDS_RESET).toBe(0);
  });
});

describe("status", () => {
  test(clause("dev.pci.common-cfg", "0 resets, and is read when the reset is complete"), async () => {
    let finish: (() => void) | undefined;
    const pending = new Promise<void>((resolve) => (finish = resolve));
    let resets = 0;
    const reset = (): void | Promise<void> => (resets++ === 0 ? undefined : pending);
    const rig = new PciRig(echoDevice({ reset }), {}, { features: ALL });
    rig.negotiate(V1);
    rig.enableQueue(1, 8, 0x4000);
    rig.setCommon(at("config_msix_vector"), 2, 1);
    rig.setCommon(at("queue_msix_vector"), 2, 1);
    rig.setCommon(at("device_status"), 1, 15);
    expect(rig.common(at("device_status"), 1)).toBe(15);
    rig.setCommon(at("device_status"), 1, 0);
    expect(rig.common(at("device_status"), 1)).not.toBe(0);
    finish?.();
    await pending;
    await Promise.resolve();
    expect(rig.common(at("device_status"), 1)).toBe(0);
    expect(rig.common(at("config_msix_vector"), 2)).toBe(0xffff);
    rig.setCommon(at("queue_select"), 2, 1);
    for (const [name, value] of [
      ["queue_enable", 0],
      ["queue_reset", 0],
      ["queue_size", 64],
      ["queue_msix_vector", 0xffff],
      ["queue_desc", 0],
      ["queue_driver", 0],
      ["queue_device", 0],
    ] as const) {
      expect(rig.common(at(name), 2), name).toBe(value);
    }
  });

  test("a bus reset resets all", () => {
    const rig = new PciRig(echoDevice(), {}, { features: ALL });
    rig.negotiate(V1);
    rig.fn.writeConfig(4, 2, 6);
    rig.fn.reset();
    expect(rig.instance.status).toBe(0);
    expect(rig.fn.readConfig(4, 2)).toBe(0);
  });
});

describe("virtqueues", () => {
  test(
    clause(["dev.pci.layout", "dev.pci.common-cfg"], "halves of the 64-bit fields are independent"),
    () => {
      const halves = ["queue_desc", "queue_driver", "queue_device"].flatMap((name) => [
        at(name),
        at(name) + 4,
      ]);
      const write = fc.record({
        queue: fc.nat({ max: 1 }),
        offset: fc.constantFrom(...halves),
        value: word,
      });
      fc.assert(
        fc.property(fc.array(write, { maxLength: 30 }), (writes) => {
          const rig = new PciRig(echoDevice());
          const model = new Map<string, number>();
          for (const { queue, offset, value } of writes) {
            // Addresses of 2^53 and more are no addresses; they need only be told from all valid ones.
            const kept = offset % 8 === 4 ? value & 0x1fffff : value;
            rig.setCommon(at("queue_select"), 2, queue);
            rig.setCommon(offset, 4, kept);
            model.set(`${queue} ${offset}`, kept);
            for (const q of [0, 1]) {
              rig.setCommon(at("queue_select"), 2, q);
              for (const half of halves) expect(rig.common(half, 4)).toBe(model.get(`${q} ${half}`) ?? 0);
            }
          }
        }),
        { numRuns: 30 },
      );
    },
  );

  test(
    clause("dev.pci.common-cfg", "queue_size is the maximum, 0 for what is not there, always a power of two"),
    () => {
      fc.assert(
        fc.property(fc.nat({ max: 0xffff }), (size) => {
          const rig = new PciRig(echoDevice({ maxSize: 64 }), {}, { features: ALL });
          rig.negotiate(V1);
          for (const queue of [2, 100, 0xffff]) {
            rig.setCommon(at("queue_select"), 2, queue);
            rig.setCommon(at("queue_size"), 2, 8);
            expect(rig.common(at("queue_size"), 2)).toBe(0);
            expect(rig.common(at("queue_enable"), 2)).toBe(0);
            expect(rig.common(at("queue_msix_vector"), 2)).toBe(0xffff);
          }
          rig.setCommon(at("queue_select"), 2, 1);
          expect(rig.common(at("queue_size"), 2)).toBe(64);
          rig.setCommon(at("queue_size"), 2, size);
          const now = rig.common(at("queue_size"), 2);
          expect(Number.isInteger(Math.log2(now)) && now <= 64).toBe(true);
          const allowed = size > 0 && size <= 64 && Number.isInteger(Math.log2(size));
          expect(now === size).toBe(allowed);
          expect((rig.instance.status & NEEDS_RESET) === 0).toBe(allowed);
        }),
      );
    },
  );

  test("a packed virtqueue may have any size but 0", () => {
    const rig = new PciRig(echoDevice({ maxSize: 64 }), {}, { features: ALL });
    rig.negotiate(V1 | featureBits(VIRTIO_F_RING_PACKED));
    rig.setCommon(at("queue_size"), 2, 37);
    expect(rig.common(at("queue_size"), 2)).toBe(37);
    rig.setCommon(at("queue_size"), 2, 0);
    expect(rig.common(at("queue_size"), 2)).toBe(37);
    expect(rig.instance.status & NEEDS_RESET).toBe(NEEDS_RESET);
  });

  test("queue_enable: 1 enables, 0 does nothing, and the other fields then stand", () => {
    const rig = new PciRig(echoDevice());
    rig.negotiate(V1);
    rig.enableQueue(0, 8, 0x4000);
    expect(rig.common(at("queue_enable"), 2)).toBe(1);
    rig.setCommon(at("queue_enable"), 2, 0);
    expect(rig.common(at("queue_enable"), 2)).toBe(1);
    rig.setCommon(at("queue_size"), 2, 16);
    rig.setCommon(at("queue_desc"), 4, 0x10000);
    expect(rig.common(at("queue_size"), 2)).toBe(8);
    expect(rig.common(at("queue_desc"), 4)).toBe(0x4000);
  });

  test(
    clause(
      ["dev.pci.common-cfg", "dev.core.vq-reset", "dev.core.vq-reenable"],
      "queue_reset takes one virtqueue back, and it can be enabled again",
    ),
    () => {
      const rig = new PciRig(echoDevice(), {}, { features: ALL });
      rig.negotiate(V1 | featureBits(VIRTIO_F_RING_RESET));
      rig.enableQueue(0, 8, 0x4000);
      rig.setCommon(at("queue_msix_vector"), 2, 1);
      rig.setCommon(at("device_status"), 1, 15);
      rig.offer(0x4000, 1);
      const notify = rig.cap(2);
      rig.writeBar(notify.bar, notify.offset, 2, 0);
      expect(rig.usedIndex(0x4000)).toBe(1);
      rig.setCommon(at("queue_reset"), 2, 1);
      expect(rig.common(at("queue_reset"), 2)).toBe(0);
      expect(rig.common(at("queue_enable"), 2)).toBe(0);
      expect(rig.common(at("queue_size"), 2)).toBe(64);
      expect(rig.common(at("queue_msix_vector"), 2)).toBe(0xffff);
      rig.offer(0x4000, 2);
      rig.writeBar(notify.bar, notify.offset, 2, 0);
      expect(rig.usedIndex(0x4000)).toBe(1);
      rig.enableQueue(0, 8, 0x10000);
      expect(rig.common(at("queue_enable"), 2)).toBe(1);
      expect(rig.common(at("queue_reset"), 2)).toBe(0);
      rig.offer(0x10000, 3);
      rig.writeBar(notify.bar, notify.offset, 2, 0);
      expect(rig.usedIndex(0x10000)).toBe(1);
    },
  );

  test(
    clause(
      ["dev.pci.common-cfg", "dev.core.vq-reset"],
      "queue_reset reads 1 while a request is still worked on",
    ),
    async () => {
      const rig = new PciRig(echoDevice({ delay: 3 }), {}, { features: ALL });
      rig.negotiate(V1 | featureBits(VIRTIO_F_RING_RESET));
      rig.enableQueue(0, 8, 0x4000);
      rig.setCommon(at("device_status"), 1, 15);
      rig.offer(0x4000, 1);
      const notify = rig.cap(2);
      rig.writeBar(notify.bar, notify.offset, 2, 0);
      rig.setCommon(at("queue_reset"), 2, 1);
      expect(rig.common(at("queue_reset"), 2)).toBe(1);
      expect(rig.common(at("queue_enable"), 2)).toBe(0);
      rig.setCommon(at("queue_enable"), 2, 1);
      expect(rig.common(at("queue_enable"), 2)).toBe(0);
      await expect.poll(() => rig.common(at("queue_reset"), 2)).toBe(0);
      expect(rig.usedIndex(0x4000)).toBe(0);
    },
  );

  test("queue_reset and queue_notif_config_data exist only when negotiated", () => {
    const features = featureBits(VIRTIO_F_RING_RESET, VIRTIO_F_NOTIF_CONFIG_DATA);
    for (const negotiated of [false, true]) {
      const rig = new PciRig(echoDevice(), { notifConfigData: (queue) => 0x700 + queue }, { features: ALL });
      rig.negotiate(negotiated ? V1 | features : V1);
      rig.enableQueue(1, 8, 0x4000);
      expect(rig.common(at("queue_notif_config_data"), 2)).toBe(negotiated ? 0x701 : 0);
      rig.setCommon(at("queue_reset"), 2, 1);
      expect(rig.common(at("queue_enable"), 2)).toBe(negotiated ? 0 : 1);
    }
  });

  test("queue_notif_config_data must name each virtqueue", () => {
    expect(() => new PciRig(echoDevice(), { notifConfigData: () => 1 })).toThrow(RangeError);
    expect(() => new PciRig(echoDevice(), { notifConfigData: () => 0x10000 })).toThrow(RangeError);
  });
});

describe("notifications", () => {
  const used = (rig: PciRig): number[] => [rig.usedIndex(0x4000), rig.usedIndex(0x10000)];
  const live = (rig: PciRig, features: bigint): void => {
    rig.negotiate(features);
    rig.enableQueue(0, 8, 0x4000);
    rig.enableQueue(1, 8, 0x10000);
    rig.setCommon(at("device_status"), 1, 15);
  };

  test("an address of its own names the virtqueue; anything else there does nothing", () => {
    const rig = new PciRig(echoDevice());
    live(rig, V1);
    const { bar, offset, size } = rig.cap(2);
    rig.offer(0x4000, 1);
    rig.offer(0x10000, 1);
    for (const [o, s] of [
      [0, 1],
      [1, 2],
      [2, 2],
      [size, 2],
    ] as const) {
      rig.writeBar(bar, offset + o, s, 0);
    }
    expect(used(rig)).toEqual([0, 0]);
    rig.writeBar(bar, offset + 4, 2, 0);
    expect(used(rig)).toEqual([0, 1]);
    rig.writeBar(bar, offset, 4, 0xffffffff);
    expect(used(rig)).toEqual([1, 1]);
    expect(rig.readBar(bar, offset, 4)).toBe(0);
  });

  test.each([false, true])(
    "one address for all: the value names it; by queue_notif_config_data: %s",
    (named) => {
      const options = { modernBar: "io", notifConfigData: (queue: number) => 0x100 + queue } as const;
      const rig = new PciRig(echoDevice(), options, { features: ALL });
      live(rig, named ? V1 | featureBits(VIRTIO_F_NOTIF_CONFIG_DATA) : V1);
      const { bar, offset } = rig.cap(2);
      expect(rig.fn.readConfig(rig.cap(2).at + 16, 4)).toBe(0);
      rig.offer(0x4000, 1);
      rig.offer(0x10000, 1);
      const [right, wrong] = named ? [0x101, 1] : [1, 0x101];
      rig.writeBar(bar, offset, 2, wrong);
      rig.writeBar(bar, offset, 2, 0xffff);
      rig.writeBar(bar, offset, 1, right & 0xff);
      rig.writeBar(bar, offset + 2, 2, right);
      expect(used(rig)).toEqual([0, 0]);
      rig.writeBar(bar, offset, 2, right);
      expect(used(rig)).toEqual([0, 1]);
    },
  );
});

describe("config_generation", () => {
  test(clause("dev.pci.common-cfg", "a driver that follows it never takes two halves for one whole"), () => {
    const step = fc.oneof(fc.constant("change" as const), fc.constant("read" as const));
    fc.assert(
      fc.property(fc.array(step, { minLength: 2, maxLength: 600 }), fc.nat({ max: 600 }), (steps, burst) => {
        const device = echoDevice({ configLength: 2 });
        device.bytes.fill(0);
        const rig = new PciRig(device);
        const { bar, offset } = rig.cap(4);
        let version = 0;
        const change = (): void => {
          // A period that no power of two divides.
          version = (version + 1) % 251;
          device.bytes.fill(version);
          rig.instance.configChanged();
        };
        const reads = steps.filter((step) => step === "read").length;
        let generation = -1;
        let seen: number[] = [];
        for (const action of steps) {
          if (action === "change") {
            // Also so many that an 8-bit counter of changes would wrap.
            for (let i = 0; i <= (reads % 2 === 0 ? 255 : burst); i++) change();
            continue;
          }
          const value = rig.readBar(bar, offset + (seen.length % 2), 1);
          const now = rig.common(at("config_generation"), 1);
          if (now !== generation) seen = [];
          else if (seen.length > 0) expect(value).toBe(seen[0]);
          seen.push(value);
          generation = now;
        }
      }),
    );
  });
});

describe("accesses that are not natural", () => {
  test("reads are put together, writes reach the fields they cover whole", () => {
    const rig = new PciRig(echoDevice({ queues: 2 }));
    rig.negotiate(V1);
    rig.setCommon(at("queue_desc"), 4, 0x11223344);
    expect(rig.common(at("queue_desc") + 1, 1)).toBe(0x33);
    expect(rig.common(at("queue_desc") + 2, 2)).toBe(0x1122);
    expect(rig.common(at("queue_desc") + 3, 2)).toBe(0x11);
    // num_queues and config_msix_vector, then status, generation and queue_select.
    expect(rig.common(at("config_msix_vector"), 4)).toBe(0x0002ffff);
    expect(rig.common(at("device_status"), 4)).toBe(0x0000000b);
    rig.setCommon(at("queue_size"), 4, 0x00010010);
    expect(rig.common(at("queue_size"), 2)).toBe(16);
    expect(rig.common(at("queue_msix_vector"), 2)).toBe(1);
    rig.setCommon(at("queue_size"), 1, 8);
    rig.setCommon(at("queue_size") + 1, 2, 0x0808);
    rig.setCommon(at("queue_desc"), 1, 0);
    expect(rig.common(at("queue_size"), 2)).toBe(16);
    expect(rig.common(at("queue_desc"), 4)).toBe(0x11223344);
  });
});

describe("an observer", () => {
  test("sees every register by the spec's name", () => {
    const seen: string[] = [];
    const observer: VirtioObserver = {
      register: (device, access, name, value) => void seen.push(`${device.label} ${access} ${name} ${value}`),
    };
    const rig = new PciRig(echoDevice(), { mode: "transitional" }, { observer });
    rig.setCommon(at("device_feature_select"), 4, 1);
    rig.common(at("device_status"), 1);
    rig.setCommon(at("queue_desc") + 4, 4, 0);
    rig.readBar(4, 0x1000, 1);
    rig.writeBar(4, 0x3000, 2, 0);
    rig.writeBar(0, 14, 2, 1);
    expect(seen).toEqual([
      "rig write device_feature_select 1",
      "rig read device_status 0",
      "rig write queue_desc (high) 0",
      "rig read isr_status 0",
      "rig write queue_notify 0",
      "rig write queue_select 1",
    ]);
  });
});
