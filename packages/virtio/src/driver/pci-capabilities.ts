import {
  PCI_CAPABILITIES,
  PCI_CAP_ID_MSIX,
  PCI_CAP_ID_VENDOR,
  PCI_CONFIG_SIZE,
  PCI_HEADER_SIZE,
  PCI_MSIX_CAP_SIZE,
  PCI_MSIX_CONTROL,
  PCI_MSIX_CONTROL_SIZE_MASK,
  PCI_MSIX_TABLE,
  PCI_BAR_COUNT,
  PCI_STATUS,
  PCI_STATUS_CAPABILITIES,
} from "../bus/pci/registers.ts";
import {
  VIRTIO_PCI_CAP,
  VIRTIO_PCI_CAP64,
  VIRTIO_PCI_CAP64_SIZE,
  VIRTIO_PCI_CAP_COMMON_CFG,
  VIRTIO_PCI_CAP_DEVICE_CFG,
  VIRTIO_PCI_CAP_ISR_CFG,
  VIRTIO_PCI_CAP_NOTIFY_CFG,
  VIRTIO_PCI_CAP_PCI_CFG,
  VIRTIO_PCI_CAP_SHARED_MEMORY_CFG,
  VIRTIO_PCI_CAP_SIZE,
  VIRTIO_PCI_CAP_VENDOR_CFG,
  VIRTIO_PCI_CFG_CAP_SIZE,
  VIRTIO_PCI_NOTIFY_CAP,
  VIRTIO_PCI_NOTIFY_CAP_SIZE,
  VIRTIO_PCI_VNDR_DATA,
  VIRTIO_PCI_VNDR_DATA_SIZE,
} from "../spec/pci.ts";
import type { PciConfig } from "./pci-config.ts";

/** Where a virtio structure is. Nothing in it is checked against the BAR yet. */
export interface VirtioStructure {
  /** `cfg_type`. */
  readonly type: number;
  /** 0 to 5. */
  readonly bar: number;
  readonly id: number;
  /** Bytes from the start of the BAR. */
  readonly offset: number;
  readonly length: number;
  /** Of the notify structure; 0 in others. */
  readonly notifyMultiplier: number;
  /** Offset of the capability in configuration space. */
  readonly capability: number;
}

/** "Vendor data capability": for debugging and reporting only; look at `vendorId` first. */
export interface VendorData {
  readonly vendorId: number;
  readonly data: Uint8Array;
}

export interface MsixCapability {
  readonly capability: number;
  /** Vectors. */
  readonly size: number;
  readonly bar: number;
  /** Of the table, from the start of the BAR. */
  readonly offset: number;
}

/** What the capability list of a function says; the list is not trusted. */
export interface VirtioCapabilities {
  /** In order of the list, which is the device's order of preference. */
  readonly structures: readonly VirtioStructure[];
  readonly vendorData: readonly VendorData[];
  readonly msix: MsixCapability | undefined;
}

/** As many as fit: a longer list is a loop. */
const MAX_CAPABILITIES = (PCI_CONFIG_SIZE - PCI_HEADER_SIZE) / 4;

/** Bytes that a capability of a type must have; more is accepted ("The driver MUST accept a larger cap_len"). */
const SIZES: ReadonlyMap<number, number> = new Map([
  [VIRTIO_PCI_CAP_COMMON_CFG, VIRTIO_PCI_CAP_SIZE],
  [VIRTIO_PCI_CAP_NOTIFY_CFG, VIRTIO_PCI_NOTIFY_CAP_SIZE],
  [VIRTIO_PCI_CAP_ISR_CFG, VIRTIO_PCI_CAP_SIZE],
  [VIRTIO_PCI_CAP_DEVICE_CFG, VIRTIO_PCI_CAP_SIZE],
  [VIRTIO_PCI_CAP_PCI_CFG, VIRTIO_PCI_CFG_CAP_SIZE],
  [VIRTIO_PCI_CAP_SHARED_MEMORY_CFG, VIRTIO_PCI_CAP64_SIZE],
]);

