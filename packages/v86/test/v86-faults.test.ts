import { patientScheduler } from "@virtio/testkit/patient-scheduler";
/**
 * What was seen to go wrong in v86's own virtio devices (2026, npm 0.5.462), each beside our device in the same place.
 * The first half of a test is v86's, so that a version that mends it is noticed.
 */
import { clause } from "@virtio/testkit/clause";
import { PciSlots } from "@virtio/v86/pci-slots";
import type { V86Core } from "@virtio/v86/internals";
import { V86Memory } from "@virtio/v86/memory";
import { ConsoleDevice } from "virtio/devices/console/device";
import type { VirtioDevice } from "virtio/device/device";
import { DeviceInstance } from "virtio/device/instance";
import type { VirtioFault } from "virtio/fault";
import { virtioPciFunction } from "virtio/transport/pci/function";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { openCore, openV86, type OwnMachine } from "./machines.ts";
import { INDIRECT, NEEDS_RESET, NEXT, RawDriver, WRITE, type PortMachine } from "./raw-driver.ts";

const V86_9P_SLOT = 6;
const V86_CONSOLE_SLOT = 12;
const OUR_SLOT = 8;
const TRANSMITQ = 1;
const CONTROL_TRANSMITQ = 3;
const MULTIPORT = 1 << 1;
const INDIRECT_DESC = 1 << 28;
const EVENT_IDX = 1 << 29;
const GIB_2 = 0x80000000;

interface Ours {
  readonly driver: RawDriver;
  readonly machine: PortMachine;
  readonly faults: VirtioFault[];
  /** What the console's port 0 got. */
  readonly output: Uint8Array[];
}

