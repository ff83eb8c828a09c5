import { AddressSpace } from "virtio/bus/address-space";
import { SharedInterrupt } from "virtio/bus/interrupt";
import { PCI_PORTS, PCI_PORTS_LENGTH, PciHost } from "virtio/bus/pci/host";
import type { InterruptLine } from "virtio/bus/types";
import { DeviceInstance } from "virtio/device/instance";
import { DmaPool } from "virtio/driver/dma";
import { InterruptController } from "virtio/driver/interrupt-controller";
import { openMmio, type MmioPlace } from "virtio/driver/mmio-transport";
import { WindowAllocator } from "virtio/driver/pci-bars";
import { portConfigAccess } from "virtio/driver/pci-config";
import { findVirtioFunctions } from "virtio/driver/pci-discovery";
import { openPci } from "virtio/driver/pci-open";
import { pciAddressText, type PciPlatform } from "virtio/driver/platform";
import { RegionMemory } from "virtio/memory/region-memory";
import { virtioMmio } from "virtio/transport/mmio/registers";
import { virtioPciFunction } from "virtio/transport/pci/function";
import { DeviceBuilder, ringFeatures, type BuiltDevice } from "../../boot/build.ts";
import type { MachineDescription } from "../../boot/description.ts";
import { messageOf, UserError } from "../../user-error.ts";
import type { Bank, Target, TargetDevice } from "./types.ts";

/** The upper half of memory is for rings and buffers, the lower one the shell's, but for address 0. */
const MEMORY = 128 << 20;
const RAM: Bank = { start: 0x1000, size: MEMORY / 2 - 0x1000 };
const MMIO_BASE = 0xd0000000;
const MMIO_STEP = 0x10000;
const PCI_MEMORY = { base: 0xe0000000, length: 0x10000000 };
const PCI_IO = { base: 0x6000, length: 0x8000 };
const PCI_LINES = [16, 17, 18, 19] as const;
const MMIO_LINE = 24;
const LINES = 64;
const PCI_INTERRUPT_LINE = 0x3c;

/** Devices of this project and their drivers in one process, with the registers and interrupts of a machine between them. */
export class InProcessTarget implements Target {
  readonly title = "in this process";
  readonly banks: readonly Bank[] = [{ start: 0, size: MEMORY }];
  readonly memory: RegionMemory = new RegionMemory([{ gpa: 0, bytes: new Uint8Array(MEMORY) }]);
  readonly ram: Bank = RAM;
  readonly failure = undefined;
  onFailure: ((error: Error) => void) | undefined;
  readonly #builder: DeviceBuilder;
  readonly #memorySpace = new AddressSpace();
  readonly #interrupts = new InterruptController(LINES, true);
  readonly #lines: readonly SharedInterrupt[];
  readonly #host: PciHost;
  readonly #platform: PciPlatform;
  readonly #windows = {
    memoryWindow: new WindowAllocator(PCI_MEMORY),
    ioWindow: new WindowAllocator(PCI_IO),
  };
  readonly #places: MmioPlace[] = [];

  private constructor(builder: DeviceBuilder) {
    this.#builder = builder;
    const io = new AddressSpace();
    const memory = this.#memorySpace;
    this.#lines = PCI_LINES.map((line) => new SharedInterrupt(this.#interrupts.line(line)));
    this.#host = new PciHost({
      memory,
      io,
      interruptLine: (device, pin) => this.#pciLine(device, pin),
      msi: this.#interrupts,
    });
    io.map(PCI_PORTS, PCI_PORTS_LENGTH, this.#host.ports);
    const bus: PciPlatform["bus"] = {
      read: (space, address, size) => (space === "io" ? io : memory).read(address, size),
      write: (space, address, size, value) => (space === "io" ? io : memory).write(address, size, value),
    };
    this.#platform = {
      bus,
      memory: new DmaPool(this.memory, MEMORY / 2, MEMORY / 2),
      interrupts: this.#interrupts,
      pci: portConfigAccess(bus),
    };
  }

  /** Opens what is described. Throws a UserError that names the device that cannot be. */
  static async open(
    description: MachineDescription,
    warn: (message: string) => void,
  ): Promise<InProcessTarget> {
    const builder = new DeviceBuilder({
      get terminal(): never {
        throw new UserError("-chardev stdio: the shell has the terminal");
      },
      warn,
    });
    const target = new InProcessTarget(builder);
    try {
      for (const device of description.devices)
        target.#plug(await builder.build(device), description.legacyMmio);
      return target;
    } catch (error) {
      await builder.close();
      throw error;
    }
  }

  devices(): Promise<readonly TargetDevice[]> {
    const platform = this.#platform;
    const functions = findVirtioFunctions(platform.pci).map(({ at, deviceId }): TargetDevice => ({
      name: `pci ${pciAddressText(at)}`,
      deviceId,
      place: { bus: "pci", platform, at },
      open: () => openPci(platform, at, this.#windows),
    }));
    const windows = this.#places.map((place): TargetDevice => {
      const name = `mmio 0x${place.base.toString(16)}`;
      const open = (): NonNullable<ReturnType<typeof openMmio>> => {
        const transport = openMmio(platform, place);
        if (transport === undefined) throw new Error(`${name}: no device that can be driven`);
        return transport;
      };
      const deviceId = platform.bus.read("memory", place.base + 8, 4);
      return { name, deviceId, place: { bus: "mmio", platform, base: place.base }, open };
    });
    return Promise.resolve([...functions, ...windows]);
  }

  close(): Promise<void> {
    return this.#builder.close();
  }

  #plug({ description, device }: BuiltDevice, legacyMmio: boolean): void {
    const { label, plug, ring } = description;
    const instance = new DeviceInstance(device, { label, memory: this.memory, features: ringFeatures(ring) });
    try {
      if (plug.bus === "mmio") return this.#plugMmio(instance, legacyMmio);
      const fn = virtioPciFunction(instance, {
        mode: plug.mode,
        ...(plug.vectors > 0 ? { msixVectors: plug.vectors } : {}),
      });
      const slot = this.#host.plug(fn, ...(plug.slot === undefined ? [] : [plug.slot]));
      // As firmware does.
      fn.writeConfig(PCI_INTERRUPT_LINE, 1, PCI_LINES[slot % PCI_LINES.length] ?? 0);
    } catch (error) {
      throw new UserError(`${label}: ${messageOf(error)}`);
    }
  }

  #plugMmio(instance: DeviceInstance, legacy: boolean): void {
    const line = MMIO_LINE + this.#places.length;
    const registers = virtioMmio(instance, {
      interrupt: this.#interrupts.line(line),
      version: legacy ? 1 : 2,
    });
    const base = MMIO_BASE + this.#places.length * MMIO_STEP;
    this.#memorySpace.map(base, registers.length, registers);
    this.#places.push({ base, length: registers.length, line });
  }

  #pciLine(device: number, pin: number): InterruptLine {
    const line = this.#lines[(device + pin - 1) % PCI_LINES.length];
    if (line === undefined) throw new RangeError(`no interrupt line for pin ${pin} of device ${device}`);
    return line.input();
  }
}
