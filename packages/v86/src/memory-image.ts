/** RAM as a saved state has it: without pages that are all zero, which most are. */
import type { V86Core } from "./internals.ts";
import type { MemoryRun } from "./state-file.ts";

const PAGE = 0x1000;

/** Views of RAM, valid until it moves. */
export function usedMemory(core: V86Core): MemoryRun[] {
  const runs: MemoryRun[] = [];
  for (let page = 0; page < core.memorySize;) {
    const start = page;
    while (page < core.memorySize && !core.isZero(page, PAGE)) page += PAGE;
    if (page > start)
      runs.push({ address: start, bytes: new Uint8Array(core.buffer, core.ramOffset + start, page - start) });
    else page += PAGE;
  }
  return runs;
}

/** Makes RAM what it was. It is not cleared when it is `fresh`, for that would touch all of it. */
export function fillMemory(core: V86Core, runs: readonly MemoryRun[], fresh: boolean): void {
  const ram = new Uint8Array(core.buffer, core.ramOffset, core.memorySize);
  if (!fresh) ram.fill(0);
  for (const { address, bytes } of runs) ram.set(bytes, address);
}
