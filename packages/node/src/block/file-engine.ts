import { fdatasync, readv, writev } from "node:fs";
import { constants } from "node:os";
import { addressOf } from "../native/address.ts";
import {
  IORING_FSYNC_DATASYNC,
  IORING_OP_FALLOCATE,
  IORING_OP_FSYNC,
  IORING_OP_READ,
  IORING_OP_READV,
  IORING_OP_WRITE,
  IORING_OP_WRITEV,
  IoUring,
} from "../native/io-uring.ts";
import { IoVectors } from "../native/io-vectors.ts";
import { tryLibc } from "../native/libc.ts";
import { NativeError } from "../native/native-error.ts";
import type { Poller, Watch } from "../native/poller.ts";

/** Hears of the end of one operation. */
export interface FileCompletion {
  /** Bytes moved, or -errno. */
  settled(result: number): void;
}

/**
 * File I/O that does not block its caller. Buffers and their list stay as they are until the completion has heard of the end, later
 * and once; it may be less than all of them.
 */
export interface FileEngine {
  readonly name: "threads" | "io_uring";
  /** Fills buffers; 0 at the end of the file. */
  readv(fd: number, targets: readonly Uint8Array[], offset: number, completion: FileCompletion): void;
  writev(fd: number, sources: readonly Uint8Array[], offset: number, completion: FileCompletion): void;
  /** fdatasync. */
  sync(fd: number): Promise<void>;
  /** As fallocate(2). False: it failed, as on a file system that cannot. */
  allocate(fd: number, mode: number, offset: number, length: number): Promise<boolean>;
  /** A completion left something to promises. Absent: they go on anyway. */
  promised?(): void;
  /** When nothing is under way any more. */
  close(): void;
}

/** Node's own thread pool; works everywhere. `UV_THREADPOOL_SIZE` says how many threads it has (4). */
export const threadEngine: FileEngine = {
  name: "threads",
  readv: (fd, targets, offset, completion) =>
    readv(fd, targets, offset, (error, count) => completion.settled(error === null ? count : errnoOf(error))),
  writev: (fd, sources, offset, completion) =>
    writev(fd, sources, offset, (error, count) =>
      completion.settled(error === null ? count : errnoOf(error)),
    ),
  sync: (fd) =>
    new Promise((resolve, reject) => {
      fdatasync(fd, (error) => {
        if (error === null) resolve();
        else reject(error);
      });
    }),
  allocate: (fd, mode, offset, length) =>
    new Promise((resolve) => {
      const native = tryLibc();
      if (native === undefined) resolve(false);
      else
        native.fallocateAsync(fd, mode, offset, length, (error, result) => resolve(!error && result === 0));
    }),
  close: () => undefined,
};

/** Negative; what has no number is an I/O error. */
function errnoOf(error: NodeJS.ErrnoException): number {
  const { errno } = error;
  return errno !== undefined && errno < 0 ? errno : -constants.errno.EIO;
}

interface Request {
  readonly operation: number;
  readonly fd: number;
  readonly buffers: readonly Uint8Array[];
  readonly offset: number;
  /** Of fallocate only. */
  readonly length: number;
  readonly flags: number;
  readonly completion: FileCompletion;
}

const ENTRIES = 256;
/** Buffers of one request; the rest of them is another's. */
const BUFFERS = 256;
/** So many requests are not held back for more of them: the disk can begin. */
const SUBMIT_EVERY = 8;
/** Milliseconds after which requests are submitted again that the system would not take. */
const RETRY_AFTER = 1;
const NO_BUFFERS: readonly Uint8Array[] = [];

/** io_uring, on the thread of its poller: what one batch of requests asks for goes to the system in one call. */
export class UringEngine implements FileEngine {
  readonly name = "io_uring";
  readonly #ring: IoUring;
  readonly #watches: Watch[] = [];
  /** By key; keys that are free are in `#keys`. They hold on to the memory that the system works on. */
  readonly #completions: (FileCompletion | undefined)[];
  readonly #keys: number[];
  /** `BUFFERS` of them a key. */
  readonly #vectors: IoVectors;
  /** Those that there was no room for. Bounded by what devices have in flight. */
  readonly #waiting: Request[] = [];
  readonly #poller: Poller;
  #submitPlanned = false;
  #retry: ReturnType<typeof setTimeout> | undefined;

