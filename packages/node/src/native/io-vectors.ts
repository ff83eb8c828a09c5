import { addressOf } from "./address.ts";
import type { Address } from "./libc.ts";

/** IOV_MAX. */
export const MAX_VECTORS = 1024;
const SIZE = 16;
const HALF = 0x1_0000_0000;

/** An array of `struct iovec` that stays where it is. */
export class IoVectors {
  readonly #words: Uint32Array;
  readonly #address: Address;

  constructor(count: number = MAX_VECTORS) {
    this.#words = new Uint32Array(new SharedArrayBuffer(count * SIZE));
    this.#address = addressOf(new Uint8Array(this.#words.buffer));
  }

  /** Sets as many from `first` on as there are buffers; gives the address of the first. */
  set(first: number, buffers: readonly Uint8Array[], count: number): Address {
    for (let i = 0; i < count; i++) {
      const buffer = buffers[i];
      if (buffer === undefined) break;
      const address = addressOf(buffer);
      const at = 4 * (first + i);
      this.#words[at] = address % HALF;
      this.#words[at + 1] = address / HALF;
      this.#words[at + 2] = buffer.length;
    }
    return this.#address + SIZE * first;
  }
}
