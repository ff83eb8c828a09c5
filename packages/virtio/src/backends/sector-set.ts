import { MemoryBudget } from "./memory-budget.ts";

/** Sectors covered by one page of bits: 2 MiB of disk. */
const PAGE_SECTORS = 4096;
const WORD_BITS = 32;
/** Bytes of a page's bits, and about what an engine takes for it beside them. */
const PAGE_BYTES = PAGE_SECTORS / 8;
const PLACE_BYTES = 256;
/** The page of which everything is in the set; it is never written. */
const FULL = new Uint32Array(PAGE_SECTORS / WORD_BITS).fill(0xffff_ffff);

/**
 * A set of sector numbers, a bit each, in pages that exist where something was added, and take nothing where everything was: at most a
 * 2048th of the disk, whatever is done to it.
 */
export class SectorSet {
  readonly #pages = new Map<number, Uint32Array>();
  readonly #budget: MemoryBudget;

  constructor(budget: MemoryBudget = new MemoryBudget(Infinity, "a set of sectors")) {
    this.#budget = budget;
  }

  has(sector: number): boolean {
    const bit = sector % PAGE_SECTORS;
    const page = this.#pages.get((sector - bit) / PAGE_SECTORS);
    return page !== undefined && (((page[bit >>> 5] ?? 0) >>> (bit & 31)) & 1) === 1;
  }

  /** Adds the sectors from `from` up to, not including, `to`. */
  add(from: number, to: number): void {
    for (let sector = from; sector < to;) {
      const bit = sector % PAGE_SECTORS;
      const end = Math.min(PAGE_SECTORS, bit + to - sector);
      const index = (sector - bit) / PAGE_SECTORS;
      if (bit === 0 && end === PAGE_SECTORS) this.#fill(index);
      else setBits(this.#page(index), bit, end);
      sector += end - bit;
    }
  }

  /** Where the run of sectors ends that are in the set, or are not, as `from` is or is not; `limit` at most. */
  runEnd(from: number, limit: number): number {
    const wanted = this.has(from);
    let sector = from + 1;
    while (sector < limit) {
      const bit = sector % PAGE_SECTORS;
      const page = this.#pages.get((sector - bit) / PAGE_SECTORS);
      if (page === undefined) {
        if (wanted) return sector;
        sector += PAGE_SECTORS - bit;
        continue;
      }
      const word = page[bit >>> 5] ?? 0;
      if ((bit & 31) === 0 && word === (wanted ? 0xffff_ffff : 0)) sector += WORD_BITS;
      else if (((word >>> (bit & 31)) & 1) === Number(wanted)) sector++;
      else return sector;
    }
    return limit;
  }

  #fill(index: number): void {
    const there = this.#pages.get(index);
    if (there === FULL) return;
    if (there === undefined) this.#budget.take(PLACE_BYTES);
    else this.#budget.give(PAGE_BYTES);
    this.#pages.set(index, FULL);
  }

  #page(index: number): Uint32Array {
    let page = this.#pages.get(index);
    if (page === undefined) {
      this.#budget.take(PAGE_BYTES + PLACE_BYTES);
      page = new Uint32Array(PAGE_SECTORS / WORD_BITS);
      this.#pages.set(index, page);
    }
    return page;
  }
}

function setBits(page: Uint32Array, from: number, to: number): void {
  if (page === FULL) return;
  for (let bit = from; bit < to;) {
    const word = bit >>> 5;
    if ((bit & 31) === 0 && to - bit >= WORD_BITS) {
      page[word] = 0xffff_ffff;
      bit += WORD_BITS;
    } else {
      page[word] = (page[word] ?? 0) | (1 << (bit & 31));
      bit++;
    }
  }
}
