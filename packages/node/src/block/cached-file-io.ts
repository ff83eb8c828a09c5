import { constants } from "node:os";
import type { MaybePromise } from "virtio/device/device";
import { addressOf } from "../native/address.ts";
import { IoVectors, MAX_VECTORS } from "../native/io-vectors.ts";
import { tryLibc, type Libc } from "../native/libc.ts";
import { RWF_NOWAIT } from "../native/linux.ts";
import type { FileEngine } from "./file-engine.ts";
import { EngineFileIo, SyncFileIo, type FileIo } from "./file-io.ts";
import type { MappedFile } from "./mapped-file.ts";
import type { OpenFile } from "./open-file.ts";

const { EOPNOTSUPP } = constants.errno;
/** A write that took so many milliseconds was held up (and not only this thread): too much waits for the disk. */
const HELD_UP = 20;
/** So long writes do not try to be done at once after that, in milliseconds. */
const BACK_OFF = 1000;

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
  readonly #mayWait: boolean;
  /** The file system knows RWF_NOWAIT. */
  #noWait = true;
  #backOffUntil = -Infinity;

  constructor(file: OpenFile, engine: FileEngine, mayWait: boolean, mapped: MappedFile | undefined) {
    this.#fd = file.fd;
    this.#slow = new EngineFileIo(file, engine);
    this.#fast = new SyncFileIo(file.fd);
    this.#mayWait = mayWait;
    this.#mapped = mapped;
  }

  read(offset: number, target: Uint8Array): MaybePromise<void> {
    if (target.length === 0 || this.#mapped?.read(offset, target) === true) return;
    this.#vectors?.set(0, addressOf(target), target.length);
    const got = this.#atOnce(offset, 1);
    if (got === target.length) return;
    return this.#slow.read(offset + got, got === 0 ? target : target.subarray(got));
  }

  readv(offset: number, targets: readonly Uint8Array[]): MaybePromise<void> {
    if (targets.length > MAX_VECTORS) return this.#slow.readv(offset, targets);
    let total = 0;
    for (const [i, target] of targets.entries()) {
      this.#vectors?.set(i, addressOf(target), target.length);
      total += target.length;
    }
    let got = this.#atOnce(offset, targets.length);
    if (got === total) return;
    const at = offset + got;
    const rest: Uint8Array[] = [];
    for (const target of targets) {
      if (got < target.length) rest.push(target.subarray(got));
      got = Math.max(0, got - target.length);
    }
    return this.#slow.readv(at, rest);
  }

  write(offset: number, source: Uint8Array): MaybePromise<void> {
    const start = performance.now();
    if (!this.#mayWait || start <= this.#backOffUntil) return this.#slow.write(offset, source);
    this.#fast.write(offset, source);
    this.#wrote(start);
  }

  writev(offset: number, sources: readonly Uint8Array[]): MaybePromise<void> {
    const start = performance.now();
    if (!this.#mayWait || start <= this.#backOffUntil) return this.#slow.writev(offset, sources);
    this.#fast.writev(offset, sources);
    this.#wrote(start);
  }

  /** Bytes read without waiting, into the vectors that were set. */
  #atOnce(offset: number, count: number): number {
    const { address } = this.#vectors ?? {};
    if (this.#libc === undefined || address === undefined || !this.#noWait) return 0;
    const got = this.#libc.preadv2(this.#fd, address, count, offset, RWF_NOWAIT);
    if (got >= 0) return got;
    if (this.#libc.errno() === EOPNOTSUPP) this.#noWait = false;
    return 0;
  }

  /** At once, and this is how long it took. */
  #wrote(start: number): void {
    const end = performance.now();
    if (end - start > HELD_UP) this.#backOffUntil = end + BACK_OFF;
  }
}
