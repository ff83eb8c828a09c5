import type { VirtioDevice } from "virtio/device/device";
import { DmaPool } from "virtio/driver/dma";
import type { GuestMemory } from "virtio/memory/guest-memory";
import { RegionMemory } from "virtio/memory/region-memory";
import { VIRTIO_F_EVENT_IDX, VIRTIO_F_RING_PACKED, VIRTIO_F_VERSION_1, featureBits } from "virtio/spec/core";
import { createDriverQueue } from "virtio/virtqueue/create";
import type { DriverQueue, QueueConfig } from "virtio/virtqueue/types";
import { serveVhostUser, type VhostUserServer } from "@virtio/vhost-user/backend/server";
import { until } from "@virtio/testkit/until";
import type { VhostUserOptions } from "@virtio/vhost-user/backend/options";
import { Channel } from "@virtio/vhost-user/channel/channel";
import { closeAll, type Descriptor } from "@virtio/vhost-user/native/descriptor";
import { clearEvent, createEvent, signalEvent } from "@virtio/vhost-user/native/event";
import { Mapping } from "@virtio/node/native/mapping";
import { createMemfd } from "@virtio/vhost-user/native/memfd";
import { UnixSocket } from "@virtio/vhost-user/native/unix-socket";
import * as vu from "@virtio/vhost-user/protocol/numbers";
import * as payload from "@virtio/vhost-user/protocol/payloads";

export const GUEST = 0x1000_0000;
export const USER = 0x7f00_0000_0000;
export const RAM = 8 << 20;
export const VERSION_1: bigint = featureBits(VIRTIO_F_VERSION_1);
export const PACKED: bigint = featureBits(VIRTIO_F_RING_PACKED);
export const EVENT_IDX: bigint = featureBits(VIRTIO_F_EVENT_IDX);
const PROTOCOL_BIT = featureBits(vu.VHOST_USER_F_PROTOCOL_FEATURES);

/** What the event loop has to do is done. */
export const turn = (): Promise<void> => new Promise((resolve) => void setImmediate(resolve));

/** Serves a device on one end of a socket pair. */
export async function serve(
  device: VirtioDevice,
  options: Partial<VhostUserOptions> = {},
): Promise<{ server: VhostUserServer; socket: UnixSocket; errors: Error[] }> {
  const [ours, theirs] = UnixSocket.pair();
  const errors: Error[] = [];
  const server = await serveVhostUser(device, {
    socket: theirs.descriptor.release(),
    label: "device0",
    onError: (error) => errors.push(error),
    ...options,
  });
  return { server, socket: ours, errors };
}

/** Memory with a descriptor, as a guest has it. */
export interface Ram {
  readonly memfd: Descriptor;
  readonly mapping: Mapping;
  readonly memory: GuestMemory;
}

export function makeRam(length = RAM, gpa = GUEST): Ram {
  const memfd = createMemfd("guest", length);
  const mapping = Mapping.map(memfd.fd, 0, length);
  return { memfd, mapping, memory: new RegionMemory([{ gpa, bytes: mapping.view(0, length) }]) };
}

/** A front-end that does what a test says, message by message. */
export class Peer {
  readonly channel: Channel;
  readonly ram: Ram;
  readonly dma: DmaPool;
  /** False: it is that of another peer, or of the test. */
  readonly #ownsRam: boolean;
  upcalls: Channel | undefined;

  constructor(socket: UnixSocket, before?: Pick<Peer, "ram" | "dma">) {
    this.channel = new Channel(socket);
    this.#ownsRam = before === undefined;
    this.ram = before?.ram ?? makeRam();
    this.dma = before?.dma ?? new DmaPool(this.ram.memory, GUEST, RAM);
  }

  async reply(): Promise<{ request: number; payload: Uint8Array; descriptors: Descriptor[] }> {
    let message = this.channel.receive();
    await until(() => {
      if (message === "later") message = this.channel.receive();
      return message !== "later";
    }, "no reply");
    if (typeof message === "string") throw new Error(`connection: ${message}`);
    return { ...message, payload: message.payload.slice() };
  }

  /** A request that has a reply of its own. */
  async ask(
    request: number,
    body: Uint8Array = new Uint8Array(),
    descriptors: readonly Descriptor[] = [],
  ): Promise<{ payload: Uint8Array; descriptors: Descriptor[] }> {
    this.channel.send(request, body, { descriptors });
    return this.reply();
  }

  async u64(request: number, body?: Uint8Array, descriptors?: readonly Descriptor[]): Promise<bigint> {
    return payload.decodeU64((await this.ask(request, body, descriptors)).payload);
  }

  /** A request with need_reply; 0n is success. */
  async acknowledged(
    request: number,
    body: Uint8Array = new Uint8Array(),
    descriptors: readonly Descriptor[] = [],
  ): Promise<bigint> {
    this.channel.send(request, body, { descriptors, needReply: true });
    return payload.decodeU64((await this.reply()).payload);
  }

  /** As `acknowledged`; throws when it was not done. */
  async must(request: number, body?: Uint8Array, descriptors?: readonly Descriptor[]): Promise<void> {
    const answer = await this.acknowledged(request, body, descriptors);
    if (answer !== 0n) throw new Error(`request ${request} was refused: ${answer}`);
  }

