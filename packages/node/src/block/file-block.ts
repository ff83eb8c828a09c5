import { choiceOption, flagOptions, partOption, textOption } from "virtio/check-option";
import { constants, closeSync, fstatSync, openSync, readSync } from "node:fs";
import type { BigIntStats } from "node:fs";
import type { BlockBackend, BlockCompletion } from "virtio/backends/block";
import type { MaybePromise } from "virtio/device/device";
import { tryLibc } from "../native/libc.ts";
import {
  FALLOC_FL_KEEP_SIZE,
  FALLOC_FL_PUNCH_HOLE,
  FALLOC_FL_ZERO_RANGE,
  SEEK_END,
} from "../native/linux.ts";
import { totalLength } from "./buffers.ts";
import { CachedFileIo } from "./cached-file-io.ts";
import { directAlignment } from "./direct-alignment.ts";
import { type DirectAlignment, type DirectFile, DirectFileIo } from "./direct-file-io.ts";
import { threadEngine, type FileEngine } from "./file-engine.ts";
import { SyncFileIo, type FileIo } from "./file-io.ts";
import { type FileLock, lockImage } from "./file-lock.ts";
import { foreignFormat, PROBE_LENGTH } from "./image-probe.ts";
import { MappedFile } from "./mapped-file.ts";
import { OpenFile } from "./open-file.ts";
import { promised } from "./promised.ts";

const SECTOR = 512;
/** Bytes of zeroes written at once where the file system cannot make them by itself. */
const ZERO_PIECE = 1 << 20;
const PUNCH = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
const ZERO = FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE;

export interface FileBlockOptions {
  /** Default false. */
  readonly readOnly?: boolean;
  /**
   * As QEMU's `cache`. `writeback` (the default): durable after a flush. `writethrough`: after each write. `unsafe`: flushes do
   * nothing. `none` and `directsync` are the first two past the host's page cache (O_DIRECT).
   */
  readonly cache?: FileCache;
  /**
   * What does the I/O that would wait for the disk. Absent: nothing does, reads and writes block their caller; past the page cache
   * it is Node's threads then. It stays the caller's to close.
   */
  readonly engine?: FileEngine;
  /**
   * With an engine: whether a write may hold up its caller once in a while, which makes it many times faster. The default, true, is
   * for threads that serve nothing but disks.
   */
  readonly mayWait?: boolean;
  /**
   * With an engine: reads copy out of a mapping of the file where its pages are in memory. Should the disk fail or somebody cut the file
   * shorter at that moment, this process ends (SIGBUS). Default false.
   */
  readonly mapped?: boolean;
  /** False: discards are not offered. Default true, where the file system can punch holes. */
  readonly discard?: boolean;
  /** "raw": the file is a raw disk whatever its first bytes look like. Default: images in other formats are refused. */
  readonly format?: "raw";
  /** False: do not look whether another machine uses the file, as QEMU's `locking=off`. Default true. */
  readonly locking?: boolean;
}

export type FileCache = "writeback" | "writethrough" | "unsafe" | "none" | "directsync";

const CACHES: readonly FileCache[] = ["writeback", "writethrough", "unsafe", "none", "directsync"];

function checkOptions(path: string, options: FileBlockOptions): void {
  textOption("file disk: path", path, 1);
  flagOptions("file disk", options, ["readOnly", "mayWait", "mapped", "discard", "locking"]);
  const { cache, format, engine } = options;
  if (cache !== undefined) choiceOption("file disk: cache", cache, CACHES);
  if (format !== undefined) choiceOption("file disk: format", format, ["raw"]);
  if (engine !== undefined) partOption("file disk: engine", engine, "a FileEngine", "sync");
}

/**
 * A raw disk image, or a block device of the host. Data goes straight between the file and the buffer: at once, or by an engine
 * when the disk would have to be waited for. A flush is a promise. A size that is no multiple of 512 is rounded up: what is behind the
 * end of the file reads as zeroes. Past the page cache, requests that are no whole sectors of the host's disk are widened.
 */
export class FileBlockBackend implements BlockBackend {
  readonly path: string;
  readonly readOnly: boolean;
  readonly asynchronous: boolean;
  readonly physicalBlockSize: number = SECTOR;
  readonly discard?: (offset: number, length: number) => MaybePromise<void>;
  onResize: (() => void) | undefined;
  #size: number;
  readonly #file: OpenFile;
  readonly #lock: FileLock | undefined;
  readonly #unsafe: boolean;
  readonly #isDevice: boolean;
  readonly #io: FileIo;
  readonly #engine: FileEngine | undefined;
  readonly #mapped: MappedFile | undefined;
  readonly #direct: DirectFileIo | undefined;
  #zeroMode: number;

