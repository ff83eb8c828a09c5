/** Checks for state that comes from a file or a peer: nothing about it is known. */

export function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** An unsigned integer of at most `bits` bits. */
export function isIndex(value: unknown, bits: number): value is number {
  return typeof value === "number" && Number.isInteger(value) && value >= 0 && value < 2 ** bits;
}
