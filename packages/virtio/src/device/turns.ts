import type { Scheduler } from "./scheduler.ts";

/** Milliseconds of work that all virtqueues on one scheduler share in a turn of the host's event loop. */
export const TURN_MS = 4;
/** After so many milliseconds of work the host's loop is asked to say when its turn is over. */
const UNNOTICED_MS = 0.25;

/** A virtqueue, or other work of a device, as the planner of turns sees it. */
export interface Runnable {
  /** Where it waits; only the planner writes it. */
  waits: "no" | "soon" | "turn";
  /** Works until there is nothing to do, or until `Turns.over` says that it is another's turn. */
  run(): void;
}

/**
 * Who works when, for all virtqueues on one scheduler. Whatever drivers do, the host's loop gets a turn after 4 ms of work, or
 * after the one chain that takes longer.
 *
 * ```
 *   notification ──▶ time is left: as soon as it is safe (Scheduler.soon)
 *                └─▶ the time is used up: at the end of the list ◀── its share is used up
 *                                             │
 *                                             ▼
 *   Scheduler.later, one task at most: a new turn; who is first in the list works for its share, then the next one
 * ```
 *
 * Only the time of work counts, from `begin` to `end`: a host that executes its guest between two notifications takes nothing
 * from the devices. Nothing tells us when a turn of the host's loop begins, so the task that begins the next one is planned as
 * soon as a quarter of a millisecond was worked. What was worked before belongs to this turn or to earlier ones.
 */
export class Turns {
  readonly #scheduler: Scheduler;
  /** Those whose notification came, until `Scheduler.soon` lets them work. */
  readonly #soon: Runnable[] = [];
  /** Those that wait for a turn, each once. */
  readonly #list: Runnable[] = [];
  #soonPlanned = false;
  /** `later` was asked for the next turn. */
  #planned = false;
  #spent = false;
  /** Milliseconds that were worked since the last turn began, up to the last look at the clock. */
  #worked = 0;
  /** While the list is worked on: `#worked` at which the share of the queue that works is used up. */
  #shareEnds = Infinity;
  /** The last look at the clock. */
  #asked = 0;
  #took = 0;
  /** Work within work: a driver in this process answers a notification at once. */
  #depth = 0;

  constructor(scheduler: Scheduler) {
    this.#scheduler = scheduler;
  }

  /** The time of this turn is used up: whoever wants to work waits for the next one. */
  get spent(): boolean {
    return this.#spent;
  }

  /** Milliseconds between the last two looks at the clock. */
  get took(): number {
    return this.#took;
  }

  /** Work begins; `end` must follow. */
  begin(): void {
    if (this.#depth++ === 0) this.#asked = this.#scheduler.now();
  }

  /** In the middle of work: whether to stop, and to go on in another turn. */
  over(): boolean {
    this.#ask(Infinity);
    return this.#spent || this.#worked >= this.#shareEnds;
  }

  end(): void {
    if (--this.#depth === 0) this.#ask(Infinity);
  }

  /**
   * As `over`, for work that nobody may have begun, on an event of a backend. Then at most `longest` milliseconds since the last
   * look at the clock count.
   */
  overAfter(longest: number): boolean {
    if (this.#depth > 0) return this.over();
    this.#ask(longest);
    return this.#spent;
  }

  /** An available buffer notification: the queue works as soon as that is safe, but not before its turn. */
  notified(queue: Runnable): void {
    if (queue.waits !== "no") return;
    if (this.#spent) return this.wait(queue);
    queue.waits = "soon";
    this.#soon.push(queue);
    if (this.#soonPlanned) return;
    this.#soonPlanned = true;
    this.#scheduler.soon(this.#runSoon);
  }

  /** The queue works when all others that wait had their turn. */
  wait(queue: Runnable): void {
    if (queue.waits === "turn") return;
    this.forget(queue);
    queue.waits = "turn";
    this.#list.push(queue);
    this.#plan();
  }

  /** The queue is gone. */
  forget(queue: Runnable): void {
    if (queue.waits === "no") return;
    const list = queue.waits === "soon" ? this.#soon : this.#list;
    list.splice(list.indexOf(queue), 1);
    queue.waits = "no";
  }

  #ask(longest: number): void {
    const now = this.#scheduler.now();
    this.#took = now - this.#asked;
    this.#asked = now;
    this.#worked += Math.min(this.#took, longest);
    if (this.#worked >= UNNOTICED_MS) this.#plan();
    if (this.#worked >= TURN_MS) this.#spent = true;
  }

  #plan(): void {
    if (this.#planned) return;
    this.#planned = true;
    this.#scheduler.later(this.#turn);
  }

  readonly #runSoon = (): void => {
    this.#soonPlanned = false;
    for (let queue = this.#soon.shift(); queue !== undefined; queue = this.#soon.shift()) {
      queue.waits = "no";
      queue.run();
    }
  };

  /** The host's loop had a turn, and this is the beginning of the next one. */
  readonly #turn = (): void => {
    this.#planned = false;
    this.#spent = false;
    this.#worked = 0;
    if (this.#list.length === 0) return;
    const share = TURN_MS / this.#list.length;
    try {
      while (!this.#spent) {
        const queue = this.#list.shift();
        if (queue === undefined) break;
        queue.waits = "no";
        this.#shareEnds = this.#worked + share;
        queue.run();
      }
    } finally {
      this.#shareEnds = Infinity;
    }
  };
}

const planners = new WeakMap<Scheduler, Turns>();

/** The one planner of this scheduler. */
export function turnsOf(scheduler: Scheduler): Turns {
  let turns = planners.get(scheduler);
  if (turns === undefined) planners.set(scheduler, (turns = new Turns(scheduler)));
  return turns;
}
