import type { DeviceInstance } from "../device/instance.ts";
import {
  VIRTIO_F_NOTIFICATION_DATA,
  VIRTIO_F_NOTIF_CONFIG_DATA,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_RING_RESET,
  VIRTIO_STATUS_FEATURES_OK,
  hasFeature,
} from "../spec/core.ts";

/**
 * The negotiated features that a transport itself looks at, kept as booleans: a notification must not touch a bigint.
 * All false until FEATURES_OK, and in the legacy interface.
 */
export class Negotiated {
  notificationData = false;
  notifConfigData = false;
  ringReset = false;
  ringPacked = false;

  /** After each write of the status, after a reset and after a restore. */
  update(instance: DeviceInstance): void {
    const done = (instance.status & VIRTIO_STATUS_FEATURES_OK) !== 0 && !instance.legacy;
    const features = done ? instance.driverFeatures : 0n;
    this.notificationData = hasFeature(features, VIRTIO_F_NOTIFICATION_DATA);
    this.notifConfigData = hasFeature(features, VIRTIO_F_NOTIF_CONFIG_DATA);
    this.ringReset = hasFeature(features, VIRTIO_F_RING_RESET);
    this.ringPacked = hasFeature(features, VIRTIO_F_RING_PACKED);
  }
}
