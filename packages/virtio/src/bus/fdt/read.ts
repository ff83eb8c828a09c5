import {
  FDT_BEGIN_NODE,
  FDT_COMPATIBLE_VERSION,
  FDT_END,
  FDT_END_NODE,
  FDT_HEADER as HEADER,
  FDT_HEADER_SIZE,
  FDT_MAGIC,
  FDT_MAX_DEPTH,
  FDT_MAX_NAME,
  FDT_MAX_SIZE,
  FDT_NOP,
  FDT_PROP,
  FDT_RESERVATION_SIZE,
  FDT_VERSION,
  FdtError,
  isNodeName,
  isPropertyName,
} from "./format.ts";
import type { FdtNode, FdtReservation, FdtTree } from "./tree.ts";

/** A node while its children are read. */
interface OpenNode {
  readonly name: string;
  readonly properties: Map<string, Uint8Array>;
  readonly children: FdtNode[];
}

/**
 * Reads a device tree blob. Nothing in it is trusted: throws an FdtError that says what is wrong and where. The tree does
 * not share the bytes. Time and memory are linear in the length of the blob.
 */
export function readFdt(blob: Uint8Array): FdtTree {
  if (blob.length < FDT_HEADER_SIZE) throw new FdtError(`${blob.length} bytes hold no header`);
  const size = new DataView(blob.buffer, blob.byteOffset).getUint32(HEADER.totalsize);
  if (size > blob.length || size < FDT_HEADER_SIZE)
    throw new FdtError(`totalsize is ${size} and there are ${blob.length} bytes`);
  if (size > FDT_MAX_SIZE) throw new FdtError(`${size} bytes are more than ${FDT_MAX_SIZE}`);
  // Not `slice`: of a Node Buffer that is no copy.
  return new Reader(new Uint8Array(blob.subarray(0, size))).tree();
}

