/** Why a request of a block device fails, in words; asked for only when somebody listens. */
import type { DeviceWatch } from "../../device/hint.ts";
import {
  VIRTIO_BLK_DISCARD_WRITE_ZEROES_SIZE as RANGE_SIZE,
  VIRTIO_BLK_ID_BYTES,
  VIRTIO_BLK_REQ_SIZE,
  VIRTIO_BLK_S_UNSUPP,
  VIRTIO_BLK_SECTOR_SIZE as SECTOR,
  VIRTIO_BLK_T_DISCARD,
  VIRTIO_BLK_T_GET_ID,
  VIRTIO_BLK_T_IN,
  VIRTIO_BLK_T_OUT,
  VIRTIO_BLK_T_WRITE_ZEROES,
} from "../../spec/blk.ts";
import { type BlkLimits, MAX_TRANSFER_BYTES } from "./options.ts";
import type { BlkRange, BlkRequest } from "./request.ts";

/** A chain whose readable part is no header. */
export function explainNoHeader(length: number): string {
  return `IOERR: ${length} device-readable bytes are no header of ${VIRTIO_BLK_REQ_SIZE}`;
}

/** Why this request got a status that is not OK. `capacity`: sectors. */
export function explain(
  request: BlkRequest,
  status: number,
  limits: BlkLimits,
  capacity: number,
  ranges: () => readonly BlkRange[],
): string {
  const { type, dataIn, dataOut, sector } = request;
  const ranged = type === VIRTIO_BLK_T_DISCARD || type === VIRTIO_BLK_T_WRITE_ZEROES;
  if (status === VIRTIO_BLK_S_UNSUPP)
    return `UNSUPP: request type ${type}${ranged ? ", which was not negotiated, or flags of a range" : ""}`;
  if (type === VIRTIO_BLK_T_GET_ID) return `IOERR: GET_ID into ${dataIn} bytes, not ${VIRTIO_BLK_ID_BYTES}`;
  if (limits.readOnly && type !== VIRTIO_BLK_T_IN) return "IOERR: the disk is read-only";
  if (ranged) return `IOERR: ${explainRanges(request, limits, capacity, ranges())}`;
  return `IOERR: ${explainSectors(sector, type === VIRTIO_BLK_T_IN ? dataIn : dataOut, limits, capacity)}`;
}

function explainSectors(sector: number, length: number, { alignment }: BlkLimits, capacity: number): string {
  if (length > MAX_TRANSFER_BYTES)
    return `${length} bytes are more than ${MAX_TRANSFER_BYTES} in one request`;
  if (length % SECTOR !== 0) return `${length} bytes of data are no whole sectors`;
  if (sector + length / SECTOR > capacity)
    return `sector ${Math.max(sector, capacity)} is beyond the end, at sector ${capacity}`;
  return `sector ${sector} and ${length} bytes are no multiples of ${alignment} bytes`;
}

function explainRanges(
  { type, dataOut }: BlkRequest,
  limits: BlkLimits,
  capacity: number,
  ranges: readonly BlkRange[],
): string {
  const discard = type === VIRTIO_BLK_T_DISCARD;
  const most = discard ? limits.maxDiscardSeg : limits.maxWriteZeroesSeg;
  const longest = discard ? limits.maxDiscardSectors : limits.maxWriteZeroesSectors;
  if (dataOut === 0 || dataOut % RANGE_SIZE !== 0) return `${dataOut} bytes of data are no whole ranges`;
  if (dataOut / RANGE_SIZE > most) return `${dataOut / RANGE_SIZE} ranges are more than ${most}`;
  for (const { sector, sectors } of ranges) {
    if (sectors > longest) return `a range of ${sectors} sectors is longer than ${longest}`;
    if (sector + sectors > capacity)
      return `sector ${Math.max(sector, capacity)} is beyond the end, at sector ${capacity}`;
  }
  return `a range is no multiple of ${limits.alignment} bytes`;
}

/** Data in the direction in which this request carries none. */
export function judgeDirection(
  { type, dataIn, dataOut }: BlkRequest,
  queue: number,
  watch: DeviceWatch,
): void {
  const reads = type === VIRTIO_BLK_T_IN || type === VIRTIO_BLK_T_GET_ID;
  const writes =
    type === VIRTIO_BLK_T_OUT || type === VIRTIO_BLK_T_DISCARD || type === VIRTIO_BLK_T_WRITE_ZEROES;
  if (reads && dataOut > 0)
    watch.hint("own.direction", "device-readable data in a request that reads", { queue, value: dataOut });
  if (writes && dataIn > 0)
    watch.hint("own.direction", "device-writable data in a request that writes", { queue, value: dataIn });
}
