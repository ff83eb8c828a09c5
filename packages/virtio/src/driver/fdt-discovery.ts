import { cellsOf, isEnabled, type FdtNode } from "../bus/fdt/tree.ts";
import { number, type FdtIndex, type FdtInterrupt, type FdtRange } from "../bus/fdt/fdt-index.ts";
import type { AddressWindow } from "./pci-bars.ts";

/** A window of virtio registers that a device tree names. */
export interface FdtMmioPlace extends FdtRange {
  readonly interrupt: FdtInterrupt | undefined;
  readonly node: FdtNode;
}

/** A window through which the processor reaches addresses of a PCI bus. */
export interface FdtPciWindow {
  readonly space: "io" | "memory";
  /** Addresses on the bus, as a BAR has them. */
  readonly pci: AddressWindow;
  /** Where the processor sees the first of them. */
  readonly base: number;
  /** Only for 64-bit BARs. */
  readonly wide: boolean;
  readonly prefetchable: boolean;
}

/** A PCI host with an enhanced configuration window (ECAM). */
export interface FdtPciHost {
  readonly ecam: FdtRange;
  /** Number of its first bus. */
  readonly firstBus: number;
  readonly lastBus: number;
  readonly windows: readonly FdtPciWindow[];
  readonly node: FdtNode;
  /** What a pin (1 to 4) of a device on the first bus is wired to. */
  interrupt(device: number, pin: number): FdtInterrupt | undefined;
}

/** "MMIO Device Discovery": every enabled `virtio,mmio` node, by address. Throws an FdtError on a tree that is not consistent. */
export function findMmioPlaces(index: FdtIndex): readonly FdtMmioPlace[] {
  return index
    .compatible("virtio,mmio")
    .filter(isEnabled)
    .flatMap((node) => {
      const registers = index.registers(node)[0];
      return registers === undefined ? [] : [{ ...registers, interrupt: index.interrupt(node), node }];
    })
    .sort((a, b) => a.base - b.base);
}

/** Cells of an entry of `ranges`: three of the PCI address, two of the length; between them the processor's. */
const PCI_CELLS = 3;
const LENGTH_CELLS = 2;
const PREFETCHABLE = 0x40000000;
const SPACE_IO = 1;
const SPACE_MEMORY64 = 3;
const LAST_BUS = 255;

/** Every enabled `pci-host-ecam-generic` node. Throws an FdtError on a tree that is not consistent. */
export function findPciHosts(index: FdtIndex): readonly FdtPciHost[] {
  return index
    .compatible("pci-host-ecam-generic")
    .filter(isEnabled)
    .flatMap((node) => {
      const ecam = index.registers(node)[0];
      if (ecam === undefined) return [];
      const buses = cellsOf(node, "bus-range");
      return [
        {
          ecam,
          firstBus: buses[0] ?? 0,
          lastBus: Math.min(buses[1] ?? LAST_BUS, LAST_BUS),
          windows: pciWindows(index, node),
          node,
          interrupt: (device: number, pin: number) => index.mapped(node, [device * 0x800, 0, 0], [pin]),
        },
      ];
    });
}

function pciWindows(index: FdtIndex, node: FdtNode): readonly FdtPciWindow[] {
  const cells = cellsOf(node, "ranges");
  const parent = index.addressCells(node);
  const step = PCI_CELLS + parent + LENGTH_CELLS;
  const windows: FdtPciWindow[] = [];
  for (let at = 0; at + step <= cells.length && windows.length < MAX_WINDOWS; at += step) {
    const type = cells[at] ?? 0;
    const space = (type >>> 24) & 3;
    // 0 is configuration space, which the ECAM has.
    if (space === 0) continue;
    const length = number(cells, at + PCI_CELLS + parent, LENGTH_CELLS);
    windows.push({
      space: space === SPACE_IO ? "io" : "memory",
      pci: { base: number(cells, at + 1, 2), length },
      base: index.toProcessor(node, number(cells, at + PCI_CELLS, parent), length),
      wide: space === SPACE_MEMORY64,
      prefetchable: (type & PREFETCHABLE) !== 0,
    });
  }
  return windows;
}

/** Real hosts have three. */
const MAX_WINDOWS = 64;
