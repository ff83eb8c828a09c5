import { featureBits, hasFeature } from "virtio/spec/core";
import { VIRTIO_ID_BLK, VIRTIO_ID_CONSOLE, VIRTIO_ID_ENTROPY, VIRTIO_ID_NET } from "virtio/spec/ids";
import { closeAll } from "../native/descriptor.ts";
import { PeerError } from "../protocol/errors.ts";
import * as vu from "../protocol/numbers.ts";
import { decodeConfig, encodeConfig, encodeU64 } from "../protocol/payloads.ts";
import type { Connection } from "./connection.ts";

/** What a back-end has, and what of the protocol is used with it. */
export interface BackendOffer {
  /** Of the device and its rings. */
  readonly features: bigint;
  /** VHOST_USER_F_PROTOCOL_FEATURES: rings are enabled one by one. */
  readonly extended: boolean;
  /** Protocol features. */
  readonly protocol: bigint;
  /** Undefined: it does not say. */
  readonly queues: number | undefined;
}

/** Those that every use of a back-end gains by. */
const PROTOCOL: bigint = featureBits(
  vu.PROTOCOL_F_MQ,
  vu.PROTOCOL_F_REPLY_ACK,
  vu.PROTOCOL_F_BACKEND_REQ,
  vu.PROTOCOL_F_CRYPTO_SESSION,
  vu.PROTOCOL_F_CONFIG,
  vu.PROTOCOL_F_RESET_DEVICE,
  vu.PROTOCOL_F_CONFIGURE_MEM_SLOTS,
  vu.PROTOCOL_F_STATUS,
);

const PROTOCOL_BIT = featureBits(vu.VHOST_USER_F_PROTOCOL_FEATURES);
/** Feature bits that are the protocol's own, or that nobody may accept who does not do what they ask for. */
const NOT_FOR_DRIVERS: bigint = featureBits(vu.VHOST_USER_F_PROTOCOL_FEATURES, vu.VHOST_F_LOG_ALL);

/** The first messages of a connection. `extra`: protocol features that are asked for, too. */
export async function negotiate(connection: Connection, extra: readonly number[]): Promise<BackendOffer> {
  const offered = await connection.askU64(vu.GET_FEATURES);
  const features = offered & ~NOT_FOR_DRIVERS;
  const extended = (offered & PROTOCOL_BIT) !== 0n;
  let protocol = 0n;
  let queues: number | undefined;
  if (extended) {
    const wanted = PROTOCOL | featureBits(...extra);
    protocol = wanted & (await connection.askU64(vu.GET_PROTOCOL_FEATURES));
    connection.tell(vu.SET_PROTOCOL_FEATURES, encodeU64(protocol));
    connection.acknowledged = hasFeature(protocol, vu.PROTOCOL_F_REPLY_ACK);
    if (hasFeature(protocol, vu.PROTOCOL_F_MQ)) queues = Number(await connection.askU64(vu.GET_QUEUE_NUM));
  }
  connection.tell(vu.SET_OWNER);
  return { features, extended, protocol, queues };
}

/** What SET_FEATURES carries. */
export function featureWord(offer: BackendOffer, driverFeatures: bigint): Uint8Array {
  return encodeU64(offer.extended ? driverFeatures | PROTOCOL_BIT : driverFeatures);
}

/**
 * How long a configuration space may be: the largest that a specification gave the device type, and those of before. A
 * back-end refuses what is longer than the one it knows.
 */
const CONFIG_LENGTHS: Readonly<Record<number, readonly number[]>> = {
  [VIRTIO_ID_NET]: [24, 20, 12, 10, 8, 6],
  [VIRTIO_ID_BLK]: [96, 72, 60, 36, 24, 8],
  [VIRTIO_ID_CONSOLE]: [12, 8, 4],
  [VIRTIO_ID_ENTROPY]: [],
};
const OTHER_LENGTHS: readonly number[] = [256, 128, 64, 32, 16, 8, 4];

/** The whole configuration space; of no bytes when the back-end has none. `length`: of a device type not known here. */
export async function readWholeConfig(
  connection: Connection,
  deviceId: number,
  length: number | undefined,
): Promise<Uint8Array> {
  const lengths = length === undefined ? (CONFIG_LENGTHS[deviceId] ?? OTHER_LENGTHS) : [length];
  for (const size of lengths) {
    const bytes = await readConfig(connection, size);
    if (bytes !== undefined) return bytes;
  }
  if (lengths.length === 0 || length === 0) return new Uint8Array();
  throw new PeerError("the back-end does not give its configuration space");
}

/** Undefined: the back-end has no so many bytes. */
export async function readConfig(connection: Connection, length: number): Promise<Uint8Array | undefined> {
  const body = encodeConfig({ offset: 0, flags: vu.CONFIG_WRITABLE, bytes: new Uint8Array(length) });
  const { payload, descriptors } = await connection.ask(vu.GET_CONFIG, body);
  closeAll(descriptors);
  // "a zero length payload to indicate an error"
  if (payload.length <= vu.CONFIG_HEADER_SIZE) return undefined;
  const { bytes } = decodeConfig(payload);
  return bytes.length === length ? bytes : undefined;
}
