import fc from "fast-check";
import { placeRing, type RingShape } from "./place.ts";
import { positionFromState, RawPackedDevice, RawPackedDriver } from "./raw-packed.ts";
import { RawSplitDevice, RawSplitDriver } from "./raw-split.ts";
import type { Element, RawDevice, RawDriver } from "./raw.ts";
import { Arena, TestMemory } from "./test-memory.ts";
import type { QueueConfig, QueueState } from "virtio/virtqueue/types";

/** A ring, and memory around it: areas in one region, tables in a second, data in two that touch. */
export interface RingWorld {
  readonly memory: TestMemory;
  readonly config: QueueConfig;
  readonly tables: Arena;
  readonly shape: RingShape;
}

/** First address of the data regions; a buffer may lie across the border in their middle. */
export const DATA = 0x20_0000;
export const DATA_LENGTH = 4096;
/** Where the ring's areas lie. */
export const RING = 0x1000;
/** Where indirect tables lie. */
export const TABLES = 0x10_0000;
/** Bytes. */
export const TABLES_LENGTH: number = 16 * 1024;

export function createWorld(shape: RingShape): RingWorld {
  const arena = new Arena(RING);
  const config = placeRing(arena, shape);
  const end = Math.ceil((arena.take(64) + 64) / 8) * 8;
  const half = DATA_LENGTH / 2;
  const memory = new TestMemory(
    [RING, end - RING],
    [TABLES, TABLES_LENGTH],
    [DATA, half],
    [DATA + half, half],
  );
  return { memory, config, tables: new Arena(TABLES), shape };
}

export function createRawDriver({ memory, config, tables, shape }: RingWorld, start: number): RawDriver {
  return shape.packed
    ? new RawPackedDriver(memory, config, tables, positionFromState(start))
    : new RawSplitDriver(memory, config, tables, start);
}

export function createRawDevice({ memory, config, shape }: RingWorld): RawDevice {
  return shape.packed ? new RawPackedDevice(memory, config) : new RawSplitDevice(memory, config);
}

/** The state in which a device queue starts at a given place. */
export function stateAt(start: number): QueueState {
  return { nextAvailable: start, nextUsed: start };
}

/** Rings of every kind: format is given, size and features vary, from 1 on; packed ones of any size. */
export function shapes(packed: boolean, largest: number): fc.Arbitrary<RingShape> {
  const size = packed
    ? fc.integer({ min: 1, max: largest })
    : fc.integer({ min: 0, max: Math.floor(Math.log2(largest)) }).map((exponent) => 2 ** exponent);
  return fc.record({
    packed: fc.constant(packed),
    size,
    eventIdx: fc.boolean(),
    indirect: fc.boolean(),
    inOrder: fc.boolean(),
    index: fc.integer({ min: 0, max: 200 }),
  });
}

/** Where the ring stands when the history begins: often just before an index wraps. */
export function starts(shape: RingShape): fc.Arbitrary<number> {
  if (!shape.packed)
    return fc.oneof(
      fc.constant(0),
      fc.integer({ min: 65_520, max: 65_535 }),
      fc.integer({ min: 0, max: 65_535 }),
    );
  const offset = fc.integer({ min: 0, max: shape.size - 1 });
  return fc.tuple(offset, fc.boolean()).map(([at, wrap]) => at | (wrap ? 0x8000 : 0));
}

/** Elements of one buffer, readable ones first; `limit` elements at most. */
export function buffers(limit: number): fc.Arbitrary<Element[]> {
  const element = fc.record({
    offset: fc.integer({ min: 0, max: DATA_LENGTH - 1 }),
    length: fc.integer({ min: 0, max: 600 }),
  });
  return fc
    .tuple(fc.array(element, { maxLength: 4 }), fc.array(element, { maxLength: 4 }))
    .map(([readable, writable]) =>
      [
        ...readable.map((e) => ({ ...e, writable: false })),
        ...writable.map((e) => ({ ...e, writable: true })),
      ]
        .slice(0, limit)
        .map(({ offset, length, writable: isWritable }) => ({
          gpa: DATA + offset,
          length: Math.min(length, DATA_LENGTH - offset),
          writable: isWritable,
        })),
    )
    .filter((elements) => elements.length > 0);
}
