import type { NetBackend, NetPort } from "../../backends/net.ts";
import type {
  ConfigContext,
  ConfigSpace,
  DeviceContext,
  DeviceHost,
  QueueSpec,
  RunningQueue,
  VirtioDevice,
} from "../../device/device.ts";
import type { FeatureDependency } from "../../device/features.ts";
import { VirtioFault } from "../../fault.ts";
import { writeLe16, writeLe32 } from "../../memory/bytes.ts";
import { SegmentReader, SegmentWriter } from "../../memory/cursor.ts";
import { VIRTIO_F_VERSION_1, hasFeature } from "../../spec/core.ts";
import { VIRTIO_ID_NET } from "../../spec/ids.ts";
import {
  VIRTIO_NET_CONFIG,
  VIRTIO_NET_OK,
  VIRTIO_NET_F_CTRL_MAC_ADDR,
  VIRTIO_NET_F_CTRL_RX,
  VIRTIO_NET_F_CTRL_RX_EXTRA,
  VIRTIO_NET_F_CTRL_VLAN,
  VIRTIO_NET_F_CTRL_VQ,
  VIRTIO_NET_F_GUEST_ANNOUNCE,
  VIRTIO_NET_F_MQ,
  VIRTIO_NET_F_MRG_RXBUF,
  VIRTIO_NET_F_MTU,
  VIRTIO_NET_S_ANNOUNCE,
  VIRTIO_NET_S_LINK_UP,
} from "../../spec/net.ts";
import type { DescriptorChain } from "../../virtqueue/types.ts";
import { executeControl, explainControl } from "./control.ts";
import { ETHERNET_HEADER_BYTES, MAC_BYTES, VLAN_TAG_BYTES, macKey, vlanId } from "./mac.ts";
import { checkNetOptions, netFeatures } from "./options.ts";
import type { NetOptions } from "./options.ts";
import { FrameWriter } from "./receive.ts";
import { RxFilter } from "./rx-filter.ts";
import { parseNetState, restoreFilter, saveFilter } from "./state.ts";
import type { NetState } from "./state.ts";
import { Steering } from "./steering.ts";
import { rarpFrame } from "./rarp.ts";
import { FrameReader, MAX_FRAME_BYTES } from "./transmit.ts";

const CONTROL_QUEUE_SIZE = 64;

/** "Feature bit requirements", as far as the features are offered. */
const DEPENDENCIES: readonly FeatureDependency[] = [
  VIRTIO_NET_F_CTRL_RX,
  VIRTIO_NET_F_CTRL_RX_EXTRA,
  VIRTIO_NET_F_CTRL_VLAN,
  VIRTIO_NET_F_GUEST_ANNOUNCE,
  VIRTIO_NET_F_MQ,
  VIRTIO_NET_F_CTRL_MAC_ADDR,
].map((feature) => ({ feature, needs: [[VIRTIO_NET_F_CTRL_VQ]] }));

/** Frames, by what became of them. */
export interface NetCounters {
  sent: number;
  /** Malformed, too long, or the peer had no room. */
  sendDropped: number;
  received: number;
  /** Not for this driver. */
  filtered: number;
  /** Too long for the driver's buffers or the MTU, or the device was not running. */
  receiveDropped: number;
}

/** What lasts from DRIVER_OK to reset. */
interface Life {
  readonly context: DeviceContext;
  readonly reader: FrameReader;
  readonly writer: FrameWriter;
  readonly control: SegmentReader;
  readonly ack: SegmentWriter;
  /** Virtqueue index of the control queue, or -1. */
  readonly controlIndex: number;
  /** With VIRTIO_NET_F_MTU. */
  readonly mtu: number | undefined;
}

