import {
  type FileLock,
  MAX_POSITION,
  O_CREAT,
  O_EXCL,
  O_TRUNC,
  XATTR_REPLACE,
} from "../../backends/file-system.ts";
import { MAX_PATH_NAMES } from "../../backends/locate.ts";
import { MAX_LOCKS } from "../../backends/lock-table.ts";
import { stateBytes, stateFlag, stateInteger, stateList, stateRecord } from "../../device/checked-state.ts";
import { NOFID } from "../../protocols/9p/numbers.ts";
import { utf8Length } from "../../memory/utf8.ts";
import { checkName, Fid } from "./fids.ts";
import { MAX_PATH_BYTES, MAX_XATTR_SIZE, MIN_MSIZE } from "./limits.ts";
import { PathFinder } from "./paths.ts";
import type { Session } from "./session.ts";

/** A session at rest, as plain data. Files are named by their path: they are walked to again when they are used. */
export interface SessionState {
  readonly version: 1;
  /** 0: no Tversion yet. */
  readonly msize: number;
  readonly fids: readonly FidState[];
}

export interface FidState {
  readonly fid: number;
  readonly uid: number;
  /** Null: it had no name any more (or the paths before it were too long together), and cannot be used again. */
  readonly path: readonly string[] | null;
  /** Open flags; null: not open. */
  readonly flags: number | null;
  readonly locks: readonly LockState[];
  /** How far an open directory was read, where its file system must know more than the cursor. */
  readonly position?: readonly number[];
  /** The value of an attribute that is being read. */
  readonly value?: Uint8Array;
  /** One that is being written. */
  readonly pending?: {
    readonly name: string;
    readonly flags: number;
    readonly value: Uint8Array;
    readonly arrived: number;
  };
}

export interface LockState {
  readonly exclusive: boolean;
  readonly start: number;
  readonly length: number;
  readonly process: number;
  readonly client: string;
}

const MAX_NAME = 255;
const MAX_FLAGS = 0x7fff_ffff;
const U32 = 0xffff_ffff;
/** Flags that did what they do when the file was opened first. */
const ONCE = O_CREAT | O_EXCL | O_TRUNC;

/** `lost` is told of fids whose files cannot be found again. */
export function saveSession(session: Session, lost?: (what: string) => void): SessionState {
  const paths = new PathFinder(session.fs);
  try {
    const fids = [...session.fids.values()].map((fid) => saveFid(session, fid, paths));
    const gone = fids.filter(({ path }) => path === null);
    if (gone.length > 0) {
      const open = gone.filter(({ flags }) => flags !== null).length;
      lost?.(
        `${gone.length} fids, ${open} of them open, without a name to find their files by: ESTALE after a restore`,
      );
    }
    return { version: 1, msize: session.msize, fids };
  } finally {
    paths.end();
  }
}

function saveFid(session: Session, fid: Fid, paths: PathFinder): FidState {
  const { handle, dormant } = fid;
  const locks = dormant?.locks ?? (handle === undefined ? [] : session.fids.locks.held(handle));
  const flags = handle === undefined ? dormant?.flags : fid.flags & ~ONCE;
  const position = handle === undefined ? dormant?.position : session.fs.directoryPosition?.(handle);
  const path = fid.node === undefined ? paths.take(dormant?.path) : paths.find(fid.node);
  return {
    fid: fid.number,
    uid: fid.uid,
    path: path ?? null,
    flags: flags ?? null,
    locks: locks.map(({ exclusive, start, length, owner }) => {
      return { exclusive, start, length, process: owner.process, client: owner.client };
    }),
    ...(position === undefined ? {} : { position }),
    ...(fid.value === undefined ? {} : { value: fid.value.slice() }),
    ...(fid.pending === undefined ? {} : { pending: { ...fid.pending, value: fid.pending.value.slice() } }),
  };
}

