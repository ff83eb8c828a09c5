import { Errno, ERRNO } from "virtio/backends/errno";
import * as fs from "virtio/backends/file-system";
import type { Owner } from "virtio/backends/file-system";
import { decodeUtf8 } from "virtio/memory/utf8";
import type { Libc } from "../native/libc.ts";
import * as linux from "../native/linux.ts";
import { Ascent } from "./ascent.ts";
import { DescriptorPath, DOT_DOT, NameBuffer } from "./names.ts";
import { type HostNode, NodeTable } from "./node-table.ts";
import type { Ownership } from "./ownership.ts";
import { Statx } from "./statx.ts";

/** Bytes of the longest symlink target or path of Linux. */
export const PATH_MAX = 4096;

/** Flags of `open` that mean the same on the host; their numbers are generic. */
const PASSED_ON = fs.O_ACCMODE | fs.O_APPEND | fs.O_TRUNC | fs.O_DSYNC | fs.O_SYNC | fs.O_NOATIME;

/**
 * The calls that open, make, name and find things of a shared directory: always one name in one descriptor, or a descriptor
 * itself through /proc.
 */
export class HostFiles {
  readonly libc: Libc;
  readonly stat: Statx;
  readonly table: NodeTable;
  readonly ownership: Ownership;
  readonly path: DescriptorPath = new DescriptorPath();
  readonly name: NameBuffer = new NameBuffer();
  readonly toName: NameBuffer = new NameBuffer();
  readonly #ascent: Ascent;

  constructor(
    libc: Libc,
    ownership: Ownership,
    path: string,
    maxDescriptors: number,
    maxNodeBytes: number | undefined,
  ) {
    this.libc = libc;
    this.ownership = ownership;
    this.stat = new Statx(libc);
    const kindOf = (fd: number, stat: Statx): number => ownership.kind(fd, stat);
    this.table = new NodeTable(libc, this.stat, openRoot(libc, path), maxDescriptors, kindOf, maxNodeBytes);
    this.#ascent = new Ascent(this);
  }

  /** Throws the error of a call that returned -1. */
  checked(result: number): number {
    if (result < 0) throw Errno.of(this.libc.errno());
    return result;
  }

  openAt(directory: number, path: Uint8Array, flags: number, mode: number, keep: number = directory): number {
    const all = flags | linux.O_CLOEXEC;
    let fd = this.libc.openat(directory, path, all, mode);
    if (fd < 0 && this.table.isShort(this.libc.errno(), keep)) {
      fd = this.libc.openat(directory, path, all, mode);
    }
    return this.checked(fd);
  }

  /** Opens once more what `fd` is. */
  openAgain(fd: number, flags: number): number {
    return this.openAt(linux.AT_FDCWD, this.path.of(fd), flags, 0, fd);
  }

  /** A regular file, for its data. */
  openData(node: HostNode, flags: number): number {
    // The kind of a thing never changes, so this descriptor leads to a regular file. O_NONBLOCK: a lease must not hold us up.
    const wanted = (flags & PASSED_ON) | linux.O_NONBLOCK;
    const fd = this.table.fd(node);
    try {
      return this.openAgain(fd, wanted);
    } catch (error) {
      // Only the owner may leave the time of access alone; that is a wish.
      if ((wanted & fs.O_NOATIME) === 0 || error !== Errno.of(ERRNO.EPERM)) throw error;
      return this.openAgain(fd, wanted & ~fs.O_NOATIME);
    }
  }

