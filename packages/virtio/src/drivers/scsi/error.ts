import {
  VIRTIO_SCSI_S_ABORTED,
  VIRTIO_SCSI_S_BAD_TARGET,
  VIRTIO_SCSI_S_BUSY,
  VIRTIO_SCSI_S_FAILURE,
  VIRTIO_SCSI_S_FUNCTION_REJECTED,
  VIRTIO_SCSI_S_INCORRECT_LUN,
  VIRTIO_SCSI_S_NEXUS_FAILURE,
  VIRTIO_SCSI_S_OK,
  VIRTIO_SCSI_S_OVERRUN,
  VIRTIO_SCSI_S_RESET,
  VIRTIO_SCSI_S_TARGET_FAILURE,
  VIRTIO_SCSI_S_TRANSPORT_FAILURE,
} from "../../spec/scsi.ts";

/** SCSI status codes (SAM). */
export const SCSI_GOOD = 0;
export const SCSI_CHECK_CONDITION = 2;
export const SCSI_BUSY = 8;
export const SCSI_TASK_SET_FULL = 0x28;

/** Sense keys (SPC). */
export const SENSE_NOT_READY = 2;
export const SENSE_ILLEGAL_REQUEST = 5;
export const SENSE_UNIT_ATTENTION = 6;
export const SENSE_DATA_PROTECT = 7;

/** Why a command ended in CHECK CONDITION. */
export interface ScsiSense {
  readonly key: number;
  /** Additional sense code. */
  readonly asc: number;
  /** Additional sense code qualifier. */
  readonly ascq: number;
  /** The failure was of an earlier command. */
  readonly deferred: boolean;
  /** As it came. */
  readonly bytes: Uint8Array;
}

/** Undefined when it is no sense data of a format that the standard has. */
export function parseSense(bytes: Uint8Array): ScsiSense | undefined {
  const code = (bytes[0] ?? 0) & 0x7f;
  const fixed = code === 0x70 || code === 0x71;
  if (!fixed && code !== 0x72 && code !== 0x73) return undefined;
  const [key, asc, ascq] = fixed ? [bytes[2], bytes[12], bytes[13]] : [bytes[1], bytes[2], bytes[3]];
  return {
    key: (key ?? 0) & 0xf,
    asc: asc ?? 0,
    ascq: ascq ?? 0,
    deferred: (code & 1) === 1,
    bytes,
  };
}

const KEYS = [
  "NO SENSE",
  "RECOVERED ERROR",
  "NOT READY",
  "MEDIUM ERROR",
  "HARDWARE ERROR",
  "ILLEGAL REQUEST",
  "UNIT ATTENTION",
  "DATA PROTECT",
  "BLANK CHECK",
  "VENDOR SPECIFIC",
  "COPY ABORTED",
  "ABORTED COMMAND",
  "RESERVED",
  "VOLUME OVERFLOW",
  "MISCOMPARE",
  "COMPLETED",
];

const RESPONSES: Readonly<Record<number, string>> = {
  [VIRTIO_SCSI_S_OVERRUN]: "VIRTIO_SCSI_S_OVERRUN",
  [VIRTIO_SCSI_S_ABORTED]: "VIRTIO_SCSI_S_ABORTED",
  [VIRTIO_SCSI_S_BAD_TARGET]: "VIRTIO_SCSI_S_BAD_TARGET",
  [VIRTIO_SCSI_S_RESET]: "VIRTIO_SCSI_S_RESET",
  [VIRTIO_SCSI_S_BUSY]: "VIRTIO_SCSI_S_BUSY",
  [VIRTIO_SCSI_S_TRANSPORT_FAILURE]: "VIRTIO_SCSI_S_TRANSPORT_FAILURE",
  [VIRTIO_SCSI_S_TARGET_FAILURE]: "VIRTIO_SCSI_S_TARGET_FAILURE",
  [VIRTIO_SCSI_S_NEXUS_FAILURE]: "VIRTIO_SCSI_S_NEXUS_FAILURE",
  [VIRTIO_SCSI_S_FAILURE]: "VIRTIO_SCSI_S_FAILURE",
  [VIRTIO_SCSI_S_FUNCTION_REJECTED]: "VIRTIO_SCSI_S_FUNCTION_REJECTED",
  [VIRTIO_SCSI_S_INCORRECT_LUN]: "VIRTIO_SCSI_S_INCORRECT_LUN",
};

/** The device did not carry a request out, or the logical unit ended a command with another status than GOOD. */
export class ScsiError extends Error {
  override readonly name = "ScsiError";
  /** VIRTIO_SCSI_S_…: what became of the request. */
  readonly response: number;
  /** SCSI status; only meaningful when `response` is VIRTIO_SCSI_S_OK. */
  readonly status: number;
  /** When `status` is CHECK CONDITION and the unit sent any. */
  readonly sense: ScsiSense | undefined;

  constructor(what: string, response: number, status: number = SCSI_GOOD, sense?: ScsiSense) {
    super(`scsi: ${what}: ${reason(response, status, sense)}`);
    this.response = response;
    this.status = status;
    this.sense = sense;
  }
}

function reason(response: number, status: number, sense: ScsiSense | undefined): string {
  if (response !== VIRTIO_SCSI_S_OK) return RESPONSES[response] ?? `response ${response}`;
  const hex = (value: number): string => value.toString(16).padStart(2, "0");
  if (status !== SCSI_CHECK_CONDITION) return `status ${hex(status)}`;
  if (sense === undefined) return "CHECK CONDITION without sense data";
  return `${KEYS[sense.key] ?? ""}, asc ${hex(sense.asc)}, ascq ${hex(sense.ascq)}`;
}
