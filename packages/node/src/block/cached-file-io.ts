import { constants } from "node:os";
import type { BlockCompletion } from "virtio/backends/block";
import { IoVectors, MAX_VECTORS } from "../native/io-vectors.ts";
import { tryLibc, type Libc } from "../native/libc.ts";
import { RWF_NOWAIT } from "../native/linux.ts";
import { NativeError } from "../native/native-error.ts";
import { behind, totalLength } from "./buffers.ts";
import type { FileEngine } from "./file-engine.ts";
import { EngineFileIo, SyncFileIo, type FileIo } from "./file-io.ts";
import type { MappedFile } from "./mapped-file.ts";
import type { OpenFile } from "./open-file.ts";
import { WriteWatch } from "./write-watch.ts";

const { EINTR, EOPNOTSUPP } = constants.errno;

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
    this.#slow = new EngineFileIo(file, engine, 1);
    this.#fast = new SyncFileIo(file.fd);
    if (mayWait) this.#watch = new WriteWatch();
    this.#mapped = mapped;
  }

  readv(offset: number, targets: readonly Uint8Array[], completion: BlockCompletion): boolean {
    const total = totalLength(targets);
    if (this.#mapped?.read(offset, targets, total) === true) return true;
    const got = this.#atOnce(offset, targets);
    if (got === total) return true;
    return this.#slow.readv(offset + got, got === 0 ? targets : behind(targets, got), completion);
  }

  writev(offset: number, sources: readonly Uint8Array[], completion: BlockCompletion): boolean {
    if (this.#watch?.begin() !== true) return this.#slow.writev(offset, sources, completion);
    this.#write(offset, sources);
    this.#watch.end();
    return true;
  }

  /** By address, in one call: less than what Node's own does around it. */
  #write(offset: number, sources: readonly Uint8Array[]): void {
    if (this.#libc === undefined || this.#vectors === undefined || sources.length > MAX_VECTORS)
      return void this.#fast.writev(offset, sources);
    const address = this.#vectors.set(0, sources, sources.length);
    const put = this.#libc.pwritev2(this.#fd, address, sources.length, offset, 0);
    if (put < 0) {
      const errno = this.#libc.errno();
      // A signal came before anything was written.
      if (errno !== EINTR) throw new NativeError("write", errno);
    }
    const done = Math.max(0, put);
    if (done < totalLength(sources)) this.#fast.writev(offset + done, behind(sources, done));
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
