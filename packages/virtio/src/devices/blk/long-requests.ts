import type { BlockCompletion } from "../../backends/block.ts";
import type { DeviceContext, MaybePromise } from "../../device/device.ts";
import { VIRTIO_BLK_SECTOR_SIZE as SECTOR } from "../../spec/blk.ts";
import type { BlkRange } from "./request.ts";

/** A request of more bytes is done piece by piece: to copy so many takes about a millisecond. */
export const LONG_BYTES: number = 2 ** 22;
/** Bytes of a piece: much less than a turn of the event loop has time for. */
export const PIECE: number = 2 ** 18;
/** A discard only keeps books. */
export const DISCARD_PIECE: number = 2 ** 26;

/** What is to be done to ranges of the disk, one after the other. */
export interface Pieces {
  readonly ranges: readonly BlkRange[];
  /** Bytes that are done at once, a power of two and a multiple of every block size. */
  readonly piece: number;
  /** Does so many bytes at `offset` of the disk, which are a part of `range`; `at`: how many were done before. */
  readonly move: (offset: number, length: number, at: number, range: BlkRange) => MaybePromise<void>;
}

/** A request that was found to be right and is done in pieces. */
export interface LongRequest extends Pieces {
  /** False: the driver has taken the chain back, and nothing of it may be touched. */
  readonly alive: () => boolean;
  readonly completion: BlockCompletion;
}

interface Progress {
  readonly request: LongRequest;
  range: number;
  /** Bytes of this range. */
  done: number;
  /** Bytes of all ranges. */
  at: number;
}

/**
 * The requests of one device that are too long for one go. They are done piece by piece in what time the device has in each turn
 * of the event loop, the oldest first, so that a device takes one share however many of them its driver has made. Where a backend
 * answers a piece with a promise, the others go on meanwhile.
 */
export class LongRequests {
  readonly #waiting: Progress[] = [];
  #runs = false;

  add(context: DeviceContext, request: LongRequest): void {
    this.#go(context, { request, range: 0, done: 0, at: 0 });
  }

  #go(context: DeviceContext, progress: Progress): void {
    this.#waiting.push(progress);
    if (this.#runs) return;
    this.#runs = true;
    context.inTurns(() => this.#step(context));
  }

  /** One piece. True: there is nothing more to do now. */
  #step(context: DeviceContext): boolean {
    const progress = this.#waiting[0];
    if (progress === undefined) {
      this.#runs = false;
      return true;
    }
    const { completion } = progress.request;
    try {
      const pending = movePiece(progress);
      if (pending === undefined) return false;
      this.#waiting.shift();
      if (pending === "done") completion.done();
      else
        pending.then(
          () => this.#go(context, progress),
          (error: unknown) => completion.done(error ?? new Error("the backend failed")),
        );
    } catch (error) {
      this.#waiting.shift();
      completion.done(error);
    }
    return false;
  }
}

/** Undefined: there is more. */
function movePiece(progress: Progress): MaybePromise<void> | "done" {
  const { ranges, piece, move, alive } = progress.request;
  const range = ranges[progress.range];
  if (range === undefined || !alive()) return "done";
  const offset = range.sector * SECTOR + progress.done;
  const left = range.sectors * SECTOR - progress.done;
  // Cut where storage may be released in one: at multiples of the piece.
  const length = Math.min(left, piece - (offset % piece));
  const { at } = progress;
  progress.at += length;
  progress.done += length;
  if (length === left) {
    progress.range++;
    progress.done = 0;
  }
  if (length > 0) return move(offset, length, at, range);
}
