/**
 * Milliseconds that are looked at the rings before every sleep, at least. A driver that waits for us often has its next request by then,
 * and to sleep and be woken costs more than this.
 */
export const LEAST_WINDOW = 0.006;

/**
 * How long it is worth to look at the rings before going to sleep. As QEMU's iothreads find it: longer while something comes soon after a
 * sleep has begun, hardly at all once it was quiet for longer than may be looked.
 */
export class AdaptiveWindow {
  readonly #most: number;
  readonly #least: number;
  #length: number;

  /** `most` milliseconds are looked at most. */
  constructor(most: number, least: number = LEAST_WINDOW) {
    this.#most = most;
    this.#least = least;
    this.#length = least;
  }

  /** Milliseconds. */
  get length(): number {
    return this.#length;
  }

  /** After a sleep: nothing had come for so many milliseconds, before it and in it. */
  woken(quiet: number): void {
    if (quiet <= this.#length) return;
    if (quiet > this.#most) this.#length = this.#least;
    else this.#length = Math.max(LEAST_WINDOW, Math.min(this.#most, 2 * this.#length));
  }
}
