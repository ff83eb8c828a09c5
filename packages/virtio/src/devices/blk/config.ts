import type { ConfigContext, ConfigSpace } from "../../device/device.ts";
import { readLe32, writeLe16, writeLe32, writeLe64 } from "../../memory/bytes.ts";
import { VIRTIO_BLK_CONFIG, VIRTIO_BLK_F_CONFIG_WCE } from "../../spec/blk.ts";
import { hasFeature } from "../../spec/core.ts";
import type { BlkLimits } from "./options.ts";

const AT = VIRTIO_BLK_CONFIG;
/** The space ends where the fields of features that are never offered would begin. */
const LENGTH = AT.max_secure_erase_sectors;

/** "Device configuration layout" of the block device: the bytes themselves, of which capacity and writeback change. */
export class BlkConfig implements ConfigSpace {
  readonly length: number = LENGTH;
  readonly #bytes = new Uint8Array(LENGTH);
  #capacity = 0;

  constructor(limits: BlkLimits) {
    const bytes = this.#bytes;
    writeLe32(bytes, AT.size_max, limits.sizeMax);
    writeLe32(bytes, AT.seg_max, limits.segMax);
    writeLe16(bytes, AT["geometry.cylinders"], limits.geometry.cylinders);
    bytes[AT["geometry.heads"]] = limits.geometry.heads;
    bytes[AT["geometry.sectors"]] = limits.geometry.sectors;
    writeLe32(bytes, AT.blk_size, limits.blkSize);
    bytes[AT["topology.physical_block_exp"]] = limits.physicalBlockExp;
    writeLe16(bytes, AT["topology.min_io_size"], limits.minIoBlocks);
    writeLe32(bytes, AT["topology.opt_io_size"], limits.optIoBlocks);
    // "The field num_queues only exists if VIRTIO_BLK_F_MQ is set"
    writeLe16(bytes, AT.num_queues, limits.numQueues > 1 ? limits.numQueues : 0);
    writeLe32(bytes, AT.max_discard_sectors, limits.maxDiscardSectors);
    writeLe32(bytes, AT.max_discard_seg, limits.maxDiscardSeg);
    writeLe32(bytes, AT.discard_sector_alignment, limits.discardSectorAlignment);
    writeLe32(bytes, AT.max_write_zeroes_sectors, limits.maxWriteZeroesSectors);
    writeLe32(bytes, AT.max_write_zeroes_seg, limits.maxWriteZeroesSeg);
    bytes[AT.write_zeroes_may_unmap] = Number(limits.writeZeroesMayUnmap);
  }

  read(offset: number, target: Uint8Array): void {
    target.set(this.#bytes.subarray(offset, offset + target.length));
  }

  /** Only `writeback` can be written, by a driver that has VIRTIO_BLK_F_CONFIG_WCE or has not chosen yet (legacy). */
  write(offset: number, source: Uint8Array, { features }: ConfigContext): boolean {
    const value = source[AT.writeback - offset];
    if (value === undefined || (features !== 0n && !hasFeature(features, VIRTIO_BLK_F_CONFIG_WCE)))
      return false;
    this.writeback = value !== 0;
    return true;
  }

  get segMax(): number {
    return readLe32(this.#bytes, AT.seg_max);
  }

  set segMax(segments: number) {
    writeLe32(this.#bytes, AT.seg_max, segments);
  }

  /** Sectors. */
  get capacity(): number {
    return this.#capacity;
  }

  set capacity(sectors: number) {
    this.#capacity = sectors;
    writeLe64(this.#bytes, AT.capacity, sectors);
  }

  get writeback(): boolean {
    return this.#bytes[AT.writeback] === 1;
  }

  set writeback(on: boolean) {
    this.#bytes[AT.writeback] = Number(on);
  }
}
