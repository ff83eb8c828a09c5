/** Bytes of an Ethernet address. */
export const MAC_BYTES = 6;
/** Destination, source, type. */
export const ETHERNET_HEADER_BYTES = 14;
/** An 802.1Q tag. */
export const VLAN_TAG_BYTES = 4;

const TYPE_VLAN = 0x8100;

/** The 48 bits at `offset` as one number. */
export function macKey(bytes: Uint8Array, offset: number): number {
  const high = ((bytes[offset] ?? 0) << 8) | (bytes[offset + 1] ?? 0);
  const low =
    ((bytes[offset + 2] ?? 0) << 24) |
    ((bytes[offset + 3] ?? 0) << 16) |
    ((bytes[offset + 4] ?? 0) << 8) |
    (bytes[offset + 5] ?? 0);
  return high * 0x1_0000_0000 + (low >>> 0);
}

export const BROADCAST_KEY = 0xffff_ffff_ffff;

/** The VLAN id of a tagged frame, or -1. */
export function vlanId(frame: Uint8Array): number {
  if (frame.length < ETHERNET_HEADER_BYTES + VLAN_TAG_BYTES || etherType(frame, 12) !== TYPE_VLAN) return -1;
  return etherType(frame, 14) & 0xfff;
}

/** The big-endian 16 bits at `offset`. */
export function etherType(frame: Uint8Array, offset: number): number {
  return ((frame[offset] ?? 0) << 8) | (frame[offset + 1] ?? 0);
}

/** `52:54:00:12:34:56` as bytes; throws a RangeError on anything else. */
export function parseMac(text: string): Uint8Array {
  if (!/^[0-9a-f]{2}([:-][0-9a-f]{2}){5}$/i.test(text)) throw new RangeError(`"${text}" is no MAC address`);
  return Uint8Array.from(text.split(/[:-]/), (part) => Number.parseInt(part, 16));
}
