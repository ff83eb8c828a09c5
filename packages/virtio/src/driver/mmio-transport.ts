import { flagOptions, wholeOption } from "../check-option.ts";
import { VIRTIO_F_NOTIFICATION_DATA, hasFeature } from "../spec/core.ts";
import {
  VIRTIO_MMIO as MMIO,
  VIRTIO_MMIO_DEVICE_ID_NONE,
  VIRTIO_MMIO_INTERRUPT_CONFIG,
  VIRTIO_MMIO_INTERRUPT_USED,
  VIRTIO_MMIO_LEGACY as LEGACY,
  VIRTIO_MMIO_MAGIC_VALUE,
  VIRTIO_MMIO_VERSION,
  VIRTIO_MMIO_VERSION_LEGACY,
} from "../spec/mmio.ts";
import type { QueueConfig } from "../virtqueue/types.ts";
import { MachineLoss } from "./loss.ts";
import {
  LEGACY_FEATURES,
  MODERN_MMIO_FEATURES,
  readFeatureWindows,
  withAnyLayout,
  writeFeatureWindows,
} from "./features.ts";
import type { DriverPlatform, SharedMemoryRegion } from "./platform.ts";
import {
  BusWindow,
  readConfigBytes,
  readStableConfigBytes,
  writeConfigBytes,
  type RegisterWindow,
} from "./register-window.ts";
import type { DeviceNotification, DmaMemory, DriverTransport } from "./types.ts";
import { checkAlive, untilDone } from "./wait.ts";

/** Where a device tree or an ACPI table says that a device is. */
export interface MmioPlace {
  readonly base: number;
  /** Bytes: 0x100 or more. */
  readonly length: number;
  /** Number of the interrupt line, as the machine counts them. */
  readonly line: number;
}

export interface OpenMmioOptions {
  /** Drive version 1 too. Default true; "the driver MUST ignore a device with Version which is not 0x2" otherwise. */
  readonly legacy?: boolean;
}

/** A driver of the legacy layout takes the size it is told; this transport can choose, and more is only memory. */
const LARGEST_LEGACY_QUEUE = 256;
/** Page and alignment that the legacy interface is used with. */
const PAGE_SIZE = 4096;

const AREAS = [
  [MMIO.QueueDescLow, MMIO.QueueDescHigh, "descriptorArea"],
  [MMIO.QueueDriverLow, MMIO.QueueDriverHigh, "driverArea"],
  [MMIO.QueueDeviceLow, MMIO.QueueDeviceHigh, "deviceArea"],
] as const;

const USED: DeviceNotification = { queue: undefined, used: true, configuration: false };
const CONFIGURATION: DeviceNotification = { queue: undefined, used: false, configuration: true };
const BOTH: DeviceNotification = { queue: undefined, used: true, configuration: true };

/**
 * Opens the device at a place, or returns undefined when there is none to drive: another magic value or version, or a
 * placeholder (`DeviceID` 0), after which no other register is accessed. Throws a RangeError or TypeError on a place or an option
 * that cannot be, and when the machine has no such interrupt line.
 */
export function openMmio(
  platform: DriverPlatform,
  place: MmioPlace,
  options: OpenMmioOptions = {},
): MmioDriverTransport | undefined {
  flagOptions("MMIO", options, ["legacy"]);
  wholeOption("MMIO: base", place.base, 0, Number.MAX_SAFE_INTEGER);
  wholeOption("MMIO: length", place.length, MMIO.Config, Number.MAX_SAFE_INTEGER - place.base);
  wholeOption("MMIO: line", place.line, 0, Number.MAX_SAFE_INTEGER);
  const window = new BusWindow(platform.bus, "memory", place.base, place.length);
  if (window.read(MMIO.MagicValue, 4) !== VIRTIO_MMIO_MAGIC_VALUE) return undefined;
  const version = window.read(MMIO.Version, 4);
  const legacy = version === VIRTIO_MMIO_VERSION_LEGACY && options.legacy !== false;
  if (version !== VIRTIO_MMIO_VERSION && !legacy) return undefined;
  const deviceId = window.read(MMIO.DeviceID, 4);
  if (deviceId === VIRTIO_MMIO_DEVICE_ID_NONE) return undefined;
  return new MmioDriverTransport(platform, place, window, { deviceId, legacy });
}

