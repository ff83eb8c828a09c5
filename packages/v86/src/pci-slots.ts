import { SharedInterrupt } from "virtio/bus/interrupt";
import {
  PCI_BAR0,
  PCI_COMMAND,
  PCI_COMMAND_IO,
  PCI_COMMAND_MEMORY,
  PCI_INTERRUPT_LINE,
} from "virtio/bus/pci/registers";
import { PciHost } from "virtio/bus/pci/host";
import { stateList, stateRecord } from "virtio/device/checked-state";
import type { AccessSize, InterruptLine, PciBar, PciFunction } from "virtio/bus/types";
import { PCI_IRQS, PCI_MEMORY, PCI_PORTS, PCI_SLOTS, pciIrq } from "./board.ts";
import type { PciConfigSpace, V86Core } from "./internals.ts";
import { MMIO_GRANULE } from "./internals.ts";

/** Messages to the local APIC: "Message Address Register Format" of Intel's manual. */
const MSI_ADDRESS = 0xfee00000;
const MSI_ADDRESS_MASK = 0xfff00000;
const LOWEST_VECTOR = 0x10;
/** Delivery modes that end in an ordinary interrupt: fixed and lowest priority. */
const MSI_DELIVERY_MODE = 0x600;

interface Pin {
  readonly irq: number;
  readonly line: InterruptLine;
  asserted: boolean;
}

/** An interrupt pin of a function of v86's own that is asserted. */
export interface SavedPin {
  /** v86's name of the function. */
  readonly source: string;
  readonly irq: number;
}

/** Functions on bus 0: no more pins can be. */
const MOST_PINS = 256;

/** PCI functions of ours on v86's bus 0, beside v86's own. What a BIOS would do for them is done when they are plugged in. */
export class PciSlots implements PciConfigSpace {
  readonly #host: PciHost;
  readonly #core: V86Core;
  readonly #taken = new Set<number>();
  readonly #lines: ReadonlyMap<number, SharedInterrupt>;
  /** Interrupt pins of v86's own functions, which share the lines of ours. */
  readonly #v86Pins = new Map<string, Pin>();
  #nextPort: number = PCI_PORTS.first;
  #nextMemory: number = PCI_MEMORY.first;

