import { VirtioFault } from "../fault.ts";
import { addressOf, nearAddress } from "../memory/address.ts";
import type { GuestMemory } from "../memory/guest-memory.ts";
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
import { areaBytes, TableReader, halves, words } from "./area.ts";
import { ChainBuilder, ownChain, type QueueChain } from "./chain.ts";
import { InOrderQueue } from "./in-order.ts";
import { passesPackedEvent } from "./packed-event.ts";
import { packPosition, readPackedState } from "./state.ts";
import type {
  DescriptorChain,
  DeviceQueue,
  HeldChain,
  QueueConfig,
  QueueStart,
  QueueState,
  QueueTracker,
} from "./types.ts";

const AVAIL_AND_USED = VIRTQ_DESC_F_AVAIL | VIRTQ_DESC_F_USED;
/** 16-bit units in a descriptor: where `flags` is. */
const FLAGS = 7;

/** Device side of a packed virtqueue. Section "Packed Virtqueues". */
export class PackedDeviceQueue implements DeviceQueue {
  readonly config: QueueConfig;
  readonly #memory: GuestMemory;
  readonly #builder: ChainBuilder;
  readonly #inOrder: InOrderQueue | undefined;
  /** Descriptors of an indirect table. */
  readonly #longest: number;
  readonly #tables: TableReader;
  #epoch = -1;
  #descriptors: Uint32Array = new Uint32Array(0);
  #flags: Uint16Array = new Uint16Array(0);
  /** Event suppression structures as one word: off_wrap below, flags above. */
  #driver: Uint32Array = new Uint32Array(0);
  #device: Uint32Array = new Uint32Array(0);
  #next: number;
  #wrap: boolean;
  #used: number;
  #usedWrap: boolean;
  /** Descriptors popped and not used again: the driver may not offer them a second time. */
  #held = 0;
  #inFlight = 0;
  /** Where the staged batch starts; its first flags are written last, so that the driver sees all or nothing. */
  #batchStart = 0;
  #batchFlags = 0;
  #batchSlots = 0;
  /** Published slots for which no notification was decided on yet; a whole lap is as much as any number of laps. */
  #undecidedSlots = 0;
  readonly #tracker: QueueTracker | undefined;
  /** Chains held by whoever ran this ring before, in reverse: popped before anything new. */
  readonly #again: HeldChain[];

