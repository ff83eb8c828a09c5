import type { PciIdentity } from "../../bus/pci/function.ts";
import type { IoHandler } from "../../bus/types.ts";
import { PCI_MSIX_MAX_VECTORS } from "../../bus/pci/registers.ts";
import { choiceOption, wholeOption, wholeOptions } from "../../check-option.ts";
import type { DeviceInstance } from "../../device/instance.ts";
import {
  VIRTIO_PCI_DEVICE_ID_BASE,
  VIRTIO_PCI_TRANSITIONAL_DEVICE_IDS,
  VIRTIO_PCI_VENDOR_ID,
} from "../../spec/pci.ts";

/** Which interfaces a function has: the current one, the legacy one in an I/O BAR 0, or both. */
export type VirtioPciMode = "modern" | "transitional" | "legacy";

export type VirtioPciBarKind = "io" | "memory32" | "memory64";

/** "Shared Memory Regions" */
export interface PciSharedMemory {
  /** The device type's `shmid`, 0 to 255. */
  readonly id: number;
  /** Bytes; takes the next power of two, at least 4096, in BAR 2. */
  readonly length: number;
  readonly handler: IoHandler;
}

/** "Vendor data capability" */
export interface PciVendorData {
  /** Assigned by the PCI-SIG; not 0x1af4. */
  readonly vendorId: number;
  /** What follows the vendor id; filled up with zeroes to whole dwords. */
  readonly data: Uint8Array;
}

export interface VirtioPciOptions {
  /** Default `modern`. */
  readonly mode?: VirtioPciMode;
  /** MSI-X vectors, up to 2048; 0 for a function without MSI-X. Default: one a virtqueue and one for configuration changes. */
  readonly msixVectors?: number;
  /** The kind of BAR 4, which holds the virtio structures. Default `memory64`. */
  readonly modernBar?: VirtioPciBarKind;
  /** Smallest size of each memory BAR, in bytes up to 2^31, for machines that decode in coarse steps. Default 0. */
  readonly minimumBarSize?: number;
  /** PCI Revision ID, 8 bits. Default 1, and always 0 for a transitional or legacy function. */
  readonly revision?: number;
  /** 16 bits. Default 0x1af4. */
  readonly subsystemVendorId?: number;
  /** 16 bits. Default 0x1100, as QEMU's; always the virtio device id for a transitional or legacy function. */
  readonly subsystemId?: number;
  /** 24 bits. Default: what the device type says, else 0xff0000. */
  readonly classCode?: number;
  readonly sharedMemory?: readonly PciSharedMemory[];
  readonly vendorData?: readonly PciVendorData[];
  /**
   * `queue_notif_config_data` of a virtqueue, 16 bits, different for each. Default: its index. Only used when
   * VIRTIO_F_NOTIF_CONFIG_DATA is negotiated.
   */
  readonly notifConfigData?: (queue: number) => number;
}

/** Bytes: 32-bit BARs end there. */
const LARGEST_BAR = 2 ** 31;
const DEFAULT_SUBSYSTEM_ID = 0x1100;
const DEFAULT_CLASS = 0xff0000;
const MODES: readonly VirtioPciMode[] = ["modern", "transitional", "legacy"];
const BAR_KINDS: readonly VirtioPciBarKind[] = ["io", "memory32", "memory64"];
const RANGES = {
  revision: [0, 0xff],
  subsystemVendorId: [0, 0xffff],
  subsystemId: [0, 0xffff],
  classCode: [0, 0xff_ffff],
  minimumBarSize: [0, LARGEST_BAR],
} as const;

/** The identity in the configuration header: "PCI Device Discovery" and its legacy note. Throws a RangeError. */
export function identity(instance: DeviceInstance, options: VirtioPciOptions): PciIdentity {
  wholeOptions("PCI", options, RANGES);
  if (options.mode !== undefined) choiceOption("PCI: mode", options.mode, MODES);
  if (options.modernBar !== undefined) choiceOption("PCI: modernBar", options.modernBar, BAR_KINDS);
  const type = instance.device.id;
  const common = {
    vendorId: VIRTIO_PCI_VENDOR_ID,
    classCode: options.classCode ?? instance.device.pciClass ?? DEFAULT_CLASS,
    subsystemVendorId: options.subsystemVendorId ?? VIRTIO_PCI_VENDOR_ID,
    interruptPin: 1,
  } as const;
  if ((options.mode ?? "modern") === "modern") {
    return {
      ...common,
      deviceId: VIRTIO_PCI_DEVICE_ID_BASE + type,
      revision: options.revision ?? 1,
      subsystemId: options.subsystemId ?? DEFAULT_SUBSYSTEM_ID,
    };
  }
  const deviceId = VIRTIO_PCI_TRANSITIONAL_DEVICE_IDS.get(type);
  if (deviceId === undefined) {
    throw new RangeError(`a device of type ${instance.device.name} has no legacy PCI interface`);
  }
  return { ...common, deviceId, revision: 0, subsystemId: type };
}

/** Number of MSI-X vectors. Throws a RangeError on one that PCI does not allow. */
export function msixVectors(instance: DeviceInstance, options: VirtioPciOptions): number {
  const vectors = options.msixVectors ?? Math.min(instance.queueCount + 1, PCI_MSIX_MAX_VECTORS);
  return wholeOption("PCI: msixVectors", vectors, 0, PCI_MSIX_MAX_VECTORS);
}
