import { QemuError, QemuMachine, splitCommandLine, type QemuDevice } from "@virtio/qemu";
import { findVirtioFunctions } from "virtio/driver/pci-discovery";
import { pciAddressText } from "virtio/driver/platform";
import type { RegionMemory } from "virtio/memory/region-memory";
import { messageOf, UserError } from "../../user-error.ts";
import type { Bank, Place, Target, TargetDevice } from "./types.ts";

const PAGE = 4096;
/** The shell's own memory at most; it is half of what the machine has when that is less. */
const MOST_RAM = 64 << 20;

/** A QEMU machine without a guest. */
export class QemuTarget implements Target {
  readonly title: string;
  readonly banks: readonly Bank[];
  readonly memory: RegionMemory;
  readonly ram: Bank;
  onFailure: ((error: Error) => void) | undefined;
  readonly #machine: QemuMachine;

  private constructor(machine: QemuMachine, ram: Bank) {
    this.#machine = machine;
    this.ram = ram;
    this.memory = machine.memory;
    this.banks = machine.memoryMap.map(({ gpa, length }) => ({ start: gpa, size: length }));
    this.title = `${machine.type.replace(/-machine$/, "")} of QEMU, without a guest`;
    machine.onFailure = (error) => this.onFailure?.(error);
  }

  /** Starts QEMU. Throws a UserError with QEMU's own words when it does not. */
  static async open(commandLine: string): Promise<QemuTarget> {
    try {
      const machine = await QemuMachine.start({ argv: splitCommandLine(commandLine) });
      const largest = Math.max(...machine.memoryMap.map(({ length }) => length));
      const size = Math.floor(Math.min(MOST_RAM, largest / 2) / PAGE) * PAGE;
      return new QemuTarget(machine, { start: machine.platform.memory.allocate(size, PAGE), size });
    } catch (error) {
      if (error instanceof QemuError || error instanceof RangeError)
        throw new UserError(`--qemu: ${messageOf(error)}`);
      throw error;
    }
  }

  get failure(): Error | undefined {
    return this.#machine.failure;
  }

  devices(): Promise<readonly TargetDevice[]> {
    const { platform, layout } = this.#machine;
    const found = layout.pci === undefined ? [] : findVirtioFunctions(platform.pci, layout.pci.firstBus);
    const addresses = new Map(found.map(({ at }) => [`pci ${pciAddressText(at)}`, at]));
    const place = (device: QemuDevice): Place => {
      const at = addresses.get(device.name);
      if (at !== undefined) return { bus: "pci", platform, at };
      return { bus: "mmio", platform, base: Number(device.name.split(" ")[1]) };
    };
    const devices = this.#machine.devices().map((device): TargetDevice => ({
      name: device.name,
      deviceId: device.deviceId,
      place: place(device),
      open: () => device.open(),
    }));
    return Promise.resolve(devices);
  }

  close(): Promise<void> {
    return this.#machine.close();
  }
}
