import type { Descriptor } from "../native/descriptor.ts";
import { fileExtent } from "../native/memfd.ts";

/**
 * A file that guest memory is in. Its descriptor stays open for as long as a region may still have to be mapped from it;
 * regions of one file share one, so that 509 slots of one memory back-end do not use up the process's descriptors.
 */
export class RegionFile {
  /** Device and inode. */
  readonly identity: string;
  readonly #descriptor: Descriptor;
  #users = 0;

  /** Takes a descriptor of its own; the caller's stays the caller's. */
  constructor(descriptor: Descriptor, identity: string) {
    this.identity = identity;
    this.#descriptor = descriptor.duplicate();
  }

  get fd(): number {
    return this.#descriptor.fd;
  }

  /** Bytes, now: a peer may have changed that. */
  get size(): number {
    return fileExtent(this.fd).size;
  }

  retain(): this {
    this.#users++;
    return this;
  }

  release(): void {
    if (--this.#users === 0) this.#descriptor.close();
  }
}
