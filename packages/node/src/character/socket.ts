import type { Socket } from "node:net";
import type { CharacterBackend, CharacterPort } from "virtio/backends/character";
import { type EndpointOptions, SocketEndpoint } from "../net/endpoint.ts";
import { StreamCharacterBackend } from "./stream.ts";

/**
 * A port on a TCP or unix socket: QEMU's `-chardev socket` with `wait=off`. The port is open while a peer is connected; what
 * the guest says meanwhile is thrown away, as on a serial line without a terminal.
 */
export class SocketCharacterBackend implements CharacterBackend {
  readonly #endpoint: SocketEndpoint;
  #stream: StreamCharacterBackend | undefined;
  #port: CharacterPort | undefined;

  /** See `SocketEndpoint.open` for when this resolves and what it rejects with. */
  static async open(options: EndpointOptions): Promise<SocketCharacterBackend> {
    const backend = new SocketCharacterBackend(options);
    await backend.#endpoint.open();
    return backend;
  }

  private constructor(options: EndpointOptions) {
    this.#endpoint = new SocketEndpoint(options, {
      connected: (socket) => this.#connected(socket),
      disconnected: () => this.#disconnected(),
    });
  }

  /** The port a TCP server listens on, for `port: 0`. */
  get tcpPort(): number | undefined {
    return this.#endpoint.port;
  }

  attach(port: CharacterPort | undefined): void {
    this.#port = port;
    if (this.#stream !== undefined) this.#stream.attach(port);
    else port?.setOpen(false);
  }

  write(bytes: Uint8Array): number {
    return this.#stream === undefined ? bytes.length : this.#stream.write(bytes);
  }

  guestReady(): void {
    this.#stream?.guestReady();
  }

  close(): void {
    this.#stream?.close();
    this.#stream = undefined;
    this.#port = undefined;
    this.#endpoint.close();
  }

  #connected(socket: Socket): void {
    this.#stream = new StreamCharacterBackend(socket, socket);
    if (this.#port !== undefined) this.#stream.attach(this.#port);
  }

  #disconnected(): void {
    this.#stream?.close();
    this.#stream = undefined;
    this.#port?.setOpen(false);
    // Nothing is in the way any more.
    this.#port?.ready();
  }
}
