import type { NetBackend } from "../../backends/net.ts";
import { powerOption } from "../../check-option.ts";
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
  /** MBit a second. Absent: VIRTIO_NET_F_SPEED_DUPLEX is not offered. */
  readonly speed?: number;
  /** Default "full"; only with `speed`. */
  readonly duplex?: "half" | "full";
  /** Pairs of queues; more than one offers VIRTIO_NET_F_MQ. Default 1. */
  readonly queuePairs?: number;
  /** Queue Size offered for receive and transmit queues. Default 256. */
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

/** Throws a RangeError that names the option. */
export function checkNetOptions({ mac, mtu, speed, queuePairs = 1, queueSize = 256 }: NetOptions): void {
  if (mac.length !== MAC_BYTES || ((mac[0] ?? 0) & 1) !== 0)
    throw new RangeError("net: mac is no unicast address");
  if (mtu !== undefined && !within(mtu, MIN_MTU, MAX_MTU))
    throw new RangeError(`net: mtu ${mtu} is not from ${MIN_MTU} to ${MAX_MTU}`);
  if (speed !== undefined && !within(speed, 0, MAX_SPEED))
    throw new RangeError(`net: speed ${speed} is not from 0 to ${MAX_SPEED}`);
  powerOption("net: queueSize", queueSize, 2, VIRTQ_MAX_SIZE);
  if (!within(queuePairs, 1, MAX_QUEUE_PAIRS))
    throw new RangeError(`net: ${queuePairs} queue pairs are not from 1 to ${MAX_QUEUE_PAIRS}`);
}

function within(value: number, least: number, most: number): boolean {
  return Number.isInteger(value) && value >= least && value <= most;
}
