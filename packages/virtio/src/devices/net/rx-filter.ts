import {
  VIRTIO_NET_CTRL_RX_ALLMULTI,
  VIRTIO_NET_CTRL_RX_ALLUNI,
  VIRTIO_NET_CTRL_RX_NOBCAST,
  VIRTIO_NET_CTRL_RX_NOMULTI,
  VIRTIO_NET_CTRL_RX_NOUNI,
  VIRTIO_NET_CTRL_RX_PROMISC,
} from "../../spec/net.ts";
import { BROADCAST_KEY, macKey, vlanId } from "./mac.ts";

/** Addresses of one kind that the device keeps; given more, it lets all of that kind in (the spec's footnote). */
export const MAX_MAC_ENTRIES = 256;
/** VLAN ids have 12 bits. */
export const VLAN_IDS = 4096;

/** One half of the MAC filtering table. */
export interface MacTable {
  readonly addresses: ReadonlySet<number>;
  /** There were more than MAX_MAC_ENTRIES. */
  readonly overflow: boolean;
}

export const EMPTY_MAC_TABLE: MacTable = { addresses: new Set(), overflow: false };

/** Modes of the VIRTIO_NET_CTRL_RX class, by their command number. */
export type RxMode = number;
const RX_MODES = 6;

/**
 * Which incoming frames the driver gets. After a reset that is all of them (promiscuous), as in QEMU: a driver without
 * VIRTIO_NET_F_CTRL_RX may bridge, and has no way to ask. The first command of a driver that has it ends that.
 */
export class RxFilter {
  readonly #modes: boolean[] = [];
  #unicast = EMPTY_MAC_TABLE;
  #multicast = EMPTY_MAC_TABLE;
  /** One bit a VLAN id. */
  readonly vlans: Uint8Array = new Uint8Array(VLAN_IDS / 8);
  /** VIRTIO_NET_F_CTRL_VLAN was negotiated: without it all tagged frames pass. */
  vlanFiltering = false;

  constructor() {
    this.reset();
  }

  /** "The device MUST have an empty MAC filtering table on reset." */
  reset(): void {
    for (let mode = 0; mode < RX_MODES; mode++) this.#modes[mode] = mode === VIRTIO_NET_CTRL_RX_PROMISC;
    this.setMacTables(EMPTY_MAC_TABLE, EMPTY_MAC_TABLE);
    this.vlans.fill(0);
    this.vlanFiltering = false;
  }

  mode(mode: RxMode): boolean {
    return this.#modes[mode] ?? false;
  }

  setMode(mode: RxMode, on: boolean): void {
    if (mode < RX_MODES) this.#modes[mode] = on;
  }

  get unicast(): MacTable {
    return this.#unicast;
  }

  get multicast(): MacTable {
    return this.#multicast;
  }

  setMacTables(unicast: MacTable, multicast: MacTable): void {
    this.#unicast = unicast;
    this.#multicast = multicast;
  }

  setVlan(id: number, on: boolean): void {
    const byte = this.vlans[id >>> 3] ?? 0;
    this.vlans[id >>> 3] = on ? byte | (1 << (id & 7)) : byte & ~(1 << (id & 7));
  }

  /** Whether a frame of at least 14 bytes is for a device with this address. */
  accepts(frame: Uint8Array, mac: number): boolean {
    // "This SHOULD take effect even if one of the other modes […] is on."
    if (this.mode(VIRTIO_NET_CTRL_RX_PROMISC)) return true;
    if (this.vlanFiltering) {
      const id = vlanId(frame);
      if (id >= 0 && ((this.vlans[id >>> 3] ?? 0) & (1 << (id & 7))) === 0) return false;
    }
    const destination = macKey(frame, 0);
    if (destination === BROADCAST_KEY) return !this.mode(VIRTIO_NET_CTRL_RX_NOBCAST);
    if (((frame[0] ?? 0) & 1) !== 0) {
      if (this.mode(VIRTIO_NET_CTRL_RX_NOMULTI)) return false;
      return this.mode(VIRTIO_NET_CTRL_RX_ALLMULTI) || holds(this.#multicast, destination);
    }
    if (this.mode(VIRTIO_NET_CTRL_RX_NOUNI)) return false;
    return this.mode(VIRTIO_NET_CTRL_RX_ALLUNI) || destination === mac || holds(this.#unicast, destination);
  }
}

function holds(table: MacTable, key: number): boolean {
  return table.overflow || table.addresses.has(key);
}
