import { fstatSync } from "node:fs";
import { performance } from "node:perf_hooks";
import { addressOf } from "../native/address.ts";
import { libc, type Address, type Libc } from "../native/libc.ts";
import { Mapping } from "../native/mapping.ts";

/** A file is mapped in pieces of so many bytes, when they are first read. */
const PIECE = 2 ** 30;
/** What lies behind so many pieces is not mapped. */
const MAX_PIECES = 1024;
const PAGE = 4096;
/** It is asked for so many bytes at once what of them is in memory. */
const WINDOW = 2 ** 21;
const WINDOW_PAGES = WINDOW / PAGE;
/** Windows whose answers are kept. */
const SLOTS = 4096;
/** Milliseconds that an answer is believed. */
const TRUST = 100;

/**
 * Reads of a file that need no system call: it is mapped, and what the page cache holds is copied. Pages that are not there are left
 * to the caller, so that nobody waits for the disk here; a page that the system drops within the last moment is waited for.
 *
 * A page that cannot be read, because the disk fails or another process cut the file shorter in the last moment, ends this process
 * (SIGBUS), as with any mapped file. That is why it is only done where it was asked for.
 */
export class MappedFile {
  readonly #fd: number;
  readonly #libc: Libc = libc("mapping a disk");
  readonly #pieces: (Mapping | undefined)[] = [];
  /** Of each slot: the window that it is about, and when it was asked for. */
  readonly #windows = new Float64Array(SLOTS).fill(-1);
  readonly #asked = new Float64Array(SLOTS);
  /** Of each slot: what `mincore` said, a byte a page. */
  readonly #resident = new Uint8Array(new SharedArrayBuffer(SLOTS * WINDOW_PAGES));
  readonly #residentAt: Address = addressOf(this.#resident);
  /** Bytes that the file really has, and when that was asked for. */
  #size = 0;
  #measured = -Infinity;
  /** Mapping failed; all reads are the caller's. */
  #failed = false;

  /** `mincore` tells only owners and writers of a file the truth. */
  static possible(fd: number, readOnly: boolean): boolean {
    return !readOnly || [0, fstatSync(fd).uid].includes(process.geteuid?.() ?? -1);
  }

  constructor(fd: number) {
    this.#fd = fd;
  }

  /** Fills `targets`, `total` bytes, from what is in memory. False: not all of it is; nothing was copied. */
  read(offset: number, targets: readonly Uint8Array[], total: number): boolean {
    const end = offset + total;
    const now = performance.now();
    if (now - this.#measured > TRUST) this.#measure(now);
    if (this.#failed || end > this.#size) return false;
    const piece = this.#piece(Math.floor(offset / PIECE));
    // A request across two pieces is rare.
    if (piece === undefined || Math.floor((end - 1) / PIECE) !== Math.floor(offset / PIECE)) return false;
    const first = Math.floor(offset / PAGE);
    const last = Math.floor((end - 1) / PAGE);
    for (let page = first; page <= last;) {
      const window = Math.floor(page / WINDOW_PAGES);
      const stop = Math.min(last + 1, (window + 1) * WINDOW_PAGES);
      if (!this.#isResident(window, page, stop, now, piece)) return false;
      page = stop;
    }
    let from = piece.address + (offset % PIECE);
    for (const target of targets) {
      this.#libc.memcpy(addressOf(target), from, target.length);
      from += target.length;
    }
    return true;
  }

  close(): void {
    for (const piece of this.#pieces) piece?.unmap();
    this.#pieces.length = 0;
    this.#failed = true;
  }

  #isResident(window: number, page: number, stop: number, now: number, piece: Mapping): boolean {
    const slot = window % SLOTS;
    const base = slot * WINDOW_PAGES;
    if (this.#windows[slot] !== window || now - (this.#asked[slot] ?? 0) > TRUST) {
      const start = (window * WINDOW) % PIECE;
      const length = Math.min(WINDOW, piece.length - start);
      if (this.#libc.mincore(piece.address + start, length, this.#residentAt + base) !== 0) return false;
      this.#windows[slot] = window;
      this.#asked[slot] = now;
    }
    const resident = this.#resident;
    const end = base + stop - window * WINDOW_PAGES;
    for (let at = base + page - window * WINDOW_PAGES; at < end; at++)
      if (((resident[at] ?? 0) & 1) === 0) {
        // It is on its way into memory now: look again next time.
        this.#windows[slot] = -1;
        return false;
      }
    return true;
  }

  #measure(now: number): void {
    const { size } = fstatSync(this.#fd);
    // The last piece grows with the file.
    if (size !== this.#size) this.#pieces.pop()?.unmap();
    if (size < this.#size) this.#windows.fill(-1);
    this.#size = size;
    this.#measured = now;
  }

  #piece(index: number): Mapping | undefined {
    const known = this.#pieces[index];
    if (known !== undefined || index >= MAX_PIECES) return known;
    try {
      const start = index * PIECE;
      const length = Math.min(PIECE, this.#size - start);
      return (this.#pieces[index] = Mapping.map(this.#fd, start, length, { readOnly: true }));
    } catch {
      this.#failed = true;
      return undefined;
    }
  }
}
