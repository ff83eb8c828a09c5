import { AdaptiveWindow } from "../native/adaptive-window.ts";

/**
 * After used buffers were found, looks at the ring again in the next turns of Node's loop, as long as that was worth it lately. A
 * back-end that is looked at makes no calls, which are system calls on both sides.
 */
export class BusyPoll {
  readonly #look: () => void;
  readonly #window: AdaptiveWindow;
  #quietSince = 0;
  #planned = false;
  #stopped = false;

  /** `maxNs`: nanoseconds to look without finding anything, at most. 0: never. */
  constructor(maxNs: number, look: () => void) {
    this.#look = look;
    this.#window = new AdaptiveWindow(maxNs / 1e6, 0);
  }

  /** A call came. */
  woken(): void {
    const now = performance.now();
    this.#window.woken(now - this.#quietSince);
    this.#quietSince = now;
  }

  /** The ring was looked at. True: it will be again. */
  looksAgain(found: boolean): boolean {
    if (this.#stopped) return false;
    if (this.#planned) return true;
    const now = performance.now();
    if (found) this.#quietSince = now;
    if (now - this.#quietSince >= this.#window.length) return false;
    this.#planned = true;
    setImmediate(this.#next);
    return true;
  }

  stop(): void {
    this.#stopped = true;
  }

  readonly #next = (): void => {
    this.#planned = false;
    if (!this.#stopped) this.#look();
  };
}
