import type { AccessSize } from "../bus/types.ts";
import type { BusAccess, BusSpace } from "./platform.ts";

/** Registers of a device, by offset. Nothing outside `length` is ever accessed. */
export interface RegisterWindow {
  /** Bytes. */
  readonly length: number;
  read(offset: number, size: AccessSize): number;
  write(offset: number, size: AccessSize, value: number): void;
}

/** A window at an address of the bus. Throws a RangeError on an access beyond its end. */
export class BusWindow implements RegisterWindow {
  readonly length: number;
  readonly #bus: BusAccess;
  readonly #space: BusSpace;
  readonly #base: number;

  constructor(bus: BusAccess, space: BusSpace, base: number, length: number) {
    this.#bus = bus;
    this.#space = space;
    this.#base = base;
    this.length = length;
  }

  read(offset: number, size: AccessSize): number {
    checkInside(this, offset, size);
    return this.#bus.read(this.#space, this.#base + offset, size);
  }

  write(offset: number, size: AccessSize, value: number): void {
    checkInside(this, offset, size);
    this.#bus.write(this.#space, this.#base + offset, size, value);
  }
}

export function checkInside({ length }: RegisterWindow, offset: number, size: number): void {
  if (offset < 0 || offset + size > length) {
    throw new RangeError(`registers end at ${length}: no ${size} bytes at ${offset}`);
  }
}

/**
 * Reads configuration space from `start` of a window on. One field (1, 2, 4 or 8 bytes, aligned) is read at its own
 * width, a 64-bit one by halves, as "PCI Device Layout" and "MMIO Device Register Layout" ask; anything longer is taken
 * for an array of bytes.
 */
export function readConfigBytes(
  window: RegisterWindow,
  start: number,
  offset: number,
  target: Uint8Array,
): void {
  const size = fieldWidth(offset, target.length);
  for (let at = 0; at < target.length; at += size) {
    const value = window.read(start + offset + at, size);
    for (let i = 0; i < size; i++) target[at + i] = value >>> (8 * i);
  }
}

/** Bound of `readStableConfigBytes`. */
const STABLE_READS = 100;

/**
 * As `readConfigBytes`, for the legacy interface, which has no generation: what takes several accesses is read until two
 * reads agree ("Legacy Interface: Device Configuration Space"). Throws when it never stands still.
 */
export function readStableConfigBytes(
  window: RegisterWindow,
  start: number,
  offset: number,
  target: Uint8Array,
): void {
  readConfigBytes(window, start, offset, target);
  if (fieldWidth(offset, target.length) === target.length) return;
  const again = new Uint8Array(target.length);
  for (let reads = 0; reads < STABLE_READS; reads++) {
    readConfigBytes(window, start, offset, again);
    if (again.every((byte, i) => byte === target[i])) return;
    target.set(again);
  }
  throw new Error(`configuration at ${offset} never stood still in ${STABLE_READS} reads`);
}

/** The same for writing. */
export function writeConfigBytes(
  window: RegisterWindow,
  start: number,
  offset: number,
  source: Uint8Array,
): void {
  const size = fieldWidth(offset, source.length);
  for (let at = 0; at < source.length; at += size) {
    let value = 0;
    for (let i = size - 1; i >= 0; i--) value = value * 256 + (source[at + i] ?? 0);
    window.write(start + offset + at, size, value);
  }
}

function fieldWidth(offset: number, length: number): AccessSize {
  const width = length === 8 ? 4 : length;
  return (width === 2 || width === 4) && offset % width === 0 ? width : 1;
}
