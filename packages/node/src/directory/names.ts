import { Errno } from "virtio/backends/errno";
import { NAME_MAX } from "virtio/backends/file-system";
import { encodeUtf8Into, utf8Length } from "virtio/memory/utf8";

/** An empty C string. */
export const NO_NAME: Uint8Array = new Uint8Array(1);
export const DOT: Uint8Array = Uint8Array.of(0x2e, 0);
export const DOT_DOT: Uint8Array = Uint8Array.of(0x2e, 0x2e, 0);

const PROC_FD = "/proc/self/fd/";
const DIGITS = 11;

/** A C string that is written again and again, for the length of one call. */
export class NameBuffer {
  readonly bytes: Uint8Array = new Uint8Array(NAME_MAX + 1);

  /**
   * One path component. This is the wall around the share: what passes here names something inside of its directory, as long
   * as the call does not follow symlinks.
   */
  put(name: string): Uint8Array {
    if (utf8Length(name) > NAME_MAX) throw Errno.of("ENAMETOOLONG");
    if (name === "" || name === "." || name === ".." || name.includes("/") || name.includes("\0")) {
      throw Errno.of("EINVAL");
    }
    this.bytes[encodeUtf8Into(name, this.bytes, 0)] = 0;
    return this.bytes;
  }
}

/**
 * Paths that lead to an open descriptor: a link of /proc goes straight to the thing, not through any name. The result is
 * valid until the next call.
 */
export class DescriptorPath {
  readonly #bytes: Uint8Array = new Uint8Array(PROC_FD.length + DIGITS);

  constructor() {
    encodeUtf8Into(PROC_FD, this.#bytes, 0);
  }

  /** `/proc/self/fd/N`. */
  of(fd: number): Uint8Array {
    let end = PROC_FD.length + 1;
    for (let rest = fd; rest > 9; rest = Math.trunc(rest / 10)) end++;
    this.#bytes[end] = 0;
    for (let rest = fd, at = end - 1; at >= PROC_FD.length; at--) {
      this.#bytes[at] = 0x30 + (rest % 10);
      rest = Math.trunc(rest / 10);
    }
    return this.#bytes;
  }
}

/** A C string of any length, for symlink targets and names of attributes. */
export function cString(text: string): Uint8Array {
  if (text.includes("\0")) throw Errno.of("EINVAL");
  const bytes = new Uint8Array(utf8Length(text) + 1);
  encodeUtf8Into(text, bytes, 0);
  return bytes;
}
