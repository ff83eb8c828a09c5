import type { MaybePromise } from "../../device/device.ts";
import { Errno } from "../../backends/errno.ts";
import {
  type FileHandle,
  type FileLock,
  type FileNode,
  type FileSystem,
  NAME_MAX,
} from "../../backends/file-system.ts";
import { LockTable } from "../../backends/lock-table.ts";
import { utf8Length } from "../../memory/utf8.ts";
import { NOFID } from "../../protocols/9p/numbers.ts";
import { FID_BYTES } from "./limits.ts";

/** The value of an attribute on its way in, from Txattrcreate to Tclunk. */
export interface PendingXattr {
  readonly name: string;
  readonly flags: number;
  readonly value: Uint8Array;
  /** Bytes from the start that have arrived. */
  arrived: number;
}

/** What is left of a fid in saved state, until it is used. */
export interface DormantFid {
  /** Undefined: it had no name any more. */
  readonly path: readonly string[] | undefined;
  /** Open flags, when it was open. */
  readonly flags: number | undefined;
  readonly locks: readonly FileLock[];
  /** How far an open directory was read, as its file system says it. */
  readonly position: readonly number[] | undefined;
  waking?: Promise<void>;
}

/** A client's name for a file, and what it does with it. */
export class Fid {
  readonly number: number;
  /** One reference is held. Undefined: dormant. */
  node: FileNode | undefined;
  /** Who attached: the owner of what is made through this fid. */
  readonly uid: number;
  /**
   * Where the file was found, which may have moved since; one reference is held. Undefined: the fid is the root, was walked to by
   * `..`, or is dormant. The directories above are the file system's to know, where all fids share them.
   */
  directory: FileNode | undefined;
  /** Of the file, in `directory`. */
  name: string;
  /** Bytes that the table has charged for it. */
  cost = 0;
  handle: FileHandle | undefined;
  /** Open flags. */
  flags = 0;
  /** An attribute's value or list of names, being read. */
  value: Uint8Array | undefined;
  pending: PendingXattr | undefined;
  dormant: DormantFid | undefined;
  /** An open is under way. */
  opening = false;
  /** Requests under way that use it: it is given back after the last. */
  users = 0;
  clunked = false;

  /** Takes over the caller's references of `node` and `directory`. */
  constructor(
    number: number,
    uid: number,
    node: FileNode | undefined,
    directory: FileNode | undefined,
    name: string,
  ) {
    this.number = number;
    this.uid = uid;
    this.node = node;
    this.directory = directory;
    this.name = name;
  }
}

/** Two bytes a character: what a string takes that is not Latin. */
function costOf(name: string): number {
  return FID_BYTES + 2 * name.length;
}

export interface FidLimits {
  readonly fids: number;
  /** Bytes, as `limits.ts` charges them. */
  readonly fidBytes: number;
  readonly openFiles: number;
  readonly xattrBytes: number;
}

/** Thrown by what needs a fid that must be walked to again first; the request is then run anew. */
export class FidIsDormant extends Error {
  override readonly name = "FidIsDormant";
  readonly fid: Fid;

  constructor(fid: Fid) {
    super("a fid of restored state");
    this.fid = fid;
  }
}

/** The fids of one session, and what they hold. */
export class FidTable {
  readonly #fs: FileSystem;
  readonly #fids = new Map<number, Fid>();
  /** The client's locks, to be saved. */
  readonly locks: LockTable = new LockTable();
  readonly #limits: FidLimits;
  /** Open handles. */
  opened = 0;
  #xattrBytes = 0;
  #fidBytes = 0;

  constructor(fs: FileSystem, limits: FidLimits) {
    this.#fs = fs;
    this.#limits = limits;
  }

  get size(): number {
    return this.#fids.size;
  }

  values(): Iterable<Fid> {
    return this.#fids.values();
  }

  get(number: number): Fid | undefined {
    return this.#fids.get(number);
  }

