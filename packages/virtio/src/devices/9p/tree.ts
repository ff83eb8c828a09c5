import type { MaybePromise } from "../../device/device.ts";
import { Errno } from "../../backends/errno.ts";
import {
  type FileNode,
  S_IFBLK,
  S_IFCHR,
  S_IFDIR,
  S_IFIFO,
  S_IFMT,
  S_IFREG,
  S_IFSOCK,
} from "../../backends/file-system.ts";
import type { MessageReader } from "../../protocols/9p/message.ts";
import { AT_REMOVEDIR } from "../../protocols/9p/numbers.ts";
import {
  readTlink,
  readTmkdir,
  readTmknod,
  readTrename,
  readTrenameat,
  readTsymlink,
  readTunlinkat,
} from "../../protocols/9p/requests.ts";
import { writeQid } from "./connect.ts";
import type { Exchange } from "./exchange.ts";
import { after, checkName, type Fid, settle } from "./fids.ts";
import type { Session } from "./session.ts";

/** Tsymlink to Tremove: names in directories. */

const NODE_KINDS: readonly number[] = [S_IFREG, S_IFIFO, S_IFSOCK, S_IFCHR, S_IFBLK];

/** A directory, as the place for a name. */
function directory(s: Session, number: number): Fid & { readonly node: FileNode } {
  const fid = s.file(number);
  if (fid.node.kind !== S_IFDIR) throw Errno.of("ENOTDIR");
  return fid;
}

/** Replies with the qid of what was made. */
function made(s: Session, x: Exchange, result: MaybePromise<FileNode>): MaybePromise<number> {
  return after(result, (node) => {
    writeQid(x.reply, node);
    s.fs.release(node);
    return 0;
  });
}

export function makeSymlink(s: Session, x: Exchange, r: MessageReader): MaybePromise<number> {
  const m = readTsymlink(r);
  const fid = directory(s, m.fid);
  checkName(m.name);
  if (m.target === "" || m.target.includes("\0")) throw Errno.of("EINVAL");
  return made(s, x, s.fs.makeSymlink(fid.node, m.name, m.target, { uid: fid.uid, gid: m.gid }));
}

export function makeNode(s: Session, x: Exchange, r: MessageReader): MaybePromise<number> {
  const m = readTmknod(r);
  const fid = directory(s, m.fid);
  checkName(m.name);
  const kind = (m.mode & S_IFMT) === 0 ? S_IFREG : m.mode & S_IFMT;
  if (!NODE_KINDS.includes(kind)) throw Errno.of("EINVAL");
  const device = kind === S_IFCHR || kind === S_IFBLK;
  if (device && (m.major > 0xfff || m.minor > 0xf_ffff)) throw Errno.of("EINVAL");
  const rdev = device ? ((m.minor & 0xff) | (m.major << 8) | ((m.minor & ~0xff) << 12)) >>> 0 : 0;
  const owner = { uid: fid.uid, gid: m.gid };
  return made(s, x, s.fs.makeNode(fid.node, m.name, kind | (m.mode & 0o7777), rdev, owner));
}

export function makeDirectory(s: Session, x: Exchange, r: MessageReader): MaybePromise<number> {
  const m = readTmkdir(r);
  const fid = directory(s, m.fid);
  checkName(m.name);
  const owner = { uid: fid.uid, gid: m.gid };
  return made(s, x, s.fs.makeDirectory(fid.node, m.name, m.mode & 0o7777, owner));
}

export function readLink(s: Session, x: Exchange, r: MessageReader): MaybePromise<number> {
  const fid = s.file(r.u32());
  return after(s.fs.readLink(fid.node), (target) => {
    x.reply.text(target);
    return 0;
  });
}

export function link(s: Session, _x: Exchange, r: MessageReader): MaybePromise<number> {
  const m = readTlink(r);
  const into = directory(s, m.directoryFid);
  const fid = s.file(m.fid);
  checkName(m.name);
  return after(s.fs.link(fid.node, into.node, m.name), () => 0);
}

