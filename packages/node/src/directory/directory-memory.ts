/** Bytes of entries that the kernel is asked for at once. */
export const ENTRY_BUFFER: number = 1 << 15;
/** Open directories whose last entries from the kernel are kept; one more takes the buffer of the one that waited longest. */
export const MAX_ENTRY_BUFFERS = 64;
/** Bytes of cookies that all open directories of one share remember together. */
export const MAX_COOKIE_BYTES = 16_777_216;

/** Who holds a buffer, and can be told that it is gone. */
export interface BufferHolder {
  surrender(): void;
}

/** What the open directories of one share hold beside their descriptors: bounded, however many there are. */
export class DirectoryMemory {
  /** In the order in which they were used last. */
  readonly #holders = new Map<BufferHolder, Uint8Array>();
  readonly #free: Uint8Array[] = [];
  #cookieBytes = 0;

  /** Bytes of buffers and cookies, for tests and people. */
  get bytes(): number {
    return (this.#holders.size + this.#free.length) * ENTRY_BUFFER + this.#cookieBytes;
  }

  /** The buffer of `holder`, which it has until it gives it back or is told that it is gone. */
  buffer(holder: BufferHolder): Uint8Array {
    const held = this.#holders.get(holder);
    const buffer = held ?? this.#free.pop() ?? this.#oldest() ?? new Uint8Array(ENTRY_BUFFER);
    this.#holders.delete(holder);
    this.#holders.set(holder, buffer);
    return buffer;
  }

  giveBack(holder: BufferHolder): void {
    const buffer = this.#holders.get(holder);
    if (buffer === undefined) return;
    this.#holders.delete(holder);
    this.#free.push(buffer);
  }

  /** False: there is no room. A negative number gives back. */
  takeCookies(bytes: number): boolean {
    if (this.#cookieBytes + bytes > MAX_COOKIE_BYTES) return false;
    this.#cookieBytes += bytes;
    return true;
  }

  #oldest(): Uint8Array | undefined {
    if (this.#holders.size < MAX_ENTRY_BUFFERS) return undefined;
    const [first] = this.#holders;
    if (first === undefined) return undefined;
    const [holder, buffer] = first;
    this.#holders.delete(holder);
    holder.surrender();
    return buffer;
  }
}
