import { VirtioFault } from "../fault.ts";
import { addressOf, nearAddress } from "../memory/address.ts";
import type { GuestMemory } from "../memory/guest-memory.ts";
import {
  VIRTQ_AVAIL_F_NO_INTERRUPT,
  VIRTQ_DESC_F_INDIRECT,
  VIRTQ_DESC_F_NEXT,
  VIRTQ_DESC_F_WRITE,
  VIRTQ_USED_F_NO_NOTIFY,
} from "../spec/virtqueue.ts";
import { areaBytes, TableReader, halves, passesEvent, words } from "./area.ts";
import { ChainBuilder, ownChain, type QueueChain } from "./chain.ts";
import { InOrderQueue } from "./in-order.ts";
import { splitDescriptorBytes, splitDeviceBytes, splitDriverBytes } from "./split-layout.ts";
import { readSplitState } from "./state.ts";
import type {
  DescriptorChain,
  DeviceQueue,
  HeldChain,
  QueueConfig,
  QueueStart,
  QueueState,
  QueueTracker,
} from "./types.ts";

/** Offsets in 16-bit units: `flags`, `idx`, and the ring behind them, in driver and device area alike. */
const FLAGS = 0;
const IDX = 1;
const RING = 2;

/** Device side of a split virtqueue. Section "Split Virtqueues". */
export class SplitDeviceQueue implements DeviceQueue {
  readonly config: QueueConfig;
  readonly #memory: GuestMemory;
  readonly #builder: ChainBuilder;
  readonly #mask: number;
  /** Descriptors of a chain with an indirect table. */
  readonly #longest: number;
  readonly #inOrder: InOrderQueue | undefined;
  #epoch = -1;
  #descriptors: Uint32Array = new Uint32Array(0);
  #driver: Uint16Array = new Uint16Array(0);
  #device: Uint16Array = new Uint16Array(0);
  /** The used ring's elements, two words each; the area is 4-aligned and the ring starts at byte 4. */
  #used: Uint32Array = new Uint32Array(0);
  #nextAvailable: number;
  /** `idx` of the driver area when it was last read: entries below it need no further load. */
  #seenAvailable: number;
  /** Where the next used element goes, and how far the driver has been told. */
  #nextUsed: number;
  #publishedUsed: number;
  /** Up to where it was decided whether the driver gets a notification. */
  #decidedUsed: number;
  #inFlight = 0;
  readonly #tables: TableReader;
  readonly #tracker: QueueTracker | undefined;
  /** Chains held by whoever ran this ring before, in reverse: popped before anything new. */
  readonly #again: HeldChain[];