/** Walks the capability list. Loops, reserved types, reserved BARs and lengths that cannot be are passed over. */
export function readCapabilities(config: PciConfig): VirtioCapabilities {
  const structures: VirtioStructure[] = [];
  const vendorData: VendorData[] = [];
  let msix: MsixCapability | undefined;
  for (const at of capabilityOffsets(config)) {
    const id = config.read(at, 1);
    if (id === PCI_CAP_ID_MSIX && at + PCI_MSIX_CAP_SIZE <= PCI_CONFIG_SIZE) msix ??= readMsix(config, at);
    if (id !== PCI_CAP_ID_VENDOR) continue;
    const length = config.read(at + VIRTIO_PCI_CAP.cap_len, 1);
    if (at + length > PCI_CONFIG_SIZE) continue;
    const type = config.read(at + VIRTIO_PCI_CAP.cfg_type, 1);
    if (type === VIRTIO_PCI_CAP_VENDOR_CFG) {
      const vendor = readVendorData(config, at, length);
      if (vendor !== undefined) vendorData.push(vendor);
    } else if (length >= (SIZES.get(type) ?? Infinity)) {
      const structure = readStructure(config, at, type);
      if (structure !== undefined) structures.push(structure);
    }
  }
  return { structures, vendorData, msix };
}

function* capabilityOffsets(config: PciConfig): Generator<number> {
  if ((config.read(PCI_STATUS, 2) & PCI_STATUS_CAPABILITIES) === 0) return;
  let at = config.read(PCI_CAPABILITIES, 1) & 0xfc;
  for (let count = 0; count < MAX_CAPABILITIES && at >= PCI_HEADER_SIZE; count++) {
    yield at;
    at = config.read(at + 1, 1) & 0xfc;
  }
}

function readStructure(config: PciConfig, at: number, type: number): VirtioStructure | undefined {
  const bar = config.read(at + VIRTIO_PCI_CAP.bar, 1);
  if (bar >= PCI_BAR_COUNT && type !== VIRTIO_PCI_CAP_PCI_CFG) return undefined;
  const wide = type === VIRTIO_PCI_CAP_SHARED_MEMORY_CFG;
  const high = (field: number): number => (wide ? config.read(at + field, 4) * 2 ** 32 : 0);
  return {
    type,
    bar,
    id: config.read(at + VIRTIO_PCI_CAP.id, 1),
    offset: config.read(at + VIRTIO_PCI_CAP.offset, 4) + high(VIRTIO_PCI_CAP64.offset_hi),
    length: config.read(at + VIRTIO_PCI_CAP.length, 4) + high(VIRTIO_PCI_CAP64.length_hi),
    notifyMultiplier:
      type === VIRTIO_PCI_CAP_NOTIFY_CFG
        ? config.read(at + VIRTIO_PCI_NOTIFY_CAP.notify_off_multiplier, 4)
        : 0,
    capability: at,
  };
}

function readVendorData(config: PciConfig, at: number, length: number): VendorData | undefined {
  if (length < VIRTIO_PCI_VNDR_DATA_SIZE) return undefined;
  const data = new Uint8Array(length - VIRTIO_PCI_VNDR_DATA_SIZE);
  for (let i = 0; i < data.length; i++) data[i] = config.read(at + VIRTIO_PCI_VNDR_DATA_SIZE + i, 1);
  return { vendorId: config.read(at + VIRTIO_PCI_VNDR_DATA.vendor_id, 2), data };
}

function readMsix(config: PciConfig, at: number): MsixCapability | undefined {
  const table = config.read(at + PCI_MSIX_TABLE, 4);
  if ((table & 7) >= PCI_BAR_COUNT) return undefined;
  const size = (config.read(at + PCI_MSIX_CONTROL, 2) & PCI_MSIX_CONTROL_SIZE_MASK) + 1;
  return { capability: at, size, bar: table & 7, offset: (table & ~7) >>> 0 };
}
