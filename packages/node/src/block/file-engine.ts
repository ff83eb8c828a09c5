import { fdatasync, read, write } from "node:fs";
import { addressOf } from "../native/address.ts";
import {
  IORING_FSYNC_DATASYNC,
  IORING_OP_FALLOCATE,
  IORING_OP_FSYNC,
  IORING_OP_READ,
  IORING_OP_WRITE,
  IoUring,
} from "../native/io-uring.ts";
import { tryLibc } from "../native/libc.ts";
import { NativeError } from "../native/native-error.ts";
import type { Poller, Watch } from "../native/poller.ts";

/** File I/O that does not block its caller. Buffers stay the engine's until the promise settles. */
export interface FileEngine {
  readonly name: "threads" | "io_uring";
  /** Bytes read; 0 at the end of the file. */
  read(fd: number, target: Uint8Array, offset: number): Promise<number>;
  /** Bytes written. */
  write(fd: number, source: Uint8Array, offset: number): Promise<number>;
  /** fdatasync. */
  sync(fd: number): Promise<void>;
  /** As fallocate(2). False: it failed, as on a file system that cannot. */
  allocate(fd: number, mode: number, offset: number, length: number): Promise<boolean>;
  /** When nothing is under way any more. */
  close(): void;
}

/** Node's own thread pool; works everywhere. `UV_THREADPOOL_SIZE` says how many threads it has (4). */
export const threadEngine: FileEngine = {
  name: "threads",
  read: (fd, target, offset) =>
    new Promise((resolve, reject) => {
      read(fd, target, 0, target.length, offset, (error, count) => {
        if (error === null) resolve(count);
        else reject(error);
      });
    }),
  write: (fd, source, offset) =>
    new Promise((resolve, reject) => {
      write(fd, source, 0, source.length, offset, (error, count) => {
        if (error === null) resolve(count);
        else reject(error);
      });
    }),
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

interface Request {
  readonly call: string;
  readonly operation: number;
  readonly fd: number;
  /** Holds on to the memory that the system works on. */
  readonly buffer: Uint8Array | undefined;
  readonly length: number;
  readonly offset: number;
  readonly flags: number;
  readonly resolve: (result: number) => void;
  readonly reject: (error: Error) => void;
}

const ENTRIES = 256;
/** So many requests are not held back for more of them: the disk can begin. */
const SUBMIT_EVERY = 8;
/** Milliseconds after which requests are submitted again that the system would not take. */
const RETRY_AFTER = 1;

/** io_uring, on the thread of its poller: what one batch of requests asks for goes to the system in one call. */
export class UringEngine implements FileEngine {
  readonly name = "io_uring";
  readonly #ring: IoUring;
  readonly #watches: Watch[] = [];
  /** By key; keys that are free are in `#keys`. */
  readonly #requests: (Request | undefined)[];
  readonly #keys: number[];
  /** Those that there was no room for. Bounded by what devices have in flight. */
  readonly #waiting: Request[] = [];
  readonly #poller: Poller;
  #submitPlanned = false;
  #retry: ReturnType<typeof setTimeout> | undefined;

  /** Throws a NativeError where there is no io_uring for this process. */
  constructor(poller: Poller) {
    const ring = (this.#ring = new IoUring(ENTRIES));
    this.#poller = poller;
    this.#requests = Array.from({ length: ring.capacity }, () => undefined);
    this.#keys = Array.from({ length: ring.capacity }, (_, key) => key);
    this.#watches.push(poller.watch(ring.fd, () => void this.#turn(), true));
    const spin = poller.spin?.({ look: () => this.#turn(), rest: () => this.#turn() });
    if (spin !== undefined) this.#watches.push(spin);
  }

  read(fd: number, target: Uint8Array, offset: number): Promise<number> {
    return this.#start("read", IORING_OP_READ, fd, target, target.length, offset, 0);
  }

  write(fd: number, source: Uint8Array, offset: number): Promise<number> {
    return this.#start("write", IORING_OP_WRITE, fd, source, source.length, offset, 0);
  }

  async sync(fd: number): Promise<void> {
    await this.#start("fdatasync", IORING_OP_FSYNC, fd, undefined, 0, 0, IORING_FSYNC_DATASYNC);
  }

  async allocate(fd: number, mode: number, offset: number, length: number): Promise<boolean> {
    try {
      return (await this.#start("fallocate", IORING_OP_FALLOCATE, fd, undefined, length, offset, mode)) === 0;
    } catch {
      return false;
    }
  }

  close(): void {
    clearTimeout(this.#retry);
    for (const watch of this.#watches) watch.stop();
    this.#ring.close();
  }

  #start(
    call: string,
    operation: number,
    fd: number,
    buffer: Uint8Array | undefined,
    length: number,
    offset: number,
    flags: number,
  ): Promise<number> {
    return new Promise((resolve, reject) => {
      this.#push({ call, operation, fd, buffer, length, offset, flags, resolve, reject });
      // A poller that spins looks here before it sleeps.
      if (this.#poller.spin !== undefined || this.#submitPlanned) return;
      this.#submitPlanned = true;
      queueMicrotask(() => {
        this.#submitPlanned = false;
        this.#turn();
      });
    });
  }

  #push(request: Request): void {
    const key = this.#keys.pop();
    const { operation, fd, buffer, length, offset, flags } = request;
    if (key !== undefined) {
      // Of fallocate the length is where others have the address, and the mode where they have the length.
      const pushed =
        operation === IORING_OP_FALLOCATE
          ? this.#ring.push(operation, fd, length, flags, offset, 0, key)
          : this.#ring.push(operation, fd, buffer ? addressOf(buffer) : 0, length, offset, flags, key);
      if (pushed) {
        this.#requests[key] = request;
        if (this.#ring.pushed >= SUBMIT_EVERY) this.#ring.submit();
        return;
      }
      this.#keys.push(key);
    }
    this.#waiting.push(request);
  }

  /** Submits what is prepared and reports what is done. True: something was. */
  #turn(): boolean {
    if (!this.#ring.submit()) this.#tryAgain();
    if (this.#ring.inFlight === 0 || this.#ring.reap(this.#done) === 0) return false;
    this.#poller.promised?.();
    for (let i = Math.min(this.#waiting.length, this.#keys.length); i > 0; i--) {
      const next = this.#waiting.shift();
      if (next !== undefined) this.#push(next);
    }
    if (!this.#ring.submit()) this.#tryAgain();
    return true;
  }

  /** The system is short of something: no completion may come that would have us submit the rest. */
  #tryAgain(): void {
    if (this.#retry !== undefined) return;
    this.#poller.promised?.();
    this.#retry = setTimeout(() => {
      this.#retry = undefined;
      this.#turn();
    }, RETRY_AFTER);
  }

  readonly #done = (key: number, result: number): void => {
    const request = this.#requests[key];
    if (request === undefined) return;
    this.#requests[key] = undefined;
    this.#keys.push(key);
    if (result >= 0) request.resolve(result);
    else request.reject(new NativeError(request.call, -result));
  };
}
