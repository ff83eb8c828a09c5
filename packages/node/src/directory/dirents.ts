import { Errno } from "virtio/backends/errno";
import type { DirectoryVisitor } from "virtio/backends/file-system";
import { decodeUtf8 } from "virtio/memory/utf8";
import type { Libc } from "../native/libc.ts";
import { SEEK_SET } from "../native/linux.ts";

/** Bytes of entries that the kernel is asked for at once. */
const BUFFER = 1 << 15;
/**
 * Entries that reading can go back to without starting over, the newest of one open directory. Linux keeps a place by a cookie
 * of 64 bits that is no safe integer (ext4's are hashes), so cursors count entries here and a table knows the cookies.
 */
export const REMEMBERED: number = 1 << 16;
const REMEMBERED_FIRST = 256;

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
}

/** An open directory, read from cursor to cursor as `FileSystem.readDirectory` says. */
export class DirectoryStream {
  readonly #libc: Libc;
  readonly #fd: number;
  readonly #entries: EntryReader;
  readonly #buffer: Uint8Array = new Uint8Array(BUFFER);
  readonly #view: DataView = new DataView(this.#buffer.buffer);
  /** The part of the buffer that was not visited yet. */
  #at = 0;
  #end = 0;
  /** Behind the entry that was visited last. */
  #cursor = 0;
  /** For each cursor from `#oldest` to `#newest` its cookie, low and high half; the size is a power of two. */
  #cookies: Uint32Array = new Uint32Array(2 * REMEMBERED_FIRST);
  #oldest = 1;
  #newest = 0;

  constructor(libc: Libc, fd: number, entries: EntryReader) {
    this.#libc = libc;
    this.#fd = fd;
    this.#entries = entries;
  }

  read(from: number, visit: DirectoryVisitor): void {
    if (from === 0) this.#rewind();
    else if (from !== this.#cursor) this.#resume(from);
    while (this.#at < this.#end || this.#fill()) {
      const at = this.#at;
      const name = decodeUtf8(this.#buffer, at + NAME, this.#buffer.indexOf(0, at + NAME));
      const id = this.#entries.id(name, this.#view.getUint32(at, true), this.#view.getUint32(at + 4, true));
      const kind = this.#entries.kind(name, (this.#buffer[at + TYPE] ?? 0) << 12);
      if (!visit(name, id, kind, this.#cursor + 1)) return;
      this.#cursor++;
      this.#remember(this.#view.getUint32(at + COOKIE, true), this.#view.getUint32(at + COOKIE + 4, true));
      this.#at = at + this.#view.getUint16(at + LENGTH, true);
    }
  }

  /** False: the end of the directory. */
  #fill(): boolean {
    const got = this.#libc.getdents64(this.#fd, this.#buffer, BUFFER);
    if (got < 0) throw Errno.of(this.#libc.errno());
    this.#at = 0;
    this.#end = got;
    return got > 0;
  }

  #rewind(): void {
    if (this.#oldest > 1) this.#newest = 0;
    this.#oldest = 1;
    this.#seek(0, 0n);
  }

  #resume(cursor: number): void {
    const given = Number.isSafeInteger(cursor) && cursor >= this.#oldest && cursor <= this.#newest;
    if (!given) throw Errno.of("EINVAL");
    const slot = this.#slot(cursor);
    const low = BigInt(this.#cookies[slot] ?? 0);
    const high = BigInt(this.#cookies[slot + 1] ?? 0);
    this.#seek(cursor, BigInt.asIntN(64, (high << 32n) | low));
  }

  #seek(cursor: number, cookie: bigint): void {
    if (this.#libc.lseek(this.#fd, cookie, SEEK_SET) < 0) throw Errno.of(this.#libc.errno());
    this.#cursor = cursor;
    this.#at = 0;
    this.#end = 0;
  }

  #remember(low: number, high: number): void {
    const cursor = this.#cursor;
    const slot = this.#slot(cursor);
    // Read once more: cursors that were given stay good as long as the directory did not change under them.
    if (cursor <= this.#newest && this.#cookies[slot] === low && this.#cookies[slot + 1] === high) return;
    this.#newest = cursor;
    const room = this.#cookies.length / 2;
    if (cursor - this.#oldest >= room) {
      if (room < REMEMBERED) this.#grow(2 * room);
      else this.#oldest = cursor - room + 1;
    }
    const place = this.#slot(cursor);
    this.#cookies[place] = low;
    this.#cookies[place + 1] = high;
  }

  #grow(room: number): void {
    const before = this.#cookies;
    const mask = before.length / 2 - 1;
    this.#cookies = new Uint32Array(2 * room);
    for (let cursor = this.#oldest; cursor < this.#newest; cursor++) {
      const slot = this.#slot(cursor);
      this.#cookies[slot] = before[2 * (cursor & mask)] ?? 0;
      this.#cookies[slot + 1] = before[2 * (cursor & mask) + 1] ?? 0;
    }
  }

  #slot(cursor: number): number {
    return 2 * (cursor & (this.#cookies.length / 2 - 1));
  }
}
