import { type FileLock, O_CREAT, O_EXCL, O_TRUNC } from "../../backends/file-system.ts";
import { checkName, Fid, type Place, ROOT_PLACE } from "./fids.ts";
import { MAX_CLIENT_ID, MAX_MSIZE, MAX_XATTR_SIZE, MIN_MSIZE } from "./limits.ts";
import type { Session } from "./session.ts";
import { pathOf } from "./tree.ts";

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
  /** Null: it had no name any more, and cannot be used again. */
  readonly path: readonly string[] | null;
  /** Open flags; null: not open. */
  readonly flags: number | null;
  readonly locks: readonly LockState[];
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

/** Nodes deep; no path of a client gets near it, for its names must fit 4,096 bytes on Linux. */
const MAX_DEPTH = 4096;
const MAX_LOCKS_PER_FID = 16_384;
const U32 = 0xffff_ffff;

export function saveSession(session: Session): SessionState {
  return {
    version: 1,
    msize: session.msize,
    fids: [...session.fids.values()].map((fid) => saveFid(session, fid)),
  };
}

function saveFid(session: Session, fid: Fid): FidState {
  const locks = fid.dormant?.locks ?? (fid.handle === undefined ? [] : session.fids.locks.held(fid.handle));
  const flags = fid.handle === undefined ? fid.dormant?.flags : fid.flags & ~(O_CREAT | O_EXCL | O_TRUNC);
  return {
    fid: fid.number,
    uid: fid.uid,
    path: pathToSave(session, fid) ?? null,
    flags: flags ?? null,
    locks: locks.map(({ exclusive, start, length, owner }) => {
      return { exclusive, start, length, process: owner.process, client: owner.client };
    }),
    ...(fid.value === undefined ? {} : { value: fid.value.slice() }),
    ...(fid.pending === undefined ? {} : { pending: { ...fid.pending, value: fid.pending.value.slice() } }),
  };
}

function pathToSave(session: Session, fid: Fid): readonly string[] | undefined {
  if (fid.dormant !== undefined) return fid.dormant.path;
  if (fid.node === undefined) return undefined;
  let path: ReturnType<typeof session.fs.locate>;
  try {
    path = session.fs.locate(fid.node);
  } catch {
    return undefined;
  }
  if (!(path instanceof Promise)) return path;
  // Saving cannot wait; how it was walked to is nearly always where it still is.
  path.catch(() => undefined);
  return pathOf(fid.place);
}

/** Puts a session into a saved state. The state is untrusted: it is adopted whole, or an error tells what is wrong. */
export function restoreSession(session: Session, state: unknown): void {
  const { version, msize, fids } = record(state, "state");
  if (version !== 1) throw new Error(`9p state: version ${String(version)} is unknown`);
  const size = integer(msize, MAX_MSIZE, "msize");
  if (size !== 0 && (size < MIN_MSIZE || size > session.maxMsize)) throw new Error("9p state: msize");
  if (!Array.isArray(fids) || fids.length > session.maxFids) throw new Error("9p state: fids");
  const restored = fids.map(restoreFid);
  if (new Set(restored.map((fid) => fid.number)).size !== restored.length) {
    throw new Error("9p state: a fid occurs twice");
  }
  const bytes = restored.reduce(
    (sum, fid) => sum + (fid.value?.length ?? 0) + (fid.pending?.value.length ?? 0),
    0,
  );
  const done = session.reset();
  if (done instanceof Promise) done.catch(() => undefined);
  session.fids.reserveXattr(bytes);
  for (const fid of restored) session.fids.add(fid);
  session.msize = size;
}

function restoreFid(state: unknown): Fid {
  const { fid: number, uid, path, flags, locks, value, pending } = record(state, "fid");
  const names = path === null ? undefined : restorePath(path);
  const place = (names ?? []).reduce<Place>((parent, name) => ({ parent, name }), ROOT_PLACE);
  const fid = new Fid(integer(number, U32 - 1, "fid"), undefined, integer(uid, U32, "uid"), place);
  if (!Array.isArray(locks) || locks.length > MAX_LOCKS_PER_FID) throw new Error("9p state: locks");
  fid.dormant = {
    path: names,
    flags: flags === null ? undefined : integer(flags, 0x7fff_ffff, "flags") & ~(O_CREAT | O_EXCL | O_TRUNC),
    locks: locks.map(restoreLock),
  };
  if (value !== undefined) fid.value = bytesOf(value);
  if (pending !== undefined) {
    const { name, flags: how, value: content, arrived } = record(pending, "pending");
    const data = bytesOf(content);
    fid.pending = {
      name: text(name, 255, "attribute"),
      flags: integer(how, 2, "flags"),
      value: data,
      arrived: integer(arrived, data.length, "arrived"),
    };
  }
  return fid;
}

function restorePath(path: unknown): readonly string[] {
  if (!Array.isArray(path) || path.length > MAX_DEPTH) throw new Error("9p state: path");
  return path.map((name) => {
    const checked = text(name, 255, "name");
    checkName(checked);
    return checked;
  });
}

function restoreLock(state: unknown): FileLock {
  const { exclusive, start, length, process, client } = record(state, "lock");
  const id = text(client, MAX_CLIENT_ID, "client");
  const pid = integer(process, U32, "process");
  return {
    exclusive: exclusive === true,
    start: integer(start, Number.MAX_SAFE_INTEGER, "start"),
    length: integer(length, Number.MAX_SAFE_INTEGER, "length"),
    owner: { key: `${pid} ${id}`, process: pid, client: id },
  };
}

function record(value: unknown, what: string): Readonly<Record<string, unknown>> {
  if (typeof value !== "object" || value === null) throw new Error(`9p state: no ${what}`);
  return Object.fromEntries(Object.entries(value));
}

function integer(value: unknown, most: number, what: string): number {
  if (typeof value !== "number" || !Number.isSafeInteger(value) || value < 0 || value > most) {
    throw new Error(`9p state: ${what} is ${String(value)}`);
  }
  return value;
}

function text(value: unknown, most: number, what: string): string {
  if (typeof value !== "string" || value.length > most) throw new Error(`9p state: ${what}`);
  return value;
}

function bytesOf(value: unknown): Uint8Array {
  if (!(value instanceof Uint8Array) || value.length > MAX_XATTR_SIZE) throw new Error("9p state: bytes");
  return value.slice();
}
