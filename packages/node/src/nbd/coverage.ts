/** Ranges of one reply that are apart from each other; a server that cuts it into more is cut off. */
const MAX_RANGES = 4096;

/**
 * Which bytes of a read have come. Chunks "MAY be sent in any order", and "MUST NOT overlap"; nearly always they come in
 * order, and then there is one range.
 */
export class Coverage {
  #length = 0;
  /** Starts and ends, in order, none touching the next. */
  readonly #edges: number[] = [];

  /** Bytes that have come. */
  get length(): number {
    return this.#length;
  }

  clear(): void {
    this.#length = 0;
    this.#edges.length = 0;
  }

  /** False: some of it has come before, or there are too many ranges. */
  add(start: number, end: number): boolean {
    const edges = this.#edges;
    // The first range that ends at or behind `start`.
    let low = 0;
    for (let high = edges.length / 2; low < high;) {
      const middle = (low + high) >>> 1;
      if ((edges[2 * middle + 1] ?? 0) < start) low = middle + 1;
      else high = middle;
    }
    const touchesBefore = edges[2 * low + 1] === start;
    const next = touchesBefore ? low + 1 : low;
    const nextStart = edges[2 * next];
    if (nextStart !== undefined && nextStart < end) return false;
    const touchesNext = nextStart === end;
    if (touchesBefore && touchesNext) edges.splice(2 * low + 1, 2);
    else if (touchesBefore) edges[2 * low + 1] = end;
    else if (touchesNext) edges[2 * next] = start;
    else edges.splice(2 * next, 0, start, end);
    this.#length += end - start;
    return edges.length <= 2 * MAX_RANGES;
  }
}
