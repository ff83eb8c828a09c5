import { wholeOption } from "virtio/check-option";
import { check, natives } from "./libc.ts";
import { F_DUPFD_CLOEXEC, F_GETFL, F_SETFL, O_NONBLOCK } from "./linux.ts";

let open = 0;
const MAX_FD = 2 ** 31 - 1;

/** How many descriptors this package holds open in this thread; a leak shows up here. */
export function openDescriptors(): number {
  return open;
}

/** A file descriptor with one owner, who closes it once. */
export class Descriptor {
  #fd: number;

  /** Takes over an open descriptor. */
  constructor(fd: number) {
    this.#fd = wholeOption("descriptor: fd", fd, 0, MAX_FD);
    open++;
  }

  /** The number. Throws when it is closed: a number used after that may be somebody else's file. */
  get fd(): number {
    if (this.#fd < 0) throw new Error("descriptor is closed");
    return this.#fd;
  }

  get closed(): boolean {
    return this.#fd < 0;
  }

  /** A descriptor of the file that somebody else's is of, too. */
  static duplicateOf(fd: number): Descriptor {
    wholeOption("descriptor: fd", fd, 0, MAX_FD);
    return new Descriptor(check(natives().fcntl(fd, F_DUPFD_CLOEXEC, 3), "fcntl(F_DUPFD_CLOEXEC)"));
  }

  /** A second descriptor of the same file. */
  duplicate(): Descriptor {
    return Descriptor.duplicateOf(this.fd);
  }

  /** The number for somebody else, who closes it from now on. */
  release(): number {
    const { fd } = this;
    this.#fd = -1;
    open--;
    return fd;
  }

  /** Closing twice is no mistake. */
  close(): void {
    if (this.#fd < 0) return;
    natives().close(this.release());
  }

  /** Never blocks from now on; the peer shares this. */
  setNonBlocking(): void {
    const flags = check(natives().fcntl(this.fd, F_GETFL, 0), "fcntl(F_GETFL)");
    if ((flags & O_NONBLOCK) === 0)
      check(natives().fcntl(this.fd, F_SETFL, flags | O_NONBLOCK), "fcntl(F_SETFL)");
  }
}

export function closeAll(descriptors: readonly Descriptor[]): void {
  for (const descriptor of descriptors) descriptor.close();
}
