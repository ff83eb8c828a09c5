import type { DeviceNotification, DmaMemory, DriverTransport } from "virtio/driver/types";
import type { QueueConfig } from "virtio/virtqueue/types";

/** A transport that remembers what its driver set up, for the commands that show it. */
export class WatchedTransport implements DriverTransport {
  /** Virtqueues in use, by index. */
  readonly queues: Map<number, QueueConfig> = new Map();
  /** What the driver accepted; undefined before it did. */
  driverFeatures: bigint | undefined;
  readonly #inner: DriverTransport;
  readonly legacyQueueAlign?: number;

  constructor(inner: DriverTransport) {
    this.#inner = inner;
    if (inner.legacyQueueAlign !== undefined) this.legacyQueueAlign = inner.legacyQueueAlign;
  }

  get deviceId(): number {
    return this.#inner.deviceId;
  }

  get name(): string {
    return this.#inner.name;
  }

  get memory(): DmaMemory {
    return this.#inner.memory;
  }

  get legacy(): boolean {
    return this.#inner.legacy;
  }

  get allowedFeatures(): bigint {
    return this.#inner.allowedFeatures;
  }

  get configLength(): number | undefined {
    return this.#inner.configLength;
  }

  get failure(): Error | undefined {
    return this.#inner.failure;
  }

  get onNotification(): ((notification: DeviceNotification) => void) | undefined {
    return this.#inner.onNotification;
  }

  set onNotification(handler: ((notification: DeviceNotification) => void) | undefined) {
    this.#inner.onNotification = handler;
  }

  readStatus(): number {
    return this.#inner.readStatus();
  }

  writeStatus(value: number): void {
    if (value === 0) {
      this.queues.clear();
      this.driverFeatures = undefined;
    }
    this.#inner.writeStatus(value);
  }

  readDeviceFeatures(): bigint {
    return this.#inner.readDeviceFeatures();
  }

  writeDriverFeatures(features: bigint): void {
    this.driverFeatures = features;
    this.#inner.writeDriverFeatures(features);
  }

  configGeneration(): number {
    return this.#inner.configGeneration();
  }

  readConfig(offset: number, target: Uint8Array): void {
    this.#inner.readConfig(offset, target);
  }

  writeConfig(offset: number, source: Uint8Array): void {
    this.#inner.writeConfig(offset, source);
  }

  queueMaxSize(index: number): number {
    return this.#inner.queueMaxSize(index);
  }

  enableQueue(config: QueueConfig): void {
    this.queues.set(config.index, config);
    this.#inner.enableQueue(config);
  }

  async resetQueue(index: number): Promise<void> {
    await this.#inner.resetQueue(index);
    this.queues.delete(index);
  }

  notify(index: number, data?: number): void {
    if (data === undefined) this.#inner.notify(index);
    else this.#inner.notify(index, data);
  }

  looksAgain(queue: number, found: boolean): boolean {
    return this.#inner.looksAgain?.(queue, found) ?? false;
  }

  close(): void {
    this.#inner.close?.();
  }
}
