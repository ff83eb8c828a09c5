import { clause } from "@virtio/testkit/clause";
import { InProcessMachine } from "@virtio/testkit/machine";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { entropyDevice } from "virtio/devices/entropy/device";
import { DEFAULT_CORE_FEATURES } from "virtio/device/features";
import type { DeviceInstance } from "virtio/device/instance";
import { DriverSession } from "virtio/driver/session";
import type { DriverTransport } from "virtio/driver/types";
import { EntropyDriver } from "virtio/drivers/entropy/driver";
import {
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_INDIRECT_DESC,
  VIRTIO_F_IN_ORDER,
  VIRTIO_F_NOTIFICATION_DATA,
  VIRTIO_F_NOTIF_CONFIG_DATA,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_VERSION_1,
  featureBits,
} from "virtio/spec/core";
import type { VirtioDevice } from "virtio/device/device";
import { echoDevice } from "./support.ts";

interface Plugged {
  readonly transport: DriverTransport;
  readonly instance: DeviceInstance;
}

interface Way {
  readonly name: string;
  readonly legacy: boolean;
  /** Notifications can be named by `queue_notif_config_data`. */
  readonly pci?: boolean;
  plug(machine: InProcessMachine, device: VirtioDevice, features: bigint): Plugged;
}

type PciOptions = Parameters<InProcessMachine["plugPci"]>[1];
type OpenOptions = Parameters<ReturnType<InProcessMachine["plugPci"]>["open"]>[0];

const notifConfigData = (queue: number): number => 0x5a00 + 3 * queue;

function pci(name: string, legacy: boolean, options: PciOptions, open: OpenOptions = {}): Way {
  return {
    name: `pci ${name}`,
    legacy,
    pci: !legacy,
    plug(machine, device, features) {
      const plugged = machine.plugPci(device, { ...options, features, notifConfigData });
      return { transport: plugged.open(open), instance: plugged.instance };
    },
  };
}

function mmio(version: 1 | 2): Way {
  return {
    name: `mmio version ${version}`,
    legacy: version === 1,
    plug(machine, device, features) {
      const plugged = machine.plugMmio(device, { version, features });
      return { transport: plugged.open(), instance: plugged.instance };
    },
  };
}

const ways: readonly Way[] = [
  pci("modern, 64-bit BAR, a vector for each virtqueue", false, {}),
  pci("modern, 32-bit BAR, INTx", false, { modernBar: "memory32" }, { interrupts: "intx" }),
  pci("modern, I/O BAR, no MSI-X", false, { modernBar: "io", msixVectors: 0 }),
  pci("modern, two vectors", false, { msixVectors: 2 }),
  pci("modern, one vector, coarse BARs", false, { msixVectors: 1, minimumBarSize: 0x20000 }),
  pci("modern, all through configuration space", false, {}, { access: "config", interrupts: "intx" }),
  pci("transitional, current interface", false, { mode: "transitional" }),
  pci("transitional, legacy interface, MSI-X", true, { mode: "transitional" }, { interface: "legacy" }),
  pci("legacy, MSI-X", true, { mode: "legacy" }),
  pci("legacy, INTx", true, { mode: "legacy", msixVectors: 0 }),
  mmio(2),
  mmio(1),
];

const formats: readonly { readonly name: string; readonly bits: readonly number[] }[] = [
  { name: "split", bits: [] },
  { name: "split, everything", bits: [VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC, VIRTIO_F_IN_ORDER] },
  { name: "split, notification data", bits: [VIRTIO_F_NOTIFICATION_DATA, VIRTIO_F_EVENT_IDX] },
  { name: "split, notification config data", bits: [VIRTIO_F_NOTIF_CONFIG_DATA] },
  { name: "packed", bits: [VIRTIO_F_RING_PACKED] },
  {
    name: "packed, everything",
    bits: [
      VIRTIO_F_RING_PACKED,
      VIRTIO_F_EVENT_IDX,
      VIRTIO_F_INDIRECT_DESC,
      VIRTIO_F_IN_ORDER,
      VIRTIO_F_NOTIFICATION_DATA,
      VIRTIO_F_NOTIF_CONFIG_DATA,
    ],
  },
];

const LEGACY_BITS = new Set<number>([VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC]);

/** Every way with every format that it can carry. */
const cases = ways.flatMap((way) =>
  formats.flatMap(({ name, bits }) => {
    if (way.legacy && !bits.every((bit) => LEGACY_BITS.has(bit))) return [];
    if (way.pci !== true && bits.includes(VIRTIO_F_NOTIF_CONFIG_DATA)) return [];
    return [{ title: `${way.name}, ${name}`, way, features: featureBits(VIRTIO_F_VERSION_1, ...bits), bits }];
  }),
);

const clauses = ["drv.pci.config-notify", "drv.pci.notify", "drv.mmio.interrupts"] as const;

