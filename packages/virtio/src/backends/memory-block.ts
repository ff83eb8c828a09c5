import { isBytes, wholeOption } from "../check-option.ts";
import type { BlockBackend } from "./block.ts";

/** Bytes that are allocated at a time. */
const CHUNK = 65_536;

export interface MemoryBlockOptions {
  /** The most bytes that are ever allocated; a write beyond fails. Default: the size. */
  readonly maxBytes?: number;
}

/** A disk in RAM that takes memory only where something was written. */
export class MemoryBlockBackend implements BlockBackend {
  readonly readOnly = false;
  readonly asynchronous = false;
  onResize: (() => void) | undefined;
  readonly #chunks = new Map<number, Uint8Array>();
  readonly #maxChunks: number;
  #size: number;

  /** An empty disk of so many bytes, or a disk with these contents, which it then owns and changes in place. */
  constructor(contents: number | Uint8Array, options: MemoryBlockOptions = {}) {
    this.#size = isBytes(contents) ? contents.length : checkedSize(contents);
    const { maxBytes = Number.MAX_SAFE_INTEGER } = options;
    this.#maxChunks = Math.ceil(
      wholeOption("memory disk: maxBytes", maxBytes, 0, Number.MAX_SAFE_INTEGER) / CHUNK,
    );
    if (isBytes(contents)) this.#adopt(contents);
  }

  get size(): number {
    return this.#size;
  }

  /** Bytes of RAM in use. */
  get allocated(): number {
    return this.#chunks.size * CHUNK;
  }

  /** Another size in bytes; what lies beyond a smaller one is gone, what a larger one adds reads as zeroes. */
  resize(size: number): void {
    const kept = Math.min(checkedSize(size), this.#size);
    for (const index of this.#chunks.keys()) if (index * CHUNK >= kept) this.#chunks.delete(index);
    this.#chunks.get(Math.floor(kept / CHUNK))?.fill(0, kept % CHUNK);
    this.#size = size;
    this.onResize?.();
  }

  read(offset: number, target: Uint8Array): void {
    for (let done = 0; done < target.length;) {
      const start = (offset + done) % CHUNK;
      const step = Math.min(CHUNK - start, target.length - done);
      const chunk = this.#chunks.get((offset + done - start) / CHUNK);
      if (chunk === undefined) target.fill(0, done, done + step);
      else target.set(chunk.subarray(start, start + step), done);
      done += step;
    }
  }

  write(offset: number, source: Uint8Array): void {
    for (let done = 0; done < source.length;) {
      const start = (offset + done) % CHUNK;
      const step = Math.min(CHUNK - start, source.length - done);
      const piece = step === source.length ? source : source.subarray(done, done + step);
      this.#chunk((offset + done - start) / CHUNK).set(piece, start);
      done += step;
    }
  }

  readv(offset: number, targets: readonly Uint8Array[]): void {
    let at = offset;
    for (const target of targets) {
      this.read(at, target);
      at += target.length;
    }
  }

  writev(offset: number, sources: readonly Uint8Array[]): void {
    let at = offset;
    for (const source of sources) {
      this.write(at, source);
      at += source.length;
    }
  }

  flush(): void {}

  /** Releases the chunks that lie whole in the range. */
  discard(offset: number, length: number): void {
    const last = Math.floor((offset + length) / CHUNK);
    for (let index = Math.ceil(offset / CHUNK); index < last; index++) this.#chunks.delete(index);
  }

  writeZeroes(offset: number, length: number, unmap: boolean): void {
    for (let done = 0; done < length;) {
      const start = (offset + done) % CHUNK;
      const step = Math.min(CHUNK - start, length - done);
      const index = (offset + done - start) / CHUNK;
      if (unmap && step === CHUNK) this.#chunks.delete(index);
      else this.#chunks.get(index)?.fill(0, start, start + step);
      done += step;
    }
  }

  #chunk(index: number): Uint8Array {
    const present = this.#chunks.get(index);
    if (present !== undefined) return present;
    if (this.#chunks.size >= this.#maxChunks) throw new Error("memory disk: no space left");
    const chunk = new Uint8Array(CHUNK);
    this.#chunks.set(index, chunk);
    return chunk;
  }

  #adopt(contents: Uint8Array): void {
    for (let start = 0; start < contents.length; start += CHUNK) {
      const piece = contents.subarray(start, start + CHUNK);
      if (piece.length === CHUNK) this.#chunks.set(start / CHUNK, piece);
      else this.#chunk(start / CHUNK).set(piece);
    }
  }
}

function checkedSize(size: number): number {
  return wholeOption("memory disk: size", size, 0, Number.MAX_SAFE_INTEGER);
}
