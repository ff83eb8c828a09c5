/** After so long without a sign of life it is told that requests wait. */
const TELL_MS = 30_000;
/** Times that it is looked in the shortest of the times that matter. */
const LOOKS = 4;

/** What is looked at. */
export interface Watched {
  /** Answers are owed. */
  owed(): boolean;
  /** Bytes that came and bytes that left: it changes with every sign of life. */
  moved(): number;
  /** Silent for so many milliseconds; once each time. */
  silent(ms: number): void;
  /** Silent for longer than anybody wants to wait. */
  expired(): void;
}

/**
 * Notices when a server that owes answers gives no sign of life any more. It is the connection's silence and not a request's age
 * that counts, for a server that is slow may have many requests before it. Time is counted in looks, not by the clock: a process
 * that was stopped itself first hears what came meanwhile.
 */
export class SilenceWatch {
  readonly #watched: Watched;
  readonly #expiryMs: number;
  readonly #period: number;
  #timer: NodeJS.Timeout | undefined;
  #moved = -1;
  /** Looks since the last sign of life. */
  #quiet = 0;

  /** @param expiryMs 0: never */
  constructor(watched: Watched, expiryMs: number) {
    this.#watched = watched;
    this.#expiryMs = expiryMs;
    this.#period = Math.min(TELL_MS, expiryMs || TELL_MS) / LOOKS;
  }

  /** An answer is owed. A timer runs while that is so: whoever waits for nothing is not to be woken. */
  start(): void {
    this.#timer ??= setInterval(() => this.#look(), this.#period);
  }

  stop(): void {
    clearInterval(this.#timer);
    this.#timer = undefined;
    this.#quiet = 0;
    this.#moved = -1;
  }

  #look(): void {
    if (!this.#watched.owed()) return this.stop();
    const moved = this.#watched.moved();
    // The first look at what is silent only begins to count.
    this.#quiet = moved === this.#moved ? this.#quiet + 1 : 0;
    this.#moved = moved;
    if (this.#reached(TELL_MS)) this.#watched.silent(TELL_MS);
    if (this.#expiryMs > 0 && this.#reached(this.#expiryMs)) this.#watched.expired();
  }

  /** With this look. */
  #reached(ms: number): boolean {
    return this.#quiet * this.#period >= ms && (this.#quiet - 1) * this.#period < ms;
  }
}
