/** A target and logical unit of a SCSI host device. */
export interface ScsiAddress {
  /** 0 to 255. */
  readonly target: number;
  /** 0 to 16383. */
  readonly lun: number;
}

const MAX_TARGET = 255;
export const MAX_LUN = 16_383;
/** Addressing methods of a single level LUN structure, the two high bits of its first byte. */
const PERIPHERAL = 0;
const FLAT = 1;

/** Throws a RangeError when there can be no such unit. */
export function checkAddress({ target, lun }: ScsiAddress): void {
  if (!Number.isInteger(target) || target < 0 || target > MAX_TARGET)
    throw new RangeError(`SCSI target ${target} is not from 0 to ${MAX_TARGET}`);
  if (!Number.isInteger(lun) || lun < 0 || lun > MAX_LUN)
    throw new RangeError(`SCSI LUN ${lun} is not from 0 to ${MAX_LUN}`);
}

/**
 * The 8 bytes of `lun` in every request: "first byte set to 1, second byte set to target, third and fourth byte
 * representing a single level LUN structure, followed by four zero bytes". Throws a RangeError.
 */
export function encodeAddress(address: ScsiAddress): Uint8Array {
  checkAddress(address);
  const { target, lun } = address;
  return Uint8Array.of(1, target, (FLAT << 6) | (lun >>> 8), lun & 0xff, 0, 0, 0, 0);
}

/** What a device put into `lun` of an event, or undefined when it is no target and logical unit. */
export function decodeAddress(bytes: Uint8Array): ScsiAddress | undefined {
  const lun = decodeLun(bytes.subarray(2));
  return bytes[0] === 1 && lun !== undefined ? { target: bytes[1] ?? 0, lun } : undefined;
}

/** A LUN of two bytes, as REPORT LUNS lists it, or undefined for well-known and other units that have no number. */
export function decodeLun(bytes: Uint8Array): number | undefined {
  const [high = 0, low = 0] = bytes;
  const method = high >>> 6;
  if (method === FLAT) return ((high & 0x3f) << 8) | low;
  return method === PERIPHERAL && high === 0 ? low : undefined;
}
