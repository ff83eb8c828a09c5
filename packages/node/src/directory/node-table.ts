import { Errno, ERRNO } from "virtio/backends/errno";
import { type FileNode, S_IFDIR, S_IFMT } from "virtio/backends/file-system";
import type { Libc } from "../native/libc.ts";
import { O_CLOEXEC, O_NOFOLLOW, O_PATH } from "../native/linux.ts";
import { Beneath } from "./beneath.ts";
import { NameBuffer } from "./names.ts";
import type { Statx } from "./statx.ts";

/** Fewest descriptors a table works with: a few operations at once must not throw out each other's. */
export const MIN_DESCRIPTORS = 16;
/** Directories below each other that a guest may walk down; what is below is ENAMETOOLONG. Bounds what a walk back costs. */
export const MAX_DEPTH = 4096;

/** Bytes that nodes and their names take together; one more is ENFILE. */
export const MAX_NODE_BYTES = 134_217_728;
/** Bytes charged for a node beside its name: what it takes in memory, about, with its places in tables. */
const NODE_BYTES = 512;
/** What the way back to a node ends with when something on it was moved or replaced. */
const LOST: ReadonlySet<number> = new Set([
  ERRNO.ENOENT,
  ERRNO.ENOTDIR,
  ERRNO.ELOOP,
  ERRNO.EXDEV,
  ERRNO.EAGAIN,
]);

/** A thing of the host, held by a descriptor that was opened with O_PATH, or by where it was last seen. */
export class HostNode implements FileNode {
  readonly id: number;
  /** What the guest is told that it is. */
  readonly kind: number;
  /** What it is on the host: differs where special files are kept as regular ones. */
  readonly hostKind: number;
  version: number;
  /** -1: closed to save descriptors; the node is found again by its parent and name. */
  fd = -1;
  /** Callers, children that are found through it, open handles. */
  references = 1;
  /** Where it was last seen. Undefined: the root, or nowhere (unlinked): the descriptor is all there is. */
  parent: HostNode | undefined;
  name = "";
  /** Directories above it, when it was found. */
  depth = 0;
  /** Used since the last look for something to close. */
  recent = true;
  /** Not to be closed now. */
  pins = 0;
  readonly birthSeconds: number;
  readonly birthNanoseconds: number;

  constructor(stat: Statx, id: number, kind: number) {
    this.id = id;
    this.kind = kind;
    this.hostKind = stat.mode & S_IFMT;
    this.version = stat.version;
    this.birthSeconds = stat.birthSeconds;
    this.birthNanoseconds = stat.birthNanoseconds;
  }

  /** Whether `stat` is of the same thing; an inode number that was used again is not. */
  is(stat: Statx): boolean {
    return (
      stat.id === this.id &&
      (stat.mode & S_IFMT) === this.hostKind &&
      stat.birthNanoseconds === this.birthNanoseconds &&
      stat.birthSeconds === this.birthSeconds
    );
  }
}

/**
 * All nodes that somebody holds. At most a given number of them keep their descriptor; the others are walked to again from
 * the nearest ancestor that has one, and are only taken for the same when device, inode and time of birth agree.
 */
export class NodeTable {
  readonly root: HostNode;
  readonly #libc: Libc;
  readonly #stat: Statx;
  readonly #kindOf: (fd: number, stat: Statx) => number;
  readonly #limit: number;
  readonly #nodes = new Map<number, HostNode>();
  /** Nodes with a descriptor that could be opened again, roughly the least recently used first. */
  readonly #closable = new Set<HostNode>();
  readonly #name = new NameBuffer();
  readonly #beneath: Beneath;
  readonly #maxBytes: number;
  #bytes = 0;

