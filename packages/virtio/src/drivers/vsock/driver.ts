import { choiceOption, wholeOption, wholeOptions } from "../../check-option.ts";
import { throwIfAborted } from "../../driver/abort.ts";
import { ReceiveBuffers, type ReceiveBuffer } from "../../driver/receive-buffers.ts";
import { DriverSession, type DriverOpenOptions } from "../../driver/session.ts";
import { TransmitBuffers } from "../../driver/transmit-buffers.ts";
import type { DriverTransport } from "../../driver/types.ts";
import type { CancelSignal } from "../../driver/virtqueue.ts";
import { VirtioFault } from "../../fault.ts";
import { readLe32, readLe64 } from "../../memory/bytes.ts";
import { featureBits } from "../../spec/core.ts";
import { VIRTIO_ID_VSOCK } from "../../spec/ids.ts";
import {
  VIRTIO_VSOCK_CID_FIRST,
  VIRTIO_VSOCK_CID_RESERVED,
  VIRTIO_VSOCK_CONFIG,
  VIRTIO_VSOCK_CONFIG_SIZE,
  VIRTIO_VSOCK_EVENT_QUEUE,
  VIRTIO_VSOCK_EVENT_SIZE,
  VIRTIO_VSOCK_EVENT_TRANSPORT_RESET,
  VIRTIO_VSOCK_F_NO_IMPLIED_STREAM,
  VIRTIO_VSOCK_F_SEQPACKET,
  VIRTIO_VSOCK_F_STREAM,
  VIRTIO_VSOCK_HDR_SIZE,
  VIRTIO_VSOCK_OP_REQUEST,
  VIRTIO_VSOCK_OP_RST,
  VIRTIO_VSOCK_RX,
  VIRTIO_VSOCK_TX,
  VIRTIO_VSOCK_TYPE_SEQPACKET,
  VIRTIO_VSOCK_TYPE_STREAM,
} from "../../spec/vsock.ts";
import { VsockListener, type VsockListenerOptions } from "./listener.ts";
import { readHeader, writeHeader, type VsockAddress, type VsockHeader } from "./packet.ts";
import { VsockError, VsockSocket, type VsockWire } from "./socket.ts";

export type VsockDriverOptions = DriverOpenOptions;

export type VsockKind = "stream" | "seqpacket";

export interface VsockSocketOptions {
  /** Default `stream`. */
  readonly kind?: VsockKind;
  /** Bytes that a peer may send before somebody reads, 1 to 2^31 - 1. Default 256 KiB. */
  readonly receiveBuffer?: number;
}

export interface VsockConnectOptions extends VsockSocketOptions {
  /** 32 bits, less the last, which means any port. Default one that is free. */
  readonly localPort?: number;
  readonly signal?: CancelSignal;
}

export type VsockListenOptions = Pick<VsockSocketOptions, "kind"> & VsockListenerOptions;

const TYPE = { id: VIRTIO_ID_VSOCK, name: "socket device" };
const WANTED: bigint = featureBits(
  VIRTIO_VSOCK_F_STREAM,
  VIRTIO_VSOCK_F_SEQPACKET,
  VIRTIO_VSOCK_F_NO_IMPLIED_STREAM,
);
const TYPES = { stream: VIRTIO_VSOCK_TYPE_STREAM, seqpacket: VIRTIO_VSOCK_TYPE_SEQPACKET } as const;
const QUEUE_SIZE = 128;
const RECEIVE_BUFFERS = 64;
const RECEIVE_PAYLOAD = 4096;
const TRANSMIT_BUFFERS = 32;
const TRANSMIT_PAYLOAD = 16_384;
const EVENT_BUFFERS = 8;
const DEFAULT_BUFFER = 262_144;
/** Answers that wait for the device to take them; until then it gets no more buffers to send what must be answered. */
const MAX_REPLIES = 1024;
const FIRST_FREE_PORT = 49_152;
const PORTS = 2 ** 32 - 1;
/** The one behind it means any port. */
const LAST_PORT: number = PORTS - 1;
const KINDS: readonly VsockKind[] = ["stream", "seqpacket"];
/** Bytes: what the peer is told has 32 bits, and half of them are enough for anybody. */
const MAX_BUFFER = 2 ** 31 - 1;

