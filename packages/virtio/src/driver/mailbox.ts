import { abortReason } from "./abort.ts";
import type { CancelSignal } from "./virtqueue.ts";

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

  /** The next item, or undefined at the end. Who gives up takes nothing away from others. */
  take(signal?: CancelSignal): Promise<T | undefined> {
    const item = this.#items.shift();
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
    return this.#items.splice(0);
  }
}
