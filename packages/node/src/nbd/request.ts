import { NBD_CMD_READ } from "./protocol.ts";
import { Coverage } from "./coverage.ts";
import type { NbdError } from "./errors.ts";

/** A request of ours, from its wish to its answer. Buffers belong to it until it is settled. */
export class NbdRequest {
  readonly command: number;
  readonly flags: number;
  /** Bytes. */
  readonly offset: number;
  readonly length: number;
  /** Target of a read or source of a write, `length` bytes one after the other. */
  readonly buffers: readonly Uint8Array[];
  readonly done: Promise<void>;
  /** The high half of its cookie; the low half is its place in the connection. */
  serial = 0;
  /** How often a connection was lost while it was under way. */
  losses = 0;
  /** When that was first, in milliseconds of `performance.now`. */
  lostSince = 0;
  /** What the server answered so far. */
  error: NbdError | undefined;
  errors = 0;
  readonly #coverage = new Coverage();
  #resolve: () => void = nothing;
  #reject: (error: Error) => void = nothing;

  constructor(
    command: number,
    flags: number,
    offset: number,
    length: number,
    buffers: readonly Uint8Array[] = [],
  ) {
    this.command = command;
    this.flags = flags;
    this.offset = offset;
    this.length = length;
    this.buffers = buffers;
    this.done = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
  }

  /** Nothing is answered yet: it is sent for the first time, or again. */
  begin(serial: number): void {
    this.serial = serial;
    this.error = undefined;
    this.errors = 0;
    this.#coverage.clear();
  }

  /** Notes content from `start` on, relative to the request. False: it was there before, or is outside. */
  cover(start: number, length: number): boolean {
    return start >= 0 && start + length <= this.length && this.#coverage.add(start, start + length);
  }

  /** All of a read has come. */
  get complete(): boolean {
    return this.command !== NBD_CMD_READ || this.#coverage.length === this.length;
  }

  /** Settles it with what the server answered. */
  settle(): void {
    if (this.error === undefined) this.#resolve();
    else this.#reject(this.error);
  }

  fail(error: Error): void {
    this.#reject(error);
  }
}

function nothing(): void {}
