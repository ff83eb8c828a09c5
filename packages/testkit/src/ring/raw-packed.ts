import type { QueueConfig } from "virtio/virtqueue/types";
import type { Element, OfferOptions, RawChain, RawDescriptor, RawDevice, RawDriver, RawUsed } from "./raw.ts";
import type { Arena, TestMemory } from "./test-memory.ts";

const NEXT = 1;
const WRITE = 2;
const INDIRECT = 4;
const AVAIL = 1 << 7;
const USED = 1 << 15;

/** Values of `desc_event_flags`. */
const ENABLE = 0;
const DISABLE = 1;
const DESC = 2;

/** A place in the ring with the wrap counter that holds there. */
export interface Position {
  readonly offset: number;
  readonly wrap: boolean;
}

/** As save and restore carry it: wrap counter in bit 15. */
export function positionFromState(state: number): Position {
  return { offset: state & 0x7fff, wrap: (state & 0x8000) !== 0 };
}

/** Where the parts of a packed virtqueue lie, and nothing more. */
export class RawPackedRing {
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
    this.memory.set16(at + 12, descriptor.next);
    this.memory.set16(at + 14, descriptor.flags);
  }

  getDescriptor(table: number, index: number): RawDescriptor {
    const at = table + 16 * index;
    return {
      addr: this.memory.get64(at),
      len: this.memory.get32(at + 8),
      next: this.memory.get16(at + 12),
      flags: this.memory.get16(at + 14),
    };
  }

  /** Event suppression structures: { off_wrap, flags }. */
  get driverEvent(): { desc: number; flags: number } {
    return {
      desc: this.memory.get16(this.config.driverArea),
      flags: this.memory.get16(this.config.driverArea + 2),
    };
  }
  set driverEvent({ desc, flags }: { desc: number; flags: number }) {
    this.memory.set16(this.config.driverArea, desc);
    this.memory.set16(this.config.driverArea + 2, flags);
  }
  get deviceEvent(): { desc: number; flags: number } {
    return {
      desc: this.memory.get16(this.config.deviceArea),
      flags: this.memory.get16(this.config.deviceArea + 2),
    };
  }
  set deviceEvent({ desc, flags }: { desc: number; flags: number }) {
    this.memory.set16(this.config.deviceArea, desc);
    this.memory.set16(this.config.deviceArea + 2, flags);
  }

  advance({ offset, wrap }: Position, count: number): Position {
    const next = offset + count;
    return next < this.config.size
      ? { offset: next, wrap }
      : { offset: next - this.config.size, wrap: !wrap };
  }

  /** Whether `event` (off_wrap) lies among `count` entries from `start` on. */
  passes(event: number, start: Position, count: number): boolean {
    for (let i = 0; i < count; i++) {
      const { offset, wrap } = this.advance(start, i);
      if (event === (offset | (wrap ? 0x8000 : 0))) return true;
    }
    return false;
  }

  /** Whether an event suppression structure asks for a notification about `count` entries from `start` on. */
  due({ desc, flags }: { desc: number; flags: number }, start: Position, count: number): boolean {
    if (count === 0) return false;
    switch (flags & 3) {
      case ENABLE:
        return true;
      case DESC:
        return this.passes(desc, start, count);
      default:
        return false;
    }
  }
}

interface Outstanding {
  readonly id: number;
  readonly slots: number;
}

const START: Position = { offset: 0, wrap: true };

/** A driver of a packed virtqueue. Its buffer ids have nothing to do with places in the ring. */
export class RawPackedDriver implements RawDriver {
  readonly ring: RawPackedRing;
  readonly #arena: Arena;
  readonly #ids: number[];
  readonly #outstanding: Outstanding[] = [];
  #free: number;
  #next: Position;
  #published: Position;
  #unpublished: { position: Position; flags: number; slots: number }[] = [];
  #seenUsed: Position;
  #judgedUsed: Position;
  readonly #slotsOf = new Map<number, number>();

  constructor(memory: TestMemory, config: QueueConfig, arena: Arena, start: Position = START) {
    this.ring = new RawPackedRing(memory, config);
    this.#arena = arena;
    this.#free = config.size;
    this.#ids = Array.from({ length: config.size }, (_, i) => (i + 7) % config.size);
    this.#next = this.#published = this.#seenUsed = this.#judgedUsed = start;
    for (let i = 0; i < config.size; i++) {
      // As the lap before left it: used, by both wrap counters of that lap.
      const wrap = i < start.offset ? start.wrap : !start.wrap;
      const descriptor = { addr: 0n, len: 0, next: 0, flags: wrap ? AVAIL | USED : 0 };
      this.ring.setDescriptor(config.descriptorArea, i, descriptor);
    }
  }

  get config(): QueueConfig {
    return this.ring.config;
  }

  get free(): number {
    return this.#free;
  }

