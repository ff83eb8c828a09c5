import type { Gpa } from "../memory/guest-memory.ts";
import { VIRTQ_DESC_SIZE } from "../spec/virtqueue.ts";

/** Bytes of the three parts of a split virtqueue, event fields included. Section "Split Virtqueues". */
export const splitDescriptorBytes = (size: number): number => VIRTQ_DESC_SIZE * size;
export const splitDriverBytes = (size: number): number => 6 + 2 * size;
export const splitDeviceBytes = (size: number): number => 6 + 8 * size;

/** Where the parts of a legacy virtqueue lie. Section "Legacy Interfaces: A Note on Virtqueue Layout". */
export interface LegacyLayout {
  readonly descriptorArea: Gpa;
  readonly driverArea: Gpa;
  readonly deviceArea: Gpa;
  /** Bytes of the whole block. */
  readonly length: number;
}

/** `align` is the Queue Align of the transport, a power of two. */
export function legacyLayout(base: Gpa, size: number, align: number): LegacyLayout {
  const up = (value: number): number => Math.ceil(value / align) * align;
  const driverOffset = splitDescriptorBytes(size);
  const deviceOffset = up(driverOffset + splitDriverBytes(size));
  return {
    descriptorArea: base,
    driverArea: base + driverOffset,
    deviceArea: base + deviceOffset,
    length: deviceOffset + up(splitDeviceBytes(size)),
  };
}