  /** Makes a regular file; `mode` has the type bits the guest is to see. Undefined: the name exists. */
  createRegular(
    directory: HostNode,
    name: string,
    flags: number,
    mode: number,
    rdev: number,
    owner: Owner,
  ): { readonly node: HostNode; readonly fd: number } | undefined {
    return this.pinned(directory, (parent) => {
      const bits = this.ownership.creationMode(fs.S_IFREG, mode);
      const create =
        linux.O_CREAT |
        linux.O_EXCL |
        linux.O_NOFOLLOW |
        linux.O_NONBLOCK |
        (flags & PASSED_ON & ~fs.O_NOATIME);
      let fd: number;
      try {
        fd = this.openAt(parent, this.name.put(name), create, bits);
      } catch (error) {
        if (error === Errno.of(ERRNO.EEXIST)) return undefined;
        throw error;
      }
      let path = -1;
      try {
        // Through the descriptor, so that this is what was made, whatever the name leads to by now.
        path = this.openAgain(fd, linux.O_PATH);
        this.ownership.created(path, this.stat.load(path), mode, rdev, owner);
        // The table closes it when it fails.
        const found = path;
        path = -1;
        return { node: this.table.found(found, directory, name), fd };
      } catch (error) {
        this.libc.close(fd);
        if (path >= 0) this.libc.close(path);
        this.libc.unlinkat(parent, this.name.put(name), 0);
        throw error;
      }
    });
  }

  /** Makes anything else by `call`. */
  make(
    directory: HostNode,
    name: string,
    mode: number,
    rdev: number,
    owner: Owner,
    call: (directory: number, path: Uint8Array) => number,
  ): HostNode {
    return this.pinned(directory, (parent) => {
      const path = this.name.put(name);
      this.checked(call(parent, path));
      let fd = this.table.openPath(parent, path);
      try {
        // Somebody put another thing in its place: that is left alone.
        if ((this.stat.load(fd).mode & fs.S_IFMT) !== (mode & fs.S_IFMT)) throw Errno.of(ERRNO.ESTALE);
        this.ownership.created(fd, this.stat, mode, rdev, owner);
        // The table closes it when it fails.
        const found = fd;
        fd = -1;
        return this.table.found(found, directory, name);
      } catch (error) {
        if (fd >= 0) this.libc.close(fd);
        const isDirectory = (mode & fs.S_IFMT) === fs.S_IFDIR;
        if (error !== Errno.of(ERRNO.ESTALE)) {
          this.libc.unlinkat(parent, this.name.put(name), isDirectory ? linux.AT_REMOVEDIR : 0);
        }
        throw error;
      }
    });
  }

  remove(directory: HostNode, name: string, flags: number): void {
    this.pinned(directory, (parent) => {
      const path = this.name.put(name);
      const node = this.keepNamed(parent, path, directory, name);
      this.checked(this.libc.unlinkat(parent, path, flags));
      if (node !== undefined) this.table.unlink(node);
    });
  }

  rename(fromDirectory: HostNode, fromName: string, toDirectory: HostNode, toName: string): void {
    this.pinned(fromDirectory, (from) =>
      this.pinned(toDirectory, (to) => {
        const fromPath = this.name.put(fromName);
        const toPath = this.toName.put(toName);
        const replaced = this.keepNamed(to, toPath, toDirectory, toName);
        const moved = this.heldAt(from, fromPath);
        // What fails must fail before anything is done.
        this.table.checkRoom(toName);
        this.checked(this.libc.renameat(from, fromPath, to, toPath));
        if (replaced !== undefined && replaced !== moved) this.table.unlink(replaced);
        if (moved !== undefined) this.table.link(moved, toDirectory, toName);
      }),
    );
  }

  /** The directory above, or undefined when that is not the root nor below it. */
  above(directory: HostNode): HostNode | undefined {
    const fd = this.openAt(this.table.fd(directory), DOT_DOT, linux.O_PATH | linux.O_DIRECTORY, 0);
    let depth: number | undefined;
    try {
      depth = this.#ascent.depthOf(fd, directory.depth - 1);
    } finally {
      if (depth === undefined) this.libc.close(fd);
    }
    if (depth === undefined) return undefined;
    const node = this.table.found(fd, undefined, "");
    directory.depth = depth + 1;
    node.depth = depth;
    return node;
  }

  /** One directory and the name that leads to the node there, with a reference of the directory. */
  place(node: HostNode): fs.FilePlace<HostNode> | undefined {
    const { parent, name } = node;
    if (node === this.table.root) return undefined;
    if (parent !== undefined && this.#isAt(parent, name, node)) {
      this.table.retain(parent);
      return { directory: parent, name };
    }
    // The host moved it, or it lost the one of its names that the table knew.
    const names = this.#namesOf(node);
    const last = names?.pop();
    if (names === undefined || last === undefined) return undefined;
    try {
      return this.#placeBelow(names, last, node);
    } catch (error) {
      if (error instanceof Errno) return undefined;
      throw error;
    }
  }