  region(extra: Partial<payload.RegionDescription> = {}): payload.RegionDescription {
    return { guestAddress: GUEST, size: RAM, userAddress: USER, mmapOffset: 0, ...extra };
  }

  /** Everything before the rings. Without STATUS unless asked for. */
  async open(features: bigint, without = featureBits(vu.PROTOCOL_F_STATUS)): Promise<void> {
    await this.u64(vu.GET_FEATURES);
    const offered = await this.u64(vu.GET_PROTOCOL_FEATURES);
    this.channel.send(vu.SET_PROTOCOL_FEATURES, payload.encodeU64(offered & ~without));
    await this.must(vu.SET_OWNER);
    await this.must(vu.SET_FEATURES, payload.encodeU64(features | PROTOCOL_BIT));
    await this.must(vu.SET_MEM_TABLE, payload.encodeMemoryTable([this.region()]), [this.ram.memfd]);
  }

  /** The connection only. */
  disconnect(): void {
    this.channel.close();
  }

  close(): void {
    if (!this.channel.socket.descriptor.closed) this.channel.close();
    this.upcalls?.close();
    if (!this.#ownsRam) return;
    this.ram.mapping.unmap();
    this.ram.memfd.close();
  }
}

/** A virtqueue of a peer, with its driver. */
export class PeerRing {
  readonly peer: Peer;
  readonly config: QueueConfig;
  readonly packed: boolean;
  readonly driver: DriverQueue;
  readonly kick: Descriptor = createEvent();
  readonly call: Descriptor = createEvent();

  /** `taken`: a ring that another back-end served, with its driver. */
  constructor(peer: Peer, features: bigint, size = 16, index = 0, taken?: PeerRing) {
    this.peer = peer;
    this.packed = (features & PACKED) !== 0n;
    if (taken !== undefined) {
      this.config = taken.config;
      this.driver = taken.driver;
      return;
    }
    const area = (length: number): number => peer.dma.allocate(length, 4096);
    this.config = {
      index,
      size,
      descriptorArea: area(16 * size),
      driverArea: area(6 + 2 * size),
      deviceArea: area(6 + 8 * size),
      eventIdx: (features & EVENT_IDX) !== 0n,
    };
    this.driver = createDriverQueue(peer.ram.memory, this.config, this.packed);
    this.driver.setNotifications(true);
  }

  get first(): number {
    return this.packed ? 0x80008000 : 0;
  }

  address(extra: Partial<payload.VringAddress> = {}): payload.VringAddress {
    const user = (gpa: number): number => gpa - GUEST + USER;
    const { index, descriptorArea, driverArea, deviceArea } = this.config;
    return {
      index,
      flags: 0,
      descriptor: user(descriptorArea),
      available: user(driverArea),
      used: user(deviceArea),
      log: deviceArea,
      ...extra,
    };
  }

  async start(base = this.first, enable = true): Promise<void> {
    const { index, size } = this.config;
    const { peer } = this;
    await peer.must(vu.SET_VRING_NUM, payload.encodeVringState({ index, value: size }));
    await peer.must(vu.SET_VRING_BASE, payload.encodeVringState({ index, value: base }));
    await peer.must(vu.SET_VRING_ADDR, payload.encodeVringAddress(this.address()));
    await peer.must(vu.SET_VRING_KICK, payload.encodeU64(index), [this.kick]);
    await peer.must(vu.SET_VRING_CALL, payload.encodeU64(index), [this.call]);
    if (enable) await peer.must(vu.SET_VRING_ENABLE, payload.encodeVringState({ index, value: 1 }));
  }

  async stop(): Promise<number> {
    const body = payload.encodeVringState({ index: this.config.index, value: 0 });
    const reply = await this.peer.ask(vu.GET_VRING_BASE, body);
    return payload.decodeVringState(reply.payload).value;
  }

  /** Offers a chain: bytes to read, and room to write. Returns the room's address. */
  offer(readable: Uint8Array, room: number): { token: number; gpa: number } {
    const segments = readable.length === 0 ? [] : [this.#put(readable)];
    const gpa = this.peer.dma.allocate(Math.max(room, 1), 16);
    const writable = room === 0 ? [] : [{ gpa, length: room }];
    const token = this.driver.addAvailable(segments, writable);
    if (token === undefined) throw new Error("ring is full");
    return { token, gpa };
  }

  /** What was offered can be seen, and nobody is told. */
  publish(): void {
    this.driver.takeNotification();
  }

  notify(always = false): void {
    if (this.driver.takeNotification() || always) signalEvent(this.kick.fd);
  }

  async used(): Promise<{ token: number; written: number }> {
    let got: { readonly token: number; readonly written: number } | undefined;
    await until(() => (got = this.driver.popUsed()) !== undefined, "nothing was used");
    clearEvent(this.call.fd);
    if (got === undefined) throw new Error("nothing was used");
    return { ...got };
  }

  close(): void {
    closeAll([this.kick, this.call]);
  }

  #put(bytes: Uint8Array): { gpa: number; length: number } {
    const gpa = this.peer.dma.allocate(bytes.length, 16);
    this.peer.ram.memory.view(gpa, bytes.length).set(bytes);
    return { gpa, length: bytes.length };
  }
}
