import { wholeOption } from "../check-option.ts";
import { PCI_DEVICE_ID, PCI_HEADER_TYPE, PCI_SUBSYSTEM_ID, PCI_VENDOR_ID } from "../bus/pci/registers.ts";
import {
  VIRTIO_PCI_DEVICE_ID_BASE,
  VIRTIO_PCI_DEVICE_ID_LAST,
  VIRTIO_PCI_TRANSITIONAL_DEVICE_IDS,
  VIRTIO_PCI_VENDOR_ID,
} from "../spec/pci.ts";
import { PciConfig } from "./pci-config.ts";
import type { PciAddress, PciConfigAccess } from "./platform.ts";

const LAST_BUS = 255;
const DEVICES = 32;
const FUNCTIONS = 8;
const MULTIFUNCTION = 0x80;
const HEADER_BRIDGE = 1;
const SECONDARY_BUS = 0x19;
const TRANSITIONAL_FIRST = 0x1000;

/** A virtio function that was found. */
export interface FoundPciFunction {
  readonly at: PciAddress;
  /** Virtio device id. */
  readonly deviceId: number;
  /** Its PCI Device ID is a transitional one: it may have a legacy interface. */
  readonly transitional: boolean;
}

/** All virtio functions on the buses that firmware numbered, from `bus` on, in order of their address. */
export function findVirtioFunctions(access: PciConfigAccess, bus: number = 0): readonly FoundPciFunction[] {
  wholeOption("PCI discovery: bus", bus, 0, LAST_BUS);
  const found: FoundPciFunction[] = [];
  const scanned = new Set<number>();
  const scan = (number: number): void => {
    // A bridge that leads back to a bus would make an endless walk.
    if (scanned.has(number)) return;
    scanned.add(number);
    for (let device = 0; device < DEVICES; device++) {
      const first = new PciConfig(access, { bus: number, device, function: 0 });
      const functions = (first.read(PCI_HEADER_TYPE, 1) & MULTIFUNCTION) !== 0 ? FUNCTIONS : 1;
      for (let fn = 0; fn < functions; fn++) {
        const config = new PciConfig(access, { bus: number, device, function: fn });
        if (config.read(PCI_VENDOR_ID, 2) === 0xffff) continue;
        if ((config.read(PCI_HEADER_TYPE, 1) & 0x7f) === HEADER_BRIDGE) scan(config.read(SECONDARY_BUS, 1));
        const virtio = identify(config);
        if (virtio !== undefined) found.push(virtio);
      }
    }
  };
  scan(bus);
  return found;
}

/**
 * "PCI Device Discovery": what a function is by vendor and device id, at any revision and subsystem; undefined when it
 * is no virtio function. In the transitional range outside the spec's table the subsystem id tells the type, as legacy
 * devices have it.
 */
export function identify(config: PciConfig): FoundPciFunction | undefined {
  const id = config.read(PCI_DEVICE_ID, 2);
  if (config.read(PCI_VENDOR_ID, 2) !== VIRTIO_PCI_VENDOR_ID) return undefined;
  if (id < TRANSITIONAL_FIRST || id > VIRTIO_PCI_DEVICE_ID_LAST) return undefined;
  const { at } = config;
  if (id >= VIRTIO_PCI_DEVICE_ID_BASE) {
    return { at, deviceId: id - VIRTIO_PCI_DEVICE_ID_BASE, transitional: false };
  }
  for (const [deviceId, transitionalId] of VIRTIO_PCI_TRANSITIONAL_DEVICE_IDS) {
    if (transitionalId === id) return { at, deviceId, transitional: true };
  }
  return { at, deviceId: config.read(PCI_SUBSYSTEM_ID, 2), transitional: true };
}
