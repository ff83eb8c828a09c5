import { constants } from "node:fs";

/**
 * Numbers of Linux' user interface that Node does not name. Those that differ between the 64-bit architectures come from
 * `node:fs`; the rest is asm-generic and the same on x64, arm64, riscv64 and loong64.
 */
export const AT_FDCWD = -100;
export const AT_SYMLINK_NOFOLLOW = 0x100;
export const AT_REMOVEDIR = 0x200;
export const AT_SYMLINK_FOLLOW = 0x400;
export const AT_EMPTY_PATH = 0x1000;

export const O_PATH = 0o10000000;
export const O_CLOEXEC = 0o2000000;
export const O_NOFOLLOW: number = constants.O_NOFOLLOW;
export const O_DIRECTORY: number = constants.O_DIRECTORY;
export const O_NONBLOCK: number = constants.O_NONBLOCK;
export const O_CREAT: number = constants.O_CREAT;
export const O_EXCL: number = constants.O_EXCL;
export const O_TRUNC: number = constants.O_TRUNC;
export const O_APPEND: number = constants.O_APPEND;
export const O_SYNC: number = constants.O_SYNC;
export const O_DSYNC: number = constants.O_DSYNC;
export const O_NOATIME: number = constants.O_NOATIME;

/** Of openat2(2): the path may not leave the directory, nor lead through symlinks. */
export const RESOLVE_NO_MAGICLINKS = 2;
export const RESOLVE_NO_SYMLINKS = 4;
export const RESOLVE_BENEATH = 8;

export const SEEK_SET = 0;
export const SEEK_END = 2;

export const FALLOC_FL_KEEP_SIZE = 1;
export const FALLOC_FL_PUNCH_HOLE = 2;
export const FALLOC_FL_ZERO_RANGE = 16;

export const F_OFD_GETLK = 36;
export const F_OFD_SETLK = 37;
export const F_RDLCK = 0;
export const F_WRLCK = 1;
export const F_UNLCK = 2;

export const PROT_READ = 1;
export const PROT_WRITE = 2;
export const MAP_SHARED = 1;
export const MAP_PRIVATE = 2;
export const MAP_FIXED = 0x10;
export const MAP_ANONYMOUS = 0x20;
export const MAP_NORESERVE = 0x4000;
export const MAP_POPULATE = 0x8000;

/** Of preadv2(2): fail rather than wait for the disk. */
export const RWF_NOWAIT = 8;

/** `tv_nsec` values of utimensat(2). */
export const UTIME_NOW = 0x3fffffff;
export const UTIME_OMIT = 0x3ffffffe;

/** Numbers of the system calls that the C libraries have no function for. */
export interface SystemCalls {
  readonly statx: number;
  readonly getdents64: number;
  readonly openat2: number;
  readonly ioUringSetup: number;
  readonly ioUringEnter: number;
}

/** The same on every architecture, as all newer ones are. */
const NEWER = { ioUringSetup: 425, ioUringEnter: 426, openat2: 437 };

const GENERIC: SystemCalls = { statx: 291, getdents64: 61, ...NEWER };
const SYSTEM_CALLS: Readonly<Record<string, SystemCalls>> = {
  x64: { statx: 332, getdents64: 217, ...NEWER },
  arm64: GENERIC,
  riscv64: GENERIC,
  loong64: GENERIC,
};

/** Undefined: not an architecture whose layouts this package knows. */
export function systemCalls(arch: string): SystemCalls | undefined {
  return SYSTEM_CALLS[arch];
}
