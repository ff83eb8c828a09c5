import { VIRTQ_MAX_SIZE } from "../spec/virtqueue.ts";
import type { QueueConfig, QueueStart, QueueState } from "./types.ts";

const WRAP = 0x8000;

function isWhole(value: unknown, limit: number): value is number {
  return typeof value === "number" && Number.isInteger(value) && value >= 0 && value < limit;
}

/** Plain data that says it is a ring at rest. Throws a TypeError when it is not; formats check the numbers. */
export function parseQueueState(value: unknown): QueueState {
  if (typeof value === "object" && value !== null && "nextAvailable" in value && "nextUsed" in value) {
    const { nextAvailable, nextUsed } = value;
    if (isWhole(nextAvailable, 0x1_0000) && isWhole(nextUsed, 0x1_0000)) return { nextAvailable, nextUsed };
  }
  throw new TypeError("saved virtqueue: nextAvailable and nextUsed must be 16-bit numbers");
}

/** A Queue Size that the format allows. */
export function isQueueSize(size: number, packed: boolean): boolean {
  return isWhole(size, VIRTQ_MAX_SIZE + 1) && size > 0 && (packed || (size & (size - 1)) === 0);
}

/** Where a split ring starts: between the two indexes is what is held; at rest nothing is. */
export function readSplitState(config: QueueConfig, state: QueueStart | undefined): QueueState {
  if (!isQueueSize(config.size, false))
    throw new RangeError(`Queue Size ${config.size} is not a power of two`);
  if (state === undefined) return { nextAvailable: 0, nextUsed: 0 };
  const { nextAvailable, nextUsed } = parseQueueState(state);
  const held = heldEntries(config, state);
  if (((nextAvailable - nextUsed) & 0xffff) !== held)
    throw new RangeError(`saved virtqueue ${config.index}: ${nextAvailable} popped but ${nextUsed} used`);
  return { nextAvailable, nextUsed };
}

/** Ring offset and wrap counter of both sides of a packed ring. */
export interface PackedPosition {
  readonly offset: number;
  readonly wrap: boolean;
}

export function packPosition(offset: number, wrap: boolean): number {
  return offset | (wrap ? WRAP : 0);
}

export function readPackedState(
  config: QueueConfig,
  state: QueueStart | undefined,
): { available: PackedPosition; used: PackedPosition } {
  if (!isQueueSize(config.size, true)) throw new RangeError(`Queue Size ${config.size} is out of range`);
  const start = { offset: 0, wrap: true };
  if (state === undefined) return { available: start, used: start };
  const { nextAvailable, nextUsed } = parseQueueState(state);
  const available = readPosition(nextAvailable);
  const used = readPosition(nextUsed);
  const ahead = available.offset - used.offset + (available.wrap === used.wrap ? 0 : config.size);
  const held = heldEntries(config, state);
  if (available.offset >= config.size || used.offset >= config.size || ahead !== held)
    throw new RangeError(`saved virtqueue ${config.index}: impossible position ${nextAvailable}/${nextUsed}`);
  return { available, used };
}

function readPosition(value: number): PackedPosition {
  return { offset: value & ~WRAP, wrap: (value & WRAP) !== 0 };
}

function heldEntries({ index, size }: QueueConfig, { held = 0, again = [] }: QueueStart): number {
  if (!isWhole(held, size + 1) || again.length > held)
    throw new RangeError(`saved virtqueue ${index}: ${again.length} of ${held} held chains`);
  return held;
}
