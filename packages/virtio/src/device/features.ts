import {
  VIRTIO_F_ANY_LAYOUT,
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_IN_ORDER,
  VIRTIO_F_INDIRECT_DESC,
  VIRTIO_F_NOTIFICATION_DATA,
  VIRTIO_F_NOTIF_CONFIG_DATA,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_RING_RESET,
  VIRTIO_F_SUSPEND,
  VIRTIO_F_VERSION_1,
  featureBits,
  hasFeature,
} from "../spec/core.ts";

/** Ring and transport features offered when nothing else is asked for: what QEMU offers by default, and SUSPEND. */
export const DEFAULT_CORE_FEATURES: bigint = featureBits(
  VIRTIO_F_VERSION_1,
  VIRTIO_F_INDIRECT_DESC,
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_RING_RESET,
  VIRTIO_F_SUSPEND,
);

/** Every ring and transport feature that this implementation has whole; a transport takes away what it cannot carry. */
export const SUPPORTED_CORE_FEATURES: bigint =
  DEFAULT_CORE_FEATURES |
  featureBits(
    VIRTIO_F_RING_PACKED,
    VIRTIO_F_IN_ORDER,
    VIRTIO_F_NOTIFICATION_DATA,
    VIRTIO_F_NOTIF_CONFIG_DATA,
    VIRTIO_F_ANY_LAYOUT,
  );

/** "Feature bits for the specific device type": 0 to 23, 41, 42 and 50 to 127. */
export const DEVICE_TYPE_FEATURES: bigint =
  featureBits(41, 42) | ((1n << 24n) - 1n) | (((1n << 78n) - 1n) << 50n);

/** A feature and what it needs: one of each inner list. Bit numbers. */
export interface FeatureDependency {
  readonly feature: number;
  readonly needs: readonly (readonly number[])[];
}

/** The first feature of the set whose needs are not met, in words; undefined when all are. */
export function missingDependency(
  features: bigint,
  dependencies: readonly FeatureDependency[],
): string | undefined {
  for (const { feature, needs } of dependencies) {
    if (!hasFeature(features, feature)) continue;
    for (const any of needs)
      if (!any.some((bit) => hasFeature(features, bit)))
        return `feature bit ${feature} needs bit ${any.join(" or ")}`;
  }
  return undefined;
}
