import { PeerError } from "./errors.ts";
import { FLAG_NEED_REPLY, FLAG_REPLY, HEADER_SIZE, MAX_PAYLOAD, VERSION, VERSION_MASK } from "./numbers.ts";

export interface MessageHeader {
  readonly request: number;
  /** It answers one. */
  readonly reply: boolean;
  /** REPLY_ACK: the sender waits for an answer to a request that has none of its own. */
  readonly needReply: boolean;
  /** Bytes of payload. */
  readonly size: number;
}

/** Header and payload, ready to send. */
export function encodeMessage(
  request: number,
  payload: Uint8Array,
  { reply = false, needReply = false }: { readonly reply?: boolean; readonly needReply?: boolean } = {},
): Uint8Array {
  const bytes = new Uint8Array(HEADER_SIZE + payload.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, request, true);
  view.setUint32(4, VERSION | (reply ? FLAG_REPLY : 0) | (needReply ? FLAG_NEED_REPLY : 0), true);
  view.setUint32(8, payload.length, true);
  bytes.set(payload, HEADER_SIZE);
  return bytes;
}

/** Throws a PeerError for another version, and for a payload that no message has. */
export function decodeHeader(bytes: Uint8Array): MessageHeader {
  const view = new DataView(bytes.buffer, bytes.byteOffset, HEADER_SIZE);
  const request = view.getUint32(0, true);
  const flags = view.getUint32(4, true);
  const size = view.getUint32(8, true);
  if ((flags & VERSION_MASK) !== VERSION) throw new PeerError(`protocol version ${flags & VERSION_MASK}`);
  if (size > MAX_PAYLOAD) throw new PeerError(`message ${request} with ${size} bytes of payload`);
  return {
    request,
    reply: (flags & FLAG_REPLY) !== 0,
    needReply: (flags & FLAG_NEED_REPLY) !== 0,
    size,
  };
}
