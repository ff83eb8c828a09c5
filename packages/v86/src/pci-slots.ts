import { SharedInterrupt } from "virtio/bus/interrupt";
import {
  PCI_BAR0,
  PCI_COMMAND,
  PCI_COMMAND_IO,
  PCI_COMMAND_MEMORY,
  PCI_INTERRUPT_LINE,
} from "virtio/bus/pci/registers";
import { PciHost } from "virtio/bus/pci/host";
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

/** PCI functions of ours on v86's bus 0, beside v86's own. What a BIOS would do for them is done when they are plugged in. */
export class PciSlots implements PciConfigSpace {
  readonly #host: PciHost;
  readonly #core: V86Core;
  readonly #taken = new Set<number>();
  #nextPort: number = PCI_PORTS.first;
  #nextMemory: number = PCI_MEMORY.first;

  constructor(core: V86Core) {
    this.#core = core;
    const lines = new Map(PCI_IRQS.map((irq) => [irq, new SharedInterrupt(irqLine(core, irq))]));
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
    const v86Lines = new Map<string, InterruptLine>();
    core.routePciInterrupts(PCI_IRQS, (source, irq, asserted) => {
      let line = v86Lines.get(source);
      if (line === undefined) v86Lines.set(source, (line = inputOf(lines, irq)));
      line.set(asserted);
    });
  }

  /** Returns the slot. Throws a RangeError when there is none. */
  plug(fn: PciFunction, wanted?: number): number {
    const slot = wanted ?? this.#freeSlot();
    if (!(Number.isInteger(slot) && slot >= PCI_SLOTS.first && slot <= PCI_SLOTS.last))
      throw new RangeError(`PCI slot ${slot}: ${PCI_SLOTS.first} to ${PCI_SLOTS.last} can be used`);
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
