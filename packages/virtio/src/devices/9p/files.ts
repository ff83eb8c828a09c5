import type { MaybePromise } from "../../device/device.ts";
import { Errno } from "../../backends/errno.ts";
import {
  type FileHandle,
  O_ACCMODE,
  O_APPEND,
  O_CREAT,
  O_DIRECTORY,
  O_DSYNC,
  O_EXCL,
  O_NOATIME,
  O_SYNC,
  O_TRUNC,
  S_IFDIR,
} from "../../backends/file-system.ts";
import { utf8Length } from "../../memory/utf8.ts";
import { type MessageReader, messageSize, MessageWriter } from "../../protocols/9p/message.ts";
import { DIRENT_SIZE, RREAD_HEADER_SIZE, TWRITE_HEADER_SIZE } from "../../protocols/9p/numbers.ts";
import { qidType } from "../../protocols/9p/replies.ts";
import {
  readTfsync,
  readTlcreate,
  readTlopen,
  readTread,
  readTreaddir,
  readTwrite,
} from "../../protocols/9p/requests.ts";
import { writeQid } from "./connect.ts";
import type { Exchange } from "./exchange.ts";
import { after, checkName, Fid, now, type PendingXattr } from "./fids.ts";
import { BOUNCE_SIZE, MAX_READDIR } from "./limits.ts";
import type { Session } from "./session.ts";

/** Tlopen to Tfsync: open files and directories. */

/** Flags that reach the file system; what is a matter of the client alone (O_NONBLOCK, O_DIRECT …) does not. */
const OPEN_FLAGS = O_ACCMODE | O_TRUNC | O_APPEND | O_DSYNC | O_SYNC | O_DIRECTORY | O_NOATIME;

export function open(s: Session, x: Exchange, r: MessageReader): MaybePromise<number> {
  const m = readTlopen(r);
  const fid = s.file(m.fid);
  s.fids.checkOpen(fid);
  const flags = m.flags & OPEN_FLAGS;
  return after(opening(fid, s.fs.open(fid.node, flags)), (handle) => {
    if (fid.clunked) return abandon(s, handle);
    s.fids.opens(fid, handle, flags);
    writeQid(x.reply, fid.node);
    x.reply.u32(s.ioUnit);
    return 0;
  });
}

/** Marks the fid while an asynchronous open is under way. */
function opening<T>(fid: Fid, result: MaybePromise<T>): MaybePromise<T> {
  if (!(result instanceof Promise)) return result;
  fid.opening = true;
  return result.finally(() => (fid.opening = false));
}

/** The fid was clunked while its file was being opened. */
function abandon(s: Session, handle: FileHandle): MaybePromise<number> {
  return after(s.fs.close(handle), () => {
    throw Errno.of("ECANCELED");
  });
}

export function create(s: Session, x: Exchange, r: MessageReader): MaybePromise<number> {
  const m = readTlcreate(r);
  const fid = s.file(m.fid);
  checkName(m.name);
  s.fids.checkOpen(fid);
  s.fids.checkRoom(m.name);
  const directory = fid.node;
  const flags = (m.flags & (OPEN_FLAGS | O_EXCL)) | O_CREAT;
  const owner = { uid: fid.uid, gid: m.gid };
  const made = s.fs.create(directory, m.name, flags, m.mode & 0o7777, owner);
  return after(opening(fid, made), ({ node, handle }) => {
    if (fid.clunked) {
      s.fs.release(node);
      return abandon(s, handle);
    }
    s.fs.retain(directory);
    const file = new Fid(m.fid, fid.uid, node, directory, m.name);
    s.fids.opens(file, handle, flags & ~(O_CREAT | O_EXCL));
    writeQid(x.reply, node);
    x.reply.u32(s.ioUnit);
    return after(s.fids.replace(file), () => 0);
  });
}

/** An open regular file. EBADF, EISDIR. */
function openFile(fid: Fid): FileHandle {
  if (fid.handle === undefined) throw Errno.of("EBADF");
  if (fid.handle.node.kind === S_IFDIR) throw Errno.of("EISDIR");
  return fid.handle;
}

export function read(s: Session, x: Exchange, r: MessageReader): MaybePromise<number> {
  const { fid: number, offset, count } = readTread(r);
  const fid = s.fid(number);
  const room = Math.min(count, x.room - RREAD_HEADER_SIZE, s.msize - RREAD_HEADER_SIZE);
  if (fid.value !== undefined) {
    const piece = fid.value.subarray(offset, offset + room);
    x.put(RREAD_HEADER_SIZE, piece);
    return readDone(x, piece.length);
  }
  const handle = openFile(fid);
  // No file reaches this far: it is behind the end.
  if (offset > Number.MAX_SAFE_INTEGER - room) return readDone(x, 0);
  if (s.fs.asynchronous) return readLater(s, x, handle, offset, room);
  const views = x.targets(RREAD_HEADER_SIZE, room);
  const [first] = views;
  let length = 0;
  if (first !== undefined && views.length === 1) length = now(s.fs.read(handle, offset, first));
  else if (s.fs.readVector !== undefined && views.length > 0) {
    length = now(s.fs.readVector(handle, offset, views));
  } else {
    for (const view of views) {
      const step = now(s.fs.read(handle, offset + length, view));
      length += step;
      if (step < view.length) break;
    }
  }
  x.wrote(RREAD_HEADER_SIZE, length);
  return readDone(x, length);
}

