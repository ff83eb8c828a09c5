import { patientScheduler } from "@virtio/testkit/patient-scheduler";
/** What a driver does wrong at MMIO registers without being stopped is said to whoever listens. */
import { clause } from "@virtio/testkit/clause";
import { InProcessMachine } from "@virtio/testkit/machine";
import { describe, expect, test } from "vitest";
import { DeviceInstance } from "virtio/device/instance";
import type { DriverHint } from "virtio/device/observer";
import { RegionMemory } from "virtio/memory/region-memory";
import {
  featureBits,
  VIRTIO_F_NOTIFICATION_DATA,
  VIRTIO_F_RING_RESET,
  VIRTIO_F_SUSPEND,
  VIRTIO_F_VERSION_1,
} from "virtio/spec/core";
import { VIRTIO_MMIO as MMIO, VIRTIO_MMIO_LEGACY as LEGACY } from "virtio/spec/mmio";
import { virtioMmio, type VirtioMmio } from "virtio/transport/mmio/registers";
import { ProbeDevice } from "../device/rig.ts";

const ALL = featureBits(
  VIRTIO_F_VERSION_1,
  VIRTIO_F_NOTIFICATION_DATA,
  VIRTIO_F_RING_RESET,
  VIRTIO_F_SUSPEND,
);
const MODERN = featureBits(VIRTIO_F_VERSION_1);

class Bench {
  readonly hints: DriverHint[] = [];
  readonly faults: string[] = [];
  readonly mmio: VirtioMmio;
  readonly #device = new ProbeDevice();

  constructor(version: 1 | 2 = 2) {
    const instance = new DeviceInstance(this.#device, {
      scheduler: patientScheduler,
      label: "probe",
      memory: new RegionMemory([{ gpa: 0, bytes: new Uint8Array(1 << 20) }]),
      features: ALL,
      observer: { hint: (_, hint) => void this.hints.push(hint) },
    });
    instance.onFault = ({ message }) => void this.faults.push(message);
    this.mmio = virtioMmio(instance, { interrupt: { set: () => undefined }, version });
  }

  set(offset: number, value: number, size: 1 | 2 | 4 = 4): this {
    this.mmio.write(offset, size, value);
    return this;
  }

  get(offset: number, size: 1 | 2 | 4 = 4): this {
    this.mmio.read(offset, size);
    return this;
  }

  /** To FEATURES_OK. */
  negotiate(features = MODERN): this {
    this.set(MMIO.Status, 1).set(MMIO.Status, 3);
    for (const window of [0, 1])
      this.set(MMIO.DriverFeaturesSel, window).set(
        MMIO.DriverFeatures,
        Number(BigInt.asUintN(32, features >> BigInt(32 * window))),
      );
    return this.set(MMIO.Status, 0xb);
  }

  configure(queue = 0): this {
    this.set(MMIO.QueueSel, queue).set(MMIO.QueueSize, 8);
    return this.set(MMIO.QueueDescLow, 0x2000)
      .set(MMIO.QueueDriverLow, 0x3000)
      .set(MMIO.QueueDeviceLow, 0x4000);
  }

  ready(queue = 0): this {
    return this.configure(queue).set(MMIO.QueueReady, 1);
  }

  running(features = MODERN): this {
    return this.negotiate(features).ready(0).ready(1).set(MMIO.Status, 0xf);
  }
}

interface Mistake {
  readonly title: string;
  readonly clause?: string;
  readonly before?: (bench: Bench) => void;
  readonly make: (bench: Bench) => void;
  readonly says: RegExp;
  readonly value?: number;
  readonly queue?: number;
  readonly version?: 1;
}

