/** A descriptor that stays open while something is under way on it. */
export class OpenFile {
  readonly #fd: number;
  readonly #onClose: (fd: number) => void;
  #users = 0;
  #closing = false;
  #closed = false;

  /** `onClose` closes the descriptor. */
  constructor(fd: number, onClose: (fd: number) => void) {
    this.#fd = fd;
    this.#onClose = onClose;
  }

  /** Nothing may begin any more. */
  get closed(): boolean {
    return this.#closing;
  }

  /** Throws once it is closed: the number may be another file by then. */
  get fd(): number {
    if (this.#closing) throw new Error("the file is closed");
    return this.#fd;
  }

  /** Something begins, and calls `release` when it is over. */
  hold(): number {
    const { fd } = this;
    this.#users++;
    return fd;
  }

  release(): void {
    this.#users--;
    if (this.#closing) this.close();
  }

  /** At once, or when the last one has released it. */
  close(): void {
    this.#closing = true;
    if (this.#closed || this.#users > 0) return;
    this.#closed = true;
    this.#onClose(this.#fd);
  }
}
