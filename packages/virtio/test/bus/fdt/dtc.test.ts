import { spawnSync } from "node:child_process";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { findProgram, needs } from "@virtio/testkit/needs";
import { readFdt } from "virtio/bus/fdt/read";
import { fdtNode } from "virtio/bus/fdt/tree";
import { writeFdt } from "virtio/bus/fdt/write";
import { machineTree } from "./machine-tree.ts";
import { arbitraryTree } from "./arbitrary-tree.ts";

const dtc = findProgram("dtc");
const need = (title: string): string => needs("dtc", "device-tree-compiler", title);

/** What dtc makes of its input, and what it says. */
function run(input: Uint8Array, ...argv: string[]): { readonly output: Buffer; readonly said: string } {
  const { stdout, stderr, status } = spawnSync(dtc ?? "dtc", argv, { input });
  expect(status, stderr.toString()).toBe(0);
  return { output: stdout, said: stderr.toString() };
}

describe("dtc", () => {
  test.skipIf(dtc === undefined)(
    need("takes the tree of a machine with MMIO devices and a PCI host without a warning"),
    () => {
      const { output, said } = run(writeFdt(machineTree()), "-I", "dtb", "-O", "dts");
      expect(said).toBe("");
      const source = output.toString();
      expect(source).toContain('compatible = "virtio,mmio";');
      expect(source).toMatch(/virtio_mmio@a000000 \{[^}]*reg = <0x00 0xa000000 0x00 0x200>;/);
      expect(source).toMatch(/pcie@4010000000 \{[^}]*compatible = "pci-host-ecam-generic";/);
    },
  );

  test.skipIf(dtc === undefined)(need("makes the source of a small tree that is known"), () => {
    const root = fdtNode("", { compatible: "a,b", "#address-cells": [1], "#size-cells": [1] }, [
      fdtNode("device@1000", { reg: [0x1000, 0x200], mac: Uint8Array.of(1, 2, 3), "is-there": [] }),
    ]);
    const blob = writeFdt({ root, reservations: [{ address: 0x10000000, length: 0x4000 }] });
    const golden = `/dts-v1/;

/memreserve/\t0x0000000010000000 0x0000000000004000;
/ {
\tcompatible = "a,b";
\t#address-cells = <0x01>;
\t#size-cells = <0x01>;

\tdevice@1000 {
\t\treg = <0x1000 0x200>;
\t\tmac = [01 02 03];
\t\tis-there;
\t};
};
`;
    expect(run(blob, "-I", "dtb", "-O", "dts").output.toString()).toBe(golden);
    expect(readFdt(run(Buffer.from(golden), "-I", "dts", "-O", "dtb").output)).toEqual(readFdt(blob));
  });

  test.skipIf(dtc === undefined)(
    need("reads any tree that is written here, and is read back as the same tree"),
    () => {
      fc.assert(
        fc.property(arbitraryTree, (tree) => {
          const { output } = run(writeFdt(tree), "-q", "-f", "-I", "dtb", "-O", "dtb");
          expect(readFdt(output)).toEqual(tree);
        }),
        { numRuns: 40 },
      );
    },
  );
});
