import { totalLength } from "./buffers.ts";

/** Goes through a list of buffers as if they were one. */
export class Scatter {
  /** Bytes that were not moved yet. */
  left: number;
  readonly #buffers: readonly Uint8Array[];
  #index = 0;
  #at = 0;

  constructor(buffers: readonly Uint8Array[]) {
    // The list is the caller's again soon.
    this.#buffers = [...buffers];
    this.left = totalLength(buffers);
  }

  /** Fills the next bytes of the list from `piece`. */
  put(piece: Uint8Array): void {
    this.#move(piece, (bytes, part) => bytes.set(part));
  }

  /** Fills `piece` from the next bytes of the list. */
  take(piece: Uint8Array): void {
    this.#move(piece, (bytes, part) => part.set(bytes));
  }

  #move(piece: Uint8Array, copy: (bytes: Uint8Array, part: Uint8Array) => void): void {
    for (let done = 0; done < piece.length;) {
      const buffer = this.#buffers[this.#index];
      if (buffer === undefined) break;
      const size = Math.min(piece.length - done, buffer.length - this.#at);
      copy(buffer.subarray(this.#at, this.#at + size), piece.subarray(done, done + size));
      done += size;
      this.#at += size;
      if (this.#at === buffer.length) {
        this.#index++;
        this.#at = 0;
      }
    }
    this.left -= piece.length;
  }
}
