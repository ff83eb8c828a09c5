/**
 * The sender's side of "Buffer Space Management": what the peer has room for. All counters are free-running and of 32
 * bits.
 */
export class PeerCredit {
  /** `buf_alloc` of the peer: bytes. */
  bufAlloc = 0;
  #fwdCnt = 0;
  #sent = 0;
  readonly #waiting: (() => void)[] = [];

  /** Bytes that the peer has room for. A peer that says that it got more than was sent has none. */
  get free(): number {
    const outstanding = (this.#sent - this.#fwdCnt) >>> 0;
    return Math.max(0, this.bufAlloc - outstanding);
  }

  update(bufAlloc: number, fwdCnt: number): void {
    this.bufAlloc = bufAlloc;
    this.#fwdCnt = fwdCnt;
    if (this.free > 0) this.wake();
  }

  took(bytes: number): void {
    this.#sent = (this.#sent + bytes) >>> 0;
  }

  /** Resolves at the next update that leaves room, or at `wake`. */
  changed(): Promise<void> {
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  wake(): void {
    for (const resolve of this.#waiting.splice(0)) resolve();
  }
}
