import { UserError } from "../user-error.ts";
import { nearest } from "./suggest.ts";

/** What a property's value may be. */
export type ValueKind = "string" | "switch" | "number" | "size" | "mac" | readonly string[];

/** A property of a device, a backend or an option. */
export interface PropertySpec {
  readonly name: string;
  readonly kind: ValueKind;
  readonly help: string;
  /** Taken for compatibility with QEMU, and without effect here. */
  readonly ignored?: boolean;
}

/** Properties with their values checked. Those that are absent were not given. */
export class Properties {
  readonly #owner: string;
  readonly #values: ReadonlyMap<string, string>;

  /**
   * Checks names and values of `pairs` against `specs`.
   * @param owner how errors name the thing, such as `virtio-blk-pci`
   */
  constructor(owner: string, pairs: ReadonlyMap<string, string>, specs: readonly PropertySpec[]) {
    this.#owner = owner;
    this.#values = pairs;
    for (const [name, value] of pairs) {
      const spec = specs.find((candidate) => candidate.name === name);
      if (spec === undefined)
        throw unknown(
          `property of ${owner}`,
          name,
          specs.map((known) => known.name),
        );
      checkValue(`${owner}: ${name}`, value, spec.kind);
    }
  }

  string(name: string): string | undefined {
    return this.#values.get(name);
  }

  required(name: string): string {
    const value = this.#values.get(name);
    if (value === undefined || value === "") throw new UserError(`${this.#owner} needs ${name}=`);
    return value;
  }

  switch(name: string): boolean | undefined {
    const value = this.#values.get(name);
    return value === undefined || value === "auto" ? undefined : switchValue(value);
  }

  number(name: string): number | undefined {
    const value = this.#values.get(name);
    return value === undefined ? undefined : Number(value);
  }

  size(name: string): number | undefined {
    const value = this.#values.get(name);
    return value === undefined ? undefined : parseSize(value, 1);
  }

  /** An error about one of the properties. */
  error(message: string): UserError {
    return new UserError(`${this.#owner}: ${message}`);
  }
}

function checkValue(what: string, value: string, kind: ValueKind): void {
  if (kind === "string") return;
  if (kind === "switch") {
    if (value !== "auto" && switchValue(value) === undefined)
      throw new UserError(`${what} is on or off, not "${value}"`);
  } else if (kind === "number") {
    if (!/^(0x[0-9a-f]+|\d+)$/i.test(value) || !Number.isSafeInteger(Number(value))) {
      throw new UserError(`${what} is a number, not "${value}"`);
    }
  } else if (kind === "size") {
    if (parseSize(value, 1) === undefined)
      throw new UserError(`${what} is a size such as 512 or 64K, not "${value}"`);
  } else if (kind === "mac") {
    if (!/^[0-9a-f]{2}([:-][0-9a-f]{2}){5}$/i.test(value)) {
      throw new UserError(`${what} is an address such as 52:54:00:12:34:56, not "${value}"`);
    }
  } else if (!kind.includes(value)) throw unknown(what, value, kind);
}

/** The error about a name that is not known: it lists those that are, and the one that is nearest. */
export function unknown(what: string, name: string, known: readonly string[]): UserError {
  const guess = nearest(name, known);
  const hint = guess === undefined ? "" : ` Did you mean "${guess}"?`;
  return new UserError(`Unknown ${what}: "${name}".${hint}\nKnown: ${[...known].sort().join(", ")}`);
}

/** QEMU's words for a switch. */
export function switchValue(value: string): boolean | undefined {
  if (["on", "true", "yes", "y"].includes(value)) return true;
  if (["off", "false", "no", "n"].includes(value)) return false;
  return undefined;
}

/** A number of bytes with QEMU's suffixes b, k, M, G, T; without one it counts `unit` bytes. */
export function parseSize(text: string, unit: number): number | undefined {
  const match = /^(\d+(?:\.\d+)?)([bkmgt]?)$/i.exec(text);
  if (!match) return undefined;
  const exponent = "bkmgt".indexOf((match[2] ?? "").toLowerCase());
  const bytes = Number(match[1]) * (match[2] ? 1024 ** exponent : unit);
  return Number.isSafeInteger(bytes) ? bytes : undefined;
}
