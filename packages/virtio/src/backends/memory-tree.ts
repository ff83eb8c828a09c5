import { wholeOption } from "../check-option.ts";
import { utf8Length } from "../memory/utf8.ts";
import { Errno } from "./errno.ts";
import { NAME_MAX, type Owner, type Timestamp } from "./file-system.ts";
import { type MemoryEntry, MemoryNode } from "./memory-node.ts";

/** Bytes charged for an inode and for a name beside its text: what they cost in memory, about. */
const NODE_COST = 512;
const NAME_COST = 128;
/** Names that are gone from a directory and are not worth a new list. */
const FEW_GONE = 16;

/** The inodes of a MemoryFileSystem, their names, and the account of what they take. */
export class MemoryTree {
  readonly maxBytes: number;
  readonly maxInodes: number;
  readonly #clock: () => number;
  bytes = 0;
  inodes = 0;
  #lastId = 0;

  constructor(maxBytes: number, maxInodes: number, clock: () => number) {
    this.maxBytes = wholeOption("memory file system: maxBytes", maxBytes, 0, Number.MAX_SAFE_INTEGER);
    wholeOption("memory file system: maxInodes", maxInodes, 1, Number.MAX_SAFE_INTEGER);
    this.maxInodes = maxInodes;
    this.#clock = clock;
  }

  now(): Timestamp {
    const milliseconds = this.#clock();
    const seconds = Math.floor(milliseconds / 1000);
    return { seconds, nanoseconds: Math.floor((milliseconds - seconds * 1000) * 1e6) };
  }

  charge(bytes: number): void {
    if (bytes > 0 && this.bytes + bytes > this.maxBytes) throw Errno.of("ENOSPC");
    this.bytes += bytes;
  }

  modified(node: MemoryNode, now: Timestamp): void {
    node.mtime = node.ctime = now;
    node.version = (node.version + 1) >>> 0;
  }

  make(mode: number, owner: Owner, extra?: ConstructorParameters<typeof MemoryNode>[5]): MemoryNode {
    if (this.inodes >= this.maxInodes) throw Errno.of("ENOSPC");
    const cost = NODE_COST + (extra?.target === undefined ? 0 : utf8Length(extra.target));
    this.charge(cost);
    this.inodes++;
    const node = new MemoryNode(++this.#lastId, mode, owner, this.now(), this, extra);
    node.cost = cost;
    return node;
  }

  /** A new node under a new name. */
  add(
    directory: MemoryNode,
    name: string,
    mode: number,
    owner: Owner,
    extra?: { readonly rdev?: number; readonly target?: string },
  ): MemoryNode {
    this.checkRoom(directory, name);
    const node = this.make(mode, owner, { ...extra, parent: directory });
    try {
      this.enter(directory, name, node);
    } catch (error) {
      this.reap(node);
      throw error;
    }
    node.nlink = 1;
    return node;
  }

  checkName(name: string): void {
    if (name === "" || name === "." || name === ".." || /[/\0]/.test(name)) throw Errno.of("EINVAL");
    if (utf8Length(name) > NAME_MAX) throw Errno.of("ENAMETOOLONG");
  }

  checkRoom(directory: MemoryNode, name: string): void {
    this.checkName(name);
    if (entriesOf(directory).has(name)) throw Errno.of("EEXIST");
    if (directory.nlink === 0) throw Errno.of("ENOENT");
  }

  /** A new name, charged. */
  enter(directory: MemoryNode, name: string, node: MemoryNode): void {
    this.checkRoom(directory, name);
    this.charge(nameCost(name));
    this.insert(directory, name, node);
  }

  insert(directory: MemoryNode, name: string, node: MemoryNode): void {
    const held = directory.directory;
    if (held === undefined) throw Errno.of("ENOTDIR");
    const entry = { name, node, cursor: ++held.lastCursor, gone: false };
    held.entries.set(name, entry);
    held.order.push(entry);
    node.holder = directory;
    node.name = name;
    this.modified(directory, this.now());
  }

  /** Takes a name away that is there; it stays charged. */
  remove(directory: MemoryNode, name: string): void {
    const held = directory.directory;
    const entry = held?.entries.get(name);
    if (held === undefined || entry === undefined) return;
    held.entries.delete(name);
    entry.gone = true;
    if (held.order.length >= 2 * held.entries.size + FEW_GONE) {
      held.order = held.order.filter((each) => !each.gone);
    }
  }

  leave(directory: MemoryNode, name: string): void {
    this.remove(directory, name);
    this.charge(-nameCost(name));
    this.modified(directory, this.now());
  }

  /** The node lost names. */
  drop(node: MemoryNode, links: number): void {
    node.nlink = Math.max(0, node.nlink - links);
    node.ctime = this.now();
    this.reap(node);
  }

  /** Frees what has neither a name nor a user. */
  reap(node: MemoryNode): void {
    if (node.nlink > 0 || node.references > 0 || node.cost === 0) return;
    node.file?.clear();
    for (const [name, value] of node.xattrs ?? []) this.charge(-value.length - nameCost(name));
    node.xattrs = undefined;
    this.charge(-node.cost);
    node.cost = 0;
    this.inodes--;
  }

  /** Whether `directory` is `above` or lies below it. */
  below(directory: MemoryNode, above: MemoryNode): boolean {
    let at = directory;
    for (;;) {
      if (at === above) return true;
      const parent = at.directory?.parent ?? at;
      if (parent === at) return false;
      at = parent;
    }
  }
}

export function entriesOf(node: MemoryNode): Map<string, MemoryEntry> {
  if (node.directory === undefined) throw Errno.of("ENOTDIR");
  return node.directory.entries;
}

export function nameCost(name: string): number {
  return NAME_COST + utf8Length(name);
}

/** The index of the first entry whose cursor is larger. */
export function firstBehind(order: readonly MemoryEntry[], cursor: number): number {
  let low = 0;
  let high = order.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((order[middle]?.cursor ?? 0) > cursor) high = middle;
    else low = middle + 1;
  }
  return low;
}
