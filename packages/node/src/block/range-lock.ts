/**
 * Who may work on which bytes of a disk. Those who share bytes go on side by side; one who wants bytes for himself waits
 * for everybody before him and holds up everybody after him, so nobody waits for ever.
 */
export class RangeLock {
  readonly #ranges: LockedRange[] = [];

  /**
   * Asks for the bytes from `start` up to `end`. Whoever gets a range that is not `waiting` has them already; otherwise
   * `granted` is called, once, from a later `leave`.
   */
  enter(start: number, end: number, exclusive: boolean, granted: () => void): LockedRange {
    const range = new LockedRange(start, end, exclusive, granted);
    for (const earlier of this.#ranges) {
      if (!range.conflicts(earlier)) continue;
      range.blockers++;
      earlier.followers.push(range);
    }
    range.place = this.#ranges.length;
    this.#ranges.push(range);
    return range;
  }

  /** Gives the bytes back. */
  leave(range: LockedRange): void {
    const last = this.#ranges.pop();
    if (last !== undefined && last !== range) {
      this.#ranges[range.place] = last;
      last.place = range.place;
    }
    for (const follower of range.followers) {
      follower.blockers--;
      if (follower.blockers === 0) follower.granted();
    }
  }
}

/** Bytes that somebody works on, or waits for. */
export class LockedRange {
  readonly start: number;
  readonly end: number;
  readonly exclusive: boolean;
  readonly granted: () => void;
  /** Those who wait for this one. */
  readonly followers: LockedRange[] = [];
  /** So many are in front. */
  blockers = 0;
  /** Where it stands in the list of the lock. */
  place = 0;

  constructor(start: number, end: number, exclusive: boolean, granted: () => void) {
    this.start = start;
    this.end = end;
    this.exclusive = exclusive;
    this.granted = granted;
  }

  get waiting(): boolean {
    return this.blockers > 0;
  }

  conflicts(other: LockedRange): boolean {
    return (this.exclusive || other.exclusive) && this.start < other.end && other.start < this.end;
  }
}
