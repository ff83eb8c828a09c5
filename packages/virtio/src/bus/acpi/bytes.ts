/** Little-endian fields and byte strings, put together. */

export type Bytes = readonly number[] | Uint8Array;

export function le(value: number, size: 1 | 2 | 4 | 8): number[] {
  const bytes: number[] = [];
  for (let rest = value, i = 0; i < size; i++, rest = Math.floor(rest / 0x100)) bytes.push(rest % 0x100);
  return bytes;
}

/** ASCII, padded with `pad` or cut to `length`; without `length` as long as it is. */
export function ascii(text: string, length: number = text.length, pad = 0x20): number[] {
  return Array.from({ length }, (_, i) => (i < text.length ? text.charCodeAt(i) & 0x7f : pad));
}

export function concat(...parts: readonly Bytes[]): Uint8Array {
  const bytes = new Uint8Array(parts.reduce((length, part) => length + part.length, 0));
  let offset = 0;
  for (const part of parts) {
    bytes.set(part, offset);
    offset += part.length;
  }
  return bytes;
}
