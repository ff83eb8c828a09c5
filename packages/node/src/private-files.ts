import { randomBytes } from "node:crypto";
import {
  closeSync,
  constants,
  lstatSync,
  mkdirSync,
  openSync,
  renameSync,
  rmSync,
  statSync,
  writeSync,
} from "node:fs";
import { dirname, resolve } from "node:path";

/** Read and written by this user alone: what is in our files comes out of guests' memory and disks. */
export const PRIVATE_FILE = 0o600;
const PRIVATE_FOLDER = 0o700;
/** Of sockets in the file system, before they are bound: the group may connect where the umask lets it, others never. */
export const SOCKET_MODE = 0o660;

const { O_WRONLY, O_CREAT, O_EXCL, O_NOFOLLOW } = constants;

/**
 * Writes a file that is there whole or not at all, for this user alone. What was at `path` is replaced; a symbolic link there is
 * replaced, too, and what it points to stays as it is. What is neither a file nor a link, such as `/dev/null`, is not replaced.
 * Throws an Error that names the folder or the path with what the system says, and leaves nothing behind.
 */
export function writePrivateFile(path: string, ...pieces: readonly (Uint8Array | string)[]): void {
  const { temporary, fd } = createBeside(path);
  try {
    try {
      for (const piece of pieces) {
        const bytes = typeof piece === "string" ? new TextEncoder().encode(piece) : piece;
        for (let done = 0; done < bytes.length;) done += writeSync(fd, bytes, done);
      }
    } finally {
      closeSync(fd);
    }
    renameSync(temporary, path);
  } catch (error) {
    rmSync(temporary, { force: true });
    throw error;
  }
}

/** Throws as `writePrivateFile` would, as far as that can be known before there is something to write. */
export function checkPrivateFile(path: string): void {
  const { temporary, fd } = createBeside(path);
  closeSync(fd);
  rmSync(temporary, { force: true });
}

/** A new empty file in the folder of `path`, whose name nobody can have guessed: what is there is not opened. */
function createBeside(path: string): { readonly temporary: string; readonly fd: number } {
  const found = lstatSync(path, { throwIfNoEntry: false });
  if (found?.isDirectory() === true) throw new Error(`${path}: EISDIR`);
  if (found !== undefined && !found.isFile() && !found.isSymbolicLink())
    throw new Error(`${path} is no file`);
  const temporary = `${path}.${randomBytes(8).toString("hex")}.new`;
  try {
    return { temporary, fd: openSync(temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, PRIVATE_FILE) };
  } catch (error) {
    // The name is none that the caller knows, and the folder is what is at fault.
    const folder = dirname(resolve(path));
    const code = codeOf(error);
    const reason = code === "ENOENT" && isFolder(folder) ? "no files can be made here" : String(code);
    throw new Error(`${folder}: ${reason}`, { cause: error });
  }
}

/**
 * Makes a folder, and those it is in, for this user alone. Those that are there stay as they are. Throws an Error that names the
 * folder that cannot be made, or what the system says.
 *
 * Not by Node's recursive mkdir: where the system says ENOENT though the parent is there, as in /proc, that tries for ever.
 */
export function makePrivateFolder(path: string): void {
  const missing: string[] = [];
  // The root is always there, so this ends.
  for (let at = resolve(path); !isFolder(at); at = dirname(at)) missing.push(at);
  for (const folder of missing.reverse()) makeOneFolder(folder);
}

/** In a folder that is there. Another process may make the same one at the same time. */
function makeOneFolder(path: string): void {
  try {
    mkdirSync(path, { mode: PRIVATE_FOLDER });
  } catch (error) {
    const code = codeOf(error);
    if (code === "ENOENT") throw new Error(`${path}: no folder can be made here`, { cause: error });
    if (code !== "EEXIST") throw error;
    if (!isFolder(path)) throw new Error(`${path} is no folder`, { cause: error });
  }
}

function codeOf(error: unknown): unknown {
  return error instanceof Error && "code" in error ? error.code : error;
}

function isFolder(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isDirectory() === true;
}

/** Makes socket files of others than us (Node's own servers) so that others than user and group cannot connect. */
export function withPrivateSockets<T>(listen: () => T): T {
  let before: number;
  try {
    const closed = 0o777 & ~SOCKET_MODE;
    // Asking for the old one alone would set it to nothing for a moment, which other threads see.
    before = process.umask(closed);
    process.umask(before | closed);
  } catch {
    // A worker has no umask of its own to set.
    return listen();
  }
  try {
    return listen();
  } finally {
    process.umask(before);
  }
}
