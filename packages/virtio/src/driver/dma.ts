import { wholeOption } from "../check-option.ts";
import type { Gpa, GuestMemory } from "../memory/guest-memory.ts";
import type { DmaMemory } from "./types.ts";

interface Hole {
  gpa: Gpa;
  length: number;
}

/** A first-fit allocator over a part of memory that driver and device share. Holes are kept sorted and merged. */
export class DmaPool implements DmaMemory {
  readonly #memory: GuestMemory;
  readonly #holes: Hole[];

  /** `length` bytes from `gpa` on are the pool's alone. */
  constructor(memory: GuestMemory, gpa: Gpa, length: number) {
    wholeOption("DMA memory: gpa", gpa, 0, Number.MAX_SAFE_INTEGER);
    wholeOption("DMA memory: length", length, 0, Number.MAX_SAFE_INTEGER - gpa);
    this.#memory = memory;
    this.#holes = [{ gpa, length }];
  }

  get epoch(): number {
    return this.#memory.epoch;
  }

  /** Bytes that are free, in whatever pieces. */
  get available(): number {
    return this.#holes.reduce((sum, hole) => sum + hole.length, 0);
  }

  view(gpa: Gpa, length: number): Uint8Array {
    return this.#memory.view(gpa, length);
  }

  contiguous(gpa: Gpa, length: number, writable?: boolean): number {
    return this.#memory.contiguous(gpa, length, writable);
  }

  wrote(gpa: Gpa, length: number): void {
    this.#memory.wrote(gpa, length);
  }

  allocate(length: number, alignment: number): Gpa {
    for (let i = 0; i < this.#holes.length; i++) {
      const hole = this.#holes[i];
      if (hole === undefined) break;
      const gpa = Math.ceil(hole.gpa / alignment) * alignment;
      const end = hole.gpa + hole.length;
      if (gpa + length > end) continue;
      const rest = [
        { gpa: hole.gpa, length: gpa - hole.gpa },
        { gpa: gpa + length, length: end - gpa - length },
      ].filter((piece) => piece.length > 0);
      this.#holes.splice(i, 1, ...rest);
      this.#memory.view(gpa, length).fill(0);
      return gpa;
    }
    throw new RangeError(`no room for ${length} bytes of DMA memory, ${this.available} are free in pieces`);
  }

  free(gpa: Gpa, length: number): void {
    if (length === 0) return;
    let at = this.#holes.findIndex((hole) => hole.gpa > gpa);
    if (at < 0) at = this.#holes.length;
    const before = this.#holes[at - 1];
    const after = this.#holes[at];
    if ((before && before.gpa + before.length > gpa) || (after && gpa + length > after.gpa))
      throw new RangeError(`${length} bytes at ${gpa} were not allocated`);
    const joinsBefore = before !== undefined && before.gpa + before.length === gpa;
    const joinsAfter = after !== undefined && gpa + length === after.gpa;
    const start = joinsBefore ? before.gpa : gpa;
    const end = joinsAfter ? after.gpa + after.length : gpa + length;
    const first = joinsBefore ? at - 1 : at;
    this.#holes.splice(first, Number(joinsBefore) + Number(joinsAfter), { gpa: start, length: end - start });
  }
}
