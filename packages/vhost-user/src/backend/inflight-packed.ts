import type { HeldChain, QueueStart, QueueTracker, RingDescriptor } from "virtio/virtqueue/types";
import type { RingView } from "./inflight-view.ts";

/** QueueRegionPacked, offsets in bytes; then one DescStatePacked for each descriptor. */
const VERSION = 8;
const DESC_NUM = 10;
const FREE_HEAD = 12;
const OLD_FREE_HEAD = 14;
const USED_IDX = 16;
const OLD_USED_IDX = 18;
const USED_WRAP = 20;
const OLD_USED_WRAP = 21;
const DESCS = 32;
const DESC_SIZE = 32;
/** In a DescStatePacked. */
const NEXT = 2;
const LAST = 4;
const NUM = 6;
const COUNTER = 8;
const ID = 16;
const FLAGS = 18;
const LENGTH = 20;
const ADDRESS = 24;

const WRAP = 0x8000;
const AVAIL_BIT = 1 << 7;
const USED_BIT = 1 << 15;

/** Where a word of eight bytes is put together. */
const scratch = new DataView(new ArrayBuffer(8));

export const packedRegionBytes = (size: number): number => DESCS + DESC_SIZE * size;

/**
 * The record of a packed virtqueue: copies of the descriptors of every chain in flight, for the ring's own may be
 * overwritten. Entries are taken from a free list whose head changes for good only after the publication.
 */
export class PackedInflight implements QueueTracker {
  readonly #bytes: Uint8Array;
  readonly #halves: Uint16Array;
  readonly #words: Uint32Array;
  readonly #longs: BigInt64Array;
  readonly #recordSize: number;
  readonly #size: number;
  /** First entry of the chain in flight with this buffer id; -1: none. */
  readonly #entryOf: Int32Array = new Int32Array(0x1_0000).fill(-1);
  /** First entries of the chains used since the last publication. */
  readonly #batch: number[] = [];
  #counter = 1;

  /** `recordSize` entries are in the record, and the ring has `size` of them. */
  constructor(bytes: Uint8Array, recordSize: number, size: number) {
    this.#bytes = bytes;
    this.#halves = new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.length >>> 1);
    this.#words = new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length >>> 2);
    this.#longs = new BigInt64Array(bytes.buffer, bytes.byteOffset, bytes.length >>> 3);
    this.#recordSize = recordSize;
    this.#size = size;
  }

  get begun(): boolean {
    return this.#half(VERSION) !== 0;
  }

