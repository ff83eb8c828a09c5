import { createRequire } from "node:module";
import type * as Koffi from "koffi";
import { systemCalls, type SystemCalls } from "./linux.ts";
import { UnsupportedPlatform, whyNotNative } from "./platform.ts";

/**
 * Functions of the C library under their C names. Paths are bytes that end in NUL. A result of -1 is a failure; `errno()`
 * must be the very next call.
 */
export interface Libc {
  errno(): number;
  readonly numbers: SystemCalls;
  openat(directory: number, path: Uint8Array, flags: number, mode: number): number;
  /** `how`: struct open_how. */
  openat2(directory: number, path: Uint8Array, how: BigUint64Array): number;
  close(fd: number): number;
  lseek(fd: number, offset: number | bigint, whence: number): number | bigint;
  pread(fd: number, target: Uint8Array, length: number, offset: number): number;
  pwrite(fd: number, source: Uint8Array, length: number, offset: number): number;
  ftruncate(fd: number, length: number): number;
  fsync(fd: number): number;
  fdatasync(fd: number): number;
  fallocate(fd: number, mode: number, offset: number, length: number): number;
  /** In a thread of koffi's pool, whose errno cannot be had. */
  fallocateAsync(
    fd: number,
    mode: number,
    offset: number,
    length: number,
    done: (error: unknown, result: number) => void,
  ): void;
  /** For commands with a pointer. */
  fcntl(fd: number, command: number, argument: Uint8Array): number;
  mkdirat(directory: number, path: Uint8Array, mode: number): number;
  mknodat(directory: number, path: Uint8Array, mode: number, device: number): number;
  symlinkat(target: Uint8Array, directory: number, path: Uint8Array): number;
  readlinkat(directory: number, path: Uint8Array, target: Uint8Array, length: number): number;
  linkat(fromDirectory: number, from: Uint8Array, toDirectory: number, to: Uint8Array, flags: number): number;
  unlinkat(directory: number, path: Uint8Array, flags: number): number;
  renameat(fromDirectory: number, from: Uint8Array, toDirectory: number, to: Uint8Array): number;
  fchmod(fd: number, mode: number): number;
  chmod(path: Uint8Array, mode: number): number;
  fchownat(directory: number, path: Uint8Array, uid: number, gid: number, flags: number): number;
  utimensat(directory: number, path: Uint8Array, times: BigInt64Array, flags: number): number;
  fstatfs(fd: number, target: Uint8Array): number;
  getxattr(path: Uint8Array, name: Uint8Array, target: Uint8Array, length: number): number;
  listxattr(path: Uint8Array, target: Uint8Array, length: number): number;
  setxattr(path: Uint8Array, name: Uint8Array, source: Uint8Array, length: number, flags: number): number;
  removexattr(path: Uint8Array, name: Uint8Array): number;
  statx(directory: number, path: Uint8Array, flags: number, mask: number, target: Uint8Array): number;
  getdents64(fd: number, target: Uint8Array, length: number): number;
  /** Where these bytes lie. They stay there only if their buffer is no part of the garbage-collected heap (64 bytes and less). */
  address(bytes: Uint8Array): Address;
  memcpy(to: Address, from: Address, length: number): void;
  /** Bytes that are not V8's. Never to be used after they are unmapped: that ends the process. */
  view(at: Address, length: number): ArrayBuffer;
  /** Where it was put, or -1. */
  mmap(at: Address, length: number, protection: number, flags: number, fd: number, offset: number): number;
  munmap(at: Address, length: number): number;
  /** Bit 0 of each byte at `vector`: the page is in memory. */
  mincore(at: Address, length: number, vector: Address): number;
  preadv2(fd: number, vectors: Address, count: number, offset: number, flags: number): number;
  pwritev2(fd: number, vectors: Address, count: number, offset: number, flags: number): number;
  getrusage(who: number, usage: BigInt64Array): number;
  io_uring_setup(entries: number, parameters: Address): number;
  io_uring_enter(ring: number, submit: number, complete: number, flags: number): number;
}

/** An address in this process. Below 2**47 on every architecture here, so exact as a number. */
export type Address = number;

let bound: Libc | undefined;
let why = "";

/**
 * The C library, bound when first asked for (8 ms). Undefined: not Linux, an unknown architecture, or koffi has no build
 * for it; `missing()` says which.
 */
export function tryLibc(): Libc | undefined {
  if (bound !== undefined || why !== "") return bound;
  const numbers = systemCalls(process.arch);
  why = whyNotNative() ?? "";
  if (why !== "" || numbers === undefined) return undefined;
  try {
    bound = bind(numbers);
  } catch (error) {
    why = `koffi does not work here: ${error instanceof Error ? error.message : String(error)}`;
  }
  return bound;
}

