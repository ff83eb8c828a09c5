/**
 * Command descriptor blocks and what comes back, as far as disks and discs need them (SPC-4, SBC-3): no part of VIRTIO.
 * All numbers on the wire are big-endian.
 */

const INQUIRY = 0x12;
const READ_CAPACITY_10 = 0x25;
const READ_10 = 0x28;
const WRITE_10 = 0x2a;
const SYNCHRONIZE_CACHE_10 = 0x35;
const READ_16 = 0x88;
const WRITE_16 = 0x8a;
const SERVICE_ACTION_IN_16 = 0x9e;
const SAI_READ_CAPACITY_16 = 0x10;
const REPORT_LUNS = 0xa0;

/** A LUN in REPORT LUNS: bytes. The header before the list is as long. */
const LUN_ENTRY = 8;
/** What the standard fields of INQUIRY take: bytes. */
export const INQUIRY_LENGTH = 36;
export const READ_CAPACITY_10_LENGTH = 8;
export const READ_CAPACITY_16_LENGTH = 32;

/** No data; GOOD when the unit can be read. */
export const TEST_UNIT_READY: Uint8Array = new Uint8Array(6);
/** Everything that is in a volatile cache. */
export const SYNCHRONIZE_ALL: Uint8Array = Uint8Array.of(SYNCHRONIZE_CACHE_10, 0, 0, 0, 0, 0, 0, 0, 0, 0);
export const READ_CAPACITY: Uint8Array = Uint8Array.of(READ_CAPACITY_10, 0, 0, 0, 0, 0, 0, 0, 0, 0);

/** Standard data, or a page of vital product data. `length`: bytes of the answer at most. */
export function inquiry(length: number, page?: number): Uint8Array {
  return Uint8Array.of(INQUIRY, page === undefined ? 0 : 1, page ?? 0, length >>> 8, length & 0xff, 0);
}

/** `length`: bytes of the answer at most, 16 or more. */
export function reportLuns(length: number): Uint8Array {
  const cdb = new Uint8Array(12);
  cdb[0] = REPORT_LUNS;
  new DataView(cdb.buffer).setUint32(6, length);
  return cdb;
}

export function readCapacity16(): Uint8Array {
  const cdb = new Uint8Array(16);
  cdb[0] = SERVICE_ACTION_IN_16;
  cdb[1] = SAI_READ_CAPACITY_16;
  new DataView(cdb.buffer).setUint32(10, READ_CAPACITY_16_LENGTH);
  return cdb;
}

/** READ or WRITE of `count` blocks, in the shorter form where that reaches. */
export function transfer(write: boolean, lba: number, count: number): Uint8Array {
  const short = lba + count <= 0xffff_ffff && count <= 0xffff;
  const cdb = new Uint8Array(short ? 10 : 16);
  const view = new DataView(cdb.buffer);
  if (short) {
    cdb[0] = write ? WRITE_10 : READ_10;
    view.setUint32(2, lba);
    view.setUint16(7, count);
  } else {
    cdb[0] = write ? WRITE_16 : READ_16;
    view.setUint32(2, Math.floor(lba / 0x1_0000_0000));
    view.setUint32(6, lba >>> 0);
    view.setUint32(10, count);
  }
  return cdb;
}

/** What a logical unit says about itself. */
export interface ScsiInquiry {
  /** Peripheral qualifier: 0 there is a device, 1 there could be one, 3 there cannot. */
  readonly qualifier: number;
  /** Peripheral device type: 0 disk, 5 CD or DVD. */
  readonly type: number;
  readonly removable: boolean;
  readonly vendor: string;
  readonly product: string;
  readonly revision: string;
}

/** Missing bytes count as zero. */
export function parseInquiry(bytes: Uint8Array): ScsiInquiry {
  const first = bytes[0] ?? 0;
  return {
    qualifier: first >>> 5,
    type: first & 0x1f,
    removable: ((bytes[1] ?? 0) & 0x80) !== 0,
    vendor: text(bytes.subarray(8, 16)),
    product: text(bytes.subarray(16, 32)),
    revision: text(bytes.subarray(32, 36)),
  };
}

/** The entries of a REPORT LUNS answer, cut to what came, and how many bytes the whole list takes with its header. */
export function parseLuns(bytes: Uint8Array): { entries: Uint8Array[]; length: number } {
  if (bytes.length < LUN_ENTRY) return { entries: [], length: 0 };
  const listed = LUN_ENTRY + readBe32(bytes, 0);
  const entries: Uint8Array[] = [];
  for (let at = LUN_ENTRY; at + LUN_ENTRY <= Math.min(listed, bytes.length); at += LUN_ENTRY)
    entries.push(bytes.subarray(at, at + LUN_ENTRY));
  return { entries, length: listed };
}

/** Printable ASCII, without the padding. */
function text(bytes: Uint8Array): string {
  return String.fromCharCode(...bytes.filter((byte) => byte >= 0x20 && byte < 0x7f)).trim();
}

export function readBe16(bytes: Uint8Array, at: number): number {
  return ((bytes[at] ?? 0) << 8) | (bytes[at + 1] ?? 0);
}

export function readBe32(bytes: Uint8Array, at: number): number {
  return readBe16(bytes, at) * 0x1_0000 + readBe16(bytes, at + 2);
}

/** Exact below 2**53. */
export function readBe64(bytes: Uint8Array, at: number): number {
  return readBe32(bytes, at) * 0x1_0000_0000 + readBe32(bytes, at + 4);
}
