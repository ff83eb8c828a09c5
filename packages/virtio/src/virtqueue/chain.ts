import { VirtioFault } from "../fault.ts";
import { addressOf, nearAddress } from "../memory/address.ts";
import type { GuestMemory } from "../memory/guest-memory.ts";
import type { DescriptorChain, HeldChain } from "./types.ts";

interface MutableSegment {
  gpa: number;
  length: number;
}

/** A chain as its queue keeps it. Segment arrays never change their length, so the object is reused by shape. */
export class QueueChain implements DescriptorChain {
  readonly readable: readonly MutableSegment[];
  readonly writable: readonly MutableSegment[];
  readableLength = 0;
  writableLength = 0;
  token = 0;
  /** Ring entries it occupies (packed). */
  descriptors = 0;
  /** Between popAvailable and addUsed. */
  inFlight = false;
  /** Used, and waiting for its turn under VIRTIO_F_IN_ORDER. */
  completed = false;
  written = 0;
  /** It was held by somebody before, and popped again from that record. */
  again: HeldChain | undefined;
  /** Where chains of this shape wait for reuse. */
  readonly home: QueueChain[];

  constructor(readable: number, writable: number, home: QueueChain[]) {
    this.home = home;
    this.readable = Array.from({ length: readable }, () => ({ gpa: 0, length: 0 }));
    this.writable = Array.from({ length: writable }, () => ({ gpa: 0, length: 0 }));
  }
}

/** The chain as its queue made it. Throws an Error when it is not in flight: used twice, or of no queue. */
export function ownChain(chain: DescriptorChain): QueueChain {
  const own = chain as QueueChain;
  if (own.inFlight !== true) throw new Error("chain is not in flight: used twice, or not popped here");
  return own;
}

/** Shapes up to this many segments each way are looked up in an array, larger ones in a map. */
const SMALL_SEGMENTS = 16;
/** Shapes of the map; a driver that uses more has chains made anew. */
const MAX_LARGE_SHAPES = 1024;
/** Segments of chains that wait for reuse, of one queue: what a driver can make us keep. */
const MAX_POOLED_SEGMENTS = 65_536;
/** "Drivers MUST NOT add a descriptor chain longer than 2^32 bytes in total". */
const MAX_CHAIN_BYTES = 2 ** 32;

/** The clause ids under which one ring format reports what the driver did wrong. */
export interface ChainRules {
  /** Address and total length of a chain. */
  readonly descriptor: string;
  /** Writable after readable. */
  readonly framing: string;
}

/**
 * Collects the descriptors of one chain, checks each as it comes, and hands out the finished chain. One walk at a
 * time; nothing is allocated once the shapes that a driver uses have been seen.
 */
export class ChainBuilder {
  readonly #memory: GuestMemory;
  readonly #queue: number;
  readonly #rules: ChainRules;
  readonly #pool: QueueChain[][] = [];
  readonly #largePool = new Map<number, QueueChain[]>();
  readonly #poolLimit: number;
  #pooled = 0;
  #pooledSegments = 0;
  #gpas: Float64Array;
  #lengths: Float64Array;
  #count = 0;
  #readableCount = 0;
  #readableLength = 0;
  #writableLength = 0;

  constructor(memory: GuestMemory, queue: number, size: number, rules: ChainRules) {
    this.#memory = memory;
    this.#queue = queue;
    this.#rules = rules;
    this.#poolLimit = size;
    this.#gpas = new Float64Array(8);
    this.#lengths = new Float64Array(8);
  }

  begin(): void {
    this.#count = 0;
    this.#readableCount = 0;
    this.#readableLength = 0;
    this.#writableLength = 0;
  }

