import { nextTurn } from "../../driver/turn.ts";
import type { DmaMemory } from "../../driver/types.ts";
import type { DriverVirtqueue } from "../../driver/virtqueue.ts";
import { writeLe16, writeLe64 } from "../../memory/bytes.ts";
import type { Gpa } from "../../memory/guest-memory.ts";
import {
  VIRTIO_BALLOON_STAT as STAT,
  VIRTIO_BALLOON_STAT_SIZE,
  VIRTIO_BALLOON_S_AVAIL,
  VIRTIO_BALLOON_S_CACHES,
  VIRTIO_BALLOON_S_HTLB_PGALLOC,
  VIRTIO_BALLOON_S_HTLB_PGFAIL,
  VIRTIO_BALLOON_S_MAJFLT,
  VIRTIO_BALLOON_S_MEMFREE,
  VIRTIO_BALLOON_S_MEMTOT,
  VIRTIO_BALLOON_S_MINFLT,
  VIRTIO_BALLOON_S_SWAP_IN,
  VIRTIO_BALLOON_S_SWAP_OUT,
} from "../../spec/balloon.ts";

/** What the device may be told about memory ("Memory Statistics Tags"); amounts are in bytes. */
export interface BalloonStatistics {
  readonly swapIn?: number;
  readonly swapOut?: number;
  readonly majorFaults?: number;
  readonly minorFaults?: number;
  /** Memory not used for any purpose. */
  readonly free?: number;
  readonly total?: number;
  /** What could be given to new applications without swapping. */
  readonly available?: number;
  /** What can be reclaimed without I/O. */
  readonly caches?: number;
  readonly hugePageAllocations?: number;
  readonly hugePageFailures?: number;
}

/** Gives the numbers of now. Those that it gives first are those that are sent, for ever. */
export type StatisticsSource = () => BalloonStatistics | Promise<BalloonStatistics>;

const TAGS: Readonly<Record<keyof BalloonStatistics, number>> = {
  swapIn: VIRTIO_BALLOON_S_SWAP_IN,
  swapOut: VIRTIO_BALLOON_S_SWAP_OUT,
  majorFaults: VIRTIO_BALLOON_S_MAJFLT,
  minorFaults: VIRTIO_BALLOON_S_MINFLT,
  free: VIRTIO_BALLOON_S_MEMFREE,
  total: VIRTIO_BALLOON_S_MEMTOT,
  available: VIRTIO_BALLOON_S_AVAIL,
  caches: VIRTIO_BALLOON_S_CACHES,
  hugePageAllocations: VIRTIO_BALLOON_S_HTLB_PGALLOC,
  hugePageFailures: VIRTIO_BALLOON_S_HTLB_PGFAIL,
};
const NAMES = Object.keys(TAGS) as (keyof BalloonStatistics)[];
/** No device knows it, and "the device MUST ignore entries with tag values that it does not recognize". */
const PADDING_TAG = 0xffff;
/** Entries have 10 bytes, and a buffer must have a multiple of 6: so their number is a multiple of 3. */
const GRANULE = 3;

/** The statistics virtqueue: one buffer, which the device uses when it wants the next. */
export class StatisticsSender {
  readonly #queue: DriverVirtqueue;
  readonly #memory: DmaMemory;
  readonly #source: StatisticsSource;
  readonly #names: readonly (keyof BalloonStatistics)[];
  readonly #length: number;
  readonly #gpa: Gpa;
  readonly #last: Record<string, number> = {};
  #ended = false;

  constructor(queue: DriverVirtqueue, memory: DmaMemory, source: StatisticsSource, first: BalloonStatistics) {
    this.#queue = queue;
    this.#memory = memory;
    this.#source = source;
    this.#names = NAMES.filter((name) => first[name] !== undefined);
    const entries = Math.max(1, Math.ceil(this.#names.length / GRANULE)) * GRANULE;
    this.#length = entries * VIRTIO_BALLOON_STAT_SIZE;
    this.#gpa = memory.allocate(this.#length, 8);
    this.#post(first);
  }

  /** The memory is not ours any more. */
  end(): void {
    this.#ended = true;
  }

  #post(statistics: BalloonStatistics): void {
    const bytes = this.#memory.view(this.#gpa, this.#length).fill(0);
    for (let at = 0, i = 0; at < this.#length; at += VIRTIO_BALLOON_STAT_SIZE, i++) {
      const name = this.#names[i];
      writeLe16(bytes, at + STAT.tag, name === undefined ? PADDING_TAG : TAGS[name]);
      if (name === undefined) continue;
      // "Driver MUST supply the same subset of statistics in all buffers": what is not known now stays as it was.
      const value = (this.#last[name] = statistics[name] ?? this.#last[name] ?? 0);
      writeLe64(bytes, at + STAT.val, Math.max(0, Math.min(Math.trunc(value), Number.MAX_SAFE_INTEGER)));
    }
    this.#queue.post([{ gpa: this.#gpa, length: this.#length }], [], (_written, error) => {
      if (error === undefined) void this.#next();
    });
    this.#queue.kick();
  }

  async #next(): Promise<void> {
    // A device that asks without a pause gets an answer a turn, and others get theirs.
    await nextTurn();
    // What the source cannot tell, the device does not need: it gets the numbers of before.
    const statistics = await Promise.resolve()
      .then(this.#source)
      .catch(() => ({}));
    if (!this.#ended) this.#post(statistics);
  }
}
