import type { Segment } from "../memory/guest-memory.ts";
import { abortReason } from "./abort.ts";
import type { DmaMemory } from "./types.ts";
import type { CancelSignal, DriverVirtqueue } from "./virtqueue.ts";

interface Job {
  readonly pieces: readonly Uint8Array[];
  readonly length: number;
  resolve: () => void;
  reject: (error: Error) => void;
}

const NOTHING: readonly Segment[] = [];

/** The buffers of one transmit queue: what is sent is copied into one of them, and waits when none is free. */
export class TransmitBuffers {
  /** Bytes that one buffer holds. */
  readonly size: number;
  readonly #queue: DriverVirtqueue;
  readonly #memory: DmaMemory;
  readonly #free: number[] = [];
  readonly #waiting: Job[] = [];
  #failure: Error | undefined;

  constructor(queue: DriverVirtqueue, memory: DmaMemory, count: number, size: number) {
    this.#queue = queue;
    this.#memory = memory;
    this.size = size;
    for (let i = 0; i < Math.min(count, queue.size); i++) this.#free.push(memory.allocate(size, 8));
  }

  /**
   * Sends the pieces as one buffer, at most `size` bytes, in the order of the calls; do not change them until it is
   * done. Resolves when the device has used it; rejects when it failed or was reset, and on abort: what waited for a buffer until
   * then is never sent.
   */
  send(pieces: readonly Uint8Array[], signal?: CancelSignal): Promise<void> {
    let length = 0;
    for (const piece of pieces) length += piece.length;
    return new Promise((resolve, reject) => {
      if (length > this.size || length === 0)
        return reject(new RangeError(`${length} bytes do not fit a buffer of ${this.size}`));
      if (this.#failure !== undefined) return reject(this.#failure);
      if (signal?.aborted === true) return reject(abortReason(signal));
      const job: Job = { pieces, length, resolve, reject };
      if (signal !== undefined) this.#watch(job, signal);
      const gpa = this.#waiting.length === 0 ? this.#free.pop() : undefined;
      if (gpa === undefined) this.#waiting.push(job);
      else this.#post(gpa, job);
    });
  }

  #watch(job: Job, signal: CancelSignal): void {
    const { resolve, reject } = job;
    const aborted = (): void => {
      const at = this.#waiting.indexOf(job);
      if (at >= 0) this.#waiting.splice(at, 1);
      job.reject(abortReason(signal));
    };
    const end = (): void => signal.removeEventListener("abort", aborted);
    job.resolve = () => {
      end();
      resolve();
    };
    job.reject = (error) => {
      end();
      reject(error);
    };
    signal.addEventListener("abort", aborted);
  }

  /** Ends what waits; for a device that is gone. */
  fail(error: Error): void {
    this.#failure ??= error;
    for (const job of this.#waiting.splice(0)) job.reject(error);
  }

  #post(gpa: number, job: Job): void {
    const { pieces, length } = job;
    const target = this.#memory.view(gpa, length);
    let at = 0;
    for (const piece of pieces) {
      target.set(piece, at);
      at += piece.length;
    }
    const posted = this.#queue.post([{ gpa, length }], NOTHING, (_written, error) => {
      if (error === undefined) {
        job.resolve();
        this.#release(gpa);
      } else {
        job.reject(error);
        this.fail(error);
      }
    });
    if (posted) return this.#queue.kick();
    // There is one descriptor a buffer, so the ring is never full: the device is gone.
    const gone = new Error("the device is gone");
    job.reject(gone);
    this.fail(gone);
  }

  /** At once and not through a promise, so that what waits goes before what is sent later. */
  #release(gpa: number): void {
    const job = this.#waiting.shift();
    if (job === undefined) this.#free.push(gpa);
    else this.#post(gpa, job);
  }
}
