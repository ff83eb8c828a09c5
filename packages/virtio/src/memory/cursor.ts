import type { GuestMemory, Segment } from "./guest-memory.ts";

const NOTHING: readonly Segment[] = [];

/** Where a walk along segments stands; the common part of reading and writing. */
abstract class SegmentCursor {
  protected readonly memory: GuestMemory;
  protected segments: readonly Segment[] = NOTHING;
  /** The segment the cursor is in, and the offset inside it. */
  protected index = 0;
  protected offset = 0;
  protected left = 0;

  constructor(memory: GuestMemory) {
    this.memory = memory;
  }

  /** Begins at the start of these segments. The cursor can be used again for every chain. */
  start(segments: readonly Segment[]): this {
    this.segments = segments;
    this.index = 0;
    this.offset = 0;
    this.left = 0;
    for (let i = 0; i < segments.length; i++) this.left += segments[i]?.length ?? 0;
    return this;
  }

  /** Bytes between the cursor and the end. */
  get remaining(): number {
    return this.left;
  }

  /** Moves forward, at most to the end. */
  skip(count: number): void {
    let rest = Math.min(count, this.left);
    while (rest > 0) rest -= this.advance(rest);
  }

  /** The segment under the cursor with at least one byte left, or undefined at the end. */
  protected current(): Segment | undefined {
    let segment = this.segments[this.index];
    while (segment !== undefined && this.offset >= segment.length) {
      this.index++;
      this.offset = 0;
      segment = this.segments[this.index];
    }
    return segment;
  }

  /** Moves by at most `count` bytes and not beyond the segment; returns how far. */
  protected advance(count: number): number {
    const segment = this.current();
    if (segment === undefined) return 0;
    const step = Math.min(count, segment.length - this.offset);
    this.offset += step;
    this.left -= step;
    return step;
  }
}

/** Reads device-readable segments as one stream, however the driver split them ("Message Framing"). */
export class SegmentReader extends SegmentCursor {
  /** Fills `target` as far as bytes are left; returns how many. */
  copy(target: Uint8Array): number {
    let done = 0;
    while (done < target.length) {
      const piece = this.next(target.length - done);
      if (piece === undefined) break;
      target.set(piece, done);
      done += piece.length;
    }
    return done;
  }

  /** The next bytes where they lie, at most `limit` and within one segment, or undefined at the end. */
  next(limit: number): Uint8Array | undefined {
    const segment = this.current();
    if (segment === undefined || limit <= 0) return undefined;
    const gpa = segment.gpa + this.offset;
    return this.memory.view(gpa, this.advance(limit));
  }
}

/** Writes device-writable segments as one stream and tells the memory what was written. */
export class SegmentWriter extends SegmentCursor {
  #written = 0;
  #total = 0;

  override start(segments: readonly Segment[]): this {
    super.start(segments);
    this.#written = 0;
    this.#total = this.left;
    return this;
  }

  /** Bytes written since `start`, not counting what was skipped. */
  get written(): number {
    return this.#written;
  }

  /** Bytes between the start and the cursor. */
  get position(): number {
    return this.#total - this.left;
  }

  /** Goes to this many bytes from the start, at most to the end. */
  seek(position: number): void {
    this.index = 0;
    this.offset = 0;
    this.left = this.#total;
    this.skip(position);
  }

  /** Writes as much of `source` as there is room for; returns how many bytes. */
  copy(source: Uint8Array): number {
    let done = 0;
    while (done < source.length) {
      const piece = this.next(source.length - done);
      if (piece === undefined) break;
      piece.set(piece.length === source.length ? source : source.subarray(done, done + piece.length));
      done += piece.length;
    }
    return done;
  }

  /** Writes `count` bytes of one value, as far as there is room; returns how many. */
  fill(value: number, count: number): number {
    let done = 0;
    while (done < count) {
      const piece = this.next(count - done);
      if (piece === undefined) break;
      piece.fill(value);
      done += piece.length;
    }
    return done;
  }

  /**
   * The next place to write, at most `limit` bytes and within one segment, or undefined at the end. Counts as written:
   * fill it before anything else happens.
   */
  next(limit: number): Uint8Array | undefined {
    const segment = this.current();
    if (segment === undefined || limit <= 0) return undefined;
    const gpa = segment.gpa + this.offset;
    const length = this.advance(limit);
    this.#written += length;
    this.memory.wrote(gpa, length);
    return this.memory.view(gpa, length);
  }
}