  constructor(core: V86Core) {
    this.#core = core;
    const lines = new Map(PCI_IRQS.map((irq) => [irq, new SharedInterrupt(irqLine(core, irq))]));
    this.#lines = lines;
    this.#host = new PciHost({
      memory: {
        isFree: (base, length) => core.freeMemory(base, length),
        map: (base, length, handler) => core.mapMemory(base, length, handler),
      },
      io: {
        isFree: (base, length) => core.freePorts(base, length),
        map: (base, length, handler) => core.mapPorts(base, length, handler),
      },
      interruptLine: (device, pin) => inputOf(lines, pciIrq(device, pin)),
      msi: { send: (address, data) => sendMessage(core, address, data) },
    });
    core.setPciConfigSpace(this);
    core.routePciInterrupts(PCI_IRQS, (source, irq, asserted) => this.#setPin(source, irq, asserted));
  }

  /** The interrupt pins of v86's own functions that are asserted; those of ours are with their functions. Plain data. */
  savePins(): SavedPin[] {
    return [...this.#v86Pins].flatMap(([source, { irq, asserted }]) => (asserted ? [{ source, irq }] : []));
  }

  /** After v86 itself was restored: the lines as they were. Throws an Error on what is no such list. */
  restorePins(saved: unknown): void {
    const pins = checkedPins(saved);
    for (const [source, { irq }] of this.#v86Pins) this.#setPin(source, irq, false);
    for (const { source, irq } of pins) this.#setPin(source, irq, true);
  }

  #setPin(source: string, irq: number, asserted: boolean): void {
    let pin = this.#v86Pins.get(source);
    if (pin === undefined) {
      pin = { irq, line: inputOf(this.#lines, irq), asserted: false };
      this.#v86Pins.set(source, pin);
    }
    pin.asserted = asserted;
    pin.line.set(asserted);
  }

  /** Returns the slot. `wanted` is one of `PCI_SLOTS`. Throws a RangeError when there is none, or it is taken. */
  plug(fn: PciFunction, wanted?: number): number {
    const slot = wanted ?? this.#freeSlot();
    if (this.#core.ownsPciSlot(slot)) throw new RangeError(`PCI slot ${slot} has a device of v86 itself`);
    this.#host.plug(fn, slot);
    this.#taken.add(slot);
    for (const bar of fn.bars) {
      const register = PCI_BAR0 + 4 * bar.index;
      this.#host.writeConfig(slot, 0, register, 4, this.#place(bar));
    }
    this.#host.writeConfig(slot, 0, PCI_INTERRUPT_LINE, 1, pciIrq(slot, 1));
    this.#host.writeConfig(slot, 0, PCI_COMMAND, 2, PCI_COMMAND_IO | PCI_COMMAND_MEMORY);
    return slot;
  }

  has(bdf: number): boolean {
    return (bdf & 7) === 0 && this.#taken.has(bdf >> 3);
  }

  read(bdf: number, offset: number, size: AccessSize): number {
    return this.#host.readConfig(bdf >> 3, 0, offset, size);
  }

  write(bdf: number, offset: number, size: AccessSize, value: number): void {
    this.#host.writeConfig(bdf >> 3, 0, offset, size, value);
  }

  #freeSlot(): number {
    for (let slot: number = PCI_SLOTS.first; slot <= PCI_SLOTS.last; slot++)
      if (!this.#taken.has(slot) && !this.#core.ownsPciSlot(slot)) return slot;
    throw new RangeError("all PCI slots are taken");
  }

  /** BARs one after the other, each at a multiple of its size. */
  #place({ kind, size }: PciBar): number {
    if (kind === "io") {
      const base = alignUp(this.#nextPort, size);
      this.#nextPort = base + size;
      if (this.#nextPort - 1 > PCI_PORTS.last)
        throw new RangeError("no I/O ports left for another PCI function");
      return base;
    }
    const base = alignUp(this.#nextMemory, Math.max(size, MMIO_GRANULE));
    this.#nextMemory = base + Math.max(size, MMIO_GRANULE);
    if (this.#nextMemory - 1 > PCI_MEMORY.last)
      throw new RangeError("no addresses left for another PCI function");
    return base;
  }
}

function checkedPins(saved: unknown): readonly SavedPin[] {
  return stateList(saved, MOST_PINS, "saved interrupt pins").map((value) => {
    const { source, irq } = stateRecord(value, "saved interrupt pin");
    if (typeof source !== "string" || !/^v86 \d{1,3}$/.test(source))
      throw new Error("saved interrupt pin: its function is none of v86's");
    if (typeof irq !== "number" || !PCI_IRQS.some((known) => known === irq))
      throw new Error(`saved interrupt pin: IRQ ${String(irq)} is no PCI interrupt of this board`);
    return { source, irq };
  });
}

function alignUp(value: number, alignment: number): number {
  return Math.ceil(value / alignment) * alignment;
}

/** An IRQ of the board, as both interrupt controllers see it. */
export function irqLine(core: V86Core, irq: number): InterruptLine {
  return {
    set: (asserted) => {
      if (asserted) core.raiseIrq(irq);
      else core.lowerIrq(irq);
    },
  };
}

function inputOf(lines: ReadonlyMap<number, SharedInterrupt>, irq: number): InterruptLine {
  const line = lines.get(irq);
  if (line === undefined) throw new RangeError(`IRQ ${irq} is no PCI interrupt of this board`);
  return line.input();
}

/** A driver may write anything into its MSI-X table; what is no interrupt message goes nowhere. */
function sendMessage(core: V86Core, address: number, data: number): void {
  const toLocalApic = address < 2 ** 32 && (address & MSI_ADDRESS_MASK) >>> 0 === MSI_ADDRESS;
  const vector = data & 0xff;
  if (toLocalApic && (data & MSI_DELIVERY_MODE) === 0 && vector >= LOWEST_VECTOR) core.raiseVector(vector);
}
