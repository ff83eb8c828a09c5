import { Errno } from "virtio/backends/errno";
import { decodeUtf8 } from "virtio/memory/utf8";
import type { Libc } from "../native/libc.ts";
import { cString, DescriptorPath } from "./names.ts";

/** XATTR_SIZE_MAX and XATTR_LIST_MAX of Linux. */
const MAX_SIZE = 1 << 16;

/** Extended attributes of what an O_PATH descriptor stands for. */
export class HostXattrs {
  readonly #libc: Libc;
  readonly #allows: (name: string) => boolean;
  readonly #path = new DescriptorPath();
  #buffer: Uint8Array | undefined;

  /** Names that `allows` refuses are not there for the guest. */
  constructor(libc: Libc, allows: (name: string) => boolean) {
    this.#libc = libc;
    this.#allows = allows;
  }

  get(fd: number, name: string): Uint8Array {
    const buffer = this.#scratch();
    const length = this.#libc.getxattr(this.#path.of(fd), this.#name(name), buffer, MAX_SIZE);
    return buffer.slice(0, this.#checked(length));
  }

  list(fd: number): string[] {
    const buffer = this.#scratch();
    const length = this.#checked(this.#libc.listxattr(this.#path.of(fd), buffer, MAX_SIZE));
    return decodeUtf8(buffer, 0, length)
      .split("\0")
      .filter((name) => name !== "" && this.#allows(name));
  }

  set(fd: number, name: string, value: Uint8Array, flags: number): void {
    this.#checked(this.#libc.setxattr(this.#path.of(fd), this.#name(name), value, value.length, flags));
  }

  remove(fd: number, name: string): void {
    this.#checked(this.#libc.removexattr(this.#path.of(fd), this.#name(name)));
  }

  #name(name: string): Uint8Array {
    if (!this.#allows(name)) throw Errno.of("EOPNOTSUPP");
    return cString(name);
  }

  #scratch(): Uint8Array {
    return (this.#buffer ??= new Uint8Array(MAX_SIZE));
  }

  #checked(result: number): number {
    if (result < 0) throw Errno.of(this.#libc.errno());
    return result;
  }
}