  /** Throws a VirtioFault when an area is misaligned or not in guest memory; a RangeError when `state` is impossible. */
  constructor(memory: GuestMemory, config: QueueConfig, state?: QueueStart) {
    this.#memory = memory;
    this.config = config;
    this.#mask = config.size - 1;
    this.#longest = Math.max(config.size, config.longestChain ?? 0);
    this.#tables = new TableReader(memory);
    this.#builder = new ChainBuilder(memory, config.index, config.size, {
      descriptor: "drv.split.desc",
      framing: "drv.split.framing",
    });
    this.#inOrder = config.inOrder === true ? new InOrderQueue(config.size) : undefined;
    const { nextAvailable, nextUsed } = readSplitState(config, state);
    this.#nextAvailable = this.#seenAvailable = nextAvailable;
    this.#nextUsed = this.#publishedUsed = this.#decidedUsed = nextUsed;
    this.#tracker = state?.tracker;
    this.#again = [...(state?.again ?? [])].reverse();
    this.#refresh();
  }

  get inFlight(): number {
    return this.#inFlight;
  }

  popAvailable(): DescriptorChain | undefined {
    if (this.#memory.epoch !== this.#epoch) this.#refresh();
    if (this.#again.length > 0) return this.#popAgain();
    if (this.#nextAvailable === this.#seenAvailable && !this.#lookForMore()) return undefined;
    const head = this.#driver[RING + (this.#nextAvailable & this.#mask)] ?? 0;
    const chain = this.#walk(head);
    this.#nextAvailable = (this.#nextAvailable + 1) & 0xffff;
    this.#inFlight++;
    this.#inOrder?.push(chain);
    this.#tracker?.popped(head, this.#descriptors, head, 1);
    return chain;
  }

  addUsed(chain: DescriptorChain, written: number): void {
    const own = ownChain(chain);
    own.inFlight = false;
    own.completed = true;
    own.written = written < own.writableLength ? written : Math.min(own.writableLength, 0xffff_ffff);
    if (this.#inOrder === undefined) return this.#stage(own);
    for (let next = this.#inOrder.shiftCompleted(); next; next = this.#inOrder.shiftCompleted())
      this.#stage(next);
  }

  unpop(chain: DescriptorChain): void {
    const own = ownChain(chain);
    this.#inFlight--;
    if (own.again !== undefined) this.#again.push(own.again);
    else {
      this.#nextAvailable = (this.#nextAvailable - 1) & 0xffff;
      this.#tracker?.returned(own.token);
    }
    this.#inOrder?.dropLast();
    this.#builder.recycle(own);
  }

  publish(): void {
    const old = this.#publishedUsed;
    const now = this.#nextUsed;
    if (old === now) return;
    if (this.#memory.epoch !== this.#epoch) this.#refresh();
    // The elements are plain stores; this store is the one that orders them ("dev.split.used").
    Atomics.store(this.#device, IDX, now);
    this.#publishedUsed = now;
    this.#tracker?.published(now);
    this.#reportUsed(old, now);
  }

  takeNotification(): boolean {
    this.publish();
    const old = this.#decidedUsed;
    const now = this.#publishedUsed;
    if (old === now) return false;
    if (this.#memory.epoch !== this.#epoch) this.#refresh();
    this.#decidedUsed = now;
    if (this.config.eventIdx === true)
      return passesEvent(Atomics.load(this.#driver, RING + this.config.size), now, old);
    return (Atomics.load(this.#driver, FLAGS) & VIRTQ_AVAIL_F_NO_INTERRUPT) === 0;
  }

  setNotifications(on: boolean): boolean {
    if (this.#memory.epoch !== this.#epoch) this.#refresh();
    if (this.config.eventIdx === true) {
      // Off is a stale avail_event; there is no other way to say it, flags must stay 0.
      if (on) this.#storeDevice(RING + 4 * this.config.size, this.#nextAvailable);
    } else this.#storeDevice(FLAGS, on ? 0 : VIRTQ_USED_F_NO_NOTIFY);
    return on && (Atomics.load(this.#driver, IDX) !== this.#nextAvailable || this.#again.length > 0);
  }

  save(): QueueState {
    return { nextAvailable: this.#nextAvailable, nextUsed: this.#nextUsed };
  }

  #popAgain(): DescriptorChain | undefined {
    const again = this.#again.at(-1);
    if (again === undefined) return undefined;
    const chain = this.#walk(again.token);
    chain.again = again;
    this.#again.pop();
    this.#inFlight++;
    this.#inOrder?.push(chain);
    return chain;
  }

  #lookForMore(): boolean {
    const seen = Atomics.load(this.#driver, IDX);
    if (seen === this.#nextAvailable) return false;
    // Whatever is published as available and not yet as used must fit the ring: an index that was decremented, or
    // chains offered twice, show up here. Both distances count: a decremented index is far ahead of what was popped.
    const held = (this.#nextAvailable - this.#publishedUsed) & 0xffff;
    const outstanding = held + ((seen - this.#nextAvailable) & 0xffff);
    if (outstanding > this.config.size)
      this.#reject("drv.split.avail", `available idx is ${outstanding} ahead of used idx`, undefined, seen);
    this.#seenAvailable = seen;
    return true;
  }

  #walk(head: number): QueueChain {
    const builder = this.#builder;
    const { size } = this.config;
    if (head >= size) this.#reject("drv.split.desc", "available ring names no descriptor", undefined, head);
    return this.#single(head) ?? this.#walkFrom(builder, head, size);
  }

  #single(head: number): QueueChain | undefined {
    const at = head * 4;
    const tail = this.#descriptors[at + 3] ?? 0;
    if ((tail & (VIRTQ_DESC_F_NEXT | VIRTQ_DESC_F_INDIRECT)) !== 0) return undefined;
    const low = this.#descriptors[at] ?? 0;
    const high = this.#descriptors[at + 1] ?? 0;
    const length = this.#descriptors[at + 2] ?? 0;
    return this.#builder.single(low, high, length, (tail & VIRTQ_DESC_F_WRITE) !== 0, head);
  }

  #walkFrom(builder: ChainBuilder, head: number, size: number): QueueChain {
    builder.begin();
    let index = head;
    for (let count = 1; ; count++) {
      if (count > size) this.#reject("drv.split.desc", "descriptor chain loops", head, count);
      const at = index * 4;
      const low = this.#descriptors[at] ?? 0;
      const high = this.#descriptors[at + 1] ?? 0;
      const length = this.#descriptors[at + 2] ?? 0;
      const tail = this.#descriptors[at + 3] ?? 0;
      if ((tail & VIRTQ_DESC_F_INDIRECT) !== 0) {
        if ((tail & VIRTQ_DESC_F_NEXT) !== 0)
          this.#reject("drv.split.indirect", "INDIRECT and NEXT in one descriptor", index, tail & 0xffff);
        this.#walkIndirect(low, high, length, index, this.#longest - count + 1);
        return builder.finish(head, 1);
      }
      builder.add(low, high, length, (tail & VIRTQ_DESC_F_WRITE) !== 0, index);
      if ((tail & VIRTQ_DESC_F_NEXT) === 0) return builder.finish(head, 1);
      index = tail >>> 16;
      if (index >= size) this.#reject("drv.split.desc", "next is beyond the descriptor table", head, index);
    }
  }

  /** `room` descriptors may still follow: a chain is never longer than the Queue Size ("drv.split.indirect"). */
  #walkIndirect(low: number, high: number, length: number, descriptor: number, room: number): void {
    const rule = "drv.split.indirect";
    if (this.config.indirect !== true)
      this.#reject(rule, "INDIRECT without VIRTIO_F_INDIRECT_DESC", descriptor, VIRTQ_DESC_F_INDIRECT);
    if (length === 0 || length % 16 !== 0)
      this.#reject(rule, "indirect table is no multiple of 16 bytes", descriptor, length);
    const entries = length / 16;
    const gpa = addressOf(this.#memory, low, high);
    const start = gpa < 0 ? -1 : this.#tables.find(gpa, length);
    if (start < 0)
      this.#reject(rule, "indirect table outside guest memory", descriptor, nearAddress(low, high));
    const table = this.#tables.data;
    let index = 0;
    for (let count = 1; ; count++) {
      if (count > room) this.#reject(rule, "chain longer than the Queue Size, or a loop", descriptor, count);
      const at = start + index * 16;
      const tail = table.getUint32(at + 12, true);
      if ((tail & VIRTQ_DESC_F_INDIRECT) !== 0)
        this.#reject(rule, "INDIRECT inside an indirect table", index, tail & 0xffff);
      this.#builder.add(
        table.getUint32(at, true),
        table.getUint32(at + 4, true),
        table.getUint32(at + 8, true),
        (tail & VIRTQ_DESC_F_WRITE) !== 0,
        index,
      );
      if ((tail & VIRTQ_DESC_F_NEXT) === 0) return;
      index = tail >>> 16;
      if (index >= entries) this.#reject(rule, "next is beyond the indirect table", descriptor, index);
    }
  }

  #stage(chain: QueueChain): void {
    if (this.#memory.epoch !== this.#epoch) this.#refresh();
    const at = 2 * (this.#nextUsed & this.#mask);
    this.#used[at] = chain.token;
    this.#used[at + 1] = chain.written;
    this.#nextUsed = (this.#nextUsed + 1) & 0xffff;
    this.#inFlight--;
    this.#tracker?.used(chain.token);
    this.#builder.recycle(chain);
  }

  #storeDevice(at: number, value: number): void {
    Atomics.store(this.#device, at, value);
    this.#memory.wrote(this.config.deviceArea + 2 * at, 2);
  }

  #reportUsed(old: number, now: number): void {
    const { deviceArea, size } = this.config;
    const from = old & this.#mask;
    const count = (now - old) & 0xffff;
    this.#memory.wrote(deviceArea, 4);
    if (from + count <= size) this.#memory.wrote(deviceArea + 4 + 8 * from, 8 * count);
    else this.#memory.wrote(deviceArea + 4, 8 * size);
  }

  #refresh(): void {
    const { index, size, descriptorArea, driverArea, deviceArea } = this.config;
    const area = (
      name: string,
      gpa: number,
      length: number,
      alignment: number,
      writable = false,
    ): Uint8Array =>
      areaBytes(this.#memory, index, { name, gpa, length, alignment, writable }, "drv.split.layout");
    this.#descriptors = words(area("descriptor", descriptorArea, splitDescriptorBytes(size), 16));
    this.#driver = halves(area("driver", driverArea, splitDriverBytes(size), 2));
    const device = area("device", deviceArea, splitDeviceBytes(size), 4, true);
    this.#device = halves(device);
    this.#used = words(device.subarray(4, 4 + 8 * size));
    this.#epoch = this.#memory.epoch;
  }

  #reject(clause: string, rule: string, descriptor: number | undefined, value: number): never {
    const where = descriptor === undefined ? {} : { descriptor };
    throw new VirtioFault(clause, rule, { queue: this.config.index, ...where, value });
  }
}
