import type { Scheduler } from "./scheduler.ts";
import type { Runnable, Turns } from "./turns.ts";

/** What a device does step by step, in its share of each turn, until a step returns true. */
export class SteppedWork implements Runnable {
  waits: Runnable["waits"] = "no";
  readonly #turns: Turns;
  readonly #scheduler: Scheduler;
  readonly #step: () => boolean;

  constructor(turns: Turns, scheduler: Scheduler, step: () => boolean) {
    this.#turns = turns;
    this.#scheduler = scheduler;
    this.#step = step;
  }

  run(): void {
    const turns = this.#turns;
    let done = false;
    turns.begin();
    try {
      do done = this.#step();
      while (!done && !turns.over());
    } finally {
      turns.end();
    }
    // The last step may have left the rest to a promise.
    if (done) this.#scheduler.promised?.();
    else turns.wait(this);
  }
}
