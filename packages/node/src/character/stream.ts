import type { Readable, Writable } from "node:stream";
import type { CharacterBackend, CharacterPort } from "virtio/backends/character";

/** Bytes copied out of the guest at once; the stream's own mark says when it is enough. */
const PIECE = 1 << 16;

/**
 * A port on a pair of Node streams, such as stdin and stdout: QEMU's `-chardev stdio` without the terminal's modes. Nothing is
 * lost and nothing piles up: each side waits for the other.
 */
export class StreamCharacterBackend implements CharacterBackend {
  readonly #input: Readable | undefined;
  readonly #output: Writable | undefined;
  #port: CharacterPort | undefined;
  /** Input that the guest had no room for. */
  #rest: Uint8Array | undefined;
  #busy = false;
  #ended = false;

  /** Without `input` the guest never gets a byte; without `output` what it sends is thrown away. */
  constructor(input: Readable | undefined, output: Writable | undefined) {
    this.#input = input;
    this.#output = output;
    // Nothing is read before a port is there.
    input?.pause();
    input?.on("data", this.#onData);
    input?.on("end", this.#onEnd);
    output?.on("drain", this.#onDrain);
  }

  attach(port: CharacterPort | undefined): void {
    this.#port = port;
    if (port === undefined) {
      this.#input?.pause();
      return;
    }
    port.setOpen(true);
    this.guestReady();
  }

  write(bytes: Uint8Array): number {
    if (this.#output === undefined || this.#output.destroyed) return bytes.length;
    if (this.#busy) return 0;
    let done = 0;
    while (done < bytes.length && !this.#busy) {
      // Not `slice`: of a Buffer that is no copy.
      const piece = new Uint8Array(bytes.subarray(done, done + PIECE));
      this.#busy = !this.#output.write(piece);
      done += piece.length;
    }
    return done;
  }

  guestReady(): void {
    if (this.#port === undefined || this.#ended) return;
    const rest = this.#rest;
    this.#rest = undefined;
    if (rest !== undefined) this.#onData(rest);
    if (this.#rest === undefined) this.#input?.resume();
  }

  /** Lets go of the streams; they stay open. */
  close(): void {
    this.#port = undefined;
    this.#input?.off("data", this.#onData).off("end", this.#onEnd).pause();
    this.#output?.off("drain", this.#onDrain);
  }

  readonly #onData = (chunk: Uint8Array): void => {
    const taken = this.#port?.receive(chunk) ?? 0;
    if (taken >= chunk.length) return;
    this.#rest = chunk.subarray(taken);
    this.#input?.pause();
  };

  /** The end of input closes nothing: what the guest still has to say is wanted. */
  readonly #onEnd = (): void => {
    this.#ended = true;
  };

  readonly #onDrain = (): void => {
    this.#busy = false;
    this.#port?.ready();
  };
}
