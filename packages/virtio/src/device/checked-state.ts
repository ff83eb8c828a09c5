/**
 * Reading a saved state that may be hostile: each function returns what it says, or throws an Error that names the
 * place.
 */

export type StateRecord = Readonly<Record<string, unknown>>;

export function stateRecord(value: unknown, where: string): StateRecord {
  if (typeof value !== "object" || value === null || Array.isArray(value) || ArrayBuffer.isView(value))
    throw new Error(`${where}: not an object`);
  return value as StateRecord;
}

/** At most `max` items. */
export function stateList(value: unknown, max: number, where: string): readonly unknown[] {
  if (!Array.isArray(value) || value.length > max) throw new Error(`${where}: not a list of at most ${max}`);
  return value as readonly unknown[];
}

/** From 0 to `max`. */
export function stateInteger(value: unknown, max: number, where: string): number {
  if (typeof value !== "number" || !Number.isInteger(value) || value < 0 || value > max)
    throw new Error(`${where}: not a whole number of at most ${max}`);
  return value;
}

export function stateFlag(value: unknown, where: string): boolean {
  if (typeof value !== "boolean") throw new Error(`${where}: neither true nor false`);
  return value;
}

/** A copy, of at most `max` bytes. */
export function stateBytes(value: unknown, max: number, where: string): Uint8Array {
  if (!(value instanceof Uint8Array) || value.length > max)
    throw new Error(`${where}: not bytes, at most ${max}`);
  // Not `slice`: of a Node Buffer that is no copy.
  return new Uint8Array(value);
}
