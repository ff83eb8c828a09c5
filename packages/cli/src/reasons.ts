import { constants } from "node:os";

const REASONS: Readonly<Record<string, string>> = {
  EACCES: "that is not allowed",
  EEXIST: "that is there already",
  EFBIG: "the file is too large",
  EIO: "the disk failed",
  EISDIR: "that is a directory",
  ELOOP: "too many symbolic links",
  ENAMETOOLONG: "the name is too long",
  ENOENT: "no such file or directory",
  ENOSPC: "the file system is full",
  ENOTDIR: "that is no directory",
  EPERM: "that is not allowed",
  EROFS: "the file system is read-only",
};

/** What a code such as ENOENT means. */
export function reasonOf(code: string): string {
  return REASONS[code] ?? code;
}

/** The same for Linux' number. */
export function reasonOfNumber(errno: number): string {
  const found = Object.entries(constants.errno).find(([, number]) => number === errno);
  return found === undefined ? `error ${errno}` : reasonOf(found[0]);
}
