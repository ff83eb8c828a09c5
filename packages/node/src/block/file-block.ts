import {
  constants,
  closeSync,
  fdatasync,
  fstatSync,
  openSync,
  readSync,
  readvSync,
  writeSync,
  writevSync,
} from "node:fs";
import type { BigIntStats } from "node:fs";
import type { BlockBackend } from "virtio/backends/block";
import { tryLibc } from "../native/libc.ts";
import {
  FALLOC_FL_KEEP_SIZE,
  FALLOC_FL_PUNCH_HOLE,
  FALLOC_FL_ZERO_RANGE,
  SEEK_END,
} from "../native/linux.ts";
import { type FileLock, lockImage } from "./file-lock.ts";
import { foreignFormat, PROBE_LENGTH } from "./image-probe.ts";

const SECTOR = 512;
/** Bytes of zeroes written at once where the file system cannot make them by itself. */
const ZERO_PIECE = 1 << 20;
/** Buffers in one call (IOV_MAX). */
const MAX_VECTORS = 1024;
const PUNCH = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
const ZERO = FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE;

export interface FileBlockOptions {
  /** Default false. */
  readonly readOnly?: boolean;
  /**
   * As QEMU's `cache`. `writeback` (the default): durable after a flush. `writethrough`: after each write. `unsafe`: flushes do
   * nothing.
   */
  readonly cache?: "writeback" | "writethrough" | "unsafe";
  /** False: discards are not offered. Default true, where the file system can punch holes. */
  readonly discard?: boolean;
  /** "raw": the file is a raw disk whatever its first bytes look like. Default: images in other formats are refused. */
  readonly format?: "raw";
  /** False: do not look whether another machine uses the file, as QEMU's `locking=off`. Default true. */
  readonly locking?: boolean;
}

/**
 * A raw disk image, or a block device of the host. Reads and writes are synchronous and go straight between the file and the
 * buffer; a flush runs in a thread and is a promise. A size that is no multiple of 512 is rounded up: what is behind the
 * end of the file reads as zeroes.
 */
export class FileBlockBackend implements BlockBackend {
  readonly path: string;
  readonly readOnly: boolean;
  readonly asynchronous = false;
  readonly discard?: (offset: number, length: number) => void;
  onResize: (() => void) | undefined;
  #size: number;
  #fd: number;
  readonly #lock: FileLock | undefined;
  readonly #unsafe: boolean;
  readonly #isDevice: boolean;
  #zeroMode: number;
  #flushes = 0;
  #closing = false;

