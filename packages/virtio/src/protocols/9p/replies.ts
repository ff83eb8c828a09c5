import type { MessageReader, MessageWriter, Qid } from "./message.ts";
import { GETATTR_BASIC, QTDIR, QTFILE, QTSYMLINK } from "./numbers.ts";

/** The R-messages of 9P2000.L that are more than a number or a qid, read from a message and written to one. */

export interface Rversion {
  readonly msize: number;
  readonly version: string;
}

export function readRversion(r: MessageReader): Rversion {
  return { msize: r.u32(), version: r.text() };
}

export function writeRversion(w: MessageWriter, m: Rversion): void {
  w.u32(m.msize).text(m.version);
}

/** Times are seconds since 1970 and nanoseconds. */
export interface Rgetattr {
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly nlink: number;
  readonly rdev: number;
  readonly size: number;
  readonly blockSize: number;
  readonly blocks: number;
  readonly atime: number;
  readonly atimeNanoseconds: number;
  readonly mtime: number;
  readonly mtimeNanoseconds: number;
  readonly ctime: number;
  readonly ctimeNanoseconds: number;
}

export function readRgetattr(r: MessageReader): Rgetattr & { readonly valid: number; readonly qid: Qid } {
  return {
    valid: r.u64(),
    qid: r.qid(),
    mode: r.u32(),
    uid: r.u32(),
    gid: r.u32(),
    nlink: r.u64(),
    rdev: r.u64(),
    size: r.u64(),
    blockSize: r.u64(),
    blocks: r.u64(),
    atime: r.s64(),
    atimeNanoseconds: r.u64(),
    mtime: r.s64(),
    mtimeNanoseconds: r.u64(),
    ctime: r.s64(),
    ctimeNanoseconds: r.u64(),
  };
}

export function writeRgetattr(
  w: MessageWriter,
  type: number,
  version: number,
  path: number,
  m: Rgetattr,
): void {
  w.u64(GETATTR_BASIC).qid(type, version, path).u32(m.mode).u32(m.uid).u32(m.gid);
  w.u64(m.nlink).u64(m.rdev).u64(m.size).u64(m.blockSize).u64(m.blocks);
  w.s64(m.atime).u64(m.atimeNanoseconds).s64(m.mtime).u64(m.mtimeNanoseconds);
  w.s64(m.ctime).u64(m.ctimeNanoseconds);
  // btime, gen, data_version: not valid.
  w.u64(0).u64(0).u64(0).u64(0);
}

export interface Rstatfs {
  readonly type: number;
  readonly blockSize: number;
  readonly blocks: number;
  readonly blocksFree: number;
  readonly blocksAvailable: number;
  readonly files: number;
  readonly filesFree: number;
  readonly id: number;
  readonly nameMax: number;
}

export function readRstatfs(r: MessageReader): Rstatfs {
  return {
    type: r.u32(),
    blockSize: r.u32(),
    blocks: r.u64(),
    blocksFree: r.u64(),
    blocksAvailable: r.u64(),
    files: r.u64(),
    filesFree: r.u64(),
    id: r.u64(),
    nameMax: r.u32(),
  };
}

export function writeRstatfs(w: MessageWriter, m: Rstatfs): void {
  w.u32(m.type).u32(m.blockSize).u64(m.blocks).u64(m.blocksFree).u64(m.blocksAvailable);
  w.u64(m.files).u64(m.filesFree).u64(m.id).u32(m.nameMax);
}

/** `length` 0: to the end of the file. */
export interface Rgetlock {
  readonly type: number;
  readonly start: number;
  readonly length: number;
  readonly process: number;
  readonly client: string;
}

export function readRgetlock(r: MessageReader): Rgetlock {
  return { type: r.u8(), start: r.u64(), length: r.u64(), process: r.u32(), client: r.text() };
}

export function writeRgetlock(w: MessageWriter, m: Rgetlock): void {
  w.u8(m.type).u64(m.start).u64(m.length).u32(m.process).text(m.client);
}

/** One entry of Rreaddir. */
export interface DirectoryEntry {
  readonly qid: Qid;
  /** Where the next Treaddir goes on behind this entry. */
  readonly offset: number;
  /** As `d_type` of readdir(3): the S_IFMT bits of the mode, shifted right by 12. */
  readonly type: number;
  readonly name: string;
}

export function readDirectoryEntry(r: MessageReader): DirectoryEntry {
  return { qid: r.qid(), offset: r.u64(), type: r.u8(), name: r.text() };
}

/** The type of a qid for the S_IFMT bits of a mode. */
export function qidType(kind: number): number {
  return kind === 0o040000 ? QTDIR : kind === 0o120000 ? QTSYMLINK : QTFILE;
}
