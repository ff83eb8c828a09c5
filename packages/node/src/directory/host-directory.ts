import { checkDirectoryOptions, type HostDirectoryOptions } from "./options.ts";
import { readvSync, writevSync } from "node:fs";
import { Errno, errnoOf } from "virtio/backends/errno";
import * as fs from "virtio/backends/file-system";
import type {
  AttributeChanges,
  DirectoryVisitor,
  FileAttributes,
  FileHandle,
  FileLock,
  FilePlace,
  FileSystem,
  FileSystemStatistics,
  LockOwner,
  Owner,
} from "virtio/backends/file-system";
import { locate } from "virtio/backends/locate";
import { LockTable } from "virtio/backends/lock-table";
import { decodeUtf8 } from "virtio/memory/utf8";
import { MAX_VECTORS } from "../native/io-vectors.ts";
import { type Libc, libc as bindLibc } from "../native/libc.ts";
import * as linux from "../native/linux.ts";
import type { DirectoryPlace } from "./cookie-ring.ts";
import { DirectoryMemory } from "./directory-memory.ts";
import { DirectoryStream, type EntryReader } from "./dirents.ts";
import { HostFiles, PATH_MAX } from "./host-files.ts";
import { HostXattrs } from "./host-xattrs.ts";
import { cString, DOT, NO_NAME } from "./names.ts";
import type { HostNode } from "./node-table.ts";
import { createOwnership } from "./ownership.ts";
import { STATFS_SIZE, statisticsOf, timespec } from "./structures.ts";

/** Descriptors that nodes keep open when the caller names no number; classic limits of a process start at 1024. */
const DEFAULT_DESCRIPTORS = 512;
/** Files and directories that may be open at once; one more is ENFILE. */
export const MAX_HANDLES = 4096;
/** A name that comes and goes while a file is created is tried this often. */
const CREATE_TRIES = 16;

const PERMISSIONS = 0o7777;
const NOTHING = new Uint8Array(0);

export class HostHandle implements FileHandle {
  readonly node: HostNode;
  /** -1: closed. */
  fd: number;
  readonly writable: boolean;
  stream: DirectoryStream | undefined;

  constructor(node: HostNode, fd: number, writable: boolean) {
    this.node = node;
    this.fd = fd;
    this.writable = writable;
  }
}

/**
 * A directory of the host as a share. Needs Linux 4.11 with /proc on a 64-bit machine.
 *
 * Every thing is held by a descriptor that was opened by its one name in the descriptor of its directory, without following
 * symlinks; files are opened for data through that descriptor. So no path is ever looked up, and nothing that anybody renames,
 * replaces or links meanwhile leads out of the directory. Sockets, FIFOs and devices of the host are never opened.
 */
export class HostDirectory implements FileSystem<HostNode, HostHandle> {
  readonly readOnly: boolean;
  readonly asynchronous = false;
  readonly root: HostNode;
  readonly #libc: Libc;
  readonly #files: HostFiles;
  readonly #xattrs: HostXattrs;
  readonly #locks = new LockTable();
  readonly #handles = new Set<HostHandle>();
  readonly #directoryMemory = new DirectoryMemory();
  readonly #devices: boolean;

