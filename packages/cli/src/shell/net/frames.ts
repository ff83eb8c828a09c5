import type { Ip } from "./addresses.ts";

/** An Ethernet frame, as far as it is understood here. */
export type Packet =
  | {
      readonly kind: "arp";
      readonly request: boolean;
      readonly senderMac: Uint8Array;
      readonly senderIp: Ip;
      readonly targetIp: Ip;
    }
  | {
      readonly kind: "udp";
      readonly source: Ip;
      readonly destination: Ip;
      readonly sourcePort: number;
      readonly destinationPort: number;
      readonly payload: Uint8Array;
    }
  | {
      readonly kind: "icmp";
      readonly source: Ip;
      readonly destination: Ip;
      readonly type: number;
      readonly code: number;
      /** After type, code and checksum. */
      readonly body: Uint8Array;
    };

export const BROADCAST_MAC: Uint8Array = new Uint8Array(6).fill(0xff);
export const BROADCAST_IP: Ip = 0xffffffff;
export const ICMP_ECHO_REPLY = 0;
export const ICMP_UNREACHABLE = 3;
export const ICMP_ECHO = 8;

const ETHERNET = 14;
const MINIMUM = 60;
const TYPE_IPV4 = 0x0800;
const TYPE_ARP = 0x0806;
const ARP_BYTES = 28;
const IPV4_BYTES = 20;
const UDP_BYTES = 8;
const PROTOCOL_ICMP = 1;
const PROTOCOL_UDP = 17;
const TTL = 64;

/** Undefined: something else, a fragment, or broken. Nothing in a frame is trusted; what is returned are views of it. */
export function decode(frame: Uint8Array): Packet | undefined {
  if (frame.length < ETHERNET) return undefined;
  const view = viewOf(frame);
  const type = view.getUint16(12);
  if (type === TYPE_ARP) return decodeArp(frame.subarray(ETHERNET));
  return type === TYPE_IPV4 ? decodeIpv4(frame.subarray(ETHERNET)) : undefined;
}

function decodeArp(bytes: Uint8Array): Packet | undefined {
  if (bytes.length < ARP_BYTES) return undefined;
  const view = viewOf(bytes);
  const ethernetAndIpv4 = view.getUint32(0) === 0x00010800 && view.getUint16(4) === 0x0604;
  const operation = view.getUint16(6);
  if (!ethernetAndIpv4 || (operation !== 1 && operation !== 2)) return undefined;
  return {
    kind: "arp",
    request: operation === 1,
    senderMac: bytes.subarray(8, 14),
    senderIp: view.getUint32(14),
    targetIp: view.getUint32(24),
  };
}

function decodeIpv4(bytes: Uint8Array): Packet | undefined {
  if (bytes.length < IPV4_BYTES) return undefined;
  const view = viewOf(bytes);
  const header = ((bytes[0] ?? 0) & 0xf) * 4;
  const total = view.getUint16(2);
  // The flag "more fragments", and an offset.
  const fragment = (view.getUint16(6) & 0x3fff) !== 0;
  if ((bytes[0] ?? 0) >> 4 !== 4 || header < IPV4_BYTES || total < header || total > bytes.length || fragment)
    return undefined;
  if (checksum(bytes.subarray(0, header)) !== 0) return undefined;
  const addresses = { source: view.getUint32(12), destination: view.getUint32(16) };
  const content = bytes.subarray(header, total);
  if (bytes[9] === PROTOCOL_UDP) return decodeUdp(content, addresses);
  return bytes[9] === PROTOCOL_ICMP ? decodeIcmp(content, addresses) : undefined;
}

function decodeUdp(bytes: Uint8Array, addresses: { source: Ip; destination: Ip }): Packet | undefined {
  if (bytes.length < UDP_BYTES) return undefined;
  const view = viewOf(bytes);
  const length = view.getUint16(4);
  if (length < UDP_BYTES || length > bytes.length) return undefined;
  const whole = bytes.subarray(0, length);
  if (view.getUint16(6) !== 0 && checksum(whole, pseudoSum(addresses, length)) !== 0) return undefined;
  return {
    kind: "udp",
    ...addresses,
    sourcePort: view.getUint16(0),
    destinationPort: view.getUint16(2),
    payload: bytes.subarray(UDP_BYTES, length),
  };
}

