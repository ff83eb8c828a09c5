import { asNbdError, NbdError, NbdProtocolError } from "./errors.ts";
import { handshake, type NbdExport } from "./handshake.ts";
import { HandshakeReader } from "./handshake-reader.ts";
import {
  NBD_CMD_DISC,
  NBD_CMD_WRITE,
  NBD_REQUEST_MAGIC,
  NBD_REQUEST_SIZE,
  writeBe16,
  writeBe32,
  writeBe64,
} from "./protocol.ts";
import { ReplyParser } from "./reply-parser.ts";
import type { NbdRequest } from "./request.ts";
import { SilenceWatch, type Watched } from "./silence.ts";
import { type NbdReceiver, NbdSocket } from "./socket.ts";
import type { NbdTarget } from "./uri.ts";

/** Requests under way on one connection; further ones wait. */
export const MAX_IN_FLIGHT = 128;
/** Bytes on their way to the server before further requests wait. */
const MAX_QUEUED: number = 1 << 22;
/** Writes up to this are copied behind their header; the buffers of larger ones leave from where they are, */
const COPY_BYTES = 8192;
/** unless they are as small as this. */
const COPY_PIECE = 1024;
/** Requests that leave in one turn of the event loop share memory of this many bytes. */
const SLAB: number = 1 << 16;
const STAYED_MS = 1000;

/** What a connection tells its user. */
export interface ConnectionEvents {
  /** A request is settled, or data has left: there may be room for more. */
  ready(): void;
  /** The server wants to end: the request was not served, and this connection takes no more. */
  shed(request: NbdRequest): void;
  /** Requests are under way, and for so many milliseconds there was no sign of life; they go on waiting. */
  silent(ms: number): void;
  /**
   * The connection is gone. `pending` were under way; a server that broke the protocol (NbdProtocolError) would only do so
   * again.
   */
  lost(connection: NbdConnection, error: NbdError, pending: readonly NbdRequest[]): void;
}

export interface ConnectionTimes {
  /** Milliseconds until the handshake must be over. */
  readonly handshakeMs: number;
  /** Milliseconds of silence after which a server that owes answers is given up; 0: never. */
  readonly silenceMs: number;
}

/** One connection in the transmission phase. */
export class NbdConnection {
  readonly export: NbdExport;
  readonly #socket: NbdSocket;
  readonly #events: ConnectionEvents;
  readonly #parser: ReplyParser;
  readonly #slots: (NbdRequest | undefined)[] = [];
  readonly #free: number[] = [];
  #serial = 0;
  #inFlight = 0;
  #answered = false;
  readonly #since = Date.now();
  #retiring = false;
  #closed = false;
  #slab: Uint8Array = Buffer.allocUnsafeSlow(SLAB);
  #from = 0;
  #to = 0;
  #corked = false;
  #idle: (() => void) | undefined;
  readonly #watch: SilenceWatch;

  /** Connects and leads the handshake; rejects with an NbdError that does not name the server. `signal` gives it up. */
  static async open(
    target: NbdTarget,
    events: ConnectionEvents,
    times: ConnectionTimes,
    signal: AbortSignal,
  ): Promise<NbdConnection> {
    const reader = new HandshakeReader();
    const socket = new NbdSocket(target, reader);
    const timer = setTimeout(() => {
      socket.destroy(
        new NbdError("EIO", `no NBD handshake within ${(times.handshakeMs / 1000).toFixed(1)} s`),
      );
    }, times.handshakeMs);
    const giveUp = (): void => socket.destroy(new NbdError("EIO", "the NBD disk is closed"));
    signal.addEventListener("abort", giveUp);
    try {
      const stream = {
        read: (length: number) => reader.read(length),
        write: (bytes: Uint8Array) => socket.write(bytes),
        startTls: async () => {
          // What came in clear text behind the answer is not the server's, or the server is none.
          if (reader.left > 0) throw new NbdProtocolError("more than a reply before TLS begins");
          await socket.startTls(target.tls ?? {}, target.address);
        },
      };
      const said = await handshake(stream, target.exportName, target.tls !== undefined);
      if (reader.left > 0) throw new NbdProtocolError("a reply before any request");
      return new NbdConnection(socket, said, events, times.silenceMs);
    } catch (error) {
      // An option that says goodbye may still be on its way.
      socket.end();
      setTimeout(() => socket.destroy(), 1000).unref();
      throw asNbdError(error);
    } finally {
      clearTimeout(timer);
      signal.removeEventListener("abort", giveUp);
    }
  }

