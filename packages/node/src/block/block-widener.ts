import type { BlockCompletion } from "virtio/backends/block";
import { totalLength } from "./buffers.ts";
import { type LockedRange, RangeLock } from "./range-lock.ts";
import { Scatter } from "./scatter.ts";

/** A disk that only takes whole blocks, at multiples of their size. What fails rejects. */
export interface WholeBlocks {
  read(offset: number, target: Uint8Array): Promise<void>;
  write(offset: number, source: Uint8Array): Promise<void>;
  /** A buffer of that many bytes, which lies in memory as `read` and `write` want it. */
  buffer(length: number): Uint8Array;
}

/** Requests go through a buffer in pieces of so many bytes, a multiple of every block size. */
const PIECE: number = 256 * 1024;

/**
 * Requests of any place and length on a disk that only takes whole blocks: a request is widened to the blocks that it
 * touches, as QEMU does it.
 *
 * ```
 *   blocks    |       |       |       |       |
 *   request        [=================]
 *   read      [-----------------------]             and the middle is copied out
 *   write     [read ]         [read  ]              what stands beside the request
 *             [=======================]             is written back with it
 * ```
 *
 * Nobody else may change a block between the read and the write, or that change would be lost. So every write says
 * which bytes it works on: whole blocks side by side, a widened write alone.
 */
export class BlockWidener {
  readonly #blocks: WholeBlocks;
  readonly #mask: number;
  readonly #lock = new RangeLock();
  /** Those that are not in use. */
  readonly #shared: SharedWrite[] = [];

  /** `block`: bytes, a power of two. */
  constructor(blocks: WholeBlocks, block: number) {
    this.#blocks = blocks;
    this.#mask = block - 1;
  }

  /** Whether the request is whole blocks already. The bits that count are below the 32 that `|` keeps. */
  isWhole(offset: number, length: number): boolean {
    return ((offset | length) & this.#mask) === 0;
  }

  async read(offset: number, targets: readonly Uint8Array[]): Promise<void> {
    const scatter = new Scatter(targets);
    for (let at = offset; scatter.left > 0;) {
      const { start, length, skip, size } = this.#piece(at, scatter.left);
      const bytes = this.#blocks.buffer(length);
      await this.#blocks.read(start, bytes);
      scatter.put(bytes.subarray(skip, skip + size));
      at += size;
    }
  }

  async write(offset: number, sources: readonly Uint8Array[]): Promise<void> {
    const length = totalLength(sources);
    if (length === 0) return;
    const scatter = new Scatter(sources);
    await this.exclusively(offset, length, async () => {
      for (let at = offset; scatter.left > 0;) at += await this.#writePiece(at, scatter);
    });
  }

  /**
   * For a write of whole blocks that needs no widening: calls `begin` when no widened write is in its way, with the
   * completion that it must tell. Returns what `begin` returned, or false when that has to wait.
   */
  share(
    offset: number,
    length: number,
    completion: BlockCompletion,
    begin: (completion: BlockCompletion) => boolean,
  ): boolean {
    const write = this.#shared.pop() ?? new SharedWrite(this.#lock, this.#shared);
    return write.start(offset, length, completion, begin);
  }

  /** Runs `work` when nobody else changes the blocks of these bytes, and keeps others off until it has ended. */
  exclusively(offset: number, length: number, work: () => Promise<void>): Promise<void> {
    return this.#locked(offset, length, true, work);
  }

  /** Runs a write of whole blocks when no widened write is in its way. */
  sharing(offset: number, length: number, work: () => Promise<void>): Promise<void> {
    return this.#locked(offset, length, false, work);
  }

  async #locked(
    offset: number,
    length: number,
    exclusive: boolean,
    work: () => Promise<void>,
  ): Promise<void> {
    const [start, end] = [this.#floor(offset), this.#floor(offset + length + this.#mask)];
    let grant = (): void => {};
    const range = this.#lock.enter(start, end, exclusive, () => grant());
    try {
      if (range.waiting) await new Promise<void>((resolve) => (grant = resolve));
      await work();
    } finally {
      this.#lock.leave(range);
    }
  }

  /** Returns how many bytes of the request it wrote. */
  async #writePiece(at: number, scatter: Scatter): Promise<number> {
    const { start, length, skip, size } = this.#piece(at, scatter.left);
    const bytes = this.#blocks.buffer(length);
    const block = this.#mask + 1;
    if (skip > 0) await this.#blocks.read(start, bytes.subarray(0, block));
    const last = length - block;
    const cut = skip + size < length;
    // One block may be cut at both ends; it is read once.
    if (cut && (skip === 0 || last > 0)) await this.#blocks.read(start + last, bytes.subarray(last));
    scatter.take(bytes.subarray(skip, skip + size));
    await this.#blocks.write(start, bytes);
    return size;
  }

  /** The blocks of the next piece of a request, and where in them its bytes are. */
  #piece(at: number, left: number): { start: number; length: number; skip: number; size: number } {
    const start = this.#floor(at);
    const skip = at - start;
    const size = Math.min(left, PIECE - skip);
    return { start, length: this.#floor(skip + size + this.#mask), skip, size };
  }

  /** Not by bits, for offsets of large disks have more than 32 of them. */
  #floor(offset: number): number {
    return offset - (offset % (this.#mask + 1));
  }
}

/** A write of whole blocks, from its place in the lock to its end. Used again for others. */
class SharedWrite implements BlockCompletion {
  readonly #lock: RangeLock;
  readonly #pool: SharedWrite[];
  #range: LockedRange | undefined;
  #completion: BlockCompletion | undefined;
  #begin: ((completion: BlockCompletion) => boolean) | undefined;

  constructor(lock: RangeLock, pool: SharedWrite[]) {
    this.#lock = lock;
    this.#pool = pool;
  }

  start(
    offset: number,
    length: number,
    completion: BlockCompletion,
    begin: (completion: BlockCompletion) => boolean,
  ): boolean {
    this.#completion = completion;
    const range = this.#lock.enter(offset, offset + length, false, this.#granted);
    this.#range = range;
    if (!range.waiting) return this.#run(begin);
    this.#begin = begin;
    return false;
  }

  done(error?: unknown): void {
    const completion = this.#completion;
    this.#leave();
    completion?.done(error);
  }

  readonly #granted = (): void => {
    const begin = this.#begin;
    this.#begin = undefined;
    if (begin === undefined) return;
    const completion = this.#completion;
    try {
      if (this.#run(begin)) completion?.done();
    } catch (error) {
      completion?.done(error);
    }
  };

  #run(begin: (completion: BlockCompletion) => boolean): boolean {
    let done = true;
    try {
      done = begin(this);
    } finally {
      // What is done at once, or throws, tells no completion.
      if (done) this.#leave();
    }
    return done;
  }

  #leave(): void {
    const range = this.#range;
    this.#range = this.#completion = undefined;
    this.#pool.push(this);
    if (range !== undefined) this.#lock.leave(range);
  }
}