const mistakes: readonly Mistake[] = [
  {
    title: "a write of one byte",
    make: (b) => b.set(MMIO.Status, 1, 1),
    says: /write of Status.*32 bits/,
    value: 0x70,
  },
  { title: "an unaligned read", make: (b) => b.get(2), says: /read of MagicValue.*32 bits/, value: 2 },
  { title: "a read of one byte", make: (b) => b.get(0x71, 1), says: /read of Status.*32 bits/, value: 0x71 },
  {
    title: "a write to a read-only register",
    make: (b) => b.set(MMIO.MagicValue, 5),
    says: /read-only register MagicValue/,
    value: 5,
  },
  {
    title: "a read of a write-only register",
    make: (b) => b.get(MMIO.QueueDescLow),
    says: /write-only register QueueDescLow/,
  },
  {
    title: "a write to a place that is no register",
    make: (b) => b.set(0xc8, 5),
    says: /write of a place that is no register/,
    value: 0xc8,
  },
  {
    title: "a read of a place that is no register",
    make: (b) => b.get(0xd0),
    says: /read of a place that is no register/,
    value: 0xd0,
  },
  {
    title: "a queue address changed while it is ready",
    before: (b) => b.negotiate().ready(),
    make: (b) => b.set(MMIO.QueueDescLow, 0x5000),
    says: /QueueDescLow written while QueueReady is not 0/,
    value: 0x5000,
    queue: 0,
  },
  {
    title: "a size changed while the queue is ready",
    before: (b) => b.negotiate().ready(1),
    make: (b) => b.set(MMIO.QueueSize, 4),
    says: /QueueSize written while QueueReady is not 0/,
    value: 4,
    queue: 1,
  },
  {
    title: "a queue that does not exist made ready",
    before: (b) => b.negotiate().set(MMIO.QueueSel, 7),
    make: (b) => b.set(MMIO.QueueReady, 1),
    says: /QueueReady written for a virtqueue that does not exist/,
    value: 7,
  },
  {
    title: "QueueReady 2",
    before: (b) => b.negotiate().configure(),
    make: (b) => b.set(MMIO.QueueReady, 2),
    says: /QueueReady takes 0 and 1/,
    value: 2,
    queue: 0,
  },
  {
    title: "QueueReset without its feature",
    clause: "drv.core.vq-reset",
    before: (b) => b.negotiate().ready(),
    make: (b) => b.set(MMIO.QueueReset, 1),
    says: /without VIRTIO_F_RING_RESET/,
    queue: 0,
    value: 1,
  },
  {
    title: "QueueReset 0",
    before: (b) => b.running(MODERN | featureBits(VIRTIO_F_RING_RESET)),
    make: (b) => b.set(MMIO.QueueReset, 0),
    says: /QueueReset takes only 1/,
    value: 0,
  },
  {
    title: "an event acknowledged that is not there",
    before: (b) => b.running(),
    make: (b) => b.set(MMIO.InterruptACK, 2),
    says: /events that are not there/,
    value: 2,
  },
  {
    title: "undefined bits acknowledged",
    before: (b) => b.running(),
    make: (b) => b.set(MMIO.InterruptACK, 4),
    says: /undefined bits written to InterruptACK/,
    value: 4,
  },
  {
    title: "an unaligned access to configuration space",
    before: (b) => b.negotiate(),
    make: (b) => b.get(MMIO.Config + 1, 2),
    says: /configuration space.*not aligned/,
    value: 1,
  },
  // What is the same on every transport.
  {
    title: "features after FEATURES_OK",
    clause: "drv.core.init",
    before: (b) => b.negotiate(),
    make: (b) => b.set(MMIO.DriverFeaturesSel, 0).set(MMIO.DriverFeatures, 0x40),
    says: /features written after FEATURES_OK/,
    value: 0x40,
  },
  {
    title: "features beyond bit 127",
    clause: "drv.core.features",
    before: (b) => b.set(MMIO.Status, 3),
    make: (b) => b.set(MMIO.DriverFeaturesSel, 4).set(MMIO.DriverFeatures, 1),
    says: /beyond bit 127/,
    value: 1,
  },
  {
    title: "a notification before DRIVER_OK",
    clause: "drv.core.init",
    before: (b) => b.negotiate().ready(),
    make: (b) => b.set(MMIO.QueueNotify, 0),
    says: /notification before DRIVER_OK/,
    queue: 0,
  },
  {
    title: "a notification of no queue",
    clause: "own.notify",
    before: (b) => b.running(),
    make: (b) => b.set(MMIO.QueueNotify, 9),
    says: /does not exist/,
    value: 9,
  },
  {
    title: "a notification of a queue that is not enabled",
    clause: "own.notify",
    before: (b) => b.negotiate().ready(0).set(MMIO.Status, 0xf),
    make: (b) => b.set(MMIO.QueueNotify, 1),
    says: /not enabled/,
    queue: 1,
  },
  {
    title: "a queue never made ready",
    clause: "own.queue-not-enabled",
    before: (b) => b.negotiate().ready(0).configure(1),
    make: (b) => b.set(MMIO.Status, 0xf),
    says: /DRIVER_OK with a virtqueue that has an address/,
    queue: 1,
  },
  {
    title: "FEATURES_OK before ACKNOWLEDGE and DRIVER",
    clause: "drv.core.init",
    make: (b) => b.set(MMIO.DriverFeaturesSel, 1).set(MMIO.DriverFeatures, 1).set(MMIO.Status, 8),
    says: /without ACKNOWLEDGE and DRIVER/,
    value: 8,
  },
  {
    title: "DEVICE_NEEDS_RESET set by the driver",
    clause: "drv.core.status",
    make: (b) => b.set(MMIO.Status, 0x41),
    says: /DEVICE_NEEDS_RESET set by the driver/,
    value: 0x41,
  },
  {
    title: "a status bit that is not defined",
    clause: "drv.core.status",
    make: (b) => b.set(MMIO.Status, 0x21),
    says: /not defined/,
    value: 0x20,
  },
  {
    title: "SUSPEND without its feature",
    clause: "drv.core.suspend",
    before: (b) => b.running(),
    make: (b) => b.set(MMIO.Status, 0x1f),
    says: /SUSPEND without VIRTIO_F_SUSPEND/,
  },
  {
    title: "SUSPEND before DRIVER_OK",
    clause: "drv.core.suspend",
    before: (b) => b.negotiate(ALL),
    make: (b) => b.set(MMIO.Status, 0x1b),
    says: /SUSPEND before DRIVER_OK/,
  },
  {
    title: "a notification while suspended",
    clause: "drv.core.suspend",
    before: (b) => b.running(ALL).set(MMIO.Status, 0x1f),
    make: (b) => b.set(MMIO.QueueNotify, 0),
    says: /while the device is suspended/,
    queue: 0,
  },
  {
    title: "a write to configuration space while suspended",
    clause: "drv.core.suspend",
    before: (b) => b.running(ALL).set(MMIO.Status, 0x1f),
    make: (b) => b.set(MMIO.Config, 1),
    says: /written while the device is suspended/,
  },
  {
    title: "a read beyond the configuration space",
    clause: "own.config",
    make: (b) => b.get(MMIO.Config + 8),
    says: /read beyond/,
    value: 8,
  },
  {
    title: "a write beyond the configuration space",
    clause: "own.config",
    make: (b) => b.set(MMIO.Config + 8, 1),
    says: /write beyond/,
    value: 8,
  },
  // The legacy register layout.
  {
    title: "the modern QueueReady on the legacy layout",
    version: 1,
    make: (b) => b.set(MMIO.QueueReady, 1),
    says: /no register/,
    value: 0x44,
  },
  {
    title: "a legacy register read that is write-only",
    version: 1,
    make: (b) => b.get(LEGACY.QueueAlign),
    says: /write-only register QueueAlign/,
  },
  {
    title: "a legacy queue that does not exist",
    version: 1,
    before: (b) => b.set(LEGACY.QueueSel, 5),
    make: (b) => b.set(LEGACY.QueuePFN, 1),
    says: /QueuePFN written for a virtqueue that does not exist/,
    value: 5,
  },
];

