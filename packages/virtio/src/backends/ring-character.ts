import { wholeOption } from "../check-option.ts";
import type { CharacterBackend, CharacterPort } from "./character.ts";

const DEFAULT_SIZE = 1 << 16;
/** Bytes: every engine makes a buffer of that size, where there is memory for it. */
const MAX_SIZE = 2 ** 31 - 1;

/** Keeps the newest bytes of a guest's output: QEMU's `-chardev ringbuf`. */
export class RingCharacterBackend implements CharacterBackend {
  readonly #bytes: Uint8Array;
  /** Bytes ever written. */
  #written = 0;
  /** Bytes ever read or overwritten. */
  #read = 0;

  /** `size`: bytes that are kept, up to 2^31 - 1, 64 KiB when not given. */
  constructor(size: number = DEFAULT_SIZE) {
    this.#bytes = new Uint8Array(wholeOption("ring of characters: size", size, 1, MAX_SIZE));
  }

  attach(port: CharacterPort | undefined): void {
    port?.setOpen(true);
  }

  /** Always takes all; the oldest bytes make room. */
  write(bytes: Uint8Array): number {
    const size = this.#bytes.length;
    const kept = bytes.length > size ? bytes.subarray(bytes.length - size) : bytes;
    const start = (this.#written + bytes.length - kept.length) % size;
    const first = Math.min(kept.length, size - start);
    this.#bytes.set(kept.subarray(0, first), start);
    this.#bytes.set(kept.subarray(first), 0);
    this.#written += bytes.length;
    this.#read = Math.max(this.#read, this.#written - size);
    return bytes.length;
  }

  /** Takes out what is there, oldest first, at most `limit` bytes. */
  read(limit: number = Infinity): Uint8Array {
    if (limit !== Infinity) wholeOption("ring of characters: limit", limit, 0, Number.MAX_SAFE_INTEGER);
    const size = this.#bytes.length;
    const length = Math.min(limit, this.#written - this.#read);
    const start = this.#read % size;
    const result = new Uint8Array(length);
    const first = Math.min(length, size - start);
    result.set(this.#bytes.subarray(start, start + first));
    result.set(this.#bytes.subarray(0, length - first), first);
    this.#read += length;
    return result;
  }
}
