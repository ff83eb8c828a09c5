import { abortReason } from "./abort.ts";
import type { CancelSignal } from "./virtqueue.ts";

interface Taker<T> {
  readonly resolve: (item: T | undefined) => void;
  readonly reject: (error: Error) => void;
}

/** Taken items whose places are kept. */
const COMPACT = 4096;

/**
 * What arrives, for whoever takes it: in order, each item once, with an end or a failure. The caller bounds what it
 * puts in.
 */
export class Mailbox<T extends object> {
  /** Those before `#head` were taken: `shift` would move a long array each time. */
  readonly #items: (T | undefined)[] = [];
  #head = 0;
  readonly #takers: Taker<T>[] = [];
  #ended = false;
  #failure: Error | undefined;

  /** Items that nobody has taken. */
  get length(): number {
    return this.#items.length - this.#head;
  }

  put(item: T): void {
    const taker = this.#takers.shift();
    if (taker === undefined) this.#items.push(item);
    else taker.resolve(item);
  }

  /** The next item, or undefined at the end. Who gives up takes nothing away from others. */
  take(signal?: CancelSignal): Promise<T | undefined> {
    const item = this.#next();
    if (item !== undefined) return Promise.resolve(item);
    if (this.#failure !== undefined) return Promise.reject(this.#failure);
    if (this.#ended) return Promise.resolve(undefined);
    return new Promise((resolve, reject) => {
      if (signal === undefined) return this.#takers.push({ resolve, reject });
      const end = (): void => signal.removeEventListener("abort", aborted);
      const taker: Taker<T> = {
        resolve: (taken) => {
          end();
          resolve(taken);
        },
        reject: (error) => {
          end();
          reject(error);
        },
      };
      const aborted = (): void => {
        const at = this.#takers.indexOf(taker);
        if (at >= 0) this.#takers.splice(at, 1);
        taker.reject(abortReason(signal));
      };
      if (signal.aborted) return reject(abortReason(signal));
      this.#takers.push(taker);
      signal.addEventListener("abort", aborted);
    });
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
    const items: T[] = [];
    for (let item = this.#next(); item !== undefined; item = this.#next()) items.push(item);
    return items;
  }

  #next(): T | undefined {
    if (this.#head === this.#items.length) return undefined;
    const item = this.#items[this.#head];
    this.#items[this.#head++] = undefined;
    if (this.#head === this.#items.length) this.#items.length = this.#head = 0;
    else if (this.#head === COMPACT) {
      this.#items.splice(0, COMPACT);
      this.#head = 0;
    }
    return item;
  }
}