describe("hints at MMIO registers", () => {
  for (const {
    title,
    clause: rule = "drv.mmio.registers",
    before,
    make,
    says,
    value,
    queue,
    version,
  } of mistakes)
    test(rule.startsWith("own.") ? `${rule}: ${title}` : clause([rule], title), () => {
      const bench = new Bench(version);
      before?.(bench);
      expect(bench.hints).toEqual([]);
      make(bench);
      expect(bench.hints.map((hint) => hint.clause)).toEqual([rule]);
      expect(bench.hints[0]?.rule).toMatch(says);
      if (value !== undefined) expect(bench.hints[0]?.value).toBe(value);
      if (queue !== undefined) expect(bench.hints[0]?.queue).toBe(queue);
      expect(bench.faults).toEqual([]);
    });

  test("a driver that goes by the rules hears nothing", () => {
    const bench = new Bench();
    for (const [name, offset] of Object.entries(MMIO))
      if (["MagicValue", "Version", "DeviceID", "QueueSizeMax", "QueueReady", "Status"].includes(name))
        bench.get(offset);
    bench.running(ALL).set(MMIO.QueueNotify, 0x0001_0000).set(MMIO.QueueSel, 9).get(MMIO.QueueSizeMax);
    bench.set(MMIO.QueueSel, 1).set(MMIO.QueueReset, 1).get(MMIO.QueueReset).ready(1);
    bench
      .set(MMIO.Config, 1, 1)
      .get(MMIO.Config + 4)
      .set(MMIO.InterruptACK, 0)
      .set(MMIO.Status, 0);
    expect(bench.hints).toEqual([]);
  });

  test(clause(["drv.mmio.registers"], "a Queue Size that cannot be is a fault of these registers"), () => {
    const bench = new Bench().negotiate().set(MMIO.QueueSize, 3).set(MMIO.QueueReady, 1);
    expect(bench.faults).toEqual([expect.stringMatching(/^drv\.mmio\.registers: Queue Size/)]);
  });
});

test("in a machine of the testkit a hint is an error, unless the driver is wrong on purpose", () => {
  for (const hostile of [false, true]) {
    const { registers } = new InProcessMachine({ hostile }).plugMmio(new ProbeDevice());
    const mistake = (): void => registers.write(MMIO.MagicValue, 4, 5);
    if (hostile) expect(mistake).not.toThrow();
    else
      expect(mistake).toThrow(
        /a driver of ours gets a hint, probe0: drv\.mmio\.registers: write to the read-only/,
      );
  }
});
