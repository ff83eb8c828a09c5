import type { MaybePromise } from "../../device/device.ts";
import { Errno, errnoOf } from "../../backends/errno.ts";
import { type FileNode, type FileSystem, XATTR_REPLACE } from "../../backends/file-system.ts";
import type { MessageReader, MessageWriter } from "../../protocols/9p/message.ts";
import {
  HEADER_SIZE,
  NOFID,
  NONUNAME,
  QID_SIZE,
  VERSION_9P2000_L,
  VERSION_UNKNOWN,
} from "../../protocols/9p/numbers.ts";
import { qidType, writeRversion } from "../../protocols/9p/replies.ts";
import { readTattach, readTflush, readTversion, readTwalk } from "../../protocols/9p/requests.ts";
import type { Exchange } from "./exchange.ts";
import { after, checkName, Fid, type PendingXattr, settle } from "./fids.ts";
import { MIN_MSIZE } from "./limits.ts";
import type { Session } from "./session.ts";
import { walkPath, Way } from "./way.ts";

/** Tversion to Tclunk: how a client comes, walks to files, and leaves. */

/** Drops what was before and agrees on a size of messages. */
export function version(s: Session, x: Exchange, r: MessageReader): MaybePromise<number> {
  const { msize, version: wanted } = readTversion(r);
  if (msize < MIN_MSIZE) throw Errno.of("EMSGSIZE");
  const agreed = Math.min(msize, s.maxMsize);
  return after(s.reset(), () => {
    const known = wanted === VERSION_9P2000_L;
    if (known) s.msize = agreed;
    x.epoch = s.epoch;
    writeRversion(x.reply, { msize: agreed, version: known ? VERSION_9P2000_L : VERSION_UNKNOWN });
    return 0;
  });
}

/** There is nobody to authenticate to: who can reach the device may use it. */
export function auth(): number {
  throw Errno.of("EOPNOTSUPP");
}

/** `aname` may name a directory below the root to take for the root. */
export function attach(s: Session, x: Exchange, r: MessageReader): MaybePromise<number> {
  const { fid: number, afid, aname, n_uname } = readTattach(r);
  if (afid !== NOFID) throw Errno.of("EBADF");
  s.fids.checkNew(number);
  const names = aname.split("/").filter((name) => name !== "");
  names.forEach(checkName);
  return after(walkPath(s.fs, names), (way) => {
    s.install(x, fidAt(way, number, n_uname === NONUNAME ? 0 : n_uname));
    writeQid(x.reply, way.node);
    return 0;
  });
}

/** A fid for where the way ends, which it takes over. */
function fidAt(way: Way, number: number, uid: number): Fid {
  return new Fid(number, uid, way.node, way.directory, way.name);
}

/** Requests are not given up: the reply comes when the other one is answered. */
export function flush(s: Session, _x: Exchange, r: MessageReader): MaybePromise<number> {
  return s.pending.get(readTflush(r).oldtag)?.then(() => 0) ?? 0;
}

export function walk(s: Session, x: Exchange, r: MessageReader): MaybePromise<number> {
  const { fid: number, newFid, names } = readTwalk(r);
  const fid = s.file(number);
  for (const name of names) if (name !== "..") checkName(name);
  if (newFid !== number) s.fids.checkNew(newFid);
  else if (fid.handle !== undefined || fid.opening) throw Errno.of("EINVAL");
  if (x.room < HEADER_SIZE + 2 + QID_SIZE * names.length) throw Errno.of("EMSGSIZE");
  x.reply.u16(0);
  const way = new Way(s.fs, fid.node, fid.directory, fid.name);
  return settle(
    () => way.follow(names, (node) => writeQid(x.reply, node)),
    () => arrived(s, x, fid, newFid, way),
    (error) => stopped(x, way, error),
  );
}

/** The first name that fails is an error; a later one ends the walk there, and the new fid is not made. */
function stopped(x: Exchange, way: Way, error: unknown): number {
  way.leave();
  // Looking for what is not there is everyday work, and throwing once more is not free.
  if (way.steps === 0) return -errnoOf(error);
  writeCount(x.reply, way.steps);
  return 0;
}

function arrived(s: Session, x: Exchange, fid: Fid, newFid: number, way: Way): MaybePromise<number> {
  writeCount(x.reply, way.steps);
  const made = fidAt(way, newFid, fid.uid);
  if (newFid !== fid.number) {
    s.install(x, made);
    return 0;
  }
  try {
    if (s.fids.get(newFid) !== fid) throw Errno.of("ECANCELED");
    s.fids.checkRoom(made.name);
  } catch (error) {
    way.leave();
    throw error;
  }
  return after(s.fids.replace(made), () => 0);
}

function writeCount(reply: MessageWriter, count: number): void {
  reply.bytes[HEADER_SIZE] = count;
}

export function writeQid(reply: MessageWriter, node: FileNode): void {
  reply.qid(qidType(node.kind), node.version, node.id);
}

/** The fid is gone, whatever the reply says. */
export function clunk(s: Session, _x: Exchange, r: MessageReader): MaybePromise<number> {
  const number = r.u32();
  const fid = s.fids.get(number);
  if (fid === undefined) throw Errno.of("EBADF");
  // An attribute is set now, which needs its file; anything else may stay dormant.
  const { pending } = fid.pending === undefined ? fid : s.fid(number);
  s.fids.remove(fid);
  const { node } = fid;
  if (pending === undefined || node === undefined) return after(s.fids.dispose(fid), () => 0);
  return settle(
    () => setPending(s.fs, node, pending),
    () => after(s.fids.dispose(fid), () => 0),
    (error) =>
      after(s.fids.dispose(fid), () => {
        throw error;
      }),
  );
}

/**
 * The protocol has no message that removes an attribute: clients send one of 0 bytes that must exist. (An empty value
 * with other flags is an empty value.)
 */
function setPending(fs: FileSystem, node: FileNode, pending: PendingXattr): MaybePromise<void> {
  const { name, flags, value, arrived: bytes } = pending;
  if (bytes !== value.length) throw Errno.of("EINVAL");
  if (value.length === 0 && flags === XATTR_REPLACE) return fs.removeXattr(node, name);
  return fs.setXattr(node, name, value, flags);
}
