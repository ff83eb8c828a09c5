/** Where things are on the embedded machine's board, and how ACPI tells the guest. */
import { type Aml, device, eisaId, integer, name, packageOf, scope, string } from "virtio/bus/acpi/aml";
import {
  busWindow,
  ioWindow,
  sharedInterrupt,
  memory32Fixed,
  memoryWindow,
  resourceTemplate,
} from "virtio/bus/acpi/resources";
import { type AcpiTables, dsdt, layTables, madt } from "virtio/bus/acpi/tables";

/** IRQs of the four PCI interrupt pins: none that another device of the board uses under Linux. */
export const PCI_IRQS: readonly [number, number, number, number] = [10, 11, 5, 3];
/** Base address registers of memory. */
export const PCI_MEMORY = { first: 0xf0000000, last: 0xfcffffff };
/** Base address registers of port I/O. */
export const PCI_PORTS = { first: 0xc000, last: 0xffff };
/** Device numbers on bus 0 for ours; v86 has its VGA among them, and others if asked for. */
export const PCI_SLOTS = { first: 8, last: 29 };
/** MMIO devices: a block each. */
export const MMIO_DEVICES = { first: 0xfd000000, last: 0xfdffffff };
export const MMIO_SIZE = 0x1000;
/** Inputs of the IO-APIC that nothing else uses; with more devices they are shared. */
export const MMIO_INTERRUPTS = { first: 16, last: 23 };
/** In the area that a BIOS would fill, where the guest looks for the root pointer. */
export const ACPI_BASE = 0xe0000;

const SCI_IRQ = 9;
const PM_BASE = 0xb000;

/** A device that the guest can only find through ACPI. */
export interface DescribedMmioDevice {
  readonly base: number;
  readonly gsi: number;
}

export function boardTables(mmioDevices: readonly DescribedMmioDevice[]): AcpiTables {
  const hardware = {
    sciInterrupt: SCI_IRQ,
    pm1EventBlock: PM_BASE,
    pm1ControlBlock: PM_BASE + 4,
    pmTimerBlock: PM_BASE + 8,
  };
  const interrupts = madt({
    localApicAddress: 0xfee00000,
    ioApicAddress: 0xfec00000,
    ioApicId: 0,
    processors: [0],
    levelTriggered: [SCI_IRQ, ...PCI_IRQS].map((irq) => ({ irq, gsi: irq })),
  });
  const zero = integer(0);
  const description = dsdt(
    name("\\_S5", packageOf(zero, zero, zero, zero)),
    scope("\\_SB", hostBridge(), ...mmioDevices.map(mmioDevice)),
  );
  return layTables(ACPI_BASE, hardware, description, [interrupts]);
}

function hostBridge(): Aml {
  const windows = resourceTemplate(
    busWindow(0, 0xff),
    ioWindow(0, 0xcf7),
    ioWindow(0xd00, 0xffff),
    memoryWindow(0xa0000, 0xbffff),
    memoryWindow(0xe0000000, 0xe7ffffff),
    memoryWindow(PCI_MEMORY.first, PCI_MEMORY.last),
  );
  return device(
    "PCI0",
    name("_HID", eisaId("PNP0A03")),
    name("_UID", integer(0)),
    name("_CRS", windows),
    name("_PRT", packageOf(...routes())),
  );
}

/** Every device and pin, wired to an input of the IO-APIC that has the number of the IRQ. */
function routes(): Aml[] {
  const entries: Aml[] = [];
  for (let slot = 0; slot < 32; slot++) {
    for (let pin = 0; pin < 4; pin++) {
      const irq = integer(pciIrq(slot, pin + 1));
      entries.push(packageOf(integer(slot * 0x10000 + 0xffff), integer(pin), integer(0), irq));
    }
  }
  return entries;
}

/** The IRQ of a function's interrupt pin (1 is INTA#). */
export function pciIrq(slot: number, pin: number): number {
  return PCI_IRQS[(pin + slot - 2) & 3] ?? PCI_IRQS[0];
}

function mmioDevice({ base, gsi }: DescribedMmioDevice, index: number): Aml {
  return device(
    `VR${index.toString(16).toUpperCase().padStart(2, "0")}`,
    // The id under which Linux and EDK II know a virtio-mmio device.
    name("_HID", string("LNRO0005")),
    name("_UID", integer(index)),
    name("_CCA", integer(1)),
    name("_CRS", resourceTemplate(memory32Fixed(base, MMIO_SIZE), sharedInterrupt(gsi))),
  );
}
