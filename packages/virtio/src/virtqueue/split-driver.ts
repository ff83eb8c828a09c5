import { VirtioFault } from "../fault.ts";
import type { GuestMemory, Segment } from "../memory/guest-memory.ts";
import {
  VIRTQ_AVAIL_F_NO_INTERRUPT,
  VIRTQ_DESC_F_INDIRECT,
  VIRTQ_DESC_F_NEXT,
  VIRTQ_DESC_F_WRITE,
  VIRTQ_USED_F_NO_NOTIFY,
} from "../spec/virtqueue.ts";
import { areaBytes, halves, passesEvent, words } from "./area.ts";
import { slotsFor, type IndirectTables } from "./indirect-tables.ts";
import { splitDescriptorBytes, splitDeviceBytes, splitDriverBytes } from "./split-layout.ts";
import { isQueueSize } from "./state.ts";
import type { DriverQueue, QueueConfig } from "./types.ts";

const FLAGS = 0;
const IDX = 1;
const RING = 2;
const NONE = -1;

/**
 * Driver side of a split virtqueue. What it needs to remember it keeps in arrays of its own: nothing that the device
 * could have written is ever read back as a descriptor index. Section "Split Virtqueues".
 */
export class SplitDriverQueue implements DriverQueue {
  readonly config: QueueConfig;
  readonly #memory: GuestMemory;
  readonly #tables: IndirectTables | undefined;
  readonly #mask: number;
  #epoch = -1;
  #descriptors: Uint32Array = new Uint32Array(0);
  #driver: Uint16Array = new Uint16Array(0);
  #device: Uint16Array = new Uint16Array(0);
  #used: Uint32Array = new Uint32Array(0);
  /** Free descriptors as a ring of indexes: IN_ORDER needs them handed out in table order. */
  readonly #freeRing: Uint16Array;
  #freeHead = 0;
  #free: number;
  /** Of a chain's head: how many ring descriptors it took (0: not offered), and its device-writable bytes. */
  readonly #slots: Uint16Array;
  readonly #writable: Float64Array;
  /** `next` of each descriptor in use, our own copy. */
  readonly #nextOf: Int32Array;
  /** Heads in the order they were offered, for IN_ORDER. */
  readonly #offered: Uint16Array;
  #offeredHead = 0;
  #nextAvailable = 0;
  #publishedAvailable = 0;
  #nextUsed = 0;
  /** IN_ORDER: the head that ends the batch being handed out, or NONE. */
  #batchEnd = NONE;
  #batchWritten = 0;
  readonly #result = { token: 0, written: 0 };

  /** The areas must be zeroed memory. Throws a VirtioFault when one is misaligned or not in memory. */
  constructor(memory: GuestMemory, config: QueueConfig, tables?: IndirectTables) {
    if (!isQueueSize(config.size, false))
      throw new RangeError(`Queue Size ${config.size} is not a power of two`);
    this.#memory = memory;
    this.config = config;
    this.#tables = config.indirect === true ? tables : undefined;
    this.#mask = config.size - 1;
    this.#free = config.size;
    this.#freeRing = Uint16Array.from({ length: config.size }, (_, index) => index);
    this.#slots = new Uint16Array(config.size);
    this.#writable = new Float64Array(config.size);
    this.#nextOf = new Int32Array(config.size).fill(NONE);
    this.#offered = new Uint16Array(config.size);
    this.#refresh();
  }

  get free(): number {
    return this.#free;
  }

  get notificationData(): number {
    return this.#nextAvailable;
  }

