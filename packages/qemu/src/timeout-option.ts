import { MAX_TIMER_MS, wholeOptions } from "virtio/check-option";

const RANGES = { timeout: [1, MAX_TIMER_MS] } as const;

/** Throws a RangeError that names `owner` when its time-out is no number of milliseconds that a timer can wait. */
export function checkTimeout(owner: string, options: { readonly timeout?: number }): void {
  wholeOptions(owner, options, RANGES);
}
