/** Linux's own drivers on our transports, each with both ring formats where the interface has them. */
import { createCipheriv, randomBytes } from "node:crypto";
import type { MmioPlugOptions, PciPlugOptions, PluggedDevice } from "@virtio/v86";
import { DEFAULT_CORE_FEATURES } from "virtio/device/features";
import { entropyDevice } from "virtio/devices/entropy/device";
import { VIRTIO_F_RING_PACKED, featureBits, hasFeature } from "virtio/spec/core";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { TestGuest, guestMissing, needsGuest } from "./guest.ts";

const PACKED = DEFAULT_CORE_FEATURES | featureBits(VIRTIO_F_RING_PACKED);

type Way = { readonly name: string; readonly packed?: boolean } & (
  { readonly pci: Omit<PciPlugOptions, "label"> } | { readonly mmio: Omit<MmioPlugOptions, "label"> }
);

const WAYS: readonly Way[] = [
  { name: "PCI, modern, I/O BAR", pci: {} },
  { name: "PCI, modern, I/O BAR, packed", pci: { features: PACKED }, packed: true },
  { name: "PCI, modern, 32-bit memory BAR", pci: { bar: "memory32" } },
  {
    name: "PCI, modern, 64-bit memory BAR, packed",
    pci: { bar: "memory64", features: PACKED },
    packed: true,
  },
  { name: "PCI, transitional", pci: { mode: "transitional" } },
  { name: "PCI, transitional, packed", pci: { mode: "transitional", features: PACKED }, packed: true },
  { name: "PCI, legacy", pci: { mode: "legacy" } },
  { name: "PCI, modern, MSI-X", pci: { msix: true } },
  { name: "PCI, modern, MSI-X, 64-bit memory BAR", pci: { msix: true, bar: "memory64" } },
  { name: "PCI, modern, MSI-X, packed", pci: { msix: true, features: PACKED }, packed: true },
  { name: "PCI, legacy, MSI-X", pci: { mode: "legacy", msix: true } },
  { name: "PCI, modern, queue of 2", pci: { queueSize: 2 } },
  { name: "MMIO", mmio: {} },
  { name: "MMIO, packed", mmio: { features: PACKED }, packed: true },
  { name: "MMIO, legacy", mmio: { version: 1 } },
  // There are eight inputs of the IO-APIC for MMIO devices; the ninth device shares one.
  ...[4, 5, 6, 7, 8, 9].map((number) => ({ name: `MMIO, device ${number}`, mmio: {} })),
];

/** Bytes that tell which device they came from and how many it gave. */
class Source {
  readonly #cipher = createCipheriv("aes-128-ctr", randomBytes(16), randomBytes(16));
  given = Buffer.alloc(0);

  readonly fill = (target: Uint8Array): void => {
    const bytes = this.#cipher.update(Buffer.alloc(target.length));
    target.set(bytes);
    this.given = Buffer.concat([this.given, bytes]);
  };
}

describe.skipIf(guestMissing)(needsGuest("virtio-rng of Linux on our entropy device"), () => {
  let guest: TestGuest;
  let plugged: { way: Way; device: PluggedDevice; source: Source }[] = [];
  let bootTime = 0;

  beforeAll(async () => {
    guest = await TestGuest.create();
    plugged = WAYS.map((way, index) => {
      const source = new Source();
      const device = entropyDevice(source.fill);
      const label = `rng${index}`;
      return {
        way,
        source,
        device:
          "pci" in way
            ? guest.machine.plugPci(device, { ...way.pci, label })
            : guest.machine.plugMmio(device, { ...way.mmio, label }),
      };
    });
    bootTime = await guest.boot();
    await guest.sh("modprobe virtio_pci; modprobe virtio_mmio; modprobe virtio_rng; sleep 0.2");
  });
  afterAll(() => guest.machine.destroy());

  test("the shell is there soon", () => {
    // Under 6 s on a quiet machine; here other tests run beside.
    expect(bootTime).toBeLessThan(60_000);
  });

  test("all are there, and one is the source of /dev/hwrng", async () => {
    const available = (await guest.sh("cat /sys/class/misc/hw_random/rng_available")).trim().split(" ");
    expect(available.sort()).toEqual(WAYS.map((_, i) => `virtio_rng.${i}`).sort());
    expect(await guest.sh("cat /sys/class/misc/hw_random/rng_current")).toMatch(/^virtio_rng\.\d+$/);
  });

  test.each(WAYS.map((way, index) => [way.name, index] as const))("%s", async (_name, index) => {
    const { device, source, way } = plugged[index] ?? expect.unreachable();
    // PCI devices come first in the guest as in our list, then MMIO devices.
    await guest.sh(`echo virtio_rng.${index} > /sys/class/misc/hw_random/rng_current`);
    // What the core had in hand from another device comes first.
    const hex = await guest.sh("dd if=/dev/hwrng bs=64 count=40 2>/dev/null | od -An -v -tx1 | tr -d ' \\n'");
    const last = Buffer.from(hex, "hex").subarray(-512);
    expect(last).toHaveLength(512);
    expect(source.given.includes(last)).toBe(true);
    expect(hasFeature(device.instance.driverFeatures, VIRTIO_F_RING_PACKED)).toBe(way.packed ?? false);
    const [counters] = device.instance.counters;
    expect(counters?.faults).toBe(0);
    expect(counters?.chains).toBeGreaterThan(30);
  });

  test("each has interrupts of its kind", async () => {
    const lines = (await guest.sh("cat /proc/interrupts"))
      .split("\n")
      .filter((line) => line.includes("virtio"));
    const kinds = (pattern: RegExp): string[] => lines.filter((line) => pattern.test(line));
    expect(kinds(/PCI-MSI .*-input/).length).toBe(
      WAYS.filter((way) => "pci" in way && way.pci.msix === true).length,
    );
    expect(kinds(/IO-APIC +(16|17|18|19|20|21|22|23)-fasteoi/).length).toBe(8);
    expect(kinds(/virtio12, virtio20/).length).toBe(1);
    for (const line of lines.filter((text) => !text.includes("-config"))) {
      expect(Number(/: +(\d+)/.exec(line)?.[1])).toBeGreaterThan(0);
    }
  });

  test("the guest unbinds and binds a device again", async () => {
    for (const [index, driver] of [
      [0, "virtio_rng"],
      [12, "virtio_rng"],
    ] as const) {
      const { device } = plugged[index] ?? expect.unreachable();
      await guest.sh(`echo virtio${index} > /sys/bus/virtio/drivers/${driver}/unbind`);
      expect(device.instance.status & 4).toBe(0);
      await guest.sh(`echo virtio${index} > /sys/bus/virtio/drivers/${driver}/bind`);
      expect(device.instance.status & 4).toBe(4);
    }
  });
});
