import type { Gpa } from "../memory/guest-memory.ts";
import type { DmaMemory } from "./types.ts";

/**
 * What one driver has of the machine's DMA memory: it remembers every piece, so that all of it goes back at once when the device
 * was reset, whatever the driver was doing then.
 */
export class LentMemory implements DmaMemory {
  readonly #pool: DmaMemory;
  /** Lengths by address. */
  readonly #pieces = new Map<Gpa, number>();
  #over: Error | undefined;

  constructor(pool: DmaMemory) {
    this.#pool = pool;
  }

  get epoch(): number {
    return this.#pool.epoch;
  }

  view(gpa: Gpa, length: number): Uint8Array {
    return this.#pool.view(gpa, length);
  }

  contiguous(gpa: Gpa, length: number, writable?: boolean): number {
    return this.#pool.contiguous(gpa, length, writable);
  }

  wrote(gpa: Gpa, length: number): void {
    this.#pool.wrote(gpa, length);
  }

  /** As the pool's; throws why the driver has ended when it has. */
  allocate(length: number, alignment: number): Gpa {
    if (this.#over !== undefined) throw this.#over;
    const gpa = this.#pool.allocate(length, alignment);
    if (length > 0) this.#pieces.set(gpa, length);
    return gpa;
  }

  /** A piece as it was allocated. Does nothing when all went back already. Throws a RangeError for what was not allocated here. */
  free(gpa: Gpa, length: number): void {
    if (this.#over !== undefined || length === 0) return;
    if (this.#pieces.get(gpa) !== length)
      throw new RangeError(`${length} bytes at ${gpa} were not allocated by this driver`);
    this.#pieces.delete(gpa);
    this.#pool.free(gpa, length);
  }

  /** Nothing is given out or taken back any more; the device still has what was. */
  end(reason: Error): void {
    this.#over ??= reason;
  }

  /** Gives everything back to the pool; only when the device was reset, or is gone. */
  giveBack(): void {
    for (const [gpa, length] of this.#pieces) this.#pool.free(gpa, length);
    this.#pieces.clear();
  }
}
