/** Nodes that most machines have, in the words of the Devicetree Specification and of the PCI bus binding. */
import { fdtNode, wide, type FdtNode, type FdtValue } from "./tree.ts";

/** How a device asks its controller for an interrupt. */
export interface InterruptSpecifier {
  /** Phandle of the controller, which has no address cells of its own. */
  readonly controller: number;
  readonly cells: readonly number[];
}

/** A device with one block of registers and at most one interrupt. Its bus has two address cells and two size cells. */
export interface DeviceDescription {
  /** Generic name: `virtio_mmio`, `serial`. */
  readonly name: string;
  readonly compatible: readonly string[];
  readonly base: number;
  /** Bytes. */
  readonly length: number;
  readonly interrupt?: InterruptSpecifier;
  /** Further properties. */
  readonly properties?: Readonly<Record<string, FdtValue>>;
}

export function deviceNode(device: DeviceDescription): FdtNode {
  const { name, compatible, base, length, interrupt, properties } = device;
  return fdtNode(`${name}@${base.toString(16)}`, {
    compatible,
    reg: [...wide(base), ...wide(length)],
    ...(interrupt === undefined
      ? {}
      : { "interrupt-parent": [interrupt.controller], interrupts: interrupt.cells }),
    ...properties,
  });
}

/** Main memory from `base` on. */
export function memoryNode(base: number, length: number): FdtNode {
  return fdtNode(`memory@${base.toString(16)}`, {
    device_type: "memory",
    reg: [...wide(base), ...wide(length)],
  });
}

/** A window through which the processor reaches addresses of the PCI bus. */
export interface PciWindowDescription {
  readonly kind: "io" | "memory32" | "memory64";
  /** Address on the PCI bus. */
  readonly pci: number;
  /** Address of the processor. */
  readonly base: number;
  /** Bytes. */
  readonly length: number;
  readonly prefetchable?: boolean;
}

export interface PciHostDescription {
  /** The enhanced configuration window: 1 MiB for each bus, the first of which is bus 0. */
  readonly ecam: { readonly base: number; readonly length: number };
  readonly windows: readonly PciWindowDescription[];
  /** What pin 1 to 4 (INTA# to INTD#) of a device is wired to; it repeats every four devices. */
  interrupt(device: number, pin: number): InterruptSpecifier;
  /** Phandle of what messages are sent to. */
  readonly messages?: number;
}

const ECAM_BUS = 0x100000;
const PINS = [1, 2, 3, 4];
/** Device numbers modulo 4 and the pin. */
const INTERRUPT_MASK = [0x1800, 0, 0, 7];
const RANGE_TYPE = { io: 0x01000000, memory32: 0x02000000, memory64: 0x03000000 } as const;
const RANGE_PREFETCHABLE = 0x40000000;

/** "PCI Bus Binding to Open Firmware": the node of a host bridge with an enhanced configuration window. */
export function pciHostNode(host: PciHostDescription): FdtNode {
  const { ecam, windows, messages } = host;
  const buses = Math.max(1, Math.floor(ecam.length / ECAM_BUS));
  const map = [0, 1, 2, 3].flatMap((device) =>
    PINS.flatMap((pin) => {
      const { controller, cells } = host.interrupt(device, pin);
      return [device * 0x800, 0, 0, pin, controller, ...cells];
    }),
  );
  return fdtNode(`pcie@${ecam.base.toString(16)}`, {
    compatible: "pci-host-ecam-generic",
    device_type: "pci",
    "#address-cells": [3],
    "#size-cells": [2],
    "#interrupt-cells": [1],
    "linux,pci-domain": [0],
    "bus-range": [0, buses - 1],
    "dma-coherent": [],
    reg: [...wide(ecam.base), ...wide(ecam.length)],
    ranges: windows.flatMap(({ kind, pci, base, length, prefetchable }) => {
      const type = RANGE_TYPE[kind] + (prefetchable === true ? RANGE_PREFETCHABLE : 0);
      return [type, ...wide(pci), ...wide(base), ...wide(length)];
    }),
    "interrupt-map-mask": INTERRUPT_MASK,
    "interrupt-map": map,
    ...(messages === undefined ? {} : { "msi-parent": [messages] }),
  });
}
