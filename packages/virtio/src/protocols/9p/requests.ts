import { MalformedMessage, type MessageReader, type MessageWriter } from "./message.ts";
import { MAX_WALK } from "./numbers.ts";

/**
 * The T-messages of 9P2000.L behind their header: what each holds, read from a message and written to one. Messages
 * that are one fid (Tclunk, Tremove, Treadlink, Tstatfs) need nothing here. Field names follow the protocol; a
 * number of 64 bits is exact below 2**53.
 */

/** The first message: the largest message the client can take, and the version it speaks. */
export interface Tversion {
  readonly msize: number;
  readonly version: string;
}

export function readTversion(r: MessageReader): Tversion {
  return { msize: r.u32(), version: r.text() };
}

export function writeTversion(w: MessageWriter, m: Tversion): void {
  w.u32(m.msize).text(m.version);
}

export interface Tauth {
  readonly afid: number;
  readonly uname: string;
  readonly aname: string;
  readonly n_uname: number;
}

export function readTauth(r: MessageReader): Tauth {
  return { afid: r.u32(), uname: r.text(), aname: r.text(), n_uname: r.u32() };
}

export function writeTauth(w: MessageWriter, m: Tauth): void {
  w.u32(m.afid).text(m.uname).text(m.aname).u32(m.n_uname);
}

/** `fid` becomes the root of the tree `aname`. */
export interface Tattach {
  readonly fid: number;
  readonly afid: number;
  readonly uname: string;
  readonly aname: string;
  readonly n_uname: number;
}

export function readTattach(r: MessageReader): Tattach {
  return { fid: r.u32(), afid: r.u32(), uname: r.text(), aname: r.text(), n_uname: r.u32() };
}

export function writeTattach(w: MessageWriter, m: Tattach): void {
  w.u32(m.fid).u32(m.afid).text(m.uname).text(m.aname).u32(m.n_uname);
}

export interface Tflush {
  readonly oldtag: number;
}

export function readTflush(r: MessageReader): Tflush {
  return { oldtag: r.u16() };
}

export function writeTflush(w: MessageWriter, m: Tflush): void {
  w.u16(m.oldtag);
}

export interface Tlopen {
  readonly fid: number;
  readonly flags: number;
}

export function readTlopen(r: MessageReader): Tlopen {
  return { fid: r.u32(), flags: r.u32() };
}

export function writeTlopen(w: MessageWriter, m: Tlopen): void {
  w.u32(m.fid).u32(m.flags);
}

/** `fid`, a directory, becomes the open new file. */
export interface Tlcreate {
  readonly fid: number;
  readonly name: string;
  readonly flags: number;
  readonly mode: number;
  readonly gid: number;
}

export function readTlcreate(r: MessageReader): Tlcreate {
  return { fid: r.u32(), name: r.text(), flags: r.u32(), mode: r.u32(), gid: r.u32() };
}

export function writeTlcreate(w: MessageWriter, m: Tlcreate): void {
  w.u32(m.fid).text(m.name).u32(m.flags).u32(m.mode).u32(m.gid);
}

export interface Tsymlink {
  readonly fid: number;
  readonly name: string;
  readonly target: string;
  readonly gid: number;
}

export function readTsymlink(r: MessageReader): Tsymlink {
  return { fid: r.u32(), name: r.text(), target: r.text(), gid: r.u32() };
}

export function writeTsymlink(w: MessageWriter, m: Tsymlink): void {
  w.u32(m.fid).text(m.name).text(m.target).u32(m.gid);
}

export interface Tmknod {
  readonly fid: number;
  readonly name: string;
  readonly mode: number;
  readonly major: number;
  readonly minor: number;
  readonly gid: number;
}

export function readTmknod(r: MessageReader): Tmknod {
  return { fid: r.u32(), name: r.text(), mode: r.u32(), major: r.u32(), minor: r.u32(), gid: r.u32() };
}

export function writeTmknod(w: MessageWriter, m: Tmknod): void {
  w.u32(m.fid).text(m.name).u32(m.mode).u32(m.major).u32(m.minor).u32(m.gid);
}

