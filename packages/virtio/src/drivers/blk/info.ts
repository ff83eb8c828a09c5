import type { DriverSession } from "../../driver/session.ts";
import { readLe16, readLe32, readLe64 } from "../../memory/bytes.ts";
import {
  VIRTIO_BLK_CONFIG as AT,
  VIRTIO_BLK_F_BLK_SIZE,
  VIRTIO_BLK_F_CONFIG_WCE,
  VIRTIO_BLK_F_DISCARD,
  VIRTIO_BLK_F_FLUSH,
  VIRTIO_BLK_F_GEOMETRY,
  VIRTIO_BLK_F_MQ,
  VIRTIO_BLK_F_RO,
  VIRTIO_BLK_F_SEG_MAX,
  VIRTIO_BLK_F_SIZE_MAX,
  VIRTIO_BLK_F_TOPOLOGY,
  VIRTIO_BLK_F_WRITE_ZEROES,
  VIRTIO_BLK_SECTOR_SIZE,
} from "../../spec/blk.ts";

/** What a block device says about itself; fields of features that were not negotiated are absent or at their default. */
export interface BlkInfo {
  /** Sectors of 512 bytes. */
  readonly capacity: number;
  readonly readOnly: boolean;
  /** Bytes in one segment at most. */
  readonly sizeMax: number;
  /** Segments of data in one request at most. */
  readonly segMax: number;
  /** Bytes: the optimal sector size. Units stay 512 bytes. */
  readonly blkSize: number;
  readonly geometry?: { readonly cylinders: number; readonly heads: number; readonly sectors: number };
  readonly topology?: BlkTopology;
  /** The cache is writeback: what was written is durable only after a flush. */
  readonly writeback: boolean;
  readonly numQueues: number;
  readonly discard?: {
    readonly maxSectors: number;
    readonly maxSegments: number;
    readonly alignment: number;
  };
  readonly writeZeroes?: {
    readonly maxSectors: number;
    readonly maxSegments: number;
    readonly mayUnmap: boolean;
  };
}

export interface BlkTopology {
  /** Logical blocks in a physical one, as a power of two. */
  readonly physicalBlockExp: number;
  /** Logical blocks. */
  readonly alignmentOffset: number;
  /** Logical blocks; 0 means nothing is suggested. */
  readonly minIoSize: number;
  /** Logical blocks; 0 means nothing is suggested. */
  readonly optIoSize: number;
}

/** A driver that does not know the limit uses one segment, however long. */
const NO_SIZE_MAX = 0xffff_ffff;
/** Where the space ends that this driver can read. */
const END = AT.max_secure_erase_sectors;

/** Reads the configuration space in one consistent piece; only after FEATURES_OK. */
export function readInfo(session: DriverSession): BlkInfo {
  const length = Math.min(END, session.transport.configLength ?? configEnd(session));
  const bytes = new Uint8Array(END);
  bytes.set(session.readConfig(0, length));
  const le32 = (at: number): number => readLe32(bytes, at);
  const has = (bit: number): boolean => session.has(bit);
  return {
    capacity: readLe64(bytes, AT.capacity),
    readOnly: has(VIRTIO_BLK_F_RO),
    // qemu-storage-daemon offers the feature and leaves the field 0, which no buffer could keep to.
    sizeMax: (has(VIRTIO_BLK_F_SIZE_MAX) ? le32(AT.size_max) : 0) || NO_SIZE_MAX,
    segMax: has(VIRTIO_BLK_F_SEG_MAX) ? le32(AT.seg_max) : 1,
    blkSize: has(VIRTIO_BLK_F_BLK_SIZE) ? le32(AT.blk_size) : VIRTIO_BLK_SECTOR_SIZE,
    // "If VIRTIO_BLK_F_CONFIG_WCE was not negotiated but VIRTIO_BLK_F_FLUSH was, the driver SHOULD assume writeback"
    writeback: has(VIRTIO_BLK_F_CONFIG_WCE) ? bytes[AT.writeback] !== 0 : has(VIRTIO_BLK_F_FLUSH),
    numQueues: has(VIRTIO_BLK_F_MQ) ? readLe16(bytes, AT.num_queues) : 1,
    ...(has(VIRTIO_BLK_F_GEOMETRY) && { geometry: geometry(bytes) }),
    ...(has(VIRTIO_BLK_F_TOPOLOGY) && { topology: topology(bytes) }),
    ...(has(VIRTIO_BLK_F_DISCARD) && {
      discard: {
        maxSectors: le32(AT.max_discard_sectors),
        maxSegments: le32(AT.max_discard_seg),
        alignment: le32(AT.discard_sector_alignment),
      },
    }),
    ...(has(VIRTIO_BLK_F_WRITE_ZEROES) && {
      writeZeroes: {
        maxSectors: le32(AT.max_write_zeroes_sectors),
        maxSegments: le32(AT.max_write_zeroes_seg),
        mayUnmap: bytes[AT.write_zeroes_may_unmap] !== 0,
      },
    }),
  };
}

/** How much space there must be for what was negotiated, on a transport that does not say how much there is. */
function configEnd(session: DriverSession): number {
  if (session.has(VIRTIO_BLK_F_WRITE_ZEROES)) return END;
  if (session.has(VIRTIO_BLK_F_DISCARD)) return AT.max_write_zeroes_sectors;
  if (session.has(VIRTIO_BLK_F_MQ)) return AT.max_discard_sectors;
  if (session.has(VIRTIO_BLK_F_CONFIG_WCE)) return AT.unused0;
  return AT.writeback;
}

function geometry(bytes: Uint8Array): { cylinders: number; heads: number; sectors: number } {
  return {
    cylinders: readLe16(bytes, AT["geometry.cylinders"]),
    heads: bytes[AT["geometry.heads"]] ?? 0,
    sectors: bytes[AT["geometry.sectors"]] ?? 0,
  };
}

function topology(bytes: Uint8Array): BlkTopology {
  return {
    physicalBlockExp: bytes[AT["topology.physical_block_exp"]] ?? 0,
    alignmentOffset: bytes[AT["topology.alignment_offset"]] ?? 0,
    minIoSize: readLe16(bytes, AT["topology.min_io_size"]),
    optIoSize: readLe32(bytes, AT["topology.opt_io_size"]),
  };
}