  /** Throws a NativeError where there is no io_uring for this process. */
  constructor(poller: Poller) {
    const ring = (this.#ring = new IoUring(ENTRIES));
    this.#poller = poller;
    this.#completions = Array.from({ length: ring.capacity }, () => undefined);
    this.#keys = Array.from({ length: ring.capacity }, (_, key) => key);
    this.#vectors = new IoVectors(ring.capacity * BUFFERS);
    this.#watches.push(poller.watch(ring.fd, () => void this.#turn(), true));
    const spin = poller.spin?.({ look: () => this.#turn(), rest: () => this.#turn() });
    if (spin !== undefined) this.#watches.push(spin);
  }

  readv(fd: number, targets: readonly Uint8Array[], offset: number, completion: FileCompletion): void {
    this.#start(targets.length === 1 ? IORING_OP_READ : IORING_OP_READV, fd, targets, offset, completion);
  }

  writev(fd: number, sources: readonly Uint8Array[], offset: number, completion: FileCompletion): void {
    this.#start(sources.length === 1 ? IORING_OP_WRITE : IORING_OP_WRITEV, fd, sources, offset, completion);
  }

  async sync(fd: number): Promise<void> {
    const result = await this.#later(IORING_OP_FSYNC, fd, 0, 0, IORING_FSYNC_DATASYNC);
    if (result < 0) throw new NativeError("fdatasync", -result);
  }

  async allocate(fd: number, mode: number, offset: number, length: number): Promise<boolean> {
    return (await this.#later(IORING_OP_FALLOCATE, fd, offset, length, mode)) === 0;
  }

  promised(): void {
    this.#poller.promised?.();
  }

  close(): void {
    clearTimeout(this.#retry);
    for (const watch of this.#watches) watch.stop();
    this.#ring.close();
  }

  #later(operation: number, fd: number, offset: number, length: number, flags: number): Promise<number> {
    return new Promise((resolve) => {
      const settled = (result: number): void => {
        this.promised();
        resolve(result);
      };
      this.#start(operation, fd, NO_BUFFERS, offset, { settled }, length, flags);
    });
  }

  #start(
    operation: number,
    fd: number,
    buffers: readonly Uint8Array[],
    offset: number,
    completion: FileCompletion,
    length = 0,
    flags = 0,
  ): void {
    if (this.#waiting.length > 0 || !this.#push(operation, fd, buffers, offset, completion, length, flags))
      this.#waiting.push({ operation, fd, buffers, offset, completion, length, flags });
    // A poller that spins looks here before it sleeps.
    if (this.#poller.spin !== undefined || this.#submitPlanned) return;
    this.#submitPlanned = true;
    queueMicrotask(() => {
      this.#submitPlanned = false;
      this.#turn();
    });
  }

  /** False: there is no room. */
  #push(
    operation: number,
    fd: number,
    buffers: readonly Uint8Array[],
    offset: number,
    completion: FileCompletion,
    length: number,
    flags: number,
  ): boolean {
    const ring = this.#ring;
    const key = this.#keys.pop();
    if (key === undefined) return false;
    let address = 0;
    let size = 0;
    const [first] = buffers;
    if (operation === IORING_OP_FALLOCATE) {
      // Its length is where others have the address, and its mode where they have the length.
      address = length;
      size = flags;
    } else if (operation === IORING_OP_READV || operation === IORING_OP_WRITEV) {
      size = Math.min(buffers.length, BUFFERS);
      address = this.#vectors.set(key * BUFFERS, buffers, size);
    } else if (first !== undefined) {
      address = addressOf(first);
      size = first.length;
    }
    const more = operation === IORING_OP_FALLOCATE ? 0 : flags;
    if (!ring.push(operation, fd, address, size, offset, more, key)) {
      this.#keys.push(key);
      return false;
    }
    this.#completions[key] = completion;
    // The fewer the disk is at work on, the sooner it gets this one.
    const { pushed } = ring;
    if (pushed >= Math.min(SUBMIT_EVERY, Math.max(1, ring.inFlight - pushed))) this.#submitEarly();
    return true;
  }

  /** What it throws is met again in `#turn`: here it would tell one caller that a request has not begun which the system may still do. */
  #submitEarly(): void {
    try {
      this.#ring.submit();
    } catch {
      // See above.
    }
  }

  /** Submits what is prepared and reports what is done. True: something was. */
  #turn(): boolean {
    if (!this.#ring.submit()) this.#tryAgain();
    if (this.#ring.inFlight === 0 || this.#ring.reap(this.#done) === 0) return false;
    for (let next = this.#waiting[0]; next !== undefined; next = this.#waiting[0]) {
      const { operation, fd, buffers, offset, completion, length, flags } = next;
      if (!this.#push(operation, fd, buffers, offset, completion, length, flags)) break;
      this.#waiting.shift();
    }
    if (!this.#ring.submit()) this.#tryAgain();
    return true;
  }

  /** The system is short of something: no completion may come that would have us submit the rest. */
  #tryAgain(): void {
    if (this.#retry !== undefined) return;
    this.promised();
    this.#retry = setTimeout(() => {
      this.#retry = undefined;
      this.#turn();
    }, RETRY_AFTER);
  }

  readonly #done = (key: number, result: number): void => {
    const completion = this.#completions[key];
    if (completion === undefined) return;
    this.#completions[key] = undefined;
    this.#keys.push(key);
    completion.settled(result);
  };
}
