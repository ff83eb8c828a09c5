import type { BlockBackend } from "../../backends/block.ts";
import type { MaybePromise } from "../../device/device.ts";
import {
  VIRTIO_BLK_DISCARD_WRITE_ZEROES_SIZE as RANGE_SIZE,
  VIRTIO_BLK_S_IOERR,
  VIRTIO_BLK_S_OK,
  VIRTIO_BLK_S_UNSUPP,
  VIRTIO_BLK_SECTOR_SIZE as SECTOR,
} from "../../spec/blk.ts";
import type { BlkRange } from "./request.ts";

const UNMAP = 1;
const ZEROES = new Uint8Array(65_536);

/** What a request with ranges must respect. */
export interface RangeLimits {
  /** Flags that are known for this request type. */
  readonly flags: number;
  readonly maxSeg: number;
  readonly maxSectors: number;
  /** Sectors. */
  readonly capacity: number;
  /** Bytes. */
  readonly alignment: number;
}

export const DISCARD_FLAGS = 0;
export const WRITE_ZEROES_FLAGS: number = UNMAP;

/** Judges a whole discard or write zeroes request before any of it is done; `dataLength` is in bytes. */
export function judgeRanges(ranges: readonly BlkRange[], dataLength: number, limits: RangeLimits): number {
  // Flags first: UNSUPP "if any unknown flag is set" has no exception.
  if (ranges.some(({ flags }) => (flags & ~limits.flags) !== 0)) return VIRTIO_BLK_S_UNSUPP;
  if (dataLength === 0 || dataLength % RANGE_SIZE !== 0) return VIRTIO_BLK_S_IOERR;
  if (dataLength / RANGE_SIZE > limits.maxSeg) return VIRTIO_BLK_S_IOERR;
  const bad = ranges.some(
    ({ sector, sectors }) =>
      sectors > limits.maxSectors ||
      sector + sectors > limits.capacity ||
      (sector * SECTOR) % limits.alignment !== 0 ||
      (sectors * SECTOR) % limits.alignment !== 0,
  );
  return bad ? VIRTIO_BLK_S_IOERR : VIRTIO_BLK_S_OK;
}

export function discardRanges(backend: BlockBackend, ranges: readonly BlkRange[]): MaybePromise<void> {
  return each(ranges, ({ sector, sectors }) => backend.discard?.(sector * SECTOR, sectors * SECTOR));
}

export function zeroRanges(backend: BlockBackend, ranges: readonly BlkRange[]): MaybePromise<void> {
  return each(ranges, (range) => zeroPart(backend, range, range.sector * SECTOR, range.sectors * SECTOR));
}

/** Zeroes so many bytes at `offset`, which are a part of `range`. */
export function zeroPart(
  backend: BlockBackend,
  { flags }: BlkRange,
  offset: number,
  length: number,
): MaybePromise<void> {
  return backend.writeZeroes === undefined
    ? writeOutZeroes(backend, offset, length)
    : backend.writeZeroes(offset, length, (flags & UNMAP) !== 0);
}

function writeOutZeroes(backend: BlockBackend, offset: number, length: number): MaybePromise<void> {
  const starts = Array.from({ length: Math.ceil(length / ZEROES.length) }, (_, i) => i * ZEROES.length);
  return each(starts, (start) => backend.write(offset + start, ZEROES.subarray(0, length - start)));
}

/** One after the other, and without a promise as long as none comes back. */
function each<Item>(
  items: readonly Item[],
  work: (item: Item) => MaybePromise<void>,
  from = 0,
): MaybePromise<void> {
  for (let i = from; i < items.length; i++) {
    const item = items[i];
    const pending = item === undefined ? undefined : work(item);
    if (pending !== undefined) return pending.then(() => each(items, work, i + 1));
  }
}
