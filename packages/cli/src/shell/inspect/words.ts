import {
  VIRTIO_STATUS_ACKNOWLEDGE,
  VIRTIO_STATUS_DEVICE_NEEDS_RESET,
  VIRTIO_STATUS_DRIVER,
  VIRTIO_STATUS_DRIVER_OK,
  VIRTIO_STATUS_FAILED,
  VIRTIO_STATUS_FEATURES_OK,
  VIRTIO_STATUS_SUSPEND,
} from "virtio/spec/core";

const STATUS: readonly (readonly [number, string])[] = [
  [VIRTIO_STATUS_ACKNOWLEDGE, "ACKNOWLEDGE"],
  [VIRTIO_STATUS_DRIVER, "DRIVER"],
  [VIRTIO_STATUS_FEATURES_OK, "FEATURES_OK"],
  [VIRTIO_STATUS_DRIVER_OK, "DRIVER_OK"],
  [VIRTIO_STATUS_SUSPEND, "SUSPEND"],
  [VIRTIO_STATUS_DEVICE_NEEDS_RESET, "DEVICE_NEEDS_RESET"],
  [VIRTIO_STATUS_FAILED, "FAILED"],
];

/** Device status bits by name. */
export function statusWords(status: number): string {
  const words = STATUS.filter(([bit]) => (status & bit) !== 0).map(([, name]) => name);
  return words.length === 0 ? "reset" : words.join(" ");
}

/** A number of so many bytes. */
export function hexOf(value: number | bigint, bytes: number): string {
  return `0x${value.toString(16).padStart(2 * bytes, "0")}`;
}

/** One row: where, what, its value, and what that means. */
export function row(offset: number, name: string, value: string, meaning = ""): string {
  const left = `  ${hexOf(offset, 2)}  ${name.padEnd(22)} ${value.padEnd(18)}`;
  return `${meaning === "" ? left.trimEnd() : `${left} ${meaning}`}\n`;
}
