import type { PciConfigAccess } from "virtio/driver/platform";
import type { LayoutParts, MachineLayout } from "./layout.ts";

/** Versatile Platform Baseboard: addresses of its PCI host, from ARM DUI 0224, "Memory map" and "PCI controller". */
const CONTROL = 0x10001000;
/** Configuration space: a 64 KiB block for each bus, 2 KiB for each device. */
const CONFIG = 0x42000000;
/** Port 0 of the PCI bus. */
const IO_BASE = 0x43000000;
/** Second window onto PCI memory. The register says which 256 MiB of the bus it shows: the same as its own address. */
const MEMORY = { base: 0x50000000, length: 0x10000000 };
const IMAP1 = 0x04;
/** Inputs of the secondary interrupt controller. */
const FIRST_LINE = 27;
/** Ports above those that a PC has for itself. The board decodes 24 bits of a port, QEMU all 32. */
const IO = { base: 0x1000, length: 0xf000 };

/**
 * `versatilepb`: no device tree, no ports of its own; the PCI bus is seen through windows. A window for ports means that
 * an access to port P is one to memory at 0x43000000 + P. The wiring of its slots is odd: INTA# of a device is two lines
 * on from where its number would put it.
 */
export function layoutVersatile(parts: LayoutParts): MachineLayout {
  const { bus } = parts;
  parts.setPorts({ base: IO_BASE });
  bus.write("memory", CONTROL + IMAP1, 4, MEMORY.base >>> 28);
  const address = (at: { bus: number; device: number; function: number }, offset: number): number =>
    CONFIG + at.bus * 0x10000 + at.device * 0x800 + at.function * 0x100 + offset;
  const config: PciConfigAccess = {
    readConfig: (at, offset, size) => bus.read("memory", address(at, offset), size),
    writeConfig: (at, offset, size, value) => bus.write("memory", address(at, offset), size, value),
  };
  return {
    pci: {
      config,
      firstBus: 0,
      memory: MEMORY,
      io: IO,
      line: (device, pin) => FIRST_LINE + ((device + pin - 1 + 2) & 3),
    },
    mmio: [],
    controller: parts.objects.find(({ type }) => type === "versatilepb_sic"),
    unheard: new Set(),
  };
}
