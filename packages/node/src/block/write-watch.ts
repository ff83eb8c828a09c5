import { performance } from "node:perf_hooks";
import { tryLibc, type Libc } from "../native/libc.ts";

/** A write that took longer, in milliseconds, may have been held up because too much waits for the disk. */
const HELD_UP = 20;
/** So long it is looked whether the next one is, too. */
const SUSPECT = 5000;
/** So long writes do not try to be done at once after that. */
const BACK_OFF = 1000;

const RUSAGE_THREAD = 1;
/** `ru_nvcsw` in a `struct rusage` of 64-bit words. */
const RUSAGE_WORDS = 18;
const VOLUNTARY = 16;

/**
 * Says when writes into the page cache had better be left to somebody else: the system makes a writer sleep when the disk does not keep
 * up, and does not say so before. A thread that merely lost its processor to another has not slept; asking which of the two it was costs
 * a system call a write, so it is asked only for a while after one took long.
 */
export class WriteWatch {
  readonly #now: () => number;
  readonly #sleeps: () => number;
  #start = 0;
  #sleptBefore = 0;
  #suspectUntil = -Infinity;
  #backOffUntil = -Infinity;

  /** `sleeps`: how often this thread has gone to sleep. */
  constructor(now: () => number = () => performance.now(), sleeps: () => number = voluntarySwitches()) {
    this.#now = now;
    this.#sleeps = sleeps;
  }

  /** Before a write. False: leave it to somebody else. */
  begin(): boolean {
    const now = this.#now();
    if (now <= this.#backOffUntil) return false;
    this.#start = now;
    if (now <= this.#suspectUntil) this.#sleptBefore = this.#sleeps();
    return true;
  }

  /** After it. */
  end(): void {
    const now = this.#now();
    if (now - this.#start <= HELD_UP) return;
    if (this.#start <= this.#suspectUntil && this.#sleeps() > this.#sleptBefore)
      this.#backOffUntil = now + BACK_OFF;
    this.#suspectUntil = Math.max(this.#backOffUntil, now) + SUSPECT;
  }
}

function voluntarySwitches(): () => number {
  const libc: Libc | undefined = tryLibc();
  const usage = new BigInt64Array(RUSAGE_WORDS);
  // Nobody can tell: each one that took long was held up.
  let unknown = 0;
  return () => {
    if (libc === undefined || libc.getrusage(RUSAGE_THREAD, usage) !== 0) return unknown++;
    return Number(usage[VOLUNTARY] ?? 0n);
  };
}
