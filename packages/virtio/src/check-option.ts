/**
 * Options of constructors: a wrong one is a RangeError or a TypeError that names it and its value, never an object that behaves
 * oddly. The types do not help callers in JavaScript, so a value of another type is refused as well.
 */

/** Milliseconds: timers of the host that are to wait longer fire at once. */
export const MAX_TIMER_MS: number = 2 ** 31 - 1;
/** Characters of a wrong text that are shown. */
const SHOWN = 40;

/** A whole number from `least` to `most`. */
export function wholeOption(name: string, value: number, least: number, most: number): number {
  if (Number.isInteger(value) && value >= least && value <= most) return value;
  throw new RangeError(`${name} must be a whole number from ${least} to ${most}, not ${shown(value)}`);
}

/** A power of two from `least` to `most`. */
export function powerOption(name: string, value: number, least: number, most: number): number {
  const whole = Number.isInteger(value) && value >= least && value <= most;
  if (whole && Number.isInteger(Math.log2(value))) return value;
  throw new RangeError(`${name} must be a power of two from ${least} to ${most}, not ${shown(value)}`);
}

/** A multiple of `unit` from `least` to `most`. */
export function multipleOption(
  name: string,
  value: number,
  unit: number,
  least: number,
  most: number,
): number {
  const whole = Number.isInteger(value) && value >= least && value <= most;
  if (whole && value % unit === 0) return value;
  throw new RangeError(`${name} must be a multiple of ${unit} from ${least} to ${most}, not ${shown(value)}`);
}

/** Any finite number from `least` to `most`. */
export function numberOption(name: string, value: number, least: number, most: number): number {
  if (Number.isFinite(value) && value >= least && value <= most) return value;
  throw new RangeError(`${name} must be a number from ${least} to ${most}, not ${shown(value)}`);
}

/** One of a few words. */
export function choiceOption<T extends string>(name: string, value: T, choices: readonly T[]): T {
  if (choices.includes(value)) return value;
  const words = choices.map((choice) => JSON.stringify(choice)).join(", ");
  throw new RangeError(`${name} must be one of ${words}, not ${shown(value)}`);
}

/** A text. `least` 1: not an empty one. */
export function textOption(name: string, value: string, least: 0 | 1 = 0): string {
  if (typeof value === "string" && value.length >= least) return value;
  const kind = least === 0 ? "a string" : "a string that is not empty";
  const wrong = typeof value === "string" ? RangeError : TypeError;
  throw new wrong(`${name} must be ${kind}, not ${shown(value)}`);
}

/** A part that the owner calls: `what` says what it must be, `method` is one that every such part has. */
export function partOption<T extends object, K extends string & keyof T>(
  name: string,
  value: T,
  what: string,
  method: K,
): T {
  if (typeof value === "object" && value !== null && typeof value[method] === "function") return value;
  throw new TypeError(`${name} must be ${what}, not ${shown(value)}`);
}

/** Whether it is a Uint8Array, also one of another realm (a frame of a page), or a Buffer of Node.js. */
export function isBytes(value: unknown): value is Uint8Array {
  return Object.prototype.toString.call(value) === "[object Uint8Array]";
}

/** Bytes. */
export function bytesOption(name: string, value: Uint8Array): Uint8Array {
  if (isBytes(value)) return value;
  throw new TypeError(`${name} must be a Uint8Array, not ${shown(value)}`);
}

/** Feature bits. */
export function bitsOption(name: string, value: bigint): bigint {
  if (typeof value === "bigint" && value >= 0n) return value;
  throw new TypeError(`${name} must be feature bits as a bigint, not ${shown(value)}`);
}

/** Those of `ranges` that are there: whole numbers, each from the first to the second number. */
export function wholeOptions<K extends string>(
  owner: string,
  options: { readonly [name in NoInfer<K>]?: number | undefined },
  ranges: { readonly [name in K]: readonly [least: number, most: number] },
): void {
  for (const name of Object.keys(ranges) as K[]) {
    const value = options[name];
    const [least, most] = ranges[name];
    if (value !== undefined) wholeOption(`${owner}: ${name}`, value, least, most);
  }
}

/** True or false. */
export function flagOption(name: string, value: boolean): boolean {
  if (typeof value === "boolean") return value;
  throw new TypeError(`${name} must be true or false, not ${shown(value)}`);
}

/** Those of `names` that are there: true or false. What only counts as true is refused, for some of it means false to its author. */
export function flagOptions<K extends string>(
  owner: string,
  options: { readonly [name in NoInfer<K>]?: boolean | undefined },
  names: readonly K[],
): void {
  for (const name of names) {
    const value = options[name];
    if (value !== undefined) flagOption(`${owner}: ${name}`, value);
  }
}

/** As people would write it down. */
function shown(value: unknown): string {
  if (typeof value === "string")
    return value.length > SHOWN ? `${JSON.stringify(value.slice(0, SHOWN))}…` : JSON.stringify(value);
  if (typeof value === "bigint") return `${value}n`;
  if (typeof value === "function") return "a function";
  return typeof value === "object" && value !== null ? "an object" : String(value);
}
