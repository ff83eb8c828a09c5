import type { QueueStart, QueueTracker } from "virtio/virtqueue/types";
import type { RingView } from "./inflight-view.ts";

/** QueueRegionSplit, offsets in bytes; then one DescStateSplit for each descriptor. */
const VERSION = 8;
const DESC_NUM = 10;
const LAST_BATCH_HEAD = 12;
const USED_IDX = 14;
const DESCS = 16;
const DESC_SIZE = 16;
/** In a DescStateSplit. */
const NEXT = 6;
const COUNTER = 8;

export const splitRegionBytes = (size: number): number => DESCS + DESC_SIZE * size;

/** The record of a split virtqueue. Each descriptor that heads a chain in flight has `inflight` 1. */
export class SplitInflight implements QueueTracker {
  readonly #bytes: Uint8Array;
  readonly #halves: Uint16Array;
  readonly #words: Uint32Array;
  readonly #recordSize: number;
  readonly #size: number;
  /** Heads used since the last publication. */
  readonly #batch: Uint16Array;
  #batchLength = 0;
  #counter = 1;

  /** `recordSize` entries are in the record, and the ring has `size` of them. */
  constructor(bytes: Uint8Array, recordSize: number, size: number) {
    this.#bytes = bytes;
    this.#halves = new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.length >>> 1);
    this.#words = new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length >>> 2);
    this.#recordSize = recordSize;
    this.#size = size;
    this.#batch = new Uint16Array(size);
  }

  get begun(): boolean {
    return this.#halves[VERSION / 2] !== 0;
  }

  recover({ base, usedIdx }: RingView): QueueStart {
    const halves = this.#halves;
    if (halves[VERSION / 2] === 0) {
      this.#bytes.fill(0, 0, splitRegionBytes(this.#recordSize));
      halves[DESC_NUM / 2] = this.#recordSize;
      halves[USED_IDX / 2] = usedIdx;
      Atomics.store(halves, VERSION / 2, 1);
      const held = (base - usedIdx) & 0xffff;
      return { nextAvailable: base, nextUsed: usedIdx, held, tracker: this };
    }
    this.#finishBatch(usedIdx);
    const heads: number[] = [];
    for (let head = 0; head < this.#size; head++)
      if (this.#bytes[DESCS + DESC_SIZE * head] === 1) heads.push(head);
    heads.sort((a, b) => this.#counterOf(a) - this.#counterOf(b));
    this.#counter = heads.length === 0 ? 1 : this.#counterOf(heads.at(-1) ?? 0) + 1;
    return {
      nextAvailable: (usedIdx + heads.length) & 0xffff,
      nextUsed: usedIdx,
      held: heads.length,
      again: heads.map((token) => ({ token })),
      tracker: this,
    };
  }

  popped(head: number): void {
    const at = DESCS + DESC_SIZE * head;
    const counter = this.#counter++;
    this.#words[(at + COUNTER) / 4] = counter % 0x1_0000_0000;
    this.#words[(at + COUNTER) / 4 + 1] = counter / 0x1_0000_0000;
    Atomics.store(this.#bytes, at, 1);
  }

  returned(head: number): void {
    Atomics.store(this.#bytes, DESCS + DESC_SIZE * head, 0);
  }

  used(head: number): void {
    const halves = this.#halves;
    halves[(DESCS + DESC_SIZE * head + NEXT) / 2] = halves[LAST_BATCH_HEAD / 2] ?? 0;
    Atomics.store(halves, LAST_BATCH_HEAD / 2, head);
    // More than a ring full without a publication cannot be: what is used is not available again before.
    if (this.#batchLength < this.#batch.length) this.#batch[this.#batchLength++] = head;
  }

  publishing(): void {
    // The used ring's own idx tells a later reader how far this got.
  }

  published(usedIdx: number): void {
    for (let i = 0; i < this.#batchLength; i++)
      Atomics.store(this.#bytes, DESCS + DESC_SIZE * (this.#batch[i] ?? 0), 0);
    this.#batchLength = 0;
    Atomics.store(this.#halves, USED_IDX / 2, usedIdx);
  }

  /** The last batch was published, and the process died before its entries were cleared. */
  #finishBatch(usedIdx: number): void {
    const halves = this.#halves;
    let count = (usedIdx - (halves[USED_IDX / 2] ?? 0)) & 0xffff;
    let head = halves[LAST_BATCH_HEAD / 2] ?? 0;
    for (count = Math.min(count, this.#size); count > 0 && head < this.#size; count--) {
      this.returned(head);
      head = halves[(DESCS + DESC_SIZE * head + NEXT) / 2] ?? 0;
    }
    Atomics.store(halves, USED_IDX / 2, usedIdx);
  }

  #counterOf(head: number): number {
    const at = (DESCS + DESC_SIZE * head + COUNTER) / 4;
    return (this.#words[at] ?? 0) + (this.#words[at + 1] ?? 0) * 0x1_0000_0000;
  }
}
