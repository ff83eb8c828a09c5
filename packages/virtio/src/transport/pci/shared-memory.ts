import { wholeOption } from "../../check-option.ts";
import type { AccessSize, IoHandler, PciBar } from "../../bus/types.ts";
import { powerOfTwo, SHARED_MEMORY_BAR } from "./layout.ts";
import type { PciSharedMemory } from "./options.ts";

interface Placed {
  readonly id: number;
  readonly offset: number;
  readonly length: number;
  readonly handler: IoHandler;
}

const PAGE = 4096;

/** The regions side by side in one 64-bit BAR, each at a multiple of a page. Throws a RangeError. */
export function placeSharedMemory(
  regions: readonly PciSharedMemory[],
  minimumSize: number,
): { readonly bar: PciBar; readonly placed: readonly Placed[] } {
  const placed: Placed[] = [];
  let end = 0;
  for (const { id, length, handler } of regions) {
    // "The cap.id MUST be unique for any one device instance."
    wholeOption("PCI: id of shared memory", id, 0, 0xff);
    if (placed.some((other) => other.id === id))
      throw new RangeError(`PCI: two regions of shared memory have the id ${id}`);
    wholeOption("PCI: length of shared memory", length, 1, Number.MAX_SAFE_INTEGER);
    placed.push({ id, offset: end, length, handler });
    end += Math.ceil(length / PAGE) * PAGE;
  }
  const find = (offset: number): Placed | undefined =>
    placed.find((region) => offset >= region.offset && offset < region.offset + region.length);
  const handler: IoHandler = {
    read(offset: number, size: AccessSize): number {
      const region = find(offset);
      return region === undefined ? 0 : region.handler.read(offset - region.offset, size);
    },
    write(offset: number, size: AccessSize, value: number): void {
      const region = find(offset);
      region?.handler.write(offset - region.offset, size, value);
    },
  };
  const size = powerOfTwo(Math.max(end, PAGE, minimumSize));
  return { bar: { index: SHARED_MEMORY_BAR, kind: "memory64", size, prefetchable: true, handler }, placed };
}
