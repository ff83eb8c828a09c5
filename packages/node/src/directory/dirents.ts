import { Errno } from "virtio/backends/errno";
import type { DirectoryVisitor } from "virtio/backends/file-system";
import { decodeUtf8 } from "virtio/memory/utf8";
import type { Libc } from "../native/libc.ts";
import { SEEK_SET } from "../native/linux.ts";
import { CookieRing, type DirectoryPlace, START } from "./cookie-ring.ts";
import { type BufferHolder, type DirectoryMemory, ENTRY_BUFFER } from "./directory-memory.ts";

/** Entries that are read past, at most, to find a cursor whose place is not remembered. Bounds what one request costs. */
export const MAX_SKIP: number = 1 << 16;

/** struct linux_dirent64: inode, cookie, length of the record, type, name. */
const COOKIE = 8;
const LENGTH = 16;
const TYPE = 18;
const NAME = 19;

/** What the file system makes of an entry. */
export interface EntryReader {
  /** `FileNode.id` from the name and the two halves of the inode number. */
  id(name: string, low: number, high: number): number;
  /** The kind from the name and what the directory says, 0 when it does not. */
  kind(name: string, kind: number): number;
  /** Where another stream of the same directory knows a cursor to be. */
  find(cursor: number): DirectoryPlace | undefined;
}

/**
 * An open directory, read from cursor to cursor as `FileSystem.readDirectory` says. Linux keeps a place by a cookie of 64 bits that
 * is no safe integer (ext4's are hashes), so cursors count entries here, and the newest of them are remembered with their cookies.
 * One that is not is found from the start: exactly, when the directory has not changed.
 */
export class DirectoryStream implements BufferHolder {
  readonly #libc: Libc;
  readonly #fd: number;
  readonly #entries: EntryReader;
  readonly #memory: DirectoryMemory;
  readonly #ring: CookieRing;
  #buffer: Uint8Array | undefined;
  #view: DataView | undefined;
  /** The part of the buffer that was not visited yet. */
  #at = 0;
  #end = 0;
  /** Behind the entry that was visited last. */
  #cursor = 0;
  #low = 0;
  #high = 0;
  /** The kernel stands elsewhere: it was asked for entries that were lost with the buffer. */
  #astray = false;
  /** Where a saved state says that reading had got to. */
  #saved: DirectoryPlace | undefined;

  constructor(libc: Libc, fd: number, entries: EntryReader, memory: DirectoryMemory) {
    this.#libc = libc;
    this.#fd = fd;
    this.#entries = entries;
    this.#memory = memory;
    this.#ring = new CookieRing(memory);
  }

  read(from: number, visit: DirectoryVisitor): void {
    if (from === 0) this.#seek(START);
    else if (from !== this.#cursor) this.#resume(from);
    this.#visit((at, buffer, view) => {
      const name = decodeUtf8(buffer, at + NAME, buffer.indexOf(0, at + NAME));
      const id = this.#entries.id(name, view.getUint32(at, true), view.getUint32(at + 4, true));
      const kind = this.#entries.kind(name, (buffer[at + TYPE] ?? 0) << 12);
      return visit(name, id, kind, this.#cursor + 1);
    });
  }

  /** Where this stream knows a cursor to be. */
  find(cursor: number): DirectoryPlace | undefined {
    return cursor === this.#cursor ? this.#here() : this.#ring.find(cursor);
  }

  /** How far it was read; undefined: not at all. */
  get place(): DirectoryPlace | undefined {
    return this.#cursor > 0 ? this.#here() : this.#saved;
  }

  /** Before it is read: where reading had got to when a state was saved. */
  restore(place: DirectoryPlace): void {
    this.#saved = place;
  }

  /** The buffer is another's from now on. */
  surrender(): void {
    this.#astray = true;
    this.#at = this.#end = 0;
    this.#buffer = this.#view = undefined;
  }

  close(): void {
    this.#letGo();
    this.#ring.close();
  }

  /** Visits entries until `take` refuses one or the directory ends; true: it has ended. */
  #visit(take: (at: number, buffer: Uint8Array, view: DataView) => boolean): boolean {
    for (;;) {
      if (this.#at >= this.#end && !this.#fill()) {
        this.#letGo();
        return true;
      }
      const at = this.#at;
      const buffer = this.#buffer;
      const view = this.#view;
      if (buffer === undefined || view === undefined) return true;
      if (!take(at, buffer, view)) return false;
      this.#cursor++;
      this.#low = view.getUint32(at + COOKIE, true);
      this.#high = view.getUint32(at + COOKIE + 4, true);
      this.#ring.remember(this.#cursor, this.#low, this.#high);
      this.#at = at + view.getUint16(at + LENGTH, true);
    }
  }

  /** False: the end of the directory. */
  #fill(): boolean {
    if (this.#astray) this.#seek(this.#here());
    const buffer = this.#memory.buffer(this);
    if (buffer !== this.#buffer) {
      this.#buffer = buffer;
      this.#view = new DataView(buffer.buffer);
    }
    const got = this.#libc.getdents64(this.#fd, buffer, ENTRY_BUFFER);
    if (got < 0) throw Errno.of(this.#libc.errno());
    this.#at = 0;
    this.#end = got;
    return got > 0;
  }

  #letGo(): void {
    this.#memory.giveBack(this);
    this.#at = this.#end = 0;
    this.#buffer = this.#view = undefined;
  }

  #resume(cursor: number): void {
    if (!Number.isSafeInteger(cursor) || cursor < 1) throw Errno.of("EINVAL");
    const fresh = this.#cursor === 0 && this.#ring.newest === 0;
    const known = this.#ring.find(cursor) ?? (fresh ? this.#elsewhere(cursor) : undefined);
    if (known?.cursor === cursor) return this.#seek(known);
    const near = known ?? START;
    let left = cursor - near.cursor;
    if (left > MAX_SKIP) throw Errno.of("EINVAL");
    this.#seek(near);
    const ended = this.#visit(() => left-- > 0);
    // One that this stream never gave. To another's there may be less now than there was.
    if (ended && this.#cursor < cursor && !fresh) throw Errno.of("EINVAL");
  }

  /** Nothing was read here yet: what a saved state or another stream of this directory knows. */
  #elsewhere(cursor: number): DirectoryPlace | undefined {
    const saved = this.#saved;
    if (saved?.cursor === cursor) return saved;
    const other = this.#entries.find(cursor);
    if (other !== undefined) return other;
    return saved !== undefined && saved.cursor < cursor ? saved : undefined;
  }

  #here(): DirectoryPlace {
    return { cursor: this.#cursor, low: this.#low, high: this.#high };
  }

  #seek(place: DirectoryPlace): void {
    const cookie = BigInt.asIntN(64, (BigInt(place.high) << 32n) | BigInt(place.low));
    if (this.#libc.lseek(this.#fd, cookie, SEEK_SET) < 0) throw Errno.of(this.#libc.errno());
    this.#cursor = place.cursor;
    this.#low = place.low;
    this.#high = place.high;
    if (this.#ring.find(place.cursor) === undefined) this.#ring.begin(place.cursor);
    this.#at = 0;
    this.#end = 0;
    this.#astray = false;
  }
}
