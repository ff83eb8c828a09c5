import { Mailbox } from "../../driver/mailbox.ts";
import type { CancelSignal } from "../../driver/virtqueue.ts";
import type { VsockSocket } from "./socket.ts";

export interface VsockListenerOptions {
  /** Connections that wait to be accepted; those beyond are refused. 1 or more, default 128. */
  readonly backlog?: number;
  /** Bytes that a peer may send before somebody reads, 1 to 2^31 - 1. Default 256 KiB. */
  readonly receiveBuffer?: number;
}

/** A port that peers can connect to. */
export class VsockListener implements AsyncIterable<VsockSocket> {
  /** VIRTIO_VSOCK_TYPE_…. */
  readonly type: number;
  readonly port: number;
  /** Of the connections; undefined: the default. */
  readonly receiveBuffer: number | undefined;
  readonly #backlog: number;
  readonly #waiting = new Mailbox<VsockSocket>();
  readonly #forget: () => void;

  /** Made by `VsockDriver.listen`. */
  constructor(type: number, port: number, options: VsockListenerOptions, forget: () => void) {
    this.type = type;
    this.port = port;
    this.receiveBuffer = options.receiveBuffer;
    this.#backlog = options.backlog ?? 128;
    this.#forget = forget;
  }

  /** The next connection, or undefined when nobody listens any more. */
  async accept(signal?: CancelSignal): Promise<VsockSocket | undefined> {
    for (;;) {
      const socket = await this.#waiting.take(signal);
      // Those that were reset while they waited are of no use to anybody.
      if (socket === undefined || socket.isOpen || socket.hasData) return socket;
    }
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<VsockSocket, void> {
    for (let socket = await this.accept(); socket !== undefined; socket = await this.accept()) yield socket;
  }

  /** Takes no more connections; those that nobody accepted are reset. */
  close(): void {
    this.#forget();
    this.#waiting.end();
    for (const socket of this.#waiting.drain()) socket.reset();
  }

  /** Called by the driver. */
  get isFull(): boolean {
    return this.#waiting.length >= this.#backlog;
  }

  /** Called by the driver. */
  put(socket: VsockSocket): void {
    this.#waiting.put(socket);
  }

  /** Called by the driver: the device is gone. */
  fail(error: Error): void {
    this.#waiting.fail(error);
  }
}
