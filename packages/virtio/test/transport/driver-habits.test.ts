/** What drivers of the field do that the specification of today does not foresee, and what must not pass for it. */
import { clause } from "@virtio/testkit/clause";
import { InProcessMachine } from "@virtio/testkit/machine";
import { describe, expect, test } from "vitest";
import { RingCharacterBackend } from "../../src/backends/ring-character.ts";
import { ConsoleDevice } from "../../src/devices/console/device.ts";
import { NetDevice } from "../../src/devices/net/device.ts";
import { VIRTIO_F_RING_RESET, VIRTIO_F_VERSION_1, featureBits } from "../../src/spec/core.ts";
import { VIRTIO_MMIO as MMIO } from "../../src/spec/mmio.ts";
import { VIRTIO_PCI_LEGACY as LEGACY } from "../../src/spec/pci.ts";
import { settle } from "../device/rig.ts";
import { FakeCable } from "../support/ends.ts";
import { RAM_SIZE, Side } from "./save-side.ts";

const NEEDS_RESET = 64;
const FAILED = 128;
const LEGACY_KINDS = ["MMIO legacy", "PCI legacy", "PCI transitional"] as const;

/** Registers of the legacy interface, which a transitional function has too. */
class LegacyDriver {
  readonly side: Side;
  readonly #mmio: boolean;

  constructor(kind: (typeof LEGACY_KINDS)[number]) {
    this.side = new Side(kind === "PCI transitional" ? "PCI legacy" : kind, new Uint8Array(RAM_SIZE));
    this.#mmio = kind === "MMIO legacy";
  }

  features(value: number): void {
    if (this.#mmio) this.side.write(0, MMIO.DriverFeatures, 4, value);
    else this.side.write(1, LEGACY.driver_features, 4, value);
  }
}

describe.each(LEGACY_KINDS)("legacy drivers, %s", (kind) => {
  test(clause("dev.core.status", "status 1, 2, 4 one by one, as MINIX 3 and AROS write it"), async () => {
    const { side } = new LegacyDriver(kind);
    for (const status of [0, 1, 2]) side.status(status);
    expect(side.instance.status).toBe(2);
    side.place(0);
    side.status(4);
    expect(side.instance.status).toBe(4);
    side.offer(0);
    side.device.requests.shift()?.done(3);
    await settle();
    expect([side.faults, side.line]).toEqual([0, true]);
  });

  test(clause("dev.core.status", "failure stays, whatever is written over it"), () => {
    const { side } = new LegacyDriver(kind);
    side.status(FAILED | 3);
    side.status(1);
    expect(side.instance.status).toBe(FAILED | 1);
    side.status(0);
    side.status(7);
    side.instance.queue(0)?.setArea("descriptorArea", "high", 1);
    side.instance.queue(0)?.enable();
    side.status(1);
    expect(side.instance.status & NEEDS_RESET).toBe(NEEDS_RESET);
  });

  test(
    clause("dev.core.reset", "the first notification before any status, features after it, as iPXE"),
    async () => {
      const driver = new LegacyDriver(kind);
      const { side } = driver;
      side.status(0);
      side.place(0);
      side.offer(0);
      expect(side.device.requests).toHaveLength(1);
      driver.features(1);
      side.status(6);
      side.device.requests.shift()?.done(2);
      await settle();
      expect([side.faults, side.line, side.instance.status]).toEqual([0, true, 6]);
      // A reset then is a reset, though no status was ever shown before that notification.
      side.offer(0);
      side.status(0);
      expect(side.device.seen.at(-1)).toBe("reset");
    },
  );

  test(
    clause("dev.core.features", "what was not offered is not negotiated, whatever the driver wrote"),
    () => {
      const driver = new LegacyDriver(kind);
      driver.side.status(3);
      driver.features(0xffff_ffff);
      driver.side.place(0);
      driver.side.status(7);
      const features = driver.side.device.context?.features ?? expect.unreachable();
      const offered = BigInt(driver.side.instance.readLegacyFeatures());
      expect(features).toBe(offered);
      expect(driver.side.instance.driverFeatures).toBe(offered);
    },
  );
});

describe("a virtqueue over MMIO", () => {
  test(
    clause(["dev.core.vq-reset", "drv.core.vq-reenable"], "is not ready while it is being reset"),
    async () => {
      const side = new Side("MMIO", new Uint8Array(RAM_SIZE));
      side.start(featureBits(VIRTIO_F_VERSION_1, VIRTIO_F_RING_RESET));
      side.offer(0);
      side.resetQueue(0);
      expect(side.read(0, MMIO.QueueReset, 4)).toBe(1);
      side.place(0);
      expect(side.read(0, MMIO.QueueReady, 4)).toBe(0);
      side.device.requests.shift()?.done(1);
      await settle();
      expect(side.read(0, MMIO.QueueReset, 4)).toBe(0);
      side.place(0);
      expect(side.read(0, MMIO.QueueReady, 4)).toBe(1);
    },
  );
});

describe("configuration that the host changes before DRIVER_OK", () => {
  const cases: readonly [string, () => { device: NetDevice | ConsoleDevice; change: () => void }][] = [
    [
      "the link of a network device",
      () => {
        const device = new NetDevice({ backend: new FakeCable(), mac: Uint8Array.of(2, 0, 0, 0, 0, 1) });
        return { device, change: () => device.setLink(false) };
      },
    ],
    [
      "the size of a console",
      () => {
        const backend = new (class extends RingCharacterBackend {
          port: Parameters<RingCharacterBackend["attach"]>[0];
          override attach(port: Parameters<RingCharacterBackend["attach"]>[0]): void {
            super.attach(port);
            this.port = port;
          }
        })();
        const device = new ConsoleDevice({ ports: [{ kind: "console", backend }] });
        return { device, change: () => backend.port?.resize(132, 43) };
      },
    ],
  ];
  test.each(cases)("%s is another generation, and no notification", (_, make) => {
    const { device, change } = make();
    const machine = new InProcessMachine();
    const { registers, instance } = machine.plugMmio(device);
    const before = registers.read(MMIO.ConfigGeneration, 4);
    change();
    expect(registers.read(MMIO.ConfigGeneration, 4)).not.toBe(before);
    expect(registers.read(MMIO.InterruptStatus, 4)).toBe(0);
    expect(instance.status).toBe(0);
  });
});
