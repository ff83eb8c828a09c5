/** Bytes of a file that are kept as one piece. */
export const CHUNK_SIZE = 262_144;
const SMALLEST = 64;

/** What the pieces of all files of one file system take together. */
export interface SpaceBudget {
  /** Takes bytes or throws ENOSPC; a negative number gives back. */
  charge(bytes: number): void;
}

/** The contents of one file in memory: sparse, in chunks that are allocated when they are written. */
export class MemoryFile {
  readonly #chunks = new Map<number, Uint8Array>();
  readonly #budget: SpaceBudget;
  #size = 0;
  #allocated = 0;

  constructor(budget: SpaceBudget) {
    this.#budget = budget;
  }

  get size(): number {
    return this.#size;
  }

  /** Bytes of memory. */
  get allocated(): number {
    return this.#allocated;
  }

  read(offset: number, target: Uint8Array): number {
    const length = Math.min(target.length, this.#size - offset);
    if (length <= 0) return 0;
    for (let done = 0; done < length;) {
      const at = (offset + done) % CHUNK_SIZE;
      const step = Math.min(length - done, CHUNK_SIZE - at);
      const chunk = this.#chunks.get((offset + done - at) / CHUNK_SIZE);
      // A chunk may be shorter than its place: what it lacks is zero.
      const held = chunk === undefined ? 0 : Math.max(0, Math.min(step, chunk.length - at));
      if (chunk !== undefined && held > 0) target.set(chunk.subarray(at, at + held), done);
      if (held < step) target.fill(0, done + held, done + step);
      done += step;
    }
    return length;
  }

  /** Bytes written: fewer when the room ends. ENOSPC when there is none at all. */
  write(offset: number, source: Uint8Array): number {
    let done = 0;
    while (done < source.length) {
      const at = (offset + done) % CHUNK_SIZE;
      const step = Math.min(source.length - done, CHUNK_SIZE - at);
      const chunk = this.#reserve((offset + done - at) / CHUNK_SIZE, at + step, done > 0);
      if (chunk === undefined) break;
      chunk.set(step === source.length ? source : source.subarray(done, done + step), at);
      done += step;
      if (offset + done > this.#size) this.#size = offset + done;
    }
    return done;
  }

  resize(size: number): void {
    if (size < this.#size) this.#cut(size);
    this.#size = size;
  }

  /** Gives all memory back. */
  clear(): void {
    this.#chunks.clear();
    this.#account(-this.#allocated);
    this.#size = 0;
  }

  /** The chunk with at least `length` bytes. When there is no room: ENOSPC, or undefined when the caller is `lenient`. */
  #reserve(index: number, length: number, lenient: boolean): Uint8Array | undefined {
    const chunk = this.#chunks.get(index);
    if (chunk !== undefined && chunk.length >= length) return chunk;
    let capacity = Math.max(SMALLEST, chunk?.length ?? 0);
    while (capacity < length) capacity *= 2;
    try {
      this.#account(capacity - (chunk?.length ?? 0));
    } catch (error) {
      if (lenient) return undefined;
      throw error;
    }
    const grown = new Uint8Array(capacity);
    if (chunk !== undefined) grown.set(chunk);
    this.#chunks.set(index, grown);
    return grown;
  }

  /** Drops what lies behind `size`, and zeroes the rest of the last chunk: growing again must show zeroes. */
  #cut(size: number): void {
    const at = size % CHUNK_SIZE;
    const last = (size - at) / CHUNK_SIZE;
    for (const [index, chunk] of this.#chunks) {
      if (index < last) continue;
      if (index === last && at > 0) chunk.fill(0, at);
      else {
        this.#chunks.delete(index);
        this.#account(-chunk.length);
      }
    }
  }

  #account(bytes: number): void {
    this.#budget.charge(bytes);
    this.#allocated += bytes;
  }
}
