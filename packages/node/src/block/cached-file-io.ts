import { constants } from "node:os";
import type { BlockCompletion } from "virtio/backends/block";
import { IoVectors, MAX_VECTORS } from "../native/io-vectors.ts";
import { tryLibc, type Libc } from "../native/libc.ts";
import { RWF_NOWAIT } from "../native/linux.ts";
import type { FileEngine } from "./file-engine.ts";
import { EngineFileIo, SyncFileIo, type FileIo } from "./file-io.ts";
import type { MappedFile } from "./mapped-file.ts";
import type { OpenFile } from "./open-file.ts";
import { WriteWatch } from "./write-watch.ts";

const { EOPNOTSUPP } = constants.errno;

/**
 * At once where the page cache allows it, by an engine where not. Writes are done at once only where the caller's thread may be held
 * up once in a while: the system makes a writer wait when the disk does not keep up, and does not say so before.
 */
export class CachedFileIo implements FileIo {
  readonly #fd: number;
  readonly #libc: Libc | undefined = tryLibc();
  readonly #vectors: IoVectors | undefined = this.#libc === undefined ? undefined : new IoVectors();
  readonly #slow: EngineFileIo;
  readonly #fast: SyncFileIo;
  readonly #mapped: MappedFile | undefined;
  /** Absent: writes may not wait. */
  readonly #watch: WriteWatch | undefined;
  /** The file system knows RWF_NOWAIT. */
  #noWait = true;

  constructor(file: OpenFile, engine: FileEngine, mayWait: boolean, mapped: MappedFile | undefined) {
    this.#fd = file.fd;
    this.#slow = new EngineFileIo(file, engine);
    this.#fast = new SyncFileIo(file.fd);
    if (mayWait) this.#watch = new WriteWatch();
    this.#mapped = mapped;
  }

  readv(offset: number, targets: readonly Uint8Array[], completion: BlockCompletion): boolean {
    let total = 0;
    for (const { length } of targets) total += length;
    if (this.#mapped?.read(offset, targets, total) === true) return true;
    let got = this.#atOnce(offset, targets);
    if (got === total) return true;
    if (got === 0) return this.#slow.readv(offset, targets, completion);
    const at = offset + got;
    const rest: Uint8Array[] = [];
    for (const target of targets) {
      if (got < target.length) rest.push(target.subarray(got));
      got = Math.max(0, got - target.length);
    }
    return this.#slow.readv(at, rest, completion);
  }

  writev(offset: number, sources: readonly Uint8Array[], completion: BlockCompletion): boolean {
    if (this.#watch?.begin() !== true) return this.#slow.writev(offset, sources, completion);
    this.#fast.writev(offset, sources);
    this.#watch.end();
    return true;
  }

  /** Bytes read without waiting. */
  #atOnce(offset: number, targets: readonly Uint8Array[]): number {
    if (this.#libc === undefined || this.#vectors === undefined || !this.#noWait) return 0;
    const count = Math.min(targets.length, MAX_VECTORS);
    const address = this.#vectors.set(0, targets, count);
    const got = this.#libc.preadv2(this.#fd, address, count, offset, RWF_NOWAIT);
    if (got >= 0) return got;
    if (this.#libc.errno() === EOPNOTSUPP) this.#noWait = false;
    return 0;
  }
}
