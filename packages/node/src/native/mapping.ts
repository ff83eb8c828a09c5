import { flagOptions, wholeOption } from "virtio/check-option";
import { fstatSync } from "node:fs";
import { libc, type Address } from "./libc.ts";
import {
  MAP_ANONYMOUS,
  MAP_FIXED,
  MAP_NORESERVE,
  MAP_PRIVATE,
  MAP_SHARED,
  PROT_READ,
  PROT_WRITE,
} from "./linux.ts";
import { NativeError } from "./native-error.ts";

/** Page size is at most this on the architectures here; huge pages say their own. */
const PAGE = 0x1_0000;
const HUGE = 1 << 30;
/** Below this the allocator may give parts of its heap, which must not be mapped over. */
const SMALLEST = 64 << 20;

export interface MappingAccess {
  /** A write to the mapping ends the process. Default false. */
  readonly readOnly?: boolean;
}

/**
 * A file in memory. Its bytes belong to a SharedArrayBuffer that the file is mapped over, so workers can share them and
 * views outlive the mapping: after `unmap` they show private zeroes, and nothing crashes.
 */
export class Mapping {
  readonly buffer: SharedArrayBuffer;
  /** Where the mapping starts in `buffer`. */
  readonly offset: number;
  readonly length: number;
  /** Where it starts in this process: for system calls that take addresses. */
  readonly address: Address;
  /** Bytes from `address` on that were mapped: whole pages. */
  readonly #mapped: number;
  readonly #start: Address;
  #live = true;

  private constructor(
    buffer: SharedArrayBuffer,
    base: Address,
    start: Address,
    lead: number,
    length: number,
    mapped: number,
  ) {
    this.buffer = buffer;
    this.offset = start - base + lead;
    this.length = length;
    this.address = start + lead;
    this.#start = start;
    this.#mapped = mapped;
  }

  /**
   * Maps `length` bytes of the file from `fileOffset` on, shared. The file must be as long: a page beyond its end ends
   * the process when it is touched.
   */
  static map(fd: number, fileOffset: number, length: number, access: MappingAccess = {}): Mapping {
    wholeOption("mapping: fd", fd, 0, 2 ** 31 - 1);
    wholeOption("mapping: fileOffset", fileOffset, 0, Number.MAX_SAFE_INTEGER);
    wholeOption("mapping: length", length, 0, Number.MAX_SAFE_INTEGER - fileOffset);
    flagOptions("mapping", access, ["readOnly"]);
    const native = libc("mapping a file");
    const page = pageSize(fd);
    // Without it the system sets huge pages aside now, or refuses now: one that is missing later ends the process.
    const lazy = hasHugePages(fd) ? 0 : MAP_NORESERVE;
    const lead = fileOffset % page;
    const mapped = Math.ceil((lead + length) / page) * page;
    const buffer = new SharedArrayBuffer(Math.max(mapped + page, SMALLEST));
    const base = native.address(new Uint8Array(buffer, 0, 1));
    const start = Math.ceil(base / page) * page;
    const result = native.mmap(
      start,
      lead + length,
      access.readOnly === true ? PROT_READ : PROT_READ | PROT_WRITE,
      MAP_SHARED | MAP_FIXED | lazy,
      fd,
      fileOffset - lead,
    );
    if (result !== start) throw new NativeError("mmap", native.errno());
    return new Mapping(buffer, base, start, lead, length, mapped);
  }

  get live(): boolean {
    return this.#live;
  }

  /** A view; offsets beyond 4 GiB are fine, `length` is below that. */
  view(offset: number, length: number): Uint8Array<SharedArrayBuffer> {
    if (!this.#live) throw new Error("mapping is gone");
    if (offset < 0 || length < 0 || offset + length > this.length)
      throw new RangeError("outside the mapping");
    return new Uint8Array(this.buffer, this.offset + offset, length);
  }

  /** Lets the file go. Views that somebody still has show zeroes of this process from now on. */
  unmap(): void {
    if (!this.#live) return;
    this.#live = false;
    const flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE;
    const native = libc("mapping a file");
    const result = native.mmap(this.#start, this.#mapped, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (result !== this.#start) throw new NativeError("mmap", native.errno());
  }
}

/** Words of struct statfs. */
const STATFS_WORDS = 15;
const HUGETLBFS_MAGIC = 0x958458f6n;

/** The file is one of hugetlbfs: its pages come from a pool, and may be none. */
export function hasHugePages(fd: number): boolean {
  const native = libc("mapping a file");
  const file = new BigInt64Array(STATFS_WORDS);
  if (native.fstatfs(fd, new Uint8Array(file.buffer)) < 0) throw new NativeError("fstatfs", native.errno());
  return file[0] === HUGETLBFS_MAGIC;
}

/** Mappings of huge pages must start at one and end at one; their file system gives the size as its block size. */
function pageSize(fd: number): number {
  const { blksize } = fstatSync(fd);
  const huge = blksize > PAGE && blksize <= HUGE && (blksize & (blksize - 1)) === 0;
  return huge ? blksize : PAGE;
}
