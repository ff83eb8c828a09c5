import { choiceOption, flagOptions, multipleOption } from "virtio/check-option";
import { AddressSpace } from "virtio/bus/address-space";
import { SharedInterrupt } from "virtio/bus/interrupt";
import { PCI_ECAM_LENGTH, PCI_PORTS, PCI_PORTS_LENGTH, PciHost } from "virtio/bus/pci/host";
import type { InterruptLine } from "virtio/bus/types";
import type { VirtioDevice } from "virtio/device/device";
import { DeviceInstance } from "virtio/device/instance";
import type { VirtioObserver } from "virtio/device/observer";
import type { Scheduler } from "virtio/device/scheduler";
import { DmaPool } from "virtio/driver/dma";
import { openMmio, type MmioDriverTransport, type MmioPlace } from "virtio/driver/mmio-transport";
import { WindowAllocator, type AddressWindow } from "virtio/driver/pci-bars";
import { ecamConfigAccess, portConfigAccess } from "virtio/driver/pci-config";
import { openPci, type OpenPciOptions } from "virtio/driver/pci-open";
import { findVirtioFunctions } from "virtio/driver/pci-discovery";
import type { PciAddress, PciPlatform } from "virtio/driver/platform";
import type { DriverTransport } from "virtio/driver/types";
import { RegionMemory } from "virtio/memory/region-memory";
import { virtioMmio, type VirtioMmio, type VirtioMmioOptions } from "virtio/transport/mmio/registers";
import { virtioPciFunction, type VirtioPciFunction } from "virtio/transport/pci/function";
import type { VirtioPciOptions } from "virtio/transport/pci/options";
import { noHints } from "./no-hints.ts";
import { InterruptController } from "virtio/driver/interrupt-controller";
import { patientScheduler } from "./patient-scheduler.ts";

export interface InProcessMachineOptions {
  /** Bytes from address 0 on, a multiple of 4096 from 8192 to 0xd0000000. Default 16 MiB. */
  readonly ramSize?: number;
  /** When devices work. Default: at once, however long it takes (`patientScheduler`). */
  readonly scheduler?: Scheduler;
  readonly observer?: VirtioObserver;
  /** The driver is wrong on purpose: hints are no errors. Default false. */
  readonly hostile?: boolean;
  /** The machine has message-signalled interrupts. Default true. */
  readonly msi?: boolean;
  /** How drivers reach configuration space. Default `ports`. */
  readonly config?: "ports" | "ecam";
}

interface PlugOptions {
  /** Default: the device's name and a number. */
  readonly label?: string;
  /** Ring and transport features to offer; default as `DeviceInstance`. */
  readonly features?: bigint;
  readonly queueSize?: number;
}

export interface PlugPciOptions extends PlugOptions, VirtioPciOptions {
  /** Device number on bus 0. Default: the next free one. */
  readonly slot?: number;
}

export interface PlugMmioOptions extends PlugOptions, Omit<VirtioMmioOptions, "interrupt"> {}

/** A PCI function in the machine; `open` gives its driver's side. */
export interface PluggedPci {
  readonly instance: DeviceInstance;
  readonly fn: VirtioPciFunction;
  readonly at: PciAddress;
  open(options?: OpenPciOptions): DriverTransport;
}

/** A window of registers in the machine. */
export interface PluggedMmio {
  readonly instance: DeviceInstance;
  readonly registers: VirtioMmio;
  readonly place: MmioPlace;
  open(): MmioDriverTransport;
}

const RAM_SIZE = 0x1000000;
/** Address 0 stays free: some registers take it for "none". */
const RAM_RESERVED = 0x1000;
const MMIO_BASE = 0xd0000000;
const MMIO_STEP = 0x10000;
/** Where the PCI host's windows are; ports are the same on the bus. */
export const PCI_MEMORY: AddressWindow = { base: 0xe0000000, length: 0x10000000 };
export const PCI_IO: AddressWindow = { base: 0x6000, length: 0x8000 };
/** Where configuration space is in memory: `PCI_ECAM_LENGTH` bytes. */
export const ECAM_BASE = 0xf0000000;
const PCI_LINES = [16, 17, 18, 19] as const;
const MMIO_LINE = 24;
const LINES = 64;
const PCI_INTERRUPT_LINE = 0x3c;

/**
 * A whole machine in one process, where a driver and a device meet through the real registers: RAM, an address space
 * for memory and one for ports, a PCI bus, interrupts. Nothing runs by itself.
 */
export class InProcessMachine {
  readonly ram: Uint8Array;
  readonly memory: RegionMemory;
  readonly memorySpace: AddressSpace = new AddressSpace();
  readonly ioSpace: AddressSpace = new AddressSpace();
  readonly interrupts: InterruptController;
  readonly pci: PciHost;
  /** What a driver is given. */
  readonly platform: PciPlatform;
  readonly memoryWindow: WindowAllocator = new WindowAllocator(PCI_MEMORY);
  readonly ioWindow: WindowAllocator = new WindowAllocator(PCI_IO);
  readonly #options: InProcessMachineOptions;
  readonly #pciLines: readonly SharedInterrupt[];
  readonly #places: MmioPlace[] = [];
  #labels = 0;

