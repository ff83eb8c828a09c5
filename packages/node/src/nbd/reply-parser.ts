import { isWindows } from "../native/platform.ts";
import { errorCode, NbdError, NbdProtocolError, serverText } from "./errors.ts";
import {
  NBD_CMD_READ,
  NBD_MAX_STRING,
  NBD_REPLY_FLAG_DONE,
  NBD_REPLY_TYPE_ERROR_BIT,
  NBD_REPLY_TYPE_NONE,
  NBD_REPLY_TYPE_OFFSET_DATA,
  NBD_REPLY_TYPE_OFFSET_HOLE,
  NBD_SIMPLE_REPLY_MAGIC,
  NBD_SIMPLE_REPLY_SIZE,
  NBD_STRUCTURED_REPLY_MAGIC,
  NBD_STRUCTURED_REPLY_SIZE,
  readBe16,
  readBe32,
  readBe64,
} from "./protocol.ts";
import type { NbdRequest } from "./request.ts";

/** Who knows what was asked. */
export interface ReplyEvents {
  /** The request with this cookie, or undefined: there is none. */
  find(cookieHigh: number, cookieLow: number): NbdRequest | undefined;
  /** All of its reply has come. */
  finished(request: NbdRequest, cookieLow: number): void;
}

/** The fixed fields of an error chunk, its text, and as much again for fields of types that are not known. */
const MAX_ERROR_PAYLOAD: number = 2 * NBD_MAX_STRING;
/** Error chunks of one reply; a server that sends more never comes to an end. */
const MAX_ERROR_CHUNKS = 256;
/** From here on the rest of a payload is read straight into its target. */
const DIRECT_BYTES = 32_768;
/** Behind such a payload another one is expected. */
const LARGE_BYTES = 65_536;
const NO_BUFFERS: readonly Uint8Array[] = [];
/** Windows may still write into a buffer while its socket closes. */
const CAN_READ_INTO_TARGET: boolean = !isWindows();

/**
 * Reads the replies of a server from pieces of any size. Data goes from the piece into the request's buffer, or is read there
 * by the system itself (`room`); headers are gathered first. Throws an NbdProtocolError for what no server may send.
 */
export class ReplyParser {
  readonly #structured: boolean;
  readonly #events: ReplyEvents;
  /** What is gathered before it is looked at: a header, or a payload without data. */
  #fields: Uint8Array = new Uint8Array(64);
  #have = 0;
  #need = 4;
  #state: "magic" | "simple" | "structured" | "data" | "hole" | "error" | "content" = "magic";
  #request: NbdRequest | undefined;
  #cookieLow = 0;
  #done = false;
  /** Of a structured chunk. */
  #payload = 0;
  /** The buffer that comes next, its place in the list, how far it is filled, and what is to come in all. */
  #buffers: readonly Uint8Array[] = NO_BUFFERS;
  #index = 0;
  #target: Uint8Array = this.#fields;
  #targetAt = 0;
  #left = 0;
  /** Bytes in one piece, of the data that came last. */
  #lastContent = 0;

  constructor(structured: boolean, events: ReplyEvents) {
    this.#structured = structured;
    this.#events = events;
  }

