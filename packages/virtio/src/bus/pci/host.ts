import { partOption, wholeOption } from "../../check-option.ts";
import type {
  AccessSize,
  InterruptLine,
  IoHandler,
  MsiTarget,
  PciBar,
  PciFunction,
  PciSlot,
} from "../types.ts";
import type { AddressSpace } from "../address-space.ts";
import { PCI_INTERRUPT_PIN } from "./registers.ts";

/** Devices on one bus. */
export const PCI_DEVICES = 32;
/** "Configuration Mechanism #1": CONFIG_ADDRESS and CONFIG_DATA. */
export const PCI_PORTS = 0xcf8;
export const PCI_PORTS_LENGTH = 8;
/** Bytes of the enhanced configuration window of one bus. */
export const PCI_ECAM_LENGTH = 0x100000;

/** What BARs are mapped into: an `AddressSpace`, or that of an emulator. */
export type PciWindows = Pick<AddressSpace, "map" | "isFree">;

export interface PciHostOptions {
  readonly memory: PciWindows;
  readonly io: PciWindows;
  /** The interrupt input that pin 1 to 4 (INTA# to INTD#) of a device is wired to; shared ones are the machine's task. */
  interruptLine(device: number, pin: number): InterruptLine;
  readonly msi?: MsiTarget;
}

/** A BAR that its function wants decoded. */
interface WantedBar {
  readonly bar: PciBar;
  readonly base: number;
  /** Undefined while something else is in the way. */
  unmap: (() => void) | undefined;
}

/**
 * A PCI host bridge for machines in this process: one bus of single-function devices, reached by ports (`ports`) or
 * by a memory window (`ecam`).
 */
export class PciHost {
  /** Handler of the eight ports from `PCI_PORTS` on. */
  readonly ports: IoHandler;
  /** Handler of a window of `PCI_ECAM_LENGTH` bytes. */
  readonly ecam: IoHandler;
  readonly #options: PciHostOptions;
  readonly #functions: (PciFunction | undefined)[] = Array.from({ length: PCI_DEVICES }, () => undefined);
  #wanted: WantedBar[] = [];
  #address = 0;

  constructor(options: PciHostOptions) {
    const { memory, io, msi } = options;
    partOption("PCI host: memory", memory, "an AddressSpace", "map");
    partOption("PCI host: io", io, "an AddressSpace", "map");
    if (msi !== undefined) partOption("PCI host: msi", msi, "an MsiTarget", "send");
    if (typeof options.interruptLine !== "function")
      throw new TypeError("PCI host: interruptLine must be a function of device and pin");
    this.#options = options;
    this.ports = {
      read: (offset, size) => this.#readPort(offset, size),
      write: (offset, size, value) => this.#writePort(offset, size, value),
    };
    this.ecam = {
      read: (offset, size) => this.readConfig(offset >>> 15, (offset >>> 12) & 7, offset & 0xfff, size),
      write: (offset, size, value) =>
        this.writeConfig(offset >>> 15, (offset >>> 12) & 7, offset & 0xfff, size, value),
    };
  }

  /**
   * Plugs a function into device `device`, 0 to 31, or the first free one; returns the device number. Throws a RangeError when there
   * is no such device, or another function is there.
   */
  plug(fn: PciFunction, device: number = this.#firstFree()): number {
    wholeOption("PCI host: device", device, 0, PCI_DEVICES - 1);
    partOption("PCI host: function", fn, "a PciFunction", "attach");
    if (this.#functions[device] !== undefined) throw new RangeError(`PCI host: device ${device} is taken`);
    fn.attach(this.#slot(fn, device));
    this.#functions[device] = fn;
    return device;
  }

  /** A function that is not there reads as all ones. */
  readConfig(device: number, fn: number, offset: number, size: AccessSize): number {
    const target = fn === 0 ? this.#functions[device] : undefined;
    if (target === undefined) return size === 4 ? 0xffffffff : size === 2 ? 0xffff : 0xff;
    return target.readConfig(offset, size);
  }

  writeConfig(device: number, fn: number, offset: number, size: AccessSize, value: number): void {
    if (fn === 0) this.#functions[device]?.writeConfig(offset, size, value);
  }

  /** Bus reset. */
  reset(): void {
    this.#address = 0;
    for (const fn of this.#functions) fn?.reset();
  }

  #firstFree(): number {
    const device = this.#functions.indexOf(undefined);
    if (device < 0) throw new RangeError(`PCI host: all ${PCI_DEVICES} devices are taken`);
    return device;
  }

  #slot(fn: PciFunction, device: number): PciSlot {
    const pin = fn.readConfig(PCI_INTERRUPT_PIN, 1);
    const line = pin === 0 ? undefined : this.#options.interruptLine(device, pin);
    return {
      mapBar: (bar, base) => this.#mapBar(bar, base),
      setInterrupt: (asserted) => line?.set(asserted),
      sendMsi: (address, data) => this.#options.msi?.send(address, data),
    };
  }

  /** What a driver puts on top of something else is not decoded until the place is free. */
  #mapBar(bar: PciBar, base: number | undefined): void {
    const old = this.#wanted.find((wanted) => wanted.bar === bar);
    old?.unmap?.();
    this.#wanted = this.#wanted.filter((wanted) => wanted !== old);
    if (base !== undefined) this.#wanted.push({ bar, base, unmap: undefined });
    for (const wanted of this.#wanted) {
      const space = wanted.bar.kind === "io" ? this.#options.io : this.#options.memory;
      if (wanted.unmap !== undefined || !space.isFree(wanted.base, wanted.bar.size)) continue;
      wanted.unmap = space.map(wanted.base, wanted.bar.size, wanted.bar.handler);
    }
  }

  /** Bit 31 enables; then bus, device, function and register. Only a dword reaches the address port. */
  #readPort(offset: number, size: AccessSize): number {
    if (offset === 0 && size === 4) return this.#address;
    const enabled = this.#address >>> 31 === 1 && ((this.#address >>> 16) & 0xff) === 0;
    if (offset < 4 || !enabled) return size === 4 ? 0xffffffff : size === 2 ? 0xffff : 0xff;
    return this.readConfig(
      (this.#address >>> 11) & 31,
      (this.#address >>> 8) & 7,
      (this.#address & 0xfc) + offset - 4,
      size,
    );
  }

  #writePort(offset: number, size: AccessSize, value: number): void {
    if (offset === 0 && size === 4) {
      this.#address = (value & ~3) >>> 0;
      return;
    }
    const enabled = this.#address >>> 31 === 1 && ((this.#address >>> 16) & 0xff) === 0;
    if (offset < 4 || !enabled) return;
    this.writeConfig(
      (this.#address >>> 11) & 31,
      (this.#address >>> 8) & 7,
      (this.#address & 0xfc) + offset - 4,
      size,
      value,
    );
  }
}
