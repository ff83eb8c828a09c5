import type { BlockCompletion } from "virtio/backends/block";
import { addressOf } from "../native/address.ts";
import type { FileEngine } from "./file-engine.ts";
import { EngineFileIo, type FileIo } from "./file-io.ts";
import { promised } from "./promised.ts";
import type { OpenFile } from "./open-file.ts";

/** What O_DIRECT asks of a request, in bytes, powers of two. */
export interface DirectAlignment {
  /** Of buffers in memory. */
  readonly memory: number;
  /** Of offsets in the file and of lengths. */
  readonly offset: number;
}

/** What does not lie as O_DIRECT wants it goes through a buffer, in pieces of so many bytes. */
const PIECE = 2 ** 20;

/**
 * Past the page cache (O_DIRECT), always by an engine. Offsets and lengths of whole requests are multiples of
 * `alignment.offset`; buffers may lie anywhere, those that lie badly are copied.
 */
export class DirectFileIo implements FileIo {
  readonly #io: EngineFileIo;
  readonly #engine: FileEngine;
  readonly #memoryMask: number;
  readonly #offsetMask: number;

  constructor(file: OpenFile, engine: FileEngine, alignment: DirectAlignment) {
    this.#io = new EngineFileIo(file, engine);
    this.#engine = engine;
    this.#memoryMask = alignment.memory - 1;
    this.#offsetMask = alignment.offset - 1;
  }

  readv(offset: number, targets: readonly Uint8Array[], completion: BlockCompletion): boolean {
    if (this.#areAligned(targets)) return this.#io.readv(offset, targets, completion);
    this.#copying(this.#readCopying(offset, targets), completion);
    return false;
  }

  writev(offset: number, sources: readonly Uint8Array[], completion: BlockCompletion): boolean {
    if (this.#areAligned(sources)) return this.#io.writev(offset, sources, completion);
    this.#copying(this.#writeCopying(offset, sources), completion);
    return false;
  }

  #areAligned(buffers: readonly Uint8Array[]): boolean {
    for (const buffer of buffers) if (!this.#isAligned(buffer)) return false;
    return true;
  }

  #copying(done: Promise<void>, completion: BlockCompletion): void {
    void done.then(
      () => completion.done(),
      (error: unknown) => completion.done(error),
    );
  }

  #isAligned(bytes: Uint8Array): boolean {
    return (addressOf(bytes) & this.#memoryMask) === 0 && (bytes.length & this.#offsetMask) === 0;
  }

  async #readCopying(offset: number, targets: readonly Uint8Array[]): Promise<void> {
    const scatter = new Scatter(targets);
    const buffer = this.#buffer(scatter.left);
    for (let at = offset; scatter.left > 0; at += buffer.length) {
      const piece = buffer.subarray(0, scatter.left);
      await promised(this.#engine, (completion) => this.#io.readv(at, [piece], completion));
      scatter.move(piece, (bytes, part) => bytes.set(part));
    }
  }

  async #writeCopying(offset: number, sources: readonly Uint8Array[]): Promise<void> {
    const scatter = new Scatter(sources);
    const buffer = this.#buffer(scatter.left);
    for (let at = offset; scatter.left > 0; at += buffer.length) {
      const piece = buffer.subarray(0, scatter.left);
      scatter.move(piece, (bytes, part) => part.set(bytes));
      await promised(this.#engine, (completion) => this.#io.writev(at, [piece], completion));
    }
  }

  /** An aligned one for `length` bytes, or for a piece of them. */
  #buffer(length: number): Uint8Array {
    const size = Math.min(length, PIECE);
    const bytes = new Uint8Array(size + this.#memoryMask);
    const skip = -addressOf(bytes) & this.#memoryMask;
    return bytes.subarray(skip, skip + size);
  }
}

/** Goes through a list of buffers as if they were one. */
class Scatter {
  left = 0;
  readonly #buffers: readonly Uint8Array[];
  #index = 0;
  #at = 0;

  constructor(buffers: readonly Uint8Array[]) {
    // The list is the caller's again soon.
    this.#buffers = [...buffers];
    for (const { length } of buffers) this.left += length;
  }

  /** The next `piece.length` bytes of the list, part by part, with their place in `piece`. */
  move(piece: Uint8Array, copy: (bytes: Uint8Array, part: Uint8Array) => void): void {
    for (let done = 0; done < piece.length;) {
      const buffer = this.#buffers[this.#index];
      if (buffer === undefined) break;
      const size = Math.min(piece.length - done, buffer.length - this.#at);
      copy(buffer.subarray(this.#at, this.#at + size), piece.subarray(done, done + size));
      done += size;
      this.#at += size;
      if (this.#at === buffer.length) {
        this.#index++;
        this.#at = 0;
      }
    }
    this.left -= piece.length;
  }
}
