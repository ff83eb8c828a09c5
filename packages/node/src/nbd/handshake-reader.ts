import { NbdError, NbdProtocolError } from "./errors.ts";
import type { NbdReceiver } from "./socket.ts";

/** Bytes of a handshake that nobody has read yet: more than one turn's buffer holds, less than hurts. */
const MAX_UNREAD: number = 1 << 19;

/** Gathers what the server sends until enough of it is there; the handshake never asks for much. */
export class HandshakeReader implements NbdReceiver {
  #bytes: Uint8Array = new Uint8Array(0);
  #wanted: { length: number; resolve(bytes: Uint8Array): void; reject(error: Error): void } | undefined;
  #ended: Error | undefined;

  /** Bytes that came and were not asked for. */
  get left(): number {
    return this.#bytes.length;
  }

  read(length: number): Promise<Uint8Array> {
    return new Promise((resolve, reject) => {
      this.#wanted = { length, resolve, reject };
      this.#give();
    });
  }

  take(chunk: Uint8Array): void {
    if (this.#ended !== undefined) return;
    if (this.#bytes.length + chunk.length > MAX_UNREAD) {
      this.#ended = new NbdProtocolError("it sends more than was asked for");
    } else {
      const all = new Uint8Array(this.#bytes.length + chunk.length);
      all.set(this.#bytes);
      all.set(chunk, this.#bytes.length);
      this.#bytes = all;
    }
    this.#give();
  }

  readonly sips = false;

  room(): undefined {}

  filled(): void {}

  drained(): void {}

  closed(error: Error | undefined): void {
    this.#ended ??= error ?? new NbdError("EIO", "the NBD server ended the connection during the handshake");
    this.#give();
  }

  #give(): void {
    const wanted = this.#wanted;
    if (wanted === undefined) return;
    if (this.#bytes.length >= wanted.length) {
      const bytes = this.#bytes.slice(0, wanted.length);
      this.#bytes = this.#bytes.slice(wanted.length);
      this.#wanted = undefined;
      wanted.resolve(bytes);
    } else if (this.#ended !== undefined) {
      this.#wanted = undefined;
      wanted.reject(this.#ended);
    }
  }
}
