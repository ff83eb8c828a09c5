import type { MaybePromise } from "../device/device.ts";

/** File type bits of `mode`, as Linux numbers them. */
export const S_IFMT = 0o170000;
export const S_IFSOCK = 0o140000;
export const S_IFLNK = 0o120000;
export const S_IFREG = 0o100000;
export const S_IFBLK = 0o060000;
export const S_IFDIR = 0o040000;
export const S_IFCHR = 0o020000;
export const S_IFIFO = 0o010000;

/** Open flags in the numbers of Linux' asm-generic/fcntl.h (x86 and 9P2000.L), whatever the host's are. */
export const O_ACCMODE = 0o3;
export const O_RDONLY = 0;
export const O_WRONLY = 1;
export const O_RDWR = 2;
export const O_CREAT = 0o100;
export const O_EXCL = 0o200;
export const O_TRUNC = 0o1000;
export const O_APPEND = 0o2000;
export const O_DSYNC = 0o10000;
export const O_DIRECTORY = 0o200000;
export const O_NOFOLLOW = 0o400000;
export const O_NOATIME = 0o1000000;
/** Includes O_DSYNC. */
export const O_SYNC = 0o4010000;

/** Flags of `setXattr`. */
export const XATTR_CREATE = 1;
export const XATTR_REPLACE = 2;

/** Bytes of the longest name of one directory entry. */
export const NAME_MAX = 255;

/**
 * One file, directory, symlink or special file: the thing itself and not a name of it. It stays the same thing
 * when it is renamed, and stays usable when it is unlinked, until it is released.
 */
export interface FileNode {
  /** Unique among all things that exist in this file system, stable while the thing exists: 0 to 2**53 - 1. */
  readonly id: number;
  /** The S_IFMT bits of its mode. Never changes. */
  readonly kind: number;
  /** 32 bits, unsigned: differs when the contents differ, as far as the last call that looked at it knows. */
  readonly version: number;
}

/** Where a node can be found: a directory, and its name there. */
export interface FilePlace<N extends FileNode = FileNode> {
  readonly directory: N;
  readonly name: string;
}

/** An open file or directory. */
export interface FileHandle {
  readonly node: FileNode;
}

/** Numbers in a position of an open directory, at most. */
export const MAX_POSITION = 8;

/** What `stat` tells. Times are whole seconds since 1970 (may be negative) and nanoseconds 0 to 999,999,999. */
export interface FileAttributes {
  /** Type and permission bits. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly nlink: number;
  /** Linux' encoding of major and minor in 32 bits (`new_encode_dev`): minor 0-7, major 8-19, minor 20-31. 0 if neither block nor character. */
  readonly rdev: number;
  /** Bytes. */
  readonly size: number;
  /** Bytes: the preferred unit of I/O. */
  readonly blockSize: number;
  /** Units of 512 bytes that are allocated. */
  readonly blocks: number;
  readonly atime: number;
  readonly atimeNanoseconds: number;
  readonly mtime: number;
  readonly mtimeNanoseconds: number;
  readonly ctime: number;
  readonly ctimeNanoseconds: number;
}

export interface Timestamp {
  readonly seconds: number;
  readonly nanoseconds: number;
}

/** Absent: stays as it is. All are applied, or the first that cannot be is the error. */
export interface AttributeChanges {
  /** Permission bits, set-id and sticky (0o7777); type bits are ignored. */
  readonly mode?: number;
  readonly uid?: number;
  readonly gid?: number;
  /** Bytes: truncates, or grows with zeroes. */
  readonly size?: number;
  readonly atime?: Timestamp | "now";
  readonly mtime?: Timestamp | "now";
}

/** Who makes something: the owner of what is created. A backend that cannot give files away ignores it. */
export interface Owner {
  readonly uid: number;
  readonly gid: number;
}

/** Counts of blocks are units of `blockSize` bytes. */
export interface FileSystemStatistics {
  /** Linux' f_type (magic), for people. */
  readonly type: number;
  readonly blockSize: number;
  readonly blocks: number;
  readonly blocksFree: number;
  /** Free to users without privileges. */
  readonly blocksAvailable: number;
  readonly files: number;
  readonly filesFree: number;
  readonly id: number;
  /** Bytes. */
  readonly nameMax: number;
}

