import { randomBytes } from "node:crypto";
import { closeSync, constants, mkdirSync, openSync, renameSync, rmSync, writeSync } from "node:fs";

/** Read and written by this user alone: what is in our files comes out of guests' memory and disks. */
export const PRIVATE_FILE = 0o600;
const PRIVATE_FOLDER = 0o700;
/** Of sockets in the file system, before they are bound: the group may connect where the umask lets it, others never. */
export const SOCKET_MODE = 0o660;

const { O_WRONLY, O_CREAT, O_EXCL, O_NOFOLLOW } = constants;

/**
 * Writes a file that is there whole or not at all, for this user alone. What was at `path` is replaced; a symbolic link there is
 * replaced, too, and what it points to stays as it is. Throws what the system says, and leaves nothing behind.
 */
export function writePrivateFile(path: string, ...pieces: readonly (Uint8Array | string)[]): void {
  // Nobody can have put something there: it cannot be guessed, and what is there is not opened.
  const temporary = `${path}.${randomBytes(8).toString("hex")}.new`;
  const fd = openSync(temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, PRIVATE_FILE);
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

/** Makes a folder, and those it is in, for this user alone. Those that are there stay as they are. */
export function makePrivateFolder(path: string): void {
  mkdirSync(path, { recursive: true, mode: PRIVATE_FOLDER });
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
