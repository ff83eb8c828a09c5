/** Little-endian fields in byte arrays at any alignment: request headers come unaligned from some drivers. */

export function readLe16(bytes: Uint8Array, offset: number): number {
  return (bytes[offset] ?? 0) | ((bytes[offset + 1] ?? 0) << 8);
}

export function readLe32(bytes: Uint8Array, offset: number): number {
  return (readLe16(bytes, offset) | (readLe16(bytes, offset + 2) << 16)) >>> 0;
}

/** As a number, exact below 2**53; a larger value is rounded and still is 2**53 or more. */
export function readLe64(bytes: Uint8Array, offset: number): number {
  return readLe32(bytes, offset) + readLe32(bytes, offset + 4) * 0x1_0000_0000;
}

export function writeLe16(bytes: Uint8Array, offset: number, value: number): void {
  bytes[offset] = value;
  bytes[offset + 1] = value >>> 8;
}

export function writeLe32(bytes: Uint8Array, offset: number, value: number): void {
  writeLe16(bytes, offset, value);
  writeLe16(bytes, offset + 2, value >>> 16);
}

/** `value` is a whole number from 0 to 2**53. */
export function writeLe64(bytes: Uint8Array, offset: number, value: number): void {
  writeLe32(bytes, offset, value >>> 0);
  writeLe32(bytes, offset + 4, Math.floor(value / 0x1_0000_0000));
}
