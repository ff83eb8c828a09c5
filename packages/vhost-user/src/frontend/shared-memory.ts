import { DmaPool } from "virtio/driver/dma";
import { RegionMemory } from "virtio/memory/region-memory";
import type { Descriptor } from "../native/descriptor.ts";
import { Mapping } from "@virtio/node/native/mapping";
import { createMemfd } from "../native/memfd.ts";
import type { RegionDescription } from "../protocol/payloads.ts";

/** Where our memory starts for devices. Not 0, so that an address that was never set is not in it. */
const BASE = 0x10_0000;

/** Memory that this driver and the back-end share: one region, in a file whose size is sealed. */
export class SharedMemory {
  readonly pool: DmaPool;
  readonly region: RegionDescription;
  readonly descriptor: Descriptor;
  readonly #mapping: Mapping;

  /** `length` in bytes; what is not used takes no memory. */
  constructor(length: number) {
    this.descriptor = createMemfd("vhost-user front-end", length);
    try {
      this.#mapping = Mapping.map(this.descriptor.fd, 0, length);
    } catch (error) {
      this.descriptor.close();
      throw error;
    }
    const memory = new RegionMemory([{ gpa: BASE, bytes: this.#mapping.view(0, length) }]);
    this.pool = new DmaPool(memory, BASE, length);
    // User addresses only name places in the table: there is no need to tell where things are in this process.
    this.region = { guestAddress: BASE, size: length, userAddress: BASE, mmapOffset: 0 };
  }

  /** Views that somebody still has show zeroes from now on. */
  close(): void {
    this.#mapping.unmap();
    this.descriptor.close();
  }
}
