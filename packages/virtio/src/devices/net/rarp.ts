/** Bytes of the shortest Ethernet frame, without FCS. */
const FRAME_BYTES = 60;
/** Ethertype 0x8035; hardware Ethernet, protocol IPv4, 6 and 4 bytes of address, "request reverse" (RFC 903). */
const HEADER = [0x80, 0x35, 0, 1, 0x08, 0, 6, 4, 0, 3];
const SENDER = 22;
const TARGET = 32;

/** A broadcast that tells switches where `mac` is now: the reverse ARP request that hypervisors send after a migration. */
export function rarpFrame(mac: Uint8Array): Uint8Array {
  const frame = new Uint8Array(FRAME_BYTES);
  frame.fill(0xff, 0, 6);
  frame.set(mac, 6);
  frame.set(HEADER, 12);
  frame.set(mac, SENDER);
  frame.set(mac, TARGET);
  return frame;
}
