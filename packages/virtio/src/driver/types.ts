import type { Gpa, GuestMemory } from "../memory/guest-memory.ts";
import type { QueueConfig } from "../virtqueue/types.ts";

/** Memory that a driver and its device share, with an allocator. Its addresses are the device's, behind an IOMMU too. */
export interface DmaMemory extends GuestMemory {
  /** `length` zeroed bytes at a multiple of `alignment` (a power of two). Throws when there is no room. */
  allocate(length: number, alignment: number): Gpa;
  free(gpa: Gpa, length: number): void;
}

/** Driver side of a transport: the registers of one device, whatever carries them. */
export interface DriverTransport {
  /** Virtio device id. */
  readonly deviceId: number;
  /** For people: `pci 00:05.0`, `mmio 0xfea00000`. */
  readonly name: string;
  readonly memory: DmaMemory;
  /** The interface is the legacy one: 32 feature bits, no FEATURES_OK, legacy ring layout. */
  readonly legacy: boolean;
  /** Feature bits of the transport and ring that this transport can carry; others must not be accepted. */
  readonly allowedFeatures: bigint;
  readStatus(): number;
  /** 0 is a reset; it is complete when `readStatus` says 0. */
  writeStatus(value: number): void;
  readDeviceFeatures(): bigint;
  writeDriverFeatures(features: bigint): void;
  /** Always 0 on a legacy device. */
  configGeneration(): number;
  /** Bytes of configuration space that can be reached, or undefined when the transport does not say. */
  readonly configLength: number | undefined;
  readConfig(offset: number, target: Uint8Array): void;
  writeConfig(offset: number, source: Uint8Array): void;
  /** Largest Queue Size the device offers; 0: no such virtqueue. */
  queueMaxSize(index: number): number;
  /** Legacy only: the device dictates the size and the areas are one block of this alignment. */
  readonly legacyQueueAlign?: number;
  enableQueue(config: QueueConfig): void;
  /**
   * VIRTIO_F_RING_RESET; resolves when the device says that it is done, however long that takes. Rejects when the device cannot do
   * it any more, and with the error that `stop` returns, which says that nobody waits for it.
   */
  resetQueue(index: number, stop?: () => Error | undefined): Promise<void>;
  /** `data` as `DriverQueue.notificationData`, when VIRTIO_F_NOTIFICATION_DATA was negotiated. */
  notify(index: number, data?: number): void;
  /** Called on each notification from the device; a shared interrupt cannot tell which queue. */
  onNotification: ((notification: DeviceNotification) => void) | undefined;
  /**
   * After a look at a virtqueue in which used buffers were found, or not. True: another notification will come soon, without the device's
   * doing, and it need not send one until this says false. Absent: never.
   */
  looksAgain?(queue: number, found: boolean): boolean;
  /** Why the device asks for a reset, or cannot be reached at all; where a transport knows it. */
  readonly failure?: Error | undefined;
  /** Gives interrupts and connections back; does nothing the second time. */
  close?(): void;
}

export interface DeviceNotification {
  /** Virtqueue index, or undefined when any may have used buffers. Only meaningful when `used`. */
  readonly queue: number | undefined;
  readonly used: boolean;
  readonly configuration: boolean;
}
