import type { DriverSession } from "../../driver/session.ts";
import type { DriverVirtqueue } from "../../driver/virtqueue.ts";
import { writeLe16, writeLe32 } from "../../memory/bytes.ts";
import {
  VIRTIO_NET_CTRL_ANNOUNCE,
  VIRTIO_NET_CTRL_ANNOUNCE_ACK,
  VIRTIO_NET_CTRL_MAC,
  VIRTIO_NET_CTRL_MAC_ADDR_SET,
  VIRTIO_NET_CTRL_MAC_TABLE_SET,
  VIRTIO_NET_CTRL_MQ,
  VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET,
  VIRTIO_NET_CTRL_RX,
  VIRTIO_NET_CTRL_RX_ALLMULTI,
  VIRTIO_NET_CTRL_RX_ALLUNI,
  VIRTIO_NET_CTRL_RX_NOBCAST,
  VIRTIO_NET_CTRL_RX_NOMULTI,
  VIRTIO_NET_CTRL_RX_NOUNI,
  VIRTIO_NET_CTRL_RX_PROMISC,
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

/** Receive modes by name ("Packet Receive Filtering"). */
export type RxModeName =
  "promiscuous" | "allMulticast" | "allUnicast" | "noMulticast" | "noUnicast" | "noBroadcast";

const RX_MODES: Readonly<Record<RxModeName, { readonly command: number; readonly feature: number }>> = {
  promiscuous: { command: VIRTIO_NET_CTRL_RX_PROMISC, feature: VIRTIO_NET_F_CTRL_RX },
  allMulticast: { command: VIRTIO_NET_CTRL_RX_ALLMULTI, feature: VIRTIO_NET_F_CTRL_RX },
  allUnicast: { command: VIRTIO_NET_CTRL_RX_ALLUNI, feature: VIRTIO_NET_F_CTRL_RX_EXTRA },
  noMulticast: { command: VIRTIO_NET_CTRL_RX_NOMULTI, feature: VIRTIO_NET_F_CTRL_RX_EXTRA },
  noUnicast: { command: VIRTIO_NET_CTRL_RX_NOUNI, feature: VIRTIO_NET_F_CTRL_RX_EXTRA },
  noBroadcast: { command: VIRTIO_NET_CTRL_RX_NOBCAST, feature: VIRTIO_NET_F_CTRL_RX_EXTRA },
};

/** Commands on the control virtqueue. Each rejects when its feature was not negotiated, or the device says no. */
export class NetControl {
  readonly #session: DriverSession;
  readonly #queue: DriverVirtqueue | undefined;

  /** `queue`: undefined without VIRTIO_NET_F_CTRL_VQ. */
  constructor(session: DriverSession, queue: DriverVirtqueue | undefined) {
    this.#session = session;
    this.#queue = queue;
  }

  setRxMode(mode: RxModeName, on: boolean): Promise<void> {
    const { command, feature } = RX_MODES[mode];
    return this.#command(feature, VIRTIO_NET_CTRL_RX, command, Uint8Array.of(on ? 1 : 0));
  }

  /** The addresses, beside the device's own, whose frames are wanted. */
  setMacTable(unicast: readonly Uint8Array[], multicast: readonly Uint8Array[]): Promise<void> {
    const data = new Uint8Array(8 + 6 * (unicast.length + multicast.length));
    let at = 0;
    for (const table of [unicast, multicast]) {
      writeLe32(data, at, table.length);
      at += 4;
      for (const mac of table) {
        data.set(mac, at);
        at += 6;
      }
    }
    return this.#command(VIRTIO_NET_F_CTRL_RX, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET, data);
  }

  setMac(mac: Uint8Array): Promise<void> {
    return this.#command(VIRTIO_NET_F_CTRL_MAC_ADDR, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, mac);
  }

  /** Lets frames with this VLAN id in, or not any more. */
  setVlan(id: number, on: boolean): Promise<void> {
    const data = new Uint8Array(2);
    writeLe16(data, 0, id);
    const command = on ? VIRTIO_NET_CTRL_VLAN_ADD : VIRTIO_NET_CTRL_VLAN_DEL;
    return this.#command(VIRTIO_NET_F_CTRL_VLAN, VIRTIO_NET_CTRL_VLAN, command, data);
  }

  acknowledgeAnnounce(): Promise<void> {
    return this.#command(
      VIRTIO_NET_F_GUEST_ANNOUNCE,
      VIRTIO_NET_CTRL_ANNOUNCE,
      VIRTIO_NET_CTRL_ANNOUNCE_ACK,
      new Uint8Array(0),
    );
  }

  setPairs(pairs: number): Promise<void> {
    const data = new Uint8Array(2);
    writeLe16(data, 0, pairs);
    return this.#command(VIRTIO_NET_F_MQ, VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, data);
  }

  async #command(feature: number, kind: number, command: number, data: Uint8Array): Promise<void> {
    if (this.#queue === undefined || !this.#session.has(feature))
      throw new Error(`network feature ${feature} was not negotiated`);
    const { memory } = this.#session;
    // Class and command, data, ack: a descriptor each, as the legacy interface wants it.
    const length = 3 + data.length;
    const gpa = memory.allocate(length, 8);
    const bytes = memory.view(gpa, length);
    bytes.set([kind, command]);
    bytes.set(data, 2);
    bytes[length - 1] = VIRTIO_NET_ERR;
    const readable = [{ gpa, length: 2 }, ...this.#dataSegments(kind, command, gpa + 2, data)];
    // When it fails the device may have the memory until the reset.
    const written = await this.#queue.request(readable, [{ gpa: gpa + length - 1, length: 1 }]);
    const ack = memory.view(gpa + length - 1, 1)[0];
    memory.free(gpa, length);
    // A legacy device may report a used length of anything.
    const answered = written === 1 || this.#session.transport.legacy;
    if (!answered || ack !== VIRTIO_NET_OK)
      throw new Error(`the device refuses network command ${kind}.${command}`);
  }

  /** "[…] for the VIRTIO_NET_CTRL_MAC_TABLE_SET command use exactly two descriptors", one otherwise. */
  #dataSegments(
    kind: number,
    command: number,
    gpa: number,
    data: Uint8Array,
  ): { gpa: number; length: number }[] {
    if (data.length === 0) return [];
    if (kind !== VIRTIO_NET_CTRL_MAC || command !== VIRTIO_NET_CTRL_MAC_TABLE_SET)
      return [{ gpa, length: data.length }];
    const first = 4 + 6 * ((data[0] ?? 0) | ((data[1] ?? 0) << 8));
    return [
      { gpa, length: first },
      { gpa: gpa + first, length: data.length - first },
    ];
  }
}
