import type { MaybePromise } from "../device/device.ts";

/** Hears of the end of what was begun. */
export interface BlockCompletion {
  /** Without an error: all of it is done. */
  done(error?: unknown): void;
}

/**
 * A disk's storage. Offsets and lengths are bytes, multiples of `blockSize`, always inside `size`; a failure is a
 * rejection or a throw.
 */
export interface BlockBackend {
  /** Bytes; may change, then `onResize` is called. */
  readonly size: number;
  readonly readOnly: boolean;
  /**
   * True: reads and writes may return a promise, so buffers handed to them must not be guest memory that can move. False:
   * they never do.
   */
  readonly asynchronous: boolean;
  /** Smallest unit of I/O in bytes, a power of two from 512 to 65536. A driver sees sectors of this size. Default 512. */
  readonly blockSize?: number;
  /**
   * The unit of I/O that costs no more than it has to, in bytes, a power of two: smaller requests work, but are widened
   * to it. Drivers are told, and align what they can. Default `blockSize`.
   */
  readonly physicalBlockSize?: number;
  /** Fills the whole of `target`. */
  read(offset: number, target: Uint8Array): MaybePromise<void>;
  write(offset: number, source: Uint8Array): MaybePromise<void>;
  /** Fills several buffers of any lengths from consecutive bytes. The list is the caller's again at once. */
  readv?(offset: number, targets: readonly Uint8Array[]): MaybePromise<void>;
  /** Writes several buffers of any lengths to consecutive bytes. The list is the caller's again at once. */
  writev?(offset: number, sources: readonly Uint8Array[]): MaybePromise<void>;
  /**
   * As `readv`, without a promise for each: true when it is done now, otherwise `completion` hears of it, later and once. There
   * are either both of these or none.
   */
  startRead?(offset: number, targets: readonly Uint8Array[], completion: BlockCompletion): boolean;
  /** As `writev`, in the same way. */
  startWrite?(offset: number, sources: readonly Uint8Array[], completion: BlockCompletion): boolean;
  /** What was written before is durable when this is done. */
  flush(): MaybePromise<void>;
  /** Contents become unspecified, storage may be released. Absent: not supported. */
  discard?(offset: number, length: number): MaybePromise<void>;
  /** Reads as zeroes afterwards; `unmap` allows storage to be released. Absent: the caller writes zeroes. */
  writeZeroes?(offset: number, length: number, unmap: boolean): MaybePromise<void>;
  /** Set by the device that stands on it. */
  onResize?: (() => void) | undefined;
  close?(): MaybePromise<void>;
}
