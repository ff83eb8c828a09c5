import type { Readable, Writable } from "node:stream";

import type { CharacterBackend, CharacterPort } from "virtio/backends/character";

/** The guest is not trusted: a longer line from it is cut. */
const maxLine = 4096;
/** Output that waits for a slow reader of ours before the guest has to wait. */
const maxPending = 1 << 20;

/** Lines of text both ways. */
export class LinePort implements CharacterBackend {
  readonly #onLine: (line: string) => void;
  #port: CharacterPort | undefined;
  #line = "";
  #unsent: Uint8Array = new Uint8Array(0);
  /** Somebody in the guest listens. */
  listening = false;

  constructor(onLine: (line: string) => void) {
    this.#onLine = onLine;
  }

  send(text: string): void {
    this.#unsent = Buffer.concat([this.#unsent, Buffer.from(text)]);
    this.guestReady();
  }

  attach(port: CharacterPort | undefined): void {
    this.#port = port;
    port?.setOpen(true);
  }

  guestReady(): void {
    if (this.#port === undefined || this.#unsent.length === 0) return;
    const taken = this.#port.receive(this.#unsent);
    this.#unsent = this.#unsent.subarray(taken);
  }

  guestOpen(open: boolean): void {
    this.listening = open;
    if (open) this.guestReady();
  }

  write(bytes: Uint8Array): number {
    const lines = (this.#line + Buffer.from(bytes).toString("latin1")).split("\n");
    this.#line = (lines.pop() ?? "").slice(0, maxLine);
    for (const line of lines) this.#onLine(line.slice(0, maxLine));
    return bytes.length;
  }
}

/** A stream's bytes to the guest; the end of the stream is the end of the guest's file. */
export class InputPort implements CharacterBackend {
  #port: CharacterPort | undefined;
  #input: Readable | undefined;
  #rest: Uint8Array | undefined;
  #ended = false;

  /** From now on the guest gets this stream; without one its file is at its end. */
  feed(input: Readable | undefined): void {
    this.#input = input;
    if (input === undefined) {
      this.#end();
      return;
    }
    input.on("data", (bytes: Uint8Array) => this.#deliver(bytes));
    input.on("end", () => this.#end());
    input.on("error", () => this.#end());
  }

  attach(port: CharacterPort | undefined): void {
    this.#port = port;
    port?.setOpen(true);
  }

  guestReady(): void {
    const rest = this.#rest;
    this.#rest = undefined;
    if (rest !== undefined) this.#deliver(rest);
    if (this.#rest !== undefined) return;
    if (this.#ended) this.#port?.setOpen(false);
    else this.#input?.resume();
  }

  guestOpen(open: boolean): void {
    if (open) this.guestReady();
  }

  write(bytes: Uint8Array): number {
    return bytes.length;
  }

  #deliver(bytes: Uint8Array): void {
    const taken = this.#port?.receive(bytes) ?? 0;
    if (taken >= bytes.length) return;
    this.#rest = bytes.subarray(taken);
    this.#input?.pause();
  }

  #end(): void {
    this.#ended = true;
    if (this.#rest === undefined) this.#port?.setOpen(false);
  }
}

/** The guest's bytes to a stream. */
export class OutputPort implements CharacterBackend {
  readonly #output: Writable;
  readonly #onError: (error: Error) => void;
  #port: CharacterPort | undefined;
  #pending = 0;
  #full = false;
  #failed = false;
  #waiters: (() => void)[] = [];

  /** `onError`: nobody reads any more, or the disk is full. */
  constructor(output: Writable, onError: (error: Error) => void) {
    this.#output = output;
    this.#onError = onError;
    output.on("error", (error: Error) => this.#fail(error));
  }

  attach(port: CharacterPort | undefined): void {
    this.#port = port;
    port?.setOpen(true);
  }

  write(bytes: Uint8Array): number {
    if (this.#failed) return bytes.length;
    if (this.#pending >= maxPending) {
      this.#full = true;
      return 0;
    }
    // A copy: the bytes are the guest's again after this call, and its memory may move.
    const copy = bytes.slice();
    this.#pending += copy.length;
    this.#output.write(copy, () => this.#written(copy.length));
    return copy.length;
  }

  /** Done when all that the guest has written so far is written here. */
  async drained(): Promise<void> {
    this.#port?.ready();
    while (this.#pending > 0 && !this.#failed) {
      await new Promise<void>((resolve) => this.#waiters.push(resolve));
      this.#port?.ready();
    }
  }

  #written(length: number): void {
    this.#pending -= length;
    if (this.#full && this.#pending < maxPending / 2) {
      this.#full = false;
      this.#port?.ready();
    }
    if (this.#pending === 0) this.#wake();
  }

  #fail(error: Error): void {
    if (this.#failed) return;
    this.#failed = true;
    this.#wake();
    this.#onError(error);
  }

  #wake(): void {
    const waiters = this.#waiters;
    this.#waiters = [];
    for (const waiter of waiters) waiter();
  }
}