  /** What VIRTIO_F_NOTIFICATION_DATA must carry: next_off and next_wrap. */
  get notificationData(): number {
    return this.#published.offset | (this.#published.wrap ? 0x8000 : 0);
  }

  cost(elements: readonly Element[], { directBefore = elements.length }: OfferOptions = {}): number {
    return directBefore < elements.length ? 1 : elements.length;
  }

  /** A packed list is all direct or all in one table: any `directBefore` below the number of elements is a table. */
  offer(elements: readonly Element[], options: OfferOptions = {}): number | undefined {
    const slots = this.cost(elements, options);
    const id = this.#ids[0];
    if (slots > this.#free || id === undefined) return undefined;
    this.#ids.shift();
    const indirect = (options.directBefore ?? elements.length) < elements.length;
    const descriptors = indirect ? [this.#table(elements, options)] : elements.map(direct);
    const start = this.#next;
    descriptors.forEach(({ addr, len, flags }, i) => {
      const position = this.ring.advance(start, i);
      const last = i === descriptors.length - 1;
      const bits = flags | (last ? 0 : NEXT) | (position.wrap ? AVAIL : USED);
      // The id counts in the last descriptor only; the flags of the first are written when it is published.
      const old = this.ring.getDescriptor(this.config.descriptorArea, position.offset).flags;
      const now = { addr, len, next: last ? id : 0xffff, flags: i === 0 ? old : bits };
      this.ring.setDescriptor(this.config.descriptorArea, position.offset, now);
      if (i === 0) this.#unpublished.push({ position, flags: bits, slots });
    });
    this.#next = this.ring.advance(start, slots);
    this.#free -= slots;
    this.#outstanding.push({ id, slots });
    this.#slotsOf.set(id, slots);
    return id;
  }

  publish(): boolean {
    const start = this.#published;
    const slots = this.#unpublished.reduce((sum, entry) => sum + entry.slots, 0);
    for (const { position, flags } of this.#unpublished.reverse())
      this.ring.memory.set16(this.config.descriptorArea + 16 * position.offset + 14, flags);
    this.#unpublished = [];
    this.#published = this.#next;
    return this.ring.due(this.ring.deviceEvent, start, slots);
  }

  collect(): RawUsed[] {
    const used: RawUsed[] = [];
    for (;;) {
      const { offset, wrap } = this.#seenUsed;
      const { len, next: id, flags } = this.ring.getDescriptor(this.config.descriptorArea, offset);
      const isUsed = ((flags & AVAIL) !== 0) === wrap && ((flags & USED) !== 0) === wrap;
      if (!isUsed || this.#outstanding.length === 0) return used;
      const at = this.#outstanding.findIndex((chain) => chain.id === id);
      if (at < 0) throw new Error(`the device used ${id}, which it does not have`);
      const skipped = this.config.inOrder === true ? at : 0;
      const batch = this.#outstanding.splice(at - skipped, skipped + 1);
      batch.forEach((chain, i) => {
        this.#free += chain.slots;
        this.#ids.push(chain.id);
        this.#seenUsed = this.ring.advance(this.#seenUsed, chain.slots);
        const written = (flags & WRITE) === 0 ? 0 : len;
        used.push({ token: chain.id, written: i === batch.length - 1 ? written : undefined });
      });
    }
  }

  wantNotifications(want: boolean, at = 0): void {
    if (!want) this.ring.driverEvent = { desc: 0, flags: DISABLE };
    else if (this.config.eventIdx === true) {
      const { offset, wrap } = this.ring.advance(this.#judgedUsed, at % this.config.size);
      this.ring.driverEvent = { desc: offset | (wrap ? 0x8000 : 0), flags: DESC };
    } else this.ring.driverEvent = { desc: 0, flags: ENABLE };
  }

  notificationDue(tokens: readonly number[]): boolean {
    const start = this.#judgedUsed;
    const slots = tokens.reduce((sum, token) => sum + (this.#slotsOf.get(token) ?? 0), 0);
    this.#judgedUsed = this.ring.advance(start, slots);
    return this.ring.due(this.ring.driverEvent, start, slots);
  }

  /** Everything but WRITE is reserved in a table, and must be ignored: here it is all set. */
  #table(elements: readonly Element[], options: OfferOptions): RawDescriptor {
    const gpa = this.#arena.take(16 * elements.length);
    const reserved = AVAIL | USED;
    elements.forEach((element, i) => {
      const { addr, len, flags } = direct(element);
      this.ring.setDescriptor(gpa, i, { addr, len, flags: flags | reserved, next: 0xfffe });
    });
    const flags = INDIRECT | (options.writeFlagOnTable === true ? WRITE : 0);
    return { addr: BigInt(gpa), len: 16 * elements.length, flags, next: 0 };
  }
}

/** A device of a packed virtqueue. */
export class RawPackedDevice implements RawDevice {
  readonly ring: RawPackedRing;
  #next: Position;
  #judged: Position;
  #used: Position;
  readonly #slots = new Map<number, number>();

  constructor(memory: TestMemory, config: QueueConfig, start: Position = START) {
    this.ring = new RawPackedRing(memory, config);
    this.#next = this.#judged = this.#used = start;
  }

  get config(): QueueConfig {
    return this.ring.config;
  }

  take(): RawChain[] {
    const { flags } = this.ring.driverEvent;
    assertRule(
      flags <= (this.config.eventIdx === true ? DESC : DISABLE),
      "event flags are known, and DESC needs EVENT_IDX",
    );
    const chains: RawChain[] = [];
    while (this.#isAvailable(this.#next)) chains.push(this.#takeList());
    return chains;
  }

  use(used: readonly { readonly token: number; readonly written: number }[], once = false): boolean {
    const start = this.#used;
    let total = 0;
    for (const { token, written } of used) {
      if (!once) this.#mark(token, written);
      const slots = this.#slots.get(token) ?? 0;
      total += slots;
      if (!once) this.#used = this.ring.advance(this.#used, slots);
    }
    const last = used.at(-1);
    if (once && last !== undefined) {
      this.#mark(last.token, last.written);
      this.#used = this.ring.advance(start, total);
    }
    return this.ring.due(this.ring.driverEvent, start, total);
  }

  #mark(token: number, written: number): void {
    const { offset, wrap } = this.#used;
    const flags = (wrap ? AVAIL | USED : 0) | (written > 0 ? WRITE : 0);
    this.ring.setDescriptor(this.config.descriptorArea, offset, {
      addr: 0n,
      len: written,
      next: token,
      flags,
    });
  }

  #takeList(): RawChain {
    const { size, descriptorArea } = this.config;
    const start = this.#next;
    const elements: Element[] = [];
    for (let slots = 1; ; slots++) {
      assertRule(slots <= size, "no list is longer than the Queue Size");
      const position = this.ring.advance(start, slots - 1);
      const { addr, len, flags, next } = this.ring.getDescriptor(descriptorArea, position.offset);
      assertRule(this.#isAvailable(position), "the first descriptor is made available last");
      if ((flags & INDIRECT) !== 0) {
        assertRule(this.config.indirect === true, "INDIRECT only with VIRTIO_F_INDIRECT_DESC");
        assertRule(slots === 1 && (flags & NEXT) === 0, "no table in a list");
        assertRule(len > 0 && len % 16 === 0, "a table has whole entries");
        elements.push(...this.#table(Number(addr), len / 16));
      } else elements.push({ gpa: Number(addr), length: len, writable: (flags & WRITE) !== 0 });
      if ((flags & NEXT) !== 0) continue;
      const firstWritable = elements.findIndex((element) => element.writable);
      const framed = firstWritable < 0 || elements.slice(firstWritable).every((element) => element.writable);
      assertRule(framed, "device-writable elements come last");
      this.#next = this.ring.advance(start, slots);
      this.#slots.set(next, slots);
      return { token: next, elements };
    }
  }

  wantNotifications(want: boolean): void {
    if (!want) this.ring.deviceEvent = { desc: 0, flags: DISABLE };
    else if (this.config.eventIdx === true) {
      const { offset, wrap } = this.#next;
      this.ring.deviceEvent = { desc: offset | (wrap ? 0x8000 : 0), flags: DESC };
    } else this.ring.deviceEvent = { desc: 0, flags: ENABLE };
  }

  notificationDue(chains: readonly RawChain[]): boolean {
    const start = this.#judged;
    const slots = chains.reduce((sum, { token }) => sum + (this.#slots.get(token) ?? 0), 0);
    this.#judged = this.ring.advance(start, slots);
    return this.ring.due(this.ring.deviceEvent, start, slots);
  }

  #isAvailable({ offset, wrap }: Position): boolean {
    const { flags } = this.ring.getDescriptor(this.config.descriptorArea, offset);
    return ((flags & AVAIL) !== 0) === wrap && ((flags & USED) !== 0) === !wrap;
  }

  #table(gpa: number, count: number): Element[] {
    return Array.from({ length: count }, (_, i) => {
      const { addr, len, flags } = this.ring.getDescriptor(gpa, i);
      assertRule((flags & ~WRITE) === 0, "no flag but WRITE in a table");
      return { gpa: Number(addr), length: len, writable: (flags & WRITE) !== 0 };
    });
  }
}

function assertRule(holds: boolean, rule: string): void {
  if (!holds) throw new Error(`the driver broke a rule: ${rule}`);
}

function direct(element: Element): RawDescriptor {
  return { addr: BigInt(element.gpa), len: element.length, flags: element.writable ? WRITE : 0, next: 0 };
}