  /** Takes over `root`, an O_PATH descriptor. `kindOf` says what the guest is to see. */
  constructor(
    libc: Libc,
    stat: Statx,
    root: number,
    limit: number,
    kindOf: (fd: number, stat: Statx) => number,
    maxBytes: number = MAX_NODE_BYTES,
  ) {
    this.#libc = libc;
    this.#stat = stat;
    this.#limit = Math.max(limit, MIN_DESCRIPTORS);
    this.#kindOf = kindOf;
    this.#maxBytes = maxBytes;
    this.#beneath = new Beneath(libc, root, (directory, name) =>
      this.openPath(directory, this.#name.put(name)),
    );
    stat.load(root);
    this.root = new HostNode(stat, stat.id, S_IFDIR);
    this.root.fd = root;
    this.#nodes.set(this.root.id, this.root);
  }

  /** Nodes that somebody holds, and how many of them have a descriptor that can be closed. For tests and people. */
  get counts(): { readonly nodes: number; readonly closable: number } {
    return { nodes: this.#nodes.size, closable: this.#closable.size };
  }

  /** The node's descriptor, opened again if need be. Valid until the next call unless the node is pinned. */
  fd(node: HostNode): number {
    node.recent = true;
    return node.fd >= 0 ? node.fd : this.#reopen(node);
  }

  /** Opens (O_PATH) what lies at the end of `names`; no symlink is followed, and nothing outside of `directory` is reached. */
  openBelow(directory: number, names: readonly string[]): number {
    return this.#beneath.open(directory, names, (errno) => this.isShort(errno, directory));
  }

  /** Whether a node may get this name. ENFILE. */
  checkRoom(name: string): void {
    if (this.#bytes + 2 * name.length > this.#maxBytes) throw Errno.of("ENFILE");
  }

  /** Opens what `name` is now, without following it. The descriptor is the caller's. */
  openPath(directory: number, name: Uint8Array): number {
    const flags = O_PATH | O_NOFOLLOW | O_CLOEXEC;
    let fd = this.#libc.openat(directory, name, flags, 0);
    if (fd < 0 && this.isShort(this.#libc.errno(), directory))
      fd = this.#libc.openat(directory, name, flags, 0);
    if (fd < 0) throw Errno.of(this.#libc.errno());
    return fd;
  }

  /**
   * After a failure: when it was for lack of descriptors, closes half of what can be, but not `keep`, and says true: try
   * again. A descriptor in use must stay: its number could be another file of this process the next moment.
   */
  isShort(errno: number, keep: number): boolean {
    if ((errno !== ERRNO.EMFILE && errno !== ERRNO.ENFILE) || this.#closable.size < 2) return false;
    this.#shrink(this.#closable.size >> 1, keep);
    return true;
  }

  /**
   * The node of what `fd` (O_PATH, from now on the table's) was opened on, found as `name` in `directory`, or without a name.
   * Carries one more reference. `#stat` is loaded for it.
   */
  found(fd: number, directory: HostNode | undefined, name: string): HostNode {
    try {
      this.#stat.load(fd);
      const id = this.#stat.id;
      const known = this.#nodes.get(id);
      if (known?.is(this.#stat) === true) {
        if (directory !== undefined) this.link(known, directory, name);
        known.version = this.#stat.version;
        known.references++;
        if (known.fd >= 0) this.#libc.close(fd);
        else this.#admit(known, fd);
        return known;
      }
      this.#charge(NODE_BYTES);
      // A known one is of an inode that was used again: it lives on for those who hold it, and is not found any more.
      let node: HostNode;
      try {
        node = new HostNode(this.#stat, id, this.#kindOf(fd, this.#stat));
        if (directory !== undefined) this.#attach(node, directory, name);
      } catch (error) {
        this.#bytes -= NODE_BYTES;
        throw error;
      }
      this.#nodes.set(id, node);
      this.#admit(node, fd);
      return node;
    } catch (error) {
      this.#libc.close(fd);
      throw error;
    }
  }

  /** The node that `#stat`, which is loaded, describes, if somebody holds it. */
  held(): HostNode | undefined {
    const node = this.#nodes.get(this.#stat.id);
    return node?.is(this.#stat) === true ? node : undefined;
  }

  /** The node has this name now. */
  link(node: HostNode, directory: HostNode, name: string): void {
    if (node === this.root) return;
    if (node.parent === directory) {
      this.#rename(node, name);
      return;
    }
    // Directories that the host moved about could be each other's parents; what is known of one of them is then old.
    let above: HostNode | undefined = directory;
    if (directory.depth >= MAX_DEPTH) return;
    for (let depth = 0; above !== undefined; depth++, above = above.parent) {
      if (above === node || depth > MAX_DEPTH) return;
    }
    const before = node.parent;
    this.#attach(node, directory, name);
    if (before !== undefined) this.release(before);
    if (node.fd >= 0) this.#admit(node, node.fd);
  }

  /** The node lost the name it was found by; it must have a descriptor. */
  unlink(node: HostNode): void {
    const before = node.parent;
    node.parent = undefined;
    this.#rename(node, "");
    this.#closable.delete(node);
    if (before !== undefined) this.release(before);
  }

  retain(node: HostNode): void {
    node.references++;
  }

  release(node: HostNode): void {
    for (let last: HostNode | undefined = node; last !== undefined && last !== this.root;) {
      last.references--;
      if (last.references > 0) return;
      if (last.fd >= 0) this.#libc.close(last.fd);
      last.fd = -1;
      this.#closable.delete(last);
      this.#bytes -= NODE_BYTES + 2 * last.name.length;
      if (this.#nodes.get(last.id) === last) this.#nodes.delete(last.id);
      const above: HostNode | undefined = last.parent;
      last.parent = undefined;
      last = above;
    }
  }

  /** Closes every descriptor; nothing can be opened again. */
  shutdown(): void {
    for (const node of this.#nodes.values()) {
      if (node.fd >= 0) this.#libc.close(node.fd);
      node.fd = -1;
      node.parent = undefined;
    }
    this.#nodes.clear();
    this.#closable.clear();
    this.#bytes = 0;
  }

  #attach(node: HostNode, directory: HostNode, name: string): void {
    if (directory.depth >= MAX_DEPTH) throw Errno.of("ENAMETOOLONG");
    this.#rename(node, name);
    directory.references++;
    node.parent = directory;
    node.depth = directory.depth + 1;
  }

  #rename(node: HostNode, name: string): void {
    this.#charge(2 * (name.length - node.name.length));
    node.name = name;
  }

  #charge(bytes: number): void {
    if (bytes > 0 && this.#bytes + bytes > this.#maxBytes) throw Errno.of("ENFILE");
    this.#bytes += bytes;
  }

  /**
   * Walks back from the nearest directory above that has a descriptor, in few calls however deep that is. ESTALE: it is not there
   * any more, or something else is.
   */
  #reopen(node: HostNode): number {
    const names: string[] = [];
    let at = node;
    while (at.fd < 0) {
      names.push(at.name);
      if (at.parent === undefined || names.length > MAX_DEPTH) throw Errno.of("ESTALE");
      at = at.parent;
    }
    let fd: number;
    try {
      fd = this.openBelow(at.fd, names.reverse());
    } catch (error) {
      throw error instanceof Errno && LOST.has(error.errno) ? Errno.of("ESTALE") : error;
    }
    try {
      if (!node.is(this.#stat.load(fd))) throw Errno.of("ESTALE");
    } catch (error) {
      this.#libc.close(fd);
      throw error;
    }
    this.#admit(node, fd);
    return fd;
  }

  #admit(node: HostNode, fd: number): void {
    node.fd = fd;
    node.recent = true;
    if (node.parent === undefined) return;
    if (this.#closable.size >= this.#limit) this.#shrink(this.#limit - 1);
    this.#closable.add(node);
  }

  /** Closes descriptors until `count` are left: not those used since the last time, as far as there are others. */
  #shrink(count: number, keep = -1): void {
    for (let tries = 2 * this.#closable.size; tries > 0 && this.#closable.size > count; tries--) {
      const [node] = this.#closable;
      if (node === undefined) return;
      this.#closable.delete(node);
      if (node.recent || node.pins > 0 || node.fd === keep) {
        node.recent = false;
        this.#closable.add(node);
      } else {
        this.#libc.close(node.fd);
        node.fd = -1;
      }
    }
  }
}