export function unlinkAt(s: Session, _x: Exchange, r: MessageReader): MaybePromise<number> {
  const m = readTunlinkat(r);
  const fid = directory(s, m.fid);
  checkName(m.name);
  if ((m.flags & ~AT_REMOVEDIR) !== 0) throw Errno.of("EINVAL");
  const gone =
    m.flags === AT_REMOVEDIR ? s.fs.removeDirectory(fid.node, m.name) : s.fs.unlink(fid.node, m.name);
  return after(gone, () => 0);
}

export function renameAt(s: Session, _x: Exchange, r: MessageReader): MaybePromise<number> {
  const m = readTrenameat(r);
  const from = directory(s, m.oldDirectoryFid);
  const to = directory(s, m.newDirectoryFid);
  checkName(m.oldName);
  checkName(m.newName);
  return after(s.fs.rename(from.node, m.oldName, to.node, m.newName), () => 0);
}

/** Older clients name what moves by its fid. */
export function rename(s: Session, _x: Exchange, r: MessageReader): MaybePromise<number> {
  const m = readTrename(r);
  const fid = s.file(m.fid);
  const { node: to } = directory(s, m.directoryFid);
  checkName(m.name);
  s.fids.checkRoom(m.name);
  return withName(s, fid, (from, name) =>
    after(s.fs.rename(from, name, to, m.name), () => {
      s.fids.moved(fid, to, m.name);
      return 0;
    }),
  );
}

/** Removes the file and clunks the fid, even when the removal fails. */
export function remove(s: Session, _x: Exchange, r: MessageReader): MaybePromise<number> {
  const fid = s.file(r.u32());
  s.fids.remove(fid);
  const removal = (from: FileNode, name: string): MaybePromise<void> =>
    fid.node.kind === S_IFDIR ? s.fs.removeDirectory(from, name) : s.fs.unlink(from, name);
  return settle(
    () => withName(s, fid, removal),
    () => after(s.fids.dispose(fid), () => 0),
    (error) =>
      after(s.fids.dispose(fid), () => {
        throw error;
      }),
  );
}

/**
 * Calls `use` with a directory and the name that the fid's file has there: the one it was walked to by, when that still
 * leads to it, else one that the file system knows. ESTALE: it has none. No path is walked, so the depth of a fid costs nothing.
 */
function withName<T>(
  s: Session,
  fid: Fid & { readonly node: FileNode },
  use: (directory: FileNode, name: string) => MaybePromise<T>,
): MaybePromise<T> {
  const { node, directory: from, name } = fid;
  if (node.id === s.fs.root.id) throw Errno.of("EBUSY");
  if (from === undefined) return atPlace(s, node, use);
  return settle(
    () => after(isAt(s, from, name, node), () => use(from, name)),
    (result) => result,
    (error) => {
      if (!(error instanceof NotThere)) throw error;
      return atPlace(s, node, use);
    },
  );
}

/** A name does not lead to the node that was expected. */
class NotThere extends Error {
  override readonly name = "NotThere";
}

function atPlace<T>(
  s: Session,
  node: FileNode,
  use: (directory: FileNode, name: string) => MaybePromise<T>,
): MaybePromise<T> {
  const place = s.fs.place(node);
  if (place === undefined) throw Errno.of("ESTALE");
  return settle(
    () => use(place.directory, place.name),
    (result) => {
      s.fs.release(place.directory);
      return result;
    },
    (error) => {
      s.fs.release(place.directory);
      throw error;
    },
  );
}

function isAt(s: Session, from: FileNode, name: string, node: FileNode): MaybePromise<void> {
  return settle(
    () => s.fs.lookup(from, name),
    (there) => {
      const same = there.id === node.id;
      s.fs.release(there);
      if (!same) throw new NotThere();
    },
    () => {
      throw new NotThere();
    },
  );
}
