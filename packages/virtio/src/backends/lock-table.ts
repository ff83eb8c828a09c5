import { Errno } from "./errno.ts";
import type { FileHandle, FileLock, LockOwner } from "./file-system.ts";

/** Locks that all files of one table may hold together; one more is ENOLCK. */
export const MAX_LOCKS = 16384;

interface Held {
  start: number;
  /** First byte behind; Infinity: to the end of the file. */
  end: number;
  readonly exclusive: boolean;
  readonly owner: LockOwner;
  readonly handle: FileHandle;
}

/**
 * POSIX byte-range locks between the clients of one file system in this process. Files are told apart by
 * `FileNode.id`. An owner's locks on a file end when it unlocks, or with the handle they were taken through.
 */
export class LockTable {
  readonly #files = new Map<number, Held[]>();
  #count = 0;

  /** False: another owner's lock is in the way. */
  lock(handle: FileHandle, lock: FileLock): boolean {
    const [start, end] = range(lock.start, lock.length);
    const held = this.#files.get(handle.node.id) ?? [];
    if (conflict(held, lock, start, end) !== undefined) return false;
    // Taking out the owner's overlap may split one lock in two.
    if (this.#count + 2 > MAX_LOCKS) throw Errno.of("ENOLCK");
    const next = without(held, lock.owner.key, start, end);
    next.push({ start, end, exclusive: lock.exclusive, owner: lock.owner, handle });
    this.#set(handle.node.id, held, merge(next));
    return true;
  }

  unlock(handle: FileHandle, owner: LockOwner, start: number, length: number): void {
    const held = this.#files.get(handle.node.id);
    if (held === undefined) return;
    const [first, end] = range(start, length);
    if (this.#count + 1 > MAX_LOCKS) throw Errno.of("ENOLCK");
    this.#set(handle.node.id, held, without(held, owner.key, first, end));
  }

  test(handle: FileHandle, lock: FileLock): FileLock | undefined {
    const [start, end] = range(lock.start, lock.length);
    const found = conflict(this.#files.get(handle.node.id) ?? [], lock, start, end);
    return found === undefined ? undefined : describe(found);
  }

  /** What was locked through this handle. */
  held(handle: FileHandle): FileLock[] {
    return (this.#files.get(handle.node.id) ?? []).filter((held) => held.handle === handle).map(describe);
  }

  /** The handle was closed. */
  closed(handle: FileHandle): void {
    if (this.#count === 0) return;
    const held = this.#files.get(handle.node.id);
    if (held === undefined) return;
    this.#set(
      handle.node.id,
      held,
      held.filter((lock) => lock.handle !== handle),
    );
  }

  #set(id: number, before: readonly Held[], after: Held[]): void {
    this.#count += after.length - before.length;
    if (after.length === 0) this.#files.delete(id);
    else this.#files.set(id, after);
  }
}

function describe(held: Held): FileLock {
  const length = held.end === Infinity ? 0 : held.end - held.start;
  return { exclusive: held.exclusive, start: held.start, length, owner: held.owner };
}

function range(start: number, length: number): [number, number] {
  if (!Number.isSafeInteger(start) || start < 0 || !Number.isSafeInteger(length) || length < 0) {
    throw Errno.of("EINVAL");
  }
  return [start, length === 0 ? Infinity : start + length];
}

function conflict(held: readonly Held[], lock: FileLock, start: number, end: number): Held | undefined {
  return held.find(
    (other) =>
      other.start < end &&
      start < other.end &&
      (other.exclusive || lock.exclusive) &&
      other.owner.key !== lock.owner.key,
  );
}

/** What is left when the owner gives up `[start, end)`. */
function without(held: readonly Held[], key: string, start: number, end: number): Held[] {
  const left: Held[] = [];
  for (const lock of held) {
    if (lock.owner.key !== key || lock.end <= start || end <= lock.start) {
      left.push(lock);
      continue;
    }
    if (lock.start < start) left.push({ ...lock, end: start });
    if (end < lock.end) left.push({ ...lock, start: end });
  }
  return left;
}

/** Joins the newest lock (the last) with equal ones that touch it, so that a writer that locks byte by byte stays small. */
function merge(held: Held[]): Held[] {
  const newest = held.pop();
  if (newest === undefined) return held;
  const rest = held.filter((lock) => {
    const same =
      lock.owner.key === newest.owner.key &&
      lock.exclusive === newest.exclusive &&
      lock.handle === newest.handle &&
      lock.start <= newest.end &&
      newest.start <= lock.end;
    if (same) {
      newest.start = Math.min(newest.start, lock.start);
      newest.end = Math.max(newest.end, lock.end);
    }
    return !same;
  });
  rest.push(newest);
  return rest;
}