/** A POSIX byte-range lock. Locks of one owner never conflict; an owner's later lock replaces its earlier one. */
export interface FileLock {
  readonly exclusive: boolean;
  /** First byte. */
  readonly start: number;
  /** Bytes; 0: to the end of the file however far it grows. */
  readonly length: number;
  /** Who holds it: one process of one client. */
  readonly owner: LockOwner;
}

export interface LockOwner {
  /** Unique for each client and process: the identity. */
  readonly key: string;
  /** For people (`F_GETLK`). */
  readonly process: number;
  readonly client: string;
}

/**
 * Called for each directory entry. `next` is the cursor behind it: a positive safe integer. Returns false when there
 * is no room: this entry is then not taken, and `readdir` must return.
 */
export type DirectoryVisitor = (name: string, id: number, kind: number, next: number) => boolean;

/**
 * A tree of files that a virtio-9p or virtio-fs device shares. It is addressed by nodes and never by paths, so that
 * an implementation on a host can hold what it walked to and no race leads out of the tree.
 *
 * Results: a method that fails throws (or rejects with) an `Errno` of ./errno.ts; any other error becomes EIO for the guest. A
 * synchronous result is a plain value and costs no microtask.
 *
 * Names: one path component, never empty, `.`, `..`, nor with `/` or NUL; the caller has checked this, and a backend
 * that hands names to an operating system checks again. Names and symlink targets are strings made of the bytes by
 * `decodeUtf8` of memory/utf8.ts: a byte that is not part of valid UTF-8 is U+DC80 to U+DCFF, and `encodeUtf8` gives the
 * same bytes back. Nothing ever follows a symlink: it is a node like any other.
 *
 * References: `lookup`, `parent`, `create`, `makeDirectory`, `makeSymlink` and `makeNode` return a node that carries one
 * reference for the caller; `retain` adds one, `release` takes one away. `root` needs none (retain and release
 * of it are harmless). A node may be the same object each time or a new one. After its last `release` a node must
 * not be used; an open handle holds its node by itself.
 *
 * Permissions are not checked by mode bits here (the guest's kernel does); a host's own refusals are passed on.
 */
export interface FileSystem<N extends FileNode = FileNode, H extends FileHandle = FileHandle> {
  /** Every method that changes anything, and `open` for writing, fails with EROFS. */
  readonly readOnly: boolean;
  /**
   * True: methods may return promises, so buffers handed to them must not be guest memory that can move.
   * False: they never do.
   */
  readonly asynchronous: boolean;
  /** The directory on top. */
  readonly root: N;

  retain(node: N): void;
  release(node: N): void;
  /** ENOENT, ENOTDIR, ENAMETOOLONG … */
  lookup(directory: N, name: string): MaybePromise<N>;
  /** Where `..` leads; the root's parent is the root, and so is that of what was moved out of the tree. */
  parent(directory: N): MaybePromise<N>;
  /**
   * Where the node is now, at one of its names; undefined: it has none any more, or it is the root. Answered at once, by an
   * asynchronous file system from what it knows, and at a cost that does not grow with the depth of the tree. The directory
   * carries a reference for the caller.
   */
  place(node: N): FilePlace<N> | undefined;

  getAttributes(node: N): MaybePromise<FileAttributes>;
  /** `handle`: an open handle of the node, when the caller has one (a size can then change without the right to write). */
  setAttributes(node: N, changes: AttributeChanges, handle?: H): MaybePromise<void>;
  readLink(node: N): MaybePromise<string>;

