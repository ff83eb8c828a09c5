import { portConfigAccess } from "virtio/driver/pci-config";
import type { LayoutParts, MachineLayout } from "./layout.ts";

/** The bridge to the ISA bus of a PC, and its registers that wire PIRQA# to PIRQD# to ISA interrupts. */
const PIIX3 = { bus: 0, device: 1, function: 0 };
const PIRQ_ROUTES = 0x60;
/** ISA interrupts that nothing else of the board uses. */
const PIRQ_LINES = [10, 11, 5, 7] as const;
/** The I/O APIC's inputs for PIRQE# to PIRQH# of an ICH9. */
const ICH9_PIRQ_E = 20;
/** From this device number on, an ICH9's functions are wired by registers, to PIRQA# to PIRQD# after a reset. */
const ICH9_FIRST_ROUTED = 25;
const ICH9_PIRQ_A = 16;
/** Above all memory below 4 GiB, and below the I/O APIC. */
const MEMORY = { base: 0xe0000000, length: 0x1ec00000 };
/** Above what the boards' own devices take. */
const IO = { base: 0xc000, length: 0x4000 };

/** `pc`: an i440FX and a PIIX3. We are its firmware: interrupts are wired here. */
export function layoutPc(parts: LayoutParts): MachineLayout {
  parts.setPorts("processor");
  const config = portConfigAccess(parts.bus);
  PIRQ_LINES.forEach((line, pirq) => config.writeConfig(PIIX3, PIRQ_ROUTES + pirq, 1, line));
  return {
    pci: {
      config,
      firstBus: 0,
      memory: MEMORY,
      io: IO,
      line: (device, pin) => PIRQ_LINES[(device - 1 + pin - 1) & 3] ?? 0,
    },
    mmio: [],
    controller: parts.objects.find(({ type }) => type === "ioapic"),
    unheard: new Set(),
  };
}

/** `q35`: a Q35 and an ICH9. */
export function layoutQ35(parts: LayoutParts): MachineLayout {
  parts.setPorts("processor");
  return {
    pci: {
      config: portConfigAccess(parts.bus),
      firstBus: 0,
      memory: MEMORY,
      io: IO,
      line: (device, pin) =>
        device < ICH9_FIRST_ROUTED ? ICH9_PIRQ_E + ((device + pin - 1) & 3) : ICH9_PIRQ_A + ((pin - 1) & 3),
    },
    mmio: [],
    controller: parts.objects.find(({ type }) => type === "ioapic"),
    unheard: new Set(),
  };
}
