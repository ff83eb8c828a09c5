import {
  VIRTIO_F_ACCESS_PLATFORM,
  VIRTIO_F_ANY_LAYOUT,
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_INDIRECT_DESC,
  VIRTIO_F_IN_ORDER,
  VIRTIO_F_NOTIFICATION_DATA,
  VIRTIO_F_NOTIF_CONFIG_DATA,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_RING_RESET,
  VIRTIO_F_SUSPEND,
  VIRTIO_F_VERSION_1,
  featureBits,
} from "../spec/core.ts";

/**
 * Ring and transport features that the driver side of each transport carries: the driver must ignore what is "not
 * supported for the specific transport" ("Feature Bits").
 */
export const MODERN_MMIO_FEATURES: bigint = featureBits(
  // Addresses of `DmaMemory` are the ones of the device, whatever the platform has between them and memory.
  VIRTIO_F_ACCESS_PLATFORM,
  VIRTIO_F_INDIRECT_DESC,
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_VERSION_1,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_IN_ORDER,
  VIRTIO_F_NOTIFICATION_DATA,
  VIRTIO_F_RING_RESET,
  VIRTIO_F_SUSPEND,
);

export const MODERN_PCI_FEATURES: bigint = MODERN_MMIO_FEATURES | featureBits(VIRTIO_F_NOTIF_CONFIG_DATA);

/** Of the legacy interface of either transport. */
export const LEGACY_FEATURES: bigint = featureBits(
  VIRTIO_F_ANY_LAYOUT,
  VIRTIO_F_INDIRECT_DESC,
  VIRTIO_F_EVENT_IDX,
);

/** "if offered by the device transitional drivers MUST accept": it asks nothing of drivers that assume no framing. */
export function withAnyLayout(features: bigint, offered: bigint): bigint {
  return features | (offered & featureBits(VIRTIO_F_ANY_LAYOUT));
}
