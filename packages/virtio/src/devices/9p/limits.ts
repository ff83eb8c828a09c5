/** Bytes of the largest message that a client can ask for. */
export const MAX_MSIZE = 1_048_576;
/** Clients (Linux) refuse less. */
export const MIN_MSIZE = 4096;
/** A client's names for files. Linux keeps one for each cached name. */
export const MAX_FIDS = 131_072;
/** Bytes that fids and the names they were found by take together; one more fid is ENFILE. */
export const MAX_FID_BYTES = 67_108_864;
/** Bytes charged for a fid beside its name: what it takes in memory, about, with its places in tables. */
export const FID_BYTES = 256;
/** Bytes of names in all paths of one saved state; fids whose path does not fit are saved as lost. */
export const MAX_PATH_BYTES = 67_108_864;
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
  /** Bytes of the largest message; less than 4096 counts as that, more than 1 MiB too. Default 1 MiB. */
  readonly msize?: number;
  /** Default 131,072. */
  readonly fids?: number;
  /** Bytes that fids and the names they were found by take together. Default 64 MiB. */
  readonly fidBytes?: number;
  /** Default 4096. */
  readonly openFiles?: number;
  /** Bytes of attribute values that are being read or written, together. Default 16 MiB. */
  readonly xattrBytes?: number;
}
