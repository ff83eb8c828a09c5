import { patientScheduler } from "@virtio/testkit/patient-scheduler";
import { PCI_MEMORY } from "@virtio/v86/board";
import type { V86Core } from "@virtio/v86/internals";
import { V86Memory } from "@virtio/v86/memory";
import { PciSlots } from "@virtio/v86/pci-slots";
import fc from "fast-check";
import { DeviceInstance } from "virtio/device/instance";
import { entropyDevice } from "virtio/devices/entropy/device";
import { virtioPciFunction, type VirtioPciFunction } from "virtio/transport/pci/function";
import { afterEach, describe, expect, test } from "vitest";
import { openCore } from "./machines.ts";
import type { PortMachine } from "./raw-driver.ts";

const SLOT = 9;
const BAR4 = 0x20;
const COMMAND = 4;
const cores: V86Core[] = [];
afterEach(async () => {
  for (const core of cores.splice(0)) await core.destroy();
});

class Bus {
  readonly machine: PortMachine;
  readonly fn: VirtioPciFunction;
  readonly core: V86Core;

  private constructor(core: V86Core, machine: PortMachine) {
    this.core = core;
    this.machine = machine;
    const device = entropyDevice((target) => void target.fill(1));
    const instance = new DeviceInstance(device, {
      label: "rng",
      memory: new V86Memory(core),
      scheduler: patientScheduler,
    });
    this.fn = virtioPciFunction(instance, { modernBar: "io", mode: "transitional", minimumBarSize: 0x20000 });
    new PciSlots(core).plug(this.fn, SLOT);
  }

  static async open(): Promise<Bus> {
    const { core, machine } = await openCore();
    cores.push(core);
    return new Bus(core, machine);
  }

  select(slot: number, offset: number, bus = 0): number {
    this.machine.writePort(0xcf8, 4, (0x80000000 | (bus << 16) | (slot << 11) | (offset & 0xfc)) >>> 0);
    return 0xcfc + (offset & 3);
  }

  read(slot: number, offset: number, size: 1 | 2 | 4): number {
    return this.machine.readPort(this.select(slot, offset), size);
  }

  write(slot: number, offset: number, size: 1 | 2 | 4, value: number): void {
    this.machine.writePort(this.select(slot, offset), size, value);
  }
}

describe("our functions on v86's PCI bus", () => {
  test("v86's own functions and ours answer, others do not, and writes to those are lost", async () => {
    const bus = await Bus.open();
    expect(bus.read(0, 0, 4)).toBe(0x12378086);
    expect(bus.read(SLOT, 0, 4)).toBe(0x10051af4);
    expect(bus.read(SLOT + 1, 0, 4)).toBe(0xffffffff);
    bus.select(SLOT, 0, 1);
    expect(bus.machine.readPort(0xcfc, 4)).toBe(0xffffffff);
    for (const size of [1, 2, 4] as const) bus.write(SLOT + 1, 0x10, size, 0);
    bus.select(SLOT, 0);
    expect(bus.machine.readPort(0xcf8, 4)).toBe(0x80000000);
  });

  test("configuration accesses of every width at every offset", async () => {
    const bus = await Bus.open();
    expect([0, 1, 2, 3].map((offset) => bus.read(SLOT, offset, 1))).toEqual([0xf4, 0x1a, 0x05, 0x10]);
    expect([bus.read(SLOT, 0, 2), bus.read(SLOT, 2, 2)]).toEqual([0x1af4, 0x1005]);
    bus.write(SLOT, 0x3c, 1, 0x55);
    expect(bus.read(SLOT, 0x3c, 4) & 0xff).toBe(0x55);
    bus.write(SLOT, COMMAND + 1, 1, 4);
    expect(bus.read(SLOT, COMMAND, 2)).toBe(0x0403);
  });

  test("an I/O BAR tells its size, moves, and is decoded only when the command register says so", async () => {
    const { machine, ...rest } = await Bus.open().then((bus) => ({ bus, machine: bus.machine }));
    const { bus } = rest;
    const base = bus.read(SLOT, BAR4, 4) & ~3;
    const numQueues = (at: number): number => machine.readPort(at + 18, 2);
    expect(numQueues(base)).toBe(1);
    bus.write(SLOT, BAR4, 4, 0xffffffff);
    expect(bus.read(SLOT, BAR4, 4)).toBe(0xffffff01);
    expect(numQueues(base)).toBe(0xffff);
    bus.write(SLOT, BAR4, 4, 0xe000);
    expect([numQueues(base), numQueues(0xe000)]).toEqual([0xffff, 1]);
    bus.write(SLOT, COMMAND, 2, 0);
    expect(numQueues(0xe000)).toBe(0xffff);
    bus.write(SLOT, COMMAND, 2, 1);
    expect(numQueues(0xe000)).toBe(1);
  });

  test("a BAR on top of something else is not decoded, and takes nothing away", async () => {
    const bus = await Bus.open();
    // The serial port, the configuration ports, and v86's ACPI are the board's.
    for (const port of [0x3f8, 0xcf8, 0xb000]) {
      bus.write(SLOT, BAR4, 4, port & ~0xff);
      expect(bus.core.readPort((port & ~0xff) + 18, 2)).toBe(0xffff);
    }
    bus.write(SLOT, BAR4, 4, 0xd000);
    expect(bus.core.readPort(0xd000 + 18, 2)).toBe(1);
    // RAM, the VGA's window, the frame buffer, where a BIOS is, and the interrupt controllers.
    for (const base of [0x100000, 0xa0000, 0xe0000000, 0xfec00000, 0xfee00000, 0xfffe0000]) {
      expect(bus.core.freeMemory(base, 0x20000)).toBe(false);
      bus.write(SLOT, 0x14, 4, base);
    }
    expect(bus.core.freeMemory(PCI_MEMORY.first, 0x20000)).toBe(true);
    bus.write(SLOT, 0x14, 4, PCI_MEMORY.first);
    expect(bus.core.freeMemory(PCI_MEMORY.first, 0x20000)).toBe(false);
    bus.write(SLOT, COMMAND, 2, 0);
    expect(bus.core.freeMemory(PCI_MEMORY.first, 0x20000)).toBe(true);
  });

  test("any accesses to configuration space and ports end, and the bus still works", async () => {
    const bus = await Bus.open();
    const access = fc.record({
      where: fc.oneof(
        fc.record({ slot: fc.constantFrom(SLOT, 10), offset: fc.nat(255) }),
        fc.record({ port: fc.integer({ min: 0xc000, max: 0xc4ff }) }),
      ),
      size: fc.constantFrom(1 as const, 2 as const, 4 as const),
      value: fc.option(fc.oneof(fc.nat(0xffffffff), fc.constantFrom(0, 1, 0xffffffff))),
    });
    fc.assert(
      fc.property(fc.array(access, { maxLength: 60 }), (accesses) => {
        for (const { where, size, value } of accesses) {
          const port = "port" in where ? where.port : bus.select(where.slot, where.offset & ~(size - 1));
          const read = bus.machine.readPort(port, size);
          expect(read >= 0 && read < 2 ** (8 * size)).toBe(true);
          if (value !== null) bus.machine.writePort(port, size, value % 2 ** (8 * size));
        }
        expect(bus.read(SLOT, 0, 4)).toBe(0x10051af4);
      }),
      { numRuns: 150 },
    );
  });
});
