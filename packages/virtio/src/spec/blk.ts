/** Numbers of the spec's chapter "Block Device". */

/** Unit of `capacity`, of every sector number and of data lengths: bytes, whatever `blk_size` says. */
export const VIRTIO_BLK_SECTOR_SIZE = 512;
/** Bytes of the device ID string. */
export const VIRTIO_BLK_ID_BYTES = 20;

export const VIRTIO_BLK_F_BARRIER = 0;
export const VIRTIO_BLK_F_SIZE_MAX = 1;
export const VIRTIO_BLK_F_SEG_MAX = 2;
export const VIRTIO_BLK_F_GEOMETRY = 4;
export const VIRTIO_BLK_F_RO = 5;
export const VIRTIO_BLK_F_BLK_SIZE = 6;
export const VIRTIO_BLK_F_SCSI = 7;
export const VIRTIO_BLK_F_FLUSH = 9;
export const VIRTIO_BLK_F_TOPOLOGY = 10;
export const VIRTIO_BLK_F_CONFIG_WCE = 11;
export const VIRTIO_BLK_F_MQ = 12;
export const VIRTIO_BLK_F_DISCARD = 13;
export const VIRTIO_BLK_F_WRITE_ZEROES = 14;
export const VIRTIO_BLK_F_LIFETIME = 15;
export const VIRTIO_BLK_F_SECURE_ERASE = 16;
export const VIRTIO_BLK_F_ZONED = 17;

export const VIRTIO_BLK_T_IN = 0;
export const VIRTIO_BLK_T_OUT = 1;
export const VIRTIO_BLK_T_SCSI_CMD = 2;
export const VIRTIO_BLK_T_SCSI_CMD_OUT = 3;
export const VIRTIO_BLK_T_FLUSH = 4;
/** Legacy synonym of `VIRTIO_BLK_T_FLUSH`. */
export const VIRTIO_BLK_T_FLUSH_OUT = 5;
export const VIRTIO_BLK_T_GET_ID = 8;
export const VIRTIO_BLK_T_GET_LIFETIME = 10;
export const VIRTIO_BLK_T_DISCARD = 11;
export const VIRTIO_BLK_T_WRITE_ZEROES = 13;
export const VIRTIO_BLK_T_SECURE_ERASE = 14;
export const VIRTIO_BLK_T_ZONE_APPEND = 15;
export const VIRTIO_BLK_T_ZONE_REPORT = 16;
export const VIRTIO_BLK_T_ZONE_OPEN = 18;
export const VIRTIO_BLK_T_ZONE_CLOSE = 20;
export const VIRTIO_BLK_T_ZONE_FINISH = 22;
export const VIRTIO_BLK_T_ZONE_RESET = 24;
export const VIRTIO_BLK_T_ZONE_RESET_ALL = 26;
/** Legacy: a bit of the request type. */
export const VIRTIO_BLK_T_BARRIER = 0x8000_0000;

export const VIRTIO_BLK_S_OK = 0;
export const VIRTIO_BLK_S_IOERR = 1;
export const VIRTIO_BLK_S_UNSUPP = 2;

/** `struct virtio_blk_req` up to `data`. */
export const VIRTIO_BLK_REQ_SIZE = 16;
export const VIRTIO_BLK_REQ = { type: 0, reserved: 4, sector: 8 } as const;

/** One segment of a discard or write zeroes request. */
export const VIRTIO_BLK_DISCARD_WRITE_ZEROES_SIZE = 16;
export const VIRTIO_BLK_DISCARD_WRITE_ZEROES = { sector: 0, num_sectors: 8, "flags.unmap": 12 } as const;

export const VIRTIO_BLK_CONFIG_SIZE = 96;
/** "Device configuration layout": offsets in bytes. */
export const VIRTIO_BLK_CONFIG = {
  capacity: 0,
  size_max: 8,
  seg_max: 12,
  "geometry.cylinders": 16,
  "geometry.heads": 18,
  "geometry.sectors": 19,
  blk_size: 20,
  "topology.physical_block_exp": 24,
  "topology.alignment_offset": 25,
  "topology.min_io_size": 26,
  "topology.opt_io_size": 28,
  writeback: 32,
  unused0: 33,
  num_queues: 34,
  max_discard_sectors: 36,
  max_discard_seg: 40,
  discard_sector_alignment: 44,
  max_write_zeroes_sectors: 48,
  max_write_zeroes_seg: 52,
  write_zeroes_may_unmap: 56,
  unused1: 57,
  max_secure_erase_sectors: 60,
} as const;
