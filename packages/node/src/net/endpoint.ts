import { flagOptions, MAX_TIMER_MS, textOption, wholeOption, wholeOptions } from "virtio/check-option";
import { createConnection, createServer, type Server, type Socket } from "node:net";
import { lstatSync, unlinkSync } from "node:fs";
import { withPrivateSockets } from "../private-files.ts";

/** Where a socket is. The host is localhost when none is given; a port has 16 bits, and a server takes 0 for any that is free. */
export type SocketAddress =
  { readonly host?: string; readonly port: number } | { /** A unix socket. */ readonly path: string };

/** As QEMU's socket options: `server`, `reconnect-ms`. */
export interface EndpointOptions {
  readonly address: SocketAddress;
  /** True: wait for the peer, one at a time. Default false: connect to it. */
  readonly server?: boolean;
  /** For a client: milliseconds until it tries again after a failure or a disconnect, up to 2^31 - 1. Default 0: never. */
  readonly reconnectMs?: number;
  /** What went wrong later on; the endpoint lives on (a server listens, a client with `reconnectMs` tries again). */
  readonly onError?: (error: Error) => void;
}

/** What an endpoint tells its user. */
export interface EndpointEvents {
  connected(socket: Socket): void;
  disconnected(): void;
}

/** A TCP peer that vanished without a word is noticed after this and some seconds more. */
const KEEP_ALIVE_MS = 30_000;

function checkOptions(options: EndpointOptions): void {
  const { address, server = false } = options;
  flagOptions("socket", options, ["server"]);
  wholeOptions("socket", options, { reconnectMs: [0, MAX_TIMER_MS] });
  if ("path" in address) {
    textOption("socket: path", address.path, 1);
    return;
  }
  if (address.host !== undefined) textOption("socket: host", address.host);
  wholeOption("socket: port", address.port, server ? 0 : 1, 0xffff);
}

/** One socket to one peer, kept up as the options say. */
export class SocketEndpoint {
  readonly #options: EndpointOptions;
  readonly #events: EndpointEvents;
  #server: Server | undefined;
  #socket: Socket | undefined;
  #timer: NodeJS.Timeout | undefined;
  #closed = false;

  /** Throws a RangeError or TypeError that names an option which cannot be. */
  constructor(options: EndpointOptions, events: EndpointEvents) {
    checkOptions(options);
    this.#options = options;
    this.#events = events;
  }

  /**
   * Resolves when a server listens, and when a client is connected; a client with `reconnectMs` does not wait for that.
   * Rejects with an error that names the address.
   */
  async open(): Promise<void> {
    if (this.#options.server === true) await this.#listen();
    else if ((this.#options.reconnectMs ?? 0) > 0)
      this.#connect().catch((error: unknown) => this.#report(error));
    else await this.#connect();
  }

  /** The port a TCP server listens on, for `port: 0`. */
  get port(): number | undefined {
    const address = this.#server?.address();
    return typeof address === "object" ? address?.port : undefined;
  }

  /** Cuts the connection because of what the peer sent; a server waits for the next one. */
  drop(reason: string): void {
    this.#report(new Error(reason));
    this.#socket?.destroy();
  }

  close(): void {
    this.#closed = true;
    clearTimeout(this.#timer);
    this.#server?.close();
    this.#socket?.destroy();
  }

  async #listen(): Promise<void> {
    const server = createServer((socket) => {
      // One cable has two ends: whoever comes while it is plugged in is turned away.
      if (this.#socket === undefined && !this.#closed) this.#use(socket);
      else socket.destroy();
    });
    this.#server = server;
    const { address } = this.#options;
    try {
      await listen(server, address).catch(async (error: NodeJS.ErrnoException) => {
        const again =
          error.code === "EADDRINUSE" && "path" in address && (await removeStaleSocket(address.path));
        if (!again) throw error;
        await listen(server, address);
      });
    } catch (error) {
      throw new Error(`cannot listen on ${describe(address)}: ${message(error)}`, { cause: error });
    }
    server.on("error", (error) => this.#report(error));
  }

  async #connect(): Promise<void> {
    const { address } = this.#options;
    await new Promise<void>((resolve, reject) => {
      const socket = createConnection(whole(address));
      const fail = (error: Error): void => {
        this.#socket = undefined;
        this.#tryLater();
        reject(new Error(`cannot connect to ${describe(address)}: ${message(error)}`, { cause: error }));
      };
      // Known from the start, so that `close` ends an attempt as well.
      this.#socket = socket;
      socket.once("error", fail);
      socket.once("close", () => resolve());
      socket.once("connect", () => {
        socket.off("error", fail);
        this.#use(socket);
        resolve();
      });
    });
  }

  #use(socket: Socket): void {
    this.#socket = socket;
    socket.setNoDelay(true);
    // Otherwise a server would turn away the next peer for as long as one is "there" whose machine is gone.
    socket.setKeepAlive(true, KEEP_ALIVE_MS);
    socket.on("error", (error) => this.#report(error));
    socket.on("close", () => {
      this.#socket = undefined;
      this.#events.disconnected();
      this.#tryLater();
    });
    this.#events.connected(socket);
  }

  #tryLater(): void {
    const wait = this.#options.reconnectMs ?? 0;
    if (this.#closed || wait <= 0 || this.#options.server === true) return;
    this.#timer = setTimeout(() => {
      this.#connect().catch((error: unknown) => this.#report(error));
    }, wait);
    this.#timer.unref();
  }

  #report(error: unknown): void {
    if (!this.#closed) this.#options.onError?.(error instanceof Error ? error : new Error(String(error)));
  }
}

/** QEMU's default host is every interface; a cable to a guest is kept on this machine unless the user says otherwise. */
function whole(address: SocketAddress): { path: string } | { host: string; port: number } {
  return "path" in address
    ? { path: address.path }
    : { host: address.host ?? "127.0.0.1", port: address.port };
}

function listen(server: Server, address: SocketAddress): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    // The file of a Unix socket is made before this returns.
    withPrivateSockets(() =>
      server.listen(whole(address), () => {
        server.off("error", reject);
        resolve();
      }),
    );
  });
}

function message(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

function describe(address: SocketAddress): string {
  return "path" in address ? address.path : `${address.host ?? "127.0.0.1"}:${address.port}`;
}

/** Removes a unix socket that a process left behind when it died: nobody answers at it. Says whether it did. */
async function removeStaleSocket(path: string): Promise<boolean> {
  if (lstatSync(path, { throwIfNoEntry: false })?.isSocket() !== true) return false;
  const refused = await new Promise<boolean>((resolve) => {
    const attempt = createConnection({ path });
    attempt.once("connect", () => {
      attempt.destroy();
      resolve(false);
    });
    attempt.once("error", (error: NodeJS.ErrnoException) => resolve(error.code === "ECONNREFUSED"));
  });
  if (refused) unlinkSync(path);
  return refused;
}
