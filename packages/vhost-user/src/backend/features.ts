import type { VirtioDevice } from "virtio/device/device";
import { DEFAULT_CORE_FEATURES, SUPPORTED_CORE_FEATURES } from "virtio/device/features";
import {
  VIRTIO_F_ACCESS_PLATFORM,
  VIRTIO_F_ANY_LAYOUT,
  VIRTIO_F_NOTIFICATION_DATA,
  VIRTIO_F_NOTIF_CONFIG_DATA,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_SUSPEND,
  featureBits,
} from "virtio/spec/core";
import * as vu from "../protocol/numbers.ts";
import { keepsCryptoSessions } from "./crypto-sessions.ts";
import { sharesObjects } from "./shared-objects.ts";

/** What vhost-user has no words for: SUSPEND without a status that says it, data in a notification. */
const NOT_CARRIED = featureBits(
  VIRTIO_F_SUSPEND,
  VIRTIO_F_NOTIFICATION_DATA,
  VIRTIO_F_NOTIF_CONFIG_DATA,
  VIRTIO_F_ANY_LAYOUT,
);

/** Features that are the session's own: the device instance never hears of them. */
export const SESSION_FEATURES: bigint = featureBits(
  vu.VHOST_USER_F_PROTOCOL_FEATURES,
  vu.VHOST_F_LOG_ALL,
  VIRTIO_F_ACCESS_PLATFORM,
  VIRTIO_F_ANY_LAYOUT,
);

/** Ring features to offer. Throws a RangeError for one that cannot be carried. */
export function ringFeatures(wanted: bigint | undefined): bigint {
  if (wanted === undefined) return (DEFAULT_CORE_FEATURES & ~NOT_CARRIED) | featureBits(VIRTIO_F_RING_PACKED);
  const impossible = wanted & (NOT_CARRIED | ~SUPPORTED_CORE_FEATURES);
  if (impossible !== 0n)
    throw new RangeError(`features 0x${impossible.toString(16)} cannot be carried over vhost-user`);
  return wanted;
}

/** A network device that can tell its peers where it is now. */
export interface RarpSender {
  /** `mac` has six bytes. */
  sendRarp(mac: Uint8Array): boolean;
}

export function sendsRarp(device: object): device is RarpSender {
  return "sendRarp" in device && typeof device.sendRarp === "function";
}

/**
 * Protocol features. Not among them: CROSS_ENDIAN, PAGEFAULT (post-copy), HOST_NOTIFIER, INBAND_NOTIFICATIONS, XEN_MMAP.
 * BACKEND_SEND_FD is a permission: of the messages that the back-end begins only host notifiers' have descriptors so far.
 */
export function protocolFeatures(device: VirtioDevice): bigint {
  const bits = [
    vu.PROTOCOL_F_MQ,
    vu.PROTOCOL_F_LOG_SHMFD,
    vu.PROTOCOL_F_REPLY_ACK,
    vu.PROTOCOL_F_BACKEND_REQ,
    vu.PROTOCOL_F_BACKEND_SEND_FD,
    vu.PROTOCOL_F_INFLIGHT_SHMFD,
    vu.PROTOCOL_F_RESET_DEVICE,
    vu.PROTOCOL_F_CONFIGURE_MEM_SLOTS,
    vu.PROTOCOL_F_DEVICE_STATE,
    vu.PROTOCOL_F_STATUS,
  ];
  if (device.config !== undefined) bits.push(vu.PROTOCOL_F_CONFIG);
  if (device.name === "net") bits.push(vu.PROTOCOL_F_MTU);
  if (sendsRarp(device)) bits.push(vu.PROTOCOL_F_RARP);
  if (keepsCryptoSessions(device)) bits.push(vu.PROTOCOL_F_CRYPTO_SESSION);
  if (sharesObjects(device)) bits.push(vu.PROTOCOL_F_SHARED_OBJECT);
  return featureBits(...bits);
}
