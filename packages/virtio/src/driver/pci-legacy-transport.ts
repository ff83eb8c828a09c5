import { VIRTIO_STATUS_DRIVER } from "../spec/core.ts";
import {
  VIRTIO_PCI_LEGACY as LEGACY,
  VIRTIO_PCI_LEGACY_CONFIG,
  VIRTIO_PCI_LEGACY_CONFIG_MSIX,
  VIRTIO_PCI_LEGACY_PAGE_SIZE,
} from "../spec/pci.ts";
import type { QueueConfig } from "../virtqueue/types.ts";
import { LEGACY_FEATURES, withAnyLayout } from "./features.ts";
import { MachineLoss } from "./loss.ts";
import type { DriverPlatform } from "./platform.ts";
import { mapVector, type PciInterrupts } from "./pci-interrupts.ts";
import { readStableConfigBytes, writeConfigBytes, type RegisterWindow } from "./register-window.ts";
import type { DeviceNotification, DmaMemory, DriverTransport } from "./types.ts";

export interface PciLegacyParts {
  readonly name: string;
  readonly deviceId: number;
  /** The machine that the function is in. */
  readonly platform: DriverPlatform;
  /** BAR0. */
  readonly header: RegisterWindow;
  /** Given what to call, connects the interrupts. */
  connect(transport: PciLegacyDriverTransport): PciInterrupts;
}

const CONFIGURATION: DeviceNotification = { queue: undefined, used: false, configuration: true };

/** Driver side of the legacy interface in BAR0 ("Legacy Interfaces: A Note on PCI Device Layout"). */
export class PciLegacyDriverTransport implements DriverTransport {
  readonly deviceId: number;
  readonly name: string;
  readonly memory: DmaMemory;
  readonly legacy = true;
  readonly allowedFeatures: bigint = LEGACY_FEATURES;
  readonly legacyQueueAlign: number = VIRTIO_PCI_LEGACY_PAGE_SIZE;
  onNotification: ((notification: DeviceNotification) => void) | undefined;
  readonly #header: RegisterWindow;
  readonly #interrupts: PciInterrupts;
  readonly #loss: MachineLoss;
  #configMapped = false;
  #closed = false;

  constructor(parts: PciLegacyParts) {
    this.deviceId = parts.deviceId;
    this.name = parts.name;
    this.memory = parts.platform.memory;
    this.#loss = new MachineLoss(parts.platform, () => this.onNotification?.(CONFIGURATION));
    this.#header = parts.header;
    try {
      this.#interrupts = parts.connect(this);
    } catch (error) {
      this.#loss.close();
      throw error;
    }
  }

  /** The machine is gone. */
  get failure(): Error | undefined {
    return this.#loss.reason;
  }

  readStatus(): number {
    return this.#header.read(LEGACY.device_status, 1);
  }

  writeStatus(value: number): void {
    this.#header.write(LEGACY.device_status, 1, value);
    if (value === 0) this.#configMapped = false;
    else if ((value & VIRTIO_STATUS_DRIVER) !== 0) this.#mapConfigVector();
  }

  readDeviceFeatures(): bigint {
    return BigInt(this.#header.read(LEGACY.device_features, 4));
  }

  writeDriverFeatures(features: bigint): void {
    const accepted = withAnyLayout(features, this.readDeviceFeatures());
    this.#header.write(LEGACY.driver_features, 4, Number(accepted & 0xffffffffn));
  }

  configGeneration(): number {
    return 0;
  }

  get configLength(): number {
    return Math.max(0, this.#header.length - this.#configStart);
  }

  readConfig(offset: number, target: Uint8Array): void {
    readStableConfigBytes(this.#header, this.#configStart, offset, target);
  }

  writeConfig(offset: number, source: Uint8Array): void {
    writeConfigBytes(this.#header, this.#configStart, offset, source);
  }

  queueMaxSize(index: number): number {
    this.#select(index);
    return this.#header.read(LEGACY.queue_size, 2);
  }

  /** The areas of `config` are one block in the legacy layout, below 2^44. */
  enableQueue(config: QueueConfig): void {
    const page = config.descriptorArea / VIRTIO_PCI_LEGACY_PAGE_SIZE;
    if (!Number.isInteger(page) || page >= 2 ** 32) {
      throw new RangeError(
        `${this.name}: a legacy virtqueue cannot be at 0x${config.descriptorArea.toString(16)}`,
      );
    }
    this.#select(config.index);
    const vector = this.#interrupts.queueVector(config.index);
    if (vector !== undefined) this.#map(LEGACY.queue_msix_vector, vector, `virtqueue ${config.index}`);
    this.#header.write(LEGACY.queue_address, 4, page);
  }

  resetQueue(index: number): Promise<void> {
    return Promise.reject(new Error(`${this.name}: a legacy device cannot reset virtqueue ${index} alone`));
  }

  notify(index: number): void {
    this.#header.write(LEGACY.queue_notify, 2, index);
  }

  /** Reading clears it. */
  readIsr(): number {
    return this.#header.read(LEGACY.isr_status, 1);
  }

  close(): void {
    // The function may be another driver's the second time.
    if (this.#closed) return;
    this.#closed = true;
    this.onNotification = undefined;
    this.#loss.close();
    this.#interrupts.close();
  }

  /** "once you enable MSI-X on the device, the other fields move" */
  get #configStart(): number {
    const msix = this.#interrupts.configVector !== undefined;
    return msix ? VIRTIO_PCI_LEGACY_CONFIG_MSIX : VIRTIO_PCI_LEGACY_CONFIG;
  }

  #select(index: number): void {
    this.#header.write(LEGACY.queue_select, 2, index);
  }

  #mapConfigVector(): void {
    const vector = this.#interrupts.configVector;
    if (vector === undefined || this.#configMapped) return;
    this.#map(LEGACY.config_msix_vector, vector, "configuration changes");
    this.#configMapped = true;
  }

  #map(register: number, vector: number, what: string): void {
    mapVector(
      (value) => this.#header.write(register, 2, value),
      () => this.#header.read(register, 2),
      vector,
      `${what} of ${this.name}`,
    );
  }
}
