/** What a driver does wrong at the registers of a PCI function without being stopped is said to whoever listens. */
import { clause } from "@virtio/testkit/clause";
import { describe, expect, test } from "vitest";
import type { DriverHint } from "virtio/device/observer";
import {
  featureBits,
  VIRTIO_F_NOTIFICATION_DATA,
  VIRTIO_F_RING_RESET,
  VIRTIO_F_VERSION_1,
} from "virtio/spec/core";
import { VIRTIO_PCI_COMMON_CFG as COMMON, VIRTIO_PCI_LEGACY as LEGACY } from "virtio/spec/pci";
import type { VirtioPciOptions } from "virtio/transport/pci/options";
import { ProbeDevice } from "../device/rig.ts";
import { PciRig } from "./support.ts";

const MODERN_BAR = 4;
const LEGACY_BAR = 0;
const ISR = 0x1000;
const DEVICE = 0x2000;
const NOTIFY = 0x3000;
const HOLE = 0x1800;
const MODERN = featureBits(VIRTIO_F_VERSION_1);
const RESETS = MODERN | featureBits(VIRTIO_F_RING_RESET);
const WITH_DATA = MODERN | featureBits(VIRTIO_F_NOTIFICATION_DATA);

class Bench {
  readonly hints: DriverHint[] = [];
  readonly faults: string[] = [];
  readonly rig: PciRig;
  /** Bytes of the fields of the common configuration that are not 2. */
  readonly #wide: ReadonlySet<number> = new Set([0, 4, 8, 12, 32, 36, 40, 44, 48, 52]);

  constructor(options: VirtioPciOptions) {
    const features = MODERN | RESETS | WITH_DATA;
    this.rig = new PciRig(new ProbeDevice(), options, {
      features,
      observer: { hint: (_, hint) => void this.hints.push(hint) },
    });
    this.rig.instance.onFault = ({ message }) => void this.faults.push(message);
  }

  write(offset: number, value: number, size: 1 | 2 | 4, bar = MODERN_BAR): this {
    this.rig.writeBar(bar, offset, size, value);
    return this;
  }

  read(offset: number, size: 1 | 2 | 4, bar = MODERN_BAR): this {
    this.rig.readBar(bar, offset, size);
    return this;
  }

