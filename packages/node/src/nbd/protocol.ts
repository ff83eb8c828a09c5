/** Numbers of the NBD protocol ("The NBD protocol", doc/proto.md of the NetworkBlockDevice project). All are big-endian. */

export const NBD_DEFAULT_PORT = 10809;

// "Handshake": ASCII "NBDMAGIC", "IHAVEOPT", and the two numbers that are neither.
export const NBD_MAGIC: readonly [number, number] = [0x4e42444d, 0x41474943];
export const NBD_OPTS_MAGIC: readonly [number, number] = [0x49484156, 0x454f5054];
export const NBD_CLISERV_MAGIC: readonly [number, number] = [0x00004202, 0x81861253];
export const NBD_REP_MAGIC: readonly [number, number] = [0x0003e889, 0x045565a9];

// "Handshake flags" and "Client flags": the same bits.
export const NBD_FLAG_FIXED_NEWSTYLE: number = 1 << 0;
export const NBD_FLAG_NO_ZEROES: number = 1 << 1;

// "Transmission flags"
export const NBD_FLAG_HAS_FLAGS: number = 1 << 0;
export const NBD_FLAG_READ_ONLY: number = 1 << 1;
export const NBD_FLAG_SEND_FLUSH: number = 1 << 2;
export const NBD_FLAG_SEND_FUA: number = 1 << 3;
export const NBD_FLAG_ROTATIONAL: number = 1 << 4;
export const NBD_FLAG_SEND_TRIM: number = 1 << 5;
export const NBD_FLAG_SEND_WRITE_ZEROES: number = 1 << 6;
export const NBD_FLAG_CAN_MULTI_CONN: number = 1 << 8;

// "Option types"
export const NBD_OPT_EXPORT_NAME = 1;
export const NBD_OPT_ABORT = 2;
export const NBD_OPT_STARTTLS = 5;
export const NBD_OPT_GO = 7;
export const NBD_OPT_STRUCTURED_REPLY = 8;

// "Option reply types"
export const NBD_REP_ACK = 1;
export const NBD_REP_INFO = 3;
export const NBD_REP_FLAG_ERROR: number = 2 ** 31;
export const NBD_REP_ERR_UNSUP: number = 2 ** 31 + 1;
export const NBD_REP_ERR_POLICY: number = 2 ** 31 + 2;
export const NBD_REP_ERR_INVALID: number = 2 ** 31 + 3;
export const NBD_REP_ERR_PLATFORM: number = 2 ** 31 + 4;
export const NBD_REP_ERR_TLS_REQD: number = 2 ** 31 + 5;
export const NBD_REP_ERR_UNKNOWN: number = 2 ** 31 + 6;
export const NBD_REP_ERR_SHUTDOWN: number = 2 ** 31 + 7;
export const NBD_REP_ERR_BLOCK_SIZE_REQD: number = 2 ** 31 + 8;
export const NBD_REP_ERR_TOO_BIG: number = 2 ** 31 + 9;
export const NBD_INFO_EXPORT = 0;
export const NBD_INFO_BLOCK_SIZE = 3;

// "Transmission"
export const NBD_REQUEST_MAGIC = 0x25609513;
export const NBD_SIMPLE_REPLY_MAGIC = 0x67446698;
export const NBD_STRUCTURED_REPLY_MAGIC = 0x668e33ef;
export const NBD_REQUEST_SIZE = 28;
export const NBD_SIMPLE_REPLY_SIZE = 16;
export const NBD_STRUCTURED_REPLY_SIZE = 20;

// "Request types" and "Command flags"
export const NBD_CMD_READ = 0;
export const NBD_CMD_WRITE = 1;
export const NBD_CMD_DISC = 2;
export const NBD_CMD_FLUSH = 3;
export const NBD_CMD_TRIM = 4;
export const NBD_CMD_WRITE_ZEROES = 6;
export const NBD_CMD_FLAG_FUA: number = 1 << 0;
export const NBD_CMD_FLAG_NO_HOLE: number = 1 << 1;

// "Structured reply flags" and "Structured reply types"
export const NBD_REPLY_FLAG_DONE: number = 1 << 0;
export const NBD_REPLY_TYPE_NONE = 0;
export const NBD_REPLY_TYPE_OFFSET_DATA = 1;
export const NBD_REPLY_TYPE_OFFSET_HOLE = 2;
export const NBD_REPLY_TYPE_ERROR_BIT: number = 1 << 15;

// "Conventions": strings; "Size constraints": what holds where nothing is advertised, and what may be.
export const NBD_MAX_STRING = 4096;
export const NBD_DEFAULT_MAX_PAYLOAD: number = 2 ** 25;
export const NBD_MAX_MINIMUM_BLOCK: number = 2 ** 16;

export function readBe16(bytes: Uint8Array, at: number): number {
  return ((bytes[at] ?? 0) << 8) | (bytes[at + 1] ?? 0);
}

export function readBe32(bytes: Uint8Array, at: number): number {
  return (
    (((bytes[at] ?? 0) << 24) |
      ((bytes[at + 1] ?? 0) << 16) |
      ((bytes[at + 2] ?? 0) << 8) |
      (bytes[at + 3] ?? 0)) >>>
    0
  );
}

/** Exact below 2**53, and not below 2**53 otherwise. */
export function readBe64(bytes: Uint8Array, at: number): number {
  return readBe32(bytes, at) * 2 ** 32 + readBe32(bytes, at + 4);
}

export function isMagic(bytes: Uint8Array, at: number, magic: readonly [number, number]): boolean {
  return readBe32(bytes, at) === magic[0] && readBe32(bytes, at + 4) === magic[1];
}

export function writeBe16(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value >>> 8;
  bytes[at + 1] = value;
}

export function writeBe32(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value >>> 24;
  bytes[at + 1] = value >>> 16;
  bytes[at + 2] = value >>> 8;
  bytes[at + 3] = value;
}

/** `value` is a whole number from 0 to 2**53 - 1. */
export function writeBe64(bytes: Uint8Array, at: number, value: number): void {
  writeBe32(bytes, at, Math.floor(value / 2 ** 32));
  writeBe32(bytes, at + 4, value >>> 0);
}
