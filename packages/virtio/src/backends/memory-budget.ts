/** A bound on memory that several structures share. */
export class MemoryBudget {
  readonly #limit: number;
  readonly #what: string;
  #used = 0;

  /**
   * @param limit in bytes
   * @param what takes the memory, for the error; such as `the changes of a snapshot`
   */
  constructor(limit: number, what: string) {
    if (!(limit > 0)) throw new RangeError(`memory budget: ${limit} bytes`);
    this.#limit = limit;
    this.#what = what;
  }

  /** Bytes. */
  get used(): number {
    return this.#used;
  }

  /** Throws an Error, and takes nothing, when that is more than is left. */
  take(bytes: number): void {
    if (this.#used + bytes > this.#limit)
      throw new Error(`no space left: ${this.#what} may take ${this.#limit} bytes of memory`);
    this.#used += bytes;
  }

  give(bytes: number): void {
    this.#used -= bytes;
  }
}