  /**
   * Throws an Error whose message names the directory and says what is wrong with it; on an option that cannot be it is a RangeError
   * or TypeError that names the option, and nothing was opened.
   */
  constructor(path: string, options: HostDirectoryOptions = {}) {
    checkDirectoryOptions(path, options);
    const { readOnly = false, securityModel = "none", maxDescriptors = DEFAULT_DESCRIPTORS } = options;
    const { maxNodeBytes } = options;
    this.readOnly = readOnly;
    this.#devices = securityModel !== "none";
    this.#libc = bindLibc(`sharing the directory '${path}'`);
    const ownership = createOwnership(securityModel, this.#libc);
    this.#files = new HostFiles(this.#libc, ownership, path, maxDescriptors, maxNodeBytes);
    this.#xattrs = new HostXattrs(this.#libc, (name) => ownership.allowsXattr(name));
    this.root = this.#files.table.root;
  }

  /** How many nodes are held, how many descriptors of theirs could be closed, and open files; for tests and people. */
  get counts(): { readonly nodes: number; readonly closable: number; readonly handles: number } {
    return { ...this.#files.table.counts, handles: this.#handles.size };
  }

  /** Bytes that open directories take beside their descriptors; for tests and people. */
  get directoryBytes(): number {
    return this.#directoryMemory.bytes;
  }

  retain(node: HostNode): void {
    this.#files.table.retain(node);
  }

  release(node: HostNode): void {
    this.#files.table.release(node);
  }

  lookup(directory: HostNode, name: string): HostNode {
    const { table } = this.#files;
    return table.found(table.openPath(table.fd(directory), this.#files.name.put(name)), directory, name);
  }

  parent(directory: HostNode): HostNode {
    const above = directory === this.root ? undefined : this.#files.above(directory);
    if (above === undefined) this.retain(this.root);
    return above ?? this.root;
  }

  place(node: HostNode): FilePlace<HostNode> | undefined {
    return this.#files.place(node);
  }

  /** Names from the root to one place where the node is now; undefined: it has none any more. */
  locate(node: HostNode): readonly string[] | undefined {
    return locate(this, node);
  }

  getAttributes(node: HostNode): FileAttributes {
    const { table, stat, ownership } = this.#files;
    const fd = table.fd(node);
    node.version = stat.load(fd).version;
    return ownership.attributes(fd, stat);
  }

  setAttributes(node: HostNode, changes: AttributeChanges, handle?: HostHandle): void {
    this.#mayChange();
    const { table, stat, ownership, path } = this.#files;
    const fd = table.fd(node);
    const { mode, uid, gid, size, atime, mtime } = changes;
    if (size !== undefined) this.#resize(node, size, handle);
    if (uid !== undefined || gid !== undefined) ownership.setOwner(fd, stat, uid, gid);
    if (mode !== undefined) ownership.setMode(fd, node.hostKind, mode & PERMISSIONS);
    if (atime === undefined && mtime === undefined) return;
    const times = BigInt64Array.of(...timespec(atime), ...timespec(mtime));
    this.#checked(this.#libc.utimensat(linux.AT_FDCWD, path.of(fd), times, 0));
  }

  readLink(node: HostNode): string {
    if (node.kind !== fs.S_IFLNK) throw Errno.of("EINVAL");
    const target = new Uint8Array(PATH_MAX);
    if (node.hostKind === fs.S_IFLNK) {
      const length = this.#libc.readlinkat(this.#files.table.fd(node), NO_NAME, target, PATH_MAX);
      return decodeUtf8(target, 0, this.#checked(length));
    }
    const fd = this.#files.openData(node, fs.O_RDONLY);
    const length = this.#libc.pread(fd, target, PATH_MAX, 0);
    this.#libc.close(fd);
    return decodeUtf8(target, 0, this.#checked(length));
  }

  open(node: HostNode, flags: number): HostHandle {
    const changes = (flags & fs.O_ACCMODE) !== fs.O_RDONLY || (flags & fs.O_TRUNC) !== 0;
    if (node.kind === fs.S_IFDIR) {
      if (changes) throw Errno.of("EISDIR");
      const { table } = this.#files;
      this.#mayOpen();
      return this.#opened(node, this.#files.openAt(table.fd(node), DOT, linux.O_DIRECTORY, 0), false);
    }
    if ((flags & fs.O_DIRECTORY) !== 0) throw Errno.of("ENOTDIR");
    if (node.kind === fs.S_IFLNK) throw Errno.of("ELOOP");
    // A FIFO or a device of the host is nobody's business here; those of the guest live in the guest.
    if (node.kind !== fs.S_IFREG || node.hostKind !== fs.S_IFREG) throw Errno.of("ENXIO");
    if (changes) this.#mayChange();
    this.#mayOpen();
    return this.#opened(node, this.#files.openData(node, flags), changes);
  }

  create(
    directory: HostNode,
    name: string,
    flags: number,
    mode: number,
    owner: Owner,
  ): { readonly node: HostNode; readonly handle: HostHandle } {
    this.#mayChange();
    this.#mayOpen();
    for (let tries = CREATE_TRIES; tries > 0; tries--) {
      const whole = fs.S_IFREG | (mode & PERMISSIONS);
      const made = this.#files.createRegular(directory, name, flags, whole, 0, owner);
      if (made !== undefined) {
        return { node: made.node, handle: this.#opened(made.node, made.fd, true) };
      }
      if ((flags & fs.O_EXCL) !== 0) throw Errno.of("EEXIST");
      let node: HostNode;
      try {
        node = this.lookup(directory, name);
      } catch (error) {
        if (error === Errno.of("ENOENT")) continue;
        throw error;
      }
      try {
        const handle = this.open(node, flags);
        return { node, handle };
      } catch (error) {
        this.release(node);
        throw error;
      }
    }
    throw Errno.of("ESTALE");
  }

  close(handle: HostHandle): void {
    if (!this.#handles.delete(handle)) return;
    this.#locks.closed(handle);
    this.#libc.close(handle.fd);
    handle.fd = -1;
    handle.stream?.close();
    handle.stream = undefined;
    this.release(handle.node);
  }

  read(handle: HostHandle, offset: number, target: Uint8Array): number {
    let done = this.#checked(this.#libc.pread(handle.fd, target, target.length, offset));
    for (let got = done; got > 0 && done < target.length; done += got) {
      const rest = target.subarray(done);
      got = this.#checked(this.#libc.pread(handle.fd, rest, rest.length, offset + done));
    }
    return done;
  }

  write(handle: HostHandle, offset: number, source: Uint8Array): number {
    return this.#checked(this.#libc.pwrite(handle.fd, source, source.length, offset));
  }

  readVector(handle: HostHandle, offset: number, targets: readonly Uint8Array[]): number {
    let done = 0;
    for (let i = 0; i < targets.length; i += MAX_VECTORS) {
      const batch = targets.slice(i, i + MAX_VECTORS);
      let got = hostCall(() => readvSync(handle.fd, batch, offset + done));
      for (const target of batch) {
        const have = Math.min(got, target.length);
        got -= have;
        done += have;
        if (have === target.length) continue;
        // The end of the file, or the system did not do as much in one call.
        const more = this.read(handle, offset + done, target.subarray(have));
        done += more;
        if (have + more < target.length) return done;
      }
    }
    return done;
  }

  writeVector(handle: HostHandle, offset: number, sources: readonly Uint8Array[]): number {
    return hostCall(() => writevSync(handle.fd, sources.slice(0, MAX_VECTORS), offset));
  }

  /** Blocks until the disk has it. */
  sync(handle: HostHandle, dataOnly: boolean): void {
    this.#checked(dataOnly ? this.#libc.fdatasync(handle.fd) : this.#libc.fsync(handle.fd));
  }

  readDirectory(handle: HostHandle, from: number, visit: DirectoryVisitor): void {
    if (handle.node.kind !== fs.S_IFDIR) throw Errno.of("ENOTDIR");
    this.#stream(handle).read(from, visit);
  }

  /** Cursor and kernel's cookie, which mean nothing in any other directory. */
  directoryPosition(handle: HostHandle): readonly number[] | undefined {
    const place = handle.stream?.place;
    return place === undefined ? undefined : [place.cursor, place.low, place.high, handle.node.id];
  }

  restoreDirectoryPosition(handle: HostHandle, position: readonly number[]): void {
    const [cursor = 0, low = 0, high = 0, id] = position;
    const makes = cursor > 0 && low <= 0xffff_ffff && high <= 0xffff_ffff && id === handle.node.id;
    if (makes && handle.node.kind === fs.S_IFDIR) this.#stream(handle).restore({ cursor, low, high });
  }

  makeDirectory(directory: HostNode, name: string, mode: number, owner: Owner): HostNode {
    this.#mayChange();
    const bits = this.#files.ownership.creationMode(fs.S_IFDIR, mode);
    const whole = fs.S_IFDIR | (mode & PERMISSIONS);
    return this.#files.make(directory, name, whole, 0, owner, (fd, path) =>
      this.#libc.mkdirat(fd, path, bits),
    );
  }

  makeSymlink(directory: HostNode, name: string, target: string, owner: Owner): HostNode {
    this.#mayChange();
    const mode = fs.S_IFLNK | 0o777;
    const content = cString(target);
    if (content.length <= 1) throw Errno.of("ENOENT");
    if (content.length > PATH_MAX) throw Errno.of("ENAMETOOLONG");
    if (this.#files.ownership.keepsSpecialFiles) {
      return this.#makeRegular(directory, name, mode, 0, owner, content.subarray(0, -1));
    }
    const call = (fd: number, path: Uint8Array): number => this.#libc.symlinkat(content, fd, path);
    return this.#files.make(directory, name, mode, 0, owner, call);
  }

  /** Devices are made on the host only where the model hands them through, and then as the host permits. */
  makeNode(directory: HostNode, name: string, mode: number, rdev: number, owner: Owner): HostNode {
    this.#mayChange();
    const kind = (mode & fs.S_IFMT) === 0 ? fs.S_IFREG : mode & fs.S_IFMT;
    const whole = kind | (mode & PERMISSIONS);
    const isDevice = kind === fs.S_IFCHR || kind === fs.S_IFBLK;
    if (!isDevice && kind !== fs.S_IFREG && kind !== fs.S_IFIFO && kind !== fs.S_IFSOCK)
      throw Errno.of("EINVAL");
    if (kind === fs.S_IFREG || this.#files.ownership.keepsSpecialFiles) {
      return this.#makeRegular(directory, name, whole, rdev, owner, NOTHING);
    }
    if (isDevice && !this.#devices) throw Errno.of("EPERM");
    const device = isDevice ? rdev : 0;
    const call = (fd: number, path: Uint8Array): number => this.#libc.mknodat(fd, path, whole, device);
    return this.#files.make(directory, name, whole, rdev, owner, call);
  }

  link(node: HostNode, directory: HostNode, name: string): void {
    this.#mayChange();
    const { table, path } = this.#files;
    this.#files.pinned(directory, (to) => {
      const from = path.of(table.fd(node));
      const target = this.#files.name.put(name);
      table.checkRoom(name);
      this.#checked(this.#libc.linkat(linux.AT_FDCWD, from, to, target, linux.AT_SYMLINK_FOLLOW));
      if (node.parent === undefined) table.link(node, directory, name);
    });
  }

  unlink(directory: HostNode, name: string): void {
    this.#mayChange();
    this.#files.remove(directory, name, 0);
  }

  removeDirectory(directory: HostNode, name: string): void {
    this.#mayChange();
    this.#files.remove(directory, name, linux.AT_REMOVEDIR);
  }

  rename(fromDirectory: HostNode, fromName: string, toDirectory: HostNode, toName: string): void {
    this.#mayChange();
    this.#files.rename(fromDirectory, fromName, toDirectory, toName);
  }

  statistics(): FileSystemStatistics {
    const bytes = new Uint8Array(STATFS_SIZE);
    this.#checked(this.#libc.fstatfs(this.#files.table.fd(this.root), bytes));
    return statisticsOf(bytes);
  }

  getXattr(node: HostNode, name: string): Uint8Array {
    return this.#xattrs.get(this.#files.table.fd(node), name);
  }

  listXattrs(node: HostNode): readonly string[] {
    return this.#xattrs.list(this.#files.table.fd(node));
  }

  setXattr(node: HostNode, name: string, value: Uint8Array, flags: number): void {
    this.#mayChange();
    this.#xattrs.set(this.#files.table.fd(node), name, value, flags);
  }

  removeXattr(node: HostNode, name: string): void {
    this.#mayChange();
    this.#xattrs.remove(this.#files.table.fd(node), name);
  }

  /** Locks hold between all who use this object, not against other processes of the host. */
  lock(handle: HostHandle, lock: FileLock): boolean {
    return this.#locks.lock(handle, lock);
  }

  unlock(handle: HostHandle, owner: LockOwner, start: number, length: number): void {
    this.#locks.unlock(handle, owner, start, length);
  }

  testLock(handle: HostHandle, lock: FileLock): FileLock | undefined {
    return this.#locks.test(handle, lock);
  }

  shutdown(): void {
    for (const handle of this.#handles) this.close(handle);
    this.#files.table.shutdown();
  }

  #mayChange(): void {
    if (this.readOnly) throw Errno.of("EROFS");
  }

  #checked(result: number): number {
    return this.#files.checked(result);
  }

  #mayOpen(): void {
    if (this.#handles.size >= MAX_HANDLES) throw Errno.of("ENFILE");
  }

  #opened(node: HostNode, fd: number, writable: boolean): HostHandle {
    const handle = new HostHandle(node, fd, writable);
    this.retain(node);
    this.#handles.add(handle);
    return handle;
  }

  #resize(node: HostNode, size: number, handle: HostHandle | undefined): void {
    if (node.kind === fs.S_IFDIR) throw Errno.of("EISDIR");
    if (node.kind !== fs.S_IFREG || node.hostKind !== fs.S_IFREG) throw Errno.of("EINVAL");
    if (!Number.isSafeInteger(size) || size < 0) throw Errno.of("EFBIG");
    if (handle !== undefined && handle.writable && handle.fd >= 0) {
      this.#checked(this.#libc.ftruncate(handle.fd, size));
      return;
    }
    // Not truncate(2): that waits for whoever has a lease on the file, and an open that does not wait says EAGAIN.
    const opened = this.#files.openData(node, fs.O_WRONLY);
    const result = this.#libc.ftruncate(opened, size);
    const errno = result < 0 ? this.#libc.errno() : 0;
    this.#libc.close(opened);
    if (result < 0) throw Errno.of(errno);
  }

  #makeRegular(
    directory: HostNode,
    name: string,
    mode: number,
    rdev: number,
    owner: Owner,
    content: Uint8Array,
  ): HostNode {
    const made = this.#files.createRegular(directory, name, fs.O_WRONLY, mode, rdev, owner);
    if (made === undefined) throw Errno.of("EEXIST");
    const written = content.length === 0 ? 0 : this.#libc.pwrite(made.fd, content, content.length, 0);
    this.#libc.close(made.fd);
    if (written === content.length) return made.node;
    this.#files.remove(directory, name, 0);
    this.release(made.node);
    throw Errno.of("ENOSPC");
  }

  #stream(handle: HostHandle): DirectoryStream {
    return (handle.stream ??= new DirectoryStream(
      this.#libc,
      handle.fd,
      this.#entryReader(handle),
      this.#directoryMemory,
    ));
  }

  /** A cursor that another handle of the directory gave. */
  #findCursor(handle: HostHandle, cursor: number): DirectoryPlace | undefined {
    for (const other of this.#handles) {
      if (other === handle || other.node !== handle.node) continue;
      const place = other.stream?.find(cursor);
      if (place !== undefined) return place;
    }
    return undefined;
  }

  #entryReader(handle: HostHandle): EntryReader {
    const files = this.#files;
    const isRoot = handle.node === this.root;
    const { device } = files.stat.load(handle.fd);
    return {
      id: (name, low, high) => (isRoot && name === ".." ? this.root.id : files.stat.idOn(device, low, high)),
      kind: (name, kind) => {
        if (name === "." || name === "..") return fs.S_IFDIR;
        const certain = kind !== 0 && !(files.ownership.keepsSpecialFiles && kind === fs.S_IFREG);
        return certain ? kind : files.kindAt(handle.fd, name, kind);
      },
      find: (cursor) => this.#findCursor(handle, cursor),
    };
  }
}

/** A call of `node:fs`, whose errors become ours. */
function hostCall(call: () => number): number {
  try {
    return call();
  } catch (error) {
    throw Errno.of(errnoOf(error));
  }
}
