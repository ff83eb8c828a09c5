import type { MaybePromise } from "../../device/device.ts";
import { Errno } from "../../backends/errno.ts";
import {
  type AttributeChanges,
  NAME_MAX,
  type Timestamp,
  XATTR_CREATE,
  XATTR_REPLACE,
} from "../../backends/file-system.ts";
import { encodeUtf8, utf8Length } from "../../memory/utf8.ts";
import type { MessageReader } from "../../protocols/9p/message.ts";
import {
  SETATTR_ATIME,
  SETATTR_ATIME_SET,
  SETATTR_GID,
  SETATTR_MODE,
  SETATTR_MTIME,
  SETATTR_MTIME_SET,
  SETATTR_SIZE,
  SETATTR_UID,
} from "../../protocols/9p/numbers.ts";
import { qidType, writeRgetattr, writeRstatfs } from "../../protocols/9p/replies.ts";
import {
  readTgetattr,
  readTsetattr,
  readTxattrcreate,
  readTxattrwalk,
  type Tsetattr,
} from "../../protocols/9p/requests.ts";
import type { Exchange } from "./exchange.ts";
import { after, Fid } from "./fids.ts";
import { MAX_XATTR_SIZE } from "./limits.ts";
import type { Session } from "./session.ts";
import { Way } from "./way.ts";

/** Tgetattr to Txattrcreate: what is known of a file beside its contents. */

const NO_ID = 0xffff_ffff;
const MAX_SECONDS = Number.MAX_SAFE_INTEGER;

export function getAttributes(s: Session, x: Exchange, r: MessageReader): MaybePromise<number> {
  const { node } = s.file(readTgetattr(r).fid);
  return after(s.fs.getAttributes(node), (attributes) => {
    writeRgetattr(x.reply, qidType(node.kind), node.version, node.id, attributes);
    return 0;
  });
}

export function setAttributes(s: Session, _x: Exchange, r: MessageReader): MaybePromise<number> {
  const m = readTsetattr(r);
  const fid = s.file(m.fid);
  return after(s.fs.setAttributes(fid.node, changesOf(m), fid.handle), () => 0);
}

function changesOf(m: Tsetattr): AttributeChanges {
  const has = (bit: number): boolean => (m.valid & bit) !== 0;
  if ((has(SETATTR_UID) && m.uid === NO_ID) || (has(SETATTR_GID) && m.gid === NO_ID)) {
    throw Errno.of("EINVAL");
  }
  if (has(SETATTR_SIZE) && m.size > Number.MAX_SAFE_INTEGER) throw Errno.of("EFBIG");
  const atime = has(SETATTR_ATIME_SET) ? timestamp(m.atime, m.atimeNanoseconds) : "now";
  const mtime = has(SETATTR_MTIME_SET) ? timestamp(m.mtime, m.mtimeNanoseconds) : "now";
  return {
    ...(has(SETATTR_MODE) ? { mode: m.mode & 0o7777 } : {}),
    ...(has(SETATTR_UID) ? { uid: m.uid } : {}),
    ...(has(SETATTR_GID) ? { gid: m.gid } : {}),
    ...(has(SETATTR_SIZE) ? { size: m.size } : {}),
    ...(has(SETATTR_ATIME) ? { atime } : {}),
    ...(has(SETATTR_MTIME) ? { mtime } : {}),
  };
}

function timestamp(seconds: number, nanoseconds: number): Timestamp {
  if (nanoseconds > 999_999_999 || Math.abs(seconds) > MAX_SECONDS) throw Errno.of("EINVAL");
  return { seconds, nanoseconds };
}

export function statistics(s: Session, x: Exchange, r: MessageReader): MaybePromise<number> {
  s.file(r.u32());
  return after(s.fs.statistics(), (found) => {
    writeRstatfs(x.reply, found);
    return 0;
  });
}

/** `newFid` becomes the value of the attribute, or without a name the list of names, each with a NUL behind it. */
export function walkXattr(s: Session, x: Exchange, r: MessageReader): MaybePromise<number> {
  const { fid: number, newFid, name } = readTxattrwalk(r);
  const fid = s.file(number);
  s.fids.checkNew(newFid);
  if (name !== "") checkXattrName(name);
  const { node } = fid;
  const found =
    name === ""
      ? after(s.fs.listXattrs(node), (names) => encodeUtf8(names.map((each) => `${each}\0`).join("")))
      : s.fs.getXattr(node, name);
  return after(found, (value) => {
    if (value.length > MAX_XATTR_SIZE) throw Errno.of("E2BIG");
    const { node: end, directory, name: place } = new Way(s.fs, node, fid.directory, fid.name);
    const made = new Fid(newFid, fid.uid, end, directory, place);
    s.install(x, made);
    try {
      s.fids.reserveXattr(value.length);
    } catch (error) {
      s.fids.remove(made);
      void s.fids.dispose(made);
      throw error;
    }
    made.value = value;
    x.reply.u64(value.length);
    return 0;
  });
}

/** The fid becomes the value, which Twrite fills and Tclunk sets. */
export function createXattr(s: Session, _x: Exchange, r: MessageReader): number {
  const m = readTxattrcreate(r);
  const fid = s.file(m.fid);
  checkXattrName(m.name);
  if (fid.handle !== undefined || fid.opening) throw Errno.of("EINVAL");
  if (m.flags !== 0 && m.flags !== XATTR_CREATE && m.flags !== XATTR_REPLACE) throw Errno.of("EINVAL");
  if (m.size > MAX_XATTR_SIZE) throw Errno.of("E2BIG");
  if (s.fs.readOnly) throw Errno.of("EROFS");
  s.fids.reserveXattr(m.size);
  fid.pending = { name: m.name, flags: m.flags, value: new Uint8Array(m.size), arrived: 0 };
  return 0;
}

function checkXattrName(name: string): void {
  if (name === "" || name.includes("\0")) throw Errno.of("EINVAL");
  if (utf8Length(name) > NAME_MAX) throw Errno.of("ERANGE");
}
