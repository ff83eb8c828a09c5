/**
 * A disk in RAM that takes little more memory than the sectors that were written, however they are scattered.
 *
 *   region (64 MiB of disk) -> page (16 sectors) -> entries, one a sector -> slot of 512 bytes
 *
 * Slots are given out in order, so that what was written in one piece is mostly copied in one piece.
 */
import { wholeOption } from "../check-option.ts";
import type { BlockBackend } from "./block.ts";
import { MemoryBudget } from "./memory-budget.ts";

const SECTOR = 512;
/** Sectors. */
const PAGE = 16;
/** Pages: so few that a Map of them grows in no time that somebody notices. */
const REGION = 8192;
/** Slots that are allocated at a time. */
const SLAB = 512;
/** Pages whose entries are allocated at a time. */
const ENTRY_SLAB = 256;
/** Bytes, about, that an engine takes for a place in a Map, and for a Map. */
const PLACE_BYTES = 48;
const MAP_BYTES = 512;

export class SparseBlockBackend implements BlockBackend {
  readonly readOnly = false;
  readonly asynchronous = false;
  readonly size: number;
  onResize: (() => void) | undefined;
  readonly #budget: MemoryBudget;
  readonly #slabs: Uint8Array[] = [];
  #slots = 0;
  /** Slots that were given back. */
  readonly #freeSlots: number[] = [];
  /** Of a sector: its slot and one more, or 0. */
  readonly #entries: Uint32Array[] = [];
  #pages = 0;
  readonly #freePages: number[] = [];
  /** By region: by page in it, the number of its entries. */
  readonly #regions = new Map<number, Map<number, number>>();
  /** The page that was looked for last, and its number; -1: it is not there. */
  #lastPage = -1;
  #lastNumber = -1;

  /** @param size of the disk, in bytes; what was never written reads as zeroes */
  constructor(size: number, budget: MemoryBudget = new MemoryBudget(Infinity, "a disk in RAM")) {
    this.size = wholeOption("disk in RAM: size", size, 0, Number.MAX_SAFE_INTEGER);
    this.#budget = budget;
  }

  read(offset: number, target: Uint8Array): void {
    for (let done = 0; done < target.length;) {
      const start = (offset + done) % SECTOR;
      const sector = (offset + done - start) / SECTOR;
      const slot = this.#slot(sector);
      const most = Math.ceil((start + target.length - done) / SECTOR);
      let run = 1;
      while (run < most && this.#follows(slot, run, this.#slot(sector + run))) run++;
      const end = Math.min(done + run * SECTOR - start, target.length);
      if (slot < 0) target.fill(0, done, end);
      else target.set(this.#bytes(slot, start, end - done), done);
      done = end;
    }
  }

  write(offset: number, source: Uint8Array): void {
    for (let done = 0; done < source.length;) {
      const start = (offset + done) % SECTOR;
      const sector = (offset + done - start) / SECTOR;
      // Sectors to their end.
      const most = Math.floor((start + source.length - done) / SECTOR);
      const slot = this.#slotToWrite(sector, start > 0 || most === 0);
      let run = 1;
      while (run < most && this.#follows(slot, run, this.#slotToWrite(sector + run, false))) run++;
      const end = Math.min(done + run * SECTOR - start, source.length);
      this.#bytes(slot, start, end - done).set(source.subarray(done, end));
      done = end;
    }
  }

  readv(offset: number, targets: readonly Uint8Array[]): void {
    let at = offset;
    for (const target of targets) {
      this.read(at, target);
      at += target.length;
    }
  }

  writev(offset: number, sources: readonly Uint8Array[]): void {
    let at = offset;
    for (const source of sources) {
      this.write(at, source);
      at += source.length;
    }
  }

  flush(): void {}

  /** The sectors read as zeroes, and take no memory any more that others could have. */
  discard(offset: number, length: number): void {
    const first = Math.floor(offset / SECTOR);
    const end = Math.ceil((offset + length) / SECTOR);
    const [low, high] = [Math.floor(first / (PAGE * REGION)), Math.ceil(end / (PAGE * REGION))];
    for (const [region, pages] of this.#regionsBetween(low, high)) {
      for (const [index, number] of pages) {
        const start = (region * REGION + index) * PAGE;
        if (start >= end || start + PAGE <= first) continue;
        if (!this.#emptied(number, Math.max(0, first - start), Math.min(PAGE, end - start))) continue;
        pages.delete(index);
        this.#freePages.push(number);
        this.#budget.give(PLACE_BYTES);
      }
    }
    this.#lastPage = -1;
  }

  writeZeroes(offset: number, length: number): void {
    this.discard(offset, length);
  }

  /** The next sector of a piece lies behind the one before, in the same slab; or neither is there. */
  #follows(slot: number, run: number, next: number): boolean {
    if (slot < 0) return next < 0;
    return next === slot + run && next % SLAB !== 0;
  }

  #bytes(slot: number, offset: number, length: number): Uint8Array {
    const start = (slot % SLAB) * SECTOR + offset;
    const slab = this.#slabs[Math.floor(slot / SLAB)];
    if (slab === undefined) throw new Error("sparse disk: a slot that was never given out");
    return slab.subarray(start, start + length);
  }

  /** Of a sector, or -1. */
  #slot(sector: number): number {
    const within = sector % PAGE;
    const number = this.#number((sector - within) / PAGE);
    return number < 0 ? -1 : (this.#entriesOf(number)[(number % ENTRY_SLAB) * PAGE + within] ?? 0) - 1;
  }

  /** @param clear what is not written of it is to be zero */
  #slotToWrite(sector: number, clear: boolean): number {
    const within = sector % PAGE;
    const page = (sector - within) / PAGE;
    let number = this.#number(page);
    if (number < 0) number = this.#newPage(page);
    const entries = this.#entriesOf(number);
    const at = (number % ENTRY_SLAB) * PAGE + within;
    const there = entries[at] ?? 0;
    if (there > 0) return there - 1;
    const slot = this.#newSlot();
    entries[at] = slot + 1;
    if (clear) this.#bytes(slot, 0, SECTOR).fill(0);
    return slot;
  }

  #number(page: number): number {
    if (page === this.#lastPage) return this.#lastNumber;
    const index = page % REGION;
    this.#lastNumber = this.#regions.get((page - index) / REGION)?.get(index) ?? -1;
    this.#lastPage = page;
    return this.#lastNumber;
  }

  #entriesOf(number: number): Uint32Array {
    const entries = this.#entries[Math.floor(number / ENTRY_SLAB)];
    if (entries === undefined) throw new Error("sparse disk: a page that was never made");
    return entries;
  }

