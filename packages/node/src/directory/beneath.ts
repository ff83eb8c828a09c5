import { Errno } from "virtio/backends/errno";
import { encodeUtf8Into, utf8Length } from "virtio/memory/utf8";
import type { Libc } from "../native/libc.ts";
import * as linux from "../native/linux.ts";
import { DOT } from "./names.ts";

/** Bytes of the longest path that Linux takes, with its NUL. */
const PATH_MAX = 4096;
const SLASH = 0x2f;
const FLAGS = linux.O_PATH | linux.O_NOFOLLOW | linux.O_CLOEXEC;
const RESOLVE = linux.RESOLVE_BENEATH | linux.RESOLVE_NO_SYMLINKS | linux.RESOLVE_NO_MAGICLINKS;

/**
 * Paths of many names below a directory, in few calls: openat2(2) of Linux 5.6 walks them without following a symlink or
 * leaving the directory. Where it is missing, or forbidden in a container, each name is a call of its own.
 */
export class Beneath {
  readonly #libc: Libc;
  readonly #how: BigUint64Array = BigUint64Array.of(BigInt(FLAGS), 0n, BigInt(RESOLVE));
  readonly #path: Uint8Array = new Uint8Array(PATH_MAX);
  readonly #isThere: boolean;
  /** One name, as the table opens it. */
  readonly #openPath: (directory: number, name: string) => number;

  constructor(libc: Libc, root: number, openPath: (directory: number, name: string) => number) {
    this.#libc = libc;
    this.#openPath = openPath;
    const probe = libc.openat2(root, DOT, this.#how);
    this.#isThere = probe >= 0;
    if (probe >= 0) libc.close(probe);
  }

  /**
   * Opens (O_PATH) where `names` lead from `directory`: at least one. The descriptor is the caller's. `retry` is asked after a
   * failure whether to try again. Names have been checked.
   */
  open(directory: number, names: readonly string[], retry: (errno: number) => boolean): number {
    let at = directory;
    try {
      for (let next = 0; next < names.length;) {
        const upTo = this.#isThere ? this.#fill(names, next) : next + 1;
        const opened = this.#isThere ? this.#walk(at, retry) : this.#openPath(at, names[next] ?? "");
        if (at !== directory) this.#libc.close(at);
        at = opened;
        next = upTo;
      }
      return at;
    } catch (error) {
      if (at !== directory) this.#libc.close(at);
      throw error;
    }
  }

  #walk(at: number, retry: (errno: number) => boolean): number {
    let fd = this.#libc.openat2(at, this.#path, this.#how);
    if (fd >= 0) return fd;
    const errno = this.#libc.errno();
    if (!retry(errno)) throw Errno.of(errno);
    fd = this.#libc.openat2(at, this.#path, this.#how);
    if (fd < 0) throw Errno.of(this.#libc.errno());
    return fd;
  }

  /** Writes as many names as fit, and returns the index of the first that did not. */
  #fill(names: readonly string[], from: number): number {
    let end = 0;
    let next = from;
    for (; next < names.length; next++) {
      const name = names[next] ?? "";
      if (end + 1 + utf8Length(name) >= PATH_MAX) break;
      if (end > 0) this.#path[end++] = SLASH;
      end = encodeUtf8Into(name, this.#path, end);
    }
    this.#path[end] = 0;
    return next;
  }
}
