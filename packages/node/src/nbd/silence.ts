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
  readonly #timer: NodeJS.Timeout;

  /** @param expiryMs 0: never */
  constructor(watched: Watched, expiryMs: number) {
    const period = Math.min(TELL_MS, expiryMs || TELL_MS) / LOOKS;
    let last = -1;
    let quiet = 0;
    const look = (): void => {
      const moved = watched.moved();
      // The first look at what is silent only begins to count.
      quiet = watched.owed() && moved === last ? quiet + 1 : 0;
      last = moved;
      const told = (ms: number): boolean => quiet * period >= ms && (quiet - 1) * period < ms;
      if (told(TELL_MS)) watched.silent(TELL_MS);
      if (expiryMs > 0 && told(expiryMs)) watched.expired();
    };
    this.#timer = setInterval(look, period);
    this.#timer.unref();
  }

  stop(): void {
    clearInterval(this.#timer);
  }
}
