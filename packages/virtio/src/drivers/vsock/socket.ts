import { orAborted, throwIfAborted } from "../../driver/abort.ts";
import { Mailbox } from "../../driver/mailbox.ts";
import { delay } from "../../driver/turn.ts";
import { Turns } from "../../driver/turns.ts";
import type { CancelSignal } from "../../driver/virtqueue.ts";
import {
  VIRTIO_VSOCK_OP_CREDIT_REQUEST,
  VIRTIO_VSOCK_OP_CREDIT_UPDATE,
  VIRTIO_VSOCK_OP_REQUEST,
  VIRTIO_VSOCK_OP_RESPONSE,
  VIRTIO_VSOCK_OP_RST,
  VIRTIO_VSOCK_OP_RW,
  VIRTIO_VSOCK_OP_SHUTDOWN,
  VIRTIO_VSOCK_SEQ_EOM,
  VIRTIO_VSOCK_SEQ_EOR,
  VIRTIO_VSOCK_SHUTDOWN_F_RECEIVE,
  VIRTIO_VSOCK_SHUTDOWN_F_SEND,
  VIRTIO_VSOCK_TYPE_SEQPACKET,
} from "../../spec/vsock.ts";
import { PeerCredit } from "./credit.ts";
import { Gathered } from "./gathered.ts";
import type { VsockAddress, VsockHeader } from "./packet.ts";

/** What a connection needs of the driver. */
export interface VsockWire {
  /** Bytes of payload in one packet at most. */
  readonly maxPayload: number;
  /** Sends a packet of this socket, in the order of the calls. Resolves when the device has taken it. */
  send(socket: VsockSocket, op: number, flags: number, payload?: Uint8Array): Promise<void>;
  /** As `send`, for what answers the peer: nobody waits, and it is bounded. */
  reply(socket: VsockSocket, op: number, flags?: number): void;
  /** The connection is over. */
  forget(socket: VsockSocket): void;
}

/** The connection could not be made, or is over for another reason than that both ends agreed. */
export class VsockError extends Error {
  override readonly name = "VsockError";
  readonly code: "refused" | "reset" | "protocol" | "transport-reset" | "closed";

  constructor(code: VsockError["code"], message: string) {
    super(`vsock: ${message}`);
    this.code = code;
  }
}

/** A piece of a stream, or a whole message. */
export interface VsockChunk {
  readonly bytes: Uint8Array;
  /** The message is the last one of a record; never of a stream. */
  readonly endOfRecord: boolean;
}

const SHUTDOWN_RECEIVE = 1 << VIRTIO_VSOCK_SHUTDOWN_F_RECEIVE;
const SHUTDOWN_SEND = 1 << VIRTIO_VSOCK_SHUTDOWN_F_SEND;
const SHUTDOWN_BOTH = SHUTDOWN_RECEIVE | SHUTDOWN_SEND;
/** Milliseconds that a connection that is to end may go without progress, and how often that is looked at meanwhile. */
const CLOSE_TIMEOUT = 2000;
const CLOSE_LOOKS = 8;
/** Packets of one socket with the device. */
const IN_FLIGHT = 8;
/** Pieces of a stream become one up to so many bytes: packets of a good size are not copied again. */
const MERGED = 4096;
/** Messages without a byte that wait for a reader: no credit bounds them. */
const MAX_EMPTY = 16_384;

/** A connection ("Stream Sockets", "Seqpacket Sockets"). */
export class VsockSocket implements AsyncIterable<Uint8Array> {
  /** VIRTIO_VSOCK_TYPE_…. */
  readonly type: number;
  readonly localPort: number;
  readonly remote: VsockAddress;
  /** Bytes of room for what nobody has read. */
  readonly bufAlloc: number;
  readonly #wire: VsockWire;
  readonly #received = new Mailbox<VsockChunk>();
  /** The last piece of the stream that was put there. */
  #tail: Gathered | undefined;
  readonly #credit = new PeerCredit();
  readonly #writes = new Turns();
  readonly #over = deferred();
  /** Bytes that nobody has read, and those of the message that is not complete. */
  #buffered = 0;
  #message: Gathered | undefined;
  /** Messages without a byte that nobody has read. */
  #empty = 0;
  #fwdCnt = 0;
  #told = 0;
  /** Packets of ours that went anywhere. */
  #progress = 0;
  #state: "connecting" | "open" | "closed" = "connecting";
  #sends = true;
  #receives = true;
  #peerSends = true;
  #peerReceives = true;
  #failure: Error | undefined;
  #connected: { readonly resolve: () => void; readonly reject: (error: Error) => void } | undefined;