  private constructor(socket: NbdSocket, said: NbdExport, events: ConnectionEvents, silenceMs: number) {
    this.export = said;
    this.#socket = socket;
    this.#events = events;
    this.#parser = new ReplyParser(said.structured, {
      find: (high, low) => {
        const request = this.#slots[low];
        return request?.serial === high ? request : undefined;
      },
      finished: (request, slot) => this.#finished(request, slot),
    });
    this.#watch = new SilenceWatch(this.#watched(silenceMs), silenceMs);
    socket.receiver = this.#receiver();
  }

  get inFlight(): number {
    return this.#inFlight;
  }

  /** The server does more than accept connections and end them: it answered a request, or stayed for a while. */
  get productive(): boolean {
    return this.#answered || Date.now() - this.#since > STAYED_MS;
  }

  /** Whether a request can be sent now. */
  get hasRoom(): boolean {
    return (
      !this.#closed && !this.#retiring && this.#inFlight < MAX_IN_FLIGHT && this.#socket.queued < MAX_QUEUED
    );
  }

  /** Only while there is room. */
  send(request: NbdRequest): void {
    const slot = this.#free.pop() ?? this.#slots.length;
    this.#serial = (this.#serial + 1) >>> 0;
    request.begin(this.#serial);
    this.#slots[slot] = request;
    if (this.#inFlight++ === 0) this.#watch.start();
    this.#cork();
    const at = this.#take(NBD_REQUEST_SIZE);
    const bytes = this.#slab;
    writeBe32(bytes, at, NBD_REQUEST_MAGIC);
    writeBe16(bytes, at + 4, request.flags);
    writeBe16(bytes, at + 6, request.command);
    writeBe32(bytes, at + 8, request.serial);
    writeBe32(bytes, at + 12, slot);
    writeBe64(bytes, at + 16, request.offset);
    writeBe32(bytes, at + 24, request.length);
    if (request.command !== NBD_CMD_WRITE) return;
    const copied = request.length <= COPY_BYTES ? COPY_BYTES : COPY_PIECE;
    for (const buffer of request.buffers) this.#put(buffer, copied);
  }

  /** Ends the connection when nothing is under way any more, or after `timeoutMs` at the latest. */
  async close(timeoutMs: number): Promise<void> {
    this.#retiring = true;
    if (this.#closed) return;
    if (this.#inFlight > 0) {
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, timeoutMs);
        this.#idle = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
    if (this.#inFlight > 0) this.#socket.destroy(new NbdError("EIO", "the NBD disk was closed"));
    else this.#goodbye();
  }

  #receiver(): NbdReceiver {
    const parser = this.#parser;
    return {
      get sips(): boolean {
        return parser.large;
      },
      take: (chunk) => this.#guard(() => this.#parser.push(chunk)),
      room: () => this.#parser.room(),
      filled: (length) => this.#guard(() => this.#parser.filled(length)),
      drained: () => this.#events.ready(),
      closed: (error) => this.#lost(error),
    };
  }

  #watched(silenceMs: number): Watched {
    return {
      owed: () => this.#inFlight > 0,
      moved: () => this.#socket.moved,
      silent: (ms) => this.#events.silent(ms),
      expired: () =>
        this.#socket.destroy(
          new NbdError("EIO", `the NBD server has not answered for ${silenceMs / 1000} s`),
        ),
    };
  }

  #guard(work: () => void): void {
    if (this.#closed) return;
    try {
      work();
    } catch (error) {
      if (!(error instanceof NbdProtocolError)) throw error;
      this.#socket.destroy(error);
      return;
    }
    this.#events.ready();
  }

  #finished(request: NbdRequest, slot: number): void {
    this.#slots[slot] = undefined;
    this.#free.push(slot);
    this.#inFlight--;
    // "If the client receives an NBD_ESHUTDOWN error it MUST initiate a soft disconnect."
    if (request.error?.code === "ESHUTDOWN") {
      this.#retiring = true;
      this.#events.shed(request);
    } else {
      this.#answered = true;
      request.settle();
    }
    if (this.#inFlight > 0 || !this.#retiring) return;
    if (this.#idle === undefined) this.#goodbye();
    else this.#idle();
  }

  /** "The client sends NBD_CMD_DISC whereupon the server MUST […] close the TCP connection." */
  #goodbye(): void {
    if (this.#closed) return;
    const bytes = new Uint8Array(NBD_REQUEST_SIZE);
    writeBe32(bytes, 0, NBD_REQUEST_MAGIC);
    writeBe16(bytes, 6, NBD_CMD_DISC);
    this.#flush();
    this.#socket.write(bytes);
    this.#socket.end();
    setTimeout(() => this.#socket.destroy(), 1000).unref();
  }

  #lost(error: Error | undefined): void {
    this.#closed = true;
    this.#watch.stop();
    const pending = this.#slots.filter((request) => request !== undefined);
    this.#slots.length = 0;
    this.#inFlight = 0;
    this.#idle?.();
    const reason = error ?? new NbdError("EIO", "the NBD server ended the connection");
    this.#events.lost(this, asNbdError(reason), pending);
  }

  /**
   * All that is sent together leaves in one system call. By a promise: a loop that blocks lets these go on far more often than
   * Node's own ticks.
   */
  #cork(): void {
    if (this.#corked) return;
    this.#corked = true;
    this.#socket.cork();
    queueMicrotask(this.#flush);
  }

  readonly #flush = (): void => {
    this.#flushSlab();
    if (!this.#corked) return;
    this.#corked = false;
    this.#socket.uncork();
  };

  /** Data of a write; up to so many bytes are copied. */
  #put(data: Uint8Array, copied: number): void {
    if (data.length <= copied) {
      // There may be another slab afterwards.
      const at = this.#take(data.length);
      this.#slab.set(data, at);
    } else {
      this.#flushSlab();
      this.#socket.write(data);
    }
  }

  /** Room of so many bytes in the slab: where it begins. */
  #take(length: number): number {
    if (this.#slab.length - this.#to < length) {
      this.#flushSlab();
      // What is on its way keeps the old one.
      this.#slab = Buffer.allocUnsafeSlow(SLAB);
      this.#from = 0;
      this.#to = 0;
    }
    const at = this.#to;
    this.#to += length;
    return at;
  }

  #flushSlab(): void {
    if (this.#from === this.#to) return;
    this.#socket.write(this.#slab.subarray(this.#from, this.#to));
    this.#from = this.#to;
  }
}
