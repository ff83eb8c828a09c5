import type { MaybePromise } from "../../device/device.ts";

/** The largest piece of a request that an asynchronous backend sees. */
export const BOUNCE_PIECE: number = 2 ** 20;
/** What all requests of one device may hold together; further ones wait their turn. */
const BOUNCE_LIMIT: number = 16 * BOUNCE_PIECE;
/** Buffers are powers of two from here on, so that a freed one fits the next request. */
const SMALLEST = 4096;

/**
 * Buffers for asynchronous backends: guest memory can move, or become the driver's again by a reset, while a backend
 * works. Bounded in all; first come, first served.
 */
export class BouncePool {
  #taken = 0;
  #kept = 0;
  readonly #free = new Map<number, Uint8Array[]>();
  readonly #waiting: { readonly size: number; readonly give: (buffer: Uint8Array) => void }[] = [];

  /** At least `length` bytes, which is at most BOUNCE_PIECE. */
  take(length: number): MaybePromise<Uint8Array> {
    const size = 2 ** Math.ceil(Math.log2(Math.max(length, SMALLEST)));
    if (this.#waiting.length === 0 && this.#taken + size <= BOUNCE_LIMIT) return this.#grant(size);
    return new Promise((give) => this.#waiting.push({ size, give }));
  }

  give(buffer: Uint8Array): void {
    this.#taken -= buffer.length;
    if (this.#kept + buffer.length <= BOUNCE_LIMIT) {
      this.#kept += buffer.length;
      const list = this.#free.get(buffer.length);
      if (list === undefined) this.#free.set(buffer.length, [buffer]);
      else list.push(buffer);
    }
    for (let next = this.#waiting[0]; next !== undefined; next = this.#waiting[0]) {
      if (this.#taken + next.size > BOUNCE_LIMIT) return;
      this.#waiting.shift();
      next.give(this.#grant(next.size));
    }
  }

  #grant(size: number): Uint8Array {
    this.#taken += size;
    const kept = this.#free.get(size)?.pop();
    if (kept === undefined) return new Uint8Array(size);
    this.#kept -= size;
    return kept;
  }
}
