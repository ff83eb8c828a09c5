import type { FaultDetail } from "../fault.ts";
import type { ObservedDevice, VirtioObserver } from "./observer.ts";

/** A device with whoever watches it. */
export interface WatchedDevice extends ObservedDevice {
  readonly observer: VirtioObserver | undefined;
}

const NOTHING: FaultDetail = {};

/** Tells whoever watches what the driver did; see `DriverHint`. */
export function hint(
  device: WatchedDevice,
  clause: string,
  rule: string,
  detail: FaultDetail = NOTHING,
): void {
  device.observer?.hint?.(device, { clause, rule, ...detail });
}

/** What a device type has to say to those who watch it. */
export interface DeviceWatch {
  /** The driver did what it must not, and the device goes on; see `DriverHint`. */
  hint(clause: string, rule: string, detail?: FaultDetail): void;
  /** A request of a virtqueue ends with an error, and why. */
  failed(queue: number, reason: string): void;
}

/** Undefined when nobody listens: what would be said is then not even put into words (`watch?.failed(…)`). */
export function watchOf(device: WatchedDevice): DeviceWatch | undefined {
  const { observer } = device;
  if (observer?.hint === undefined && observer?.failed === undefined) return undefined;
  return {
    hint: (clause, rule, detail) => hint(device, clause, rule, detail),
    failed: (queue, reason) => observer.failed?.(device, queue, reason),
  };
}
