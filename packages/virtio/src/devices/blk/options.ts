import type { BlockBackend } from "../../backends/block.ts";
import {
  flagOptions,
  multipleOption,
  partOption,
  powerOption,
  textOption,
  wholeOption,
} from "../../check-option.ts";
import { featureBits } from "../../spec/core.ts";
import {
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
  VIRTIO_BLK_ID_BYTES,
  VIRTIO_BLK_SECTOR_SIZE,
} from "../../spec/blk.ts";
import { VIRTQ_MAX_SIZE } from "../../spec/virtqueue.ts";

/** What a block device can be told; the names are those of QEMU's properties, written in camel case. */
export interface BlkOptions {
  /** The device ID string: at most 20 ASCII characters. Default: empty. */
  readonly serial?: string;
  /** Largest Queue Size offered, a power of two from 4 to 32768; `seg_max` follows it, and the cap of the instance. Default 256. */
  readonly queueSize?: number;
  /** Request queues, 1 to 1024. Default 1. */
  readonly numQueues?: number;
  /** True (default): `seg_max` uses the whole queue. False: 126 at most, as old hypervisors had it. */
  readonly segMaxAdjust?: boolean;
  /** Bytes, a power of two up to 2 MiB; default and minimum: the backend's block size. */
  readonly logicalBlockSize?: number;
  /** Bytes, a power of two up to 2 MiB, not less than the logical block size. Default: what the backend prefers. */
  readonly physicalBlockSize?: number;
  /** Bytes, a multiple of the logical block size. Default 0: none suggested. */
  readonly minIoSize?: number;
  /** Bytes, a multiple of the logical block size. Default 0: none suggested. */
  readonly optIoSize?: number;
  /** Bytes, a multiple of 512: what discards should be aligned to. Default: the logical block size. */
  readonly discardGranularity?: number;
  /** 1 to 65535 cylinders, 1 to 255 heads and sectors. Default: made up from the capacity with 16 heads and 63 sectors. */
  readonly geometry?: { readonly cylinders: number; readonly heads: number; readonly sectors: number };
  /** Offer VIRTIO_BLK_F_DISCARD where the backend can. Default true. */
  readonly discard?: boolean;
  /** Offer VIRTIO_BLK_F_WRITE_ZEROES. Default true. */
  readonly writeZeroes?: boolean;
  /** Sectors of 512 bytes in one segment, 1 to 2^32 - 1. Default 2^22. */
  readonly maxDiscardSectors?: number;
  /** Sectors of 512 bytes in one segment, 1 to 2^32 - 1. Default 2^17. */
  readonly maxWriteZeroesSectors?: number;
  /** Writeback (true, default) or writethrough before the driver chooses. */
  readonly writeCache?: boolean;
  /** Let the driver choose: VIRTIO_BLK_F_CONFIG_WCE. Default true. */
  readonly configWce?: boolean;
  /** Hears of each failure of the backend that the driver only sees as VIRTIO_BLK_S_IOERR. */
  readonly onError?: (error: unknown) => void;
}

/** The most bytes of data in one read or write request; a longer one ends in VIRTIO_BLK_S_IOERR. */
export const MAX_TRANSFER_BYTES: number = 2 ** 28;
/** The most bytes in one segment that a driver is told of. */
const SIZE_MAX_BYTES = 2 ** 20;
/** The header and the status byte each take a descriptor of their own in the framing that drivers use. */
export const FRAMING_DESCRIPTORS = 2;
const OLD_SEG_MAX = 126;
/** Segments in one discard or write zeroes request. */
export const MAX_RANGES = 16;
/** 2 GiB: a discard only keeps books. */
const MAX_RANGE_SECTORS = 2 ** 22;
/** A backend may have to write the zeroes out: no more in one request than a write could carry. */
const MAX_ZEROES_SECTORS = 2 ** 17;
const MAX_ZEROES_RANGES: number = MAX_TRANSFER_BYTES / (MAX_ZEROES_SECTORS * VIRTIO_BLK_SECTOR_SIZE);
/** The largest block size of a backend. */
export const MAX_ALIGNMENT = 65_536;
const MAX_QUEUES = 1024;
const MAX_LE32 = 0xffff_ffff;
const FLAGS = ["segMaxAdjust", "discard", "writeZeroes", "writeCache", "configWce"] as const;

/** The options with every default filled in and checked against the backend. */
export interface BlkLimits {
  readonly serial: Uint8Array;
  readonly queueSize: number;
  readonly numQueues: number;
  readonly features: bigint;
  readonly readOnly: boolean;
  readonly writeback: boolean;
  readonly segMax: number;
  readonly sizeMax: number;
  /** Bytes: requests must be aligned to this, because the backend cannot do less. */
  readonly alignment: number;
  readonly blkSize: number;
  readonly physicalBlockExp: number;
  readonly minIoBlocks: number;
  readonly optIoBlocks: number;
  readonly geometry: { readonly cylinders: number; readonly heads: number; readonly sectors: number };
  readonly maxDiscardSectors: number;
  readonly maxDiscardSeg: number;
  readonly discardSectorAlignment: number;
  readonly maxWriteZeroesSectors: number;
  readonly maxWriteZeroesSeg: number;
  readonly writeZeroesMayUnmap: boolean;
}

