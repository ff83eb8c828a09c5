import { ETHERNET_HEADER_BYTES, VLAN_TAG_BYTES, etherType, macKey, vlanId } from "./mac.ts";

/** Flows that are told apart; two that share an entry share a queue pair. */
const ENTRIES = 1024;
const UNKNOWN = 0xffff;

const TYPE_IPV4 = 0x0800;
const TYPE_IPV6 = 0x86dd;
const PROTOCOL_TCP = 6;
const PROTOCOL_UDP = 17;

/**
 * "Automatic receive steering in multiqueue mode": frames of a flow go to the receiveq of the pair on whose transmitq
 * the driver last sent a frame of that flow. A bounded table, by a hash that is the same in both directions.
 */
export class Steering {
  readonly #pairs: Uint16Array = new Uint16Array(ENTRIES).fill(UNKNOWN);

  reset(): void {
    this.#pairs.fill(UNKNOWN);
  }

  /** The driver sent this frame on transmitq `pair` (from 0). */
  sent(frame: Uint8Array, pair: number): void {
    this.#pairs[flowHash(frame) % ENTRIES] = pair;
  }

  /** Where to put a frame when `pairs` are in use. A flow never sent is spread by its hash. */
  choose(frame: Uint8Array, pairs: number): number {
    if (pairs <= 1) return 0;
    const hash = flowHash(frame);
    const pair = this.#pairs[hash % ENTRIES] ?? UNKNOWN;
    return pair < pairs ? pair : hash % pairs;
  }
}

/** Unsigned; equal for a frame and the answer to it. */
export function flowHash(frame: Uint8Array): number {
  const network = vlanId(frame) >= 0 ? ETHERNET_HEADER_BYTES + VLAN_TAG_BYTES : ETHERNET_HEADER_BYTES;
  const type = etherType(frame, network - 2);
  if (type === TYPE_IPV4 && frame.length >= network + 20) {
    const protocol = frame[network + 9] ?? 0;
    const addresses = fold(frame, network + 12, 8);
    // Only the first fragment has ports: all of them are told apart by their addresses.
    const fragment = (etherType(frame, network + 6) & 0x3fff) !== 0;
    const transport = network + 4 * ((frame[network] ?? 0) & 15);
    return mix(addresses, protocol, fragment ? 0 : ports(frame, transport, protocol));
  }
  if (type === TYPE_IPV6 && frame.length >= network + 40) {
    const protocol = frame[network + 6] ?? 0;
    return mix(fold(frame, network + 8, 32), protocol, ports(frame, network + 40, protocol));
  }
  return mix((macKey(frame, 0) ^ macKey(frame, 6)) >>> 0, type, 0);
}

/** XOR of 32-bit words: the same when source and destination change places. */
function fold(frame: Uint8Array, offset: number, length: number): number {
  let sum = 0;
  for (let at = offset; at < offset + length; at += 4)
    sum ^= (etherType(frame, at) << 16) | etherType(frame, at + 2);
  return sum >>> 0;
}

function ports(frame: Uint8Array, offset: number, protocol: number): number {
  if (protocol !== PROTOCOL_TCP && protocol !== PROTOCOL_UDP) return 0;
  return etherType(frame, offset) ^ etherType(frame, offset + 2);
}

function mix(a: number, b: number, c: number): number {
  let hash = Math.imul(a ^ Math.imul(b, 0x9e3779b1) ^ Math.imul(c, 0x85ebca6b), 0xc2b2ae35);
  hash ^= hash >>> 15;
  hash = Math.imul(hash, 0x27d4eb2f);
  return (hash ^ (hash >>> 13)) >>> 0;
}
