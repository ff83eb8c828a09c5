import type { Gpa, GuestMemory } from "./guest-memory.ts";

const HALF = 0x1_0000_0000;
/** The first upper half of an address that a number does not hold exactly: 2**53 in steps of 2**32. */
const FAR = 0x20_0000;

/**
 * An le64 of the driver, given in halves, as an address of guest memory. Negative for one of 2**53 and above that this memory
 * does not know.
 */
export function addressOf(memory: GuestMemory, low: number, high: number): Gpa {
  if (high < FAR) return low + high * HALF;
  return memory.address === undefined ? -1 : memory.address(low, high);
}

/** For a message about an address that `addressOf` did not know: as near to it as a number comes. */
export function nearAddress(low: number, high: number): number {
  return low + high * HALF;
}
