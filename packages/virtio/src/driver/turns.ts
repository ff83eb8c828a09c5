import { orAborted } from "./abort.ts";
import type { CancelSignal } from "./virtqueue.ts";

/** Runs pieces of work one after the other, in the order of the calls. */
export class Turns {
  #last: Promise<unknown> = Promise.resolve();

  /** An aborted wait does not take back what was begun. */
  take<T>(work: () => Promise<T>, signal?: CancelSignal): Promise<T> {
    const done = this.#last.then(work);
    this.#last = done.catch(() => undefined);
    return orAborted(done, signal);
  }
}
