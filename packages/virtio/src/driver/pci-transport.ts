import type { AccessSize } from "../bus/types.ts";
import {
  VIRTIO_F_NOTIFICATION_DATA,
  VIRTIO_F_NOTIF_CONFIG_DATA,
  VIRTIO_STATUS_DRIVER,
  hasFeature,
} from "../spec/core.ts";
import { VIRTIO_PCI_COMMON_CFG as COMMON } from "../spec/pci.ts";
import type { QueueConfig } from "../virtqueue/types.ts";
import { MODERN_PCI_FEATURES, readFeatureWindows, writeFeatureWindows } from "./features.ts";
import { MachineLoss } from "./loss.ts";
import type { DriverPlatform, SharedMemoryRegion } from "./platform.ts";
import { mapVector, type PciInterrupts } from "./pci-interrupts.ts";
import { readConfigBytes, writeConfigBytes, type RegisterWindow } from "./register-window.ts";
import type { DeviceNotification, DmaMemory, DriverTransport } from "./types.ts";
import { checkAlive, untilDone } from "./wait.ts";

/** The structures of one function, each in its own window. */
export interface PciStructures {
  readonly common: RegisterWindow;
  readonly notify: RegisterWindow;
  readonly notifyMultiplier: number;
  readonly isr: RegisterWindow;
  /** Absent: the device type has no configuration. */
  readonly device: RegisterWindow | undefined;
}

export interface PciTransportParts {
  readonly name: string;
  readonly deviceId: number;
  /** The machine that the function is in. */
  readonly platform: DriverPlatform;
  readonly structures: PciStructures;
  readonly sharedMemory: readonly SharedMemoryRegion[];
  /** Given what to call, connects the interrupts. */
  connect(transport: PciDriverTransport): PciInterrupts;
}

/** Where and what to write to notify the device of a virtqueue. */
interface NotifyAddress {
  readonly offset: number;
  /** The virtqueue index, or `queue_notif_config_data`. */
  readonly value: number;
}

/** 64-bit fields are accessed by halves. */
const AREAS = [
  [COMMON.queue_desc, "descriptorArea"],
  [COMMON.queue_driver, "driverArea"],
  [COMMON.queue_device, "deviceArea"],
] as const;

const CONFIGURATION: DeviceNotification = { queue: undefined, used: false, configuration: true };

/** Driver side of "Virtio Over PCI Bus", through the current interface. */
export class PciDriverTransport implements DriverTransport {
  readonly deviceId: number;
  readonly name: string;
  readonly memory: DmaMemory;
  readonly legacy = false;
  readonly allowedFeatures: bigint = MODERN_PCI_FEATURES;
  onNotification: ((notification: DeviceNotification) => void) | undefined;
  readonly #common: RegisterWindow;
  readonly #structures: PciStructures;
  readonly #interrupts: PciInterrupts;
  readonly #loss: MachineLoss;
  readonly #sharedMemory: readonly SharedMemoryRegion[];
  readonly #notifyAddresses: (NotifyAddress | undefined)[] = [];
  /** A notification is 4 bytes with VIRTIO_F_NOTIFICATION_DATA, else 2. */
  #notifySize: AccessSize = 2;
  #notifConfigData = false;
  #configMapped = false;
  #closed = false;

  constructor(parts: PciTransportParts) {
    this.deviceId = parts.deviceId;
    this.name = parts.name;
    this.memory = parts.platform.memory;
    this.#loss = new MachineLoss(parts.platform, () => this.onNotification?.(CONFIGURATION));
    this.#structures = parts.structures;
    this.#sharedMemory = parts.sharedMemory;
    this.#common = parts.structures.common;
    try {
      this.#interrupts = parts.connect(this);
    } catch (error) {
      this.#loss.close();
      throw error;
    }
  }

  /** Virtqueues the device has at most. */
  get queueCount(): number {
    return this.#common.read(COMMON.num_queues, 2);
  }

  /** The machine is gone. */
  get failure(): Error | undefined {
    return this.#loss.reason;
  }

  readStatus(): number {
    return this.#common.read(COMMON.device_status, 1);
  }

  writeStatus(value: number): void {
    this.#common.write(COMMON.device_status, 1, value);
    if (value === 0) this.#forget();
    else if ((value & VIRTIO_STATUS_DRIVER) !== 0) this.#mapConfigVector();
  }

  /** "No feature defined here exceeds 63." */
  readDeviceFeatures(): bigint {
    return readFeatureWindows((window) => {
      this.#common.write(COMMON.device_feature_select, 4, window);
      return this.#common.read(COMMON.device_feature, 4);
    });
  }

