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

/** Feature bits end at 127: "device_feature_select" has four windows of 32 bits. */
const WINDOWS = 4;
/** What devices from before there were more than 64 feature bits have. */
const OLD_WINDOWS = 2;

/** All feature bits of a device, read window by window. */
export function readFeatureWindows(read: (window: number) => number): bigint {
  const words = Array.from({ length: WINDOWS }, (_, window) => read(window) >>> 0);
  // Some devices know two windows and show the second one for every number above (virtio-mmio of QEMU).
  const [, second = 0, third, fourth] = words;
  const known = second !== 0 && third === second && fourth === second ? OLD_WINDOWS : WINDOWS;
  let features = 0n;
  for (let window = 0; window < known; window++)
    features |= BigInt(words[window] ?? 0) << BigInt(32 * window);
  return features;
}

/**
 * Writes the accepted feature bits window by window. Windows that old devices do not have are written only when there is something
 * in them: after a reset they are 0, and such a device may take one for another.
 */
export function writeFeatureWindows(features: bigint, write: (window: number, value: number) => void): void {
  for (let window = 0; window < WINDOWS; window++) {
    const word = Number((features >> BigInt(32 * window)) & 0xffff_ffffn);
    if (word !== 0 || window < OLD_WINDOWS) write(window, word);
  }
}
