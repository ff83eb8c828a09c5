import type { QueueStart, QueueTracker } from "virtio/virtqueue/types";
import type { Descriptor } from "../native/descriptor.ts";
import type { Mapping } from "@virtio/node/native/mapping";
import type { PeerFiles } from "../memory/peer-file.ts";
import { createMemfd } from "../native/memfd.ts";
import { PeerError } from "../protocol/errors.ts";
import type { InflightDescription } from "../protocol/payloads.ts";
import type { RingView } from "./inflight-view.ts";
import { PackedInflight, packedRegionBytes } from "./inflight-packed.ts";
import { SplitInflight, splitRegionBytes } from "./inflight-split.ts";

/** The record of one virtqueue. */
export interface InflightQueue extends QueueTracker {
  /** An earlier back-end noted something here. */
  readonly begun: boolean;
  /**
   * Where the ring is taken up. `base` is what the front-end said; a record of before says it better. `usedIdx` is the
   * one in the used ring; `ringFlags` reads the flags of an entry of a packed ring.
   */
  recover(ring: RingView): QueueStart;
}

const MAX_QUEUES = 1024;
/** Entries that we make room for: QEMU asks for its PCI queue size, and lets a driver on virtio-mmio have a ring of this size. */
const ROOM = 1024;

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
    const entries = Math.max(queueSize, ROOM);
    const size = queues * align(packed ? packedRegionBytes(entries) : splitRegionBytes(entries));
    return {
      descriptor: createMemfd("vhost-user inflight", size),
      description: { size, offset: 0, queues, queueSize },
    };
  }

  /** The front-end gives the memory back. Throws a PeerError when it cannot be; the descriptor stays the caller's. */
  static adopt(descriptor: Descriptor, description: InflightDescription, files: PeerFiles): InflightRegion {
    const { size, offset, queues, queueSize } = description;
    const least = queues * align(splitRegionBytes(queueSize));
    if (queues === 0 || queues > MAX_QUEUES || queueSize === 0 || queueSize > 32768 || size < least)
      throw new PeerError(`inflight region of ${size} bytes for ${queues} virtqueues of ${queueSize}`);
    if (offset % 8 !== 0) throw new PeerError(`inflight region at ${offset} of its file is not aligned to 8`);
    return new InflightRegion(files.map("inflight region", descriptor, offset, size), description);
  }

  /** The record of one virtqueue, or undefined when there is no room for it. */
  queue(index: number, size: number, packed: boolean): InflightQueue | undefined {
    const { queues, queueSize, size: total } = this.#description;
    const need = packed ? packedRegionBytes : splitRegionBytes;
    // The same for every ring size, for a record outlives the ring that it was begun with.
    const entries = align(need(ROOM)) * queues <= total ? Math.max(queueSize, ROOM) : queueSize;
    const bytes = align(need(entries));
    if (index >= queues || size > entries || bytes * queues > total) return undefined;
    const view = this.#mapping.view(bytes * index, bytes);
    return packed ? new PackedInflight(view, entries, size) : new SplitInflight(view, entries, size);
  }

  close(): void {
    this.#mapping.unmap();
  }
}
