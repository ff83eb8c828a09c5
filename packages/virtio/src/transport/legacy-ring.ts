import type { QueueRegisters } from "../device/queue-registers.ts";
import { legacyLayout } from "../virtqueue/split-layout.ts";

/**
 * Puts a virtqueue into the legacy layout at `base` and enables it ("Legacy Interfaces: A Note on Virtqueue Layout").
 * Its size is set before; `align` is a power of two.
 */
export function enableLegacy(queue: QueueRegisters, base: number, align: number): void {
  const layout = legacyLayout(base, queue.size, align);
  for (const area of ["descriptorArea", "driverArea", "deviceArea"] as const) {
    queue.setArea(area, "low", layout[area] % 2 ** 32);
    queue.setArea(area, "high", Math.floor(layout[area] / 2 ** 32));
  }
  queue.enable();
}
