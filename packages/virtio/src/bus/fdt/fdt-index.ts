import { FdtError } from "./format.ts";
import { cellOf, cellsOf, textsOf, type FdtNode, type FdtTree } from "./tree.ts";

/** An interrupt as a node asks for it: the cells are in the language of the controller's binding. */
export interface FdtInterrupt {
  readonly controller: FdtNode;
  readonly cells: readonly number[];
}

/** A range of addresses of the processor. */
export interface FdtRange {
  readonly base: number;
  /** Bytes. */
  readonly length: number;
}

/** Entries of one `reg` or `ranges`: more is no machine, and every address would be looked for among them. */
const MAX_ENTRIES = 1024;
/** Hops from a nexus to its controller: more is a loop. */
const MAX_NEXUS = 16;

/** A tree with what a node cannot say of itself: its parent, addresses as the processor sees them, interrupts. */
export class FdtIndex {
  readonly tree: FdtTree;
  /** In order of the tree. */
  readonly nodes: readonly FdtNode[];
  readonly #parents = new Map<FdtNode, FdtNode>();
  readonly #phandles = new Map<number, FdtNode>();

  constructor(tree: FdtTree) {
    this.tree = tree;
    const nodes: FdtNode[] = [];
    const visit = (node: FdtNode): void => {
      nodes.push(node);
      const phandle = cellsOf(node, "phandle")[0];
      if (phandle !== undefined && !this.#phandles.has(phandle)) this.#phandles.set(phandle, node);
      for (const child of node.children) {
        this.#parents.set(child, node);
        visit(child);
      }
    };
    visit(tree.root);
    this.nodes = nodes;
  }

  /** `/pcie@10000000`. */
  path(node: FdtNode): string {
    const parent = this.#parents.get(node);
    if (parent === undefined) return "/";
    const above = this.path(parent);
    return above === "/" ? `/${node.name}` : `${above}/${node.name}`;
  }

  parent(node: FdtNode): FdtNode | undefined {
    return this.#parents.get(node);
  }

  /** The node that a phandle means. Throws an FdtError when there is none. */
  byPhandle(phandle: number): FdtNode {
    const node = this.#phandles.get(phandle);
    if (node === undefined) throw new FdtError(`no node has the phandle ${phandle}`);
    return node;
  }

  /** Nodes with one of these strings in `compatible`. */
  compatible(...models: readonly string[]): readonly FdtNode[] {
    return this.nodes.filter((node) => textsOf(node, "compatible").some((text) => models.includes(text)));
  }

  /** Of the addresses in a node's `reg` and of what its parent maps; the specification's default is 2. */
  addressCells(node: FdtNode): number {
    return cellCount(this.#parents.get(node), "#address-cells", 2);
  }

  sizeCells(node: FdtNode): number {
    return cellCount(this.#parents.get(node), "#size-cells", 1);
  }

  /** `reg`, as the processor sees it. Throws an FdtError where the tree is not consistent. */
  registers(node: FdtNode): readonly FdtRange[] {
    const cells = cellsOf(node, "reg");
    const address = this.addressCells(node);
    const step = address + this.sizeCells(node);
    if (step === 0 || cells.length % step !== 0 || cells.length > MAX_ENTRIES * step)
      throw new FdtError(`reg of ${this.path(node)}: ${cells.length} cells, and an entry has ${step}`);
    return Array.from({ length: cells.length / step }, (_, i) => {
      const at = i * step;
      const length = number(cells, at + address, step - address);
      const base = this.toProcessor(node, number(cells, at, address), length);
      if (base + length > 2 ** 53) throw new FdtError(`reg of ${this.path(node)} ends beyond 2^53`);
      return { base, length };
    });
  }

  /** An address of the bus that a node is on, through the `ranges` of all that is above it. */
  toProcessor(node: FdtNode, address: number, length: number): number {
    const bus = this.#parents.get(node);
    const above = bus && this.#parents.get(bus);
    if (bus === undefined || above === undefined) return address;
    if (!bus.properties.has("ranges"))
      throw new FdtError(`${this.path(bus)} has no ranges: its addresses cannot be reached`);
    const ranges = cellsOf(bus, "ranges");
    if (ranges.length === 0) return this.toProcessor(bus, address, length);
    const child = this.addressCells(node);
    const parent = this.addressCells(bus);
    const step = child + parent + cellCount(bus, "#size-cells", 1);
    if (ranges.length > MAX_ENTRIES * step) throw new FdtError(`${this.path(bus)} has too many ranges`);
    for (let at = 0; at + step <= ranges.length; at += step) {
      const from = number(ranges, at, child);
      const size = number(ranges, at + child + parent, step - child - parent);
      if (address < from || address + length > from + size) continue;
      return this.toProcessor(bus, number(ranges, at + child, parent) + (address - from), length);
    }
    throw new FdtError(`0x${address.toString(16)} is in no range of ${this.path(bus)}`);
  }

  /** The first interrupt of a node, or undefined when it has none. Throws an FdtError where the tree is not consistent. */
  interrupt(node: FdtNode): FdtInterrupt | undefined {
    const extended = cellsOf(node, "interrupts-extended");
    if (extended.length > 0) {
      const controller = this.byPhandle(extended[0] ?? 0);
      return this.#resolve(controller, [], take(extended, 1, interruptCells(controller)), MAX_NEXUS);
    }
    const cells = cellsOf(node, "interrupts");
    if (cells.length === 0) return undefined;
    const parent = this.#interruptParent(node);
    const unit = cellsOf(node, "reg").slice(0, this.addressCells(node));
    return this.#resolve(parent, unit, take(cells, 0, interruptCells(parent)), MAX_NEXUS);
  }

  /** As `interrupt`, for a device that has no node: what `nexus` maps its unit address and interrupt to. */
  mapped(nexus: FdtNode, unit: readonly number[], interrupt: readonly number[]): FdtInterrupt | undefined {
    return this.#resolve(nexus, unit, interrupt, MAX_NEXUS);
  }

  #interruptParent(node: FdtNode): FdtNode {
    for (let at: FdtNode | undefined = node; at !== undefined; at = this.#parents.get(at)) {
      const phandle = cellsOf(at, "interrupt-parent")[0];
      if (phandle !== undefined) return this.byPhandle(phandle);
      if (at !== node && (at.properties.has("interrupt-controller") || at.properties.has("interrupt-map")))
        return at;
    }
    throw new FdtError(`${this.path(node)} has interrupts and no interrupt-parent`);
  }

  /** "Interrupt Nexus": through maps until there is a controller. */
  #resolve(
    node: FdtNode,
    unit: readonly number[],
    cells: readonly number[],
    hops: number,
  ): FdtInterrupt | undefined {
    if (!node.properties.has("interrupt-map")) return { controller: node, cells };
    if (hops === 0) throw new FdtError(`the interrupt map of ${this.path(node)} leads nowhere`);
    const map = cellsOf(node, "interrupt-map");
    const mask = cellsOf(node, "interrupt-map-mask");
    const units = cellCount(node, "#address-cells", 0);
    const key = [...take(unit, 0, units), ...cells];
    for (let at = 0; at < map.length;) {
      const matches = key.every(
        (cell, i) => ((cell ^ (map[at + i] ?? 0)) & (mask[i] ?? 0xffffffff)) >>> 0 === 0,
      );
      const parent = this.byPhandle(map[at + key.length] ?? 0);
      const parentUnits = cellCount(parent, "#address-cells", 0);
      const unitAt = at + key.length + 1;
      const next = unitAt + parentUnits + interruptCells(parent);
      if (next > map.length) throw new FdtError(`the interrupt map of ${this.path(node)} ends in an entry`);
      if (matches)
        return this.#resolve(parent, map.slice(unitAt), map.slice(unitAt + parentUnits, next), hops - 1);
      at = next;
    }
    return undefined;
  }
}

/** A number of `count` cells. Throws an FdtError beyond 2^53. */
export function number(cells: readonly number[], at: number, count: number): number {
  let value = 0;
  for (let i = 0; i < count; i++) {
    value = value * 2 ** 32 + (cells[at + i] ?? 0);
    if (value >= 2 ** 53) throw new FdtError(`cells ${at} to ${at + count - 1} are a number beyond 2^53`);
  }
  return value;
}

/** More cells than any binding has. */
const MAX_CELLS = 8;

function cellCount(node: FdtNode | undefined, property: string, missing: number): number {
  if (node === undefined) return missing;
  const count = cellOf(node, property, missing);
  if (count > MAX_CELLS) throw new FdtError(`${property} of ${node.name || "/"} is ${count}`);
  return count;
}

function interruptCells(controller: FdtNode): number {
  const count = cellCount(controller, "#interrupt-cells", 0);
  if (count === 0) throw new FdtError(`${controller.name || "/"} is no interrupt controller`);
  return count;
}

function take(cells: readonly number[], at: number, count: number): readonly number[] {
  if (at + count > cells.length)
    throw new FdtError(`${cells.length} cells, and ${at + count} were asked for`);
  return cells.slice(at, at + count);
}
