import { bytesOption, wholeOption } from "../check-option.ts";
import { VirtioFault } from "../fault.ts";
import type { Gpa, GuestMemory } from "./guest-memory.ts";

/** A piece of guest memory that lies in one buffer. */
export interface MemoryRegion {
  readonly gpa: Gpa;
  readonly bytes: Uint8Array;
}

/** Rings are read through 32-bit views: a guest address and its place in the buffer must agree in their low bits. */
const ALIGNMENT = 8;

/** Guest memory made of regions that may lie anywhere: a flat RAM, the table of a vhost-user front-end. */
export class RegionMemory implements GuestMemory {
  #regions: readonly MemoryRegion[] = [];
  #last: MemoryRegion | undefined;
  #epoch = 0;
  readonly #onWrite: ((gpa: Gpa, length: number) => void) | undefined;

  /** Throws a RangeError when regions overlap or are not aligned. `onWrite` hears of every write of a device. */
  constructor(regions: readonly MemoryRegion[], onWrite?: (gpa: Gpa, length: number) => void) {
    this.#onWrite = onWrite;
    this.replace(regions);
  }

  get epoch(): number {
    return this.#epoch;
  }

  /** Another set of regions; views taken before are stale. */
  replace(regions: readonly MemoryRegion[]): void {
    const sorted = [...regions].sort((a, b) => a.gpa - b.gpa);
    let end = 0;
    for (const { gpa, bytes } of sorted) {
      bytesOption("memory region: bytes", bytes);
      wholeOption("memory region: gpa", gpa, 0, Number.MAX_SAFE_INTEGER - bytes.length);
      if (gpa < end) throw new RangeError(`memory region at ${gpa} overlaps another`);
      if ((bytes.byteOffset - gpa) % ALIGNMENT !== 0)
        throw new RangeError(`memory region at ${gpa} is not aligned to ${ALIGNMENT} bytes with its buffer`);
      end = gpa + bytes.length;
    }
    this.#regions = sorted;
    this.#last = undefined;
    this.#epoch++;
  }

  view(gpa: Gpa, length: number): Uint8Array {
    const region = this.#find(gpa);
    if (region !== undefined) {
      const start = gpa - region.gpa;
      if (start + length <= region.bytes.length) return region.bytes.subarray(start, start + length);
    }
    throw new VirtioFault("memory.unbacked", `${length} bytes at this address are not guest memory`, {
      value: gpa,
    });
  }

  contiguous(gpa: Gpa, length: number): number {
    const region = this.#find(gpa);
    return region === undefined ? 0 : Math.min(length, region.gpa + region.bytes.length - gpa);
  }

  wrote(gpa: Gpa, length: number): void {
    this.#onWrite?.(gpa, length);
  }

  #find(gpa: Gpa): MemoryRegion | undefined {
    const last = this.#last;
    if (last !== undefined && gpa >= last.gpa && gpa - last.gpa < last.bytes.length) return last;
    let low = 0;
    let high = this.#regions.length - 1;
    while (low <= high) {
      const middle = (low + high) >>> 1;
      const region = this.#regions[middle];
      if (region === undefined || gpa < region.gpa) high = middle - 1;
      else if (gpa - region.gpa >= region.bytes.length) low = middle + 1;
      else {
        this.#last = region;
        return region;
      }
    }
    return undefined;
  }
}
