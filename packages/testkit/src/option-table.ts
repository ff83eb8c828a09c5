/**
 * Tables of options that cannot be: what a constructor does with each wrong value. A package has one table, and a test that compares
 * it with its `optionSurface`: an option that nobody wrote a row for makes it fail.
 *
 * ```ts
 * const rows = [numbers("BlkDriver.open(options.depth)", "blk: depth", "a whole number from 1 to 32768", (depth) => open({ depth }))];
 * test.each(wrongOptions(rows))("%s: %s", async (_key, message, make) => expect(await refusal(make)).toBe(message));
 * test("none is forgotten", () => expect(forgotten(optionSurface("virtio"), rows, EXCEPT)).toEqual([]));
 * ```
 */
import type { OptionKind, OptionSurface } from "./option-surface.ts";

/** Each row passes values that the types of its constructor forbid. */
export type OptionMake = (value: never) => unknown;

export interface OptionRow {
  /** As in an `OptionSurface`. */
  readonly key: string;
  /** What the message calls it. */
  readonly name: string;
  /** What it must be. */
  readonly rule: string;
  /** Undefined: a part that the constructor calls, of which a surface knows nothing. */
  readonly kind: OptionKind | undefined;
  readonly wrong: readonly unknown[];
  readonly make: OptionMake;
}

/** Values that are never right, for what only JavaScript can pass. */
const WRONG: Readonly<Record<OptionKind | "part", readonly unknown[]>> = {
  number: [-1, 1.5, Number.NaN, Infinity, "8", 8n, {}],
  flag: ["false", 0, 1],
  bits: [5, -1n, "1"],
  word: ["other", "", 1],
  text: [1, true, {}],
  part: [5, "x", {}],
};

type Row = (
  key: string,
  name: string,
  rule: string,
  make: OptionMake,
  ...more: readonly unknown[]
) => OptionRow;

const row =
  (kind: OptionKind | undefined): Row =>
  (key, name, rule, make, ...more) => ({
    key,
    name,
    rule,
    kind,
    wrong: [...WRONG[kind ?? "part"], ...more],
    make,
  });

/** A number; `more` are others that it cannot be, such as the first that is too large. */
export const numbers: Row = row("number");
export const words: Row = row("word");
export const texts: Row = row("text");
/** A part that the constructor calls, such as a backend. */
export const parts: Row = row(undefined);

/** True or false. */
export function flags(key: string, name: string, make: OptionMake): OptionRow {
  return row("flag")(key, name, "true or false", make);
}

/** Feature bits. */
export function bits(key: string, name: string, make: OptionMake): OptionRow {
  return row("bits")(key, name, "feature bits as a bigint", make);
}

/** Rules, in the words of `virtio/check-option`. */
export const whole = (least: number, most: number): string => `a whole number from ${least} to ${most}`;
export const power = (least: number, most: number): string => `a power of two from ${least} to ${most}`;
export const multiple = (unit: number, least: number, most: number): string =>
  `a multiple of ${unit} from ${least} to ${most}`;

/** A whole number from `least` to `most`, and the first numbers that are too small and too large. */
export function within(key: string, name: string, least: number, most: number, make: OptionMake): OptionRow {
  const beyond = most < Number.MAX_SAFE_INTEGER ? [least - 1, most + 1] : [least - 1];
  return numbers(key, name, whole(least, most), make, ...beyond);
}

/** Whatever asks it for more than is `known` fails, with an error of another kind than those of options. */
export function untouched<T extends object>(known: object = {}): T {
  return new Proxy(known, {
    get: (target, name) => {
      if (name in target) return (target as Record<string | symbol, unknown>)[name];
      throw new Error(`${String(name)} was touched`);
    },
  }) as T;
}

/** A case for each value of each row: the option, the message that is expected, and the call that is to be refused with it. */
export function wrongOptions(rows: readonly OptionRow[]): [string, string, () => unknown][] {
  return rows.flatMap(({ key, name, rule, wrong, make }) =>
    wrong.map((value): [string, string, () => unknown] => [
      key,
      `${name} must be ${rule}, not ${written(value)}`,
      () => make(value as never),
    ]),
  );
}

/** Options without a row of their kind, and rows and exceptions that are about no option. `except`: callees, each with a reason. */
export function forgotten(
  surface: OptionSurface,
  rows: readonly OptionRow[],
  except: Readonly<Record<string, string>>,
): readonly string[] {
  const callees = new Set([...surface.keys()].map(calleeOf));
  const missing = [...surface].flatMap(([key, kinds]) =>
    calleeOf(key) in except
      ? []
      : [...kinds]
          .filter((kind) => !rows.some((one) => one.key === key && one.kind === kind))
          .map((kind) => `no row for the ${kind} ${key}`),
  );
  const stale = rows
    .filter(({ key, kind }) => kind !== undefined && surface.get(key)?.has(kind) !== true)
    .map(({ key, kind }) => `a row for the ${kind} ${key}, which there is not`);
  const needless = Object.keys(except)
    .filter((callee) => !callees.has(callee))
    .map((callee) => `an exception for ${callee}, which takes nothing`);
  return [...missing, ...stale, ...needless];
}

/** The message of the RangeError or TypeError that is thrown or rejected with; of anything else, what it is. */
export async function refusal(make: () => unknown): Promise<string> {
  try {
    await make();
  } catch (error) {
    return error instanceof RangeError || error instanceof TypeError
      ? error.message
      : `no error of an option: ${String(error)}`;
  }
  return "not refused";
}

function calleeOf(key: string): string {
  return key.slice(0, key.indexOf("("));
}

function written(value: unknown): string {
  if (typeof value === "bigint") return `${value}n`;
  if (typeof value === "object" && value !== null) return "an object";
  return typeof value === "string" ? JSON.stringify(value) : String(value);
}