/** Driver side of "Virtio Over MMIO", version 2 and the legacy version 1. */
export class MmioDriverTransport implements DriverTransport {
  readonly deviceId: number;
  readonly name: string;
  readonly memory: DmaMemory;
  readonly legacy: boolean;
  readonly allowedFeatures: bigint;
  readonly legacyQueueAlign?: number;
  onNotification: ((notification: DeviceNotification) => void) | undefined;
  readonly #window: RegisterWindow;
  readonly #disconnect: () => void;
  readonly #loss: MachineLoss;
  #notificationData = false;

  constructor(
    platform: DriverPlatform,
    place: MmioPlace,
    window: RegisterWindow,
    device: { readonly deviceId: number; readonly legacy: boolean },
  ) {
    this.deviceId = device.deviceId;
    this.legacy = device.legacy;
    this.name = `mmio 0x${place.base.toString(16)}`;
    this.memory = platform.memory;
    this.#window = window;
    this.allowedFeatures = device.legacy ? LEGACY_FEATURES : MODERN_MMIO_FEATURES;
    if (device.legacy) {
      this.legacyQueueAlign = PAGE_SIZE;
      window.write(LEGACY.GuestPageSize, 4, PAGE_SIZE);
    }
    this.#loss = new MachineLoss(platform, () => this.onNotification?.(CONFIGURATION));
    try {
      this.#disconnect = platform.interrupts.connectLine(place.line, () => this.#interrupt());
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
    return this.#window.read(MMIO.Status, 4);
  }

  writeStatus(value: number): void {
    this.#window.write(MMIO.Status, 4, value);
    if (value === 0) this.#notificationData = false;
  }

  readDeviceFeatures(): bigint {
    return this.legacy
      ? BigInt(this.#readFeatures(0))
      : readFeatureWindows((window) => this.#readFeatures(window));
  }

  writeDriverFeatures(features: bigint): void {
    if (this.legacy)
      this.#writeFeatures(0, Number(withAnyLayout(features, this.readDeviceFeatures()) & 0xffff_ffffn));
    else writeFeatureWindows(features, (window, value) => this.#writeFeatures(window, value));
    this.#notificationData = hasFeature(features, VIRTIO_F_NOTIFICATION_DATA);
  }

  #readFeatures(window: number): number {
    this.#window.write(MMIO.DeviceFeaturesSel, 4, window);
    return this.#window.read(MMIO.DeviceFeatures, 4);
  }

  #writeFeatures(window: number, value: number): void {
    this.#window.write(MMIO.DriverFeaturesSel, 4, window);
    this.#window.write(MMIO.DriverFeatures, 4, value);
  }

  configGeneration(): number {
    return this.legacy ? 0 : this.#window.read(MMIO.ConfigGeneration, 4);
  }

  get configLength(): number {
    return this.#window.length - MMIO.Config;
  }

  readConfig(offset: number, target: Uint8Array): void {
    const read = this.legacy ? readStableConfigBytes : readConfigBytes;
    read(this.#window, MMIO.Config, offset, target);
  }

  writeConfig(offset: number, source: Uint8Array): void {
    writeConfigBytes(this.#window, MMIO.Config, offset, source);
  }

  /** 0 too when the virtqueue is in use already. */
  queueMaxSize(index: number): number {
    this.#select(index);
    if (this.#window.read(this.legacy ? LEGACY.QueuePFN : MMIO.QueueReady, 4) !== 0) return 0;
    const offered = this.#window.read(MMIO.QueueSizeMax, 4);
    return this.legacy ? Math.min(offered, LARGEST_LEGACY_QUEUE) : offered;
  }

  enableQueue(config: QueueConfig): void {
    const window = this.#window;
    this.#select(config.index);
    if (this.legacy) return this.#enableLegacy(config);
    window.write(MMIO.QueueSize, 4, config.size);
    for (const [low, high, area] of AREAS) {
      window.write(low, 4, config[area] % 2 ** 32);
      window.write(high, 4, Math.floor(config[area] / 2 ** 32));
    }
    window.write(MMIO.QueueReady, 4, 1);
  }

  async resetQueue(index: number, stop: () => Error | undefined = () => undefined): Promise<void> {
    if (this.legacy) throw new Error(`${this.name}: a legacy device cannot reset virtqueue ${index} alone`);
    this.#select(index);
    this.#window.write(MMIO.QueueReset, 4, 1);
    await untilDone(() => {
      checkAlive(this);
      this.#select(index);
      return (this.#window.read(MMIO.QueueReset, 4) | this.#window.read(MMIO.QueueReady, 4)) === 0;
    }, stop);
  }

  notify(index: number, data?: number): void {
    const value = this.#notificationData ? index + (data ?? 0) * 0x10000 : index;
    this.#window.write(MMIO.QueueNotify, 4, value);
  }

  /** The region with this id, or undefined. */
  sharedMemory(id: number): SharedMemoryRegion | undefined {
    if (this.legacy) return undefined;
    const window = this.#window;
    window.write(MMIO.SHMSel, 4, id);
    const high = window.read(MMIO.SHMLenHigh, 4);
    // Of a region that does not exist the length is -1; one beyond 2^53 is none that can be reached.
    if (high >= 2 ** 21) return undefined;
    const length = window.read(MMIO.SHMLenLow, 4) + high * 2 ** 32;
    const base = window.read(MMIO.SHMBaseLow, 4) + window.read(MMIO.SHMBaseHigh, 4) * 2 ** 32;
    return base + length < 2 ** 53 ? { id, address: base, length } : undefined;
  }

  close(): void {
    this.onNotification = undefined;
    this.#loss.close();
    this.#disconnect();
  }

  #enableLegacy(config: QueueConfig): void {
    const page = config.descriptorArea / PAGE_SIZE;
    if (!Number.isInteger(page) || page >= 2 ** 32) {
      throw new RangeError(
        `${this.name}: a legacy virtqueue cannot be at 0x${config.descriptorArea.toString(16)}`,
      );
    }
    this.#window.write(LEGACY.QueueSize, 4, config.size);
    this.#window.write(LEGACY.QueueAlign, 4, PAGE_SIZE);
    this.#window.write(LEGACY.QueuePFN, 4, page);
  }

  #select(index: number): void {
    this.#window.write(MMIO.QueueSel, 4, index);
  }

  /**
   * "After the interrupt is handled, the driver MUST acknowledge it". What the device does between the handling and the
   * acknowledgement sets a bit that the latter clears, so virtqueues and configuration are looked at once more.
   */
  #interrupt(): boolean {
    const events =
      this.#window.read(MMIO.InterruptStatus, 4) &
      (VIRTIO_MMIO_INTERRUPT_USED | VIRTIO_MMIO_INTERRUPT_CONFIG);
    if (events === 0) return false;
    const used = (events & VIRTIO_MMIO_INTERRUPT_USED) !== 0;
    const configuration = (events & VIRTIO_MMIO_INTERRUPT_CONFIG) !== 0;
    const generation = configuration ? this.configGeneration() : 0;
    this.onNotification?.(used ? (configuration ? BOTH : USED) : CONFIGURATION);
    this.#window.write(MMIO.InterruptACK, 4, events);
    if (used) {
      // A write may still be on its way, and the second look must come after it; a read cannot overtake it.
      this.#window.read(MMIO.InterruptStatus, 4);
      this.onNotification?.(USED);
    }
    if (configuration && this.configGeneration() !== generation) this.onNotification?.(CONFIGURATION);
    return true;
  }
}