  /** Throws a VirtioFault when an area is misaligned or not in guest memory; a RangeError when `state` is impossible. */
  constructor(memory: GuestMemory, config: QueueConfig, state?: QueueStart) {
    this.#memory = memory;
    this.config = config;
    this.#longest = Math.max(config.size, config.longestChain ?? 0);
    this.#tables = new TableReader(memory);
    this.#builder = new ChainBuilder(memory, config.index, config.size, {
      descriptor: "drv.packed.sg",
      framing: "drv.packed.sg",
    });
    this.#inOrder = config.inOrder === true ? new InOrderQueue(config.size) : undefined;
    const { available, used } = readPackedState(config, state);
    this.#next = available.offset;
    this.#wrap = available.wrap;
    this.#used = used.offset;
    this.#usedWrap = used.wrap;
    this.#held = state?.held ?? 0;
    this.#tracker = state?.tracker;
    this.#again = [...(state?.again ?? [])].reverse();
    this.#refresh();
    this.#clearMarks();
  }

  get inFlight(): number {
    return this.#inFlight;
  }

  popAvailable(): DescriptorChain | undefined {
    if (this.#memory.epoch !== this.#epoch) this.#refresh();
    if (this.#again.length > 0) return this.#popAgain();
    const start = this.#next;
    const first = Atomics.load(this.#flags, start * 8 + FLAGS);
    if (!this.#isAvailable(first, this.#wrap)) return undefined;
    const chain = this.#walk(first);
    this.#inFlight++;
    this.#inOrder?.push(chain);
    this.#tracker?.popped(chain.token, this.#descriptors, start, chain.descriptors);
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
      this.#held -= own.descriptors;
      this.#next -= own.descriptors;
      if (this.#next < 0) {
        this.#next += this.config.size;
        this.#wrap = !this.#wrap;
      }
      this.#tracker?.returned(own.token);
    }
    this.#inOrder?.dropLast();
    this.#builder.recycle(own);
  }

  publish(): void {
    const slots = this.#batchSlots;
    if (slots === 0) return;
    if (this.#memory.epoch !== this.#epoch) this.#refresh();
    const start = this.#batchStart;
    const tracker = this.#tracker;
    tracker?.publishing(packPosition(this.#used, this.#usedWrap));
    Atomics.store(this.#flags, start * 8 + FLAGS, this.#batchFlags);
    this.#batchSlots = 0;
    tracker?.published(packPosition(this.#used, this.#usedWrap));
    this.#reportUsed(start, slots);
    this.#undecidedSlots = Math.min(this.#undecidedSlots + slots, this.config.size);
  }

  takeNotification(): boolean {
    this.publish();
    const slots = this.#undecidedSlots;
    if (slots === 0) return false;
    if (this.#memory.epoch !== this.#epoch) this.#refresh();
    this.#undecidedSlots = 0;
    const event = Atomics.load(this.#driver, 0);
    switch ((event >>> 16) & 3) {
      case RING_EVENT_FLAGS_DISABLE:
        return false;
      case RING_EVENT_FLAGS_DESC:
        if (this.config.eventIdx !== true) return true;
        return passesPackedEvent(event & 0xffff, this.#used, this.#usedWrap, slots, this.config.size);
      default:
        return true;
    }
  }

  setNotifications(on: boolean): boolean {
    if (this.#memory.epoch !== this.#epoch) this.#refresh();
    let event = RING_EVENT_FLAGS_DISABLE << 16;
    if (on && this.config.eventIdx === true)
      event = (RING_EVENT_FLAGS_DESC << 16) | packPosition(this.#next, this.#wrap);
    else if (on) event = RING_EVENT_FLAGS_ENABLE << 16;
    Atomics.store(this.#device, 0, event);
    this.#memory.wrote(this.config.deviceArea, 4);
    if (on && this.#again.length > 0) return true;
    return on && this.#isAvailable(Atomics.load(this.#flags, this.#next * 8 + FLAGS), this.#wrap);
  }

  save(): QueueState {
    return {
      nextAvailable: packPosition(this.#next, this.#wrap),
      nextUsed: packPosition(this.#used, this.#usedWrap),
    };
  }

  /** "Available" is AVAIL equal to the wrap counter and USED unlike it. */
  #isAvailable(flags: number, wrap: boolean): boolean {
    return (flags & AVAIL_AND_USED) === (wrap ? VIRTQ_DESC_F_AVAIL : VIRTQ_DESC_F_USED);
  }

  /**
   * Whoever held these entries may have died with a batch staged: all but its first descriptor are marked used then, and
   * the driver would take them for used as soon as the first one is.
   */
  #clearMarks(): void {
    let index = this.#used;
    let wrap = this.#usedWrap;
    for (let i = 0; i < this.#held; i++) {
      const at = index * 8 + FLAGS;
      const used = wrap ? AVAIL_AND_USED : 0;
      if (((this.#flags[at] ?? 0) & AVAIL_AND_USED) === used)
        Atomics.store(this.#flags, at, wrap ? VIRTQ_DESC_F_AVAIL : VIRTQ_DESC_F_USED);
      if (++index === this.config.size) {
        index = 0;
        wrap = !wrap;
      }
    }
  }

  #popAgain(): DescriptorChain | undefined {
    const again = this.#again.at(-1);
    if (again === undefined) return undefined;
    const descriptors = again.descriptors ?? [];
    this.#builder.begin();
    for (const { low, high, length, flags } of descriptors)
      if ((flags & VIRTQ_DESC_F_INDIRECT) !== 0) this.#walkIndirect(low, high, length, this.#next);
      else this.#builder.add(low, high, length, (flags & VIRTQ_DESC_F_WRITE) !== 0, this.#next);
    const chain = this.#builder.finish(again.token, descriptors.length);
    chain.again = again;
    this.#again.pop();
    this.#inFlight++;
    this.#inOrder?.push(chain);
    return chain;
  }

  #walk(first: number): QueueChain {
    return this.#single(first) ?? this.#walkFrom(first);
  }

  #single(flags: number): QueueChain | undefined {
    const { size } = this.config;
    if ((flags & (VIRTQ_DESC_F_NEXT | VIRTQ_DESC_F_INDIRECT)) !== 0 || this.#held >= size) return undefined;
    const at = this.#next * 4;
    const low = this.#descriptors[at] ?? 0;
    const high = this.#descriptors[at + 1] ?? 0;
    const length = this.#descriptors[at + 2] ?? 0;
    const id = (this.#descriptors[at + 3] ?? 0) & 0xffff;
    const chain = this.#builder.single(low, high, length, (flags & VIRTQ_DESC_F_WRITE) !== 0, id);
    if (chain === undefined) return undefined;
    this.#held++;
    if (++this.#next === size) {
      this.#next = 0;
      this.#wrap = !this.#wrap;
    }
    return chain;
  }

  #walkFrom(first: number): QueueChain {
    const { size } = this.config;
    this.#builder.begin();
    let index = this.#next;
    let wrap = this.#wrap;
    let flags = first;
    for (let count = 1; ; count++) {
      if (this.#held + count > size)
        this.#reject("drv.packed.sg", "descriptors offered while the device still holds them", index, count);
      const at = index * 4;
      const length = this.#descriptors[at + 2] ?? 0;
      const tail = this.#descriptors[at + 3] ?? 0;
      if ((flags & VIRTQ_DESC_F_INDIRECT) !== 0) {
        if (count > 1 || (flags & VIRTQ_DESC_F_NEXT) !== 0)
          this.#reject("drv.packed.indirect", "INDIRECT in a list of descriptors", index, flags);
        this.#walkIndirect(this.#descriptors[at] ?? 0, this.#descriptors[at + 1] ?? 0, length, index);
      } else {
        const writable = (flags & VIRTQ_DESC_F_WRITE) !== 0;
        this.#builder.add(
          this.#descriptors[at] ?? 0,
          this.#descriptors[at + 1] ?? 0,
          length,
          writable,
          index,
        );
      }
      if (++index === size) {
        index = 0;
        wrap = !wrap;
      }
      if ((flags & VIRTQ_DESC_F_NEXT) === 0) {
        this.#next = index;
        this.#wrap = wrap;
        this.#held += count;
        return this.#builder.finish(tail & 0xffff, count);
      }
      flags = this.#flags[index * 8 + FLAGS] ?? 0;
      if (!this.#isAvailable(flags, wrap))
        this.#reject("drv.packed.sg", "list made available before all of its descriptors", index, flags);
    }
  }

  /** Flags other than WRITE, and ids, are reserved in an indirect table and ignored. */
  #walkIndirect(low: number, high: number, length: number, descriptor: number): void {
    const rule = "drv.packed.indirect";
    if (this.config.indirect !== true)
      this.#reject(rule, "INDIRECT without VIRTIO_F_INDIRECT_DESC", descriptor, VIRTQ_DESC_F_INDIRECT);
    if (length === 0 || length % 16 !== 0)
      this.#reject(rule, "indirect table is no multiple of 16 bytes", descriptor, length);
    if (length / 16 > this.#longest)
      this.#reject(rule, "chain longer than the Queue Size", descriptor, length / 16);
    const gpa = addressOf(this.#memory, low, high);
    const start = gpa < 0 ? -1 : this.#tables.find(gpa, length);
    if (start < 0)
      this.#reject(rule, "indirect table outside guest memory", descriptor, nearAddress(low, high));
    const table = this.#tables.data;
    const end = start + length;
    for (let at = start; at < end; at += 16) {
      const writable = (table.getUint16(at + 14, true) & VIRTQ_DESC_F_WRITE) !== 0;
      const address = table.getUint32(at, true);
      this.#builder.add(
        address,
        table.getUint32(at + 4, true),
        table.getUint32(at + 8, true),
        writable,
        descriptor,
      );
    }
  }

  #stage(chain: QueueChain): void {
    if (this.#memory.epoch !== this.#epoch) this.#refresh();
    const slot = this.#used;
    const wrapBits = this.#usedWrap ? AVAIL_AND_USED : 0;
    const flags = chain.written > 0 ? wrapBits | VIRTQ_DESC_F_WRITE : wrapBits;
    this.#descriptors[slot * 4 + 2] = chain.written;
    this.#flags[slot * 8 + FLAGS - 1] = chain.token;
    if (this.#batchSlots === 0) {
      this.#batchStart = slot;
      this.#batchFlags = flags;
    } else this.#flags[slot * 8 + FLAGS] = flags;
    this.#batchSlots += chain.descriptors;
    this.#used += chain.descriptors;
    if (this.#used >= this.config.size) {
      this.#used -= this.config.size;
      this.#usedWrap = !this.#usedWrap;
    }
    this.#held -= chain.descriptors;
    this.#inFlight--;
    this.#tracker?.used(chain.token);
    this.#builder.recycle(chain);
  }

  #reportUsed(start: number, slots: number): void {
    const { descriptorArea, size } = this.config;
    if (start + slots <= size) this.#memory.wrote(descriptorArea + 16 * start, 16 * slots);
    else this.#memory.wrote(descriptorArea, 16 * size);
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
      areaBytes(this.#memory, index, { name, gpa, length, alignment, writable }, "drv.packed.layout");
    const descriptors = area("descriptor", descriptorArea, 16 * size, 16, true);
    this.#descriptors = words(descriptors);
    this.#flags = halves(descriptors);
    this.#driver = words(area("driver", driverArea, 4, 4));
    this.#device = words(area("device", deviceArea, 4, 4, true));
    this.#epoch = this.#memory.epoch;
  }

  #reject(clause: string, rule: string, descriptor: number, value: number): never {
    throw new VirtioFault(clause, rule, { queue: this.config.index, descriptor, value });
  }
}
