import type { BlockBackend } from "../../backends/block.ts";
import { SegmentReader, SegmentWriter } from "../../memory/cursor.ts";
import type { GuestMemory, Segment } from "../../memory/guest-memory.ts";
import { BOUNCE_PIECE, BouncePool } from "./bounce.ts";

/** Whether the request is still the device's: false after a reset of the device or the queue. */
export type Alive = () => boolean;

/**
 * Data of an asynchronous backend, through buffers of ours, piece by piece. Views of guest memory are only made between
 * two awaits, and none after a reset.
 */
export class BounceTransfer {
  readonly #backend: BlockBackend;
  readonly #pool = new BouncePool();

  constructor(backend: BlockBackend) {
    this.#backend = backend;
  }

  /** As `DirectTransfer.read`. */
  async read(
    offset: number,
    length: number,
    memory: GuestMemory,
    segments: readonly Segment[],
    skip: number,
    alive: Alive,
  ): Promise<void> {
    const writer = new SegmentWriter(memory).start(segments);
    writer.skip(skip);
    await this.#pieces(offset, length, alive, async (at, piece) => {
      await this.#backend.read(at, piece);
      if (alive()) writer.copy(piece);
    });
  }

  /** As `DirectTransfer.write`. */
  async write(
    offset: number,
    length: number,
    memory: GuestMemory,
    segments: readonly Segment[],
    skip: number,
    alive: Alive,
  ): Promise<void> {
    const reader = new SegmentReader(memory).start(segments);
    reader.skip(skip);
    await this.#pieces(offset, length, alive, async (at, piece) => {
      reader.copy(piece);
      await this.#backend.write(at, piece);
    });
  }

  async #pieces(
    offset: number,
    length: number,
    alive: Alive,
    move: (at: number, piece: Uint8Array) => Promise<void>,
  ): Promise<void> {
    for (let done = 0; done < length && alive();) {
      const size = Math.min(length - done, BOUNCE_PIECE);
      const buffer = await this.#pool.take(size);
      try {
        if (alive()) await move(offset + done, buffer.subarray(0, size));
      } finally {
        this.#pool.give(buffer);
      }
      done += size;
    }
  }
}
