import { allDone } from "../../all-done.ts";
import type { BlockBackend, BlockCompletion } from "../../backends/block.ts";
import type { MaybePromise } from "../../device/device.ts";
import { SegmentReader, SegmentWriter } from "../../memory/cursor.ts";
import type { GuestMemory, Segment } from "../../memory/guest-memory.ts";
import { MAX_ALIGNMENT } from "./options.ts";

/**
 * Data straight between a backend and guest memory: one call a segment, or one a request where the backend can scatter and
 * gather. Nothing is allocated but the views. Only a driver that cuts blocks in two gets a copy, and of a backend that is
 * not asynchronous only.
 */
export class DirectTransfer {
  readonly #backend: BlockBackend;
  readonly #memory: GuestMemory;
  /** The unit of I/O of the backend, less one. */
  readonly #mask: number;
  readonly #views: Uint8Array[] = [];
  readonly #reader: SegmentReader;
  readonly #writer: SegmentWriter;
  #buffer: Uint8Array | undefined;

  constructor(backend: BlockBackend, memory: GuestMemory, alignment: number) {
    this.#backend = backend;
    this.#memory = memory;
    this.#mask = alignment - 1;
    this.#reader = new SegmentReader(memory);
    this.#writer = new SegmentWriter(memory);
  }

  /** Whether an asynchronous backend can do this request without a copy, in memory that stays where it is. */
  fits(segments: readonly Segment[], skip: number, length: number): boolean {
    const backend = this.#backend;
    if (backend.startRead !== undefined) return true;
    if (segments.length > 2 && backend.readv !== undefined && backend.writev !== undefined) return true;
    return this.#aligned(segments, skip, length);
  }

  /** As `read`, of a backend that has `startRead`. */
  startRead(
    offset: number,
    length: number,
    segments: readonly Segment[],
    completion: BlockCompletion,
  ): boolean {
    this.#collect(segments, 0, length);
    try {
      return this.#backend.startRead?.(offset, this.#views, completion) ?? true;
    } finally {
      this.#views.length = 0;
    }
  }

  /** As `write`, of a backend that has `startWrite`. */
  startWrite(
    offset: number,
    length: number,
    segments: readonly Segment[],
    skip: number,
    completion: BlockCompletion,
  ): boolean {
    this.#collect(segments, skip, length);
    try {
      return this.#backend.startWrite?.(offset, this.#views, completion) ?? true;
    } finally {
      this.#views.length = 0;
    }
  }

  /**
   * Reads `length` bytes at `offset` of the disk into `segments`, behind their first `skip` bytes; to be told by `wrote` when it is
   * done.
   */
  read(offset: number, length: number, segments: readonly Segment[], skip: number): MaybePromise<void> {
    const backend = this.#backend;
    if (backend.readv !== undefined && segments.length > 2) {
      this.#collect(segments, skip, length);
      try {
        return backend.readv(offset, this.#views);
      } finally {
        this.#views.length = 0;
      }
    }
    if (!this.#aligned(segments, skip, length)) return this.#readCopying(offset, length, segments, skip);
    const first = segments[0];
    if (skip === 0 && first !== undefined && first.length >= length)
      return backend.read(offset, this.#memory.view(first.gpa, length));
    return this.#each(segments, skip, length, (at, bytes) => backend.read(offset + at, bytes));
  }

  /** Writes the `length` bytes that follow the first `skip` bytes of `segments` to `offset` of the disk. */
  write(offset: number, length: number, segments: readonly Segment[], skip: number): MaybePromise<void> {
    const backend = this.#backend;
    if (backend.writev !== undefined && segments.length > 2) {
      this.#collect(segments, skip, length);
      try {
        return backend.writev(offset, this.#views);
      } finally {
        this.#views.length = 0;
      }
    }
    if (!this.#aligned(segments, skip, length)) return this.#writeCopying(offset, length, segments, skip);
    const [header, data] = segments;
    if (header?.length === skip && data !== undefined && data.length >= length)
      return backend.write(offset, this.#memory.view(data.gpa, length));
    return this.#each(segments, skip, length, (at, bytes) => backend.write(offset + at, bytes));
  }

  /** Moves the data segment by segment; done when the last of them is, also when one of them fails. */
  #each(
    segments: readonly Segment[],
    skip: number,
    length: number,
    move: (at: number, bytes: Uint8Array) => MaybePromise<void>,
  ): MaybePromise<void> {
    const pending: Promise<void>[] = [];
    this.#collect(segments, skip, length);
    try {
      let at = 0;
      for (const bytes of this.#views) {
        const done = move(at, bytes);
        if (done !== undefined) pending.push(done);
        at += bytes.length;
      }
    } catch (error) {
      // The others still work on guest memory.
      if (pending.length === 0) throw error;
      return Promise.allSettled(pending).then(() => Promise.reject(error));
    } finally {
      this.#views.length = 0;
    }
    if (pending.length > 0) return allDone(pending);
  }

  /** Whether each piece of the data is whole blocks. */
  #aligned(segments: readonly Segment[], skip: number, length: number): boolean {
    let before = skip;
    let left = length;
    for (let i = 0; left > 0; i++) {
      const segment = segments[i];
      if (segment === undefined) break;
      const start = Math.min(before, segment.length);
      before -= start;
      const size = Math.min(left, segment.length - start);
      if ((size & this.#mask) !== 0) return false;
      left -= size;
    }
    return true;
  }

  #readCopying(offset: number, length: number, segments: readonly Segment[], skip: number): void {
    const buffer = (this.#buffer ??= new Uint8Array(MAX_ALIGNMENT));
    const writer = this.#writer.start(segments);
    writer.skip(skip);
    for (let done = 0; done < length; done += buffer.length) {
      const piece = buffer.subarray(0, length - done);
      void this.#backend.read(offset + done, piece);
      writer.copy(piece);
    }
  }

  #writeCopying(offset: number, length: number, segments: readonly Segment[], skip: number): void {
    const buffer = (this.#buffer ??= new Uint8Array(MAX_ALIGNMENT));
    const reader = this.#reader.start(segments);
    reader.skip(skip);
    for (let done = 0; done < length; done += buffer.length) {
      const piece = buffer.subarray(0, length - done);
      reader.copy(piece);
      void this.#backend.write(offset + done, piece);
    }
  }

  #collect(segments: readonly Segment[], skip: number, length: number): void {
    let before = skip;
    let left = length;
    for (let i = 0; left > 0; i++) {
      const segment = segments[i];
      if (segment === undefined) break;
      const start = Math.min(before, segment.length);
      before -= start;
      const size = Math.min(left, segment.length - start);
      if (size > 0) this.#views.push(this.#memory.view(segment.gpa + start, size));
      left -= size;
    }
  }

  /** What `read` filled. */
  wrote(segments: readonly Segment[], length: number): void {
    let left = length;
    for (let i = 0; left > 0; i++) {
      const segment = segments[i];
      if (segment === undefined) break;
      const size = Math.min(left, segment.length);
      this.#memory.wrote(segment.gpa, size);
      left -= size;
    }
  }
}
