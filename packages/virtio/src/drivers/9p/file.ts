import { decodeUtf8, encodeUtf8 } from "../../memory/utf8.ts";
import { MessageReader, type MessageWriter, type Qid } from "../../protocols/9p/message.ts";
import {
  AT_REMOVEDIR,
  IO_HEADER_ROOM,
  LOCK_SUCCESS,
  LOCK_TYPE_RDLCK,
  LOCK_TYPE_UNLCK,
  LOCK_TYPE_WRLCK,
  MAX_WALK,
  SETATTR_ATIME,
  SETATTR_ATIME_SET,
  SETATTR_GID,
  SETATTR_MODE,
  SETATTR_MTIME,
  SETATTR_MTIME_SET,
  SETATTR_SIZE,
  SETATTR_UID,
  TCLUNK,
  TFSYNC,
  TGETATTR,
  TGETLOCK,
  TLCREATE,
  TLINK,
  TLOCK,
  TLOPEN,
  TMKDIR,
  TMKNOD,
  TREAD,
  TREADDIR,
  TREADLINK,
  TREMOVE,
  TRENAME,
  TRENAMEAT,
  TSETATTR,
  TSTATFS,
  TSYMLINK,
  TUNLINKAT,
  TWALK,
  TWRITE,
  TXATTRCREATE,
  TXATTRWALK,
  GETATTR_BASIC,
} from "../../protocols/9p/numbers.ts";
import {
  type DirectoryEntry,
  readDirectoryEntry,
  readRgetattr,
  readRgetlock,
  readRstatfs,
  type Rgetattr,
  type Rgetlock,
  type Rstatfs,
} from "../../protocols/9p/replies.ts";
import * as request from "../../protocols/9p/requests.ts";
import { type Connection, NinePError } from "./connection.ts";

export { NinePError };

/** Linux' O_RDONLY, O_WRONLY and O_RDWR, for `open`; other flags of asm-generic/fcntl.h may be added. */
export const READ_ONLY = 0;
export const WRITE_ONLY = 1;
export const READ_WRITE = 2;

const XATTR_REPLACE = 2;

/** Numbers that are free to name files by. */
export class FidNumbers {
  readonly #free: number[] = [];
  #next = 0;

  take(): number {
    return this.#free.pop() ?? this.#next++;
  }

  give(fid: number): void {
    this.#free.push(fid);
  }
}

/** What may change; times are seconds since 1970 and nanoseconds, or now. */
export interface NinePChanges {
  readonly mode?: number;
  readonly uid?: number;
  readonly gid?: number;
  readonly size?: number;
  readonly atime?: { readonly seconds: number; readonly nanoseconds: number } | "now";
  readonly mtime?: { readonly seconds: number; readonly nanoseconds: number } | "now";
}

/** Bytes from `start` on; `length` 0: to the end of the file. `process`: any number that tells lock owners apart. */
export interface NinePRange {
  readonly start: number;
  readonly length: number;
  readonly process: number;
}

const nothing = (): void => {};

/** A file or directory of the share: a fid. Close it when it is done with. Every method rejects with a NinePError. */
export class NinePFile {
  readonly #connection: Connection;
  readonly #fids: FidNumbers;
  readonly #fid: number;
  #qid: Qid;

  constructor(connection: Connection, fids: FidNumbers, fid: number, qid: Qid) {
    this.#connection = connection;
    this.#fids = fids;
    this.#fid = fid;
    this.#qid = qid;
  }

  /** What the server calls it. */
  get qid(): Qid {
    return this.#qid;
  }

