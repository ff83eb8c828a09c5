import type { DeviceContext, QueueSpec, VirtioDevice } from "../../src/device/device.ts";
import { readHeader, writeHeader, type VsockHeader } from "../../src/drivers/vsock/packet.ts";
import { writeLe32 } from "../../src/memory/bytes.ts";
import { featureBits } from "../../src/spec/core.ts";
import { VIRTIO_ID_VSOCK } from "../../src/spec/ids.ts";
import {
  VIRTIO_VSOCK_F_NO_IMPLIED_STREAM,
  VIRTIO_VSOCK_F_SEQPACKET,
  VIRTIO_VSOCK_F_STREAM,
} from "../../src/spec/vsock.ts";
import type { DescriptorChain } from "../../src/virtqueue/types.ts";

export const GUEST = 7;
export const HOST = 2;
export const ALL_VSOCK: bigint = featureBits(
  VIRTIO_VSOCK_F_STREAM,
  VIRTIO_VSOCK_F_SEQPACKET,
  VIRTIO_VSOCK_F_NO_IMPLIED_STREAM,
);

export interface Packet extends VsockHeader {
  readonly payload: Uint8Array;
}

/** A socket device of the test's own: it does nothing but pass packets, and what it has no buffer for waits. */
export class TestVsock implements VirtioDevice {
  readonly id = VIRTIO_ID_VSOCK;
  readonly name = "vsock";
  readonly features: bigint;
  readonly queues: readonly QueueSpec[];
  readonly cid = new Uint8Array(8);
  readonly config = {
    length: 8,
    read: (offset: number, target: Uint8Array): void =>
      target.set(this.cid.subarray(offset, offset + target.length)),
  };
  /** All that the driver sent. */
  readonly packets: Packet[] = [];
  /** Called for each of them. */
  onPacket: (packet: Packet) => void = () => undefined;
  /** The transmit queue is not looked at. */
  deaf = false;
  context: DeviceContext | undefined;
  readonly #waiting: { readonly bytes: Uint8Array; readonly written: number }[] = [];

  constructor(features: bigint = ALL_VSOCK) {
    this.features = features;
    writeLe32(this.cid, 0, GUEST);
    this.queues = [
      { name: "rx", maxSize: 128, refilled: () => this.#flush() },
      { name: "tx", maxSize: 128, serve: (chain, context) => this.#transmitted(chain, context) },
      { name: "event", maxSize: 16 },
    ];
  }

  activate(context: DeviceContext): void {
    this.context = context;
  }

  reset(): void {
    this.#waiting.length = 0;
  }

  /** Sends a packet to the driver. `written`: what the device says that it wrote. */
  send(header: Partial<VsockHeader>, payload: Uint8Array = new Uint8Array(0), written?: number): void {
    const whole = {
      source: { cid: HOST, port: 1 },
      destination: { cid: GUEST, port: 1 },
      type: 1,
      op: 0,
      flags: 0,
      length: payload.length,
      bufAlloc: 65_536,
      fwdCnt: 0,
      ...header,
    };
    const bytes = new Uint8Array(44 + payload.length);
    bytes.set(writeHeader(whole));
    bytes.set(payload, 44);
    this.#waiting.push({ bytes, written: written ?? bytes.length });
    this.#flush();
  }

  /** Packets that found no buffer yet. */
  get backlog(): number {
    return this.#waiting.length;
  }

  event(id: number, written = 4): boolean {
    const queue = this.context?.queue(2);
    const chain = queue?.popAvailable();
    const gpa = chain?.writable[0]?.gpa;
    if (queue === undefined || chain === undefined || gpa === undefined) return false;
    const bytes = this.context?.memory.view(gpa, 4);
    if (bytes !== undefined) writeLe32(bytes, 0, id);
    queue.addUsed(chain, written);
    queue.flush();
    return true;
  }

  #flush(): void {
    const queue = this.context?.queue(0);
    for (let next = this.#waiting[0]; next !== undefined && queue !== undefined; next = this.#waiting[0]) {
      const chain = queue.popAvailable();
      const segment = chain?.writable[0];
      if (chain === undefined || segment === undefined) break;
      this.#waiting.shift();
      const room = Math.min(next.bytes.length, segment.length);
      this.context?.memory.view(segment.gpa, room).set(next.bytes.subarray(0, room));
      queue.addUsed(chain, next.written);
    }
    queue?.flush();
  }

  #transmitted(chain: DescriptorChain, { memory }: DeviceContext): number | Promise<number> {
    const [segment] = chain.readable;
    if (segment === undefined) throw new Error("an empty packet");
    const bytes = memory.view(segment.gpa, segment.length).slice();
    const packet = { ...readHeader(bytes), payload: bytes.subarray(44) };
    this.packets.push(packet);
    this.onPacket(packet);
    return this.deaf ? new Promise<number>(() => undefined) : 0;
  }
}

/** A peer that accepts everything and gives back what it gets, with a small buffer of its own. */
export class EchoPeer {
  readonly device: TestVsock;
  readonly bufAlloc: number;
  /** Bytes that were sent without credit. */
  overruns = 0;
  #received = 0;
  #fwdCnt = 0;
  #sent = 0;
  #guestAlloc = 0;
  #guestFwd = 0;
  /** The guest sends no more; it is told the same when it has got everything back. */
  #ending: Packet | undefined;
  readonly #pending: { readonly payload: Uint8Array; readonly flags: number }[] = [];

  constructor(device: TestVsock, bufAlloc: number) {
    this.device = device;
    this.bufAlloc = bufAlloc;
    device.onPacket = (packet) => this.#packet(packet);
  }

  #packet(packet: Packet): void {
    this.#guestAlloc = packet.bufAlloc;
    this.#guestFwd = packet.fwdCnt;
    if (packet.op === 1) this.#answer(packet, 2);
    if (packet.op === 7) this.#answer(packet, 6);
    if (packet.op === 4 && (packet.flags & 2) !== 0) this.#ending = packet;
    if (packet.op === 5) {
      this.#received += packet.payload.length;
      if (this.#received - this.#fwdCnt > this.bufAlloc) this.overruns++;
      this.#pending.push({ payload: packet.payload, flags: packet.flags });
    }
    this.#pump(packet);
    if (this.#ending === undefined || this.#pending.length > 0) return;
    const both = (this.#ending.flags & 3) === 3;
    this.#answer(this.#ending, both ? 3 : 4, 2);
    this.#ending = undefined;
  }

  /** Gives back what the guest has room for; only then there is room here. */
  #pump(packet: Packet): void {
    for (let next = this.#pending[0]; next !== undefined; next = this.#pending[0]) {
      const pieces = Math.min(next.payload.length, 4096);
      if (this.#sent + pieces - this.#guestFwd > this.#guestAlloc) break;
      const piece = next.payload.subarray(0, pieces);
      const last = pieces === next.payload.length;
      this.#sent += pieces;
      this.#fwdCnt += pieces;
      if (last) this.#pending.shift();
      else this.#pending[0] = { payload: next.payload.subarray(pieces), flags: next.flags };
      this.#answer(packet, 5, last ? next.flags : 0, piece);
    }
  }

  #answer({ source, destination, type }: Packet, op: number, flags = 0, payload?: Uint8Array): void {
    const header = {
      source: destination,
      destination: source,
      type,
      op,
      flags,
      bufAlloc: this.bufAlloc,
      fwdCnt: this.#fwdCnt,
    };
    this.device.send(header, payload);
  }
}
