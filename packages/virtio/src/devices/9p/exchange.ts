import type { GuestMemory, Segment } from "../../memory/guest-memory.ts";
import { MessageWriter } from "../../protocols/9p/message.ts";
import { TWRITE, TWRITE_HEADER_SIZE } from "../../protocols/9p/numbers.ts";
import type { DescriptorChain } from "../../virtqueue/types.ts";

/** Bytes of a T-message without the data of Twrite: 16 names of 255 bytes, or a symlink of 4,095, and some room. */
export const MAX_MESSAGE = 8192;
/** Bytes of an R-message without the data of Rread and Rreaddir. */
export const MAX_REPLY = 8192;

/** One request and the room for its reply, as the session sees them, whatever carries them. */
export interface Exchange {
  /** The message, copied out once: the driver may change its own meanwhile. Without the data of Twrite. */
  readonly message: Uint8Array;
  /** Bytes of `message` that are filled. */
  readonly copied: number;
  /** Bytes of the message that the driver offered. */
  readonly available: number;
  /** Bytes that the reply can have. */
  readonly room: number;
  /** The reply, but for data that lie behind it. */
  readonly reply: MessageWriter;
  /** False: it was given up, and what it asks for must not be done any more. */
  readonly alive: boolean;
  /** The life of the session this belongs to. */
  epoch: number;
  /** Where `count` bytes of the reply from `offset` on go. Valid until something else happens. */
  targets(offset: number, count: number): readonly Uint8Array[];
  /** So many bytes of the reply from `offset` on were written through `targets`. */
  wrote(offset: number, count: number): void;
  /** Where `count` bytes of the message from `offset` on lie. */
  sources(offset: number, count: number): readonly Uint8Array[];
  /** Copies into the reply. */
  put(offset: number, bytes: Uint8Array): void;
  /** Copies from the message. */
  take(offset: number, target: Uint8Array): void;
}

const NOTHING: readonly Segment[] = [];

/** An exchange that a descriptor chain carries. Reusable. */
export class ChainExchange implements Exchange {
  readonly message: Uint8Array = new Uint8Array(MAX_MESSAGE);
  readonly reply: MessageWriter = new MessageWriter(new Uint8Array(MAX_REPLY));
  copied = 0;
  available = 0;
  room = 0;
  epoch = 0;
  #memory: GuestMemory | undefined;
  #readable: readonly Segment[] = NOTHING;
  #writable: readonly Segment[] = NOTHING;
  readonly #views: Uint8Array[] = [];

  start(memory: GuestMemory, chain: DescriptorChain): this {
    this.#memory = memory;
    this.#readable = chain.readable;
    this.#writable = chain.writable;
    this.available = chain.readableLength;
    this.room = chain.writableLength;
    this.#copyMessage(memory);
    return this;
  }

  get alive(): boolean {
    return this.#memory !== undefined;
  }

  /** The chain is gone, by a reset: nothing more is read from it or written to it. */
  abandon(): void {
    this.#memory = undefined;
    this.#readable = NOTHING;
    this.#writable = NOTHING;
  }

  /** Puts the reply where the driver reads it. */
  complete(): void {
    const memory = this.#memory;
    const first = this.#writable[0];
    if (memory === undefined || first === undefined) return;
    const length = this.reply.length;
    const { bytes } = this.reply;
    if (first.length < length) {
      this.put(0, bytes.subarray(0, length));
      return;
    }
    const view = memory.view(first.gpa, length);
    if (length > 32) view.set(bytes.subarray(0, length));
    else for (let i = 0; i < length; i++) view[i] = bytes[i] ?? 0;
    memory.wrote(first.gpa, length);
  }

  targets(offset: number, count: number): readonly Uint8Array[] {
    return this.#collect(this.#writable, offset, count);
  }

  wrote(offset: number, count: number): void {
    const memory = this.#memory;
    if (memory === undefined) return;
    walk(memory, this.#writable, offset, count, (gpa, length) => memory.wrote(gpa, length));
  }

  sources(offset: number, count: number): readonly Uint8Array[] {
    return this.#collect(this.#readable, offset, count);
  }

  put(offset: number, bytes: Uint8Array): void {
    let done = 0;
    for (const view of this.targets(offset, bytes.length)) {
      view.set(bytes.subarray(done, done + view.length));
      done += view.length;
    }
    this.wrote(offset, done);
  }

  take(offset: number, target: Uint8Array): void {
    let done = 0;
    for (const view of this.sources(offset, target.length)) {
      target.set(view, done);
      done += view.length;
    }
  }

  #collect(segments: readonly Segment[], offset: number, count: number): readonly Uint8Array[] {
    const views = this.#views;
    const memory = this.#memory;
    views.length = 0;
    if (memory === undefined) return views;
    walk(memory, segments, offset, count, (gpa, length) => void views.push(memory.view(gpa, length)));
    return views;
  }

  #copyMessage(memory: GuestMemory): void {
    const first = this.#readable[0];
    const head =
      first === undefined ? undefined : memory.view(first.gpa, Math.min(first.length, MAX_MESSAGE));
    const most = head?.[4] === TWRITE ? TWRITE_HEADER_SIZE : MAX_MESSAGE;
    this.copied = Math.min(this.available, most);
    if (head === undefined) return;
    if (head.length === this.copied) this.message.set(head);
    else if (head.length > this.copied) this.message.set(head.subarray(0, this.copied));
    else this.take(0, this.message.subarray(0, this.copied));
  }
}

/** Visits `count` bytes from `offset` on, in pieces: neighbours in memory are one piece, for a driver sends page by page. */
function walk(
  memory: GuestMemory,
  segments: readonly Segment[],
  offset: number,
  count: number,
  visit: (gpa: number, length: number) => void,
): void {
  let skip = offset;
  let left = count;
  let gpa = 0;
  let length = 0;
  for (const segment of segments) {
    if (left <= 0) break;
    if (skip >= segment.length) {
      skip -= segment.length;
      continue;
    }
    const start = segment.gpa + skip;
    const step = Math.min(segment.length - skip, left);
    skip = 0;
    left -= step;
    if (length > 0 && start === gpa + length && memory.contiguous(gpa, length + step) === length + step) {
      length += step;
      continue;
    }
    if (length > 0) visit(gpa, length);
    gpa = start;
    length = step;
  }
  if (length > 0) visit(gpa, length);
}