  #placeBelow(names: readonly string[], last: string, node: HostNode): fs.FilePlace<HostNode> | undefined {
    const { table } = this;
    const { root } = table;
    table.checkRoom(last);
    const directory = names.length === 0 ? root : table.found(table.openBelow(root.fd, names), undefined, "");
    if (directory === root) table.retain(root);
    if (!this.#isAt(directory, last, node)) {
      table.release(directory);
      return undefined;
    }
    directory.depth = names.length;
    table.link(node, directory, last);
    return { directory, name: last };
  }

  #isAt(directory: HostNode, name: string, node: HostNode): boolean {
    try {
      return node.is(this.stat.loadAt(this.table.fd(directory), this.name.put(name)));
    } catch (error) {
      if (error instanceof Errno) return false;
      throw error;
    }
  }

  /** Names below the root, as /proc tells them, unchecked; undefined: it is not below the root. */
  #namesOf(node: HostNode): string[] | undefined {
    const top = this.#pathOf(this.table.root.fd);
    const prefix = top === "/" ? top : `${top}/`;
    try {
      const path = this.#pathOf(this.table.fd(node));
      return path.startsWith(prefix) ? path.slice(prefix.length).split("/") : undefined;
    } catch (error) {
      // Its descriptor was closed, and it is not where it was.
      if (error instanceof Errno) return undefined;
      throw error;
    }
  }

  /** Runs `body` with the directory's descriptor, which stays open meanwhile. */
  pinned<T>(directory: HostNode, body: (fd: number) => T): T {
    const fd = this.table.fd(directory);
    directory.pins++;
    try {
      return body(fd);
    } finally {
      directory.pins--;
    }
  }

  /** The node somebody holds of what this name is; undefined also when there is no such name. */
  heldAt(directory: number, path: Uint8Array): HostNode | undefined {
    try {
      this.stat.loadAt(directory, path);
    } catch (error) {
      if (error === Errno.of(ERRNO.ENOENT)) return undefined;
      throw error;
    }
    return this.table.held();
  }

  /** A node that is about to lose the name it is found by gets a descriptor while it can. */
  keepNamed(fd: number, path: Uint8Array, directory: HostNode, name: string): HostNode | undefined {
    const node = this.heldAt(fd, path);
    if (node?.parent !== directory || node.name !== name) return undefined;
    this.table.fd(node);
    return node;
  }

  #pathOf(fd: number): string {
    const target = new Uint8Array(PATH_MAX);
    const length = this.libc.readlinkat(linux.AT_FDCWD, this.path.of(fd), target, PATH_MAX);
    return length < 0 ? "" : decodeUtf8(target, 0, length);
  }

  /** What a directory's entry is for the guest; `guess` when it is gone. */
  kindAt(directory: number, name: string, guess: number): number {
    try {
      const fd = this.table.openPath(directory, this.name.put(name));
      try {
        return this.ownership.kind(fd, this.stat.load(fd));
      } finally {
        this.libc.close(fd);
      }
    } catch (error) {
      if (error instanceof Errno) return guess;
      throw error;
    }
  }
}

function openRoot(libc: Libc, path: string): number {
  const bytes = Buffer.from(`${path}\0`);
  const fd = libc.openat(linux.AT_FDCWD, bytes, linux.O_PATH | linux.O_DIRECTORY | linux.O_CLOEXEC, 0);
  if (fd >= 0) return fd;
  const errno = libc.errno();
  throw new Error(`cannot share '${path}': ${ROOT_ERRORS[errno] ?? Errno.of(errno).code}`);
}

const ROOT_ERRORS: Readonly<Record<number, string>> = {
  [ERRNO.ENOENT]: "no such directory",
  [ERRNO.ENOTDIR]: "not a directory",
  [ERRNO.EACCES]: "permission denied",
};