  recover({ base, ringFlags }: RingView): QueueStart {
    if (this.#half(VERSION) === 0) {
      this.#initialise(base);
      return { nextAvailable: base, nextUsed: base, held: 0, tracker: this };
    }
    this.#settle(ringFlags);
    const chains = this.#inFlight();
    const used = this.#used();
    const held = chains.reduce((sum, chain) => sum + (chain.descriptors?.length ?? 0), 0);
    return { nextAvailable: this.#advance(used, held), nextUsed: used, held, again: chains, tracker: this };
  }

  popped(id: number, ring: Uint32Array, position: number, count: number): void {
    const first = this.#half(FREE_HEAD);
    if (first >= this.#recordSize) return;
    let entry = first;
    let last = first;
    for (let i = 0; i < count && entry < this.#recordSize; i++) {
      const from = 4 * ((position + i) % this.#size);
      const at = this.#at(entry);
      this.#words[(at + ADDRESS) / 4] = ring[from] ?? 0;
      this.#words[(at + ADDRESS) / 4 + 1] = ring[from + 1] ?? 0;
      this.#words[(at + LENGTH) / 4] = ring[from + 2] ?? 0;
      const tail = ring[from + 3] ?? 0;
      this.#setHalf(at + ID, tail & 0xffff);
      this.#setHalf(at + FLAGS, tail >>> 16);
      last = entry;
      entry = this.#half(at + NEXT);
    }
    const at = this.#at(first);
    this.#setHalf(at + NUM, count);
    this.#setHalf(at + LAST, last);
    const counter = this.#counter++;
    this.#words[(at + COUNTER) / 4] = counter % 0x1_0000_0000;
    this.#words[(at + COUNTER) / 4 + 1] = counter / 0x1_0000_0000;
    this.#entryOf[id] = first;
    // From here on it is in flight. Between these stores the entry is both in flight and free: recovery clears it, and
    // the chain is taken from the ring again, where it still is.
    Atomics.store(this.#bytes, at, 1);
    this.#setHalf(FREE_HEAD, entry);
    this.#setHalf(OLD_FREE_HEAD, entry);
  }

  returned(id: number): void {
    const entry = this.#take(id);
    if (entry < 0) return;
    this.#free(entry);
    Atomics.store(this.#bytes, this.#at(entry), 0);
    // The entries of the batch under way are not in the list yet.
    this.#setHalf(OLD_FREE_HEAD, this.#half(FREE_HEAD));
  }

  used(id: number): void {
    const entry = this.#take(id);
    if (entry >= 0) this.#batch.push(entry);
  }

  publishing(nextUsed: number): void {
    for (const entry of this.#batch) this.#free(entry);
    this.#setUsed(nextUsed, this.#oldUsed());
  }

  published(nextUsed: number): void {
    for (const entry of this.#batch) Atomics.store(this.#bytes, this.#at(entry), 0);
    this.#batch.length = 0;
    this.#setHalf(OLD_FREE_HEAD, this.#half(FREE_HEAD));
    this.#setUsed(nextUsed, nextUsed);
  }

  #initialise(base: number): void {
    this.#bytes.fill(0, 0, packedRegionBytes(this.#recordSize));
    this.#setHalf(DESC_NUM, this.#recordSize);
    for (let i = 0; i < this.#recordSize; i++) this.#setHalf(this.#at(i) + NEXT, i + 1);
    this.#setUsed(base, base);
    Atomics.store(this.#halves, VERSION / 2, 1);
  }

  /** "When reconnecting": the batch under way is either committed or rolled back. */
  #settle(ringFlags: ((index: number) => number) | undefined): void {
    const old = this.#oldUsed();
    const used = this.#used();
    let settled = old;
    if (used !== old && ringFlags !== undefined) {
      const flags = ringFlags(old & ~WRAP);
      const wrap = (old & WRAP) !== 0;
      // Not published: as the driver made it available, AVAIL equal to the wrap counter and USED unlike it.
      const wasPublished = ((flags & AVAIL_BIT) !== 0) !== wrap || ((flags & USED_BIT) !== 0) === wrap;
      if (wasPublished) {
        this.#setHalf(OLD_FREE_HEAD, this.#half(FREE_HEAD));
        settled = used;
      }
    }
    this.#setHalf(FREE_HEAD, this.#half(OLD_FREE_HEAD));
    this.#setUsed(settled, settled);
    let free = this.#half(FREE_HEAD);
    for (let i = 0; i < this.#recordSize && free < this.#recordSize; i++) {
      this.#bytes[this.#at(free)] = 0;
      free = this.#half(this.#at(free) + NEXT);
    }
  }

  /** The chains in flight, oldest first. A record that cannot be is cut short. */
  #inFlight(): HeldChain[] {
    const found: { readonly entry: number; readonly counter: number }[] = [];
    for (let entry = 0; entry < this.#recordSize; entry++) {
      const at = this.#at(entry);
      if (this.#bytes[at] !== 1) continue;
      const high = this.#words[(at + COUNTER) / 4 + 1] ?? 0;
      found.push({ entry, counter: (this.#words[(at + COUNTER) / 4] ?? 0) + high * 0x1_0000_0000 });
    }
    found.sort((a, b) => a.counter - b.counter);
    this.#counter = (found.at(-1)?.counter ?? 0) + 1;
    let room = this.#size;
    const chains: HeldChain[] = [];
    /** Entries that were read: what leads back to one is no chain, and the record is read in as many steps as it has entries. */
    const seen = new Uint8Array(this.#recordSize);
    for (const { entry } of found) {
      const descriptors = this.#descriptorsFrom(entry, room, seen);
      if (descriptors.length === 0) continue;
      room -= descriptors.length;
      const token = this.#half(this.#at(this.#half(this.#at(entry) + LAST)) + ID);
      this.#entryOf[token] = entry;
      chains.push({ token, descriptors });
    }
    return chains;
  }

  /** Empty: it is no chain of at most `room` descriptors. */
  #descriptorsFrom(first: number, room: number, seen: Uint8Array): RingDescriptor[] {
    const descriptors: RingDescriptor[] = [];
    const count = this.#half(this.#at(first) + NUM);
    if (count > room) return [];
    for (let entry = first; descriptors.length < count && entry < this.#recordSize;) {
      if (seen[entry] !== 0) return [];
      seen[entry] = 1;
      const at = this.#at(entry);
      descriptors.push({
        low: this.#words[(at + ADDRESS) / 4] ?? 0,
        high: this.#words[(at + ADDRESS) / 4 + 1] ?? 0,
        length: this.#words[(at + LENGTH) / 4] ?? 0,
        flags: this.#half(at + FLAGS),
      });
      entry = this.#half(at + NEXT);
    }
    return descriptors.length === count && this.#half(this.#at(first) + LAST) < this.#recordSize
      ? descriptors
      : [];
  }

  #take(id: number): number {
    const entry = this.#entryOf[id] ?? -1;
    this.#entryOf[id] = -1;
    return entry;
  }

  /** Puts the entries of a chain before the free list. */
  #free(entry: number): void {
    const last = this.#half(this.#at(entry) + LAST);
    if (last >= this.#recordSize) return;
    this.#setHalf(this.#at(last) + NEXT, this.#half(FREE_HEAD));
    this.#setHalf(FREE_HEAD, entry);
  }

  #advance(position: number, entries: number): number {
    const offset = (position & ~WRAP) + entries;
    return offset < this.#size ? (position & WRAP) | offset : (~position & WRAP) | (offset - this.#size);
  }

  #used(): number {
    return this.#half(USED_IDX) | (this.#bytes[USED_WRAP] === 0 ? 0 : WRAP);
  }

  #oldUsed(): number {
    return this.#half(OLD_USED_IDX) | (this.#bytes[OLD_USED_WRAP] === 0 ? 0 : WRAP);
  }

  /**
   * Both positions with their wrap counters, in one store: a process killed between an index and its wrap counter would
   * leave a position that never was. They share an aligned word of eight bytes; a BigInt a batch costs 13 ns.
   */
  #setUsed(used: number, old: number): void {
    scratch.setUint16(0, used & ~WRAP, true);
    scratch.setUint16(OLD_USED_IDX - USED_IDX, old & ~WRAP, true);
    scratch.setUint8(USED_WRAP - USED_IDX, used >>> 15);
    scratch.setUint8(OLD_USED_WRAP - USED_IDX, old >>> 15);
    Atomics.store(this.#longs, USED_IDX / 8, scratch.getBigInt64(0, true));
  }

  #at(entry: number): number {
    return DESCS + DESC_SIZE * entry;
  }

  #half(at: number): number {
    return this.#halves[at / 2] ?? 0;
  }

  #setHalf(at: number, value: number): void {
    Atomics.store(this.#halves, at / 2, value);
  }
}
