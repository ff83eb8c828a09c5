import { VirtioFault } from "../fault.ts";
import type { GuestMemory, Segment } from "../memory/guest-memory.ts";
import {
  RING_EVENT_FLAGS_DESC,
  RING_EVENT_FLAGS_DISABLE,
  RING_EVENT_FLAGS_ENABLE,
  VIRTQ_DESC_F_AVAIL,
  VIRTQ_DESC_F_INDIRECT,
  VIRTQ_DESC_F_NEXT,
  VIRTQ_DESC_F_USED,
  VIRTQ_DESC_F_WRITE,
} from "../spec/virtqueue.ts";
import { areaBytes, halves, words } from "./area.ts";
import { slotsFor, type IndirectTables } from "./indirect-tables.ts";
import { passesPackedEvent } from "./packed-event.ts";
import { isQueueSize, packPosition } from "./state.ts";
import type { DriverQueue, QueueConfig } from "./types.ts";

const AVAIL_AND_USED = VIRTQ_DESC_F_AVAIL | VIRTQ_DESC_F_USED;
const FLAGS = 7;

/** Driver side of a packed virtqueue. Section "Packed Virtqueues". */
export class PackedDriverQueue implements DriverQueue {
  readonly config: QueueConfig;
  readonly #memory: GuestMemory;
  readonly #tables: IndirectTables | undefined;
  #epoch = -1;
  #descriptors: Uint32Array = new Uint32Array(0);
  #flags: Uint16Array = new Uint16Array(0);
  #driver: Uint32Array = new Uint32Array(0);
  #device: Uint32Array = new Uint32Array(0);
  #free: number;
  /** Free buffer ids, a stack. */
  readonly #freeIds: Uint16Array;
  #freeIdCount: number;
  /** Of a buffer id: ring slots it took (0: not offered) and its device-writable bytes. */
  readonly #slots: Uint16Array;
  readonly #writable: Float64Array;
  /** Ids in the order they were offered, for IN_ORDER; a ring with `#offeredCount` entries. */
  readonly #offered: Uint16Array;
  #offeredHead = 0;
  #offeredCount = 0;
  #next = 0;
  #wrap = true;
  #used = 0;
  #usedWrap = true;
  /** The staged batch: its first flags are written last. */
  #batchStart = 0;
  #batchFlags = 0;
  #batchSlots = 0;
  /** IN_ORDER: a used batch being handed out. */
  #inBatch = false;
  #batchEnd = 0;
  #batchWritten = 0;
  readonly #result = { token: 0, written: 0 };

  /** The areas must be zeroed memory. Throws a VirtioFault when one is misaligned or not in memory. */
  constructor(memory: GuestMemory, config: QueueConfig, tables?: IndirectTables) {
    if (!isQueueSize(config.size, true)) throw new RangeError(`Queue Size ${config.size} is out of range`);
    this.#memory = memory;
    this.config = config;
    this.#tables = config.indirect === true ? tables : undefined;
    this.#free = config.size;
    this.#freeIds = Uint16Array.from({ length: config.size }, (_, index) => config.size - 1 - index);
    this.#freeIdCount = config.size;
    this.#slots = new Uint16Array(config.size);
    this.#writable = new Float64Array(config.size);
    this.#offered = new Uint16Array(config.size);
    this.#refresh();
  }

  get free(): number {
    return this.#free;
  }

