import type { QueueConfig } from "virtio/virtqueue/types";
import type { Element, OfferOptions, RawChain, RawDescriptor, RawDevice, RawDriver, RawUsed } from "./raw.ts";
import type { Arena, TestMemory } from "./test-memory.ts";

const NEXT = 1;
const WRITE = 2;
const INDIRECT = 4;

/** Where the parts of a split virtqueue lie, and nothing more. */
export class RawSplitRing {
  readonly memory: TestMemory;
  readonly config: QueueConfig;

  constructor(memory: TestMemory, config: QueueConfig) {
    this.memory = memory;
    this.config = config;
  }

  setDescriptor(table: number, index: number, descriptor: RawDescriptor): void {
    const at = table + 16 * index;
    this.memory.set64(at, descriptor.addr);
    this.memory.set32(at + 8, descriptor.len);
    this.memory.set16(at + 12, descriptor.flags);
    this.memory.set16(at + 14, descriptor.next);
  }

  getDescriptor(table: number, index: number): RawDescriptor {
    const at = table + 16 * index;
    return {
      addr: this.memory.get64(at),
      len: this.memory.get32(at + 8),
      flags: this.memory.get16(at + 12),
      next: this.memory.get16(at + 14),
    };
  }

  get availFlags(): number {
    return this.memory.get16(this.config.driverArea);
  }
  set availFlags(value: number) {
    this.memory.set16(this.config.driverArea, value);
  }
  get availIdx(): number {
    return this.memory.get16(this.config.driverArea + 2);
  }
  set availIdx(value: number) {
    this.memory.set16(this.config.driverArea + 2, value & 0xffff);
  }
  getAvail(position: number): number {
    return this.memory.get16(this.config.driverArea + 4 + 2 * (position % this.config.size));
  }
  setAvail(position: number, head: number): void {
    this.memory.set16(this.config.driverArea + 4 + 2 * (position % this.config.size), head);
  }
  get usedEvent(): number {
    return this.memory.get16(this.config.driverArea + 4 + 2 * this.config.size);
  }
  set usedEvent(value: number) {
    this.memory.set16(this.config.driverArea + 4 + 2 * this.config.size, value & 0xffff);
  }
  get usedFlags(): number {
    return this.memory.get16(this.config.deviceArea);
  }
  set usedFlags(value: number) {
    this.memory.set16(this.config.deviceArea, value);
  }
  get usedIdx(): number {
    return this.memory.get16(this.config.deviceArea + 2);
  }
  set usedIdx(value: number) {
    this.memory.set16(this.config.deviceArea + 2, value & 0xffff);
  }
  getUsed(position: number): { id: number; len: number } {
    const at = this.config.deviceArea + 4 + 8 * (position % this.config.size);
    return { id: this.memory.get32(at), len: this.memory.get32(at + 4) };
  }
  setUsed(position: number, id: number, len: number): void {
    const at = this.config.deviceArea + 4 + 8 * (position % this.config.size);
    this.memory.set32(at, id);
    this.memory.set32(at + 4, len);
  }
  get availEvent(): number {
    return this.memory.get16(this.config.deviceArea + 4 + 8 * this.config.size);
  }
  set availEvent(value: number) {
    this.memory.set16(this.config.deviceArea + 4 + 8 * this.config.size, value & 0xffff);
  }
}

interface Outstanding {
  readonly head: number;
  readonly descriptors: readonly number[];
}

/** A driver of a split virtqueue. Picks free descriptors in a scattered order unless the order is prescribed. */
export class RawSplitDriver implements RawDriver {
  readonly ring: RawSplitRing;
  readonly #arena: Arena;
  readonly #free: number[];
  readonly #outstanding: Outstanding[] = [];
  #staged: number;
  #seenUsed: number;
  /** Used idx up to which `notificationDue` was asked. */
  #judgedUsed: number;

