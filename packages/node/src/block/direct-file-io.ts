import type { BlockCompletion } from "virtio/backends/block";
import { addressOf } from "../native/address.ts";
import { BlockWidener, type WholeBlocks } from "./block-widener.ts";
import { behind, cut, totalLength } from "./buffers.ts";
import type { FileEngine } from "./file-engine.ts";
import { EngineFileIo, type FileIo } from "./file-io.ts";
import type { OpenFile } from "./open-file.ts";
import { promised } from "./promised.ts";

/** What O_DIRECT asks of a request, in bytes, powers of two. */
export interface DirectAlignment {
  /** Of buffers in memory. */
  readonly memory: number;
  /** Of offsets in the file and of lengths: the size of a sector of the host's disk. */
  readonly offset: number;
}

/** What O_DIRECT works on. */
export interface DirectFile {
  readonly file: OpenFile;
  /** Bytes of the disk that a driver sees. It may change, and need not be a multiple of the host's sectors. */
  size(): number;
  /** The same file by way of the page cache. */
  openCached(): OpenFile;
}

const SECTOR = 512;
/** The largest page of any host. In one page of the cache nobody may write past the cache while we write through it. */
const PAGE = 65_536;

/**
 * Past the page cache (O_DIRECT), always by an engine. Requests are multiples of 512 bytes, whatever the host's disk has as its
 * sectors: those that do not lie as O_DIRECT wants them are widened and copied (`BlockWidener`). Where the disk ends within
 * a sector of the host's, O_DIRECT could only write beyond its end; that last part goes through the page cache.
 */
export class DirectFileIo implements FileIo {
  readonly #io: EngineFileIo;
  readonly #engine: FileEngine;
  readonly #target: DirectFile;
  readonly #block: number;
  readonly #memoryMask: number;
  readonly #widener: BlockWidener;
  #cached: OpenFile | undefined;

  constructor(target: DirectFile, engine: FileEngine, alignment: DirectAlignment) {
    this.#io = new EngineFileIo(target.file, engine, alignment.offset);
    this.#engine = engine;
    this.#target = target;
    this.#block = alignment.offset;
    this.#memoryMask = alignment.memory - 1;
    this.#widener = new BlockWidener(this.#wholeBlocks(), alignment.offset);
  }

  readv(offset: number, targets: readonly Uint8Array[], completion: BlockCompletion): boolean {
    if (this.#lies(offset, targets)) return this.#io.readv(offset, targets, completion);
    return tell(this.#widener.read(offset, targets), completion);
  }

  writev(offset: number, sources: readonly Uint8Array[], completion: BlockCompletion): boolean {
    if (!this.#lies(offset, sources)) return tell(this.#write(offset, sources), completion);
    // Where a sector of the host's is one of ours, no write is ever widened.
    if (this.#block === SECTOR) return this.#io.writev(offset, sources, completion);
    const list = sources.slice();
    return this.#widener.share(offset, totalLength(list), completion, (end) =>
      this.#io.writev(offset, list, end),
    );
  }

  exclusively(offset: number, length: number, work: () => Promise<void>): Promise<void> {
    return this.#block === SECTOR ? work() : this.#widener.exclusively(offset, length, work);
  }

  /** The descriptor of the page cache's. */
  close(): void {
    this.#cached?.close();
  }

  #lies(offset: number, buffers: readonly Uint8Array[]): boolean {
    if (!this.#widener.isWhole(offset, 0)) return false;
    for (const buffer of buffers) {
      if ((addressOf(buffer) & this.#memoryMask) !== 0 || !this.#widener.isWhole(0, buffer.length))
        return false;
    }
    return true;
  }

  async #write(offset: number, sources: readonly Uint8Array[]): Promise<void> {
    const size = this.#target.size();
    const wholeEnd = size - (size % this.#block);
    const length = totalLength(sources);
    const head = Math.max(0, Math.min(length, wholeEnd - offset));
    const list = sources.slice();
    if (head === length) return this.#widener.write(offset, list);
    if (head > 0) await this.#widener.write(offset, cut(list, 0, head));
    await this.#writeTail(offset + head, behind(list, head), length - head);
  }

  async #writeTail(offset: number, sources: readonly Uint8Array[], length: number): Promise<void> {
    const page = offset - (offset % PAGE);
    await this.#widener.exclusively(page, offset + length - page, async () => {
      this.#cached ??= this.#target.openCached();
      const io = new EngineFileIo(this.#cached, this.#engine, 1);
      await promised(this.#engine, (completion) => io.writev(offset, sources, completion));
    });
  }

  #wholeBlocks(): WholeBlocks {
    return {
      read: async (at, target) =>
        promised(this.#engine, (completion) => this.#io.readv(at, [target], completion)),
      write: async (at, source) =>
        promised(this.#engine, (completion) => this.#io.writev(at, [source], completion)),
      buffer: (length) => {
        const bytes = new Uint8Array(length + this.#memoryMask);
        const skip = -addressOf(bytes) & this.#memoryMask;
        return bytes.subarray(skip, skip + length);
      },
    };
  }
}

/** The completion hears of the end of a promise; nothing is done yet. */
function tell(work: Promise<void>, completion: BlockCompletion): false {
  void work.then(
    () => completion.done(),
    (error: unknown) => completion.done(error),
  );
  return false;
}
