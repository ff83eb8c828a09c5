import { CommandError } from "./errors.ts";
import { hex8 } from "./numbers.ts";
import type { Target } from "./target/types.ts";

/** Memory as the commands see it: all of it can be looked at, the shell's own part can be written. */
export class ShellMemory {
  readonly #target: Target;

  constructor(target: Target) {
    this.#target = target;
  }

  get start(): number {
    return this.#target.ram.start;
  }

  get size(): number {
    return this.#target.ram.size;
  }

  /** The bytes themselves. Throws a CommandError when some of them are no memory. */
  readable(address: number, length: number): Uint8Array {
    const { memory, banks } = this.#target;
    if (memory.contiguous(address, Math.max(1, length)) < length) {
      const where = banks.map(({ start, size }) => rangeText(start, size)).join(", ");
      throw new CommandError(
        `## Error: ${rangeText(address, length)} is no memory of the target, which has ${where}`,
      );
    }
    return length === 0 ? new Uint8Array() : memory.view(address, length);
  }

  /** The same, to be written. Throws a CommandError when it is not all in the shell's own memory. */
  writable(address: number, length: number): Uint8Array {
    this.checkWritable(address, length);
    return this.readable(address, length);
  }

  checkWritable(address: number, length: number): void {
    if (address < this.start || address + length > this.start + this.size)
      throw new CommandError(
        `## Error: ${rangeText(address, length)} is not in the shell's memory (${rangeText(this.start, this.size)})`,
      );
  }

  /** Bytes from an address on to the end of the shell's memory. */
  room(address: number): number {
    this.checkWritable(address, 0);
    return this.start + this.size - address;
  }
}

function rangeText(start: number, size: number): string {
  return `0x${hex8(start)}-0x${hex8(start + Math.max(1, size) - 1)}`;
}