/** Puts a session into a saved state. The state is untrusted: it is adopted whole, or an error tells what is wrong. */
export function restoreSession(session: Session, state: unknown): void {
  const { version, msize, fids } = stateRecord(state, "9p");
  if (version !== 1) throw new Error(`9p: state of version ${String(version)}`);
  const size = stateInteger(msize, session.maxMsize, "9p.msize");
  if (size !== 0 && size < MIN_MSIZE) throw new Error(`9p.msize: less than ${MIN_MSIZE}`);
  const restored = stateList(fids, session.maxFids, "9p.fids").map(restoreFid);
  if (new Set(restored.map((fid) => fid.number)).size !== restored.length) {
    throw new Error("9p.fids: a fid occurs twice");
  }
  const lengths = restored.map((fid) => (fid.value?.length ?? 0) + (fid.pending?.value.length ?? 0));
  const xattrBytes = lengths.reduce((sum, length) => sum + length, 0);
  if (xattrBytes > session.maxXattrBytes) throw new Error("9p.fids: attributes are too large");
  const pathBytes = restored.reduce((sum, fid) => sum + bytesOf(fid.dormant?.path), 0);
  if (pathBytes > MAX_PATH_BYTES) throw new Error("9p.fids: paths are too long together");
  const done = session.reset();
  if (done instanceof Promise) done.catch(() => undefined);
  session.fids.reserveXattr(xattrBytes);
  for (const fid of restored) session.fids.restore(fid);
  session.msize = size;
}

/** As a `PathFinder` counts them. */
function bytesOf(path: readonly string[] | undefined): number {
  return (path ?? []).reduce((sum, name) => sum + utf8Length(name) + 1, 0);
}

function restoreFid(state: unknown, index: number): Fid {
  const where = `9p.fids[${index}]`;
  const { fid: number, uid, path, flags, locks, position, value, pending } = stateRecord(state, where);
  const names = path === null ? undefined : restorePath(path, where);
  const fid = new Fid(
    stateInteger(number, NOFID - 1, where),
    stateInteger(uid, U32, where),
    undefined,
    undefined,
    names?.at(-1) ?? "",
  );
  fid.dormant = {
    path: names,
    flags: flags === null ? undefined : stateInteger(flags, MAX_FLAGS, where) & ~ONCE,
    locks: stateList(locks, MAX_LOCKS, where).map((lock) => restoreLock(lock, where)),
    position: position === undefined ? undefined : restorePosition(position, where),
  };
  if (value !== undefined) fid.value = stateBytes(value, MAX_XATTR_SIZE, where);
  if (pending !== undefined) {
    const { name, flags: how, value: content, arrived } = stateRecord(pending, where);
    const bytes = stateBytes(content, MAX_XATTR_SIZE, where);
    fid.pending = {
      name: stateText(name, where),
      flags: stateInteger(how, XATTR_REPLACE, where),
      value: bytes,
      arrived: stateInteger(arrived, bytes.length, where),
    };
  }
  return fid;
}

function restorePath(path: unknown, where: string): readonly string[] {
  return stateList(path, MAX_PATH_NAMES, where).map((name) => {
    const checked = stateText(name, where);
    checkName(checked);
    return checked;
  });
}

function restorePosition(position: unknown, where: string): number[] {
  return stateList(position, MAX_POSITION, where).map((value) =>
    stateInteger(value, Number.MAX_SAFE_INTEGER, where),
  );
}

function restoreLock(state: unknown, where: string): FileLock {
  const { exclusive, start, length, process, client } = stateRecord(state, where);
  const first = stateInteger(start, Number.MAX_SAFE_INTEGER, where);
  const id = stateText(client, where);
  const pid = stateInteger(process, U32, where);
  return {
    exclusive: stateFlag(exclusive, where),
    start: first,
    length: stateInteger(length, Number.MAX_SAFE_INTEGER - first, where),
    owner: { key: `${pid} ${id}`, process: pid, client: id },
  };
}

/** A name: of a file, an attribute, a client. */
function stateText(value: unknown, where: string): string {
  if (typeof value !== "string" || value.length > MAX_NAME) throw new Error(`${where}: not a name`);
  return value;
}
