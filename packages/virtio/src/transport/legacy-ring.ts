import type { QueueRegisters } from "../device/queue-registers.ts";
import { VIRTQ_DESC_SIZE } from "../spec/virtqueue.ts";

/** Where the parts of a legacy virtqueue are: addresses in bytes. */
export interface LegacyRing {
  readonly descriptorArea: number;
  readonly driverArea: number;
  readonly deviceArea: number;
}

/**
 * "Legacy Interfaces: A Note on Virtqueue Layout": descriptor table, available ring (with its `used_event`), padding to
 * `align`, used ring. `align` is a power of two.
 */
export function legacyRing(base: number, size: number, align: number): LegacyRing {
  const driverArea = base + VIRTQ_DESC_SIZE * size;
  const end = driverArea + 2 * (3 + size);
  return { descriptorArea: base, driverArea, deviceArea: Math.ceil(end / align) * align };
}

/** Puts a virtqueue at a legacy ring and starts it; size must be set before. */
export function enableLegacy(queue: QueueRegisters, base: number, align: number): void {
  const ring = legacyRing(base, queue.size, align);
  for (const area of ["descriptorArea", "driverArea", "deviceArea"] as const) {
    queue.setArea(area, "low", ring[area] % 2 ** 32);
    queue.setArea(area, "high", Math.floor(ring[area] / 2 ** 32));
  }
  queue.enable();
}
