import type { DriverSession } from "../../driver/session.ts";
import type { DriverVirtqueue } from "../../driver/virtqueue.ts";
import { VirtioFault } from "../../fault.ts";
import type { Gpa, Segment } from "../../memory/guest-memory.ts";
import {
  MalformedMessage,
  MessageReader,
  messageSize,
  messageTag,
  messageType,
  MessageWriter,
} from "../../protocols/9p/message.ts";
import { HEADER_SIZE, NOTAG, RLERROR, RLERROR_SIZE, TVERSION } from "../../protocols/9p/numbers.ts";

/** Bytes of a request or a reply without data: the longest walk and the longest symlink fit. */
const MESSAGE_BYTES = 8192;
/** What memory is aligned to. */
const ALIGNMENT = 64;

/** The server answered a request with an error. */
export class NinePError extends Error {
  override readonly name = "NinePError";
  /** Linux' number. */
  readonly errno: number;
  /** The type of the T-message. */
  readonly request: number;

  constructor(errno: number, request: number) {
    super(`9p: request ${request} failed with error ${errno}`);
    this.errno = errno;
    this.request = request;
  }
}

/** Data beside a message: what follows a Twrite, or where the data of an Rread go. */
export type Payload = { readonly send: Uint8Array } | { readonly receive: Uint8Array };

interface Slot {
  readonly tag: number;
  readonly request: Gpa;
  readonly reply: Gpa;
  data: Gpa | undefined;
  readonly writer: MessageWriter;
  readonly head: Uint8Array;
}

/** Requests and replies over the queue of a virtio-9p device, several at a time. Trusts no reply. */
export class Connection {
  readonly #session: DriverSession;
  readonly #queue: DriverVirtqueue;
  readonly #reader = new MessageReader();
  #slots = 0;
  readonly #idle: Slot[] = [];
  readonly #waiting: { resolve: (slot: Slot) => void; reject: (error: Error) => void }[] = [];
  readonly #maxSlots: number;
  /** Bytes of the largest message; Tversion may lower it. */
  msize: number;

  constructor(session: DriverSession, queue: DriverVirtqueue, msize: number, maxRequests: number) {
    this.#session = session;
    this.#queue = queue;
    this.msize = msize;
    this.#maxSlots = maxRequests;
  }

  /**
   * Sends one request and reads its reply: `write` puts the fields behind the header, `read` takes them from it and
   * says what the result is. With `receive`, the reply's last field is the count of bytes that were put there.
   * Rejects with a NinePError, or when the device fails or lies.
   */
  async call<T>(
    type: number,
    write: (w: MessageWriter) => void,
    read: (r: MessageReader) => T,
    payload?: Payload,
  ): Promise<T> {
    const slot = await this.#take();
    try {
      const { memory } = this.#session;
      const readable = this.#compose(slot, type, write, payload);
      const receive = payload !== undefined && "receive" in payload ? payload.receive.length : undefined;
      const writable: Segment[] = [
        { gpa: slot.reply, length: receive === undefined ? MESSAGE_BYTES : RLERROR_SIZE },
      ];
      if (receive !== undefined && receive > 0) writable.push({ gpa: this.#data(slot), length: receive });
      const written = await this.#queue.request(readable, writable);
      const head = Math.min(written, writable[0]?.length ?? 0);
      // Once, so that what is checked is what is used.
      slot.head.set(memory.view(slot.reply, head));
      const result = this.#interpret(slot, type, written, head, read);
      if (payload !== undefined && "receive" in payload) {
        const count = written - RLERROR_SIZE;
        if (result !== count) throw this.#lie("a count of data that were not sent", written);
        if (slot.data !== undefined) payload.receive.set(memory.view(slot.data, count));
      }
      return result;
    } finally {
      this.#give(slot);
    }
  }

  /** Ends what waits for its turn; for a device that is gone. */
  fail(error: Error): void {
    for (const { reject } of this.#waiting.splice(0)) reject(error);
  }

  #compose(
    slot: Slot,
    type: number,
    write: (w: MessageWriter) => void,
    payload: Payload | undefined,
  ): Segment[] {
    const { memory } = this.#session;
    write(slot.writer.start());
    const send = payload !== undefined && "send" in payload ? payload.send : undefined;
    slot.writer.finish(type, type === TVERSION ? NOTAG : slot.tag, send?.length ?? 0);
    const { length, bytes } = slot.writer;
    memory.view(slot.request, length).set(bytes.subarray(0, length));
    const readable = [{ gpa: slot.request, length }];
    if (send !== undefined && send.length > 0) {
      const gpa = this.#data(slot);
      memory.view(gpa, send.length).set(send);
      readable.push({ gpa, length: send.length });
    }
    return readable;
  }

  #interpret<T>(slot: Slot, type: number, written: number, head: number, read: (r: MessageReader) => T): T {
    const { head: bytes } = slot;
    const tag = type === TVERSION ? NOTAG : slot.tag;
    const answer = messageType(bytes);
    if (
      written < HEADER_SIZE ||
      messageSize(bytes) !== written ||
      messageTag(bytes) !== tag ||
      (answer !== type + 1 && answer !== RLERROR)
    ) {
      throw this.#lie("a reply whose size, tag or type is wrong", written);
    }
    try {
      const reader = this.#reader.start(bytes, head);
      if (answer === RLERROR) throw new NinePError(reader.u32(), type);
      return read(reader);
    } catch (error) {
      throw error instanceof MalformedMessage ? this.#lie(error.message, written) : error;
    }
  }

  /** The device broke the protocol: it cannot be trusted with anything further. */
  #lie(what: string, value: number): Error {
    const fault = new VirtioFault("own.9p", what, { queue: 0, value });
    this.#session.fail(fault);
    return fault;
  }

  #data(slot: Slot): Gpa {
    slot.data ??= this.#session.memory.allocate(this.msize, ALIGNMENT);
    return slot.data;
  }

  #take(): Slot | Promise<Slot> {
    const { failure } = this.#session;
    if (failure !== undefined) throw failure;
    const idle = this.#idle.pop();
    if (idle !== undefined) return idle;
    if (this.#slots >= this.#maxSlots) {
      return new Promise((resolve, reject) => void this.#waiting.push({ resolve, reject }));
    }
    const { memory } = this.#session;
    const slot: Slot = {
      tag: this.#slots,
      request: memory.allocate(MESSAGE_BYTES, ALIGNMENT),
      reply: memory.allocate(MESSAGE_BYTES, ALIGNMENT),
      data: undefined,
      writer: new MessageWriter(new Uint8Array(MESSAGE_BYTES)),
      head: new Uint8Array(MESSAGE_BYTES),
    };
    this.#slots++;
    return slot;
  }

  #give(slot: Slot): void {
    const waiting = this.#waiting.shift();
    if (waiting === undefined) this.#idle.push(slot);
    else waiting.resolve(slot);
  }
}
