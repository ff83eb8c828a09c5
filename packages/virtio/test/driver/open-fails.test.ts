import { clause } from "@virtio/testkit/clause";
import { InProcessMachine, type PluggedMmio, type PluggedPci } from "@virtio/testkit/machine";
import { describe, expect, test } from "vitest";
import { MemoryBlockBackend } from "../../src/backends/memory-block.ts";
import { MemoryFileSystem } from "../../src/backends/memory-file-system.ts";
import type { VirtioDevice } from "../../src/device/device.ts";
import { ninePDevice } from "../../src/devices/9p/device.ts";
import { BlkDevice } from "../../src/devices/blk/device.ts";
import { ConsoleDevice } from "../../src/devices/console/device.ts";
import { entropyDevice } from "../../src/devices/entropy/device.ts";
import { NetDevice } from "../../src/devices/net/device.ts";
import { DmaPool } from "../../src/driver/dma.ts";
import type { DriverTransport } from "../../src/driver/types.ts";
import { NinePDriver } from "../../src/drivers/9p/driver.ts";
import { BalloonDriver } from "../../src/drivers/balloon/driver.ts";
import { BlkDriver } from "../../src/drivers/blk/driver.ts";
import { ConsoleDriver } from "../../src/drivers/console/driver.ts";
import { EntropyDriver } from "../../src/drivers/entropy/driver.ts";
import { GpuDriver } from "../../src/drivers/gpu/driver.ts";
import { InputDriver } from "../../src/drivers/input/driver.ts";
import { NetDriver } from "../../src/drivers/net/driver.ts";
import { ScsiDriver } from "../../src/drivers/scsi/driver.ts";
import { VsockDriver } from "../../src/drivers/vsock/driver.ts";
import { VIRTIO_STATUS_FAILED } from "../../src/spec/core.ts";
import { ALL_BALLOON, TestBalloon } from "../balloon/device.ts";
import { TestCard } from "../gpu/card.ts";
import { TestInput } from "../input/keyboard.ts";
import { TestHost } from "../scsi/host.ts";
import { FakeCable, FakeHost } from "../support/ends.ts";
import { TestVsock } from "../vsock/host.ts";

/** Memory that has nothing left after so many pieces. */
class ShortMemory extends DmaPool {
  left = Infinity;

  override allocate(length: number, alignment: number): number {
    if (this.left-- <= 0) throw new Error("out of DMA memory");
    return super.allocate(length, alignment);
  }
}

const MAC = Uint8Array.of(0x52, 0x54, 0, 0, 0, 1);
const DRIVERS: readonly {
  readonly name: string;
  readonly device: () => VirtioDevice;
  readonly open: (transport: DriverTransport) => Promise<{ close(): Promise<void> }>;
}[] = [
  {
    name: "9p",
    device: () => ninePDevice({ fileSystem: new MemoryFileSystem(), tag: "t" }),
    open: (t) => NinePDriver.open(t),
  },
  { name: "balloon", device: () => new TestBalloon(ALL_BALLOON), open: (t) => BalloonDriver.open(t) },
  {
    name: "blk",
    device: () => new BlkDevice(new MemoryBlockBackend(1 << 20)),
    open: (t) => BlkDriver.open(t),
  },
  {
    name: "console",
    device: () => new ConsoleDevice({ ports: [{ kind: "console", backend: new FakeHost() }] }),
    open: (t) => ConsoleDriver.open(t),
  },
  {
    name: "entropy",
    device: () => entropyDevice((target) => void target.fill(1)),
    open: (t) => EntropyDriver.open(t),
  },
  { name: "gpu", device: () => new TestCard(), open: (t) => GpuDriver.open(t) },
  { name: "input", device: () => new TestInput(), open: (t) => InputDriver.open(t) },
  {
    name: "net",
    device: () => new NetDevice({ backend: new FakeCable(), mac: MAC }),
    open: (t) => NetDriver.open(t),
  },
  { name: "scsi", device: () => new TestHost([]), open: (t) => ScsiDriver.open(t) },
  { name: "vsock", device: () => new TestVsock(), open: (t) => VsockDriver.open(t) },
];

const BUSES: readonly {
  name: string;
  plug: (machine: InProcessMachine, device: VirtioDevice) => PluggedMmio | PluggedPci;
}[] = [
  { name: "MMIO", plug: (machine, device) => machine.plugMmio(device) },
  { name: "MMIO legacy", plug: (machine, device) => machine.plugMmio(device, { version: 1 }) },
  { name: "PCI", plug: (machine, device) => machine.plugPci(device) },
  { name: "PCI legacy", plug: (machine, device) => machine.plugPci(device, { mode: "legacy" }) },
];

/** Types that came after the legacy interface. */
const MODERN_ONLY: readonly string[] = ["gpu", "input", "vsock"];

describe.each(BUSES)("$name", ({ name: bus, plug }) => {
  test.each(DRIVERS.filter(({ name }) => bus !== "PCI legacy" || !MODERN_ONLY.includes(name)))(
    clause(
      "drv.core.init",
      "$name: an open that finds no memory for its n-th piece gives all back, and says FAILED",
    ),
    async ({ device, open }) => {
      const machine = new InProcessMachine();
      const memory = new ShortMemory(machine.memory, 0x10_0000, 8 << 20);
      Object.defineProperty(machine.platform, "memory", { value: memory });
      const plugged = plug(machine, device());
      const before = memory.available;
      let failures = 0;
      for (let pieces = 0; ; pieces++) {
        memory.left = pieces;
        const driver = await open(plugged.open()).catch((error: unknown) => String(error));
        memory.left = Infinity;
        if (typeof driver !== "string") {
          await driver.close();
          break;
        }
        failures++;
        expect(driver).toMatch(/out of DMA memory/);
        expect([pieces, memory.available]).toEqual([pieces, before]);
        expect(plugged.instance.status & VIRTIO_STATUS_FAILED).toBe(VIRTIO_STATUS_FAILED);
        for (let queue = 0; queue < plugged.instance.queueCount; queue++)
          expect(plugged.instance.queue(queue)?.enabled).toBe(false);
      }
      expect(failures).toBeGreaterThan(0);
      expect(memory.available).toBe(before);
      // And the device is as good as new.
      await (await open(plugged.open())).close();
      expect(memory.available).toBe(before);
    },
  );
});
