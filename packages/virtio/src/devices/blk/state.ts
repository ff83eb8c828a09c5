/** What a saved block device carries beside the disk itself. */
export interface BlkState {
  /** Sectors, as the driver last saw it. */
  readonly capacity: number;
  readonly writeback: boolean;
}

/** Throws a RangeError when it is not what `save` gave. */
export function checkedState(state: unknown): BlkState {
  if (typeof state === "object" && state !== null && "capacity" in state && "writeback" in state) {
    const { capacity, writeback } = state;
    if (
      typeof capacity === "number" &&
      Number.isSafeInteger(capacity) &&
      capacity >= 0 &&
      typeof writeback === "boolean"
    )
      return { capacity, writeback };
  }
  throw new RangeError("blk: saved state is not that of a block device");
}
