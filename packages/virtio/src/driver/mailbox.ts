interface Taker<T> {
  readonly resolve: (item: T | undefined) => void;
  readonly reject: (error: Error) => void;
}

/**
 * What arrives, for whoever takes it: in order, each item once, with an end or a failure. The caller bounds what it
 * puts in.
 */
export class Mailbox<T> {
  readonly #items: T[] = [];
  readonly #takers: Taker<T>[] = [];
  #ended = false;
  #failure: Error | undefined;

  /** Items that nobody has taken. */
  get length(): number {
    return this.#items.length;
  }

  put(item: T): void {
    const taker = this.#takers.shift();
    if (taker === undefined) this.#items.push(item);
    else taker.resolve(item);
  }

  /** The next item, or undefined at the end. */
  take(): Promise<T | undefined> {
    const item = this.#items.shift();
    if (item !== undefined) return Promise.resolve(item);
    if (this.#failure !== undefined) return Promise.reject(this.#failure);
    if (this.#ended) return Promise.resolve(undefined);
    return new Promise((resolve, reject) => this.#takers.push({ resolve, reject }));
  }

  /** No more items come, until `reopen`. Those that are there can still be taken. */
  end(): void {
    this.#ended = true;
    for (const { resolve } of this.#takers.splice(0)) resolve(undefined);
  }

  reopen(): void {
    this.#ended = false;
  }

  /** As `end`, but takers get the error. */
  fail(error: Error): void {
    this.#failure ??= error;
    for (const { reject } of this.#takers.splice(0)) reject(this.#failure);
  }

  /** Removes and returns what nobody has taken. */
  drain(): T[] {
    return this.#items.splice(0);
  }
}
