import type { BlockBackend } from "../../backends/block.ts";
import type { GuestMemory, Segment } from "../../memory/guest-memory.ts";

/**
 * Data of a synchronous backend, straight between it and guest memory: one call a segment, or one a request where the
 * backend can scatter and gather. Nothing is allocated but the views.
 */
export class DirectTransfer {
  readonly #backend: BlockBackend;
  readonly #memory: GuestMemory;
  readonly #views: Uint8Array[] = [];

  constructor(backend: BlockBackend, memory: GuestMemory) {
    this.#backend = backend;
    this.#memory = memory;
  }

  /** Reads `length` bytes at `offset` of the disk into the start of `segments`. */
  read(offset: number, length: number, segments: readonly Segment[]): void {
    const memory = this.#memory;
    const backend = this.#backend;
    if (backend.readv !== undefined && segments.length > 2) {
      this.#collect(segments, 0, length);
      try {
        backend.readv(offset, this.#views);
      } finally {
        this.#views.length = 0;
      }
    } else {
      let left = length;
      for (let i = 0; left > 0; i++) {
        const segment = segments[i];
        if (segment === undefined) break;
        const size = Math.min(left, segment.length);
        void backend.read(offset + length - left, memory.view(segment.gpa, size));
        left -= size;
      }
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