  /** A field of the common configuration, in its width. */
  set(offset: number, value: number): this {
    return this.write(offset, value, offset === COMMON.device_status ? 1 : this.#wide.has(offset) ? 4 : 2);
  }

  negotiate(features = MODERN): this {
    this.set(COMMON.device_status, 3);
    for (const window of [0, 1])
      this.set(COMMON.driver_feature_select, window).set(
        COMMON.driver_feature,
        Number(BigInt.asUintN(32, features >> BigInt(32 * window))),
      );
    return this.set(COMMON.device_status, 0xb);
  }

  configure(queue: number): this {
    this.set(COMMON.queue_select, queue).set(COMMON.queue_size, 8).set(COMMON.queue_msix_vector, 1);
    return this.set(COMMON.queue_desc, 0x2000)
      .set(COMMON.queue_driver, 0x3000)
      .set(COMMON.queue_device, 0x4000);
  }

  running(features = MODERN): this {
    this.negotiate(features);
    for (const queue of [0, 1]) this.configure(queue).set(COMMON.queue_enable, 1);
    return this.set(COMMON.device_status, 0xf);
  }

  legacyRunning(): this {
    this.write(LEGACY.device_status, 3, 1, LEGACY_BAR).write(LEGACY.driver_features, 0, 4, LEGACY_BAR);
    this.write(LEGACY.queue_select, 0, 2, LEGACY_BAR).write(LEGACY.queue_address, 2, 4, LEGACY_BAR);
    return this.write(LEGACY.device_status, 7, 1, LEGACY_BAR);
  }
}

interface Mistake {
  readonly title: string;
  readonly clause?: string;
  readonly mode?: VirtioPciOptions["mode"];
  readonly before?: (bench: Bench) => void;
  readonly make: (bench: Bench) => void;
  readonly says: RegExp;
  readonly value?: number;
  readonly queue?: number;
}

const common: readonly Mistake[] = [
  {
    title: "a write of 1 byte of 2",
    clause: "drv.pci.layout",
    make: (b) => b.write(COMMON.queue_select, 0, 1),
    says: /write of queue_select that is not 16 bits/,
    value: 22,
  },
  {
    title: "a read of 1 byte of 4",
    clause: "drv.pci.layout",
    make: (b) => b.read(COMMON.device_feature, 1),
    says: /read of device_feature that is not 32 bits/,
  },
  {
    title: "a read of half a field",
    clause: "drv.pci.layout",
    make: (b) => b.read(COMMON.queue_desc + 2, 2),
    says: /read of queue_desc that is not 32 bits/,
    value: 34,
  },
  {
    title: "a write to a read-only field",
    make: (b) => b.write(COMMON.num_queues, 5, 2),
    says: /read-only field num_queues/,
    value: 5,
  },
  {
    title: "a queue address changed while it is enabled",
    before: (b) => b.running(),
    make: (b) => b.set(COMMON.queue_desc, 0x5000),
    says: /queue_desc written while queue_enable is 1/,
    value: 0x5000,
    queue: 1,
  },
  {
    title: "a field of a queue that does not exist",
    before: (b) => b.negotiate().set(COMMON.queue_select, 7),
    make: (b) => b.set(COMMON.queue_enable, 1),
    says: /queue_enable written for a virtqueue that does not exist/,
    value: 7,
  },
  {
    title: "a queue disabled by its enable",
    before: (b) => b.running(),
    make: (b) => b.set(COMMON.queue_enable, 0),
    says: /queue_enable takes only 1/,
    value: 0,
  },
  {
    title: "a queue reset without its feature",
    clause: "drv.core.vq-reset",
    before: (b) => b.running(),
    make: (b) => b.set(COMMON.queue_reset, 1),
    says: /without VIRTIO_F_RING_RESET/,
    queue: 1,
  },
  {
    title: "queue_reset 0",
    before: (b) => b.running(RESETS),
    make: (b) => b.set(COMMON.queue_reset, 0),
    says: /queue_reset takes only 1/,
  },
  {
    title: "a vector that is not there",
    clause: "drv.pci.msix",
    make: (b) => b.set(COMMON.config_msix_vector, 99),
    says: /config_msix_vector is none of the MSI-X table/,
    value: 99,
  },
  {
    title: "a write to the ISR status",
    clause: "drv.pci.isr",
    make: (b) => b.write(ISR, 0, 1),
    says: /write to the ISR status/,
  },
  {
    title: "a wide read of the ISR status",
    clause: "drv.pci.layout",
    make: (b) => b.read(ISR, 4),
    says: /ISR status that is not 8 bits/,
    value: 4,
  },
  {
    title: "an access outside of every structure",
    clause: "drv.pci.layout",
    make: (b) => b.write(HOLE, 1, 4),
    says: /write outside of every structure/,
    value: HOLE,
  },
  {
    title: "an unaligned read of configuration space",
    clause: "drv.pci.layout",
    make: (b) => b.read(DEVICE + 1, 2),
    says: /not aligned/,
    value: 1,
  },
  {
    title: "a read of configuration space beyond its end",
    clause: "own.config",
    make: (b) => b.read(DEVICE + 8, 4),
    says: /read beyond/,
    value: 8,
  },
  {
    title: "a notification of 4 bytes without notification data",
    clause: "own.notify",
    before: (b) => b.running(),
    make: (b) => b.write(NOTIFY, 0, 4),
    says: /not 16 bits/,
    value: 4,
  },
  {
    title: "a notification of 2 bytes with notification data",
    clause: "own.notify",
    before: (b) => b.running(WITH_DATA),
    make: (b) => b.write(NOTIFY + 4, 1, 2),
    says: /not 32 bits/,
    value: 2,
  },
  {
    title: "a notification between two addresses",
    clause: "own.notify",
    before: (b) => b.running(),
    make: (b) => b.write(NOTIFY + 2, 0, 2),
    says: /address of no virtqueue/,
    value: 2,
  },
  {
    title: "a notification with another index",
    clause: "own.notify",
    before: (b) => b.running(),
    make: (b) => b.write(NOTIFY + 4, 0, 2),
    says: /index of another virtqueue/,
    queue: 1,
  },
  {
    title: "a read of the notification structure",
    clause: "own.notify",
    make: (b) => b.read(NOTIFY, 2),
    says: /read of the notification structure/,
  },
  {
    title: "a notification before DRIVER_OK",
    clause: "drv.core.init",
    before: (b) => b.negotiate().configure(0).set(COMMON.queue_enable, 1),
    make: (b) => b.write(NOTIFY, 0, 2),
    says: /before DRIVER_OK/,
    queue: 0,
  },
  {
    title: "features after FEATURES_OK",
    clause: "drv.core.init",
    before: (b) => b.negotiate(),
    make: (b) => b.set(COMMON.driver_feature, 1),
    says: /features written after FEATURES_OK/,
  },
];

const legacy: readonly Mistake[] = [
  {
    title: "a write to a read-only field",
    make: (b) => b.write(LEGACY.queue_size, 4, 2, LEGACY_BAR),
    says: /read-only field queue_size/,
    value: 4,
  },
  {
    title: "a read of the wrong width",
    make: (b) => b.read(LEGACY.device_features, 2, LEGACY_BAR),
    says: /device_features that is not 32 bits/,
  },
  {
    title: "an address of a queue that does not exist",
    before: (b) => b.write(LEGACY.queue_select, 9, 2, LEGACY_BAR),
    make: (b) => b.write(LEGACY.queue_address, 2, 4, LEGACY_BAR),
    says: /queue_address written for a virtqueue that does not exist/,
    value: 9,
  },
  {
    title: "a notification of no queue",
    clause: "own.notify",
    before: (b) => b.legacyRunning(),
    make: (b) => b.write(LEGACY.queue_notify, 9, 2, LEGACY_BAR),
    says: /does not exist/,
    value: 9,
  },
  {
    title: "features after DRIVER_OK",
    clause: "drv.core.init",
    before: (b) => b.legacyRunning(),
    make: (b) => b.write(LEGACY.driver_features, 1, 4, LEGACY_BAR),
    says: /features written after DRIVER_OK/,
    value: 1,
  },
  {
    title: "FEATURES_OK",
    make: (b) => b.write(LEGACY.device_status, 0xb, 1, LEGACY_BAR),
    says: /FEATURES_OK on the legacy interface/,
  },
];

const modes = [
  ...common.map((mistake) => ({
    ...mistake,
    mode: "modern" as const,
    rule: mistake.clause ?? "drv.pci.common-cfg",
  })),
  ...common.map((mistake) => ({
    ...mistake,
    mode: "transitional" as const,
    rule: mistake.clause ?? "drv.pci.common-cfg",
  })),
  ...legacy.map((mistake) => ({
    ...mistake,
    mode: "transitional" as const,
    rule: mistake.clause ?? "own.legacy",
  })),
  ...legacy.map((mistake) => ({ ...mistake, mode: "legacy" as const, rule: mistake.clause ?? "own.legacy" })),
];

describe("hints at the registers of a PCI function", () => {
  for (const { title, mode, rule, before, make, says, value, queue } of modes) {
    const name = `${mode}: ${title}`;
    test(rule.startsWith("own.") ? `${rule}: ${name}` : clause([rule], name), () => {
      const bench = new Bench({ mode });
      before?.(bench);
      expect(bench.hints).toEqual([]);
      make(bench);
      expect(bench.hints.map((hint) => hint.clause)).toEqual([rule]);
      expect(bench.hints[0]?.rule).toMatch(says);
      if (value !== undefined) expect(bench.hints[0]?.value).toBe(value);
      if (queue !== undefined) expect(bench.hints[0]?.queue).toBe(queue);
      expect(bench.faults).toEqual([]);
    });
  }

  test("drivers that go by the rules hear nothing", () => {
    const modern = new Bench({ mode: "modern" }).running(WITH_DATA | RESETS);
    modern
      .write(NOTIFY + 4, 0x0005_0001, 4)
      .read(ISR, 1)
      .read(DEVICE, 4)
      .write(DEVICE, 1, 2);
    modern.set(COMMON.queue_reset, 1).configure(1).set(COMMON.queue_enable, 1).set(COMMON.device_status, 0);
    expect(modern.hints).toEqual([]);
    const old = new Bench({ mode: "legacy" }).legacyRunning().write(LEGACY.queue_notify, 0, 2, LEGACY_BAR);
    old.read(LEGACY.isr_status, 1, LEGACY_BAR).write(LEGACY.device_status, 0, 1, LEGACY_BAR);
    expect(old.hints).toEqual([]);
  });
});
