import { multipleOption, wholeOptions } from "../check-option.ts";
import { VIRTQ_MAX_SIZE } from "../spec/virtqueue.ts";

/** How the driver of a disk moves data. */
export interface TransferOptions {
  /** Requests in flight at a time, 1 to 32768. Default 8. */
  readonly depth?: number;
  /** Bytes of data in one request, a multiple of 512 up to 1 GiB; longer transfers become several. Default 65536. */
  readonly transferSize?: number;
  /** Request queues to use at most, when the device has several. */
  readonly queues?: number;
}

const SECTOR = 512;
const MAX_TRANSFER = 2 ** 30;
const MAX_QUEUES = 65_535;
const RANGES = { depth: [1, VIRTQ_MAX_SIZE], queues: [1, MAX_QUEUES] } as const;

/** Throws a RangeError that names the option. `owner`: the device type. */
export function checkTransferOptions(owner: string, options: TransferOptions): void {
  wholeOptions(owner, options, RANGES);
  const { transferSize } = options;
  if (transferSize !== undefined)
    multipleOption(`${owner}: transferSize`, transferSize, SECTOR, SECTOR, MAX_TRANSFER);
}
