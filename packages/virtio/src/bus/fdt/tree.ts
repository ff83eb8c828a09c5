import { FdtError } from "./format.ts";

/** A node of a device tree. */
export interface FdtNode {
  /** `name@unit-address`; empty for the root. */
  readonly name: string;
  /** Values as they are in the blob: big-endian cells, strings with their NUL. */
  readonly properties: ReadonlyMap<string, Uint8Array>;
  readonly children: readonly FdtNode[];
}

/** Memory that must not be used: an entry of the memory reservation block. */
export interface FdtReservation {
  readonly address: number;
  /** Bytes. */
  readonly length: number;
}

export interface FdtTree {
  readonly root: FdtNode;
  readonly reservations: readonly FdtReservation[];
  /** Physical id of the boot processor. */
  readonly bootCpu: number;
}

/** Property values, as a writer has them. An empty list is a property that is only there. */
export type FdtValue = Uint8Array | string | readonly string[] | readonly number[];

/** A node from plain values: numbers are cells of 32 bits, a string is one NUL-terminated string. */
export function fdtNode(
  name: string,
  properties: Readonly<Record<string, FdtValue>>,
  children: readonly FdtNode[] = [],
): FdtNode {
  const values = Object.entries(properties).map(([key, value]) => [key, fdtValue(value)] as const);
  return { name, properties: new Map(values), children };
}

/** The bytes of a value. Throws an FdtError on a number that is no cell and on a string that is not ASCII. */
export function fdtValue(value: FdtValue): Uint8Array {
  if (value instanceof Uint8Array) return value;
  if (typeof value === "string") return strings([value]);
  const texts = value.filter((item) => typeof item === "string");
  return texts.length > 0 ? strings(texts) : cells(value.filter((item) => typeof item === "number"));
}

/** A 64-bit number as two cells. */
export function wide(value: number): readonly [number, number] {
  return [Math.floor(value / 2 ** 32), value % 2 ** 32];
}

/** A number in as many cells as `#address-cells` or `#size-cells` say. */
export function inCells(value: number, count: number): readonly number[] {
  if (count === 1 && value < 2 ** 32) return [value];
  if (count === 2) return wide(value);
  throw new FdtError(`0x${value.toString(16)} does not fit ${count} cells`);
}

function cells(values: readonly number[]): Uint8Array {
  const bytes = new DataView(new ArrayBuffer(4 * values.length));
  values.forEach((value, i) => {
    if (!Number.isInteger(value) || value < 0 || value > 0xffffffff)
      throw new FdtError(`${value} is no cell of 32 bits`);
    bytes.setUint32(4 * i, value);
  });
  return new Uint8Array(bytes.buffer);
}

function strings(texts: readonly string[]): Uint8Array {
  const codes = texts.flatMap((text) => [...Array.from(text, (c) => c.charCodeAt(0)), 0]);
  const zeroes = codes.filter((code) => code === 0).length;
  if (zeroes !== texts.length || codes.some((code) => code > 0x7f))
    throw new FdtError(`not ASCII: ${JSON.stringify(texts)}`);
  return Uint8Array.from(codes);
}

/** The first string of a property, or undefined when there is none. */
export function textOf(node: FdtNode, property: string): string | undefined {
  return textsOf(node, property)[0];
}

/** The strings of a property; none when it is not there or does not end with a NUL. */
export function textsOf(node: FdtNode, property: string): readonly string[] {
  const bytes = node.properties.get(property);
  if (bytes === undefined || bytes.length === 0 || bytes.at(-1) !== 0) return [];
  const texts: string[] = [];
  let text = "";
  for (const byte of bytes) {
    if (byte !== 0) text += String.fromCharCode(byte);
    else {
      texts.push(text);
      text = "";
    }
  }
  return texts;
}

/** The cells of a property; none when it is not there. Throws an FdtError when it is no array of cells. */
export function cellsOf(node: FdtNode, property: string): readonly number[] {
  const bytes = node.properties.get(property);
  if (bytes === undefined) return [];
  if (bytes.length % 4 !== 0)
    throw new FdtError(`${property} of ${node.name || "/"}: ${bytes.length} bytes are no cells`);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  return Array.from({ length: bytes.length / 4 }, (_, i) => view.getUint32(4 * i));
}

/** The one cell of a property, or `missing`. */
export function cellOf(node: FdtNode, property: string, missing: number): number {
  return cellsOf(node, property)[0] ?? missing;
}

/** "status": absent means that the device works. */
export function isEnabled(node: FdtNode): boolean {
  const status = textOf(node, "status");
  return status === undefined || status === "okay" || status === "ok";
}