export interface Trename {
  readonly fid: number;
  readonly directoryFid: number;
  readonly name: string;
}

export function readTrename(r: MessageReader): Trename {
  return { fid: r.u32(), directoryFid: r.u32(), name: r.text() };
}

export function writeTrename(w: MessageWriter, m: Trename): void {
  w.u32(m.fid).u32(m.directoryFid).text(m.name);
}

export interface Tgetattr {
  readonly fid: number;
  readonly mask: number;
}

export function readTgetattr(r: MessageReader): Tgetattr {
  return { fid: r.u32(), mask: r.u64() };
}

export function writeTgetattr(w: MessageWriter, m: Tgetattr): void {
  w.u32(m.fid).u64(m.mask);
}

export interface Tsetattr {
  readonly fid: number;
  readonly valid: number;
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly size: number;
  readonly atime: number;
  readonly atimeNanoseconds: number;
  readonly mtime: number;
  readonly mtimeNanoseconds: number;
}

export function readTsetattr(r: MessageReader): Tsetattr {
  return {
    fid: r.u32(),
    valid: r.u32(),
    mode: r.u32(),
    uid: r.u32(),
    gid: r.u32(),
    size: r.u64(),
    atime: r.s64(),
    atimeNanoseconds: r.u64(),
    mtime: r.s64(),
    mtimeNanoseconds: r.u64(),
  };
}

export function writeTsetattr(w: MessageWriter, m: Tsetattr): void {
  w.u32(m.fid)
    .u32(m.valid)
    .u32(m.mode)
    .u32(m.uid)
    .u32(m.gid)
    .u64(m.size)
    .s64(m.atime)
    .u64(m.atimeNanoseconds)
    .s64(m.mtime)
    .u64(m.mtimeNanoseconds);
}

/** `name` empty: the list of names. */
export interface Txattrwalk {
  readonly fid: number;
  readonly newFid: number;
  readonly name: string;
}

export function readTxattrwalk(r: MessageReader): Txattrwalk {
  return { fid: r.u32(), newFid: r.u32(), name: r.text() };
}

export function writeTxattrwalk(w: MessageWriter, m: Txattrwalk): void {
  w.u32(m.fid).u32(m.newFid).text(m.name);
}

/** `fid` becomes the value, that Twrite fills and Tclunk sets. */
export interface Txattrcreate {
  readonly fid: number;
  readonly name: string;
  readonly size: number;
  readonly flags: number;
}

export function readTxattrcreate(r: MessageReader): Txattrcreate {
  return { fid: r.u32(), name: r.text(), size: r.u64(), flags: r.u32() };
}

export function writeTxattrcreate(w: MessageWriter, m: Txattrcreate): void {
  w.u32(m.fid).text(m.name).u64(m.size).u32(m.flags);
}

export interface Treaddir {
  readonly fid: number;
  readonly offset: number;
  readonly count: number;
}

export function readTreaddir(r: MessageReader): Treaddir {
  return { fid: r.u32(), offset: r.u64(), count: r.u32() };
}

export function writeTreaddir(w: MessageWriter, m: Treaddir): void {
  w.u32(m.fid).u64(m.offset).u32(m.count);
}

export interface Tread {
  readonly fid: number;
  readonly offset: number;
  readonly count: number;
}

export function readTread(r: MessageReader): Tread {
  return { fid: r.u32(), offset: r.u64(), count: r.u32() };
}

export function writeTread(w: MessageWriter, m: Tread): void {
  w.u32(m.fid).u64(m.offset).u32(m.count);
}

/** Its data follow. */
export interface Twrite {
  readonly fid: number;
  readonly offset: number;
  readonly count: number;
}

export function readTwrite(r: MessageReader): Twrite {
  return { fid: r.u32(), offset: r.u64(), count: r.u32() };
}

export function writeTwrite(w: MessageWriter, m: Twrite): void {
  w.u32(m.fid).u64(m.offset).u32(m.count);
}

export interface Tlock {
  readonly fid: number;
  readonly type: number;
  readonly flags: number;
  readonly start: number;
  readonly length: number;
  readonly process: number;
  readonly client: string;
}