  addAvailable(readable: readonly Segment[], writable: readonly Segment[]): number | undefined {
    if (this.#memory.epoch !== this.#epoch) this.#refresh();
    const segments = readable.length + writable.length;
    const slots = slotsFor(segments, this.config.size, this.#tables);
    if (slots === 0 || slots > this.#free) return undefined;
    const head = slots === segments ? this.#direct(readable, writable) : this.#indirect(readable, writable);
    this.#slots[head] = slots;
    this.#writable[head] = totalLength(writable);
    const at = this.#nextAvailable & this.#mask;
    this.#driver[RING + at] = head;
    this.#offered[at] = head;
    this.#nextAvailable = (this.#nextAvailable + 1) & 0xffff;
    return head;
  }

  popUsed(): { readonly token: number; readonly written: number } | undefined {
    if (this.#memory.epoch !== this.#epoch) this.#refresh();
    if (this.#batchEnd === NONE && !this.#readUsed()) return undefined;
    const end = this.#batchEnd;
    const head = this.config.inOrder === true ? (this.#offered[this.#offeredHead & this.#mask] ?? 0) : end;
    const most = this.#writable[head] ?? 0;
    // Of a batch only the last length is told; "the skipped buffers are assumed to have been used completely".
    const written = head === end ? Math.min(this.#batchWritten, most) : most;
    if (head === end) this.#batchEnd = NONE;
    this.#release(head);
    this.#offeredHead = (this.#offeredHead + 1) & 0xffff;
    this.#nextUsed = (this.#nextUsed + 1) & 0xffff;
    this.#result.token = head;
    this.#result.written = written;
    return this.#result;
  }

  takeNotification(): boolean {
    const old = this.#publishedAvailable;
    const now = this.#nextAvailable;
    if (old === now) return false;
    if (this.#memory.epoch !== this.#epoch) this.#refresh();
    // "A suitable memory barrier before the idx update", and one before the flags are read: both are this store.
    Atomics.store(this.#driver, IDX, now);
    this.#publishedAvailable = now;
    if (this.config.eventIdx === true)
      return passesEvent(Atomics.load(this.#device, RING + 4 * this.config.size), now, old);
    return (Atomics.load(this.#device, FLAGS) & VIRTQ_USED_F_NO_NOTIFY) === 0;
  }

  setNotifications(on: boolean): boolean {
    if (this.#memory.epoch !== this.#epoch) this.#refresh();
    if (this.config.eventIdx === true) {
      if (on) Atomics.store(this.#driver, RING + this.config.size, this.#nextUsed);
    } else Atomics.store(this.#driver, FLAGS, on ? 0 : VIRTQ_AVAIL_F_NO_INTERRUPT);
    return on && Atomics.load(this.#device, IDX) !== this.#nextUsed;
  }

  /** Looks at the next used element; true when a chain can be handed out. */
  #readUsed(): boolean {
    const idx = Atomics.load(this.#device, IDX);
    const ready = (idx - this.#nextUsed) & 0xffff;
    if (ready === 0) return false;
    const outstanding = (this.#publishedAvailable - this.#nextUsed) & 0xffff;
    if (ready > outstanding)
      this.#reject("dev.split.used", "used idx is ahead of what was made available", idx);
    const at = 2 * (this.#nextUsed & this.#mask);
    const id = this.#used[at] ?? 0;
    if (id >= this.config.size || this.#slots[id] === 0)
      this.#reject("dev.split.used", "used id names no buffer that was made available", id);
    this.#batchEnd = id;
    this.#batchWritten = this.#used[at + 1] ?? 0;
    if (this.config.inOrder === true) this.#checkBatch(id, ready);
    return true;
  }

  /** The last buffer of an in-order batch must be among the `ready` oldest. */
  #checkBatch(id: number, ready: number): void {
    for (let i = 0; i < ready; i++) if (this.#offered[(this.#offeredHead + i) & this.#mask] === id) return;
    this.#batchEnd = NONE;
    this.#reject("dev.core.reserved-features", "buffers used out of order under VIRTIO_F_IN_ORDER", id);
  }

  #direct(readable: readonly Segment[], writable: readonly Segment[]): number {
    const count = readable.length + writable.length;
    let head = NONE;
    let previous = NONE;
    for (let i = 0; i < count; i++) {
      const index = this.#takeFree();
      const segment = i < readable.length ? readable[i] : writable[i - readable.length];
      const flags = (i < readable.length ? 0 : VIRTQ_DESC_F_WRITE) | (i + 1 < count ? VIRTQ_DESC_F_NEXT : 0);
      const next = i + 1 < count ? (this.#freeRing[this.#freeHead & this.#mask] ?? 0) : 0;
      this.#write(index, segment?.gpa ?? 0, segment?.length ?? 0, flags | (next << 16));
      if (previous === NONE) head = index;
      else this.#nextOf[previous] = index;
      previous = index;
    }
    this.#nextOf[previous] = NONE;
    return head;
  }

  #indirect(readable: readonly Segment[], writable: readonly Segment[]): number {
    const tables = this.#tables;
    if (tables === undefined) throw new Error("no memory for indirect tables");
    const head = this.#takeFree();
    const count = readable.length + writable.length;
    const gpa = tables.gpa + head * tables.entries * 16;
    const table = words(this.#memory.view(gpa, count * 16));
    for (let i = 0; i < count; i++) {
      const segment = i < readable.length ? readable[i] : writable[i - readable.length];
      const flags = (i < readable.length ? 0 : VIRTQ_DESC_F_WRITE) | (i + 1 < count ? VIRTQ_DESC_F_NEXT : 0);
      writeDescriptor(
        table,
        i,
        segment?.gpa ?? 0,
        segment?.length ?? 0,
        flags | ((i + 1 < count ? i + 1 : 0) << 16),
      );
    }
    this.#write(head, gpa, count * 16, VIRTQ_DESC_F_INDIRECT);
    this.#nextOf[head] = NONE;
    return head;
  }

  #write(index: number, gpa: number, length: number, tail: number): void {
    writeDescriptor(this.#descriptors, index, gpa, length, tail);
  }

  #takeFree(): number {
    const index = this.#freeRing[this.#freeHead & this.#mask] ?? 0;
    this.#freeHead = (this.#freeHead + 1) & 0xffff;
    this.#free--;
    return index;
  }

  #release(head: number): void {
    this.#slots[head] = 0;
    for (let index = head; index !== NONE; index = this.#nextOf[index] ?? NONE) {
      this.#freeRing[(this.#freeHead + this.#free) & this.#mask] = index;
      this.#free++;
    }
  }

  #refresh(): void {
    const { index, size, descriptorArea, driverArea, deviceArea } = this.config;
    const area = (name: string, gpa: number, length: number, alignment: number): Uint8Array =>
      areaBytes(this.#memory, index, { name, gpa, length, alignment }, "drv.split.layout");
    this.#descriptors = words(area("descriptor", descriptorArea, splitDescriptorBytes(size), 16));
    this.#driver = halves(area("driver", driverArea, splitDriverBytes(size), 2));
    const device = area("device", deviceArea, splitDeviceBytes(size), 4);
    this.#device = halves(device);
    this.#used = words(device.subarray(4, 4 + 8 * size));
    this.#epoch = this.#memory.epoch;
  }

  #reject(clause: string, rule: string, value: number): never {
    throw new VirtioFault(clause, rule, { queue: this.config.index, value });
  }
}

/** `tail` is the last word of a descriptor: flags below, `next` (split) above. */
function writeDescriptor(table: Uint32Array, index: number, gpa: number, length: number, tail: number): void {
  const at = index * 4;
  table[at] = gpa;
  table[at + 1] = gpa / 0x1_0000_0000;
  table[at + 2] = length;
  table[at + 3] = tail;
}

/** Bytes of all segments together. */
function totalLength(segments: readonly Segment[]): number {
  let total = 0;
  for (let i = 0; i < segments.length; i++) total += segments[i]?.length ?? 0;
  return total;
}
