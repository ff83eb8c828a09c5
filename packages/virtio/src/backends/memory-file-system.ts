import { flagOptions } from "../check-option.ts";
import type { MaybePromise } from "../device/device.ts";
import { utf8Length } from "../memory/utf8.ts";
import { Errno } from "./errno.ts";
import {
  type AttributeChanges,
  type DirectoryVisitor,
  type FileAttributes,
  type FileHandle,
  type FileLock,
  type FilePlace,
  type FileSystem,
  type FileSystemStatistics,
  type LockOwner,
  NAME_MAX,
  O_ACCMODE,
  O_APPEND,
  O_DIRECTORY,
  O_EXCL,
  O_RDONLY,
  O_TRUNC,
  O_WRONLY,
  type Owner,
  S_IFDIR,
  S_IFLNK,
  S_IFMT,
  S_IFREG,
  XATTR_CREATE,
  XATTR_REPLACE,
} from "./file-system.ts";
import { locate } from "./locate.ts";
import { LockTable } from "./lock-table.ts";
import { entriesOf, firstBehind, MemoryTree, nameCost } from "./memory-tree.ts";
import { CURSOR_PARENT, CURSOR_SELF, type MemoryNode } from "./memory-node.ts";

const BLOCK_SIZE = 4096;
/** Bytes: file offsets stay exact numbers far below this. */
const MAX_FILE_SIZE = 2 ** 47;
const MAX_TARGET = 4095;
const MAX_XATTR_NAME = 255;
const MAX_XATTR_VALUE = 65_536;
/** Linux' TMPFS_MAGIC: the nearest relative. */
const MAGIC = 0x0102_1994;

export interface MemoryFileSystemOptions {
  /** Bytes that contents, names and attributes take together; more is ENOSPC. Default 256 MiB. */
  readonly maxBytes?: number;
  /** Files, directories and so on; more is ENOSPC. Default 65,536. */
  readonly maxInodes?: number;
  /** Changes are EROFS. Default false. */
  readonly readOnly?: boolean;
  /** Milliseconds since 1970. Default `Date.now`. */
  readonly clock?: () => number;
}

export interface MemoryHandle extends FileHandle {
  readonly node: MemoryNode;
  readonly flags: number;
}

/**
 * A file system in memory, for browsers and tests: POSIX-like, synchronous and bounded, with hard links, sparse files,
 * extended attributes and files that live on unlinked while they are open. Reading does not change atime.
 */
export class MemoryFileSystem implements FileSystem<MemoryNode, MemoryHandle> {
  readonly asynchronous = false;
  readonly root: MemoryNode;
  /** Set it after the tree is filled. */
  readOnly: boolean;
  readonly #tree: MemoryTree;
  readonly #locks = new LockTable();

  constructor(options: MemoryFileSystemOptions = {}) {
    const { maxBytes = 256 * 1024 * 1024, maxInodes = 65_536, clock = Date.now } = options;
    flagOptions("memory file system", options, ["readOnly"]);
    this.#tree = new MemoryTree(maxBytes, maxInodes, clock);
    this.root = this.#tree.make(S_IFDIR | 0o755, { uid: 0, gid: 0 });
    this.root.nlink = 2;
    this.readOnly = options.readOnly ?? false;
  }

  /** Bytes charged against `maxBytes`. */
  get bytesUsed(): number {
    return this.#tree.bytes;
  }

  get inodesUsed(): number {
    return this.#tree.inodes;
  }

  retain(node: MemoryNode): void {
    node.references++;
  }

  release(node: MemoryNode): void {
    if (node.references > 0) node.references--;
    this.#tree.reap(node);
  }

  lookup(directory: MemoryNode, name: string): MemoryNode {
    const entry = entriesOf(directory).get(name);
    if (entry === undefined) throw Errno.of(utf8Length(name) > NAME_MAX ? "ENAMETOOLONG" : "ENOENT");
    entry.node.references++;
    return entry.node;
  }

  parent(directory: MemoryNode): MemoryNode {
    if (directory.directory === undefined) throw Errno.of("ENOTDIR");
    const above = directory.nlink === 0 ? this.root : directory.directory.parent;
    above.references++;
    return above;
  }

