import type { FdtInterrupt } from "virtio/bus/fdt/fdt-index";
import { FdtIndex } from "virtio/bus/fdt/fdt-index";
import { readFdt } from "virtio/bus/fdt/read";
import { textsOf, type FdtNode } from "virtio/bus/fdt/tree";
import { findMmioPlaces, findPciHosts, type FdtPciHost } from "virtio/driver/fdt-discovery";
import { ecamConfigAccess } from "virtio/driver/pci-config";
import { QemuError } from "../error.ts";
import type { ControllerLayout, LayoutParts, MachineLayout, PciHostLayout } from "./layout.ts";

/** An interrupt controller that is known here: how a device tree calls it and QEMU does. */
interface ControllerKind {
  readonly compatible: readonly string[];
  readonly types: readonly string[];
  /** The input that an interrupt specifier means, or undefined when that is no input. */
  input(cells: readonly number[]): number | undefined;
}

/** The first cell of a GIC's specifier: a shared peripheral interrupt. */
const GIC_SPI = 0;

const CONTROLLERS: readonly ControllerKind[] = [
  {
    compatible: ["arm,cortex-a15-gic", "arm,cortex-a9-gic", "arm,gic-400", "arm,gic-v3"],
    types: ["arm_gic", "arm-gicv3"],
    input: ([type, number]) => (type === GIC_SPI ? number : undefined),
  },
  {
    compatible: ["riscv,plic0", "sifive,plic-1.0.0"],
    types: ["riscv.sifive.plic"],
    input: ([number]) => number,
  },
  {
    compatible: ["riscv,aplic", "qemu,aplic"],
    types: ["riscv.aplic"],
    input: ([number]) => number,
  },
  { compatible: ["intel,ce4100-ioapic"], types: ["ioapic"], input: ([number]) => number },
];

/**
 * All inputs that are not heard share this line, for all of their devices are asked: one that fits the register for a
 * PCI function's interrupt line, and that no board uses.
 */
const UNHEARD = 255;

/** Gives interrupts of a device tree the numbers that their controller has for them. */
class Lines {
  readonly unheard: ReadonlySet<number> = new Set([UNHEARD]);
  readonly #heard: FdtNode | undefined;
  readonly #kind: ControllerKind | undefined;

  constructor(heard: FdtNode | undefined) {
    this.#heard = heard;
    this.#kind = heard && kindOf(heard);
  }

  of(interrupt: FdtInterrupt | undefined): number {
    const heard = interrupt !== undefined && interrupt.controller === this.#heard;
    const input = heard ? this.#kind?.input(interrupt.cells) : undefined;
    if (input !== undefined && input < UNHEARD) return input;
    return UNHEARD;
  }
}

/**
 * A machine that describes itself by a device tree: `virt` of arm, arm64 and riscv64, `microvm`. Throws a QemuError when
 * QEMU made no tree.
 */
export function layoutFdt(parts: LayoutParts): MachineLayout {
  if (parts.deviceTree === undefined)
    throw new QemuError(`${parts.type} is not known here, and QEMU made no device tree for it`);
  const index = new FdtIndex(readFdt(parts.deviceTree));
  const places = findMmioPlaces(index);
  const host = findPciHosts(index)[0];
  // Inputs of one controller can be heard. Where there are two, MMIO devices are the ones that have only lines.
  const wanted = (places[0]?.interrupt ?? host?.interrupt(0, 1))?.controller;
  const controller = wanted && objectOf(index, wanted, parts);
  const lines = new Lines(controller && wanted);
  const mmio = places.map(({ base, length, interrupt }) => ({ base, length, line: lines.of(interrupt) }));
  const pci = host && pciHost(host, parts, lines);
  return { pci, mmio, controller, unheard: lines.unheard };
}

function kindOf(node: FdtNode): ControllerKind | undefined {
  const models = textsOf(node, "compatible");
  return CONTROLLERS.find(({ compatible }) => compatible.some((model) => models.includes(model)));
}

/** QEMU's object for a node: the n-th of its type for the n-th node of that kind. */
function objectOf(index: FdtIndex, node: FdtNode, parts: LayoutParts): ControllerLayout | undefined {
  const kind = kindOf(node);
  if (kind === undefined) return undefined;
  const nodes = index.compatible(...kind.compatible);
  return parts.objects.filter(({ type }) => kind.types.includes(type))[nodes.indexOf(node)];
}

function pciHost(host: FdtPciHost, parts: LayoutParts, lines: Lines): PciHostLayout | undefined {
  const same = host.windows.filter(({ space, pci, base }) => space === "memory" && pci.base === base);
  const memory = same.find(({ wide }) => !wide) ?? same[0];
  if (memory === undefined) return undefined;
  const io = host.windows.find(({ space }) => space === "io");
  if (io !== undefined) parts.setPorts({ base: io.base - io.pci.base });
  return {
    config: ecamConfigAccess(parts.bus, host.ecam.base - host.firstBus * 0x100000),
    firstBus: host.firstBus,
    memory: memory.pci,
    // Port 0 is what a BAR without an address has.
    io: io && { base: io.pci.base + 0x1000, length: io.pci.length - 0x1000 },
    line: (device, pin) => lines.of(host.interrupt(device, pin)),
  };
}
