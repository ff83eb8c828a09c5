/** Bytes that came in pieces and are one: room for more doubles, so that no number of pieces costs more than their bytes. */
export class Gathered {
  #buffer: Uint8Array;
  #length: number;

  /** The first piece is taken over. */
  constructor(first: Uint8Array) {
    this.#buffer = first;
    this.#length = first.length;
  }

  get length(): number {
    return this.#length;
  }

  get bytes(): Uint8Array {
    return this.#buffer.subarray(0, this.#length);
  }

  append(piece: Uint8Array): void {
    const length = this.#length + piece.length;
    if (length > this.#buffer.length) {
      const larger = new Uint8Array(2 * length);
      larger.set(this.bytes);
      this.#buffer = larger;
    }
    this.#buffer.set(piece, this.#length);
    this.#length = length;
  }
}
