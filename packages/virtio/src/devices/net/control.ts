import { readLe16, readLe32 } from "../../memory/bytes.ts";
import type { SegmentReader } from "../../memory/cursor.ts";
import { hasFeature } from "../../spec/core.ts";
import { featureName } from "../../spec/feature-names.ts";
import { VIRTIO_ID_NET } from "../../spec/ids.ts";
import {
  VIRTIO_NET_CTRL_ANNOUNCE,
  VIRTIO_NET_CTRL_ANNOUNCE_ACK,
  VIRTIO_NET_CTRL_MAC,
  VIRTIO_NET_CTRL_MAC_ADDR_SET,
  VIRTIO_NET_CTRL_MAC_TABLE_SET,
  VIRTIO_NET_CTRL_MQ,
  VIRTIO_NET_CTRL_MQ_VQ_PAIRS_MIN,
  VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET,
  VIRTIO_NET_CTRL_RX,
  VIRTIO_NET_CTRL_RX_ALLMULTI,
  VIRTIO_NET_CTRL_RX_NOBCAST,
  VIRTIO_NET_CTRL_VLAN,
  VIRTIO_NET_CTRL_VLAN_ADD,
  VIRTIO_NET_CTRL_VLAN_DEL,
  VIRTIO_NET_ERR,
  VIRTIO_NET_F_CTRL_MAC_ADDR,
  VIRTIO_NET_F_CTRL_RX,
  VIRTIO_NET_F_CTRL_RX_EXTRA,
  VIRTIO_NET_F_CTRL_VLAN,
  VIRTIO_NET_F_GUEST_ANNOUNCE,
  VIRTIO_NET_F_MQ,
  VIRTIO_NET_OK,
} from "../../spec/net.ts";
import { MAC_BYTES, macKey } from "./mac.ts";
import { MAX_MAC_ENTRIES, VLAN_IDS } from "./rx-filter.ts";
import type { MacTable, RxFilter } from "./rx-filter.ts";

/** What control commands change. */
export interface ControlTarget {
  readonly features: bigint;
  readonly filter: RxFilter;
  readonly maxPairs: number;
  setMac(mac: Uint8Array): void;
  setPairs(pairs: number): void;
  announced(): void;
}

/** Longest fixed part: class, command, then a MAC address. */
const scratch = new Uint8Array(MAC_BYTES);

/**
 * Executes one command of the control virtqueue and returns its `ack`. A class or command whose feature was not
 * negotiated, data that is too short, and values out of range are VIRTIO_NET_ERR and change nothing; bytes behind the
 * data are ignored.
 */
export function executeControl(reader: SegmentReader, target: ControlTarget): number {
  if (!take(reader, 2)) return VIRTIO_NET_ERR;
  const kind = scratch[0] ?? 0;
  const command = scratch[1] ?? 0;
  switch (kind) {
    case VIRTIO_NET_CTRL_RX:
      return setRxMode(command, reader, target);
    case VIRTIO_NET_CTRL_MAC:
      return setMac(command, reader, target);
    case VIRTIO_NET_CTRL_VLAN:
      return setVlan(command, reader, target);
    case VIRTIO_NET_CTRL_ANNOUNCE:
      if (command !== VIRTIO_NET_CTRL_ANNOUNCE_ACK || !has(target, VIRTIO_NET_F_GUEST_ANNOUNCE))
        return VIRTIO_NET_ERR;
      target.announced();
      return VIRTIO_NET_OK;
    case VIRTIO_NET_CTRL_MQ:
      return setPairs(command, reader, target);
    default:
      return VIRTIO_NET_ERR;
  }
}

/** Why the command that these bytes begin was refused. */
export function explainControl(reader: SegmentReader, features: bigint): string {
  if (!take(reader, 2)) return "ERR: a command shorter than its class and number";
  const [kind = 0, command = 0] = scratch;
  const needed = NEEDED[kind]?.[command];
  const what = `ERR: class ${kind}, command ${command}`;
  if (needed === undefined) return `${what}: there is none such`;
  if (!hasFeature(features, needed))
    return `${what}: ${featureName(VIRTIO_ID_NET, needed)} was not negotiated`;
  return `${what}: too few bytes of data, or a value out of range`;
}

