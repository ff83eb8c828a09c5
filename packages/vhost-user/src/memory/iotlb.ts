import { PeerError } from "../protocol/errors.ts";
import { IOTLB_READ, IOTLB_WRITE } from "../protocol/numbers.ts";

export interface IotlbEntry {
  readonly iova: number;
  readonly size: number;
  readonly userAddress: number;
  readonly permissions: number;
}

/** More entries than this mean that the front-end forgets to invalidate; a guest of 4 KiB pages has 256 MiB then. */
const MAX_ENTRIES = 65_536;

/** What the front-end said of I/O virtual addresses: where they are among its own user addresses. */
export class Iotlb {
  /** By iova; they do not overlap. */
  #entries: IotlbEntry[] = [];
  #last: IotlbEntry | undefined;

  /** A new translation replaces what it overlaps. Throws a PeerError when there are too many. */
  update(entry: IotlbEntry): void {
    if (entry.size <= 0) throw new PeerError("IOTLB update of no bytes");
    this.invalidate(entry.iova, entry.size);
    if (this.#entries.length >= MAX_ENTRIES) throw new PeerError("too many IOTLB entries");
    this.#entries.splice(this.#firstFrom(entry.iova), 0, entry);
  }

  /** Everything that touches these addresses goes; what is lost beside them is asked for again. */
  invalidate(iova: number, size: number): void {
    const end = iova + size;
    const from = this.#firstEndingAfter(iova);
    let to = from;
    while ((this.#entries[to]?.iova ?? Infinity) < end) to++;
    this.#entries.splice(from, to - from);
    this.#last = undefined;
  }

  clear(): void {
    this.#entries = [];
    this.#last = undefined;
  }

  /** The entry that holds this address, if the device may read it or write it. */
  find(iova: number): IotlbEntry | undefined {
    const last = this.#last;
    if (last !== undefined && iova >= last.iova && iova < last.iova + last.size) return last;
    const entry = this.#entries[this.#firstEndingAfter(iova)];
    if (entry === undefined || entry.iova > iova || (entry.permissions & (IOTLB_READ | IOTLB_WRITE)) === 0)
      return undefined;
    return (this.#last = entry);
  }

  #firstFrom(iova: number): number {
    return this.#search((entry) => entry.iova >= iova);
  }

  #firstEndingAfter(iova: number): number {
    return this.#search((entry) => entry.iova + entry.size > iova);
  }

  #search(reached: (entry: IotlbEntry) => boolean): number {
    let low = 0;
    let high = this.#entries.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      const entry = this.#entries[middle];
      if (entry === undefined || reached(entry)) high = middle;
      else low = middle + 1;
    }
    return low;
  }
}