/** As `tryLibc`; `purpose` starts the sentence of the error, such as `sharing a directory`. */
export function libc(purpose: string): Libc {
  const library = tryLibc();
  if (library === undefined) throw new UnsupportedPlatform(`${purpose} is not possible: ${why}`);
  return library;
}

function bind(numbers: SystemCalls): Libc {
  const koffi = createRequire(import.meta.url)("koffi") as typeof Koffi;
  // No file name: the functions of the C library that node itself runs on, glibc or musl.
  const library = koffi.load(null);
  const c = (definition: string): ((...values: unknown[]) => never) => library.func(definition) as never;
  const statx = c(
    "long syscall(long number, int directory, void *path, int flags, unsigned int mask, void *out)",
  );
  const openat2 = c("long syscall(long number, int directory, void *path, void *how, size_t size)");
  const setup = c("long syscall(long number, unsigned int entries, uintptr_t parameters)");
  const enter = c(
    "long syscall(long number, int ring, unsigned int submit, unsigned int complete, unsigned int flags, uintptr_t signals, size_t size)",
  );
  const mmap = c(
    "intptr_t mmap(uintptr_t at, size_t length, int protection, int flags, int fd, int64_t offset)",
  );
  const getdents = c("long syscall(long number, int fd, void *out, size_t length)");
  const fallocate = library.func("int fallocate(int fd, int mode, int64_t offset, int64_t length)");
  return {
    numbers,
    errno: () => koffi.errno(),
    openat: c("int openat(int directory, void *path, int flags, unsigned int mode)"),
    openat2: (directory, path, how) => openat2(numbers.openat2, directory, path, how, how.byteLength),
    close: c("int close(int fd)"),
    lseek: c("int64_t lseek(int fd, int64_t offset, int whence)"),
    pread: c("long pread(int fd, void *out, size_t length, int64_t offset)"),
    pwrite: c("long pwrite(int fd, void *in, size_t length, int64_t offset)"),
    ftruncate: c("int ftruncate(int fd, int64_t length)"),
    fsync: c("int fsync(int fd)"),
    fdatasync: c("int fdatasync(int fd)"),
    fallocate: fallocate as never,
    fallocateAsync: fallocate.async,
    fcntl: c("int fcntl(int fd, int command, void *argument)"),
    mkdirat: c("int mkdirat(int directory, void *path, unsigned int mode)"),
    mknodat: c("int mknodat(int directory, void *path, unsigned int mode, uint64_t device)"),
    symlinkat: c("int symlinkat(void *target, int directory, void *path)"),
    readlinkat: c("long readlinkat(int directory, void *path, void *out, size_t length)"),
    linkat: c("int linkat(int fromDirectory, void *from, int toDirectory, void *to, int flags)"),
    unlinkat: c("int unlinkat(int directory, void *path, int flags)"),
    renameat: c("int renameat(int fromDirectory, void *from, int toDirectory, void *to)"),
    fchmod: c("int fchmod(int fd, unsigned int mode)"),
    chmod: c("int chmod(void *path, unsigned int mode)"),
    fchownat: c("int fchownat(int directory, void *path, unsigned int uid, unsigned int gid, int flags)"),
    utimensat: c("int utimensat(int directory, void *path, void *times, int flags)"),
    fstatfs: c("int fstatfs(int fd, void *out)"),
    getxattr: c("long getxattr(void *path, void *name, void *out, size_t length)"),
    listxattr: c("long listxattr(void *path, void *out, size_t length)"),
    setxattr: c("int setxattr(void *path, void *name, void *in, size_t length, int flags)"),
    removexattr: c("int removexattr(void *path, void *name)"),
    statx: (directory, path, flags, mask, target) =>
      statx(numbers.statx, directory, path, flags, mask, target),
    getdents64: (fd, target, length) => getdents(numbers.getdents64, fd, target, length),
    address: (bytes) => Number(koffi.address(bytes)),
    memcpy: c("void memcpy(uintptr_t to, uintptr_t from, size_t length)"),
    mmap: (...values) => Number(mmap(...values)),
    munmap: c("int munmap(uintptr_t at, size_t length)"),
    view: (at, length) => koffi.view(BigInt(at), length),
    mincore: c("int mincore(uintptr_t at, size_t length, uintptr_t vector)"),
    preadv2: c("long preadv2(int fd, uintptr_t vectors, int count, int64_t offset, int flags)"),
    pwritev2: c("long pwritev2(int fd, uintptr_t vectors, int count, int64_t offset, int flags)"),
    getrusage: c("int getrusage(int who, void *out)"),
    io_uring_setup: (entries, parameters) => setup(numbers.ioUringSetup, entries, parameters),
    io_uring_enter: (ring, submit, complete, flags) =>
      enter(numbers.ioUringEnter, ring, submit, complete, flags, 0, 0),
  };
}
