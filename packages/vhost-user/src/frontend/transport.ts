import type { DeviceNotification, DmaMemory, DriverTransport } from "virtio/driver/types";
import {
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_INDIRECT_DESC,
  VIRTIO_F_IN_ORDER,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_RING_RESET,
  VIRTIO_F_VERSION_1,
  VIRTIO_STATUS_ACKNOWLEDGE,
  VIRTIO_STATUS_DEVICE_NEEDS_RESET,
  VIRTIO_STATUS_DRIVER_OK,
  VIRTIO_STATUS_FEATURES_OK,
  featureBits,
  hasFeature,
} from "virtio/spec/core";
import { VIRTIO_ID_CONSOLE, VIRTIO_ID_NET } from "virtio/spec/ids";
import { VIRTIO_NET_F_CTRL_VQ } from "virtio/spec/net";
import type { QueueConfig } from "virtio/virtqueue/types";
import * as vu from "../protocol/numbers.ts";
import type { CryptoSession } from "../protocol/crypto-session.ts";
import { encodeConfig } from "../protocol/payloads.ts";
import { withoutFields } from "./config-features.ts";
import { BackendLink } from "./link.ts";
import { checkFrontendOptions, checkQueueSize, type FrontendOptions } from "./options.ts";
import { FrontendRing, type RingListener } from "./ring.ts";
import { SharedMemory } from "./shared-memory.ts";

/** Ring features that vhost-user carries, and that need nothing more of the front-end. */
const CARRIED: bigint = featureBits(
  VIRTIO_F_VERSION_1,
  VIRTIO_F_INDIRECT_DESC,
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_IN_ORDER,
);
const MEMORY = 64 << 20;
const QUEUE_SIZE = 128;
/** Messages about descriptors have 8 bits for the index. */
const MAX_QUEUES = vu.VRING_INDEX_MASK + 1;
const CONFIGURATION: DeviceNotification = { queue: undefined, used: false, configuration: true };

/**
 * Any vhost-user back-end as a device for our drivers; no virtual machine is needed. Registers are kept here, for the
 * protocol has none, and messages follow them in order: a register is read without waiting for the back-end, and what
 * the back-end refuses is a failure of the device.
 */
export class VhostUserTransport implements DriverTransport, RingListener {
  readonly deviceId: number;
  readonly name: string;
  readonly legacy = false;
  readonly allowedFeatures: bigint;
  onNotification: ((notification: DeviceNotification) => void) | undefined;
  readonly #options: FrontendOptions;
  readonly #memory: SharedMemory;
  readonly #link: BackendLink;
  readonly #rings: (FrontendRing | undefined)[] = [];
  /** The back-end is gone. */
  #failure: Error | undefined;
  /** The device needs a reset. */
  #trouble: Error | undefined;
  #status = 0;
  #resetting = false;
  #features = 0n;
  #generation = 0;
  #closed = false;

