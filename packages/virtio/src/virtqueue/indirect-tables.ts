import type { Gpa } from "../memory/guest-memory.ts";

/** Memory that a driver queue may put indirect descriptor tables in: one table for each descriptor of the ring. */
export interface IndirectTables {
  /** `size * entries * 16` bytes from here, 16-aligned. */
  readonly gpa: Gpa;
  /** Descriptors a table holds; longer chains go into the ring itself. At most the Queue Size. */
  readonly entries: number;
}

/** What can be offered in a ring of this size, and how many ring slots it takes; 0: it does not fit at all. */
export function slotsFor(segments: number, size: number, tables: IndirectTables | undefined): number {
  if (segments === 0 || segments > size) return 0;
  return tables !== undefined && segments > 1 && segments <= tables.entries ? 1 : segments;
}
