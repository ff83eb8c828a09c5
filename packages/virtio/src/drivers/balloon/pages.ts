import type { DmaMemory } from "../../driver/types.ts";
import type { DriverVirtqueue } from "../../driver/virtqueue.ts";
import { writeLe32 } from "../../memory/bytes.ts";
import type { Gpa } from "../../memory/guest-memory.ts";
import { VIRTIO_BALLOON_PAGE_BYTES as PAGE } from "../../spec/balloon.ts";

/** Pages named in one request. */
export const PAGES_A_REQUEST = 256;
const LARGEST_PAGE = 2 ** 32 * PAGE;

/** Sends lists of pages to the device, one list at a time. */
export class PageLists {
  readonly #memory: DmaMemory;
  readonly #list: Gpa;

  constructor(memory: DmaMemory) {
    this.#memory = memory;
    this.#list = memory.allocate(4 * PAGES_A_REQUEST, 8);
  }

  /** Resolves when the device has acknowledged the pages, at most PAGES_A_REQUEST. */
  async send(queue: DriverVirtqueue, pages: readonly Gpa[]): Promise<void> {
    const bytes = this.#memory.view(this.#list, 4 * pages.length);
    for (const [i, page] of pages.entries()) writeLe32(bytes, 4 * i, page / PAGE);
    await queue.request([{ gpa: this.#list, length: 4 * pages.length }], []);
  }
}

/** Takes up to `count` pages out of memory; fewer when there is no more. */
export function takePages(memory: DmaMemory, count: number): Gpa[] {
  const pages: Gpa[] = [];
  while (pages.length < count) {
    let page: Gpa;
    try {
      page = memory.allocate(PAGE, PAGE);
    } catch (error) {
      if (error instanceof RangeError) break;
      throw error;
    }
    if (page >= LARGEST_PAGE) {
      memory.free(page, PAGE);
      break;
    }
    pages.push(page);
  }
  return pages;
}
