import {
  HEADER_SIZE,
  QID_SIZE,
  RGETATTR_SIZE,
  RLERROR_SIZE,
  RREAD_HEADER_SIZE,
  TATTACH,
  TAUTH,
  TCLUNK,
  TFLUSH,
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
  TVERSION,
  TWALK,
  TWRITE,
  TXATTRCREATE,
  TXATTRWALK,
  VERSION_9P2000_L,
} from "../../protocols/9p/numbers.ts";
import { createXattr, getAttributes, setAttributes, statistics, walkXattr } from "./attributes.ts";
import { attach, auth, clunk, flush, version, walk } from "./connect.ts";
import { create, open, read, readDirectory, sync, write } from "./files.ts";
import { lock, testLock } from "./locks.ts";
import type { Handler, HandlerEntry } from "./session.ts";
import {
  link,
  makeDirectory,
  makeNode,
  makeSymlink,
  readLink,
  remove,
  rename,
  renameAt,
  unlinkAt,
} from "./tree.ts";

const WITH_QID = HEADER_SIZE + QID_SIZE;

/** Every message of 9P2000.L: its type, what serves it, and the bytes of its reply as far as they are fixed. */
const MESSAGES: readonly (readonly [number, Handler, number])[] = [
  [TSTATFS, statistics, HEADER_SIZE + 60],
  [TLOPEN, open, WITH_QID + 4],
  [TLCREATE, create, WITH_QID + 4],
  [TSYMLINK, makeSymlink, WITH_QID],
  [TMKNOD, makeNode, WITH_QID],
  [TRENAME, rename, HEADER_SIZE],
  [TREADLINK, readLink, HEADER_SIZE + 2],
  [TGETATTR, getAttributes, RGETATTR_SIZE],
  [TSETATTR, setAttributes, HEADER_SIZE],
  [TXATTRWALK, walkXattr, HEADER_SIZE + 8],
  [TXATTRCREATE, createXattr, HEADER_SIZE],
  [TREADDIR, readDirectory, RREAD_HEADER_SIZE],
  [TFSYNC, sync, HEADER_SIZE],
  [TLOCK, lock, HEADER_SIZE + 1],
  [TGETLOCK, testLock, HEADER_SIZE + 23],
  [TLINK, link, HEADER_SIZE],
  [TMKDIR, makeDirectory, WITH_QID],
  [TRENAMEAT, renameAt, HEADER_SIZE],
  [TUNLINKAT, unlinkAt, HEADER_SIZE],
  [TVERSION, version, HEADER_SIZE + 6 + VERSION_9P2000_L.length],
  [TAUTH, auth, RLERROR_SIZE],
  [TATTACH, attach, WITH_QID],
  [TFLUSH, flush, HEADER_SIZE],
  [TWALK, walk, HEADER_SIZE + 2],
  [TREAD, read, RREAD_HEADER_SIZE],
  [TWRITE, write, HEADER_SIZE + 4],
  [TCLUNK, clunk, HEADER_SIZE],
  [TREMOVE, remove, HEADER_SIZE],
];

/** By message type. */
export const HANDLERS: readonly (HandlerEntry | undefined)[] = Array.from({ length: 256 }, (_, type) => {
  const found = MESSAGES.find(([known]) => known === type);
  return found === undefined ? undefined : { handle: found[1], reply: found[2] };
});
