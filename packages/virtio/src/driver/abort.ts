import type { CancelSignal } from "./virtqueue.ts";

/**
 * As `work`, but rejects with the signal's reason as soon as it is aborted. `work` itself goes on: what it lent to a
 * device is the device's until it is used or reset.
 */
export function orAborted<T>(work: Promise<T>, signal: CancelSignal | undefined): Promise<T> {
  if (signal === undefined) return work;
  return new Promise((resolve, reject) => {
    const aborted = (): void => reject(abortReason(signal));
    const end = (): void => signal.removeEventListener("abort", aborted);
    work.then(
      (result) => {
        end();
        resolve(result);
      },
      (error: unknown) => {
        end();
        reject(error instanceof Error ? error : new Error(String(error)));
      },
    );
    if (signal.aborted) aborted();
    else signal.addEventListener("abort", aborted);
  });
}

/** Throws the signal's reason when it is aborted. */
export function throwIfAborted(signal: CancelSignal | undefined): void {
  if (signal?.aborted === true) throw abortReason(signal);
}

/** Why a signal was aborted, as an error. */
export function abortReason({ reason = "aborted" }: CancelSignal): Error {
  return reason instanceof Error ? reason : new Error(String(reason));
}