  place(node: MemoryNode): FilePlace<MemoryNode> | undefined {
    const { holder, name } = node;
    if (holder?.directory?.entries.get(name)?.node !== node) return undefined;
    holder.references++;
    return { directory: holder, name };
  }

  /** Names from the root to one place where the node is now; undefined: it has none any more. */
  locate(node: MemoryNode): readonly string[] | undefined {
    return locate(this, node);
  }

  getAttributes(node: MemoryNode): FileAttributes {
    const { atime, mtime, ctime } = node;
    const size = node.file?.size ?? (node.target === undefined ? 0 : utf8Length(node.target));
    return {
      mode: node.kind | node.permissions,
      uid: node.uid,
      gid: node.gid,
      nlink: node.nlink,
      rdev: node.rdev,
      size,
      blockSize: BLOCK_SIZE,
      blocks: Math.ceil((node.file?.allocated ?? 0) / 512),
      atime: atime.seconds,
      atimeNanoseconds: atime.nanoseconds,
      mtime: mtime.seconds,
      mtimeNanoseconds: mtime.nanoseconds,
      ctime: ctime.seconds,
      ctimeNanoseconds: ctime.nanoseconds,
    };
  }

  setAttributes(node: MemoryNode, changes: AttributeChanges): void {
    this.#writable();
    const { size } = changes;
    const now = this.#tree.now();
    if (size !== undefined) {
      if (node.file === undefined) throw Errno.of(node.kind === S_IFDIR ? "EISDIR" : "EINVAL");
      if (!Number.isSafeInteger(size) || size < 0) throw Errno.of("EINVAL");
      if (size > MAX_FILE_SIZE) throw Errno.of("EFBIG");
      node.file.resize(size);
      this.#tree.modified(node, now);
    }
    if (changes.mode !== undefined) node.permissions = changes.mode & 0o7777;
    if (changes.uid !== undefined) node.uid = changes.uid;
    if (changes.gid !== undefined) node.gid = changes.gid;
    if (changes.atime !== undefined) node.atime = changes.atime === "now" ? now : changes.atime;
    if (changes.mtime !== undefined) node.mtime = changes.mtime === "now" ? now : changes.mtime;
    node.ctime = now;
  }

  readLink(node: MemoryNode): string {
    if (node.target === undefined) throw Errno.of("EINVAL");
    return node.target;
  }

  open(node: MemoryNode, flags: number): MemoryHandle {
    const writes = (flags & O_ACCMODE) !== O_RDONLY || (flags & O_TRUNC) !== 0;
    if (node.kind !== S_IFDIR && (flags & O_DIRECTORY) !== 0) throw Errno.of("ENOTDIR");
    if (node.kind === S_IFLNK) throw Errno.of("ELOOP");
    if (node.kind === S_IFDIR && writes) throw Errno.of("EISDIR");
    if (node.kind !== S_IFDIR && node.kind !== S_IFREG) throw Errno.of("ENXIO");
    if (writes) this.#writable();
    if ((flags & O_TRUNC) !== 0 && node.file !== undefined && node.file.size > 0) {
      node.file.resize(0);
      this.#tree.modified(node, this.#tree.now());
    }
    node.references++;
    return { node, flags };
  }

  create(
    directory: MemoryNode,
    name: string,
    flags: number,
    mode: number,
    owner: Owner,
  ): { readonly node: MemoryNode; readonly handle: MemoryHandle } {
    const there = entriesOf(directory).get(name)?.node;
    if (there !== undefined && (flags & O_EXCL) !== 0) throw Errno.of("EEXIST");
    if (there === undefined) this.#writable();
    const node = there ?? this.#tree.add(directory, name, S_IFREG | (mode & 0o7777), owner);
    const handle = this.open(node, flags);
    node.references++;
    return { node, handle };
  }

  close(handle: MemoryHandle): void {
    this.#locks.closed(handle);
    this.release(handle.node);
  }

  read(handle: MemoryHandle, offset: number, target: Uint8Array): number {
    const { file } = handle.node;
    if (file === undefined) throw Errno.of("EISDIR");
    if ((handle.flags & O_ACCMODE) === O_WRONLY) throw Errno.of("EBADF");
    return file.read(offset, target);
  }

