import { Errno } from "virtio/backends/errno";
import type { FileAttributes } from "virtio/backends/file-system";
import type { Libc } from "../native/libc.ts";
import { AT_EMPTY_PATH, AT_SYMLINK_NOFOLLOW } from "../native/linux.ts";
import { NO_NAME } from "./names.ts";

/** sizeof(struct statx). */
const SIZE = 256;
/** STATX_BASIC_STATS and STATX_BTIME. */
const MASK = 0xfff;
const HIGH = 2 ** 32;

/**
 * Ids are made of device and inode: 48 bits of inode below 5 bits that number the device. What does not fit there gets the
 * last of those numbers and a hash.
 */
const DEVICES = 31;
const INODES = 2 ** 48;

/**
 * The last result of statx(2), in one buffer that is used again and again. The layout is the same on all architectures (statx(2));
 * indices are those of 32-bit little-endian words.
 */
export class Statx {
  readonly #libc: Libc;
  readonly #bytes: Uint8Array = new Uint8Array(SIZE);
  readonly #words: Uint32Array = new Uint32Array(this.#bytes.buffer);
  readonly #devices = new Map<number, number>();

  constructor(libc: Libc) {
    this.#libc = libc;
  }

  /** What `fd` is; it may be opened with O_PATH. */
  load(fd: number): this {
    return this.#load(fd, NO_NAME, AT_EMPTY_PATH);
  }

  /** What `name` in the directory is, not following it. */
  loadAt(directory: number, name: Uint8Array): this {
    return this.#load(directory, name, 0);
  }

  get mode(): number {
    return this.#word(7) & 0xffff;
  }
  get uid(): number {
    return this.#word(5);
  }
  get gid(): number {
    return this.#word(6);
  }
  get size(): number {
    return this.#wide(10);
  }
  get birthSeconds(): number {
    return this.#wide(20);
  }
  get birthNanoseconds(): number {
    return this.#word(22);
  }

  /** Major and minor of the file system it is on, in one number. */
  get device(): number {
    return this.#word(34) * 2 ** 20 + this.#word(35);
  }

  /** `FileNode.id`: unique among all that exists below one root. */
  get id(): number {
    return this.idOn(this.device, this.#word(8), this.#word(9));
  }

  /** The id that goes with an inode number, given in two halves. */
  idOn(device: number, low: number, high: number): number {
    let index = this.#devices.get(device);
    if (index === undefined) {
      index = this.#devices.size;
      if (index < DEVICES) this.#devices.set(device, index);
    }
    const inode = high * HIGH + low;
    if (index < DEVICES && inode < INODES) return index * INODES + inode;
    return DEVICES * INODES + hash48(device >>> 0, low, high);
  }

  /** `FileNode.version`. */
  get version(): number {
    let version = Math.imul(this.#word(28), 0x9e3779b1) ^ this.#word(30);
    version = Math.imul(version ^ (version >>> 15), 0x85ebca77) ^ this.#word(10);
    return version >>> 0;
  }

  attributes(): FileAttributes {
    return {
      mode: this.mode,
      uid: this.uid,
      gid: this.gid,
      nlink: this.#word(4),
      rdev: encodeDevice(this.#word(32), this.#word(33)),
      size: this.size,
      blockSize: this.#word(1),
      blocks: this.#wide(12),
      atime: this.#wide(16),
      atimeNanoseconds: this.#word(18),
      mtime: this.#wide(28),
      mtimeNanoseconds: this.#word(30),
      ctime: this.#wide(24),
      ctimeNanoseconds: this.#word(26),
    };
  }

  #load(fd: number, name: Uint8Array, flags: number): this {
    if (this.#libc.statx(fd, name, flags | AT_SYMLINK_NOFOLLOW, MASK, this.#bytes) < 0) {
      throw Errno.of(this.#libc.errno());
    }
    return this;
  }

  #word(index: number): number {
    return this.#words[index] ?? 0;
  }

  /** 64 bits, signed. */
  #wide(index: number): number {
    return this.#word(index) + (this.#word(index + 1) | 0) * HIGH;
  }
}

/** `new_encode_dev` of Linux. */
function encodeDevice(major: number, minor: number): number {
  return ((minor & 0xff) | ((major & 0xfff) << 8) | ((minor & 0xfff00) << 12)) >>> 0;
}

function hash48(...words: number[]): number {
  let low = 0x811c9dc5;
  let high = 0x7feb352d;
  for (const word of words) {
    low = Math.imul(low ^ word, 0x85ebca6b);
    low ^= low >>> 13;
    high = Math.imul(high ^ word, 0xc2b2ae35);
    high ^= high >>> 16;
  }
  return (high & 0xffff) * HIGH + (low >>> 0);
}
