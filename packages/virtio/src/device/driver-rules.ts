/**
 * What a driver does wrong at the registers that every transport has, and what the device puts up with. Asked before the
 * device does what was written, and only when somebody wants to hear of it.
 */
import {
  VIRTIO_F_SUSPEND,
  VIRTIO_STATUS_ACKNOWLEDGE,
  VIRTIO_STATUS_DEVICE_NEEDS_RESET as NEEDS_RESET,
  VIRTIO_STATUS_DRIVER,
  VIRTIO_STATUS_DRIVER_OK as DRIVER_OK,
  VIRTIO_STATUS_FAILED as FAILED,
  VIRTIO_STATUS_FEATURES_OK as FEATURES_OK,
  VIRTIO_STATUS_SUSPEND as SUSPEND,
  hasFeature,
} from "../spec/core.ts";
import { FEATURE_WINDOWS } from "./features.ts";
import { hint, type WatchedDevice } from "./hint.ts";
import type { QueueRegisters } from "./queue-registers.ts";

/** What the rules look at. */
export interface JudgedDevice extends WatchedDevice {
  readonly status: number;
  readonly legacy: boolean;
  readonly driverFeatures: bigint;
  readonly configLength: number;
  readonly queueCount: number;
  queue(index: number): QueueRegisters | undefined;
}

const STEPS = VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER;
const KNOWN = STEPS | DRIVER_OK | FEATURES_OK | SUSPEND | NEEDS_RESET | FAILED;
const STOPPED = NEEDS_RESET | FAILED;
const SETTLED = FEATURES_OK | DRIVER_OK | SUSPEND;

/** The driver is about to write `value`, which is not 0, to the status; `status` is what it and the device set since the reset. */
export function judgeStatus(device: JudgedDevice, status: number, value: number): void {
  const { legacy } = device;
  // Until a reset is over, the status that the driver reads has DEVICE_NEEDS_RESET in it, and it may write that back.
  const added = value & ~status & ~(device.status & NEEDS_RESET);
  const say = (clause: string, rule: string, found: number): void =>
    hint(device, clause, rule, { value: found });
  const cleared = status & ~value & ~(NEEDS_RESET | SUSPEND);
  if (legacy && cleared !== 0) say("drv.core.status", "status bits cleared", cleared);
  if ((added & ~KNOWN) !== 0) say("drv.core.status", "status bits that are not defined", added & ~KNOWN);
  if ((added & NEEDS_RESET) !== 0)
    say("drv.core.status", "DEVICE_NEEDS_RESET set by the driver; it is the device's", value);
  if ((added & (FEATURES_OK | DRIVER_OK)) !== 0 && (value & STEPS) !== STEPS)
    say("drv.core.init", "FEATURES_OK or DRIVER_OK without ACKNOWLEDGE and DRIVER", value);
  if ((added & FEATURES_OK) !== 0 && legacy) say("own.legacy", "FEATURES_OK on the legacy interface", value);
  if ((added & DRIVER_OK) !== 0 && (status & STOPPED) !== 0)
    say("drv.core.status", "DRIVER_OK while the device waits for a reset", status);
  else if ((added & DRIVER_OK) !== 0 && !legacy) judgeQueues(device);
  if ((added & SUSPEND) !== 0) judgeSuspend(device, value);
}

function judgeSuspend(device: JudgedDevice, value: number): void {
  const { status, driverFeatures } = device;
  const say = (rule: string): void => hint(device, "drv.core.suspend", rule, { value });
  if (!hasFeature(driverFeatures, VIRTIO_F_SUSPEND)) say("SUSPEND without VIRTIO_F_SUSPEND");
  else if ((status & DRIVER_OK) === 0) say("SUSPEND before DRIVER_OK");
}

/** At DRIVER_OK: what was set up to be used, and never enabled. */
function judgeQueues(device: JudgedDevice): void {
  for (let queue = 0; queue < device.queueCount; queue++) {
    const registers = device.queue(queue);
    if (registers === undefined || registers.enabled || registers.descriptorArea === 0) continue;
    const rule = "DRIVER_OK with a virtqueue that has an address and is not enabled";
    hint(device, "own.queue-not-enabled", rule, { queue });
  }
}

/** The driver is about to write 32 bits of the features it accepts. */
export function judgeFeatures(device: JudgedDevice, window: number, value: number): void {
  if ((device.status & SETTLED) !== 0) {
    const rule = device.legacy ? "features written after DRIVER_OK" : "features written after FEATURES_OK";
    hint(device, "drv.core.init", rule, { value });
  } else if (window >= FEATURE_WINDOWS && value !== 0) {
    hint(device, "drv.core.features", "features beyond bit 127 accepted", { value });
  }
}

/** The driver is about to send an available buffer notification. */
export function judgeNotification(device: JudgedDevice, index: number): void {
  const { status, legacy } = device;
  const queue = device.queue(index);
  if (queue === undefined)
    return hint(device, "own.notify", "notification of a virtqueue that does not exist", { value: index });
  if ((status & STOPPED) !== 0) return;
  if ((status & SUSPEND) !== 0)
    hint(device, "drv.core.suspend", "notification while the device is suspended", { queue: index });
  else if ((status & DRIVER_OK) === 0 && !legacy)
    hint(device, "drv.core.init", "notification before DRIVER_OK", { queue: index });
  else if (!queue.enabled)
    hint(device, "own.notify", "notification of a virtqueue that is not enabled", { queue: index });
}

/** A write of the configuration space that came to nothing. */
export function judgeConfigWrite(device: JudgedDevice, offset: number, size: number): void {
  const say = (clause: string, rule: string): void => hint(device, clause, rule, { value: offset });
  if ((device.status & SUSPEND) !== 0)
    say("drv.core.suspend", "configuration space written while the device is suspended");
  else if (offset + size > device.configLength) say("own.config", "write beyond the configuration space");
  else say("own.config", "write to a read-only field of the configuration space");
}

/** The driver reads or writes the configuration space. */
export function watchConfig(
  device: JudgedDevice,
  access: "read" | "write",
  offset: number,
  size: number,
  value: number,
): void {
  device.observer?.register?.(device, access, `configuration space at ${offset}`, value);
  if (access === "read" && offset + size > device.configLength)
    hint(device, "own.config", "read beyond the configuration space", { value: offset });
}
