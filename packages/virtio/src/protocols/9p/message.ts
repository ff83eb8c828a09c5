import { readLe16, readLe32 } from "../../memory/bytes.ts";
import { decodeUtf8, encodeUtf8Into, utf8Length } from "../../memory/utf8.ts";
import { HEADER_SIZE } from "./numbers.ts";

const TWO_32 = 0x1_0000_0000;
const MAX_TEXT = 0xffff;

/** A message that is not what its size and type say. */
export class MalformedMessage extends Error {
  override readonly name = "MalformedMessage";
}

/** What a server calls a file: its type, a number that changes with it, and one that no other file has. */
export interface Qid {
  readonly type: number;
  readonly version: number;
  readonly path: number;
}

/** Takes fields from a message, one after the other. Reading past the end throws MalformedMessage. */
export class MessageReader {
  #bytes: Uint8Array = new Uint8Array(0);
  #view = viewOf(this.#bytes);
  #at = 0;
  #end = 0;

  /** Begins behind the header of the message in `bytes[0, end)`. The reader can be used again. */
  start(bytes: Uint8Array, end: number, at: number = HEADER_SIZE): this {
    if (bytes !== this.#bytes) {
      this.#bytes = bytes;
      this.#view = viewOf(bytes);
    }
    this.#end = end;
    this.#at = at;
    return this;
  }

  get remaining(): number {
    return this.#end - this.#at;
  }

  #take(length: number): number {
    const at = this.#at;
    if (at + length > this.#end) throw new MalformedMessage("a field lies behind the end of the message");
    this.#at = at + length;
    return at;
  }

  u8(): number {
    return this.#bytes[this.#take(1)] ?? 0;
  }

  u16(): number {
    return this.#view.getUint16(this.#take(2), true);
  }

  u32(): number {
    return this.#view.getUint32(this.#take(4), true);
  }

  /** Exact below 2**53; more is rounded and still 2**53 or more. */
  u64(): number {
    const at = this.#take(8);
    return this.#view.getUint32(at, true) + this.#view.getUint32(at + 4, true) * TWO_32;
  }

  /** Two's complement, exact from -(2**53) to 2**53. */
  s64(): number {
    const at = this.#take(8);
    return this.#view.getUint32(at, true) + this.#view.getInt32(at + 4, true) * TWO_32;
  }

  text(): string {
    const length = this.u16();
    const at = this.#take(length);
    return decodeUtf8(this.#bytes, at, at + length);
  }

  qid(): Qid {
    return { type: this.u8(), version: this.u32(), path: this.u64() };
  }

  skip(length: number): void {
    this.#take(length);
  }
}

/** Puts fields into a message, one after the other. Writing past the end of the buffer throws MalformedMessage. */
export class MessageWriter {
  readonly bytes: Uint8Array;
  readonly #view: DataView;
  #at = HEADER_SIZE;

  constructor(bytes: Uint8Array) {
    this.bytes = bytes;
    this.#view = viewOf(bytes);
  }

  /** Begins again, behind the header or where the caller says. */
  start(at: number = HEADER_SIZE): this {
    this.#at = at;
    return this;
  }

  /** Bytes so far, with the header. */
  get length(): number {
    return this.#at;
  }

  #room(length: number): number {
    const at = this.#at;
    if (at + length > this.bytes.length) throw new MalformedMessage("no room for a field");
    this.#at = at + length;
    return at;
  }

  u8(value: number): this {
    this.bytes[this.#room(1)] = value;
    return this;
  }

  u16(value: number): this {
    this.#view.setUint16(this.#room(2), value, true);
    return this;
  }

  u32(value: number): this {
    this.#view.setUint32(this.#room(4), value, true);
    return this;
  }

  /** `value`: 0 to 2**53. */
  u64(value: number): this {
    return this.s64(value);
  }

  /** `value`: whole, -(2**53) to 2**53; two's complement. */
  s64(value: number): this {
    const at = this.#room(8);
    // Nearly all fields of 64 bits are small, and floating point is slow.
    if (value >= 0 && value < TWO_32) {
      this.#view.setUint32(at, value, true);
      this.#view.setUint32(at + 4, 0, true);
      return this;
    }
    this.#view.setUint32(at, value >>> 0, true);
    this.#view.setUint32(at + 4, Math.floor(value / TWO_32), true);
    return this;
  }

  text(value: string): this {
    const length = utf8Length(value);
    if (length > MAX_TEXT) throw new MalformedMessage("a string of more than 65,535 bytes");
    const at = this.#room(2 + length);
    this.#view.setUint16(at, length, true);
    encodeUtf8Into(value, this.bytes, at + 2);
    return this;
  }

  qid(type: number, version: number, path: number): this {
    return this.u8(type).u32(version).u64(path);
  }

  /** Fills in the header. `payload`: bytes that follow from elsewhere. Returns the size of the whole message. */
  finish(type: number, tag: number, payload = 0): number {
    const size = this.#at + payload;
    this.#view.setUint32(0, size, true);
    this.#view.setUint8(4, type);
    this.#view.setUint16(5, tag, true);
    return size;
  }
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
}

/** The size field of the message that starts `bytes`. */
export function messageSize(bytes: Uint8Array): number {
  return readLe32(bytes, 0);
}

export function messageType(bytes: Uint8Array): number {
  return bytes[4] ?? 0;
}

export function messageTag(bytes: Uint8Array): number {
  return readLe16(bytes, 5);
}
