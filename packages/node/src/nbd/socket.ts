import { createConnection, isIP, type Socket } from "node:net";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { connect as connectTls, type ConnectionOptions } from "node:tls";
import type { NbdAddress, NbdTarget, NbdTls } from "./uri.ts";

/** Bytes that are read at once where nothing larger is awaited. */
const RECEIVE_BUFFER = 1 << 18;
/** A header, and the beginning of a payload that is then read to where it belongs. */
const SIP = 512;

/** Who takes what comes from the server. */
export interface NbdReceiver {
  /** The chunk is valid during the call. */
  take(chunk: Uint8Array): void;
  /** Memory that the next bytes belong into, if it is worth to read them straight there. */
  room(): Uint8Array | undefined;
  /** Little should be read beside that. */
  readonly sips: boolean;
  /** So many bytes were read straight into the start of what `room` gave. */
  filled(length: number): void;
  /** No bytes come any more, and none that were sent and not answered count. */
  closed(error: Error | undefined): void;
  /** All that was written has left. */
  drained(): void;
}

/**
 * A connection as bytes. Large payloads are read by the system straight into the buffer they are for; all else goes through
 * one buffer that is used again and again. Not so with TLS, where decrypted pieces come one by one.
 */
export class NbdSocket {
  #socket: Socket;
  #receiver: NbdReceiver | undefined;
  #error: Error | undefined;
  #closed = false;
  readonly #buffer = new Uint8Array(RECEIVE_BUFFER);
  readonly #sip = this.#buffer.subarray(0, SIP);

  /** Begins to connect; the receiver hears of a failure. */
  constructor({ address, tls }: NbdTarget, receiver: NbdReceiver) {
    this.#receiver = receiver;
    const callback = (length: number, buffer: Uint8Array): boolean => {
      if (buffer === this.#buffer || buffer === this.#sip) this.#receiver?.take(buffer.subarray(0, length));
      else this.#receiver?.filled(length);
      return true;
    };
    const onread = { buffer: () => this.#room(), callback };
    // Without STARTTLS there is never another reader of this socket.
    this.#socket = createConnection(tls === undefined ? { ...place(address), onread } : place(address));
    if (tls !== undefined) this.#socket.on("data", this.#take);
    this.#watch(this.#socket);
  }

  set receiver(receiver: NbdReceiver) {
    this.#receiver = receiver;
  }

  /** Bytes that are on their way to the server. */
  get queued(): number {
    return this.#socket.writableLength;
  }

  /** Bytes that came, and bytes that left. */
  get moved(): number {
    return this.#socket.bytesRead + this.#socket.bytesWritten - this.#socket.writableLength;
  }

  cork(): void {
    this.#socket.cork();
  }

  uncork(): void {
    this.#socket.uncork();
  }

  /** The bytes must stay as they are until they have left. */
  write(bytes: Uint8Array): void {
    if (!this.#closed) this.#socket.write(bytes);
  }

  /** What follows is encrypted. Throws when a file of the certificates cannot be read. */
  async startTls(options: NbdTls, address: NbdAddress): Promise<void> {
    const plain = this.#socket;
    plain.off("data", this.#take);
    const secure = connectTls({ ...tlsOptions(options, address), socket: plain });
    this.#socket = secure;
    this.#watch(secure);
    await new Promise<void>((resolve, reject) => {
      secure.once("secureConnect", resolve);
      secure.once("error", reject);
      secure.once("close", () => reject(new Error("the server ended the connection while TLS began")));
    });
    secure.on("data", this.#take);
  }

  /** After what was written has left. */
  end(): void {
    this.#socket.end();
  }

  /** At once; `error` is what the receiver hears, if it did not hear another before. */
  destroy(error?: Error): void {
    this.#error ??= error;
    this.#socket.destroy();
    this.#ended();
  }

  readonly #take = (chunk: Uint8Array): void => this.#receiver?.take(chunk);

  #room(): Uint8Array {
    const receiver = this.#closed ? undefined : this.#receiver;
    return receiver?.room() ?? (receiver?.sips === true ? this.#sip : this.#buffer);
  }

  #watch(socket: Socket): void {
    socket.setNoDelay(true);
    socket.setKeepAlive(true, KEEP_ALIVE_MS);
    socket.on("error", (error) => (this.#error ??= error));
    socket.on("drain", () => this.#receiver?.drained());
    socket.on("close", () => this.#ended());
  }

  #ended(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#receiver?.closed(this.#error);
  }
}

/** A peer that vanished without a word is noticed after this and the system's own probes. */
const KEEP_ALIVE_MS = 30_000;

function place(address: NbdAddress): { path: string } | { host: string; port: number } {
  return "path" in address ? { path: address.path } : { host: address.host, port: address.port };
}

function tlsOptions(tls: NbdTls, address: NbdAddress): ConnectionOptions {
  const name = tls.hostname ?? ("path" in address ? "localhost" : address.host);
  const folder = tls.certificates;
  return {
    host: name,
    // "Literal IPv4 and IPv6 addresses are not permitted" as a server name (RFC 6066, section 3).
    ...(isIP(name) === 0 ? { servername: name } : {}),
    rejectUnauthorized: tls.verifyPeer !== false,
    ...(folder === undefined ? {} : certificates(folder)),
  };
}

/** The files as QEMU, nbdkit and libnbd name them. */
function certificates(folder: string): ConnectionOptions {
  const read = (name: string): Buffer | undefined => {
    try {
      return readFileSync(join(folder, name));
    } catch (error) {
      if (error instanceof Error && "code" in error && error.code === "ENOENT") return undefined;
      throw error;
    }
  };
  const [ca, cert, key] = ["ca-cert.pem", "client-cert.pem", "client-key.pem"].map(read);
  if (ca === undefined) throw new Error(`${folder} has no ca-cert.pem`);
  return { ca, ...(cert === undefined || key === undefined ? {} : { cert, key }) };
}
