export const MAC: Uint8Array = Uint8Array.of(0x52, 0x54, 0, 0x12, 0x34, 0x56);
export const PEER: Uint8Array = Uint8Array.of(0x52, 0x54, 0, 0xab, 0xcd, 0xef);
export const BROADCAST: Uint8Array = new Uint8Array(6).fill(0xff);

/** A frame to `destination` of an unassigned type, with contents that depend on `seed`. */
export function frame(destination: Uint8Array, length: number, seed = 0): Uint8Array {
  const bytes = new Uint8Array(length);
  for (let i = 14; i < length; i++) bytes[i] = (i * 31 + seed * 17) & 0xff;
  bytes.set(destination, 0);
  bytes.set([2, 0, 0, 0, 0, 1, 0x88, 0xb5], 6);
  return bytes;
}

/** A frame with an 802.1Q tag. */
export function tagged(destination: Uint8Array, id: number): Uint8Array {
  const bytes = frame(destination, 64);
  bytes.set([0x81, 0, id >> 8, id & 0xff], 12);
  return bytes;
}