  write(handle: MemoryHandle, offset: number, source: Uint8Array): number {
    const { node, flags } = handle;
    if (node.file === undefined || (flags & O_ACCMODE) === O_RDONLY) throw Errno.of("EBADF");
    this.#writable();
    const at = (flags & O_APPEND) !== 0 ? node.file.size : offset;
    if (at + source.length > MAX_FILE_SIZE) throw Errno.of("EFBIG");
    const written = node.file.write(at, source);
    this.#tree.modified(node, this.#tree.now());
    return written;
  }

  sync(): void {}

  readDirectory(handle: MemoryHandle, from: number, visit: DirectoryVisitor): void {
    const { node } = handle;
    if (node.directory === undefined) throw Errno.of("ENOTDIR");
    const above = node.nlink === 0 ? this.root : node.directory.parent;
    if (from < CURSOR_SELF && !visit(".", node.id, S_IFDIR, CURSOR_SELF)) return;
    if (from < CURSOR_PARENT && !visit("..", above.id, S_IFDIR, CURSOR_PARENT)) return;
    // Cursors grow along the list, so any of them is found by halving; no reader keeps a place that costs anything.
    const { order } = node.directory;
    for (let i = firstBehind(order, from); i < order.length; i++) {
      const entry = order[i];
      if (entry === undefined || entry.gone) continue;
      if (!visit(entry.name, entry.node.id, entry.node.kind, entry.cursor)) return;
    }
  }

  makeDirectory(directory: MemoryNode, name: string, mode: number, owner: Owner): MemoryNode {
    this.#writable();
    const node = this.#tree.add(directory, name, S_IFDIR | (mode & 0o7777), owner);
    node.nlink = 2;
    directory.nlink++;
    node.references++;
    return node;
  }

  makeSymlink(directory: MemoryNode, name: string, target: string, owner: Owner): MemoryNode {
    if (target === "") throw Errno.of("ENOENT");
    if (utf8Length(target) > MAX_TARGET) throw Errno.of("ENAMETOOLONG");
    this.#writable();
    const node = this.#tree.add(directory, name, S_IFLNK | 0o777, owner, { target });
    node.references++;
    return node;
  }

  makeNode(directory: MemoryNode, name: string, mode: number, rdev: number, owner: Owner): MemoryNode {
    const kind = (mode & S_IFMT) === 0 ? S_IFREG : mode & S_IFMT;
    if (kind === S_IFDIR || kind === S_IFLNK) throw Errno.of("EINVAL");
    this.#writable();
    const node = this.#tree.add(directory, name, kind | (mode & 0o7777), owner, { rdev });
    node.references++;
    return node;
  }

  link(node: MemoryNode, directory: MemoryNode, name: string): void {
    this.#writable();
    // Linux looks at the new name first.
    this.#tree.checkRoom(directory, name);
    if (node.kind === S_IFDIR) throw Errno.of("EPERM");
    if (node.nlink === 0) throw Errno.of("ENOENT");
    this.#tree.enter(directory, name, node);
    node.nlink++;
    node.ctime = this.#tree.now();
  }

  unlink(directory: MemoryNode, name: string): void {
    this.#writable();
    const node = child(directory, name);
    if (node.kind === S_IFDIR) throw Errno.of("EISDIR");
    this.#tree.leave(directory, name);
    this.#tree.drop(node, 1);
  }

  removeDirectory(directory: MemoryNode, name: string): void {
    this.#writable();
    const node = child(directory, name);
    if (node.directory === undefined) throw Errno.of("ENOTDIR");
    if (node.directory.entries.size > 0) throw Errno.of("ENOTEMPTY");
    this.#tree.leave(directory, name);
    directory.nlink--;
    this.#tree.drop(node, 2);
  }

