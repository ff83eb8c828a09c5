import { deviceNode, type InterruptSpecifier } from "../../bus/fdt/describe.ts";
import type { FdtNode } from "../../bus/fdt/tree.ts";

/** "MMIO Device Discovery": the device tree node of a window of virtio registers. */
export function virtioMmioNode(base: number, length: number, interrupt: InterruptSpecifier): FdtNode {
  return deviceNode({
    name: "virtio_mmio",
    compatible: ["virtio,mmio"],
    base,
    length,
    interrupt,
    properties: { "dma-coherent": [] },
  });
}