class Reader {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  /** Names of properties by their offset: many properties share one. */
  readonly #names = new Map<number, string>();
  readonly #strings: number;
  readonly #stringsEnd: number;
  readonly #end: number;
  #at: number;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer);
    const field = (offset: number): number => this.#view.getUint32(offset);
    if (field(HEADER.magic) !== FDT_MAGIC) throw new FdtError(`magic is ${hex(field(HEADER.magic))}`);
    const oldest = field(HEADER.last_comp_version);
    if (field(HEADER.version) < FDT_VERSION || oldest > FDT_VERSION || oldest < FDT_COMPATIBLE_VERSION)
      throw new FdtError(`version ${field(HEADER.version)}, compatible with ${oldest}, is not known`);
    this.#at = field(HEADER.off_dt_struct);
    this.#end = this.#at + field(HEADER.size_dt_struct);
    this.#strings = field(HEADER.off_dt_strings);
    this.#stringsEnd = this.#strings + field(HEADER.size_dt_strings);
    if (this.#at % 4 !== 0) throw new FdtError(`structure block at ${this.#at} is not aligned to 4 bytes`);
    for (const [what, start, end] of [
      ["structure", this.#at, this.#end],
      ["strings", this.#strings, this.#stringsEnd],
    ] as const)
      if (start < FDT_HEADER_SIZE || end > bytes.length)
        throw new FdtError(`${what} block ${start}-${end} is not inside the ${bytes.length} bytes`);
  }

  tree(): FdtTree {
    const reservations = this.#reservations();
    return { root: this.#root(), reservations, bootCpu: this.#view.getUint32(HEADER.boot_cpuid_phys) };
  }

  #reservations(): readonly FdtReservation[] {
    const reservations: FdtReservation[] = [];
    let at = this.#view.getUint32(HEADER.off_mem_rsvmap);
    if (at % 8 !== 0) throw new FdtError(`memory reservation block at ${at} is not aligned to 8 bytes`);
    for (; ; at += FDT_RESERVATION_SIZE) {
      if (at < FDT_HEADER_SIZE || at + FDT_RESERVATION_SIZE > this.#bytes.length)
        throw new FdtError("memory reservation block has no end");
      const address = this.#u64(at);
      const length = this.#u64(at + 8);
      if (address === 0 && length === 0) return reservations;
      if (address + length > 2 ** 53) throw new FdtError(`reserved memory at ${hex(address)} is beyond 2^53`);
      reservations.push({ address, length });
    }
  }

  /** Not recursive: the depth of a blob is its writer's choice. */
  #root(): FdtNode {
    const open: OpenNode[] = [];
    let root: FdtNode | undefined;
    for (;;) {
      const at = this.#at;
      const token = this.#u32();
      const node = open.at(-1);
      if (token === FDT_NOP) continue;
      if (token === FDT_END) {
        if (root === undefined) throw new FdtError(`FDT_END at ${at} before the root node's end`);
        return root;
      }
      if (root !== undefined) throw new FdtError(`token ${token} at ${at} after the root node`);
      if (token === FDT_BEGIN_NODE) open.push(this.#begin(open.length));
      else if (node === undefined) throw new FdtError(`token ${token} at ${at} outside the root node`);
      else if (token === FDT_PROP) this.#property(node);
      else if (token === FDT_END_NODE) {
        open.pop();
        const parent = open.at(-1);
        if (parent === undefined) root = node;
        else parent.children.push(node);
      } else throw new FdtError(`token ${hex(token)} at ${at} is not known`);
    }
  }

  #begin(depth: number): OpenNode {
    if (depth >= FDT_MAX_DEPTH) throw new FdtError(`nodes nest deeper than ${FDT_MAX_DEPTH}`);
    const name = this.#text(this.#at, this.#end, "name of a node");
    if (!isNodeName(name, depth === 0)) throw new FdtError(`${JSON.stringify(name)} is no name of a node`);
    this.#advance(name.length + 1);
    return { name, properties: new Map(), children: [] };
  }

  #property(node: OpenNode): void {
    if (node.children.length > 0)
      throw new FdtError(`property of ${node.name || "/"} at ${this.#at} after a child node`);
    const length = this.#u32();
    const name = this.#propertyName(this.#u32());
    if (node.properties.has(name)) throw new FdtError(`${name} is twice in ${node.name || "/"}`);
    const start = this.#at;
    this.#advance(length);
    node.properties.set(name, this.#bytes.subarray(start, start + length));
  }

  #propertyName(offset: number): string {
    const known = this.#names.get(offset);
    if (known !== undefined) return known;
    const name = this.#text(this.#strings + offset, this.#stringsEnd, "name of a property");
    if (!isPropertyName(name)) throw new FdtError(`${JSON.stringify(name)} is no name of a property`);
    this.#names.set(offset, name);
    return name;
  }

  /** A string with its NUL before `end`. */
  #text(start: number, end: number, what: string): string {
    const limit = Math.min(end, start + FDT_MAX_NAME + 1);
    for (let at = start; at < limit; at++)
      if (this.#bytes[at] === 0) return String.fromCharCode(...this.#bytes.subarray(start, at));
    throw new FdtError(`${what} at ${start} has no end within ${FDT_MAX_NAME} characters and its block`);
  }

  #u32(): number {
    const at = this.#at;
    this.#advance(4);
    return this.#view.getUint32(at);
  }

  /** Past `length` bytes and what pads them to a whole cell. */
  #advance(length: number): void {
    const next = this.#at + Math.ceil(length / 4) * 4;
    if (next > this.#end)
      throw new FdtError(`structure block ends within the ${length} bytes at ${this.#at}`);
    this.#at = next;
  }

  #u64(at: number): number {
    return this.#view.getUint32(at) * 2 ** 32 + this.#view.getUint32(at + 4);
  }
}

function hex(value: number): string {
  return `0x${value.toString(16)}`;
}
