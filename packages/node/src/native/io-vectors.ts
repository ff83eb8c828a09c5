import { addressOf } from "./address.ts";
import type { Address } from "./libc.ts";

/** IOV_MAX. */
export const MAX_VECTORS = 1024;
const HALF = 0x1_0000_0000;

/** An array of `struct iovec` that stays where it is. */
export class IoVectors {
  readonly #words = new Uint32Array(new SharedArrayBuffer(MAX_VECTORS * 16));
  /** Of the first one. */
  readonly address: Address = addressOf(new Uint8Array(this.#words.buffer));

  set(index: number, address: Address, length: number): void {
    const at = 4 * index;
    this.#words[at] = address % HALF;
    this.#words[at + 1] = address / HALF;
    this.#words[at + 2] = length;
  }
}
