import { constants } from "node:os";

/** What the codes of the system mean to whoever named a file, an address or a folder. */
const REASONS: Readonly<Record<string, string>> = {
  E2BIG: "the command line is too long",
  EACCES: "that is not allowed",
  EADDRINUSE: "the address is in use",
  EADDRNOTAVAIL: "this host has no such address",
  EAGAIN: "that is busy, or a limit is reached",
  EBADF: "there is no open file of this number",
  EBUSY: "that is in use",
  ECONNREFUSED: "nothing listens there",
  ECONNRESET: "the other end went away",
  EEXIST: "that is there already",
  EFBIG: "the file is too large",
  EHOSTUNREACH: "the host cannot be reached",
  EINVAL: "that is not possible with this file",
  EIO: "the disk failed",
  EISDIR: "that is a directory",
  ELOOP: "too many symbolic links",
  EMFILE: "this process has too many open files",
  ENAMETOOLONG: "the name is too long",
  ENFILE: "this system has too many open files",
  ENETUNREACH: "there is no network",
  ENODEV: "there is no such device",
  ENOENT: "no such file or directory",
  ENOMEM: "there is not enough memory",
  ENOSPC: "the file system is full",
  ENOTDIR: "that is no directory",
  ENOTEMPTY: "the directory is not empty",
  ENOTSUP: "that is not supported here",
  ENOTFOUND: "there is no host of this name",
  ENXIO: "nobody is at the other end",
  EPERM: "that is not allowed",
  EPIPE: "the other end went away",
  EROFS: "the file system is read-only",
  ETIMEDOUT: "there was no answer in time",
  ETXTBSY: "that is in use as a program",
};

/** What can be done about some of them. */
const ADVICE: Readonly<Record<string, string>> = {
  EACCES: "look at its permissions, or name another",
  EADDRINUSE: "end whoever uses it, or name another",
  ECONNREFUSED: "start the other end first",
  EISDIR: "name a file in it",
  ENOENT: "look at the name",
  ENOSPC: "make room, or name another place",
  ENOTDIR: "name a directory",
  EPERM: "look at its permissions, or name another",
  EROFS: "name another place",
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

/** How Node and this project write a code: with the call, what the code means, and a path or an address. */
const written = [
  /\b(?<code>E[A-Z0-9]+): [a-z][a-z -]*, [a-z]+(?: '(?<place>[^']*)')?(?: -> '[^']*')?/g,
  /\bspawn (?<program>\S+) (?<code>E[A-Z0-9]+)\b/g,
  /\b[a-z]+ (?<code>E[A-Z0-9]+)(?:: [a-z][a-z ]*)?(?: (?<place>[^\s;,]+))?/g,
  /\b(?<code>E[A-Z0-9]+)\b/g,
] as const;

/** A message without codes such as ENOENT: each becomes its reason, behind the place it is about, and what to do about it. */
export function plainly(text: string): string {
  return written.reduce((before, pattern) => before.replace(pattern, translate), text);
}

function translate(...match: readonly unknown[]): string {
  const [found] = match;
  const { code = "", place, program } = match.at(-1) as Partial<Record<string, string>>;
  if (REASONS[code] === undefined && !(code in constants.errno)) return String(found);
  if (program !== undefined && code === "ENOENT") return `${program} is not installed, or not in PATH`;
  const reason = REASONS[code] ?? "the system refuses it";
  const advice = ADVICE[code] === undefined ? "" : `; ${ADVICE[code]}`;
  const where = program ?? place;
  return `${where === undefined ? "" : `${where}: `}${reason}${advice}`;
}
