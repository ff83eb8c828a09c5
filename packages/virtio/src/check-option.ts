/** Options of constructors: a wrong one is a RangeError that names it and its value, never a device that behaves oddly. */

/** A whole number from `least` to `most`. */
export function wholeOption(name: string, value: number, least: number, most: number): number {
  if (Number.isInteger(value) && value >= least && value <= most) return value;
  throw new RangeError(`${name} must be a whole number from ${least} to ${most}, not ${String(value)}`);
}

/** A power of two from `least` to `most`. */
export function powerOption(name: string, value: number, least: number, most: number): number {
  if (Number.isInteger(Math.log2(wholeOption(name, value, least, most)))) return value;
  throw new RangeError(`${name} must be a power of two, not ${value}`);
}
