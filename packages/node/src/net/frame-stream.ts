/**
 * The wire format of QEMU's `-netdev stream`: each frame behind its length, 4 bytes, big-endian.
 */

/** Bytes of the longest frame: QEMU's NET_BUFSIZE, a 64 KiB packet with its headers. */
export const MAX_FRAME: number = 4096 + 65536;
export const LENGTH_SIZE = 4;

/** `done`: all was taken. `full`: `take` refused a frame. `broken`: a length that no frame can have. */
export type ReadResult = "done" | "full" | "broken";

const NOTHING = new Uint8Array(0);

/**
 * Cuts a stream into frames. `take` is called with each; a frame lies inside the chunk it came in, or in a buffer of
 * the reader when it came in pieces, and is valid during the call. Empty frames are skipped.
 */
export class FrameReader {
  /** Returns false when it has no room; the same frame is then offered again by `resume`. */
  readonly #take: (frame: Uint8Array) => boolean;
  /** A frame that came in pieces, with its length in front. */
  readonly #pieces: Uint8Array = new Uint8Array(LENGTH_SIZE + MAX_FRAME);
  #have = 0;
  #chunk: Uint8Array = NOTHING;
  #at = 0;
  #running = false;

  constructor(take: (frame: Uint8Array) => boolean) {
    this.#take = take;
  }

  /** Not to be called while a refused frame waits. The chunk is the reader's until the result is `done`. */
  push(chunk: Uint8Array): ReadResult {
    this.#chunk = chunk;
    this.#at = 0;
    return this.resume();
  }

  resume(): ReadResult {
    // The one who takes frames may ask for more from inside `take`: the loop below goes on anyway.
    if (this.#running) return "done";
    this.#running = true;
    try {
      for (;;) {
        const result = this.#have > 0 ? this.#fromPieces() : this.#fromChunk();
        if (result === "next") continue;
        if (result !== "full") this.#chunk = NOTHING;
        return result;
      }
    } finally {
      this.#running = false;
    }
  }

  /** Forgets everything: the connection ended. */
  reset(): void {
    this.#have = 0;
    this.#chunk = NOTHING;
    this.#at = 0;
  }

  #fromChunk(): ReadResult | "next" {
    const rest = this.#chunk.length - this.#at;
    if (rest === 0) return "done";
    if (rest < LENGTH_SIZE) return this.#collect(LENGTH_SIZE);
    const length = frameLength(this.#chunk, this.#at);
    if (length > MAX_FRAME) return "broken";
    if (rest < LENGTH_SIZE + length) return this.#collect(LENGTH_SIZE + length);
    const start = this.#at + LENGTH_SIZE;
    if (length > 0 && !this.#take(this.#chunk.subarray(start, start + length))) return "full";
    this.#at = start + length;
    return "next";
  }

  #fromPieces(): ReadResult | "next" {
    if (this.#have < LENGTH_SIZE) return this.#collect(LENGTH_SIZE);
    const length = frameLength(this.#pieces, 0);
    if (length > MAX_FRAME) return "broken";
    if (this.#have < LENGTH_SIZE + length) return this.#collect(LENGTH_SIZE + length);
    if (length > 0 && !this.#take(this.#pieces.subarray(LENGTH_SIZE, LENGTH_SIZE + length))) return "full";
    this.#have = 0;
    return "next";
  }

  /** Moves bytes to the pieces until there are `wanted`. */
  #collect(wanted: number): ReadResult | "next" {
    const piece = this.#chunk.subarray(this.#at, this.#at + wanted - this.#have);
    if (piece.length === 0) return "done";
    this.#pieces.set(piece, this.#have);
    this.#have += piece.length;
    this.#at += piece.length;
    return "next";
  }
}

export function writeFrameLength(target: Uint8Array, offset: number, length: number): void {
  target[offset] = length >>> 24;
  target[offset + 1] = length >>> 16;
  target[offset + 2] = length >>> 8;
  target[offset + 3] = length;
}

function frameLength(bytes: Uint8Array, at: number): number {
  return (
    (((bytes[at] ?? 0) << 24) |
      ((bytes[at + 1] ?? 0) << 16) |
      ((bytes[at + 2] ?? 0) << 8) |
      (bytes[at + 3] ?? 0)) >>>
    0
  );
}
