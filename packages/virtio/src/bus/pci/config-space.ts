import type { AccessSize } from "../types.ts";
import { PCI_CONFIG_SIZE } from "./registers.ts";

/**
 * The bytes of a function's configuration space, with a mask of the bits that software can change. Accesses of any
 * width and alignment are allowed; bytes that are not there read as 0.
 */
export class PciConfigSpace {
  readonly bytes: Uint8Array = new Uint8Array(PCI_CONFIG_SIZE);
  /** Bits set here are changed by `write`. */
  readonly writable: Uint8Array = new Uint8Array(PCI_CONFIG_SIZE);

  read(offset: number, size: AccessSize): number {
    let value = 0;
    for (let i = size - 1; i >= 0; i--) value = value * 256 + (this.bytes[offset + i] ?? 0);
    return value;
  }

  /** What software writes: read-only bits keep their value. */
  write(offset: number, size: AccessSize, value: number): void {
    for (let i = 0; i < size; i++) {
      const mask = this.writable[offset + i] ?? 0;
      if (mask === 0) continue;
      this.bytes[offset + i] = ((this.bytes[offset + i] ?? 0) & ~mask) | ((value >>> (8 * i)) & mask);
    }
  }

  /** What the function itself puts there. */
  set(offset: number, size: AccessSize, value: number): void {
    for (let i = 0; i < size; i++) this.bytes[offset + i] = (value >>> (8 * i)) & 0xff;
  }

  setWritable(offset: number, size: AccessSize, mask: number): void {
    for (let i = 0; i < size; i++) this.writable[offset + i] = (mask >>> (8 * i)) & 0xff;
  }
}
