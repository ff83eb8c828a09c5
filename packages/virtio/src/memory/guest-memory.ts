import type { VirtioFault } from "../fault.ts";

/** A guest-physical address or length. The wire type is le64; for 2**53 and above see `GuestMemory.address`. */
export type Gpa = number;

/** One device-readable or device-writable piece of guest memory. Lies within one region: `view` of it never fails. */
export interface Segment {
  readonly gpa: Gpa;
  readonly length: number;
}

/** Guest memory, as a device or a driver in this process sees it. */
export interface GuestMemory {
  /**
   * Changes whenever a mapping changes (the machine's memory grew, a memory table was replaced). Views taken under an
   * older epoch are stale: do not keep one across an `await` without comparing this.
   */
  readonly epoch: number;
  /** The bytes themselves, no copy. Throws a VirtioFault unless one region backs the whole range. */
  view(gpa: Gpa, length: number): Uint8Array;
  /**
   * How many bytes from `gpa` on lie in one region: `length` at most, 0 when `gpa` is not backed. Never throws. `writable`: that
   * the device may write as well, where an IOMMU tells such memory from other. Default false.
   */
  contiguous(gpa: Gpa, length: number, writable?: boolean): number;
  /** Tell the machine that the device wrote here: JIT invalidation, the dirty log under migration. */
  wrote(gpa: Gpa, length: number): void;
  /** Mappings do not move or go while a request is worked on: asynchronous I/O may use views of it. Default false. */
  readonly pinned?: boolean;
  /**
   * Writes are being noted for somebody who reads the pages at any time: `wrote` must be told again when a request is
   * done, for the bytes may have come after the first time.
   */
  readonly logging?: boolean;
  /**
   * Whether an access that failed with this fault may be tried again later: its address has a translation that was asked
   * for. Absent: never.
   */
  awaits?(fault: VirtioFault): boolean;
  /**
   * The address below 2**53 under which this memory knows a driver's address of 2**53 or more, given in halves of 32 bits: a grant
   * of Xen, for one, has bit 63 set. Only asked about such addresses. Never throws: for one that means nothing it gives any
   * address that is not backed. Absent: such addresses are a fault of the driver.
   */
  address?(low: number, high: number): Gpa;
}
