import { Descriptor } from "./descriptor.ts";
import { clearEvent } from "./event.ts";
import { check, natives } from "./libc.ts";
import { CLOCK_MONOTONIC, TFD_CLOEXEC, TFD_NONBLOCK } from "./linux.ts";

/** A descriptor that is readable once, some time after it was set. */
export class Timer {
  readonly #descriptor: Descriptor;
  /** `struct itimerspec` of a single shot. */
  readonly #time: BigInt64Array;

  constructor(milliseconds: number) {
    this.#time = BigInt64Array.of(0n, 0n, 0n, BigInt(Math.round(milliseconds * 1e6)));
    const flags = TFD_CLOEXEC | TFD_NONBLOCK;
    this.#descriptor = new Descriptor(
      check(natives().timerfd_create(CLOCK_MONOTONIC, flags), "timerfd_create"),
    );
  }

  get fd(): number {
    return this.#descriptor.fd;
  }

  set(): void {
    check(natives().timerfd_settime(this.fd, 0, this.#time, null), "timerfd_settime");
  }

  /** After it was readable. */
  clear(): void {
    clearEvent(this.fd);
  }

  close(): void {
    this.#descriptor.close();
  }
}
