import type { Gpa } from "../memory/guest-memory.ts";
import { abortReason, throwIfAborted } from "./abort.ts";
import type { DmaMemory } from "./types.ts";
import type { CancelSignal } from "./virtqueue.ts";

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
  #count = 0;
  readonly #free: Gpa[] = [];
  readonly #waiting: Waiting[] = [];
  #closed: Error | undefined;

  constructor(memory: DmaMemory, limit: number, size: number, alignment: number) {
    this.#memory = memory;
    this.#limit = limit;
    this.size = size;
    this.#alignment = alignment;
  }

  /**
   * A block, with whatever it held before. Rejects when there is no DMA memory, after `fail`, and on abort; who gave up is not in
   * line any more.
   */
  async take(signal?: CancelSignal): Promise<Gpa> {
    throwIfAborted(signal);
    if (this.#closed !== undefined) throw this.#closed;
    const block = this.#free.pop();
    if (block !== undefined) return block;
    if (this.#count >= this.#limit) return this.#wait(signal);
    const fresh = this.#memory.allocate(this.size, this.#alignment);
    this.#count++;
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

  #wait(signal: CancelSignal | undefined): Promise<Gpa> {
    return new Promise((resolve, reject) => {
      const end = (): void => signal?.removeEventListener("abort", aborted);
      const waiting: Waiting = {
        give: (block) => {
          end();
          resolve(block);
        },
        fail: (error) => {
          end();
          reject(error);
        },
      };
      const aborted = (): void => {
        const at = this.#waiting.indexOf(waiting);
        if (at < 0 || signal === undefined) return;
        this.#waiting.splice(at, 1);
        waiting.fail(abortReason(signal));
      };
      this.#waiting.push(waiting);
      signal?.addEventListener("abort", aborted);
    });
  }
}
