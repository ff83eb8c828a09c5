import { VirtioFault } from "../fault.ts";
import type { Gpa, GuestMemory } from "../memory/guest-memory.ts";

/**
 * The bytes of one area of a virtqueue (descriptor, driver or device area), checked for alignment and backing. Typed
 * arrays are made on them once per memory epoch.
 */
export function areaBytes(
  memory: GuestMemory,
  queue: number,
  area: {
    readonly name: string;
    readonly gpa: Gpa;
    readonly length: number;
    readonly alignment: number;
    /** The device writes it, too. Default false. */
    readonly writable?: boolean;
  },
  clause: string,
): Uint8Array {
  const { name, gpa, length, alignment, writable = false } = area;
  if (gpa % alignment !== 0)
    throw new VirtioFault(clause, `${name} area is not aligned to ${alignment} bytes`, { queue, value: gpa });
  if (memory.contiguous(gpa, length, writable) < length)
    throw new VirtioFault(clause, `${name} area of ${length} bytes is not in guest memory`, {
      queue,
      value: gpa,
    });
  return memory.view(gpa, length);
}

export function halves(bytes: Uint8Array): Uint16Array {
  return new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.length >>> 1);
}

export function words(bytes: Uint8Array): Uint32Array {
  return new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length >>> 2);
}

/** Whether moving an index from `old` to `now` passes `event`: the rule of "Available Buffer Notification Suppression". */
export function passesEvent(event: number, now: number, old: number): boolean {
  return ((now - event - 1) & 0xffff) < ((now - old) & 0xffff);
}

/** How much of guest memory one look-up of a table window covers at most, in bytes. */
const WINDOW = 2 ** 30;

/**
 * Reads tables that a driver put anywhere in memory, at any alignment. Keeps one long view, for tables tend to lie in
 * the same region: nothing is allocated for the next one.
 */
export class TableReader {
  readonly #memory: GuestMemory;
  #epoch = -1;
  #base = 0;
  #length = 0;
  data: DataView<ArrayBufferLike> = new DataView(new ArrayBuffer(0));

  constructor(memory: GuestMemory) {
    this.#memory = memory;
  }

  /** Where the table lies in `data`, or -1 when not all of it is in one region of guest memory. */
  find(gpa: Gpa, length: number): number {
    const offset = gpa - this.#base;
    if (this.#epoch === this.#memory.epoch && offset >= 0 && offset + length <= this.#length) return offset;
    return this.#move(gpa, length) ? gpa - this.#base : -1;
  }

  #move(gpa: Gpa, length: number): boolean {
    const aligned = gpa - (gpa % WINDOW);
    const base = this.#memory.contiguous(aligned, WINDOW) >= gpa - aligned + length ? aligned : gpa;
    const covered = this.#memory.contiguous(base, WINDOW);
    if (covered < gpa - base + length) return false;
    const bytes = this.#memory.view(base, covered);
    this.data = new DataView(bytes.buffer, bytes.byteOffset, covered);
    this.#base = base;
    this.#length = covered;
    this.#epoch = this.#memory.epoch;
    return true;
  }
}