describe("entropy end to end", () => {
  for (const { title, way, features, bits } of cases) {
    test(clause([...clauses], title), async () => {
      const machine = new InProcessMachine();
      let next = 0;
      const device = entropyDevice((target) => {
        for (let i = 0; i < target.length; i++) target[i] = next++;
      });
      const { transport, instance } = way.plug(machine, device, features);
      expect(transport.legacy).toBe(way.legacy);
      const driver = await EntropyDriver.open(transport);
      const accepted = instance.driverFeatures;
      const wanted = way.legacy ? featureBits(27, ...bits) : features;
      expect(accepted).toBe(wanted);
      const target = new Uint8Array(10_000);
      await driver.read(target);
      expect(target).toEqual(Uint8Array.from({ length: target.length }, (_, i) => i));
      await driver.close();
      expect(instance.status).toBe(0);
      expect(machine.interrupts.spurious).toBe(0);
    });
  }
});

describe("two virtqueues with late completions", () => {
  for (const { title, way, features } of cases) {
    test(title, async () => {
      const property = fc.asyncProperty(
        fc.array(
          fc.record({ queue: fc.integer({ min: 0, max: 1 }), length: fc.integer({ min: 1, max: 600 }) }),
          {
            minLength: 1,
            maxLength: 120,
          },
        ),
        fc.integer({ min: 0, max: 3 }),
        async (requests, delay) => {
          const machine = new InProcessMachine({ ramSize: 0x200000 });
          const { transport } = way.plug(machine, echoDevice({ delay, maxSize: 16 }), features);
          const session = await DriverSession.open(transport, { wanted: 0n });
          const queues = [session.addQueue(0), session.addQueue(1)];
          session.ready();
          const { memory } = transport;
          const done = requests.map(async ({ queue, length }, i) => {
            const gpa = memory.allocate(length * 2, 4);
            memory.view(gpa, length).fill(i + 1);
            const written = await queues[queue]?.request([{ gpa, length }], [{ gpa: gpa + length, length }]);
            expect(written).toBe(length);
            expect(memory.view(gpa + length, length).every((byte) => byte === ((i + 1) & 0xff))).toBe(true);
          });
          await Promise.all(done);
          expect(session.failure).toBeUndefined();
          expect(machine.interrupts.spurious).toBe(0);
          await session.close();
        },
      );
      await fc.assert(property, { numRuns: 5 });
    });
  }
});

test("every device in a machine is found, each on its own transport", async () => {
  const machine = new InProcessMachine({ config: "ecam" });
  const device = (): VirtioDevice => entropyDevice((target) => void target.fill(1));
  machine.plugPci(device(), { mode: "modern", slot: 7 });
  machine.plugPci(device(), { mode: "transitional" });
  machine.plugPci(device(), { mode: "legacy", slot: 31 });
  machine.plugMmio(device(), {});
  machine.plugMmio(device(), { version: 1 });
  const transports = machine.transports();
  expect(transports.map(({ name }) => name)).toEqual([
    "pci 00:00.0",
    "pci 00:07.0",
    "pci 00:1f.0",
    "mmio 0xd0000000",
    "mmio 0xd0010000",
  ]);
  expect(transports.map(({ legacy }) => legacy)).toEqual([false, false, true, false, true]);
  for (const transport of transports) {
    const driver = await EntropyDriver.open(transport);
    const target = new Uint8Array(3);
    await driver.read(target);
    expect(target).toEqual(Uint8Array.of(1, 1, 1));
  }
});

test("without messages in the machine MSI-X devices fall back to INTx", async () => {
  const machine = new InProcessMachine({ msi: false });
  const plugged = machine.plugPci(
    entropyDevice((target) => void target.fill(1)),
    { features: DEFAULT_CORE_FEATURES },
  );
  const driver = await EntropyDriver.open(plugged.open());
  await driver.read(new Uint8Array(5));
  expect(machine.interrupts.delivered).toBeGreaterThan(0);
});

test.each(ways)("with work after the register access and not inside it: $name", async (way) => {
  let inside = 0;
  const machine = new InProcessMachine({
    scheduler: {
      soon: (task) =>
        queueMicrotask(() => {
          expect(inside).toBe(0);
          task();
        }),
      later: (task) => void setImmediate(task),
      now: () => performance.now(),
    },
  });
  const { transport } = way.plug(machine, echoDevice(), DEFAULT_CORE_FEATURES);
  const { bus } = machine.platform;
  const write = bus.write.bind(bus);
  bus.write = (...access) => {
    inside++;
    write(...access);
    inside--;
  };
  const session = await DriverSession.open(transport, { wanted: 0n });
  const queue = session.addQueue(0);
  session.ready();
  const gpa = transport.memory.allocate(16, 4);
  for (let i = 0; i < 20; i++) {
    expect(await queue.request([{ gpa, length: 8 }], [{ gpa: gpa + 8, length: 8 }])).toBe(8);
  }
  await session.close();
});