  push(chunk: Uint8Array): void {
    for (let at = 0; at < chunk.length;) {
      if (this.#state === "content") {
        const length = Math.min(this.#rest, chunk.length - at);
        this.#target.set(chunk.subarray(at, at + length), this.#targetAt);
        at += length;
        this.filled(length);
        continue;
      }
      while (this.#have < this.#need && at < chunk.length) this.#fields[this.#have++] = chunk[at++] ?? 0;
      if (this.#have === this.#need) this.#gathered();
    }
  }

  /** The rest of a large buffer, when that is what comes next. */
  room(): Uint8Array | undefined {
    if (this.#state !== "content" || !CAN_READ_INTO_TARGET) return undefined;
    const rest = this.#rest;
    // The rest of a large one as well, be it small: otherwise more is copied than must.
    const large = this.#lastContent >= LARGE_BYTES && this.#target.length >= LARGE_BYTES;
    if (rest < DIRECT_BYTES && !large) return undefined;
    return this.#target.subarray(this.#targetAt, this.#targetAt + rest);
  }

  /** Large payloads come, as it seems: whoever reads much at once into a buffer of his own copies more than he must. */
  get large(): boolean {
    return this.#state !== "content" && this.#lastContent >= LARGE_BYTES && CAN_READ_INTO_TARGET;
  }

  /** So many bytes of the payload are in their buffer. */
  filled(length: number): void {
    this.#targetAt += length;
    this.#left -= length;
    if (this.#left === 0) this.#chunkDone();
    else this.#skipFull();
  }

  /** Bytes that are to come into the buffer that is being filled. */
  get #rest(): number {
    return Math.min(this.#left, this.#target.length - this.#targetAt);
  }

  #skipFull(): void {
    while (this.#targetAt >= this.#target.length && this.#index + 1 < this.#buffers.length) {
      this.#targetAt -= this.#target.length;
      this.#target = this.#buffers[++this.#index] ?? this.#target;
    }
  }

  #gathered(): void {
    switch (this.#state) {
      case "magic":
        return this.#magic();
      case "simple":
        return this.#simpleReply();
      case "structured":
        return this.#structuredChunk();
      case "data":
        return this.#dataChunk();
      case "hole":
        return this.#holeChunk();
      default:
        return this.#errorChunk();
    }
  }

  #magic(): void {
    const magic = readBe32(this.#fields, 0);
    if (magic === NBD_SIMPLE_REPLY_MAGIC) {
      this.#state = "simple";
      this.#need = NBD_SIMPLE_REPLY_SIZE;
    } else if (magic === NBD_STRUCTURED_REPLY_MAGIC && this.#structured) {
      this.#state = "structured";
      this.#need = NBD_STRUCTURED_REPLY_SIZE;
    } else throw new NbdProtocolError(`a reply begins with 0x${magic.toString(16)}`);
  }

  #simpleReply(): void {
    const request = this.#find();
    const error = readBe32(this.#fields, 4);
    this.#done = true;
    if (request.command === NBD_CMD_READ) {
      if (this.#structured)
        throw new NbdProtocolError("a simple reply to a read, where replies are structured");
      // Only an error ends without data.
      if (error === 0) return this.#content(request, 0, request.length);
    }
    if (error !== 0) request.error ??= serverError(error, "");
    this.#chunkDone();
  }

  #structuredChunk(): void {
    const request = this.#find();
    const fields = this.#fields;
    const type = readBe16(fields, 6);
    const length = readBe32(fields, 16);
    this.#done = (readBe16(fields, 4) & NBD_REPLY_FLAG_DONE) !== 0;
    this.#payload = length;
    if ((type & NBD_REPLY_TYPE_ERROR_BIT) !== 0) {
      if (length < 6 || length > MAX_ERROR_PAYLOAD || ++request.errors > MAX_ERROR_CHUNKS) {
        throw new NbdProtocolError(`error chunk ${request.errors} of a reply, ${length} bytes long`);
      }
      return this.#gather("error", length);
    }
    if (type === NBD_REPLY_TYPE_NONE && length === 0 && this.#done) return this.#chunkDone();
    if (request.command === NBD_CMD_READ) {
      if (type === NBD_REPLY_TYPE_OFFSET_DATA && length > 8) return this.#gather("data", 8);
      if (type === NBD_REPLY_TYPE_OFFSET_HOLE && length === 12) return this.#gather("hole", 12);
    }
    throw new NbdProtocolError(
      `a chunk of type ${type} and ${length} bytes, in reply to command ${request.command}`,
    );
  }

  #dataChunk(): void {
    const request = this.#current();
    this.#content(request, readBe64(this.#fields, 0) - request.offset, this.#payload - 8);
  }

  #holeChunk(): void {
    const request = this.#current();
    const start = readBe64(this.#fields, 0) - request.offset;
    const length = readBe32(this.#fields, 8);
    if (length === 0) throw new NbdProtocolError("a hole of no bytes");
    this.#cover(request, start, length);
    this.#seek(request, start, length);
    for (let end = 0; this.#left > 0; this.#left -= end - this.#targetAt, this.#targetAt = end) {
      this.#skipFull();
      end = this.#targetAt + this.#rest;
      this.#target.fill(0, this.#targetAt, end);
    }
    this.#chunkDone();
  }

  #errorChunk(): void {
    const request = this.#current();
    const error = readBe32(this.#fields, 0);
    const length = readBe16(this.#fields, 4);
    if (error === 0) throw new NbdProtocolError("an error chunk without an error");
    if (6 + length > this.#payload || length > NBD_MAX_STRING) {
      throw new NbdProtocolError(`an error text of ${length} bytes in a chunk of ${this.#payload}`);
    }
    request.error ??= serverError(error, serverText(this.#fields.subarray(6, 6 + length)));
    this.#chunkDone();
  }

  #find(): NbdRequest {
    // The cookie has the same place in both kinds of reply.
    const [high, low] = [readBe32(this.#fields, 8), readBe32(this.#fields, 12)];
    const request = this.#events.find(high, low);
    if (request === undefined) {
      throw new NbdProtocolError(
        `a reply with cookie 0x${high.toString(16)}:${low.toString(16)}, which nobody waits for`,
      );
    }
    this.#request = request;
    this.#cookieLow = low;
    return request;
  }

  #current(): NbdRequest {
    if (this.#request === undefined) throw new Error("nbd: a payload without a request");
    return this.#request;
  }

  /** Waits for so many bytes that are no data. */
  #gather(state: "data" | "hole" | "error", length: number): void {
    if (this.#fields.length < length) this.#fields = new Uint8Array(MAX_ERROR_PAYLOAD);
    this.#state = state;
    this.#have = 0;
    this.#need = length;
  }

  /** Waits for so many bytes of data. */
  #content(request: NbdRequest, start: number, length: number): void {
    this.#cover(request, start, length);
    this.#seek(request, start, length);
    this.#lastContent = this.#rest;
    this.#state = "content";
  }

  /** To where so many bytes from `start` of a read belong. */
  #seek({ buffers }: NbdRequest, start: number, length: number): void {
    const [first] = buffers;
    if (first === undefined) throw new Error("nbd: a read without a target");
    this.#buffers = buffers;
    this.#index = 0;
    this.#target = first;
    this.#targetAt = start;
    this.#left = length;
    this.#skipFull();
  }

  #cover(request: NbdRequest, start: number, length: number): void {
    if (request.cover(start, length)) return;
    throw new NbdProtocolError(
      `${length} bytes from ${start} on, outside of a read of ${request.length} bytes or more than once`,
    );
  }

  #chunkDone(): void {
    const request = this.#current();
    this.#state = "magic";
    this.#have = 0;
    this.#need = 4;
    this.#target = this.#fields;
    this.#buffers = NO_BUFFERS;
    if (!this.#done) return;
    this.#request = undefined;
    if (request.error === undefined && !request.complete) {
      throw new NbdProtocolError(
        `the reply to a read of ${request.length} bytes ends before all of them came`,
      );
    }
    this.#events.finished(request, this.#cookieLow);
  }
}

function serverError(value: number, text: string): NbdError {
  const code = errorCode(value);
  return new NbdError(code, `the NBD server answers ${code}${text === "" ? "" : ` ("${text}")`}`);
}