/** Network device ("Network Device") without offloads, on a NetBackend. */
export class NetDevice implements VirtioDevice<NetState>, NetPort {
  readonly id: number = VIRTIO_ID_NET;
  readonly name: string = "net";
  /** Ethernet controller. */
  readonly pciClass: number = 0x020000;
  readonly features: bigint;
  readonly queues: readonly QueueSpec[];
  readonly config: ConfigSpace;
  readonly dependencies: readonly FeatureDependency[] = DEPENDENCIES;
  readonly maxPairs: number;
  readonly filter: RxFilter = new RxFilter();
  readonly counters: NetCounters = { sent: 0, sendDropped: 0, received: 0, filtered: 0, receiveDropped: 0 };
  readonly #options: NetOptions;
  readonly #backend: NetBackend;
  readonly #steering = new Steering();
  #mac: Uint8Array;
  #macKey: number;
  #pairs = 1;
  #announce = false;
  #announceOnStart = false;
  /** The host pulled the cable with `setLink`. */
  #unplugged = false;
  #linkUp: boolean;
  #host: DeviceHost | undefined;
  #life: Life | undefined;
  /** The backend was told that there is no room, and waits for `ready`. */
  #starved = false;
  /** Receive queues with frames that are not published yet. */
  readonly #unpublished: RunningQueue[] = [];

  constructor(options: NetOptions) {
    checkNetOptions(options);
    this.#options = options;
    this.#backend = options.backend;
    this.maxPairs = options.queuePairs ?? 1;
    this.features = netFeatures(options);
    this.queues = this.#queueSpecs(options.queueSize ?? 256);
    this.config = {
      length: configLength(options),
      read: (offset, target) => this.#readConfig(offset, target),
      write: (offset, source, context) => this.#writeConfig(offset, source, context),
    };
    // Not `slice`: of a Node Buffer that is no copy.
    this.#mac = new Uint8Array(options.mac);
    this.#macKey = macKey(this.#mac, 0);
    this.#backend.attach(this);
    this.#linkUp = this.#linkNow();
  }

  /** The address in use: the driver may have changed it. */
  get mac(): Uint8Array {
    return this.#mac.slice();
  }

  /** Pairs of queues in use. */
  get pairs(): number {
    return this.#pairs;
  }

  get linkUp(): boolean {
    return this.#linkUp;
  }

  /** Pulls the cable, or plugs it in again. */
  setLink(up: boolean): void {
    this.#unplugged = !up;
    this.linkChanged();
  }

  /** Asks the driver to make itself known to its peers ("Gratuitous Packet Sending"). False: it cannot be asked. */
  announce(): boolean {
    const life = this.#life;
    if (life === undefined || !hasFeature(life.context.features, VIRTIO_NET_F_GUEST_ANNOUNCE)) return false;
    this.#announce = true;
    life.context.configChanged();
    return true;
  }

  /** Makes itself known to its peers by a RARP broadcast, for a driver that cannot be asked to. False: it was dropped. */
  sendRarp(mac: Uint8Array): boolean {
    return this.#backend.send(rarpFrame(mac));
  }

  /** The device is gone: leaves its backend. */
  close(): void {
    this.#backend.attach(undefined);
  }

  // ---- the backend's side

  receive(frame: Uint8Array, more = false): boolean {
    this.#starved = false;
    const taken = this.#accept(frame);
    if (!more || !taken) this.#publish();
    if (taken) return true;
    // The driver may have given buffers when it was notified.
    if (this.#accept(frame)) {
      if (!more) this.#publish();
      return true;
    }
    this.#starved = true;
    return false;
  }

