/**
 * What a driver does wrong at MMIO registers, and what they put up with ("MMIO Device Register Layout"). Asked before an access
 * is done, and only when somebody wants to hear of it.
 */
import { hint } from "../../device/hint.ts";
import type { DeviceInstance } from "../../device/instance.ts";
import type { FaultDetail } from "../../fault.ts";
import { VIRTIO_MMIO as MMIO, VIRTIO_MMIO_LEGACY as LEGACY } from "../../spec/mmio.ts";
import type { Negotiated } from "../negotiated.ts";

const CLAUSE = "drv.mmio.registers";
/** Bits of InterruptStatus that are defined. */
const EVENTS = 3;

const names = (layout: Readonly<Record<string, number>>): ReadonlyMap<number, string> =>
  new Map(Object.entries(layout).map(([name, offset]) => [offset, name]));
const NAMES = names(MMIO);
const LEGACY_NAMES = names(LEGACY);

/** Directions of the registers, by offset; the others are for reading and writing. */
const READ_ONLY: ReadonlySet<number> = new Set([
  MMIO.MagicValue,
  MMIO.Version,
  MMIO.DeviceID,
  MMIO.VendorID,
  MMIO.DeviceFeatures,
  MMIO.QueueSizeMax,
  MMIO.InterruptStatus,
  MMIO.SHMLenLow,
  MMIO.SHMLenHigh,
  MMIO.SHMBaseLow,
  MMIO.SHMBaseHigh,
  MMIO.ConfigGeneration,
]);
const WRITE_ONLY: ReadonlySet<number> = new Set([
  MMIO.DeviceFeaturesSel,
  MMIO.DriverFeatures,
  MMIO.DriverFeaturesSel,
  LEGACY.GuestPageSize,
  MMIO.QueueSel,
  MMIO.QueueSize,
  LEGACY.QueueAlign,
  MMIO.QueueNotify,
  MMIO.InterruptACK,
  MMIO.QueueDescLow,
  MMIO.QueueDescHigh,
  MMIO.QueueDriverLow,
  MMIO.QueueDriverHigh,
  MMIO.QueueDeviceLow,
  MMIO.QueueDeviceHigh,
  MMIO.SHMSel,
]);
/** "When QueueReady is not zero, the driver MUST NOT access" these. */
const CONFIGURES_QUEUE: ReadonlySet<number> = new Set([
  MMIO.QueueSize,
  MMIO.QueueDescLow,
  MMIO.QueueDescHigh,
  MMIO.QueueDriverLow,
  MMIO.QueueDriverHigh,
  MMIO.QueueDeviceLow,
  MMIO.QueueDeviceHigh,
]);
/** Registers that mean the queue in QueueSel when they are written. */
const OF_QUEUE: ReadonlySet<number> = new Set([...CONFIGURES_QUEUE, MMIO.QueueReady, MMIO.QueueReset]);
const OF_QUEUE_LEGACY: ReadonlySet<number> = new Set([LEGACY.QueueSize, LEGACY.QueueAlign, LEGACY.QueuePFN]);

/** The spec's name of the register at an offset, or the offset. */
export function registerName(offset: number, legacy: boolean): string {
  return (legacy ? LEGACY_NAMES : NAMES).get(offset) ?? `0x${offset.toString(16)}`;
}

/** What the rules know of the registers beside the device. */
export interface MmioPlace {
  readonly instance: DeviceInstance;
  /** The legacy register layout. */
  readonly legacy: boolean;
  readonly negotiated: Negotiated;
  readonly queueSel: number;
  readonly interruptStatus: number;
}

export function judgeRead(place: MmioPlace, offset: number, size: number): void {
  if (!judgeWidth(place, "read", offset, size)) return;
  const { legacy } = place;
  if (WRITE_ONLY.has(offset) && (legacy ? LEGACY_NAMES : NAMES).has(offset))
    say(place, `read of the write-only register ${registerName(offset, legacy)}`);
}

export function judgeWrite(place: MmioPlace, offset: number, size: number, value: number): void {
  if (!judgeWidth(place, "write", offset, size)) return;
  const { legacy, instance, interruptStatus } = place;
  const name = registerName(offset, legacy);
  if (READ_ONLY.has(offset)) return say(place, `write to the read-only register ${name}`, { value });
  if ((legacy ? OF_QUEUE_LEGACY : OF_QUEUE).has(offset)) return judgeQueue(place, offset, name, value);
  if (offset === MMIO.Status && value > 0xff) say(place, "Status written with more than 8 bits", { value });
  // A reset takes what happened back while the driver is still at it.
  if (offset !== MMIO.InterruptACK || instance.status === 0) return;
  const where = { value };
  if ((value & ~EVENTS) !== 0) say(place, "undefined bits written to InterruptACK", where);
  else if ((value & ~interruptStatus) !== 0) say(place, "InterruptACK of events that are not there", where);
}

function judgeQueue(place: MmioPlace, offset: number, name: string, value: number): void {
  const { instance, queueSel, negotiated, legacy } = place;
  const queue = instance.queue(queueSel);
  if (queue === undefined)
    return say(place, `${name} written for a virtqueue that does not exist`, { value: queueSel });
  const where = { queue: queueSel, value };
  if (CONFIGURES_QUEUE.has(offset) && queue.enabled)
    return say(place, `${name} written while ${legacy ? "QueuePFN" : "QueueReady"} is not 0`, where);
  if (legacy) return;
  if (offset === MMIO.QueueReady) {
    if (value > 1) say(place, "QueueReady takes 0 and 1", where);
    if (value === 1 && queue.resetting) say(place, "QueueReady set before QueueReset reads 0", where);
  } else if (offset === MMIO.QueueReset) {
    if (!negotiated.ringReset) say(place, "QueueReset written without VIRTIO_F_RING_RESET", where, VQ_RESET);
    else if (value !== 1) say(place, "QueueReset takes only 1", where);
  }
}

const VQ_RESET = "drv.core.vq-reset";

/** False: the access is none that a register answers to. */
function judgeWidth(place: MmioPlace, access: string, offset: number, size: number): boolean {
  const { legacy, instance } = place;
  if (offset >= MMIO.Config) {
    // Legacy drivers take whatever width they like.
    if (!legacy && offset % size !== 0)
      say(place, `${access} of the configuration space at a place that is not aligned to its width`, {
        value: offset - MMIO.Config,
      });
    return false;
  }
  const register = offset - (offset % 4);
  const name = registerName(register, legacy);
  if (size !== 4 || offset !== register) {
    say(place, `${access} of ${name} that is not 32 bits wide and aligned`, { value: offset });
    return false;
  }
  if ((legacy ? LEGACY_NAMES : NAMES).has(offset)) return true;
  hint(instance, CLAUSE, `${access} of a place that is no register`, { value: offset });
  return false;
}

function say({ instance }: MmioPlace, rule: string, detail?: FaultDetail, clause = CLAUSE): void {
  hint(instance, clause, rule, detail);
}