  writeDriverFeatures(features: bigint): void {
    writeFeatureWindows(features, (window, value) => {
      this.#common.write(COMMON.driver_feature_select, 4, window);
      this.#common.write(COMMON.driver_feature, 4, value);
    });
    this.#notifySize = hasFeature(features, VIRTIO_F_NOTIFICATION_DATA) ? 4 : 2;
    this.#notifConfigData = hasFeature(features, VIRTIO_F_NOTIF_CONFIG_DATA);
  }

  configGeneration(): number {
    return this.#common.read(COMMON.config_generation, 1);
  }

  get configLength(): number {
    return this.#structures.device?.length ?? 0;
  }

  readConfig(offset: number, target: Uint8Array): void {
    readConfigBytes(this.#deviceWindow(), 0, offset, target);
  }

  writeConfig(offset: number, source: Uint8Array): void {
    writeConfigBytes(this.#deviceWindow(), 0, offset, source);
  }

  queueMaxSize(index: number): number {
    if (index >= this.queueCount) return 0;
    this.#select(index);
    return this.#common.read(COMMON.queue_size, 2);
  }

  enableQueue(config: QueueConfig): void {
    const common = this.#common;
    this.#select(config.index);
    const vector = this.#interrupts.queueVector(config.index);
    if (vector !== undefined) this.#mapQueueVector(config.index, vector);
    common.write(COMMON.queue_size, 2, config.size);
    for (const [offset, area] of AREAS) {
      common.write(offset, 4, config[area] % 2 ** 32);
      common.write(offset + 4, 4, Math.floor(config[area] / 2 ** 32));
    }
    this.#notifyAddresses[config.index] = this.#notifyAddress(config.index);
    common.write(COMMON.queue_enable, 2, 1);
  }

  async resetQueue(index: number, stop: () => Error | undefined = () => undefined): Promise<void> {
    this.#select(index);
    this.#common.write(COMMON.queue_reset, 2, 1);
    await untilDone(() => {
      checkAlive(this);
      this.#select(index);
      return (this.#common.read(COMMON.queue_reset, 2) | this.#common.read(COMMON.queue_enable, 2)) === 0;
    }, stop);
    this.#notifyAddresses[index] = undefined;
  }

  notify(index: number, data?: number): void {
    const address = this.#notifyAddresses[index];
    if (address === undefined) return;
    const { offset, value } = address;
    if (this.#notifySize === 2) this.#structures.notify.write(offset, 2, value);
    else this.#structures.notify.write(offset, 4, value + (data ?? 0) * 0x10000);
  }

  /** The region with this id, or undefined. */
  sharedMemory(id: number): SharedMemoryRegion | undefined {
    return this.#sharedMemory.find((region) => region.id === id);
  }

  /** "Reading this register resets it to 0". */
  readIsr(): number {
    return this.#structures.isr.read(0, 1);
  }

  close(): void {
    // The function may be another driver's the second time.
    if (this.#closed) return;
    this.#closed = true;
    this.onNotification = undefined;
    this.#loss.close();
    this.#interrupts.close();
  }

  #deviceWindow(): RegisterWindow {
    const { device } = this.#structures;
    if (device === undefined) throw new RangeError(`${this.name}: there is no device-specific configuration`);
    return device;
  }

  #select(index: number): void {
    this.#common.write(COMMON.queue_select, 2, index);
  }

  #notifyAddress(index: number): NotifyAddress {
    const common = this.#common;
    const offset = common.read(COMMON.queue_notify_off, 2) * this.#structures.notifyMultiplier;
    const { length } = this.#structures.notify;
    if (offset + this.#notifySize > length) {
      throw new Error(`${this.name}: notify address ${offset} of virtqueue ${index} lies beyond ${length}`);
    }
    const value = this.#notifConfigData ? common.read(COMMON.queue_notif_config_data, 2) : index;
    return { offset, value };
  }

  #mapConfigVector(): void {
    const vector = this.#interrupts.configVector;
    if (vector === undefined || this.#configMapped) return;
    mapVector(
      (value) => this.#common.write(COMMON.config_msix_vector, 2, value),
      () => this.#common.read(COMMON.config_msix_vector, 2),
      vector,
      `configuration changes of ${this.name}`,
    );
    this.#configMapped = true;
  }

  #mapQueueVector(index: number, vector: number): void {
    mapVector(
      (value) => this.#common.write(COMMON.queue_msix_vector, 2, value),
      () => this.#common.read(COMMON.queue_msix_vector, 2),
      vector,
      `virtqueue ${index} of ${this.name}`,
    );
  }

  /** "all queue and configuration change events are unmapped upon reset" */
  #forget(): void {
    this.#configMapped = false;
    this.#notifyAddresses.length = 0;
    this.#notifySize = 2;
    this.#notifConfigData = false;
  }
}
