import { PCI_BAR0 } from "virtio/bus/pci/registers";
import type { Pci } from "./v86-shape.ts";

/**
 * v86's disk controller shows BARs that nothing is behind. v86 clears such a one when the guest writes it, and cannot
 * restore a state in which one is left: so it is cleared from the start.
 */
export function clearLooseBars({ devices, device_spaces }: Pci): void {
  for (const [bdf, space] of device_spaces.entries()) {
    const bars = devices[bdf]?.pci_bars;
    if (space === undefined || bars === undefined) continue;
    for (let bar = 0; bar < bars.length; bar++) if (bars[bar] === undefined) space[(PCI_BAR0 >> 2) + bar] = 0;
  }
}
