/** Resource descriptors of `_CRS`: the ACPI specification's "Resource Data Types for ACPI". */
import { type Aml, buffer } from "./aml.ts";
import { type Bytes, concat, le } from "./bytes.ts";

const END_TAG = [0x79, 0];
const FIXED_RANGE = 0x0c;
const TYPE_MEMORY = 0;
const TYPE_IO = 1;
const TYPE_BUS = 2;
const ENTIRE_RANGE = 3;
const READ_WRITE = 1;

/** `ResourceTemplate () { … }` */
export function resourceTemplate(...descriptors: readonly Bytes[]): Aml {
  return buffer(concat(...descriptors, END_TAG));
}

/** `Memory32Fixed`: registers that the device uses. */
export function memory32Fixed(base: number, length: number): Bytes {
  return concat([0x86], le(9, 2), [READ_WRITE], le(base, 4), le(length, 4));
}

/** `Interrupt`: one level-triggered, active-high global system interrupt, which other devices may have too. */
export function sharedInterrupt(gsi: number): Bytes {
  const CONSUMER = 1;
  const SHARED = 8;
  return concat([0x89], le(6, 2), [CONSUMER | SHARED, 1], le(gsi, 4));
}

/** `IO`: ports that the device uses. */
export function ioPorts(base: number, length: number): Bytes {
  const DECODE_16 = 1;
  return concat([0x47, DECODE_16], le(base, 2), le(base, 2), [1, length]);
}

/** `WordBusNumber`: the buses below a bridge. */
export function busWindow(first: number, last: number): Bytes {
  return word(TYPE_BUS, 0, first, last);
}

/** `WordIO`: ports that a bridge passes on. */
export function ioWindow(first: number, last: number): Bytes {
  return word(TYPE_IO, ENTIRE_RANGE, first, last);
}

/** `DWordMemory`: addresses that a bridge passes on, not cacheable. */
export function memoryWindow(first: number, last: number): Bytes {
  return concat(
    [0x87],
    le(23, 2),
    [TYPE_MEMORY, FIXED_RANGE, READ_WRITE],
    ...[0, first, last, 0, last - first + 1].map((field) => le(field, 4)),
  );
}

function word(type: number, flags: number, first: number, last: number): Bytes {
  return concat(
    [0x88],
    le(13, 2),
    [type, FIXED_RANGE, flags],
    ...[0, first, last, 0, last - first + 1].map((field) => le(field, 2)),
  );
}
