import { Mapping } from "@virtio/node/native/mapping";
import type { Descriptor } from "../native/descriptor.ts";
import { fileExtent, type FileExtent } from "../native/memfd.ts";
import { PeerError } from "../protocol/errors.ts";

/**
 * The door for every file of a front-end that is mapped: guest memory, the dirty log, the inflight region.
 *
 * A peer that makes its file shorter ends this process with a SIGBUS when a lost page is touched; nothing that JavaScript does can
 * prevent that. QEMU's memfd back-end, its dirty log and our inflight region are sealed against it (F_SEAL_SHRINK);
 * `sealedOnly` refuses files without that seal. It refuses huge pages, too: the seal does not keep a peer from punching a hole
 * into them, and when the pool has no page left to fill it again, that is a SIGBUS as well.
 */
export class PeerFiles {
  readonly #sealedOnly: boolean;

  constructor(sealedOnly: boolean) {
    this.#sealedOnly = sealedOnly;
  }

  /**
   * What can be known of a file whose bytes from `offset` on, `length` of them, are to be mapped.
   * @param what starts the sentence of the error, such as `dirty log`
   * @throws PeerError when it is no file for that
   */
  check(what: string, descriptor: Descriptor, offset: number, length: number): FileExtent {
    const extent = fileExtent(descriptor.fd);
    const beyond = offset + length - extent.size;
    if (beyond > 0) throw new PeerError(`${what} ends ${beyond} bytes beyond its file`);
    if (!extent.readWrite) throw new PeerError(`${what}: its file cannot be read and written`);
    if (!this.#sealedOnly) return extent;
    if (!extent.sealed) throw new PeerError(`${what}: its file can be shrunk (no F_SEAL_SHRINK)`);
    if (extent.hugePages) throw new PeerError(`${what}: its huge pages can be taken away`);
    return extent;
  }

  /** Checks and maps. Throws a PeerError when it is no file for that, and a NativeError when the system refuses. */
  map(what: string, descriptor: Descriptor, offset: number, length: number): Mapping {
    this.check(what, descriptor, offset, length);
    return Mapping.map(descriptor.fd, offset, length);
  }
}
