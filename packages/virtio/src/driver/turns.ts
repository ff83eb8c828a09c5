import { orAborted, throwIfAborted } from "./abort.ts";
import type { CancelSignal } from "./virtqueue.ts";

/** Runs pieces of work one after the other, in the order of the calls. */
export class Turns {
  #last: Promise<unknown> = Promise.resolve();

  /** What is aborted before its turn is never begun; what was begun is not taken back. */
  take<T>(work: () => Promise<T>, signal?: CancelSignal): Promise<T> {
    const done = this.#last.then(() => {
      throwIfAborted(signal);
      return work();
    });
    this.#last = done.catch(() => undefined);
    return orAborted(done, signal);
  }
}
