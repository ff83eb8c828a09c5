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
}

/**
 * POSIX byte-range locks between the clients of one file system in this process. Files are told apart by
 * `FileNode.id`. An owner's locks on a file end when it unlocks, or with the handle they were taken through.
 */
export class LockTable {
  /** By `FileNode.id`, and then by handle: closing one costs what it holds and no more. */
  readonly #files = new Map<number, Map<FileHandle, readonly Held[]>>();
  #count = 0;

  /** False: another owner's lock is in the way. */
  lock(handle: FileHandle, lock: FileLock): boolean {
    const [start, end] = range(lock.start, lock.length);
    const file = this.#files.get(handle.node.id) ?? new Map<FileHandle, readonly Held[]>();
    if (conflict(file, lock, start, end) !== undefined) return false;
    // Taking out the owner's overlap may split one lock in two.
    if (this.#count + 2 > MAX_LOCKS) throw Errno.of("ENOLCK");
    this.#takeOut(file, lock.owner.key, start, end);
    const next = [...(file.get(handle) ?? []), { start, end, exclusive: lock.exclusive, owner: lock.owner }];
    this.#set(file, handle, merge(next));
    this.#files.set(handle.node.id, file);
    return true;
  }

  unlock(handle: FileHandle, owner: LockOwner, start: number, length: number): void {
    const file = this.#files.get(handle.node.id);
    if (file === undefined) return;
    const [first, end] = range(start, length);
    if (this.#count + 1 > MAX_LOCKS) throw Errno.of("ENOLCK");
    this.#takeOut(file, owner.key, first, end);
    if (file.size === 0) this.#files.delete(handle.node.id);
  }

  test(handle: FileHandle, lock: FileLock): FileLock | undefined {
    const [start, end] = range(lock.start, lock.length);
    const file = this.#files.get(handle.node.id);
    const found = file === undefined ? undefined : conflict(file, lock, start, end);
    return found === undefined ? undefined : describe(found);
  }

  /** What was locked through this handle. */
  held(handle: FileHandle): FileLock[] {
    return (this.#files.get(handle.node.id)?.get(handle) ?? []).map(describe);
  }

  /** The handle was closed. */
  closed(handle: FileHandle): void {
    if (this.#count === 0) return;
    const file = this.#files.get(handle.node.id);
    if (file === undefined) return;
    this.#set(file, handle, []);
    if (file.size === 0) this.#files.delete(handle.node.id);
  }

  /** The owner gives up `[start, end)`, whatever handles it locked it through. */
  #takeOut(file: Map<FileHandle, readonly Held[]>, key: string, start: number, end: number): void {
    for (const [handle, held] of file) {
      const touched = held.some((lock) => lock.owner.key === key && start < lock.end && lock.start < end);
      if (touched) this.#set(file, handle, without(held, key, start, end));
    }
  }

  #set(file: Map<FileHandle, readonly Held[]>, handle: FileHandle, held: readonly Held[]): void {
    this.#count += held.length - (file.get(handle)?.length ?? 0);
    if (held.length === 0) file.delete(handle);
    else file.set(handle, held);
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

function conflict(
  file: ReadonlyMap<FileHandle, readonly Held[]>,
  lock: FileLock,
  start: number,
  end: number,
): Held | undefined {
  for (const held of file.values()) {
    const found = held.find(
      (other) =>
        other.start < end &&
        start < other.end &&
        (other.exclusive || lock.exclusive) &&
        other.owner.key !== lock.owner.key,
    );
    if (found !== undefined) return found;
  }
  return undefined;
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
