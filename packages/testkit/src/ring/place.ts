import type { QueueConfig } from "virtio/virtqueue/types";
import type { Arena } from "./test-memory.ts";

/** Negotiated ring features, and how large the ring is. */
export interface RingShape {
  readonly packed: boolean;
  readonly size: number;
  readonly eventIdx?: boolean;
  readonly indirect?: boolean;
  readonly inOrder?: boolean;
  readonly index?: number;
}

/** Bytes of the areas with their event fields. */
export function areaSizes(shape: RingShape): { descriptor: number; driver: number; device: number } {
  const { size } = shape;
  return shape.packed
    ? { descriptor: 16 * size, driver: 4, device: 4 }
    : { descriptor: 16 * size, driver: 6 + 2 * size, device: 6 + 8 * size };
}

/** Finds room for a ring, with the least alignment that the spec allows and something else right behind each area. */
export function placeRing(arena: Arena, shape: RingShape): QueueConfig {
  const sizes = areaSizes(shape);
  const aligned = (length: number, alignment: number): number => {
    const gpa = arena.take(length + alignment, 2 * alignment);
    return gpa + alignment;
  };
  return {
    index: shape.index ?? 3,
    size: shape.size,
    descriptorArea: aligned(sizes.descriptor, 16),
    driverArea: aligned(sizes.driver, shape.packed ? 4 : 2),
    deviceArea: aligned(sizes.device, 4),
    eventIdx: shape.eventIdx ?? false,
    indirect: shape.indirect ?? false,
    inOrder: shape.inOrder ?? false,
  };
}