  /** `start` is where both indexes stand, as after a long run. */
  constructor(memory: TestMemory, config: QueueConfig, arena: Arena, start = 0) {
    this.ring = new RawSplitRing(memory, config);
    this.#arena = arena;
    const inOrder = config.inOrder === true;
    const position = start % config.size;
    this.#free = Array.from({ length: config.size }, (_, i) =>
      inOrder ? (position + i) % config.size : (i * 5 + 3) % config.size,
    );
    if (new Set(this.#free).size !== config.size) throw new Error("descriptor order is no permutation");
    this.#staged = this.#seenUsed = this.#judgedUsed = start;
    this.ring.availIdx = start;
    this.ring.usedIdx = start;
  }

  get config(): QueueConfig {
    return this.ring.config;
  }

  get free(): number {
    return this.#free.length;
  }

  cost(elements: readonly Element[], { directBefore = elements.length }: OfferOptions = {}): number {
    return Math.min(directBefore, elements.length) + (directBefore < elements.length ? 1 : 0);
  }

  offer(elements: readonly Element[], options: OfferOptions = {}): number | undefined {
    const cost = this.cost(elements, options);
    if (cost > this.#free.length) return undefined;
    const { directBefore = elements.length, writeFlagOnTable = false } = options;
    const indexes = this.#free.splice(0, cost);
    const table = this.config.descriptorArea;
    indexes.forEach((index, i) => {
      const next = indexes[i + 1];
      const element = elements[i];
      if (i === directBefore || element === undefined) {
        const rest = elements.slice(directBefore);
        const flags = INDIRECT | (writeFlagOnTable ? WRITE : 0);
        this.ring.setDescriptor(table, index, {
          addr: BigInt(this.#table(rest)),
          len: 16 * rest.length,
          flags,
          next: 0xffff,
        });
      } else this.ring.setDescriptor(table, index, direct(element, next));
    });
    const head = indexes[0] ?? 0;
    this.ring.setAvail(this.#staged, head);
    this.#staged = (this.#staged + 1) & 0xffff;
    this.#outstanding.push({ head, descriptors: indexes });
    return head;
  }

  publish(): boolean {
    const old = this.ring.availIdx;
    this.ring.availIdx = this.#staged;
    if (old === this.#staged) return false;
    if (this.config.eventIdx !== true) return this.ring.usedFlags === 0;
    return between(old, this.#staged, this.ring.availEvent);
  }

  collect(): RawUsed[] {
    const used: RawUsed[] = [];
    while (this.#seenUsed !== this.ring.usedIdx) {
      const { id, len } = this.ring.getUsed(this.#seenUsed);
      const at = this.#outstanding.findIndex((chain) => chain.head === id);
      if (at < 0) throw new Error(`the device used ${id}, which it does not have`);
      // Under VIRTIO_F_IN_ORDER one element may stand for a batch: it names the last one.
      const skipped = this.config.inOrder === true ? at : 0;
      const batch = this.#outstanding.splice(at - skipped, skipped + 1);
      batch.forEach((chain, i) => {
        this.#free.push(...chain.descriptors);
        used.push({ token: chain.head, written: i === batch.length - 1 ? len : undefined });
      });
      this.#seenUsed = (this.#seenUsed + batch.length) & 0xffff;
    }
    return used;
  }

  wantNotifications(want: boolean, at = 0): void {
    if (this.config.eventIdx === true)
      this.ring.usedEvent = want ? this.#judgedUsed + at : this.#judgedUsed - 1;
    else this.ring.availFlags = want ? 0 : 1;
  }

  notificationDue(tokens: readonly number[]): boolean {
    const old = this.#judgedUsed;
    this.#judgedUsed = (old + tokens.length) & 0xffff;
    if (tokens.length === 0) return false;
    if (this.config.eventIdx !== true) return this.ring.availFlags === 0;
    return between(old, this.#judgedUsed, this.ring.usedEvent);
  }

  /** A table of the spec's form, but scattered: only in order must its entries follow one another. */
  #table(elements: readonly Element[]): number {
    const count = elements.length;
    const gpa = this.#arena.take(16 * count);
    const place = (i: number): number => (this.config.inOrder === true || i === 0 ? i : count - i);
    elements.forEach((element, i) => {
      const next = i + 1 < count ? place(i + 1) : undefined;
      this.ring.setDescriptor(gpa, place(i), direct(element, next));
    });
    return gpa;
  }
}

/** A device of a split virtqueue. */
export class RawSplitDevice implements RawDevice {
  readonly ring: RawSplitRing;
  #seenAvail: number;
  #judgedAvail: number;

  constructor(memory: TestMemory, config: QueueConfig, start = 0) {
    this.ring = new RawSplitRing(memory, config);
    this.#seenAvail = this.#judgedAvail = start;
  }

  get config(): QueueConfig {
    return this.ring.config;
  }

  take(): RawChain[] {
    assertRule(this.ring.availFlags <= (this.config.eventIdx === true ? 0 : 1), "avail.flags is 0 or 1");
    const chains: RawChain[] = [];
    for (; this.#seenAvail !== this.ring.availIdx; this.#seenAvail = (this.#seenAvail + 1) & 0xffff) {
      const token = this.ring.getAvail(this.#seenAvail);
      const elements = this.#walk(token);
      const firstWritable = elements.findIndex((element) => element.writable);
      const framed = firstWritable < 0 || elements.slice(firstWritable).every((element) => element.writable);
      assertRule(framed, "device-writable elements come last");
      assertRule(elements.length <= this.config.size, "no chain is longer than the Queue Size");
      chains.push({ token, elements });
    }
    return chains;
  }

  use(used: readonly { readonly token: number; readonly written: number }[], once = false): boolean {
    const old = this.ring.usedIdx;
    const last = used.at(-1);
    if (once && last !== undefined) this.ring.setUsed(old, last.token, last.written);
    else used.forEach(({ token, written }, i) => this.ring.setUsed((old + i) & 0xffff, token, written));
    this.ring.usedIdx = old + used.length;
    if (used.length === 0) return false;
    if (this.config.eventIdx !== true) return (this.ring.availFlags & 1) === 0;
    return between(old, this.ring.usedIdx, this.ring.usedEvent);
  }

  wantNotifications(want: boolean): void {
    if (this.config.eventIdx === true) this.ring.availEvent = want ? this.#seenAvail : this.#seenAvail - 1;
    else this.ring.usedFlags = want ? 0 : 1;
  }

  notificationDue(chains: readonly RawChain[]): boolean {
    const old = this.#judgedAvail;
    this.#judgedAvail = (old + chains.length) & 0xffff;
    if (chains.length === 0) return false;
    if (this.config.eventIdx !== true) return this.ring.usedFlags === 0;
    return between(old, this.#judgedAvail, this.ring.availEvent);
  }

  #walk(head: number): Element[] {
    const { descriptorArea, size, inOrder } = this.config;
    const elements: Element[] = [];
    for (let index = head; ;) {
      const { addr, len, flags, next } = this.ring.getDescriptor(descriptorArea, index);
      const hasNext = (flags & NEXT) !== 0;
      if ((flags & INDIRECT) !== 0) {
        assertRule(this.config.indirect === true, "INDIRECT only with VIRTIO_F_INDIRECT_DESC");
        assertRule(!hasNext && len > 0 && len % 16 === 0, "a table ends its chain and has whole entries");
        return [...elements, ...this.#table(Number(addr), len / 16)];
      }
      elements.push({ gpa: Number(addr), length: len, writable: (flags & WRITE) !== 0 });
      if (!hasNext) return elements;
      assertRule(next < size && elements.length < size, "next stays in the table, without loops");
      assertRule(inOrder !== true || next === (index + 1) % size, "in order, next follows");
      index = next;
    }
  }

  #table(gpa: number, entries: number): Element[] {
    const elements: Element[] = [];
    for (let index = 0; ;) {
      const { addr, len, flags, next } = this.ring.getDescriptor(gpa, index);
      assertRule((flags & INDIRECT) === 0, "no table in a table");
      elements.push({ gpa: Number(addr), length: len, writable: (flags & WRITE) !== 0 });
      if ((flags & NEXT) === 0) return elements;
      assertRule(next < entries && elements.length < entries, "next stays in the table, without loops");
      assertRule(this.config.inOrder !== true || next === index + 1, "in order, next follows");
      index = next;
    }
  }
}

function assertRule(holds: boolean, rule: string): void {
  if (!holds) throw new Error(`the driver broke a rule: ${rule}`);
}

function direct(element: Element, next: number | undefined): RawDescriptor {
  const flags = (element.writable ? WRITE : 0) | (next === undefined ? 0 : NEXT);
  // A `next` without NEXT means nothing: make it tempting.
  return { addr: BigInt(element.gpa), len: element.length, flags, next: next ?? 0xffff };
}

/** Whether an index that moved from `old` to `now` was equal to `event` when an entry was placed. */
function between(old: number, now: number, event: number): boolean {
  for (let idx = old; idx !== now; idx = (idx + 1) & 0xffff) if (idx === event) return true;
  return false;
}
