/** Error numbers of Linux (asm-generic), which 9P2000.L and FUSE carry, whatever the host's own are. */
export const ERRNO = {
  EPERM: 1,
  ENOENT: 2,
  ESRCH: 3,
  EINTR: 4,
  EIO: 5,
  ENXIO: 6,
  E2BIG: 7,
  ENOEXEC: 8,
  EBADF: 9,
  ECHILD: 10,
  EAGAIN: 11,
  ENOMEM: 12,
  EACCES: 13,
  EFAULT: 14,
  ENOTBLK: 15,
  EBUSY: 16,
  EEXIST: 17,
  EXDEV: 18,
  ENODEV: 19,
  ENOTDIR: 20,
  EISDIR: 21,
  EINVAL: 22,
  ENFILE: 23,
  EMFILE: 24,
  ENOTTY: 25,
  ETXTBSY: 26,
  EFBIG: 27,
  ENOSPC: 28,
  ESPIPE: 29,
  EROFS: 30,
  EMLINK: 31,
  EPIPE: 32,
  EDOM: 33,
  ERANGE: 34,
  EDEADLK: 35,
  ENAMETOOLONG: 36,
  ENOLCK: 37,
  ENOSYS: 38,
  ENOTEMPTY: 39,
  ELOOP: 40,
  ENODATA: 61,
  EPROTO: 71,
  EBADMSG: 74,
  EOVERFLOW: 75,
  EILSEQ: 84,
  EUSERS: 87,
  EMSGSIZE: 90,
  EOPNOTSUPP: 95,
  ETIMEDOUT: 110,
  EALREADY: 114,
  EINPROGRESS: 115,
  ESTALE: 116,
  EDQUOT: 122,
  ECANCELED: 125,
} as const;

export type ErrnoName = keyof typeof ERRNO;

const BY_NAME: ReadonlyMap<string, number> = new Map<string, number>([
  ...Object.entries(ERRNO),
  ["EWOULDBLOCK", ERRNO.EAGAIN],
  ["ENOTSUP", ERRNO.EOPNOTSUPP],
  ["ENOATTR", ERRNO.ENODATA],
]);
const BY_NUMBER: ReadonlyMap<number, string> = new Map(Object.entries(ERRNO).map(([name, n]) => [n, name]));
const MAX_ERRNO = 4095;

/**
 * What a file system answers when it cannot do what was asked: a reply to the guest, not a bug. One shared object
 * for each number (`Errno.of`), because a lookup of what does not exist is everyday work; its stack means nothing.
 */
export class Errno extends Error {
  override readonly name = "Errno";
  /** Linux' number, 1 to 4095. */
  readonly errno: number;
  /** `ENOENT`; `E123` when it has no name here. */
  readonly code: string;

  static readonly #shared = new Map<number, Errno>();

  constructor(errno: number, message?: string) {
    const number = Number.isInteger(errno) && errno > 0 && errno <= MAX_ERRNO ? errno : ERRNO.EIO;
    const code = BY_NUMBER.get(number) ?? `E${number}`;
    super(message ?? code);
    this.errno = number;
    this.code = code;
  }

  /** The shared error of a name or a Linux number. */
  static of(error: ErrnoName | number): Errno {
    const number = typeof error === "string" ? ERRNO[error] : error;
    let shared = Errno.#shared.get(number);
    if (shared === undefined) {
      shared = new Errno(number);
      if (shared.errno === number) Errno.#shared.set(number, shared);
    }
    return shared;
  }
}

/**
 * The Linux number for whatever a file system threw. Total: an `Errno` is its number, an error with a known `code`
 * (`"ENOENT"`, as Node's are) the number of that name, anything else EIO.
 */
export function errnoOf(error: unknown): number {
  if (error instanceof Errno) return error.errno;
  if (typeof error !== "object" || error === null || !("code" in error)) return ERRNO.EIO;
  return (typeof error.code === "string" ? BY_NAME.get(error.code) : undefined) ?? ERRNO.EIO;
}
