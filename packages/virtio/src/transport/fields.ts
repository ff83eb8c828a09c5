import type { AccessSize } from "../bus/types.ts";

/** A register inside a window. A 64-bit field of the spec is two of these: its low and its high half. */
export interface Field {
  /** The spec's field name. */
  readonly name: string;
  readonly offset: number;
  readonly size: AccessSize;
}

/** What stands behind the registers. Values are unsigned. */
export interface Registers {
  readField(field: Field): number;
  writeField(field: Field, value: number): void;
}

/**
 * Finds the registers that an access of any width and alignment means. The natural access is the fast one. Others
 * are not the driver's right ("PCI Device Layout"), yet have an answer: a read is put together from the bytes of the
 * registers it covers, a write reaches the registers that it covers whole.
 */
export class FieldMap {
  readonly #byOffset: (Field | undefined)[] = [];

  constructor(fields: readonly Field[]) {
    for (const field of fields) for (let i = 0; i < field.size; i++) this.#byOffset[field.offset + i] = field;
  }

  /** The register with this byte, or undefined. */
  at(offset: number): Field | undefined {
    return this.#byOffset[offset];
  }

  read(registers: Registers, offset: number, size: AccessSize): number {
    const field = this.#byOffset[offset];
    if (field !== undefined && field.offset === offset && field.size === size)
      return registers.readField(field);
    let value = 0;
    let scale = 1;
    for (let i = 0; i < size;) {
      const part = this.#byOffset[offset + i];
      if (part === undefined) {
        i++;
        scale *= 256;
        continue;
      }
      const skip = offset + i - part.offset;
      const length = Math.min(part.size - skip, size - i);
      // Once a register, for a read may have an effect.
      const bytes = Math.floor(registers.readField(part) / 256 ** skip) % 256 ** length;
      value += bytes * scale;
      scale *= 256 ** length;
      i += length;
    }
    return value;
  }

  write(registers: Registers, offset: number, size: AccessSize, value: number): void {
    const unsigned = size === 4 ? value >>> 0 : size === 2 ? value & 0xffff : value & 0xff;
    const field = this.#byOffset[offset];
    if (field !== undefined && field.offset === offset && field.size === size) {
      registers.writeField(field, unsigned);
      return;
    }
    for (let i = 0; i < size; i++) {
      const part = this.#byOffset[offset + i];
      if (part === undefined || part.offset !== offset + i || part.size > size - i) continue;
      registers.writeField(part, Math.floor(unsigned / 256 ** i) % 256 ** part.size);
    }
  }
}