  private constructor(options: FrontendOptions) {
    const { socket, deviceId, name, memory = MEMORY } = options;
    this.#options = options;
    this.deviceId = deviceId;
    this.name = name ?? `vhost-user ${socket}`;
    // The record of a ring outlives a reset of it alone.
    this.allowedFeatures = options.reconnect ? CARRIED : CARRIED | featureBits(VIRTIO_F_RING_RESET);
    this.#memory = new SharedMemory(memory);
    this.#link = new BackendLink(options, this.#memory, {
      failed: (error) => this.#fail(error),
      configurationChanged: () => this.#configurationChanged(),
      // Whether or not the back-end that died had notified: look.
      resumed: () => this.poll(),
      statusRead: (status) => this.#statusRead(status),
    });
  }

  /**
   * Connects and learns what there is. Rejects when nobody is there, or what is there is no back-end, and with a RangeError or
   * TypeError that names the option when one cannot be.
   */
  static async open(options: FrontendOptions): Promise<VhostUserTransport> {
    checkFrontendOptions(options);
    const transport = new VhostUserTransport(options);
    try {
      await transport.#link.open();
    } catch (error) {
      transport.close();
      throw error;
    }
    return transport;
  }

  get memory(): DmaMemory {
    return this.#memory.pool;
  }

  /** Why the device cannot be used: for good when the back-end is gone, else until a reset. */
  get failure(): Error | undefined {
    return this.#failure ?? this.#trouble;
  }

  /** A reset is over when the back-end holds nothing of the driver's any more. */
  readStatus(): number {
    return this.#resetting ? this.#status | VIRTIO_STATUS_ACKNOWLEDGE : this.#status;
  }

  writeStatus(value: number): void {
    if (value === 0) return this.#reset();
    const added = value & ~this.#status;
    this.#status = value | (this.failure === undefined ? 0 : VIRTIO_STATUS_DEVICE_NEEDS_RESET);
    if (this.#failure !== undefined) return;
    if ((added & VIRTIO_STATUS_FEATURES_OK) !== 0) this.#link.setFeatures(this.#features);
    if ((added & VIRTIO_STATUS_DRIVER_OK) !== 0) this.#link.start(value, this.#liveRings());
    else this.#link.setStatus(value);
  }

  readDeviceFeatures(): bigint {
    this.#check();
    const features = this.#link.offer.features & ~this.#withheld;
    return features & ~withoutFields(this.deviceId, features, this.configLength);
  }

  /** Throws a RangeError for what the protocol's messages have no room for: they carry 64 bits. */
  writeDriverFeatures(features: bigint): void {
    const beyond = features >> 64n;
    if (beyond !== 0n)
      throw new RangeError(`vhost-user carries feature bits 0 to 63, not 0x${(beyond << 64n).toString(16)}`);
    this.#features = features;
  }

  configGeneration(): number {
    return this.#generation;
  }

  get configLength(): number {
    return this.#link.config.length;
  }

  readConfig(offset: number, target: Uint8Array): void {
    this.#check();
    if (offset + target.length > this.configLength)
      throw new RangeError(`${this.name}: configuration space ends at ${this.configLength}`);
    target.set(this.#link.config.subarray(offset, offset + target.length));
  }

  /** What the device makes of it is read afterwards, and is a configuration change when it is something else. */
  writeConfig(offset: number, source: Uint8Array): void {
    this.#check();
    this.#link.config.set(source, offset);
    const body = encodeConfig({ offset, flags: vu.CONFIG_WRITABLE, bytes: source });
    this.#link.writeConfig(body);
  }

  queueMaxSize(index: number): number {
    this.#check();
    const { queueSize = QUEUE_SIZE } = this.#options;
    if (index >= Math.min(this.#queueCount, MAX_QUEUES) || this.#rings[index] !== undefined) return 0;
    return typeof queueSize === "number" ? queueSize : checkQueueSize(queueSize(index), 0);
  }

  enableQueue(config: QueueConfig): void {
    this.#check();
    const packed = hasFeature(this.#features, VIRTIO_F_RING_PACKED);
    const ring = new FrontendRing(config, packed, this.#link.poller, this.#options, this);
    this.#rings[config.index] = ring;
    if ((this.#status & VIRTIO_STATUS_DRIVER_OK) !== 0) this.#link.startOne(ring);
  }

  async resetQueue(index: number): Promise<void> {
    const ring = this.#rings[index];
    if (ring === undefined) return;
    await this.#link.stop([ring]);
    this.#rings[index] = undefined;
    ring.close();
  }

  notify(index: number): void {
    this.#rings[index]?.kick();
  }

  /**
   * Resolves when the back-end has done all that it was told so far. After DRIVER_OK: the device runs. Nobody has to wait
   * for that, requests do. Rejects when the back-end is gone.
   */
  settled(): Promise<void> {
    return this.#link.settled();
  }

  /**
   * Hands a session to a crypto device whose back-end leaves the control virtqueue to us. Resolves to its id, which requests on data
   * virtqueues name it by. Rejects when the device does not create it, and where there are no such sessions.
   */
  async createCryptoSession(session: CryptoSession): Promise<number> {
    const id = await this.#link.createCryptoSession(session);
    if (id < 0) throw new Error(`${this.name}: no crypto session: the device says ${id}`);
    return id;
  }

  closeCryptoSession(id: number): void {
    this.#link.closeCryptoSession(id);
  }

  /** Looks for used buffers without a notification; in all virtqueues, or in one. */
  poll(index?: number): void {
    if (index !== undefined) {
      const ring = this.#rings[index];
      if (ring !== undefined) this.onNotification?.(ring.notification);
    } else for (const { notification } of this.#liveRings()) this.onNotification?.(notification);
  }

  looksAgain(queue: number, found: boolean): boolean {
    return this.#rings[queue]?.looksAgain(found) ?? false;
  }

  /** Lets the back-end go and gives everything back; what it still worked on goes nowhere. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#failure ??= new Error(`${this.name}: the transport was closed`);
    this.onNotification = undefined;
    this.#link.close();
    this.#closeRings();
    this.#memory.close();
  }

  // ---- RingListener

  used(notification: DeviceNotification): void {
    this.onNotification?.(notification);
  }

  broken(index: number): void {
    this.#needsReset(new Error(`${this.name}: the back-end reports an error on virtqueue ${index}`));
  }

  get #withheld(): bigint {
    const { withhold, deviceId } = this.#options;
    return withhold ?? (deviceId === VIRTIO_ID_NET ? featureBits(VIRTIO_NET_F_CTRL_VQ) : 0n);
  }

  get #queueCount(): number {
    const { queues, deviceId } = this.#options;
    const least = deviceId === VIRTIO_ID_NET || deviceId === VIRTIO_ID_CONSOLE ? 2 : 1;
    const told = this.#link.offer.queues;
    if (deviceId !== VIRTIO_ID_NET || told === undefined) return queues ?? told ?? least;
    // Of a network device pairs are counted.
    return queues ?? 2 * told + Number(hasFeature(this.readDeviceFeatures(), VIRTIO_NET_F_CTRL_VQ));
  }

  #liveRings(): FrontendRing[] {
    return this.#rings.filter((ring) => ring !== undefined);
  }

  #check(): void {
    if (this.#failure !== undefined) throw this.#failure;
  }

  #reset(): void {
    if (this.#resetting) return;
    const rings = this.#liveRings();
    const started = (this.#status & VIRTIO_STATUS_DRIVER_OK) !== 0;
    this.#resetting = true;
    void this.#link.reset(started ? rings : []).finally(() => {
      this.#closeRings();
      this.#status = 0;
      this.#trouble = undefined;
      this.#resetting = false;
    });
  }

  #closeRings(): void {
    for (const ring of this.#rings.splice(0)) ring?.close();
  }

  #fail(error: Error): void {
    this.#failure ??= new Error(`${this.name}: ${error.message}`, { cause: error });
    this.#needsReset(this.#failure);
  }

  #needsReset(error: Error): void {
    this.#trouble ??= error;
    this.#status |= VIRTIO_STATUS_DEVICE_NEEDS_RESET;
    this.onNotification?.(CONFIGURATION);
  }

  #statusRead(status: number): void {
    if (this.#resetting || (this.#status & VIRTIO_STATUS_DRIVER_OK) === 0) return;
    if ((status & VIRTIO_STATUS_FEATURES_OK) === 0)
      return this.#needsReset(
        new Error(`${this.name}: the device refuses the features 0x${this.#features.toString(16)}`),
      );
    if ((status & VIRTIO_STATUS_DEVICE_NEEDS_RESET) !== 0)
      this.#needsReset(new Error(`${this.name}: the device needs a reset`));
  }

  #configurationChanged(): void {
    this.#generation++;
    this.onNotification?.(CONFIGURATION);
  }
}