export function readTlock(r: MessageReader): Tlock {
  return {
    fid: r.u32(),
    type: r.u8(),
    flags: r.u32(),
    start: r.u64(),
    length: r.u64(),
    process: r.u32(),
    client: r.text(),
  };
}

export function writeTlock(w: MessageWriter, m: Tlock): void {
  w.u32(m.fid).u8(m.type).u32(m.flags).u64(m.start).u64(m.length).u32(m.process).text(m.client);
}

/** Rgetlock is the same without the fid. */
export interface Tgetlock {
  readonly fid: number;
  readonly type: number;
  readonly start: number;
  readonly length: number;
  readonly process: number;
  readonly client: string;
}

export function readTgetlock(r: MessageReader): Tgetlock {
  return { fid: r.u32(), type: r.u8(), start: r.u64(), length: r.u64(), process: r.u32(), client: r.text() };
}

export function writeTgetlock(w: MessageWriter, m: Tgetlock): void {
  w.u32(m.fid).u8(m.type).u64(m.start).u64(m.length).u32(m.process).text(m.client);
}

export interface Tlink {
  readonly directoryFid: number;
  readonly fid: number;
  readonly name: string;
}

export function readTlink(r: MessageReader): Tlink {
  return { directoryFid: r.u32(), fid: r.u32(), name: r.text() };
}

export function writeTlink(w: MessageWriter, m: Tlink): void {
  w.u32(m.directoryFid).u32(m.fid).text(m.name);
}

export interface Tmkdir {
  readonly fid: number;
  readonly name: string;
  readonly mode: number;
  readonly gid: number;
}

export function readTmkdir(r: MessageReader): Tmkdir {
  return { fid: r.u32(), name: r.text(), mode: r.u32(), gid: r.u32() };
}

export function writeTmkdir(w: MessageWriter, m: Tmkdir): void {
  w.u32(m.fid).text(m.name).u32(m.mode).u32(m.gid);
}

export interface Trenameat {
  readonly oldDirectoryFid: number;
  readonly oldName: string;
  readonly newDirectoryFid: number;
  readonly newName: string;
}

export function readTrenameat(r: MessageReader): Trenameat {
  return { oldDirectoryFid: r.u32(), oldName: r.text(), newDirectoryFid: r.u32(), newName: r.text() };
}

export function writeTrenameat(w: MessageWriter, m: Trenameat): void {
  w.u32(m.oldDirectoryFid).text(m.oldName).u32(m.newDirectoryFid).text(m.newName);
}

export interface Tunlinkat {
  readonly fid: number;
  readonly name: string;
  readonly flags: number;
}

export function readTunlinkat(r: MessageReader): Tunlinkat {
  return { fid: r.u32(), name: r.text(), flags: r.u32() };
}

export function writeTunlinkat(w: MessageWriter, m: Tunlinkat): void {
  w.u32(m.fid).text(m.name).u32(m.flags);
}

export interface Twalk {
  readonly fid: number;
  readonly newFid: number;
  readonly names: readonly string[];
}

/** More than 16 names are malformed. */
export function readTwalk(r: MessageReader): Twalk {
  const fid = r.u32();
  const newFid = r.u32();
  const count = r.u16();
  if (count > MAX_WALK) throw new MalformedMessage("Twalk with more than 16 names");
  const names: string[] = [];
  for (let i = 0; i < count; i++) names.push(r.text());
  return { fid, newFid, names };
}

export function writeTwalk(w: MessageWriter, m: Twalk): void {
  w.u32(m.fid).u32(m.newFid).u16(m.names.length);
  for (const name of m.names) w.text(name);
}

export interface Tfsync {
  readonly fid: number;
  readonly dataOnly: boolean;
}

/** Early clients send no datasync field. */
export function readTfsync(r: MessageReader): Tfsync {
  return { fid: r.u32(), dataOnly: r.remaining >= 4 && r.u32() !== 0 };
}

export function writeTfsync(w: MessageWriter, m: Tfsync): void {
  w.u32(m.fid).u32(m.dataOnly ? 1 : 0);
}