  #call<T>(type: number, write: (w: MessageWriter) => void, read: (r: MessageReader) => T): Promise<T> {
    return this.#connection.call(type, write, read);
  }

  /** The file at the end of these names; `..` goes up, no symlink is followed. Without names: another of this one. */
  async walk(...names: readonly string[]): Promise<NinePFile> {
    let file = await this.#step(names.slice(0, MAX_WALK));
    for (let at = MAX_WALK; at < names.length; at += MAX_WALK) {
      const before = file;
      try {
        file = await before.#step(names.slice(at, at + MAX_WALK));
      } finally {
        await before.close();
      }
    }
    return file;
  }

  async #step(names: readonly string[]): Promise<NinePFile> {
    const newFid = this.#fids.take();
    const qids = await this.#call(
      TWALK,
      (w) => request.writeTwalk(w, { fid: this.#fid, newFid, names }),
      (r) => Array.from({ length: Math.min(r.u16(), MAX_WALK) }, () => r.qid()),
    ).catch((error: unknown) => {
      this.#fids.give(newFid);
      throw error;
    });
    // Fewer: the walk stopped at a name that is not there.
    if (qids.length < names.length) {
      this.#fids.give(newFid);
      throw new NinePError(2, TWALK);
    }
    return new NinePFile(this.#connection, this.#fids, newFid, qids.at(-1) ?? this.#qid);
  }

  /** Makes it ready for `read`, `write` or `entries`. `flags`: READ_ONLY … */
  async open(flags: number = READ_ONLY): Promise<this> {
    this.#qid = await this.#call(
      TLOPEN,
      (w) => request.writeTlopen(w, { fid: this.#fid, flags }),
      (r) => r.qid(),
    );
    return this;
  }

  /** Makes a file in this directory and opens it. `this` stays the directory. */
  async create(name: string, flags: number = READ_WRITE, mode = 0o644, gid = 0): Promise<NinePFile> {
    const file = await this.walk();
    try {
      file.#qid = await this.#call(
        TLCREATE,
        (w) => request.writeTlcreate(w, { fid: file.#fid, name, flags, mode, gid }),
        (r) => r.qid(),
      );
      return file;
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  /** Bytes read into the start of `target`: fewer than asked when the file ends or the message is full. */
  async read(offset: number, target: Uint8Array): Promise<number> {
    const room = target.subarray(0, this.#connection.msize - IO_HEADER_ROOM);
    return this.#connection.call(
      TREAD,
      (w) => request.writeTread(w, { fid: this.#fid, offset, count: room.length }),
      (r) => boundedCount(r, room.length),
      { receive: room },
    );
  }

  /** The contents from `offset` on, piece by piece. */
  async *pieces(offset = 0, pieceSize: number = this.#connection.msize): AsyncGenerator<Uint8Array, void> {
    for (let at = offset; ;) {
      const piece = new Uint8Array(Math.min(pieceSize, this.#connection.msize - IO_HEADER_ROOM));
      const length = await this.read(at, piece);
      if (length === 0) return;
      at += length;
      yield piece.subarray(0, length);
    }
  }

  /** All of it; throws when it is longer than `limit` bytes. */
  async readAll(limit: number = 64 * 1024 * 1024): Promise<Uint8Array> {
    const pieces: Uint8Array[] = [];
    let length = 0;
    for await (const piece of this.pieces()) {
      pieces.push(piece);
      length += piece.length;
      if (length > limit) throw new RangeError(`the file has more than ${limit} bytes`);
    }
    const whole = new Uint8Array(length);
    let at = 0;
    for (const piece of pieces) {
      whole.set(piece, at);
      at += piece.length;
    }
    return whole;
  }

  /** Writes all of `source`. */
  async write(offset: number, source: Uint8Array): Promise<void> {
    for (let done = 0; done < source.length;) {
      const piece = source.subarray(done, done + this.#connection.msize - IO_HEADER_ROOM);
      const at = offset + done;
      const count = await this.#connection.call(
        TWRITE,
        (w) => request.writeTwrite(w, { fid: this.#fid, offset: at, count: piece.length }),
        (r) => boundedCount(r, piece.length),
        { send: piece },
      );
      if (count === 0) throw new NinePError(5, TWRITE);
      done += count;
    }
  }

  /** What is in this open directory, `.` and `..` too. */
  async *entries(): AsyncGenerator<DirectoryEntry, void> {
    const room = new Uint8Array(Math.min(65_536, this.#connection.msize - IO_HEADER_ROOM));
    for (let offset = 0; ;) {
      const count = await this.#connection.call(
        TREADDIR,
        (w) => request.writeTreaddir(w, { fid: this.#fid, offset, count: room.length }),
        (r) => boundedCount(r, room.length),
        { receive: room },
      );
      if (count === 0) return;
      const reader = new MessageReader().start(room.slice(0, count), count, 0);
      while (reader.remaining > 0) {
        const entry = readDirectoryEntry(reader);
        ({ offset } = entry);
        yield entry;
      }
    }
  }

  stat(): Promise<Rgetattr & { readonly qid: Qid }> {
    return this.#call(
      TGETATTR,
      (w) => request.writeTgetattr(w, { fid: this.#fid, mask: GETATTR_BASIC }),
      readRgetattr,
    );
  }

  setAttributes(changes: NinePChanges): Promise<void> {
    const { mode, uid, gid, size, atime, mtime } = changes;
    const time = (value: NinePChanges["atime"], bit: number, set: number): number =>
      value === undefined ? 0 : value === "now" ? bit : bit | set;
    const valid =
      (mode === undefined ? 0 : SETATTR_MODE) |
      (uid === undefined ? 0 : SETATTR_UID) |
      (gid === undefined ? 0 : SETATTR_GID) |
      (size === undefined ? 0 : SETATTR_SIZE) |
      time(atime, SETATTR_ATIME, SETATTR_ATIME_SET) |
      time(mtime, SETATTR_MTIME, SETATTR_MTIME_SET);
    const at = typeof atime === "object" ? atime : { seconds: 0, nanoseconds: 0 };
    const mt = typeof mtime === "object" ? mtime : { seconds: 0, nanoseconds: 0 };
    const message = {
      fid: this.#fid,
      valid,
      mode: mode ?? 0,
      uid: uid ?? 0,
      gid: gid ?? 0,
      size: size ?? 0,
      atime: at.seconds,
      atimeNanoseconds: at.nanoseconds,
      mtime: mt.seconds,
      mtimeNanoseconds: mt.nanoseconds,
    };
    return this.#call(TSETATTR, (w) => request.writeTsetattr(w, message), nothing);
  }

  readLink(): Promise<string> {
    return this.#call(
      TREADLINK,
      (w) => void w.u32(this.#fid),
      (r) => r.text(),
    );
  }

  makeDirectory(name: string, mode = 0o755, gid = 0): Promise<Qid> {
    const message = { fid: this.#fid, name, mode, gid };
    return this.#call(
      TMKDIR,
      (w) => request.writeTmkdir(w, message),
      (r) => r.qid(),
    );
  }

  makeSymlink(name: string, target: string, gid = 0): Promise<Qid> {
    const message = { fid: this.#fid, name, target, gid };
    return this.#call(
      TSYMLINK,
      (w) => request.writeTsymlink(w, message),
      (r) => r.qid(),
    );
  }

  /** `mode`: type and permission bits. */
  makeNode(name: string, mode: number, major = 0, minor = 0, gid = 0): Promise<Qid> {
    const message = { fid: this.#fid, name, mode, major, minor, gid };
    return this.#call(
      TMKNOD,
      (w) => request.writeTmknod(w, message),
      (r) => r.qid(),
    );
  }

  /** A further name for `file` in this directory. */
  link(file: NinePFile, name: string): Promise<void> {
    const message = { directoryFid: this.#fid, fid: file.#fid, name };
    return this.#call(TLINK, (w) => request.writeTlink(w, message), nothing);
  }

  /** Takes the name of a file away, or that of an empty directory. */
  unlink(name: string, directory = false): Promise<void> {
    const message = { fid: this.#fid, name, flags: directory ? AT_REMOVEDIR : 0 };
    return this.#call(TUNLINKAT, (w) => request.writeTunlinkat(w, message), nothing);
  }

  /** Moves what is called `oldName` in this directory. */
  renameEntry(oldName: string, directory: NinePFile, newName: string): Promise<void> {
    const message = { oldDirectoryFid: this.#fid, oldName, newDirectoryFid: directory.#fid, newName };
    return this.#call(TRENAMEAT, (w) => request.writeTrenameat(w, message), nothing);
  }

  /** Moves this file. */
  rename(directory: NinePFile, name: string): Promise<void> {
    const message = { fid: this.#fid, directoryFid: directory.#fid, name };
    return this.#call(TRENAME, (w) => request.writeTrename(w, message), nothing);
  }

  statistics(): Promise<Rstatfs> {
    return this.#call(TSTATFS, (w) => void w.u32(this.#fid), readRstatfs);
  }

  /** What was written is durable then. */
  sync(dataOnly = false): Promise<void> {
    return this.#call(TFSYNC, (w) => request.writeTfsync(w, { fid: this.#fid, dataOnly }), nothing);
  }

  /** False: somebody else's lock is in the way. */
  async lock(range: NinePRange, exclusive: boolean, client = ""): Promise<boolean> {
    const type = exclusive ? LOCK_TYPE_WRLCK : LOCK_TYPE_RDLCK;
    const message = { fid: this.#fid, type, flags: 0, ...range, client };
    const status = await this.#call(
      TLOCK,
      (w) => request.writeTlock(w, message),
      (r) => r.u8(),
    );
    return status === LOCK_SUCCESS;
  }

  unlock(range: NinePRange, client = ""): Promise<void> {
    const message = { fid: this.#fid, type: LOCK_TYPE_UNLCK, flags: 0, ...range, client };
    return this.#call(TLOCK, (w) => request.writeTlock(w, message), nothing);
  }

  /** The lock that would be in the way; its type is 2 when there is none. */
  testLock(range: NinePRange, exclusive: boolean, client = ""): Promise<Rgetlock> {
    const type = exclusive ? LOCK_TYPE_WRLCK : LOCK_TYPE_RDLCK;
    const message = { fid: this.#fid, type, ...range, client };
    return this.#call(TGETLOCK, (w) => request.writeTgetlock(w, message), readRgetlock);
  }

  async getXattr(name: string): Promise<Uint8Array> {
    const newFid = this.#fids.take();
    let size: number;
    try {
      size = await this.#call(
        TXATTRWALK,
        (w) => request.writeTxattrwalk(w, { fid: this.#fid, newFid, name }),
        (r) => r.u64(),
      );
    } catch (error) {
      this.#fids.give(newFid);
      throw error;
    }
    const value = new NinePFile(this.#connection, this.#fids, newFid, this.#qid);
    try {
      return await value.readAll(size);
    } finally {
      await value.close();
    }
  }

  async listXattrs(): Promise<string[]> {
    return decodeUtf8(await this.getXattr(""))
      .split("\0")
      .slice(0, -1);
  }

  /** `flags`: 0, XATTR_CREATE (1) or XATTR_REPLACE (2). */
  async setXattr(name: string, value: Uint8Array | string, flags = 0): Promise<void> {
    const bytes = typeof value === "string" ? encodeUtf8(value) : value;
    const fid = await this.walk();
    try {
      const message = { fid: fid.#fid, name, size: bytes.length, flags };
      await this.#call(TXATTRCREATE, (w) => request.writeTxattrcreate(w, message), nothing);
      await fid.write(0, bytes);
    } catch (error) {
      await fid.close().catch(nothing);
      throw error;
    }
    await fid.close();
  }

  /** The protocol has no message for it: a value of 0 bytes that must replace one. */
  removeXattr(name: string): Promise<void> {
    return this.setXattr(name, new Uint8Array(0), XATTR_REPLACE);
  }

  /** Removes the file and forgets it, even when that fails. */
  async remove(): Promise<void> {
    await this.#end(TREMOVE);
  }

  /** The server forgets it. An error tells that an attribute could not be set. */
  async close(): Promise<void> {
    await this.#end(TCLUNK);
  }

  async #end(type: number): Promise<void> {
    try {
      await this.#call(type, (w) => void w.u32(this.#fid), nothing);
    } finally {
      this.#fids.give(this.#fid);
    }
  }
}

function boundedCount(r: MessageReader, most: number): number {
  const count = r.u32();
  if (count > most) throw new NinePError(5, TREAD);
  return count;
}