function decodeIcmp(bytes: Uint8Array, addresses: { source: Ip; destination: Ip }): Packet | undefined {
  if (bytes.length < 8 || checksum(bytes) !== 0) return undefined;
  return { kind: "icmp", ...addresses, type: bytes[0] ?? 0, code: bytes[1] ?? 0, body: bytes.subarray(4) };
}

/** Where a frame goes, and where it comes from. */
export interface Ends {
  readonly destinationMac: Uint8Array;
  readonly sourceMac: Uint8Array;
  readonly source: Ip;
  readonly destination: Ip;
}

export function encodeArp(request: boolean, ends: Ends, targetMac: Uint8Array): Uint8Array {
  const { frame, view } = start(ends, TYPE_ARP, ARP_BYTES);
  view.setUint32(ETHERNET, 0x00010800);
  view.setUint16(ETHERNET + 4, 0x0604);
  view.setUint16(ETHERNET + 6, request ? 1 : 2);
  frame.set(ends.sourceMac, ETHERNET + 8);
  view.setUint32(ETHERNET + 14, ends.source);
  frame.set(targetMac, ETHERNET + 18);
  view.setUint32(ETHERNET + 24, ends.destination);
  return frame;
}

export function encodeUdp(
  ends: Ends,
  sourcePort: number,
  destinationPort: number,
  payload: Uint8Array,
): Uint8Array {
  const length = UDP_BYTES + payload.length;
  const { frame, view, content } = startIpv4(ends, PROTOCOL_UDP, length);
  view.setUint16(content, sourcePort);
  view.setUint16(content + 2, destinationPort);
  view.setUint16(content + 4, length);
  frame.set(payload, content + UDP_BYTES);
  const sum = checksum(frame.subarray(content, content + length), pseudoSum(ends, length));
  // 0 would say that there is none.
  view.setUint16(content + 6, sum === 0 ? 0xffff : sum);
  return frame;
}

/** `body`: what follows type, code and checksum. */
export function encodeIcmp(ends: Ends, type: number, body: Uint8Array): Uint8Array {
  const length = 4 + body.length;
  const { frame, view, content } = startIpv4(ends, PROTOCOL_ICMP, length);
  frame[content] = type;
  frame.set(body, content + 4);
  view.setUint16(content + 2, checksum(frame.subarray(content, content + length)));
  return frame;
}

function start(ends: Ends, type: number, length: number): { frame: Uint8Array; view: DataView } {
  const frame = new Uint8Array(Math.max(MINIMUM, ETHERNET + length));
  frame.set(ends.destinationMac, 0);
  frame.set(ends.sourceMac, 6);
  const view = viewOf(frame);
  view.setUint16(12, type);
  return { frame, view };
}

function startIpv4(
  ends: Ends,
  protocol: number,
  length: number,
): { frame: Uint8Array; view: DataView; content: number } {
  const { frame, view } = start(ends, TYPE_IPV4, IPV4_BYTES + length);
  view.setUint16(ETHERNET, 0x4500);
  view.setUint16(ETHERNET + 2, IPV4_BYTES + length);
  // "Don't fragment".
  view.setUint16(ETHERNET + 6, 0x4000);
  frame[ETHERNET + 8] = TTL;
  frame[ETHERNET + 9] = protocol;
  view.setUint32(ETHERNET + 12, ends.source);
  view.setUint32(ETHERNET + 16, ends.destination);
  view.setUint16(ETHERNET + 10, checksum(frame.subarray(ETHERNET, ETHERNET + IPV4_BYTES)));
  return { frame, view, content: ETHERNET + IPV4_BYTES };
}

/** The sum that UDP's checksum starts from (RFC 768). */
function pseudoSum({ source, destination }: { source: Ip; destination: Ip }, length: number): number {
  return (
    (source >>> 16) +
    (source & 0xffff) +
    (destination >>> 16) +
    (destination & 0xffff) +
    PROTOCOL_UDP +
    length
  );
}

/** The Internet checksum (RFC 1071); over bytes that hold theirs it is 0. */
function checksum(bytes: Uint8Array, initial = 0): number {
  let sum = initial;
  for (let i = 0; i < bytes.length; i += 2) sum += ((bytes[i] ?? 0) << 8) | (bytes[i + 1] ?? 0);
  while (sum > 0xffff) sum = (sum & 0xffff) + Math.floor(sum / 0x10000);
  return ~sum & 0xffff;
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
}
