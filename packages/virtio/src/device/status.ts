import {
  VIRTIO_STATUS_ACKNOWLEDGE,
  VIRTIO_STATUS_DEVICE_NEEDS_RESET,
  VIRTIO_STATUS_DRIVER,
  VIRTIO_STATUS_DRIVER_OK,
  VIRTIO_STATUS_FAILED,
  VIRTIO_STATUS_FEATURES_OK,
  VIRTIO_STATUS_SUSPEND,
} from "../spec/core.ts";

/** Bits that the device sets itself, when it has done what the driver asks for by them. */
export const DEVICE_DECIDES: number =
  VIRTIO_STATUS_FEATURES_OK |
  VIRTIO_STATUS_DRIVER_OK |
  VIRTIO_STATUS_SUSPEND |
  VIRTIO_STATUS_DEVICE_NEEDS_RESET;

/** What a write of the status takes away that a driver may not, or may only on the legacy interface, where failure stays. */
export function clearedBits(status: number, value: number, legacy: boolean): number {
  const free = legacy ? VIRTIO_STATUS_FAILED : VIRTIO_STATUS_SUSPEND;
  return status & ~value & ~(VIRTIO_STATUS_DEVICE_NEEDS_RESET | free);
}

const NAMES: readonly (readonly [number, string])[] = [
  [VIRTIO_STATUS_ACKNOWLEDGE, "ACKNOWLEDGE"],
  [VIRTIO_STATUS_DRIVER, "DRIVER"],
  [VIRTIO_STATUS_FEATURES_OK, "FEATURES_OK"],
  [VIRTIO_STATUS_DRIVER_OK, "DRIVER_OK"],
  [VIRTIO_STATUS_SUSPEND, "SUSPEND"],
  [VIRTIO_STATUS_DEVICE_NEEDS_RESET, "DEVICE_NEEDS_RESET"],
  [VIRTIO_STATUS_FAILED, "FAILED"],
];

/** A device status in words: `ACKNOWLEDGE DRIVER FEATURES_OK`, or `reset` for 0. */
export function statusText(status: number): string {
  const names = NAMES.filter(([bit]) => (status & bit) !== 0).map(([, name]) => name);
  return names.length > 0 ? names.join(" ") : "reset";
}