  rename(fromDirectory: MemoryNode, fromName: string, toDirectory: MemoryNode, toName: string): void {
    this.#writable();
    const there = entriesOf(toDirectory).get(toName)?.node;
    const node = child(fromDirectory, fromName);
    if (there === node) return;
    if (toDirectory.nlink === 0) throw Errno.of("ENOENT");
    if (node.directory !== undefined && this.#tree.below(toDirectory, node)) throw Errno.of("EINVAL");
    if (there !== undefined) checkReplaceable(node, there);
    else this.#tree.checkName(toName);
    // Nothing fails from here on: the new name may cost more, and that is charged first.
    this.#tree.charge(nameCost(toName) - (there === undefined ? 0 : nameCost(toName)));
    this.#tree.leave(fromDirectory, fromName);
    if (there !== undefined) {
      this.#tree.remove(toDirectory, toName);
      if (there.kind === S_IFDIR) toDirectory.nlink--;
      this.#tree.drop(there, there.kind === S_IFDIR ? 2 : 1);
    }
    this.#tree.insert(toDirectory, toName, node);
    if (node.directory !== undefined) {
      fromDirectory.nlink--;
      toDirectory.nlink++;
      node.directory.parent = toDirectory;
    }
    node.ctime = this.#tree.now();
  }

  statistics(): FileSystemStatistics {
    const free = Math.max(0, Math.floor((this.#tree.maxBytes - this.#tree.bytes) / BLOCK_SIZE));
    return {
      type: MAGIC,
      blockSize: BLOCK_SIZE,
      blocks: Math.floor(this.#tree.maxBytes / BLOCK_SIZE),
      blocksFree: free,
      blocksAvailable: free,
      files: this.#tree.maxInodes,
      filesFree: Math.max(0, this.#tree.maxInodes - this.#tree.inodes),
      id: 0,
      nameMax: NAME_MAX,
    };
  }

  getXattr(node: MemoryNode, name: string): Uint8Array {
    const value = node.xattrs?.get(name);
    if (value === undefined) throw Errno.of("ENODATA");
    return value.slice();
  }

  listXattrs(node: MemoryNode): readonly string[] {
    return [...(node.xattrs?.keys() ?? [])];
  }

  setXattr(node: MemoryNode, name: string, value: Uint8Array, flags: number): void {
    this.#writable();
    const length = utf8Length(name);
    if (length === 0 || length > MAX_XATTR_NAME) throw Errno.of("ERANGE");
    if (value.length > MAX_XATTR_VALUE) throw Errno.of("E2BIG");
    const before = node.xattrs?.get(name);
    if ((flags & XATTR_CREATE) !== 0 && before !== undefined) throw Errno.of("EEXIST");
    if ((flags & XATTR_REPLACE) !== 0 && before === undefined) throw Errno.of("ENODATA");
    this.#tree.charge(value.length - (before === undefined ? -nameCost(name) : before.length));
    node.xattrs ??= new Map();
    node.xattrs.set(name, value.slice());
    node.ctime = this.#tree.now();
  }

  removeXattr(node: MemoryNode, name: string): void {
    this.#writable();
    const value = node.xattrs?.get(name);
    if (value === undefined) throw Errno.of("ENODATA");
    node.xattrs?.delete(name);
    this.#tree.charge(-value.length - nameCost(name));
    node.ctime = this.#tree.now();
  }

  lock(handle: MemoryHandle, lock: FileLock): boolean {
    return this.#locks.lock(handle, lock);
  }

  unlock(handle: MemoryHandle, owner: LockOwner, start: number, length: number): void {
    this.#locks.unlock(handle, owner, start, length);
  }

  testLock(handle: MemoryHandle, lock: FileLock): FileLock | undefined {
    return this.#locks.test(handle, lock);
  }

  shutdown(): MaybePromise<void> {}

  #writable(): void {
    if (this.readOnly) throw Errno.of("EROFS");
  }
}

function child(directory: MemoryNode, name: string): MemoryNode {
  const entry = entriesOf(directory).get(name);
  if (entry === undefined) throw Errno.of("ENOENT");
  return entry.node;
}

function checkReplaceable(node: MemoryNode, there: MemoryNode): void {
  if (there.directory === undefined) {
    if (node.directory !== undefined) throw Errno.of("ENOTDIR");
    return;
  }
  if (node.directory === undefined) throw Errno.of("EISDIR");
  if (there.directory.entries.size > 0) throw Errno.of("ENOTEMPTY");
}
