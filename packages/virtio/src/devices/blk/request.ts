import { readLe32, readLe64 } from "../../memory/bytes.ts";
import { SegmentReader } from "../../memory/cursor.ts";
import type { GuestMemory } from "../../memory/guest-memory.ts";
import {
  VIRTIO_BLK_DISCARD_WRITE_ZEROES as RANGE,
  VIRTIO_BLK_DISCARD_WRITE_ZEROES_SIZE as RANGE_SIZE,
  VIRTIO_BLK_REQ as REQ,
  VIRTIO_BLK_REQ_SIZE as HEADER_SIZE,
} from "../../spec/blk.ts";
import type { DescriptorChain } from "../../virtqueue/types.ts";
import { MAX_RANGES } from "./options.ts";

/**
 * What a driver asks, copied out of its memory once ("Device Operation", `struct virtio_blk_req`). The header takes the
 * first 16 readable bytes and the status the last writable one, wherever the descriptors begin and end; all between is
 * data. One object is used for every request: it is valid until the next `parse`.
 */
export class BlkRequest {
  type = 0;
  /** Exact below 2**53, and not below 2**53 otherwise. */
  sector = 0;
  /** Bytes of data for the device to read. */
  dataOut = 0;
  /** Bytes of data for the device to write. */
  dataIn = 0;
  readonly #scratch = new Uint8Array(HEADER_SIZE);
  readonly #reader: SegmentReader;
  readonly #memory: GuestMemory;

  constructor(memory: GuestMemory) {
    this.#memory = memory;
    this.#reader = new SegmentReader(memory);
  }

  /** False: the chain is too short for a header. There must be at least one writable byte. */
  parse(chain: DescriptorChain): boolean {
    if (chain.readableLength < HEADER_SIZE) return false;
    const first = chain.readable[0];
    let header: Uint8Array = this.#scratch;
    if (first !== undefined && first.length >= HEADER_SIZE)
      header = this.#memory.view(first.gpa, HEADER_SIZE);
    else this.#reader.start(chain.readable).copy(header);
    this.type = readLe32(header, REQ.type);
    this.sector = readLe64(header, REQ.sector);
    this.dataOut = chain.readableLength - HEADER_SIZE;
    this.dataIn = chain.writableLength - 1;
    return true;
  }

  /** The ranges of a discard or write zeroes request, at most MAX_RANGES of them. */
  parseRanges(chain: DescriptorChain): BlkRange[] {
    const bytes = new Uint8Array(Math.min(Math.floor(this.dataOut / RANGE_SIZE), MAX_RANGES) * RANGE_SIZE);
    const reader = this.#reader.start(chain.readable);
    reader.skip(HEADER_SIZE);
    reader.copy(bytes);
    const ranges: BlkRange[] = [];
    for (let at = 0; at < bytes.length; at += RANGE_SIZE)
      ranges.push({
        sector: readLe64(bytes, at + RANGE.sector),
        sectors: readLe32(bytes, at + RANGE.num_sectors),
        flags: readLe32(bytes, at + RANGE["flags.unmap"]),
      });
    return ranges;
  }
}

/** One `struct virtio_blk_discard_write_zeroes`. */
export interface BlkRange {
  readonly sector: number;
  readonly sectors: number;
  /** Bit 0 is `unmap`; the others are reserved. */
  readonly flags: number;
}
