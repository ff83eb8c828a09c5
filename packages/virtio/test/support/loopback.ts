import { patientScheduler } from "@virtio/testkit/patient-scheduler";
import type { VirtioDevice } from "../../src/device/device.ts";
import { DEFAULT_CORE_FEATURES } from "../../src/device/features.ts";
import { DeviceInstance } from "../../src/device/instance.ts";
import type { InstanceOptions } from "../../src/device/options.ts";
import { DmaPool } from "../../src/driver/dma.ts";
import type { DeviceNotification, DmaMemory, DriverTransport } from "../../src/driver/types.ts";
import type { VirtioFault } from "../../src/fault.ts";
import { RegionMemory } from "../../src/memory/region-memory.ts";
import {
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_INDIRECT_DESC,
  VIRTIO_F_IN_ORDER,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_VERSION_1,
  featureBits,
} from "../../src/spec/core.ts";
import type { QueueConfig } from "../../src/virtqueue/types.ts";

/** Every feature that the two sides of a ring can have here. */
export const ALL_RING_FEATURES: bigint =
  DEFAULT_CORE_FEATURES | featureBits(VIRTIO_F_RING_PACKED, VIRTIO_F_IN_ORDER);

/** Ring features to run a test over: both formats, with everything and with nothing. */
export const RINGS: readonly { name: string; ring: bigint }[] = [
  { name: "split", ring: featureBits(VIRTIO_F_VERSION_1) },
  {
    name: "split, event idx, indirect, in order",
    ring: featureBits(VIRTIO_F_VERSION_1, VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC, VIRTIO_F_IN_ORDER),
  },
  { name: "packed", ring: featureBits(VIRTIO_F_VERSION_1, VIRTIO_F_RING_PACKED) },
  {
    name: "packed, event idx, indirect, in order",
    ring: featureBits(
      VIRTIO_F_VERSION_1,
      VIRTIO_F_RING_PACKED,
      VIRTIO_F_EVENT_IDX,
      VIRTIO_F_INDIRECT_DESC,
      VIRTIO_F_IN_ORDER,
    ),
  },
];

export interface LoopbackOptions extends Partial<Omit<InstanceOptions, "memory">> {
  /** Speak the legacy interface. */
  readonly legacy?: boolean;
  /** Bytes. Default 16 MiB. */
  readonly memorySize?: number;
}

/** A device and its driver in one process with no transport between them: notifications are plain calls. */
export class Loopback implements DriverTransport {
  readonly instance: DeviceInstance;
  readonly bytes: Uint8Array;
  readonly memory: DmaMemory;
  readonly deviceId: number;
  readonly name = "loopback";
  readonly legacy: boolean;
  readonly allowedFeatures: bigint;
  readonly legacyQueueAlign?: number;
  readonly faults: VirtioFault[] = [];
  onNotification: ((notification: DeviceNotification) => void) | undefined;

  constructor(device: VirtioDevice, options: LoopbackOptions = {}) {
    const { legacy = false, memorySize = 16 << 20, ...instance } = options;
    this.bytes = new Uint8Array(memorySize);
    const ram = new RegionMemory([{ gpa: 0, bytes: this.bytes }]);
    this.memory = new DmaPool(ram, 0x1000, memorySize - 0x1000);
    this.instance = new DeviceInstance(device, {
      features: ALL_RING_FEATURES,
      label: device.name,
      scheduler: patientScheduler,
      ...instance,
      memory: ram,
    });
    this.deviceId = device.id;
    this.legacy = legacy;
    this.allowedFeatures = legacy ? 0xffff_ffffn : ALL_RING_FEATURES;
    if (legacy) this.legacyQueueAlign = 4096;
    this.instance.onFault = (fault) => void this.faults.push(fault);
    this.instance.notifier = {
      usedBuffer: (queue) => this.onNotification?.({ queue, used: true, configuration: false }),
      configurationChange: () =>
        this.onNotification?.({ queue: undefined, used: false, configuration: true }),
    };
  }

  get configLength(): number {
    return this.instance.configLength;
  }

  readStatus(): number {
    return this.instance.status;
  }

  writeStatus(value: number): void {
    this.instance.writeStatus(value);
    if (value !== 0) this.instance.legacy = this.legacy;
  }

  readDeviceFeatures(): bigint {
    const { instance } = this;
    if (this.legacy) return BigInt(instance.readLegacyFeatures());
    return [0, 1, 2, 3].reduce(
      (sum, window) => sum | (BigInt(instance.readDeviceFeatures(window)) << BigInt(32 * window)),
      0n,
    );
  }

  writeDriverFeatures(features: bigint): void {
    for (let window = 0; window < 4; window++)
      this.instance.writeDriverFeatures(window, Number((features >> BigInt(32 * window)) & 0xffff_ffffn));
  }

  configGeneration(): number {
    return this.legacy ? 0 : this.instance.generation;
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

  enableQueue(config: QueueConfig): void {
    const queue = this.instance.queue(config.index);
    if (queue === undefined) throw new Error(`no queue ${config.index}`);
    queue.size = config.size;
    queue.descriptorArea = config.descriptorArea;
    queue.driverArea = config.driverArea;
    queue.deviceArea = config.deviceArea;
    queue.enable();
  }

  resetQueue(index: number): Promise<void> {
    this.instance.queue(index)?.reset();
    return Promise.resolve();
  }

  notify(index: number): void {
    this.instance.notify(index);
  }
}

/** Lets everything that waits on promises run. */
export async function settle(turns = 20): Promise<void> {
  for (let i = 0; i < turns; i++) await Promise.resolve();
}
