import type { Mapping } from "@virtio/node/native/mapping";
import { LOG_PAGE } from "../protocol/numbers.ts";

/** The front-end's bitmap of pages that were written while it migrates the guest: one bit a page, from address 0 on. */
export class DirtyLog {
  readonly #mapping: Mapping;
  readonly #bits: Uint8Array;

  constructor(mapping: Mapping) {
    this.#mapping = mapping;
    this.#bits = mapping.view(0, mapping.length);
  }

  /** Pages beyond the log are the front-end's mistake and have no bit. True: a bit was not set before. */
  mark(guestAddress: number, length: number): boolean {
    if (length <= 0) return false;
    const last = Math.min(Math.floor((guestAddress + length - 1) / LOG_PAGE), this.#bits.length * 8 - 1);
    let news = false;
    for (let page = Math.floor(guestAddress / LOG_PAGE); page <= last; page++) {
      const bit = 1 << (page & 7);
      const at = Math.floor(page / 8);
      // "Use atomic operations, as the log may be concurrently manipulated."
      if ((Atomics.load(this.#bits, at) & bit) === 0) {
        Atomics.or(this.#bits, at, bit);
        news = true;
      }
    }
    return news;
  }

  close(): void {
    this.#mapping.unmap();
  }
}