  linkChanged(): void {
    const up = this.#linkNow();
    if (up === this.#linkUp) return;
    this.#linkUp = up;
    if (up && this.#options.announceOnLinkUp === true && this.announce()) return;
    this.#host?.configChanged();
  }

  // ---- the driver's side

  plugged(host: DeviceHost): void {
    this.#host = host;
  }

  queueNames(features: bigint): readonly string[] {
    const names = this.queues.map(({ name }) => name);
    const control = controlIndex(features, this.#pairsWith(features));
    if (control >= 0) names[control] = "controlq";
    return names;
  }

  activate(context: DeviceContext): void {
    const { features } = context;
    const modern = hasFeature(features, VIRTIO_F_VERSION_1);
    const headerBytes = modern || hasFeature(features, VIRTIO_NET_F_MRG_RXBUF) ? 12 : 10;
    const mtu = hasFeature(features, VIRTIO_NET_F_MTU) ? this.#options.mtu : undefined;
    const maxFrame = mtu === undefined ? MAX_FRAME_BYTES : mtu + ETHERNET_HEADER_BYTES + VLAN_TAG_BYTES;
    this.filter.vlanFiltering = hasFeature(features, VIRTIO_NET_F_CTRL_VLAN);
    this.#life = {
      context,
      reader: new FrameReader(context, headerBytes, maxFrame),
      writer: new FrameWriter(context, headerBytes),
      control: new SegmentReader(context.memory),
      ack: new SegmentWriter(context.memory),
      controlIndex: controlIndex(features, this.#pairsWith(features)),
      mtu,
    };
    if (this.#announceOnStart) this.announce();
    this.#announceOnStart = false;
  }

  reset(): void {
    this.#life = undefined;
    this.#unpublished.length = 0;
    this.#pairs = 1;
    this.#announce = this.#announceOnStart = false;
    this.filter.reset();
    this.#steering.reset();
    this.#setMac(new Uint8Array(this.#options.mac));
  }

  save(): NetState {
    return { mac: this.mac, pairs: this.#pairs, announce: this.#announce, ...saveFilter(this.filter) };
  }

  restore(untrusted: unknown): void {
    const state = parseNetState(untrusted, this.maxPairs);
    restoreFilter(this.filter, state);
    this.#setMac(state.mac);
    this.#pairs = state.pairs;
    this.#announce = state.announce;
    this.#announceOnStart = this.#options.announceOnRestore ?? true;
  }

  /** "Network Device / Virtqueues": without VIRTIO_NET_F_MQ there is one pair. */
  #pairsWith(features: bigint): number {
    return hasFeature(features, VIRTIO_NET_F_MQ) ? this.maxPairs : 1;
  }

  #queueSpecs(queueSize: number): QueueSpec[] {
    const specs: QueueSpec[] = [];
    for (let pair = 0; pair < this.maxPairs; pair++) {
      specs.push(
        {
          name: `receiveq${pair + 1}`,
          maxSize: queueSize,
          // Without VIRTIO_NET_F_MQ the control queue is where receiveq2 would be.
          refilled: (context) =>
            this.#life?.controlIndex === 2 * pair ? this.#serveControl(context) : this.#refilled(),
        },
        { name: `transmitq${pair + 1}`, maxSize: queueSize, serve: (chain) => this.#transmit(chain, pair) },
      );
    }
    if (hasFeature(this.features, VIRTIO_NET_F_CTRL_VQ))
      specs.push({
        name: "controlq",
        maxSize: CONTROL_QUEUE_SIZE,
        refilled: (context) => this.#serveControl(context),
      });
    return specs;
  }

  #transmit(chain: DescriptorChain, pair: number): number {
    const frame = this.#life?.reader.read(chain, 2 * pair + 1);
    if (frame === undefined || !this.#linkUp) {
      this.counters.sendDropped++;
      return 0;
    }
    if (this.#pairs > 1) this.#steering.sent(frame, pair);
    if (this.#backend.send(frame)) this.counters.sent++;
    else this.counters.sendDropped++;
    return 0;
  }

  /** False: no room, nothing happened. */
  #accept(frame: Uint8Array): boolean {
    const life = this.#life;
    if (life === undefined || !this.#linkUp || !fits(frame, life.mtu)) {
      this.counters.receiveDropped++;
      return true;
    }
    if (!this.filter.accepts(frame, this.#macKey)) {
      this.counters.filtered++;
      return true;
    }
    const queue = this.#receiveQueue(frame, life.context);
    const placed = queue === undefined ? "too-small" : life.writer.place(frame, queue);
    if (placed === "no-room") return false;
    if (placed !== "placed") this.counters.receiveDropped++;
    else if (queue !== undefined) {
      this.counters.received++;
      if (!this.#unpublished.includes(queue)) this.#unpublished.push(queue);
    }
    return true;
  }

  /** "If the destination receive queue is being reset, the device SHOULD re-select another random queue." */
  #receiveQueue(frame: Uint8Array, context: DeviceContext): RunningQueue | undefined {
    const first = this.#steering.choose(frame, this.#pairs);
    for (let i = 0; i < this.#pairs; i++) {
      const queue = context.queue(2 * ((first + i) % this.#pairs));
      if (queue !== undefined) return queue;
    }
    return undefined;
  }

  #publish(): void {
    for (let queue = this.#unpublished.pop(); queue !== undefined; queue = this.#unpublished.pop())
      queue.flush();
  }

  #refilled(): void {
    if (!this.#starved) return;
    this.#starved = false;
    this.#backend.ready?.();
  }

  #serveControl(context: DeviceContext): void {
    const life = this.#life;
    const queue = life === undefined ? undefined : context.queue(life.controlIndex);
    if (life === undefined || queue === undefined) return;
    let used = false;
    for (let chain = queue.popAvailable(); chain !== undefined; chain = queue.popAvailable()) {
      if (chain.writableLength === 0) {
        const where = { queue: queue.index, descriptor: chain.token };
        context.fail(new VirtioFault("own.net-control", "control command without room for its ack", where));
        break;
      }
      const ack = executeControl(life.control.start(chain.readable), {
        features: context.features,
        filter: this.filter,
        maxPairs: this.maxPairs,
        setMac: (mac) => this.#setMac(mac),
        setPairs: (pairs) => (this.#pairs = pairs),
        announced: () => (this.#announce = false),
      });
      if (ack !== VIRTIO_NET_OK && context.watch !== undefined)
        context.watch.failed(
          queue.index,
          explainControl(life.control.start(chain.readable), context.features),
        );
      life.ack.start(chain.writable).fill(ack, 1);
      queue.addUsed(chain, 1);
      used = true;
    }
    if (used) queue.flush();
  }

  #setMac(mac: Uint8Array): void {
    this.#mac = mac;
    this.#macKey = macKey(mac, 0);
  }

  #linkNow(): boolean {
    return !this.#unplugged && (this.#backend.linkUp ?? true);
  }

  #readConfig(offset: number, target: Uint8Array): void {
    const { mtu, speed, duplex } = this.#options;
    const bytes = new Uint8Array(VIRTIO_NET_CONFIG.duplex + 1);
    const announce = this.#announce ? VIRTIO_NET_S_ANNOUNCE : 0;
    bytes.set(this.#mac, VIRTIO_NET_CONFIG.mac);
    writeLe16(bytes, VIRTIO_NET_CONFIG.status, (this.#linkUp ? VIRTIO_NET_S_LINK_UP : 0) | announce);
    writeLe16(bytes, VIRTIO_NET_CONFIG.max_virtqueue_pairs, this.maxPairs);
    writeLe16(bytes, VIRTIO_NET_CONFIG.mtu, mtu ?? 0);
    writeLe32(bytes, VIRTIO_NET_CONFIG.speed, speed ?? 0xffff_ffff);
    // The spec names both 0 and 1 as full duplex, in two places; 1 is what drivers and other devices take it for.
    bytes[VIRTIO_NET_CONFIG.duplex] = duplex === "half" ? 0 : 1;
    target.set(bytes.subarray(offset, offset + target.length));
  }

  /** "When using the legacy interface, mac is driver-writable"; all else is read-only. */
  #writeConfig(offset: number, source: Uint8Array, { features }: ConfigContext): boolean {
    const fixed =
      hasFeature(features, VIRTIO_F_VERSION_1) || hasFeature(features, VIRTIO_NET_F_CTRL_MAC_ADDR);
    if (fixed || offset >= MAC_BYTES) return false;
    const mac = this.#mac.slice();
    mac.set(source.subarray(0, Math.max(0, MAC_BYTES - offset)), Math.min(offset, MAC_BYTES));
    this.#setMac(mac);
    return true;
  }
}

/** Frames that no driver gets: shorter than their header, or beyond the bound or the MTU. */
function fits(frame: Uint8Array, mtu: number | undefined): boolean {
  if (frame.length < ETHERNET_HEADER_BYTES || frame.length > MAX_FRAME_BYTES) return false;
  if (mtu === undefined) return true;
  return frame.length <= mtu + ETHERNET_HEADER_BYTES + (vlanId(frame) >= 0 ? VLAN_TAG_BYTES : 0);
}

/** Up to the last field that exists. */
function configLength({ mtu, speed, queuePairs = 1 }: NetOptions): number {
  if (speed !== undefined) return VIRTIO_NET_CONFIG.duplex + 1;
  if (mtu !== undefined) return VIRTIO_NET_CONFIG.speed;
  return queuePairs > 1 ? VIRTIO_NET_CONFIG.mtu : VIRTIO_NET_CONFIG.max_virtqueue_pairs;
}

/** Virtqueue index of the control queue, which is behind the pairs; -1: there is none. */
function controlIndex(features: bigint, pairs: number): number {
  return hasFeature(features, VIRTIO_NET_F_CTRL_VQ) ? 2 * pairs : -1;
}
