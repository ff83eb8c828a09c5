import { Mapping } from "@virtio/node/native/mapping";
import type { RegionDescription } from "../protocol/payloads.ts";
import type { RegionFile } from "./region-file.ts";

/** How regions are cut; in bytes: powers of two, of 64 KiB or more. */
export interface WindowSizes {
  /** Windows start at multiples of this in the file. */
  readonly size: number;
  /** How far a window goes on into the next one. */
  readonly overlap: number;
}

/**
 * A GiB is a multiple of every huge page there is. What starts in a window can be seen in one piece for the length of the overlap
 * at least: longer than any area of a virtqueue (16 * 32768 bytes).
 */
export const WINDOWS: WindowSizes = { size: 2 ** 30, overlap: 2 ** 21 };

/** A piece of a region that is mapped. */
export interface MappedWindow {
  /** Guest address of its first byte. */
  readonly gpa: number;
  /** Bytes from `gpa` on that are this window's own; what comes then is the next one's, too. */
  readonly span: number;
  /** Bytes from `gpa` on that can be seen. */
  readonly length: number;
  readonly buffer: SharedArrayBuffer;
  /** Where `gpa` is in the buffer. */
  readonly offset: number;
}

/** No address is in it. */
export const NO_WINDOW: MappedWindow = {
  gpa: 0,
  span: 0,
  length: 0,
  buffer: new SharedArrayBuffer(0),
  offset: 0,
};

/** A region of guest memory, mapped window by window when somebody touches it. */
export class MemoryRegion implements RegionDescription {
  readonly guestAddress: number;
  readonly size: number;
  readonly userAddress: number;
  readonly mmapOffset: number;
  readonly file: RegionFile;
  readonly #sizes: WindowSizes;
  /** Number of the window in the file that the region starts in. */
  readonly #firstNumber: number;
  /** By number, from the window on that the region starts in. */
  readonly #windows: (MappedWindow | undefined)[] = [];
  readonly #mappings: Mapping[] = [];

  constructor(
    { guestAddress, size, userAddress, mmapOffset }: RegionDescription,
    file: RegionFile,
    sizes: WindowSizes,
  ) {
    this.guestAddress = guestAddress;
    this.size = size;
    this.userAddress = userAddress;
    this.mmapOffset = mmapOffset;
    this.file = file.retain();
    this.#sizes = sizes;
    this.#firstNumber = Math.floor(mmapOffset / sizes.size);
  }

  get windowCount(): number {
    return this.#mappings.length;
  }

  /** Of guest memory, in bytes; what two windows share counts twice. */
  get mappedBytes(): number {
    return this.#mappings.reduce((sum, mapping) => sum + mapping.length, 0);
  }

  /** The window that is an address's own, if it is mapped. */
  window(gpa: number): MappedWindow | undefined {
    return this.#windows[this.#number(gpa)];
  }

  /** Maps that window. Throws an Error when that cannot be. */
  map(gpa: number): MappedWindow {
    const { size, overlap } = this.#sizes;
    const number = this.#number(gpa);
    const own = (this.#firstNumber + number) * size;
    const start = Math.max(this.mmapOffset, own);
    const regionEnd = this.mmapOffset + this.size;
    const end = Math.min(regionEnd, own + size + overlap);
    // It had them when the region came. A page beyond the end would end the process when it is touched.
    if (this.file.size < end) throw new Error("its file was shrunk");
    const mapping = Mapping.map(this.file.fd, start, end - start);
    this.#mappings.push(mapping);
    const window = {
      gpa: this.guestAddress + (start - this.mmapOffset),
      span: Math.min(regionEnd, own + size) - start,
      length: mapping.length,
      buffer: mapping.buffer,
      offset: mapping.offset,
    };
    this.#windows[number] = window;
    return window;
  }

  /** The region is gone: views that somebody still has show private zeroes. */
  close(): void {
    for (const mapping of this.#mappings.splice(0)) mapping.unmap();
    this.#windows.length = 0;
    this.file.release();
  }

  #number(gpa: number): number {
    return Math.floor((this.mmapOffset + gpa - this.guestAddress) / this.#sizes.size) - this.#firstNumber;
  }
}
