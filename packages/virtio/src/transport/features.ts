import {
  VIRTIO_F_ACCESS_PLATFORM,
  VIRTIO_F_ANY_LAYOUT,
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_INDIRECT_DESC,
  VIRTIO_F_IN_ORDER,
  VIRTIO_F_NOTIFICATION_DATA,
  VIRTIO_F_NOTIFY_ON_EMPTY,
  VIRTIO_F_NOTIF_CONFIG_DATA,
  VIRTIO_F_ORDER_PLATFORM,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_RING_RESET,
  VIRTIO_F_SUSPEND,
  VIRTIO_F_VERSION_1,
  featureBits,
} from "../spec/core.ts";
import { featureList } from "../spec/feature-names.ts";

/** "Feature bits for the specific device type", without bit 41, which only the PCI transport knows. */
const DEVICE_TYPE: bigint = ((1n << 24n) - 1n) | featureBits(42) | (((1n << 78n) - 1n) << 50n);

/**
 * The list of features that a device may offer on the MMIO transport ("Feature Bits": "Drivers and devices supporting
 * multiple transports need to carefully maintain per-transport lists of allowed features").
 */
export const MMIO_FEATURES: bigint =
  DEVICE_TYPE |
  featureBits(
    VIRTIO_F_NOTIFY_ON_EMPTY,
    VIRTIO_F_ANY_LAYOUT,
    VIRTIO_F_INDIRECT_DESC,
    VIRTIO_F_EVENT_IDX,
    VIRTIO_F_VERSION_1,
    VIRTIO_F_ACCESS_PLATFORM,
    VIRTIO_F_RING_PACKED,
    VIRTIO_F_IN_ORDER,
    VIRTIO_F_ORDER_PLATFORM,
    VIRTIO_F_NOTIFICATION_DATA,
    VIRTIO_F_RING_RESET,
    VIRTIO_F_SUSPEND,
  );

/**
 * The same for the PCI transport. VIRTIO_F_SR_IOV and VIRTIO_F_ADMIN_VQ are not in it: these functions have no SR-IOV
 * capability and no administration virtqueues.
 */
export const PCI_FEATURES: bigint = MMIO_FEATURES | featureBits(VIRTIO_F_NOTIF_CONFIG_DATA);

/** Throws a RangeError that names the features when a device offers what its transport may not offer. `id`: virtio device id. */
export function checkOffered(id: number, offered: bigint, allowed: bigint, transport: string): void {
  const excess = offered & ~allowed;
  if (excess !== 0n)
    throw new RangeError(`${featureList(id, excess)} cannot be offered on the ${transport} transport`);
}