  #newPage(page: number): number {
    const index = page % REGION;
    const region = (page - index) / REGION;
    const known = this.#regions.get(region);
    const reused = this.#freePages.length > 0;
    const grows = !reused && this.#pages % ENTRY_SLAB === 0;
    // All or nothing, so that a write that fails again and again takes nothing.
    this.#budget.take(
      PLACE_BYTES + (known === undefined ? MAP_BYTES : 0) + (grows ? 4 * PAGE * ENTRY_SLAB : 0),
    );
    const pages = known ?? new Map<number, number>();
    if (known === undefined) this.#regions.set(region, pages);
    if (grows) this.#entries.push(new Uint32Array(PAGE * ENTRY_SLAB));
    const number = this.#freePages.pop() ?? this.#pages++;
    pages.set(index, number);
    this.#lastPage = page;
    this.#lastNumber = number;
    return number;
  }

  #newSlot(): number {
    const free = this.#freeSlots.pop();
    if (free !== undefined) return free;
    if (this.#slots % SLAB === 0) {
      // With a place for each in the list of those that are free.
      this.#budget.take(SLAB * (SECTOR + 8));
      this.#slabs.push(new Uint8Array(SLAB * SECTOR));
    }
    return this.#slots++;
  }

  /** Gives the slots of a part of a page back. True: it has no other. */
  #emptied(number: number, from: number, to: number): boolean {
    const entries = this.#entriesOf(number);
    const base = (number % ENTRY_SLAB) * PAGE;
    let left = false;
    for (let i = 0; i < PAGE; i++) {
      const entry = entries[base + i] ?? 0;
      if (entry === 0) continue;
      if (i < from || i >= to) {
        left = true;
        continue;
      }
      entries[base + i] = 0;
      this.#freeSlots.push(entry - 1);
    }
    return !left;
  }

  /** Those that are there, whichever way is the shorter one. */
  #regionsBetween(low: number, high: number): (readonly [number, Map<number, number>])[] {
    if (high - low > this.#regions.size)
      return [...this.#regions].filter(([region]) => region >= low && region < high);
    const found: (readonly [number, Map<number, number>])[] = [];
    for (let region = low; region < high; region++) {
      const pages = this.#regions.get(region);
      if (pages !== undefined) found.push([region, pages]);
    }
    return found;
  }
}
