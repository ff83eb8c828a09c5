import type { Gpa } from "../memory/guest-memory.ts";
import type { DmaMemory } from "./types.ts";

interface Waiting {
  readonly give: (block: Gpa) => void;
  readonly fail: (error: Error) => void;
}

/**
 * A bounded set of DMA blocks of one size, one for each request in flight. They are allocated when first needed; who
 * finds none free waits in line.
 */
export class DmaBlocks {
  /** Bytes of one. */
  readonly size: number;
  readonly #memory: DmaMemory;
  readonly #limit: number;
  readonly #alignment: number;
  readonly #all: Gpa[] = [];
  readonly #free: Gpa[] = [];
  readonly #waiting: Waiting[] = [];
  #closed: Error | undefined;

  constructor(memory: DmaMemory, limit: number, size: number, alignment: number) {
    this.#memory = memory;
    this.#limit = limit;
    this.size = size;
    this.#alignment = alignment;
  }

  /** A block, with whatever it held before. Rejects when there is no DMA memory, and after `fail`. */
  async take(): Promise<Gpa> {
    if (this.#closed !== undefined) throw this.#closed;
    const block = this.#free.pop();
    if (block !== undefined) return block;
    if (this.#all.length >= this.#limit)
      return new Promise((give, fail) => this.#waiting.push({ give, fail }));
    const fresh = this.#memory.allocate(this.size, this.#alignment);
    this.#all.push(fresh);
    return fresh;
  }

  /** Only when the device has let go of it. */
  give(block: Gpa): void {
    const next = this.#waiting.shift();
    if (next === undefined) this.#free.push(block);
    else next.give(block);
  }

  /** Ends what waits; for a device that is gone. */
  fail(reason: Error): void {
    this.#closed ??= reason;
    for (const { fail } of this.#waiting.splice(0)) fail(this.#closed);
  }

  /** Only when the device was reset. */
  free(): void {
    for (const block of this.#all.splice(0)) this.#memory.free(block, this.size);
    this.#free.length = 0;
  }
}
