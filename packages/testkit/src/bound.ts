import { appendFileSync } from "node:fs";

/**
 * For the hostile suite (`npm run test:hostile`): each case measures what a hostile peer could make us spend, and holds
 * it to a bound that the docs name. `scripts/test-hostile.mjs` prints the table of all of them at the end.
 *
 * ```ts
 * bound({ what: "a DEVICE_STATE of 64 MB of JSON: time until it is refused", measured, limit: 500, unit: "ms" });
 * ```
 */
export interface Bound {
  /** The attack, and what is measured of it. */
  readonly what: string;
  /** In `unit`. */
  readonly measured: number;
  /** The most that is allowed, in `unit`. */
  readonly limit: number;
  /** "ms", "MiB", "descriptors" and the like. */
  readonly unit: string;
}

/** Names the file that the bounds of a run are written to, one JSON object a line. */
export const BOUNDS_FILE = "VIRTIO_BOUNDS_FILE";

/** Records a measurement, and throws an Error when it is beyond its bound or is no number. */
export function bound({ what, measured, limit, unit }: Bound): void {
  const file = process.env[BOUNDS_FILE];
  if (file !== undefined) appendFileSync(file, `${JSON.stringify({ what, measured, limit, unit })}\n`);
  // A measurement that is NaN is beyond every bound.
  if (!(measured <= limit))
    throw new Error(`${what}: ${measured} ${unit}, at most ${limit} ${unit} are allowed`);
}
