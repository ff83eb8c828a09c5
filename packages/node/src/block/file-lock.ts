import { tryLibc, type Libc } from "../native/libc.ts";
import { F_OFD_GETLK, F_OFD_SETLK, F_RDLCK, F_UNLCK, F_WRLCK, SEEK_SET } from "../native/linux.ts";

/**
 * QEMU's way to keep two machines off one disk: read locks on single bytes of the image, one for each thing that a
 * user does (from 100 on) and one for each thing it forbids to the others (from 200 on).
 */
const DOES = 100;
const FORBIDS = 200;
const READ = 0;
const WRITE = 1;
const RESIZE = 3;
const BYTES = 4;

/** sizeof(struct flock) where off_t has 64 bits. */
const FLOCK_SIZE = 32;

/** Where locks that other processes see do not work, at least this process does not write one file twice. */
const users = new Map<string, { readers: number; writers: number }>();

export interface FileLock {
  release(): void;
}

/**
 * Says that `fd` is in use: any number of readers, or one writer. `identity` is device and inode. Undefined: somebody
 * else is in the way. The lock ends with `release` and the closing of `fd`.
 */
export function lockImage(fd: number, identity: string, readOnly: boolean): FileLock | undefined {
  const user = users.get(identity) ?? { readers: 0, writers: 0 };
  if (user.writers > 0 || (!readOnly && user.readers > 0)) return undefined;
  const libc = tryLibc();
  if (libc !== undefined && !lockBytes(libc, fd, readOnly)) return undefined;
  const kind = readOnly ? "readers" : "writers";
  user[kind]++;
  users.set(identity, user);
  return {
    release: () => {
      user[kind]--;
      if (user.readers + user.writers === 0 && users.get(identity) === user) users.delete(identity);
    },
  };
}

function lockBytes(libc: Libc, fd: number, readOnly: boolean): boolean {
  const does = readOnly ? [READ] : [READ, WRITE];
  const forbids = [WRITE, RESIZE];
  for (const byte of [...does.map((i) => DOES + i), ...forbids.map((i) => FORBIDS + i)]) {
    // A file system without locks (or a lock of another kind on the whole file) is no reason to refuse the disk.
    if (libc.fcntl(fd, F_OFD_SETLK, flock(F_RDLCK, byte)) < 0) return true;
  }
  const free =
    does.every((i) => !heldByOther(libc, fd, FORBIDS + i)) &&
    forbids.every((i) => !heldByOther(libc, fd, DOES + i));
  if (!free) {
    for (let i = 0; i < BYTES; i++) {
      libc.fcntl(fd, F_OFD_SETLK, flock(F_UNLCK, DOES + i));
      libc.fcntl(fd, F_OFD_SETLK, flock(F_UNLCK, FORBIDS + i));
    }
  }
  return free;
}

function heldByOther(libc: Libc, fd: number, byte: number): boolean {
  const lock = flock(F_WRLCK, byte);
  return libc.fcntl(fd, F_OFD_GETLK, lock) === 0 && new DataView(lock.buffer).getInt16(0, true) !== F_UNLCK;
}

function flock(type: number, byte: number): Uint8Array {
  const bytes = new Uint8Array(FLOCK_SIZE);
  const view = new DataView(bytes.buffer);
  view.setInt16(0, type, true);
  view.setInt16(2, SEEK_SET, true);
  view.setBigInt64(8, BigInt(byte), true);
  view.setBigInt64(16, 1n, true);
  return bytes;
}