  /**
   * Opens what is there: O_ACCMODE, O_TRUNC, O_APPEND, O_DSYNC, O_SYNC, O_DIRECTORY and O_NOATIME count, other flags are
   * ignored. A directory opens for reading only (else EISDIR). A symlink: ELOOP. Other special files of a host:
   * ENXIO or EACCES, never a wait.
   */
  open(node: N, flags: number): MaybePromise<H>;
  /**
   * Makes a regular file and opens it, in one step. When the name exists: EEXIST with O_EXCL, else opens it as `open`.
   * `mode`: permission bits, the guest has applied its umask.
   */
  create(
    directory: N,
    name: string,
    flags: number,
    mode: number,
    owner: Owner,
  ): MaybePromise<{ readonly node: N; readonly handle: H }>;
  /** Ends the handle, and the locks that were taken through it. */
  close(handle: H): MaybePromise<void>;
  /** Bytes read into the start of `target`; fewer only at the end of the file. EBADF when not open for reading. */
  read(handle: H, offset: number, target: Uint8Array): MaybePromise<number>;
  /** As `read` into one view after the other. For a backend where a call costs more than a view. */
  readVector?(handle: H, offset: number, targets: readonly Uint8Array[]): MaybePromise<number>;
  /** Bytes written, at least 1 unless `source` is empty. With O_APPEND the offset is ignored. */
  write(handle: H, offset: number, source: Uint8Array): MaybePromise<number>;
  writeVector?(handle: H, offset: number, sources: readonly Uint8Array[]): MaybePromise<number>;
  /** What was written is durable when this is done; `dataOnly`: fdatasync. Directories too. */
  sync(handle: H, dataOnly: boolean): MaybePromise<void>;
  /**
   * Visits entries behind cursor `from` (0: from the start, afresh), `.` and `..` too. An entry that exists all the time is
   * visited once, whatever else is created or removed meanwhile. The visitor must not call the file system.
   * A cursor never given: EINVAL or the end of the directory. A cursor that another handle of this directory gave goes on
   * there too: exactly when the directory has not changed since, else as well as it can.
   */
  readDirectory(handle: H, from: number, visit: DirectoryVisitor): MaybePromise<void>;
  /**
   * What a saved state keeps of how far an open directory was read, beside the cursor that the guest knows: at most
   * `MAX_POSITION` safe integers. Undefined: nothing is needed. Absent: cursors mean the same to every handle.
   */
  directoryPosition?(handle: H): readonly number[] | undefined;
  /** A handle that has listed nothing yet goes on from such a position. It is untrusted; one that makes no sense is ignored. */
  restoreDirectoryPosition?(handle: H, position: readonly number[]): void;

  makeDirectory(directory: N, name: string, mode: number, owner: Owner): MaybePromise<N>;
  makeSymlink(directory: N, name: string, target: string, owner: Owner): MaybePromise<N>;
  /** FIFO, socket, device or empty regular file, by the type bits of `mode`; `rdev` as in FileAttributes. */
  makeNode(directory: N, name: string, mode: number, rdev: number, owner: Owner): MaybePromise<N>;
  /** A further name. EPERM for a directory. */
  link(node: N, directory: N, name: string): MaybePromise<void>;
  /** EISDIR for a directory. */
  unlink(directory: N, name: string): MaybePromise<void>;
  /** ENOTDIR, ENOTEMPTY. */
  removeDirectory(directory: N, name: string): MaybePromise<void>;
  /** As rename(2): replaces what is there, atomically. EINVAL when a directory would move below itself. */
  rename(fromDirectory: N, fromName: string, toDirectory: N, toName: string): MaybePromise<void>;

  statistics(): MaybePromise<FileSystemStatistics>;

  /** ENODATA when there is none of this name; EOPNOTSUPP where the host has none at all. The value is the caller's. */
  getXattr(node: N, name: string): MaybePromise<Uint8Array>;
  listXattrs(node: N): MaybePromise<readonly string[]>;
  /** `flags`: 0, XATTR_CREATE (EEXIST) or XATTR_REPLACE (ENODATA). The value is the caller's again afterwards. */
  setXattr(node: N, name: string, value: Uint8Array, flags: number): MaybePromise<void>;
  removeXattr(node: N, name: string): MaybePromise<void>;

  /** Takes the lock or says false when another owner is in the way. Never waits. `LockTable` does this for one process. */
  lock(handle: H, lock: FileLock): MaybePromise<boolean>;
  unlock(handle: H, owner: LockOwner, start: number, length: number): MaybePromise<void>;
  /** A lock of another owner that would be in the way, or undefined. */
  testLock(handle: H, lock: FileLock): MaybePromise<FileLock | undefined>;

  /** The share ends; every node and handle is dead. */
  shutdown?(): MaybePromise<void>;
}