describe("faults of v86's own virtio devices", () => {
  let v86: OwnMachine;
  const cores: V86Core[] = [];
  beforeAll(async () => {
    v86 = await openV86();
  });
  afterAll(async () => {
    await v86.destroy();
    for (const core of cores) await core.destroy();
  });

  async function plug(make: (output: Uint8Array[]) => VirtioDevice): Promise<Ours> {
    const { core, machine } = await openCore();
    cores.push(core);
    const output: Uint8Array[] = [];
    const faults: VirtioFault[] = [];
    const instance = new DeviceInstance(make(output), {
      label: "ours",
      memory: new V86Memory(core),
      scheduler: patientScheduler,
    });
    instance.onFault = (fault) => faults.push(fault);
    new PciSlots(core).plug(virtioPciFunction(instance, { modernBar: "io", msixVectors: 0 }), OUR_SLOT);
    return { driver: new RawDriver(machine, OUR_SLOT), machine, faults, output };
  }

  const ourConsole = (): Promise<Ours> =>
    plug((output) => {
      const backend = {
        write: (bytes: Uint8Array) => output.push(bytes.slice()) && bytes.length,
        attach: () => undefined,
      };
      return new ConsoleDevice({ maxPorts: 2, ports: [{ kind: "console", backend }] });
    });

  /** Answers with as many bytes as it got, like v86's 9p with a handler of its own. */
  const ourEcho = (activated: () => void = () => undefined): Promise<Ours> =>
    plug(() => ({
      id: 9,
      name: "echo",
      features: 0n,
      queues: [
        {
          name: "requestq",
          maxSize: 8,
          serve: (chain) => Math.min(chain.readableLength, chain.writableLength),
        },
      ],
      activate: activated,
    }));

  function write(machine: PortMachine, address: number, bytes: readonly number[]): void {
    machine.ram.set(bytes, address);
  }

  test("v86 never tells a device that the driver is ready; ours is told, once", async () => {
    let activations = 0;
    const { driver } = await ourEcho(() => activations++);
    driver.start(0, [0]);
    expect(activations).toBe(1);
  });

  test(
    clause(
      "drv.split.indirect",
      "an indirect table that refers to itself freezes v86; ours stops with a fault",
    ),
    async () => {
      const attack = (driver: RawDriver): void => {
        driver.start(INDIRECT_DESC, [0]);
        const table = driver.page(0);
        driver.describe(table, [{ address: table, length: 16, flags: INDIRECT }]);
        driver.send(0, [{ address: table, length: 16, flags: INDIRECT }]);
      };
      const { cpu } = v86;
      const read32s = cpu.read32s.bind(cpu);
      let reads = 0;
      cpu.read32s = (address) => {
        if (++reads > 100_000) throw new Error("endless");
        return read32s(address);
      };
      expect(() => attack(new RawDriver(v86, V86_9P_SLOT))).toThrow("endless");
      cpu.read32s = read32s;

      const { driver, faults } = await ourEcho();
      attack(driver);
      expect(driver.status & NEEDS_RESET).toBe(NEEDS_RESET);
      expect(faults.map((fault) => fault.clause)).toEqual(["drv.split.indirect"]);
    },
  );

  test("v86's console uses a chain twice; ours once", async () => {
    const attack = (machine: PortMachine, driver: RawDriver): number => {
      driver.start(MULTIPORT, [0, TRANSMITQ, 2, CONTROL_TRANSMITQ]);
      // struct virtio_console_control: port 0, PORT_READY (3), value 1.
      write(machine, driver.page(0), [0, 0, 0, 0, 3, 0, 1, 0]);
      driver.describe(driver.page(1), []);
      driver.send(CONTROL_TRANSMITQ, [{ address: driver.page(0), length: 8 }]);
      return driver.usedIndex(CONTROL_TRANSMITQ);
    };
    expect(attack(v86, new RawDriver(v86, V86_CONSOLE_SLOT))).toBe(2);

    const { driver, machine, faults } = await ourConsole();
    expect(attack(machine, driver)).toBe(1);
    expect(faults).toEqual([]);
  });

  test("a descriptor of 2 GiB makes v86 throw out of the port handler; ours stops with a fault", async () => {
    const attack = (driver: RawDriver): void => {
      driver.start(0, [0, TRANSMITQ]);
      driver.send(TRANSMITQ, [{ address: driver.page(0), length: GIB_2 }]);
    };
    expect(() => attack(new RawDriver(v86, V86_CONSOLE_SLOT))).toThrow(RangeError);

    const { driver, machine, faults } = await ourConsole();
    attack(driver);
    expect(driver.status & NEEDS_RESET).toBe(NEEDS_RESET);
    expect(faults.map(({ value }) => value)).toEqual([machine.ram.length]);
  });

  test("v86 ignores the high half of a buffer's address and reads elsewhere; ours stops with a fault", async () => {
    const attack = (machine: PortMachine, driver: RawDriver): void => {
      driver.start(0, [0, TRANSMITQ]);
      write(machine, driver.page(0), [0x21, 0x21, 0x21]);
      driver.send(TRANSMITQ, [{ address: driver.page(0), high: 5, length: 3 }]);
    };
    v86.consoleOutput.length = 0;
    attack(v86, new RawDriver(v86, V86_CONSOLE_SLOT));
    expect(v86.consoleOutput.map((bytes) => [...bytes])).toEqual([[0x21, 0x21, 0x21]]);

    const { driver, machine, faults, output } = await ourConsole();
    attack(machine, driver);
    expect(output).toEqual([]);
    expect(faults.map(({ value }) => value)).toEqual([driver.page(0) + 5 * 2 ** 32]);
  });

  test("v86 ignores the high half of a virtqueue's address; ours refuses such a queue", async () => {
    const attack = (machine: PortMachine, driver: RawDriver): void => {
      driver.start(0, [0, TRANSMITQ], { descriptorArea: 1 });
      write(machine, driver.page(0), [0x3f]);
      driver.send(TRANSMITQ, [{ address: driver.page(0), length: 1 }]);
    };
    v86.consoleOutput.length = 0;
    attack(v86, new RawDriver(v86, V86_CONSOLE_SLOT));
    expect(v86.consoleOutput).toHaveLength(1);

    const { driver, machine, faults, output } = await ourConsole();
    attack(machine, driver);
    expect(output).toEqual([]);
    expect(driver.status & NEEDS_RESET).toBe(NEEDS_RESET);
    expect(faults.length).toBeGreaterThan(0);
  });

  test(
    clause("dev.split.used-notify", "v86 offers EVENT_IDX and interrupts anyway; ours decides by used_event"),
    async () => {
      const attack = (driver: RawDriver): number[] => {
        driver.start(EVENT_IDX, [0]);
        driver.setUsedEvent(0, 2);
        const chain = [
          { address: driver.page(0), length: 16, flags: NEXT, next: 1 },
          { address: driver.page(1), length: 16, flags: WRITE },
        ];
        return [1, 2, 3, 4].map(() => {
          driver.send(0, chain);
          return driver.isr;
        });
      };
      expect(attack(new RawDriver(v86, V86_9P_SLOT))).toEqual([1, 1, 1, 1]);

      const { driver, faults } = await ourEcho();
      expect(attack(driver)).toEqual([0, 0, 1, 0]);
      expect(driver.usedIndex(0)).toBe(4);
      expect(faults).toEqual([]);
    },
  );
});