/** Driver of a socket device ("Socket Device"): connections to the host and to whoever it knows. */
export class VsockDriver implements VsockWire {
  readonly session: DriverSession;
  readonly maxPayload: number = TRANSMIT_PAYLOAD;
  /** Called when the device said that communication was interrupted: connections are gone, and `cid` may be another. */
  onTransportReset: (() => void) | undefined;
  readonly #sockets = new Map<string, VsockSocket>();
  readonly #listeners = new Map<number, VsockListener>();
  readonly #receive: ReceiveBuffers;
  readonly #transmit: TransmitBuffers;
  readonly #events: ReceiveBuffers;
  readonly #withheld: ReceiveBuffer[] = [];
  #replies = 0;
  #cid: number;
  #nextPort = FIRST_FREE_PORT + Math.floor(Math.random() * 1_000_000);

  private constructor(session: DriverSession) {
    this.session = session;
    this.#cid = this.#readCid();
    const { memory } = session;
    const rx = session.addQueue(VIRTIO_VSOCK_RX, QUEUE_SIZE);
    const tx = session.addQueue(VIRTIO_VSOCK_TX, QUEUE_SIZE);
    const events = session.addQueue(VIRTIO_VSOCK_EVENT_QUEUE, 16);
    this.#events = new ReceiveBuffers(
      events,
      memory,
      EVENT_BUFFERS,
      VIRTIO_VSOCK_EVENT_SIZE,
      (buffer, written) => this.#event(buffer, written),
    );
    const size = VIRTIO_VSOCK_HDR_SIZE + RECEIVE_PAYLOAD;
    this.#receive = new ReceiveBuffers(rx, memory, RECEIVE_BUFFERS, size, (buffer, written) =>
      this.#packet(buffer, written),
    );
    this.#transmit = new TransmitBuffers(
      tx,
      memory,
      TRANSMIT_BUFFERS,
      VIRTIO_VSOCK_HDR_SIZE + TRANSMIT_PAYLOAD,
    );
    session.onFailure = (error) => this.#failed(error);
    session.ready();
  }

  /** Takes the device over. Throws when it is not a socket device, refuses, or gives us no CID. */
  static open(transport: DriverTransport, options: VsockDriverOptions = {}): Promise<VsockDriver> {
    const { ring, signal } = options;
    return DriverSession.start(
      transport,
      { type: TYPE, config: VIRTIO_VSOCK_CONFIG_SIZE, wanted: WANTED, ring, signal },
      (session) => new VsockDriver(session),
    );
  }

  /** Our context ID. */
  get cid(): number {
    return this.#cid;
  }

  /** Which sockets there can be. */
  supports(kind: VsockKind): boolean {
    const { session } = this;
    if (kind === "seqpacket") return session.has(VIRTIO_VSOCK_F_SEQPACKET);
    // "If no feature bit has been negotiated, the driver SHOULD act as if VIRTIO_VSOCK_F_STREAM has been", and so it MAY
    // unless VIRTIO_VSOCK_F_NO_IMPLIED_STREAM says otherwise.
    return session.has(VIRTIO_VSOCK_F_STREAM) || !session.has(VIRTIO_VSOCK_F_NO_IMPLIED_STREAM);
  }

  /**
   * Connects. Rejects with a VsockError when the peer refuses, and with a RangeError that names an option which cannot be; without a
   * signal it waits for an answer for ever.
   */
  async connect(remote: VsockAddress, options: VsockConnectOptions = {}): Promise<VsockSocket> {
    wholeOptions("vsock address", remote, { cid: [0, Number.MAX_SAFE_INTEGER], port: [0, LAST_PORT] });
    wholeOptions("vsock", options, { localPort: [0, LAST_PORT] });
    this.#check(options);
    const { localPort = this.#freePort(remote), signal } = options;
    throwIfAborted(signal);
    if (this.#sockets.has(key(remote, localPort)))
      throw new RangeError(`vsock: port ${localPort} is connected to ${remote.cid}:${remote.port}`);
    const socket = this.#socket(TYPES[options.kind ?? "stream"], localPort, remote, options.receiveBuffer);
    await socket.connect(signal);
    return socket;
  }

  /** Lets peers connect to a port. */
  listen(port: number, options: VsockListenOptions = {}): VsockListener {
    wholeOption("vsock: port", port, 0, LAST_PORT);
    wholeOptions("vsock", options, { backlog: [1, Number.MAX_SAFE_INTEGER] });
    this.#check(options);
    if (this.#listeners.has(port)) throw new RangeError(`vsock: somebody listens at port ${port}`);
    const listener = new VsockListener(TYPES[options.kind ?? "stream"], port, options, () => {
      // The port may be another's by now.
      if (this.#listeners.get(port) === listener) this.#listeners.delete(port);
    });
    this.#listeners.set(port, listener);
    return listener;
  }

  /** Resets the device; all connections end with an error. */
  async close(signal?: CancelSignal): Promise<void> {
    this.#failed(new VsockError("closed", "the driver was closed"));
    await this.session.close(signal);
  }

  // ---- VsockWire

  send(socket: VsockSocket, op: number, flags: number, payload: Uint8Array = NOTHING): Promise<void> {
    const header = writeHeader({
      // "The guest_cid configuration field MUST be used as the source CID when sending outgoing packets."
      source: { cid: this.#cid, port: socket.localPort },
      destination: socket.remote,
      type: socket.type,
      op,
      flags,
      length: payload.length,
      bufAlloc: socket.bufAlloc,
      fwdCnt: socket.takeFwdCnt(),
    });
    return this.#transmit.send([header, payload]);
  }

  reply(socket: VsockSocket, op: number, flags: number = 0): void {
    this.#count(this.send(socket, op, flags));
  }

  forget(socket: VsockSocket): void {
    const name = key(socket.remote, socket.localPort);
    if (this.#sockets.get(name) === socket) this.#sockets.delete(name);
  }

  // ----

  #packet(buffer: ReceiveBuffer, written: number): void {
    const bytes = this.#receive.copy(buffer, written);
    const header = readHeader(bytes);
    if (written < VIRTIO_VSOCK_HDR_SIZE || header.length > written - VIRTIO_VSOCK_HDR_SIZE) {
      const value = written < VIRTIO_VSOCK_HDR_SIZE ? written : header.length;
      return this.session.fail(
        new VirtioFault("dev.vsock.rxtx", "a packet longer than what was written", { queue: 0, value }),
      );
    }
    this.#dispatch(header, bytes.subarray(VIRTIO_VSOCK_HDR_SIZE, VIRTIO_VSOCK_HDR_SIZE + header.length));
    // "The rx virtqueue MUST be processed even when the tx virtqueue is full so long as there are additional resources"
    if (this.#replies >= MAX_REPLIES) this.#withheld.push(buffer);
    else this.#giveBack([buffer]);
  }

  #dispatch(header: VsockHeader, payload: Uint8Array): void {
    const { source, destination, type, op } = header;
    // "The upper 32 bits of src_cid and dst_cid are reserved and zeroed": nobody is there to be answered.
    if (source.cid > VIRTIO_VSOCK_CID_RESERVED) return;
    const known = type === VIRTIO_VSOCK_TYPE_STREAM || type === VIRTIO_VSOCK_TYPE_SEQPACKET;
    const mine = destination.cid === this.#cid;
    const socket = mine && known ? this.#sockets.get(key(source, destination.port)) : undefined;
    if (socket !== undefined) return socket.handle(header, payload);
    if (op === VIRTIO_VSOCK_OP_RST) return;
    const listener = mine ? this.#listeners.get(destination.port) : undefined;
    if (op !== VIRTIO_VSOCK_OP_REQUEST || listener === undefined || listener.type !== type || listener.isFull)
      return this.#refuse(header);
    const accepted = this.#socket(type, destination.port, source, listener.receiveBuffer);
    accepted.accept(header);
    listener.put(accepted);
  }

  #refuse({ source, destination, type }: VsockHeader): void {
    const header = writeHeader({
      source: { cid: this.#cid, port: destination.port },
      destination: source,
      type,
      op: VIRTIO_VSOCK_OP_RST,
      flags: 0,
      length: 0,
      bufAlloc: 0,
      fwdCnt: 0,
    });
    this.#count(this.#transmit.send([header]));
  }

  #count(sent: Promise<void>): void {
    this.#replies++;
    const done = (): void => {
      this.#replies--;
      if (this.#replies < MAX_REPLIES && this.#withheld.length > 0) this.#giveBack(this.#withheld.splice(0));
    };
    // A failure ends the whole driver, through the session.
    sent.then(done, done);
  }

  #giveBack(buffers: readonly ReceiveBuffer[]): void {
    for (const buffer of buffers) this.#receive.give(buffer);
    this.#receive.kick();
  }

  #event(buffer: ReceiveBuffer, written: number): void {
    const bytes = this.#events.copy(buffer, written);
    this.#events.give(buffer);
    this.#events.kick();
    if (written < VIRTIO_VSOCK_EVENT_SIZE)
      return this.session.fail(
        new VirtioFault("dev.vsock.rxtx", "short event", { queue: 2, value: written }),
      );
    if (readLe32(bytes, 0) !== VIRTIO_VSOCK_EVENT_TRANSPORT_RESET) return;
    try {
      this.#cid = this.#readCid();
    } catch (error) {
      return this.session.fail(error);
    }
    // Listeners stay; their address is whatever ours is.
    const error = new VsockError("transport-reset", "communication was interrupted");
    for (const socket of this.#sockets.values()) socket.finish(error);
    this.onTransportReset?.();
  }

  #readCid(): number {
    const cid = readLe64(this.session.readConfig(VIRTIO_VSOCK_CONFIG.guest_cid, 8), 0);
    if (cid < VIRTIO_VSOCK_CID_FIRST || cid >= VIRTIO_VSOCK_CID_RESERVED)
      throw new VirtioFault("dev.vsock.rxtx", "a guest_cid that is reserved", { value: cid });
    return cid;
  }

  #socket(
    type: number,
    localPort: number,
    remote: VsockAddress,
    receiveBuffer: number = DEFAULT_BUFFER,
  ): VsockSocket {
    const socket = new VsockSocket(this, type, localPort, remote, receiveBuffer);
    this.#sockets.set(key(remote, localPort), socket);
    return socket;
  }

  #freePort(remote: VsockAddress): number {
    for (;;) {
      const port = this.#nextPort;
      this.#nextPort = port + 1 < PORTS ? port + 1 : FIRST_FREE_PORT;
      if (!this.#listeners.has(port) && !this.#sockets.has(key(remote, port))) return port;
    }
  }

  #check(options: VsockSocketOptions): void {
    const { kind = "stream" } = options;
    choiceOption("vsock: kind", kind, KINDS);
    wholeOptions("vsock", options, { receiveBuffer: [1, MAX_BUFFER] });
    const { failure } = this.session;
    if (failure !== undefined) throw failure;
    if (!this.supports(kind)) throw new Error(`vsock: the device has no ${kind} sockets`);
  }

  #failed(error: Error): void {
    for (const socket of this.#sockets.values()) socket.finish(error);
    for (const listener of this.#listeners.values()) listener.fail(error);
    this.#transmit.fail(error);
  }
}

const NOTHING = new Uint8Array(0);

function key({ cid, port }: VsockAddress, localPort: number): string {
  return `${localPort} ${cid}:${port}`;
}
