import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { FDT_MAX_DEPTH, FdtError } from "virtio/bus/fdt/format";
import { readFdt } from "virtio/bus/fdt/read";
import { cellsOf, fdtNode, textOf, textsOf, type FdtNode } from "virtio/bus/fdt/tree";
import { writeFdt } from "virtio/bus/fdt/write";
import { arbitraryTree } from "./arbitrary-tree.ts";

const small = writeFdt({
  root: fdtNode("", { compatible: ["a,b", "c"], "#address-cells": [2] }, [
    fdtNode("cpu@0", { reg: [0], status: "okay" }),
    fdtNode("memory@80000000", { reg: [0, 0x80000000, 0, 0x1000] }),
  ]),
  reservations: [{ address: 0x1000, length: 0x2000 }],
});

test("what is written is read again: names, values, order, reservations, the boot processor", () => {
  fc.assert(
    fc.property(arbitraryTree, (tree) => {
      expect(readFdt(writeFdt(tree))).toEqual(tree);
    }),
  );
});

test("a blob is read from the middle of a larger buffer, and does not share it", () => {
  const buffer = new Uint8Array(small.length + 13);
  buffer.set(small, 13);
  const tree = readFdt(buffer.subarray(13));
  buffer.fill(0xff);
  expect(textsOf(tree.root, "compatible")).toEqual(["a,b", "c"]);
  expect(cellsOf(tree.root.children[1] ?? tree.root, "reg")).toEqual([0, 0x80000000, 0, 0x1000]);
});

describe("hostile blobs", () => {
  test("of random bytes, and with random bytes changed, are read or refused with an FdtError", () => {
    const changes = fc.array(fc.tuple(fc.nat({ max: small.length - 1 }), fc.nat({ max: 255 })), {
      minLength: 1,
      maxLength: 8,
    });
    fc.assert(
      fc.property(changes, (list) => {
        const blob = small.slice();
        for (const [at, value] of list) blob[at] = value;
        readOrRefuse(blob);
      }),
      { numRuns: 3000 },
    );
    fc.assert(fc.property(fc.uint8Array({ maxLength: 200 }), readOrRefuse));
  });

  test("cut anywhere are refused", () => {
    for (let length = 0; length < small.length; length++)
      expect(() => readFdt(small.subarray(0, length))).toThrow(FdtError);
  });

  const field = (offset: number, value: number): Uint8Array => {
    const blob = small.slice();
    new DataView(blob.buffer).setUint32(offset, value);
    return blob;
  };
  test.each([
    ["magic", field(0, 1), /magic is 0x1/],
    ["size", field(4, 0x7fffffff), /totalsize is 2147483647/],
    ["structure block", field(8, 0xfffffff0), /structure block .* is not inside/],
    ["alignment of the structure block", field(8, 61), /not aligned to 4/],
    ["strings block", field(12, 0xffffff00), /strings block .* is not inside/],
    [
      "reservations without an end",
      field(16, small.length - 8 - (small.length % 8)),
      /reservation block has no end/,
    ],
    ["version", field(20, 16), /version 16/],
    ["compatible version", field(24, 18), /compatible with 18/],
  ])("a wrong %s is named", (_what, blob, message) => {
    expect(() => readFdt(blob)).toThrow(message);
  });

  test("deeper than the bound are neither read nor written", () => {
    const nest = (depth: number): FdtNode => {
      let node = fdtNode("x", {});
      for (let i = 2; i < depth; i++) node = fdtNode("x", {}, [node]);
      return fdtNode("", {}, [node]);
    };
    expect(readFdt(writeFdt({ root: nest(FDT_MAX_DEPTH) })).root.children).toHaveLength(1);
    expect(() => writeFdt({ root: nest(FDT_MAX_DEPTH + 1) })).toThrow(/deeper than 64/);
    expect(() => readFdt(deepBlob(100_000))).toThrow(/deeper than 64/);
  });

  test("with names that the format does not allow are not written", () => {
    expect(() => writeFdt({ root: fdtNode("x", {}) })).toThrow(/"x" is no name of a node/);
    expect(() => writeFdt({ root: fdtNode("", { "a b": [] }) })).toThrow(/"a b" is no name of a property/);
    expect(() => writeFdt({ root: fdtNode("", {}, [fdtNode("a/b", {})]) })).toThrow(/no name of a node/);
    expect(() => fdtNode("", { a: [2 ** 32] })).toThrow(/4294967296 is no cell/);
    expect(() => fdtNode("", { a: "ü" })).toThrow(/not ASCII/);
  });
});

test("a property that is no string, or no cells, is said to be none", () => {
  const node = fdtNode("", { broken: Uint8Array.of(65), text: "x" });
  expect(textOf(node, "broken")).toBeUndefined();
  expect(textOf(node, "absent")).toBeUndefined();
  expect(() => cellsOf(node, "broken")).toThrow(/1 bytes are no cells/);
});

function readOrRefuse(blob: Uint8Array): void {
  try {
    readFdt(blob);
  } catch (error) {
    expect(error).toBeInstanceOf(FdtError);
  }
}

/** FDT_BEGIN_NODE, an empty name, again and again. */
function deepBlob(depth: number): Uint8Array {
  const shallow = writeFdt({ root: fdtNode("", {}) });
  const at = 56;
  const blob = new Uint8Array(at + 8 * depth);
  blob.set(shallow.subarray(0, at));
  const view = new DataView(blob.buffer);
  for (let i = 0; i < depth; i++) {
    view.setUint32(at + 8 * i, 1);
    view.setUint32(at + 8 * i + 4, i === 0 ? 0 : 0x78000000);
  }
  view.setUint32(4, blob.length);
  view.setUint32(8, at);
  view.setUint32(12, blob.length);
  view.setUint32(32, 0);
  view.setUint32(36, 8 * depth);
  return blob;
}
