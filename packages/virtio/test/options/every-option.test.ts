/** Every option of every constructor, `open` and factory: what cannot be is refused, by its name, before anything was touched. */
import { optionSurface } from "@virtio/testkit/option-surface";
import { untouched, forgotten, refusal, wrongOptions } from "@virtio/testkit/option-table";
import { expect, test } from "vitest";
import { MemoryBlockBackend } from "../../src/backends/memory-block.ts";
import { OverlayBlockBackend } from "../../src/backends/overlay-block.ts";
import { ReadOnlyBlockBackend } from "../../src/backends/read-only-block.ts";
import { RingCharacterBackend } from "../../src/backends/ring-character.ts";
import { AddressSpace } from "../../src/bus/address-space.ts";
import { StandardPciFunction } from "../../src/bus/pci/function.ts";
import { PciHost } from "../../src/bus/pci/host.ts";
import { openMmio } from "../../src/driver/mmio-transport.ts";
import { ecamConfigAccess } from "../../src/driver/pci-config.ts";
import { findVirtioFunctions } from "../../src/driver/pci-discovery.ts";
import { setUpPci } from "../../src/driver/pci-firmware.ts";
import { openPci } from "../../src/driver/pci-open.ts";
import type { DriverTransport } from "../../src/driver/types.ts";
import { BlkDriver } from "../../src/drivers/blk/driver.ts";
import { ConsoleDriver } from "../../src/drivers/console/driver.ts";
import { NetDriver } from "../../src/drivers/net/driver.ts";
import { VsockDriver } from "../../src/drivers/vsock/driver.ts";
import type { DriverOpenOptions } from "../../src/driver/session.ts";
import { backends } from "./backends.ts";
import { devices } from "./devices.ts";
import { drivers } from "./drivers.ts";
import { transports } from "./transports.ts";

const SAFE = Number.MAX_SAFE_INTEGER;
const disk = new MemoryBlockBackend(4096);
const interrupt = { set: (): void => undefined };
const handler = { read: (): number => 0, write: (): void => undefined };
const overlay = (base: unknown, top?: unknown, budget?: unknown): unknown =>
  new OverlayBlockBackend(base as never, top as never, budget as never);
const host = (options: object): PciHost => {
  const space = new AddressSpace();
  return new PciHost({ memory: space, io: space, interruptLine: () => interrupt, ...options });
};
const identity = {
  vendorId: 1,
  deviceId: 1,
  revision: 0,
  classCode: 0,
  subsystemVendorId: 0,
  subsystemId: 0,
};
const fn = (options: object): unknown =>
  new StandardPciFunction({ ...identity, interruptPin: 0, ...options } as never);

const rows = [...devices, ...transports, ...backends, ...drivers];

/** What this package's own code makes, of values that it has checked or that a device said, and often. */
const EXCEPT = {
  "new QueueRegisters": "made by DeviceInstance, which checked the sizes of its device's virtqueues",
  "new FdtIndex": "its tree is what readFdt or fdtNode made, which check it",
  "new GpuResource": "made by GpuDriver.createResource, and refuses a size that no picture has",
  "new StatisticsSender": "made by BalloonDriver, with what a source of statistics says",
  "new JsonGauge": "its limits are constants of those who read saved states",
  "new Way": "made by a session of 9p, of names that it checked",
  "new MmioDriverTransport": "made by openMmio, which checked the place",
  "new PciConfig": "made for every function of a bus; openPci checks the address that a user gives",
  "new NinePFile": "made by NinePDriver and by itself, with numbers that FidNumbers gave",
  "GpuCommands.send": "made by GpuDriver, with constants",
  "new ScsiEvents": "made by ScsiDriver, with the size that the device says, bounded there",
  "new ScsiRequests": "made by ScsiDriver, which checked its options",
  "new ScsiUnit": "made by ScsiUnit.inquire",
  "ScsiUnit.inquire": "made by ScsiDriver, for addresses that encodeAddress checks before anything is sent",
  "new VsockListener": "made by VsockDriver.listen, which checked the options",
  "new VsockSocket": "made by VsockDriver, for options that it checked, and for each connection of a peer",
  "new MemoryNode": "made by MemoryTree for a request of 9p, which checks its numbers",
};

test.each(wrongOptions(rows))("%s: %s", async (_key, message, make) => {
  expect(await refusal(make)).toBe(message);
});

test("no option of the package is forgotten", () => {
  expect(forgotten(optionSurface("virtio"), rows, EXCEPT)).toEqual([]);
});

test.each<readonly [RegExp, () => unknown]>([
  [/^ring of characters: limit must be .*, not NaN$/, () => new RingCharacterBackend().read(Number.NaN)],
  [/^address space: base .*, not -1$/, () => new AddressSpace().map(-1, 1, handler)],
  [/^address space: length .*, not NaN$/, () => new AddressSpace().map(0, Number.NaN, handler)],
  [/^address space: length .*, not 2$/, () => new AddressSpace().map(SAFE - 1, 2, handler)],
  [/^address space: handler .*, not an object$/, () => new AddressSpace().map(0, 1, {} as never)],
  [/^PCI host: device must be .* from 0 to 31, not 1.5$/, () => host({}).plug(fn({}) as never, 1.5)],
  [/^overlay disk: top must be writable/, () => overlay(disk, new ReadOnlyBlockBackend(disk))],
  [/^overlay disk: top .* of 4096 bytes, not 512$/, () => overlay(disk, new MemoryBlockBackend(512))],
  [
    /^PCI address: device must be .*, not 32$/,
    () => openPci(untouched(), { bus: 0, device: 32, function: 0 }),
  ],
  [/^PCI discovery: bus must be .*, not 256$/, () => findVirtioFunctions(untouched(), 256)],
  [/^PCI firmware: firstBus .*, not NaN$/, () => setUpPci(untouched(), { firstBus: Number.NaN } as never)],
  [/^PCI configuration window: base .*, not -1$/, () => ecamConfigAccess(untouched(), -1)],
  [/^MMIO: length .*, not 255$/, () => openMmio(untouched(), { base: 0, length: 255, line: 0 })],
])("%s", (message, make) => {
  expect(make).toThrow(message);
});

test("a bus with 32 devices says that it is full, and one that refuses a function keeps nothing of it", () => {
  const full = host({});
  for (let device = 0; device < 32; device++) full.plug(fn({}) as never);
  expect(() => full.plug(fn({}) as never)).toThrow("PCI host: all 32 devices are taken");
  const refusing = host({
    interruptLine: () => {
      throw new Error("no line");
    },
  });
  expect(() => refusing.plug(fn({ interruptPin: 1 }) as never)).toThrow("no line");
  expect(refusing.readConfig(0, 0, 0, 4)).toBe(0xffff_ffff);
});

test("a driver that is refused for its options has closed its transport", async () => {
  const opens = [
    (transport: DriverTransport, options: DriverOpenOptions) => BlkDriver.open(transport, options),
    (transport: DriverTransport, options: DriverOpenOptions) => ConsoleDriver.open(transport, options),
    (transport: DriverTransport, options: DriverOpenOptions) => NetDriver.open(transport, options),
    (transport: DriverTransport, options: DriverOpenOptions) => VsockDriver.open(transport, options),
  ];
  for (const open of opens) {
    let closed = 0;
    const transport = untouched<DriverTransport>({ name: "it", deviceId: 1, close: () => closed++ });
    await expect(open(transport, { ring: 5 as never })).rejects.toThrow(TypeError);
    expect(closed).toBe(1);
  }
});