  /** Throws an Error whose message names the file and says what is wrong with it. */
  constructor(path: string, options: FileBlockOptions = {}) {
    const { readOnly = false, cache = "writeback", locking = true } = options;
    this.path = path;
    this.readOnly = readOnly;
    this.#unsafe = cache === "unsafe";
    this.#fd = openImage(path, readOnly, cache === "writethrough");
    try {
      const stat = fstatSync(this.#fd, { bigint: true });
      this.#isDevice = stat.isBlockDevice();
      this.#size = this.#measure(stat);
      if (options.format !== "raw") refuseForeignFormat(this.#fd, path);
      if (locking) {
        this.#lock = lockImage(this.#fd, `${stat.dev}:${stat.ino}`, readOnly);
        if (this.#lock === undefined) {
          throw new Error(`disk '${path}': in use by another machine${readOnly ? " that writes to it" : ""}`);
        }
      }
    } catch (error) {
      closeSync(this.#fd);
      throw error;
    }
    // Behind the end of a file a hole changes nothing, so this only asks whether holes can be made.
    const holes = !readOnly && (this.#isDevice || this.#fallocate(PUNCH, this.#size, SECTOR));
    this.#zeroMode = holes ? ZERO : 0;
    if (holes && options.discard !== false) {
      this.discard = (offset, length) => {
        this.#check(offset, length, true);
        // A failure is none: the contents are unspecified afterwards, also when they are the old ones.
        this.#fallocate(PUNCH, offset, length);
      };
    }
  }

  get size(): number {
    return this.#size;
  }

  read(offset: number, target: Uint8Array): void {
    this.#check(offset, target.length, false);
    let done = 0;
    while (done < target.length) {
      const got = readSync(this.#fd, target, done, target.length - done, offset + done);
      if (got === 0) {
        target.fill(0, done);
        return;
      }
      done += got;
    }
  }

  write(offset: number, source: Uint8Array): void {
    this.#check(offset, source.length, true);
    for (let done = 0; done < source.length;) {
      done += writeSync(this.#fd, source, done, source.length - done, offset + done);
    }
  }

  readv(offset: number, targets: readonly Uint8Array[]): void {
    this.#check(offset, totalLength(targets), false);
    let at = offset;
    for (let i = 0; i < targets.length; i += MAX_VECTORS) {
      const batch = targets.slice(i, i + MAX_VECTORS);
      let got = readvSync(this.#fd, batch, at);
      for (const target of batch) {
        // Short at the end of the file, or because the system does not do as much in one call.
        if (got < target.length) this.read(at + got, target.subarray(got));
        got = Math.max(0, got - target.length);
        at += target.length;
      }
    }
  }

  writev(offset: number, sources: readonly Uint8Array[]): void {
    this.#check(offset, totalLength(sources), true);
    let at = offset;
    for (let i = 0; i < sources.length; i += MAX_VECTORS) {
      const batch = sources.slice(i, i + MAX_VECTORS);
      let put = writevSync(this.#fd, batch, at);
      for (const source of batch) {
        if (put < source.length) this.write(at + put, source.subarray(put));
        put = Math.max(0, put - source.length);
        at += source.length;
      }
    }
  }

  flush(): void | Promise<void> {
    if (this.#unsafe || this.readOnly) return;
    return new Promise((resolve, reject) => {
      this.#flushes++;
      fdatasync(this.#fd, (error) => {
        this.#flushes--;
        if (this.#closing) this.close();
        if (error === null) resolve();
        else reject(error);
      });
    });
  }

  writeZeroes(offset: number, length: number, unmap: boolean): void {
    this.#check(offset, length, true);
    if (this.#zeroMode !== 0 && length > 0) {
      if (unmap && this.discard !== undefined && this.#fallocate(PUNCH, offset, length)) return;
      if (this.#fallocate(ZERO, offset, length)) return;
      this.#zeroMode = 0;
    }
    const zeroes = new Uint8Array(Math.min(length, ZERO_PIECE));
    for (let done = 0; done < length; done += zeroes.length) {
      this.write(offset + done, done + zeroes.length <= length ? zeroes : zeroes.subarray(0, length - done));
    }
  }

  /** Looks at the size of the file again, after it was made longer or shorter; tells the device when it changed. */
  refresh(): void {
    const size = this.#measure(fstatSync(this.#fd, { bigint: true }));
    if (size === this.#size) return;
    this.#size = size;
    this.onResize?.();
  }

  /** The file closes when flushes that are under way are done. */
  close(): void {
    this.#closing = true;
    if (this.#fd < 0 || this.#flushes > 0) return;
    this.#lock?.release();
    closeSync(this.#fd);
    this.#fd = -1;
  }

  #measure(stat: BigIntStats): number {
    if (stat.isFile()) return Math.ceil(Number(stat.size) / SECTOR) * SECTOR;
    if (!stat.isBlockDevice()) {
      throw new Error(`disk '${this.path}': not a regular file or block device`);
    }
    const libc = tryLibc();
    const size = libc === undefined ? -1 : Number(libc.lseek(this.#fd, 0, SEEK_END));
    if (size < 0) throw new Error(`disk '${this.path}': the size of this block device cannot be found`);
    return size;
  }

  #check(offset: number, length: number, change: boolean): void {
    if (change && this.readOnly) throw new Error(`disk '${this.path}' is read-only`);
    if (!(offset >= 0 && offset + length <= this.#size)) {
      throw new RangeError(`disk '${this.path}': ${length} bytes at ${offset} are outside of ${this.#size}`);
    }
  }

  #fallocate(mode: number, offset: number, length: number): boolean {
    const libc = tryLibc();
    return libc !== undefined && length > 0 && libc.fallocate(this.#fd, mode, offset, length) === 0;
  }
}

function totalLength(buffers: readonly Uint8Array[]): number {
  let total = 0;
  for (const { length } of buffers) total += length;
  return total;
}

function openImage(path: string, readOnly: boolean, durable: boolean): number {
  // O_NONBLOCK: opening a FIFO by mistake must not wait; it means nothing to files and block devices.
  const flags =
    (readOnly ? constants.O_RDONLY : constants.O_RDWR) |
    constants.O_NONBLOCK |
    (durable ? constants.O_DSYNC : 0);
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
  ENXIO: "not a regular file or block device",
};

function refuseForeignFormat(fd: number, path: string): void {
  const start = new Uint8Array(PROBE_LENGTH);
  readSync(fd, start, 0, PROBE_LENGTH, 0);
  const format = foreignFormat(start);
  if (format === undefined) return;
  throw new Error(
    `disk '${path}' is a ${format} image; only raw images work: ` +
      `convert it (qemu-img convert -O raw ...), or say that its format is raw if it is a raw disk`,
  );
}
