import type { NetBackend } from "../../backends/net.ts";
import {
  bitsOption,
  bytesOption,
  choiceOption,
  flagOptions,
  partOption,
  powerOption,
  wholeOption,
} from "../../check-option.ts";
import { featureBits } from "../../spec/core.ts";
import {
  VIRTIO_NET_F_CTRL_MAC_ADDR,
  VIRTIO_NET_F_CTRL_RX,
  VIRTIO_NET_F_CTRL_RX_EXTRA,
  VIRTIO_NET_F_CTRL_VLAN,
  VIRTIO_NET_F_CTRL_VQ,
  VIRTIO_NET_F_GUEST_ANNOUNCE,
  VIRTIO_NET_F_MAC,
  VIRTIO_NET_F_MQ,
  VIRTIO_NET_F_MRG_RXBUF,
  VIRTIO_NET_F_MTU,
  VIRTIO_NET_F_SPEED_DUPLEX,
  VIRTIO_NET_F_STATUS,
} from "../../spec/net.ts";
import { VIRTQ_MAX_SIZE } from "../../spec/virtqueue.ts";
import { MAC_BYTES } from "./mac.ts";

/** The most pairs of queues of one device; the spec allows 0x8000, transports far fewer. */
export const MAX_QUEUE_PAIRS = 128;

/** "0 to 0x7fffffff, or 0xffffffff for unknown speed". */
const MAX_SPEED = 0x7fff_ffff;
/** "The device MUST set mtu to between 68 and 65535 inclusive." */
const MIN_MTU = 68;
const MAX_MTU = 65535;

export interface NetOptions {
  readonly backend: NetBackend;
  /** Six bytes, unicast; see `parseMac`. */
  readonly mac: Uint8Array;
  /** QEMU's `host_mtu`: largest payload of a frame, 68 to 65535. Absent: VIRTIO_NET_F_MTU is not offered. */
  readonly mtu?: number;
  /** MBit a second, up to 2^31 - 1. Absent: VIRTIO_NET_F_SPEED_DUPLEX is not offered. */
  readonly speed?: number;
  /** Default "full"; only with `speed`. */
  readonly duplex?: "half" | "full";
  /** Pairs of queues, up to 128; more than one offers VIRTIO_NET_F_MQ. Default 1. */
  readonly queuePairs?: number;
  /** Queue Size offered for receive and transmit queues, a power of two from 2 to 32768. Default 256. */
  readonly queueSize?: number;
  /** Do not offer these features (bits as in `featureBits`), as QEMU's `mrg_rxbuf=off`. */
  readonly without?: bigint;
  /** Ask the driver to announce itself after a restore, for the network may be another. Default true. */
  readonly announceOnRestore?: boolean;
  /** Ask it when the link comes up. Default false. */
  readonly announceOnLinkUp?: boolean;
}

/** Everything that needs the control virtqueue. */
const CONTROL_FEATURES = featureBits(
  VIRTIO_NET_F_CTRL_RX,
  VIRTIO_NET_F_CTRL_RX_EXTRA,
  VIRTIO_NET_F_CTRL_VLAN,
  VIRTIO_NET_F_CTRL_MAC_ADDR,
  VIRTIO_NET_F_GUEST_ANNOUNCE,
  VIRTIO_NET_F_MQ,
);

/** The device-type features for these options. */
export function netFeatures(options: NetOptions): bigint {
  let features =
    featureBits(VIRTIO_NET_F_MAC, VIRTIO_NET_F_STATUS, VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_CTRL_VQ) |
    CONTROL_FEATURES;
  if ((options.queuePairs ?? 1) <= 1) features &= ~featureBits(VIRTIO_NET_F_MQ);
  if (options.mtu !== undefined) features |= featureBits(VIRTIO_NET_F_MTU);
  if (options.speed !== undefined) features |= featureBits(VIRTIO_NET_F_SPEED_DUPLEX);
  features &= ~(options.without ?? 0n);
  const control = (features & featureBits(VIRTIO_NET_F_CTRL_VQ)) !== 0n;
  if (!control) features &= ~CONTROL_FEATURES;
  // Announcing is asked for through `status`, and the extra modes go with the plain ones.
  if ((features & featureBits(VIRTIO_NET_F_STATUS)) === 0n)
    features &= ~featureBits(VIRTIO_NET_F_GUEST_ANNOUNCE);
  if ((features & featureBits(VIRTIO_NET_F_CTRL_RX)) === 0n)
    features &= ~featureBits(VIRTIO_NET_F_CTRL_RX_EXTRA);
  return features;
}

/** Throws a RangeError or TypeError that names the option. */
export function checkNetOptions(options: NetOptions): void {
  const { backend, mac, mtu, speed, duplex, without, queuePairs = 1, queueSize = 256 } = options;
  partOption("net: backend", backend, "a NetBackend", "send");
  if (bytesOption("net: mac", mac).length !== MAC_BYTES || ((mac[0] ?? 0) & 1) !== 0)
    throw new RangeError("net: mac is no unicast address");
  if (mtu !== undefined) wholeOption("net: mtu", mtu, MIN_MTU, MAX_MTU);
  if (speed !== undefined) wholeOption("net: speed", speed, 0, MAX_SPEED);
  if (duplex !== undefined) choiceOption("net: duplex", duplex, ["half", "full"]);
  if (without !== undefined) bitsOption("net: without", without);
  powerOption("net: queueSize", queueSize, 2, VIRTQ_MAX_SIZE);
  wholeOption("net: queuePairs", queuePairs, 1, MAX_QUEUE_PAIRS);
  flagOptions("net", options, ["announceOnRestore", "announceOnLinkUp"]);
}
