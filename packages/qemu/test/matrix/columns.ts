import { VIRTIO_F_ACCESS_PLATFORM, VIRTIO_F_RING_PACKED, VIRTIO_F_VERSION_1 } from "virtio/spec/core";
import type { OpenPciOptions } from "virtio/driver/pci-open";

/** A way for a driver to meet a device. */
export interface Column {
  readonly name: string;
  readonly bus: "pci" | "mmio";
  /** What follows the device's name on the command line: `-pci,packed=on`. */
  readonly device: string;
  /** The same for a device whose type was born after the legacy interface; absent when there is no such kind of it. */
  readonly modernDevice?: string;
  /** Of the virtio-mmio slots of the whole machine. */
  readonly forceLegacy?: boolean;
  readonly open: OpenPciOptions;
  /** Of the transport. */
  readonly legacy: boolean;
  /** Bits that must have been negotiated. */
  readonly negotiated: readonly number[];
}

const MODERN = [VIRTIO_F_VERSION_1];
const PLATFORM = [VIRTIO_F_VERSION_1, VIRTIO_F_ACCESS_PLATFORM];
const PACKED = [VIRTIO_F_VERSION_1, VIRTIO_F_RING_PACKED];

export const COLUMNS: readonly Column[] = [
  { ...pci("modern", "-pci-non-transitional", "modern", MODERN), modernDevice: "-pci" },
  {
    ...pci("plain", "-pci-non-transitional,event_idx=off,indirect_desc=off", "modern", MODERN),
    modernDevice: "-pci,event_idx=off,indirect_desc=off",
  },
  { ...pci("packed", "-pci,disable-legacy=on,packed=on", "modern", PACKED), modernDevice: "-pci,packed=on" },
  {
    ...pci("iommu_platform", "-pci-non-transitional,iommu_platform=on", "modern", PLATFORM),
    modernDevice: "-pci,iommu_platform=on",
  },
  pci("transitional, modern", "-pci-transitional", "modern", MODERN),
  pci("transitional, legacy", "-pci-transitional", "legacy", []),
  pci("legacy", "-pci,disable-modern=on,disable-legacy=off", "legacy", []),
  mmio("modern", "-device", false, MODERN),
  mmio("packed", "-device,packed=on", false, PACKED),
  mmio("legacy", "-device", true, []),
];

function pci(
  name: string,
  device: string,
  wanted: "modern" | "legacy",
  negotiated: readonly number[],
): Column {
  const legacy = wanted === "legacy";
  return { name: `pci ${name}`, bus: "pci", device, open: { interface: wanted }, legacy, negotiated };
}

function mmio(name: string, device: string, forceLegacy: boolean, negotiated: readonly number[]): Column {
  return {
    name: `mmio ${name}`,
    bus: "mmio",
    device,
    forceLegacy,
    open: {},
    legacy: forceLegacy,
    negotiated,
  };
}
