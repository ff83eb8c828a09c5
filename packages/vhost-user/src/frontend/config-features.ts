import { hasFeature } from "virtio/spec/core";
import {
  VIRTIO_CONSOLE_F_EMERG_WRITE,
  VIRTIO_CONSOLE_F_MULTIPORT,
  VIRTIO_CONSOLE_F_SIZE,
} from "virtio/spec/console";
import { VIRTIO_ID_CONSOLE, VIRTIO_ID_NET } from "virtio/spec/ids";
import {
  VIRTIO_NET_F_MAC,
  VIRTIO_NET_F_MQ,
  VIRTIO_NET_F_MTU,
  VIRTIO_NET_F_SPEED_DUPLEX,
  VIRTIO_NET_F_STATUS,
} from "virtio/spec/net";

/** Feature bits that say nothing without a field of the configuration space, and where that field ends, in bytes. */
const FIELDS: Readonly<Record<number, readonly (readonly [feature: number, end: number])[]>> = {
  [VIRTIO_ID_NET]: [
    [VIRTIO_NET_F_MAC, 6],
    [VIRTIO_NET_F_STATUS, 8],
    [VIRTIO_NET_F_MQ, 10],
    [VIRTIO_NET_F_MTU, 12],
    [VIRTIO_NET_F_SPEED_DUPLEX, 17],
  ],
  [VIRTIO_ID_CONSOLE]: [
    [VIRTIO_CONSOLE_F_SIZE, 4],
    [VIRTIO_CONSOLE_F_MULTIPORT, 8],
    [VIRTIO_CONSOLE_F_EMERG_WRITE, 12],
  ],
};

/**
 * Those of `features` whose field is not in a configuration space of so many bytes. A back-end without PROTOCOL_F_CONFIG may
 * offer them for a hypervisor that has the fields itself.
 */
export function withoutFields(deviceId: number, features: bigint, length: number): bigint {
  let missing = 0n;
  for (const [feature, end] of FIELDS[deviceId] ?? [])
    if (length < end && hasFeature(features, feature)) missing |= 1n << BigInt(feature);
  return missing;
}