  /**
   * Throws an Error whose message names the file and says what is wrong with it; on an option that cannot be it is a RangeError or
   * TypeError that names the option, and nothing was opened.
   */
  constructor(path: string, options: FileBlockOptions = {}) {
    checkOptions(path, options);
    const { readOnly = false, cache = "writeback", locking = true } = options;
    const direct = cache === "none" || cache === "directsync";
    const durable = cache === "writethrough" || cache === "directsync";
    this.path = path;
    this.readOnly = readOnly;
    this.#unsafe = cache === "unsafe";
    this.#engine = options.engine ?? (direct ? threadEngine : undefined);
    this.asynchronous = this.#engine !== undefined;
    const flags = (durable ? constants.O_DSYNC : 0) | (direct ? constants.O_DIRECT : 0);
    const fd = openImage(path, readOnly, flags);
    this.#file = new OpenFile(fd, () => {
      this.#mapped?.close();
      this.#direct?.close();
      this.#lock?.release();
      closeSync(fd);
    });
    try {
      const stat = fstatSync(fd, { bigint: true });
      this.#isDevice = stat.isBlockDevice();
      this.#size = this.#measure(stat);
      if (options.format !== "raw") refuseForeignFormat(path);
      if (locking) {
        this.#lock = lockImage(fd, `${stat.dev}:${stat.ino}`, readOnly);
        if (this.#lock === undefined) {
          throw new Error(`disk '${path}': in use by another machine${readOnly ? " that writes to it" : ""}`);
        }
      }
      const mapped = !direct && options.mapped === true && this.#engine !== undefined;
      if (mapped && MappedFile.possible(fd, readOnly)) this.#mapped = new MappedFile(fd);
      if (direct) {
        const alignment = alignmentOf(fd, path);
        this.physicalBlockSize = alignment.offset;
        this.#direct = this.#directIo(alignment, durable);
      }
      this.#io = this.#direct ?? this.#cachedIo(options.mayWait ?? true);
    } catch (error) {
      this.#file.close();
      throw error;
    }
    // Behind the end of a file a hole changes nothing, so this only asks whether holes can be made.
    const holes = !readOnly && (this.#isDevice || this.#fallocate(PUNCH, this.#size, SECTOR));
    this.#zeroMode = holes ? ZERO : 0;
    if (holes && options.discard !== false) {
      this.discard = (offset, length) => {
        this.#check(offset, length, true);
        // A failure is none: the contents are unspecified afterwards, also when they are the old ones.
        if (this.#engine !== undefined)
          return this.#allocate(this.#engine, PUNCH, offset, length).then(() => undefined);
        this.#fallocate(PUNCH, offset, length);
        return undefined;
      };
    }
  }

  get size(): number {
    return this.#size;
  }

  read(offset: number, target: Uint8Array): MaybePromise<void> {
    return this.readv(offset, [target]);
  }

  write(offset: number, source: Uint8Array): MaybePromise<void> {
    return this.writev(offset, [source]);
  }

  readv(offset: number, targets: readonly Uint8Array[]): MaybePromise<void> {
    return promised(this.#engine, (completion) => this.startRead(offset, targets, completion));
  }

  writev(offset: number, sources: readonly Uint8Array[]): MaybePromise<void> {
    return promised(this.#engine, (completion) => this.startWrite(offset, sources, completion));
  }

  startRead(offset: number, targets: readonly Uint8Array[], completion: BlockCompletion): boolean {
    this.#check(offset, totalLength(targets), false);
    return this.#io.readv(offset, targets, completion);
  }

  startWrite(offset: number, sources: readonly Uint8Array[], completion: BlockCompletion): boolean {
    this.#check(offset, totalLength(sources), true);
    return this.#io.writev(offset, sources, completion);
  }

  flush(): MaybePromise<void> {
    if (this.#unsafe || this.readOnly) return;
    return this.#sync(this.#engine ?? threadEngine);
  }

  writeZeroes(offset: number, length: number, unmap: boolean): MaybePromise<void> {
    this.#check(offset, length, true);
    if (this.#engine !== undefined) return this.#zeroByEngine(this.#engine, offset, length, unmap);
    if (this.#zeroMode !== 0 && length > 0) {
      if (unmap && this.discard !== undefined && this.#fallocate(PUNCH, offset, length)) return;
      if (this.#fallocate(ZERO, offset, length)) return;
      this.#zeroMode = 0;
    }
    for (const { at, zeroes } of zeroPieces(offset, length)) void this.write(at, zeroes);
  }

  /** Looks at the size of the file again, after it was made longer or shorter; tells the device when it changed. */
  refresh(): void {
    const size = this.#measure(fstatSync(this.#file.fd, { bigint: true }));
    if (size === this.#size) return;
    this.#size = size;
    this.onResize?.();
  }

  /** The file closes when nothing is under way any more. */
  close(): void {
    this.#file.close();
  }

  #measure(stat: BigIntStats): number {
    if (stat.isFile()) return Math.ceil(Number(stat.size) / SECTOR) * SECTOR;
    if (!stat.isBlockDevice()) {
      throw new Error(`disk '${this.path}': not a regular file or block device`);
    }
    const libc = tryLibc();
    const size = libc === undefined ? -1 : Number(libc.lseek(this.#file.fd, 0, SEEK_END));
    if (size < 0) throw new Error(`disk '${this.path}': the size of this block device cannot be found`);
    return size;
  }

  #check(offset: number, length: number, change: boolean): void {
    if (this.#file.closed) throw new Error(`disk '${this.path}' is closed`);
    if (change && this.readOnly) throw new Error(`disk '${this.path}' is read-only`);
    if (!(offset >= 0 && offset + length <= this.#size)) {
      throw new RangeError(`disk '${this.path}': ${length} bytes at ${offset} are outside of ${this.#size}`);
    }
  }

  #directIo(alignment: DirectAlignment, durable: boolean): DirectFileIo {
    const flags = constants.O_RDWR | (durable ? constants.O_DSYNC : 0);
    const target: DirectFile = {
      file: this.#file,
      size: () => this.#size,
      // By the descriptor, for there may be another file at the path by now.
      openCached: () => new OpenFile(openSync(`/proc/self/fd/${this.#file.fd}`, flags), closeSync),
    };
    return new DirectFileIo(target, this.#engine ?? threadEngine, alignment);
  }

  #cachedIo(mayWait: boolean): FileIo {
    if (this.#engine === undefined) return new SyncFileIo(this.#file.fd);
    return new CachedFileIo(this.#file, this.#engine, mayWait, this.#mapped);
  }

  async #sync(engine: FileEngine): Promise<void> {
    const fd = this.#file.hold();
    try {
      await engine.sync(fd);
    } finally {
      this.#file.release();
    }
  }

  async #allocate(engine: FileEngine, mode: number, offset: number, length: number): Promise<boolean> {
    const fd = this.#file.hold();
    try {
      return await engine.allocate(fd, mode, offset, length);
    } finally {
      this.#file.release();
    }
  }

  async #zeroByEngine(engine: FileEngine, offset: number, length: number, unmap: boolean): Promise<void> {
    // A block device makes zeroes of whole sectors only.
    const sector = this.physicalBlockSize;
    const whole = offset % sector === 0 && (offset + length) % sector === 0;
    if (this.#zeroMode !== 0 && length > 0 && whole) {
      let done = false;
      const allocate = async (): Promise<void> => {
        const punches = unmap && this.discard !== undefined;
        done = punches && (await this.#allocate(engine, PUNCH, offset, length));
        done ||= await this.#allocate(engine, ZERO, offset, length);
      };
      await (this.#io.exclusively?.(offset, length, allocate) ?? allocate());
      if (done) return;
      this.#zeroMode = 0;
    }
    for (const { at, zeroes } of zeroPieces(offset, length)) await this.write(at, zeroes);
  }

  #fallocate(mode: number, offset: number, length: number): boolean {
    const libc = tryLibc();
    return libc !== undefined && length > 0 && libc.fallocate(this.#file.fd, mode, offset, length) === 0;
  }
}

function alignmentOf(fd: number, path: string): DirectAlignment {
  const alignment = directAlignment(fd);
  if (alignment !== undefined) return alignment;
  throw new Error(`disk '${path}': cache=none and directsync are not possible: its file system cannot`);
}

function* zeroPieces(offset: number, length: number): Generator<{ at: number; zeroes: Uint8Array }> {
  const zeroes = new Uint8Array(Math.min(length, ZERO_PIECE));
  for (let done = 0; done < length; done += zeroes.length)
    yield { at: offset + done, zeroes: zeroes.subarray(0, length - done) };
}

function openImage(path: string, readOnly: boolean, more: number): number {
  // O_NONBLOCK: opening a FIFO by mistake must not wait; it means nothing to files and block devices.
  const flags = (readOnly ? constants.O_RDONLY : constants.O_RDWR) | constants.O_NONBLOCK | more;
  try {
    return openSync(path, flags);
  } catch (error) {
    const code = error instanceof Error && "code" in error ? error.code : undefined;
    throw new Error(`disk '${path}': ${OPEN_ERRORS[String(code)] ?? String(error)}`, { cause: error });
  }
}

const OPEN_ERRORS: Readonly<Record<string, string>> = {
  ENOENT: "no such file",
  EACCES: "permission denied",
  EPERM: "permission denied",
  EROFS: "on a read-only file system; open it read-only",
  EISDIR: "a directory, not a disk image",
  ETXTBSY: "in use as a program",
  EINVAL: "cache=none and directsync are not possible: its file system cannot",
  ENXIO: "not a regular file or block device",
};

/** By a descriptor of its own: the disk's may ask for aligned reads. */
function refuseForeignFormat(path: string): void {
  const start = new Uint8Array(PROBE_LENGTH);
  const fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  try {
    readSync(fd, start, 0, PROBE_LENGTH, 0);
  } finally {
    closeSync(fd);
  }
  const format = foreignFormat(start);
  if (format === undefined) return;
  throw new Error(
    `disk '${path}' is a ${format} image; only raw images work: ` +
      `convert it (qemu-img convert -O raw ...), or say that its format is raw if it is a raw disk`,
  );
}
