import { MemoryFile, type SpaceBudget } from "./memory-file.ts";
import { type FileNode, type Owner, S_IFDIR, S_IFMT, S_IFREG, type Timestamp } from "./file-system.ts";

/** One name in a directory. A new name gets a new, higher cursor, so a listing can go on behind any of them. */
export interface MemoryEntry {
  readonly name: string;
  readonly node: MemoryNode;
  readonly cursor: number;
  /** The name was taken away. */
  gone: boolean;
}

/** Cursors of `.` and `..`; names follow. */
export const CURSOR_SELF = 1;
export const CURSOR_PARENT = 2;

/** What only a directory has. */
export interface MemoryDirectory {
  readonly entries: Map<string, MemoryEntry>;
  /** The same in order of their cursors, and among them those that are gone: never more than half of a long list. */
  order: MemoryEntry[];
  parent: MemoryNode;
  lastCursor: number;
}

/** An inode of MemoryFileSystem. Only that class changes it. */
export class MemoryNode implements FileNode {
  readonly id: number;
  readonly kind: number;
  version = 0;
  /** Permission bits. */
  permissions: number;
  uid: number;
  gid: number;
  nlink = 0;
  readonly rdev: number;
  atime: Timestamp;
  mtime: Timestamp;
  ctime: Timestamp;
  /** Of a regular file. */
  readonly file: MemoryFile | undefined;
  /** Of a symlink. */
  readonly target: string | undefined;
  /** Of a directory. */
  readonly directory: MemoryDirectory | undefined;
  /** Made when the first is set. */
  xattrs: Map<string, Uint8Array> | undefined;
  /** References of users and open handles. */
  references = 0;
  /** Charged when it was made, given back when it is gone. */
  cost = 0;
  /** Where it can be found by name; a file with several names knows one that it had. */
  name = "";
  holder: MemoryNode | undefined;

  constructor(
    id: number,
    mode: number,
    owner: Owner,
    now: Timestamp,
    budget: SpaceBudget,
    extra: { readonly rdev?: number; readonly target?: string; readonly parent?: MemoryNode } = {},
  ) {
    this.id = id;
    this.kind = mode & S_IFMT;
    this.permissions = mode & 0o7777;
    this.uid = owner.uid;
    this.gid = owner.gid;
    this.rdev = extra.rdev ?? 0;
    this.atime = this.mtime = this.ctime = now;
    this.target = extra.target;
    this.file = this.kind === S_IFREG ? new MemoryFile(budget) : undefined;
    this.directory =
      this.kind === S_IFDIR
        ? { entries: new Map(), order: [], parent: extra.parent ?? this, lastCursor: CURSOR_PARENT }
        : undefined;
  }
}
