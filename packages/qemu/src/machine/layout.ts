import type { MmioPlace } from "virtio/driver/mmio-transport";
import type { AddressWindow } from "virtio/driver/pci-bars";
import type { BusAccess, PciConfigAccess } from "virtio/driver/platform";

/** An interrupt controller whose inputs are heard. */
export interface ControllerLayout {
  /** QOM path. */
  readonly path: string;
}

/** The PCI host of a machine. Addresses of memory are the same on the bus and for the processor. */
export interface PciHostLayout {
  readonly config: PciConfigAccess;
  readonly firstBus: number;
  /** Where BARs may go. */
  readonly memory: AddressWindow;
  readonly io: AddressWindow | undefined;
  /** The line that a pin (1 to 4) of a device on the first bus is wired to. */
  line(device: number, pin: number): number;
}

/** What a machine has, and where. */
export interface MachineLayout {
  readonly pci: PciHostLayout | undefined;
  /** Windows of virtio registers; whether there is a device in one only it can say. */
  readonly mmio: readonly MmioPlace[];
  readonly controller: ControllerLayout | undefined;
  /** Lines whose input is not heard: their devices are asked. */
  readonly unheard: ReadonlySet<number>;
}

/** Where the ports of a machine are: the processor's own, or a window in memory. */
export type PortSpace = "processor" | { readonly base: number };

/** What a layout is found with. */
export interface LayoutParts {
  /** QOM type, `versatilepb-machine`. */
  readonly type: string;
  readonly bus: BusAccess;
  /** The device tree blob that QEMU made for the machine, if it did. */
  readonly deviceTree: Uint8Array | undefined;
  readonly objects: readonly { readonly path: string; readonly type: string }[];
  /** From now on ports are there. */
  setPorts(space: PortSpace): void;
}
