import type { VirtioDevice } from "../../src/device/device.ts";
import { DeviceInstance, type InstanceOptions } from "../../src/device/instance.ts";
import { DmaPool } from "../../src/driver/dma.ts";
import type { DeviceNotification, DriverTransport } from "../../src/driver/types.ts";
import { DRIVER_RING_FEATURES } from "../../src/driver/session.ts";
import type { VirtioFault } from "../../src/fault.ts";
import { RegionMemory } from "../../src/memory/region-memory.ts";
import { VIRTIO_F_IN_ORDER, VIRTIO_F_RING_PACKED, featureBits } from "../../src/spec/core.ts";
import { DEFAULT_CORE_FEATURES } from "../../src/device/features.ts";
import type { QueueConfig } from "../../src/virtqueue/types.ts";

const ALL_ONES = 0xffff_ffffn;

/** The ring formats that a driver and a device here can meet over. */
export const RINGS: readonly { name: string; features: bigint; legacy?: boolean }[] = [
  { name: "split", features: DEFAULT_CORE_FEATURES },
  { name: "packed", features: DEFAULT_CORE_FEATURES | featureBits(VIRTIO_F_RING_PACKED) },
  {
    name: "packed, in order",
    features: DEFAULT_CORE_FEATURES | featureBits(VIRTIO_F_RING_PACKED, VIRTIO_F_IN_ORDER),
  },
  { name: "legacy", features: DEFAULT_CORE_FEATURES, legacy: true },
];

/** A device in the same process as its driver, without registers between them. */
export class Loopback implements DriverTransport {
  readonly instance: DeviceInstance;
  readonly memory: DmaPool;
  readonly name = "loopback";
  readonly legacy: boolean;
  readonly allowedFeatures: bigint = DRIVER_RING_FEATURES;
  readonly legacyQueueAlign?: number;
  readonly faults: VirtioFault[] = [];
  onNotification: ((notification: DeviceNotification) => void) | undefined;

  constructor(
    device: VirtioDevice,
    options: Partial<InstanceOptions> & { legacy?: boolean; memorySize?: number } = {},
  ) {
    const { legacy = false, memorySize = 8 << 20, ...rest } = options;
    const memory = new RegionMemory([{ gpa: 0, bytes: new Uint8Array(memorySize) }]);
    this.memory = new DmaPool(memory, 4096, memorySize - 4096);
    this.instance = new DeviceInstance(device, { label: "loopback", memory, ...rest });
    this.legacy = legacy;
    if (legacy) this.legacyQueueAlign = 4096;
    this.instance.onFault = (fault) => this.faults.push(fault);
    this.instance.notifier = {
      usedBuffer: (queue) => this.onNotification?.({ queue, used: true, configuration: false }),
      configurationChange: () =>
        this.onNotification?.({ queue: undefined, used: false, configuration: true }),
    };
  }

  get deviceId(): number {
    return this.instance.id;
  }

  get configLength(): number {
    return this.instance.configLength;
  }

  readStatus(): number {
    return this.instance.status;
  }

  writeStatus(value: number): void {
    this.instance.writeStatus(value);
    this.instance.legacy = this.legacy;
  }

  readDeviceFeatures(): bigint {
    if (this.legacy) return BigInt(this.instance.readLegacyFeatures());
    return [0, 1, 2, 3].reduce(
      (set, i) => set | (BigInt(this.instance.readDeviceFeatures(i)) << BigInt(32 * i)),
      0n,
    );
  }

  writeDriverFeatures(features: bigint): void {
    for (const i of [0, 1, 2, 3])
      this.instance.writeDriverFeatures(i, Number((features >> BigInt(32 * i)) & ALL_ONES));
  }

  configGeneration(): number {
    return this.instance.generation;
  }

  readConfig(offset: number, target: Uint8Array): void {
    this.instance.readConfigBytes(offset, target);
  }

  writeConfig(offset: number, source: Uint8Array): void {
    this.instance.writeConfigBytes(offset, source);
  }

  queueMaxSize(index: number): number {
    return this.instance.queue(index)?.maxSize ?? 0;
  }

  enableQueue({ index, size, descriptorArea, driverArea, deviceArea }: QueueConfig): void {
    const queue = this.instance.queue(index);
    if (queue === undefined) throw new Error(`no virtqueue ${index}`);
    Object.assign(queue, { size, descriptorArea, driverArea, deviceArea });
    queue.enable();
  }

  resetQueue(index: number): Promise<void> {
    this.instance.queue(index)?.reset();
    return Promise.resolve();
  }

  notify(index: number, data?: number): void {
    this.instance.notify(index, data);
  }
}
