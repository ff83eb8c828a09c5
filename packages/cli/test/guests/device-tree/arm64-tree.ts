import { deviceNode, memoryNode, pciHostNode, type InterruptSpecifier } from "virtio/bus/fdt/describe";
import { fdtNode, type FdtNode } from "virtio/bus/fdt/tree";
import { virtioMmioNode } from "virtio/transport/mmio/device-tree";

const GIC = 1;
const CLOCK = 2;
const SHARED = 0;
const PRIVATE = 1;
const LEVEL_HIGH = 4;

/** Of QEMU's `virt` for arm64, with highmem=off. */
const MMIO = { base: 0xa000000, length: 0x200, firstInterrupt: 16 };
const PCI_FIRST_INTERRUPT = 3;

const shared = (number: number): InterruptSpecifier => ({
  controller: GIC,
  cells: [SHARED, number, LEVEL_HIGH],
});

/** What a kernel needs to know of QEMU's `virt` (`highmem=off`) with these slots for virtio-mmio, in our own words. */
export function arm64Tree(memory: number, slots: readonly number[]): FdtNode {
  const properties = {
    compatible: "linux,dummy-virt",
    "#address-cells": [2],
    "#size-cells": [2],
    "interrupt-parent": [GIC],
  };
  const cpu = fdtNode("cpu@0", {
    device_type: "cpu",
    compatible: "arm,cortex-a57",
    reg: [0],
    "enable-method": "psci",
  });
  const timers = [13, 14, 11, 10].flatMap((number) => [PRIVATE, number, 0x104]);
  return fdtNode("", properties, [
    fdtNode("chosen", { "stdout-path": "/serial@9000000" }),
    fdtNode("psci", { compatible: ["arm,psci-1.0", "arm,psci-0.2"], method: "hvc" }),
    fdtNode("cpus", { "#address-cells": [1], "#size-cells": [0] }, [cpu]),
    memoryNode(0x40000000, memory),
    fdtNode("timer", { compatible: "arm,armv8-timer", interrupts: timers, "always-on": [] }),
    fdtNode("clock", {
      compatible: "fixed-clock",
      "#clock-cells": [0],
      "clock-frequency": [24_000_000],
      phandle: [CLOCK],
    }),
    fdtNode("interrupt-controller@8000000", {
      compatible: "arm,cortex-a15-gic",
      "interrupt-controller": [],
      "#interrupt-cells": [3],
      "#address-cells": [0],
      reg: [0, 0x8000000, 0, 0x10000, 0, 0x8010000, 0, 0x10000],
      phandle: [GIC],
    }),
    deviceNode({
      name: "serial",
      compatible: ["arm,pl011", "arm,primecell"],
      base: 0x9000000,
      length: 0x1000,
      interrupt: shared(1),
      properties: { clocks: [CLOCK, CLOCK], "clock-names": ["uartclk", "apb_pclk"] },
    }),
    ...slots.map((slot) =>
      virtioMmioNode(MMIO.base + slot * MMIO.length, MMIO.length, shared(MMIO.firstInterrupt + slot)),
    ),
    pciHostNode({
      ecam: { base: 0x3f000000, length: 0x1000000 },
      windows: [
        { kind: "io", pci: 0, base: 0x3eff0000, length: 0x10000 },
        { kind: "memory32", pci: 0x10000000, base: 0x10000000, length: 0x2eff0000 },
      ],
      interrupt: (device, pin) => shared(PCI_FIRST_INTERRUPT + ((device + pin - 1) % 4)),
    }),
  ]);
}
