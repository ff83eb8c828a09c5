import type { QueueStart, QueueTracker } from "virtio/virtqueue/types";
import type { Descriptor } from "../native/descriptor.ts";
import { Mapping } from "@virtio/node/native/mapping";
import { createMemfd, fileExtent } from "../native/memfd.ts";
import { PeerError } from "../protocol/errors.ts";
import type { InflightDescription } from "../protocol/payloads.ts";
import type { RingView } from "./inflight-view.ts";
import { PackedInflight, packedRegionBytes } from "./inflight-packed.ts";
import { SplitInflight, splitRegionBytes } from "./inflight-split.ts";

/** The record of one virtqueue. */
export interface InflightQueue extends QueueTracker {
  /**
   * Where the ring is taken up. `base` is what the front-end said; a record of before says it better. `usedIdx` is the
   * one in the used ring; `ringFlags` reads the flags of an entry of a packed ring.
   */
  recover(ring: RingView): QueueStart;
}

const MAX_QUEUES = 1024;

/** Queue regions start at multiples of this; libvhost-user does the same. */
const ALIGNMENT = 64;
const align = (bytes: number): number => Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;

/**
 * "Inflight I/O tracking": memory that the front-end keeps while a back-end dies, where the back-end notes which requests
 * it holds, so that the next one loses nothing and does nothing twice.
 */
export class InflightRegion {
  readonly #mapping: Mapping;
  readonly #description: InflightDescription;

  private constructor(mapping: Mapping, description: InflightDescription) {
    this.#mapping = mapping;
    this.#description = description;
  }

  /** New memory for the front-end, and what to tell of it. The descriptor is the caller's. */
  static allocate(
    queues: number,
    queueSize: number,
    packed: boolean,
  ): { readonly descriptor: Descriptor; readonly description: InflightDescription } {
    if (queues === 0 || queues > MAX_QUEUES || queueSize === 0 || queueSize > 32768)
      throw new PeerError(`inflight region for ${queues} virtqueues of ${queueSize}`);
    const size = queues * align(packed ? packedRegionBytes(queueSize) : splitRegionBytes(queueSize));
    return {
      descriptor: createMemfd("vhost-user inflight", size),
      description: { size, offset: 0, queues, queueSize },
    };
  }

  /** The front-end gives the memory back. Throws a PeerError when it cannot be; the descriptor stays the caller's. */
  static adopt(descriptor: Descriptor, description: InflightDescription): InflightRegion {
    const { size, offset, queues, queueSize } = description;
    const least = queues * align(splitRegionBytes(queueSize));
    if (queues === 0 || queues > MAX_QUEUES || queueSize === 0 || queueSize > 32768 || size < least)
      throw new PeerError(`inflight region of ${size} bytes for ${queues} virtqueues of ${queueSize}`);
    if (offset % 8 !== 0 || offset + size > fileExtent(descriptor.fd).size)
      throw new PeerError("inflight region is not inside its file");
    return new InflightRegion(Mapping.map(descriptor.fd, offset, size), description);
  }

  /** The record of one virtqueue, or undefined when there is no room for it. */
  queue(index: number, size: number, packed: boolean): InflightQueue | undefined {
    const { queues, queueSize } = this.#description;
    const bytes = align(packed ? packedRegionBytes(queueSize) : splitRegionBytes(queueSize));
    if (index >= queues || size > queueSize || bytes * queues > this.#description.size) return undefined;
    const view = this.#mapping.view(bytes * index, bytes);
    return packed ? new PackedInflight(view, queueSize, size) : new SplitInflight(view, queueSize, size);
  }

  close(): void {
    this.#mapping.unmap();
  }
}
