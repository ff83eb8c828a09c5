/** A driver by hand, without any of our driver code: ports, capabilities and rings as a hostile guest writes them. */

/** What a guest's processor can do on v86's board. */
export interface PortMachine {
  readPort(port: number, size: 1 | 2 | 4): number;
  writePort(port: number, size: 1 | 2 | 4, value: number): void;
  /** The guest's RAM as it is now. */
  readonly ram: Uint8Array;
}

export interface RawDescriptor {
  readonly address: number;
  /** High 32 bits of the address. */
  readonly high?: number;
  readonly length: number;
  readonly flags?: number;
  readonly next?: number;
}

export const NEXT = 1;
export const WRITE = 2;
export const INDIRECT = 4;
export const NEEDS_RESET = 0x40;

const COMMON_CFG = 1;
const NOTIFY_CFG = 2;
const ISR_CFG = 3;
const QUEUE_SIZE = 8;
const AREA = 0x4000;
const FIRST_AREA = 0x20_0000;

/** Drives a modern virtio PCI function whose structures are behind I/O BARs, ours or v86's own. */
export class RawDriver {
  readonly #machine: PortMachine;
  readonly #bdf: number;
  readonly #common: number;
  readonly #notify: number;
  readonly #notifyMultiplier: number;
  readonly #isr: number;
  readonly #available = new Map<number, number>();

  constructor(machine: PortMachine, slot: number) {
    this.#machine = machine;
    this.#bdf = slot << 3;
    const found = new Map<number, number>();
    let multiplier = 0;
    for (let at = this.config(0x34, 1); at !== 0; at = this.config(at + 1, 1)) {
      const type = this.config(at + 3, 1);
      if (this.config(at, 1) !== 9 || found.has(type)) continue;
      const bar = this.config(0x10 + 4 * this.config(at + 4, 1), 4);
      found.set(type, (bar & 0xfffc) + this.config(at + 8, 4));
      if (type === NOTIFY_CFG) multiplier = this.config(at + 16, 4);
    }
    this.#common = found.get(COMMON_CFG) ?? -1;
    this.#notify = found.get(NOTIFY_CFG) ?? -1;
    this.#isr = found.get(ISR_CFG) ?? -1;
    this.#notifyMultiplier = multiplier;
  }

  config(offset: number, size: 1 | 2 | 4): number {
    this.#machine.writePort(0xcf8, 4, (0x80000000 | (this.#bdf << 8) | (offset & 0xfc)) >>> 0);
    return this.#machine.readPort(0xcfc + (offset & 3), size);
  }

  get status(): number {
    return this.#machine.readPort(this.#common + 20, 1);
  }

  /** Reading clears it. */
  get isr(): number {
    return this.#machine.readPort(this.#isr, 1);
  }

  /** Features as two 32-bit words; then queues; then DRIVER_OK. */
  start(
    featuresLow: number,
    queues: readonly number[],
    high: { readonly descriptorArea?: number } = {},
  ): void {
    const { writePort } = this.#bound();
    for (const status of [0, 1, 3]) writePort(this.#common + 20, 1, status);
    [featuresLow, 1].forEach((word, select) => {
      writePort(this.#common + 8, 4, select);
      writePort(this.#common + 12, 4, word);
    });
    writePort(this.#common + 20, 1, 0xb);
    for (const queue of queues) this.#enable(queue, high.descriptorArea ?? 0);
    writePort(this.#common + 20, 1, 0xf);
  }

  /** Where memory that belongs to nothing starts: page `index`. */
  page(index: number): number {
    return 0x30_0000 + 0x1000 * index;
  }

  describe(table: number, descriptors: readonly RawDescriptor[]): void {
    const view = this.#view();
    descriptors.forEach(({ address, high = 0, length, flags = 0, next = 0 }, i) => {
      view.setUint32(table + 16 * i, address, true);
      view.setUint32(table + 16 * i + 4, high, true);
      view.setUint32(table + 16 * i + 8, length, true);
      view.setUint16(table + 16 * i + 12, flags, true);
      view.setUint16(table + 16 * i + 14, next, true);
    });
  }

  /** Puts these into the descriptor table from 0 on, makes head 0 available and notifies. */
  send(queue: number, descriptors: readonly RawDescriptor[]): void {
    this.describe(this.#area(queue), descriptors);
    const view = this.#view();
    const index = this.#available.get(queue) ?? 0;
    const available = this.#area(queue) + 0x1000;
    view.setUint16(available + 4 + 2 * (index % QUEUE_SIZE), 0, true);
    view.setUint16(available + 2, (index + 1) & 0xffff, true);
    this.#available.set(queue, index + 1);
    this.notify(queue);
  }

  notify(queue: number): void {
    const { readPort, writePort } = this.#bound();
    writePort(this.#common + 22, 2, queue);
    const offset = readPort(this.#common + 30, 2) * this.#notifyMultiplier;
    writePort(this.#notify + offset, 2, queue);
  }

  setUsedEvent(queue: number, index: number): void {
    this.#view().setUint16(this.#area(queue) + 0x1000 + 4 + 2 * QUEUE_SIZE, index, true);
  }

  usedIndex(queue: number): number {
    return this.#view().getUint16(this.#area(queue) + 0x2002, true);
  }

  #enable(queue: number, descriptorHigh: number): void {
    const { writePort } = this.#bound();
    const area = this.#area(queue);
    this.#machine.ram.fill(0, area, area + AREA);
    this.#available.set(queue, 0);
    writePort(this.#common + 22, 2, queue);
    writePort(this.#common + 24, 2, QUEUE_SIZE);
    [area, area + 0x1000, area + 0x2000].forEach((address, i) => {
      writePort(this.#common + 32 + 8 * i, 4, address);
      writePort(this.#common + 36 + 8 * i, 4, i === 0 ? descriptorHigh : 0);
    });
    writePort(this.#common + 28, 2, 1);
  }

  #area(queue: number): number {
    return FIRST_AREA + AREA * queue;
  }

  #view(): DataView {
    const { ram } = this.#machine;
    return new DataView(ram.buffer, ram.byteOffset, ram.length);
  }

  #bound(): Pick<PortMachine, "readPort" | "writePort"> {
    const machine = this.#machine;
    return {
      readPort: (port, size) => machine.readPort(port, size),
      writePort: (port, size, value) => machine.writePort(port, size, value),
    };
  }
}
