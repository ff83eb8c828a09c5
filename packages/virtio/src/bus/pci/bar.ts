import type { PciBar } from "../types.ts";
import type { PciConfigSpace } from "./config-space.ts";
import * as pci from "./registers.ts";

const SMALLEST_IO = 4;
const SMALLEST_MEMORY = 16;
/** The largest I/O BAR: all ports of a PC. */
const LARGEST_IO = 2 ** 16;
const LARGEST_MEMORY32 = 2 ** 31;
/** Addresses are numbers: nothing is decoded above 2^53. */
const LARGEST_MEMORY64 = 2 ** 52;

/** The indexes of the registers that a BAR takes. */
export function slotsOf(bar: PciBar): readonly number[] {
  return bar.kind === "memory64" ? [bar.index, bar.index + 1] : [bar.index];
}

/** Throws a RangeError on a BAR that PCI does not know. */
export function checkBar(bar: PciBar): void {
  const smallest = bar.kind === "io" ? SMALLEST_IO : SMALLEST_MEMORY;
  const largest =
    bar.kind === "io" ? LARGEST_IO : bar.kind === "memory32" ? LARGEST_MEMORY32 : LARGEST_MEMORY64;
  const isPowerOfTwo = Number.isSafeInteger(bar.size) && Number.isInteger(Math.log2(bar.size));
  if (!isPowerOfTwo || bar.size < smallest || bar.size > largest) {
    throw new RangeError(`BAR ${bar.index}: ${bar.size} bytes is no size of a BAR of kind ${bar.kind}`);
  }
  if (slotsOf(bar).some((index) => !Number.isInteger(index) || index < 0 || index >= pci.PCI_BAR_COUNT)) {
    throw new RangeError(`there is no BAR ${bar.index} of kind ${bar.kind}`);
  }
}

/** Makes the register: its type bits, and the address bits that software can write, which is how it finds the size. */
export function declareBar(config: PciConfigSpace, bar: PciBar): void {
  const register = pci.PCI_BAR0 + 4 * bar.index;
  const prefetchable = bar.prefetchable === true ? pci.PCI_BAR_PREFETCHABLE : 0;
  const type =
    bar.kind === "io" ? pci.PCI_BAR_IO : (bar.kind === "memory64" ? pci.PCI_BAR_MEMORY64 : 0) | prefetchable;
  config.set(register, 4, type);
  config.setWritable(register, 4, bar.size >= 2 ** 32 ? 0 : 2 ** 32 - bar.size);
  if (bar.kind !== "memory64") return;
  config.setWritable(register + 4, 4, bar.size <= 2 ** 32 ? 0xffffffff : 2 ** 32 - bar.size / 2 ** 32);
}

/**
 * The address in a BAR, or undefined while it holds none: 0 is what reset leaves, and the highest address is what
 * software writes to find the size.
 */
export function barAddress(config: PciConfigSpace, bar: PciBar): number | undefined {
  const register = pci.PCI_BAR0 + 4 * bar.index;
  const low = config.read(register, 4);
  if (bar.kind === "io") return within((low & ~3) >>> 0, bar.size, LARGEST_IO);
  const address = (low & ~0xf) >>> 0;
  if (bar.kind === "memory32") return within(address, bar.size, 2 ** 32 - 1);
  const wide = address + config.read(register + 4, 4) * 2 ** 32;
  // A 64-bit BAR below 4 GiB whose upper half was written first looks like any other address.
  return wide === 2 ** 32 - bar.size ? undefined : within(wide, bar.size, 2 ** 53);
}

function within(base: number, size: number, limit: number): number | undefined {
  return base === 0 || base + size > limit ? undefined : base;
}
