/** Bytes of the largest message that a client can ask for. */
export const MAX_MSIZE = 1_048_576;
/** Clients (Linux) refuse less. */
export const MIN_MSIZE = 4096;
/** A client's names for files. Linux keeps one for each cached name. */
export const MAX_FIDS = 131_072;
export const MAX_OPEN_FILES = 4096;
/** Bytes of one extended attribute, or of the list of their names. */
export const MAX_XATTR_SIZE = 65_536;
/** Bytes of attribute values that are being read or written, together. */
export const MAX_XATTR_BYTES = 16_777_216;
/** Bytes of directory entries in one reply. */
export const MAX_READDIR = 65_536;
/** Bytes of the copy through which data go to and from an asynchronous file system, for each request. */
export const BOUNCE_SIZE = 65_536;
/** Bytes of the name that a client gives itself for its locks. */
export const MAX_CLIENT_ID = 255;

/** What a client can make the session hold. Defaults: the constants of this file. */
export interface SessionLimits {
  readonly msize?: number;
  readonly fids?: number;
  readonly openFiles?: number;
  readonly xattrBytes?: number;
}
