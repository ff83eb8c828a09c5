import { deviceNode, memoryNode, pciHostNode } from "virtio/bus/fdt/describe";
import { fdtNode, type FdtTree } from "virtio/bus/fdt/tree";
import { virtioMmioNode } from "virtio/transport/mmio/device-tree";

const GIC = 1;
const spi = (number: number): { controller: number; cells: readonly number[] } => ({
  controller: GIC,
  cells: [0, number, 4],
});

export const MMIO_BASE = 0xa000000;
export const MMIO_STEP = 0x200;
export const ECAM = { base: 0x4010000000, length: 0x10000000 };

/** The tree of an ARM machine: a processor, a GIC, memory, `mmio` virtio windows and a PCI host. */
export function machineTree(mmio = 4): Pick<FdtTree, "root"> {
  const controller = deviceNode({
    name: "interrupt-controller",
    compatible: ["arm,cortex-a15-gic"],
    base: 0x8000000,
    length: 0x10000,
    properties: {
      "interrupt-controller": [],
      "#interrupt-cells": [3],
      "#address-cells": [0],
      phandle: [GIC],
    },
  });
  const devices = Array.from({ length: mmio }, (_, i) =>
    virtioMmioNode(MMIO_BASE + i * MMIO_STEP, MMIO_STEP, spi(16 + i)),
  );
  const host = pciHostNode({
    ecam: ECAM,
    windows: [
      { kind: "io", pci: 0, base: 0x3eff0000, length: 0x10000 },
      { kind: "memory32", pci: 0x10000000, base: 0x10000000, length: 0x2eff0000 },
      { kind: "memory64", pci: 0x8000000000, base: 0x8000000000, length: 0x8000000000, prefetchable: true },
    ],
    interrupt: (device, pin) => spi(3 + ((device + pin - 1) % 4)),
  });
  const cpus = fdtNode("cpus", { "#address-cells": [1], "#size-cells": [0] }, [
    fdtNode("cpu@0", { device_type: "cpu", compatible: "arm,cortex-a15", reg: [0] }),
  ]);
  const properties = {
    compatible: "example,machine",
    model: "example",
    "#address-cells": [2],
    "#size-cells": [2],
    "interrupt-parent": [GIC],
  };
  return {
    root: fdtNode("", properties, [cpus, memoryNode(0x40000000, 0x8000000), controller, ...devices, host]),
  };
}