/** The feature that each command is part of, by class and command. */
const NEEDED: Readonly<Record<number, readonly number[]>> = {
  [VIRTIO_NET_CTRL_RX]: [
    VIRTIO_NET_F_CTRL_RX,
    VIRTIO_NET_F_CTRL_RX,
    VIRTIO_NET_F_CTRL_RX_EXTRA,
    VIRTIO_NET_F_CTRL_RX_EXTRA,
    VIRTIO_NET_F_CTRL_RX_EXTRA,
    VIRTIO_NET_F_CTRL_RX_EXTRA,
  ],
  [VIRTIO_NET_CTRL_MAC]: [VIRTIO_NET_F_CTRL_RX, VIRTIO_NET_F_CTRL_MAC_ADDR],
  [VIRTIO_NET_CTRL_VLAN]: [VIRTIO_NET_F_CTRL_VLAN, VIRTIO_NET_F_CTRL_VLAN],
  [VIRTIO_NET_CTRL_ANNOUNCE]: [VIRTIO_NET_F_GUEST_ANNOUNCE],
  [VIRTIO_NET_CTRL_MQ]: [VIRTIO_NET_F_MQ],
};

function setRxMode(command: number, reader: SegmentReader, target: ControlTarget): number {
  const needed = command <= VIRTIO_NET_CTRL_RX_ALLMULTI ? VIRTIO_NET_F_CTRL_RX : VIRTIO_NET_F_CTRL_RX_EXTRA;
  if (command > VIRTIO_NET_CTRL_RX_NOBCAST || !has(target, needed) || !take(reader, 1)) return VIRTIO_NET_ERR;
  const value = scratch[0] ?? 0;
  if (value > 1) return VIRTIO_NET_ERR;
  target.filter.setMode(command, value === 1);
  return VIRTIO_NET_OK;
}

function setMac(command: number, reader: SegmentReader, target: ControlTarget): number {
  if (command === VIRTIO_NET_CTRL_MAC_ADDR_SET) {
    if (!has(target, VIRTIO_NET_F_CTRL_MAC_ADDR) || !take(reader, MAC_BYTES)) return VIRTIO_NET_ERR;
    target.setMac(scratch.slice());
    return VIRTIO_NET_OK;
  }
  if (command !== VIRTIO_NET_CTRL_MAC_TABLE_SET || !has(target, VIRTIO_NET_F_CTRL_RX)) return VIRTIO_NET_ERR;
  const unicast = readMacTable(reader);
  const multicast = unicast === undefined ? undefined : readMacTable(reader);
  if (unicast === undefined || multicast === undefined) return VIRTIO_NET_ERR;
  target.filter.setMacTables(unicast, multicast);
  return VIRTIO_NET_OK;
}

/** struct virtio_net_ctrl_mac, or undefined when it is longer than the command. */
function readMacTable(reader: SegmentReader): MacTable | undefined {
  if (!take(reader, 4)) return undefined;
  const entries = readLe32(scratch, 0);
  if (entries * MAC_BYTES > reader.remaining) return undefined;
  const addresses = new Set<number>();
  if (entries > MAX_MAC_ENTRIES) {
    reader.skip(entries * MAC_BYTES);
    return { addresses, overflow: true };
  }
  for (let i = 0; i < entries; i++) {
    take(reader, MAC_BYTES);
    addresses.add(macKey(scratch, 0));
  }
  return { addresses, overflow: false };
}

function setVlan(command: number, reader: SegmentReader, target: ControlTarget): number {
  const known = command === VIRTIO_NET_CTRL_VLAN_ADD || command === VIRTIO_NET_CTRL_VLAN_DEL;
  if (!known || !has(target, VIRTIO_NET_F_CTRL_VLAN) || !take(reader, 2)) return VIRTIO_NET_ERR;
  const id = readLe16(scratch, 0);
  if (id >= VLAN_IDS) return VIRTIO_NET_ERR;
  target.filter.setVlan(id, command === VIRTIO_NET_CTRL_VLAN_ADD);
  return VIRTIO_NET_OK;
}

function setPairs(command: number, reader: SegmentReader, target: ControlTarget): number {
  if (command !== VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET || !has(target, VIRTIO_NET_F_MQ) || !take(reader, 2))
    return VIRTIO_NET_ERR;
  const pairs = readLe16(scratch, 0);
  if (pairs < VIRTIO_NET_CTRL_MQ_VQ_PAIRS_MIN || pairs > target.maxPairs) return VIRTIO_NET_ERR;
  target.setPairs(pairs);
  return VIRTIO_NET_OK;
}

function has(target: ControlTarget, bit: number): boolean {
  return hasFeature(target.features, bit);
}

/** Copies the next bytes out once, so that what is checked is what is used. False: there are not that many. */
function take(reader: SegmentReader, length: number): boolean {
  return reader.copy(scratch.subarray(0, length)) === length;
}
