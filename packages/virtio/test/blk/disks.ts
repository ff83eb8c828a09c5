import type { BlockBackend, BlockCompletion } from "../../src/backends/block.ts";
import type { MaybePromise } from "../../src/device/device.ts";
import { MemoryBlockBackend } from "../../src/backends/memory-block.ts";

/** Disks that tests stand devices on. */

/** A disk whose every operation is a promise that waits for `turn`; by default for a microtask. */
export class SlowDisk implements BlockBackend {
  readonly asynchronous = true;
  readonly readOnly = false;
  onResize: (() => void) | undefined;
  readonly inner: MemoryBlockBackend;
  /** Operations begun and not ended. */
  busy = 0;
  calls = 0;
  /** The most bytes in buffers at one time. */
  mostHeld = 0;
  #held = 0;
  turn: () => Promise<void> = () => Promise.resolve();

  constructor(size: number) {
    this.inner = new MemoryBlockBackend(size);
  }

  get size(): number {
    return this.inner.size;
  }

  read(offset: number, target: Uint8Array): Promise<void> {
    return this.#later(target.length, () => this.inner.read(offset, target));
  }

  write(offset: number, source: Uint8Array): Promise<void> {
    return this.#later(source.length, () => this.inner.write(offset, source));
  }

  flush(): Promise<void> {
    return this.#later(0, () => this.inner.flush());
  }

  discard(offset: number, length: number): Promise<void> {
    return this.#later(0, () => this.inner.discard(offset, length));
  }

  writeZeroes(offset: number, length: number, unmap: boolean): Promise<void> {
    return this.#later(0, () => this.inner.writeZeroes(offset, length, unmap));
  }

  async #later(bytes: number, work: () => void): Promise<void> {
    this.busy++;
    this.#held += bytes;
    this.calls++;
    this.mostHeld = Math.max(this.mostHeld, this.#held);
    try {
      await this.turn();
      work();
    } finally {
      this.busy--;
      this.#held -= bytes;
    }
  }
}

/** A disk with a volatile cache: `crash` forgets what was not flushed. */
export class VolatileDisk implements BlockBackend {
  readonly asynchronous = false;
  readonly readOnly = false;
  readonly cache: Uint8Array;
  readonly medium: Uint8Array;
  flushes = 0;
  readonly #slowFlush: boolean;

  constructor(size: number, slowFlush = false) {
    this.cache = new Uint8Array(size);
    this.medium = new Uint8Array(size);
    this.#slowFlush = slowFlush;
  }

  get size(): number {
    return this.cache.length;
  }

  read(offset: number, target: Uint8Array): void {
    target.set(this.cache.subarray(offset, offset + target.length));
  }

  write(offset: number, source: Uint8Array): void {
    this.cache.set(source, offset);
  }

  flush(): MaybePromise<void> {
    this.flushes++;
    if (!this.#slowFlush) {
      this.medium.set(this.cache);
      return undefined;
    }
    // What is promised is what was in the cache when it was asked.
    const now = this.cache.slice();
    return Promise.resolve().then(() => this.medium.set(now));
  }

  crash(): void {
    this.cache.set(this.medium);
  }
}

/** A synchronous disk that counts how it was asked. */
export class VectorDisk extends MemoryBlockBackend {
  vectors = 0;

  override readv(offset: number, targets: readonly Uint8Array[]): void {
    this.vectors++;
    super.readv(offset, targets);
  }

  override writev(offset: number, sources: readonly Uint8Array[]): void {
    this.vectors++;
    super.writev(offset, sources);
  }
}

/** The same, done later. */
export class SlowVectorDisk extends SlowDisk {
  vectors = 0;

  async readv(offset: number, targets: readonly Uint8Array[]): Promise<void> {
    this.vectors++;
    const own = [...targets];
    await this.turn();
    this.inner.readv(offset, own);
  }

  async writev(offset: number, sources: readonly Uint8Array[]): Promise<void> {
    this.vectors++;
    const own = [...sources];
    await this.turn();
    this.inner.writev(offset, own);
  }
}

/** A disk that fails whatever it is asked, at once or later. */
export class BrokenDisk implements BlockBackend {
  readonly readOnly = false;
  readonly size = 1 << 20;
  readonly asynchronous: boolean;

  constructor(asynchronous: boolean) {
    this.asynchronous = asynchronous;
  }

  read(): MaybePromise<void> {
    return this.#fail();
  }
  write(): MaybePromise<void> {
    return this.#fail();
  }
  flush(): MaybePromise<void> {
    return this.#fail();
  }
  discard(): MaybePromise<void> {
    return this.#fail();
  }
  writeZeroes(): MaybePromise<void> {
    return this.#fail();
  }

  #fail(): MaybePromise<void> {
    const error = new Error("the disk is broken");
    if (this.asynchronous) return Promise.reject(error);
    throw error;
  }
}

/** Any disk as one that tells of the end by itself, at once now and then, otherwise after `turn`. */
export class StartingDisk implements BlockBackend {
  readonly asynchronous = true;
  readonly readOnly = false;
  readonly inner: BlockBackend;
  busy = 0;
  calls = 0;
  /** One in so many is done at once; 0: none. */
  readonly atOnce: number;
  turn: () => Promise<void> = () => Promise.resolve();

  constructor(inner: BlockBackend, atOnce = 3) {
    this.inner = inner;
    this.atOnce = atOnce;
  }

  get size(): number {
    return this.inner.size;
  }

  read(offset: number, target: Uint8Array): MaybePromise<void> {
    return this.inner.read(offset, target);
  }

  write(offset: number, source: Uint8Array): MaybePromise<void> {
    return this.inner.write(offset, source);
  }

  flush(): MaybePromise<void> {
    return this.inner.flush();
  }

  startRead(offset: number, targets: readonly Uint8Array[], completion: BlockCompletion): boolean {
    return this.#start(offset, targets, completion, (at, bytes) => this.inner.read(at, bytes));
  }

  startWrite(offset: number, sources: readonly Uint8Array[], completion: BlockCompletion): boolean {
    return this.#start(offset, sources, completion, (at, bytes) => this.inner.write(at, bytes));
  }

  #start(
    offset: number,
    buffers: readonly Uint8Array[],
    completion: BlockCompletion,
    move: (at: number, bytes: Uint8Array) => MaybePromise<void>,
  ): boolean {
    // The list is the caller's again at once.
    const own = [...buffers];
    const all = async (): Promise<void> => {
      let at = offset;
      for (const bytes of own) {
        await move(at, bytes);
        at += bytes.length;
      }
    };
    if (this.atOnce > 0 && this.calls++ % this.atOnce === 0) {
      let at = offset;
      for (const bytes of own) {
        void move(at, bytes);
        at += bytes.length;
      }
      return true;
    }
    this.busy++;
    void this.turn()
      .then(all)
      .finally(() => this.busy--)
      .then(
        () => completion.done(),
        (error: unknown) => completion.done(error),
      );
    return false;
  }
}