  /** One descriptor, as read from the ring: address in halves, length, device-writable or not. */
  add(low: number, high: number, length: number, writable: boolean, descriptor: number): void {
    let gpa = addressOf(this.#memory, low, high);
    if (gpa < 0)
      this.#reject(this.#rules.descriptor, "address of 2^53 or more", descriptor, nearAddress(low, high));
    if (writable) this.#writableLength += length;
    else if (this.#count > this.#readableCount)
      this.#reject(this.#rules.framing, "device-readable after device-writable", descriptor, length);
    else this.#readableLength += length;
    if (this.#readableLength + this.#writableLength > MAX_CHAIN_BYTES)
      this.#reject(this.#rules.descriptor, "chain longer than 2^32 bytes", descriptor, length);
    let left = length;
    while (left > 0) {
      const piece = this.#memory.contiguous(gpa, left, writable);
      if (piece <= 0) this.#reject(this.#rules.descriptor, "buffer outside guest memory", descriptor, gpa);
      this.#append(gpa, piece);
      gpa += piece;
      left -= piece;
    }
    if (!writable) this.#readableCount = this.#count;
  }

  /** The finished chain. */
  finish(token: number, descriptors: number): QueueChain {
    const readable = this.#readableCount;
    const chain = this.#take(readable, this.#count - readable);
    this.#fill(chain.readable, 0);
    this.#fill(chain.writable, readable);
    chain.readableLength = this.#readableLength;
    chain.writableLength = this.#writableLength;
    chain.token = token;
    chain.descriptors = descriptors;
    chain.inFlight = true;
    chain.completed = false;
    chain.again = undefined;
    return chain;
  }

  /**
   * The chain of one descriptor, which is the most common one, without the detour of `begin`, `add` and `finish`. Undefined
   * when the descriptor needs their checks.
   */
  single(
    low: number,
    high: number,
    length: number,
    writable: boolean,
    token: number,
  ): QueueChain | undefined {
    const gpa = addressOf(this.#memory, low, high);
    if (gpa < 0 || length === 0 || this.#memory.contiguous(gpa, length, writable) !== length)
      return undefined;
    const chain = writable ? this.#take(0, 1) : this.#take(1, 0);
    const segment = writable ? chain.writable[0] : chain.readable[0];
    if (segment === undefined) return undefined;
    segment.gpa = gpa;
    segment.length = length;
    chain.readableLength = writable ? 0 : length;
    chain.writableLength = writable ? length : 0;
    chain.token = token;
    chain.descriptors = 1;
    chain.inFlight = true;
    chain.completed = false;
    chain.again = undefined;
    return chain;
  }

  /** Takes a chain back whose use is published or staged. */
  recycle(chain: QueueChain): void {
    chain.inFlight = false;
    const segments = chain.readable.length + chain.writable.length;
    if (this.#pooled >= this.#poolLimit || this.#pooledSegments + segments > MAX_POOLED_SEGMENTS) return;
    chain.home.push(chain);
    this.#pooled++;
    this.#pooledSegments += segments;
  }

  #take(readable: number, writable: number): QueueChain {
    const home = this.#home(readable, writable);
    const chain = home.pop();
    if (chain === undefined) return new QueueChain(readable, writable, home);
    this.#pooled--;
    this.#pooledSegments -= readable + writable;
    return chain;
  }

  #home(readable: number, writable: number): QueueChain[] {
    if (readable <= SMALL_SEGMENTS && writable <= SMALL_SEGMENTS)
      return (this.#pool[readable * (SMALL_SEGMENTS + 1) + writable] ??= []);
    const shape = readable * 0x1_0000_0000 + writable;
    let home = this.#largePool.get(shape);
    if (home === undefined) {
      if (this.#largePool.size >= MAX_LARGE_SHAPES) this.#forgetLarge();
      this.#largePool.set(shape, (home = []));
    }
    return home;
  }

  #forgetLarge(): void {
    for (const home of this.#largePool.values())
      for (const chain of home) {
        this.#pooled--;
        this.#pooledSegments -= chain.readable.length + chain.writable.length;
      }
    this.#largePool.clear();
  }

  #fill(segments: readonly MutableSegment[], from: number): void {
    for (let i = 0; i < segments.length; i++) {
      const segment = segments[i];
      if (segment === undefined) break;
      segment.gpa = this.#gpas[from + i] ?? 0;
      segment.length = this.#lengths[from + i] ?? 0;
    }
  }

  #append(gpa: number, length: number): void {
    if (this.#count === this.#gpas.length) {
      const gpas = new Float64Array(2 * this.#count);
      gpas.set(this.#gpas);
      const lengths = new Float64Array(2 * this.#count);
      lengths.set(this.#lengths);
      this.#gpas = gpas;
      this.#lengths = lengths;
    }
    this.#gpas[this.#count] = gpa;
    this.#lengths[this.#count] = length;
    this.#count++;
  }

  #reject(clause: string, rule: string, descriptor: number, value: number): never {
    throw new VirtioFault(clause, rule, { queue: this.#queue, descriptor, value });
  }
}
