import { VIRTIO_PCI_COMMON_CFG_SIZE } from "../../spec/pci.ts";
import type { VirtioPciBarKind } from "./options.ts";

/** Indexes of the BARs, the same as QEMU's. */
export const LEGACY_BAR = 0;
export const MSIX_BAR = 1;
export const SHARED_MEMORY_BAR = 2;
export const MODERN_BAR = 4;

/** Where the virtio structures are in the modern BAR: offsets and lengths in bytes. */
export interface ModernLayout {
  readonly common: number;
  readonly commonLength: number;
  readonly isr: number;
  readonly isrLength: number;
  readonly device: number;
  /** 0: the device type has no device-specific configuration. */
  readonly deviceLength: number;
  readonly notify: number;
  readonly notifyLength: number;
  readonly notifyMultiplier: number;
  /** Bytes of the BAR: a power of two. */
  readonly size: number;
}

/** A structure a page, so that a hypervisor can give each its own treatment. */
const PAGE = 4096;
/** One dword a virtqueue, which also carries VIRTIO_F_NOTIFICATION_DATA. */
const NOTIFY_MULTIPLIER = 4;
const NOTIFY_SHIFT = 2;

/**
 * Memory: a page for each structure, the notify structure last because it grows with the number of virtqueues.
 * I/O: all in 256 ports if possible, with one notify address for all virtqueues.
 */
export function modernLayout(
  kind: VirtioPciBarKind,
  configLength: number,
  queues: number,
  minimumSize: number,
): ModernLayout {
  const common = { common: 0, commonLength: VIRTIO_PCI_COMMON_CFG_SIZE, isrLength: 1 };
  if (kind === "io") {
    const device = 0x80;
    const size = Math.max(256, powerOfTwo(device + configLength));
    return {
      ...common,
      isr: 0x40,
      notify: 0x44,
      notifyLength: 4,
      notifyMultiplier: 0,
      device,
      deviceLength: configLength === 0 ? 0 : size - device,
      size,
    };
  }
  const deviceLength = Math.ceil(configLength / PAGE) * PAGE;
  const notify = 2 * PAGE + deviceLength;
  const notifyLength = Math.max(queues, 1) * NOTIFY_MULTIPLIER;
  return {
    ...common,
    isr: PAGE,
    device: 2 * PAGE,
    deviceLength,
    notify,
    notifyLength,
    notifyMultiplier: NOTIFY_MULTIPLIER,
    size: Math.max(powerOfTwo(notify + notifyLength), powerOfTwo(minimumSize)),
  };
}

/** Virtqueue that a byte offset in the notify structure stands for, or -1. */
export function queueAt(offset: number): number {
  return (offset & (NOTIFY_MULTIPLIER - 1)) === 0 ? offset >>> NOTIFY_SHIFT : -1;
}

/** The smallest power of two that is not below `value`. */
export function powerOfTwo(value: number): number {
  let size = 1;
  while (size < value) size *= 2;
  return size;
}
