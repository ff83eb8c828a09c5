import { wholeOption } from "../check-option.ts";
import type { Segment } from "../memory/guest-memory.ts";
import type { DmaMemory } from "./types.ts";
import type { DriverVirtqueue } from "./virtqueue.ts";

/** One buffer that goes back and forth between driver and device. */
export interface ReceiveBuffer {
  readonly segment: Segment;
}

interface Entry extends ReceiveBuffer {
  readonly segments: readonly Segment[];
  readonly done: (written: number, error?: Error) => void;
}

/** Called for each used buffer, in order; it is the driver's until it is given back. */
export type ReceiveHandler = (buffer: ReceiveBuffer, written: number) => void;

const NOTHING: readonly Segment[] = [];

/** The buffers of one receive queue: allocated once, used again and again. */
export class ReceiveBuffers {
  readonly #queue: DriverVirtqueue;
  readonly #memory: DmaMemory;
  readonly #count: number;

  /** `count` buffers, or as many as the queue has room for, of `size` bytes, given to the device at once; `kick` tells it. */
  constructor(
    queue: DriverVirtqueue,
    memory: DmaMemory,
    count: number,
    size: number,
    onUsed: ReceiveHandler,
  ) {
    wholeOption("receive buffers: count", count, 1, Number.MAX_SAFE_INTEGER);
    wholeOption("receive buffers: size", size, 1, 2 ** 32 - 1);
    this.#queue = queue;
    this.#memory = memory;
    this.#count = Math.min(count, queue.size);
    for (let i = 0; i < this.#count; i++) {
      const segment = { gpa: memory.allocate(size, 8), length: size };
      const entry: Entry = {
        segment,
        segments: [segment],
        done: (written, error) => {
          if (error === undefined) onUsed(entry, written);
        },
      };
      this.give(entry);
    }
  }

  /** How many there are. */
  get count(): number {
    return this.#count;
  }

  /** The first `length` bytes of a used buffer. */
  copy(buffer: ReceiveBuffer, length: number): Uint8Array {
    // Not `slice`: of a Node Buffer that is no copy.
    return new Uint8Array(this.#memory.view(buffer.segment.gpa, length));
  }

  /** Back to the device; `kick` tells it. */
  give(buffer: ReceiveBuffer): void {
    const entry = buffer as Entry;
    this.#queue.post(NOTHING, entry.segments, entry.done);
  }

  kick(): void {
    this.#queue.kick();
  }
}