  constructor(wire: VsockWire, type: number, localPort: number, remote: VsockAddress, bufAlloc: number) {
    this.#wire = wire;
    this.type = type;
    this.localPort = localPort;
    this.remote = remote;
    this.bufAlloc = bufAlloc;
  }

  /** Free-running count of the bytes that were read; sending it tells the peer of it. */
  takeFwdCnt(): number {
    return (this.#told = this.#fwdCnt);
  }

  get isOpen(): boolean {
    return this.#state === "open";
  }

  /** There is something to read, even if the connection is over. */
  get hasData(): boolean {
    return this.#received.length > 0;
  }

  /** Called by the driver: asks the peer, and resolves when it agreed. */
  async connect(signal: CancelSignal | undefined): Promise<void> {
    const answer = new Promise<void>((resolve, reject) => (this.#connected = { resolve, reject }));
    // The answer may come before the device gives the buffer of the question back; a device that fails ends both.
    this.#wire.reply(this, VIRTIO_VSOCK_OP_REQUEST);
    try {
      await orAborted(answer, signal);
    } catch (error) {
      if (this.#state !== "closed") this.reset();
      throw error;
    }
  }

  /** Called by the driver: a peer asked. */
  accept(header: VsockHeader): void {
    this.#state = "open";
    this.#credit.update(header.bufAlloc, header.fwdCnt);
    this.#wire.reply(this, VIRTIO_VSOCK_OP_RESPONSE);
  }

  /**
   * The next piece, or message, with its mark. Undefined when the peer sends no more. Rejects with a VsockError when the
   * connection was reset.
   */
  async receive(signal?: CancelSignal): Promise<VsockChunk | undefined> {
    const chunk = await this.#received.take(signal);
    if (chunk === undefined) return undefined;
    if (chunk.bytes.length === 0) this.#empty--;
    this.#consumed(chunk.bytes.length);
    return chunk;
  }

  /** The bytes of `receive`. */
  async read(signal?: CancelSignal): Promise<Uint8Array | undefined> {
    return (await this.receive(signal))?.bytes;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Uint8Array, void> {
    for (let bytes = await this.read(); bytes !== undefined; bytes = await this.read()) yield bytes;
  }

  /**
   * Sends all of `data`; of a seqpacket socket it is one message, and `endOfRecord` marks it. Waits for the peer to have
   * room. Resolves when the device has all of it; an abort leaves a part sent.
   */
  write(data: Uint8Array, signal?: CancelSignal, endOfRecord: boolean = false): Promise<void> {
    return this.#writes.take(async () => {
      const message = this.type === VIRTIO_VSOCK_TYPE_SEQPACKET;
      if (message && data.length > this.#credit.bufAlloc && this.isOpen)
        throw new RangeError(
          `vsock: a message of ${data.length} bytes, the peer has room for ${this.#credit.bufAlloc}`,
        );
      const sent: Promise<void>[] = [];
      try {
        for (let at = 0; at < data.length || (message && at === 0);) {
          const length = Math.min(
            data.length - at,
            this.#wire.maxPayload,
            await this.#room(data.length, signal),
          );
          const last = at + length === data.length;
          const marks = VIRTIO_VSOCK_SEQ_EOM | (endOfRecord ? VIRTIO_VSOCK_SEQ_EOR : 0);
          this.#credit.took(length);
          this.#progress++;
          const payload = data.subarray(at, at + length);
          sent.push(this.#wire.send(this, VIRTIO_VSOCK_OP_RW, message && last ? marks : 0, payload));
          at += length;
          if (sent.length > IN_FLIGHT) await orAborted(sent.shift() ?? Promise.resolve(), signal);
          if (last) break;
        }
        await orAborted(Promise.all(sent), signal);
      } finally {
        // Whoever gave up does not hear of them.
        for (const each of sent) each.catch(() => undefined);
      }
    });
  }

  /** Sends no more; the peer sees the end when it has read everything. */
  end(): Promise<void> {
    return this.#writes.take(async () => {
      if (!this.#sends || this.#state !== "open") return;
      this.#sends = false;
      await this.#wire.send(this, VIRTIO_VSOCK_OP_SHUTDOWN, SHUTDOWN_SEND);
    });
  }

  /** Ends the connection when what was written is sent. Resolves when the peer agreed, or nothing went on for a while. */
  async close(): Promise<void> {
    if (this.#state === "connecting") this.reset();
    let over = false;
    const end = this.#writes.take(async () => {
      if (this.#state !== "open") return;
      this.#sends = this.#receives = false;
      await this.#wire.send(this, VIRTIO_VSOCK_OP_SHUTDOWN, SHUTDOWN_BOTH);
      this.#progress++;
      await this.#over.promise;
    });
    const ended = end.finally(() => (over = true));
    ended.catch(() => undefined);
    for (let idle = 0, before = 0; !over && idle < CLOSE_LOOKS; idle++) {
      if (before !== this.#progress) idle = 0;
      before = this.#progress;
      const late = delay(CLOSE_TIMEOUT / CLOSE_LOOKS);
      await Promise.race([ended, late.done]);
      late.cancel();
    }
    if (this.#state !== "closed") this.reset();
  }

  /** Ends the connection at once; what was not sent or read is lost. */
  reset(): void {
    if (this.#state === "closed") return;
    this.#wire.reply(this, VIRTIO_VSOCK_OP_RST);
    this.finish(new VsockError("closed", "the connection was closed"));
  }

  /** Called by the driver for each packet. */
  handle(header: VsockHeader, payload: Uint8Array): void {
    if (header.type !== this.type) return this.#broken(`a packet of type ${header.type}`);
    this.#credit.update(header.bufAlloc, header.fwdCnt);
    switch (header.op) {
      case VIRTIO_VSOCK_OP_RST:
        return this.#reset();
      case VIRTIO_VSOCK_OP_RESPONSE:
        if (this.#state !== "connecting") return this.#broken("a second response");
        this.#state = "open";
        return this.#connected?.resolve();
      case VIRTIO_VSOCK_OP_CREDIT_UPDATE:
        return;
      case VIRTIO_VSOCK_OP_CREDIT_REQUEST:
        return this.#wire.reply(this, VIRTIO_VSOCK_OP_CREDIT_UPDATE);
      case VIRTIO_VSOCK_OP_SHUTDOWN:
        return this.#shutdown(header.flags);
      case VIRTIO_VSOCK_OP_RW:
        return this.#data(header.flags, payload);
      default:
        return this.#broken(`operation ${header.op}`);
    }
  }

  /** Called by the driver: the connection is over, with nothing more to say to the peer. */
  finish(error: Error | undefined): void {
    if (this.#state === "closed") return;
    this.#state = "closed";
    this.#failure = error ?? new VsockError("closed", "the connection was closed");
    // After the peer's last byte an end is an end, however it came.
    if (error === undefined || !this.#peerSends) this.#received.end();
    else this.#received.fail(error);
    this.#connected?.reject(this.#failure);
    this.#credit.wake();
    this.#over.resolve();
    this.#wire.forget(this);
  }

  #data(flags: number, payload: Uint8Array): void {
    if (this.#state !== "open" || !this.#peerSends) return this.#broken("data that may not come");
    // "VIRTIO_VSOCK_OP_RW data packets MUST only be transmitted when the peer has sufficient free buffer space"
    if (this.#buffered + payload.length > this.bufAlloc)
      return this.#broken("more data than there is room for");
    this.#buffered += payload.length;
    if (!this.#receives) return this.#consumed(payload.length);
    if (this.type === VIRTIO_VSOCK_TYPE_SEQPACKET) this.#part(flags, payload);
    else if (payload.length > 0) this.#piece(payload);
  }

  /** Of a stream. Credit bounds its bytes, and so must their pieces be, however small the packets. */
  #piece(payload: Uint8Array): void {
    const tail = this.#tail;
    if (tail !== undefined && this.hasData && tail.length + payload.length <= MERGED)
      return tail.append(payload);
    const piece = new Gathered(payload);
    this.#tail = piece;
    this.#received.put({
      get bytes() {
        return piece.bytes;
      },
      endOfRecord: false,
    });
  }

  /** Of a message. */
  #part(flags: number, payload: Uint8Array): void {
    if (this.#message === undefined) this.#message = new Gathered(payload);
    else this.#message.append(payload);
    if ((flags & VIRTIO_VSOCK_SEQ_EOM) === 0) return;
    const { bytes } = this.#message;
    this.#message = undefined;
    if (bytes.length === 0 && ++this.#empty > MAX_EMPTY)
      return this.#broken("too many messages that nobody reads");
    this.#received.put({ bytes, endOfRecord: (flags & VIRTIO_VSOCK_SEQ_EOR) !== 0 });
  }

  /** Tells the peer of room when there is a good part of it again, or nothing left to read. */
  #consumed(bytes: number): void {
    this.#buffered -= bytes;
    this.#fwdCnt = (this.#fwdCnt + bytes) >>> 0;
    const untold = (this.#fwdCnt - this.#told) >>> 0;
    const enough = this.#buffered === 0 && this.type === VIRTIO_VSOCK_TYPE_SEQPACKET ? 1 : this.bufAlloc / 4;
    if (this.#state === "open" && this.#peerSends && untold >= enough)
      this.#wire.reply(this, VIRTIO_VSOCK_OP_CREDIT_UPDATE);
  }

  /** Bytes that can be sent now, at least one unless nothing is to be sent. Throws when there never will be. */
  async #room(wanted: number, signal: CancelSignal | undefined): Promise<number> {
    for (let asked = false; ; asked = true) {
      throwIfAborted(signal);
      if (this.#failure !== undefined) throw this.#failure;
      if (!this.#sends || !this.#peerReceives)
        throw new VsockError("closed", "the connection takes no more data");
      const { free } = this.#credit;
      if (free > 0 || wanted === 0) return free;
      const changed = this.#credit.changed();
      if (!asked) this.#wire.reply(this, VIRTIO_VSOCK_OP_CREDIT_REQUEST);
      await orAborted(changed, signal);
    }
  }

  /** "These hints are permanent once sent". */
  #shutdown(flags: number): void {
    if ((flags & SHUTDOWN_SEND) !== 0 && this.#peerSends) {
      this.#peerSends = false;
      this.#received.end();
    }
    if ((flags & SHUTDOWN_RECEIVE) !== 0) {
      this.#peerReceives = false;
      this.#credit.wake();
    }
    if (this.#peerSends || this.#peerReceives) return;
    this.#wire.reply(this, VIRTIO_VSOCK_OP_RST);
    this.finish(undefined);
  }

  #reset(): void {
    const { cid, port } = this.remote;
    if (this.#state === "connecting")
      return this.finish(new VsockError("refused", `nobody listens at ${cid}:${port}, or it has no room`));
    const agreed = !this.#sends && !this.#receives;
    this.finish(agreed ? undefined : new VsockError("reset", `the connection was reset by ${cid}:${port}`));
  }

  #broken(what: string): void {
    this.#wire.reply(this, VIRTIO_VSOCK_OP_RST);
    this.finish(new VsockError("protocol", `${this.remote.cid}:${this.remote.port} sent ${what}`));
  }
}

interface Deferred {
  readonly promise: Promise<void>;
  readonly resolve: () => void;
}

function deferred(): Deferred {
  let resolve = (): void => undefined;
  const promise = new Promise<void>((done) => (resolve = done));
  return { promise, resolve };
}