  /** Whether a new fid can have this number. */
  checkNew(number: number): void {
    if (number === NOFID) throw Errno.of("EBADF");
    if (this.#fids.has(number)) throw Errno.of("EINVAL");
    if (this.#fids.size >= this.#limits.fids) throw Errno.of("ENFILE");
  }

  /** Whether there is room for one more fid by this name. ENFILE. */
  checkRoom(name: string): void {
    if (this.#fidBytes + costOf(name) > this.#limits.fidBytes) throw Errno.of("ENFILE");
  }

  /** The fid is the table's from now on; when it may not be, what it holds is given back. */
  add(fid: Fid): void {
    try {
      this.checkNew(fid.number);
      this.checkRoom(fid.name);
    } catch (error) {
      void this.dispose(fid);
      throw error;
    }
    this.#put(fid);
  }

  /** Puts `fid` in the place of the one with its number, which is given back. The caller has asked for room. */
  replace(fid: Fid): MaybePromise<void> {
    const before = this.#fids.get(fid.number);
    this.#put(fid);
    return before === undefined ? undefined : this.dispose(before);
  }

  /** The file of the fid has been given this name in `directory`. */
  moved(fid: Fid, directory: FileNode, name: string): void {
    if (fid.clunked) return;
    this.#fs.retain(directory);
    if (fid.directory !== undefined) this.#fs.release(fid.directory);
    fid.directory = directory;
    fid.name = name;
    this.#charge(fid);
  }

  /** One of a saved state, whose bounds were looked at. */
  restore(fid: Fid): void {
    this.#put(fid);
  }

  #put(fid: Fid): void {
    this.#fids.set(fid.number, fid);
    this.#charge(fid);
  }

  #charge(fid: Fid): void {
    const cost = costOf(fid.name);
    this.#fidBytes += cost - fid.cost;
    fid.cost = cost;
  }

  /** Takes it out of the table; `dispose` gives back what it holds. */
  remove(fid: Fid): void {
    if (this.#fids.get(fid.number) === fid) this.#fids.delete(fid.number);
  }

  /** Gives back what the fid holds, now or after the last request that uses it. */
  dispose(fid: Fid): MaybePromise<void> {
    fid.clunked = true;
    if (fid.users > 0) return undefined;
    const { node, directory, handle } = fid;
    this.#xattrBytes -= (fid.value?.length ?? 0) + (fid.pending?.value.length ?? 0);
    this.#fidBytes -= fid.cost;
    fid.cost = 0;
    fid.node = fid.directory = fid.handle = fid.value = fid.pending = undefined;
    if (directory !== undefined) this.#fs.release(directory);
    // The handle holds its node by itself.
    if (node !== undefined) this.#fs.release(node);
    if (handle === undefined) return undefined;
    this.opened--;
    this.locks.closed(handle);
    return this.#fs.close(handle);
  }

  pin(fid: Fid): void {
    fid.users++;
  }

  unpin(fid: Fid): void {
    fid.users--;
    if (fid.users > 0 || !fid.clunked) return;
    // Nobody is left to be told of an error.
    const closed = attempt(() => this.dispose(fid));
    if (closed instanceof Promise) closed.catch(() => {});
  }

  /** Room for one more open file, which the fid may become. EINVAL: it is open already. */
  checkOpen(fid: Fid): void {
    if (fid.handle !== undefined || fid.opening) throw Errno.of("EINVAL");
    if (this.opened >= this.#limits.openFiles) throw Errno.of("ENFILE");
  }

  /** The fid is open from now on. */
  opens(fid: Fid, handle: FileHandle, flags: number): void {
    fid.handle = handle;
    fid.flags = flags;
    this.opened++;
  }

  /** Holds the value of an attribute, within bounds. */
  reserveXattr(length: number): void {
    if (this.#xattrBytes + length > this.#limits.xattrBytes) throw Errno.of("ENOSPC");
    this.#xattrBytes += length;
  }

  /** All fids are gone; resolves when everything is given back. */
  clear(): MaybePromise<void> {
    const fids = [...this.#fids.values()];
    this.#fids.clear();
    const waits = fids
      .map((fid) => attempt(() => this.dispose(fid)))
      .filter((closed) => closed instanceof Promise);
    return waits.length === 0 ? undefined : Promise.allSettled(waits).then(() => undefined);
  }
}

function attempt(action: () => MaybePromise<void>): MaybePromise<void> {
  try {
    return action();
  } catch {
    return undefined;
  }
}

/** One path component that can be created, removed or looked up: EINVAL or ENAMETOOLONG. */
export function checkName(name: string): void {
  if (name === "" || name === "." || name === ".." || name.includes("/") || name.includes("\0")) {
    throw Errno.of("EINVAL");
  }
  if (name.length > NAME_MAX / 3 && utf8Length(name) > NAME_MAX) throw Errno.of("ENAMETOOLONG");
}

/** `next` with the value: at once when it is there, without a microtask. */
export function after<T, R>(value: MaybePromise<T>, next: (value: T) => MaybePromise<R>): MaybePromise<R> {
  return value instanceof Promise ? value.then(next) : next(value);
}

/** As `after`, for failures too. */
export function settle<T, R>(
  action: () => MaybePromise<T>,
  next: (value: T) => MaybePromise<R>,
  failed: (error: unknown) => MaybePromise<R>,
): MaybePromise<R> {
  let value: MaybePromise<T>;
  try {
    value = action();
  } catch (error) {
    return failed(error);
  }
  return value instanceof Promise ? value.then(next, failed) : next(value);
}

/** The value of a file system that says it is synchronous. */
export function now<T>(value: MaybePromise<T>): T {
  if (value instanceof Promise) throw new Error("a synchronous file system returned a promise");
  return value;
}
