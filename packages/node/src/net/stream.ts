import type { Socket } from "node:net";
import type { NetBackend, NetPort } from "virtio/backends/net";
import { type EndpointOptions, SocketEndpoint } from "./endpoint.ts";
import { FrameReader, LENGTH_SIZE, MAX_FRAME, type ReadResult, writeFrameLength } from "./frame-stream.ts";

/** Bytes on their way to the peer; frames beyond are dropped, as a cable drops them. */
export const MAX_QUEUED: number = 1 << 20;
/** Frames that leave in one turn of the event loop share memory of this many bytes. */
const SLAB = 1 << 17;

/**
 * A cable over a TCP or unix socket that carries what QEMU's `-netdev stream` carries: another machine of ours, a
 * QEMU, or passt. The link is up while a peer is connected.
 */
export class StreamNetBackend implements NetBackend {
  readonly #endpoint: SocketEndpoint;
  readonly #reader: FrameReader;
  #port: NetPort | undefined;
  #socket: Socket | undefined;
  /** The guest has no room: a frame waits in the reader, and the socket is paused. */
  #waiting = false;
  #slab: Uint8Array = new Uint8Array(0);
  #from = 0;
  #to = 0;
  /** Frames of the guest that were dropped because the peer does not keep up or is not there. */
  dropped = 0;

  /** See `SocketEndpoint.open` for when this resolves and what it rejects with. */
  static async open(options: EndpointOptions): Promise<StreamNetBackend> {
    const backend = new StreamNetBackend(options);
    await backend.#endpoint.open();
    return backend;
  }

  private constructor(options: EndpointOptions) {
    this.#reader = new FrameReader((frame) => this.#port?.receive(frame) === true);
    this.#endpoint = new SocketEndpoint(options, {
      connected: (socket) => this.#connected(socket),
      disconnected: () => this.#disconnected(),
    });
  }

  get linkUp(): boolean {
    return this.#socket !== undefined;
  }

  /** The port a TCP server listens on, for `port: 0`. */
  get tcpPort(): number | undefined {
    return this.#endpoint.port;
  }

  attach(port: NetPort | undefined): void {
    this.#port = port;
    this.ready();
  }

  ready(): void {
    if (this.#waiting && this.#port !== undefined) this.#read(this.#reader.resume());
  }

  send(frame: Uint8Array): boolean {
    const socket = this.#socket;
    const length = LENGTH_SIZE + frame.length;
    const queued = (socket?.writableLength ?? 0) + this.#to - this.#from;
    if (socket === undefined || frame.length > MAX_FRAME || queued + length > MAX_QUEUED) {
      this.dropped++;
      return false;
    }
    if (this.#slab.length - this.#to < length) {
      this.#flush();
      this.#slab = new Uint8Array(Math.max(SLAB, length));
      this.#from = 0;
      this.#to = 0;
    }
    // One write for all that a guest sends in one go.
    if (this.#from === this.#to) process.nextTick(() => this.#flush());
    writeFrameLength(this.#slab, this.#to, frame.length);
    this.#slab.set(frame, this.#to + LENGTH_SIZE);
    this.#to += length;
    return true;
  }

  close(): void {
    this.#port = undefined;
    this.#endpoint.close();
  }

  #flush(): void {
    if (this.#from === this.#to) return;
    const chunk = this.#slab.subarray(this.#from, this.#to);
    this.#from = this.#to;
    this.#socket?.write(chunk);
  }

  #connected(socket: Socket): void {
    this.#socket = socket;
    socket.on("data", (chunk: Uint8Array) => this.#read(this.#reader.push(chunk)));
    this.#port?.linkChanged();
  }

  #disconnected(): void {
    this.#socket = undefined;
    this.#reader.reset();
    this.#waiting = false;
    this.#from = this.#to;
    this.#port?.linkChanged();
  }

  #read(result: ReadResult): void {
    if (result === "broken") {
      this.#endpoint.drop(`the peer of a stream cable sent a frame longer than ${MAX_FRAME} bytes`);
      return;
    }
    const full = result === "full";
    if (full && !this.#waiting) this.#socket?.pause();
    else if (!full && this.#waiting) this.#socket?.resume();
    this.#waiting = full;
  }
}