  get notificationData(): number {
    return packPosition(this.#next, this.#wrap);
  }

  addAvailable(readable: readonly Segment[], writable: readonly Segment[]): number | undefined {
    if (this.#memory.epoch !== this.#epoch) this.#refresh();
    const segments = readable.length + writable.length;
    const slots = slotsFor(segments, this.config.size, this.#tables);
    if (slots === 0 || slots > this.#free) return undefined;
    const id = this.#freeIds[--this.#freeIdCount] ?? 0;
    this.#slots[id] = slots;
    let total = 0;
    for (let i = 0; i < writable.length; i++) total += writable[i]?.length ?? 0;
    this.#writable[id] = total;
    this.#offered[(this.#offeredHead + this.#offeredCount++) % this.config.size] = id;
    if (slots === segments) {
      for (let i = 0; i < segments; i++) {
        const isReadable = i < readable.length;
        const segment = isReadable ? readable[i] : writable[i - readable.length];
        const flags = (isReadable ? 0 : VIRTQ_DESC_F_WRITE) | (i + 1 < segments ? VIRTQ_DESC_F_NEXT : 0);
        this.#put(segment?.gpa ?? 0, segment?.length ?? 0, id, flags);
      }
    } else this.#putIndirect(readable, writable, id);
    return id;
  }

  popUsed(): { readonly token: number; readonly written: number } | undefined {
    if (this.#memory.epoch !== this.#epoch) this.#refresh();
    if (!this.#inBatch && !this.#readUsed()) return undefined;
    const end = this.#batchEnd;
    const id = this.config.inOrder === true ? (this.#offered[this.#offeredHead] ?? 0) : end;
    const most = this.#writable[id] ?? 0;
    const written = id === end ? Math.min(this.#batchWritten, most) : most;
    if (id === end) this.#inBatch = false;
    const slots = this.#slots[id] ?? 0;
    this.#slots[id] = 0;
    this.#freeIds[this.#freeIdCount++] = id;
    this.#free += slots;
    this.#offeredHead = (this.#offeredHead + 1) % this.config.size;
    this.#offeredCount--;
    this.#used += slots;
    if (this.#used >= this.config.size) {
      this.#used -= this.config.size;
      this.#usedWrap = !this.#usedWrap;
    }
    this.#result.token = id;
    this.#result.written = written;
    return this.#result;
  }

  takeNotification(): boolean {
    const slots = this.#batchSlots;
    if (slots === 0) return false;
    if (this.#memory.epoch !== this.#epoch) this.#refresh();
    Atomics.store(this.#flags, this.#batchStart * 8 + FLAGS, this.#batchFlags);
    this.#batchSlots = 0;
    const event = Atomics.load(this.#device, 0);
    const mode = (event >>> 16) & 3;
    if (mode === RING_EVENT_FLAGS_DESC && this.config.eventIdx === true)
      return passesPackedEvent(event & 0xffff, this.#next, this.#wrap, slots, this.config.size);
    return mode !== RING_EVENT_FLAGS_DISABLE;
  }

  setNotifications(on: boolean): boolean {
    if (this.#memory.epoch !== this.#epoch) this.#refresh();
    let event = RING_EVENT_FLAGS_DISABLE << 16;
    if (on && this.config.eventIdx === true)
      event = (RING_EVENT_FLAGS_DESC << 16) | packPosition(this.#used, this.#usedWrap);
    else if (on) event = RING_EVENT_FLAGS_ENABLE << 16;
    Atomics.store(this.#driver, 0, event);
    // In the middle of a batch the rest of it is waiting, although its slots do not say so.
    return on && (this.#inBatch || this.#isUsed());
  }

  /** Used is AVAIL and USED both equal to the wrap counter; a slot that was not offered is never looked at. */
  #isUsed(): boolean {
    if (this.#offeredCount === 0) return false;
    const flags = Atomics.load(this.#flags, this.#used * 8 + FLAGS);
    return (flags & AVAIL_AND_USED) === (this.#usedWrap ? AVAIL_AND_USED : 0);
  }

  #readUsed(): boolean {
    if (!this.#isUsed()) return false;
    const id = (this.#descriptors[this.#used * 4 + 3] ?? 0) & 0xffff;
    if (id >= this.config.size || this.#slots[id] === 0)
      this.#reject("dev.packed.desc", "used id names no buffer that was made available", id);
    this.#inBatch = true;
    this.#batchEnd = id;
    // The length is only defined with VIRTQ_DESC_F_WRITE, but QEMU's devices never set that flag in a used descriptor.
    this.#batchWritten = this.#descriptors[this.#used * 4 + 2] ?? 0;
    return true;
  }

  #put(gpa: number, length: number, id: number, flags: number): void {
    const slot = this.#next;
    writePackedDescriptor(this.#descriptors, slot, gpa, length);
    this.#flags[slot * 8 + FLAGS - 1] = id;
    const full = flags | (this.#wrap ? VIRTQ_DESC_F_AVAIL : VIRTQ_DESC_F_USED);
    if (this.#batchSlots === 0) {
      this.#batchStart = slot;
      this.#batchFlags = full;
    } else this.#flags[slot * 8 + FLAGS] = full;
    this.#batchSlots++;
    this.#free--;
    if (++this.#next === this.config.size) {
      this.#next = 0;
      this.#wrap = !this.#wrap;
    }
  }

  #putIndirect(readable: readonly Segment[], writable: readonly Segment[], id: number): void {
    const tables = this.#tables;
    if (tables === undefined) throw new Error("no memory for indirect tables");
    const count = readable.length + writable.length;
    const gpa = tables.gpa + id * tables.entries * 16;
    const table = words(this.#memory.view(gpa, count * 16));
    for (let i = 0; i < count; i++) {
      const isReadable = i < readable.length;
      const segment = isReadable ? readable[i] : writable[i - readable.length];
      writePackedDescriptor(table, i, segment?.gpa ?? 0, segment?.length ?? 0);
      table[i * 4 + 3] = isReadable ? 0 : VIRTQ_DESC_F_WRITE << 16;
    }
    this.#put(gpa, count * 16, id, VIRTQ_DESC_F_INDIRECT);
  }

  #refresh(): void {
    const { index, size, descriptorArea, driverArea, deviceArea } = this.config;
    const area = (name: string, gpa: number, length: number, alignment: number): Uint8Array =>
      areaBytes(this.#memory, index, { name, gpa, length, alignment }, "drv.packed.layout");
    const descriptors = area("descriptor", descriptorArea, 16 * size, 16);
    this.#descriptors = words(descriptors);
    this.#flags = halves(descriptors);
    this.#driver = words(area("driver", driverArea, 4, 4));
    this.#device = words(area("device", deviceArea, 4, 4));
    this.#epoch = this.#memory.epoch;
  }

  #reject(clause: string, rule: string, value: number): never {
    throw new VirtioFault(clause, rule, { queue: this.config.index, value });
  }
}

/** Address and length; id and flags are written apart. */
function writePackedDescriptor(table: Uint32Array, index: number, gpa: number, length: number): void {
  const at = index * 4;
  table[at] = gpa;
  table[at + 1] = gpa / 0x1_0000_0000;
  table[at + 2] = length;
}
