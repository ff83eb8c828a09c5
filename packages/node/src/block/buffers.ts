/** Bytes in a list of buffers. */
export function totalLength(buffers: readonly Uint8Array[]): number {
  let total = 0;
  for (const { length } of buffers) total += length;
  return total;
}

/** What of these buffers lies behind the first `count` bytes. */
export function behind(buffers: readonly Uint8Array[], count: number): Uint8Array[] {
  const rest: Uint8Array[] = [];
  let before = count;
  for (const buffer of buffers) {
    if (before < buffer.length) rest.push(buffer.subarray(before));
    before = Math.max(0, before - buffer.length);
  }
  return rest;
}

/** `length` bytes of these buffers from `start` on, without a copy. */
export function cut(buffers: readonly Uint8Array[], start: number, length: number): Uint8Array[] {
  const pieces: Uint8Array[] = [];
  let at = 0;
  for (const buffer of buffers) {
    const [from, to] = [Math.max(start - at, 0), Math.min(start + length - at, buffer.length)];
    if (from < to) pieces.push(buffer.subarray(from, to));
    at += buffer.length;
  }
  return pieces;
}
