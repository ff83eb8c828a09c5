import { textOption, wholeOption } from "../check-option.ts";

/** A bound on memory that several structures share. */
export class MemoryBudget {
  readonly #limit: number;
  readonly #what: string;
  #used = 0;

  /**
   * @param limit in bytes, 1 or more; Infinity: no bound
   * @param what takes the memory, for the error; such as `the changes of a snapshot`
   */
  constructor(limit: number, what: string) {
    textOption("what takes a memory budget", what, 1);
    if (limit !== Infinity) wholeOption(`memory budget of ${what}`, limit, 1, Number.MAX_SAFE_INTEGER);
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
