import fc from "fast-check";
import type { FdtNode, FdtTree } from "virtio/bus/fdt/tree";

const letter = fc.constantFrom(..."abcdefghijklmnopqrstuvwxyz0123456789,._+-".split(""));
const name = fc.string({ unit: letter, minLength: 1, maxLength: 31 });
const nodeName = fc
  .tuple(name, fc.option(fc.nat({ max: 0xffffffff }), { nil: undefined }))
  .map(([base, unit]) => (unit === undefined ? base : `${base}@${unit.toString(16)}`));

const properties = fc
  .uniqueArray(fc.tuple(name, fc.uint8Array({ maxLength: 40 })), { selector: ([key]) => key, maxLength: 6 })
  .map((entries) => new Map(entries));

const { node } = fc.letrec<{ node: FdtNode }>((tie) => ({
  node: fc.record({
    name: nodeName,
    properties,
    children: fc.oneof(
      { maxDepth: 4 },
      fc.constant([]),
      fc.uniqueArray(tie("node"), { selector: (each) => each.name, maxLength: 4 }),
    ),
  }),
}));

/** A whole tree: names and values of every kind. Siblings have different names, as the specification asks. */
export const arbitraryTree: fc.Arbitrary<FdtTree> = fc.record({
  root: node.map((any) => ({ ...any, name: "" })),
  reservations: fc.array(
    fc
      .record({ address: fc.nat({ max: 2 ** 50 }), length: fc.integer({ min: 1, max: 2 ** 50 }) })
      .filter(({ address, length }) => address + length <= 2 ** 53),
    { maxLength: 3 },
  ),
  bootCpu: fc.nat({ max: 0xffffffff }),
});
