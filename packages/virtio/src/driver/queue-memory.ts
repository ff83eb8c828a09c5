import type { Gpa } from "../memory/guest-memory.ts";
import type { IndirectTables } from "../virtqueue/indirect-tables.ts";
import {
  legacyLayout,
  splitDescriptorBytes,
  splitDeviceBytes,
  splitDriverBytes,
} from "../virtqueue/split-layout.ts";
import type { QueueConfig } from "../virtqueue/types.ts";
import type { DmaMemory } from "./types.ts";

/** A virtqueue's memory, as it was taken from the pool. */
export interface AllocatedQueue {
  readonly config: QueueConfig;
  readonly tables: IndirectTables | undefined;
  readonly blocks: readonly Block[];
}

interface Block {
  readonly gpa: Gpa;
  readonly length: number;
}

interface QueueShape {
  readonly index: number;
  readonly size: number;
  readonly packed: boolean;
  readonly eventIdx: boolean;
  readonly indirect: boolean;
  readonly inOrder: boolean;
}

/** Descriptors in an indirect table: enough for a header, a status and 128 KiB in pages. */
const INDIRECT_ENTRIES = 34;
const PACKED_EVENT_BYTES = 4;

/**
 * Zeroed, aligned memory for one virtqueue of this shape. Throws a RangeError when there is no room; nothing is allocated then.
 * `align`: as `DriverTransport.legacyQueueAlign`.
 */
export function allocateQueue(
  memory: DmaMemory,
  align: number | undefined,
  shape: QueueShape,
): AllocatedQueue {
  const blocks: Block[] = [];
  try {
    return allocate(memory, align, shape, blocks);
  } catch (error) {
    freeBlocks(memory, blocks);
    throw error;
  }
}

export function freeQueue(memory: DmaMemory, { blocks }: AllocatedQueue): void {
  freeBlocks(memory, blocks);
}

function allocate(
  memory: DmaMemory,
  align: number | undefined,
  { index, size, packed, eventIdx, indirect, inOrder }: QueueShape,
  blocks: Block[],
): AllocatedQueue {
  const take = (length: number, alignment: number): Gpa => {
    const gpa = memory.allocate(length, alignment);
    blocks.push({ gpa, length });
    return gpa;
  };
  const common = { index, size, eventIdx, indirect, inOrder };
  const entries = Math.min(INDIRECT_ENTRIES, size);
  const tables = indirect && entries > 1 ? { gpa: take(size * entries * 16, 16), entries } : undefined;
  if (align !== undefined) {
    const { length } = legacyLayout(0, size, align);
    const { descriptorArea, driverArea, deviceArea } = legacyLayout(take(length, align), size, align);
    return { config: { ...common, descriptorArea, driverArea, deviceArea }, tables, blocks };
  }
  const config = {
    ...common,
    descriptorArea: take(splitDescriptorBytes(size), 16),
    driverArea: packed ? take(PACKED_EVENT_BYTES, 4) : take(splitDriverBytes(size), 4),
    deviceArea: packed ? take(PACKED_EVENT_BYTES, 4) : take(splitDeviceBytes(size), 4),
  };
  return { config, tables, blocks };
}

function freeBlocks(memory: DmaMemory, blocks: readonly Block[]): void {
  for (const { gpa, length } of blocks) memory.free(gpa, length);
}