  constructor(options: InProcessMachineOptions = {}) {
    flagOptions("in-process machine", options, ["hostile", "msi"]);
    if (options.config !== undefined)
      choiceOption("in-process machine: config", options.config, ["ports", "ecam"]);
    const { ramSize = RAM_SIZE } = options;
    multipleOption("in-process machine: ramSize", ramSize, RAM_RESERVED, 2 * RAM_RESERVED, MMIO_BASE);
    this.#options = options;
    this.ram = new Uint8Array(ramSize);
    this.memory = new RegionMemory([{ gpa: 0, bytes: this.ram }]);
    this.interrupts = new InterruptController(LINES, options.msi !== false);
    this.#pciLines = PCI_LINES.map((line) => new SharedInterrupt(this.interrupts.line(line)));
    this.pci = new PciHost({
      memory: this.memorySpace,
      io: this.ioSpace,
      interruptLine: (device, pin) => this.#pciLine(device, pin),
      msi: this.interrupts,
    });
    this.ioSpace.map(PCI_PORTS, PCI_PORTS_LENGTH, this.pci.ports);
    this.memorySpace.map(ECAM_BASE, PCI_ECAM_LENGTH, this.pci.ecam);
    const bus: PciPlatform["bus"] = {
      read: (space, address, size) => (space === "io" ? this.ioSpace : this.memorySpace).read(address, size),
      write: (space, address, size, value) =>
        (space === "io" ? this.ioSpace : this.memorySpace).write(address, size, value),
    };
    this.platform = {
      bus,
      memory: new DmaPool(this.memory, RAM_RESERVED, this.ram.length - RAM_RESERVED),
      interrupts: this.interrupts,
      pci: options.config === "ecam" ? ecamConfigAccess(bus, ECAM_BASE) : portConfigAccess(bus),
    };
  }

  plugPci(device: VirtioDevice, options: PlugPciOptions = {}): PluggedPci {
    const instance = this.#instance(device, options);
    const fn = virtioPciFunction(instance, options);
    const slot = this.pci.plug(fn, options.slot);
    const at = { bus: 0, device: slot, function: 0 };
    // As firmware does.
    fn.writeConfig(PCI_INTERRUPT_LINE, 1, PCI_LINES[slot % PCI_LINES.length] ?? 0);
    return { instance, fn, at, open: (open) => this.#openPci(at, open) };
  }

  plugMmio(device: VirtioDevice, options: PlugMmioOptions = {}): PluggedMmio {
    const instance = this.#instance(device, options);
    const index = this.#places.length;
    const line = MMIO_LINE + index;
    const registers = virtioMmio(instance, { ...options, interrupt: this.interrupts.line(line) });
    const place = { base: MMIO_BASE + index * MMIO_STEP, length: registers.length, line };
    this.memorySpace.map(place.base, place.length, registers);
    this.#places.push(place);
    return { instance, registers, place, open: () => this.#openMmio(place) };
  }

  /** The driver's side of everything that is plugged in, found as a driver finds it. */
  transports(): DriverTransport[] {
    const pci = findVirtioFunctions(this.platform.pci).map(({ at }) => this.#openPci(at));
    return [...pci, ...this.#places.map((place) => this.#openMmio(place))];
  }

  #openPci(at: PciAddress, options: OpenPciOptions = {}): DriverTransport {
    const { memoryWindow, ioWindow } = this;
    return openPci(this.platform, at, { memoryWindow, ioWindow, ...options });
  }

  #openMmio(place: MmioPlace): MmioDriverTransport {
    const transport = openMmio(this.platform, place);
    if (transport === undefined) throw new Error(`no virtio device at 0x${place.base.toString(16)}`);
    return transport;
  }

  #instance(device: VirtioDevice, { label, features, queueSize }: PlugOptions): DeviceInstance {
    const { scheduler = patientScheduler, observer = {}, hostile = false } = this.#options;
    return new DeviceInstance(device, {
      label: label ?? `${device.name}${this.#labels++}`,
      memory: this.memory,
      ...(features === undefined ? {} : { features }),
      ...(queueSize === undefined ? {} : { queueSize }),
      scheduler,
      observer: hostile ? observer : noHints(observer),
    });
  }

  #pciLine(device: number, pin: number): InterruptLine {
    const line = this.#pciLines[(device + pin - 1) % PCI_LINES.length];
    if (line === undefined) throw new RangeError(`no interrupt line for pin ${pin} of device ${device}`);
    return line.input();
  }
}
