import {
  FDT_BEGIN_NODE,
  FDT_COMPATIBLE_VERSION,
  FDT_END,
  FDT_END_NODE,
  FDT_HEADER as HEADER,
  FDT_HEADER_SIZE,
  FDT_MAGIC,
  FDT_MAX_DEPTH,
  FDT_PROP,
  FDT_RESERVATION_SIZE,
  FDT_VERSION,
  FdtError,
  isNodeName,
  isPropertyName,
} from "./format.ts";
import { wide, type FdtNode, type FdtTree } from "./tree.ts";

/** A device tree blob of version 17. Throws an FdtError on names that the format does not allow, and on too deep a tree. */
export function writeFdt(tree: Pick<FdtTree, "root"> & Partial<FdtTree>): Uint8Array {
  const structure = new Cells();
  const strings = new Strings();
  writeNode(tree.root, 0, structure, strings);
  structure.put(FDT_END);
  const reservations = [...(tree.reservations ?? []), { address: 0, length: 0 }];
  const structureAt = FDT_HEADER_SIZE + reservations.length * FDT_RESERVATION_SIZE;
  const stringsAt = structureAt + structure.length;
  const blob = new Uint8Array(stringsAt + strings.length);
  const view = new DataView(blob.buffer);
  const header: Readonly<Record<keyof typeof HEADER, number>> = {
    magic: FDT_MAGIC,
    totalsize: blob.length,
    off_dt_struct: structureAt,
    off_dt_strings: stringsAt,
    off_mem_rsvmap: FDT_HEADER_SIZE,
    version: FDT_VERSION,
    last_comp_version: FDT_COMPATIBLE_VERSION,
    boot_cpuid_phys: tree.bootCpu ?? 0,
    size_dt_strings: strings.length,
    size_dt_struct: structure.length,
  };
  for (const [field, offset] of Object.entries(HEADER))
    view.setUint32(offset, header[field as keyof typeof HEADER]);
  const reserved = reservations.flatMap(({ address, length }) => [...wide(address), ...wide(length)]);
  reserved.forEach((cell, i) => view.setUint32(FDT_HEADER_SIZE + 4 * i, cell));
  structure.copyTo(blob, structureAt);
  strings.copyTo(blob, stringsAt);
  return blob;
}

function writeNode(node: FdtNode, depth: number, out: Cells, strings: Strings): void {
  if (depth >= FDT_MAX_DEPTH) throw new FdtError(`nodes nest deeper than ${FDT_MAX_DEPTH}`);
  if (!isNodeName(node.name, depth === 0))
    throw new FdtError(`${JSON.stringify(node.name)} is no name of a node`);
  out.put(FDT_BEGIN_NODE);
  out.bytes(ascii(`${node.name}\0`));
  for (const [name, value] of node.properties) {
    if (!isPropertyName(name)) throw new FdtError(`${JSON.stringify(name)} is no name of a property`);
    out.put(FDT_PROP, value.length, strings.offset(name));
    out.bytes(value);
  }
  for (const child of node.children) writeNode(child, depth + 1, out, strings);
  out.put(FDT_END_NODE);
}

function ascii(text: string): Uint8Array {
  return Uint8Array.from(text, (character) => character.charCodeAt(0));
}

/** Big-endian cells and padded bytes, growing. */
class Cells {
  #bytes = new Uint8Array(1024);
  length = 0;

  put(...values: readonly number[]): void {
    const at = this.#grow(4 * values.length);
    const view = new DataView(this.#bytes.buffer);
    values.forEach((value, i) => view.setUint32(at + 4 * i, value));
  }

  /** With zeroes up to a whole cell. */
  bytes(bytes: Uint8Array): void {
    const at = this.#grow(Math.ceil(bytes.length / 4) * 4);
    this.#bytes.set(bytes, at);
  }

  copyTo(target: Uint8Array, at: number): void {
    target.set(this.#bytes.subarray(0, this.length), at);
  }

  #grow(length: number): number {
    const at = this.length;
    this.length += length;
    if (this.length > this.#bytes.length) {
      const larger = new Uint8Array(Math.max(this.length, 2 * this.#bytes.length));
      larger.set(this.#bytes);
      this.#bytes = larger;
    }
    return at;
  }
}

/** The strings block: each name once. */
class Strings {
  readonly #offsets = new Map<string, number>();
  length = 0;

  offset(name: string): number {
    const known = this.#offsets.get(name);
    if (known !== undefined) return known;
    const at = this.length;
    this.#offsets.set(name, at);
    this.length += name.length + 1;
    return at;
  }

  copyTo(target: Uint8Array, at: number): void {
    for (const [name, offset] of this.#offsets) target.set(ascii(name), at + offset);
  }
}
