import type { BlockBackend } from "../../backends/block.ts";
import { SegmentReader, SegmentWriter } from "../../memory/cursor.ts";
import type { GuestMemory, Segment } from "../../memory/guest-memory.ts";
import { MAX_ALIGNMENT } from "./options.ts";

/**
 * Data of a synchronous backend, straight between it and guest memory: one call a segment, or one a request where the
 * backend can scatter and gather. Nothing is allocated but the views. Only a driver that cuts blocks in two gets a copy.
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

  /** Reads `length` bytes at `offset` of the disk into the start of `segments`. */
  read(offset: number, length: number, segments: readonly Segment[]): void {
    const backend = this.#backend;
    if (backend.readv !== undefined && segments.length > 2) {
      this.#collect(segments, 0, length);
      try {
        backend.readv(offset, this.#views);
      } finally {
        this.#views.length = 0;
      }
      return this.#tell(segments, length);
    }
    if (!this.#aligned(segments, 0, length)) return this.#readCopying(offset, length, segments);
    let left = length;
    for (let i = 0; left > 0; i++) {
      const segment = segments[i];
      if (segment === undefined) break;
      const size = Math.min(left, segment.length);
      void backend.read(offset + length - left, this.#memory.view(segment.gpa, size));
      left -= size;
    }
    this.#tell(segments, length);
  }

  /** Writes the `length` bytes that follow the first `skip` bytes of `segments` to `offset` of the disk. */
  write(offset: number, length: number, segments: readonly Segment[], skip: number): void {
    const backend = this.#backend;
    if (backend.writev !== undefined && segments.length > 2) {
      this.#collect(segments, skip, length);
      try {
        backend.writev(offset, this.#views);
      } finally {
        this.#views.length = 0;
      }
      return;
    }
    if (!this.#aligned(segments, skip, length)) return this.#writeCopying(offset, length, segments, skip);
    let before = skip;
    let left = length;
    for (let i = 0; left > 0; i++) {
      const segment = segments[i];
      if (segment === undefined) break;
      const start = Math.min(before, segment.length);
      before -= start;
      const size = Math.min(left, segment.length - start);
      if (size > 0) void backend.write(offset + length - left, this.#memory.view(segment.gpa + start, size));
      left -= size;
    }
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

  #readCopying(offset: number, length: number, segments: readonly Segment[]): void {
    const buffer = (this.#buffer ??= new Uint8Array(MAX_ALIGNMENT));
    const writer = this.#writer.start(segments);
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

  #tell(segments: readonly Segment[], length: number): void {
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