/** Throws a RangeError or TypeError that names the option which does not fit. */
export function resolveLimits(backend: BlockBackend, options: BlkOptions): BlkLimits {
  partOption("blk: backend", backend, "a BlockBackend", "read");
  flagOptions("blk", options, FLAGS);
  const alignment = power(
    "block size of the backend",
    backend.blockSize ?? VIRTIO_BLK_SECTOR_SIZE,
    512,
    MAX_ALIGNMENT,
  );
  const queueSize = power("queue-size", options.queueSize ?? 256, 4, VIRTQ_MAX_SIZE);
  const numQueues = whole("num-queues", options.numQueues ?? 1, 1, MAX_QUEUES);
  const blkSize = power("logical_block_size", options.logicalBlockSize ?? alignment, alignment, 2 ** 21);
  const preferred = Math.max(blkSize, backend.physicalBlockSize ?? blkSize);
  const physical = power("physical_block_size", options.physicalBlockSize ?? preferred, blkSize, 2 ** 21);
  const room = queueSize - FRAMING_DESCRIPTORS;
  const segMax = (options.segMaxAdjust ?? true) ? room : Math.min(room, OLD_SEG_MAX);
  const writable = !backend.readOnly;
  const discard = writable && (options.discard ?? true) && backend.discard !== undefined;
  const writeZeroes = writable && (options.writeZeroes ?? true);
  const native = backend.writeZeroes !== undefined;
  // All are checked, offered or not: what is wrong does not become right on a read-only disk.
  const maxDiscard = whole(
    "max-discard-sectors",
    options.maxDiscardSectors ?? MAX_RANGE_SECTORS,
    1,
    MAX_LE32,
  );
  const maxZeroes = whole(
    "max-write-zeroes-sectors",
    options.maxWriteZeroesSectors ?? MAX_ZEROES_SECTORS,
    1,
    MAX_LE32,
  );
  const granularity = blocks(
    "discard_granularity",
    options.discardGranularity ?? blkSize,
    VIRTIO_BLK_SECTOR_SIZE,
    MAX_LE32,
  );
  return {
    serial: asciiSerial(options.serial ?? ""),
    queueSize,
    numQueues,
    readOnly: backend.readOnly,
    writeback: options.writeCache ?? true,
    segMax,
    sizeMax: Math.max(
      4096,
      Math.min(SIZE_MAX_BYTES, 2 ** Math.floor(Math.log2(MAX_TRANSFER_BYTES / segMax))),
    ),
    alignment,
    blkSize,
    physicalBlockExp: Math.log2(physical / blkSize),
    minIoBlocks: blocks("min_io_size", options.minIoSize ?? 0, blkSize, 0xffff),
    optIoBlocks: blocks("opt_io_size", options.optIoSize ?? 0, blkSize, MAX_LE32),
    geometry: checkedGeometry(options.geometry) ?? inventedGeometry(backend.size),
    maxDiscardSectors: discard ? maxDiscard : 0,
    maxDiscardSeg: discard ? MAX_RANGES : 0,
    discardSectorAlignment: discard ? granularity : 0,
    maxWriteZeroesSectors: writeZeroes ? maxZeroes : 0,
    maxWriteZeroesSeg: writeZeroes ? MAX_ZEROES_RANGES : 0,
    writeZeroesMayUnmap: writeZeroes && native,
    features: offeredFeatures(
      backend.readOnly,
      numQueues > 1,
      discard,
      writeZeroes,
      options.configWce ?? true,
    ),
  };
}

function offeredFeatures(
  readOnly: boolean,
  multiqueue: boolean,
  discard: boolean,
  writeZeroes: boolean,
  configWce: boolean,
): bigint {
  const bits = [
    VIRTIO_BLK_F_SIZE_MAX,
    VIRTIO_BLK_F_SEG_MAX,
    VIRTIO_BLK_F_GEOMETRY,
    VIRTIO_BLK_F_BLK_SIZE,
    VIRTIO_BLK_F_FLUSH,
    VIRTIO_BLK_F_TOPOLOGY,
  ];
  if (readOnly) bits.push(VIRTIO_BLK_F_RO);
  if (configWce) bits.push(VIRTIO_BLK_F_CONFIG_WCE);
  if (multiqueue) bits.push(VIRTIO_BLK_F_MQ);
  if (discard) bits.push(VIRTIO_BLK_F_DISCARD);
  if (writeZeroes) bits.push(VIRTIO_BLK_F_WRITE_ZEROES);
  return featureBits(...bits);
}

function whole(name: string, value: number, least: number, most: number): number {
  return wholeOption(`blk: ${name}`, value, least, most);
}

function power(name: string, value: number, least: number, most: number): number {
  return powerOption(`blk: ${name}`, value, least, most);
}

function blocks(name: string, bytes: number, unit: number, most: number): number {
  return multipleOption(`blk: ${name}`, bytes, unit, 0, most * unit) / unit;
}

function checkedGeometry(geometry: BlkOptions["geometry"]): BlkLimits["geometry"] | undefined {
  if (geometry === undefined) return undefined;
  whole("cyls", geometry.cylinders, 1, 0xffff);
  whole("heads", geometry.heads, 1, 0xff);
  whole("secs", geometry.sectors, 1, 0xff);
  return geometry;
}

function inventedGeometry(size: number): BlkLimits["geometry"] {
  const [heads, sectors] = [16, 63];
  const cylinders = Math.floor(size / (heads * sectors * VIRTIO_BLK_SECTOR_SIZE));
  return { cylinders: Math.min(Math.max(cylinders, 1), 0xffff), heads, sectors };
}

/** NUL-padded to its full length. */
function asciiSerial(text: string): Uint8Array {
  const bytes = new Uint8Array(VIRTIO_BLK_ID_BYTES);
  whole("length of serial", textOption("blk: serial", text).length, 0, VIRTIO_BLK_ID_BYTES);
  for (let i = 0; i < text.length; i++)
    bytes[i] = whole("character of serial", text.charCodeAt(i), 0x20, 0x7e);
  return bytes;
}