function readDone(x: Exchange, length: number): number {
  x.reply.u32(length);
  return length;
}

async function readLater(
  s: Session,
  x: Exchange,
  handle: FileHandle,
  offset: number,
  room: number,
): Promise<number> {
  const bounce = new Uint8Array(Math.min(room, BOUNCE_SIZE));
  let length = 0;
  while (length < room) {
    if (!x.alive) throw Errno.of("ECANCELED");
    const target = bounce.subarray(0, room - length);
    const step = await s.fs.read(handle, offset + length, target);
    x.put(RREAD_HEADER_SIZE + length, bounce.subarray(0, step));
    length += step;
    if (step < target.length) break;
  }
  return readDone(x, length);
}

export function write(s: Session, x: Exchange, r: MessageReader): MaybePromise<number> {
  const { fid: number, offset, count } = readTwrite(r);
  const fid = s.fid(number);
  if (TWRITE_HEADER_SIZE + count > messageSize(x.message)) throw Errno.of("EINVAL");
  if (fid.pending !== undefined) {
    fillPending(x, fid.pending, offset, count);
    return writeDone(x, count);
  }
  const handle = openFile(fid);
  if (offset > Number.MAX_SAFE_INTEGER - count) throw Errno.of("EFBIG");
  if (s.fs.asynchronous) return writeLater(s, x, handle, offset, count);
  const views = x.sources(TWRITE_HEADER_SIZE, count);
  if (s.fs.writeVector !== undefined && views.length > 1) {
    return writeDone(x, now(s.fs.writeVector(handle, offset, views)));
  }
  let length = 0;
  for (const view of views) {
    const step = tryWrite(s, handle, offset + length, view, length > 0);
    length += step;
    if (step < view.length) break;
  }
  return writeDone(x, length);
}

/** After some bytes are written an error is the end, and what was written counts. */
function tryWrite(s: Session, handle: FileHandle, offset: number, view: Uint8Array, some: boolean): number {
  try {
    return now(s.fs.write(handle, offset, view));
  } catch (error) {
    if (some && error instanceof Errno) return 0;
    throw error;
  }
}

function writeDone(x: Exchange, length: number): number {
  x.reply.u32(length);
  return 0;
}

async function writeLater(
  s: Session,
  x: Exchange,
  handle: FileHandle,
  offset: number,
  count: number,
): Promise<number> {
  const bounce = new Uint8Array(Math.min(count, BOUNCE_SIZE));
  let length = 0;
  while (length < count) {
    if (!x.alive) throw Errno.of("ECANCELED");
    const piece = bounce.subarray(0, count - length);
    x.take(TWRITE_HEADER_SIZE + length, piece);
    let step: number;
    try {
      step = await s.fs.write(handle, offset + length, piece);
    } catch (error) {
      if (length === 0) throw error;
      break;
    }
    length += step;
    if (step < piece.length) break;
  }
  return writeDone(x, length);
}

/** The value of an attribute comes in order. */
function fillPending(x: Exchange, pending: PendingXattr, offset: number, count: number): void {
  if (offset !== pending.arrived) throw Errno.of("EINVAL");
  if (count > pending.value.length - offset) throw Errno.of("ENOSPC");
  x.take(TWRITE_HEADER_SIZE, pending.value.subarray(offset, offset + count));
  pending.arrived += count;
}

export function readDirectory(s: Session, x: Exchange, r: MessageReader): MaybePromise<number> {
  const { fid: number, offset, count } = readTreaddir(r);
  const fid = s.file(number);
  const { handle } = fid;
  if (handle === undefined) throw Errno.of("EBADF");
  if (handle.node.kind !== S_IFDIR) throw Errno.of("ENOTDIR");
  if (offset > Number.MAX_SAFE_INTEGER) throw Errno.of("EINVAL");
  const most = Math.min(count, x.room - RREAD_HEADER_SIZE, s.msize - RREAD_HEADER_SIZE, MAX_READDIR);
  const entries = s.fs.asynchronous ? new MessageWriter(new Uint8Array(most)) : s.scratch;
  entries.start(0);
  let refused = false;
  const visited = s.fs.readDirectory(handle, offset, (name, id, kind, next) => {
    refused = entries.length + DIRENT_SIZE + utf8Length(name) > most;
    if (refused) return false;
    // Nothing is known of its version here; clients look at the type and the number.
    entries
      .qid(qidType(kind), 0, id)
      .u64(next)
      .u8(kind >> 12)
      .text(name);
    return true;
  });
  return after(visited, () => {
    // No reply can say "there is more, but not for so little room".
    if (refused && entries.length === 0) throw Errno.of("EINVAL");
    x.put(RREAD_HEADER_SIZE, entries.bytes.subarray(0, entries.length));
    x.reply.u32(entries.length);
    return entries.length;
  });
}

export function sync(s: Session, _x: Exchange, r: MessageReader): MaybePromise<number> {
  const { fid: number, dataOnly } = readTfsync(r);
  const { handle } = s.file(number);
  if (handle === undefined) throw Errno.of("EBADF");
  return after(s.fs.sync(handle, dataOnly), () => 0);
}
